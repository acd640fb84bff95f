/** Microsoft.DBforPostgreSQL/flexibleServers, api-version 2025-08-01. Only the primary server has a PostgreSQL behind it. */
import { randomUUID } from 'node:crypto'
import { isIPv4 } from 'node:net'
import { failure, type HttpError, type Reply, sleep } from './http.ts'
import type { Postgres } from './postgres.ts'
import { type Call, type Route, resourceGroupPath, resourceNotFound, sameId } from './provider.ts'
import type { Principal, Server, World } from './world.ts'

const apiVersion = '2025-08-01'
const provider = 'Microsoft.DBforPostgreSQL'
const serverType = `${provider}/flexibleServers`
const serverPath = `${resourceGroupPath}/providers/Microsoft\\.DBforPostgreSQL/flexibleServers/([^/]+)`
const readAction = `${serverType}/read`
const writeAction = `${serverType}/write`

/** Extensions that a flexible server of version 18 lets one allow. */
const knownExtensions = new Set(
  'address_standardizer age amcheck anon azure_ai azure_storage bloom btree_gin btree_gist citext cube dblink dict_int dict_xsyn earthdistance fuzzystrmatch hstore hypopg intarray isn lo login_hook ltree oracle_fdw orafce pageinspect pg_buffercache pg_cron pg_diskann pg_freespacemap pg_hint_plan pg_partman pg_prewarm pg_repack pg_squeeze pg_stat_statements pg_trgm pg_visibility pgaudit pgcrypto pglogical pgrouting pgrowlocks pgstattuple plpgsql plv8 postgis postgis_raster postgis_sfcgal postgis_tiger_geocoder postgis_topology postgres_fdw semver session_variable sslinfo tablefunc tds_fdw timescaledb tsm_system_rows tsm_system_time unaccent uuid-ossp vector'.split(
    ' ',
  ),
)

interface Operation {
  name: string
  status: 'InProgress' | 'Succeeded' | 'Failed'
  startTime: string
  endTime?: string
  error?: { code: string; message: string }
  serverId: string
  scope: string
}

/** `postgres` is asked for when an operation ends, so it may start after Resource Manager does. */
export function serverRoutes(world: World, url: string, postgres: () => Postgres): Route[] {
  const operations = new Map<string, Operation>()
  /** Server ids in lower case that an operation works on. */
  const busy = new Set<string>()

  const isPrimary = (server: Server): boolean => server === world.servers[0]

  const serverOf = ({ parameters: [, group = '', name = ''] }: Call): Server => {
    const id = `/subscriptions/${world.subscriptionId}/resourceGroups/${group}/providers/${serverType}/${name}`
    const found = world.servers.find((server) => sameId(server.id, id))
    if (!found) throw resourceNotFound(serverType, name, group)
    return found
  }

  /** Takes the server for one operation; `work` changes world and PostgreSQL when the operation's time is over. */
  const start = (
    server: Server,
    kind: 'Azure-AsyncOperation' | 'Location',
    during: Server['state'],
    work: () => Promise<void>,
  ): Reply => {
    if (busy.has(server.id.toLowerCase())) {
      throw failure(
        409,
        'ServerIsBusy',
        `Cannot complete operation because server '${server.name}' is busy processing another operation.`,
      )
    }
    if (server.state !== 'Ready') {
      throw failure(
        409,
        'ServerNotReady',
        `The server '${server.name}' is in the state '${server.state}'. The operation can be performed only when it is 'Ready'.`,
      )
    }
    busy.add(server.id.toLowerCase())
    server.state = during
    const operation: Operation = {
      name: randomUUID(),
      status: 'InProgress',
      startTime: new Date().toISOString(),
      serverId: server.id,
      scope: `/subscriptions/${world.subscriptionId}/providers/${provider}/locations/${server.location}`,
    }
    operations.set(operation.name, operation)
    const run = async (): Promise<void> => {
      if (world.delays.operation > 0) await sleep(world.delays.operation)
      try {
        await work()
        operation.status = 'Succeeded'
      } catch (error) {
        operation.status = 'Failed'
        operation.error = { code: 'InternalServerError', message: `An unexpected error occurred: ${(error as Error).message}` }
      }
      operation.endTime = new Date().toISOString()
      // A test may have put the server into a state of its own meanwhile.
      if (server.state === during) server.state = 'Ready'
      busy.delete(server.id.toLowerCase())
    }
    void run()
    const results = `${url}${operation.scope}/operationResults/${operation.name}?api-version=${apiVersion}`
    const status = `${url}${operation.scope}/azureAsyncOperation/${operation.name}?api-version=${apiVersion}`
    return {
      status: 202,
      headers: { location: results, 'retry-after': '0', ...(kind === 'Location' ? {} : { 'azure-asyncoperation': status }) },
    }
  }

  const operationOf = (name: string): Operation => {
    const found = operations.get(name.toLowerCase())
    if (!found) throw failure(404, 'ResourceNotFound', `The operation '${name}' was not found.`)
    return found
  }

  /** Firewall rules reach the server some time after Resource Manager knows of them. */
  const applyFirewall = async (server: Server): Promise<void> => {
    if (!isPrimary(server)) return
    if (world.delays.firewallPropagation > 0) {
      void sleep(world.delays.firewallPropagation)
        .then(() => postgres().applyFirewall())
        .catch(() => {})
    } else {
      await postgres().applyFirewall()
    }
  }

  const route = (method: string, rest: string, type: string, action: string | null, handle: Route['handle']): Route => ({
    method,
    path: new RegExp(`^${serverPath}${rest}$`, 'i'),
    apiVersions: [apiVersion],
    type,
    action,
    scope: ([subscription = '', group = '', name = '', child]) => {
      const id = `/subscriptions/${subscription}/resourceGroups/${group}/providers/${serverType}/${name}`
      return child === undefined ? id : `${id}/${type.slice('flexibleServers/'.length)}/${child}`
    },
    handle,
  })

  const polling = (kind: string, handle: (operation: Operation) => Reply): Route => ({
    method: 'GET',
    path: new RegExp(`^/subscriptions/[^/]+/providers/Microsoft\\.DBforPostgreSQL/locations/[^/]+/${kind}/([^/]+)$`, 'i'),
    apiVersions: [apiVersion],
    type: `locations/${kind}`,
    action: null,
    handle(call) {
      const operation = operationOf(call.parameters[0] ?? '')
      call.authorize(readAction, operation.serverId)
      return handle(operation)
    },
  })

  return [
    route('GET', '', 'flexibleServers', readAction, (call) => ({ status: 200, body: shownServer(world, serverOf(call)) })),

    route('PATCH', '', 'flexibleServers', writeAction, (call) => {
      const server = serverOf(call)
      const change = readPatch(call.request.body, server)
      for (const [id, value] of Object.entries(change.identity?.userAssignedIdentities ?? {}))
        if (value !== null) authorizeAssigning(call, server, id)
      return start(server, 'Azure-AsyncOperation', 'Updating', async () => {
        if (change.identity) changeIdentity(world, server, change.identity)
        Object.assign(server.authConfig, change.authConfig)
        Object.assign(server.network, change.network)
        if (!isPrimary(server)) return
        if (Object.keys(change.authConfig).length > 0) await postgres().applyAdministrators()
        if (Object.keys(change.network).length > 0) await applyFirewall(server)
      })
    }),

    route('POST', '/restart', 'flexibleServers', `${serverType}/restart/action`, (call) => {
      const server = serverOf(call)
      return start(server, 'Location', 'Restarting', async () => {
        // PostgreSQL shows this value from its start on, so it is set before.
        const principalId = server.identity?.principalId
        if (principalId === undefined) delete server.loadedPrincipalId
        else server.loadedPrincipalId = principalId
        if (isPrimary(server)) await postgres().restart()
        server.startedAt = Date.now()
        server.restarts++
      })
    }),

    route('GET', '/replicas', 'flexibleServers/replicas', `${serverType}/replicas/read`, (call) => {
      const server = serverOf(call)
      const replicas = world.servers.filter(
        ({ sourceServerResourceId }) => sourceServerResourceId !== undefined && sameId(sourceServerResourceId, server.id),
      )
      return { status: 200, body: { value: replicas.map((replica) => shownServer(world, replica)) } }
    }),

    route('GET', '/administrators', 'flexibleServers/administrators', `${serverType}/administrators/read`, (call) => {
      const server = serverOf(call)
      return { status: 200, body: { value: server.administrators.map((one) => shownAdministrator(world, server, one)) } }
    }),
    route('GET', '/administrators/([^/]+)', 'flexibleServers/administrators', `${serverType}/administrators/read`, (call) => {
      const server = serverOf(call)
      const objectId = call.parameters[3] ?? ''
      const found = server.administrators.find((administrator) => sameId(administrator.objectId, objectId))
      if (!found) throw childNotFound('administrators', objectId)
      return { status: 200, body: shownAdministrator(world, server, found) }
    }),

    route('GET', '/configurations', 'flexibleServers/configurations', `${serverType}/configurations/read`, (call) => {
      const server = serverOf(call)
      return { status: 200, body: { value: configurationNames(server).map((name) => shownConfiguration(server, name)) } }
    }),
    route('GET', '/configurations/([^/]+)', 'flexibleServers/configurations', `${serverType}/configurations/read`, (call) => {
      const server = serverOf(call)
      return { status: 200, body: shownConfiguration(server, configurationName(server, call)) }
    }),
    route('PUT', '/configurations/([^/]+)', 'flexibleServers/configurations', `${serverType}/configurations/write`, (call) => {
      const server = serverOf(call)
      const name = configurationName(server, call)
      const { value, source } = propertiesOf(call.request.body)
      if (name === runningIdentity) {
        throw failure(400, 'ServerParameterReadOnly', `The configuration '${name}' is read-only.`)
      }
      if (typeof value !== 'string') {
        throw failure(400, 'InvalidParameterValue', `The value of the configuration '${name}' is missing.`)
      }
      checkConfiguration(name, value)
      return start(server, 'Azure-AsyncOperation', 'Updating', async () => {
        server.configurations[name] = { value, source: typeof source === 'string' ? source : 'user-override' }
        if (isPrimary(server)) await postgres().applyConfigurations()
      })
    }),

    route('GET', '/firewallRules', 'flexibleServers/firewallRules', `${serverType}/firewallRules/read`, (call) => {
      const server = serverOf(call)
      return { status: 200, body: { value: Object.keys(server.firewallRules).map((name) => shownRule(server, name)) } }
    }),
    route('GET', '/firewallRules/([^/]+)', 'flexibleServers/firewallRules', `${serverType}/firewallRules/read`, (call) => {
      const server = serverOf(call)
      const name = ruleName(server, call)
      if (name === undefined) throw childNotFound('firewallRules', call.parameters[3] ?? '')
      return { status: 200, body: shownRule(server, name) }
    }),
    route('PUT', '/firewallRules/([^/]+)', 'flexibleServers/firewallRules', `${serverType}/firewallRules/write`, (call) => {
      const server = serverOf(call)
      const name = ruleName(server, call) ?? call.parameters[3] ?? ''
      checkPublicAccess(server)
      if (!/^[a-zA-Z0-9][-_a-zA-Z0-9]{0,79}(?<!-)$/.test(name)) {
        throw failure(400, 'InvalidResourceName', `The firewall rule name '${name}' is not valid.`)
      }
      const { startIpAddress, endIpAddress } = propertiesOf(call.request.body)
      if (
        typeof startIpAddress !== 'string' ||
        typeof endIpAddress !== 'string' ||
        !isIPv4(startIpAddress) ||
        !isIPv4(endIpAddress)
      ) {
        throw failure(400, 'InvalidParameterValue', 'startIpAddress and endIpAddress must be IPv4 addresses.')
      }
      if (addressNumber(startIpAddress) > addressNumber(endIpAddress)) {
        throw failure(400, 'InvalidParameterValue', 'startIpAddress must not be greater than endIpAddress.')
      }
      return start(server, 'Azure-AsyncOperation', 'Updating', async () => {
        server.firewallRules[name] = { startIpAddress, endIpAddress }
        await applyFirewall(server)
      })
    }),
    route('DELETE', '/firewallRules/([^/]+)', 'flexibleServers/firewallRules', `${serverType}/firewallRules/delete`, (call) => {
      const server = serverOf(call)
      const name = ruleName(server, call)
      if (name === undefined) return { status: 204 }
      checkPublicAccess(server)
      return start(server, 'Location', 'Updating', async () => {
        delete server.firewallRules[name]
        await applyFirewall(server)
      })
    }),

    polling('azureAsyncOperation', (operation) => ({
      status: 200,
      headers: operation.status === 'InProgress' ? { 'retry-after': '0' } : {},
      body: {
        id: `${operation.scope}/azureAsyncOperation/${operation.name}`,
        name: operation.name,
        status: operation.status,
        startTime: operation.startTime,
        ...(operation.endTime === undefined ? {} : { endTime: operation.endTime }),
        ...(operation.error === undefined ? {} : { error: operation.error }),
      },
    })),
    polling('operationResults', (operation) => {
      if (operation.status === 'InProgress') {
        const location = `${url}${operation.scope}/operationResults/${operation.name}?api-version=${apiVersion}`
        return { status: 202, headers: { location, 'retry-after': '0' } }
      }
      if (operation.error) throw failure(500, operation.error.code, operation.error.message)
      return { status: 200 }
    }),
  ]
}

/** Whoever names a user-assigned identity in a resource has to have the right to give it, one that is there already included. */
function authorizeAssigning(call: Call, server: Server, identity: string): void {
  const action = 'Microsoft.ManagedIdentity/userAssignedIdentities/assign/action'
  try {
    call.authorize(action, identity)
  } catch {
    const { appid, oid } = call.caller
    throw failure(
      403,
      'LinkedAuthorizationFailed',
      `The client '${appid ?? oid}' with object id '${oid}' has permission to perform action '${writeAction}' on scope '${server.id}'; however, it does not have permission to perform action(s) '${action}' on the linked scope(s) '${identity}' (respectively) or the linked scope(s) are invalid.`,
    )
  }
}

type IdentityType = NonNullable<Server['identity']>['type']

interface IdentityPatch {
  type: IdentityType
  userAssignedIdentities: Record<string, unknown>
}

interface Patch {
  identity?: IdentityPatch
  authConfig: Partial<Server['authConfig']>
  network: Partial<Server['network']>
}

/** What a PATCH of a server asks for. What the emulator cannot do is refused, not ignored. */
function readPatch(body: unknown, server: Server): Patch {
  const given = (typeof body === 'object' && body !== null ? body : {}) as Record<string, unknown>
  const properties = propertiesOf(body)
  const unknown = [
    ...Object.keys(given).filter((name) => !['identity', 'properties'].includes(name)),
    ...Object.keys(properties).filter((name) => !['authConfig', 'network'].includes(name)),
  ]
  if (unknown.length > 0) {
    throw failure(400, 'NotEmulated', `The emulator cannot change ${unknown.join(', ')} of a server.`)
  }
  const patch: Patch = {
    authConfig: pick(properties.authConfig, ['activeDirectoryAuth', 'passwordAuth']),
    network: pick(properties.network, ['publicNetworkAccess']),
  }
  if (given.identity !== undefined && given.identity !== null) {
    if ((server.clusterSize ?? 0) > 0) {
      throw failure(
        400,
        'OperationNotSupportedForElasticCluster',
        `The identity of the elastic cluster '${server.name}' cannot be changed.`,
      )
    }
    patch.identity = readIdentity(given.identity as Record<string, unknown>, server)
  }
  return patch
}

function readIdentity(identity: Record<string, unknown>, server: Server): IdentityPatch {
  const type = String(identity.type ?? '').replaceAll(' ', '')
  const known: IdentityType[] = ['None', 'SystemAssigned', 'UserAssigned', 'SystemAssigned,UserAssigned']
  const found = known.find((candidate) => sameId(candidate, type))
  if (found === undefined) {
    throw failure(400, 'InvalidIdentityType', `The identity type '${String(identity.type)}' is not valid.`)
  }
  const users = (identity.userAssignedIdentities ?? {}) as Record<string, unknown>
  for (const [id, value] of Object.entries(users)) {
    if (typeof value === 'object' && value !== null && Object.keys(value).length > 0) {
      throw failure(
        400,
        'InvalidIdentityValues',
        `Invalid value for the identities '${id}'. The 'UserAssignedIdentities' property keys should only be empty json objects, null or the resource exisiting property.`,
      )
    }
  }
  if (!found.includes('UserAssigned') && Object.keys(users).length > 0) {
    throw failure(400, 'InvalidIdentityValues', `The identity type '${found}' does not go with user-assigned identities.`)
  }
  const left = Object.keys(merged(server.identity?.userAssignedIdentities, users))
  if (found.includes('UserAssigned') && left.length === 0) {
    throw failure(400, 'InvalidIdentityValues', 'The user-assigned identities are missing.')
  }
  return { type: found, userAssignedIdentities: users }
}

/** Named identities join those that are there; `null` takes one away. Ids match without case. */
function merged(
  present: NonNullable<Server['identity']>['userAssignedIdentities'],
  named: Record<string, unknown>,
): Record<string, { principalId: string; clientId: string }> {
  const result = { ...present }
  for (const [id, value] of Object.entries(named)) {
    const key = Object.keys(result).find((candidate) => sameId(candidate, id)) ?? id
    if (value === null) delete result[key]
    else result[key] ??= { principalId: randomUUID(), clientId: randomUUID() }
  }
  return result
}

function changeIdentity(world: World, server: Server, patch: IdentityPatch): void {
  const before = server.identity
  const system = patch.type.startsWith('SystemAssigned')
  const users = patch.type.includes('UserAssigned')
    ? merged(before?.userAssignedIdentities, patch.userAssignedIdentities)
    : undefined
  let principalId = before?.principalId
  if (system && principalId === undefined) {
    const principal: Principal = {
      objectId: randomUUID(),
      displayName: server.name,
      kind: 'ManagedIdentity',
      clientId: randomUUID(),
      createdAt: Date.now(),
    }
    world.principals.push(principal)
    principalId = principal.objectId
  }
  if (!system && principalId !== undefined) {
    // The directory forgets it; its role assignments stay behind, as in Azure.
    world.principals.splice(0, Infinity, ...world.principals.filter(({ objectId }) => objectId !== principalId))
    principalId = undefined
  }
  server.identity = {
    type: patch.type,
    ...(principalId === undefined ? {} : { principalId }),
    ...(users === undefined ? {} : { userAssignedIdentities: users }),
  }
}

function checkConfiguration(name: string, value: string): void {
  if (name !== 'azure.extensions') return
  const unknown = value
    .split(',')
    .map((extension) => extension.trim())
    .filter((extension) => extension !== '' && !knownExtensions.has(extension.toLowerCase()))
  if (unknown.length > 0) {
    throw failure(
      400,
      'InvalidParameterValue',
      `Invalid value given for parameter azure.extensions. Specify a valid parameter value: '${unknown.join(',')}' is not among the allowed values.`,
    )
  }
}

function checkPublicAccess(server: Server): void {
  if (server.network.delegatedSubnetResourceId !== undefined || server.network.publicNetworkAccess === 'Disabled') {
    throw failure(
      400,
      'FirewallRuleNotAllowed',
      'Firewall rule operations cannot be requested for a private access enabled server.',
    )
  }
}

function configurationName(server: Server, call: Call): string {
  const wanted = call.parameters[3] ?? ''
  const found = configurationNames(server).find((name) => sameId(name, wanted))
  if (found === undefined) throw childNotFound('configurations', wanted)
  return found
}

function ruleName(server: Server, call: Call): string | undefined {
  return Object.keys(server.firewallRules).find((name) => sameId(name, call.parameters[3] ?? ''))
}

function childNotFound(type: string, name: string): HttpError {
  return failure(
    404,
    'ResourceNotFound',
    `The requested resource of type '${serverType}/${type}' with name '${name}' was not found.`,
  )
}

function propertiesOf(body: unknown): Record<string, unknown> {
  const properties = (body as { properties?: unknown } | undefined)?.properties
  return typeof properties === 'object' && properties !== null ? (properties as Record<string, unknown>) : {}
}

function pick<Name extends string>(from: unknown, names: Name[]): Partial<Record<Name, 'Enabled' | 'Disabled'>> {
  const given = (typeof from === 'object' && from !== null ? from : {}) as Record<string, unknown>
  const picked: Partial<Record<Name, 'Enabled' | 'Disabled'>> = {}
  for (const name of names) {
    const value = given[name]
    if (value === 'Enabled' || value === 'Disabled') picked[name] = value
  }
  return picked
}

function addressNumber(address: string): number {
  return address.split('.').reduce((number, part) => number * 256 + Number(part), 0)
}

function shownServer(world: World, server: Server): Record<string, unknown> {
  const { identity } = server
  return {
    sku: { name: 'Standard_D2ds_v5', tier: 'GeneralPurpose' },
    ...(identity === undefined ? {} : { identity: { ...identity, tenantId: world.tenantId } }),
    systemData: { createdAt: '2025-11-03T08:12:31.0000000Z', createdByType: 'User', createdBy: 'admin@contoso.example' },
    properties: {
      replica: {
        role: server.replicationRole,
        capacity: 5,
        ...(server.replicationRole === 'AsyncReplica' ? { replicationState: 'Active' } : {}),
      },
      storage: { type: '', iops: 500, tier: 'P10', storageSizeGB: 128, autoGrow: 'Disabled' },
      network: server.network,
      dataEncryption: { type: 'SystemManaged' },
      authConfig: { ...server.authConfig, tenantId: world.tenantId },
      fullyQualifiedDomainName: server.fullyQualifiedDomainName,
      backup: {
        backupRetentionDays: 7,
        geoRedundantBackup: 'Disabled',
        earliestRestoreDate: '2026-11-17T09:00:00.0000000+00:00',
      },
      highAvailability: server.highAvailability ?? { mode: 'Disabled', state: 'NotEnabled' },
      maintenanceWindow: { customWindow: 'Disabled', dayOfWeek: 0, startHour: 0, startMinute: 0 },
      replicationRole: server.replicationRole,
      replicaCapacity: 5,
      administratorLogin: 'pgadmin',
      availabilityZone: '1',
      version: server.version,
      minorVersion: server.version === '18' ? '1' : '5',
      state: server.state,
      privateEndpointConnections: [],
      ...(server.sourceServerResourceId === undefined ? {} : { sourceServerResourceId: server.sourceServerResourceId }),
      ...(server.clusterSize === undefined
        ? {}
        : { cluster: { clusterSize: server.clusterSize, defaultDatabaseName: 'postgres' } }),
    },
    location: server.location,
    tags: {},
    id: server.id,
    name: server.name,
    type: serverType,
  }
}

function shownAdministrator(
  world: World,
  server: Server,
  administrator: Server['administrators'][number],
): Record<string, unknown> {
  return {
    properties: { ...administrator, tenantId: world.tenantId },
    id: `${server.id}/administrators/${administrator.objectId}`,
    name: administrator.objectId,
    type: `${serverType}/administrators`,
  }
}

/** Read-only: the identity that the running process knows, empty before the first restart with one. */
const runningIdentity = 'azure.service_principal_id'

function configurationNames(server: Server): string[] {
  return [...Object.keys(server.configurations), runningIdentity]
}

function shownConfiguration(server: Server, name: string): Record<string, unknown> {
  const isRunningIdentity = name === runningIdentity
  const configuration = isRunningIdentity
    ? { value: server.loadedPrincipalId ?? '', source: 'system-default' }
    : server.configurations[name]
  const list = name === 'azure.extensions'
  return {
    properties: {
      value: configuration?.value ?? '',
      source: configuration?.source ?? 'system-default',
      description: list ? 'Specifies which extensions are allowed to be created in the server.' : `Server parameter ${name}.`,
      defaultValue: '',
      dataType: list ? 'Set' : 'String',
      allowedValues: list ? [...knownExtensions].join(',') : '.*',
      isDynamicConfig: true,
      isReadOnly: isRunningIdentity,
      isConfigPendingRestart: false,
    },
    id: `${server.id}/configurations/${name}`,
    name,
    type: `${serverType}/configurations`,
  }
}

function shownRule(server: Server, name: string): Record<string, unknown> {
  return {
    properties: { ...server.firewallRules[name] },
    id: `${server.id}/firewallRules/${name}`,
    name,
    type: `${serverType}/firewallRules`,
  }
}
