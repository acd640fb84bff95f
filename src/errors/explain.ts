/** Turns a message of the outside into a failure with a reason, a cause and a fix. What no row knows is passed on word for word. */

import { bounded, cutTexts, longestName } from '../lib/bounded.ts'
import { Failure } from './failure.ts'
import { ai } from './known/ai.ts'
import { azure } from './known/azure.ts'
import { entra } from './known/entra.ts'
import { postgres } from './known/postgres.ts'
import type { Circumstances, Known, Message, Origin, Outlook } from './message.ts'

/** The reason of a failure where its row names no other. */
const usualReason = { azure: 'azure', entra: 'credentials', postgres: 'database', ai: 'verification' } as const

const rowsFrom = (origin: Origin, rows: readonly Known[]) =>
  rows.map((row) => ({ ...row, origin, reason: row.reason ?? usualReason[origin] }))

/** The table of errors. Each code has a section in docs/troubleshooting.md. */
export const known = [
  ...rowsFrom('azure', azure),
  ...rowsFrom('entra', entra),
  ...rowsFrom('postgres', postgres),
  ...rowsFrom('ai', ai),
]
type Row = (typeof known)[number]

/** The values with their texts cut: all of them may be written by others, what a token claims as well. */
const withBoundedTexts = <T extends object>(values: T): T => JSON.parse(JSON.stringify(values, cutTexts)) as T

/** What the table knows of a bounded message; undefined when it does not know it. */
function lookUp({ origin, code, text }: Message): Row | undefined {
  return known.find(
    (row) =>
      row.origin === origin &&
      (row.codes === undefined || row.codes.includes(code)) &&
      (row.text === undefined || row.text.test(text)) &&
      (row.status === undefined || statusFits(row.status, text)),
  )
}

/** What the table knows of a failure that it explained, or of its finding. */
export function knownOf({ code }: { readonly code: string }): Row | undefined {
  return known.find((row) => row.code === code)
}

/** The status that azure_ai puts between the name of its function and the text of the service; a number elsewhere is none. */
function wrappedStatus(text: string): number | undefined {
  const status = /^(?:ERROR: {1,3})?azure_[a-z]{1,20}\.[a-z_]{1,60}: ([1-5]\d\d)\b/.exec(text)?.[1]
  return status === undefined ? undefined : Number(status)
}

/** The status that a text of azure_ai names, whatever its form: the first number that can be one. */
export function statusIn(received: string): number | undefined {
  const text = bounded(received)
  const named = wrappedStatus(text) ?? /\b[1-5]\d\d\b/.exec(text)?.[0]
  return named === undefined ? undefined : Number(named)
}

/** The first status in the text of azure_ai is its own: the text of the service comes after it. */
function statusFits(statuses: readonly number[], text: string): boolean {
  const named = statusIn(text)
  return named === undefined || statuses.includes(named)
}

/**
 * Turns a message of the outside into a failure a reader can act on. A message the table does not know is passed on
 * word for word, up to a bounded length, with its code and request id.
 */
export function explain(received: Message, circumstances: Circumstances, cause?: unknown): Failure {
  const message = withBoundedTexts(received)
  const at = withBoundedTexts(circumstances)
  const row = lookUp(message)
  const id = message.requestId === undefined ? '' : ` (request id ${bounded(message.requestId, longestName)})`
  if (row !== undefined) {
    const { reason, code, title, fix } = row
    const detail = (row.cause?.(message, at) ?? message.text) + id
    return new Failure({ reason, code, title, detail, fix: typeof fix === 'string' ? fix : fix(message, at) }, cause)
  }
  const { origin, status, text } = message
  const code = [status, bounded(message.code, longestName)].filter((part) => part !== undefined && part !== '').join(' ')
  return new Failure(
    {
      reason: usualReason[origin],
      code: `${origin}-error`,
      title: `Unexpected response while ${at.doing}`,
      detail: `${code === '' ? '' : `${code}: `}${text}${id}`,
      fix: 'The message above is the response of the service, word for word. Run again; if it stays, search for it or contact the support of the service with the request id.',
    },
    cause,
  )
}

/** Whether waiting can help after this answer of a test query. */
export function outlook(message: Message): Outlook {
  return lookUp(withBoundedTexts(message))?.outlook ?? 'unknown'
}
