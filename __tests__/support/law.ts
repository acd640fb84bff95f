/** How the laws are tried: a seed that is printed and can be given, how many worlds, and which one alone. */
import { randomInt } from 'node:crypto'
import type { Parameters } from 'fast-check'

const { LAW_SEED, LAW_RUNS, LAW_PATH, LAW_SHRINK } = process.env

/** 32 bits; another one for each run unless `LAW_SEED` says which. */
export const seed = LAW_SEED === undefined ? randomInt(2 ** 31) : Number(LAW_SEED)

/** `LAW_RUNS` worlds on the emulator, else as many as given. */
export const worldsOr = (few: number): number => (LAW_RUNS === undefined ? few : Number(LAW_RUNS))

/** Only this one, as a failure names it (`LAW_PATH=17`). */
export const path = LAW_PATH

/** Looking for a smaller world that fails takes as many worlds again, on the emulator: only when it is asked for. */
export const shrinks = LAW_SHRINK === '1'

/** For properties that cost no more than a few milliseconds: thousands of cases in all. */
export const cheap: Parameters<unknown> = {
  seed,
  numRuns: LAW_RUNS === undefined ? 200 : 50 * Number(LAW_RUNS),
  ...(path === undefined ? {} : { path }),
}

process.stdout.write(`Laws: seed ${seed}; LAW_SEED=${seed} tries the same again\n`)
