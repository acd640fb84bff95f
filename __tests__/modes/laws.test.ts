/**
 * Laws of whole runs over random worlds: the built action against the emulated Azure. A failure prints the world and the
 * seed and path with which `LAW_SEED=.. LAW_PATH=..` tries it again; `LAW_RUNS=200` tries that many.
 */
import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/index.ts'
import type { JobResult } from '../../emulator/runner.ts'
import { path, seed, shrinks, worldsOr } from '../support/law.ts'
import { become, databasesIn, foretold, inputsFor, type RandomWorld, randomWorld } from '../support/random-world.ts'
import {
  apply,
  databasesOf,
  differingSteps,
  emulate,
  type LoggedStatement,
  logLength,
  logStatements,
  removeJobs,
  serverOf,
  settingsOf,
  statementsSince,
  writingStatements,
} from '../support/support.ts'

let emulator: Emulator
let rest: Record<string, number> = {}

beforeAll(async () => {
  // With PostgreSQL 18 comes another version of azure_ai than with those before it.
  emulator = await emulate({
    databases: ['app', 'sales 2026', 'crm'],
    shape: ({ servers }) => Object.assign(servers[0] ?? {}, { version: seed % 2 === 0 ? '18' : '17' }),
  })
  await logStatements(emulator)
})
afterAll(async () => {
  process.stdout.write(`Laws: ${JSON.stringify(rest)}\n`)
  await removeJobs()
  await emulator?.stop()
})

// ---- the current state

type Rows = Record<string, string>

interface State {
  identity: string
  loaded: boolean
  userAssigned: string[]
  /** `ROLE on SCOPE for WHOM`, each once for each assignment. */
  roles: string[]
  extensions: string[]
  configurations: Rows
  firewall: unknown
  databases: Record<string, { version: string; settings: Rows }>
}

/** The lasting state, in terms that are equal for two worlds created alike. */
async function state(): Promise<State> {
  const server = serverOf(emulator)
  const { principalId } = server.identity ?? {}
  const { 'azure.extensions': list, ...others } = server.configurations
  const databases: State['databases'] = {}
  for (const name of databasesOf(emulator)) {
    const [row] = await emulator.postgres.query(name, `SELECT extversion FROM pg_extension WHERE extname = 'azure_ai'`)
    // A restored setting may be an empty row, which also counts as not set.
    const settings = Object.entries(await settingsOf(emulator, name)).filter(([, value]) => value !== '' && value !== 'null')
    databases[name] = { version: String(row?.['extversion'] ?? 'none'), settings: Object.fromEntries(settings) }
  }
  return {
    identity: server.identity?.type ?? 'None',
    loaded: principalId !== undefined && server.loadedPrincipalId === principalId,
    userAssigned: Object.keys(server.identity?.userAssignedIdentities ?? {}),
    roles: emulator.world.roleAssignments
      .map((each) => {
        const whom = each.principalId === principalId ? 'the server' : nameOf(each.principalId)
        return `${each.roleDefinitionId.split('/').at(-1)} on ${each.scope} for ${whom}`
      })
      .sort(),
    extensions: (list?.value ?? '').split(',').filter((entry) => entry !== ''),
    configurations: Object.fromEntries(Object.entries(others).map(([name, { value }]) => [name, value])),
    firewall: structuredClone(server.firewallRules),
    databases,
  }
}

const nameOf = (objectId: string): string =>
  emulator.world.principals.find((each) => each.objectId === objectId)?.displayName ?? 'deleted principal'

/** As above, for comparing two ends: the order in which two runs add to the allow-list is theirs. */
const unordered = (of: State) => ({ ...of, extensions: [...of.extensions].sort() })

/** By which transaction each row was written: anything committed shows, even when the values are what they were. */
async function versions(): Promise<unknown> {
  const found: unknown[] = []
  for (const name of databasesOf(emulator)) {
    found.push(await emulator.postgres.query(name, `SELECT xmin::text, extversion FROM pg_extension WHERE extname = 'azure_ai'`))
    const [row] = await emulator.postgres.query(name, `SELECT to_regclass('azure_ai.settings') IS NOT NULL AS found`)
    if (row?.['found'] === true)
      found.push(await emulator.postgres.query(name, 'SELECT key, value, xmin::text FROM azure_ai.settings ORDER BY key'))
  }
  return found
}

/** Statements that changed something in a transaction that was committed, or outside of one. */
function committedStatements(statements: readonly LoggedStatement[]): string[] {
  const found: string[] = []
  const open = new Map<string, string[]>()
  for (const { pid, sql } of statements) {
    const writes = writingStatements([{ pid, user: '', database: '', sql }]).filter(
      (each) => !/^(BEGIN|START|COMMIT|END)\b/i.test(each),
    )
    if (/^(BEGIN|START)\b/i.test(sql)) open.set(pid, [])
    else if (/^ROLLBACK$/i.test(sql)) open.delete(pid)
    else if (/^(COMMIT|END)\b/i.test(sql)) {
      found.push(...(open.get(pid) ?? []))
      open.delete(pid)
    } else if (open.has(pid)) open.get(pid)?.push(...writes)
    else found.push(...writes)
  }
  return found
}

interface Watched {
  result: JobResult
  statements: readonly LoggedStatement[]
  writes: string[]
}

/** Runs the action, and returns the result with what it wrote. */
async function watched(inputs: Rows): Promise<Watched> {
  const from = logLength(emulator)
  emulator.world.exchanges.length = 0
  const result = await apply(emulator, inputs)
  return {
    result,
    statements: statementsSince(emulator, from),
    writes: emulator.writes().map(({ method, url, status }) => `${method} ${url} ${status}`),
  }
}

const well = ({ outputs }: JobResult): boolean => outputs['result'] === 'in-sync' || outputs['result'] === 'changed'

/** Whatever the result of a run is, it is one of the interface's values, with a reason. */
function expectClean(result: JobResult): void {
  const { outputs, report, log } = result
  expect(outputs['failure-reason'], log).not.toBe('internal')
  expect(['in-sync', 'changed', 'drift', 'failed'], log).toContain(outputs['result'])
  expect(result.signal, log).toBeNull()
  expect(report?.schemaVersion, log).toBe(1)
  const good = well(result)
  expect(outputs['failure-reason'] === 'none', log).toBe(good)
  expect(result.code, log).toBe(good ? 0 : 1)
  if (outputs['result'] === 'failed')
    expect(
      report.findings.some(({ severity, fix }: { severity: string; fix: string }) => severity === 'error' && fix !== ''),
      log,
    ).toBe(true)
  if (good) expect(outputs['drift'], log).toBe('false')
}

/** Everything that belongs to others is unchanged. */
function expectForeign(world: RandomWorld, before: State, now: State, log: string): void {
  expect(now.userAssigned, log).toEqual(before.userAssigned)
  expect(now.configurations, log).toEqual(before.configurations)
  expect(now.firewall, log).toEqual(before.firewall)
  // Entries keep their order and spelling, and azure_ai comes at the end when it was missing.
  expect(now.extensions.slice(0, before.extensions.length), log).toEqual(before.extensions)
  expect(now.extensions.length - before.extensions.length, log).toBeLessThanOrEqual(1)
  for (const added of now.extensions.slice(before.extensions.length)) expect(added, log).toBe('azure_ai')
  const left = [...now.roles]
  for (const assignment of before.roles) {
    expect(left, log).toContain(assignment)
    left.splice(left.indexOf(assignment), 1)
  }
  // New assignments belong to the server, and exist once.
  expect(
    left.filter((each) => !each.endsWith(' for the server')),
    log,
  ).toEqual([])
  expect(new Set(left).size, log).toBe(left.length)
  expect(left.length, log).toBeLessThanOrEqual(world.given.length)
  const own = world.given.map((name) => familyPrefix[name])
  for (const [name, was] of Object.entries(before.databases)) {
    const is = now.databases[name]
    const named = databasesIn(emulator, world).includes(name)
    if (!named || world.part === 'azure') {
      expect(is, log).toEqual(was)
      continue
    }
    const mayChange = (key: string): boolean => {
      if (!own.some((prefix) => key.startsWith(prefix))) return false
      const isRanking = key.includes('ranking')
      const isNamed = world.given.includes(isRanking ? 'ranking' : 'machine-learning')
      // The key of an unused member of the family is cleared as well.
      if (/_key$/.test(key))
        return world.clearKeys || (world.authType === 'subscription-key' && (isNamed || !key.startsWith('azure_ml.')))
      if (/region|translator_resource_id/.test(key)) return world.given.includes('translator')
      return isNamed || !/ranking|scoring/.test(key)
    }
    const kept = (rows: Rows): Rows => Object.fromEntries(Object.entries(rows).filter(([key]) => !mayChange(key)))
    expect(kept(is?.settings ?? {}), log).toEqual(kept(was.settings))
    if (!world.updateExtension && was.version !== 'none') expect(is?.version, log).toBe(was.version)
  }
}

const familyPrefix = {
  openai: 'azure_openai.',
  cognitive: 'azure_cognitive.',
  translator: 'azure_cognitive.',
  'machine-learning': 'azure_ml.',
  ranking: 'azure_ml.',
} as const

/** A family whose test query failed is unchanged in each database, including its keys. */
function expectUnprovenKept({ report, log }: JobResult, before: State, now: State): void {
  const failed = (report.queries as { database: string; service: keyof typeof familyPrefix; status: string }[]).filter(
    ({ status }) => status === 'failed',
  )
  for (const { database, service } of failed) {
    const own = (of: State): Rows =>
      Object.fromEntries(
        Object.entries(of.databases[database]?.settings ?? {}).filter(([key]) => key.startsWith(familyPrefix[service])),
      )
    expect(own(now), log).toEqual(own(before))
  }
}

/** A check finds nothing to fix. */
async function expectInSync(inputs: Rows): Promise<void> {
  const before = await versions()
  const { result, statements, writes } = await watched({ ...inputs, mode: 'check' })
  expect(differingSteps(result), result.log).toEqual({})
  expect(result.outputs, result.log).toMatchObject({
    result: 'in-sync',
    drift: 'false',
    changed: 'false',
    'failure-reason': 'none',
  })
  expect(result.code).toBe(0)
  expect(writes, result.log).toEqual([])
  expect(writingStatements(statements), result.log).toEqual([])
  expect(await versions()).toEqual(before)
}

/** The scope of a plan-id, and the steps of which it is made. */
function stepsOf(planId = ''): readonly string[] {
  const [, scope = '', list = ''] = planId.split('.')
  return [scope, ...(list.match(/.{16}/g) ?? [])]
}

function withoutRestart(planId = ''): readonly string[] {
  const restart = createHash('sha256')
    .update(JSON.stringify(['restart']))
    .digest('hex')
    .slice(0, 8)
  const found = stepsOf(planId).filter((step, index) => index === 0 || !step.startsWith(restart))
  expect(found.length).toBe(stepsOf(planId).length - 1)
  return found
}

async function obeys(world: RandomWorld): Promise<void> {
  await become(emulator, world)
  const inputs = inputsFor(emulator, world)
  const before = await state()
  const rows = await versions()

  // A check writes nothing, and its plan is that of the apply after it.
  const check = await watched({ ...inputs, mode: 'check' })
  expectCleanCheck(check.result)
  expect(check.writes, check.result.log).toEqual([])
  expect(writingStatements(check.statements), check.result.log).toEqual([])
  expect(await versions(), check.result.log).toEqual(rows)
  expect(await state(), check.result.log).toEqual(before)

  const first = await watched(inputs)
  const { log } = first.result
  expectClean(first.result)
  const after = await state()
  expectForeign(world, before, after, log)
  if (first.result.outputs['plan-id'] !== '') {
    const [planned, done] = [check.result, first.result].map(({ outputs }) => outputs['plan-id'] ?? '')
    // The test queries of a check may add the restart; an apply plans before its first query.
    if (check.result.log.includes('The restart is part of the plan: '))
      expect(stepsOf(done), log).toEqual(withoutRestart(planned))
    else expect(done, log).toBe(planned)
  }
  if (first.result.outputs['changed'] === 'false') {
    expect(
      first.writes.filter((each) => / 2\d\d$/.test(each)),
      log,
    ).toEqual([])
    expect(after, log).toEqual(before)
  }
  if (first.result.outputs['result'] === 'in-sync') expect(check.result.outputs['result'], check.result.log).toBe('in-sync')
  if (foretold(world)) expect(well(first.result), log).toBe(true)
  expectUnprovenKept(first.result, before, after)
  count(first.result)

  const again = async (): Promise<void> => {
    const untouched = await versions()
    const second = await watched(inputs)
    expectClean(second.result)
    if (!well(first.result)) {
      // A run that cannot succeed ends in the same state each time: nothing is half done, nothing accumulates.
      if (well(second.result)) return expectInSync(inputs)
      const end = await state()
      expectForeign(world, before, end, second.result.log)
      if (JSON.stringify(end) === JSON.stringify(after)) return
      const third = await watched(inputs)
      expectClean(third.result)
      expect(await state(), third.result.log).toEqual(end)
      return
    }
    expect(second.result.outputs, second.result.log).toMatchObject({ result: 'in-sync', changed: 'false', drift: 'false' })
    expect(second.writes, second.result.log).toEqual([])
    expect(committedStatements(second.statements), second.result.log).toEqual([])
    expect(await versions(), second.result.log).toEqual(untouched)
  }
  if (well(first.result)) await expectInSync(inputs)
  await again()

  // Two runs at the same time, the second for a part of it only.
  await become(emulator, world)
  const [one, two] = await Promise.all([
    apply(emulator, inputs),
    new Promise((resolve) => setTimeout(resolve, world.beside.afterMs)).then(() =>
      apply(emulator, inputsFor(emulator, world, true)),
    ),
  ])
  const both = `${one.log}\n==== at the same time ====\n${two.log}`
  expectClean(one)
  expectClean(two)
  const met = await state()
  expectForeign(world, before, met, both)
  if (foretold(world)) expect([well(one), well(two)], both).toEqual([true, true])
  if (well(one)) await expectInSync(inputs)
  if (well(one) && well(first.result)) expect(unordered(met), both).toEqual(unordered(after))
}

/** As `expectClean`, for a check, which may also end with drift. */
function expectCleanCheck(result: JobResult): void {
  const { outputs, log } = result
  expect(outputs['failure-reason'], log).not.toBe('internal')
  expect(['in-sync', 'drift', 'failed'], log).toContain(outputs['result'])
  expect(result.code, log).toBe(outputs['result'] === 'in-sync' ? 0 : 1)
  expect(outputs['changed'], log).toBe('false')
}

function count(result: JobResult): void {
  const key = well(result) ? String(result.outputs['result']) : `failed cleanly: ${result.outputs['failure-reason']}`
  rest = { ...rest, [key]: (rest[key] ?? 0) + 1 }
}

test.each(path === undefined ? Array.from({ length: worldsOr(2) }, (_, index) => String(index)) : [path])(
  'world %s: check writes nothing, apply ends well or cleanly, again is nothing, two at once come to the same',
  async (at) => {
    const property = fc.asyncProperty(randomWorld, obeys)
    await fc.assert(property, { seed, path: at, numRuns: 1, endOnFailure: !shrinks }).catch((error: Error) => {
      process.stdout.write(
        `Laws: world ${at} breaks one: ${error.message}\n${String((error.cause as Error)?.stack).slice(-3_000)}\n`,
      )
      throw error
    })
  },
  600_000,
)
