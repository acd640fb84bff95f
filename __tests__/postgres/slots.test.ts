import { describe, expect, test } from 'vitest'
import { createSlots, maxConnections, shareOf } from '../../src/postgres/slots.ts'

const { signal } = new AbortController()
/** Whether a promise has come to anything by now. */
const settled = (promise: Promise<unknown>): Promise<boolean> =>
  Promise.race([promise.then(() => true), new Promise<boolean>((resolve) => setTimeout(() => resolve(false), 5))])

test.each([
  [50, 15, 1],
  [20, 3, 1],
  [100, 3, 3],
  [429, 15, maxConnections],
  [5_000, 15, maxConnections],
  [Number.NaN, 0, 1],
])('of %d connections, %d of them reserved, a run may use %d', (all, reserved, wanted) => {
  expect(shareOf(all, reserved)).toBe(wanted)
  expect(20 * shareOf(all, reserved)).toBeLessThanOrEqual(Math.max(20, 0.8 * (all - reserved) || 0))
})

describe('slots', () => {
  test('there is one until the number is known, then as many as that, granted in the order of requests', async () => {
    const slots = createSlots()
    const first = await slots.take(signal)
    const second = slots.take(signal)
    expect(await settled(second)).toBe(false)
    slots.learn(53, 3)
    const releaseSecond = await second
    const third = slots.take(signal)
    const fourth = slots.take(signal)
    expect(await settled(third)).toBe(false)
    first()
    first()
    const releaseThird = await third
    expect(await settled(fourth)).toBe(false)
    releaseSecond()
    const releaseFourth = await fourth
    releaseThird()
    releaseFourth()
  })

  test('a request for two waits for both, or for all there are, and no later request overtakes it', async () => {
    const slots = createSlots()
    slots.learn(53, 3)
    const one = await slots.take(signal)
    const both = slots.take(signal, 2)
    const after = slots.take(signal)
    expect([await settled(both), await settled(after)]).toEqual([false, false])
    one()
    const releaseBoth = await both
    expect(await settled(after)).toBe(false)
    releaseBoth()
    ;(await after)()
    slots.learn(20, 3)
    ;(await slots.take(signal, 2))()
  })

  test('a waiting request that is cancelled leaves the queue, and those behind it continue', async () => {
    const slots = createSlots()
    const controller = new AbortController()
    const one = await slots.take(signal)
    const cancelled = slots.take(controller.signal)
    const behind = slots.take(signal)
    controller.abort(new Error('enough'))
    await expect(cancelled).rejects.toThrow('enough')
    await expect(slots.take(controller.signal)).rejects.toThrow('enough')
    one()
    ;(await behind)()
  })
})
