/**
 * One attempt to switch a family in a database: the new settings are tried in a transaction, and only what the services
 * accepted is committed; what fails afterwards is put back. Nothing stays open between attempts.
 */

import type { Proof } from '../core/journal.ts'
import { outlook } from '../errors/explain.ts'
import { Failure } from '../errors/failure.ts'
import { onOneLine } from '../lib/unicode.ts'
import { mayMakeTemporaryTables } from '../postgres/azure-ai.ts'
import type { Connection } from '../postgres/connection.ts'
import { type CallOutcomes, forget, restore, trial, writeBack } from '../postgres/trial.ts'
import { blankKey } from './clear-key.ts'
import { type Attempt, differing, type ProveOptions, type Task, type Visibility, worksToday } from './jobs.ts'
import { databaseFailed, exposed, giveUp, grantTemporary, keyWins, markWritten, readOnlyProof, record } from './record.ts'
import { askFreshly, askTwice, beside, cameToNothing, freshly, keeping, outliving, patiently } from './session.ts'
import { factsOf, judge } from './verdict.ts'
import { unclearTrial, visibilityOf } from './visibility.ts'

/** Stands in for a stored key while a query runs: whoever is answered with this in place was not answered because of a key. */
const notAKey = 'not-a-key-taken-out-of-reach'

/** One try of one family in one database. */
export async function attempt(options: ProveOptions, task: Task): Promise<Attempt> {
  const { journal, signal } = options
  task.attempts++
  try {
    task.visibility ??= await visibilityOf(options, task)
    const visibility = task.visibility ?? 'unclear'
    const result = await patiently(options, task.database.name, () => tryOnce(options, task, visibility))
    if (result !== 'done') {
      task.waitingFor = result.failure
      if (result.final) giveUp(options, task, result.failure, journal)
    }
    return result
  } catch (error) {
    if (signal.aborted) throw signal.reason
    return { failure: databaseFailed(options, task, error), final: true }
  }
}

async function tryOnce(options: ProveOptions, task: Task, visibility: Visibility): Promise<Attempt> {
  const { inputs } = options
  if (task.calls.length === 0) {
    await commitAndCheck(options, task, 'none', () => true)
    return task.blank === undefined ? 'done' : blankKey(options, task, task.blank)
  }
  if (inputs.mode === 'verify') {
    const outcomes = await askFreshly(options, task)
    const verdict = judge(options, task, outcomes)
    if (verdict !== 'passed') return verdict
    record(options, task, outcomes, readOnlyProof(options, task))
    return 'done'
  }
  const result = await switchOver(options, task, visibility)
  return result === 'done' && task.blank !== undefined ? blankKey(options, task, task.blank) : result
}

/** The trial as the extension allows it; what everybody has afterwards is checked on a connection of its own. */
async function switchOver(options: ProveOptions, task: Task, visibility: Visibility): Promise<Attempt> {
  if (visibility === 'hidden') return mayCommitNow(task) ? committedTrial(options, task) : tooSoon(task)
  if (visibility === 'unclear' && worksToday(task)) {
    // What answered may be what is committed: nothing is committed on such an answer. The next round looks again.
    task.visibility = undefined
    return { failure: unclearTrial(task), final: false }
  }
  const keyed = options.inputs.authType === 'subscription-key'
  const tried = keyed ? await keyTrial(options, task) : await hiddenKeyTrial(options, task)
  if (tried.done !== undefined) {
    if (tried.done === 'done' || tried.done.final || visibility !== 'unclear' || !differing(task)) return tried.done
    return committedTrial(options, task)
  }
  if (tried.accepted) {
    const outOfReach = tried.keyOutOfReach && !tried.keyWins && visibility === 'visible'
    const proof: Proof = task.keyStored && !outOfReach ? 'key-present' : 'keyless'
    if (tried.keyWins) keyWins(options, task)
    if (task.settings.length > 0) markWritten(options, task)
    // What everybody sees from now on, read-only and on a connection of its own: these stand in the summary.
    return settle(options, task, proof, undefined)
  }
  const verdict = judge(options, task, tried.outcomes)
  if (verdict === 'passed') throw new Error('a trial that was accepted came to nothing')
  // Nothing shows whether the trial's settings were seen: ask with committed ones before believing the failure.
  return visibility === 'unclear' && task.settings.length > 0 ? committedTrial(options, task) : verdict
}

/**
 * Asks on a fresh connection what everybody has now, after a COMMIT, and puts back what was when the queries fail or cannot
 * be asked. Never lets a failure of the line lead to another COMMIT.
 */
async function settle(options: ProveOptions, task: Task, proof: Proof, connection: Connection | undefined): Promise<Attempt> {
  if (task.calls.length === 0) return 'done'
  let outcomes: CallOutcomes
  try {
    outcomes = await askTwice(options, task)
  } catch (error) {
    if (differing(task)) await putBack(options, task, connection)
    if (options.signal.aborted) throw options.signal.reason
    const failure = options.connector.failure(error, task.database.name, `checking ${task.family.name}`)
    throw new Failure(factsOf(failure))
  }
  const verdict = judge(options, task, outcomes)
  if (verdict === 'passed') {
    if (connection !== undefined && task.secrets.length > 0) await forget(connection, task.database).catch(() => undefined)
    record(options, task, outcomes, proof)
    return 'done'
  }
  if (differing(task)) await putBack(options, task, connection)
  return verdict
}

/** How long what answers users today is left alone between two trials that everybody sees, in milliseconds. */
const committedTrialEveryMs = 60_000

/** Settings that can be tried only by committing them: at once where nothing works today, else once a minute at most. */
function mayCommitNow(task: Task): boolean {
  const now = performance.now()
  if (worksToday(task) && task.committedAt !== undefined && now - task.committedAt < committedTrialEveryMs) return false
  task.committedAt = now
  return true
}

function tooSoon(task: Task): Attempt {
  return { failure: task.waitingFor ?? unclearTrial(task), final: false }
}

interface Tried {
  readonly accepted: boolean
  readonly outcomes: CallOutcomes
  readonly keyOutOfReach: boolean
  /** The stored key is used although auth_type says otherwise. */
  readonly keyWins: boolean
  /** The attempt is over: what follows a trial was done with it. */
  readonly done?: Attempt
}

/** The trial, with a stored key taken out of reach; a family that is set already is tried and rolled back only for that. */
async function hiddenKeyTrial(options: ProveOptions, task: Task): Promise<Tried> {
  const { database, family } = task
  const accept = (outcomes: CallOutcomes): boolean => judge(options, task, outcomes) === 'passed'
  let committing = false
  const run = (hide: { key: string; by: string } | undefined) =>
    freshly(options, database.name, (connection) => {
      return trial(connection, {
        database,
        settings: task.settings,
        hide,
        calls: task.calls,
        commit: (outcomes) => {
          committing = task.settings.length > 0 && accept(outcomes)
          if (committing) task.wrote = options.journal.writing()
          return committing
        },
        log: options.log,
      })
    })
  const tries = async (): Promise<Tried> => {
    // A role that may only read cannot take the key out of reach, and nothing has to be set.
    if (task.keyStored && task.settings.length === 0 && !database.maySet) {
      return { accepted: true, outcomes: new Map(), keyOutOfReach: false, keyWins: false }
    }
    if (!task.keyStored) {
      if (task.settings.length > 0) {
        const { outcomes } = await run(undefined)
        return { accepted: accept(outcomes), outcomes, keyOutOfReach: true, keyWins: false }
      }
      // In sync and no key: the read-only queries that follow say all there is to say.
      return { accepted: true, outcomes: new Map(), keyOutOfReach: true, keyWins: false }
    }
    const wrong = await run({ key: family.key, by: notAKey })
    if (wrong.hidden && accept(wrong.outcomes))
      return { accepted: true, outcomes: wrong.outcomes, keyOutOfReach: true, keyWins: false }
    const refusal = [...wrong.outcomes.values()].find((each) => !each.ok)
    const known =
      refusal === undefined || refusal.ok ? 'unknown' : outlook({ origin: 'ai', code: refusal.code, text: refusal.text })
    // The service refused the identity, not the stand-in: the key plays no part, and another try without it would hear the same.
    if (wrong.hidden && !['final', 'unknown'].includes(known))
      return { accepted: false, outcomes: wrong.outcomes, keyOutOfReach: true, keyWins: false }
    const blank = await run({ key: family.key, by: '' })
    if (blank.hidden)
      return {
        accepted: accept(blank.outcomes),
        outcomes: blank.outcomes,
        // Without the key every query falls back to the identity. Only the placeholder shows that a stored key is not preferred.
        keyOutOfReach: wrong.hidden,
        keyWins: wrong.hidden && accept(blank.outcomes),
      }
    if (wrong.hidden) return { accepted: false, outcomes: wrong.outcomes, keyOutOfReach: true, keyWins: false }
    const within = await run(undefined)
    return { accepted: accept(within.outcomes), outcomes: within.outcomes, keyOutOfReach: false, keyWins: false }
  }
  try {
    return await tries()
  } catch (error) {
    if (!committing) throw error
    if (await cameToNothing(options, task, task.settings, [])) throw error
    markWritten(options, task)
    const done = await settle(options, task, task.keyStored ? 'key-present' : 'keyless', undefined)
    return { accepted: done === 'done', outcomes: task.lastOutcomes, keyOutOfReach: true, keyWins: false, done }
  }
}

/** Commit, check at once on a fresh connection, put back what was when the check fails. */
function committedTrial(options: ProveOptions, task: Task): Promise<Attempt> {
  const keyed = options.inputs.authType === 'subscription-key'
  return commitAndCheck(options, task, keyed ? 'key' : task.keyStored ? 'key-present' : 'keyless', undefined)
}

/** The trial of a key: it is stored as data, and the previous one, which nobody sees, can be put back by this connection only. */
async function keyTrial(options: ProveOptions, task: Task): Promise<Tried> {
  const accept = (outcomes: CallOutcomes): boolean => judge(options, task, outcomes) === 'passed'
  const done = await commitAndCheck(options, task, 'key', accept)
  return { accepted: done === 'done', outcomes: task.lastOutcomes, keyOutOfReach: true, keyWins: false, done }
}

/**
 * Sets what differs and commits, when `accept` takes what the queries say inside the transaction, or unasked without it;
 * then asks again on a fresh connection and puts back what was when that fails.
 */
async function commitAndCheck(
  options: ProveOptions,
  task: Task,
  proof: Proof,
  accept: ((outcomes: CallOutcomes) => boolean) | undefined,
): Promise<Attempt> {
  const { journal, log } = options
  const { name } = task.database
  if (!differing(task)) return settle(options, task, proof, undefined)
  if (
    accept === undefined &&
    task.secrets.length > 0 &&
    worksToday(task) &&
    !options.inputs.allowUnproven &&
    !(await freshly(options, name, mayMakeTemporaryTables))
  ) {
    return { failure: couldNotBePutBack(task), final: true }
  }
  // The connection that keeps the old key outlives a cancel for as long as putting it back takes.
  return freshly(keeping(options), name, async (connection) => {
    const second = beside(options)
    let committing = false
    try {
      const { outcomes, committed } = await trial(connection, {
        database: task.database,
        settings: task.settings,
        secrets: task.secrets,
        keep: task.secrets.length > 0,
        onExposed: () => exposed(options, task),
        hide: undefined,
        calls: accept === undefined ? [] : task.calls,
        commit: (said) => {
          committing = !options.signal.aborted && (accept === undefined || accept(said))
          if (committing) task.wrote = journal.writing()
          return committing
        },
        log,
      })
      if (!committed) {
        options.signal.throwIfAborted()
        const verdict = judge(options, task, outcomes)
        return verdict === 'passed' ? 'done' : verdict
      }
    } catch (error) {
      if (!committing) throw error
      if (await cameToNothing(second, task, task.settings, task.secrets)) throw error
      markWritten(options, task)
      return settle(second, task, proof, undefined)
    }
    markWritten(options, task)
    return settle(second, task, proof, connection)
  })
}

function couldNotBePutBack({ family, database }: Task): Failure {
  return new Failure({
    reason: 'verification',
    code: 'not-switched-unproven',
    title: 'A family that works today was not switched: its key could not be put back',
    detail: `${family.name} in "${database.name}": the new key can be proven only once it is stored, and without the right to temporary tables the old one would be lost.`,
    fix: `${grantTemporary(database)}   -- or give \`allow-unproven: true\``,
  })
}

/** Puts the previous settings back, also when the run was cancelled; keys only on the connection that kept them. Says so when it cannot. */
async function putBack(given: ProveOptions, task: Task, connection: Connection | undefined): Promise<void> {
  const options = outliving(given)
  const { journal, log } = options
  const { name } = task.database
  log.info(`… database "${name}": ${task.family.name} was committed and is not proven; putting the previous settings back`)
  const kept =
    connection !== undefined && task.secrets.length > 0 && (await restore(connection, task.database, log).catch(() => false))
  try {
    if (!kept)
      await patiently(options, name, () => freshly(options, name, (other) => writeBack(other, task.database, task.previous, log)))
  } catch (error) {
    const { detail } = options.connector.failure(error, name, 'putting settings back')
    journal.fail(
      new Failure({
        reason: 'database',
        code: 'settings-not-put-back',
        title: 'The previous settings could not be put back',
        detail: `${task.family.name} in "${name}" was set and not proven: ${detail}`,
        fix: task.previous
          .map(([key, value]) => `SELECT azure_ai.set_setting('${key}', '${value.replaceAll("'", "''")}');`)
          .join(' '),
      }),
    )
    return
  }
  if (!kept && task.secrets.length > 0) {
    journal.fail(
      new Failure({
        reason: 'database',
        code: 'key-not-put-back',
        title: 'The previous key could not be put back',
        detail: `${task.family.key} in "${name}" holds the new key, although it is not proven.`,
        fix: `Run again with the right key as input, or set it: SELECT azure_ai.set_setting('${task.family.key}', 'KEY');   -- in "${onOneLine(name)}"`,
      }),
    )
  }
  // All is as it was: nothing of this stays.
  if (kept || task.secrets.length === 0) task.wrote?.()
  for (const step of task.steps) journal.mark(step.id, step.status, 'was set, was not proven, and was put back')
}
