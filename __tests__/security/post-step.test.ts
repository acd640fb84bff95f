/** The post step acts on the state of the main step of its own run; no variable, input or state of another step changes that. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import { type JobOptions, type JobResult, type PostOptions, runJob, runPost } from '../../emulator/runner.ts'
import { postState } from '../../src/stages/post-state.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { begin, checkWithRule, serverOf } from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app'] })
const office = { startIpAddress: '203.0.113.1', endIpAddress: '203.0.113.9' }

beforeEach(() =>
  begin(emulator, {
    shape: (world) => {
      const own = serverOf(emulator)
      world.servers.push({ ...structuredClone(own), id: `${own.id}-other`, name: `${own.name}-other` })
      for (const server of world.servers) server.firewallRules = { AllowOffice: office }
    },
  }),
)

const inputsOf = (inputs: Record<string, string> = {}): Record<string, string> => ({
  ...checkWithRule(emulator),
  ...inputs,
})

async function run(options: Partial<JobOptions> = {}): Promise<JobResult> {
  return runJob({ inputs: inputsOf(), env: emulator.env, ...options })
}

const rulesOf = (index: number): string[] => Object.keys(emulator.world.servers[index]?.firewallRules ?? {})
const temporary = expect.stringMatching(/^gha-aipg-\d{10}-[0-9a-f]{12}$/)
const stateIn = ({ folder }: JobResult): string => readFileSync(join(folder, 'state'), 'utf8')

describe('variables that another step wrote', () => {
  const planted = {
    STATE_isPost: 'true',
    'STATE_firewall-rule': 'AllowOffice',
    'STATE_firewall-rule-made': 'true',
  }

  test.each<[string, Partial<JobOptions>]>([
    ['into GITHUB_ENV', { exported: planted }],
    ['into the env of the job', {}],
  ])('%s do not turn the main step into the post step', async (_, options) => {
    const result = await run('exported' in options ? options : { env: { ...emulator.env, ...planted } })
    expect(result.outputs, result.log).toMatchObject({ result: 'drift' })
    expect(rulesOf(0)).toEqual(['AllowOffice', temporary])
    expect((await result.post()).code).toBe(0)
    expect(rulesOf(0)).toEqual(['AllowOffice'])
    await result.remove()
  })

  test('do not turn the post step into the main step', async () => {
    const result = await run()
    emulator.world.exchanges.length = 0
    const post = await result.post({ exported: { STATE_isPost: '', 'STATE_firewall-rule': '', INPUT_MODE: 'apply' } })
    expect(post.code, post.raw).toBe(0)
    expect(rulesOf(0)).toEqual(['AllowOffice'])
    expect(emulator.writes().map(({ method }) => method)).toEqual(['DELETE'])
    await result.remove()
  })

  test('do not replace a state of the main step, an empty one included', async () => {
    const victim = 'gha-aipg-1000000000-0123456789ab'
    serverOf(emulator).firewallRules = { [victim]: { startIpAddress: '127.0.0.1', endIpAddress: '127.0.0.1' } }
    await emulator.refresh()
    const exported = { [`STATE_${postState}`]: state({ rule: victim }), 'STATE_firewall-rule': victim }
    const result = await run({ inputs: inputsOf({ 'temporary-firewall-rule': 'false' }), exported })
    const post = await result.post({ exported })
    expect([post.code, post.raw]).toEqual([0, ''])
    expect(rulesOf(0)).toEqual([victim])
    await result.remove()
  })
})

describe('the inputs of the post step', () => {
  const other = (): string => emulator.world.servers[1]?.id ?? ''

  test.each<[string, () => PostOptions]>([
    ['absent, as inside nested composite actions', () => ({ inputs: 'none' })],
    ['those of another server', () => ({ inputs: inputsOf({ server: other() }) })],
    [
      'those of another login',
      () => ({ inputs: inputsOf({ 'tenant-id': '', 'client-id': '', environment: 'https://localhost:1' }) }),
    ],
    ['wrong', () => ({ inputs: inputsOf({ mode: '', server: 'x', databases: '*' }) })],
  ])('%s: the rule of the main step is removed', async (_, options) => {
    const result = await run()
    expect(rulesOf(0), result.log).toEqual(['AllowOffice', temporary])
    const [, rule = ''] = rulesOf(0)
    // A rule of the same name on the other server belongs to its own run.
    const twin = emulator.world.servers[1]
    if (twin !== undefined) twin.firewallRules[rule] = office
    const post = await result.post(options())
    expect([post.code, post.raw]).toEqual([0, expect.stringContaining(`Removed the temporary firewall rule ${rule}`)])
    expect(post.raw).not.toContain('::warning')
    expect([rulesOf(0), rulesOf(1)]).toEqual([['AllowOffice'], ['AllowOffice', rule]])
    await result.remove()
  })
})

/** A state as the main step writes it, with some of its values changed. */
function state(changes: Record<string, unknown> = {}): string {
  const { server, environment, 'tenant-id': tenant, 'client-id': client, audience } = emulator.inputs
  const rule = 'gha-aipg-1000000000-0123456789ab'
  return JSON.stringify({
    run: '4711',
    rule,
    created: true,
    server,
    environment,
    'tenant-id': tenant,
    'client-id': client,
    audience,
    ...changes,
  })
}

describe('the state', () => {
  test('contains no secret, whatever the login is', async () => {
    const secrets = ['a-client-secret-0123456789', 'a-database-password', 'a-github-token-0123456789']
    const [secret = '', password = '', token = ''] = secrets
    const result = await run({
      inputs: inputsOf({ 'database-user': 'pgadmin', 'database-password': password, 'github-token': token }),
      env: { ...emulator.env, AZURE_CLIENT_SECRET: secret },
    })
    expect(stateIn(result)).toContain('gha-aipg-')
    for (const each of [...secrets, ...result.masked]) expect(stateIn(result)).not.toContain(each)
    await result.post()
    await result.remove()
  })

  test.each<[string, () => string]>([
    ['a rule of another workflow run', () => state({ run: '4712' })],
    ['a rule of others', () => state({ rule: 'AllowOffice' })],
    ['a rule that only begins like ours', () => state({ rule: 'gha-aipg-1000000000-0123456789ab/../../AllowOffice' })],
    ['a rule and a line more', () => state({ rule: 'gha-aipg-1000000000-0123456789ab\n' })],
    ['another kind of resource', () => state({ server: emulator.inputs['openai'] })],
    ['a server that leads elsewhere', () => state({ server: `${emulator.inputs['server']}/../other` })],
    ['a cloud without https', () => state({ environment: 'http://localhost' })],
    ['a cloud that is not known', () => state({ environment: 'AzureElsewhere' })],
    ['half a login', () => state({ 'client-id': '' })],
    ['a tenant that is a path', () => state({ 'tenant-id': 'a/../b' })],
    ['no text where one belongs', () => state({ environment: null })],
    ['a list', () => '[]'],
    ['no JSON', () => '{"rule":'],
    ['longer than any state', () => state({ audience: 'x'.repeat(65_000) })],
  ])('%s: nothing is sent, and a warning explains why', async (_, text) => {
    serverOf(emulator).firewallRules['gha-aipg-1000000000-0123456789ab'] = office
    const post = await runPost({ [postState]: text() }, { env: emulator.env, inputs: inputsOf() })
    expect([post.code, post.raw]).toEqual([0, expect.stringMatching(/^::warning title=A firewall rule was left behind::/)])
    expect(post.raw.trim().split('\n')).toHaveLength(1)
    expect(emulator.world.exchanges).toEqual([])
    expect(rulesOf(0)).toEqual(['AllowOffice', 'gha-aipg-1000000000-0123456789ab'])
    await post.remove()
  })

  test('of a main step that was killed immediately: the post step does nothing', async () => {
    const post = await runPost({}, { env: emulator.env })
    expect([post.code, post.raw]).toEqual([0, ''])
    await post.remove()
  })
})
