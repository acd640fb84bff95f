/** The one HTTPS server of the emulator: TLS, delays, faults and the record of all requests. */
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer, type Server } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import type { Authority } from './certificates.ts'
import type { Exchange, Fault, World } from './world.ts'

export interface Request {
  plane: Exchange['plane']
  method: string
  /** Origin is this server; path and query as sent, a leading double slash made single. */
  url: URL
  /** Host header in lower case, without the port. */
  host: string
  headers: IncomingMessage['headers']
  /** Parsed JSON or form, `undefined` when there is none, the text when it is neither. */
  body: unknown
}

export interface Reply {
  status: number
  headers?: Record<string, string>
  /** Sent as JSON. */
  body?: unknown
  /** Object id of the caller, when its token was good. */
  caller?: string
}

export type Handler = (request: Request) => Reply | Promise<Reply>

export interface HttpServer {
  port: number
  stop(): Promise<void>
}

/** Maximum length of an injected answer's body in the record of exchanges, in characters. */
const shownBody = 65_536

/** Fails with the system's error when no port is available on the loopback addresses. */
export async function listen(options: {
  world: World
  authority: Authority
  names: string[]
  planeOf: (host: string, path: string) => Exchange['plane']
  handlers: Record<Exchange['plane'], Handler>
}): Promise<HttpServer> {
  const { cert, key } = options.authority.issue(options.names)
  let count = 0

  const onRequest = async (message: IncomingMessage, response: ServerResponse): Promise<void> => {
    const number = ++count
    const { world } = options
    clearTimeout(silent.get(message.socket))
    const method = message.method ?? 'GET'
    // Clients that prefix a scope with a slash of their own send `//subscriptions`, which Resource Manager accepts.
    const path = (message.url ?? '/').replace(/^\/+/, '/')
    const host = (message.headers.host ?? 'localhost').replace(/:\d+$/, '').toLowerCase()
    const plane = options.planeOf(host, path.split('?')[0] ?? path)
    const text = await readText(message)
    const body = parseBody(text, message.headers['content-type'])
    const fault: Fault | undefined = world.fault?.({ number, plane, method, url: path })
    const exchange: Exchange = {
      number,
      plane,
      method,
      url: message.url ?? '/',
      host,
      port: message.socket.remotePort ?? 0,
      requestBody: hideSecrets(body, plane),
      status: 0,
      responseHeaders: {},
      responseBody: undefined,
    }
    world.exchanges.push(exchange)
    if (world.delays.latency > 0) await sleep(world.delays.latency)

    if (fault?.kind === 'hang') return
    if (fault?.kind === 'reset-before') {
      message.socket.destroy()
      return
    }
    if (fault?.kind === 'answer') {
      exchange.status = fault.status
      exchange.responseHeaders = fault.headers ?? {}
      const text = typeof fault.body === 'string' && fault.body.length <= shownBody ? fault.body : ''
      exchange.responseBody = hideSecrets(parseBody(text, 'application/json'), plane)
      response.writeHead(fault.status, { 'content-type': 'application/json', ...fault.headers })
      response.end(fault.body)
      return
    }

    let reply: Reply
    try {
      const url = new URL(path, 'https://localhost')
      reply = await options.handlers[plane]({ plane, method, url, host, headers: message.headers, body })
    } catch (error) {
      if (error instanceof HttpError) {
        reply = error.reply
      } else {
        reply = {
          status: 500,
          body: { error: { code: 'InternalServerError', message: `The emulator failed: ${(error as Error).stack}` } },
        }
      }
    }
    if (fault?.kind === 'rewrite' && reply.status < 300) reply.body = fault.change(structuredClone(reply.body))
    const sent = reply.body === undefined ? '' : JSON.stringify(reply.body)
    const headers: Record<string, string> = {
      'x-ms-request-id': randomUUID(),
      'x-ms-correlation-request-id': randomUUID(),
      date: new Date().toUTCString(),
      'cache-control': 'no-cache',
      ...(reply.body === undefined ? {} : { 'content-type': 'application/json; charset=utf-8' }),
      ...reply.headers,
    }
    exchange.status = reply.status
    exchange.responseHeaders = headers
    exchange.responseBody = hideSecrets(reply.body, plane)
    if (reply.caller !== undefined) exchange.caller = reply.caller

    if (response.destroyed) return
    if (fault?.kind === 'reset-after') {
      message.socket.destroy()
      return
    }
    if (reply.status !== 204 && reply.status !== 304) headers['content-length'] = String(Buffer.byteLength(sent))
    if (fault?.kind === 'trickle') {
      delete headers['content-length']
      response.writeHead(reply.status, headers)
      response.write(sent)
      const more = setInterval(() => response.write(' '), 50)
      response.on('close', () => clearInterval(more))
      return
    }
    response.writeHead(reply.status, headers)
    if (fault?.kind === 'truncate') {
      response.write(sent.slice(0, Math.floor(sent.length / 2)), () => message.socket.destroy())
      return
    }
    if (fault?.kind === 'watched') {
      await fault.acted?.()
      response.end(sent, () => void fault.answered?.())
      return
    }
    response.end(sent)
  }

  const make = (): Server => {
    const server = createServer({ cert, key, minVersion: 'TLSv1.2' }, (message, response) => {
      onRequest(message, response).catch(() => message.socket.destroy())
    })
    // Longer than any client's pool keeps a connection; otherwise the server would sometimes close one during a request.
    server.keepAliveTimeout = 120_000
    server.on('tlsClientError', () => {})
    server.on('secureConnection', (socket) => giveUpOnSilence(socket, options.world.delays.unusedConnection))
    return server
  }

  for (let attempt = 1; ; attempt++) {
    const v4 = make()
    await bind(v4, 0, '127.0.0.1')
    const { port } = v4.address() as AddressInfo
    const v6 = make()
    try {
      await bind(v6, port, '::1')
    } catch (error) {
      // Another process has this port on ::1, and `localhost` would reach it: take another. No IPv6 at all is fine.
      if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE' && attempt < 20) {
        await close(v4)
        continue
      }
    }
    return {
      port,
      async stop() {
        await Promise.all([close(v4), close(v6)])
      },
    }
  }
}

/** Timers of connections over which no request has come yet. */
const silent = new WeakMap<object, NodeJS.Timeout>()

/** Answers 408 on a connection that was opened early and not used, and closes it, as servers do. */
function giveUpOnSilence(socket: Socket, limit: number): void {
  if (!Number.isFinite(limit)) return
  const timer = setTimeout(
    () => socket.end('HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'),
    limit,
  )
  silent.set(socket, timer)
  socket.once('close', () => clearTimeout(timer))
}

/** Thrown by handlers to end a request with this reply. */
export class HttpError extends Error {
  readonly reply: Reply
  constructor(reply: Reply) {
    super(`HTTP ${reply.status}`)
    this.reply = reply
  }
}

/** An error in the shape that Resource Manager and the AI services share. */
export function failure(status: number, code: string, message: string, headers: Record<string, string> = {}): HttpError {
  return new HttpError({ status, headers, body: { error: { code, message } } })
}

/** The bearer token of a request, if it has one. */
export function bearer(request: Request): string | undefined {
  return /^Bearer\s+(\S+)$/i.exec(request.headers.authorization ?? '')?.[1]
}

export function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, Math.min(milliseconds, 2 ** 31 - 1)).unref())
}

function bind(server: Server, port: number, address: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, address, () => {
      server.off('error', reject)
      resolve()
    })
  })
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve())
    server.closeAllConnections()
  })
}

async function readText(message: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of message) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString('utf8')
}

function parseBody(text: string, contentType = ''): unknown {
  if (text === '') return undefined
  if (contentType.includes('x-www-form-urlencoded')) return Object.fromEntries(new URLSearchParams(text))
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

const secretNames = new Set([
  'access_token',
  'id_token',
  'refresh_token',
  'client_secret',
  'client_assertion',
  'key1',
  'key2',
  'primarykey',
  'secondarykey',
])

function hideSecrets(value: unknown, plane: Exchange['plane']): unknown {
  if (Array.isArray(value)) return value.map((item) => hideSecrets(item, plane))
  if (typeof value !== 'object' || value === null) return value
  const shown = Object.entries(value).map(([name, item]) => {
    const secret = secretNames.has(name.toLowerCase()) || (plane === 'github' && name === 'value')
    return [name, secret && typeof item === 'string' ? '(hidden)' : hideSecrets(item, plane)]
  })
  return Object.fromEntries(shown)
}
