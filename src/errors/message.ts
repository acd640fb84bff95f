/** A message of the outside, and a row of the table of what is known about messages. */
import type { KnownCode } from './codes.ts'
import type { FailureFacts } from './failure.ts'

/** Who sent it. */
export type Origin = 'azure' | 'entra' | 'postgres' | 'ai'

/** The inputs that fixes advise to set. */
export type AdvisedInput = 'allow-restart' | 'clear-keys' | 'database-host' | 'temporary-firewall-rule' | 'update-extension'

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
  /** `verify-timeout-minutes` of the run; undefined where it does not wait. */
  readonly verifyMinutes?: number | undefined
  clientId?: string | undefined
  /** Whether each of these inputs is set: no fix advises one that is. */
  readonly isSet?: Readonly<Record<AdvisedInput, boolean>> | undefined
  /** What the workflow's OIDC token claims. */
  assertion?: { readonly issuer: string; readonly subject: string; readonly audience: string } | undefined
  /** Whether the query is to be answered by key, not by identity. */
  byKey?: boolean | undefined
  /** The setting that holds the key of the queried service. */
  keySetting?: string | undefined
  /** Whether the job has a proxy, which PostgreSQL does not go through. */
  behindProxy?: boolean | undefined
}

/**
 * What the failure of a test query says about waiting. `propagating`: the role may not have reached the service yet.
 * `throttled`: the service accepts the caller and has no capacity. `no-token`: the server has no token yet. `final`: waiting
 * cannot help. `proves-access`: the refusal itself shows that access is granted. `retired`: the service has retired the function.
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

type Text = (message: Message, at: Circumstances) => string

/** A row of the table: how a message is recognised, and everything that is known of it. */
export interface Known {
  /** Exact code, or */
  codes?: readonly string[]
  /** a pattern that the text contains. Where a row has both, both must fit. */
  text?: RegExp
  /** The status of an AI service, which is looked for in the text; a text that names none fits. */
  status?: readonly number[]
  /** Where absent, that of the origin. */
  reason?: FailureFacts['reason']
  code: KnownCode
  title: string
  outlook?: Outlook
  /** Whether an AI service answers so only to a request with a token. */
  provesToken?: boolean
  /** Whether it is about the server, its identity or the service, so that every database meets it alike. */
  meetsEveryDatabase?: boolean
  /** Whether a stored key was sent and is what the service refuses. */
  blamesKey?: boolean
  /** Whether Resource Manager refuses a write this way before it changes anything. A missing permission does so always. */
  refusesWrite?: boolean
  /** Where absent, the text of the message. */
  cause?: Text
  fix: string | Text
}
