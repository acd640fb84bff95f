import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/index.ts'
import { passwordLogin } from '../../emulator/postgres.ts'
import type { JobResult } from '../../emulator/runner.ts'
import type { Exchange } from '../../emulator/world.ts'
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

/** With everything given that Resource Manager would be asked for. */
const given = { 'database-user': 'contoso deployer', 'embedding-deployment': 'text-embedding-3-small' }
const verify = (inputs: Record<string, string> = {}): Promise<JobResult> =>
  apply(emulator, { mode: 'verify', ...given, ...inputs })

/** Requests to Resource Manager, but for the description of the cloud, which takes no token: a known cloud needs none. */
const controlPlane = (): Exchange[] =>
  emulator.world.exchanges.filter(({ plane, url }) => plane === 'resource-manager' && !url.startsWith('/metadata/endpoints'))
const asked = (plane: Exchange['plane']): number => emulator.world.exchanges.filter((each) => each.plane === plane).length

/** As if the roles had been given just now. */
function giveRolesNow(): void {
  const principalId = serverOf(emulator).identity?.principalId
  for (const assignment of emulator.world.roleAssignments) {
    if (assignment.principalId === principalId) assignment.createdAt = Date.now()
  }
}

describe('what a verify asks', () => {
  test('with host, user and deployment given: the database alone, every query once, no control plane', async () => {
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
    expect(asked('ai')).toBe(8)
    expect(statementsSince(emulator, from).filter(({ sql }) => sql.startsWith('BEGIN') && !sql.endsWith('READ ONLY'))).toEqual([])
  })

  test('with a password not even a token, of GitHub or of Entra', async () => {
    const result = await verify({ 'database-user': passwordLogin.user, 'database-password': passwordLogin.password })
    expect(result.outputs, result.log).toMatchObject({ result: 'in-sync', verified: 'true' })
    expect([asked('entra'), asked('github'), controlPlane().length]).toEqual([0, 0, 0])
  })

  test('without user and deployment it asks for these two, and for nothing else', async () => {
    const result = await verify({ 'database-user': '', 'embedding-deployment': '' })
    expect(result.outputs, result.log).toMatchObject({ result: 'in-sync', verified: 'true' })
    expect(
      controlPlane()
        .map(({ method, url }) => `${method} ${url.split('?')[0]?.split('/').slice(-2).join('/')}`)
        .sort(),
    ).toEqual(['GET contoso-openai/deployments', 'GET pg-contoso/administrators'])
  })

  test("the host is the server's name in its cloud when it is not given", async () => {
    const result = await verify({ 'database-host': '' })
    expect(result.report.server.host).toBe('pg-contoso.postgres.database.azure.com')
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'network', verified: 'false' })
    expect(controlPlane()).toEqual([])
  })

  test('openai without a deployment and without a control plane to ask is an input error, before any request', async () => {
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

  test('with a limit of 0 it tries once, and does not wait for what cannot become better', async () => {
    giveRolesNow()
    emulator.world.delays.rolePropagation = Number.POSITIVE_INFINITY
    const once = await verify({ 'verify-timeout-minutes': '0', databases: 'app' })
    expect(once.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'verification' })
    expect(once.report.queries.map(({ attempts }: { attempts: number }) => attempts)).toEqual([1, 1, 1, 1])

    await back()
    const start = performance.now()
    const wrong = await verify({ 'embedding-deployment': 'no-such-deployment', 'verify-timeout-minutes': '5' })
    expect(performance.now() - start).toBeLessThan(60_000)
    expect(codesOf(wrong)).toContain('deployment-not-found')
    expect(queriesOf(wrong)['app/cognitive']).toBe('passed: keyless')
  })
})

describe('what a verify tells', () => {
  afterEach(async () => {
    for (const name of ['legacy', 'plain'])
      await emulator.postgres.query('postgres', `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`)
  })

  test("databases: '*' asks every database that has azure_ai and tells those still on keys", async () => {
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
    // The queries pass, and prove nothing of an identity.
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false', 'failure-reason': 'verification' })
    expect(codesOf(result)).toContain('not-verified')
    const told = result.report.findings.filter(({ code }: { code: string }) => code === 'still-on-keys')
    expect(told).toMatchObject([
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

  test('a database without azure_ai fails with database: there is nothing to ask', async () => {
    await emulator.postgres.createDatabase('plain')
    const result = await verify({ databases: 'app, plain' })
    expect(result.code).toBe(1)
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'database', verified: 'false' })
    expect(codesOf(result)).toContain('extension-missing')
    expect(queriesOf(result)['app/openai']).toBe('passed: keyless')
  })

  test('a database that cannot be reached fails the run, and the others are still asked', async () => {
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

  test('a function that refuses to run read-only is asked again in a transaction that is rolled back, and that is noted', async () => {
    emulator.world.switches.refuseReadOnly = true
    const result = await verify({ databases: 'app' })
    expect(result.outputs, result.log).toMatchObject({ result: 'in-sync', verified: 'true' })
    expect(codesOf(result)).toContain('not-asked-read-only')
  })
})
