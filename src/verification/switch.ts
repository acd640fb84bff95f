/**
 * One attempt to switch a family in a database: new settings are tried in a transaction, and only what the services accepted is
 * committed; what fails afterwards is put back. Nothing stays open between attempts.
 */
import type { Proof } from '../core/journal.ts'
import { outlook } from '../errors/explain.ts'
import { Failure } from '../errors/failure.ts'
import { grantTemporary } from '../errors/sql.ts'
import type { Log } from '../lib/log.ts'
import { whyNoKeyIsKept } from '../postgres/azure-ai.ts'
import type { Connection } from '../postgres/connection.ts'
import { type CallOutcomes, forget, restore, type Setting, trial, writeBack } from '../postgres/trial.ts'
import { clearedKeys, differing, type Job, namesOf, worksToday } from './jobs.ts'
import type { Recorder } from './record.ts'
import type { DatabaseSession } from './session.ts'
import type { Strategy, Visibility } from './strategy.ts'
import { type JudgeOptions, judge, readOnlyProof, type Verdict } from './verdict.ts'

/** Placeholder for the stored key: a query that succeeds with it did not authenticate by key. */
const notAKey = 'not-a-key-taken-out-of-reach'

/** The result of one attempt. */
export type Outcome =
  /** `cleared`: the stored key is gone as well. */
  | { readonly kind: 'verified'; readonly proof: Proof; readonly outcomes: CallOutcomes; readonly cleared?: true }
  /** Waiting may help. */
  | { readonly kind: 'not-yet'; readonly failure: Failure; readonly outcomes: CallOutcomes }
  /** Waiting cannot help; what was committed is put back. */
  | { readonly kind: 'failed'; readonly failure: Failure; readonly outcomes: CallOutcomes }

export interface AttemptOptions extends JudgeOptions {
  readonly recorder: Recorder
  readonly log: Log
  /** Whether what passes may be committed; a check and a verify roll back whatever they try. */
  readonly writes: boolean
}

export function outcomeOf(verdict: Exclude<Verdict, 'passed'>, outcomes: CallOutcomes): Outcome {
  return { kind: verdict.final ? 'failed' : 'not-yet', failure: verdict.failure, outcomes }
}

interface Tactics {
  readonly strategy: Exclude<Strategy, 'wait'>
  readonly visibility: Visibility
  /** Nothing works with the stored key: it is cleared along with the switch. */
  readonly isKeyDead: boolean
}

export function attempt(options: AttemptOptions, session: DatabaseSession, job: Job, tactics: Tactics): Promise<Outcome> {
  const one = new SwitchAttempt(options, session, job)
  switch (tactics.strategy) {
    case 'ask-only':
      return one.askOnly()
    case 'trial':
      return options.writes ? one.trial(tactics.visibility) : one.rolledBackTrial()
    case 'store-key':
      return one.storeKey(tactics.visibility)
    case 'commit-then-check':
      return tactics.isKeyDead ? one.withoutKey() : one.commitThenCheck()
  }
}

interface Tried {
  readonly accepted: boolean
  readonly outcomes: CallOutcomes
  readonly keyHidden: boolean
  /** The stored key is used although auth_type says otherwise. */
  readonly keyWins: boolean
  /** The attempt is over: what follows a trial is done already. */
  readonly done?: Outcome
}

/** How to commit and check. */
interface CommitOptions {
  readonly settings: readonly Setting[]
  readonly proof: Proof
  /** Whether the queries run inside the transaction already, and decide about the COMMIT. */
  readonly triesFirst: boolean
  /** Whether the previous values are kept on the connection, because one of them is a key. */
  readonly keeps: boolean
}

/**
 * A COMMIT, a setting that was put back and a key that wins are recorded when they happen, not with the outcome: a cancel or an
 * error can end the attempt before it has an outcome, and the report has to be true then as well.
 */
class SwitchAttempt {
  readonly #options: AttemptOptions
  readonly #session: DatabaseSession
  readonly #job: Job
  /** Says that nothing of what was committed stays. */
  #takeBack: (() => void) | undefined
  /** Whether the stored key is cleared along with the switch. */
  #clears = false

  constructor(options: AttemptOptions, session: DatabaseSession, job: Job) {
    this.#options = options
    this.#session = session
    this.#job = job
  }

  async askOnly(): Promise<Outcome> {
    const outcomes = await this.#session.query(this.#job.calls)
    const verdict = this.#judge(outcomes)
    return verdict === 'passed'
      ? { kind: 'verified', proof: readOnlyProof(this.#options, this.#job), outcomes }
      : outcomeOf(verdict, outcomes)
  }

  /** Hides a stored key in a transaction that is rolled back, to see whether the queries pass without it. */
  async rolledBackTrial(): Promise<Outcome> {
    try {
      const tried = await this.#hideKey(this.#session)
      if (tried.accepted && tried.keyHidden && !tried.keyWins)
        return { kind: 'verified', proof: 'keyless', outcomes: tried.outcomes }
      if (tried.keyWins) this.#options.recorder.keyWins(this.#job)
    } catch (error) {
      if (this.#session.signal.aborted) throw error
      // A check need not hide the key: what is committed is still queried, with the key in reach.
      this.#options.log.debug(`hiding ${namesOf(this.#job.storedKeys)}: ${this.#session.failure(error, 'hiding a key').message}`)
    }
    return this.askOnly()
  }

  /** The trial of the identity, with a stored key hidden; what everybody gets afterwards is checked on a connection of its own. */
  async trial(visibility: Visibility): Promise<Outcome> {
    const { recorder } = this.#options
    const job = this.#job
    const tried = await this.#tryIdentity()
    if (tried.done !== undefined) {
      const mayStill = tried.done.kind === 'not-yet' && visibility === 'unclear' && differing(job)
      return mayStill ? this.commitThenCheck() : tried.done
    }
    if (tried.accepted) {
      const isHidden = tried.keyHidden && !tried.keyWins && visibility === 'visible'
      if (tried.keyWins) recorder.keyWins(job)
      if (job.settings.length > 0) recorder.committed(job)
      // What everybody gets from now on, read-only and on a connection of its own: these responses are in the summary.
      return this.#settle(this.#session, job.storedKeys.length > 0 && !isHidden ? 'key-present' : 'keyless', undefined)
    }
    const verdict = this.#judge(tried.outcomes)
    if (verdict === 'passed') throw new Error('a trial that was accepted ended without a result')
    // Nothing shows whether the trial's settings were seen: committed ones are queried before the failure is believed.
    if (visibility === 'unclear' && job.settings.length > 0) return this.commitThenCheck()
    return outcomeOf(verdict, tried.outcomes)
  }

  /** The trial of a key: it is stored as data, and the previous one, which is hidden, can be put back by this connection only. */
  async storeKey(visibility: Visibility): Promise<Outcome> {
    const outcome = await this.#commit({ ...this.#plain('key'), triesFirst: true })
    const mayStill = outcome.kind === 'not-yet' && visibility === 'unclear' && differing(this.#job)
    return mayStill ? this.commitThenCheck() : outcome
  }

  /** Commits, checks at once on a fresh connection, and puts back what was when the check fails. */
  async commitThenCheck(): Promise<Outcome> {
    const { inputs } = this.#options
    const job = this.#job
    const byIdentity = job.storedKeys.length > 0 ? 'key-present' : 'keyless'
    const queried = inputs.authType === 'subscription-key' ? 'key' : byIdentity
    const proof = job.calls.length === 0 ? 'none' : queried
    const isPrecious = job.secrets.length > 0 && worksToday(job) && !inputs.allowUnproven
    const why = isPrecious ? await this.#session.fresh(whyNoKeyIsKept) : undefined
    if (why !== undefined) return { kind: 'failed', failure: couldNotBePutBack(job, why), outcomes: new Map() }
    return this.#commit(this.#plain(proof))
  }

  /** Nothing works with the stored key, and a trial would show nothing: what is committed is queried without the key. */
  async withoutKey(): Promise<Outcome> {
    return (await this.#switchWithoutKey(false)) ?? this.commitThenCheck()
  }

  #plain(proof: Proof): CommitOptions {
    const { settings, secrets } = this.#job
    return { settings, proof, triesFirst: false, keeps: secrets.length > 0 }
  }

  #judge(outcomes: CallOutcomes): Verdict {
    return judge(this.#options, this.#job, outcomes)
  }

  #accepts(outcomes: CallOutcomes): boolean {
    return this.#judge(outcomes) === 'passed'
  }

  /** A family that is set already is tried, and rolled back, only to hide its key. */
  async #tryIdentity(): Promise<Tried> {
    const job = this.#job
    const nothingToTry = { accepted: true, outcomes: new Map(), keyWins: false }
    // A role that may only read cannot hide the key, and nothing has to be set.
    if (job.storedKeys.length > 0 && job.settings.length === 0 && !job.database.maySet)
      return { ...nothingToTry, keyHidden: false }
    // In sync and no key: the read-only queries that follow say all there is to say.
    if (job.storedKeys.length === 0 && job.settings.length === 0) return { ...nothingToTry, keyHidden: true }
    const committing = { now: false }
    try {
      if (job.storedKeys.length > 0) return await this.#hideKey(this.#session, committing)
      const { outcomes } = await this.#runTrial(this.#session, [], committing)
      return { accepted: this.#accepts(outcomes), outcomes, keyHidden: true, keyWins: false }
    } catch (error) {
      if (!committing.now || (await this.#isRolledBack(this.#session, job.settings, []))) throw error
      this.#options.recorder.committed(job)
      const done = await this.#settle(this.#session, job.storedKeys.length > 0 ? 'key-present' : 'keyless', undefined)
      return { accepted: done.kind === 'verified', outcomes: done.outcomes, keyHidden: true, keyWins: false, done }
    }
  }

  /** First with a placeholder in the key's place; where that is refused or fails, with the key blank, then with the key as it is. */
  async #hideKey(session: DatabaseSession, committing?: { now: boolean }): Promise<Tried> {
    const { storedKeys } = this.#job
    const hiddenBy = (by: string): readonly Setting[] => storedKeys.map((key) => [key, by])
    const placeholder = await this.#runTrial(session, hiddenBy(notAKey), committing)
    const tried = (outcomes: CallOutcomes, keyHidden: boolean): Tried => {
      return { accepted: this.#accepts(outcomes), outcomes, keyHidden, keyWins: false }
    }
    const hidden = tried(placeholder.outcomes, true)
    if (placeholder.hidden && (hidden.accepted || refusesIdentity(placeholder.outcomes))) return hidden
    // With the key blank the identity is used whatever auth_type says: only the placeholder shows that a stored key is not preferred.
    const blank = await this.#runTrial(session, hiddenBy(''))
    if (!blank.hidden) return placeholder.hidden ? hidden : tried((await this.#runTrial(session, [], committing)).outcomes, false)
    if (!this.#accepts(blank.outcomes)) return tried(blank.outcomes, placeholder.hidden)
    if (placeholder.hidden) {
      // The identity may have begun to work between the two: a placeholder that passes now is no key that wins.
      const again = await this.#runTrial(session, hiddenBy(notAKey), committing)
      if (this.#accepts(again.outcomes)) return tried(again.outcomes, true)
    }
    return this.#withoutKey(session, placeholder.hidden, committing)
  }

  /** The queries pass only with the key blank. `keyWins`: a placeholder in its place was sent although auth_type says otherwise. */
  async #withoutKey(session: DatabaseSession, keyWins: boolean, committing?: { now: boolean }): Promise<Tried> {
    const { storedKeys, clear } = this.#job
    // The key wins and is to be cleared anyway: with a dead key nothing else works.
    const done = clear.length > 0 && committing !== undefined ? await this.#switchWithoutKey(true) : undefined
    if (done !== undefined) return { accepted: done.kind === 'verified', outcomes: done.outcomes, keyHidden: true, keyWins, done }
    const blank: readonly Setting[] = storedKeys.map((key) => [key, ''])
    const { outcomes } = await this.#runTrial(session, blank, committing)
    return { accepted: this.#accepts(outcomes), outcomes, keyHidden: keyWins, keyWins }
  }

  /** @param committing absent where nothing may be committed */
  #runTrial(session: DatabaseSession, hide: readonly Setting[], committing?: { now: boolean }) {
    const { recorder, log } = this.#options
    const { database, settings, calls } = this.#job
    return session.fresh((connection) =>
      trial(connection, {
        database,
        settings,
        hide,
        calls,
        commit: (outcomes) => {
          if (committing === undefined || settings.length === 0 || !this.#accepts(outcomes)) return false
          committing.now = true
          this.#takeBack = recorder.committing()
          return true
        },
        log,
      }),
    )
  }

  /**
   * Switches and clears the key in one transaction, for a stored key that wins over the identity or is dead. Undefined where
   * the previous key could not be put back afterwards.
   */
  async #switchWithoutKey(triesFirst: boolean): Promise<Outcome | undefined> {
    const { recorder } = this.#options
    const job = this.#job
    if ((await this.#session.fresh(whyNoKeyIsKept)) !== undefined) return undefined
    this.#clears = true
    const outcome = await this.#commit({
      settings: [...job.settings, ...clearedKeys(job)],
      proof: 'keyless',
      triesFirst,
      keeps: true,
    })
    if (outcome.kind !== 'verified') return outcome
    recorder.cleared(job)
    return { ...outcome, cleared: true }
  }

  /** Sets and commits, then queries again on a fresh connection and puts back what was when that fails. */
  async #commit(commit: CommitOptions): Promise<Outcome> {
    const { log, recorder } = this.#options
    const job = this.#job
    const { settings, triesFirst, keeps } = commit
    if (settings.length === 0 && job.secrets.length === 0) return this.#settle(this.#session, commit.proof, undefined)
    // The connection that keeps the previous key outlives a cancel for as long as putting it back takes.
    return this.#session.keeping().fresh(async (connection) => {
      const beside = this.#session.beside()
      const kept = keeps ? connection : undefined
      let isCommitting = false
      try {
        const { outcomes, committed } = await trial(connection, {
          database: job.database,
          settings,
          secrets: job.secrets,
          keep: keeps,
          onExposed: () => recorder.exposed(job),
          hide: [],
          calls: triesFirst ? job.calls : [],
          commit: (found) => {
            isCommitting = !this.#session.signal.aborted && (!triesFirst || this.#accepts(found))
            if (isCommitting) this.#takeBack = recorder.committing()
            return isCommitting
          },
          log,
        })
        if (!committed) {
          this.#session.signal.throwIfAborted()
          const verdict = this.#judge(outcomes)
          return verdict === 'passed' ? { kind: 'verified', proof: commit.proof, outcomes } : outcomeOf(verdict, outcomes)
        }
      } catch (error) {
        if (!isCommitting || (await this.#isRolledBack(beside, settings, job.secrets))) throw error
        recorder.committed(job)
        return this.#settle(beside, commit.proof, undefined)
      }
      recorder.committed(job)
      return this.#settle(beside, commit.proof, kept)
    })
  }

  /** After a COMMIT without a response: whether it is certain that it did not take effect, so that all of it may be done again. */
  async #isRolledBack(session: DatabaseSession, settings: readonly Setting[], secrets: readonly Setting[]): Promise<boolean> {
    const isRolledBack = (await session.confirmCommit(settings, secrets)) === 'rolled-back'
    if (isRolledBack) this.#takeBack?.()
    return isRolledBack
  }

  /**
   * Queries on a fresh connection what everybody has now, after a COMMIT, and puts back what was when the queries fail or
   * cannot run.
   * @param kept the connection that kept a previous key
   */
  async #settle(session: DatabaseSession, proof: Proof, kept: Connection | undefined): Promise<Outcome> {
    const job = this.#job
    if (job.calls.length === 0) return { kind: 'verified', proof, outcomes: new Map() }
    let outcomes: CallOutcomes
    try {
      outcomes = await session.queryTwice(job.calls)
    } catch (error) {
      if (this.#takeBack !== undefined) await this.#putBack(kept)
      if (session.signal.aborted) throw session.signal.reason
      // Without its cause the failure is final: a retry would send another COMMIT.
      throw new Failure(session.failure(error, `checking ${job.family.name}`))
    }
    const verdict = this.#judge(outcomes)
    if (verdict === 'passed') {
      if (kept !== undefined) await forget(kept, job.database).catch(() => undefined)
      return { kind: 'verified', proof, outcomes }
    }
    if (this.#takeBack !== undefined) await this.#putBack(kept)
    return outcomeOf(verdict, outcomes)
  }

  /** Puts the previous settings back, also after a cancel; keys only on the connection that kept them. Reports it when it cannot. */
  async #putBack(kept: Connection | undefined): Promise<void> {
    const { log, recorder } = this.#options
    const job = this.#job
    const session = this.#session.outliving()
    const name = job.database.name
    log.info(`… database "${name}": ${job.family.name} was committed and is not verified; putting the previous settings back`)
    const isRestored = kept !== undefined && (await restore(kept, job.database, log).catch(() => false))
    try {
      if (!isRestored) await session.patiently(() => session.fresh((other) => writeBack(other, job.database, job.previous, log)))
    } catch (error) {
      recorder.settingsNotPutBack(job, session.failure(error, 'putting settings back').detail)
      return
    }
    const isKeyLost = !isRestored && (job.secrets.length > 0 || this.#clears)
    recorder.reverted(job)
    if (isKeyLost && job.secrets.length > 0) recorder.newKeyStays(job)
    else if (isKeyLost) recorder.clearedKeyLost(job)
    // All is as it was: nothing of this stays.
    else this.#takeBack?.()
  }
}

/** The service refused the identity, not the placeholder: the key plays no part, and another try without it would get the same response. */
function refusesIdentity(outcomes: CallOutcomes): boolean {
  const refusal = [...outcomes.values()].find((each) => !each.ok)
  if (refusal === undefined || refusal.ok) return false
  return !['final', 'unknown'].includes(outlook({ origin: 'ai', code: refusal.code, text: refusal.text }))
}

function couldNotBePutBack({ family, database }: Job, why: string): Failure {
  return new Failure({
    reason: 'verification',
    code: 'not-switched-unproven',
    title: 'A family that works today was not switched: its key could not be put back',
    detail: `${family.name} in "${database.name}": the new key can be verified only once it is stored, and the old one would be lost: ${why}.`,
    fix: `${grantTemporary(database)}   -- or connect to the server itself, not to its pooler; or set \`allow-unproven: true\``,
  })
}
