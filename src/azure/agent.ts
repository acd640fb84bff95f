/** Connections to Azure: kept for the next request, and opened beforehand where it is known that one will come. */
import { Agent, type AgentOptions } from 'node:https'
import type { Duplex } from 'node:stream'

/** Connections that were opened beforehand go to the first requests to their host. */
export class ReadyAgent extends Agent {
  readonly #ready = new Map<string, Duplex[]>()

  constructor() {
    super({ keepAlive: true })
  }

  /** Opens so many connections to the host of a URL. One that fails is forgotten: the request that comes opens its own. */
  open(url: string, count: number): void {
    const { hostname, port } = new URL(url)
    const host = hostname.replace(/^\[|\]$/g, '')
    const ready: Duplex[] = []
    const options = { host, port: Number(port || 443), servername: /^[\d.]+$|:/.test(host) ? '' : host }
    for (let each = 0; each < count; each++) {
      const socket = super.createConnection(options as AgentOptions) as Duplex
      // Told by the request that uses it, if there is one.
      socket.on('error', () => undefined)
      ready.push(socket)
    }
    const key = `${options.host}:${options.port}`
    this.#ready.set(key, [...(this.#ready.get(key) ?? []), ...ready])
  }

  override createConnection(options: AgentOptions, callback?: (error: Error | null, stream: Duplex) => void) {
    const { host, port } = options as { host?: string; port?: number | string }
    const ready = this.#ready.get(`${host}:${port}`)
    for (let socket = ready?.shift(); socket !== undefined; socket = ready?.shift()) if (!socket.destroyed) return socket
    return super.createConnection(options, callback)
  }
}
