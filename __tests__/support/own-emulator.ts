/** An emulator that one test file has to itself. */
import { afterAll } from 'vitest'
import type { Emulator, EmulatorOptions } from '../../emulator/index.ts'
import { emulate, removeJobs } from './support.ts'

/** Starts it, and ends it with the file, with the folders of the file's jobs. To be awaited at the top of a test file. */
export async function ownEmulator(options: EmulatorOptions = {}): Promise<Emulator> {
  const emulator = await emulate(options)
  afterAll(async () => {
    await removeJobs()
    await emulator.stop()
  })
  return emulator
}
