/**
 * How requests to Azure are sent: one pipeline for the generated clients and for plain reads, with a time limit for each
 * request, the retry policy, and a token that goes to the Resource Manager's own host only.
 */
import { createClientPipeline } from '@azure/core-client'
import {
  bearerTokenAuthenticationPolicyName,
  createDefaultHttpClient,
  createHttpHeaders,
  createPipelineRequest,
  isRestError,
  type Pipeline,
  type PipelineRequest,
  type PipelineResponse,
} from '@azure/core-rest-pipeline'
import { type Circumstances, describe, explain, Failure } from '../errors.ts'
import type { Log } from '../log.ts'
import { busy, retrying, throttled, transient, type Verdict } from '../retry.ts'
import type { Tokens } from './credential.ts'

/**
 * A header that never leaves: the request is not repeated when the server is busy, because what it says was read before and
 * has to be read again.
 */
export const readAgainWhenBusy = 'x-read-again-when-busy'

/** Longest time one request may take, in milliseconds. */
const requestTimeoutMs = 30_000

/** Reads and posts of plain JSON. Errors are {@link Failure}s. */
export interface Http {
  get(url: string, doing: string, signal: AbortSignal, resource?: string): Promise<unknown>
  /** A POST without body that only reads (listKeys): repeated like a GET. */
  list(url: string, doing: string, signal: AbortSignal, resource?: string): Promise<unknown>
}

export interface PipelineOptions {
  /** Undefined: no token is sent. */
  readonly tokens: Tokens | undefined
  readonly scope: string
  /** The only host that gets the token, `name:port`. */
  readonly host: string
  readonly signal: AbortSignal
  readonly log: Log
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

/** Creates the pipeline. The SDKs' own retry policy is left out: there is one, ours. */
export function createPipeline(options: PipelineOptions): Pipeline {
  const pipeline = createClientPipeline({ userAgentOptions: { userAgentPrefix: userAgent } })
  pipeline.removePolicy({ phase: 'Retry' })
  pipeline.addPolicy(
    {
      name: 'retry',
      sendRequest: async (request, next) => {
        request.timeout = requestTimeoutMs
        request.abortSignal =
          request.abortSignal === undefined
            ? options.signal
            : AbortSignal.any([options.signal, request.abortSignal as AbortSignal])
        const signal = request.abortSignal as AbortSignal
        const once = request.headers.has(readAgainWhenBusy)
        request.headers.delete(readAgainWhenBusy)
        let refreshed = false
        try {
          return await retrying(
            async () => {
              const response = await next(request)
              const verdict = verdictOnAnswer(request, response, once)
              if (verdict !== false) throw new Retriable(response, verdict, `${response.status} ${codeOf(response)}`)
              if (response.status === 401 && options.tokens !== undefined && !refreshed) {
                refreshed = true
                options.tokens.forget(options.scope)
                throw new Retriable(response, { schedule: transient, afterMs: 0 }, '401: asking for a new token')
              }
              return response
            },
            {
              signal,
              verdict: (error) => (error instanceof Retriable ? error.verdict : verdictOnBreak(request, error)),
              onWait: (error, waitMs, leftMs) => {
                options.log.info(
                  `${request.method} ${pathOf(request.url)}: ${describe(error)}; again in ${seconds(waitMs)}, for at most ${seconds(leftMs)} more`,
                )
              },
            },
          )
        } catch (error) {
          if (error instanceof Retriable) return error.response
          throw error
        }
      },
    },
    { phase: 'Retry' },
  )
  const { tokens } = options
  if (tokens !== undefined) {
    pipeline.addPolicy(
      {
        name: bearerTokenAuthenticationPolicyName,
        sendRequest: async (request, next) => {
          if (new URL(request.url).host !== options.host) {
            throw new Failure({
              reason: 'azure',
              code: 'foreign-host',
              title: 'Azure named a foreign host',
              detail: `An answer of ${options.host} sends the next request to ${new URL(request.url).host}; the token was not sent there.`,
              fix: 'Check that `environment` names the cloud you mean, and that nothing between the runner and Azure rewrites answers.',
            })
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
  const ask = async (
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
    get: (url, doing, signal, resource) => ask('GET', url, doing, signal, resource),
    list: (url, doing, signal, resource) => ask('POST', url, doing, signal, resource),
  }
}

/** Whether repeating the request cannot do the thing twice. Every PUT and PATCH of this action says the whole of what is wanted. */
function repeatable(request: PipelineRequest): boolean {
  return request.method !== 'POST' || new URL(request.url).pathname.endsWith('/listKeys')
}

/**
 * Which answers are worth another try, and why:
 * 409 ServerIsBusy: one operation at a time for each server; 429: throttled, with or without Retry-After;
 * 408, 500, 502, 503, 504: a fault of the service (501 and 505 will not change); a success whose body is not JSON: an
 * answer of something in between.
 */
function verdictOnAnswer(request: PipelineRequest, response: PipelineResponse, once: boolean): Verdict {
  const { status } = response
  const afterMs = retryAfterMs(response)
  if (status === 409 && isBusy(codeOf(response))) return once ? false : { schedule: busy, afterMs }
  if (status === 429) return { schedule: throttled, afterMs }
  if (status === 503 && afterMs !== undefined) return { schedule: transient, afterMs }
  if ([408, 500, 502, 503, 504].includes(status)) return repeatable(request) ? { schedule: transient, afterMs } : false
  if (status === 200 && request.method === 'GET' && !isJson(response.bodyAsText)) return { schedule: transient }
  return false
}

/** A connection that broke or never came about: again, unless the server may have acted on something that must not happen twice. */
function verdictOnBreak(request: PipelineRequest, error: unknown): Verdict {
  if (error instanceof Failure) return false
  const code = isRestError(error) ? (error.code ?? '') : ''
  if (/CERT|SIGNATURE|ALTNAME|UNABLE_TO/.test(code)) return false
  if (['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN'].includes(code)) return { schedule: { ...transient, budgetMs: 30_000 } }
  return repeatable(request) ? { schedule: transient } : false
}

/** Another operation is under way on the server, by its code or in the text of a failed operation. */
export function isBusy(text: string): boolean {
  return /\b(ServerIsBusy|AnotherOperationInProgress)\b/i.test(text)
}

function retryAfterMs(response: PipelineResponse): number | undefined {
  const value = response.headers.get('retry-after-ms') ?? response.headers.get('retry-after')
  if (value === undefined) return undefined
  if (/^\d+$/.test(value)) return Number(value) * (response.headers.has('retry-after-ms') ? 1 : 1_000)
  const date = Date.parse(value)
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now())
}

function isJson(text: string | null | undefined): boolean {
  if (text === undefined || text === null || text === '') return true
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

interface ErrorBody {
  error?: { code?: string; message?: string; details?: { code?: string; message?: string }[] }
  code?: string
  message?: string
}

function bodyOf(response: PipelineResponse): ErrorBody {
  try {
    return (JSON.parse(response.bodyAsText ?? '{}') ?? {}) as ErrorBody
  } catch {
    return {}
  }
}

function codeOf(response: PipelineResponse): string {
  const body = bodyOf(response)
  return body.error?.code ?? body.code ?? ''
}

const pathOf = (url: string): string => new URL(url).pathname.replace(/^\/\//, '/')
const seconds = (ms: number): string => `${(ms / 1_000).toFixed(ms < 10_000 ? 1 : 0)} s`

/** An error answer of Resource Manager as a failure. */
function answerFailure(response: PipelineResponse, at: Circumstances, cause?: unknown): Failure {
  const body = bodyOf(response)
  const text = body.error?.message ?? body.message ?? (response.bodyAsText?.slice(0, 500) || 'no message')
  return explain(
    {
      origin: 'azure',
      code: codeOf(response) || (response.status === 404 ? 'NotFound' : ''),
      status: response.status,
      text,
      requestId: response.headers.get('x-ms-correlation-request-id') ?? response.headers.get('x-ms-request-id'),
    },
    at,
    cause,
  )
}

/** Whatever a request to Azure threw, as a failure; an abort keeps its own reason. */
export function azureFailure(error: unknown, at: Circumstances): Failure {
  if (error instanceof Failure) return error
  if (isRestError(error)) {
    if (error.response !== undefined) return answerFailure(error.response, at, error)
    const host = error.request === undefined ? 'Azure' : new URL(error.request.url).host
    return unreachable(host, error.code ?? '', error.message, error)
  }
  const message = describe(error)
  // A failed long-running operation is a plain Error: `The long-running operation has failed. CODE. MESSAGE`.
  const operation = /long-running operation has failed\.\s*(\w+)\.\s*(.*)$/is.exec(message)
  if (operation !== null) return explain({ origin: 'azure', code: operation[1] ?? '', text: operation[2] ?? message }, at, error)
  if (error instanceof Error && error.name === 'AbortError')
    return unreachable('Azure', 'ETIMEDOUT', `no answer within ${requestTimeoutMs / 1_000} s while ${at.doing}`, error)
  return explain({ origin: 'azure', code: '', text: message }, at, error)
}

function unreachable(host: string, code: string, text: string, cause: unknown): Failure {
  const trust = /CERT|SIGNATURE|ALTNAME|UNABLE_TO/.test(code)
  return new Failure(
    {
      reason: 'network',
      code: trust ? 'azure-not-trusted' : 'azure-unreachable',
      title: trust ? 'The certificate of Azure is not trusted' : 'Azure cannot be reached',
      detail: `${host}: ${text}${code === '' ? '' : ` (${code})`}`,
      fix: trust
        ? 'Something between the runner and Azure re-signs TLS: set NODE_EXTRA_CA_CERTS on the job to the PEM file of its root.'
        : `curl -sS -o /dev/null -w "%{http_code}\\n" https://${host}/   # on this runner; behind a proxy set HTTPS_PROXY on the job`,
    },
    cause,
  )
}
