/** Values of answers that cannot be right. */
import { bounded, longestName } from '../lib/bounded.ts'
import { Failure } from './failure.ts'

/** A value of an answer that cannot be used: of another type, or with characters that it cannot have. */
export function malformed(what: string, value: unknown): Failure {
  return new Failure({
    reason: 'azure',
    code: 'answer-malformed',
    title: 'An answer of Azure has a value that cannot be right',
    detail: `${what} is ${shownValue(value)}. Nothing was done with it.`,
    fix: 'Run the job again. If it stays, look at the same resource with az: something between the runner and Azure may rewrite answers.',
  })
}

/** A value in a message: the beginning of a text, else its type. */
export const shownValue = (value: unknown): string =>
  typeof value === 'string' ? JSON.stringify(bounded(value, longestName)) : `a value of type ${typeof value}`
