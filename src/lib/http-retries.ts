/** Which results of HTTP requests are worth another try: one table for Resource Manager, Entra and GitHub. The first row that fits decides. */
import { busy, limited, renewed, replication, type Schedule, throttled, transient, unreachable, type Verdict } from './retry.ts'

/** Longest time one request may take, its body included, in milliseconds. */
export const requestTimeoutMs = 30_000

/** Most bytes of one answer, unpacked: a list of Azure or GitHub has a few megabytes, a gzip bomb has gigabytes. */
export const answerLimit = 16 * 1024 * 1024

/** Whether a status sends the request elsewhere. No redirect is followed: the token would go along. */
export const isRedirect = (status: number): boolean => [300, 301, 302, 303, 307, 308].includes(status)

/** The codes of Resource Manager for a server that is busy: of a 409, or of an operation that it accepted and then failed. */
export const busyCodes = [
  'ServerIsBusy',
  'ServerBusy',
  'AnotherOperationInProgress',
  'ServerIsNotReady',
  'AadAuthOperationCannotBePerformedWhenServerIsNotAccessible',
] as const

export type Peer = 'Resource Manager' | 'Entra' | 'GitHub'
/** Where a request failed: with an answer, with a connection that broke before there was one, or as a long-running operation. */
type Stage = 'answer' | 'connection' | 'operation'
export type Sign = 'Retry-After' | 'limit reached' | 'not JSON'

export interface HttpRow {
  /** `answer` where absent. */
  readonly stage?: Stage
  /** Any where absent. */
  readonly from?: Peer
  readonly statuses?: readonly number[]
  /** Error codes of the answer, or errno of the connection. */
  readonly codes?: readonly string[] | RegExp
  readonly sign?: Sign
  /** Where absent, the request is not sent again. */
  readonly schedule?: Schedule
  /** Whether a request that must not take effect twice (a POST that does something) is sent again as well. */
  readonly unsafe?: boolean
  readonly reason: string
}

/** What fits no row is a final answer, and reported as it is. */
export const httpRows: readonly HttpRow[] = [
  {
    from: 'Resource Manager',
    statuses: [401],
    schedule: renewed,
    unsafe: true,
    reason: 'The token expired or was revoked: once, with a new one. Refused before anything was done',
  },
  {
    from: 'Resource Manager',
    statuses: [409],
    codes: busyCodes,
    schedule: busy,
    unsafe: true,
    reason:
      'A server takes one operation at a time: another one has to end. A write that follows from a read begins with the read again',
  },
  {
    from: 'Resource Manager',
    statuses: [400],
    codes: ['PrincipalNotFound'],
    schedule: replication,
    unsafe: true,
    reason: 'The directory learns of a new identity a little later than Resource Manager',
  },
  {
    from: 'GitHub',
    statuses: [429],
    schedule: limited,
    unsafe: true,
    reason: 'A rate limit; trying before the time makes it longer, so a longer wait than the cap is not begun',
  },
  {
    from: 'GitHub',
    statuses: [403],
    sign: 'limit reached',
    schedule: limited,
    unsafe: true,
    reason: 'GitHub’s other form of a 429; any other 403 is a missing permission',
  },
  { statuses: [429], schedule: throttled, unsafe: true, reason: 'Throttled: refused before anything was done' },
  {
    statuses: [503],
    sign: 'Retry-After',
    schedule: transient,
    unsafe: true,
    reason: 'The service names the time to come back, so it knows that it did nothing',
  },
  {
    statuses: [408, 500, 502, 503, 504],
    schedule: transient,
    reason: 'An error of the service or of something before it, which may have acted; 501 and 505 will not change',
  },
  {
    from: 'Entra',
    codes: ['temporarily_unavailable', 'AADSTS90033'],
    schedule: transient,
    unsafe: true,
    reason: 'Entra’s own codes for an error that passes',
  },
  {
    statuses: [200, 201, 202],
    sign: 'not JSON',
    schedule: transient,
    reason: 'A page of something in between, or an answer that was cut off',
  },
  {
    stage: 'connection',
    codes: /CERT|SIGNATURE|ALTNAME|UNABLE_TO/,
    reason: 'TLS that is not trusted stays so',
  },
  {
    stage: 'connection',
    codes: ['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN'],
    schedule: unreachable,
    unsafe: true,
    reason: 'Nothing was sent; a name or a listener may be away for a moment, and more often the setting is wrong',
  },
  {
    stage: 'connection',
    schedule: transient,
    reason: 'Reset, cut off, or no whole answer within the limit of a request: it may have been acted on',
  },
  {
    stage: 'operation',
    from: 'Resource Manager',
    codes: busyCodes,
    schedule: busy,
    reason: 'Accepted, then refused for another operation: read again, written again',
  },
  {
    stage: 'operation',
    from: 'Resource Manager',
    codes: ['InternalServerError', 'OperationFailed {0}'],
    schedule: transient,
    reason: 'The operation failed inside Azure, which may leave the text of the error as `{0}`: read again, write again',
  },
]

/** What is known of a request that failed. */
export interface Seen {
  readonly stage: Stage
  readonly from: Peer
  readonly status?: number | undefined
  readonly code?: string | undefined
  readonly signs?: readonly Sign[]
  /** The wait that the other side requests, in milliseconds. */
  readonly afterMs?: number | undefined
}

/** The row that fits; undefined when none does. */
function rowOf(seen: Seen): HttpRow | undefined {
  const code = seen.code ?? ''
  return httpRows.find(
    (row) =>
      (row.stage ?? 'answer') === seen.stage &&
      (row.from === undefined || row.from === seen.from) &&
      (row.statuses === undefined || (seen.status !== undefined && row.statuses.includes(seen.status))) &&
      (row.codes === undefined ||
        (row.codes instanceof RegExp
          ? row.codes.test(code)
          : row.codes.some((each) => each.toLowerCase() === code.toLowerCase()))) &&
      (row.sign === undefined || seen.signs?.includes(row.sign) === true),
  )
}

/** @param repeatable whether sending the request twice has the effect of sending it once */
export function verdictOn(seen: Seen, repeatable: boolean): Verdict {
  const row = rowOf(seen)
  if (row?.schedule === undefined || !(repeatable || row.unsafe === true)) return false
  return { schedule: row.schedule, afterMs: seen.afterMs }
}

/**
 * The wait that an answer requests, in milliseconds: `retry-after-ms` and `x-ms-retry-after-ms`, else Retry-After in seconds
 * or as an HTTP date, which is compared with the answer's own `date`: the runner's clock may be wrong. Undefined when there
 * is none that can be read; a date that is past is 0.
 */
export function retryAfterMs(header: (name: string) => string | null | undefined, now: number = Date.now()): number | undefined {
  for (const name of ['retry-after-ms', 'x-ms-retry-after-ms']) {
    const value = header(name)?.trim() ?? ''
    if (/^\d+(\.\d+)?$/.test(value)) return Number(value)
  }
  const value = header('retry-after')?.trim() ?? ''
  if (/^\d+(\.\d+)?$/.test(value)) return Number(value) * 1_000
  // Date.parse takes `-5` for a year.
  const date = /[a-z]{3}/i.test(value) ? Date.parse(value) : Number.NaN
  if (Number.isNaN(date)) return undefined
  const sent = Date.parse(header('date') ?? '')
  return Math.max(0, date - (Number.isNaN(sent) ? now : sent))
}
