/** An inventory as the report, the outputs and the drift issue read it: plain data. Pure. */
import {
  countsOf,
  hasDrift,
  type Inventory,
  type InventoryCounts,
  type InventoryRow,
  type InventoryServer,
  isOpen,
  rowsOf,
  type Use,
} from './inventory.ts'
import { type Matrix, matrixOf } from './inventory-matrix.ts'

/** One thing that is as it should be or is not: what a check would show as a step. The drift issue is made of these. */
interface InventoryItem {
  readonly id: string
  /** `SERVER` or `SERVER/DATABASE`. */
  readonly place: string
  readonly name: string
  readonly current: string
  readonly desired: string
  readonly detail: string
}

export interface InventoryResult {
  readonly counts: InventoryCounts
  readonly rows: readonly InventoryRow[]
  readonly matrix: Matrix
  readonly drift: boolean
  /** Ids of the servers where something is left to do in the databases, or not known. */
  readonly open: readonly string[]
  readonly items: readonly InventoryItem[]
}

/** @param named databases were named: one that could not be read leaves the number of keys unknown */
export function resultOf(inventory: Inventory, named: boolean): InventoryResult {
  const all = countsOf(inventory)
  const counts = named && all.notInspected > 0 ? { ...all, storedKeys: null } : all
  return {
    counts,
    rows: rowsOf(inventory),
    matrix: matrixOf(inventory),
    drift: hasDrift(counts),
    open: inventory.servers.filter(isServerOpen).map(({ server }) => server.id),
    items: itemsOf(inventory),
  }
}

const isServerOpen = ({ follows, failure, databases }: InventoryServer): boolean =>
  follows === undefined && (failure !== undefined || databases.some(({ reason, uses }) => reason !== '' || uses.some(isOpen)))

function itemsOf({ servers }: Inventory): readonly InventoryItem[] {
  return servers.flatMap(({ server, failure, follows, databases }): InventoryItem[] => {
    if (follows !== undefined) return []
    if (failure !== undefined) return [notInspected(server.name, failure.title)]
    return databases.flatMap(({ database, reason, uses }) => {
      const place = `${server.name}/${database.name}`
      return reason === '' ? uses.flatMap((use) => itemsOfUse(place, use)) : [notInspected(place, reason)]
    })
  })
}

const notInspected = (place: string, detail: string): InventoryItem => {
  return { id: `${place}/keys`, place, name: 'keys', current: 'unknown', desired: 'not set', detail }
}

function itemsOfUse(place: string, { family, authType, keySetting, keyStored }: Use): InventoryItem[] {
  const item = (name: string, current: string, desired: string): InventoryItem => {
    return { id: `${place}/${name}`, place, name, current, desired, detail: '' }
  }
  const current = authType === '' ? 'not set' : authType
  return [item(family.authType, current, 'managed-identity'), ...(keyStored ? [item(keySetting, 'set', 'not set')] : [])]
}
