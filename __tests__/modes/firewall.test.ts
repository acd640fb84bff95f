import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/index.ts'
import { type Job, type JobResult, runJob, runPost, startJob } from '../../emulator/runner.ts'
import type { ResourceManager } from '../../src/azure/resource-manager.ts'
import { Failure } from '../../src/errors/failure.ts'
import type { Connector } from '../../src/postgres/connection.ts'
import { openFirewall } from '../../src/stages/firewall.ts'
import { postState } from '../../src/stages/post-state.ts'
import { hurried, noPauses } from '../support/clock.ts'
import { begin, codesOf, emulate, observedServer, parsed, serverOf, statusesOf, usual } from '../support/support.ts'
import { httpFaults } from '../support/sweep/sweep.ts'

let emulator: Emulator
const ended: JobResult[] = []

beforeAll(async () => {
  emulator = await emulate({ databases: ['app'] })
})
beforeEach(() => closed())
afterAll(async () => {
  await Promise.all(ended.map((job) => job.remove()))
  await emulator?.stop()
})

/** A server whose firewall blocks every address. */
function closed(beginning: Parameters<typeof begin>[1] = {}): Promise<void> {
  return begin(emulator, { ...beginning, shape: (world) => Object.assign(world.servers[0] ?? {}, { firewallRules: {} }) })
}

const ruleInputs = {
  'temporary-firewall-rule': 'true',
  mode: 'check',
  'fail-on-drift': 'false',
  cognitive: '',
  translator: '',
  'machine-learning': '',
  'machine-learning-input': '',
}

const optionsOf = (inputs: Record<string, string>, env: Record<string, string> = {}) => ({
  inputs: { ...emulator.inputs, ...usual, ...ruleInputs, ...inputs },
  env: { ...emulator.env, ...env },
})

async function run(inputs: Record<string, string> = {}, env: Record<string, string> = {}): Promise<JobResult> {
  const result = await runJob(optionsOf(inputs, env))
  ended.push(result)
  return result
}

async function begun(inputs: Record<string, string> = {}, onLine?: (line: string) => void): Promise<Job> {
  const job = await startJob({ ...optionsOf(inputs), ...(onLine === undefined ? {} : { onLine }) })
  void job.done.then((result) => ended.push(result))
  return job
}

const rules = (): string[] => Object.keys(serverOf(emulator).firewallRules)
const ours = /^gha-aipg-(\d{10})-[0-9a-f]{12}$/
const inSeconds = (seconds: number): number => Math.floor(Date.now() / 1_000) + seconds
const savedBy = (folder: string): string => readFileSync(join(folder, 'state'), 'utf8')
/** A state of the main step, with some of its values changed. */
const stateOf = (changes: Record<string, unknown>): string => {
  const { server = '', environment, 'tenant-id': tenant, 'client-id': client, audience } = emulator.inputs
  return JSON.stringify({ run: '4711', server, environment, 'tenant-id': tenant, 'client-id': client, audience, ...changes })
}
const summaryOf = (folder: string): string => readFileSync(join(folder, 'summary.md'), 'utf8')
/** Markdown as a reader sees it: references resolved, line-break hints left out. */
const shown = (markdown: string): string =>
  markdown.replaceAll('<wbr>', '').replaceAll(/&#(\d+);/g, (_, code: string) => String.fromCodePoint(Number(code)))
/** Name of the rule that a request is about. */
const ruleIn = (url: string): string => /\/firewallRules\/([^/?]+)/i.exec(url)?.[1] ?? ''

describe('a run that the firewall blocks', () => {
  test('opens the server to the address of its refusal, works, and the post step closes it', async () => {
    let stateBefore = ''
    let folder = ''
    emulator.world.fault = ({ method, url }) => {
      if (method === 'PUT' && ruleIn(url) !== '') stateBefore = savedBy(folder)
      return undefined
    }
    const before = Date.now()
    const job = await begun()
    folder = job.folder
    const result = await job.done
    expect(result.code, result.log).toBe(0)
    expect(result.outputs).toMatchObject({ result: 'drift', changed: 'false', 'failure-reason': 'drift' })
    const [rule = ''] = rules()
    expect(rules()).toHaveLength(1)
    expect(rule).toMatch(ours)
    expect(serverOf(emulator).firewallRules[rule]).toEqual({ startIpAddress: '127.0.0.1', endIpAddress: '127.0.0.1' })
    const expiry = Number(ours.exec(rule)?.[1]) * 1_000
    expect(expiry).toBeGreaterThan(before + 60 * 60_000)
    expect(expiry).toBeLessThan(before + 3 * 60 * 60_000)
    // The name was saved before the rule was requested.
    expect(stateBefore).toContain(rule)
    expect(emulator.writes().map(({ method, url }) => [method, ruleIn(url)])).toEqual([['PUT', rule]])
    expect(statusesOf(result)).toMatchObject({ firewall: 'created', 'allow-list': 'different' })
    expect(shown(result.summary)).toMatch(new RegExp(`${rule}, opened \\d{4}-\\d\\d-\\d\\dT[\\d:.]+Z`))
    expect(shown(result.summary)).toContain('127.0.0.1')

    const post = await result.post()
    expect(post.code).toBe(0)
    expect(rules()).toEqual([])
    expect(shown(summaryOf(job.folder))).toMatch(new RegExp(`closed to this runner again: rule .*${rule}.* removed at \\d{4}-`))
    // A second post step has nothing to do.
    expect((await result.post()).code).toBe(0)
  })

  test('in verify: the rule is no change, and the queries run', async () => {
    const set = await run({ mode: 'apply' })
    expect(set.outputs, set.log).toMatchObject({ result: 'changed', verified: 'true' })
    await set.post()
    expect(rules()).toEqual([])
    emulator.world.exchanges.length = 0
    const result = await run({ mode: 'verify' })
    expect(result.outputs, result.log).toMatchObject({ result: 'in-sync', changed: 'false', verified: 'true', drift: 'false' })
    expect(emulator.writes().every(({ url }) => ruleIn(url) !== '')).toBe(true)
    await result.post()
    expect(rules()).toEqual([])
    expect(serverOf(emulator).restarts).toBe(1)
  })

  test('that fails for another reason is closed by the post step as well', async () => {
    const result = await run({ databases: 'nowhere', mode: 'apply' })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', changed: 'false' })
    expect(rules()).toHaveLength(1)
    expect((await result.post()).code).toBe(0)
    expect(rules()).toEqual([])
  })

  test('waits while the rule takes effect', async () => {
    await closed({ delays: { firewallPropagation: 3_000 } })
    const result = await run()
    expect(result.code, result.log).toBe(0)
    expect(result.log).toContain('… waiting for the firewall rule to take effect')
    await result.post()
  })

  test('waits while the server is busy, when it opens and when it closes', async () => {
    const busy = { error: { code: 'ServerIsBusy', message: "Server 'pg-contoso' is busy processing another operation." } }
    const methods: string[] = []
    emulator.world.fault = ({ method, url }) => {
      if (ruleIn(url) === '' || method === 'GET') return undefined
      methods.push(method)
      return methods.filter((each) => each === method).length <= 2
        ? { kind: 'answer', status: 409, body: JSON.stringify(busy) }
        : undefined
    }
    const result = await run({}, noPauses())
    expect(result.code, result.log).toBe(0)
    expect(rules()).toHaveLength(1)
    expect((await result.post()).code).toBe(0)
    expect(rules()).toEqual([])
    expect(methods).toEqual(['PUT', 'PUT', 'PUT', 'DELETE', 'DELETE', 'DELETE'])
  })

  test('does not disturb a second run, and neither do their post steps', async () => {
    const [one, two] = await Promise.all([run(), run()])
    expect([one.code, two.code], `${one.log}\n${two.log}`).toEqual([0, 0])
    const both = rules()
    expect(both).toHaveLength(2)
    await one.post()
    expect(rules()).toHaveLength(1)
    expect(savedBy(two.folder)).toContain(rules()[0])
    await two.post()
    expect(rules()).toEqual([])
  })
})

describe('no rule is created', () => {
  test('where the server allows the runner', async () => {
    await begin(emulator)
    const result = await run()
    expect(result.code, result.log).toBe(0)
    expect(emulator.writes()).toEqual([])
    expect(statusesOf(result)['firewall']).toBe('in-sync')
    expect(await result.post()).toMatchObject({ code: 0 })
    expect(rules()).toEqual(['allow-runner'])
  })

  test('where the input does not allow it', async () => {
    const result = await run({ 'temporary-firewall-rule': 'false' })
    expect(codesOf(result)).toContain('firewall')
    expect(emulator.writes()).toEqual([])
  })

  test('for a server whose public access is Disabled', async () => {
    serverOf(emulator).network.publicNetworkAccess = 'Disabled'
    await emulator.refresh()
    const result = await run()
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'azure', changed: 'false' })
    const [finding] = result.report.findings
    expect(finding).toMatchObject({ code: 'no-public-access', detail: expect.stringContaining('Disabled') })
    expect(finding.fix).toContain('self-hosted runner')
    expect(finding.fix).toContain('private networking')
    expect(emulator.writes()).toEqual([])
    expect(savedBy(result.folder)).not.toContain('gha-aipg')
  })

  /** Opens the firewall alone, for a server that refuses with this failure. */
  function openRefused(code: Failure['code'], text: string, server: Parameters<typeof observedServer>[0], inputs = {}) {
    const requested: string[] = []
    const refusal = new Failure({ reason: 'network', code, title: '', detail: '', fix: '' }, new Error(text))
    const connector = { connect: () => Promise.reject(refusal), failure: () => refusal } as unknown as Connector
    const azure = {
      firewallRules: async () => [],
      createFirewallRule: async (rule: string, address: string) => void requested.push(`${rule} ${address}`),
    } as unknown as ResourceManager
    const opened = openFirewall({
      inputs: parsed({ 'temporary-firewall-rule': 'true', ...inputs }),
      server: observedServer(server),
      azure,
      connector,
      log: { debug() {}, info() {}, result() {}, secret() {}, group: (_, body) => body() },
      signal: AbortSignal.timeout(2_000),
      remember: (rule) => void requested.push(rule),
      finding() {},
    })
    return { opened, requested }
  }

  test('for a server in a virtual network', async () => {
    const { opened, requested } = openRefused('connection-timeout', 'timeout expired', { inVirtualNetwork: true })
    await expect(opened).rejects.toMatchObject({ code: 'no-public-access', fix: expect.stringContaining('self-hosted runner') })
    expect(requested).toEqual([])
  })

  test('for an IPv6 address', async () => {
    const text = 'no pg_hba.conf entry for host "2001:db8::7", user "u", database "d", SSL encryption'
    const { opened, requested } = openRefused('firewall', text, {})
    await expect(opened).rejects.toMatchObject({ code: 'ipv6-runner' })
    expect(requested).toEqual([])
  })

  test("the address is that of the refusal, whatever `runner-ip` is, and not the server's", async () => {
    const text = 'no pg_hba.conf entry for host "203.0.113.7", user "u", database "d", SSL encryption'
    const { opened, requested } = openRefused('firewall', text, {}, { 'runner-ip': '198.51.100.9' })
    // This server never allows the connection, so the signal ends the wait.
    await expect(opened).rejects.toBeDefined()
    const [kept = '', made = ''] = requested
    expect(kept).toMatch(ours)
    expect(made).toBe(`${kept} 203.0.113.7`)
  })
})

describe('a server that does not answer', () => {
  test('needs `runner-ip`, and is opened with it', async () => {
    await closed({ switches: { silentFirewall: true } })
    // The action waits 15 seconds for a connection, which is how it detects a firewall that drops packets; three are enough here.
    const clock = hurried([[15_000, 15_000, 3_000]])
    const [without, withAddress] = await Promise.all([run({}, clock), run({ 'runner-ip': '127.0.0.1' }, clock)])
    expect(without.outputs, without.log).toMatchObject({ result: 'failed', 'failure-reason': 'input' })
    expect(without.report.findings[0]).toMatchObject({ code: 'runner-ip-needed', fix: expect.stringContaining('`runner-ip`') })
    expect(withAddress.code, withAddress.log).toBe(0)
    expect(emulator.writes()).toHaveLength(1)
    await Promise.all([without.post(), withAddress.post()])
    expect(rules()).toEqual([])
  })
})

describe('rules of others', () => {
  const foreign = {
    'office-1': { startIpAddress: '192.0.2.1', endIpAddress: '192.0.2.9' },
    'gha-aipg-backup': { startIpAddress: '192.0.2.10', endIpAddress: '192.0.2.10' },
    'gha-aipg-1-000000000000x': { startIpAddress: '192.0.2.11', endIpAddress: '192.0.2.11' },
  }

  test('stay; expired rules of this action are deleted, valid ones stay', async () => {
    const expired = `gha-aipg-${inSeconds(-60)}-0123456789ab`
    const living = `gha-aipg-${inSeconds(600)}-ba9876543210`
    const address = { startIpAddress: '192.0.2.20', endIpAddress: '192.0.2.20' }
    serverOf(emulator).firewallRules = { ...foreign, [expired]: address, [living]: address }
    await emulator.refresh()
    const result = await run()
    expect(result.code, result.log).toBe(0)
    await result.post()
    expect(rules().sort()).toEqual([...Object.keys(foreign), living].sort())
  })

  test('an expired one that allows this runner is deleted too, and the run creates its own', async () => {
    const expired = `gha-aipg-${inSeconds(-60)}-0123456789ab`
    serverOf(emulator).firewallRules = { [expired]: { startIpAddress: '127.0.0.1', endIpAddress: '127.0.0.1' } }
    await emulator.refresh()
    const result = await run()
    expect(result.code, result.log).toBe(0)
    expect(rules()).toHaveLength(1)
    expect(rules()).not.toContain(expired)
    await result.post()
    expect(rules()).toEqual([])
  })
})

describe('the post step never fails the job', () => {
  test.each([
    ['may not remove the rule', 'DELETE', 403, /flexibleServers\/firewallRules\/delete/],
    ['cannot sign in any more', 'GET', 401, /OIDC token is not available/],
  ])('when it %s: it warns with the command', async (_, method, status, why) => {
    const result = await run({}, noPauses())
    const [rule = ''] = rules()
    const text = `The client 'a' with object id 'b' does not have authorization to perform action 'Microsoft.DBforPostgreSQL/flexibleServers/firewallRules/delete' over scope '/s' or the scope is invalid.`
    emulator.world.fault = (request) =>
      request.method === method && (method === 'DELETE' || request.plane === 'github')
        ? { kind: 'answer', status, body: JSON.stringify({ error: { code: 'AuthorizationFailed', message: text } }) }
        : undefined
    const post = await result.post()
    expect(post.code).toBe(0)
    expect(post.raw).toMatch(/^::warning title=A firewall rule was left behind::/m)
    expect(post.raw).toMatch(why)
    expect(post.raw).toContain(
      `az postgres flexible-server firewall-rule delete --resource-group rg-contoso-ai --server-name pg-contoso --name ${rule} --yes`,
    )
    expect(rules()).toEqual([rule])
  })

  test('when an error is not retried elsewhere: the post step starts again, and the rule is deleted', async () => {
    const result = await run()
    let refused = 0
    emulator.world.fault = ({ url }) =>
      url.includes('openid-configuration') && refused++ === 0 ? httpFaults['409-busy'] : undefined
    const post = await result.post()
    expect(refused, post.raw).toBeGreaterThan(1)
    expect(post.raw).toMatch(/the rule could not be removed: .*again from the login on/)
    expect(post.raw).not.toContain('::warning')
    expect(rules()).toEqual([])
  })

  test('when Azure does not respond', async () => {
    const left = {
      rule: 'gha-aipg-1000000000-0123456789ab',
      created: true,
      environment: 'https://localhost:1',
    }
    const result = await runPost({ [postState]: stateOf(left) }, { env: { ...emulator.env, ...noPauses() } })
    await result.remove()
    expect(result.code, result.raw).toBe(0)
    expect(result.raw).toContain('--name gha-aipg-1000000000-0123456789ab --yes')
    expect(result.raw).toContain('could not be removed')
  })
})

describe('a run that is interrupted', () => {
  test('by SIGINT while the rule takes effect: within five seconds, cancelled, and the post step removes the rule', async () => {
    await closed({ delays: { firewallPropagation: Number.POSITIVE_INFINITY } })
    let sent = 0
    const job = await begun({}, (line) => {
      if (sent > 0 || !line.includes('… waiting for the firewall rule')) return
      sent = performance.now()
      job.child.kill('SIGINT')
    })
    const result = await job.done
    expect(performance.now() - sent).toBeLessThan(5_000)
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'cancelled', changed: 'false' })
    expect(rules()).toHaveLength(1)
    expect((await result.post()).code).toBe(0)
    expect(rules()).toEqual([])
  })

  test('by SIGINT while the rule is created', async () => {
    await closed({ delays: { operation: 1_500 } })
    let running: Job | undefined
    let sent = 0
    emulator.world.fault = ({ method, url }) => {
      if (method === 'PUT' && ruleIn(url) !== '' && sent === 0) {
        sent = performance.now()
        setTimeout(() => running?.child.kill('SIGINT'), 300)
      }
      return undefined
    }
    running = await begun()
    const result = await running.done
    expect(performance.now() - sent).toBeLessThan(5_000)
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'cancelled' })
    expect((await result.post()).code).toBe(0)
    expect(rules()).toEqual([])
  })

  const times = 50
  test(`by SIGKILL at a random moment after the rule was requested: the post step leaves none, ${times} times out of ${times}`, async () => {
    // A run that is not killed has to wait for its rule: three moments in ten at least come before its end.
    await closed({ delays: { operation: 40, firewallPropagation: 200 } })
    const random = seeded(20_261_124)
    const running = new Set<Job>()
    emulator.world.fault = ({ method, url }) => {
      if (method !== 'PUT' || ruleIn(url) === '') return undefined
      const job = [...running].find(({ folder }) => existsSync(join(folder, 'state')) && savedBy(folder).includes(ruleIn(url)))
      // From the moment it is on its way to some time after it is there; a few runs are done by then.
      const poll = setInterval(() => {
        const answers = emulator.world.exchanges
          .filter((each) => each.method === 'PUT' && each.url === url)
          .map(({ status }) => status)
        if (answers.includes(0)) return
        clearInterval(poll)
        if (answers.includes(202)) setTimeout(() => job?.child.kill('SIGKILL'), Math.floor(random() * 600))
      }, 2)
      return undefined
    }
    const outcomes = { killed: 0, done: 0 }
    let left = times
    const worker = async (): Promise<void> => {
      while (left-- > 0) {
        const job = await begun()
        running.add(job)
        const result = await job.done
        running.delete(job)
        outcomes[result.signal === 'SIGKILL' ? 'killed' : 'done']++
        const rule = /gha-aipg-\d+-[0-9a-f]{12}/.exec(savedBy(job.folder))?.[0] ?? ''
        // A run that another run's rule allows also has one of its own.
        expect(rule, result.log).not.toBe('')
        const post = await result.post()
        expect(post.code, post.raw).toBe(0)
        expect(rules()).not.toContain(rule)
      }
    }
    await Promise.all(Array.from({ length: 6 }, worker))
    expect(rules()).toEqual([])
    expect(outcomes.killed).toBeGreaterThan(times / 5)
    const made = emulator.writes().filter(({ method, url, status }) => method === 'PUT' && ruleIn(url) !== '' && status === 202)
    expect(new Set(made.map(({ url }) => ruleIn(url))).size).toBe(times)
  }, 240_000)
})

/** Numbers from 0 to 1, the same ones for the same seed (mulberry32). */
function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}
