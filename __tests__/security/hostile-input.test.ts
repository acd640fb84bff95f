/** Hostile inputs end as an error of kind `input` or as data; hostile answers as text. First parsed alone, then in whole runs. */
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/index.ts'
import type { JobResult } from '../../emulator/runner.ts'
import { type InputName, inputNames } from '../../src/core/input-names.ts'
import { type Inputs, parseInputs } from '../../src/core/inputs.ts'
import { Failure } from '../../src/errors/failure.ts'
import { commandsIn, expectOwnPicture, hostileInput, hostileText, read, runs, seed, texts } from '../support/hostile.ts'
import {
  accountNamed,
  apply,
  begin,
  emulate,
  giveIdentity,
  giveRoles,
  ids,
  onlyService,
  putSettings,
  rawInputs,
  removeJobs,
  seeded,
  serverOf,
  settingsOf,
  workWithKeys,
} from '../support/support.ts'

/** Inputs that take any text, or nearly: a name, a password, a key. Their values are used unchanged. */
const free: Partial<Record<InputName, (inputs: Inputs) => unknown>> = {
  databases: ({ databases }) => databases,
  'embedding-deployment': ({ embeddingDeployment }) => embeddingDeployment,
  'chat-deployment': ({ chatDeployment }) => chatDeployment,
  'machine-learning-input': ({ machineLearningInput }) => machineLearningInput,
  'machine-learning-deployment': ({ machineLearningDeployment }) => machineLearningDeployment,
  audience: ({ oidc }) => oidc?.audience,
  'database-user': ({ database }) => database.user,
  'database-password': ({ database }) => database.password,
  'openai-key': ({ keys }) => keys.get('azure_openai.subscription_key'),
  'cognitive-key': ({ keys }) => keys.get('azure_cognitive.subscription_key'),
  'machine-learning-key': ({ keys }) => keys.get('azure_ml.endpoint_key'),
  'ranking-key': ({ keys }) => keys.get('azure_ml.serverless_ranking_endpoint_key'),
  'github-token': () => undefined,
}

/** Everything else as it should be, so that the one input decides. */
function around(name: InputName, value: string): Record<InputName, string> {
  const keys = name.endsWith('-key') ? { 'auth-type': 'subscription-key', translator: '' } : {}
  const app = { 'tenant-id': 'contoso.com', 'client-id': '7e4b2d18-3f60-4c9a-8d25-b1a6f0c3e974' }
  return rawInputs({ ...keys, ...app, 'database-user': 'a user', [name]: value })
}

/** The problems as they are reported, each naming its input; undefined when there are none. */
function problemsOf(raw: Record<InputName, string>): { failure: Failure | undefined; inputs: Inputs | undefined } {
  try {
    return { failure: undefined, inputs: parseInputs(raw) }
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    return { failure: error, inputs: undefined }
  }
}

function expectDataOrInputError(name: InputName, value: string): void {
  const { failure, inputs } = problemsOf(around(name, value))
  if (failure !== undefined) {
    expect(failure.reason).toBe('input')
    for (const line of failure.detail.split('\n')) {
      expect(inputNames).toContain(/^`([^`]+)`: /.exec(line)?.[1])
      expect((line.match(/`/g)?.length ?? 0) % 2, line).toBe(0)
      expect(line.length).toBeLessThan(700)
    }
    return
  }
  const taken = free[name]
  if (taken !== undefined) {
    const now = taken(inputs as Inputs)
    if (name === 'github-token' || value === '') return
    if (name !== 'databases') expect(now).toBe(value)
    else if (now !== '*') for (const database of now as string[]) expect(value).toContain(database)
    return
  }
  // Other inputs have a form of their own, of plain letters, digits and a few signs.
  expect(value, `${name} took it`).toMatch(/^[\w ./:()\p{L}\p{N}[\]-]*$/u)
  // A name of letters and digits alone does no harm: it may spell the marker by chance, as a host called OWNED does.
  if (!/^[\p{L}\p{N}._-]*$/u.test(value)) expect(JSON.stringify(inputs)).not.toContain('OWNED')
}

describe('parsing', () => {
  test.each(inputNames)('%s: an error of kind input, or data', (name) => {
    for (const value of texts) expectDataOrInputError(name, value)
    fc.assert(
      fc.property(hostileText, (value) => expectDataOrInputError(name, value)),
      runs(40),
    )
  })

  test('all inputs at once', () => {
    fc.assert(
      fc.property(fc.array(hostileText, { minLength: inputNames.length, maxLength: inputNames.length }), (values) => {
        const raw = Object.fromEntries(inputNames.map((name, index) => [name, values[index]])) as Record<InputName, string>
        expect(problemsOf(raw).failure?.reason).toBe('input')
      }),
      runs(40),
    )
  })

  test('a megabyte, and the longest that is looked into, take no time', () => {
    const start = process.cpuUsage()
    for (const name of inputNames) {
      for (const sign of ['x', '/', ':', '.', '0', '-', '[', '{"a":', '\ud800', 'a.', ',', '\n']) {
        for (const length of [1_048_576, 65_536]) {
          const value = `${sign.repeat(length / sign.length).slice(0, -1)}!`
          expect(problemsOf(around(name, value)).failure?.reason ?? 'data').toMatch(name in free ? /^(input|data)$/ : /^input$/)
        }
      }
    }
    // Some 900 of them; one expression that goes back over what it read takes minutes. Processor time: others may be busy beside it.
    expect(process.cpuUsage(start).user / 1_000).toBeLessThan(20_000)
  })

  test.each<[string, Partial<Record<InputName, string>>]>([
    ['a name of dots, which leads elsewhere in a URL', { openai: ids.openai.replace('ai-one', '..') }],
    ['a group of dots', { server: ids.server.replace('/rg/', '/../') }],
    ['a provider that is markup', { openai: ids.openai.replace('Microsoft.CognitiveServices', 'a`|<b>') }],
    ['a sign that only looks like a letter', { mode: 'chec\u212a' }],
    ['a host that a shell would run', { environment: 'https://$(id).example' }],
    ['a URL without its slashes', { environment: 'https:\\\\arm.example' }],
    ['JSON that PostgreSQL refuses', { 'machine-learning-input': '{"a": "\\u0000"}' }],
    ['half a surrogate pair', { 'machine-learning-input': '["\\ud800"]' }],
    ['a token that no header takes', { 'github-token': 'ghs_\u202e' }],
    ['a number without end', { 'machine-learning-input': '[1e999]' }],
  ])('%s is refused', (_, inputs) => {
    expect(problemsOf(rawInputs(inputs)).failure?.reason).toBe('input')
  })
})

const outputs = [
  'result',
  'changed',
  'drift',
  'verified',
  'stored-keys',
  'matrix',
  'failure-reason',
  'principal-id',
  'plan-id',
  'report-path',
]
const groups = ['Sign in', 'Observe', 'Plan', 'Apply', 'Settings and test queries', 'Test queries', 'Firewall']

/** Fails when the run did anything that a text contained as a command. */
function expectOnlyText(result: JobResult, secrets: readonly string[] = []): void {
  const reported = JSON.stringify(result.report)
  for (const { name, properties, data } of commandsIn(result.raw)) {
    expect(['add-mask', 'debug', 'error', 'warning', 'group', 'endgroup']).toContain(name)
    if (name === 'group') expect(groups).toContain(data)
    if (name === 'add-mask') expect(data.startsWith('OWNED') && !secrets.some((each) => each.includes(data)), data).toBe(false)
    if (name === 'error' || name === 'warning') {
      expect(Object.keys(properties)).toEqual(['title'])
      // Drift that fails the step is an error annotation and no finding; its title names the server.
      const title = (properties['title'] ?? '').replace(/ (?:is not set up yet|has drifted from its workflow)$/, '')
      expect(reported).toContain(JSON.stringify(title).slice(1, -1))
    }
  }
  expect(Object.keys(result.outputs).sort()).toEqual([...outputs].sort())
  expect(result.outputs['result']).not.toContain('OWNED')
  read(result.summary)
  expectOwnPicture(result.summary)
  expect(result.report?.schemaVersion).toBe(1)
}

describe('whole runs', () => {
  const random = seeded(seed)
  const pick = (): string => {
    const [text = ''] = fc.sample(hostileInput, { seed: Math.floor(random() * 2 ** 31), numRuns: 1 })
    // A blank one is no text, and what getInput trims is not the claim.
    return `${text.trim().slice(0, 4_000)}! OWNED`
  }
  let emulator: Emulator

  beforeAll(async () => {
    emulator = await emulate({ databases: ['app'] })
  })
  afterAll(async () => {
    await removeJobs()
    await emulator?.stop()
  })

  test('inputs with a fixed form are refused before any request, each by its name', async () => {
    await begin(emulator)
    const formed = inputNames.filter((name) => !(name in free))
    const third = Math.ceil(formed.length / 3)
    const parts = [formed.slice(0, third), formed.slice(third, 2 * third), formed.slice(2 * third)]
    const results = await Promise.all(
      parts.map((names) => apply(emulator, Object.fromEntries(names.map((name) => [name, pick()])))),
    )
    for (const [index, result] of results.entries()) {
      expect(result.outputs, result.raw).toMatchObject({ result: 'failed', 'failure-reason': 'input' })
      for (const name of parts[index] ?? []) expect(result.report.findings[0].detail).toContain(`\`${name}\`: `)
      expectOnlyText(result)
    }
    expect(emulator.world.exchanges).toEqual([])
    // The maximum length of an environment variable on Linux.
    const long = await apply(emulator, { server: `${'::error::OWNED\n'.repeat(8_500)}` })
    expect(long.outputs['failure-reason']).toBe('input')
    expectOnlyText(long)
  })

  test('inputs that accept any text are used unchanged: a database, a user, a password, a deployment, an audience, a token', async () => {
    await begin(emulator)
    giveIdentity(emulator)
    giveRoles(emulator)
    const line = (): string => pick().replaceAll(/\p{Cc}/gu, ' ')
    const one = onlyService(emulator, 'openai', 'app')
    const database = line().replaceAll(',', ';').slice(-40)
    const [named, user, password, audience, token] = await Promise.all([
      apply(emulator, { ...one, mode: 'check', databases: `app\n${database}`, 'embedding-deployment': line() }),
      apply(emulator, { ...one, mode: 'check', 'database-user': line() }),
      apply(emulator, { ...one, mode: 'check', 'database-user': 'pgadmin', 'database-password': line() }),
      apply(emulator, { ...one, mode: 'check', audience: line() }),
      apply(emulator, { ...one, mode: 'check', 'github-token': line().replaceAll(/[^!-~]/g, '.'), 'drift-issue': 'true' }),
    ])
    for (const result of [named, user, password, audience, token]) expectOnlyText(result, result.masked)
    expect(named.report.findings.map(({ code }: { code: string }) => code)).toContain('database-not-found')
    expect(user.outputs['failure-reason']).toBe('credentials')
    expect(password.outputs['failure-reason']).toBe('credentials')
    expect(audience.outputs['failure-reason']).toBe('credentials')
    expect(token.outputs['result']).toBe('drift')
  })

  test('a key of any characters is stored unchanged, and shown nowhere', async () => {
    await begin(emulator)
    await workWithKeys(emulator, 'app')
    const key = `OWNED\\.\\N\\t'"$1 -- {}|<b>\`;${pick().replaceAll(/\p{Cc}/gu, ' ')}`
    const inputs = { ...onlyService(emulator, 'openai', 'app'), 'auth-type': 'subscription-key', 'openai-key': key }
    const result = await apply(emulator, { ...inputs, 'test-queries': 'false', 'allow-unproven': 'true' })
    expect(result.outputs['result'], result.log).toBe('changed')
    expect((await settingsOf(emulator, 'app'))['azure_openai.subscription_key']).toBe(key)
    expect(JSON.stringify(result.report) + result.summary + result.log).not.toContain(key)
    expectOnlyText(result, [key])
  })

  test('names, settings and messages of Azure, PostgreSQL and the AI services', async () => {
    const hostile = texts.map((text) => text.toWellFormed().replaceAll('\0', '')).filter((text) => text.length < 300)
    const three = (from: number): string => hostile.slice(from % hostile.length, (from % hostile.length) + 3).join('\n')
    await begin(emulator, {
      shape: (world) => {
        const server = serverOf(emulator)
        server.configurations['azure.extensions'] = {
          value: `azure_ai,${three(0).replaceAll(/[,\p{Cc}]/gu, ' ')}`,
          source: 'user',
        }
        const account = accountNamed(world, 'contoso-openai')
        account.location = three(3)
        for (const deployment of account.deployments) deployment.model.version = three(6)
        for (const principal of world.principals) if (principal.kind === 'Group') principal.displayName = three(9)
      },
    })
    giveIdentity(emulator)
    giveRoles(emulator)
    for (const each of emulator.world.roleAssignments) each.description = three(12)
    await putSettings(emulator, 'app', {
      'azure_openai.auth_type': three(15),
      'azure_openai.endpoint': `/subscriptions/${three(18)}`,
      'azure_cognitive.translator_resource_id': `/subscriptions/x\n\n1. OWNED\n\n${three(21)}`,
      'azure_cognitive.region': three(24),
    })
    // A database whose name ends the line of a command, found by `*`.
    const name = `x"\n::error::OWNED\n| <b>@octocat`
    await emulator.postgres.createDatabase(name)
    await emulator.postgres.query(name, 'CREATE EXTENSION azure_ai')
    try {
      const answer = (body: string, status = 403) => ({
        kind: 'answer' as const,
        status,
        body,
        headers: { 'x-ms-request-id': 'OWNED' },
      })
      emulator.world.fault = ({ plane }) =>
        plane === 'ai' ? answer(JSON.stringify({ error: { code: three(27), message: three(30) } })) : undefined
      const seen = await apply(emulator, { mode: 'check', databases: '*', 'verify-timeout-minutes': '0' })
      expect(seen.outputs['result'], seen.log).toBe('drift')
      expect(seen.report.queries.length).toBeGreaterThan(3)
      expect(seen.report.steps.find(({ id }: { id: string }) => id === 'app/azure_openai.auth_type').current).toBe(three(15))
      expectOnlyText(seen)

      emulator.world.fault = ({ plane, method }) =>
        plane === 'resource-manager' && method === 'GET'
          ? answer(JSON.stringify({ error: { code: three(33), message: three(36) } }), 400)
          : undefined
      const refused = await apply(emulator, { mode: 'check' })
      expect(refused.outputs['failure-reason'], refused.log).toBe('azure')
      expect(refused.report.findings[0].detail).toContain(three(36))
      expectOnlyText(refused)

      emulator.world.fault = ({ plane, url }) =>
        plane === 'entra' && url.includes('/token')
          ? answer(JSON.stringify({ error: 'invalid_client', error_description: `AADSTS700213: ${three(39)}` }), 401)
          : undefined
      const stranger = await apply(emulator, { mode: 'check' })
      expect(stranger.outputs['failure-reason'], stranger.log).toBe('credentials')
      expectOnlyText(stranger)

      emulator.world.fault = ({ plane, url }) =>
        plane === 'github' && url.includes('/api/') ? answer(JSON.stringify({ message: three(42) }), 403) : undefined
      const token = emulator.world.github.token ?? ''
      const silent = await apply(emulator, {
        mode: 'check',
        'drift-issue': 'true',
        'github-token': token,
        'test-queries': 'false',
      })
      expect(silent.report.findings.map(({ code }: { code: string }) => code)).toContain('drift-issue-permission')
      expectOnlyText(silent)

      delete emulator.world.fault
      const checked = await apply(emulator, {
        mode: 'check',
        'drift-issue': 'true',
        'github-token': token,
        'test-queries': 'false',
      })
      expectOnlyText(checked)
      const [issue] = emulator.world.github.issues ?? []
      const run = 'https://github.com/contoso/shop/actions/runs/4711'
      const page = read((issue?.body ?? '').replaceAll(/<!--.*-->/g, ''), [run])
      expect(page.links).toEqual([run])
    } finally {
      delete emulator.world.fault
      await emulator.postgres.query('postgres', `DROP DATABASE "${name.replaceAll('"', '""')}"`)
    }
  })
})
