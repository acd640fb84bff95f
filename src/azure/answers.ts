/** What responses and errors of Azure say, as failures. */
import { isRestError, type PipelineResponse } from '@azure/core-rest-pipeline'
import { explain } from '../errors/explain.ts'
import { Failure } from '../errors/failure.ts'
import type { Circumstances } from '../errors/message.ts'
import { bounded, describe, longestName } from '../lib/bounded.ts'
import { requestTimeoutMs } from '../lib/http-retries.ts'
import { withoutCredentials } from '../lib/secrets.ts'

export function isJson(text: string | null | undefined): boolean {
  if (text === undefined || text === null || text === '') return true
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

/** An error answer, which is written by others: each part may be of any type. */
interface ErrorBody {
  error?: { code?: unknown; message?: unknown } | string | null
  code?: unknown
  message?: unknown
}

/** The parts of an error answer that are texts, cut; empty where they are missing or something else. */
function errorOf({ bodyAsText }: PipelineResponse): { readonly code: string; readonly message: string } {
  const text = (value: unknown, limit?: number): string => (typeof value === 'string' ? bounded(value, limit) : '')
  try {
    const { error, code, message } = (JSON.parse(bodyAsText ?? '{}') ?? {}) as ErrorBody
    // Entra's `error` is the code itself.
    const own = typeof error === 'object' && error !== null ? error : { code: error, message: undefined }
    return { code: text(own.code, longestName) || text(code, longestName), message: text(own.message) || text(message) }
  } catch {
    return { code: '', message: '' }
  }
}

export const codeOf = (response: PipelineResponse): string => errorOf(response).code

export const requestIdOf = ({ headers }: PipelineResponse): string | undefined => {
  const id = headers.get('x-ms-correlation-request-id') ?? headers.get('x-ms-request-id')
  return id === undefined ? undefined : bounded(id, longestName)
}
export const pathOf = (url: string): string => bounded(new URL(url).pathname.replace(/^\/\//, '/'), longestName)

/** An error answer of Resource Manager as a failure. */
export function answerFailure(response: PipelineResponse, at: Circumstances, cause?: unknown): Failure {
  const { code, message } = errorOf(response)
  return explain(
    {
      origin: 'azure',
      code: code || (response.status === 404 ? 'NotFound' : ''),
      status: response.status,
      text: message || shown(response.bodyAsText, 500) || 'no message',
      requestId: requestIdOf(response),
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
    return unreachable(host, bounded(error.code ?? '', longestName), describe(error), error)
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

/** The beginning of a body that could not be read: one that was cut off may contain a key that is not known as a secret. */
export const shown = (body: string | null | undefined, length: number): string =>
  withoutCredentials(bounded(body ?? '')).slice(0, length)
