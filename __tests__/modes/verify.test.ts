import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/index.ts'
import { passwordLogin } from '../../emulator/postgres.ts'
import type { JobResult } from '../../emulator/runner.ts'
import type { Exchange } from '../../emulator/world.ts'
import { findingsWith } from '../support/findings.ts'
import {
  accountNamed,
  apply,
  begin,
  codesOf,
  emulate,
  logLength,
  logStatements,
  queriesOf,
  remember,
  removeJobs,
  serverOf,
  statementsSince,
  workWithKeys,
  writingStatements,
} from '../support/support.ts'

let emulator: Emulator
let back: () => Promise<void>
let from = 0

beforeAll(async () => {
  emulator = await emulate()
  await begin(emulator)
  await logStatements(emulator)
  const set = await apply(emulator)
  expect([set.outputs['result'], set.outputs['verified']], set.log).toEqual(['changed', 'true'])
  back = await remember(emulator)
})

afterAll(async () => {
  await removeJobs()
  await emulator?.stop()
})

beforeEach(() => {
  emulator.world.exchanges.length = 0
  from = logLength(emulator)
})

afterEach(async () => {
  expect(emulator.writes()).toEqual([])
  expect(writingStatements(statementsSince(emulator, from))).toEqual([])
  await back()
})

/** Inputs that name everything the run would otherwise read from Resource Manager. */
const named = { 'database-user': 'contoso deployer', 'embedding-deployment': 'text-embedding-3-small' }
const verify = (inputs: Record<string, string> = {}): Promise<JobResult> =>
  apply(emulator, { mode: 'verify', ...named, ...inputs })

/** Requests to Resource Manager, but for the description of the cloud, which takes no token: a known cloud needs none. */
const controlPlane = (): Exchange[] =>
  emulator.world.exchanges.filter(({ plane, url }) => plane === 'resource-manager' && !url.startsWith('/metadata/endpoints'))
const requestsTo = (plane: Exchange['plane']): number => emulator.world.exchanges.filter((each) => each.plane === plane).length

/** As if the roles had been assigned just now. */
function giveRolesNow(): void {
  const principalId = serverOf(emulator).identity?.principalId
  for (const assignment of emulator.world.roleAssignments) {
    if (assignment.principalId === principalId) assignment.createdAt = Date.now()
  }
}

describe('the requests of a verify', () => {
  test('with host, user and deployment it runs every query once, and sends nothing to the control plane', async () => {
    const result = await verify()
    expect(result.code, result.log).toBe(0)
    expect(result.outputs).toMatchObject({
      result: 'in-sync',
      verified: 'true',
      drift: 'false',
      changed: 'false',
      'failure-reason': 'none',
    })
    expect(result.report.steps).toEqual([])
    expect(Object.values(queriesOf(result))).toEqual(Array.from({ length: 8 }, () => 'passed: keyless'))
    expect(controlPlane()).toEqual([])
    expect(requestsTo('ai')).toBe(8)
    expect(statementsSince(emulator, from).filter(({ sql }) => sql.startsWith('BEGIN') && !sql.endsWith('READ ONLY'))).toEqual([])
  })

  test('with a password it requests no token, neither from GitHub nor from Entra', async () => {
    const result = await verify({ 'database-user': passwordLogin.user, 'database-password': passwordLogin.password })
    expect(result.outputs, result.log).toMatchObject({ result: 'in-sync', verified: 'true' })
    expect([requestsTo('entra'), requestsTo('github'), controlPlane().length]).toEqual([0, 0, 0])
  })

  test('without user and deployment it reads these two, and nothing else', async () => {
    const result = await verify({ 'database-user': '', 'embedding-deployment': '' })
    expect(result.outputs, result.log).toMatchObject({ result: 'in-sync', verified: 'true' })
    expect(
      controlPlane()
        .map(({ method, url }) => `${method} ${url.split('?')[0]?.split('/').slice(-2).join('/')}`)
        .sort(),
    ).toEqual(['GET contoso-openai/deployments', 'GET pg-contoso/administrators'])
  })

  test("the host is the server's name in its cloud when the input is not set", async () => {
    const result = await verify({ 'database-host': '' })
    expect(result.report.server.host).toBe('pg-contoso.postgres.database.azure.com')
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'network', verified: 'false' })
    expect(controlPlane()).toEqual([])
  })

  test('openai without a deployment and without a control plane is an input error, before any request', async () => {
    const result = await verify({ 'embedding-deployment': '' })
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'input', verified: 'false' })
    expect(result.report.findings[0].detail).toContain('`embedding-deployment`')
    expect(emulator.world.exchanges).toEqual([])
    // There would be nothing to verify.
    const without = await verify({ 'test-queries': 'false' })
    expect(without.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'input', verified: 'false' })
  })
})

describe('waiting', () => {
  test('it waits for roles that take effect later, as apply does', async () => {
    giveRolesNow()
    emulator.world.delays.rolePropagation = 4_000
    const result = await verify()
    expect(result.outputs, result.log).toMatchObject({ result: 'in-sync', verified: 'true' })
    expect(result.log).toContain('waiting for the identity and its roles to take effect')
    expect(Math.max(...result.report.queries.map(({ attempts }: { attempts: number }) => attempts))).toBeGreaterThan(1)
  })

  test('it ends at its time limit with verification', async () => {
    giveRolesNow()
    emulator.world.delays.rolePropagation = Number.POSITIVE_INFINITY
    const start = performance.now()
    const result = await verify({ 'verify-timeout-minutes': '0.05' })
    // Without the limit it is ten minutes.
    expect(performance.now() - start).toBeLessThan(60_000)
    expect(result.code).toBe(1)
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'verification', verified: 'false' })
    expect(codesOf(result)).toContain('role-not-effective')
  })

  test('with a limit of 0 it tries once, and it never waits for a permanent error', async () => {
    giveRolesNow()
    emulator.world.delays.rolePropagation = Number.POSITIVE_INFINITY
    const once = await verify({ 'verify-timeout-minutes': '0', databases: 'app' })
    expect(once.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'verification' })
    expect(once.report.queries.map(({ attempts }: { attempts: number }) => attempts)).toEqual([1, 1, 1, 1])

    await back()
    const start = performance.now()
    const wrong = await verify({ 'embedding-deployment': 'unknown-deployment', 'verify-timeout-minutes': '5' })
    expect(performance.now() - start).toBeLessThan(60_000)
    expect(codesOf(wrong)).toContain('deployment-not-found')
    expect(queriesOf(wrong)['app/cognitive']).toBe('passed: keyless')
  })
})

describe('the results of a verify', () => {
  afterEach(async () => {
    for (const name of ['legacy', 'plain'])
      await emulator.postgres.query('postgres', `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`)
  })

  test("databases: '*' queries every database that has azure_ai and reports those still on keys", async () => {
    await emulator.postgres.createDatabase('plain')
    await emulator.postgres.createDatabase('legacy')
    await workWithKeys(emulator, 'legacy')
    from = logLength(emulator)
    const result = await verify({ databases: '*', translator: '', 'machine-learning': '' })
    expect(Object.keys(queriesOf(result)).sort()).toEqual([
      'app/cognitive',
      'app/openai',
      'legacy/cognitive',
      'legacy/openai',
      'sales 2026/cognitive',
      'sales 2026/openai',
    ])
    expect(queriesOf(result)).toMatchObject({ 'app/openai': 'passed: keyless', 'legacy/openai': 'passed: key-present' })
    // The queries pass, but not with the identity.
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false', 'failure-reason': 'verification' })
    expect(codesOf(result)).toContain('not-verified')
    const onKeys = findingsWith(result, 'still-on-keys')
    expect(onKeys).toMatchObject([
      { severity: 'warning', detail: expect.stringContaining('azure_openai in "legacy"') },
      { severity: 'warning', detail: expect.stringContaining('azure_cognitive in "legacy"') },
    ])
  })

  test('a key that is still stored beside the identity is hidden from the query, and reported', async () => {
    const key = accountNamed(emulator.world, 'contoso-openai').keys.key1
    await emulator.postgres.query('app', `INSERT INTO azure_ai.settings VALUES ('azure_openai.subscription_key', $1)`, [key])
    const result = await verify({ databases: 'app' })
    expect(result.outputs, result.log).toMatchObject({ result: 'in-sync', verified: 'true', 'stored-keys': '1' })
    expect(queriesOf(result)).toMatchObject({ 'app/openai': 'passed: keyless', 'app/cognitive': 'passed: keyless' })
    expect(codesOf(result)).toContain('key-still-stored')
    expect(result.raw.replaceAll(/^::add-mask::.*$/gm, '') + result.summary + JSON.stringify(result.report)).not.toContain(key)
  })

  test('a database without azure_ai fails with database', async () => {
    await emulator.postgres.createDatabase('plain')
    const result = await verify({ databases: 'app, plain' })
    expect(result.code).toBe(1)
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'database', verified: 'false' })
    expect(codesOf(result)).toContain('extension-missing')
    expect(queriesOf(result)['app/openai']).toBe('passed: keyless')
  })

  test('a database that cannot be reached fails the run, and the others are still queried', async () => {
    const result = await verify({ databases: 'app, nowhere' })
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'input', verified: 'false' })
    expect(queriesOf(result)).toMatchObject({
      'app/openai': 'passed: keyless',
      'nowhere/openai': 'skipped: A database does not exist',
    })
  })

  test('a skipped query is not verified, so it fails', async () => {
    const result = await verify({ 'machine-learning-input': '' })
    expect(result.code).toBe(1)
    expect(result.outputs).toMatchObject({ result: 'failed', verified: 'false', 'failure-reason': 'verification' })
    expect(result.raw).toMatch(/^::error title=Not every test query is verified/m)
    expect(queriesOf(result)['app/machine-learning']).toBe('skipped: `machine-learning-input` is not set')
  })

  test('a function that refuses to run read-only is called again in a transaction that is rolled back, with a finding', async () => {
    emulator.world.switches.refuseReadOnly = true
    const result = await verify({ databases: 'app' })
    expect(result.outputs, result.log).toMatchObject({ result: 'in-sync', verified: 'true' })
    expect(codesOf(result)).toContain('not-asked-read-only')
  })
})
