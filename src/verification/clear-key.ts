/** Blanking a stored key once the identity is proven. */

import type { Step } from '../core/steps.ts'
import { Failure } from '../errors/failure.ts'
import { backoff, pause, transient } from '../lib/retry.ts'
import { onOneLine } from '../lib/unicode.ts'
import { verdictOnSql } from '../postgres/again.ts'
import { mayMakeTemporaryTables } from '../postgres/azure-ai.ts'
import type { Connection } from '../postgres/connection.ts'
import { type Call, type CallOutcomes, forget, restore, trial } from '../postgres/trial.ts'
import type { Attempt, ProveOptions, Task } from './jobs.ts'
import { record } from './record.ts'
import { askTwice, beside, cameToNothing, freshly, keeping } from './session.ts'
import { judge } from './verdict.ts'

/** Times that the key is blanked and tried without, where what fails may pass. */
const most = 3
const pace = { ...transient, baseMs: 2_000 }

/** Blanks the stored key now that the identity is proven; the queries have to pass without it, or it is put back. */
export async function blankKey(options: ProveOptions, task: Task, blank: Step): Promise<Attempt> {
  const { journal, log, signal } = options
  const { database, family } = task
  const unable = (why: string): Attempt => {
    journal.mark(blank.id, 'failed', why)
    journal.fail(notBlanked(task, why))
    return 'done'
  }
  return freshly(keeping(options), database.name, async (connection) => {
    if (callsInTrial(task).length < task.calls.length && !(await mayMakeTemporaryTables(connection))) {
      return unable('it can be proven only once it is gone, and without the right to temporary tables it could not be put back')
    }
    for (let tries = 1; ; tries++) {
      const blanked = await blankInTrial(options, task, connection)
      if ('refused' in blanked) return unable(blanked.refused)
      const asked = await askWithout(options, task)
      const verdict = asked === undefined ? undefined : judge(options, task, asked)
      if (asked !== undefined && verdict === 'passed') {
        await forget(connection, database).catch(() => undefined)
        journal.mark(blank.id, 'updated', '')
        record(options, task, asked, 'keyless')
        log.info(`Database "${database.name}": ${family.key} is blank`)
        return 'done'
      }
      // Cancelled or not: the connection that kept the key is the only one that can put it back.
      const kept = await restore(connection, database, log).catch(() => false)
      if (!kept) {
        journal.mark(blank.id, 'failed', 'it is blank, was not proven, and could not be put back')
        journal.fail(notPutBack(task))
        signal.throwIfAborted()
        return 'done'
      }
      blanked.wrote()
      const mayPass = verdict === undefined || (verdict !== 'passed' && !verdict.final)
      if (!mayPass || tries === most || signal.aborted) {
        const attempted = unable('the test queries did not pass without it, and it was put back')
        signal.throwIfAborted()
        return attempted
      }
      await pause(backoff(pace, tries), signal)
    }
  })
}

/** What is not seen before COMMIT, or has no time limit of its own, is not asked in the transaction. */
const callsInTrial = ({ visibility, calls }: Task): readonly Call[] => (visibility === 'visible' ? calls : [])

/** Blanks it and commits when the queries pass inside the transaction; `wrote` takes back that something was written. */
async function blankInTrial(
  options: ProveOptions,
  task: Task,
  connection: Connection,
): Promise<{ readonly wrote: () => void } | { readonly refused: string }> {
  const { connector, journal, log, signal } = options
  const { database, family } = task
  const setting = [family.key, ''] as const
  const calls = callsInTrial(task)
  for (let tries = 1; ; tries++) {
    let refused = 'the test queries do not pass without it'
    let mayPass = false
    let wrote: (() => void) | undefined
    try {
      await trial(connection, {
        database,
        settings: [setting],
        keep: true,
        hide: undefined,
        calls,
        commit: (outcomes) => {
          const verdict = calls.length === 0 ? 'passed' : judge(options, task, outcomes)
          mayPass = verdict !== 'passed' && !verdict.final
          if (verdict === 'passed' && !signal.aborted) wrote = journal.writing()
          return wrote !== undefined
        },
        log,
      })
    } catch (error) {
      if (wrote !== undefined) {
        if (await cameToNothing(beside(options), { ...task, wrote }, [setting], [])) throw error
      } else {
        if (signal.aborted || verdictOnSql(error, 'work') !== false) throw error
        refused = connector.failure(error, database.name, 'blanking the key').detail
      }
    }
    if (wrote !== undefined) return { wrote }
    signal.throwIfAborted()
    if (!mayPass || tries === most) return { refused }
    await pause(backoff(pace, tries), signal)
  }
}

/** The queries without the key, on a connection of their own; undefined when they could not be asked. */
async function askWithout(options: ProveOptions, task: Task): Promise<CallOutcomes | undefined> {
  const { name } = task.database
  try {
    return await askTwice(beside(options), task)
  } catch (error) {
    options.log.debug(`blanking ${task.family.key}: ${options.connector.failure(error, name, 'checking').message}`)
    return undefined
  }
}

function notBlanked({ database, family }: Task, why: string): Failure {
  return new Failure({
    reason: 'database',
    code: 'key-not-blanked',
    title: 'A stored key could not be blanked',
    detail: `${family.key} in "${database.name}": ${why}.`,
    fix: `SELECT azure_ai.set_setting('${family.key}', '');   -- in "${onOneLine(database.name)}"; if it is refused, DROP EXTENSION azure_ai and run this action again`,
  })
}

function notPutBack({ database, family }: Task): Failure {
  return new Failure({
    reason: 'database',
    code: 'key-not-put-back',
    title: 'The previous key could not be put back',
    detail: `${family.key} in "${database.name}" is blank, although the test queries did not pass without it.`,
    fix: `SELECT azure_ai.set_setting('${family.key}', 'KEY');   -- in "${onOneLine(database.name)}", with the key of the resource; or run again with \`auth-type: subscription-key\``,
  })
}
