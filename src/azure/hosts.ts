/** Hosts that answers of Azure name: where a token or a key would be sent decides nothing but this table. Pure. */

import type { Cloud } from '../core/clouds.ts'
import { Failure } from '../errors/failure.ts'
import { shownValue } from '../errors/malformed.ts'

/** Domains of Azure's own clouds. Below some other names of theirs, like `cloudapp.azure.com`, anybody gets a host. */
const domains = ['azure.com', 'azure.us', 'azure.cn', 'microsoft.com', 'microsoft.us']
/** What stands before the domain in the endpoints of AI services. */
const labels = ['openai', 'cognitiveservices', 'services.ai', 'api.cognitive', 'inference.ml', 'models.ai']
/** Endpoints that all customers share. */
const shared = ['api.cognitive.microsofttranslator.com', 'api.cognitive.microsofttranslator.us', 'api.translator.azure.cn']

/**
 * Whether a value that Resource Manager shows as an endpoint is an https URL of an AI service in one of Azure's own clouds or
 * in the cloud of this Resource Manager: `management.DOMAIN` may name hosts such as `NAME.openai.DOMAIN`.
 */
export function isServiceEndpoint(value: unknown, { resourceManager }: Pick<Cloud, 'resourceManager'>): value is string {
  if (typeof value !== 'string' || !URL.canParse(value)) return false
  const { protocol, username, password, port, search, hash, hostname } = new URL(value)
  if (protocol !== 'https:' || `${username}${password}${port}${search}${hash}` !== '') return false
  const parent = /^[^.]+\.([^.]+\..+)$/.exec(new URL(resourceManager).hostname)?.[1]
  return (
    shared.includes(hostname) ||
    [...domains, ...(parent === undefined ? [] : [parent])].some((domain) =>
      labels.some((label) => hostname.endsWith(`.${label}.${domain}`)),
    )
  )
}

/** Whether a custom subdomain is one label of a host name: anything else could move an endpoint to another host. */
export function isSubdomain(value: unknown): value is string {
  return typeof value === 'string' && /^[a-z0-9](?:[a-z0-9-]{0,62})$/i.test(value)
}

/**
 * The name of the database server as Resource Manager shows it: a login goes there, so it must be the named server's, in the
 * domain of its cloud. An empty one is not known yet.
 * @throws {Failure} `foreign-host`
 */
export function databaseHost(shown: unknown, server: string, { postgresSuffix }: Pick<Cloud, 'postgresSuffix'>): string {
  if (shown === '') return `${server}${postgresSuffix}`
  const host = typeof shown === 'string' ? shown.toLowerCase() : ''
  if (
    /^[a-z0-9.-]{1,253}$/.test(host) &&
    host.startsWith(`${server.toLowerCase()}.`) &&
    host.endsWith(postgresSuffix.toLowerCase())
  )
    return host
  throw foreignHost(
    `Resource Manager shows ${shownValue(shown)} as the host of the server ${server}, which is not ${server}${postgresSuffix} or a name between them; no login was sent there.`,
  )
}

export function foreignHost(detail: string): Failure {
  return new Failure({
    reason: 'azure',
    code: 'foreign-host',
    title: 'Azure named a foreign host',
    detail,
    fix: 'Check that `environment` names the cloud you mean, and that nothing between the runner and Azure rewrites answers.',
  })
}
