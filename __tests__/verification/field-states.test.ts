/** The built action on states that occur in the field: dead keys, locked settings, retired functions, incomplete set-ups. */
import { describe, expect, test } from 'vitest'
import type { Switches } from '../../emulator/world.ts'
import { noPauses } from '../support/clock.ts'
import { errorsOf, findingWith } from '../support/findings.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import {
  accountNamed,
  apply,
  begin,
  codesOf,
  giveIdentity,
  giveRoles,
  identitySettings,
  onlyService,
  putSettings,
  queriesOf,
  serverOf,
  settingsOf,
  statusesOf,
  workWithKeys,
} from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app', 'crm'] })

/** A server that uses its identity, as an apply leaves it. */
async function setUp(switches: Partial<Switches> = {}, more: Record<string, string> = {}): Promise<void> {
  await begin(emulator, { switches })
  giveIdentity(emulator)
  giveRoles(emulator)
  serverOf(emulator).configurations['azure.extensions'] = { value: 'azure_ai', source: 'user-override' }
  await emulator.refresh()
  await putSettings(emulator, 'app', { ...identitySettings(emulator.world), ...more })
}

const openai = (): Record<string, string> => onlyService(emulator, 'openai', 'app')

describe('the same failure is reported once', () => {
  const annotations = ({ log }: { log: string }): string[] => log.split('\n').filter((line) => /^::(error|warning) /.test(line))

  test.each(['check', 'apply', 'verify'])(
    'of all services in two databases, with the place and the fix of each (%s)',
    async (mode) => {
      await setUp()
      await putSettings(emulator, 'crm', identitySettings(emulator.world))
      emulator.world.delays.rolePropagation = Number.POSITIVE_INFINITY
      for (const assignment of emulator.world.roleAssignments) assignment.createdAt = Date.now()
      const inputs = { ...emulator.inputs, databases: 'app, crm', translator: '', mode, 'verify-timeout-minutes': '0' }
      const result = await apply(emulator, inputs)
      expect(
        errorsOf(result).map(({ code }) => code),
        result.log,
      ).toEqual(['role-not-effective'])
      const { detail, fix } = findingWith(result, 'role-not-effective')
      for (const service of ['Azure OpenAI', 'Azure AI Language', 'Azure Machine Learning']) expect(detail).toContain(service)
      expect(detail).toContain('"app"')
      expect(fix.match(/Role assignments can take/g)).toHaveLength(1)
      expect(fix.match(/az role assignment list/g)).toHaveLength(3)
      expect(annotations(result)).toHaveLength(1)
      expect(result.summary.match(/\*\*The service does not accept the identity/g)).toHaveLength(1)
    },
  )

  test('of services that fail with an unknown text', async () => {
    await setUp()
    emulator.world.fault = ({ plane }) =>
      plane === 'ai' ? { kind: 'answer', status: 418, body: '{"error":"short and stout"}' } : undefined
    const inputs = { ...emulator.inputs, databases: 'app', translator: '', mode: 'verify', 'verify-timeout-minutes': '0' }
    const result = await apply(emulator, inputs)
    delete emulator.world.fault
    expect(
      errorsOf(result).map(({ code }) => code),
      result.log,
    ).toEqual(['ai-error'])
    expect(findingWith(result, 'ai-error').detail.match(/short and stout/g)).toHaveLength(3)
  })

  test('of databases that do not exist', async () => {
    await setUp()
    const result = await apply(emulator, { ...openai(), databases: 'app, one, two, three, four', mode: 'check' })
    expect(
      errorsOf(result).map(({ code }) => code),
      result.log,
    ).toEqual(['database-not-found'])
    for (const name of ['one', 'two', 'three', 'four'])
      expect(findingWith(result, 'database-not-found').detail).toContain(`"${name}"`)
  })
})

describe('a stored key has one finding', () => {
  const dead = { 'azure_openai.subscription_key': 'a-dead-key' }
  const word = { 'azure_openai.subscription_key': 'Managed_Identity' }
  const states: [string, Partial<Switches>, Record<string, string>, string][] = [
    ['a dead key that wins', { keyWins: true }, dead, 'key-refused'],
    ['a word that wins', { keyWins: true }, word, 'key-is-a-word'],
    ['a word that does not win', {}, word, 'key-is-a-word'],
    ['a dead key that does not win', {}, dead, 'key-still-stored'],
  ]
  const modes = ['check', 'verify', 'apply']

  test.each(states.flatMap((state) => modes.map((mode) => [...state, mode] as const)))(
    '%s (%j, %j): %s (%s)',
    async (_, switches, key, code, mode) => {
      await setUp(switches, key)
      const result = await apply(emulator, { ...openai(), mode, 'verify-timeout-minutes': '0' }, undefined, noPauses())
      const own = codesOf(result).filter((each) => each.startsWith('key-') && !each.startsWith('key-login'))
      expect(own, result.log).toEqual([code])
      expect(findingWith(result, code).fix).not.toContain('once the identity is verified')
    },
  )

  test('a live key that wins', async () => {
    await begin(emulator)
    const { key1 } = accountNamed(emulator.world, 'contoso-openai').keys
    await setUp({ keyWins: true }, { 'azure_openai.subscription_key': key1 })
    const result = await apply(emulator, { ...openai(), mode: 'check' })
    expect(
      codesOf(result).filter((code) => /^key-(?!login)/.test(code)),
      result.log,
    ).toEqual(['key-wins', 'key-still-stored'])
  })

  test('a database that still uses its key is told to be moved by apply, which names it already', async () => {
    await begin(emulator)
    const { key1 } = accountNamed(emulator.world, 'contoso-openai').keys
    await setUp({}, { 'azure_openai.subscription_key': key1, 'azure_openai.auth_type': 'subscription-key' })
    const result = await apply(emulator, { ...openai(), mode: 'verify' })
    expect(findingWith(result, 'still-on-keys').fix, result.log).toBe('Run this action with `mode: apply`.')
  })
})

describe('a dead stored key that wins over the identity', () => {
  test.each([
    ['rotated', 'an-old-key-that-no-service-accepts'],
    ['the literal managed_identity', 'managed_identity'],
  ])('%s: clear-keys switches and clears in one transaction, and the application works', async (_, key) => {
    await setUp({ keyWins: true }, { 'azure_openai.subscription_key': key, 'azure_openai.auth_type': 'subscription-key' })
    const result = await apply(emulator, { ...openai(), 'clear-keys': 'true' })
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true', 'stored-keys': '0' })
    expect(statusesOf(result)['app/azure_openai.subscription_key']).toBe('updated')
    expect((await settingsOf(emulator, 'app'))['azure_openai.subscription_key'] ?? '').toBe('')
    const again = await apply(emulator, { ...openai(), 'clear-keys': 'true' })
    expect(again.outputs, again.log).toMatchObject({ result: 'in-sync', verified: 'true' })
  })

  test('refused by policy: clear-keys switches and clears in one transaction, and the application works', async () => {
    await begin(emulator)
    const { key1 } = accountNamed(emulator.world, 'contoso-openai').keys
    await setUp({ keyWins: true }, { 'azure_openai.subscription_key': key1, 'azure_openai.auth_type': 'subscription-key' })
    accountNamed(emulator.world, 'contoso-openai').disableLocalAuth = true
    const result = await apply(emulator, { ...openai(), 'clear-keys': 'true' })
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true', 'stored-keys': '0' })
    expect((await settingsOf(emulator, 'app'))['azure_openai.subscription_key'] ?? '').toBe('')
  })

  const everyFamily = [
    ['openai', 'azure_openai', 'azure_openai.subscription_key'],
    ['cognitive', 'azure_cognitive', 'azure_cognitive.subscription_key'],
    ['machine-learning', 'azure_ml', 'azure_ml.endpoint_key'],
  ] as const

  test.each(
    everyFamily.flatMap((of) =>
      (['subscription-key', 'managed-identity'] as const).map((authType) => [...of, authType] as const),
    ),
  )(
    '%s, where the extension sees committed rows only (%s, %s, %s): it is cleared as well',
    async (service, family, key, authType) => {
      await setUp({ keyWins: true, committedRowsOnly: true }, { [key]: 'a-dead-key', [`${family}.auth_type`]: authType })
      const inputs = { ...onlyService(emulator, service, 'app'), 'clear-keys': 'true', 'verify-timeout-minutes': '0.1' }
      const result = await apply(emulator, inputs, undefined, noPauses())
      expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true', 'stored-keys': '0' })
      expect((await settingsOf(emulator, 'app'))[key] ?? '').toBe('')
    },
  )

  test.each([{ keyWins: true }, { keyWins: true, committedRowsOnly: true }])(
    'when the identity does not work either, the dead key is restored and the run reports it (%j)',
    async (switches) => {
      await setUp(switches, { 'azure_openai.subscription_key': 'a-dead-key', 'azure_openai.auth_type': 'subscription-key' })
      emulator.world.delays.rolePropagation = Number.POSITIVE_INFINITY
      for (const assignment of emulator.world.roleAssignments) assignment.createdAt = Date.now()
      const before = await settingsOf(emulator, 'app')
      const result = await apply(emulator, { ...openai(), 'clear-keys': 'true', 'verify-timeout-minutes': '0' })
      expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'verification', changed: 'false' })
      expect(codesOf(result)).toContain('role-not-effective')
      expect(await settingsOf(emulator, 'app')).toEqual(before)
    },
  )

  test('a key that is the text managed_identity is reported, without its value', async () => {
    await setUp({}, { 'azure_openai.subscription_key': 'managed_identity' })
    const result = await apply(emulator, { ...openai(), mode: 'check' })
    expect(findingWith(result, 'key-is-a-word').detail, result.log).toContain('azure_openai.subscription_key in "app"')
  })
})

test('settings that another session locks: the failure names that session', async () => {
  await setUp({}, { 'azure_openai.auth_type': 'subscription-key' })
  const holding = emulator.postgres
    .query(
      'app',
      "BEGIN; SET application_name = 'payroll'; SELECT * FROM azure_ai.settings FOR UPDATE; SELECT pg_sleep(90); COMMIT",
    )
    .catch(() => undefined)
  try {
    const result = await apply(emulator, { ...openai(), 'verify-timeout-minutes': '0' }, undefined, noPauses())
    expect(codesOf(result), result.log).toContain('lock')
    expect(codesOf(result)).not.toContain('trial-unclear')
    expect(findingWith(result, 'lock').detail).toMatch(/pid \d+, payroll, from .*, for /)
  } finally {
    await emulator.postgres.query(
      'postgres',
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'payroll'",
    )
    await holding
  }
}, 120_000)

test('a retired sentiment function: the run detects the language instead, and reports it', async () => {
  await setUp({ sentimentRetired: true }, { 'azure_cognitive.auth_type': 'subscription-key' })
  const language = onlyService(emulator, 'cognitive', 'app')
  const result = await apply(emulator, language)
  expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
  expect(queriesOf(result)['app/cognitive']).toBe('passed: keyless')
  expect(result.report.queries[0].sql).toContain('azure_cognitive.detect_language(text => ')
  expect(codesOf(result)).toContain('function-replaced')
  const checked = await apply(emulator, { ...language, mode: 'check' })
  expect(checked.outputs, checked.log).toMatchObject({ result: 'in-sync', verified: 'true' })
})

test.each([
  ['https://contoso-openai.services.ai.azure.com/api/projects/shop', 'Foundry project'],
  ['https://contoso-openai.services.ai.azure.com/models', 'model inference endpoint'],
  ['https://contoso-openai.services.ai.azure.com/', 'the endpoint of a Foundry resource'],
  ['https://contoso-openai.openai.azure.com/openai/', 'the path /openai/'],
  ['https://swedencentral.api.cognitive.microsoft.com/', 'regional endpoint'],
  ['https://contoso.azure-api.net/ai', 'API gateway'],
])('the stored endpoint %s: the finding names its kind', async (endpoint, kind) => {
  await setUp({}, { 'azure_openai.endpoint': endpoint })
  const result = await apply(emulator, { ...openai(), mode: 'check' })
  expect(findingWith(result, 'endpoint-of-another-kind').detail, result.log).toContain(kind)
})

test('a retired sentiment function where only committed rows are seen: the switch does not wait for another turn', async () => {
  await begin(emulator)
  const { key1 } = accountNamed(emulator.world, 'contoso-language').keys
  await setUp(
    { sentimentRetired: true, committedRowsOnly: true },
    { 'azure_cognitive.auth_type': 'subscription-key', 'azure_cognitive.subscription_key': key1 },
  )
  const inputs = { ...onlyService(emulator, 'cognitive', 'app'), 'clear-keys': 'true', 'verify-timeout-minutes': '0.1' }
  const result = await apply(emulator, inputs)
  expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true', 'stored-keys': '0' })
})

describe('an incomplete set-up', () => {
  test('with an identity turned off or a rewritten allow-list, the finding suspects infrastructure code', async () => {
    await setUp()
    serverOf(emulator).configurations['azure.extensions'] = { value: 'vector', source: 'user-override' }
    const result = await apply(emulator, { ...openai(), mode: 'check' })
    expect(findingWith(result, 'taken-away').detail, result.log).toContain('probably infrastructure code')
  })

  test('with azure_ai missing although its roles exist, the finding suspects an upgrade', async () => {
    await begin(emulator)
    const applied = await apply(emulator, openai())
    expect(applied.outputs, applied.log).toMatchObject({ result: 'changed' })
    await emulator.postgres.query('app', 'DROP EXTENSION azure_ai CASCADE')
    const result = await apply(emulator, { ...openai(), mode: 'check' })
    expect(findingWith(result, 'extension-gone').detail, result.log).toContain('probably azure_ai was dropped')
  })
})

test('a stopped server whose configurations fail with 500 is reported as stopped, immediately', async () => {
  await setUp()
  serverOf(emulator).state = 'Stopped'
  emulator.world.switches.stoppedReads = 'failed'
  const result = await apply(emulator, { ...openai(), mode: 'check' })
  expect(codesOf(result), result.log).toContain('server-not-ready')
  expect(result.report.durationMs).toBeLessThan(20_000)
})

test('a setting that the newest version of the server does not know is named, and no update to that version is advised', async () => {
  await begin(emulator, { switches: { lackedSettings: ['azure_cognitive.region', 'azure_cognitive.translator_resource_id'] } })
  await workWithKeys(emulator, 'app')
  const result = await apply(emulator, { databases: 'app', mode: 'check' })
  const { title, detail, fix } = findingWith(result, 'extension-too-old')
  expect(detail, result.log).toContain('azure_cognitive.region, azure_cognitive.translator_resource_id')
  expect(title).toBe('The installed azure_ai does not know a setting')
  expect(fix).toContain('Leave `translator` out')
  expect(fix).not.toMatch(/ALTER EXTENSION|update-extension/)
})

test('a check of a role that is not effective yet advises no longer wait, since it queries once', async () => {
  await setUp()
  emulator.world.delays.rolePropagation = Number.POSITIVE_INFINITY
  for (const assignment of emulator.world.roleAssignments) assignment.createdAt = Date.now()
  const result = await apply(emulator, { ...openai(), mode: 'check' })
  expect(findingWith(result, 'role-not-effective').fix, result.log).not.toContain('verify-timeout-minutes')
})

describe('a server that is starting', () => {
  test.each(['failed', 'refused'] as const)(
    'check names the state, whatever its configurations answer: %s',
    async (stoppedReads) => {
      await setUp()
      serverOf(emulator).state = 'Starting'
      emulator.world.switches.stoppedReads = stoppedReads
      const result = await apply(emulator, { ...openai(), mode: 'check' })
      expect(codesOf(result), result.log).toContain('server-not-ready')
      expect(codesOf(result)).not.toContain('azure-error')
      expect(findingWith(result, 'server-not-ready').fix).not.toContain('flexible-server start')
    },
  )

  test.each(['failed', 'refused'] as const)(
    'apply waits for it, then reads again what it did not show: %s',
    async (stoppedReads) => {
      await setUp({}, { 'azure_openai.auth_type': 'subscription-key' })
      serverOf(emulator).state = 'Starting'
      emulator.world.switches.stoppedReads = stoppedReads
      const result = await apply(
        emulator,
        openai(),
        (line) => {
          if (line.includes('pg-contoso is Starting')) serverOf(emulator).state = 'Ready'
        },
        noPauses(),
      )
      expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
      expect(statusesOf(result)['allow-list']).toBe('in-sync')
    },
  )
})

describe('an update of azure_ai that other objects block', () => {
  const dependant = `CREATE TABLE docs (body text, embedding real[]
    GENERATED ALWAYS AS (azure_openai.create_embeddings('text-embedding-3-small', body)) STORED)`

  test('is refused with a list of the dependent objects, which stay unchanged', async () => {
    await setUp()
    await emulator.postgres.query('app', 'DROP EXTENSION azure_ai')
    const settings = await workWithKeys(emulator, 'app', '1.3.1')
    await emulator.postgres.query('app', dependant)
    try {
      const result = await apply(emulator, { ...openai(), 'update-extension': 'true' })
      expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'database', changed: 'false' })
      expect(statusesOf(result)['app/extension']).toBe('failed')
      expect(findingWith(result, 'extension-has-dependants').detail).toContain('column embedding of table')
      expect(findingWith(result, 'extension-has-dependants').fix).not.toMatch(/DROP .* CASCADE/)
      expect(await settingsOf(emulator, 'app')).toEqual(settings)
      // The command of the fix lists them.
      const [listing = ''] = findingWith(result, 'extension-has-dependants').fix.split('   --')
      const listed = await emulator.postgres.query('app', listing)
      expect(JSON.stringify(listed)).toContain('column embedding of table docs')
    } finally {
      await emulator.postgres.query('app', 'DROP TABLE docs')
    }
  })
})

test('the id of a HorizonDB cluster is refused with one sentence', async () => {
  await setUp()
  const server = serverOf(emulator).id.replace('Microsoft.DBforPostgreSQL/flexibleServers', 'Microsoft.HorizonDB/clusters')
  const result = await apply(emulator, { ...openai(), server })
  expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'input' })
  expect(result.report.findings.map(({ detail }: { detail: string }) => detail).join()).toContain('HorizonDB is another product')
  expect(emulator.writes()).toEqual([])
})

test('key access that is turned off is not reported as possible', async () => {
  await setUp()
  accountNamed(emulator.world, 'contoso-openai').disableLocalAuth = true
  const result = await apply(emulator, { ...openai(), mode: 'check' })
  expect(codesOf(result)).not.toContain('key-login-possible')
})
