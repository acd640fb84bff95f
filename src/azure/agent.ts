/**
 * Connections to Azure: kept for the next request, and opened beforehand where it is known that one will come, which takes
 * three round trips off the longest chain of a check (`npm run bench -- chain`).
 */
import { Agent, type AgentOptions } from 'node:https'
import type { Duplex } from 'node:stream'

/** A server may close a connection over which nothing has come, with a response that the next request would take for its own. */
const freshMs = 5_000

interface Ready {
  readonly socket: Duplex
  /** By `performance.now()`. */
  readonly openedAt: number
}

/** Connections that were opened beforehand go to the first requests to their host, while they are fresh. */
export class ReadyAgent extends Agent {
  readonly #ready = new Map<string, Ready[]>()

  constructor() {
    super({ keepAlive: true })
  }

  /** Opens so many connections to the host of a URL. One that fails is forgotten: the request that comes opens its own. */
  open(url: string, count: number): void {
    const { hostname, port } = new URL(url)
    const host = hostname.replace(/^\[|\]$/g, '')
    const ready: Ready[] = []
    const options = { host, port: Number(port || 443), servername: /^[\d.]+$|:/.test(host) ? '' : host }
    for (let each = 0; each < count; each++) {
      const socket = super.createConnection(options as AgentOptions) as Duplex
      // Reported by the request that uses it, if there is one.
      socket.on('error', () => undefined)
      ready.push({ socket, openedAt: performance.now() })
    }
    const key = `${options.host}:${options.port}`
    this.#ready.set(key, [...(this.#ready.get(key) ?? []), ...ready])
  }

  override createConnection(options: AgentOptions, callback?: (error: Error | null, stream: Duplex) => void) {
    const { host, port } = options as { host?: string; port?: number | string }
    const ready = this.#ready.get(`${host}:${port}`)
    for (let next = ready?.shift(); next !== undefined; next = ready?.shift()) {
      if (!next.socket.destroyed && performance.now() - next.openedAt < freshMs) return next.socket
      next.socket.destroy()
    }
    return super.createConnection(options, callback)
  }
}
