/** Failures that are expected: each has a reason, a cause that a reader understands, and a fix. */
import { describe } from '../lib/bounded.ts'
import type { ErrorCode, FindingCode, KnownCode } from './codes.ts'

/** The values of the output `failure-reason`. */
export type FailureReason =
  | 'none'
  | 'input'
  | 'credentials'
  | 'permission'
  | 'network'
  | 'azure'
  | 'database'
  | 'restart-required'
  | 'verification'
  | 'drift'
  | 'cancelled'
  | 'internal'

/** One thing that is wrong or worth knowing, as report, annotations and summary show it. */
export interface Finding {
  severity: 'error' | 'warning' | 'notice'
  code: FindingCode | KnownCode | ErrorCode
  title: string
  detail: string
  /** The next command or click, complete enough to paste; empty when there is nothing to do. */
  fix: string
}

/** What is known of a failure. */
export interface FailureFacts extends Omit<Finding, 'severity' | 'code'> {
  reason: Exclude<FailureReason, 'none'>
  /** A key that is a word is an error where the extension sends it, and a warning where it does not. */
  code: KnownCode | ErrorCode | 'key-is-a-word'
}

/** An expected failure: it has a reason, a cause a reader understands and a fix. */
export class Failure extends Error {
  readonly reason: Exclude<FailureReason, 'none'>
  readonly code: FailureFacts['code']
  readonly title: string
  readonly detail: string
  readonly fix: string

  constructor(facts: FailureFacts, cause?: unknown) {
    super(`${facts.title}: ${facts.detail}`, cause === undefined ? undefined : { cause })
    this.name = 'Failure'
    this.reason = facts.reason
    this.code = facts.code
    this.title = facts.title
    this.detail = facts.detail
    this.fix = facts.fix
  }

  finding(): Finding {
    return { severity: 'error', code: this.code, title: this.title, detail: this.detail, fix: this.fix }
  }
}

/** Several failures found together; the first gives the reason. */
export class Failures extends Error {
  readonly failures: readonly Failure[]

  constructor(failures: readonly Failure[]) {
    super(failures.map((failure) => failure.message).join('\n'))
    this.name = 'Failures'
    this.failures = failures
  }
}

/** Any thrown value as failures: expected ones as they are, others as `internal`. */
export function failuresOf(error: unknown): readonly Failure[] {
  if (error instanceof Failures) return error.failures
  if (error instanceof Failure) return [error]
  return [
    new Failure(
      {
        reason: 'internal',
        code: 'internal',
        title: 'The action failed in a way it did not expect',
        detail: describe(error),
        fix: 'Run the job again with debug logging (Re-run jobs > Enable debug logging) and open an issue with the log and the report.',
      },
      error,
    ),
  ]
}
