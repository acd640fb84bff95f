/** A firewall rule that cannot be deleted is not created; where it was, it is overwritten with an unused address. */
import { beforeEach, describe, expect, test } from 'vitest'
import { type JobResult, runJob, runPost } from '../../emulator/runner.ts'
import type { Fault, Lock } from '../../emulator/world.ts'
import { postState } from '../../src/stages/post-state.ts'
import { findingsWith } from '../support/findings.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { begin, checkWithRule, codesOf, serverOf } from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app'] })
beforeEach(() => begin(emulator, { shape: () => Object.assign(serverOf(emulator), { firewallRules: {} }) }))

const nowhere = { startIpAddress: '192.0.2.1', endIpAddress: '192.0.2.1' }
const here = { startIpAddress: '127.0.0.1', endIpAddress: '127.0.0.1' }
const expired = 'gha-aipg-1700000000-0123456789ab'
const { subscriptionId, resourceGroup } = emulator.world
const subscription = `/subscriptions/${subscriptionId}`
const group = `${subscription}/resourceGroups/${resourceGroup}`
const server = emulator.inputs['server'] ?? ''
const deleteAction = 'Microsoft.DBforPostgreSQL/flexibleServers/firewallRules/delete'
const writeAction = 'Microsoft.DBforPostgreSQL/flexibleServers/firewallRules/write'

async function run(): Promise<JobResult> {
  return runJob({
    inputs: checkWithRule(emulator),
    env: emulator.env,
  })
}

const rules = () => serverOf(emulator).firewallRules
const lock = (level: Lock['level'], scope: string): void => void emulator.world.locks.push({ name: 'keep', scope, level })
const deny = (...actions: string[]): void =>
  void emulator.world.denyAssignments.push({ id: 'd0', name: 'no deletions', scope: group, actions })

/** Locks that cannot be listed: the look-up gets this answer. */
function hideLocks(fault: Fault): void {
  emulator.world.fault = ({ method, url }) => (method === 'GET' && /\/locks\?/.test(url) ? fault : undefined)
}
const refused: Fault = {
  kind: 'answer',
  status: 403,
  body: JSON.stringify({ error: { code: 'AuthorizationFailed', message: "action 'Microsoft.Authorization/locks/read'" } }),
}
const writes = (): string[] => emulator.writes().map(({ method }) => method)

describe('a lock that forbids the deletion', () => {
  test.each<[Lock['level'], string, string]>([
    ['CanNotDelete', 'the server', server],
    ['CanNotDelete', 'the resource group', group],
    ['CanNotDelete', 'the subscription', subscription],
    ['ReadOnly', 'the server', server],
    ['ReadOnly', 'the resource group, in other letters', group.toUpperCase()],
  ])('%s on %s: no rule is created, and the finding names the lock', async (level, _, scope) => {
    lock(level, scope)
    const result = await run()
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'azure', changed: 'false' })
    const id = `${scope}/providers/Microsoft.Authorization/locks/keep`
    const [finding] = result.report.findings
    expect(finding).toMatchObject({ code: 'firewall-locked', detail: expect.stringContaining(id) })
    expect(finding.fix).toContain(`az lock delete --ids "${id}"`)
    expect([emulator.writes(), rules()]).toEqual([[], {}])
    expect(await result.post()).toMatchObject({ code: 0, raw: '' })
    await result.remove()
  })

  test('of another resource does not matter', async () => {
    lock('CanNotDelete', `${server}/databases/app`)
    lock('CanNotDelete', `${server}/firewallRules/office`)
    lock('ReadOnly', `${server}-other`)
    lock('ReadOnly', emulator.inputs['openai'] ?? '')
    const result = await run()
    expect(result.code, result.log).toBe(0)
    expect(Object.values(rules())).toEqual([here])
    await result.post()
    expect(rules()).toEqual({})
    await result.remove()
  })

  test.each<[string, Fault]>([
    ['is refused', refused],
    ['is not found', { kind: 'answer', status: 404, body: '{"error":{"code":"NotFound","message":"no"}}' }],
    ['fails', { kind: 'answer', status: 500, body: '{"error":{"code":"InternalServerError","message":"no"}}' }],
    ['is a page', { kind: 'answer', status: 200, body: '<html>' }],
    ['never ends', { kind: 'hang' }],
    ['leads elsewhere', { kind: 'answer', status: 200, body: '{"value":[],"nextLink":"https://localhost:1/x"}' }],
    ['is nonsense', { kind: 'answer', status: 200, body: '{"value":[{},{"id":"/","properties":null}]}' }],
  ])('whose look-up %s: the rule is created, and deleted after the job', async (_, fault) => {
    hideLocks(fault)
    const result = await run()
    expect(result.code, result.log).toBe(0)
    expect(Object.values(rules())).toEqual([here])
    await result.post()
    expect(rules()).toEqual({})
    await result.remove()
  })

  test('whose list has no end: a bounded number of pages is read', async () => {
    const page = {
      kind: 'answer' as const,
      status: 200,
      body: JSON.stringify({ value: [], nextLink: `${emulator.url}${server}/locks?p=1` }),
    }
    let lookUps = 0
    emulator.world.fault = ({ method, url }) => (method === 'GET' && /\/locks\?/.test(url) && ++lookUps > 0 ? page : undefined)
    const result = await run()
    expect(result.code, result.log).toBe(0)
    expect(lookUps).toBeLessThanOrEqual(10)
    await result.post()
    await result.remove()
  })
})

describe('the post step, when its rule cannot be deleted,', () => {
  test.each<[string, () => void]>([
    ['for a lock that it could not see', () => lock('CanNotDelete', group)],
    ['for a deny assignment', () => deny(deleteAction)],
  ])('%s: overwrites it with an unused address, and warns', async (_, forbid) => {
    hideLocks(refused)
    const result = await run()
    expect(result.code, result.log).toBe(0)
    const [rule = ''] = Object.keys(rules())
    forbid()
    emulator.world.exchanges.length = 0
    const post = await result.post()
    expect(post.code).toBe(0)
    expect(rules()).toEqual({ [rule]: nowhere })
    expect(writes()).toEqual(['DELETE', 'PUT'])
    const [warning = ''] = post.raw.match(/^::warning title=A firewall rule was left behind::.*$/m) ?? []
    expect(warning).toContain('192.0.2.1')
    expect(warning).toContain(`az postgres flexible-server firewall-rule delete`)
    expect(warning).toContain(`--name ${rule} --yes`)
    await result.remove()

    // The remaining rule fails no later run, which opens the server as usual.
    emulator.world.locks.length = 0
    emulator.world.denyAssignments.length = 0
    const later = await run()
    expect(later.code, later.log).toBe(0)
    expect(Object.values(rules())).toEqual([nowhere, here])
    await later.post()
    expect(rules()).toEqual({ [rule]: nowhere })
    await later.remove()
  })

  test('nor overwritten: it warns with the command, and never fails the job', async () => {
    const result = await run()
    const [rule = ''] = Object.keys(rules())
    deny(deleteAction, writeAction)
    const post = await result.post()
    expect(post.code).toBe(0)
    expect(rules()).toEqual({ [rule]: here })
    expect(post.raw).toMatch(/^::warning title=A firewall rule was left behind::.*deny assignment/m)
    expect(post.raw).toContain(`--name ${rule} --yes`)
    await result.remove()
  })

  test('and does not exist: it creates none', async () => {
    const { environment, 'tenant-id': tenant, 'client-id': client, audience } = emulator.inputs
    const state = {
      run: '4711',
      rule: expired,
      created: true,
      server,
      environment,
      'tenant-id': tenant,
      'client-id': client,
      audience,
    }
    lock('CanNotDelete', server)
    const post = await runPost({ [postState]: JSON.stringify(state) }, { env: emulator.env })
    expect([post.code, writes(), rules()]).toEqual([0, ['DELETE'], {}])
    await post.remove()
  })
})

describe('an expired rule of an earlier run that cannot be deleted', () => {
  const finding = (result: JobResult) => findingsWith(result, 'firewall-rule-left')[0]

  test('is overwritten with a warning once, and a notice from then on; no run fails', async () => {
    rules()[expired] = here
    deny(deleteAction)
    await emulator.refresh()
    const first = await run()
    expect(first.code, first.log).toBe(0)
    expect(rules()).toMatchObject({ [expired]: nowhere })
    expect(finding(first)).toMatchObject({
      severity: 'warning',
      detail: expect.stringMatching(/deny assignment.*192\.0\.2\.1/),
      fix: expect.stringContaining(`--name ${expired} --yes`),
    })
    await first.remove()

    emulator.world.exchanges.length = 0
    const second = await run()
    expect(second.code, second.log).toBe(0)
    expect(finding(second)).toMatchObject({ severity: 'notice' })
    expect(second.raw).not.toMatch(/^::(warning|error)/m)
    // One attempt to delete it, and the rule of its own.
    expect(writes().sort()).toEqual(['DELETE', 'PUT'])
    await second.remove()
  })

  test('nor overwritten: a warning that it is still open', async () => {
    rules()[expired] = { startIpAddress: '203.0.113.1', endIpAddress: '203.0.113.1' }
    rules()['office'] = here
    deny(deleteAction, writeAction)
    await emulator.refresh()
    const result = await run()
    expect(result.code, result.log).toBe(0)
    expect(finding(result)).toMatchObject({
      severity: 'warning',
      detail: expect.stringContaining('still opens the server to 203.0.113.1'),
    })
    await result.remove()
  })

  test('and allows this runner, with a visible lock: it is closed, and the run names the lock', async () => {
    rules()[expired] = here
    lock('CanNotDelete', server)
    await emulator.refresh()
    const result = await run()
    expect(codesOf(result), result.log).toEqual(expect.arrayContaining(['firewall-locked', 'firewall-rule-left']))
    expect(rules()).toEqual({ [expired]: nowhere })
    await result.remove()
  })
})
