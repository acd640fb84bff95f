/** One family in one database: what was tried so far, the next attempt, and what the journal says of it. */
import type { Proof } from '../core/journal.ts'
import { outlook, statusIn } from '../errors/explain.ts'
import { Failure } from '../errors/failure.ts'
import { principalIn } from '../errors/known/ai.ts'
import type { Call, CallOutcome, CallOutcomes } from '../postgres/trial.ts'
import { clearKey } from './clear-key.ts'
import { type Job, worksToday } from './jobs.ts'
import type { DatabaseSession } from './session.ts'
import { strategyFor, type Visibility } from './strategy.ts'
import { type AttemptOptions, attempt, type Outcome } from './switch.ts'
import { readOnlyProof } from './verdict.ts'
import { isRefused, type Looked, lookForVisibility, unclearTrial } from './visibility.ts'

/** How long a working configuration is left alone between two trials that everybody sees, in milliseconds. */
const committedTrialEveryMs = 60_000

/** What is known of a version of azure_ai on this server: each version is looked at once. */
export type KnownVersions = Map<string, Visibility>

export type Result =
  | { readonly kind: 'done'; readonly proof: Proof }
  | { readonly kind: 'not-yet' | 'failed'; readonly failure: Failure }

export class Attempts {
  #job: Job
  readonly #options: AttemptOptions
  readonly #session: DatabaseSession
  readonly #versions: KnownVersions
  #count = 0
  #looked: Looked | undefined
  /** When settings were last committed to be checked, by `performance.now()`. */
  #committedAt: number | undefined
  /** The result of the last attempt while it may still become better. */
  #waitingFor: Failure | undefined
  #outcomes: CallOutcomes = new Map()

  constructor(options: AttemptOptions, session: DatabaseSession, job: Job, versions: KnownVersions) {
    this.#job = job
    this.#options = options
    this.#session = session
    this.#versions = versions
  }

  get job(): Job {
    return this.#job
  }

  get waitingFor(): Failure | undefined {
    return this.#waitingFor
  }

  /** Object ids that the services named in the last attempt when they refused. */
  get refusedPrincipals(): readonly string[] {
    return [...this.#outcomes.values()].flatMap((outcome) => (outcome.ok ? [] : (principalIn(outcome.text) ?? [])))
  }

  /** Whether another attempt would be seen by everybody, because settings are tried by committing them. */
  get isSeenByAll(): boolean {
    return this.#visibility === 'hidden'
  }

  get #visibility(): Visibility {
    return this.job.onlyCommitted ? 'hidden' : (this.#looked?.visibility ?? 'unclear')
  }

  /** One attempt; never rejects but for a cancel. */
  async next(): Promise<Result> {
    this.#count++
    try {
      await this.#look()
      let outcome = await this.#attempt()
      if (outcome.kind !== 'verified' && (this.#replaceRetired(outcome) || this.#replacePath(outcome))) {
        // It is another attempt than the one that failed, and need not wait for its turn.
        this.#committedAt = undefined
        outcome = await this.#attempt()
      }
      this.#outcomes = outcome.outcomes
      if (outcome.kind === 'verified') return { kind: 'done', proof: await this.#verified(outcome) }
      this.#waitingFor = outcome.failure
      if (outcome.kind === 'failed') this.giveUp()
      return outcome
    } catch (error) {
      if (this.#session.signal.aborted) throw this.#session.signal.reason
      const failure = await this.#session.withLockHolders(this.#session.failure(error, `querying ${this.job.family.name}`))
      this.#options.recorder.databaseFailed(this.job, failure, this.#count)
      return { kind: 'failed', failure }
    }
  }

  /**
   * The time is up, or waiting cannot help.
   * @param otherwise what to report where nothing was tried
   * @param isExplained whether the cause is reported elsewhere
   */
  giveUp({ otherwise, isExplained = false }: { otherwise?: Failure | undefined; isExplained?: boolean } = {}): void {
    const { recorder } = this.#options
    const proof = readOnlyProof(this.#options, this.job)
    const failure = this.#waitingFor ?? otherwise ?? notTried(this.job)
    recorder.gaveUp(this.job, failure, { outcomes: this.#outcomes, proof, attempts: this.#count, isExplained })
  }

  /** Whether the attempt may hide a stored key in a transaction, which holds the lock of this action. */
  get mayHideKey(): boolean {
    const { storedKeys, database, family } = this.job
    // Nothing is switched in a check or a verify: only a family that uses the identity already can show that it needs no key.
    const usesIdentity = this.#options.writes || database.settings.get(family.authType) === 'managed-identity'
    return storedKeys.length > 0 && usesIdentity && database.maySet && !database.isReadOnly
  }

  /** Looks where a trial depends on it: when something is to be set, or a key to be hidden. */
  async #look(): Promise<void> {
    const { job } = this
    const { writes, log, recorder } = this.#options
    if (job.onlyCommitted || this.#looked !== undefined || job.calls.length === 0) return
    const depends = this.mayHideKey || (writes && (job.settings.length > 0 || job.secrets.length > 0))
    const known = this.#versions.get(job.database.extension.installed ?? '')
    if (!depends || known !== undefined) {
      this.#looked = { visibility: known ?? 'visible', outcomes: new Map() }
      return
    }
    this.#looked = await lookForVisibility(this.#session, job, { writes, log }).catch((error: unknown) => {
      // A check need not hide the key: it still queries what is committed.
      if (writes || this.#session.signal.aborted) throw error
      return undefined
    })
    const found = this.#looked?.visibility
    if (found === 'hidden') recorder.uncommittedNotSeen(job)
    if (found === 'visible' || found === 'hidden') this.#versions.set(job.database.extension.installed ?? '', found)
  }

  async #attempt(): Promise<Outcome> {
    const { job } = this
    const { inputs, writes } = this.#options
    const visibility = this.#visibility
    // Keys are cleared only in favour of the identity.
    const mayBeDead = writes && job.clear.length > 0 && visibility !== 'visible'
    const isKeyDead = mayBeDead && (await this.#session.patiently(() => isRefused(this.#session, job)))
    const now = performance.now()
    const strategy = strategyFor({
      writes,
      byIdentity: inputs.authType === 'managed-identity',
      hasQueries: job.calls.length > 0,
      visibility,
      worksToday: worksToday(job),
      isKeyDead,
      committedLately: this.#committedAt !== undefined && now - this.#committedAt < committedTrialEveryMs,
      mayHideKey: this.mayHideKey,
    })
    if (strategy === 'wait') return this.#wait(visibility)
    if (strategy === 'commit-then-check' && visibility === 'hidden') this.#committedAt = now
    // What fails without the key says nothing of the extension: the next attempt looks again.
    if (isKeyDead && visibility === 'unclear') this.#looked = undefined
    return this.#session.patiently(() => attempt(this.#options, this.#session, job, { strategy, visibility, isKeyDead }))
  }

  /** Puts the fallback in the place of a query whose function the service has retired; false where there is none. */
  #replaceRetired({ outcomes }: Outcome): boolean {
    const retired = this.job.calls.find(({ name, fallback }) => fallback !== undefined && isRetired(outcomes.get(name)))
    if (retired?.fallback === undefined) return false
    const { fallback } = retired
    this.#job = { ...this.job, calls: this.job.calls.map((call) => (call === retired ? fallback : call)) }
    this.#options.recorder.functionRetired(this.job, fallback)
    return true
  }

  /** Puts the other path in the place of a new endpoint that answered 404; false where there is none. */
  #replacePath({ outcomes }: Outcome): boolean {
    const { job } = this
    const isAbsent = ({ endpoint, name }: Call): boolean => {
      const outcome = outcomes.get(name)
      return outcome?.ok === false && job.otherwise.has(endpoint) && statusIn(outcome.text) === 404
    }
    const absent = new Set(job.calls.filter(isAbsent).map(({ endpoint }) => endpoint))
    if (absent.size === 0) return false
    const swapped = (setting: string, value: string): string =>
      absent.has(setting) ? (job.otherwise.get(setting) ?? value) : value
    this.#job = {
      ...job,
      settings: job.settings.map(([setting, value]) => [setting, swapped(setting, value)]),
      otherwise: new Map(
        [...job.otherwise].map(([setting, other]) => [setting, absent.has(setting) ? (settingIn(job, setting) ?? other) : other]),
      ),
    }
    return true
  }

  /** What answered the control may be what is committed: nothing is committed on such a response. */
  #wait(visibility: Visibility): Outcome {
    const outcomes = this.#looked?.outcomes ?? new Map()
    const failure = unclearTrial(this.job, outcomes)
    if (visibility === 'hidden') return { kind: 'not-yet', failure: this.#waitingFor ?? failure, outcomes: this.#outcomes }
    // The next attempt looks again.
    this.#looked = undefined
    return { kind: 'not-yet', failure, outcomes }
  }

  /** Records what passed, and clears the stored key where the inputs say so. */
  async #verified({ outcomes, proof, cleared }: Extract<Outcome, { kind: 'verified' }>): Promise<Proof> {
    const { recorder, writes } = this.#options
    const { job } = this
    recorder.passed(job, outcomes, proof, this.#count)
    if (job.clear.length === 0 || cleared === true || !writes) return proof
    const visibility = this.#visibility
    const clearing = await this.#session.patiently(() => clearKey(this.#options, this.#session, job, visibility))
    if (clearing.kind === 'cleared') {
      recorder.cleared(job)
      recorder.passed(job, clearing.outcomes, 'keyless', this.#count)
      return 'keyless'
    }
    if (clearing.kind === 'kept') recorder.keyNotCleared(job, clearing.reason)
    else recorder.clearedKeyLost(job)
    this.#session.signal.throwIfAborted()
    return proof
  }
}

function isRetired(outcome: CallOutcome | undefined): boolean {
  return outcome?.ok === false && outlook({ origin: 'ai', code: outcome.code, text: outcome.text }) === 'retired'
}

const settingIn = ({ settings }: Job, setting: string): string | undefined => settings.find(([key]) => key === setting)?.[1]

function notTried({ family, database }: Job): Failure {
  return new Failure({
    reason: 'verification',
    code: 'not-tried',
    title: 'A test query never ran',
    detail: `${family.name} in "${database.name}"`,
    fix: 'Raise `verify-timeout-minutes` and run again.',
  })
}
