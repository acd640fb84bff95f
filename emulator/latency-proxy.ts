/**
 * A TCP proxy with latency: passes bytes on unchanged, each as late as over a network with this round-trip time, and records
 * the round trips. Opening a connection takes one round trip, as with TCP.
 */
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { reset } from './sockets.ts'

/** A request and its answer on one connection, whatever they are made of. Times by `performance.now()` of this process, at the near end. */
export interface Trip {
  /** The name of the proxy. */
  readonly proxy: string
  /** Counted from 1 for each proxy. */
  readonly connection: number
  /** Counted from 0 for each connection; the first is the opening of the connection. */
  readonly index: number
  /** When the last byte of the request was sent. */
  readonly sentAt: number
  /** When the last byte of the answer came. */
  readonly answeredAt: number
  /** Bytes on the network, so encrypted where TLS is used. */
  readonly sent: number
  readonly received: number
  /** The port at the far end by which the service knows this connection. */
  readonly port: number
}

export interface LatencyProxy {
  /** Where the near end listens, on 127.0.0.1. */
  readonly port: number
  /** Milliseconds; may be changed at any time, for the bytes that come after. */
  roundTripMs: number
  /** Finished round trips since the last `clear`, in the order in which they began on each connection. */
  trips(): Trip[]
  clear(): void
  close(): Promise<void>
}

/** Opens a proxy to a port on 127.0.0.1. */
export async function openLatencyProxy(name: string, farPort: number, roundTripMs = 0): Promise<LatencyProxy> {
  type Open = { -readonly [key in keyof Trip]: Trip[key] }
  let trips: Open[] = []
  let connections = 0
  const sockets = new Set<Socket>()

  const listener = createServer({ noDelay: true, allowHalfOpen: true }, (near) => {
    const connection = ++connections
    const openedAt = performance.now()
    // What the client sends before its connection would be open waits for that moment.
    const usableAt = openedAt + proxy.roundTripMs
    const far = connect({ host: '127.0.0.1', port: farPort, noDelay: true, allowHalfOpen: true })
    for (const socket of [near, far]) {
      sockets.add(socket)
      socket.on('close', () => sockets.delete(socket))
    }
    let index = 0
    const begin = (sentAt: number, sent: number): Open => {
      const trip = { proxy: name, connection, index: index++, sentAt, answeredAt: 0, sent, received: 0, port: 0 }
      trips.push(trip)
      return trip
    }
    let trip = begin(openedAt, 0)
    trip.answeredAt = usableAt
    trip.received = 1
    far.once('connect', () => {
      trip.port = far.localPort ?? 0
    })

    // Bytes keep their order: nothing arrives before what was sent before it.
    const carry = (
      from: Socket,
      to: Socket,
      onSent: (bytes: number, at: number) => void,
      onArrived: (bytes: number) => void,
    ): void => {
      let free = 0
      const later = (body: () => void): void => {
        const now = performance.now()
        const sentAt = from === near ? Math.max(now, usableAt) : now
        free = Math.max(free, sentAt + proxy.roundTripMs / 2)
        const wait = free - now
        if (wait <= 0) body()
        else setTimeout(body, wait)
      }
      from.on('data', (chunk) => {
        onSent(chunk.length, from === near ? Math.max(performance.now(), usableAt) : performance.now())
        later(() => {
          if (to.destroyed) return
          onArrived(chunk.length)
          to.write(chunk)
        })
      })
      from.on('end', () => later(() => to.end()))
      from.on('error', () => later(() => reset(to)))
      from.on('close', () => later(() => to.destroySoon()))
    }
    carry(
      near,
      far,
      (bytes, at) => {
        // Bytes after a response begin the next request.
        if (trip.received > 0) {
          const { port } = trip
          trip = begin(at, 0)
          trip.port = port
        }
        trip.sentAt = at
        trip.sent += bytes
      },
      () => {
        trip.port ||= far.localPort ?? 0
      },
    )
    carry(
      far,
      near,
      () => undefined,
      (bytes) => {
        trip.received += bytes
        trip.answeredAt = performance.now()
      },
    )
  })
  await new Promise<void>((resolve, reject) => {
    listener.once('error', reject)
    listener.listen(0, '127.0.0.1', resolve)
  })
  const proxy: LatencyProxy = {
    port: (listener.address() as AddressInfo).port,
    roundTripMs,
    trips: () => trips.filter(({ received }) => received > 0),
    clear: () => {
      trips = []
      connections = 0
    },
    async close() {
      const closed = new Promise((resolve) => listener.close(resolve))
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
  return proxy
}

/** A round trip of a chain. */
export interface Link extends Trip {
  /** Milliseconds that the client spent between the response it waited for, or the beginning, and sending this request. */
  readonly before: number
  /** Milliseconds that the far side spent on it. */
  readonly far: number
}

/**
 * The longest chain of dependent round trips, from the last response backwards: each was sent after the response that came
 * last before it. `matters` leaves out trips that nothing waits for (the tickets of TLS).
 */
export function chainOf(trips: readonly Trip[], roundTripMs: number, beganAt: number, matters: (trip: Trip) => boolean): Link[] {
  const wanted = trips.filter(matters)
  const chain: Link[] = []
  let next = latest(wanted, Number.POSITIVE_INFINITY)
  while (next !== undefined) {
    const trip: Trip = next
    // On its own connection a trip always waits for the one before.
    const cause = latest(wanted, trip.sentAt)
    const own = wanted.find(
      (each) => each.proxy === trip.proxy && each.connection === trip.connection && each.index === trip.index - 1,
    )
    const before = cause ?? own
    chain.unshift({
      ...trip,
      before: trip.sentAt - (before?.answeredAt ?? beganAt),
      far: trip.answeredAt - trip.sentAt - roundTripMs,
    })
    next = before
  }
  return chain
}

/** The trip whose answer came last, at this time or before. Half a millisecond is left for the clock. */
function latest(trips: readonly Trip[], at: number): Trip | undefined {
  let found: Trip | undefined
  for (const trip of trips) {
    if (trip.answeredAt <= at + 0.5 && trip.sentAt < at && (found === undefined || trip.answeredAt > found.answeredAt))
      found = trip
  }
  return found
}
