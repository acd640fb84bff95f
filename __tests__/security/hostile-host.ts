/** A host that an attacker runs, for tests of what is sent where. */
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { claimsOf } from '../../src/azure/credential.ts'

/** It answers as a Resource Manager and as an Entra, and keeps everything that it receives. */
export interface HostileHost {
  readonly url: string
  /** Method, URL, headers and body of each request so far, as one text each. */
  readonly received: string[]
  /** What `/metadata/endpoints` answers. */
  description: unknown
  /** The audience of every JSON web token that it has received. */
  audiences(): unknown[]
  stop(): void
}

/** @param certificate PEM, for `localhost` */
export async function startHostileHost(certificate: { cert: string; key: string }): Promise<HostileHost> {
  const received: string[] = []
  const server = createServer(certificate, async (request, response) => {
    let body = ''
    for await (const chunk of request) body += String(chunk)
    received.push(`${request.method} ${request.url} ${JSON.stringify(request.headers)} ${decodeURIComponent(body)}`)
    const path = request.url ?? ''
    // Without an answer of 404 the action would go on reading.
    const status = path.startsWith('/subscriptions/') ? 404 : 200
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(answerTo(path)))
  })
  const answerTo = (path: string): unknown => {
    if (path.startsWith('/metadata/endpoints')) return host.description
    if (path.includes('openid-configuration')) {
      return {
        token_endpoint: `${host.url}/token`,
        authorization_endpoint: `${host.url}/authorize`,
        issuer: `${host.url}/tenant/v2.0`,
        jwks_uri: `${host.url}/keys`,
      }
    }
    if (path.startsWith('/token')) return { token_type: 'Bearer', expires_in: 3_600, access_token: 'a token of the hostile host' }
    return { error: { code: 'ResourceNotFound', message: 'nothing here' } }
  }
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const host: HostileHost = {
    url: `https://localhost:${(server.address() as AddressInfo).port}`,
    received,
    description: undefined,
    audiences: () =>
      received.flatMap((text) => [...text.matchAll(/eyJ[\w-]+\.[\w-]+\.[\w-]*/g)].map(([token]) => claimsOf(token)['aud'])),
    stop: () => {
      server.close()
      server.closeAllConnections()
    },
  }
  return host
}

/** The description of an honest private cloud at this URL. */
export function describedBy(url: string) {
  return {
    name: 'Private',
    resourceManager: `${url}/`,
    authentication: { loginEndpoint: url, audiences: [`${url}/`] },
    ossrDbmsResourceId: 'https://ossrdbms.contoso.example',
    suffixes: { postgresqlServerEndpoint: 'postgres.database.azure.com' },
  }
}
