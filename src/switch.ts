/**
 * One attempt to switch a family in a database: the new settings are tried in a transaction, and only what the services
 * accepted is committed; what fails afterwards is put back. Nothing stays open between attempts.
 */
import { Failure, outlook } from './errors.ts'
import type { Journal, Proof } from './journal.ts'
import { factsOf, judge } from './judge.ts'
import { verdictOnSql } from './postgres/again.ts'
import type { Connection } from './postgres/connection.ts'
import {
  askReadOnly,
  type Call,
  type CallOutcome,
  type CallOutcomes,
  forget,
  holds,
  restore,
  type Setting,
  trial,
  writeBack,
} from './postgres/trial.ts'
import { isConfigured } from './preconditions.ts'
import { backoff, later, pause, retrying, transient } from './retry.ts'
import { type ServiceName, serviceNamed } from './services.ts'
import { type ProveOptions, skipQuery, type Task, type Visibility } from './task.ts'
import { onOneLine } from './visible.ts'
import { duration } from './waiting.ts'

/** Stands in for a stored key while a query runs: whoever is answered with this in place was not answered because of a key. */
const notAKey = 'not-a-key-taken-out-of-reach'
/** Leads nowhere, by RFC 2606. */
const nowhere = 'https://trial.invalid'

/** What came of an attempt: done, or not yet, or never. */
export type Attempt = 'done' | { readonly failure: Failure; readonly final: boolean }

/** One try of one family in one database. */
export async function attempt(options: ProveOptions, task: Task): Promise<Attempt> {
  const { journal, signal } = options
  task.attempts++
  try {
    task.visibility ??= await settled(options, task, () => visibilityOf(options, task))
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
    return task.blank === undefined ? 'done' : blankKey(options, task)
  }
  if (inputs.mode === 'verify') {
    const outcomes = await askFreshly(options, task)
    const verdict = judge(options, task, outcomes)
    if (verdict !== 'passed') return verdict
    record(options, task, outcomes, readOnlyProof(options, task))
    return 'done'
  }
  const result = await prove(options, task, visibility)
  return result === 'done' && task.blank !== undefined ? blankKey(options, task) : result
}

/** The trial as the extension allows it; what everybody has afterwards is checked on a connection of its own. */
async function prove(options: ProveOptions, task: Task, visibility: Visibility): Promise<Attempt> {
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

function unclearTrial({ family, database, lastOutcomes }: Task): Failure {
  const said = first(lastOutcomes)
  return new Failure({
    reason: 'verification',
    code: 'trial-unclear',
    title: 'It cannot be told whether the extension sees uncommitted settings',
    detail: `${family.name} in "${database.name}": a query whose endpoint leads nowhere was answered in a way that shows neither${said?.ok === false ? `: ${said.text}` : '.'}`,
    fix: 'Run again: a service that is throttling or failing just now looks like this.',
  })
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
    if (connection !== undefined && task.secrets.length > 0) await forget(connection).catch(() => undefined)
    record(options, task, outcomes, proof)
    return 'done'
  }
  if (differing(task)) await putBack(options, task, connection)
  return verdict
}

/** A line that breaks is not an answer: asked once more, at once. */
async function askTwice(options: ProveOptions, task: Task): Promise<CallOutcomes> {
  try {
    return await askFreshly(options, task)
  } catch (error) {
    if (options.signal.aborted || verdictOnSql(error, 'work') === false) throw error
    return askFreshly(options, task)
  }
}

/** Whether there is anything to set; a key to blank is none, that comes after the proof. */
const differing = (task: Task): boolean => task.settings.length > 0 || task.secrets.length > 0
const worksToday = (task: Task): boolean => differing(task) && isConfigured(task.database, task.family)

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

function askFreshly(options: ProveOptions, task: Task): Promise<CallOutcomes> {
  const { name, serverVersion } = task.database
  return freshly(options, name, (connection) => askReadOnly(connection, serverVersion, task.calls))
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
        serverVersion: database.serverVersion,
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
        keyOutOfReach: true,
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
  const { name, serverVersion } = task.database
  if (!differing(task)) return settle(options, task, proof, undefined)
  if (
    accept === undefined &&
    task.secrets.length > 0 &&
    worksToday(task) &&
    !options.inputs.allowUnproven &&
    !(await mayKeep(options, name))
  ) {
    return { failure: couldNotBePutBack(task), final: true }
  }
  // The connection that keeps the old key outlives a cancel for as long as putting it back takes.
  return freshly({ ...alongside(options, 'paired'), signal: later(options.signal, lastActMs) }, name, async (connection) => {
    const beside = alongside(options, 'second')
    let committing = false
    try {
      const { outcomes, committed } = await trial(connection, {
        serverVersion,
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
      if (await cameToNothing(beside, task, task.settings, task.secrets)) throw error
      markWritten(options, task)
      return settle(beside, task, proof, undefined)
    }
    markWritten(options, task)
    return settle(beside, task, proof, connection)
  })
}

/** The options of work that has two connections open: for the first of them, and for the second. */
function alongside(options: ProveOptions, which: 'paired' | 'second'): ProveOptions {
  return { ...options, connector: { ...options.connector, ...options.connector[which] } }
}

/**
 * After a COMMIT without an answer: whether it is known that nothing came of it, so that all of it may be done again. What
 * cannot be read counts as written: it is asked, and put back when it does not pass. Looks also when the run was cancelled.
 */
async function cameToNothing(
  given: ProveOptions,
  task: Task,
  settings: readonly Setting[],
  secrets: readonly Setting[],
): Promise<boolean> {
  const options = { ...given, signal: later(given.signal, lastActMs) }
  const { name, serverVersion } = task.database
  options.log.info(`… database "${name}": COMMIT got no answer; reading what came of it`)
  const look = () => freshly(options, name, (connection) => holds(connection, serverVersion, settings, secrets))
  const held = await patiently(options, name, look).catch(() => undefined)
  if (held === false) task.wrote?.()
  return held === false
}

/** Whether the role may keep an old key in a temporary table while a new one is tried. */
async function mayKeep(options: ProveOptions, database: string): Promise<boolean> {
  return freshly(options, database, mayMakeTemporaryTables)
}

async function mayMakeTemporaryTables(connection: Connection): Promise<boolean> {
  const [may] = await connection.query(`SELECT has_database_privilege(current_database(), 'TEMPORARY') AS keep`)
  return may?.keep === true
}

function couldNotBePutBack({ family, database }: Task): Failure {
  return new Failure({
    reason: 'verification',
    code: 'not-switched-unproven',
    title: 'A family that works today was not switched: its key could not be put back',
    detail: `${family.name} in "${database.name}": the new key can be proven only once it is stored, and without the right to temporary tables the old one would be lost.`,
    fix: `GRANT TEMPORARY ON DATABASE "${database.name.replaceAll('"', '""')}" TO "${database.user.replaceAll('"', '""')}";   -- or give \`allow-unproven: true\``,
  })
}

/** Blanks the stored key now that the identity is proven; the queries have to pass without it, or it is put back. */
async function blankKey(options: ProveOptions, task: Task): Promise<Attempt> {
  const { journal, log } = options
  const { blank, database, family } = task
  if (blank === undefined) return 'done'
  const unable = (why: string): Attempt => {
    journal.mark(blank.id, 'failed', why)
    const failure = new Failure({
      reason: 'database',
      code: 'key-not-blanked',
      title: 'A stored key could not be blanked',
      detail: `${family.key} in "${database.name}": ${why}.`,
      fix: `SELECT azure_ai.set_setting('${family.key}', '');   -- in "${onOneLine(database.name)}"; if it is refused, DROP EXTENSION azure_ai and run this action again`,
    })
    journal.fail(failure)
    return 'done'
  }
  // What is not seen before COMMIT, or has no time limit of its own, is not asked in the transaction.
  const calls = task.visibility === 'visible' ? task.calls : []
  let wrote: (() => void) | undefined
  return freshly(
    { ...alongside(options, 'paired'), signal: later(options.signal, lastActMs) },
    database.name,
    async (connection) => {
      if (calls.length < task.calls.length) {
        if (!(await mayMakeTemporaryTables(connection)))
          return unable(
            'it can be proven only once it is gone, and without the right to temporary tables it could not be put back',
          )
      }
      let outcomes: CallOutcomes = new Map()
      for (let checks = 1; ; checks++) {
        for (let tries = 1; ; tries++) {
          let refused = ''
          let passing = false
          let committing = false
          const { committed } = await trial(connection, {
            serverVersion: database.serverVersion,
            settings: [[family.key, '']],
            keep: true,
            hide: undefined,
            calls,
            commit: (outcomes) => {
              const verdict = calls.length === 0 ? 'passed' : judge(options, task, outcomes)
              passing = verdict !== 'passed' && !verdict.final
              const stays = verdict === 'passed' && !options.signal.aborted
              committing = stays
              if (stays) wrote = journal.writing()
              return stays
            },
            log,
          }).catch(async (error: unknown) => {
            if (committing) {
              if (!(await cameToNothing(alongside(options, 'second'), { ...task, wrote }, [[family.key, '']], [])))
                return { committed: true }
              throw error
            }
            if (options.signal.aborted || verdictOnSql(error, 'work') !== false) throw error
            refused = options.connector.failure(error, database.name, 'blanking the key').detail
            return { committed: false }
          })
          if (committed) break
          if (!passing || tries === 3) return unable(refused === '' ? 'the test queries do not pass without it' : refused)
          await pause(backoff({ ...transient, baseMs: 2_000 }, tries), options.signal)
        }
        let asked: CallOutcomes | undefined
        try {
          asked = await askTwice(alongside(options, 'second'), task)
        } catch (error) {
          log.debug(`blanking ${family.key}: ${options.connector.failure(error, database.name, 'checking').message}`)
        }
        const verdict = asked === undefined ? undefined : judge(options, task, asked)
        if (asked !== undefined && verdict === 'passed') {
          outcomes = asked
          break
        }
        // Cancelled or not: the connection that kept the key is the only one that can put it back.
        const kept = await restore(connection, database.serverVersion, log).catch(() => false)
        if (kept) wrote?.()
        if (!kept) {
          journal.mark(blank.id, 'failed', 'it is blank, was not proven, and could not be put back')
          journal.fail(
            new Failure({
              reason: 'database',
              code: 'key-not-put-back',
              title: 'The previous key could not be put back',
              detail: `${family.key} in "${database.name}" is blank, although the test queries did not pass without it.`,
              fix: `SELECT azure_ai.set_setting('${family.key}', 'KEY');   -- in "${onOneLine(database.name)}", with the key of the resource; or run again with \`auth-type: subscription-key\``,
            }),
          )
        }
        // A service that fails for a moment says nothing about the key.
        if (
          kept &&
          checks < 3 &&
          !options.signal.aborted &&
          (verdict === undefined || (verdict !== 'passed' && !verdict.final))
        ) {
          await pause(backoff({ ...transient, baseMs: 2_000 }, checks), options.signal)
          continue
        }
        const attempted: Attempt = kept ? unable('the test queries did not pass without it, and it was put back') : 'done'
        if (options.signal.aborted) throw options.signal.reason
        return attempted
      }
      await forget(connection).catch(() => undefined)
      journal.mark(blank.id, 'updated', '')
      record(options, task, outcomes, 'keyless')
      log.info(`Database "${database.name}": ${family.key} is blank`)
      return 'done'
    },
  )
}

/** Keys go as bind parameters where a temporary table is not allowed: whoever reads the log may read them. */
function exposed({ journal, log }: ProveOptions, { database, family }: Task): void {
  const settings = [...database.logging].map(([name, value]) => `${name} = ${value}`).join(', ')
  const detail = `The role may not make temporary tables in "${database.name}", so ${family.key} travels as a bind parameter. Logging in force: ${settings || 'unknown'}.`
  log.info(detail)
  journal.finding({
    severity: 'warning',
    code: 'key-as-parameter',
    title: 'A key may stand in the statement log',
    detail,
    fix: `GRANT TEMPORARY ON DATABASE "${database.name.replaceAll('"', '""')}" TO "${database.user.replaceAll('"', '""')}";   -- and rotate the key when statements are logged`,
  })
}

function markWritten(options: ProveOptions, task: Task): void {
  for (const step of task.steps) options.journal.mark(step.id, step.status === 'missing' ? 'created' : 'updated', '')
}

/** How long putting back may take when the run was cancelled, in milliseconds: the runner waits a few seconds only. */
const lastActMs = 4_000

/** Puts the previous settings back, also when the run was cancelled; keys only on the connection that kept them. Says so when it cannot. */
async function putBack(given: ProveOptions, task: Task, connection: Connection | undefined): Promise<void> {
  const options = { ...given, signal: later(given.signal, lastActMs) }
  const { journal, log } = options
  const { name, serverVersion } = task.database
  log.info(`… database "${name}": ${task.family.name} was committed and is not proven; putting the previous settings back`)
  const kept =
    connection !== undefined && task.secrets.length > 0 && (await restore(connection, serverVersion, log).catch(() => false))
  try {
    if (!kept)
      await patiently(options, name, () => freshly(options, name, (other) => writeBack(other, serverVersion, task.previous, log)))
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

/** What a read-only query proves: a stored key cannot be taken out of reach by reading, but a resource may refuse all keys. */
export function readOnlyProof({ inputs, resources }: ProveOptions, { keyStored, calls, database, family }: Task): Proof {
  if (inputs.authType === 'subscription-key') return 'key'
  const asIdentity = database.settings.get(family.authType) === 'managed-identity'
  // In a verify the endpoint is not held against the resource: what the resource refuses proves nothing then.
  const refusesKeys =
    inputs.mode !== 'verify' && calls.every((call) => resources.get(call.name as ServiceName)?.localAuthDisabled === true)
  return !keyStored || (asIdentity && refusesKeys) ? 'keyless' : 'key-present'
}

/** Runs `body` with whatever the database does to us retried; a failure that stays belongs to the task. */
async function settled<T>(options: ProveOptions, task: Task, body: () => Promise<T>): Promise<T | undefined> {
  try {
    return await patiently(options, task.database.name, body)
  } catch (error) {
    if (options.signal.aborted) throw options.signal.reason
    // The attempt that follows meets the same failure and tells it; until then nothing is known.
    options.log.debug(
      `database "${task.database.name}": ${options.connector.failure(error, task.database.name, 'looking').message}`,
    )
    return undefined
  }
}

export function patiently<T>(options: ProveOptions, database: string, body: () => Promise<T>): Promise<T> {
  return retrying(body, {
    signal: options.signal,
    verdict: (error) => verdictOnSql(error, 'work'),
    onWait: (error, waitMs, leftMs) => {
      const { title } = options.connector.failure(error, database, 'switching')
      options.log.info(`… database "${database}": ${title}; again in ${duration(waitMs)}, for at most ${duration(leftMs)} more`)
    },
  })
}

/** A fresh connection for each thing: a session may remember settings it saw. */
export async function freshly<T>(
  options: ProveOptions,
  database: string,
  body: (connection: Connection) => Promise<T>,
): Promise<T> {
  const connection = await options.connector.connect(database, options.signal)
  try {
    return await body(connection)
  } finally {
    // Nobody waits for the goodbye.
    void connection.close()
  }
}

const first = (outcomes: CallOutcomes): CallOutcome | undefined => [...outcomes.values()][0]

/**
 * Whether a trial means anything here: with the endpoint set to nowhere inside a transaction the query must fail, and in
 * another way than it does without; else what answers is what is committed.
 */
async function visibilityOf(options: ProveOptions, task: Task): Promise<Visibility> {
  const [call] = task.calls
  // Nothing would be tried, neither a setting nor the absence of a key.
  if (task.visibility !== undefined) return task.visibility
  if (call === undefined || options.inputs.mode === 'verify' || (!differing(task) && (!task.keyStored || !task.database.maySet)))
    return 'visible'
  const { name, serverVersion } = task.database
  const { log } = options
  const control = async (): Promise<CallOutcome | undefined> =>
    first(
      (
        await freshly(options, name, (connection) =>
          trial(connection, {
            serverVersion,
            settings: inOrder(task.settings, [task.family.endpoint, nowhere]),
            hide: undefined,
            calls: [call],
            commit: () => false,
            log,
          }),
        )
      ).outcomes,
    )
  const answered = await control()
  if (isAnswer(answered)) {
    options.journal.finding({
      severity: 'notice',
      code: 'uncommitted-settings-not-seen',
      title: 'The extension does not see uncommitted settings',
      detail: `${task.family.name}: a query succeeded although the endpoint led nowhere in its transaction. What is set can be proven only once it is committed: it is checked at once then, and put back when it fails.`,
      fix: '',
    })
    return 'hidden'
  }
  if (namesNowhere(answered)) return 'visible'
  // What it said is told when it stays unclear.
  if (answered !== undefined) task.lastOutcomes = new Map([[call.name, answered]])
  const before = first(await freshly(options, name, (connection) => askReadOnly(connection, serverVersion, [call])))
  // A service that is throttling, failing or refusing answers for the committed endpoint just as well: that shows nothing.
  const telling = (outcome: CallOutcome | undefined): boolean =>
    outlookOf(outcome) === 'no-token' || (outlookOf(outcome) === 'unknown' && !isServiceText(outcome))
  if (!telling(answered)) return 'unclear'
  if (isAnswer(before)) return telling(await control()) ? 'visible' : 'unclear'
  return outlookOf(answered) === 'no-token' && outlookOf(before) !== 'no-token'
    ? 'visible'
    : differ(before, answered) && !isServiceText(answered)
      ? 'visible'
      : 'unclear'
}

function outlookOf(outcome: CallOutcome | undefined): ReturnType<typeof outlook> {
  return outcome === undefined || outcome.ok ? 'unknown' : outlook({ origin: 'ai', code: outcome.code, text: outcome.text })
}

/** A service answered: with a result, or with a refusal that shows access. */
const isAnswer = (outcome: CallOutcome | undefined): boolean => outcome?.ok === true || outlookOf(outcome) === 'proves-access'
const namesNowhere = (outcome: CallOutcome | undefined): boolean =>
  outcome?.ok === false && outcome.text.includes(new URL(nowhere).host)
const differ = (a: CallOutcome | undefined, b: CallOutcome | undefined): boolean =>
  a?.ok === false && b?.ok === false && a.text !== b.text
/** Looks like what a service says: it carries an HTTP status. */
const isServiceText = (outcome: CallOutcome | undefined): boolean => outcome?.ok === false && /\b[45]\d\d\b/.test(outcome.text)

/** The settings with one of them replaced or added, in the fixed order of their names. */
function inOrder(settings: readonly Setting[], other: Setting): Setting[] {
  return [...settings.filter(([key]) => key !== other[0]), other].sort(([a], [b]) => (a < b ? -1 : 1))
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
      answer: outcome?.ok === true ? service.test.answer(outcome.answer) : 'access granted (the model does not embed)',
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

function keyWins(options: ProveOptions, task: Task): void {
  options.journal.finding({
    severity: 'warning',
    code: 'key-wins',
    title: 'The stored key is used although the identity is asked for',
    detail: `${task.family.name} in "${task.database.name}": the identity works once the key is gone, but while a key is stored the extension sends it.`,
    fix: `SELECT azure_ai.set_setting('${task.family.key}', '');   -- in "${onOneLine(task.database.name)}"`,
  })
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
