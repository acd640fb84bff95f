/** The result of a run in one line, in the same words for summary, issue and comment. Pure. */
import type { Report } from '../core/report.ts'
import { isWritten } from '../core/steps.ts'
import { count } from './markdown.ts'

/** Whether every test query passed, and none of them with a key in reach. */
export function isKeyless(report: Report): boolean {
  return report.verified && report.queries.length > 0 && report.queries.every((query) => query.proof === 'keyless')
}

/** What is left to do, after the name of the server: a server that was never set up has not drifted. */
export function toDoPhrase({ setUp, steps }: Pick<Report, 'setUp' | 'steps'>, toDo: number): string {
  return setUp ? `has drifted: ${toDo} of ${count(steps.length, 'step')}` : `is not set up yet: ${count(toDo, 'step')} to do`
}

/** The result of a run that did not fail, after the name of the server. */
export function standing(report: Report): string {
  const facts = [queriesPhrase(report), keysPhrase(report)].filter((each) => each !== '').join(', ')
  const done = report.steps.filter(isWritten).length
  if (report.result === 'drift') return ` ${toDoPhrase(report, report.toDo)}, ${facts}`
  if (report.result === 'in-sync') return report.mode === 'verify' ? `: ${facts}` : ` is in sync: nothing to do, ${facts}`
  const needsNone = isKeyless(report) && report.storedKeys.after === 0
  return ` ${needsNone ? 'needs no secrets now' : 'is set up'}: ${count(done, 'step')} done, ${facts}`
}

function queriesPhrase({ queries, verified }: Report): string {
  const passed = queries.filter((query) => query.status === 'passed').length
  if (queries.every(({ status }) => status === 'skipped')) return 'no test query ran'
  if (queries.length === 1 && passed === 1) return `the test query ${verified ? 'is verified' : 'passed'}`
  if (verified) return `all ${queries.length} test queries verified`
  return passed === queries.length ? `all ${passed} test queries passed` : `${passed} of ${queries.length} test queries passed`
}

/** Keys of the named services; empty on the rollback to keys, where stored keys are wanted. */
export function keysPhrase({ storedKeys: { before, after }, queries }: Pick<Report, 'storedKeys' | 'queries'>): string {
  if (before === null || after === null || queries.some(({ proof }) => proof === 'key')) return ''
  const removed = before > after ? [`${count(before - after, 'key')} removed`] : []
  const stored = after > 0 ? [`${count(after, 'key')} still stored`] : []
  return [...removed, ...stored].join(', ') || 'no key is stored'
}
