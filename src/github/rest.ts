/** GitHub's REST API for one repository: requests with the token, and of lists only what the token's own author wrote. */

import { describe, withoutEndSlashes } from '../lib/bounded.ts'
import { requestTimeoutMs, retryAfterMs, type Sign, verdictOn } from '../lib/http-retries.ts'
import type { Log } from '../lib/log.ts'
import { retrying, type Verdict } from '../lib/retry.ts'
import { duration } from '../lib/timeout.ts'
import { type Author, authorOf, isSameAuthor, jobAuthor, lookUpAuthor } from './author.ts'

/** Where the run takes place. */
export interface Place {
  /** GITHUB_API_URL */
  readonly apiUrl: string
  /** GITHUB_GRAPHQL_URL. The token goes there only when it is the host of {@link apiUrl}. */
  readonly graphqlUrl: string
  /** GITHUB_SERVER_URL */
  readonly serverUrl: string
  readonly owner: string
  readonly repository: string
  /** Page of this run. */
  readonly runUrl: string
  readonly token: string
  /** Number of the pull request of this event, undefined when there is none. */
  readonly pullRequest: number | undefined
  /** From the event: the head is a fork. */
  readonly fromFork: boolean
}

export interface ConversationOptions {
  readonly log: Log
  readonly signal: AbortSignal
}

/** Longest time that an issue or a comment may take in all, in milliseconds. */
export const budgetMs = 300_000
/** Longest answer that is read, in bytes after decompression: a hundred issues with the longest bodies in UTF-8, doubled. */
const longestAnswer = 64 * 1024 * 1024
/** Longest answer that is read of an error, in bytes. */
const longestRefusal = 16 * 1024
/** Longest text of an error that is shown, in characters. */
const longestText = 500

export type Json = Readonly<Record<string, unknown>>
type Method = 'GET' | 'POST' | 'PATCH' | 'DELETE'

/** Paths are below the repository's. Rejects with what Octokit throws. */
export interface GitHub {
  /** Repeats a request after an error that passes, so it is not for what must not happen twice. */
  send(method: Exclude<Method, 'POST'>, path: string, body?: Json): Promise<unknown>
  /** What the token's own author wrote of a list of issues or comments, page by page, at most so many pages. */
  listOwn<T>(path: string, most: number, read: (raw: Json) => T): Promise<T[]>
  /** Creates something once: after a response that does not show whether it was created, `find` looks before the next try. */
  create<T>(path: string, body: Json, read: (raw: Json) => T, find: () => Promise<T | undefined>): Promise<T>
}

/** An answer whose body GitHub cannot have sent: it is of something in between, or was cut off. */
class Unreadable extends Error {}

/** An answer that is longer than what is read. */
class TooLong extends Error {}

/** The requests themselves, each with its limit of time. */
interface Connection {
  readonly signal: AbortSignal
  once(method: Method, url: string, body?: Json, signal?: AbortSignal): Promise<Answer>
  patiently<T>(what: string, attempt: () => Promise<T>): Promise<T>
}

interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, unknown>>
  readonly data: unknown
}

export async function connect(place: Place, options: ConversationOptions): Promise<GitHub> {
  const connection = await openConnection(place, options)
  const api = withoutEndSlashes(place.apiUrl)
  const base = `${api}/repos/${encodeURIComponent(place.owner)}/${encodeURIComponent(place.repository)}`
  const { origin } = new URL(base)
  const isHere = (url: string): boolean => URL.canParse(url) && new URL(url).origin === origin

  const lookedUp = lookUpAuthor(
    {
      user: (limit) => settled(connection.once('GET', `${api}/user`, undefined, limit)),
      viewer: isHere(place.graphqlUrl)
        ? (query, limit) => settled(connection.once('POST', place.graphqlUrl, { query }, limit))
        : undefined,
    },
    connection.signal,
  )
  let learned: Author | undefined
  const author = async (): Promise<Author> => {
    const found = learned ?? (await lookedUp)
    if (found === undefined) options.log.debug('GitHub does not show whose token this is: treated as that of the job')
    return found ?? jobAuthor
  }

  return {
    send: (method, path, body) =>
      connection.patiently(`${method} ${path}`, async () => {
        try {
          const { data, status } = await connection.once(method, base + path, body)
          return status === 204 ? undefined : objectOf(data)
        } catch (error) {
          // It is gone already: the answer to an earlier try may have been lost.
          if (method === 'DELETE' && statusOf(error) === 404) return undefined
          throw error
        }
      }),
    async listOwn(path, most, read) {
      const items: unknown[] = []
      const seen = new Set<string>()
      // The token goes to no other host, even if a link leads there, and a page that was read already is the end.
      for (let url: string | undefined = base + path; url !== undefined && isHere(url) && !seen.has(url) && seen.size < most; ) {
        const here: string = url
        seen.add(here)
        const { data, headers } = await connection.patiently(`GET ${path}`, async () => {
          const answer = await connection.once('GET', here)
          if (!Array.isArray(answer.data)) throw new Unreadable('an answer that is not a list')
          return answer
        })
        items.push(...(data as unknown[]))
        url = /<([^<>]+)>;\s*rel="next"/.exec(String(headers['link'] ?? ''))?.[1]
      }
      const own = await author()
      return items
        .filter((item): item is Json => typeof item === 'object' && item !== null)
        .filter((item) => isSameAuthor(authorOf(item['user']), own))
        .map(read)
    },
    create(path, body, read, find) {
      let unsure = false
      return connection.patiently(`POST ${path}`, async () => {
        if (unsure) {
          const found = await find()
          if (found !== undefined) return found
        }
        unsure = true
        const made = objectOf((await connection.once('POST', base + path, body)).data)
        // The author of what was just created is that of the token, even where the look-up failed.
        learned = authorOf(made['user'])
        return read(made)
      })
    },
  }
}

async function openConnection(place: Place, { log, signal: stop }: ConversationOptions): Promise<Connection> {
  const signal = AbortSignal.any([stop, AbortSignal.timeout(budgetMs)])
  const { getOctokit } = await import('@actions/github')
  const debug = (text: string): void => log.debug(text)
  const octokit = getOctokit(place.token, {
    userAgent: 'azure-ai-postgres-identity',
    log: { debug, info: debug, warn: debug, error: debug },
  })
  const { fetch: through } = octokit.request.endpoint.DEFAULTS.request as { fetch?: typeof fetch }
  return {
    signal,
    async once(method, url, body, limit = signal) {
      const request = {
        signal: AbortSignal.any([limit, AbortSignal.timeout(requestTimeoutMs)]),
        // The token is not carried along to wherever an answer points.
        redirect: 'manual',
        fetch: bounded(through ?? fetch),
      } as const
      const answer = await octokit.request({ method, url, ...(body === undefined ? {} : { data: body }), request })
      if (answer.status >= 300)
        throw Object.assign(new Error('a redirect, which is not followed'), { status: answer.status, response: answer })
      return answer
    },
    patiently: (what, attempt) =>
      retrying(attempt, {
        signal,
        verdict: verdictOf,
        onWait: (error, waitMs) =>
          log.info(`GitHub, ${what}: ${statusOf(error) ?? ''} ${textOf(error)}; again in ${duration(waitMs)}`),
      }),
  }
}

/** As `fetch`, with a bound to what is read of an answer. */
function bounded(through: typeof fetch): typeof fetch {
  return async (...request) => {
    const answer = await through(...request)
    if (answer.body === null) return answer
    const isRefusal = answer.status >= 400
    const body = await bytesOf(answer.body, isRefusal ? longestRefusal : longestAnswer, isRefusal)
    return new Response(body, { status: answer.status, statusText: answer.statusText, headers: answer.headers })
  }
}

/** At most so many bytes of a body; the rest is left unread, or the whole is refused. */
async function bytesOf(body: ReadableStream<Uint8Array>, most: number, leaveRest: boolean): Promise<Uint8Array> {
  const pieces: Uint8Array[] = []
  let left = most
  for await (const piece of body as unknown as AsyncIterable<Uint8Array>) {
    pieces.push(piece.subarray(0, left))
    left -= piece.length
    if (left >= 0) continue
    // Leaving the loop closes the connection.
    if (leaveRest) break
    throw new TooLong(`an answer of more than ${most} bytes, which is not read`)
  }
  return Buffer.concat(pieces)
}

/** An answer of any status; rejects only where there is none. */
async function settled(answer: Promise<Answer>): Promise<Answer> {
  try {
    return await answer
  } catch (error) {
    const status = statusOf(error)
    if (status === undefined) throw error
    return { status, headers: headersOf(error), data: thrown(error).response?.data }
  }
}

function objectOf(data: unknown): Json {
  if (typeof data !== 'object' || data === null || Array.isArray(data)) throw new Unreadable('an answer that is not JSON')
  return data as Json
}

/** What Octokit throws, as far as it matters here; all absent in what others throw. */
interface Thrown {
  readonly status?: number
  readonly response?: {
    readonly headers?: Readonly<Record<string, string | undefined>>
    readonly data?: { readonly message?: unknown }
  }
}
const thrown = (error: unknown): Thrown => (error instanceof Error ? (error as Thrown) : {})

/** Status of the answer. Octokit gives a request that got none the status 500. */
export const statusOf = (error: unknown): number | undefined =>
  thrown(error).response === undefined ? undefined : thrown(error).status
const headersOf = (error: unknown): Readonly<Record<string, string | undefined>> => thrown(error).response?.headers ?? {}
/** Whether a request was sent, or meant to be, and got no answer. */
const isUnanswered = (error: unknown): boolean => thrown(error).status !== undefined && thrown(error).response === undefined

/** Errno or TLS code, somewhere down the causes. */
function breakOf(error: unknown): string {
  for (let each: unknown = error; each instanceof Error; each = each.cause) {
    const { code } = each as { code?: unknown }
    if (typeof code === 'string' && code !== '') return code
  }
  return ''
}

/** GitHub's rate limits, primary and secondary: 429, or a 403 with their headers or text. */
export function isThrottled(error: unknown): boolean {
  const status = statusOf(error)
  const headers = headersOf(error)
  return (
    status === 429 ||
    (status === 403 &&
      (headers['retry-after'] !== undefined ||
        headers['x-ratelimit-remaining'] === '0' ||
        /rate limit|abuse detection/i.test(describe(error))))
  )
}

/** Every request may be repeated: `create` looks for what it made before the next try. */
function verdictOf(error: unknown): Verdict {
  const from = 'GitHub'
  if (error instanceof Unreadable) return verdictOn({ stage: 'answer', from, status: 200, signs: ['not JSON'] }, true)
  if (error instanceof Error && error.cause instanceof TooLong) return false
  const status = statusOf(error)
  if (status === undefined)
    return isUnanswered(error) ? verdictOn({ stage: 'connection', from, code: breakOf(error) }, true) : false
  const afterMs = requestedWaitMs(error)
  const signs: Sign[] = []
  if (headersOf(error)['retry-after'] !== undefined) signs.push('Retry-After')
  if (isThrottled(error)) signs.push('limit reached')
  return verdictOn({ stage: 'answer', from, status, signs, afterMs }, true)
}

/** The wait that GitHub requests, in milliseconds; a minute when a limit is reached without one. */
function requestedWaitMs(error: unknown): number | undefined {
  const headers = headersOf(error)
  const { 'x-ratelimit-remaining': remaining, 'x-ratelimit-reset': reset } = headers
  const afterMs = retryAfterMs((name) => headers[name])
  if (afterMs !== undefined) return Math.max(1_000, afterMs)
  if (remaining === '0' && reset !== undefined && /^\d+$/.test(reset)) return Math.max(1_000, Number(reset) * 1_000 - Date.now())
  return isThrottled(error) ? 60_000 : undefined
}

/** Why a request failed, as the end of a sentence. */
export function reasonOf(error: unknown): string {
  const status = statusOf(error)
  const message = thrown(error).response?.data?.message
  if (status !== undefined)
    return `GitHub answered ${status}: ${typeof message === 'string' ? message.slice(0, longestText) : textOf(error)}`
  if (!isUnanswered(error)) return textOf(error)
  const code = breakOf(error)
  return `GitHub could not be reached: ${textOf(error)}${code === '' ? '' : ` (${code})`}`
}

function textOf(error: unknown): string {
  return describe(error).slice(0, longestText)
}
