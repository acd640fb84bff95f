/** What the action knows of a message of the outside, and a row of what is known about such messages. */
import type { FailureFacts } from './failure.ts'

/** Who said it. */
export type Origin = 'azure' | 'entra' | 'postgres' | 'ai'

/** What the sender of a request knows of it, for the texts of causes and fixes. */
export interface Circumstances {
  /** What was being done, as the end of a sentence: `reading the server`. */
  doing: string
  server?: string | undefined
  resourceGroup?: string | undefined
  database?: string | undefined
  user?: string | undefined
  host?: string | undefined
  port?: number | undefined
  resource?: string | undefined
  deployment?: string | undefined
  /** `verify-timeout-minutes` of the run. */
  readonly verifyMinutes?: number | undefined
  clientId?: string | undefined
  /** Whether `allow-restart` is set, so that no fix asks for it. */
  mayRestart?: boolean | undefined
  /** What the workflow's OIDC token claims. */
  assertion?: { readonly issuer: string; readonly subject: string; readonly audience: string } | undefined
  /** Whether the query is to be answered by key, not by identity. */
  byKey?: boolean | undefined
  /** Whether the job has a proxy, which PostgreSQL does not go through. */
  behindProxy?: boolean | undefined
}

/**
 * How a test query's failure bears on waiting: it may still be propagation, the caller is let in but throttled, the server
 * has no token yet, waiting cannot help, nobody knows; or the refusal itself proves that access is granted, or says that the
 * service has retired the function.
 */
export type Outlook = 'propagating' | 'throttled' | 'no-token' | 'final' | 'unknown' | 'proves-access' | 'retired'

/** A message of the outside, reduced to what the table looks at. */
export interface Message {
  origin: Origin
  /** Azure error code, AADSTS number, SQLSTATE or errno; empty when there is none. */
  code: string
  status?: number | undefined
  text: string
  /** Correlation or request id. */
  requestId?: string | undefined
}

export interface Known {
  origin: Origin
  /** Exact code, or */
  codes?: readonly string[]
  /** a pattern that the text holds. Both: both must hold. */
  text?: RegExp
  /** The answer's status. That of an AI service is looked for in the text, and a text that names none fits. */
  status?: readonly number[]
  /** A status in azure_ai's own wrapper (`SCHEMA.FUNCTION: STATUS: text`) that decides alone, whatever the text says. */
  wrapped?: number
  reason: FailureFacts['reason']
  code: string
  title: string
  outlook?: Outlook
  cause: (message: Message, at: Circumstances) => string
  fix: (message: Message, at: Circumstances) => string
}
