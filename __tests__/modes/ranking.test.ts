/** The reranker behind azure_ai.rank, and the chat functions: switched, verified, cleared and rolled back like the other services. */
import { beforeEach, describe, expect, test } from 'vitest'
import { builtInRoles } from '../../emulator/default-world.ts'
import type { JobResult } from '../../emulator/runner.ts'
import type { ServerlessEndpoint } from '../../emulator/world.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import {
  addReplica,
  application,
  apply,
  assignRole,
  type Beginning,
  begin,
  codesOf,
  differingSteps,
  giveIdentity,
  giveRoles,
  queriesOf,
  rolesOfServer,
  serverOf,
  settingsOf,
  statusesOf,
  tablesOf,
} from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app'] })
const reranker = (): ServerlessEndpoint => {
  const [endpoint] = emulator.world.workspaces[0]?.serverlessEndpoints ?? []
  if (endpoint === undefined) throw new Error('the world has no serverless endpoint')
  return endpoint
}
const scoring = () => emulator.world.workspaces[0]?.onlineEndpoints[0]
const uri = (version: 1 | 2): string => `${reranker().uri}/v${version}/rerank`
/** All five services, in the only database. */
const all = (): Record<string, string> => ({ ranking: reranker().id, databases: 'app' })
/** Both members of azure_ml. */
const both = (): Record<string, string> => ({ ...all(), openai: '', cognitive: '', translator: '' })
/** The reranker alone. */
const only = (): Record<string, string> => ({ ...both(), 'machine-learning': '', 'machine-learning-input': '' })

const endpointSetting = 'azure_ml.serverless_ranking_endpoint'
const keySetting = 'azure_ml.serverless_ranking_endpoint_key'

/** The database ranks with a key, and with `scores` it also calls the online endpoint with one. */
async function withKeys({ scores = false, path = 1 }: { scores?: boolean; path?: 1 | 2 } = {}): Promise<void> {
  await set({
    'azure_ml.auth_type': 'subscription-key',
    [endpointSetting]: uri(path),
    [keySetting]: reranker().keys.primaryKey,
    ...(scores
      ? { 'azure_ml.scoring_endpoint': scoring()?.scoringUri ?? '', 'azure_ml.endpoint_key': 'an old key of the endpoint' }
      : {}),
  })
}

async function set(settings: Readonly<Record<string, string>>, version = ''): Promise<void> {
  await emulator.postgres.query('app', `CREATE EXTENSION IF NOT EXISTS azure_ai${version}`)
  for (const [key, value] of Object.entries(settings))
    await emulator.postgres.query('app', 'SELECT azure_ai.set_setting($1, $2)', [key, value])
}

/** `begin` with an identity that has all roles. */
async function ready(beginning: Beginning = {}): Promise<void> {
  await begin(emulator, beginning)
  const principal = giveIdentity(emulator)
  giveRoles(emulator)
  assignRole(emulator.world, principal, reranker().id, builtInRoles.dataScientist)
  Object.assign(serverOf(emulator).configurations['azure.extensions'] ?? {}, { value: 'azure_ai' })
  await emulator.refresh()
}

const rankQueries = (result: JobResult): string[] =>
  ((result.report.queries ?? []) as { service: string; sql: string }[])
    .filter(({ service }) => service === 'ranking')
    .map(({ sql }) => sql)

describe('from nothing', () => {
  test('five services and a chat deployment: one run sets up all, and the second writes nothing', async () => {
    await begin(emulator, {
      shape: (world) => {
        const [openai] = world.accounts.filter(({ kind }) => kind === 'OpenAI')
        const [first] = openai?.deployments ?? []
        if (first !== undefined)
          openai?.deployments.push({ ...structuredClone(first), name: 'talk', model: { ...first.model, name: 'gpt-4.1-mini' } })
      },
    })
    const inputs = { ...all(), 'chat-deployment': 'talk' }
    const result = await apply(emulator, inputs)
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true', 'stored-keys': '0' })
    expect(statusesOf(result)).toMatchObject({
      'role/ranking': 'created',
      [`app/${endpointSetting}`]: 'created',
      'app/azure_ml.auth_type': 'created',
    })
    expect(rolesOfServer(emulator)).toContain(`${builtInRoles.dataScientist} on ${reranker().id}`)
    expect(await settingsOf(emulator, 'app')).toMatchObject({
      'azure_ml.auth_type': 'managed-identity',
      [endpointSetting]: uri(2),
    })
    const queries = result.report.queries as { service: string; status: string; proof: string; answer: string; sql: string }[]
    expect(queries.map(({ service, status, proof }) => `${service} ${status} ${proof}`)).toEqual([
      'openai passed keyless',
      'openai passed keyless',
      'cognitive passed keyless',
      'translator passed keyless',
      'machine-learning passed keyless',
      'ranking passed keyless',
    ])
    expect(queries[1]).toMatchObject({ answer: 'Hello' })
    expect(queries[1]?.sql).toContain("azure_ai.generate(prompt => 'Reply with the word Hello'")
    expect(queries.at(-1)).toMatchObject({ answer: 'document 0 before 1' })
    // What the report shows can be pasted.
    const [row] = await emulator.postgres.query('app', queries.at(-1)?.sql ?? '')
    expect(JSON.stringify(row?.['ranked'])).toContain('"0"')
    // Both new queries have a column of their own.
    const [head, , cells] = tablesOf(result.summary).find(([first]) => first?.[0]?.includes('Database')) ?? []
    expect(head?.map((cell) => cell.trim())).toEqual([
      ...['Database', 'Azure OpenAI', 'Azure OpenAI chat', 'Azure AI Language', 'Azure AI Translator'],
      ...['Azure Machine Learning', 'Reranker'],
    ])
    expect(cells?.[2]).toContain('Hello')
    expect(cells?.[6]).toContain('document 0 before 1')

    emulator.world.exchanges.length = 0
    const again = await apply(emulator, inputs)
    expect(again.outputs, again.log).toMatchObject({ result: 'in-sync', changed: 'false', verified: 'true' })
    expect(emulator.writes()).toEqual([])
    const checked = await apply(emulator, { ...inputs, mode: 'check' })
    expect(checked.outputs, checked.log).toMatchObject({ result: 'in-sync', verified: 'true', drift: 'false' })
    const verified = await apply(emulator, { ...inputs, mode: 'verify' })
    expect(verified.outputs, verified.log).toMatchObject({ result: 'in-sync', verified: 'true' })
  })
})

describe('the reranker', () => {
  beforeEach(() => ready())

  test('a working key is switched without a failed query, cleared, and stored again by the rollback', async () => {
    await withKeys({ path: 1 })
    const stop = application(emulator, 'app', 'ranking')
    const switched = await apply(emulator, only())
    expect(switched.outputs, switched.log).toMatchObject({ result: 'changed', verified: 'true', 'stored-keys': '1' })
    const cleared = await apply(emulator, { ...only(), 'clear-keys': 'true' })
    expect(cleared.outputs, cleared.log).toMatchObject({ result: 'changed', verified: 'true', 'stored-keys': '0' })
    expect((await settingsOf(emulator, 'app'))[keySetting] ?? '').toBe('')
    const fixes = (cleared.report.findings as { code: string; fix: string }[])
      .map(({ code, fix }) => `${code}: ${fix}`)
      .join('\n')
    expect(fixes).toMatch(/key-login-possible: [\s\S]*serverlessEndpoints\/contoso-rerank" .*authMode=AAD/)
    expect(fixes).toMatch(/keys-to-rotate: [\s\S]*contoso-rerank\/regenerateKeys/)
    const back = await apply(emulator, { ...only(), 'auth-type': 'subscription-key' })
    expect(back.outputs, back.log).toMatchObject({ result: 'changed', verified: 'true', 'stored-keys': '1' })
    expect(queriesOf(back)).toEqual({ 'app/ranking': 'passed: key' })
    const { asked, failed } = await stop()
    expect(failed).toEqual([])
    expect(asked).toBeGreaterThan(3)
    // An existing path stays, on both ways.
    expect(await settingsOf(emulator, 'app')).toMatchObject({
      'azure_ml.auth_type': 'subscription-key',
      [endpointSetting]: uri(1),
      [keySetting]: reranker().keys.primaryKey,
    })
    for (const key of Object.values(reranker().keys)) {
      for (const { raw, summary, report } of [switched, cleared, back])
        expect([raw.replaceAll(/^::add-mask::.*$/gm, ''), summary, JSON.stringify(report)].join('\n')).not.toContain(key)
      expect(back.masked).toContain(key)
    }
  })

  test('the role arrives late: nothing fails in between, and the key stays in force until it does', async () => {
    await withKeys()
    emulator.world.roleAssignments.splice(
      emulator.world.roleAssignments.findIndex(({ scope }) => scope === reranker().id),
      1,
    )
    emulator.world.delays.rolePropagation = 1_500
    const stop = application(emulator, 'app', 'ranking')
    const result = await apply(emulator, only())
    expect((await stop()).failed).toEqual([])
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
  })

  test('a key set as an input is stored, and none is read', async () => {
    await set({})
    const result = await apply(emulator, {
      ...only(),
      'auth-type': 'subscription-key',
      'ranking-key': reranker().keys.secondaryKey,
    })
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(emulator.keyReads()).toEqual([])
    expect(await settingsOf(emulator, 'app')).toMatchObject({
      [keySetting]: reranker().keys.secondaryKey,
      [endpointSetting]: uri(2),
    })
  })

  test.each([
    ['another host', { [endpointSetting]: 'https://other.westeurope.models.ai.azure.com/v2/rerank' }, endpointSetting],
    ['another path', { [endpointSetting]: 'REMOVED/v3/rerank' }, endpointSetting],
    ['keys', { 'azure_ml.auth_type': 'subscription-key' }, 'azure_ml.auth_type'],
  ])('drift: %s', async (_, changed, setting) => {
    await apply(emulator, only())
    const values = Object.entries(changed).map(([key, value]) => [key, value.replace('REMOVED', reranker().uri)] as const)
    await set(Object.fromEntries(values))
    const result = await apply(emulator, { ...only(), mode: 'check' })
    expect(result.outputs, result.log).toMatchObject({ result: 'drift', verified: 'false' })
    expect(Object.keys(differingSteps(result))).toEqual([`app/${setting}`])
    const fixed = await apply(emulator, only())
    expect(fixed.outputs, fixed.log).toMatchObject({ result: 'changed', verified: 'true' })
  })

  test('drift: its role was removed', async () => {
    await apply(emulator, only())
    emulator.world.roleAssignments.splice(
      emulator.world.roleAssignments.findIndex(({ scope }) => scope === reranker().id),
      1,
    )
    const result = await apply(emulator, { ...only(), mode: 'check' })
    expect(Object.keys(differingSteps(result)), result.log).toEqual(['role/ranking'])
  })

  test('an endpoint that has /v1/rerank only gets that path', async () => {
    await set({})
    reranker().paths = ['/v1/rerank']
    await emulator.refresh()
    const result = await apply(emulator, only())
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect((await settingsOf(emulator, 'app'))[endpointSetting]).toBe(uri(1))
    const step = (result.report.steps as { id: string; detail: string }[]).find(({ id }) => id === `app/${endpointSetting}`)
    expect(step?.detail).toContain(uri(1))
    const again = await apply(emulator, only())
    expect(again.outputs, again.log).toMatchObject({ result: 'in-sync', changed: 'false', verified: 'true' })
  })

  test.each([
    ['managed-identity', 'Key', true],
    ['managed-identity', 'AAD', false],
    ['subscription-key', 'AAD', true],
    ['subscription-key', 'Key', false],
  ] as const)('to %s with authMode %s', async (authType, authMode, isRefused) => {
    await set({})
    reranker().authMode = authMode
    await emulator.refresh()
    const result = await apply(emulator, { ...only(), 'auth-type': authType })
    expect(codesOf(result).includes('endpoint-auth-mode'), result.log).toBe(isRefused)
    expect(result.outputs['result']).toBe(isRefused ? 'failed' : 'changed')
    if (isRefused) expect(await settingsOf(emulator, 'app')).toEqual({})
  })

  test('an endpoint that is still being created is reported', async () => {
    reranker().provisioningState = 'Creating'
    await emulator.refresh()
    const result = await apply(emulator, only())
    expect(codesOf(result), result.log).toContain('resource-not-ready')
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'azure', changed: 'false' })
  })

  test('a replica without the role blocks the switch of a family that works', async () => {
    await ready({ shape: addReplica })
    await withKeys()
    const before = await settingsOf(emulator, 'app')
    const result = await apply(emulator, only())
    expect(codesOf(result), result.log).toContain('replica-would-break')
    expect(await settingsOf(emulator, 'app')).toEqual(before)
  })
})

describe('an inventory', () => {
  test('finds the reranker behind its endpoint, and outputs a matrix whose job switches it', async () => {
    await ready()
    await withKeys()
    const kept = ['server', 'environment', 'tenant-id', 'client-id', 'audience', 'database-host', 'database-port']
    const own = Object.fromEntries(
      Object.keys(emulator.inputs).map((name) => [name, kept.includes(name) ? (emulator.inputs[name] ?? '') : '']),
    )
    const look = () => apply(emulator, { ...own, mode: 'inventory', 'allow-restart': 'false' })
    const before = await look()
    expect(before.outputs, before.log).toMatchObject({ result: 'drift', 'stored-keys': '1' })
    const { include } = JSON.parse(before.outputs['matrix'] ?? '') as { include: Record<string, string>[] }
    expect(include).toMatchObject([{ ranking: reranker().id, 'machine-learning': '', databases: 'app' }])
    const { name: _, ...services } = include[0] ?? {}
    const moved = await apply(emulator, { ...only(), ...services, 'clear-keys': 'true' })
    expect(moved.outputs, moved.log).toMatchObject({ result: 'changed', verified: 'true' })
    const after = await look()
    expect(after.outputs, after.log).toMatchObject({ result: 'in-sync', 'stored-keys': '0', matrix: '{"include":[]}' })
  })
})

describe('two members of one family', () => {
  beforeEach(() => ready())

  test('both are switched together, and both keys are cleared', async () => {
    await withKeys({ scores: true })
    const result = await apply(emulator, { ...both(), 'clear-keys': 'true' })
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true', 'stored-keys': '0' })
    const settings = await settingsOf(emulator, 'app')
    expect([settings[keySetting] ?? '', settings['azure_ml.endpoint_key'] ?? '']).toEqual(['', ''])
    expect(settings['azure_ml.auth_type']).toBe('managed-identity')
  })

  test.each([
    ['the reranker', () => Object.assign(reranker(), { paths: ['/elsewhere'] })],
    ['the online endpoint', () => Object.assign(scoring() ?? {}, { authMode: 'Key' })],
  ])('%s fails: neither is committed', async (_, breakIt) => {
    await withKeys({ scores: true })
    const before = await settingsOf(emulator, 'app')
    breakIt()
    await emulator.refresh()
    const result = await apply(emulator, { ...both(), 'clear-keys': 'true', 'verify-timeout-minutes': '0.02' })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false' })
    expect(await settingsOf(emulator, 'app')).toEqual(before)
  })

  test.each([
    ['the online endpoint, and the reranker is in use', () => ({ ...both(), ranking: '' })],
    ['the reranker, and the online endpoint is in use', only],
    ['both, and one query is skipped', () => ({ ...both(), 'machine-learning-input': '' })],
  ])('named: %s: nothing is switched or cleared without allow-unproven', async (_, inputs) => {
    await withKeys({ scores: true })
    const before = await settingsOf(emulator, 'app')
    const result = await apply(emulator, { ...inputs(), 'clear-keys': 'true' })
    expect(codesOf(result), result.log).toEqual(expect.arrayContaining(['not-switched-unproven', 'key-not-blanked-unproven']))
    expect(await settingsOf(emulator, 'app')).toEqual(before)
    expect(result.outputs['stored-keys']).toBe('2')
  })
})

describe('a version without azure_ai.rank', () => {
  test.each([
    ['1.3.1', " VERSION '1.3.1'", {}],
    ['the newest, which lacks the function here', '', { lackedFunctions: ['azure_ai.rank'] }],
  ])('%s: the reranker is skipped with a finding, and the rest is done', async (_, version, switches) => {
    await ready({ switches })
    await set({}, version)
    const result = await apply(emulator, { ...all(), openai: '', cognitive: '', translator: '' })
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'false', drift: 'false' })
    expect(codesOf(result)).toContain('service-not-in-version')
    expect(queriesOf(result)).toMatchObject({ 'app/machine-learning': 'passed: keyless' })
    expect(queriesOf(result)['app/ranking']).toMatch(/^skipped: azure_ai .*(rank|ranking)/)
    expect(statusesOf(result)[`app/${endpointSetting}`]).toBe('skipped')
    expect((await settingsOf(emulator, 'app'))[endpointSetting]).toBeUndefined()
    expect(rankQueries(result)).toEqual([''])
    const again = await apply(emulator, { ...all(), openai: '', cognitive: '', translator: '' })
    expect(again.outputs, again.log).toMatchObject({ result: 'in-sync', changed: 'false' })
  })

  test('an update of the extension adds it in the same run', async () => {
    await ready()
    await set({}, " VERSION '1.3.1'")
    const result = await apply(emulator, { ...only(), 'update-extension': 'true' })
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(codesOf(result)).not.toContain('service-not-in-version')
  })

  test('an extension that is created without it leaves the settings out', async () => {
    await ready({ switches: { lackedFunctions: ['azure_ai.rank'] } })
    const result = await apply(emulator, both())
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'false' })
    expect(statusesOf(result)[`app/${endpointSetting}`]).toBe('skipped')
    expect((await settingsOf(emulator, 'app'))[endpointSetting]).toBeUndefined()
  })
})

describe('chat-deployment', () => {
  const openai = (): Record<string, string> => ({ ...only(), ranking: '', openai: emulator.inputs['openai'] ?? '' })
  const deploy = (model: string) => ({
    shape: (world: typeof emulator.world) => {
      const [account] = world.accounts.filter(({ kind }) => kind === 'OpenAI')
      const [first] = account?.deployments ?? []
      if (account !== undefined && first !== undefined)
        account.deployments = [{ ...structuredClone(first), name: 'talk', model: { ...first.model, name: model } }]
    },
  })

  test('an account with chat deployments only: the reply is shown beside the refusal of an embedding', async () => {
    await ready(deploy('gpt-4.1-mini'))
    const result = await apply(emulator, { ...openai(), 'chat-deployment': 'talk' })
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    const answers = (result.report.queries as { answer: string }[]).map(({ answer }) => answer)
    expect(answers).toEqual(['access granted (the model does not embed)', 'Hello'])
  })

  test('a model that refuses the temperature verifies access', async () => {
    await ready(deploy('gpt-5-mini'))
    const result = await apply(emulator, { ...openai(), 'chat-deployment': 'talk' })
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    const answers = (result.report.queries as { answer: string }[]).map(({ answer }) => answer)
    expect(answers.at(-1)).toBe('access granted (the model does not take the request)')
  })

  test('a deployment that does not exist fails, and nothing is switched', async () => {
    await ready()
    const result = await apply(emulator, { ...openai(), 'chat-deployment': 'nowhere', 'verify-timeout-minutes': '0' })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false' })
    expect(codesOf(result)).toContain('deployment-not-found')
    expect((await settingsOf(emulator, 'app'))['azure_openai.auth_type']).toBeUndefined()
  })

  test('a version without generate leaves it out: the embedding still verifies the family, and the run is not verified', async () => {
    await ready({ switches: { lackedFunctions: ['azure_ai.generate'] } })
    const result = await apply(emulator, { ...openai(), 'chat-deployment': 'talk' })
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'false' })
    const statuses = (result.report.queries as { status: string }[]).map(({ status }) => status)
    expect(statuses).toEqual(['passed', 'skipped'])
  })

  test('without chat-deployment no chat query runs', async () => {
    await ready()
    const result = await apply(emulator, openai())
    expect((result.report.queries as unknown[]).length, result.log).toBe(1)
    expect(emulator.world.exchanges.some(({ url }) => String(url).includes('chat'))).toBe(false)
  })
})
