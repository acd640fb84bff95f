import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/index.ts'
import { apply, begin, emulate, logLength, logStatements, removeJobs, statementsSince } from '../support/support.ts'

/**
 * The number of requests and statements of a run, for `s` services in `d` databases: the formulas of docs/performance.md. The
 * test fails when they grow. Each statement that opens a transaction counts. In a known cloud, Entra and Resource Manager get
 * one request less each.
 */

let emulator: Emulator
const databases = ['one', 'two', 'three']
const services = ['openai', 'cognitive', 'translator', 'machine-learning']
/** Language and Translator are one family. */
const familiesOf = (count: number): number => [1, 2, 2, 3][count - 1] ?? 0

beforeAll(async () => {
  emulator = await emulate({ databases })
  await logStatements(emulator)
})

afterAll(async () => {
  await emulator?.stop()
  await removeJobs()
})

interface Counts {
  github: number
  entra: number
  resourceManager: number
  connections: number
  statements: number
}

async function countsOf(mode: string, s: number, d: number, expected: string): Promise<Counts> {
  const none = Object.fromEntries([...services, 'machine-learning-input'].map((name) => [name, '']))
  const own = Object.fromEntries(
    Object.entries(emulator.inputs).filter(([name]) => services.slice(0, s).some((each) => name.startsWith(each))),
  )
  emulator.world.exchanges.length = 0
  const from = logLength(emulator)
  const result = await apply(emulator, { ...none, ...own, mode, databases: databases.slice(0, d).join('\n') })
  expect(result.outputs['result'], result.log).toBe(expected)
  // The number of polls depends on how long an operation takes.
  const isPoll = (url: string): boolean => /\/locations\/[^/]+\/(azureAsyncOperation|operation)\w*\//i.test(url)
  const count = (plane: string): number =>
    emulator.world.exchanges.filter((each) => each.plane === plane && !isPoll(each.url)).length
  const statements = statementsSince(emulator, from)
  return {
    github: count('github'),
    entra: count('entra'),
    resourceManager: count('resource-manager'),
    connections: new Set(statements.map(({ pid }) => pid)).size,
    statements: statements.length,
  }
}

test.each([
  [1, 1],
  [4, 1],
  [2, 2],
  [4, 3],
])('%i services in %i databases', async (s, d) => {
  await begin(emulator)
  const f = familiesOf(s)
  // An apply requests a restart and lists the connections before it, creates the extension, switches each family, and finds out once whether the functions see uncommitted settings.
  expect(await countsOf('apply', s, d, 'changed')).toEqual({
    github: 1,
    entra: 3,
    resourceManager: 15 + 3 * s,
    connections: 2 + d * (2 + 2 * f),
    statements: 34 + d * (62 + 15 * f + 22 * s),
  })
  const nothing = { github: 1, entra: 3, resourceManager: 6 + 2 * s, connections: d * (1 + f), statements: d * (29 + 16 * s) }
  expect(await countsOf('apply', s, d, 'in-sync')).toEqual(nothing)
  expect(await countsOf('check', s, d, 'in-sync')).toEqual(nothing)
  expect(await countsOf('verify', s, d, 'in-sync')).toEqual({ ...nothing, resourceManager: 3 })
})
