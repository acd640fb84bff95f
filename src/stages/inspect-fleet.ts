/** Inspects the servers of an inventory side by side: their databases, their allow-lists, and the roles on what they use. */
import type { ResourceManager } from '../azure/resource-manager.ts'
import { type Fleet, type FleetServer, type Inspected, type Inventory, inventoryOf } from '../core/inventory.ts'
import type { FleetResource } from '../core/inventory-resources.ts'
import { allowsAzureAi, givesRole, isRead, type ReadDatabase, type RoleAssignment } from '../core/observed.ts'
import { memberOf, type Service, services } from '../core/services.ts'
import { Failure, failuresOf } from '../errors/failure.ts'
import { malformed } from '../errors/malformed.ts'
import { describe } from '../lib/bounded.ts'
import { canonicalId, parseResourceId, type ResourceId, sameId, samePart } from '../lib/resource-id.ts'
import { mapLimited } from '../lib/retry.ts'
import { onOneLine } from '../lib/unicode.ts'
import { admitRunner } from './observe.ts'
import { databasesAt } from './observe-databases.ts'
import type { Run } from './run.ts'
import { connectorFor, type Session } from './sign-in.ts'

/** Servers at once. Each has its own share of connections, of which there are eight at most. */
const serversAtOnce = 16
/** Requests to Resource Manager at once, for roles and single resources. */
const requestsAtOnce = 8

/** What Resource Manager lists before any server is connected to. */
interface Listed {
  readonly servers: readonly FleetServer[]
  readonly resources: readonly FleetResource[]
  /** Resources whose endpoint the list does not show. */
  readonly withoutEndpoint: readonly ResourceId[]
}

/** The servers that the inputs name, with their read replicas, and every resource that an endpoint may lead to. */
export async function listFleet({ inputs, log }: Run, { azure }: Session): Promise<Listed> {
  const graph = await azure.resourceGraph()
  const own = inputs.scopeParts.length > 0 ? await graph.serversIn(inputs.scopeParts) : [await azure.fleetServer()]
  const { servers: all, resources, withoutEndpoint } = await graph.everything()
  const known = new Set(own.map(({ id }) => canonicalId(id)))
  const replicas = all.filter(
    ({ id, primary }) => primary !== undefined && known.has(canonicalId(primary)) && !known.has(canonicalId(id)),
  )
  const servers = [...own, ...replicas]
  log.info(`Servers: ${servers.length}, AI resources: ${resources.length + withoutEndpoint.length}`)
  return { servers, resources, withoutEndpoint }
}

/** Inspects them all. A server that cannot be inspected has its failure, and keeps no other from being seen. */
export async function inspectFleet(run: Run, session: Session, listed: Listed): Promise<Inventory> {
  const { signal, log } = run
  const ids = new Set(listed.servers.map(({ id }) => canonicalId(id)))
  const follows = ({ primary }: FleetServer): boolean => primary !== undefined && ids.has(canonicalId(primary))
  const servers = await mapLimited(listed.servers, serversAtOnce, async (server): Promise<Inspected> => {
    if (follows(server)) return { server, failure: undefined, databases: [], isAllowed: undefined }
    try {
      const found = await inspect(run, session, server)
      log.info(onOneLine(`  ${server.name}: databases with azure_ai: ${found.databases.length}`))
      return { server, failure: undefined, ...found }
    } catch (error) {
      if (signal.aborted) throw signal.reason
      const failure = failuresOf(error)[0] ?? malformed('An error', error)
      log.info(onOneLine(`  ${server.name}: ${failure.title}`))
      return { server, failure, databases: [], isAllowed: undefined }
    }
  })
  const resources = [...listed.resources, ...(await unlisted(run, session, servers, listed))]
  const withoutRoles = inventoryOf({ servers, resources, assignments: new Map() })
  return inventoryOf({ servers, resources, assignments: await assignmentsFor(run, session, withoutRoles) })
}

async function inspect(run: Run, session: Session, server: FleetServer): Promise<Pick<Inspected, 'databases' | 'isAllowed'>> {
  const { inputs, log } = run
  const id = parseResourceId(server.id)
  if (id === undefined) throw malformed('The id of a server', server.id)
  if (server.state !== 'Ready' && server.state !== 'Updating') throw notReady(server, id)
  const azure = session.azure.of(id)
  const [administrators, isAllowed] = await Promise.all([
    inputs.database.user === undefined ? azure.administrators() : [],
    azure.allowList().then(allowsAzureAi, (error: unknown) => {
      log.debug(`The allow-list of ${server.name} was not read: ${describe(error)}`)
      return undefined
    }),
  ])
  const ofServer: Run = { ...run, inputs: { ...inputs, server: id } }
  const { connector } = await connectorFor(ofServer.inputs, session, server.host, administrators)
  if (inputs.temporaryFirewallRule) await admitRunner(ofServer, session, server, connector)
  const databases = await databasesAt(inputs.databases, { connector, keys: new Map() }, run)
  return { databases, isAllowed }
}

function notReady({ name, state }: FleetServer, { resourceGroup }: ResourceId): Failure {
  const where = `--resource-group ${resourceGroup} --name ${name}`
  return new Failure({
    reason: 'azure',
    code: 'server-not-ready',
    title: `The server is ${state}`,
    detail: 'Only a running server shows what is stored in its databases.',
    fix:
      state === 'Stopped'
        ? `az postgres flexible-server start ${where}`
        : `az postgres flexible-server show ${where} --query state   # run again when it is Ready`,
  })
}

/** Reads resources whose endpoint the list does not show, where a database uses one that was not found otherwise. */
async function unlisted(
  { signal, log }: Run,
  { azure }: Session,
  servers: readonly Inspected[],
  { resources, withoutEndpoint }: Listed,
): Promise<readonly FleetResource[]> {
  const databases = servers.flatMap((server) => server.databases.filter(isRead))
  const found = inventoryOf({ servers, resources, assignments: new Map() })
  const isMissing = found.servers.some((server) =>
    server.databases.some(({ uses }) => uses.some(({ endpoint, resource }) => endpoint !== '' && resource === undefined)),
  )
  const wanted = withoutEndpoint.filter(({ type }) => isMissing && databases.some((database) => mayUse(database, type)))
  const read = await mapLimited(wanted, requestsAtOnce, async (id): Promise<FleetResource | undefined> => {
    try {
      return { ...(await azure.resource(id, false)), type: id.type }
    } catch (error) {
      if (signal.aborted) throw signal.reason
      log.debug(`${id.id} was not read: ${describe(error)}`)
      return undefined
    }
  })
  return read.flatMap((each) => each ?? [])
}

/** Whether a database has an endpoint of a family that lives on resources of this type. */
function mayUse({ settings }: ReadDatabase, type: string): boolean {
  const livesOn = (service: Service): boolean => service.resourceTypes.some((each) => samePart(each, type))
  return services.filter(livesOn).some((service) => (settings.get(memberOf(service).endpoint) ?? '') !== '')
}

/** Role assignments on every resource that is used; those through groups only where a server has none of its own. */
async function assignmentsFor({ signal, log }: Run, { azure }: Session, { servers }: Inventory): Promise<Fleet['assignments']> {
  const users = new Map<string, { readonly id: string; readonly principals: Set<string>; readonly roles: Set<string> }>()
  for (const { server, follows, databases } of servers) {
    const own = follows === undefined ? databases : (servers.find((each) => sameId(each.server.id, follows.id))?.databases ?? [])
    for (const [name, id] of own.flatMap(({ resources }) => [...resources])) {
      const user = users.get(canonicalId(id)) ?? { id, principals: new Set(), roles: new Set() }
      users.set(canonicalId(id), user)
      const role = services.find((service) => service.name === name)?.role.id
      if (role !== undefined) user.roles.add(role)
      if (server.principalId !== undefined) user.principals.add(server.principalId)
    }
  }
  const found = new Map<string, readonly RoleAssignment[]>()
  await mapLimited([...users], requestsAtOnce, async ([key, { id, principals, roles }]) => {
    try {
      found.set(key, await withGroups(azure, { id, principals, roles }))
    } catch (error) {
      if (signal.aborted) throw signal.reason
      log.debug(`The role assignments on ${id} were not read: ${describe(error)}`)
    }
  })
  return found
}

async function withGroups(
  azure: ResourceManager,
  { id, principals, roles }: { readonly id: string; readonly principals: Set<string>; readonly roles: Set<string> },
): Promise<readonly RoleAssignment[]> {
  const found = [...(await azure.roleAssignments(id))]
  for (const principal of principals) {
    const hasAll = [...roles].every((role) => found.some((each) => givesRole(each, principal, role, id)))
    if (!hasAll) found.push(...(await azure.groupAssignments(id, principal)))
  }
  return found
}
