/**
 * How requests to Azure are sent: one pipeline for the generated clients and for plain reads, with a time limit for each
 * request, the retry policy, and a token that goes to the Resource Manager's own host only.
 */
import { Agent } from 'node:http'
import { createClientPipeline } from '@azure/core-client'
import {
  bearerTokenAuthenticationPolicyName,
  createDefaultHttpClient,
  createHttpHeaders,
  createPipelineRequest,
  type HttpClient,
  isRestError,
  type Pipeline,
  type PipelinePolicy,
  type PipelineRequest,
  type PipelineResponse,
  redirectPolicyName,
  type SendRequest,
} from '@azure/core-rest-pipeline'
import { isSameOrigin } from '../core/clouds.ts'
import { Failure } from '../errors/failure.ts'
import type { Circumstances } from '../errors/message.ts'
import { bounded, boundedJson, describe, longestName } from '../lib/bounded.ts'
import {
  answerLimit,
  busyCodes,
  isRedirect,
  type Peer,
  requestTimeoutMs,
  retryAfterMs,
  type Sign,
  verdictOn,
} from '../lib/http-retries.ts'
import type { Log } from '../lib/log.ts'
import { pause, retrying, spread, type Verdict } from '../lib/retry.ts'
import { duration } from '../lib/timeout.ts'
import type { ReadyAgent } from './agent.ts'
import { answerFailure, azureFailure, codeOf, isJson, pathOf, requestIdOf, shown } from './answers.ts'
import { foreignHost } from './hosts.ts'
import type { Tokens } from './tokens.ts'

/**
 * A header that never leaves: the request is not repeated when the server is busy, because what it says was read before and
 * has to be read again.
 */
export const readAgainWhenBusy = 'x-read-again-when-busy'

/** Longest wait between two polls of a long-running operation, in milliseconds, whatever the service wants. */
export const pollCapMs = 30_000
/** Shortest: a service that says `0` is not polled in a busy loop. */
const pollFloorMs = 200

/** Reads and posts of plain JSON. Errors are {@link Failure}s. */
export interface Http {
  get(url: string, doing: string, signal: AbortSignal, resource?: string): Promise<unknown>
  /** A POST without body that only reads (listKeys): repeated like a GET. */
  list(url: string, doing: string, signal: AbortSignal, resource?: string): Promise<unknown>
}

interface PipelineOptions {
  /** Undefined: no token is sent. */
  readonly tokens: Tokens | undefined
  readonly scope: string
  /** The only host that gets the token, `name:port`. */
  readonly host: string
  readonly signal: AbortSignal
  readonly log: Log
  /** Behind a proxy there is none: the SDK has its own. */
  readonly agent: ReadyAgent | undefined
  /** Host of the job's proxy; undefined without one. */
  readonly proxy: string | undefined
}

/** Sends requests over the connections of an agent. */
export function agentPolicy(agent: ReadyAgent): PipelinePolicy {
  return {
    name: 'connections',
    sendRequest: (request, next) => {
      request.agent ??= agent
      return next(request)
    },
  }
}

/**
 * Sends requests over HTTP directly. A managed identity's endpoint is on the runner or beside it and answers without TLS, so
 * a proxy that HTTP_PROXY or HTTPS_PROXY names would read the token.
 */
export function localClient(): HttpClient {
  const client = createDefaultHttpClient()
  const agent = new Agent()
  return {
    sendRequest: (request) => {
      if (new URL(request.url).protocol === 'http:') request.agent = agent
      return client.sendRequest(request)
    },
  }
}

/** Sends a login to no other host than that of the authority, whatever the authority's own configuration says. */
export function authorityPolicy(authority: string, ended: (failure: Failure) => void): PipelinePolicy {
  return {
    name: 'authority',
    sendRequest: (request, next) => {
      if (isSameOrigin(request.url, authority)) return next(request)
      const failure = foreignHost(
        `The configuration of ${authority} sends the sign-in to ${bounded(request.url, longestName)}; no login was sent there.`,
      )
      ended(failure)
      throw failure
    },
  }
}

const userAgent = 'azure-ai-postgres-identity'

/** An answer that is worth another try, thrown so that the retry policy sees it. */
class Retriable extends Error {
  readonly response: PipelineResponse
  readonly verdict: Exclude<Verdict, false>

  constructor(response: PipelineResponse, verdict: Exclude<Verdict, false>, reason: string) {
    super(reason)
    this.response = response
    this.verdict = verdict
  }
}

interface RetryPolicyOptions {
  readonly from: Peer
  readonly signal: AbortSignal
  readonly log: Log
  /** The token was refused: true when another one can be had. Called once for a request. */
  readonly refused?: () => boolean
  /** Called with what ended a request on this side, for clients that make an error of their own of everything. */
  readonly ended?: (failure: Failure) => void
  /** Host of the job's proxy; undefined without one. */
  readonly proxy?: string | undefined
}

/** The policy of retry.ts with the table of http.ts as a policy of a pipeline, and the time limit of each request. */
export function retryPolicy({ from, signal: ofRun, log, refused, ended, proxy }: RetryPolicyOptions): PipelinePolicy {
  return {
    name: 'retry',
    sendRequest: async (request, next) => {
      request.timeout = requestTimeoutMs
      request.abortSignal =
        request.abortSignal === undefined ? ofRun : AbortSignal.any([ofRun, request.abortSignal as AbortSignal])
      const signal = request.abortSignal as AbortSignal
      const once = request.headers.has(readAgainWhenBusy)
      request.headers.delete(readAgainWhenBusy)
      let renewed = false
      try {
        const response = await retrying(
          async () => {
            const start = performance.now()
            const answer = await boundedAnswer(request, next, from)
            if (proxy !== undefined && isRefusedByProxy(answer)) throw proxyRefused(request, answer, proxy)
            const took = Math.round(performance.now() - start)
            log.debug(
              `${request.method} ${pathOf(request.url)}: ${answer.status} in ${took} ms ${requestIdOf(answer) ?? ''}`.trimEnd(),
            )
            const verdict = verdictOnAnswer(request, answer, from)
            if (verdict === false) return answer
            if (answer.status === 401 && (renewed || refused === undefined || !refused())) return answer
            renewed ||= answer.status === 401
            if (answer.status === 409 && once) return answer
            throw new Retriable(answer, verdict, `${answer.status} ${codeOf(answer)}`.trim())
          },
          {
            signal,
            verdict: (error) => (error instanceof Retriable ? error.verdict : verdictOnBreak(request, error, from)),
            onWait: (error, waitMs, leftMs) => {
              log.info(
                `${request.method} ${pathOf(request.url)}: ${describe(error)}; again in ${duration(waitMs)}, for at most ${duration(leftMs)} more`,
              )
            },
          },
        )
        await evenPolls(request, response, signal)
        return response
      } catch (error) {
        if (error instanceof Retriable) return error.response
        if (error instanceof Failure) ended?.(error)
        throw error
      }
    },
  }
}

/**
 * Sends a request, ends its answer where that grows beyond the limit, counted as it is unpacked, and follows no redirect.
 * @throws {Failure} `answer-too-large` or `redirected`
 */
async function boundedAnswer(request: PipelineRequest, next: SendRequest, from: Peer): Promise<PipelineResponse> {
  let tooLarge = false
  request.onDownloadProgress = ({ loadedBytes }) => {
    if (loadedBytes <= answerLimit) return
    tooLarge = true
    // Whatever is thrown here ends the stream.
    throw new Error('the answer is too large')
  }
  let response: PipelineResponse
  try {
    response = await next(request)
  } catch (error) {
    throw tooLarge ? answerTooLarge(request, from) : error
  }
  if (isRedirect(response.status)) throw redirected(request, response)
  return response
}

function answerTooLarge({ method, url }: PipelineRequest, from: Peer): Failure {
  return new Failure({
    reason: 'azure',
    code: 'answer-too-large',
    title: `An answer of ${from} is too large`,
    detail: `${method} ${pathOf(url)} at ${new URL(url).host} was answered with more than ${answerLimit / 1024 / 1024} MB; the rest was not read.`,
    fix: `curl -sS -o /dev/null -w "%{size_download}\\n" https://${new URL(url).host}/   # on this runner: no answer that this action needs is that large, so something in between writes it`,
  })
}

function redirected({ method, url }: PipelineRequest, { status, headers }: PipelineResponse): Failure {
  const location = headers.get('location') ?? ''
  const to = URL.canParse(location, url) ? new URL(location, url).host : 'another address'
  return new Failure({
    reason: 'network',
    code: 'redirected',
    title: 'A request to Azure was redirected',
    detail: `${method} ${pathOf(url)} at ${new URL(url).host} was answered ${status}, a redirect to ${bounded(to, longestName)}; it was not followed, and no token was sent there.`,
    fix: `curl -sS -i https://${new URL(url).host}/ | head -20   # on this runner: neither Azure nor Entra redirects, so a proxy or the network does; let the runner reach them directly`,
  })
}

/** A page that no service of Azure writes, with a status by which a proxy refuses to connect. */
function isRefusedByProxy({ status, bodyAsText }: PipelineResponse): boolean {
  return status === 407 || ([401, 403].includes(status) && !isJson(bodyAsText))
}

function proxyRefused({ url }: PipelineRequest, { status }: PipelineResponse, proxy: string): Failure {
  const { host } = new URL(url)
  return new Failure({
    reason: 'network',
    code: 'proxy-refused',
    title: 'The proxy refused the connection',
    detail: `${bounded(proxy, longestName)} answered ${status} to the request to connect to ${host}. The request did not reach Azure.`,
    fix: `curl -sS -o /dev/null -w "%{http_connect}\\n" https://${host}/   # on this runner: the proxy has to allow ${host}; with 407 HTTPS_PROXY needs its login`,
  })
}

/** A poll is not put off for longer than the cap, not at once, and not for all runs to the same moment. */
async function evenPolls(request: PipelineRequest, { status, headers }: PipelineResponse, signal: AbortSignal): Promise<void> {
  if (status >= 300 || !headers.has('retry-after')) return
  const afterMs = retryAfterMs((name) => headers.get(name)) ?? 0
  if (afterMs > 0) headers.set('retry-after', String(Math.ceil(spread(Math.min(afterMs, pollCapMs)) / 1_000)))
  else {
    headers.set('retry-after', '0')
    if (request.method === 'GET') await pause(pollFloorMs, signal)
  }
}

/**
 * The SDKs take a page that says 200 for a success where they need no body, as after a restart: nothing was done then.
 * Every text of an answer is cut before an SDK reads it.
 */
const answersOfAzure: PipelinePolicy = {
  name: 'answers of Azure',
  sendRequest: async (request, next) => {
    const response = await next(request)
    if (response.status < 300 && !isJson(response.bodyAsText)) throw notAzure(request, response)
    if (typeof response.bodyAsText === 'string') response.bodyAsText = boundedJson(response.bodyAsText)
    return response
  },
}

function notAzure({ method, url }: PipelineRequest, { status, bodyAsText }: PipelineResponse): Failure {
  const { host } = new URL(url)
  return new Failure({
    reason: 'network',
    code: 'azure-not-json',
    title: 'Something else than Azure answered',
    detail: `${method} ${pathOf(url)} got ${status} from ${host}, with a text that is not JSON: ${shown(bodyAsText, 200)}`,
    fix: `curl -sS -i https://${host}/ | head -20   # on this runner: a proxy, a sign-in page of the network; let it through to Azure, or set HTTPS_PROXY on the job`,
  })
}

/** Creates the pipeline. The SDKs' own retry policy is left out: there is one, ours. */
export function createPipeline(options: PipelineOptions): Pipeline {
  const pipeline = createClientPipeline({ userAgentOptions: { userAgentPrefix: userAgent } })
  if (options.agent !== undefined) pipeline.addPolicy(agentPolicy(options.agent))
  pipeline.removePolicy({ phase: 'Retry' })
  pipeline.removePolicy({ name: redirectPolicyName })
  const { signal, log } = options
  const refused = (): boolean => {
    options.tokens?.forget(options.scope)
    return options.tokens !== undefined
  }
  pipeline.addPolicy(retryPolicy({ from: 'Resource Manager', signal, log, refused, proxy: options.proxy }), { phase: 'Retry' })
  pipeline.addPolicy(answersOfAzure, { phase: 'Retry', beforePolicies: ['retry'] })
  const { tokens } = options
  if (tokens !== undefined) {
    pipeline.addPolicy(
      {
        name: bearerTokenAuthenticationPolicyName,
        sendRequest: async (request, next) => {
          const { protocol, host } = new URL(request.url)
          if (protocol !== 'https:' || host !== options.host) {
            throw foreignHost(
              `An answer of ${options.host} sends the next request to ${protocol}//${bounded(host, longestName)}; the token was not sent there.`,
            )
          }
          request.headers.set('Authorization', `Bearer ${await tokens.get(options.scope)}`)
          return next(request)
        },
      },
      { phase: 'Sign' },
    )
  }
  return pipeline
}

/** Plain JSON over a pipeline. */
export function createHttp(pipeline: Pipeline): Http {
  const client = createDefaultHttpClient()
  const send = async (
    method: 'GET' | 'POST',
    url: string,
    doing: string,
    signal: AbortSignal,
    resource?: string,
  ): Promise<unknown> => {
    const request = createPipelineRequest({
      url,
      method,
      abortSignal: signal,
      headers: createHttpHeaders({ accept: 'application/json' }),
    })
    const at: Circumstances = { doing, resource }
    try {
      const response = await pipeline.sendRequest(client, request)
      if (response.status >= 200 && response.status < 300) return JSON.parse(response.bodyAsText ?? 'null')
      throw answerFailure(response, at)
    } catch (error) {
      throw azureFailure(error, at)
    }
  }
  return {
    get: (url, doing, signal, resource) => send('GET', url, doing, signal, resource),
    list: (url, doing, signal, resource) => send('POST', url, doing, signal, resource),
  }
}

/**
 * Whether repeating the request cannot do the thing twice: every PUT and PATCH of this action says the whole of what is
 * wanted, listKeys and a query of Resource Graph only read, and a token more does nothing.
 */
function repeatable(request: PipelineRequest): boolean {
  return (
    request.method !== 'POST' ||
    /\/(listKeys|oauth2\/v2\.0\/token|Microsoft\.ResourceGraph\/resources)$/.test(new URL(request.url).pathname)
  )
}

function verdictOnAnswer(request: PipelineRequest, response: PipelineResponse, from: Peer): Verdict {
  const afterMs = retryAfterMs((name) => response.headers.get(name))
  const signs: Sign[] = []
  if (afterMs !== undefined) signs.push('Retry-After')
  if (!isJson(response.bodyAsText)) signs.push('not JSON')
  // PrincipalNotFound is for who assigns the role: it is reported once for all roles.
  const code = codeOf(response) === 'PrincipalNotFound' ? '' : codeOf(response)
  return verdictOn({ stage: 'answer', from, status: response.status, code, signs, afterMs }, repeatable(request))
}

/** A connection that broke or never came about: again, unless the server may have acted on something that must not happen twice. */
function verdictOnBreak(request: PipelineRequest, error: unknown, from: Peer): Verdict {
  if (error instanceof Failure) return false
  const code = isRestError(error) ? (error.code ?? '') : ''
  return verdictOn({ stage: 'connection', from, code }, repeatable(request))
}

/** What a failed long-running operation deserves, by its code or its text. */
export function verdictOnOperation(error: unknown): Verdict {
  const text = `${String((error as { code?: unknown }).code)} ${describe(error)}`
  const code =
    busyCodes.find((each) => text.toLowerCase().includes(each.toLowerCase())) ??
    (/operationfailed/i.test(text) && text.includes('{0}') ? 'OperationFailed {0}' : undefined) ??
    /operation has failed\.\s*(\w+)/i.exec(text)?.[1] ??
    ''
  return verdictOn({ stage: 'operation', from: 'Resource Manager', code }, true)
}
