/** Resource Manager as this action uses it: the server, its surroundings, role assignments and AI resources. */
import { createHash } from 'node:crypto'
import { canAssignRoles, type RolePermission } from '../core/access-roles.ts'
import type { Cloud } from '../core/clouds.ts'
import { parseResourceId, type ResourceId } from '../core/inputs.ts'
import type { Administrator, ObservedServer, RoleAssignment } from '../core/observed.ts'
import type { Deployment, Resource } from '../core/services.ts'
import type { FailureFacts } from '../errors/failure.ts'
import { Failure } from '../errors/failure.ts'
import { malformed } from '../errors/malformed.ts'
import type { Circumstances } from '../errors/message.ts'
import { bounded, describe, isCut, longestName, withoutEndSlashes } from '../lib/bounded.ts'
import { verdictOn } from '../lib/http-retries.ts'
import type { Log } from '../lib/log.ts'
import { busy, replication, retrying, spread, type Verdict } from '../lib/retry.ts'
import { duration, waiting } from '../lib/timeout.ts'
import type { ReadyAgent } from './agent.ts'
import { foreignHost, isServiceEndpoint, isSubdomain } from './hosts.ts'
import { type Lock, listLocks } from './locks.ts'
import { itemsOf, type Page } from './pages.ts'
import { azureFailure, createHttp, createPipeline, readAgainWhenBusy, verdictOnOperation } from './pipeline.ts'
import type { Tokens } from './tokens.ts'

/** How often a long-running operation is asked about when the service does not say, in milliseconds. */
const pollMs = 1_500
const minutes = (count: number): number => count * 60_000
/** Most read replicas of a server that are looked at; Azure allows five, and ten in a cascade. */
const mostReplicas = 50

export interface ResourceManager {
  server(): Promise<ObservedServer>
  replicas(): Promise<readonly ObservedServer[]>
  administrators(): Promise<readonly Administrator[]>
  /** Entries of the server parameter `azure.extensions`. */
  allowList(): Promise<readonly string[]>
  /** The identity that the running server says it knows (`azure.service_principal_id`); '' when it knows none, undefined when it does not say. */
  runningIdentity(server: ObservedServer): Promise<string | undefined>
  /** Turns on the system-assigned identity, keeping the user-assigned ones that are there at that moment; gives its object id. */
  enableIdentity(): Promise<string>
  /** Adds an extension to the allow-list as it is at that moment; gives its entries. */
  allowExtension(extension: string): Promise<readonly string[]>
  restart(): Promise<void>
  /** Assignments at the scope and above it. */
  roleAssignments(scope: string): Promise<readonly RoleAssignment[]>
  /** Assignments that reach the principal through its groups, at the scope and above it. */
  groupAssignments(scope: string, principalId: string): Promise<readonly RoleAssignment[]>
  /** Whether a role definition can assign roles; undefined when it could not be read. */
  roleCanAssignRoles(scope: string, roleId: string): Promise<boolean | undefined>
  /** Locks on the server, and on what it lies in. */
  locks(): Promise<readonly Lock[]>
  firewallRules(): Promise<readonly FirewallRule[]>
  createFirewallRule(rule: string, address: string): Promise<void>
  /** True when there was one to delete. */
  deleteFirewallRule(rule: string): Promise<boolean>
  /** Gives the role on exactly the scope; an assignment that is there already is success. True when it was created. */
  assignRole(scope: string, roleId: string, principalId: string, description: string): Promise<boolean>
  deployments(account: ResourceId): Promise<readonly Deployment[]>
  /** The keys of an account or an online endpoint, the first one first. Secrets: masked before they are returned. */
  keys(resource: Resource): Promise<readonly string[]>
  /** An AI account with its deployments (asked for only when `withDeployments`), or an online endpoint. */
  resource(id: ResourceId, withDeployments: boolean): Promise<Resource>
}

/** IPv4 addresses, both ends included. */
export interface FirewallRule {
  readonly name: string
  readonly start: string
  readonly end: string
}

export interface ResourceManagerOptions {
  readonly cloud: Cloud
  readonly tokens: Tokens
  readonly server: ResourceId
  readonly log: Log
  readonly signal: AbortSignal
  readonly agent: ReadyAgent | undefined
}

/** Shapes of Resource Manager's answers, as far as they are read. */
interface AccountBody {
  id?: string
  name?: string
  kind?: string
  location?: string
  properties?: {
    endpoint?: unknown
    endpoints?: Record<string, unknown>
    customSubDomainName?: unknown
    disableLocalAuth?: boolean
    provisioningState?: string
    authMode?: string
    scoringUri?: unknown
  }
}
interface KeysBody {
  key1?: unknown
  key2?: unknown
  primaryKey?: unknown
  secondaryKey?: unknown
}
interface RoleDefinitionBody {
  properties?: { permissions?: RolePermission[] }
}
interface DeploymentBody {
  name?: string
  properties?: { model?: { name?: string }; capabilities?: Record<string, string> }
}
interface ListBody<T> {
  value?: T[]
  nextLink?: string
}

const cognitiveServicesVersion = '2025-09-01'
const machineLearningVersion = '2022-10-01'

export function createResourceManager(options: ResourceManagerOptions): ResourceManager {
  const { cloud, tokens, server, log, signal, agent } = options
  const { resourceGroup, name } = server
  const endpoint = cloud.resourceManager
  const pipeline = createPipeline({ tokens, scope: cloud.resourceManagerScope, host: new URL(endpoint).host, signal, log, agent })
  const http = createHttp(pipeline)

  // The pipeline carries the token; the clients ask for a credential all the same.
  const credential = { getToken: async () => null }
  const servers = lazily(async () => {
    const { PostgreSQLManagementFlexibleServerClient } = await import('./clients.ts')
    return new PostgreSQLManagementFlexibleServerClient(credential, server.subscription, { endpoint, pipeline })
  })
  const authorization = lazily(async () => {
    const { AuthorizationManagementClient } = await import('./clients.ts')
    return new AuthorizationManagementClient(credential, server.subscription, { endpoint, pipeline })
  })

  // Loaded while the token is on its way; a failure is told where it is awaited.
  import('./clients.ts').catch(() => undefined)

  const call = async <T>(doing: string, body: () => Promise<T>, resource?: string): Promise<T> => {
    try {
      return await body()
    } catch (error) {
      if (signal.aborted) throw signal.reason
      throw azureFailure(error, { doing, server: name, resourceGroup, resource: resource ?? server.id })
    }
  }
  const read = (id: string, version: string, doing: string): Promise<unknown> =>
    call(doing, () => http.get(`${endpoint}${id}?api-version=${version}`, doing, signal, id), id)
  const operation = <T>(what: string, limitMs: number, body: (signal: AbortSignal) => Promise<T>): Promise<T> =>
    call(what, () =>
      waiting(
        {
          what,
          limitMs,
          log,
          signal,
          late: (cause) => new Failure(lateOperation(what, limitMs, { doing: what, server: name, resourceGroup }), cause),
        },
        body,
      ),
    )

  /** The pages of a list that no generated client reads. */
  async function* pagesOf<T>(first: string, doing: string, resource: string): AsyncGenerator<Page<T>> {
    for (let url: string | undefined = first; url !== undefined; ) {
      const here: string = url
      const { value, nextLink } = ((await call(doing, () => http.get(here, doing, signal, resource), resource)) ??
        {}) as ListBody<T>
      url = typeof nextLink === 'string' && nextLink !== '' ? nextLink : undefined
      yield { items: Array.isArray(value) ? value : [], next: url }
    }
  }
  const deploymentsOf = async (id: string): Promise<Deployment[]> => {
    const url = `${endpoint}${id}/deployments?api-version=${cognitiveServicesVersion}`
    const doing = 'reading the deployments'
    const found: Deployment[] = []
    for await (const each of itemsOf(pagesOf<DeploymentBody>(url, doing, id), doing))
      found.push({
        name: each.name ?? '',
        model: each.properties?.model?.name ?? '',
        capabilities: each.properties?.capabilities ?? {},
      })
    return found
  }

  const once = { requestOptions: { customHeaders: { [readAgainWhenBusy]: 'true' } } }
  /** A read and the write that follows from it, both again when another operation came in between or Azure failed inside. */
  const mending = <T>(body: () => Promise<T>, verdict = verdictOnOperation): Promise<T> =>
    retrying(body, {
      signal,
      verdict,
      onWait: (_, waitMs, leftMs) =>
        log.info(
          `… the server is busy with another operation; again in ${duration(waitMs)}, for at most ${duration(leftMs)} more`,
        ),
    })
  /** The operation has made the identity, and reads may show it a little later: read again for a bounded while. */
  const shownPrincipalId = (again: () => Promise<ObservedServer>): Promise<string> =>
    retrying(
      async () => {
        const { principalId } = await again()
        if (principalId === undefined) throw principalNotShown(name)
        return principalId
      },
      {
        signal,
        verdict: (error) =>
          error instanceof Failure && error.code === 'principal-not-shown' ? { schedule: replication } : false,
        onWait: (_, waitMs) => log.info(`… ${name} does not show its new identity yet; reading it again in ${duration(waitMs)}`),
      },
    )
  let directoryToldAt = Number.NEGATIVE_INFINITY
  const listAssignments = (scope: string, filter: string): Promise<readonly RoleAssignment[]> =>
    call(
      'listing role assignments',
      async () => {
        const found: RoleAssignment[] = []
        const list = (await authorization()).roleAssignments.listForScope(withoutSlash(scope), { filter })
        for await (const each of itemsOf(await pagesOfClient(list), 'listing role assignments')) {
          const { scope: at, principalId, roleDefinitionId } = each
          // One that does not say what it gives to whom, and where, gives nothing.
          if (!isText(at) || !isText(principalId) || !isText(roleDefinitionId)) continue
          found.push({
            id: String(each.id ?? ''),
            scope: at,
            principalId,
            reaches: undefined,
            roleId: roleDefinitionId.split('/').at(-1)?.toLowerCase() ?? '',
            description: isText(each.description) ? each.description : undefined,
            createdOn: each.createdOn ?? undefined,
          })
        }
        return found
      },
      scope,
    )

  const readServer = async (abortSignal: AbortSignal): Promise<ObservedServer> => {
    const found = observedServer(await (await servers()).servers.get(resourceGroup, name, { abortSignal }))
    expectSame(server, found.id)
    return { ...found, id: server.id }
  }
  const readAllowList = async (abortSignal: AbortSignal): Promise<string[]> => {
    const parameter = 'azure.extensions'
    const { id, value } = await (await servers()).configurations.get(resourceGroup, name, parameter, { abortSignal })
    // The value of another parameter would be written into this one.
    expectSame({ id: `${server.id}/configurations/${parameter}` }, id)
    return allowListOf(value)
  }

  return {
    server: () => call('reading the server', () => readServer(signal)),

    replicas: () =>
      call('listing read replicas', async () => {
        const found: ObservedServer[] = []
        const list = (await servers()).replicas.listByServer(resourceGroup, name)
        for await (const each of itemsOf(await pagesOfClient(list), 'listing read replicas', mostReplicas)) {
          const replica = observedServer(each)
          if (isSame(server, replica.id)) continue
          const type = parseResourceId(replica.id)?.type.toLowerCase()
          if (type !== server.type.toLowerCase()) throw otherResource(`a read replica of ${server.id}`, replica.id)
          found.push(replica)
        }
        return found
      }),

    administrators: () =>
      call("listing the server's Entra administrators", async () => {
        const found: Administrator[] = []
        const list = (await servers()).administratorsMicrosoftEntra.listByServer(resourceGroup, name)
        for await (const each of itemsOf(await pagesOfClient(list), 'listing administrators')) {
          found.push({
            objectId: each.objectId ?? '',
            principalName: each.principalName ?? '',
            principalType: each.principalType ?? 'Unknown',
          })
        }
        return found
      }),

    allowList: () => call('reading azure.extensions', () => readAllowList(signal)),

    runningIdentity: async ({ id }) => {
      const of = parseResourceId(id)
      // The client speaks for one subscription: a replica in another one is not looked at.
      if (of?.subscription.toLowerCase() !== server.subscription.toLowerCase()) return undefined
      try {
        const { configurations } = await servers()
        const parameter = await configurations.get(of.resourceGroup, of.name, 'azure.service_principal_id')
        return parameter.value ?? ''
      } catch (error) {
        if (signal.aborted) throw signal.reason
        // Not every server has the parameter.
        const status = (error as { statusCode?: unknown }).statusCode
        if (status === 404 || status === 400) return undefined
        throw azureFailure(error, { doing: 'reading azure.service_principal_id', resource: id })
      }
    },

    enableIdentity: () =>
      operation("the server's identity to be turned on", minutes(15), (abortSignal) =>
        mending(async () => {
          const client = await servers()
          // Somebody else may have given it an identity since: what is kept is what is there now.
          const before = await readServer(abortSignal)
          if (before.principalId !== undefined) return before.principalId
          const userAssigned = before.userAssignedIdentities
          const identity =
            userAssigned.length === 0
              ? { type: 'SystemAssigned' as const }
              : {
                  type: 'SystemAssigned,UserAssigned' as const,
                  userAssignedIdentities: Object.fromEntries(userAssigned.map((id) => [id, {}])),
                }
          await client.servers.beginUpdateAndWait(
            resourceGroup,
            name,
            { identity },
            { ...once, abortSignal, updateIntervalInMs: spread(pollMs) },
          )
          // The answer of the operation may be the operation itself, so the server is read.
          return shownPrincipalId(() => readServer(abortSignal))
        }),
      ),

    allowExtension: (extension) =>
      operation('the allow-list to be written', minutes(10), (abortSignal) =>
        mending(async () => {
          const { configurations } = await servers()
          // Writing replaces the list: it is read right before, also when another operation came in between.
          const before = await readAllowList(abortSignal)
          if (before.some((entry) => entry.toLowerCase() === extension.toLowerCase())) return before
          const entries = [...before, extension]
          const value = { value: entries.join(','), source: 'user-override' }
          const options = { ...once, abortSignal, updateIntervalInMs: spread(pollMs) }
          await configurations.beginPutAndWait(resourceGroup, name, 'azure.extensions', value, options)
          return entries
        }),
      ),

    restart: () =>
      operation('the server to restart', minutes(20), async (abortSignal) => {
        const client = await servers()
        const options = { ...once, abortSignal, updateIntervalInMs: spread(pollMs) }
        // A server that was busy did not restart. After any other error it may have, and a second restart would be one too many.
        await mending(() => client.servers.beginRestartAndWait(resourceGroup, name, options), busyOperation)
      }),

    roleAssignments: (scope) => listAssignments(scope, 'atScope()'),

    groupAssignments: async (scope, principalId) => {
      const found = await listAssignments(scope, `atScope() and assignedTo('${principalId}')`)
      return found
        .filter((each) => each.principalId.toLowerCase() !== principalId.toLowerCase())
        .map((each) => ({ ...each, reaches: principalId }))
    },

    roleCanAssignRoles: async (scope, roleId) => {
      const id = `${scope}/providers/Microsoft.Authorization/roleDefinitions/${roleId}`
      try {
        const { properties } = (await read(id, '2022-04-01', 'reading a role definition')) as RoleDefinitionBody
        return canAssignRoles(properties?.permissions ?? [])
      } catch (error) {
        if (signal.aborted) throw signal.reason
        // Not every identity that may assign the role may read its definition.
        log.debug(`Role ${roleId} was not looked into: ${describe(error)}`)
        return undefined
      }
    },

    locks: () => {
      const doing = 'listing the locks of the server'
      return call(doing, () => listLocks(http, endpoint, server, doing, signal))
    },

    firewallRules: () =>
      call('listing firewall rules', async () => {
        const found: FirewallRule[] = []
        const list = (await servers()).firewallRules.listByServer(resourceGroup, name)
        for await (const each of itemsOf(await pagesOfClient(list), 'listing firewall rules'))
          found.push({ name: each.name ?? '', start: each.startIpAddress ?? '', end: each.endIpAddress ?? '' })
        return found
      }),

    createFirewallRule: (rule, address) =>
      operation('the temporary firewall rule to be made', minutes(6), async (abortSignal) => {
        const parameters = { startIpAddress: address, endIpAddress: address }
        const client = await servers()
        const options = { ...once, abortSignal, updateIntervalInMs: spread(pollMs) }
        await mending(() => client.firewallRules.beginCreateOrUpdateAndWait(resourceGroup, name, rule, parameters, options))
      }),

    deleteFirewallRule: (rule) =>
      operation('the temporary firewall rule to be removed', minutes(6), async (abortSignal) => {
        let status = 0
        const onResponse = (response: { status: number }): void => {
          status ||= response.status
        }
        const client = await servers()
        try {
          await mending(() => {
            status = 0
            const options = { ...once, abortSignal, updateIntervalInMs: spread(pollMs), onResponse }
            return client.firewallRules.beginDeleteAndWait(resourceGroup, name, rule, options)
          })
        } catch (error) {
          if ((error as { statusCode?: unknown }).statusCode === 404) return false
          throw error
        }
        return status !== 204
      }),

    assignRole: (scope, roleId, principalId, description) =>
      call(
        'assigning a role',
        () =>
          retrying(
            async () => {
              try {
                await (await authorization()).roleAssignments.create(
                  withoutSlash(scope),
                  assignmentName(scope, principalId, roleId),
                  {
                    roleDefinitionId: `/subscriptions/${subscriptionOf(scope)}/providers/Microsoft.Authorization/roleDefinitions/${roleId}`,
                    principalId,
                    principalType: 'ServicePrincipal',
                    description,
                  },
                )
                return true
              } catch (error) {
                const code = (error as { code?: unknown }).code
                if (code === 'RoleAssignmentExists') return false
                throw error
              }
            },
            {
              signal,
              // The directory learns of a new identity a little later than Resource Manager.
              verdict: (error) => {
                const { code, statusCode: status } = error as { code?: string; statusCode?: number }
                return code === 'PrincipalNotFound'
                  ? verdictOn({ stage: 'answer', from: 'Resource Manager', status, code }, true)
                  : false
              },
              onWait: (_, waitMs, leftMs) => {
                // All roles wait for the same thing: it is told once in a while, not for each.
                if (performance.now() - directoryToldAt < 3_000) return
                directoryToldAt = performance.now()
                log.info(
                  `… the directory does not know the new identity yet; again in ${duration(waitMs)}, for at most ${duration(leftMs)} more`,
                )
              },
            },
          ),
        scope,
      ),

    keys: async (resource) => {
      const version = resource.authMode === undefined ? cognitiveServicesVersion : machineLearningVersion
      const doing = `listing the keys of ${resource.name}`
      const url = `${endpoint}${resource.settingsId}/listKeys?api-version=${version}`
      const body = (await call(doing, () => http.list(url, doing, signal, resource.id), resource.id)) as KeysBody
      const keys = [body.key1, body.key2, body.primaryKey, body.secondaryKey].filter(isText)
      for (const key of keys) log.secret(key)
      if (keys.length === 0) throw malformed(`The list of keys of ${resource.name}`, body)
      return keys
    },

    deployments: (account) => deploymentsOf(account.id),

    resource: async (id, withDeployments) => {
      if (/^Microsoft\.CognitiveServices\/accounts$/i.test(id.type)) {
        const [body, deployments] = await Promise.all([
          read(id.id, cognitiveServicesVersion, `reading the account ${id.name}`) as Promise<AccountBody>,
          withDeployments ? deploymentsOf(id.id) : [],
        ])
        return accountOf(id, body, deployments, cloud)
      }
      if (isEndpoint(id)) {
        return endpointOf(
          id,
          (await read(id.id, machineLearningVersion, `reading the online endpoint ${id.name}`)) as AccountBody,
          cloud,
        )
      }
      const doing = `listing the online endpoints of ${id.name}`
      const url = `${endpoint}${id.id}/onlineEndpoints?api-version=${machineLearningVersion}`
      const found: AccountBody[] = []
      for await (const each of itemsOf(pagesOf<AccountBody>(url, doing, id.id), doing)) found.push(each)
      const [only, ...more] = found
      if (only === undefined || more.length > 0) throw notOneEndpoint(id, found)
      return endpointOf(id, only, cloud)
    },
  }
}

function lazily<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined
  return () => {
    made ??= make()
    return made
  }
}

/** Uniqueness of a role assignment is scope, principal and role; a name made of them (UUIDv5, as Bicep's `guid()`) finds itself again. */
export function assignmentName(scope: string, principalId: string, roleId: string): string {
  const namespace = Buffer.from('11fb06fb712d4ddd98c7e71bbd588830', 'hex')
  const text = [scope, principalId, roleId].map((part) => part.toLowerCase()).join('-')
  const hash = createHash('sha1').update(namespace).update(text).digest().subarray(0, 16)
  hash.writeUInt8((hash.readUInt8(6) & 0x0f) | 0x50, 6)
  hash.writeUInt8((hash.readUInt8(8) & 0x3f) | 0x80, 8)
  const hex = hash.toString('hex')
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-')
}

const withoutSlash = (scope: string): string => scope.replace(/^\/+/, '')

/** The pages of a list of a generated client, with what leads to the next one. */
async function pagesOfClient<T>(list: { byPage(): AsyncIterable<T[]> }): Promise<AsyncIterable<Page<T>>> {
  const { nextPageOf } = await import('./clients.ts')
  return (async function* () {
    for await (const items of list.byPage()) yield { items, next: nextPageOf(items) }
  })()
}
const isText = (value: unknown): value is string => typeof value === 'string' && value !== ''
const subscriptionOf = (scope: string): string => /\/subscriptions\/([^/]+)/i.exec(scope)?.[1] ?? ''

/** The entries of `azure.extensions`. They are written back with one more, so a value that was cut is no list. */
function allowListOf(value: string | undefined): string[] {
  if (value !== undefined && isCut(value))
    throw new Failure({
      reason: 'azure',
      code: 'answer-too-large',
      title: 'The allow-list is too long',
      detail: `azure.extensions begins with ${bounded(value, 200)}; a list of that length is not read, and so not written.`,
      fix: 'Look at the server parameter azure.extensions in the portal, and take out what is no extension.',
    })
  return (value ?? '')
    .split(',')
    .map((entry) => entry.trim())
    .filter((entry) => entry !== '')
}

interface ServerModel {
  id?: string | undefined
  name?: string | undefined
  version?: string | undefined
  state?: string | undefined
  fullyQualifiedDomainName?: string | undefined
  identity?:
    | {
        type?: string | undefined
        principalId?: string | undefined
        userAssignedIdentities?: Record<string, unknown> | null | undefined
      }
    | undefined
  network?: { publicNetworkAccess?: string | undefined; delegatedSubnetResourceId?: string | undefined } | undefined
  authConfig?: { activeDirectoryAuth?: string | undefined; passwordAuth?: string | undefined } | undefined
  replicationRole?: string | undefined
  cluster?: { clusterSize?: number | undefined } | undefined
  highAvailability?: { mode?: string | undefined; state?: string | undefined } | undefined
}

/** An object id of Entra: it becomes part of a filter, and names who gets a role. */
const isGuid = (value: unknown): boolean =>
  typeof value === 'string' && /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(value)

function observedServer(model: ServerModel): ObservedServer {
  const types = (model.identity?.type ?? 'None').split(',').map((type) => type.trim().toLowerCase())
  const system = types.includes('systemassigned')
  const user = types.includes('userassigned')
  const mode = model.highAvailability?.mode
  const principalId = system ? model.identity?.principalId || undefined : undefined
  if (principalId !== undefined && !isGuid(principalId)) throw malformed('The object id of the identity', principalId)
  return {
    id: model.id ?? '',
    name: model.name ?? '',
    host: model.fullyQualifiedDomainName ?? '',
    version: model.version ?? '',
    state: model.state ?? 'unknown',
    identityType: system ? (user ? 'SystemAssigned,UserAssigned' : 'SystemAssigned') : user ? 'UserAssigned' : 'None',
    principalId,
    userAssignedIdentities: Object.keys(model.identity?.userAssignedIdentities ?? {}),
    publicAccess: model.network?.publicNetworkAccess !== 'Disabled',
    inVirtualNetwork: model.network?.delegatedSubnetResourceId !== undefined,
    entraAuthentication: model.authConfig?.activeDirectoryAuth === 'Enabled',
    passwordAuthentication: model.authConfig?.passwordAuth !== 'Disabled',
    isReplica: /replica$/i.test(model.replicationRole ?? ''),
    isElasticCluster: (model.cluster?.clusterSize ?? 0) > 0,
    highAvailability:
      mode === undefined || mode === 'Disabled' ? undefined : `${mode} (${model.highAvailability?.state ?? 'state unknown'})`,
  }
}

/** Whether an id of Resource Manager names the resource. It may spell it in another case. */
const isSame = (named: Pick<ResourceId, 'id'>, id: string): boolean =>
  withoutEndSlashes(id).toLowerCase() === named.id.toLowerCase()

/**
 * An answer about another resource than the one that was named decides nothing: where a role goes is what the inputs say.
 * @throws {Failure} `other-resource`
 */
function expectSame(named: Pick<ResourceId, 'id'>, id: unknown): void {
  if (id === undefined || id === null || id === '') return
  if (typeof id !== 'string' || !isSame(named, id)) throw otherResource(named.id, id)
}

function otherResource(named: string, id: unknown): Failure {
  return new Failure({
    reason: 'azure',
    code: 'other-resource',
    title: 'Azure answered about another resource than the one that was named',
    detail: `Named was ${named}, and the answer is about ${bounded(String(id), longestName)}. Nothing was written for it.`,
    fix: `az resource show --ids "${named}" --query id   # compare it with the input; when they are the same, something between the runner and Azure rewrites answers`,
  })
}

function accountOf(id: ResourceId, body: AccountBody, deployments: readonly Deployment[], cloud: Cloud): Resource {
  expectSame(id, body.id)
  const { properties } = body
  const subdomain = properties?.customSubDomainName || undefined
  if (subdomain !== undefined && !isSubdomain(subdomain)) throw malformed(`The custom subdomain of ${id.name}`, subdomain)
  // An account shows endpoints of many kinds: those that cannot be stored are left out, as if it did not show them.
  const endpoints = [properties?.endpoint, ...Object.values(properties?.endpoints ?? {})].filter((each) =>
    isServiceEndpoint(each, cloud),
  )
  return {
    id: id.id,
    settingsId: id.id,
    name: body.name ?? id.name,
    kind: body.kind ?? '',
    location: body.location ?? '',
    provisioningState: properties?.provisioningState ?? 'unknown',
    endpoints,
    customSubdomain: subdomain,
    localAuthDisabled: properties?.disableLocalAuth === true,
    authMode: undefined,
    deployments,
  }
}

/** The role goes on the resource that was named; the settings come from the endpoint, which is that one or lies below it. */
function endpointOf(named: ResourceId, body: AccountBody, cloud: Cloud): Resource {
  const uri = body.properties?.scoringUri || undefined
  if (uri !== undefined && !isServiceEndpoint(uri, cloud))
    throw foreignHost(
      `Resource Manager shows ${bounded(String(uri), longestName)} as the scoring URI of ${named.name}, which is not an https address of Azure Machine Learning; neither a token nor a key is sent there.`,
    )
  return {
    id: named.id,
    settingsId: endpointIdOf(named, body),
    name: body.name ?? named.name,
    kind: 'OnlineEndpoint',
    location: body.location ?? '',
    provisioningState: body.properties?.provisioningState ?? 'unknown',
    endpoints: uri === undefined ? [] : [uri],
    customSubdomain: undefined,
    localAuthDisabled: body.properties?.authMode === 'AADToken',
    authMode: body.properties?.authMode,
    deployments: [],
  }
}

function endpointIdOf(named: ResourceId, { id, name }: AccountBody): string {
  if (isEndpoint(named)) {
    expectSame(named, id)
    return named.id
  }
  const below = `${named.id}/onlineEndpoints/`
  const own = typeof id === 'string' ? withoutEndSlashes(id) : `${below}${name}`
  const parsed = parseResourceId(own)
  if (parsed === undefined || !isEndpoint(parsed) || !own.toLowerCase().startsWith(below.toLowerCase()))
    throw otherResource(`an online endpoint of ${named.id}`, id)
  return `${below}${parsed.name}`
}

const isEndpoint = ({ type }: ResourceId): boolean =>
  type.toLowerCase() === 'microsoft.machinelearningservices/workspaces/onlineendpoints'

function notOneEndpoint(workspace: ResourceId, endpoints: readonly AccountBody[]): Failure {
  const ids = endpoints.flatMap(({ id }) => (typeof id === 'string' && id !== '' ? [id] : [])).slice(0, 20)
  return new Failure({
    reason: 'input',
    code: 'not-one-endpoint',
    title: `The workspace has ${endpoints.length === 0 ? 'no online endpoint' : `${endpoints.length} online endpoints`}`,
    detail: `\`machine-learning\` names the workspace ${workspace.name}, which stands for its endpoint only when it has exactly one.`,
    fix:
      ids.length === 0
        ? `az ml online-endpoint create --resource-group ${workspace.resourceGroup} --workspace-name ${workspace.name} --name NAME --auth-mode aad_token`
        : `Name one of them as \`machine-learning\`:\n${ids.join('\n')}`,
  })
}

function lateOperation(what: string, limitMs: number, at: Circumstances): FailureFacts {
  return {
    reason: 'azure',
    code: 'operation-late',
    title: 'An operation of Azure did not end in time',
    detail: `Waited ${limitMs / 60_000} minutes for ${what}.`,
    fix: `az postgres flexible-server show --resource-group ${at.resourceGroup ?? 'GROUP'} --name ${at.server ?? 'SERVER'} --query state   # when it is Ready, run this job again; it goes on where it stopped`,
  }
}

/** Whether a write met another operation of the server, and so did nothing. */
function busyOperation(error: unknown): Verdict {
  const verdict = verdictOnOperation(error)
  return verdict !== false && verdict.schedule === busy ? verdict : false
}

function principalNotShown(server: string): Failure {
  return new Failure({
    reason: 'azure',
    code: 'principal-not-shown',
    title: 'Azure does not show the new identity',
    detail: `Turning on the identity of ${server} succeeded, and the server still shows no principal id.`,
    fix: 'Run this job again in a few minutes; it goes on where it stopped.',
  })
}
