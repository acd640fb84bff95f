/** Findings of a run, by code. */
import type { JobResult } from '../../emulator/runner.ts'

export interface Finding {
  readonly severity: string
  readonly code: string
  readonly title: string
  readonly detail: string
  readonly fix: string
}

/** All findings with this code; empty when there is none. */
export function findingsWith(result: JobResult, code: string): Finding[] {
  return findingsOf(result).filter((each) => each.code === code)
}

/** The first finding with this code. Throws with all codes and the log when there is none. */
export function findingWith(result: JobResult, code: string): Finding {
  const [found] = findingsWith(result, code)
  if (found !== undefined) return found
  const codes = findingsOf(result).map((each) => each.code)
  throw new Error(`${code} is not among ${codes.join(', ')}\n${result.log}`)
}

/** All findings with the severity error. */
export function errorsOf(result: JobResult): Finding[] {
  return findingsOf(result).filter(({ severity }) => severity === 'error')
}

const findingsOf = (result: JobResult): Finding[] => (result.report?.findings ?? []) as Finding[]
