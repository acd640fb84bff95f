/** What came of a family in a database, as journal, report and summary have it. */

import type { Journal, Proof } from '../core/journal.ts'
import type { ObservedDatabase } from '../core/observed.ts'
import { type ServiceName, serviceNamed } from '../core/services.ts'
import { Failure } from '../errors/failure.ts'
import { bounded } from '../lib/bounded.ts'
import { onOneLine } from '../lib/unicode.ts'
import type { Call, CallOutcomes } from '../postgres/trial.ts'
import { type ProveOptions, skipQuery, type Task } from './jobs.ts'
import { factsOf } from './verdict.ts'

/** What a read-only query proves: a stored key cannot be taken out of reach by reading, but a resource may refuse all keys. */
export function readOnlyProof({ inputs, resources }: ProveOptions, { keyStored, calls, database, family }: Task): Proof {
  if (inputs.authType === 'subscription-key') return 'key'
  const asIdentity = database.settings.get(family.authType) === 'managed-identity'
  // In a verify the endpoint is not held against the resource: what the resource refuses proves nothing then.
  const refusesKeys =
    inputs.mode !== 'verify' && calls.every((call) => resources.get(call.name as ServiceName)?.localAuthDisabled === true)
  return !keyStored || (asIdentity && refusesKeys) ? 'keyless' : 'key-present'
}

/** The queries as they stand in report and summary. */
export function record(options: ProveOptions, task: Task, outcomes: CallOutcomes, proof: Proof): void {
  for (const call of task.calls) {
    const outcome = outcomes.get(call.name)
    const service = serviceNamed(call.name as ServiceName)
    options.journal.query({
      database: task.database.name,
      service: service.name,
      sql: call.sql,
      status: 'passed',
      proof,
      attempts: task.attempts,
      durationMs: Math.round(outcome?.durationMs ?? 0),
      answer: outcome?.ok === true ? bounded(service.test.answer(outcome.answer)) : 'access granted (the model does not embed)',
      error: '',
    })
  }
}

function queryFailed(options: ProveOptions, task: Task, call: Call, error: string): void {
  options.journal.query({
    database: task.database.name,
    service: call.name as ServiceName,
    sql: call.sql,
    status: 'failed',
    proof: 'none',
    attempts: task.attempts,
    durationMs: 0,
    answer: '',
    error,
  })
}

export function markWritten(options: ProveOptions, task: Task): void {
  for (const step of task.steps) options.journal.mark(step.id, step.status === 'missing' ? 'created' : 'updated', '')
}

/** The database itself failed, not what the queries ask. */
export function databaseFailed(options: ProveOptions, task: Task, error: unknown): Failure {
  const { journal } = options
  const failure = options.connector.failure(error, task.database.name, `asking ${task.family.name}`)
  for (const step of task.steps) journal.mark(step.id, 'failed', failure.title)
  for (const call of task.calls) queryFailed(options, task, call, failure.title)
  journal.fail(failure)
  return failure
}

/** The time is up, or waiting cannot help: what was is still there. */
export function giveUp(options: ProveOptions, task: Task, why: Failure | undefined, journal: Journal): void {
  const failure =
    why ??
    new Failure({
      reason: 'verification',
      code: 'not-tried',
      title: 'A test query was never asked',
      detail: `${task.family.name} in "${task.database.name}"`,
      fix: 'Raise `verify-timeout-minutes` and run again.',
    })
  const tried = task.attempts > 0
  for (const call of task.calls) {
    const outcome = task.lastOutcomes.get(call.name)
    if (outcome?.ok === true && task.steps.length > 0) {
      skipQuery(
        journal,
        task.database.name,
        call.name as ServiceName,
        'passed in the trial, which was rolled back because another test query of its family failed',
      )
    } else if (outcome?.ok === true) record(options, { ...task, calls: [call] }, task.lastOutcomes, readOnlyProof(options, task))
    else if (tried) queryFailed(options, task, call, outcome?.ok === false ? outcome.text : failure.detail)
    else skipQuery(journal, task.database.name, call.name as ServiceName, 'waits for the same family in the first database')
  }
  const working = task.steps.length > 0
  for (const step of task.steps) {
    const now = journal.step(step.id)
    if (now?.detail === '') journal.mark(step.id, step.status, 'left as it was: its test query did not pass')
  }
  if (tried)
    journal.fail(
      working
        ? new Failure({ ...factsOf(failure), detail: `${failure.detail}\nThe settings were left as they were.` }, failure.cause)
        : failure,
    )
}

export function keyWins(options: ProveOptions, task: Task): void {
  options.journal.finding({
    severity: 'warning',
    code: 'key-wins',
    title: 'The stored key is used although the identity is asked for',
    detail: `${task.family.name} in "${task.database.name}": the identity works once the key is gone, but while a key is stored the extension sends it.`,
    fix: `SELECT azure_ai.set_setting('${task.family.key}', '');   -- in "${onOneLine(task.database.name)}"`,
  })
}

/** The statement that gives the role the right to keep a key in a temporary table. */
export function grantTemporary({ name, user }: ObservedDatabase): string {
  const quoted = (identifier: string): string => `"${identifier.replaceAll('"', '""')}"`
  return `GRANT TEMPORARY ON DATABASE ${quoted(name)} TO ${quoted(user)};`
}

/** Keys go as bind parameters where a temporary table is not allowed: whoever reads the log may read them. */
export function exposed({ journal, log }: ProveOptions, { database, family }: Task): void {
  const settings = [...database.logging].map(([name, value]) => `${name} = ${value}`).join(', ')
  const detail = `The role may not make temporary tables in "${database.name}", so ${family.key} travels as a bind parameter. Logging in force: ${settings || 'unknown'}.`
  log.info(detail)
  journal.finding({
    severity: 'warning',
    code: 'key-as-parameter',
    title: 'A key may stand in the statement log',
    detail,
    fix: `${grantTemporary(database)}   -- and rotate the key when statements are logged`,
  })
}
