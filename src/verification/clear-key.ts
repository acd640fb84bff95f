/** Clears a stored key once the identity is verified: the queries have to pass without it, or it is put back. */
import { backoff, pause, transient } from '../lib/retry.ts'
import { verdictOnSql } from '../postgres/again.ts'
import { whyNoKeyIsKept } from '../postgres/azure-ai.ts'
import type { Connection } from '../postgres/connection.ts'
import { type Call, type CallOutcomes, forget, restore, trial } from '../postgres/trial.ts'
import { clearedKeys, type Job, namesOf } from './jobs.ts'
import type { DatabaseSession } from './session.ts'
import type { Visibility } from './strategy.ts'
import type { AttemptOptions } from './switch.ts'
import { judge } from './verdict.ts'

/** Times that the key is cleared and the queries run without it, where what fails may pass. */
const mostTries = 3
const pace = { ...transient, baseMs: 2_000 }

type Clearing =
  | { readonly kind: 'cleared'; readonly outcomes: CallOutcomes }
  /** The key is as it was. */
  | { readonly kind: 'kept'; readonly reason: string }
  /** The key is gone, and the queries do not pass without it. */
  | { readonly kind: 'lost' }

export function clearKey(options: AttemptOptions, session: DatabaseSession, job: Job, visibility: Visibility): Promise<Clearing> {
  // What is not seen before COMMIT, or has no time limit of its own, does not run in the transaction.
  const calls = visibility === 'visible' && !job.onlyCommitted ? job.calls : []
  return session.keeping().fresh(async (connection): Promise<Clearing> => {
    const why = calls.length < job.calls.length ? await whyNoKeyIsKept(connection) : undefined
    if (why !== undefined)
      return { kind: 'kept', reason: `it can be verified only once it is gone, and it could not be put back: ${why}` }
    for (let tries = 1; ; tries++) {
      const cleared = await clearInTrial(options, session, { job, connection, calls })
      if ('refused' in cleared) return { kind: 'kept', reason: cleared.refused }
      const outcomes = await queryWithout(options, session, job)
      const verdict = outcomes === undefined ? undefined : judge(options, job, outcomes)
      if (outcomes !== undefined && verdict === 'passed') {
        await forget(connection, job.database).catch(() => undefined)
        return { kind: 'cleared', outcomes }
      }
      // Cancelled or not: the connection that kept the key is the only one that can put it back.
      const isRestored = await restore(connection, job.database, options.log).catch(() => false)
      if (!isRestored) return { kind: 'lost' }
      cleared.takeBack()
      const mayPass = verdict === undefined || (verdict !== 'passed' && !verdict.final)
      if (!mayPass || tries === mostTries || session.signal.aborted)
        return { kind: 'kept', reason: 'the test queries did not pass without it, and it was put back' }
      await pause(backoff(pace, tries), session.signal)
    }
  })
}

interface InTrial {
  readonly job: Job
  readonly connection: Connection
  readonly calls: readonly Call[]
}

/** Clears it and commits when the queries pass inside the transaction; `takeBack` says that nothing of it stays. */
async function clearInTrial(
  options: AttemptOptions,
  session: DatabaseSession,
  { job, connection, calls }: InTrial,
): Promise<{ readonly takeBack: () => void } | { readonly refused: string }> {
  const settings = clearedKeys(job)
  for (let tries = 1; ; tries++) {
    let refused = 'the test queries do not pass without it'
    let mayPass = false
    let takeBack: (() => void) | undefined
    try {
      await trial(connection, {
        database: job.database,
        settings,
        keep: true,
        hide: [],
        calls,
        commit: (outcomes) => {
          const verdict = calls.length === 0 ? 'passed' : judge(options, job, outcomes)
          mayPass = verdict !== 'passed' && !verdict.final
          if (verdict === 'passed' && !session.signal.aborted) takeBack = options.recorder.committing()
          return takeBack !== undefined
        },
        log: options.log,
      })
    } catch (error) {
      if (takeBack !== undefined) {
        if ((await session.beside().confirmCommit(settings, [])) === 'rolled-back') {
          takeBack()
          throw error
        }
      } else {
        if (session.signal.aborted || verdictOnSql(error, 'work') !== false) throw error
        refused = session.failure(error, 'clearing the key').detail
      }
    }
    if (takeBack !== undefined) return { takeBack }
    session.signal.throwIfAborted()
    if (!mayPass || tries === mostTries) return { refused }
    await pause(backoff(pace, tries), session.signal)
  }
}

/** The queries without the key, on a connection of their own; undefined when they could not run. */
async function queryWithout(options: AttemptOptions, session: DatabaseSession, job: Job): Promise<CallOutcomes | undefined> {
  try {
    return await session.beside().queryTwice(job.calls)
  } catch (error) {
    options.log.debug(`clearing ${namesOf(job.storedKeys)}: ${session.failure(error, 'checking').message}`)
    return undefined
  }
}
