/**
 * The HTTPS requests of the azure_ai test functions. SQL cannot speak HTTP: a function writes its request to a file in the data
 * directory and waits for a file with the answer. A program for each request would also work, but take most of a test's time.
 */
import { readdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs'
import https from 'node:https'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Switches } from './world.ts'

export interface CallsOptions {
  /** `requests/ID-PID` come from the functions, `requests/ID-cancel` ends one; `answers/ID` goes to them. */
  folder: string
  /** The port of every host, on 127.0.0.1 over TLS. */
  port: number
  /** Secret that the identity endpoint wants in the header x-identity-header. */
  identitySecret: string
  /** PEM of the authority. */
  ca: string
  /** Whether a client is connected, so that calls may come. */
  isBusy(): boolean
  /** The result of a request to a host under `.invalid`. */
  deadHost(): Switches['deadHost']
  /** Makes a file that the server's account can read. */
  write(file: string, content: string): void
}

/** A request as the function writes it, in hex with a line feed at the end. */
interface Request {
  endpoint: string
  path: string[]
  query: [name: string, value: string][]
  headers: Record<string, string>
  body: unknown
  /** Present: with a token of the server's identity for this resource. */
  tokenResource?: string | null
  timeoutMs: number
  maxAttempts: number
  retryDelayMs: number
}

/** `verbatim`: the function reports the message without further text. */
type Kind = 'resolve' | 'token' | 'timeout' | 'connect' | 'response' | 'verbatim'
type Answer = { status: number; body: string } | { failure: Kind; message: string }

class CallError extends Error {
  readonly kind: Kind

  constructor(kind: Kind, message: string) {
    super(message)
    this.kind = kind
  }
}

/** Sends every request that appears, until the returned function is called, which also cancels pending ones. */
export function serveCalls(options: CallsOptions): () => void {
  const requests = join(options.folder, 'requests')
  const answers = join(options.folder, 'answers')
  const underWay = new Map<string, AbortController>()

  const look = (): void => {
    for (const name of namesIn(requests)) {
      const [, id = '', origin = ''] = /^(.{36})-(\d+|cancel)$/.exec(name) ?? []
      if (origin === 'cancel') {
        underWay.get(id)?.abort()
        rmSync(join(requests, name), { force: true })
      } else if (id !== '') take(id, Number(origin), join(requests, name))
    }
  }

  const take = (id: string, backend: number, file: string): void => {
    const text = readFileSync(file, 'utf8')
    // It may still be written.
    if (!text.endsWith('\n')) return
    rmSync(file)
    const ended = new AbortController()
    underWay.set(id, ended)
    // A cancelled query writes a file for it; a backend that ends with its lost client does not.
    const watching = setInterval(() => {
      if (!isAlive(backend)) ended.abort()
    }, 200).unref()
    call(JSON.parse(Buffer.from(text.trim(), 'hex').toString()) as Request, ended.signal)
      .then((answer) => {
        if (ended.signal.aborted) return
        // Renamed into place, so that the backend never reads half an answer.
        options.write(join(answers, `${id}.new`), JSON.stringify(answer))
        renameSync(join(answers, `${id}.new`), join(answers, id))
      })
      // The folder was deleted with its server, so nothing waits for the response.
      .catch(() => undefined)
      .finally(() => {
        clearInterval(watching)
        underWay.delete(id)
      })
  }

  /** Retries until there is an answer, the attempts are used up or the call is cancelled. */
  async function call(request: Request, ended: AbortSignal): Promise<Answer> {
    for (let left = request.maxAttempts; ; left--) {
      const answer = await attempt(request, ended)
      const passing =
        'failure' in answer
          ? ['timeout', 'connect'].includes(answer.failure)
          : [408, 429].includes(answer.status) || answer.status >= 500
      if (left <= 1 || !passing || ended.aborted) return answer
      await sleep(request.retryDelayMs, undefined, { signal: ended })
    }
  }

  async function attempt(request: Request, ended: AbortSignal): Promise<Answer> {
    const limit = new AbortController()
    const timer = setTimeout(() => limit.abort(), Math.min(request.timeoutMs, 2 ** 31 - 1))
    const end = (): void => limit.abort()
    ended.addEventListener('abort', end, { once: true })
    const { signal } = limit
    try {
      if (!URL.canParse(request.endpoint)) throw new CallError('resolve', request.endpoint)
      const url = new URL(request.endpoint)
      if (url.protocol !== 'https:') throw new CallError('connect', `${url.protocol}// is not supported`)
      if (url.hostname === 'invalid' || url.hostname.endsWith('.invalid')) return await fromDeadHost(url, signal)
      if (request.path.length > 0) {
        const parts = request.path.map((part) => encodeURIComponent(part).replaceAll('%3A', ':'))
        url.pathname = `${url.pathname.replace(/\/+$/, '')}/${parts.join('/')}`
      }
      for (const [name, value] of request.query) url.searchParams.append(name, value)
      const headers: Record<string, string> = { ...request.headers, 'content-type': 'application/json' }
      if (request.tokenResource) headers['authorization'] = `Bearer ${await token(request.tokenResource, signal)}`
      const answer = await exchange(url, 'POST', headers, JSON.stringify(request.body), signal)
      if (answer.status < 300 && !isJson(answer.body)) throw new CallError('response', answer.body.slice(0, 200))
      return answer
    } catch (error) {
      if (error instanceof CallError) return { failure: error.kind, message: error.message }
      if (signal.aborted) return { failure: 'timeout', message: `${request.timeoutMs} ms` }
      return { failure: 'connect', message: String((error as Error).message || error) }
    } finally {
      clearTimeout(timer)
      ended.removeEventListener('abort', end)
    }
  }

  /** The name has no host; networks report that in different ways. */
  async function fromDeadHost(url: URL, signal: AbortSignal): Promise<Answer> {
    switch (options.deadHost()) {
      case 'proxy':
        return { status: 502, body: '<html><head><title>502 Bad Gateway</title></head><body>502 Bad Gateway</body></html>' }
      case 'wildcard': {
        const error = { code: 'ResourceNotFound', message: 'Subdomain does not map to a resource.' }
        return { status: 404, body: JSON.stringify({ error }) }
      }
      case 'silence':
        return sleep(2 ** 31 - 1, undefined, { signal, ref: false }) as Promise<never>
      case 'unfamiliar':
        throw new CallError('verbatim', 'E-5041 upstream gone (500)')
      default:
        throw new CallError('resolve', url.hostname)
    }
  }

  async function token(resource: string, signal: AbortSignal): Promise<string> {
    const url = new URL(`https://localhost/identity/token?api-version=2018-02-01&resource=${encodeURIComponent(resource)}`)
    const headers = { metadata: 'true', 'x-identity-header': options.identitySecret }
    const { status, body } = await exchange(url, 'GET', headers, undefined, signal)
    type TokenAnswer = { access_token?: string; error_description?: string; error?: { message?: string } }
    const answer: TokenAnswer = isJson(body) ? (JSON.parse(body) as TokenAnswer) : {}
    if (status === 200 && answer.access_token) return answer.access_token
    throw new CallError('token', answer.error_description ?? answer.error?.message ?? body)
  }

  /** Every host is on loopback here: that is the emulated network. The name decides SNI, Host and the name in the certificate. */
  function exchange(
    url: URL,
    method: string,
    headers: Record<string, string>,
    body: string | undefined,
    signal: AbortSignal,
  ): Promise<{ status: number; body: string }> {
    return new Promise((resolve, reject) => {
      const outgoing = https.request(
        {
          host: '127.0.0.1',
          port: options.port,
          servername: url.hostname,
          ca: options.ca,
          agent: false,
          method,
          path: url.pathname + url.search,
          headers: { ...headers, host: url.host },
          signal,
        },
        (incoming) => {
          const chunks: Buffer[] = []
          incoming.on('data', (chunk) => chunks.push(chunk))
          incoming.on('end', () => resolve({ status: incoming.statusCode ?? 0, body: Buffer.concat(chunks).toString() }))
          incoming.on('error', reject)
        },
      )
      outgoing.on('error', reject)
      outgoing.end(body)
    })
  }

  // Not fs.watch: libuv's may never end after the folder is removed.
  let poll: NodeJS.Timeout
  const next = (): void => {
    poll = setTimeout(
      () => {
        look()
        next()
      },
      options.isBusy() ? 3 : 50,
    ).unref()
  }
  next()
  const sweeper = setInterval(() => removeOld(answers), 60_000).unref()
  return () => {
    clearTimeout(poll)
    clearInterval(sweeper)
    for (const controller of underWay.values()) controller.abort()
  }
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    // The server is being removed.
    return []
  }
}

function removeOld(folder: string): void {
  for (const name of namesIn(folder)) {
    const file = join(folder, name)
    if (Date.now() - statSync(file).mtimeMs > 60_000) rmSync(file, { force: true })
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}
