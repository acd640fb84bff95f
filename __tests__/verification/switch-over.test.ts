/** The switch from keys to the identity while the database is in use: no query fails, and only verified settings count as verified. */
import { describe, expect, test } from 'vitest'
import type { JobResult } from '../../emulator/runner.ts'
import type { Switches } from '../../emulator/world.ts'
import { type Session, statementTimeoutMs, transactionsOn } from '../../src/postgres/transaction.ts'
import { trial } from '../../src/postgres/trial.ts'
import { errorsOf, findingsWith, findingWith } from '../support/findings.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { nonEmptySettingsOf } from '../support/settings.ts'
import {
  accountNamed,
  addKeyedEndpoint,
  application,
  apply,
  begin,
  callersOfServices,
  codesOf,
  giveIdentity,
  giveRoles,
  identitySettings,
  logLength,
  logStatements,
  onlyService,
  putSettings,
  queriesOf,
  questions,
  rolesOfServer,
  seeded,
  serverOf,
  settingsOf,
  start,
  statementsSince,
  statusesOf,
  until,
  workWithKeys,
} from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app', 'crm'] })

type Family = keyof typeof questions
const serviceOf: Record<Family, string> = {
  azure_openai: 'openai',
  azure_cognitive: 'cognitive',
  azure_ml: 'machine-learning',
}
const families = Object.keys(questions) as Family[]

/** The settings of a database where every family answers with its key: Machine Learning with an endpoint that takes keys. */
async function keyed(database: string): Promise<Record<string, string>> {
  const { world } = emulator
  const endpoint = world.workspaces[0]?.onlineEndpoints[1]
  const rows = {
    ...(await workWithKeys(emulator, database)),
    'azure_ml.scoring_endpoint': endpoint?.scoringUri ?? '',
    'azure_ml.endpoint_key': endpoint?.keys.primaryKey ?? '',
  }
  await putSettings(emulator, database, rows)
  return settingsOf(emulator, database)
}

/** The identity is there, roles are not; both databases work with keys. */
async function inUse(switches: Partial<Switches> = {}): Promise<Record<string, string>> {
  await begin(emulator, {
    shape: (world) => {
      addKeyedEndpoint(world)
      Object.assign(world.servers[0]?.configurations['azure.extensions'] ?? {}, { value: 'pg_trgm,vector,azure_ai' })
    },
  })
  giveIdentity(emulator)
  await keyed('crm')
  const before = await keyed('app')
  Object.assign(emulator.world.switches, switches)
  await emulator.refresh()
  emulator.world.exchanges.length = 0
  return before
}

const detailsOf = (result: JobResult): Record<string, string> =>
  Object.fromEntries((result.report.findings as { code: string; detail: string }[]).map(({ code, detail }) => [code, detail]))

describe('an application that queries every 50 ms throughout the switch', () => {
  test('has no failed query, in 20 runs with seeded delays', async () => {
    const random = seeded(20_261_124)
    const before = await inUse()
    const principal = serverOf(emulator).identity?.principalId
    const switchIn = async (database: string, family: Family): Promise<void> => {
      const stop = application(emulator, database, family)
      await new Promise((resolve) => setTimeout(resolve, random() * 200))
      const result = await apply(emulator, onlyService(emulator, serviceOf[family], database))
      const { asked, failed } = await stop()
      expect(failed, result.log).toEqual([])
      expect(asked).toBeGreaterThan(2)
      expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
      expect((await settingsOf(emulator, database))[`${family}.auth_type`]).toBe('managed-identity')
    }
    for (let pair = 0; pair < 10; pair++) {
      const { world } = emulator
      for (const database of ['app', 'crm']) await putSettings(emulator, database, before)
      world.roleAssignments.splice(
        0,
        Number.POSITIVE_INFINITY,
        ...world.roleAssignments.filter((each) => each.principalId !== principal),
      )
      world.exchanges.length = 0
      Object.assign(world.delays, {
        rolePropagation: random() * 1_200,
        roleReplication: random() * 500,
        inference: random() * 120,
        latency: random() * 20,
      })
      const one = families[pair % 3] as Family
      const other = families[(pair + 1) % 3] as Family
      await Promise.all([switchIn('app', one), switchIn('crm', other)])
      // The application used the key before, and the run used the identity.
      const callers = callersOfServices(world.exchanges)
      expect(callers).toContain(undefined)
      expect(callers).toContain(principal)
    }
  })

  test('has none when the role never takes effect; no transaction is open between tries, and every setting stays', async () => {
    const before = await inUse()
    // A trial takes long enough to be observed, also on a fast machine.
    Object.assign(emulator.world.delays, { rolePropagation: Number.POSITIVE_INFINITY, inference: 200 })
    const stops = families.map((family) => application(emulator, 'app', family))
    let over = false
    const open: number[] = []
    const watch = (async () => {
      while (!over) {
        const [row] = await emulator.postgres.query(
          'postgres',
          `SELECT count(*) FILTER (WHERE xact_start IS NOT NULL) AS open,
             coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) AS longest
           FROM pg_stat_activity WHERE application_name = 'azure-ai-postgres-identity'`,
        )
        open.push(Number(row?.['open']))
        expect(Number(row?.['longest'])).toBeLessThan(statementTimeoutMs / 1_000)
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
    })()
    const seen = new Map<string, number>()
    const result = await apply(emulator, { databases: 'app', translator: '', 'verify-timeout-minutes': '0.1' }, (line) => {
      if (line.includes('… waiting for the identity')) seen.set('waiting', open.length)
    })
    over = true
    await watch
    for (const stop of stops) {
      const { asked, failed } = await stop()
      expect(failed, result.log).toEqual([])
      expect(asked).toBeGreaterThan(5)
    }
    expect(seen.size).toBe(1)
    // The transaction is open during a trial, and closed during a wait.
    expect(Math.max(...open)).toBeGreaterThan(0)
    expect(open.filter((count) => count === 0).length).toBeGreaterThan(3)
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'verification', verified: 'false' })
    expect(await settingsOf(emulator, 'app')).toEqual(before)
  })
})

describe('a lock of a trial', () => {
  test('is held for the time of one query, however many run', async () => {
    const statements: string[] = []
    const slow: Session = {
      run: async (text) => {
        statements.push(text)
        if (text === 'SELECT 1') await new Promise((resolve) => setTimeout(resolve, 300))
        return [text.includes('pg_try_advisory') ? [{ taken: true }] : [{ answer: 'yes' }]]
      },
      copyIn: async () => undefined,
    }
    const connection = {
      id: '00000000',
      database: 'app',
      user: 'another role',
      lockPatience: { limitMs: 1_000, since: undefined },
      close: async () => undefined,
      ...transactionsOn(slow),
    }
    await trial(connection, {
      database: { serverVersion: 17, extensionSchemas: [] },
      settings: [],
      hide: [],
      calls: [
        {
          name: 'embedding',
          service: 'openai',
          title: 'one',
          endpoint: 'azure_openai.endpoint',
          deployment: undefined,
          answer: String,
          fallback: undefined,
          sql: 'SELECT 1',
          isAnswer: () => true,
        },
        {
          name: 'chat',
          service: 'openai',
          title: 'two',
          endpoint: 'azure_openai.endpoint',
          deployment: undefined,
          answer: String,
          fallback: undefined,
          sql: 'SELECT 2',
          isAnswer: () => true,
        },
      ],
      commit: () => false,
      log: {
        debug: () => undefined,
        info: () => undefined,
        result: () => undefined,
        secret: () => undefined,
        group: (_, body) => body(),
      },
    })
    const limits = statements.slice(0, statements.indexOf('SELECT 2')).flatMap((text) => {
      const [, limit] = /^SET LOCAL statement_timeout = (\d+)$/.exec(text) ?? []
      return limit === undefined ? [] : [Number(limit)]
    })
    expect(limits).toHaveLength(1)
    expect(limits[0]).toBeLessThanOrEqual(statementTimeoutMs - 290)
    expect(limits[0]).toBeGreaterThan(statementTimeoutMs - 5_000)
  })

  test('a function without timeout_ms gets no trial in a transaction: it is committed and checked immediately, but not verified', async () => {
    await inUse()
    const { postgres } = emulator
    const signature = 'azure_openai.create_embeddings(text, text, integer, integer, boolean, integer, integer)'
    await postgres.query('app', `ALTER EXTENSION azure_ai DROP FUNCTION ${signature}`)
    await postgres.query('app', `DROP FUNCTION ${signature}`)
    await postgres.query(
      'app',
      `CREATE FUNCTION azure_openai.create_embeddings(deployment_name text, input text) RETURNS real[] LANGUAGE sql VOLATILE SECURITY DEFINER
       AS $$ SELECT azure_ai_emulator.embeddings($1, ARRAY[$2], NULL, 1, 10000, true, 1, 0) $$`,
    )
    await postgres.query('app', 'ALTER EXTENSION azure_ai ADD FUNCTION azure_openai.create_embeddings(text, text)')
    await logStatements(emulator)
    const position = logLength(emulator)
    const result = await apply(emulator, onlyService(emulator, 'openai', 'app'))
    await postgres.query('app', 'DROP EXTENSION azure_ai CASCADE')
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'false' })
    expect(queriesOf(result)['app/openai']).toBe('passed: key-present')
    const statements = statementsSince(emulator, position)
    const queries = statements.filter(({ sql }) => sql.includes('create_embeddings(deployment_name'))
    expect(queries.length).toBeGreaterThan(0)
    for (const { pid, sql } of queries) {
      expect(sql).not.toContain('timeout_ms')
      const before = statements.slice(
        0,
        statements.findIndex((each) => each.pid === pid && each.sql === sql),
      )
      const began = before.filter((each) => each.pid === pid && /^BEGIN/.test(each.sql)).at(-1)
      expect(began?.sql).toContain('READ ONLY')
    }
  })
})

describe('undocumented behaviour, while the key could answer', () => {
  const pairs: [string, Partial<Switches>][] = [
    ['committed rows only, remembered settings', { committedRowsOnly: true, sessionCache: true }],
    ['committed rows only, no clearing', { committedRowsOnly: true, clearingRefused: true }],
    ['remembered settings, no clearing', { sessionCache: true, clearingRefused: true }],
    ['all at once', { keyWins: true, committedRowsOnly: true, sessionCache: true, clearingRefused: true }],
  ]
  test.each(pairs)('%s: never verified by the key, neither before the role takes effect nor after', async (_, switches) => {
    const before = await inUse(switches)
    const { world } = emulator
    world.delays.rolePropagation = Number.POSITIVE_INFINITY
    for (const role of ['ineffective', 'effective']) {
      if (role === 'effective') world.delays.rolePropagation = 0
      world.exchanges.length = 0
      const result = await apply(emulator, { ...onlyService(emulator, 'openai', 'app'), 'verify-timeout-minutes': '0' })
      const keyAnswered = callersOfServices(world.exchanges).includes(undefined)
      const [proof] = (queriesOf(result)['app/openai'] ?? '').split(': ').slice(-1)
      if (keyAnswered || role === 'ineffective') {
        expect(proof, result.log).not.toBe('keyless')
        expect(result.outputs['verified']).toBe('false')
      }
      expect(['changed', 'failed', 'in-sync']).toContain(result.outputs['result'])
      expect(result.outputs['failure-reason']).not.toBe('internal')
      // Either switched and passed, or unchanged.
      const now = await nonEmptySettingsOf(emulator, 'app')
      if (result.outputs['result'] === 'failed') expect(now).toEqual(before)
      else expect(now['azure_openai.auth_type']).toBe('managed-identity')
      expect(now['azure_openai.subscription_key']).toBe(before['azure_openai.subscription_key'])
    }
  })

  test('check and verify hide a stored key for their queries, and change nothing that stays', async () => {
    await inUse()
    giveRoles(emulator)
    await putSettings(emulator, 'app', {
      ...identitySettings(emulator.world),
      'azure_openai.subscription_key': accountNamed(emulator.world, 'contoso-openai').keys.key1,
    })
    const openai = onlyService(emulator, 'openai', 'app')
    const check = await apply(emulator, { ...openai, mode: 'check' })
    expect(check.outputs, check.log).toMatchObject({ result: 'in-sync', verified: 'true', changed: 'false', 'stored-keys': '1' })
    expect(queriesOf(check)['app/openai']).toBe('passed: keyless')
    expect(codesOf(check)).toEqual(expect.arrayContaining(['key-still-stored', 'key-login-possible']))
    const verify = await apply(emulator, { ...openai, mode: 'verify' })
    expect(verify.outputs, verify.log).toMatchObject({ result: 'in-sync', verified: 'true', 'stored-keys': '1' })
    expect(queriesOf(verify)['app/openai']).toBe('passed: keyless')

    accountNamed(emulator.world, 'contoso-openai').disableLocalAuth = true
    const refusing = await apply(emulator, { ...openai, mode: 'check' })
    expect(refusing.outputs).toMatchObject({ result: 'in-sync', verified: 'true' })
    expect(queriesOf(refusing)['app/openai']).toBe('passed: keyless')

    // Apply hides the key for its query and restores it.
    accountNamed(emulator.world, 'contoso-openai').disableLocalAuth = false
    const applied = await apply(emulator, openai)
    expect(applied.outputs, applied.log).toMatchObject({ result: 'in-sync', changed: 'false', verified: 'true' })
    expect(queriesOf(applied)['app/openai']).toBe('passed: keyless')
    expect((await settingsOf(emulator, 'app'))['azure_openai.subscription_key']).not.toBe('')
  })
})

describe('the services of a family are switched together', () => {
  test('the sentiment query passes and the translation fails: neither is committed, and the application keeps working', async () => {
    const before = await inUse()
    const translator = accountNamed(emulator.world, 'contoso-translator')
    translator.networkAcls = { defaultAction: 'Deny' }
    const stop = application(emulator, 'app', 'azure_cognitive')
    const result = await apply(emulator, { openai: '', 'machine-learning': '', 'machine-learning-input': '', databases: 'app' })
    expect((await stop()).failed).toEqual([])
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'verification', drift: 'true' })
    expect(codesOf(result)).toContain('ai-firewall')
    expect(queriesOf(result)['app/cognitive']).toMatch(/^skipped: passed in the trial, which was rolled back/)
    expect(queriesOf(result)['app/translator']).toMatch(/^failed: .*Virtual Network/)
    expect(await settingsOf(emulator, 'app')).toEqual(before)
  })

  test('a family with an unnamed service stays unchanged where it works, unless allow-unproven is set', async () => {
    const before = await inUse()
    await putSettings(emulator, 'app', {
      ...before,
      'azure_cognitive.region': 'westeurope',
      'azure_ml.serverless_ranking_endpoint': 'https://rank.swedencentral.models.ai.azure.com',
    })
    const used = await settingsOf(emulator, 'app')
    const result = await apply(emulator, { databases: 'app', translator: '' })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'verification', drift: 'true' })
    const unverified = findingsWith(result, 'not-switched-unproven')
    expect(unverified.map(({ detail }) => detail).sort()).toEqual([
      expect.stringMatching(/^azure_cognitive in "app" .*azure_cognitive\.region is set: it translates/),
      expect.stringMatching(/^azure_ml in "app" .*serverless_ranking_endpoint is set: .*`ranking` is not named/),
    ])
    const after = await settingsOf(emulator, 'app')
    // Azure OpenAI is not affected.
    expect(after['azure_openai.auth_type']).toBe('managed-identity')
    for (const [name, value] of Object.entries(used)) if (!name.startsWith('azure_openai')) expect(after[name]).toBe(value)

    const allowed = await apply(emulator, { databases: 'app', translator: '', 'allow-unproven': 'true' })
    expect(allowed.outputs, allowed.log).toMatchObject({ result: 'changed', 'failure-reason': 'none' })
    expect(codesOf(allowed)).toContain('unproven')
    expect(await settingsOf(emulator, 'app')).toMatchObject({
      'azure_cognitive.auth_type': 'managed-identity',
      'azure_ml.auth_type': 'managed-identity',
    })
  })

  test('translator alone does not change an endpoint of another account', async () => {
    const before = await inUse()
    const result = await apply(emulator, onlyService(emulator, 'translator', 'app'))
    expect(detailsOf(result)['not-switched-unproven'], result.log).toContain(
      'azure_cognitive.endpoint is that of another account',
    )
    expect(await settingsOf(emulator, 'app')).toEqual(before)
  })

  test('when a query cannot run, a working family is not switched; one that does not work is set, with the finding unproven', async () => {
    const before = await inUse()
    await emulator.postgres.query('crm', 'DELETE FROM azure_ai.settings')
    const inputs = { ...onlyService(emulator, 'machine-learning', 'app\ncrm'), 'machine-learning-input': '' }
    const result = await apply(emulator, inputs)
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'verification', verified: 'false' })
    expect(detailsOf(result)).toMatchObject({
      'not-switched-unproven': expect.stringContaining('azure_ml in "app"'),
      unproven: expect.stringContaining('azure_ml in "crm"'),
    })
    expect(await settingsOf(emulator, 'app')).toEqual(before)
    expect(await nonEmptySettingsOf(emulator, 'crm')).toMatchObject({ 'azure_ml.auth_type': 'managed-identity' })
    expect(queriesOf(result)['crm/machine-learning']).toBe('skipped: `machine-learning-input` is not set')

    // With test-queries off this is true of every family.
    const off = await apply(emulator, { ...onlyService(emulator, 'openai', 'app'), 'test-queries': 'false' })
    expect(codesOf(off)).toContain('not-switched-unproven')
    expect(await settingsOf(emulator, 'app')).toEqual(before)
  })

  test('an account with chat deployments only: the refusal of an embedding verifies access', async () => {
    await inUse()
    const account = accountNamed(emulator.world, 'contoso-openai')
    account.deployments = account.deployments.filter(({ name }) => name === 'gpt-4o-mini')
    emulator.world.delays.rolePropagation = 4_000
    const result = await apply(emulator, onlyService(emulator, 'openai', 'app'))
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(result.log).toContain('The service does not accept the identity (yet)')
    const [query] = result.report.queries
    expect(query).toMatchObject({ status: 'passed', proof: 'keyless', answer: expect.stringContaining('access granted') })
    expect(query.attempts).toBeGreaterThan(1)
  })

  test('an online endpoint in use with its key stays unchanged, and no finding suggests changing it', async () => {
    const before = await inUse()
    const [, byKey] = emulator.world.workspaces[0]?.onlineEndpoints ?? []
    const result = await apply(emulator, {
      ...onlyService(emulator, 'machine-learning', 'app'),
      'machine-learning': byKey?.id ?? '',
    })
    expect(result.outputs).toMatchObject({ 'failure-reason': 'azure', changed: 'false' })
    expect(emulator.writes()).toEqual([])
    const { fix } = findingWith(result, 'endpoint-auth-mode')
    expect(fix).toContain('make a second one')
    expect(fix).toContain('az ml online-endpoint create --name NEW-NAME --auth-mode aad_token')
    expect(fix).not.toMatch(/online-endpoint update|--set/)
    expect(await settingsOf(emulator, 'app')).toEqual(before)
  })
})

describe('two databases, one of which fails', () => {
  test('the other is switched, and the step of the failed one is reported', async () => {
    const before = await inUse()
    // The first of the two, whose queries the others wait for.
    await emulator.postgres.query(
      'app',
      `CREATE OR REPLACE FUNCTION azure_ai_emulator.embeddings(deployment_name text, input text[], dimensions integer, batch_size integer,
         timeout_ms integer, throw_on_error boolean, max_attempts integer, retry_delay_ms integer) RETURNS SETOF real[]
       LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'something of this database'; END $$`,
    )
    const result = await apply(emulator, { ...onlyService(emulator, 'openai', 'app\ncrm'), 'verify-timeout-minutes': '0' })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'verification', changed: 'true' })
    expect(queriesOf(result)).toEqual({
      'app/openai': expect.stringMatching(/^failed: .*something of this database/),
      'crm/openai': 'passed: keyless',
    })
    const errors = errorsOf(result)
    expect(errors.map(({ detail }: { detail: string }) => detail)).toEqual([expect.stringContaining('"app"')])
    expect(await settingsOf(emulator, 'app')).toEqual(before)
    expect((await settingsOf(emulator, 'crm'))['azure_openai.auth_type']).toBe('managed-identity')
    expect(statusesOf(result)).toMatchObject({
      'app/azure_openai.auth_type': 'different',
      'crm/azure_openai.auth_type': 'updated',
    })
  })

  test('a check that fails after COMMIT restores the previous settings, and the next run switches', async () => {
    const before = await inUse()
    giveRoles(emulator)
    let calls = 0
    emulator.world.fault = ({ plane }) =>
      plane === 'ai' && ++calls === 2 ? { kind: 'answer', status: 500, body: '{"error": "a bad moment"}' } : undefined
    const result = await apply(emulator, { ...onlyService(emulator, 'openai', 'app'), 'verify-timeout-minutes': '0' })
    delete emulator.world.fault
    expect(result.log).toContain('azure_openai was committed and is not verified; putting the previous settings back')
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'verification', verified: 'false' })
    expect(result.report.steps.find(({ id }: { id: string }) => id === 'app/azure_openai.auth_type')).toMatchObject({
      status: 'different',
      detail: 'reverted: verification failed',
    })
    expect(await settingsOf(emulator, 'app')).toEqual(before)
    const again = await apply(emulator, onlyService(emulator, 'openai', 'app'))
    expect(again.outputs).toMatchObject({ result: 'changed', verified: 'true' })
  })

  test('a run that is cancelled between COMMIT and its check restores the previous settings', async () => {
    const before = await inUse({ committedRowsOnly: true })
    emulator.world.delays.rolePropagation = Number.POSITIVE_INFINITY
    let job: Awaited<ReturnType<typeof start>> | undefined
    emulator.world.fault = ({ plane, method }) => {
      // The first call with a token is that of the check.
      if (plane !== 'identity' || method !== 'GET') return undefined
      job?.child.kill('SIGINT')
      return { kind: 'hang' }
    }
    job = await start(emulator, onlyService(emulator, 'openai', 'app'))
    const result = await job.done
    delete emulator.world.fault
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'cancelled' })
    expect(result.log).toContain('putting the previous settings back')
    expect(await settingsOf(emulator, 'app'), result.log).toEqual(before)
  })
})

describe('clear-keys', () => {
  test('clears keys after the verification; then a stored key is drift, and the summary names what can be turned off', async () => {
    await inUse()
    giveRoles(emulator)
    const inputs = { ...onlyService(emulator, 'openai', 'app'), 'clear-keys': 'true' }
    const stop = application(emulator, 'app', 'azure_openai')
    const result = await apply(emulator, inputs)
    expect((await stop()).failed).toEqual([])
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true', drift: 'false' })
    expect(statusesOf(result)['app/azure_openai.subscription_key']).toBe('updated')
    expect(queriesOf(result)['app/openai']).toBe('passed: keyless')
    expect((await settingsOf(emulator, 'app'))['azure_openai.subscription_key']).toBe('')
    expect(codesOf(result)).toContain('key-login-possible')
    const { id } = accountNamed(emulator.world, 'contoso-openai')
    expect(result.summary).toContain(`az resource update --ids "${id}" --set properties.disableLocalAuth=true`)

    const clean = await apply(emulator, { ...inputs, mode: 'check' })
    expect(clean.outputs).toMatchObject({ result: 'in-sync', verified: 'true' })
    await emulator.postgres.query('app', `SELECT azure_ai.set_setting('azure_openai.subscription_key', 'set by another app')`)
    const drifted = await apply(emulator, { ...inputs, mode: 'check' })
    expect(drifted.outputs).toMatchObject({ result: 'drift', verified: 'false' })
    expect(statusesOf(drifted)['app/azure_openai.subscription_key']).toBe('different')
  })

  test('a key that cannot be cleared: the step fails, and nothing is lost', async () => {
    const before = await inUse({ clearingRefused: true })
    giveRoles(emulator)
    const result = await apply(emulator, { ...onlyService(emulator, 'openai', 'app'), 'clear-keys': 'true' })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'database', verified: 'false' })
    expect(codesOf(result)).toContain('key-not-blanked')
    expect(statusesOf(result)).toMatchObject({
      'app/azure_openai.auth_type': 'updated',
      'app/azure_openai.subscription_key': 'failed',
    })
    expect((await settingsOf(emulator, 'app'))['azure_openai.subscription_key']).toBe(before['azure_openai.subscription_key'])
  })

  test.each<[string, Partial<Switches>]>([
    ['the key wins while it is there', { keyWins: true }],
    ['only committed rows are read', { committedRowsOnly: true }],
  ])('%s: the key is cleared, and the identity is verified without it', async (_, switches) => {
    await inUse(switches)
    giveRoles(emulator)
    const result = await apply(emulator, { ...onlyService(emulator, 'openai', 'app'), 'clear-keys': 'true' })
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(queriesOf(result)['app/openai']).toBe('passed: keyless')
    expect((await settingsOf(emulator, 'app'))['azure_openai.subscription_key']).toBe('')
  })

  test('the key wins, only committed rows are read and the role does not work: the key is restored', async () => {
    const before = await inUse({ committedRowsOnly: true, keyWins: true })
    emulator.world.delays.rolePropagation = Number.POSITIVE_INFINITY
    const result = await apply(emulator, {
      ...onlyService(emulator, 'openai', 'app'),
      'clear-keys': 'true',
      'verify-timeout-minutes': '0',
    })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false' })
    expect((await settingsOf(emulator, 'app'))['azure_openai.subscription_key']).toBe(before['azure_openai.subscription_key'])
    await emulator.postgres.query('app', questions.azure_openai)
  })

  test('without a verification no key is cleared', async () => {
    await inUse()
    giveRoles(emulator)
    const [first] = emulator.world.workspaces[0]?.onlineEndpoints ?? []
    await putSettings(emulator, 'app', {
      ...identitySettings(emulator.world),
      'azure_ml.endpoint_key': first?.keys.primaryKey ?? '',
    })
    const inputs = { ...onlyService(emulator, 'machine-learning', 'app'), 'machine-learning-input': '', 'clear-keys': 'true' }
    const result = await apply(emulator, inputs)
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'verification' })
    expect(codesOf(result)).toContain('key-not-blanked-unproven')
    expect((await settingsOf(emulator, 'app'))['azure_ml.endpoint_key']).toBe(first?.keys.primaryKey)
  })
})

test('one account for two services: the finding suggests turning keys off only when both are verified', async () => {
  await inUse()
  const account = accountNamed(emulator.world, 'contoso-openai')
  account.kind = 'AIServices'
  // The other role never takes effect.
  emulator.world.fault = ({ plane, url }) =>
    plane === 'ai' && url.includes('analyze-text')
      ? { kind: 'answer', status: 500, body: '{"error": "out of order"}' }
      : undefined
  const inputs = { ...onlyService(emulator, 'openai', 'app'), cognitive: account.id, 'verify-timeout-minutes': '0' }
  const result = await apply(emulator, inputs)
  delete emulator.world.fault
  expect(queriesOf(result)['app/openai'], result.log).toBe('passed: keyless')
  expect(codesOf(result)).toContain('key-login-still-needed')
  expect(codesOf(result)).not.toContain('key-login-possible')
  const both = await apply(emulator, inputs)
  expect(both.outputs, both.log).toMatchObject({ verified: 'true' })
  expect(codesOf(both).filter((code) => code === 'key-login-possible')).toHaveLength(1)
})

describe('a run that is killed in the middle of the switch', () => {
  test.each([1, 2, 3])('(moment %i): a second run completes it, and no lock stays', async (seed) => {
    await inUse()
    emulator.world.delays.inference = 60
    const random = seeded(seed)
    const inputs = onlyService(emulator, 'openai', 'app\ncrm')
    const job = await start(emulator, inputs, (line) => {
      if (line.includes('Settings and test queries')) setTimeout(() => job.child.kill('SIGKILL'), random() * 900)
    })
    const killed = await job.done
    if (killed.signal !== null) {
      expect(killed.outputs).toMatchObject({ result: 'failed', verified: 'false', 'failure-reason': 'internal' })
    }
    // Wherever the run was killed, the application's query works.
    for (const database of ['app', 'crm']) await emulator.postgres.query(database, questions.azure_openai)
    const again = await apply(emulator, inputs)
    expect(again.outputs, again.log).toMatchObject({ verified: 'true', 'failure-reason': 'none', drift: 'false' })
    for (const database of ['app', 'crm'])
      expect((await settingsOf(emulator, database))['azure_openai.auth_type']).toBe('managed-identity')
    expect(rolesOfServer(emulator)).toHaveLength(1)
    await until(
      async () => (await emulator.postgres.query('postgres', `SELECT FROM pg_locks WHERE locktype = 'advisory'`)).length === 0,
    )
  })
})

test.each([
  ['fails for a moment', 1, { result: 'changed', verified: 'true' }],
  ['goes on failing', Number.POSITIVE_INFINITY, { result: 'failed', 'failure-reason': 'database' }],
] as const)('a service that %s when a key has just been cleared', async (_, failures, expected) => {
  await begin(emulator)
  giveIdentity(emulator)
  giveRoles(emulator)
  const before = await workWithKeys(emulator, 'app')
  const { world } = emulator
  let commits = 0
  let left: number = failures
  // The first COMMIT switches, the second one blanks, the third puts the key back, and so on.
  world.sqlFault = ({ text }) => {
    if (text === 'COMMIT') commits++
    return undefined
  }
  world.fault = ({ plane }) =>
    plane === 'ai' && commits > 0 && commits % 2 === 0 && left-- > 0
      ? { kind: 'answer', status: 500, body: '{"error":{"code":"500"}}' }
      : undefined
  const inputs = { ...onlyService(emulator, 'openai', 'app'), 'clear-keys': 'true' }
  const result = await apply(emulator, inputs)
  delete world.sqlFault
  expect(result.outputs, result.log).toMatchObject(expected)
  const settings = await settingsOf(emulator, 'app')
  expect(settings['azure_openai.auth_type']).toBe('managed-identity')
  expect(settings['azure_openai.subscription_key']).toBe(failures === 1 ? '' : before['azure_openai.subscription_key'])
})
