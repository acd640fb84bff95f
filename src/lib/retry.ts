/**
 * The one retry policy: how long between tries, for HTTP requests, SQL statements and test queries alike. What is worth
 * another try is in one table for each protocol (http-retries.ts, postgres/again.ts); when and how often is here.
 */

export interface Schedule {
  /** First wait, in milliseconds. */
  readonly baseMs: number
  /** Longest wait between two tries, in milliseconds, before it is spread; a Retry-After beyond it is cut to it. */
  readonly capMs: number
  /** Longest time in all, counted from the first try, in milliseconds. */
  readonly budgetMs: number
}

/** An error of the connection or of the service: a handful of tries within two minutes. */
export const transient: Schedule = { baseMs: 500, capMs: 20_000, budgetMs: 120_000 }
/** Another operation has to end first (ServerIsBusy, a lock): patient, at a steady pace. */
export const busy: Schedule = { baseMs: 1_000, capMs: 10_000, budgetMs: 300_000 }
/** The service names the wait (429): that long, up to a minute. */
export const throttled: Schedule = { baseMs: 2_000, capMs: 60_000, budgetMs: 300_000 }
/** Replication inside Azure (a new principal, a new allow-list entry): short steps. */
export const replication: Schedule = { baseMs: 500, capMs: 5_000, budgetMs: 180_000 }
/** No server answers: a listener or a name is away for a moment, or, more often, a setting is wrong. */
export const unreachable: Schedule = { ...transient, budgetMs: 30_000 }
/** GitHub's limits: a minute and more, and trying earlier makes it longer. A wait that would take longer is not begun. */
export const limited: Schedule = { baseMs: 60_000, capMs: 120_000, budgetMs: 120_000 }
/** With another token, at once. */
export const renewed: Schedule = { baseMs: 0, capMs: 0, budgetMs: 120_000 }

/** The wait before try `attempt + 1`, in milliseconds: doubling, capped, spread by a quarter so that parallel runs do not meet again. */
export function backoff(schedule: Schedule, attempt: number, random: () => number = Math.random): number {
  const even = Math.min(schedule.capMs, schedule.baseMs * 2 ** Math.min(attempt - 1, 20))
  return Math.round(even * (0.75 + random() * 0.5))
}

/** The wait that was requested and up to a quarter more, never less, so that runs with the same wait do not meet again. */
export function spread(ms: number, random: () => number = Math.random): number {
  return Math.round(ms * (1 + random() * 0.25))
}

/** The wait before try `attempt + 1`: the one that was requested (Retry-After), up to the schedule's cap, else the schedule's own. */
export function waitOf({ schedule, afterMs }: Exclude<Verdict, false>, attempt: number, random?: () => number): number {
  // `0` names no pace: all with that response would come back together, and again.
  if (afterMs === undefined || !(afterMs > 0)) return backoff(schedule, attempt, random)
  return spread(Math.min(afterMs, schedule.capMs), random)
}

/** Waits `ms`; rejects with the signal's reason as soon as it is aborted. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) {
      reject(signal.reason)
      return
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', stop)
      resolve()
    }, ms)
    const stop = (): void => {
      clearTimeout(timer)
      reject(signal.reason)
    }
    signal.addEventListener('abort', stop, { once: true })
  })
}

/** What follows an error: no other try, or one at this pace, after the wait that came with it (Retry-After). */
export type Verdict = false | { readonly schedule: Schedule; readonly afterMs?: number | undefined }

/** A signal that follows another some time later: for what has to be restored after a cancel. */
export function later(signal: AbortSignal, ms: number): AbortSignal {
  const controller = new AbortController()
  const follow = (): void => void setTimeout(() => controller.abort(signal.reason), ms).unref()
  if (signal.aborted) follow()
  else signal.addEventListener('abort', follow, { once: true })
  return controller.signal
}

interface RetryOptions {
  readonly signal: AbortSignal
  readonly verdict: (error: unknown) => Verdict
  /** Called before each wait. */
  readonly onWait: (error: unknown, waitMs: number, leftMs: number) => void
}

/** Tries until it works, the error is not worth another try, the budget is spent or the signal is aborted. */
export async function retrying<T>(attempt: () => Promise<T>, options: RetryOptions): Promise<T> {
  const { signal } = options
  const start = performance.now()
  for (let count = 1; ; count++) {
    try {
      return await attempt()
    } catch (error) {
      if (signal.aborted) throw signal.reason
      const verdict = options.verdict(error)
      if (verdict === false) throw error
      const wait = waitOf(verdict, count)
      const left = verdict.schedule.budgetMs - (performance.now() - start)
      if (wait >= left) throw error
      options.onWait(error, wait, left)
      await pause(wait, signal)
    }
  }
}

/** Maps with at most `limit` calls at a time; results are in the order of the items. Rejects when all have ended, with the first rejection. */
export async function mapLimited<T, R>(
  items: readonly T[],
  limit: number,
  map: (item: T, index: number) => Promise<R>,
): Promise<R[]> {
  const results = new Array<R>(items.length)
  let next = 0
  const worker = async (): Promise<void> => {
    while (next < items.length) {
      const index = next++
      results[index] = await map(items[index] as T, index)
    }
  }
  const ended = await Promise.allSettled(Array.from({ length: Math.min(limit, items.length) }, worker))
  // Not before all have ended: one that is cancelled may still be restoring something.
  for (const each of ended) if (each.status === 'rejected') throw each.reason
  return results
}
