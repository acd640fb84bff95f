/** What an inventory found: uses of azure_ai in each database, rows for the report, and counts. Pure. */
import type { Failure } from '../errors/failure.ts'
import { canonicalId, sameId } from '../lib/resource-id.ts'
import { type FleetResource, idSetting, indexOf, type ResourceIndex, serviceFor } from './inventory-resources.ts'
import { isRead, type ObservedDatabase, type ObservedServer, type ReadDatabase, type RoleAssignment } from './observed.ts'
import { allMembers, type Family, families, memberOf, type ServiceName, services } from './services.ts'

/** A flexible server as the list of resources shows it. */
export interface FleetServer extends ObservedServer {
  /** Id of the server that a read replica follows; undefined for any other server. */
  readonly primary: string | undefined
}

/** A server and what was found in it. */
export interface Inspected {
  readonly server: FleetServer
  /** Why none of its databases could be inspected. */
  readonly failure: Failure | undefined
  /** Those that have azure_ai, and those that could not be inspected. */
  readonly databases: readonly ObservedDatabase[]
  /** Whether the allow-list contains azure_ai; undefined when it could not be read. */
  readonly isAllowed: boolean | undefined
}

export interface Fleet {
  readonly servers: readonly Inspected[]
  /** Everything that the identity of the run sees. */
  readonly resources: readonly FleetResource[]
  /** By canonical id of the resource; a resource whose assignments could not be read is missing. */
  readonly assignments: ReadonlyMap<string, readonly RoleAssignment[]>
}

/** One endpoint of a family in a database, with the key that belongs to it. */
export interface Use {
  readonly family: Family
  readonly authType: string
  readonly endpoint: string
  readonly resource: FleetResource | undefined
  /** Name of the setting that contains the key. */
  readonly keySetting: string
  readonly keyStored: boolean
}

/** Ids of resources, by the input that names each. */
export type UsedResources = ReadonlyMap<ServiceName, string>

export interface InspectedDatabase {
  readonly database: ObservedDatabase
  /** Why its settings could not be read; empty when they could. */
  readonly reason: string
  readonly uses: readonly Use[]
  /** Those that are visible. */
  readonly resources: UsedResources
}

/** A server of the inventory. */
export interface InventoryServer extends Omit<Inspected, 'databases'> {
  /** The primary of a replica, where that is part of the inventory: the replica has its settings. */
  readonly follows: FleetServer | undefined
  readonly databases: readonly InspectedDatabase[]
}

export interface Inventory {
  /** By id; replicas stand behind their primary. */
  readonly servers: readonly InventoryServer[]
  readonly assignments: Fleet['assignments']
}

export function inventoryOf(fleet: Fleet): Inventory {
  const index = indexOf(fleet.resources)
  const byId = new Map(fleet.servers.map(({ server }) => [canonicalId(server.id), server]))
  const followed = ({ primary }: FleetServer): FleetServer | undefined =>
    primary === undefined ? undefined : byId.get(canonicalId(primary))
  const place = ({ server }: Inspected): string => `${canonicalId(followed(server)?.id ?? server.id)} ${canonicalId(server.id)}`
  const servers = fleet.servers.map((inspected) => ({ inspected, place: place(inspected) }))
  return {
    assignments: fleet.assignments,
    servers: servers
      .sort((a, b) => Number(a.place > b.place) - Number(a.place < b.place))
      .map(({ inspected }) => ({
        ...inspected,
        follows: followed(inspected.server),
        databases: inspected.databases.map((database) => databaseOf(database, index)),
      })),
  }
}

function databaseOf(database: ObservedDatabase, index: ResourceIndex): InspectedDatabase {
  const nothing = { database, uses: [], resources: new Map() }
  if (!isRead(database)) return { ...nothing, reason: database.failure.title }
  if (!database.mayRead && database.extension.installed !== undefined)
    return { ...nothing, reason: `The role "${database.user}" may not read the settings of azure_ai` }
  return { database, reason: '', uses: usesOf(database, index), resources: resourcesOf(database, index) }
}

/** A family is in use where an endpoint is set, or a key. */
function usesOf(database: ReadDatabase, index: ResourceIndex): readonly Use[] {
  return Object.values(families).flatMap((family) =>
    family.members.flatMap(({ endpoint: setting, key }): Use[] => {
      const endpoint = database.settings.get(setting) ?? ''
      const keyStored = database.keysSet.has(key)
      if (endpoint === '' && !keyStored) return []
      const resource = index.behind(endpoint, setting) ?? namedResource(family, database, index)
      const authType = database.settings.get(family.authType) ?? ''
      return [{ family, authType, endpoint, resource, keySetting: key, keyStored }]
    }),
  )
}

/** The resource that a setting of the family names by its id. */
function namedResource(family: Family, { settings }: ReadDatabase, index: ResourceIndex): FleetResource | undefined {
  return services
    .filter((service) => service.family === family.name)
    .map((service) => index.withId(settings.get(idSetting(service) ?? '') ?? ''))
    .find((resource) => resource !== undefined)
}

function resourcesOf({ settings }: ReadDatabase, index: ResourceIndex): UsedResources {
  const found = new Map<ServiceName, string>()
  for (const { endpoint: setting } of allMembers) {
    const resource = index.behind(settings.get(setting) ?? '', setting)
    const service = resource === undefined ? undefined : serviceFor(resource, setting)
    if (resource !== undefined && service !== undefined) found.set(service.name, resource.id)
  }
  for (const service of services) {
    const named = index.withId(settings.get(idSetting(service) ?? '') ?? '')
    const { endpoint } = memberOf(service)
    // Apply refuses to move a family whose endpoint belongs to an account that its inputs do not name.
    if (named !== undefined && !index.isOfAnother(settings.get(endpoint) ?? '', endpoint)) found.set(service.name, named.id)
  }
  return found
}

/** Whether a family is not on the identity yet, or its key is still stored. */
export const isOpen = ({ authType, keyStored }: Use): boolean => keyStored || authType !== 'managed-identity'

/** A row of the report. */
export interface InventoryRow {
  readonly server: string
  readonly serverState: string
  readonly database: string
  /** Of azure_ai. */
  readonly version: string
  readonly family: string
  readonly authType: string
  readonly endpoint: string
  /** Id of the resource that the endpoint leads to; empty when it is not visible. */
  readonly resource: string
  /** Null: unknown. */
  readonly keyStored: boolean | null
  /** Why the server or the database could not be inspected, or why a server has no database here. */
  readonly reason: string
}

/** All rows, by server, database and family. */
export function rowsOf({ servers }: Inventory): readonly InventoryRow[] {
  return servers.flatMap(({ server, failure, follows, databases }): InventoryRow[] => {
    const row = (facts: Partial<InventoryRow>): InventoryRow => ({ ...emptyRow(server), ...facts })
    if (follows !== undefined) return [row({ reason: `A read replica, which has the settings of ${follows.name}` })]
    if (failure !== undefined) return [row({ reason: failure.title })]
    if (databases.length === 0) return [row({ reason: 'No database has azure_ai', keyStored: false })]
    return databases.flatMap(({ database, reason, uses }) => {
      const version = isRead(database) ? (database.extension.installed ?? '') : ''
      const ofDatabase = { database: database.name, version }
      if (reason !== '') return [row({ ...ofDatabase, reason })]
      if (uses.length === 0) return [row({ ...ofDatabase, keyStored: false })]
      return uses.map(({ family, authType, endpoint, resource, keyStored }) =>
        row({ ...ofDatabase, family: family.name, authType, endpoint, resource: resource?.id ?? '', keyStored }),
      )
    })
  })
}

const emptyRow = ({ id, state }: FleetServer): InventoryRow => ({
  server: id,
  serverState: state,
  database: '',
  version: '',
  family: '',
  authType: '',
  endpoint: '',
  resource: '',
  keyStored: null,
  reason: '',
})

/** What headline and outputs say. A replica's databases are those of its primary, and are not counted again. */
export interface InventoryCounts {
  readonly servers: number
  /** Those that have azure_ai and could be read. */
  readonly databases: number
  /** Null when something could not be inspected and nothing else was read. */
  readonly storedKeys: number | null
  readonly uses: number
  /** Uses on the identity, with no key stored. */
  readonly onIdentity: number
  /** Uses whose resource is not visible. */
  readonly notVisible: number
  /** Servers and databases that could not be inspected. */
  readonly notInspected: number
}

export function countsOf({ servers }: Inventory): InventoryCounts {
  const own = servers.filter(({ follows }) => follows === undefined)
  const databases = own.flatMap((server) => server.databases)
  const read = databases.filter(({ reason }) => reason === '')
  const uses = read.flatMap((database) => database.uses)
  const notInspected = own.filter(({ failure }) => failure !== undefined).length + databases.length - read.length
  return {
    servers: servers.length,
    databases: read.length,
    storedKeys: read.length === 0 && notInspected > 0 ? null : uses.filter(({ keyStored }) => keyStored).length,
    uses: uses.length,
    onIdentity: uses.filter((use) => !isOpen(use)).length,
    notVisible: uses.filter(({ resource }) => resource === undefined).length,
    notInspected,
  }
}

/** Something is left to do, or is not known: a key is stored, a family is not on the identity, something could not be inspected. */
export const hasDrift = ({ storedKeys, uses, onIdentity, notInspected }: InventoryCounts): boolean =>
  storedKeys !== 0 || onIdentity < uses || notInspected > 0

/** The servers that follow this one. */
export const replicasOf = ({ servers }: Inventory, { id }: FleetServer): readonly InventoryServer[] =>
  servers.filter(({ follows }) => follows !== undefined && sameId(follows.id, id))
