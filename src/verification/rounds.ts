/**
 * Test queries in rounds until all families of all databases have passed or the time is up; or once, for a check. One database
 * waits for a family; the others are tried when it has passed.
 */
import type { Inputs } from '../core/inputs.ts'
import type { Journal } from '../core/journal.ts'
import type { ObservedDatabase } from '../core/observed.ts'
import { namedFamilies } from '../core/plan.ts'
import { scopeOf } from '../core/scope.ts'
import { type Family, queriesOf, type Resource, type Service, type ServiceName } from '../core/services.ts'
import { firstOpen, queryNeeds, type StepId } from '../core/steps.ts'
import { knownOf } from '../errors/explain.ts'
import { Failure } from '../errors/failure.ts'
import type { Log } from '../lib/log.ts'
import { backoff, mapLimited, pause } from '../lib/retry.ts'
import { duration } from '../lib/timeout.ts'
import type { KeyCandidates } from '../postgres/azure-ai.ts'
import type { Connector } from '../postgres/connection.ts'
import { lockLimitMs } from '../postgres/lock.ts'
import { maxConnections } from '../postgres/slots.ts'
import { Attempts, type KnownVersions, type Result } from './attempts.ts'
import { jobFor } from './jobs.ts'
import { Recorder } from './record.ts'
import { DatabaseSession } from './session.ts'

export interface VerifyOptions {
  readonly inputs: Inputs
  readonly databases: readonly ObservedDatabase[]
  readonly resources: ReadonlyMap<ServiceName, Resource>
  readonly connector: Connector
  readonly journal: Journal
  readonly log: Log
  readonly signal: AbortSignal
  /** When the clock started, by `performance.now()`. */
  readonly since: number
  /** Called after each round while no query has passed with the identity. */
  readonly onWaiting: ((waiting: Waiting) => Promise<Next>) | undefined
  /** For `subscription-key`: by name of the setting. */
  readonly keys: KeyCandidates
}

/**
 * What follows: another round (undefined); another round with the clock at zero (`restarted`); or the end, because waiting is
 * vain: its cause is this failure, or a step of the plan (`planned`), so what the queries got is not reported once more.
 */
export type Next = Failure | 'planned' | 'restarted' | undefined

/** What the databases wait for after a round. */
export interface Waiting {
  /** All that is missing is a token. */
  readonly noToken: boolean
  /** Object ids that services named when they refused. */
  readonly refusedPrincipals: readonly string[]
  readonly waitedMs: number
}

/** Whether an AI service fails a query this way only when the request has a token. */
const provesToken = (failure: Failure): boolean => failure.code === 'one-endpoint' || knownOf(failure)?.provesToken === true

/** What the test queries show of the identity so far, and what follows from it. */
class IdentitySeen {
  readonly #options: Pick<VerifyOptions, 'journal' | 'onWaiting'>
  /** A result verifies the identity. */
  #passed = false
  /** A response of an AI service shows that there was a token. */
  #tokenHad = false

  constructor(options: Pick<VerifyOptions, 'journal' | 'onWaiting'>) {
    this.#options = options
  }

  /** Makes the next attempt. */
  async next(attempts: Attempts): Promise<Result> {
    const result = await attempts.next()
    this.#passed ||= result.kind === 'done' && result.proof === 'keyless'
    this.#tokenHad ||= result.kind !== 'done' && provesToken(result.failure)
    return result
  }

  /** Asks what follows while these wait; a failure that this names is reported. */
  async whatFollows(open: readonly Attempts[], waitedMs: number): Promise<Next> {
    const { journal, onWaiting } = this.#options
    const lacksOnlyToken = open.every(({ waitingFor }) => waitingFor === undefined || waitingFor.code === 'no-token')
    const next = this.#passed
      ? undefined
      : await onWaiting?.({
          noToken: !this.#tokenHad && lacksOnlyToken,
          refusedPrincipals: open.flatMap(({ refusedPrincipals }) => refusedPrincipals),
          waitedMs,
        })
    if (next instanceof Failure) journal.fail(next)
    // What was refused before says nothing of the identity that the server has now.
    if (next === 'restarted') this.#tokenHad = false
    return next
  }
}

/** Pace of the rounds while roles and identity take effect. */
const rounds = { baseMs: 1_000, capMs: 20_000, budgetMs: Number.POSITIVE_INFINITY }

/** The databases that still wait for a family. */
interface Group {
  readonly family: Family
  waiting: Attempts[]
  /** Whether one database has passed. */
  opened: boolean
}

/** Creates the attempts of a run; what cannot be tried is recorded at once. */
function attemptsOf(options: VerifyOptions) {
  const { inputs, resources, connector, journal, log, signal } = options
  const recorder = new Recorder(journal, log)
  const attemptOptions = { inputs, resources, recorder, log, writes: scopeOf(inputs).writesSql }
  const versions: KnownVersions = new Map()
  return (family: Family, services: readonly Service[], database: ObservedDatabase): Attempts | undefined => {
    const planned = jobFor(options, journal, { family, services, database })
    recorder.planned(planned, database.name)
    if (planned.job === undefined) return undefined
    const limits = { signal, lockLimitMs: lockLimitMs(inputs.verifyTimeoutMs) }
    const session = new DatabaseSession({ database: planned.job.database, connector, log, ...limits })
    return new Attempts(attemptOptions, session, planned.job, versions)
  }
}

export async function verifyFamilies(options: VerifyOptions): Promise<void> {
  const { inputs, log, signal } = options
  const create = attemptsOf(options)
  const groups = namedFamilies(inputs).map(({ family, services }): Group => {
    return { family, waiting: options.databases.flatMap((database) => create(family, services, database) ?? []), opened: false }
  })
  let { since } = options
  const seen = new IdentitySeen(options)
  let isExplained = false
  const leftMs = (): number => inputs.verifyTimeoutMs - (performance.now() - since)

  for (let round = 1; ; round++) {
    for (const group of groups) await tryGroup(group, seen)
    const waiting = groups.filter((group) => group.waiting.length > 0)
    if (waiting.length === 0) return
    const next = await seen.whatFollows(
      waiting.flatMap((group) => group.waiting),
      performance.now() - since,
    )
    if (next === 'restarted') {
      since = performance.now()
      continue
    }
    isExplained = next !== undefined
    if (isExplained || leftMs() <= 0) break
    const wait = Math.min(backoff(rounds, round), Math.max(leftMs(), 0))
    const what = waiting.map((group) => `${group.family.name} (${waitedFor(group)?.title ?? 'not tried yet'})`).join(', ')
    log.info(
      `… waiting for the identity and its roles to take effect: ${what}; ${duration(performance.now() - since)} so far, at most ${duration(leftMs())} more`,
    )
    await pause(wait, signal)
  }
  for (const group of groups) for (const attempts of group.waiting) attempts.giveUp({ otherwise: waitedFor(group), isExplained })
}

/** One round of a family: one database at a time waits for what all of them wait for; the others are tried once one has passed. */
async function tryGroup(group: Group, seen: IdentitySeen): Promise<void> {
  let alone: Attempts | undefined
  while (group.waiting.length > 0 && !group.opened && alone === undefined) {
    const leader = group.waiting[0] as Attempts
    const result = await seen.next(leader)
    if (result.kind === 'done') group.opened = true
    // What is wrong with one database need not be wrong with the next.
    if (result.kind !== 'not-yet') group.waiting.shift()
    else if (knownOf(result.failure)?.meetsEveryDatabase === true) {
      // The next round tries another one: what keeps this one may be its own. Where settings are tried by committing them, no other is disturbed for that.
      if (!leader.isSeenByAll) group.waiting.push(...group.waiting.splice(0, 1))
      return
    } else alone = leader
  }
  const others = group.waiting.filter((attempts) => attempts !== alone)
  const results = await mapLimited(others, maxConnections, (attempts) => seen.next(attempts))
  group.opened ||= results.some(({ kind }) => kind === 'done')
  group.waiting = group.waiting.filter((attempts) => attempts === alone || results[others.indexOf(attempts)]?.kind === 'not-yet')
}

/** What the databases of a family wait for. */
const waitedFor = ({ waiting }: Group): Failure | undefined =>
  waiting.find((attempts) => attempts.waitingFor !== undefined)?.waitingFor

/** Runs the test queries once, where the steps that they need are in sync; for checks, which write nothing that stays. */
export async function queryOnce(options: VerifyOptions): Promise<void> {
  const { inputs, journal, databases, log } = options
  const open: Attempts[] = []
  const seen = new IdentitySeen(options)
  const recorder = new Recorder(journal, log)
  const create = attemptsOf(options)
  await mapLimited(databases, maxConnections, async (database) => {
    const all = namedFamilies(inputs).flatMap(({ family, services }) => {
      const ready: Service[] = []
      for (const service of services) {
        const first = firstNeeded(journal, database, service)
        if (first === undefined) ready.push(service)
        else
          for (const { name } of queriesOf(service, inputs))
            recorder.skipped(database.name, { service: service.name, name }, `waits for ${first}`)
      }
      return ready.length === 0 ? [] : (create(family, ready, database) ?? [])
    })
    const tryOnce = async (attempts: Attempts): Promise<void> => {
      if ((await seen.next(attempts)).kind === 'not-yet') open.push(attempts)
    }
    // Those that may hide a key wait for each other's lock: they come one after the other.
    const locking = mapLimited(
      all.filter(({ mayHideKey }) => mayHideKey),
      1,
      tryOnce,
    )
    const reading = mapLimited(
      all.filter(({ mayHideKey }) => !mayHideKey),
      all.length,
      tryOnce,
    )
    for (const each of await Promise.allSettled([locking, reading])) if (each.status === 'rejected') throw each.reason
  })
  const isExplained = open.length > 0 && (await seen.whatFollows(open, 0)) !== undefined
  for (const attempts of open) attempts.giveUp({ isExplained })
}

/** The first step that a query needs and that is still open; undefined when its response will mean something. */
function firstNeeded(journal: Journal, database: ObservedDatabase, service: Service): StepId | undefined {
  if (database.failure !== undefined) return undefined
  const settings = journal
    .stepsIn(database.name)
    .filter((step) => step.kind === 'setting' && step.family === service.family)
    .map(({ id }) => id)
  return firstOpen([...queryNeeds([service.name], database.name), ...settings], journal.step)
}
