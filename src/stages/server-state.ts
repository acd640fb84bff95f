/** Waiting for the server itself: for an operation that is under way, and for its return after a restart. */
import type { ResourceManager } from '../azure/resource-manager.ts'
import { Failure } from '../errors/failure.ts'
import type { Log } from '../lib/log.ts'
import { retrying, type Schedule } from '../lib/retry.ts'
import { duration } from '../lib/timeout.ts'

interface ServerWait {
  /** Of the server. */
  readonly name: string
  readonly azure: Pick<ResourceManager, 'server'>
  readonly log: Log
  readonly signal: AbortSignal
}

/** How often and how long a server that starts is looked at. */
export const startUp: Schedule = { baseMs: 1_000, capMs: 5_000, budgetMs: 10 * 60_000 }

/** States that pass by themselves: another operation is under way, perhaps that of another run. */
export const passingStates: readonly string[] = ['Updating', 'Restarting', 'Starting', 'Provisioning']

/** Waits while the server is in one of the states that pass, for as long as it may take to start. */
export async function untilSettled(wait: ServerWait): Promise<void> {
  await waitWhile((state) => passingStates.includes(state), wait)
}

/** @throws {Failure} `server-not-back` */
export async function untilReady(wait: ServerWait): Promise<void> {
  const away = await waitWhile((state) => state !== 'Ready', wait)
  if (away === undefined) return
  throw new Failure({
    reason: 'azure',
    code: 'server-not-back',
    title: 'The server did not come back in time',
    detail: `${wait.name} is ${away} ${duration(startUp.budgetMs)} after it was restarted.`,
    fix: 'Look at the server in the portal (Resource health, Activity log); when it is Ready, run this job again.',
  })
}

/** Waits while `isPassing` is true of the state; returns the state when the time is up, else undefined. */
async function waitWhile(
  isPassing: (state: string) => boolean,
  { name, azure, log, signal }: ServerWait,
): Promise<string | undefined> {
  try {
    await retrying(
      async () => {
        const { state } = await azure.server()
        if (isPassing(state)) throw new NotYet(state)
      },
      {
        signal,
        verdict: (error) => (error instanceof NotYet ? { schedule: startUp } : false),
        onWait: (error, _, leftMs) =>
          log.info(`… ${name} is ${(error as NotYet).message}; waiting for at most ${duration(leftMs)} more`),
      },
    )
    return undefined
  } catch (error) {
    if (error instanceof NotYet) return error.message
    throw error
  }
}

/** A state on the way to the one that is waited for. */
class NotYet extends Error {}
