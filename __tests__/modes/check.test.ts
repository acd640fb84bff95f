import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/index.ts'
import type { JobResult } from '../../emulator/runner.ts'
import type { RoleAssignment, Server } from '../../emulator/world.ts'
import { assignmentDescription } from '../../src/core/observed.ts'
import { type ServiceName, serviceNamed } from '../../src/core/services.ts'
import { noPauses } from '../support/clock.ts'
import { findingsWith } from '../support/findings.ts'
import {
  accountNamed,
  apply,
  begin,
  codesOf,
  differingSteps,
  emulate,
  logLength,
  logStatements,
  principalNamed,
  queriesOf,
  remember,
  removeJobs,
  serverOf,
  settingsOf,
  skippedSteps,
  statementsSince,
  workWithKeys,
  writingStatements,
} from '../support/support.ts'

const services = ['openai', 'cognitive', 'translator', 'machine-learning'] as const
const roleNames = {
  openai: 'Cognitive Services OpenAI User',
  cognitive: 'Cognitive Services User',
  translator: 'Cognitive Services User',
  'machine-learning': 'AzureML Data Scientist',
} as const
const elsewhere = 'c4d0e8a1-52f7-4b63-8d19-7e0a3b5c6f21'
const reader = 'settings reader'

let emulator: Emulator
/** Object id of the server's identity. */
let principalId: string
let back: () => Promise<void>
let from = 0

beforeAll(async () => {
  emulator = await emulate()
  await begin(emulator)
  await logStatements(emulator)
  const set = await apply(emulator)
  expect([set.outputs['result'], set.outputs['verified']], set.log).toEqual(['changed', 'true'])
  // The recording shows the writes of an apply, so an empty one below is meaningful.
  expect(emulator.writes().length).toBeGreaterThan(0)
  const written = writingStatements(statementsSince(emulator, 0))
  for (const kind of [/^CREATE EXTENSION/, /azure_ai\.set_setting/, /^COMMIT/])
    expect(written.some((each) => kind.test(each))).toBe(true)
  principalId = serverOf(emulator).identity?.principalId ?? ''
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

// Over all checks of this file: nothing is written, neither in Resource Manager nor in PostgreSQL.
afterEach(async () => {
  expect(emulator.writes()).toEqual([])
  const requests = emulator.world.exchanges.filter(({ plane }) => plane === 'resource-manager')
  expect(requests.filter(({ method }) => method !== 'GET')).toEqual([])
  expect(writingStatements(statementsSince(emulator, from))).toEqual([])
  await back()
})

const check = (inputs: Record<string, string> = {}, env: Record<string, string> = {}): Promise<JobResult> =>
  apply(emulator, { mode: 'check', ...inputs }, undefined, env)
const sql = (database: string, text: string, values?: unknown[]) => emulator.postgres.query(database, text, values)
const assignmentOf = (account: string): RoleAssignment => {
  const found = emulator.world.roleAssignments.find(
    (each) => each.principalId === principalId && each.scope.endsWith(`/${account}`),
  )
  if (found === undefined) throw new Error(`no assignment on ${account}`)
  return found
}
const resourceNames = {
  openai: 'contoso-openai',
  cognitive: 'contoso-language',
  translator: 'contoso-translator',
  'machine-learning': 'churn-scoring',
} as const

/** The rows of the summary as a reader sees them, with the number of their line: no tags, no entities. */
function rowsOf(markdown: string): { line: number; text: string }[] {
  return markdown.split('\n').flatMap((markup, line) => {
    if (!markup.startsWith('| ') || /^\| *\|/.test(markup)) return []
    const plain = markup
      .replaceAll(/<[^>]*>/g, '')
      .replaceAll('&nbsp;', ' ')
      .replaceAll(/&#(\d+);/g, (_, sign: string) => String.fromCodePoint(Number(sign)))
      .replaceAll('\u2011', '-')
    return [{ line, text: plain }]
  })
}

/** How the summary names a step, and a value: resources by their name. */
function labelOf(id: string): string {
  const [kind, service] = id.split('/') as [string, string]
  if (kind === 'identity') return 'Managed identity'
  if (kind === 'allow-list') return 'azure.extensions'
  if (kind === 'role') return serviceNamed(service as ServiceName).title
  return service === 'extension' ? 'azure_ai' : service
}
const shown = (value: string): string => (value.startsWith('/subscriptions/') ? (value.split('/').at(-1) ?? '') : value)

/** The run failed with drift in exactly these steps. In the summary their values are in one row, above the folded list of what is in sync. */
function expectDrift(result: JobResult, steps: Record<string, [status: string, current: string, desired: string]>): void {
  expect(differingSteps(result), result.log).toEqual(steps)
  expect(result.outputs).toMatchObject({ result: 'drift', drift: 'true', changed: 'false', 'failure-reason': 'drift' })
  expect(result.code).toBe(1)
  expect(result.report).toMatchObject({ result: 'drift', failureReason: 'drift', drift: true, changed: false })
  const rows = rowsOf(result.summary)
  const differing = rows.filter(({ text }) => /^\| \S+ (missing|different|failed) /.test(text))
  expect(differing).toHaveLength(Object.keys(steps).length)
  for (const [id, [status, current, desired]] of Object.entries(steps)) {
    const row = differing.find(({ text }) => text.includes(labelOf(id)))
    for (const part of [status, shown(current), shown(desired)]) expect(row?.text).toContain(part)
  }
  const folds = result.summary.split('\n').findIndex((line) => line.includes('<details>'))
  const well = rows.find(({ text }) => /^\| \S+ in-sync /.test(text))?.line ?? 0
  expect(Math.max(...differing.map(({ line }) => line))).toBeLessThan(folds)
  expect(folds).toBeLessThan(well)
}

test('a server that is in sync: nothing differs, every test query runs once and passes, exit code 0', async () => {
  const result = await check()
  expect(differingSteps(result)).toEqual({})
  expect(skippedSteps(result)).toEqual({})
  expect(result.code, result.log).toBe(0)
  expect(result.outputs).toMatchObject({
    result: 'in-sync',
    drift: 'false',
    changed: 'false',
    verified: 'true',
    'failure-reason': 'none',
    'principal-id': principalId,
  })
  expect(result.outputs['plan-id']).toMatch(/^[0-9a-f]{16}\.[0-9a-f]{16}$/)
  const queries = result.report.queries as { attempts: number; proof: string; status: string }[]
  expect(queries).toHaveLength(8)
  expect(queries.every(({ attempts, proof, status }) => attempts === 1 && proof === 'keyless' && status === 'passed')).toBe(true)
  expect(emulator.world.exchanges.filter(({ plane }) => plane === 'ai')).toHaveLength(8)
  // Everything is read once.
  const paths = emulator.reads().map(({ url }) => url)
  expect(new Set(paths).size).toBe(paths.length)
  // Every transaction is read-only.
  const begun = statementsSince(emulator, from).filter(({ sql: text }) => text.startsWith('BEGIN'))
  expect(begun.length).toBeGreaterThan(0)
  expect(begun.filter(({ sql: text }) => !text.endsWith('READ ONLY'))).toEqual([])
  expect(result.report.findings).toContainEqual(
    expect.objectContaining({
      severity: 'notice',
      code: 'statements-logged',
      detail: expect.stringContaining('log_statement = all'),
    }),
  )
})

describe('each drift alone is reported under its step, and nothing else differs', () => {
  test('the identity is off', async () => {
    const server = serverOf(emulator)
    if (server.identity === undefined) throw new Error('no identity')
    delete server.identity.principalId
    server.identity.type = 'UserAssigned'
    const result = await check()
    expectDrift(result, { identity: ['missing', 'off', 'system-assigned identity on'] })
    const waits = Object.fromEntries(services.map((service) => [`role/${service}`, 'waits for identity']))
    expect(skippedSteps(result)).toEqual({ ...waits, restart: 'waits for identity' })
    expect(new Set(Object.values(queriesOf(result)))).toEqual(new Set(['skipped: waits for identity']))
    expect(emulator.world.exchanges.filter(({ plane }) => plane === 'ai')).toEqual([])
    expect(result.outputs['principal-id']).toBe('')
  })

  test('the principal changed since the roles were assigned: a restored server', async () => {
    const server = serverOf(emulator)
    if (server.identity === undefined) throw new Error('no identity')
    server.identity.principalId = elsewhere
    server.loadedPrincipalId = elsewhere
    emulator.world.principals.push({ objectId: elsewhere, displayName: server.name, kind: 'ManagedIdentity' })
    await emulator.refresh()
    const result = await check()
    expectDrift(
      result,
      Object.fromEntries(
        services.map((service) => [`role/${service}`, ['missing', `assigned to ${principalId}`, roleNames[service]]]),
      ),
    )
    const detail = 'a former identity of this server, which was restored or created again'
    for (const step of result.report.steps.filter(({ kind }: { kind: string }) => kind === 'role'))
      expect(step.detail).toBe(detail)
    expect(codesOf(result).filter((each) => each === 'former-principal')).toHaveLength(4)
    expect(queriesOf(result)['app/openai']).toBe('skipped: waits for role/openai')
    expect(result.outputs['principal-id']).toBe(elsewhere)
  })

  test.each(services)('the role for %s is missing', async (service) => {
    const { roleAssignments } = emulator.world
    roleAssignments.splice(roleAssignments.indexOf(assignmentOf(resourceNames[service])), 1)
    const result = await check()
    expectDrift(result, { [`role/${service}`]: ['missing', 'not assigned', roleNames[service]] })
    for (const [query, state] of Object.entries(queriesOf(result))) {
      expect([query, state]).toEqual([
        query,
        query.endsWith(`/${service}`) ? `skipped: waits for role/${service}` : 'passed: keyless',
      ])
    }
  })

  test('azure_ai is off the allow-list', async () => {
    serverOf(emulator).configurations['azure.extensions'] = { value: 'vector,pg_trgm', source: 'user-override' }
    await emulator.refresh()
    const result = await check()
    expectDrift(result, { 'allow-list': ['different', 'vector, pg_trgm', 'vector, pg_trgm, azure_ai'] })
    expect(result.outputs['verified']).toBe('true')
  })

  test('the extension is missing in one database: its settings and queries wait for it', async () => {
    await sql('app', 'DROP EXTENSION azure_ai CASCADE')
    const result = await check()
    expectDrift(result, { 'app/extension': ['missing', 'not installed', 'azure_ai 2.0.0'] })
    const skipped = skippedSteps(result)
    expect(Object.keys(skipped)).toHaveLength(8)
    expect(Object.keys(skipped).every((id) => id.startsWith('app/azure_'))).toBe(true)
    expect(new Set(Object.values(skipped))).toEqual(new Set(['waits for app/extension']))
    expect(queriesOf(result)).toMatchObject({
      'app/openai': 'skipped: waits for app/extension',
      'sales 2026/openai': 'passed: keyless',
    })
  })

  const settings: [setting: string, other: string, waiting: readonly string[]][] = [
    ['azure_openai.auth_type', 'subscription-key', ['openai']],
    ['azure_openai.endpoint', 'https://elsewhere.openai.azure.com', ['openai']],
    ['azure_cognitive.auth_type', 'subscription-key', ['cognitive', 'translator']],
    ['azure_cognitive.endpoint', 'https://contoso-translator.cognitiveservices.azure.com', ['cognitive', 'translator']],
    ['azure_cognitive.region', 'norwayeast', ['cognitive', 'translator']],
    ['azure_cognitive.translator_resource_id', '/subscriptions/x', ['cognitive', 'translator']],
    ['azure_ml.auth_type', 'subscription-key', ['machine-learning']],
    ['azure_ml.scoring_endpoint', 'https://elsewhere.swedencentral.inference.ml.azure.com/score', ['machine-learning']],
  ]
  test.each(settings)('%s is another one in one database, and missing in the other', async (setting, other, waiting) => {
    const { [setting]: desired = '' } = await settingsOf(emulator, 'app')
    await sql('app', 'UPDATE azure_ai.settings SET value = $2 WHERE key = $1', [setting, other])
    const first = await check({ 'test-queries': String(setting.endsWith('auth_type')) })
    expectDrift(first, { [`app/${setting}`]: ['different', other, desired] })
    if (setting.endsWith('auth_type')) {
      for (const [query, state] of Object.entries(queriesOf(first))) {
        const waits = waiting.some((service) => query === `app/${service}`)
        expect([query, state]).toEqual([query, waits ? `skipped: waits for app/${setting}` : 'passed: keyless'])
      }
    }

    await back()
    await sql('sales 2026', 'DELETE FROM azure_ai.settings WHERE key = $1', [setting])
    // Unset may read as NULL or as an empty text.
    emulator.world.switches.unset = setting.startsWith('azure_ml') ? 'empty' : 'null'
    const second = await check({ 'test-queries': 'false' })
    expectDrift(second, { [`sales 2026/${setting}`]: ['missing', 'not set', desired] })
  })

  describe('a read replica that would break', () => {
    const replicaPrincipal = '9f3c6a52-0d41-4e7b-b8a5-16c2d7e40f93'
    const good = 'identity and roles of its own'

    function addReplica(): Server {
      const { world } = emulator
      const own = serverOf(emulator)
      const replica: Server = {
        ...(JSON.parse(JSON.stringify(own)) as Server),
        id: `${own.id}-replica`,
        name: `${own.name}-replica`,
        fullyQualifiedDomainName: `${own.name}-replica.postgres.database.azure.com`,
        replicationRole: 'AsyncReplica',
        sourceServerResourceId: own.id,
        identity: { type: 'SystemAssigned', principalId: replicaPrincipal },
        loadedPrincipalId: replicaPrincipal,
      }
      world.servers.push(replica)
      world.principals.push({ objectId: replicaPrincipal, displayName: replica.name, kind: 'ManagedIdentity' })
      for (const name of Object.values(resourceNames)) {
        const existing = assignmentOf(name)
        world.roleAssignments.push({
          ...existing,
          id: `${existing.id}-replica`,
          name: `${existing.name}-r`,
          principalId: replicaPrincipal,
          description: assignmentDescription(replica.id),
        })
      }
      return replica
    }

    test('with identity, roles and restart of its own nothing differs', async () => {
      addReplica()
      const result = await check()
      expect(differingSteps(result)).toEqual({})
      expect(result.outputs['result'], result.log).toBe('in-sync')
      expect(result.report.steps.map(({ id }: { id: string }) => id)).toContain('replica/pg-contoso-replica')
    })

    test('without identity', async () => {
      const replica = addReplica()
      replica.identity = { type: 'None' }
      delete replica.loadedPrincipalId
      expectDrift(await check(), { 'replica/pg-contoso-replica': ['different', 'no identity', good] })
    })

    test('without a role', async () => {
      addReplica()
      const { roleAssignments } = emulator.world
      const index = roleAssignments.findIndex(
        (each) => each.principalId === replicaPrincipal && each.scope.endsWith('/contoso-translator'),
      )
      roleAssignments.splice(index, 1)
      expectDrift(await check(), { 'replica/pg-contoso-replica': ['different', 'no role for Azure AI Translator', good] })
    })

    test('the state of the running replica may not be read: permission, no drift', async () => {
      addReplica()
      const error = { code: 'AuthorizationFailed', message: "may not perform action 'Microsoft.Example/read' over scope '/s'" }
      emulator.world.fault = ({ url }) =>
        url.includes('pg-contoso-replica/configurations/azure.service_principal_id')
          ? { kind: 'answer', status: 403, body: JSON.stringify({ error }) }
          : undefined
      expect((await check()).outputs).toMatchObject({ result: 'failed', 'failure-reason': 'permission' })
    })

    test('not restarted since its identity was turned on', async () => {
      delete addReplica().loadedPrincipalId
      expectDrift(await check(), {
        'replica/pg-contoso-replica': ['different', 'not restarted since its identity was turned on', good],
      })
    })
  })
})

test('with fail-on-drift false the step succeeds and the reason stays drift', async () => {
  await sql('app', `DELETE FROM azure_ai.settings WHERE key = 'azure_openai.endpoint'`)
  const result = await check({ 'fail-on-drift': 'false', 'test-queries': 'false' })
  expect(result.code).toBe(0)
  expect(result.outputs).toMatchObject({ result: 'drift', drift: 'true', verified: 'false', 'failure-reason': 'drift' })
})

test('each part checks its own steps, and gives the reason why the others are skipped', async () => {
  const { roleAssignments } = emulator.world
  roleAssignments.splice(roleAssignments.indexOf(assignmentOf('contoso-openai')), 1)
  await sql('app', `UPDATE azure_ai.settings SET value = 'norwayeast' WHERE key = 'azure_cognitive.region'`)
  from = logLength(emulator)
  const azure = await check({ part: 'azure' })
  expect(Object.keys(differingSteps(azure))).toEqual(['role/openai'])
  expect(skippedSteps(azure)['app/azure_cognitive.region']).toBe('part: azure runs no SQL')
  expect(statementsSince(emulator, from)).toEqual([])
  const database = await check({ part: 'database' })
  expect(Object.keys(differingSteps(database))).toEqual(['app/azure_cognitive.region'])
  expect(skippedSteps(database)['role/openai']).toBe('part: database writes nothing in Resource Manager')
})

test('several differences are reported together', async () => {
  const { roleAssignments } = emulator.world
  roleAssignments.splice(roleAssignments.indexOf(assignmentOf('contoso-openai')), 1)
  serverOf(emulator).configurations['azure.extensions'] = { value: 'vector', source: 'user-override' }
  await emulator.refresh()
  await sql('app', `UPDATE azure_ai.settings SET value = 'norwayeast' WHERE key = 'azure_cognitive.region'`)
  await sql('sales 2026', 'DROP EXTENSION azure_ai CASCADE')
  const result = await check()
  expect(Object.keys(differingSteps(result))).toEqual(['role/openai', 'allow-list', 'app/azure_cognitive.region'])
  // The allow-list comes first, because the extension cannot be created without it.
  expect(skippedSteps(result)['sales 2026/extension']).toBe('waits for allow-list')
  expect(skippedSteps(result)['sales 2026/azure_ml.auth_type']).toBe('waits for sales 2026/extension')
  expect(result.outputs['result']).toBe('drift')
})

describe('test queries of a check', () => {
  test('one that fails while nothing differs fails the step with verification, and the others still run', async () => {
    accountNamed(emulator.world, 'contoso-language').publicNetworkAccess = 'Disabled'
    const result = await check()
    expect(result.outputs).toMatchObject({
      result: 'failed',
      drift: 'false',
      verified: 'false',
      'failure-reason': 'verification',
    })
    expect(result.code).toBe(1)
    expect(codesOf(result)).toContain('ai-private')
    expect(queriesOf(result)).toMatchObject({ 'app/openai': 'passed: keyless', 'sales 2026/machine-learning': 'passed: keyless' })
    expect(queriesOf(result)['app/cognitive']).toMatch(/^failed: /)
  })

  test('drift outranks a failing query', async () => {
    accountNamed(emulator.world, 'contoso-language').publicNetworkAccess = 'Disabled'
    await sql('app', `DELETE FROM azure_ai.settings WHERE key = 'azure_openai.endpoint'`)
    expect((await check()).outputs).toMatchObject({ result: 'drift', 'failure-reason': 'drift', verified: 'false' })
  })

  test('a throttled one runs once, like all of them, and the next run tries again', async () => {
    let left = 1
    emulator.world.fault = ({ plane, url }) =>
      plane === 'ai' && url.includes('/embeddings') && left-- > 0
        ? { kind: 'answer', status: 429, body: '{"error":{"code":"429","message":"Too many requests"}}' }
        : undefined
    const result = await check({ databases: 'app' })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'verification', verified: 'false' })
    expect(codesOf(result)).toContain('throttled')
    const [openai] = result.report.queries.filter(({ service }: { service: string }) => service === 'openai')
    expect(openai.attempts).toBe(1)
    expect((await check({ databases: 'app' })).outputs).toMatchObject({ result: 'in-sync', verified: 'true' })
  })

  test('a function that refuses to run read-only is called again in a transaction that is rolled back, with a finding', async () => {
    emulator.world.switches.refuseReadOnly = true
    const result = await check()
    expect(result.outputs, result.log).toMatchObject({ result: 'in-sync', verified: 'true' })
    expect(codesOf(result).filter((each) => each === 'not-asked-read-only')).toHaveLength(8)
    const statements = statementsSince(emulator, from)
    expect(statements.filter(({ sql: text }) => /^BEGIN.*READ WRITE$/.test(text))).toHaveLength(8)
    expect(statements.filter(({ sql: text }) => /^COMMIT/.test(text))).toEqual([])
  })
})

describe('a check without the right to read', () => {
  const asReader = () => ({
    'client-id': principalNamed(emulator.world, 'contoso reader').clientId ?? '',
    'database-user': reader,
  })

  beforeAll(async () => {
    const { objectId } = principalNamed(emulator.world, 'contoso reader')
    await sql('postgres', `CREATE ROLE "${reader}" LOGIN; COMMENT ON ROLE "${reader}" IS 'aadauth,oid=${objectId},type=service'`)
  })

  const grant = async (what: 'GRANT' | 'REVOKE'): Promise<void> => {
    for (const name of ['app', 'sales 2026'])
      await sql(name, `${what} EXECUTE ON FUNCTION azure_ai.get_setting(text) ${what === 'GRANT' ? 'TO' : 'FROM'} "${reader}"`)
  }

  test('Reader on the resources and a role that may read settings are enough', async () => {
    await grant('GRANT')
    try {
      const result = await check(asReader())
      expect(result.outputs, result.log).toMatchObject({ result: 'in-sync', verified: 'true', 'failure-reason': 'none' })
      await sql('app', `UPDATE azure_ai.settings SET value = 'norwayeast' WHERE key = 'azure_cognitive.region'`)
      expectDrift(await check(asReader()), { 'app/azure_cognitive.region': ['different', 'norwayeast', 'westeurope'] })
    } finally {
      await grant('REVOKE')
    }
  })

  test('a role that may not read settings fails with permission, which is no drift', async () => {
    const result = await check(asReader())
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'permission', verified: 'false' })
    expect(codesOf(result)).toContain('may-not-read')
    expect(result.report.findings[0].fix).toContain(`GRANT azure_ai_settings_manager TO "${reader}"`)
    for (const [id, [status, current]] of Object.entries(differingSteps(result))) {
      expect([id, status, current]).toEqual([id, 'failed', 'unknown'])
    }
  })

  const reads: [what: string, path: RegExp][] = [
    ['the server', /flexibleServers\/pg-contoso\?/],
    ['its administrators', /\/administrators\?/],
    ['the allow-list', /\/configurations\/azure\.extensions\?/],
    ['its replicas', /\/replicas\?/],
    ['an account', /accounts\/contoso-language\?/],
    ['the deployments', /\/deployments\?/],
    ['the role assignments', /accounts\/contoso-translator\/providers\/Microsoft\.Authorization\/roleAssignments\?/],
    ['the online endpoint', /onlineEndpoints\/churn-scoring\?/],
  ]
  test.each(reads)('403 on reading %s is failed with permission, never drift', async (_, path) => {
    const message =
      "The client 'c' with object id 'o' does not have authorization to perform action 'Microsoft.Example/things/read' over scope '/subscriptions/s' or the scope is invalid."
    let refused = 0
    emulator.world.fault = ({ plane, method, url }) => {
      if (plane !== 'resource-manager' || method !== 'GET' || !path.test(url)) return undefined
      refused++
      return { kind: 'answer', status: 403, body: JSON.stringify({ error: { code: 'AuthorizationFailed', message } }) }
    }
    const result = await check({ 'fail-on-drift': 'false' })
    expect(refused).toBeGreaterThan(0)
    expect(result.code).toBe(1)
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'permission', verified: 'false' })
    expect(result.report.findings[0].detail).toContain('Microsoft.Example/things/read')
  })

  test('a database that takes no connections fails with database, and the other one is reported in full', async () => {
    await sql('postgres', 'ALTER DATABASE app CONNECTION LIMIT 0')
    await sql('sales 2026', `UPDATE azure_ai.settings SET value = 'norwayeast' WHERE key = 'azure_cognitive.region'`)
    try {
      const result = await check({}, noPauses())
      expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'database', verified: 'false' })
      const differing = differingSteps(result)
      expect(Object.keys(differing).filter((id) => !id.startsWith('app/'))).toEqual(['sales 2026/azure_cognitive.region'])
      for (const [id, [status]] of Object.entries(differing))
        if (id.startsWith('app/')) expect([id, status]).toEqual([id, 'failed'])
      expect(queriesOf(result)).toMatchObject({
        'app/openai': 'skipped: The CONNECTION LIMIT of a database or a role is reached',
        'sales 2026/openai': 'passed: keyless',
      })
    } finally {
      await sql('postgres', 'ALTER DATABASE app CONNECTION LIMIT -1')
    }
  })

  test('a database that does not exist fails with input', async () => {
    const result = await check({ databases: 'app, nowhere' })
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'input', verified: 'false' })
    expect(queriesOf(result)['app/openai']).toBe('passed: keyless')
  })

  test.each(['app', '*'])(
    'no database can be reached (databases: %s): network, and the Azure side is still reported',
    async (databases) => {
      const { roleAssignments } = emulator.world
      roleAssignments.splice(roleAssignments.indexOf(assignmentOf('contoso-openai')), 1)
      const result = await check({ databases, 'database-port': '9' })
      expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'network', verified: 'false' })
      expect(codesOf(result)).toContain('connection-refused')
      expect(differingSteps(result)['role/openai']).toEqual(['missing', 'not assigned', roleNames.openai])
    },
  )

  test('a stopped server fails with azure, and its databases are not called different', async () => {
    serverOf(emulator).state = 'Stopped'
    const result = await check()
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'azure', verified: 'false' })
    for (const [id, [status]] of Object.entries(differingSteps(result))) expect([id, status]).toEqual([id, 'failed'])
    expect(new Set(Object.values(queriesOf(result)))).toEqual(new Set(['skipped: the server is Stopped']))
  })
})

describe("databases: '*'", () => {
  afterEach(async () => {
    await sql('postgres', 'DROP DATABASE IF EXISTS legacy WITH (FORCE)')
    await sql('postgres', 'DROP DATABASE IF EXISTS plain WITH (FORCE)')
  })

  test('every database that has azure_ai is checked, and those still on keys are reported', async () => {
    await emulator.postgres.createDatabase('plain')
    await emulator.postgres.createDatabase('legacy')
    await workWithKeys(emulator, 'legacy')
    from = logLength(emulator)
    const result = await check({ databases: '*' })
    expect(result.outputs, result.log).toMatchObject({ result: 'drift', verified: 'false' })
    expect(new Set(result.report.queries.map(({ database }: { database: string }) => database))).toEqual(
      new Set(['app', 'legacy', 'sales 2026']),
    )
    expect(differingSteps(result)).toMatchObject({
      'legacy/azure_openai.auth_type': ['different', 'subscription-key', 'managed-identity'],
    })
    expect(Object.keys(differingSteps(result)).every((id) => id.startsWith('legacy/'))).toBe(true)
    const onKeys = findingsWith(result, 'still-on-keys')
    expect(onKeys.map(({ detail }) => detail.split(' has ')[0])).toEqual([
      'azure_openai in "legacy"',
      'azure_cognitive in "legacy"',
      'azure_ml in "legacy"',
    ])
  })
})

describe('findings that are no drift', () => {
  const expectNoDrift = (result: JobResult): void => {
    expect(result.outputs, result.log).toMatchObject({ result: 'in-sync', drift: 'false', 'failure-reason': 'none' })
    const seen = result.report.findings.map(({ code: each, detail }: { code: string; detail: string }) => `${each} ${detail}`)
    expect(new Set(seen).size).toBe(seen.length)
  }

  test('an extension older than the one that is available', async () => {
    const rows = await settingsOf(emulator, 'app')
    await sql('app', `DROP EXTENSION azure_ai CASCADE; CREATE EXTENSION azure_ai VERSION '1.3.1'`)
    for (const [key, value] of Object.entries(rows))
      await sql('app', 'INSERT INTO azure_ai.settings VALUES ($1, $2)', [key, value])
    const result = await check()
    const differing = await check({ 'update-extension': 'true', 'test-queries': 'false' })
    await sql('app', 'DROP EXTENSION azure_ai CASCADE')
    expectNoDrift(result)
    expect(findingsWith(result, 'extension-update-available')).toMatchObject([
      { severity: 'notice', detail: '"app" has 1.3.1, the server offers 2.0.0.' },
    ])
    // With update-extension it is drift and no finding.
    expectDrift(differing, { 'app/extension': ['different', 'azure_ai 1.3.1', 'azure_ai 2.0.0'] })
    expect(findingsWith(differing, 'extension-update-available')).toEqual([])
  })

  test('a key that is still stored is hidden from the query in a transaction that is rolled back', async () => {
    const key = accountNamed(emulator.world, 'contoso-openai').keys.key1
    await sql('app', `INSERT INTO azure_ai.settings VALUES ('azure_openai.subscription_key', $1)`, [key])
    const rows = 'SELECT key, value, xmin::text FROM azure_ai.settings ORDER BY key'
    const stored = await sql('app', rows)
    const result = await check()
    expectNoDrift(result)
    expect(result.outputs).toMatchObject({ verified: 'true', 'stored-keys': '1' })
    expect(queriesOf(result)).toMatchObject({ 'app/openai': 'passed: keyless', 'sales 2026/openai': 'passed: keyless' })
    expect(await sql('app', rows)).toEqual(stored)
    expect(findingsWith(result, 'key-still-stored')).toMatchObject([
      { severity: 'warning', fix: expect.stringContaining("set_setting('azure_openai.subscription_key', '')") },
    ])
    expect(result.raw.replaceAll(/^::add-mask::.*$/gm, '') + result.summary + JSON.stringify(result.report)).not.toContain(key)

    accountNamed(emulator.world, 'contoso-openai').disableLocalAuth = true
    const again = await check()
    expect(again.outputs['verified']).toBe('true')
    expect(queriesOf(again)['app/openai']).toBe('passed: keyless')
    expect(findingsWith(again, 'key-still-stored')).toHaveLength(1)
  })

  test('a broader role than needed, and assignments of a former principal', async () => {
    const { roleAssignments } = emulator.world
    const existing = assignmentOf('contoso-openai')
    const owner = existing.roleDefinitionId.replace(/[^/]+$/, '8e3af657-a8ff-443c-a75c-2fe8c4bcb635')
    roleAssignments.push({ ...existing, id: `${existing.id}-broad`, name: `${existing.name}-b`, roleDefinitionId: owner })
    const left = { ...existing, id: `${existing.id}-left`, name: `${existing.name}-l`, principalId: elsewhere }
    const user = existing.roleDefinitionId.replace(/[^/]+$/, 'a97b65f3-24c7-4388-baec-2e87135dc908')
    roleAssignments.push(left, { ...left, id: `${left.id}-too`, name: `${left.name}-t`, roleDefinitionId: user })
    // Assignments of other principals by others do not matter.
    const { description: _, ...undescribed } = existing
    roleAssignments.push({ ...undescribed, id: `${existing.id}-other`, name: `${existing.name}-o`, principalId: elsewhere })
    const result = await check()
    expectNoDrift(result)
    expect(findingsWith(result, 'role-beyond-need')).toMatchObject([
      { severity: 'warning', fix: expect.stringContaining(`${existing.id}-broad`) },
    ])
    expect(findingsWith(result, 'former-principal')).toMatchObject([
      { severity: 'warning', fix: expect.stringContaining(`${existing.id}-left"`) },
      { severity: 'warning', fix: expect.stringContaining(`${existing.id}-left-too"`) },
    ])
  })

  test('a resource that still accepts keys, and one that does not', async () => {
    expect(findingsWith(await check(), 'key-login-possible').map(({ detail }) => detail.split(':')[0])).toEqual([
      'contoso-openai',
      'contoso-language',
      'contoso-translator',
    ])
    for (const account of emulator.world.accounts) account.disableLocalAuth = true
    const result = await check()
    expectNoDrift(result)
    expect(findingsWith(result, 'key-login-possible')).toEqual([])
  })
})
