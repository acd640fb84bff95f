/** Azure Resource Manager: authentication, authorization and dispatch; the resource providers are in files of their own. */
import { accountRoutes } from './accounts.ts'
import { deniedBy, mayAct } from './authorization.ts'
import { type Claims, cognitiveAudience, type Entra, postgresAudience, TokenError } from './entra.ts'
import { bearer, failure, type Handler, HttpError, type Reply, type Request } from './http.ts'
import { checkLocks, lockRoutes } from './locks.ts'
import { machineLearningRoutes } from './machine-learning.ts'
import { type Call, type Route, sameId } from './provider.ts'
import { resourceGraphRoutes } from './resource-graph.ts'
import { roleRoutes } from './roles.ts'
import { scopeRoutes, subscriptionsOf } from './scopes.ts'
import type { World } from './world.ts'

/** Audiences that Resource Manager accepts; the first is the one that clients use. None belongs to a cloud of Azure. */
export function resourceManagerAudiences(url: string): string[] {
  return [`${url}/`, 'https://management.core.emulated.test/', 'https://management.emulated.test/']
}

export function createResourceManager(options: { world: World; url: string; entra: Entra; routes: Route[] }): Handler {
  const { world, url, entra } = options
  const routes = [
    ...[...options.routes, ...roleRoutes, ...lockRoutes, ...accountRoutes, ...machineLearningRoutes],
    ...[...scopeRoutes, ...resourceGraphRoutes(world)],
  ]

  return async (request) => {
    if (request.url.pathname.toLowerCase() === '/metadata/endpoints') return metadata(world, url, request)

    const caller = await authenticate(request, entra, url)
    try {
      const { route, parameters } = find(routes, request)
      const action = route.action
      const authorize: Call['authorize'] = (wanted, scope, assignment) => {
        const verdict = mayAct(world, caller.oid, wanted, scope, assignment)
        const denied = verdict === 'allowed' ? deniedBy(world, wanted, scope) : undefined
        if (denied !== undefined) {
          throw failure(
            403,
            'DenyAssignmentAuthorizationFailed',
            `The client '${caller.appid ?? caller.oid}' with object id '${caller.oid}' has permission to perform action '${wanted}' on scope '${scope}'; however, the access is denied because of the deny assignment with name '${denied.name}' and Id '${denied.id}' at scope '${denied.scope}'.`,
          )
        }
        if (verdict === 'allowed') return
        const lacking =
          verdict === 'denied' ? 'does not have authorization' : 'does not have authorization or an ABAC condition not fulfilled'
        throw failure(
          403,
          'AuthorizationFailed',
          `The client '${caller.appid ?? caller.oid}' with object id '${caller.oid}' ${lacking} to perform action '${wanted}' over scope '${scope}' or the scope is invalid. If access was recently granted, please refresh your credentials.`,
        )
      }
      const path = decodeURIComponent(request.url.pathname)
      if (action !== null) authorize(action, route.scope?.(parameters) ?? path)
      const subscription = /^\/subscriptions\/([^/]+)/i.exec(path)?.[1]
      if (subscription !== undefined && !subscriptionsOf(world).some(({ id }) => sameId(id, subscription))) {
        throw failure(404, 'SubscriptionNotFound', `The subscription '${subscription}' could not be found.`)
      }
      const group = /^\/subscriptions\/[^/]+\/resourceGroups\/([^/]+)/i.exec(path)?.[1]
      if (group !== undefined && !resourceGroups(world).has(`${subscription}/${group}`.toLowerCase())) {
        throw failure(404, 'ResourceGroupNotFound', `Resource group '${group}' could not be found.`)
      }
      checkLocks(world, request.method, path)
      const reply = await route.handle({ world, url, request, caller, parameters, authorize })
      return { caller: caller.oid, ...reply }
    } catch (error) {
      if (error instanceof HttpError) return { caller: caller.oid, ...error.reply }
      throw error
    }
  }
}

function find(routes: Route[], request: Request): { route: Route; parameters: string[] } {
  const path = request.url.pathname.replace(/\/+$/, '')
  const version = request.url.searchParams.get('api-version')
  if (version === null) {
    throw failure(
      400,
      'MissingApiVersionParameter',
      'The api-version query parameter (?api-version=) is required for all requests.',
    )
  }
  let otherMethod = false
  for (const route of routes) {
    const match = route.path.exec(path)
    if (!match) continue
    if (route.method !== request.method) {
      otherMethod = true
      continue
    }
    if (!route.apiVersions.includes(version)) {
      throw failure(
        400,
        'NoRegisteredProviderFound',
        `No registered resource provider found for location 'global' and API version '${version}' for type '${route.type}'. The supported api-versions are '${route.apiVersions.join(', ')}'.`,
      )
    }
    return { route, parameters: match.slice(1).map((part) => decodeURIComponent(part ?? '')) }
  }
  if (otherMethod) {
    throw failure(405, 'MethodNotAllowed', `The emulator does not offer ${request.method} on '${path}'.`)
  }
  throw failure(404, 'NotEmulated', `The emulator has nothing at '${path}'.`)
}

async function authenticate(request: Request, entra: Entra, url: string): Promise<Claims> {
  const token = bearer(request)
  const allowed = resourceManagerAudiences(url)
  const challenge = (description: string): Record<string, string> => ({
    'www-authenticate': `Bearer authorization_uri="${url}/", error="invalid_token", error_description="${description}"`,
  })
  if (token === undefined) {
    const text = "Authentication failed. The 'Authorization' header is missing."
    throw failure(401, 'AuthenticationFailed', text, challenge(text))
  }
  try {
    return await entra.verify(token, allowed)
  } catch (error) {
    if (!(error instanceof TokenError)) throw error
    if (error.reason === 'audience') {
      const text = `The access token has been obtained for wrong audience or resource '${error.audience}'. It should exactly match with one of the allowed audiences '${allowed.join("','")}'.`
      throw failure(401, 'InvalidAuthenticationTokenAudience', text, challenge('The audience is invalid.'))
    }
    if (error.reason === 'expired') {
      throw failure(
        401,
        'ExpiredAuthenticationToken',
        'The access token expiry UTC time is in the past.',
        challenge('The access token has expired.'),
      )
    }
    throw failure(401, 'InvalidAuthenticationToken', 'The access token is invalid.', challenge('The access token is invalid.'))
  }
}

function resourceGroups(world: World): Set<string> {
  const ids = [...world.servers, ...world.accounts, ...world.workspaces].map(({ id }) => id)
  const names = ids.map((id) =>
    id
      .split('/')
      .slice(2, 5)
      .join('/')
      .replace(/\/resourceGroups\//i, '/'),
  )
  return new Set([`${world.subscriptionId}/${world.resourceGroup}`, ...names].map((name) => name.toLowerCase()))
}

/** The description of this cloud, which needs no token. */
function metadata(world: World, url: string, request: Request): Reply {
  const version = request.url.searchParams.get('api-version')
  if (version !== '2022-09-01') {
    throw failure(
      400,
      'InvalidApiVersionParameter',
      `The api-version '${version ?? ''}' is invalid. The supported versions are '2022-09-01'.`,
    )
  }
  return {
    status: 200,
    body: {
      portal: 'https://portal.azure.com',
      authentication: {
        loginEndpoint: url,
        audiences: resourceManagerAudiences(url),
        tenant: world.tenantId,
        identityProvider: 'AAD',
      },
      media: 'https://rest.media.azure.net',
      graphAudience: 'https://graph.windows.net/',
      graph: 'https://graph.windows.net/',
      name: 'AzureEmulator',
      suffixes: {
        acrLoginServer: 'azurecr.io',
        keyVaultDns: 'vault.azure.net',
        mysqlServerEndpoint: 'mysql.database.azure.com',
        postgresqlServerEndpoint: 'postgres.database.azure.com',
        sqlServerHostname: 'database.windows.net',
        storage: 'core.windows.net',
      },
      resourceManager: `${url}/`,
      cognitiveServicesResourceId: cognitiveAudience,
      ossrDbmsResourceId: postgresAudience,
      gallery: 'https://gallery.azure.com/',
      microsoftGraphResourceId: 'https://graph.microsoft.com/',
    },
  }
}
