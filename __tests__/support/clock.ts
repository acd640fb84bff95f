/** Clocks for the built action in a process of its own: nothing in the action knows of them. */

/** Milliseconds, both ends included, and how long a wait of that length really takes. */
export type Shortened = readonly [from: number, to: number, instead: number]

/**
 * Environment of a job in which waits of some lengths are short. On the action's clock they take their whole time: `performance.now()`
 * goes on by what was left out, so a budget of two minutes is over after the same number of tries. The other waits stay as they are.
 */
export function hurried(ranges: readonly Shortened[]): Record<string, string> {
  const code = `const ranges = ${JSON.stringify(ranges)}
const short = (ms) => (ranges.find(([from, to]) => ms >= from && ms <= to) ?? [0, 0, ms])[2]
const clock = performance.now.bind(performance)
let skipped = 0
performance.now = () => clock() + skipped
const reach = (time) => { skipped = Math.max(skipped, time - clock()) }
const real = globalThis.setTimeout
globalThis.setTimeout = Object.assign((act, ms, ...rest) => {
  if (short(ms) === ms) return real(act, ms, ...rest)
  const end = performance.now() + ms
  return real((...given) => { reach(end); act(...given) }, short(ms), ...rest)
}, real)
const limit = AbortSignal.timeout.bind(AbortSignal)
AbortSignal.timeout = (ms) => {
  const end = performance.now() + ms
  const signal = limit(short(ms))
  if (short(ms) !== ms) signal.addEventListener('abort', () => reach(end), { once: true })
  return signal
}`
  return { NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(code)}` }
}

/**
 * The waits between tries are over at once: all lengths up to the longest, 20 s, spread by a quarter. Limits stay: those of a connection
 * (15 s), a statement (20 s and 25 s), and the leave from the server (2 s); a request's (30 s) is longer than any of these waits.
 */
export function noPauses(): Record<string, string> {
  const limits = [2_000, 15_000, 20_000, 25_000]
  const starts = [375, ...limits.map((ms) => ms + 1)]
  return hurried(limits.map((limit, index) => [starts[index] ?? 0, limit - 1, 5]))
}
