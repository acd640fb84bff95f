/** Microsoft.DBforPostgreSQL/flexibleServers, api-version 2025-08-01. */
import { randomUUID } from 'node:crypto'
import { isIPv4 } from 'node:net'
import { failure, HttpError, type Reply, sleep } from './http.ts'
import type { Postgres } from './postgres.ts'
import { type Call, propertiesOf, type Route, resourceGroupPath, resourceNotFound, sameId } from './provider.ts'
import { refused, takeRefusal } from './refusals.ts'
import { changeIdentity, readPatch } from './server-changes.ts'
import {
  configurationNames,
  knownExtensions,
  runningIdentity,
  serverType,
  shownAdministrator,
  shownConfiguration,
  shownRule,
  shownServer,
} from './server-views.ts'
import type { Refusal, Server, World } from './world.ts'

const apiVersion = '2025-08-01'
const provider = 'Microsoft.DBforPostgreSQL'
const serverPath = `${resourceGroupPath}/providers/Microsoft\\.DBforPostgreSQL/flexibleServers/([^/]+)`
const readAction = `${serverType}/read`
const writeAction = `${serverType}/write`

interface Operation {
  name: string
  status: 'InProgress' | 'Succeeded' | 'Failed'
  startTime: string
  endTime?: string
  /** `status` is that of the last answer when a client polls by Location. */
  error?: { status: number; code: string; message: string }
  serverId: string
  scope: string
}

/** `postgres` returns the PostgreSQL of a server; it is called when an operation ends, so PostgreSQL may start after Resource Manager. */
export function serverRoutes(world: World, url: string, postgres: (server: Server) => Postgres | undefined): Route[] {
  const operations = new Map<string, Operation>()
  /** Server ids in lower case that an operation works on. */
  const busy = new Set<string>()

  const serverOf = ({ parameters: [subscription = '', group = '', name = ''] }: Call): Server => {
    const id = `/subscriptions/${subscription}/resourceGroups/${group}/providers/${serverType}/${name}`
    const found = world.servers.find((server) => sameId(server.id, id))
    if (!found) throw resourceNotFound(serverType, name, group)
    return found
  }

  /** Marks the server as busy with one operation; `work` changes world and PostgreSQL when the operation ends. */
  const start = (
    server: Server,
    write: Refusal['write'],
    kind: 'Azure-AsyncOperation' | 'Location',
    during: Server['state'],
    work: () => Promise<void>,
  ): Reply => {
    const refusal = takeRefusal(world, write)
    if (refusal !== undefined && refusal.as !== 'operation') throw refused(refusal, server.name)
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
      scope: `/subscriptions/${server.id.split('/')[2]}/providers/${provider}/locations/${server.location}`,
    }
    operations.set(operation.name, operation)
    const run = async (): Promise<void> => {
      if (world.delays.operation > 0) await sleep(world.delays.operation)
      try {
        if (refusal !== undefined) throw refused(refusal, server.name)
        await work()
        operation.status = 'Succeeded'
      } catch (error) {
        operation.status = 'Failed'
        operation.error = operationError(error)
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
    const behind = postgres(server)
    if (behind === undefined) return
    if (world.delays.firewallPropagation > 0) {
      void sleep(world.delays.firewallPropagation)
        .then(() => behind.applyFirewall())
        .catch(() => {})
    } else {
      await behind.applyFirewall()
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
    route('GET', '', 'flexibleServers', readAction, (call) => {
      const server = serverOf(call)
      const left = server.readsWithoutPrincipal ?? 0
      if (left > 0) server.readsWithoutPrincipal = left - 1
      return { status: 200, body: shownServer(world, server, left > 0) }
    }),

    route('PATCH', '', 'flexibleServers', writeAction, (call) => {
      const server = serverOf(call)
      const change = readPatch(call.request.body, server)
      for (const [id, value] of Object.entries(change.identity?.userAssignedIdentities ?? {}))
        if (value !== null) authorizeAssigning(call, server, id)
      return start(server, 'server', 'Azure-AsyncOperation', 'Updating', async () => {
        if (change.identity) changeIdentity(world, server, change.identity)
        Object.assign(server.authConfig, change.authConfig)
        Object.assign(server.network, change.network)
        if (Object.keys(change.authConfig).length > 0) await postgres(server)?.applyAdministrators()
        if (Object.keys(change.network).length > 0) await applyFirewall(server)
        if (change.identity && world.switches.sqlIdentity === 'current') await postgres(server)?.applyConfigurations()
      })
    }),

    route('POST', '/restart', 'flexibleServers', `${serverType}/restart/action`, (call) => {
      const server = serverOf(call)
      return start(server, 'restart', 'Location', 'Restarting', async () => {
        // PostgreSQL shows this value from its start on, so it is set before the start.
        const principalId = server.identity?.principalId
        if (principalId === undefined) delete server.loadedPrincipalId
        else server.loadedPrincipalId = principalId
        await postgres(server)?.restart()
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
      checkReadable(world, server)
      const found = configurationNames(world, server).map((name) => shownConfiguration(world, server, name))
      return { status: 200, body: { value: found } }
    }),
    route('GET', '/configurations/([^/]+)', 'flexibleServers/configurations', `${serverType}/configurations/read`, (call) => {
      const server = serverOf(call)
      checkReadable(world, server)
      return { status: 200, body: shownConfiguration(world, server, configurationName(world, server, call)) }
    }),
    route('PUT', '/configurations/([^/]+)', 'flexibleServers/configurations', `${serverType}/configurations/write`, (call) => {
      const server = serverOf(call)
      const name = configurationName(world, server, call)
      const { value, source } = propertiesOf(call.request.body)
      if (name === runningIdentity) {
        throw failure(400, 'ServerParameterReadOnly', `The configuration '${name}' is read-only.`)
      }
      if (typeof value !== 'string') {
        throw failure(400, 'InvalidParameterValue', `The value of the configuration '${name}' is missing.`)
      }
      checkConfiguration(name, value)
      return start(server, 'configuration', 'Azure-AsyncOperation', 'Updating', async () => {
        server.configurations[name] = { value, source: typeof source === 'string' ? source : 'user-override' }
        await postgres(server)?.applyConfigurations()
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
      return start(server, 'firewallRule', 'Azure-AsyncOperation', 'Updating', async () => {
        server.firewallRules[name] = { startIpAddress, endIpAddress }
        await applyFirewall(server)
      })
    }),
    route('DELETE', '/firewallRules/([^/]+)', 'flexibleServers/firewallRules', `${serverType}/firewallRules/delete`, (call) => {
      const server = serverOf(call)
      const name = ruleName(server, call)
      if (name === undefined) return { status: 204 }
      checkPublicAccess(server)
      return start(server, 'firewallRuleDelete', 'Location', 'Updating', async () => {
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
        ...(operation.error === undefined ? {} : { error: { code: operation.error.code, message: operation.error.message } }),
      },
    })),
    polling('operationResults', (operation) => {
      if (operation.status === 'InProgress') {
        const location = `${url}${operation.scope}/operationResults/${operation.name}?api-version=${apiVersion}`
        return { status: 202, headers: { location, 'retry-after': '0' } }
      }
      if (operation.error) throw failure(operation.error.status, operation.error.code, operation.error.message)
      return { status: 200 }
    }),
  ]
}

/** A caller that names a user-assigned identity in a resource needs the right to assign it, even if the resource has it already. */
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

/** A server that does not run cannot return its configuration. */
function checkReadable(world: World, server: Server): void {
  if (world.switches.stoppedReads === 'answered' || !['Stopped', 'Starting'].includes(server.state)) return
  if (world.switches.stoppedReads === 'failed') throw failure(500, 'InternalServerError', 'An unexpected error occurred.')
  const text = `The server '${server.name}' is in the state '${server.state}'. Its configurations can be read when it is started.`
  throw failure(400, 'ServerStoppedError', text)
}

function operationError(error: unknown): NonNullable<Operation['error']> {
  if (!(error instanceof HttpError)) {
    const message = `An unexpected error occurred: ${(error as Error).message}`
    return { status: 500, code: 'InternalServerError', message }
  }
  const { code, message } = (error.reply.body as { error: { code: string; message: string } }).error
  return { status: error.reply.status, code, message }
}

function configurationName(world: World, server: Server, call: Call): string {
  const wanted = call.parameters[3] ?? ''
  const found = configurationNames(world, server).find((name) => sameId(name, wanted))
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

function addressNumber(address: string): number {
  return address.split('.').reduce((number, part) => number * 256 + Number(part), 0)
}
