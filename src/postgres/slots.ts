/**
 * How many connections a run has open at once: a small share of those that the server has for users, so that applications
 * keep theirs, and so that many runs at once do as well.
 */

/** Most of one run, whatever the server has: more would not be faster. */
export const maxConnections = 8
/** One in so many of the server's connections for users is a run's: twenty runs at once leave a fifth to applications. */
const oneIn = 25

/** How many connections a run may have at once; at least one. */
export function shareOf(all: number, reserved: number): number {
  return Math.min(maxConnections, Math.max(1, Math.floor((all - reserved) / oneIn) || 1))
}

export interface Slots {
  /** Waits for as many slots, in the order of asking; what it gives back releases them. More than there are means all of them. */
  take(signal: AbortSignal, count?: number): Promise<() => void>
  /** Takes note of how many connections the server has, and how many of them are kept from users. */
  learn(all: number, reserved: number): void
}

/** One slot until it is known what the server has. */
export function createSlots(): Slots {
  let limit = 1
  let taken = 0
  const waiting: { readonly count: number; readonly go: () => void }[] = []

  const admit = (): void => {
    for (let [next] = waiting; next !== undefined; [next] = waiting) {
      if (taken > 0 && taken + next.count > limit) return
      waiting.shift()
      taken += next.count
      next.go()
    }
  }

  return {
    take(signal, count = 1) {
      return new Promise((resolve, reject) => {
        if (signal.aborted) {
          reject(signal.reason)
          return
        }
        const entry = {
          count,
          go: () => {
            signal.removeEventListener('abort', stop)
            let held = true
            resolve(() => {
              if (held) taken -= count
              held = false
              admit()
            })
          },
        }
        const stop = (): void => {
          waiting.splice(waiting.indexOf(entry), 1)
          reject(signal.reason)
          admit()
        }
        signal.addEventListener('abort', stop, { once: true })
        waiting.push(entry)
        admit()
      })
    },
    learn(all, reserved) {
      limit = shareOf(all, reserved)
      admit()
    },
  }
}
