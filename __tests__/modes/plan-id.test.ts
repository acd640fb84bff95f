import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/index.ts'
import type { JobResult } from '../../emulator/runner.ts'
import type { Observed } from '../../src/core/observed.ts'
import { plan } from '../../src/core/plan.ts'
import { planId, planScope, sinceThen } from '../../src/core/plan-id.ts'
import {
  apply,
  begin,
  codesOf,
  databasesOf,
  emulate,
  logLength,
  logStatements,
  observed,
  observedDatabase,
  observedServer,
  parsed,
  removeJobs,
  serverOf,
  statementsSince,
  writingStatements,
} from '../support/support.ts'

let emulator: Emulator

beforeAll(async () => {
  emulator = await emulate()
  await logStatements(emulator)
})

afterAll(async () => {
  await removeJobs()
  await emulator?.stop()
})

beforeEach(() => begin(emulator))

const check = (inputs: Record<string, string> = {}): Promise<JobResult> => apply(emulator, { mode: 'check', ...inputs })

/** The run was refused before its first write; returns the text, which names what changed. */
async function expectRefused(planned: string, inputs: Record<string, string> = {}): Promise<string> {
  emulator.world.exchanges.length = 0
  const from = logLength(emulator)
  const result = await apply(emulator, { 'plan-id': planned, ...inputs })
  expect(result.code).toBe(1)
  expect(result.outputs, result.log).toMatchObject({ result: 'failed', changed: 'false', 'failure-reason': 'drift' })
  expect(codesOf(result)[0]).toBe('plan-changed')
  expect(emulator.writes()).toEqual([])
  expect(writingStatements(statementsSince(emulator, from))).toEqual([])
  return (result.report.findings as { detail: string }[])[0]?.detail ?? ''
}

test('the same plan has the same id, whatever the order of databases and the time, in check and in apply', async () => {
  const first = await check()
  const planned = first.outputs['plan-id'] ?? ''
  expect(planned).toMatch(/^[0-9a-f]{16}\.[0-9a-f]{16}\.([0-9a-f]{16})+$/)
  const again = await check({ databases: databasesOf(emulator).toReversed().join(', '), 'test-queries': 'false' })
  expect(again.outputs['plan-id']).toBe(planned)

  const applied = await apply(emulator, { 'plan-id': planned })
  expect(applied.outputs, applied.log).toMatchObject({ result: 'changed', verified: 'true', 'plan-id': planned })

  // A repeated job continues, whether its plan is done completely or in part.
  const done = await apply(emulator, { 'plan-id': planned })
  expect(done.outputs, done.log).toMatchObject({ result: 'in-sync', changed: 'false' })
  await emulator.postgres.query('app', `DELETE FROM azure_ai.settings WHERE key = 'azure_openai.endpoint'`)
  const half = await apply(emulator, { 'plan-id': planned })
  expect(half.outputs, half.log).toMatchObject({ result: 'changed', verified: 'true' })

  const empty = (await check()).outputs['plan-id'] ?? ''
  expect(empty).toMatch(/^[0-9a-f]{16}\.[0-9a-f]{16}$/)
  const still = await apply(emulator, { 'plan-id': empty })
  expect(still.outputs, still.log).toMatchObject({ result: 'in-sync', changed: 'false', verified: 'true' })

  // The server changed in between.
  await emulator.postgres.query('app', `UPDATE azure_ai.settings SET value = 'norwayeast' WHERE key = 'azure_cognitive.region'`)
  expect(await expectRefused(empty)).toContain('app/azure_cognitive.region differs now: norwayeast -> westeurope')
  const one = (await check({ 'test-queries': 'false' })).outputs['plan-id'] ?? ''
  await emulator.postgres.query('app', `UPDATE azure_ai.settings SET value = 'eastus' WHERE key = 'azure_cognitive.region'`)
  expect(await expectRefused(one)).toContain('app/azure_cognitive.region differs in another way: eastus -> westeurope')
})

test('a plan for other databases is another plan', async () => {
  const planned = (await check({ databases: 'app' })).outputs['plan-id'] ?? ''
  expect(await expectRefused(planned)).toContain('it was made for another server or for other databases')
})

test('a replica that another run has to fix is drift in a check, but not part of the plan', async () => {
  const own = serverOf(emulator)
  emulator.world.servers.push({
    ...structuredClone(own),
    id: `${own.id}-replica`,
    name: `${own.name}-replica`,
    replicationRole: 'AsyncReplica',
    sourceServerResourceId: own.id,
    identity: { type: 'None' },
  })
  const planned = (await check({ databases: 'app' })).outputs['plan-id'] ?? ''
  const applied = await apply(emulator, { databases: 'app', 'plan-id': planned })
  expect(applied.outputs, applied.log).toMatchObject({ result: 'changed', 'plan-id': planned })
})

test('a text that is not a plan-id is refused as an input', async () => {
  emulator.world.exchanges.length = 0
  const result = await apply(emulator, { 'plan-id': 'yesterday' })
  expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'input' })
  expect(emulator.world.exchanges).toEqual([])
})

test('it depends on the steps and their changes, but not on texts or on allow-restart', () => {
  const state: Observed = observed({ databases: [observedDatabase('app'), observedDatabase('sales')] })
  const inputs = parsed({ databases: 'app, sales' })
  const id = planId(plan(inputs, state))
  const backwards: Observed = {
    ...state,
    databases: state.databases.toReversed(),
    resources: new Map([...state.resources].toReversed()),
    allowList: state.allowList?.toReversed(),
  }
  expect(planId(plan(parsed({ databases: 'sales\napp' }), backwards))).toBe(id)
  expect(planId(plan(parsed({ databases: 'app, sales', 'allow-restart': 'true' }), state))).toBe(id)
  expect(planId(plan(inputs, state).map((step) => ({ ...step, detail: 'worded in another way', current: 'so to say' })))).toBe(id)
  expect(planId(plan(parsed({ databases: 'app' }), state))).not.toBe(id)
  expect(planId(plan(inputs, { ...state, allowList: ['vector', 'postgis'] }))).not.toBe(id)
  expect(sinceThen(id, plan(inputs, state))).toBeUndefined()
  expect(planScope(parsed({ databases: 'sales\napp' }), state)).toEqual(planScope(inputs, state))
})

test('a database that cannot be inspected does not count as done', () => {
  const inputs = parsed()
  const before = planId(plan(inputs, observed()))
  const stopped = observed({ server: observedServer({ state: 'Stopped' }), databases: [] })
  const changes = sinceThen(before, plan(inputs, stopped)) ?? []
  expect(changes).toContain('app/extension is unknown now')
})
