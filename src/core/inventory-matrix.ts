/** The matrix of an inventory: one entry for each server and set of resources that still has something to do. Pure. */
import { canonicalId } from '../lib/resource-id.ts'
import {
  type InspectedDatabase,
  type Inventory,
  type InventoryServer,
  isOpen,
  replicasOf,
  type Use,
  type UsedResources,
} from './inventory.ts'
import { givesRole, type ObservedServer } from './observed.ts'
import { type ServiceName, services } from './services.ts'

/** Inputs of the job that `strategy.matrix` makes of it: `name`, `server`, `databases`, and one for each service. */
type MatrixEntry = Readonly<Record<string, string>>

export interface Matrix {
  readonly include: readonly MatrixEntry[]
  /** Entries that found no place. */
  readonly left: number
  /** Databases that an entry cannot name, as `"DATABASE" on SERVER`. */
  readonly unnameable: readonly string[]
}

/** GitHub runs no more jobs of one matrix. */
const mostEntries = 256
/** Most bytes of the matrix as JSON: GitHub takes a megabyte for the outputs of a job, and counts two bytes for each UTF-16 unit. */
const mostBytes = 900_000
/** Most bytes of the databases of one entry: they become an environment variable, which Linux limits to 128 KiB. */
const mostDatabaseBytes = 100_000

/** One input for each service. */
const columns: readonly ServiceName[] = services.map(({ name }) => name)

interface Task {
  readonly server: InventoryServer['server']
  readonly databases: readonly InspectedDatabase[]
  readonly resources: UsedResources
  readonly storesKeys: boolean
}

export function matrixOf(inventory: Inventory): Matrix {
  const tasks = inventory.servers.flatMap((server) => tasksOf(server, inventory))
  const unnameable = tasks.flatMap(({ server, databases }) =>
    databases.filter((each) => !isNameable(each)).map(({ database }) => `"${database.name}" on ${server.name}`),
  )
  const ready = tasks
    .map((task) => ({ ...task, databases: task.databases.filter(isNameable) }))
    .flatMap((task) => portions(task.databases).map((databases) => ({ ...task, databases })))
    // The sort is stable: within both groups the order stays that of the servers.
    .sort((a, b) => Number(b.storesKeys) - Number(a.storesKeys))
  const include = withinLimits(entriesOf(ready))
  return { include, left: ready.length - include.length, unnameable: [...new Set(unnameable)] }
}

/** What is left to do on a server. A replica comes before its primary: settings reach it from there, identity and roles do not. */
function tasksOf(server: InventoryServer, inventory: Inventory): readonly Task[] {
  const { follows, failure } = server
  if (follows !== undefined) {
    const primary = inventory.servers.find((each) => each.server.id === follows.id)
    return server.server.state !== 'Ready' || primary === undefined ? [] : replicaTasks(server, primary, inventory)
  }
  if (failure !== undefined || waitingFor(server, inventory).length > 0) return []
  // Settings of a replica can be written on its primary only, which is not part of this inventory.
  const canWrite = !server.server.isReplica
  return grouped(server, ({ uses, resources }) => (canWrite && uses.some(canMove)) || needsAzure(server, resources, inventory))
}

/** An entry cannot name a resource that is not visible: running it would change nothing, and it would come back for ever. */
const canMove = (use: Use): boolean => isOpen(use) && use.resource !== undefined

const replicaTasks = (replica: InventoryServer, primary: InventoryServer, inventory: Inventory): readonly Task[] =>
  grouped({ ...primary, server: replica.server }, ({ resources }) => lacks(replica.server, resources, inventory).length > 0)

/** Replicas that have something to do before their primary is switched. */
export function waitingFor(primary: InventoryServer, inventory: Inventory): readonly InventoryServer[] {
  return replicasOf(inventory, primary.server).filter((replica) => replicaTasks(replica, primary, inventory).length > 0)
}

/** Databases with something to do, those that use the same resources together. One without a visible resource has no entry. */
function grouped(server: InventoryServer, isToDo: (database: InspectedDatabase) => boolean): readonly Task[] {
  const groups = new Map<string, InspectedDatabase[]>()
  for (const database of server.databases) {
    if (database.reason !== '' || database.resources.size === 0 || !isToDo(database)) continue
    const key = JSON.stringify(columns.map((name) => canonicalId(database.resources.get(name) ?? '')))
    groups.set(key, [...(groups.get(key) ?? []), database])
  }
  return [...groups.values()].map((databases) => ({
    server: server.server,
    databases,
    resources: databases[0]?.resources ?? new Map(),
    storesKeys: databases.some(({ uses }) => uses.some(({ keyStored }) => keyStored)),
  }))
}

const needsAzure = ({ server, isAllowed }: InventoryServer, resources: UsedResources, inventory: Inventory): boolean =>
  isAllowed === false || lacks(server, resources, inventory).length > 0

/** Services whose role the identity of a server lacks. A resource whose assignments could not be read counts as in order. */
export function lacks(
  { principalId }: Pick<ObservedServer, 'principalId'>,
  resources: UsedResources,
  { assignments }: Pick<Inventory, 'assignments'>,
): ServiceName[] {
  return [...resources].flatMap(([name, id]) => {
    const role = services.find((service) => service.name === name)?.role.id
    if (principalId === undefined || role === undefined) return [name]
    const read = assignments.get(canonicalId(id))
    return read === undefined || read.some((each) => givesRole(each, principalId, role, id)) ? [] : [name]
  })
}

/** The input `databases` is split at commas and line breaks, and trims what it finds. */
const isNameable = ({ database: { name } }: InspectedDatabase): boolean =>
  !/[,\r\n]/.test(name) && name === name.trim() && name !== '*'

/** Databases in lists that an input can have. */
function portions(databases: readonly InspectedDatabase[]): readonly (readonly InspectedDatabase[])[] {
  const found: InspectedDatabase[][] = []
  let bytes = Number.POSITIVE_INFINITY
  for (const each of databases) {
    const own = Buffer.byteLength(JSON.stringify(each.database.name))
    bytes += own
    if (bytes > mostDatabaseBytes) {
      found.push([])
      bytes = own
    }
    found.at(-1)?.push(each)
  }
  return found
}

function entriesOf(tasks: readonly Task[]): readonly MatrixEntry[] {
  const taken = new Set<string>()
  return tasks.map(({ server, databases, resources }) => ({
    name: uniqueName(server.name, taken),
    server: server.id,
    databases: databases.map(({ database }) => database.name).join('\n'),
    ...Object.fromEntries(columns.map((name) => [name, resources.get(name) ?? ''])),
  }))
}

function uniqueName(name: string, taken: Set<string>): string {
  for (let number = 1; ; number++) {
    const unique = number === 1 ? name : `${name}-${number}`
    if (taken.has(unique.toLowerCase())) continue
    taken.add(unique.toLowerCase())
    return unique
  }
}

/** In their order. An entry that is too large for what is left of the output keeps no smaller one out. */
function withinLimits(entries: readonly MatrixEntry[]): readonly MatrixEntry[] {
  const found: MatrixEntry[] = []
  let bytes = 2 * '{"include":[]}'.length
  for (const entry of entries) {
    const own = 2 * (JSON.stringify(entry).length + 1)
    if (found.length === mostEntries) break
    if (bytes + own > mostBytes) continue
    found.push(entry)
    bytes += own
  }
  return found
}

/** As the output has it. */
export const matrixJson = ({ include }: Pick<Matrix, 'include'>): string => JSON.stringify({ include })
