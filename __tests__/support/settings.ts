/** The settings of azure_ai in a database, as tests compare them. */
import type { Emulator } from '../../emulator/index.ts'
import { settingsOf } from './support.ts'

/** Settings with a value: a setting that a run restored after a COMMIT may be an empty row. */
export async function nonEmptySettingsOf(emulator: Emulator, database: string): Promise<Record<string, string>> {
  return Object.fromEntries(Object.entries(await settingsOf(emulator, database)).filter(([, value]) => value !== ''))
}
