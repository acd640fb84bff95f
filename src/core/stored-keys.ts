/** How many keys are stored in the databases of a run: before it, and now. Pure. */
import type { Inputs } from './inputs.ts'
import type { Journal } from './journal.ts'
import { isRead, type ObservedDatabase, type ReadDatabase } from './observed.ts'
import { namedFamilies } from './plan.ts'
import { families, keysOf } from './services.ts'
import { isWritten, type StepLookup, settingStep } from './steps.ts'

/** Of the families of the named services; null: unknown, because a database could not be read. */
export interface StoredKeys {
  readonly before: number | null
  readonly after: number | null
}

const unknown: StoredKeys = { before: null, after: null }

export function storedKeys(inputs: Inputs | undefined, { observed, step }: Pick<Journal, 'observed' | 'step'>): StoredKeys {
  if (inputs === undefined || observed === undefined || !observed.every(isReadable)) return unknown
  const named = namedFamilies(inputs).flatMap(({ family }) => keysOf(family))
  const count = (isStored: (database: ReadDatabase, key: string) => boolean): number =>
    observed.reduce((sum, database) => sum + named.filter((key) => isStored(database, key)).length, 0)
  return {
    before: count(({ keysSet }, key) => keysSet.has(key)),
    after: count((database, key) => isStoredNow(database, key, step)),
  }
}

/** Keys of families that no named service belongs to, as `SETTING in "DATABASE"`. */
export function unnamedKeys(inputs: Inputs, databases: readonly ReadDatabase[]): readonly string[] {
  const named = new Set(namedFamilies(inputs).map(({ family }) => family.name))
  const others = Object.values(families)
    .filter(({ name }) => !named.has(name))
    .flatMap(keysOf)
  return databases
    .flatMap(({ name, keysSet }) => others.flatMap((key) => (keysSet.has(key) ? [`${key} in "${name}"`] : [])))
    .sort()
}

/** A database without azure_ai has no settings to read. */
function isReadable(database: ObservedDatabase): database is ReadDatabase {
  return isRead(database) && (database.mayRead || database.extension.installed === undefined)
}

export function isStoredNow({ name, keysSet }: ReadDatabase, key: string, lookup: StepLookup): boolean {
  const step = lookup(settingStep(name, key))
  if (step !== undefined && isWritten(step) && step.change?.kind === 'key') return step.change.action === 'store'
  return keysSet.has(key)
}
