/** Microsoft Entra ID: sign-in of applications, tokens, and the identity endpoint that the database server calls. */
import { randomBytes, randomUUID, X509Certificate } from 'node:crypto'
import { type CryptoKey, decodeJwt, decodeProtectedHeader, exportJWK, type JWTPayload, jwtVerify, SignJWT } from 'jose'
import { type Handler, HttpError, type Reply, type Request } from './http.ts'
import { signingKey } from './shared.ts'
import type { Principal, Server, World } from './world.ts'

/** Audience of the OIDC token with which a job signs in here. Azure's own clouds have other ones, so no token for them is ever sent here. */
export const oidcAudience = 'api://EmulatedTokenExchange'
export const postgresAudience = 'https://ossrdbms-aad.database.emulated.test'
export const cognitiveAudience = 'https://cognitiveservices.azure.com'
export const machineLearningAudience = 'https://ml.azure.com'

export interface IssuedToken {
  token: string
  expiresAt: Date
}

export interface Claims {
  oid: string
  appid?: string
}

/** Why a token is invalid. `audience` is the one that it was issued for. */
export class TokenError extends Error {
  readonly reason: 'invalid' | 'expired' | 'audience'
  readonly audience: string
  constructor(reason: TokenError['reason'], audience = '') {
    super(`token: ${reason}`)
    this.reason = reason
    this.audience = audience
  }
}

export interface Entra {
  /** `/{tenant}/...` */
  handle: Handler
  /** `/identity/token`: the managed identity endpoint of the primary server. */
  identity: Handler
  /** A token without a sign-in, for logins that the emulator does not have (a user's `az` session). */
  issue(principal: Principal, audience: string): Promise<IssuedToken>
  /** Throws TokenError. Audiences match with or without a trailing slash. */
  verify(token: string | undefined, audiences: string[]): Promise<Claims>
}

export async function createEntra(options: {
  world: World
  url: string
  resourceManagerAudiences: string[]
  gitHubKey: CryptoKey
  /** The server whose PostgreSQL has this secret for the identity endpoint. */
  serverWith: (secret: string) => Server | undefined
  /** Called before a token for PostgreSQL is answered: it is the password of the principal's role. */
  acceptToken: (objectId: string, token: string, expiresAt: Date) => Promise<void>
}): Promise<Entra> {
  const { world, url } = options
  const { publicKey, privateKey } = await signingKey('entra')
  const keyId = randomBytes(20).toString('base64url')
  const issuer = `https://sts.windows.net/${world.tenantId}/`
  const resources = [
    ...options.resourceManagerAudiences,
    postgresAudience,
    cognitiveAudience,
    machineLearningAudience,
    'https://graph.microsoft.com',
  ].map(withoutSlash)
  const postgresTokens = new Map<string, Promise<IssuedToken>>()

  const sign = async (principal: Principal, audience: string): Promise<IssuedToken> => {
    const issuedAt = Math.floor(Date.now() / 1000)
    const expires = issuedAt + Math.round((world.tokenLifetime ?? 3_600_000) / 1000)
    const application = principal.kind === 'ServicePrincipal' || principal.kind === 'ManagedIdentity'
    const claims: JWTPayload = {
      oid: principal.objectId,
      tid: world.tenantId,
      // Makes every token unique, also within the same second.
      uti: randomBytes(16).toString('base64url'),
      ver: '1.0',
      ...(application ? { appid: principal.clientId ?? principal.objectId, appidacr: '2', idtyp: 'app' } : { idtyp: 'user' }),
      ...(application ? {} : { upn: principal.displayName, name: principal.displayName }),
    }
    const token = await new SignJWT(claims)
      .setProtectedHeader({ alg: 'RS256', typ: 'JWT', kid: keyId })
      .setIssuer(issuer)
      .setSubject(principal.objectId)
      .setAudience(audience)
      .setIssuedAt(issuedAt)
      .setNotBefore(issuedAt)
      .setExpirationTime(expires)
      .sign(privateKey)
    return { token, expiresAt: new Date(expires * 1000) }
  }

  const issue = async (principal: Principal, audience: string): Promise<IssuedToken> => {
    if (withoutSlash(audience) !== postgresAudience) return sign(principal, audience)
    // A second token would replace the password, and so invalidate the first.
    const pending = postgresTokens.get(principal.objectId)
    const known = await pending?.catch(() => undefined)
    if (known && known.expiresAt.getTime() > Date.now()) {
      // It is also valid for roles that were created since, and for groups that were joined since.
      await options.acceptToken(principal.objectId, known.token, known.expiresAt)
      return known
    }
    if (postgresTokens.get(principal.objectId) !== pending) return issue(principal, audience)
    const made = sign(principal, audience).then(async (issued) => {
      await options.acceptToken(principal.objectId, issued.token, issued.expiresAt)
      return issued
    })
    postgresTokens.set(principal.objectId, made)
    return made
  }

  const verify = async (token: string | undefined, audiences: string[]): Promise<Claims> => {
    if (!token) throw new TokenError('invalid')
    let payload: JWTPayload
    try {
      payload = (await jwtVerify(token, publicKey, { issuer, algorithms: ['RS256'] })).payload
    } catch (error) {
      throw new TokenError((error as { code?: string }).code === 'ERR_JWT_EXPIRED' ? 'expired' : 'invalid')
    }
    const audience = String(payload.aud)
    if (!audiences.map(withoutSlash).includes(withoutSlash(audience))) throw new TokenError('audience', audience)
    return { oid: String(payload.oid), ...(typeof payload.appid === 'string' ? { appid: payload.appid } : {}) }
  }

  const openIdConfiguration = (tenant: string): Record<string, unknown> => ({
    token_endpoint: `${url}/${tenant}/oauth2/v2.0/token`,
    token_endpoint_auth_methods_supported: ['client_secret_post', 'private_key_jwt', 'client_secret_basic'],
    jwks_uri: `${url}/${tenant}/discovery/v2.0/keys`,
    response_modes_supported: ['query', 'fragment', 'form_post'],
    subject_types_supported: ['pairwise'],
    id_token_signing_alg_values_supported: ['RS256'],
    response_types_supported: ['code', 'id_token', 'code id_token', 'id_token token'],
    scopes_supported: ['openid', 'profile', 'email', 'offline_access'],
    issuer: `${url}/${tenant}/v2.0`,
    authorization_endpoint: `${url}/${tenant}/oauth2/v2.0/authorize`,
    device_authorization_endpoint: `${url}/${tenant}/oauth2/v2.0/devicecode`,
    end_session_endpoint: `${url}/${tenant}/oauth2/v2.0/logout`,
    claims_supported: ['sub', 'iss', 'aud', 'exp', 'iat', 'tid', 'ver', 'oid'],
    tenant_region_scope: 'EU',
  })

  const token = async (request: Request): Promise<Reply> => {
    const form = (typeof request.body === 'object' && request.body !== null ? request.body : {}) as Record<string, string>
    if (form.grant_type !== 'client_credentials') {
      throw refused(
        400,
        'unsupported_grant_type',
        70003,
        `The app requested an unsupported grant type '${form.grant_type ?? ''}'.`,
      )
    }
    const principal = world.principals.find(({ clientId }) => clientId !== undefined && same(clientId, form.client_id ?? ''))
    if (!principal) {
      throw refused(
        400,
        'unauthorized_client',
        700016,
        `Application with identifier '${form.client_id ?? ''}' was not found in the directory 'Contoso'. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You may have sent your authentication request to the wrong tenant.`,
      )
    }
    if (form.client_assertion !== undefined) {
      await checkAssertion(principal, form.client_assertion)
    } else if (form.client_secret === undefined) {
      throw refused(
        401,
        'invalid_client',
        7000218,
        "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
      )
    } else if (principal.clientSecret === undefined || form.client_secret !== principal.clientSecret) {
      throw refused(
        401,
        'invalid_client',
        7000215,
        `Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '${principal.clientId}'.`,
      )
    } else if (principal.clientSecretExpired === true) {
      throw refused(
        401,
        'invalid_client',
        7000222,
        `The provided client secret keys for app '${principal.clientId}' are expired. Visit the Azure portal to create new keys for your app: https://aka.ms/NewClientSecret, or consider using certificate credentials for added security: https://aka.ms/certCreds.`,
      )
    }

    const scopes = (form.scope ?? '').split(' ').filter((scope) => !['', 'openid', 'profile', 'offline_access'].includes(scope))
    const scope = scopes[0] ?? ''
    if (!scope.endsWith('/.default') || scopes.length > 1) {
      throw refused(
        400,
        'invalid_scope',
        1002012,
        `The provided value for scope ${scope} is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI).`,
      )
    }
    const audience = scope.slice(0, -'/.default'.length)
    if (!resources.includes(withoutSlash(audience))) {
      throw refused(
        400,
        'invalid_resource',
        500011,
        `The resource principal named ${audience} was not found in the tenant named Contoso. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You might have sent your authentication request to the wrong tenant.`,
      )
    }
    const issued = await issue(principal, audience)
    const expiresIn = Math.floor((issued.expiresAt.getTime() - Date.now()) / 1000)
    return {
      status: 200,
      caller: principal.objectId,
      body: { token_type: 'Bearer', expires_in: expiresIn, ext_expires_in: expiresIn, access_token: issued.token },
    }
  }

  /** Throws Entra's error for an outside token that matches no federated credential. */
  const checkAssertion = async (principal: Principal, assertion: string): Promise<void> => {
    let presented: JWTPayload
    try {
      presented = decodeJwt(assertion)
    } catch {
      throw refused(401, 'invalid_client', 50027, 'JWT token is invalid or malformed.')
    }
    // An assertion of the app's own, signed by one of its certificates.
    if (presented.iss !== undefined && same(presented.iss, principal.clientId ?? '') && presented.sub === presented.iss)
      return checkCertificate(principal, assertion)
    const trusted = principal.federatedCredentials ?? []
    if (trusted.length === 0) {
      const name = `${principal.clientId}(${principal.displayName})`
      throw refused(401, 'invalid_client', 70025, `The client '${name}' has no configured federated identity credentials.`)
    }
    const advice =
      'Check your federated identity credential Subject, Audience and Issuer against the presented assertion. https://learn.microsoft.com/entra/workload-id/workload-identity-federation'
    const none = 'No matching federated identity record found for presented assertion'
    const fromIssuer = trusted.filter((credential) => credential.issuer === presented.iss)
    if (fromIssuer.length === 0) {
      throw refused(401, 'invalid_client', 700211, `${none} issuer '${presented.iss ?? ''}'. ${advice}`)
    }
    // Only GitHub's keys are known here, so another trusted issuer fails on its signature.
    if (presented.iss !== world.github.issuer)
      throw refused(401, 'invalid_client', 700027, 'Client assertion failed signature validation.')
    try {
      await jwtVerify(assertion, options.gitHubKey, { algorithms: ['RS256'] })
    } catch (error) {
      if ((error as { code?: string }).code !== 'ERR_JWT_EXPIRED') {
        throw refused(401, 'invalid_client', 700027, 'Client assertion failed signature validation.')
      }
      const at = (seconds: number | undefined): string => new Date((seconds ?? 0) * 1000).toISOString()
      throw refused(
        401,
        'invalid_client',
        700024,
        `Client assertion is not within its valid time range. Current time: ${new Date().toISOString()}, assertion valid from ${at(presented.nbf)}, expiry time of assertion ${at(presented.exp)}. Review the documentation at https://learn.microsoft.com/entra/identity-platform/certificate-credentials .`,
      )
    }
    const subject = presented.sub ?? ''
    const forSubject = fromIssuer.filter((credential) => credential.subject === subject)
    if (forSubject.length === 0) {
      if (fromIssuer.some((credential) => same(credential.subject, subject))) {
        throw refused(
          401,
          'invalid_client',
          7002138,
          `${none} subject '${subject}'. The subject matches with case-insensitive comparison, but not with case-sensitive comparison. ${advice}`,
        )
      }
      throw refused(401, 'invalid_client', 700213, `${none} subject '${subject}'. ${advice}`)
    }
    const audiences = [presented.aud].flat()
    if (!forSubject.some((credential) => audiences.includes(credential.audience))) {
      throw refused(401, 'invalid_client', 700212, `${none} audience '${audiences.join(', ')}'. ${advice}`)
    }
  }

  /** Throws Entra's error for an assertion that no registered certificate signed, or with another thumbprint. */
  const checkCertificate = async (principal: Principal, assertion: string): Promise<void> => {
    const header = decodeProtectedHeader(assertion)
    const thumbprint = header['x5t#S256'] ?? header.x5t ?? ''
    for (const pem of principal.certificates ?? []) {
      const certificate = new X509Certificate(pem)
      const [sha1, sha256] = [certificate.fingerprint, certificate.fingerprint256].map((hex) =>
        Buffer.from(hex.replaceAll(':', ''), 'hex').toString('base64url'),
      )
      if (thumbprint !== sha1 && thumbprint !== sha256) continue
      try {
        const audience = [`${url}/${world.tenantId}/oauth2/v2.0/token`, `${url}/${world.tenantId}/v2.0`]
        await jwtVerify(assertion, certificate.publicKey, { algorithms: ['RS256', 'PS256'], audience, clockTolerance: 300 })
        return
      } catch {
        throw refused(401, 'invalid_client', 700027, 'Client assertion failed signature validation.')
      }
    }
    throw refused(
      401,
      'invalid_client',
      700027,
      `The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key was not found., Thumbprint of key used by client: '${thumbprint}']`,
    )
  }

  const handle: Handler = async (request) => {
    const [tenant = '', ...rest] = request.url.pathname.slice(1).split('/').map(decodeURIComponent)
    const path = rest.join('/')
    if (tenant === 'common' && path === 'discovery/instance') {
      return {
        status: 200,
        body: {
          tenant_discovery_endpoint: `${url}/${world.tenantId}/v2.0/.well-known/openid-configuration`,
          'api-version': '1.1',
          metadata: [{ preferred_network: new URL(url).host, preferred_cache: new URL(url).host, aliases: [new URL(url).host] }],
        },
      }
    }
    const known = ['v2.0/.well-known/openid-configuration', 'discovery/v2.0/keys', 'oauth2/v2.0/token']
    if (!known.includes(path)) return { status: 404 }
    if (!same(tenant, world.tenantId)) {
      throw refused(
        400,
        path.endsWith('token') ? 'invalid_request' : 'invalid_tenant',
        90002,
        `Tenant '${tenant}' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud. Check with your subscription administrator, this may happen if there are no active subscriptions for the tenant.`,
      )
    }
    if (path.endsWith('openid-configuration')) return { status: 200, body: openIdConfiguration(tenant) }
    if (path.endsWith('keys')) {
      return { status: 200, body: { keys: [{ ...(await exportJWK(publicKey)), kid: keyId, use: 'sig', alg: 'RS256' }] } }
    }
    return request.method === 'POST' ? token(request) : { status: 405 }
  }

  const identity: Handler = async (request) => {
    const no = (status: number, error: string, description: string): Reply => ({
      status,
      body: { error, error_description: world.switches.unfamiliarTexts ? 'E7741 upstream handshake rejected' : description },
    })
    if (request.url.pathname !== '/identity/token') return no(404, 'not_found', 'Not found')
    const server = options.serverWith(String(request.headers['x-identity-header'] ?? ''))
    if (server === undefined) return no(403, 'forbidden', 'Wrong identity header')
    if (request.headers.metadata !== 'true') return no(400, 'invalid_request', 'Required metadata header not specified')
    const resource = request.url.searchParams.get('resource') ?? ''
    if (!resources.includes(withoutSlash(resource))) {
      return no(
        400,
        'invalid_resource',
        `AADSTS500011: The resource principal named ${resource} was not found in the tenant named Contoso.`,
      )
    }
    const principalId = server.identity?.principalId
    const principal = world.principals.find(({ objectId }) => objectId === principalId)
    const { restartNeeded, formerIdentityWorks } = world.switches
    const former = server.loadedPrincipalId
    if (formerIdentityWorks && former !== undefined && former !== principalId) {
      // The identity may be deleted from the directory while the server still has its tokens.
      const known = world.principals.find(({ objectId }) => objectId === former)
      return identityToken(known ?? { objectId: former, displayName: server.name, kind: 'ManagedIdentity' }, resource)
    }
    if (!principal || (restartNeeded && server.loadedPrincipalId !== principalId)) {
      return no(400, 'invalid_request', 'Identity not found')
    }
    // The delay counts from the start of a process that knew the identity then, otherwise from the creation of the identity.
    const since = restartNeeded ? server.startedAt : (principal.createdAt ?? server.startedAt)
    if (Date.now() - since < world.delays.identityPropagation) return no(400, 'invalid_request', 'Identity not found')
    return identityToken(principal, resource)
  }

  const identityToken = async (principal: Principal, resource: string): Promise<Reply> => {
    const issued = await issue(principal, resource)
    return {
      status: 200,
      caller: principal.objectId,
      body: {
        access_token: issued.token,
        client_id: principal.clientId ?? principal.objectId,
        expires_on: String(Math.floor(issued.expiresAt.getTime() / 1000)),
        resource,
        token_type: 'Bearer',
      },
    }
  }

  return { handle, identity, issue, verify }
}

/** An error of the token endpoint, with Entra's ids and times. */
function refused(status: number, error: string, code: number, text: string): HttpError {
  const traceId = randomUUID()
  const correlationId = randomUUID()
  const timestamp = `${new Date().toISOString().slice(0, 19).replace('T', ' ')}Z`
  return new HttpError({
    status,
    body: {
      error,
      error_description: `AADSTS${code}: ${text} Trace ID: ${traceId} Correlation ID: ${correlationId} Timestamp: ${timestamp}`,
      error_codes: [code],
      timestamp,
      trace_id: traceId,
      correlation_id: correlationId,
      error_uri: `https://login.microsoftonline.com/error?code=${code}`,
    },
  })
}

function same(a: string, b: string): boolean {
  return a.toLowerCase() === b.toLowerCase()
}

function withoutSlash(audience: string): string {
  return audience.replace(/\/+$/, '')
}
