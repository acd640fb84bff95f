/**
 * The fault sweep and the kill sweep: a full apply is recorded once, then run again and again in a fresh world, each time with
 * one thing going wrong at one request or statement, and once more without; what must hold then is looked at.
 */
import type { ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import type { Emulator } from '../../../emulator/index.ts'
import { type JobResult, startJob } from '../../../emulator/runner.ts'
import type { Exchange, Fault, SqlFault, World } from '../../../emulator/world.ts'
import { serverOf } from '../support.ts'
import {
  differences,
  expire,
  halfSwitched,
  inputsOf,
  isForeign,
  lostEntries,
  prepare,
  rulesLeft,
  type Size,
  type State,
  secretsOf,
  startWorld,
  stateOf,
} from './world.ts'

export type Kind = 'http' | 'sql' | 'kill'

/** One request or statement of the recorded run. */
export interface Point {
  readonly by: 'http' | 'sql'
  /** The main step or the post step. */
  readonly step: 'main' | 'post'
  /** What is the same in every run: method and path, or database and statement, without made-up names. */
  readonly name: string
  /** Which of those of this name, from 1. */
  readonly occurrence: number
}

export interface Case {
  readonly id: string
  readonly kind: Kind
  readonly point: Point
  readonly fault: string
  /** Stays for the whole step, for every request of the point's name; otherwise it strikes once. */
  readonly stays: boolean
}

/** How a case ended: `unmet` when the run never came to the point, or was over before it could be killed there. */
export interface Outcome {
  readonly of: Case
  readonly ended: 'survived' | 'casualty' | 'unmet'
  /** What the first run came to: its result, its reason when it failed, `killed`. */
  readonly first: string
  readonly second: string
  /** Claims that do not hold, one line each. */
  readonly broken: readonly string[]
  /** Of the first run and its post step, in milliseconds. */
  readonly tookMs: number
  /** Logs of all steps. */
  readonly logs: string
}

// ---- faults

type Answer = Extract<Fault, { kind: 'answer' }>
const answer = (status: number, code: string, message: string, headers: Record<string, string> = {}): Answer => ({
  kind: 'answer',
  status,
  headers,
  body: JSON.stringify({ error: { code, message } }),
})
const html = (status: number, title: string): Answer => ({
  kind: 'answer',
  status,
  headers: { 'content-type': 'text/html' },
  body: `<!DOCTYPE html><html><head><title>${title}</title></head><body><h1>${title}</h1></body></html>`,
})

export const httpFaults: Readonly<Record<string, Fault>> = {
  '500': answer(500, 'InternalServerError', 'An unexpected error occurred.'),
  '503-retry-after': answer(503, 'ServiceUnavailable', 'The service is unavailable now.', { 'retry-after': '1' }),
  '429-retry-after': answer(429, 'TooManyRequests', 'The request is being throttled.', { 'retry-after': '1' }),
  '429': answer(429, 'TooManyRequests', 'The request is being throttled.'),
  '409-busy': answer(409, 'ServerIsBusy', 'Cannot complete operation because the server is busy processing another operation.'),
  '409-not-ready': answer(409, 'ServerIsNotReady', "Server is not ready; its state is 'Updating'. Try again later."),
  '409-locked': answer(
    409,
    'ScopeLocked',
    'The scope cannot perform write operation because following scope(s) are locked. Please remove the lock and try again.',
  ),
  '404-late': answer(404, 'ResourceNotFound', 'The Resource was not found. It may have been created a moment ago.'),
  '401-expired': answer(
    401,
    'ExpiredAuthenticationToken',
    "The access token expiry UTC time '11/24/2026 1:00:00 AM' is earlier than current UTC time '11/24/2026 2:00:00 AM'.",
    { 'www-authenticate': 'Bearer error="invalid_token", error_description="The access token has expired."' },
  ),
  'reset-before': { kind: 'reset-before' },
  'reset-after': { kind: 'reset-after' },
  truncated: { kind: 'truncate' },
  'html-200': html(200, 'Sign in to the network'),
  'html-502': html(502, '502 Bad Gateway'),
  hang: { kind: 'hang' },
}

export const sqlFaults: Readonly<Record<string, SqlFault>> = {
  'lost-before': { kind: 'lost-before' },
  'lost-after': { kind: 'lost-after' },
  shutdown: { kind: 'shutdown' },
  deadlock: { kind: 'error', code: '40P01', message: 'deadlock detected' },
  lock: { kind: 'error', code: '55P03', message: 'canceling statement due to lock timeout' },
  timeout: { kind: 'error', code: '57014', message: 'canceling statement due to statement timeout' },
}

/** SIGKILL when the request or statement was carried out and before its answer, or just after the answer. */
export const kills: readonly string[] = ['kill', 'kill-after']

// ---- points

/** Method and path with what is made up anew in each run taken out. */
export function nameOfRequest({ plane, method, url }: Pick<Exchange, 'plane' | 'method' | 'url'>): string {
  const [path = '', query = ''] = url.replace(/^\/+/, '/').split('?')
  const shown = path
    .replace(/^\/subscriptions\/[^/]+\/(resourceGroups\/[^/]+\/)?providers\//i, '/')
    .replaceAll(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/gi, '*')
    .replaceAll(/gha-aipg-\d+-[0-9a-f]+/g, '*')
  const resource = plane === 'identity' ? (/resource=[^&]*?([\w.]+)$/.exec(query)?.[1] ?? '') : ''
  return `${method} ${plane}${shown}${resource === '' ? '' : `:${resource}`}`
}

/** Database and the beginning of the statement, with a hash of all of it. */
export function nameOfStatement({ database, text }: { database: string; text: string }): string {
  const shown = text
    .replaceAll(/(aipg_(?:previous|secret)_)[0-9a-f]+/g, '$1*')
    .replaceAll(/'[0-9a-f]{32}'/g, "'*'")
    .replaceAll(/timeout = \d+/g, 'timeout = *')
  const hash = createHash('sha256').update(shown).digest('hex').slice(0, 4)
  return `${database}: ${shown
    .replaceAll(/[^\w*.$=(), ]+/g, ' ')
    .slice(0, 48)
    .trim()} ~${hash}`
}

function caseOf(kind: Kind, point: Point, fault: string, stays: boolean): Case {
  const id = `${kind}|${point.step}|${point.name}|${point.occurrence}|${fault}${stays ? '|stays' : ''}`
  return { id, kind, point, fault, stays }
}

/** Resource Manager alone has locks and is late; the one forbids writes, the other is seen by reading. */
function mayMeet(name: string, fault: string): boolean {
  const isRead = name.startsWith('GET ')
  const isManagement = name.split(' ')[1]?.startsWith('resource-manager') === true
  if (fault === '409-locked') return isManagement && !isRead
  if (fault === '404-late') return isManagement && isRead
  return true
}

/** Every point with every fault that can strike there. */
export function casesOf(points: readonly Point[]): Case[] {
  const cases: Case[] = []
  const seen = new Set<string>()
  for (const point of points) {
    if (point.by === 'http') {
      const faults = Object.keys(httpFaults).filter((fault) => mayMeet(point.name, fault))
      for (const fault of faults) cases.push(caseOf('http', point, fault, false))
      const name = `${point.step} ${point.name}`
      if (!seen.has(name)) for (const fault of faults) cases.push(caseOf('http', point, fault, true))
      seen.add(name)
    } else {
      for (const [fault, { kind }] of Object.entries(sqlFaults)) {
        // Until it has signed in there is neither a backend to end nor a statement to replace.
        if (point.name.includes('(connect)') && !kind.startsWith('lost')) continue
        cases.push(caseOf('sql', point, fault, false))
      }
    }
    for (const fault of kills) cases.push(caseOf('kill', point, fault, false))
  }
  return cases
}

// ---- runs

interface Struck {
  met: boolean
}

/** Counts requests and statements by name, from now on; `strike` says what happens to one. */
function watch(
  world: World,
  strike: (by: Point['by'], name: string, occurrence: number) => Fault | SqlFault | undefined,
): () => Omit<Point, 'step'>[] {
  const counts = new Map<string, number>()
  const points: Omit<Point, 'step'>[] = []
  const count = (by: Point['by'], name: string): Fault | SqlFault | undefined => {
    const occurrence = (counts.get(`${by} ${name}`) ?? 0) + 1
    counts.set(`${by} ${name}`, occurrence)
    points.push({ by, name, occurrence })
    return strike(by, name, occurrence)
  }
  world.fault = (request) => count('http', nameOfRequest(request)) as Fault | undefined
  world.sqlFault = (statement) => count('sql', nameOfStatement(statement)) as SqlFault | undefined
  return () => points
}

function quiet(world: World): void {
  delete world.fault
  delete world.sqlFault
}

export interface Recording {
  readonly size: Size
  readonly points: readonly Point[]
  /** After the run and its post step, without what belongs to others. */
  readonly end: State
  readonly tookMs: number
}

/** The undisturbed run. Fails when it is not what the sweep needs: everything changed, proven, and closed again. */
export async function record(emulator: Emulator, size: Size): Promise<Recording> {
  await prepare(emulator)
  const beginning = await stateOf(emulator)
  const start = performance.now()
  const points = watch(emulator.world, () => undefined)
  const job = await startJob({ inputs: inputsOf(emulator, size), env: emulator.env })
  const result = await job.done
  const inMain = points().length
  if (result.outputs['result'] !== 'changed' || result.outputs['verified'] !== 'true') throw new Error(result.log)
  const post = await result.post()
  const found = points().map((point, index): Point => ({ ...point, step: index < inMain ? 'main' : 'post' }))
  quiet(emulator.world)
  await result.remove()
  const tookMs = performance.now() - start
  const end = await stateOf(emulator)
  if (post.code !== 0 || rulesLeft(beginning, end).length > 0) throw new Error(post.raw)
  // Occurrences are counted anew in the post step.
  const before = new Map<string, number>()
  for (const { step, by, name } of found) if (step === 'main') before.set(`${by} ${name}`, (before.get(`${by} ${name}`) ?? 0) + 1)
  const numbered = found.map((point) =>
    point.step === 'main' ? point : { ...point, occurrence: point.occurrence - (before.get(`${point.by} ${point.name}`) ?? 0) },
  )
  const own = Object.entries(end).filter(([name]) => !isForeign(beginning, name))
  return { size, points: numbered, end: Object.fromEntries(own), tookMs }
}

export interface SweepOptions {
  readonly recording: Recording
  /** Changes the world after everything, for a test of the claims themselves. */
  readonly tamper?: (emulator: Emulator) => void | Promise<void>
}

/** Longest time of a step before it counts as one that does not end, in milliseconds. */
const limits = { once: 150_000, stays: 11 * 60_000 }

/** Runs one case in the emulator's world, which is put to its beginning before. */
export async function runCase(emulator: Emulator, each: Case, { recording, tamper }: SweepOptions): Promise<Outcome> {
  const { world } = emulator
  await prepare(emulator)
  const beginning = await stateOf(emulator)
  const secrets = secretsOf(emulator)
  const broken: string[] = []
  const logs: string[] = []
  const claim = (holds: boolean, otherwise: string): void => {
    if (!holds) broken.push(otherwise)
  }
  /** What the run was to bring about, and did not. */
  const missed = (now: State, left: readonly string[]): string[] =>
    differences(recording.end, now, (name) => !isForeign(beginning, name) && !left.includes(name))
  const struck: Struck = { met: false }
  const limitMs = each.stays ? limits.stays : limits.once
  const start = performance.now()

  const job = await startJob({ inputs: inputsOf(emulator, recording.size), env: emulator.env })
  const kill = (): void => void job.child.kill('SIGKILL')
  if (each.point.step === 'main') strikeAt(world, each, struck, kill)
  const result = await within(job.done, limitMs, kill)
  if (result === undefined) broken.push(`the run did not end within ${limitMs / 1_000} s`)
  const first = result ?? (await job.done)
  quiet(world)
  logs.push(`---- the run that was struck\n${first.log}`)
  claimsOnEnd(first, each, result !== undefined, claim)
  claimsOnForeign(beginning, await stateOf(emulator), 'after the run', claim)

  let inPost: ChildProcess | undefined
  if (each.point.step === 'post') strikeAt(world, each, struck, () => void inPost?.kill('SIGKILL'))
  const post = await first.post({ limitMs, onStart: (child) => (inPost = child) })
  quiet(world)
  const tookMs = performance.now() - start
  logs.push(`---- its post step\n${post.raw}`)
  // A runner that dies in its post step removes nothing any more.
  const orphaned = each.kind === 'kill' && post.signal === 'SIGKILL'
  claim(post.code === 0 || orphaned, `the post step ended with ${post.code ?? `nothing within ${limitMs / 1_000} s`}`)
  const after = await stateOf(emulator)
  const left = rulesLeft(beginning, after)
  // What the post step cannot remove it says, with the command that does.
  const told = left.every(
    (rule) =>
      post.raw.includes('Fix: az postgres flexible-server firewall-rule delete') &&
      post.raw.includes(rule.split(' ').at(-1) ?? rule),
  )
  claim(
    left.length === 0 || orphaned || (each.point.step === 'post' && each.stays && told),
    `${left.join(', ')} is left after the post step`,
  )
  for (const half of halfSwitched(beginning, recording.end, after)) broken.push(`after the run: ${half}`)
  // What an orphan asked Azure for may still be under way.
  if (!orphaned && ['changed', 'in-sync'].includes(first.outputs['result'] ?? '')) {
    for (const line of missed(after, left)) broken.push(`the run ended well, and ${line}`)
  }

  // What an orphan left behind is removed by the first run after its time.
  if (orphaned) expire(emulator, left)
  // No rule is needed this time, so no post step either: both were in the first run.
  const { firewallRules } = serverOf(emulator)
  firewallRules['allow-runner'] = { startIpAddress: '127.0.0.1', endIpAddress: '127.0.0.1' }
  await emulator.refresh()
  const next = await startJob({ inputs: inputsOf(emulator, recording.size), env: emulator.env })
  const second = await within(next.done, limits.once, () => void next.child.kill('SIGKILL'))
  const again = second ?? (await next.done)
  logs.push(`---- the run after it\n${again.log}`)
  const { result: outcome = 'none', verified } = again.outputs
  claim(second !== undefined, 'the second run did not end in time')
  claim(
    ['in-sync', 'changed'].includes(outcome) && verified === 'true' && again.code === 0,
    `the second run ended ${outcome}, verified: ${verified}, reason: ${again.outputs['failure-reason']}`,
  )
  delete firewallRules['allow-runner']
  await tamper?.(emulator)
  const end = await stateOf(emulator)
  for (const line of missed(end, orphaned ? [] : left)) broken.push(`in the end, ${line}`)
  claimsOnForeign(beginning, end, 'in the end', claim)
  for (const text of [first.log, first.summary, JSON.stringify(first.report ?? ''), again.log, again.summary]) {
    claim(!secrets.some((secret) => text.includes(secret)), 'a key stands in log, summary or report')
  }
  await Promise.all([first.remove(), again.remove()])

  const killed = first.signal !== null || orphaned
  const reason = first.outputs['failure-reason'] ?? 'none'
  return {
    of: each,
    ended: broken.length > 0 ? 'casualty' : struck.met && (each.kind !== 'kill' || killed) ? 'survived' : 'unmet',
    first: killed ? 'killed' : reason === 'none' ? (first.outputs['result'] ?? 'none') : `failed: ${reason}`,
    second: outcome,
    broken,
    tookMs,
    logs: logs.join('\n'),
  }
}

function strikeAt(world: World, { point, fault, kind, stays }: Case, struck: Struck, kill: () => void): void {
  watch(world, (by, name, occurrence) => {
    if (by !== point.by || name !== point.name) return undefined
    if (stays ? occurrence < point.occurrence : struck.met || occurrence !== point.occurrence) return undefined
    struck.met = true
    if (kind === 'kill') return { kind: 'watched', [fault === 'kill' ? 'acted' : 'answered']: kill }
    return by === 'http' ? httpFaults[fault] : sqlFaults[fault]
  })
}

/** The promise's value; `late` is called and undefined given when it takes longer. */
async function within<T>(promise: Promise<T>, limitMs: number, late: () => void): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined
  const limit = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), limitMs)
  })
  const first = await Promise.race([promise.then((value) => ({ value })), limit])
  clearTimeout(timer)
  if (first === undefined) late()
  return first?.value
}

type Claim = (holds: boolean, otherwise: string) => void

/** How a run may end: killed, well, or with a typed failure that says so everywhere. */
function claimsOnEnd(result: JobResult, { kind }: Case, inTime: boolean, claim: Claim): void {
  const { outputs, code, signal, report } = result
  const reason = outputs['failure-reason'] ?? ''
  if (kind === 'kill' && signal !== null) {
    claim(
      outputs['result'] === 'failed' && outputs['verified'] === 'false',
      `a killed run reads as ${outputs['result']}, verified ${outputs['verified']}`,
    )
    return
  }
  if (!inTime) return
  claim(signal === null, `the run was ended by ${signal}`)
  // Stack traces and the words of Node's own end: somebody forgot to catch something.
  claim(
    !/^\s+at .+:\d+:\d+\)?$/m.test(result.log) &&
      !/\b(TypeError|ReferenceError|ERR_UNHANDLED_REJECTION|UnhandledPromise)/.test(result.log),
    'an exception that nobody caught stands in the log',
  )
  if (outputs['result'] === 'failed') {
    claim(code === 1, `a failed run ended with exit code ${code}`)
    claim(reason !== '' && reason !== 'none' && reason !== 'internal', `a failed run gives the reason ${reason || '(none)'}`)
    claim(report?.result === 'failed' && report?.failureReason === reason, 'report and outputs differ')
    const errors = ((report?.findings ?? []) as { severity: string; title: string; detail: string }[]).filter(
      ({ severity }) => severity === 'error',
    )
    claim(
      errors.length > 0 && errors.every(({ title, detail }) => title !== '' && detail !== ''),
      'a failed run has no finding that says why',
    )
    claim(result.summary.includes('❌'), 'the summary of a failed run does not say so')
  } else {
    claim(outputs['result'] === 'changed' || outputs['result'] === 'in-sync', `the run ended ${outputs['result']}`)
    claim(
      code === 0 && outputs['verified'] === 'true' && reason === 'none',
      `the run ended ${outputs['result']} with exit code ${code}, verified: ${outputs['verified']}, reason: ${reason}`,
    )
  }
}

function claimsOnForeign(beginning: State, now: State, when: string, claim: Claim): void {
  const touched = differences(beginning, now, (name) => isForeign(beginning, name))
  claim(touched.length === 0, `${when}, what belongs to others was touched: ${touched.join('; ')}`)
  const lost = lostEntries(beginning, now)
  claim(lost.length === 0, `${when}, the allow-list has lost ${lost.join(', ')}`)
  const doubled = Object.entries(now).filter(([name, value]) => name.startsWith('role: ') && value !== '1 times')
  claim(doubled.length === 0, `${when}, doubled: ${doubled.map(([name]) => name).join(', ')}`)
}

// ---- many

/** Fisher-Yates, by the given numbers. */
export function shuffled<T>(items: readonly T[], random: () => number): T[] {
  const list = [...items]
  for (let last = list.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1))
    ;[list[last], list[other]] = [list[other] as T, list[last] as T]
  }
  return list
}

/** Whether a case mostly waits: many of these may be under way at once. */
export const mostlyWaits = ({ fault, stays }: Case): boolean => stays || fault === 'hang'

/** Runs the cases, each worker with an emulator of its own; `lent` is used by one of them, and not stopped. */
export async function runAll(
  cases: readonly Case[],
  options: SweepOptions & {
    readonly workers: number
    readonly lent?: Emulator
    /** No case is begun once it is aborted; those under way end. */
    readonly signal?: AbortSignal
    readonly onOutcome: (outcome: Outcome) => void
  },
): Promise<void> {
  const queue = [...cases]
  const work = async (_: unknown, worker: number): Promise<void> => {
    let emulator: Emulator | undefined = worker === 0 ? options.lent : undefined
    try {
      for (let each = queue.shift(); each !== undefined && options.signal?.aborted !== true; each = queue.shift()) {
        emulator ??= await startWorld()
        try {
          options.onOutcome(await runCase(emulator, each, options))
        } catch (error) {
          const broken = [`the sweep itself failed: ${error instanceof Error ? error.stack : String(error)}`]
          options.onOutcome({ of: each, ended: 'casualty', first: '', second: '', broken, tookMs: 0, logs: '' })
          // Its world may be in any state now.
          if (emulator !== options.lent) await emulator.stop()
          emulator = undefined
        }
      }
    } finally {
      if (emulator !== options.lent) await emulator?.stop()
    }
  }
  await Promise.all(Array.from({ length: Math.min(options.workers, cases.length) }).map(work))
}
