/**
 * Connections to the server up to TLS, opened before it is known as whom: PostgreSQL's request for TLS, then the handshake. They
 * take six round trips off the longest chain of a check (`npm run bench -- chain`).
 */
import { connect as connectTcp, type Socket } from 'node:net'
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls'

/** What a client sends first to have TLS: length 8, code 80877103. */
const request = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])
/** Longest time from the start that is waited for one, in milliseconds: what takes longer is tried again, and reported as that. */
const patienceMs = 2_000
/** How long one may wait to be used, in milliseconds: a server or a pooler ends a login that does not go on. */
const freshMs = 5_000

export interface Greeted {
  /** One that is not taken yet, verified, as the driver's stream; undefined when there is none or it failed. */
  take(): Promise<TLSSocket | undefined>
  /** Ends those that were not taken. */
  end(): void
}

/** Opens so many connections at once. A failure is reported nowhere: whoever connects the usual way meets it again. */
export function greet(host: string, port: number, tls: ConnectionOptions, count: number): Greeted {
  const waiting = Array.from({ length: count }, () => greeted(host, port, tls))
  const openedAt = performance.now()
  return {
    async take() {
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
        const stream = await next.stream
        if (stream === undefined || stream.destroyed) continue
        if (performance.now() - openedAt < freshMs) return asStream(stream)
        stream.destroy()
      }
      return undefined
    },
    end: () => {
      for (const { socket } of waiting.splice(0)) socket.destroy()
    },
  }
}

function greeted(host: string, port: number, tls: ConnectionOptions): { socket: Socket; stream: Promise<TLSSocket | undefined> } {
  const socket = connectTcp({ host, port, noDelay: true })
  const stream = new Promise<TLSSocket | undefined>((resolve) => {
    const give = (result: TLSSocket | undefined): void => {
      clearTimeout(timer)
      resolve(result)
      if (result === undefined) socket.destroy()
    }
    const timer = setTimeout(() => give(undefined), patienceMs)
    socket.on('error', () => give(undefined)).on('close', () => give(undefined))
    socket.once('connect', () => socket.write(request))
    socket.once('data', (answer) => {
      if (answer.length !== 1 || answer[0] !== 'S'.charCodeAt(0)) {
        give(undefined)
        return
      }
      const secure = connectTls({ ...tls, socket, host })
      secure.on('error', () => give(undefined))
      secure.once('secureConnect', () => give(secure))
    })
  })
  return { socket, stream }
}

/** The driver connects its stream itself; this one is connected. */
function asStream(stream: TLSSocket): TLSSocket {
  const connect = (): TLSSocket => {
    process.nextTick(() => stream.emit('connect'))
    return stream
  }
  return Object.assign(stream, { connect })
}
