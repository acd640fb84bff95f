/** How a database is asked: on fresh connections, with its own faults tried again, and never believing a COMMIT without an answer. */

import { later, retrying } from '../lib/retry.ts'
import { duration } from '../lib/timeout.ts'
import { verdictOnSql } from '../postgres/again.ts'
import type { Connection } from '../postgres/connection.ts'
import { askReadOnly, type CallOutcomes, holds, type Setting } from '../postgres/trial.ts'
import type { ProveOptions, Task } from './jobs.ts'

/** How long putting back may take when the run was cancelled, in milliseconds: the runner waits a few seconds only. */
const lastActMs = 4_000

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

/** The options of what has to be done also when the run was cancelled. */
export function outliving(options: ProveOptions): ProveOptions {
  return { ...options, signal: later(options.signal, lastActMs) }
}

/** The options of the connection that keeps a key for putting it back: it outlives a cancel, and has a second one beside it. */
export function keeping(options: ProveOptions): ProveOptions {
  return outliving({ ...options, connector: { ...options.connector, ...options.connector.paired } })
}

/** The options of that second connection. */
export function beside(options: ProveOptions): ProveOptions {
  return { ...options, connector: { ...options.connector, ...options.connector.second } }
}

/** Runs `body` again after faults of the database that pass. */
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

/** The test queries of a family, or some of them, as everybody is answered now. */
export function askFreshly(options: ProveOptions, { database, calls }: Task, some = calls): Promise<CallOutcomes> {
  return freshly(options, database.name, (connection) => askReadOnly(connection, database, some))
}

/** A line that breaks is not an answer: asked once more, at once. */
export async function askTwice(options: ProveOptions, task: Task): Promise<CallOutcomes> {
  try {
    return await askFreshly(options, task)
  } catch (error) {
    if (options.signal.aborted || verdictOnSql(error, 'work') === false) throw error
    return askFreshly(options, task)
  }
}

/**
 * After a COMMIT without an answer: whether it is known that nothing came of it, so that all of it may be done again. What
 * cannot be read counts as written: it is asked, and put back when it does not pass. Looks also when the run was cancelled.
 */
export async function cameToNothing(
  given: ProveOptions,
  task: Task,
  settings: readonly Setting[],
  secrets: readonly Setting[],
): Promise<boolean> {
  const options = outliving(given)
  const { name } = task.database
  options.log.info(`… database "${name}": COMMIT got no answer; reading what came of it`)
  const look = () => freshly(options, name, (connection) => holds(connection, task.database, settings, secrets))
  const held = await patiently(options, name, look).catch(() => undefined)
  if (held === false) task.wrote?.()
  return held === false
}
