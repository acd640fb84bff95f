/** Waits that are bounded, visible and cancellable. */
import type { Log } from './log.ts'

/** How often a wait logs that it goes on, in milliseconds. */
const logEveryMs = 15_000

/** `45 s`, `3 min 20 s`. */
export function duration(ms: number): string {
  const seconds = Math.round(ms / 1_000)
  if (seconds < 60) return ms < 10_000 ? `${(ms / 1_000).toFixed(1)} s` : `${seconds} s`
  return seconds % 60 === 0 ? `${seconds / 60} min` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`
}

export interface Wait {
  /** What for, as in `waiting for ..`. */
  readonly what: string
  readonly limitMs: number
  readonly log: Log
  readonly signal: AbortSignal
  /** The error when the limit is reached, from what the body threw then. */
  readonly late: (cause: unknown) => Error
}

/** The promise, or the signal's reason as soon as it is aborted: for work that takes no signal itself. */
export async function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted()
  let stop = (): void => undefined
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason)
    signal.addEventListener('abort', stop, { once: true })
  })
  try {
    return await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', stop)
  }
}

/**
 * Runs `body` under a time limit and logs every 15 seconds what it waits for, for how long and how much is left.
 * @throws `late` when the limit is reached; the signal's reason when it is aborted
 */
export async function waiting<T>(wait: Wait, body: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const start = performance.now()
  const limit = AbortSignal.timeout(wait.limitMs)
  const ticker = setInterval(() => {
    const passed = performance.now() - start
    wait.log.info(
      `… waiting for ${wait.what}: ${duration(passed)} so far, at most ${duration(Math.max(0, wait.limitMs - passed))} more`,
    )
  }, logEveryMs)
  try {
    return await body(AbortSignal.any([wait.signal, limit]))
  } catch (error) {
    if (wait.signal.aborted) throw wait.signal.reason
    if (limit.aborted) throw wait.late(error)
    throw error
  } finally {
    clearInterval(ticker)
  }
}
