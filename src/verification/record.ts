/** The only place of verification that writes the journal: results of queries, states of steps, findings and failures. */
import type { Journal, Proof } from '../core/journal.ts'
import type { QueryId } from '../core/services.ts'
import { knownOf } from '../errors/explain.ts'
import { Failure, type Finding } from '../errors/failure.ts'
import { grantTemporary, setSetting, setSettingIn } from '../errors/sql.ts'
import { bounded } from '../lib/bounded.ts'
import type { Log } from '../lib/log.ts'
import type { Call, CallOutcomes } from '../postgres/trial.ts'
import { clearedKeys, type Job, namesOf, type Planned } from './jobs.ts'

/** For a refusal that shows access. */
const granted = ({ name }: Call): string =>
  `access granted (the model does not ${name === 'embedding' ? 'embed' : 'take the request'})`

const refusesKey = (failure: Failure): boolean => failure.code === 'key-is-a-word' || knownOf(failure)?.blamesKey === true

const keysIn = (job: Pick<Job, 'clear'>): readonly string[] => clearedKeys(job).map(([key]) => key)

export class Recorder {
  readonly #journal: Journal
  readonly #log: Log

  constructor(journal: Journal, log: Log) {
    this.#journal = journal
    this.#log = log
  }

  /** What is left undone before anything is tried. */
  planned({ skipped, left, failures, findings }: Planned, database: string): void {
    for (const { reason, ...query } of skipped) this.skipped(database, query, reason)
    for (const each of left) {
      if ('waitsFor' in each) this.#journal.wait(each.step.id, each.waitsFor)
      else this.#journal.mark(each.step.id, each.status, each.reason)
    }
    for (const failure of failures) this.#journal.fail(failure)
    for (const finding of findings) this.#journal.finding(finding)
  }

  skipped(database: string, query: QueryId, reason: string): void {
    skipQuery(this.#journal, database, query, reason)
  }

  /** Right before a COMMIT is sent. What it returns is called when nothing of it stays. */
  committing(): () => void {
    return this.#journal.writing()
  }

  committed({ steps, settings }: Job): void {
    const values = new Map(settings)
    for (const step of steps) {
      const value = step.kind === 'setting' ? values.get(step.setting) : undefined
      const isOther = step.change?.kind === 'setting' && value !== undefined && value !== step.change.to
      const detail = isOther ? `set to ${value}: the service answers 404 at the other path` : ''
      this.#journal.mark(step.id, step.status === 'missing' ? 'created' : 'updated', detail)
    }
  }

  cleared({ clear, database }: Job): void {
    if (clear.length === 0) return
    for (const step of clear) this.#journal.mark(step.id, 'updated', '')
    this.#log.info(`Database "${database.name}": ${namesOf(keysIn({ clear }))} cleared`)
  }

  reverted({ steps }: Job): void {
    for (const step of steps) this.#journal.mark(step.id, step.status, 'reverted: verification failed')
  }

  passed(job: Job, outcomes: CallOutcomes, proof: Proof, attempts: number): void {
    this.#noteReadWrite(job, outcomes)
    for (const call of job.calls) this.#passed(job, call, { outcomes, proof, attempts })
  }

  #passed(
    { database }: Job,
    call: Call,
    { outcomes, proof, attempts }: { outcomes: CallOutcomes; proof: Proof; attempts: number },
  ): void {
    const outcome = outcomes.get(call.name)
    this.#journal.query({
      database: database.name,
      service: call.service,
      name: call.name,
      sql: call.sql,
      status: 'passed',
      proof,
      attempts,
      durationMs: Math.round(outcome?.durationMs ?? 0),
      answer: outcome?.ok === true ? bounded(call.answer(outcome.answer)) : granted(call),
      error: '',
    })
  }

  #failed({ database }: Job, { service, name, sql }: Call, attempts: number, error: string): void {
    this.#journal.query({
      database: database.name,
      service,
      name,
      sql,
      status: 'failed',
      proof: 'none',
      attempts,
      durationMs: 0,
      answer: '',
      error,
    })
  }

  /** The database itself failed, not a service that the queries call. */
  databaseFailed(job: Job, failure: Failure, attempts: number): void {
    // A setting that could not be put back has a more exact failure already.
    const open = job.steps.filter(({ id }) => this.#journal.step(id)?.status !== 'failed')
    for (const step of open) this.#journal.mark(step.id, 'failed', failure.title)
    for (const call of job.calls) this.#failed(job, call, attempts, failure.title)
    this.#journal.fail(failure)
  }

  /** The time is up, or waiting cannot help: the previous settings are in force. */
  gaveUp(
    job: Job,
    failure: Failure,
    { outcomes, proof, attempts, isExplained }: { outcomes: CallOutcomes; proof: Proof; attempts: number; isExplained: boolean },
  ): void {
    const { database, steps } = job
    if (refusesKey(failure)) this.#journal.keySent(database.name, job.family.name, 'refused')
    this.#noteReadWrite(job, outcomes)
    for (const call of job.calls) {
      const outcome = outcomes.get(call.name)
      if (outcome?.ok === true && steps.length > 0) {
        const reason = 'passed in the trial, which was rolled back because another test query of its family failed'
        this.skipped(database.name, call, reason)
      } else if (outcome?.ok === true) this.#passed(job, call, { outcomes, proof, attempts })
      else if (attempts > 0) this.#failed(job, call, attempts, outcome?.ok === false ? outcome.text : failure.detail)
      else this.skipped(database.name, call, 'waits for the same family in the first database')
    }
    for (const step of steps) {
      const now = this.#journal.step(step.id)
      if (now?.detail === '') this.#journal.mark(step.id, step.status, 'left as it was: its test query did not pass')
    }
    if (attempts === 0 || isExplained) return
    const detail = `${failure.detail}\nThe settings were left as they were.`
    this.#journal.fail(steps.length > 0 ? new Failure({ ...failure, detail }, failure.cause) : failure)
  }

  functionRetired({ database }: Job, { title, sql }: Call): void {
    this.#journal.finding({
      severity: 'notice',
      code: 'function-replaced',
      title: 'A service has retired the function of its test query',
      detail: `${title} in "${database.name}": another function was queried instead: ${sql}`,
      fix: '',
    })
  }

  /** The identity works once the key is gone, but while a key is stored the extension sends it. */
  keyWins({ family, database }: Job): void {
    this.#journal.keySent(database.name, family.name, 'accepted')
  }

  uncommittedNotSeen({ family }: Job): void {
    this.#journal.finding({
      severity: 'notice',
      code: 'uncommitted-settings-not-seen',
      title: 'The extension does not see uncommitted settings',
      detail: `${family.name}: a query succeeded although the endpoint led nowhere in its transaction. New settings can be verified only once they are committed: they are checked at once then, and put back when they fail.`,
      fix: '',
    })
  }

  /** Keys go as bind parameters where a temporary table is not allowed: whoever reads the log may read them. */
  exposed({ database, secrets }: Job): void {
    const settings = [...database.logging].map(([name, value]) => `${name} = ${value}`).join(', ')
    const detail = `The role may not create temporary tables in "${database.name}", so ${namesOf(secrets.map(([key]) => key))} is sent as a bind parameter. Logging in force: ${settings || 'unknown'}.`
    this.#log.info(detail)
    this.#journal.finding({
      severity: 'warning',
      code: 'key-as-parameter',
      title: 'A key may be in the statement log',
      detail,
      fix: `${grantTemporary(database)}   -- and rotate the key when statements are logged`,
    })
  }

  keyNotCleared(job: Job, why: string): void {
    const { clear, database } = job
    const keys = keysIn(job)
    for (const step of clear) this.#journal.mark(step.id, 'failed', why)
    this.#journal.fail(
      new Failure({
        reason: 'database',
        code: 'key-not-blanked',
        title: 'A stored key could not be cleared',
        detail: `${namesOf(keys)} in "${database.name}": ${why}.`,
        fix: `${keys.map((key) => setSettingIn(database.name, key, '')).join(' ')}; if it is refused, DROP EXTENSION azure_ai and run this action again`,
      }),
    )
  }

  clearedKeyLost({ clear, database }: Job): void {
    const keys = keysIn({ clear })
    for (const step of clear) this.#journal.mark(step.id, 'failed', 'it is cleared, was not verified, and could not be put back')
    this.#journal.fail(
      new Failure({
        reason: 'database',
        code: 'key-not-put-back',
        title: 'The previous key could not be put back',
        detail: `${namesOf(keys)} in "${database.name}" is empty, although the test queries did not pass without it.`,
        fix: `${keys.map((key) => setSettingIn(database.name, key, 'KEY')).join(' ')}, with the key of the resource; or run again with \`auth-type: subscription-key\``,
      }),
    )
  }

  settingsNotPutBack({ family, database, previous }: Job, why: string): void {
    this.#journal.fail(
      new Failure({
        reason: 'database',
        code: 'settings-not-put-back',
        title: 'The previous settings could not be put back',
        detail: `${family.name} in "${database.name}" was set and not verified: ${why}`,
        fix: previous.map(([setting, value]) => setSetting(setting, value)).join(' '),
      }),
    )
  }

  newKeyStays({ secrets, steps, database }: Job): void {
    const keys = secrets.map(([key]) => key)
    for (const step of steps.filter(({ change }) => change?.kind === 'key'))
      this.#journal.mark(step.id, 'failed', 'the new key stays, unverified: the previous one could not be put back')
    this.#journal.fail(
      new Failure({
        reason: 'database',
        code: 'key-not-put-back',
        title: 'The previous key could not be put back',
        detail: `${namesOf(keys)} in "${database.name}" is the new key, although it is not verified.`,
        fix: `Run again with the right key as input, or set it: ${keys.map((key) => setSettingIn(database.name, key, 'KEY')).join(' ')}`,
      }),
    )
  }

  #noteReadWrite({ calls, database }: Job, outcomes: CallOutcomes): void {
    for (const { name, title } of calls) {
      if (outcomes.get(name)?.inReadWrite !== true) continue
      const finding: Finding = {
        severity: 'notice',
        code: 'not-asked-read-only',
        title: 'A test function does not run in a read-only transaction',
        detail: `${title} in "${database.name}": the query ran again in a transaction that was rolled back.`,
        fix: '',
      }
      this.#journal.finding(finding)
    }
  }
}

export function skipQuery(journal: Journal, database: string, { service, name }: QueryId, reason: string): void {
  const none = { sql: '', proof: 'none', attempts: 0, durationMs: 0, answer: '' } as const
  journal.query({ database, service, name, status: 'skipped', ...none, error: reason })
}
