/** The one retry policy, its tables, the time limits of requests and statements, and the limit of a whole run. */
import { readdirSync, readFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { createServer, connect as dial, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { parse } from 'yaml'
import type { Emulator } from '../../emulator/index.ts'
import { type JobResult, runJob } from '../../emulator/runner.ts'
import { examples, jobMinutes, withRetries } from '../../scripts/retries.ts'
import type { ScopePart } from '../../src/core/inventory-scope.ts'
import { allowances, runBudgetMs } from '../../src/core/time-limit.ts'
import { httpRows, retryAfterMs, type Seen, verdictOn } from '../../src/lib/http-retries.ts'
import {
  busy,
  limited,
  renewed,
  replication,
  retrying,
  spread,
  throttled,
  transient,
  unreachable,
  waitOf,
} from '../../src/lib/retry.ts'
import { sqlRows, verdictOnSql } from '../../src/postgres/again.ts'
import { hurried } from '../support/clock.ts'
import {
  begin,
  codesOf,
  emulate,
  giveIdentity,
  giveRoles,
  parsed,
  removeJobs,
  settingsOf,
  usual,
  workWithKeys,
} from '../support/support.ts'

const root = join(import.meta.dirname, '..', '..')

describe('Retry-After', () => {
  const now = Date.UTC(2026, 10, 24, 9, 0, 0)
  const waitFor = (headers: Record<string, string>) => retryAfterMs((name) => headers[name], now)

  test.each([
    [{ 'retry-after': '7' }, 7_000],
    [{ 'retry-after': ' 7 ' }, 7_000],
    [{ 'retry-after': '0' }, 0],
    [{ 'retry-after': 'Tue, 24 Nov 2026 09:01:30 GMT' }, 90_000],
    [{ 'retry-after': 'Tue, 24 Nov 2026 08:00:00 GMT' }, 0],
    [{ 'retry-after': 'Tue, 24 Nov 2026 09:01:30 GMT', date: 'Tue, 24 Nov 2026 09:01:00 GMT' }, 30_000],
    [{ 'retry-after-ms': '250' }, 250],
    [{ 'x-ms-retry-after-ms': '1500.5', 'retry-after': '60' }, 1_500.5],
    [{ 'retry-after': '-5' }, undefined],
    [{ 'retry-after': 'soon' }, undefined],
    [{ 'retry-after': '' }, undefined],
    [{ 'retry-after': '1e3' }, undefined],
    [{}, undefined],
  ])('%j', (headers, ms) => expect(waitFor(headers)).toBe(ms))

  test('the wait is never shorter and up to a quarter longer, up to the cap; without the header the policy decides', () => {
    for (const random of [() => 0, () => 0.5, () => 0.999]) {
      const wait = waitOf({ schedule: throttled, afterMs: 8_000 }, 1, random)
      expect(wait).toBeGreaterThanOrEqual(8_000)
      expect(wait).toBeLessThanOrEqual(10_000)
      for (const absurd of [86_400_000, 1e300, Number.POSITIVE_INFINITY]) {
        const capped = waitOf({ schedule: throttled, afterMs: absurd }, 1, random)
        expect(capped).toBeGreaterThanOrEqual(throttled.capMs)
        expect(capped).toBeLessThanOrEqual(throttled.capMs * 1.25)
      }
      for (const nothing of [undefined, 0, -1, Number.NaN]) {
        const own = waitOf({ schedule: throttled, afterMs: nothing }, 2, random)
        expect(own).toBeGreaterThanOrEqual(3_000)
        expect(own).toBeLessThanOrEqual(5_000)
      }
    }
  })

  test('20 runs with the same value wait differently long', () => {
    const waits = Array.from({ length: 20 }, () => spread(10_000)).sort((a, b) => a - b)
    expect(new Set(waits).size).toBeGreaterThan(15)
    expect((waits.at(-1) ?? 0) - (waits[0] ?? 0)).toBeGreaterThan(500)
  })
})

describe('retries, on a fake clock', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }))
  afterEach(() => void vi.useRealTimers())

  test.each([
    ['transient', transient, 8, 14],
    ['unreachable', unreachable, 5, 8],
    ['busy', busy, 26, 44],
    ['throttled', throttled, 7, 14],
    ['replication', replication, 30, 53],
  ] as const)('%s: more and more slowly, then at a steady pace, until the time is over', async (_, schedule, fewest, most) => {
    const { signal } = new AbortController()
    const tries: number[] = []
    const waits: number[] = []
    const ended = retrying(
      async () => {
        tries.push(performance.now())
        throw new Error('away')
      },
      { signal, verdict: () => ({ schedule }), onWait: (_error, waitMs) => waits.push(waitMs) },
    ).catch((error: unknown) => String(error))
    await vi.advanceTimersByTimeAsync(schedule.budgetMs + 1)
    expect(await ended).toBe('Error: away')
    const took = (tries.at(-1) ?? 0) - (tries[0] ?? 0)
    expect(took).toBeLessThanOrEqual(schedule.budgetMs)
    // When it gives up, the rest of the budget is shorter than another wait.
    expect(took).toBeGreaterThan(schedule.budgetMs - 1.25 * schedule.capMs - 1)
    expect(Math.max(...waits)).toBeLessThanOrEqual(1.25 * schedule.capMs)
    expect(waits[0]).toBeLessThanOrEqual(1.25 * schedule.baseMs)
    expect(tries.length).toBeGreaterThanOrEqual(fewest)
    expect(tries.length).toBeLessThanOrEqual(most)
  })

  test('a cancelled run ends its wait', async () => {
    const controller = new AbortController()
    const ended = retrying(() => Promise.reject(new Error('away')), {
      signal: controller.signal,
      verdict: () => ({ schedule: busy, afterMs: 9_000 }),
      onWait: () => undefined,
    }).catch((error: unknown) => String(error))
    await vi.advanceTimersByTimeAsync(8_000)
    controller.abort(new Error('enough'))
    expect(await ended).toBe('Error: enough')
    expect(vi.getTimerCount()).toBe(0)
  })
})

describe('the tables', () => {
  const of = (seen: Partial<Seen>, repeatable = true) => {
    const verdict = verdictOn({ stage: 'answer', from: 'Resource Manager', ...seen }, repeatable)
    return verdict === false ? false : verdict.schedule
  }

  test('HTTP: which responses are retried, and which are not', () => {
    expect(of({ status: 401 }, false)).toBe(renewed)
    expect(of({ status: 401, from: 'Entra' })).toBe(false)
    expect(of({ status: 401, from: 'GitHub' })).toBe(false)
    expect(of({ status: 409, code: 'ServerIsBusy' }, false)).toBe(busy)
    expect(of({ status: 409, code: 'RoleAssignmentExists' })).toBe(false)
    expect(of({ status: 429 }, false)).toBe(throttled)
    expect(of({ status: 429, from: 'Entra' })).toBe(throttled)
    expect(of({ status: 429, from: 'GitHub' })).toBe(limited)
    expect(of({ status: 403, from: 'GitHub' })).toBe(false)
    expect(of({ status: 403, from: 'GitHub', signs: ['limit reached'] })).toBe(limited)
    for (const status of [408, 500, 502, 503, 504]) {
      expect(of({ status })).toBe(transient)
      // The server may have carried out a POST.
      expect(of({ status }, false)).toBe(false)
    }
    expect(of({ status: 503, signs: ['Retry-After'] }, false)).toBe(transient)
    expect(of({ status: 200, signs: ['not JSON'] })).toBe(transient)
    for (const status of [200, 202, 204, 400, 403, 404, 412, 501, 505]) expect(of({ status })).toBe(false)
    expect(of({ stage: 'connection', code: 'ECONNRESET' })).toBe(transient)
    expect(of({ stage: 'connection', code: 'ECONNRESET' }, false)).toBe(false)
    expect(of({ stage: 'connection', code: 'ENOTFOUND' }, false)).toBe(unreachable)
    for (const code of ['SELF_SIGNED_CERT_IN_CHAIN', 'CERT_HAS_EXPIRED', 'UNABLE_TO_VERIFY_LEAF_SIGNATURE'])
      expect(of({ stage: 'connection', code })).toBe(false)
    expect(of({ stage: 'operation', code: 'serverisbusy' })).toBe(busy)
    expect(of({ stage: 'operation', code: 'Conflict' })).toBe(false)
  })

  test('SQL: which errors are retried, and when', () => {
    const sql = (code: string, moment: Parameters<typeof verdictOnSql>[1] = 'work') => {
      const verdict = verdictOnSql(Object.assign(new Error('any text'), { code }), moment)
      return verdict === false ? false : verdict.schedule
    }
    for (const code of ['40001', '40P01', '55P03']) expect(sql(code)).toBe(busy)
    for (const code of ['57P01', '57P02', '57P03', '53300', '57014', 'ECONNRESET', 'ENOTFOUND']) expect(sql(code)).toBe(transient)
    for (const code of ['42501', '28P01', '25006', '22023', '23505', 'XX000', '']) expect(sql(code)).toBe(false)
    expect(sql('23505', 'extension')).not.toBe(false)
    // A closed firewall and a wrong name cause these errors.
    for (const code of ['ETIMEDOUT', 'ENOTFOUND', 'ECONNREFUSED']) expect(sql(code, 'look')).toBe(false)
    expect(sql('57P03', 'look')).toMatchObject({ budgetMs: unreachable.budgetMs })
    expect(verdictOnSql(new Error('extension "azure_ai" is not allow-listed'), 'extension')).not.toBe(false)
    expect(verdictOnSql(new Error('Connection terminated unexpectedly'), 'work')).not.toBe(false)
  })

  test('every row has a reason, and docs/retries.md agrees with the code', () => {
    for (const { reason } of [...httpRows, ...sqlRows]) expect(reason.length).toBeGreaterThan(15)
    const page = readFileSync(join(root, 'docs', 'retries.md'), 'utf8')
    expect(page, 'npm run docs').toBe(withRetries(page))
  })

  test('no request and no statement bypasses the limits', () => {
    const files = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'))
    const where = (pattern: RegExp) => files.filter((file) => pattern.test(readFileSync(join(root, 'src', file), 'utf8'))).sort()
    // All code that sends something is listed here, with its limit.
    // These create agents, which only open connections; a pipeline with the retry policy sends the requests.
    expect(where(/\bfetch\(|from 'node:https?'|from 'undici'/)).toEqual(['azure/agent.ts', 'azure/pipeline.ts'])
    expect(where(/createDefaultHttpClient|ManagementClient\(/)).toEqual(['azure/calls.ts', 'azure/pipeline.ts'])
    expect(where(/from '@actions\/http-client'/)).toEqual(['github/runner.ts'])
    expect(where(/getIDToken/)).toEqual([])
    expect(where(/octokit\.request/)).toEqual(['github/rest.ts'])
    expect(where(/\bnew Client\(|\bclient\.query\(/)).toEqual(['postgres/connection.ts'])
    // The last waits for two seconds, and the driver connects again after that; the two entries only set a limit of Node's.
    expect(where(/from 'node:net'|execFile\(/)).toEqual(['action.ts', 'azure/credential.ts', 'post.ts', 'postgres/greeting.ts'])
    const connection = readFileSync(join(root, 'src', 'postgres', 'connection.ts'), 'utf8')
    expect(connection.match(/client\.query\(/g)).toHaveLength(2)
    expect(connection).toMatch(/query_timeout: timeoutMs \+ graceMs[\s\S]*client\.query\(config/)
    expect(connection).toMatch(/client\.query\(copyFrom\(statement\)\), \{ signal: limit \}/)
  })
})

describe('the limit of a whole run', () => {
  const minutesOf = (inputs: Parameters<typeof parsed>[0]) => runBudgetMs(parsed(inputs)) / 60_000

  test('is the sum of what the inputs require', () => {
    const one = 1 / 6
    expect(minutesOf({ mode: 'check' })).toBeCloseTo(10 + one)
    expect(minutesOf({ mode: 'check', databases: '*' })).toBeCloseTo(20)
    expect(minutesOf({ mode: 'verify', 'embedding-deployment': 'any' })).toBeCloseTo(20 + one)
    expect(minutesOf({})).toBeCloseTo(35 + one)
    expect(minutesOf({ 'verify-timeout-minutes': '0' })).toBeCloseTo(25 + one)
    expect(minutesOf({ 'allow-restart': 'true' })).toBeCloseTo(60 + one)
    expect(minutesOf({ 'allow-restart': 'true', part: 'azure' })).toBeCloseTo(40)
    expect(minutesOf({ 'allow-restart': 'true', part: 'database' })).toBeCloseTo(20 + one)
    expect(minutesOf({ 'temporary-firewall-rule': 'true', mode: 'check' })).toBeCloseTo(18 + one)
    // No timer of Node is longer than this.
    expect(minutesOf({ 'allow-restart': 'true', 'verify-timeout-minutes': '360' }) * 60_000).toBeLessThan(2 ** 31)
    expect(allowances.every(({ what }) => what.length > 10)).toBe(true)
    for (const [, inputs] of examples)
      expect(jobMinutes(inputs) * 60_000).toBeGreaterThan(runBudgetMs(inputs as never) + 8 * 60_000)
  })

  test('the time limits of the jobs in README and recipes cover it', () => {
    interface Job {
      'timeout-minutes'?: number
      steps?: { uses?: string; with?: Record<string, unknown> }[]
    }
    const readme = ['README.md', 'docs/recipes.md'].map((page) => readFileSync(join(root, page), 'utf8')).join('\n')
    const short: string[] = []
    let seen = 0
    for (const [, text = ''] of readme.matchAll(/^```ya?ml\n([\s\S]*?)^```$/gm)) {
      if (!/^jobs:/m.test(text)) continue
      for (const [name, job] of Object.entries((parse(text) as { jobs: Record<string, Job> }).jobs)) {
        const steps = (job.steps ?? []).filter(({ uses }) => uses?.includes('/azure-ai-postgres-identity@') === true)
        if (steps.length === 0) continue
        seen++
        const needed = steps.reduce((sum, { with: inputs = {} }) => {
          const of = (key: string, fallback: string): string => String(inputs[key] ?? fallback)
          const names = of('databases', '')
          return (
            sum +
            jobMinutes({
              mode: of('mode', 'apply') as 'apply',
              part: of('part', 'all') as 'all',
              allowRestart: of('allow-restart', 'false') === 'true',
              temporaryFirewallRule: of('temporary-firewall-rule', 'false') === 'true',
              verifyTimeoutMs: Number(of('verify-timeout-minutes', '10')) * 60_000,
              databases: names === '*' ? '*' : names.split(/[\n,]+/),
              scopeParts: inputs['scope'] === undefined ? [] : [{ id: String(inputs['scope']) } as ScopePart],
            })
          )
        }, 0)
        if ((job['timeout-minutes'] ?? 0) < needed) short.push(`${name}: ${job['timeout-minutes']} < ${needed}`)
      }
    }
    expect(seen).toBeGreaterThan(5)
    expect(short).toEqual([])
  })
})

describe('whole runs', () => {
  let emulator: Emulator
  const results: JobResult[] = []
  const run = async (
    inputs: Record<string, string>,
    clock: Record<string, string>,
    onLine: (line: string) => void = () => undefined,
  ): Promise<JobResult> => {
    const result = await runJob({
      inputs: { ...emulator.inputs, ...usual, ...inputs },
      env: { ...emulator.env, ...clock },
      onLine,
    })
    results.push(result)
    return result
  }
  const openaiOnly = { cognitive: '', translator: '', 'machine-learning': '', 'machine-learning-input': '', databases: 'app' }

  beforeAll(async () => {
    emulator = await emulate({ databases: ['app'] })
  })
  afterAll(async () => {
    await Promise.all(results.map((result) => result.remove()))
    await removeJobs()
    await emulator?.stop()
  })

  test('a response that never ends is cut off and requested again, from every service', async () => {
    await begin(emulator)
    giveIdentity(emulator)
    giveRoles(emulator)
    const begun = new Set<string>()
    emulator.world.fault = ({ plane, method, url }) => {
      const key = `${plane} ${method} ${url.split('?')[0]}`
      if (plane === 'ai' || plane === 'identity' || begun.has(key)) return undefined
      begun.add(key)
      return { kind: 'trickle' }
    }
    const result = await run(
      { mode: 'check', 'drift-issue': 'true', 'github-token': emulator.world.github.token ?? '' },
      hurried([[30_000, 30_000, 700]]),
    )
    expect(result.outputs, result.log).toMatchObject({ result: 'drift', 'failure-reason': 'drift' })
    const planes = (which: string) => [...begun].filter((key) => key.startsWith(which))
    expect(planes('resource-manager').length).toBeGreaterThan(8)
    expect(planes('entra').length).toBeGreaterThanOrEqual(2)
    expect(planes('github').length).toBeGreaterThanOrEqual(2)
    expect(result.log).toMatch(/OIDC token: .*again in/)
    expect(result.log).toMatch(/Drift issue: opened/)
  })

  test('a database connection that stops responding is closed, and its statement is retried', async () => {
    await begin(emulator)
    giveIdentity(emulator)
    giveRoles(emulator)
    const address = { host: emulator.inputs['database-host'] ?? '', port: Number(emulator.inputs['database-port']) }
    // One connection stops responding after its login, while the database is inspected; two more during the changes.
    const silent = await gateway(address)
    silent.arm([6])
    try {
      const result = await run(
        { ...openaiOnly, 'database-host': 'localhost', 'database-port': String(silent.port) },
        hurried([[25_000, 25_000, 2_500]]),
        (line) => {
          if (line.includes('::group::Settings and test queries')) silent.arm([2, 3])
        },
      )
      expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true', 'failure-reason': 'none' })
      expect(result.log).toMatch(/(Query read timeout|A statement took too long); again in/)
      expect(silent.silences(), result.log).toBeGreaterThan(1)
    } finally {
      await silent.stop()
    }
  })

  test('a run that exceeds its time limit ends with run-timeout, and restores the settings that it could not verify', async () => {
    await begin(emulator, { delays: { rolePropagation: Number.POSITIVE_INFINITY }, switches: { committedRowsOnly: true } })
    const before = await workWithKeys(emulator, 'app')
    giveIdentity(emulator)
    giveRoles(emulator, Date.now())
    const inputs = { ...openaiOnly, 'verify-timeout-minutes': '30' }
    const budget = runBudgetMs(parsed({ databases: 'app', 'allow-restart': 'true', 'verify-timeout-minutes': '30' }))
    const result = await run(inputs, hurried([[budget, budget, 6_000]]))
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'azure', verified: 'false' })
    expect(result.code).toBe(1)
    expect(codesOf(result)[0]).toBe('run-timeout')
    expect(result.summary).toContain('The run took too long')
    expect(await settingsOf(emulator, 'app')).toEqual(before)
  })

  test('no Retry-After makes a run wait longer than the cap, neither for a request nor between polls', async () => {
    await begin(emulator, { delays: { operation: 1_500 } })
    let polls = 0
    const limited: string[] = []
    emulator.world.fault = ({ plane, method, url }) => {
      if (plane !== 'resource-manager' || method !== 'GET') return undefined
      if (/azureAsyncOperation|operationResults|asyncOperations/i.test(url) && polls++ < 2) {
        return { kind: 'answer', status: 200, headers: { 'retry-after': '86400' }, body: '{"status":"InProgress"}' }
      }
      if (limited.length < 3 && !limited.includes(url)) {
        limited.push(url)
        return {
          kind: 'answer',
          status: 429,
          headers: { 'retry-after': 'Fri, 31 Dec 9999 23:59:59 GMT' },
          body: '{"error":{"code":"TooManyRequests","message":"slow"}}',
        }
      }
      return undefined
    }
    const result = await run({ ...openaiOnly, part: 'azure', 'allow-restart': 'false' }, hurried([[31_000, 80_000, 300]]))
    expect(result.outputs, result.log).toMatchObject({ 'failure-reason': 'restart-required', changed: 'true' })
    expect(polls).toBeGreaterThan(2)
    expect(limited).toHaveLength(3)
    expect(result.log).toMatch(/again in 1 min( 1?\d s)?,/)
  })

  test.each(['lost-before', 'lost-after'] as const)(
    'a COMMIT without an answer (%s) is read, neither believed nor repeated',
    async (kind) => {
      await begin(emulator)
      await workWithKeys(emulator, 'app')
      giveIdentity(emulator)
      giveRoles(emulator)
      let lost = 0
      emulator.world.sqlFault = ({ text }) => (/^COMMIT/i.test(text) && lost++ === 0 ? { kind } : undefined)
      const result = await run(openaiOnly, {})
      delete emulator.world.sqlFault
      expect(result.outputs, result.log).toMatchObject({ result: 'changed', 'failure-reason': 'none' })
      expect(result.log).toContain('no response to COMMIT; checking whether it took effect')
      expect(lost).toBe(kind === 'lost-before' ? 2 : 1)
      expect(await settingsOf(emulator, 'app')).toMatchObject({ 'azure_openai.auth_type': 'managed-identity' })
    },
  )

  // This is the last test, because its operation never ends in the emulator.
  test('an operation that never completes ends with the run, and the finding names the operation', async () => {
    await begin(emulator, { delays: { operation: Number.POSITIVE_INFINITY } })
    const budget = runBudgetMs(parsed({ databases: 'app', 'allow-restart': 'true', 'verify-timeout-minutes': '0.5' }))
    const result = await run(openaiOnly, hurried([[budget, budget, 5_000]]))
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'azure', changed: 'true' })
    expect(result.code).toBe(1)
    expect(result.log).toContain('Enabling the system-assigned identity')
  })
})

/**
 * A way to the database on which connections fall silent: of the numbers that `arm` takes, each is for whichever connection is the
 * first to send more messages from then on. Which one that is depends on how early connections were opened.
 */
async function gateway(to: {
  host: string
  port: number
}): Promise<{ port: number; arm(messages: readonly number[]): void; silences(): number; stop(): Promise<void> }> {
  const sockets = new Set<Socket>()
  let left: number[] = []
  let [times, silences] = [0, 0]
  const server: Server = createServer((client) => {
    let [passed, since] = [0, times]
    let isSilent = false
    const upstream = dial(to)
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('error', () => undefined).on('close', () => sockets.delete(socket))
    }
    client.on('data', (data) => {
      if (since !== times) [passed, since] = [0, times]
      passed++
      if (!isSilent && passed > (left[0] ?? Number.POSITIVE_INFINITY)) {
        left.shift()
        silences++
        isSilent = true
      }
      if (!isSilent) upstream.write(data)
    })
    upstream.on('data', (data) => {
      if (!isSilent) client.write(data)
    })
    client.on('close', () => upstream.destroy())
    upstream.on('close', () => client.destroy())
  })
  await new Promise<void>((listening) => server.listen(0, 'localhost', listening))
  return {
    port: (server.address() as AddressInfo).port,
    arm: (messages) => {
      left = [...messages]
      times++
    },
    silences: () => silences,
    stop: async () => {
      for (const socket of sockets) socket.destroy()
      await new Promise((closed) => server.close(closed))
    },
  }
}
