/** What is the same in many databases is reported once, with their names: a summary of hundreds of them stays readable. Pure. */
import type { AlikeFindings, Report } from '../core/report.ts'
import { knownOf } from '../errors/explain.ts'
import type { Finding } from '../errors/failure.ts'
import { firstOf } from '../lib/bounded.ts'

/** In what is alike otherwise: ids of requests and principals, and points in time. */
const passing = /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b\d{4}-\d\d-\d\dT[\d:.]+Z?/gi

/** The text with the database's own name left out. */
export function withoutName(text: string, database: string): string {
  return database === '' ? text : text.replaceAll(`"${database}"`, '"…"').replaceAll(`waits for ${database}/`, 'waits for ')
}

/** What two texts about two databases have in common when they say the same. */
export function likeness(text: string, database: string): string {
  return withoutName(text, database).replaceAll(passing, '·')
}

/** The items by their key, in the order of their first. */
export function grouped<T>(items: readonly T[], keyOf: (item: T) => string): readonly (readonly [T, ...T[]])[] {
  const groups = new Map<string, [T, ...T[]]>()
  for (const item of items) {
    const key = keyOf(item)
    const group = groups.get(key)
    if (group === undefined) groups.set(key, [item])
    else group.push(item)
  }
  return [...groups.values()]
}

/** Items that are alike are shown as one when they are more than this. */
export const listed = 3

/** As {@link grouped}, but items that are alike with few others stay apart. */
export function groupedWhereMany<T>(items: readonly T[], keyOf: (item: T) => string): readonly (readonly [T, ...T[]])[] {
  return grouped(items, keyOf).flatMap((group) => (group.length > listed ? [group] : group.map((each) => [each] as const)))
}

/** Findings in their order, those that differ in nothing but the name of a database as one. */
export function alikeFindings(findings: readonly Finding[], databases: readonly string[]): readonly AlikeFindings[] {
  const known = new Set(databases)
  const located = findings.map((finding) => ({ finding, database: databaseIn(finding.detail, known) }))
  const groups = grouped(located, ({ finding, database }) => {
    const { severity, code, title, detail, fix } = finding
    // Outside of databases an id may be all in which two findings differ, and then it is what matters.
    if (database === '') return JSON.stringify([severity, code, title, detail, fix])
    return JSON.stringify([severity, code, title, likeness(detail, database), likeness(fix, database)])
  })
  return groups.map((group) => {
    const [{ finding }, ...others] = group
    return { finding, others: others.map(({ database }) => database), fixes: group.map(({ finding: { fix } }) => fix) }
  })
}

/** Most places of one cause that are shown. */
export const mostPlaces = 20

/**
 * Each cause as one finding: the same error of several databases, and the same refusal by several services, is reported once,
 * with what was met where. Warnings and notices are about what they name, so each of them stays.
 */
export function onePerCause(findings: readonly Finding[], databases: readonly string[]): readonly Finding[] {
  const errors = alikeFindings(
    findings.filter(({ severity }) => severity === 'error'),
    databases,
  )
  // Any other code may be about different things: functions that others planted, or rights that are missing.
  const cause = (finding: Finding): string =>
    finding.code === 'ai-error' || knownOf(finding)?.origin === 'ai'
      ? JSON.stringify([finding.code, finding.title])
      : JSON.stringify(finding)
  const causes = grouped(errors, ({ finding }) => cause(finding)).map((group): Finding => {
    const lines = group.slice(0, mostPlaces).map(({ finding, others }) => {
      const same = others.length === 0 ? '' : `\nThe same in ${firstOf(others.map((name) => `"${name}"`))}.`
      return `${finding.detail}${same}`
    })
    const left = group.length - lines.length
    return {
      ...group[0].finding,
      detail: [...lines, ...(left > 0 ? [`and ${left} more`] : [])].join('\n'),
      fix: joinedFixes(group.flatMap(({ fixes }) => fixes)),
    }
  })
  return [...causes, ...findings.filter(({ severity }) => severity !== 'error')]
}

/** The words of a fix, and the command that they introduce; either may be empty. */
export function partsOfFix(fix: string): { readonly words: string; readonly command: string } {
  const [, words = '', command = ''] =
    /^(.*?)((?:(?<=^|[:;] )(?:az|curl|nslookup|SELECT|GRANT|ALTER|CREATE|CALL|SET) .*)?)$/s.exec(fix) ?? []
  return { words, command }
}

/** The fixes of one cause, each once; words that all of them have are said once, before their commands. */
export function joinedFixes(fixes: readonly string[]): string {
  const distinct = [...new Set(fixes.slice(0, mostPlaces).filter((each) => each !== ''))]
  const parts = distinct.map(partsOfFix)
  const [first] = parts
  return first !== undefined && first.command !== '' && parts.every(({ words }) => words === first.words)
    ? `${first.words}${parts.map(({ command }) => command).join('\n')}`
    : distinct.join('\n')
}

/** The databases that a report speaks of. */
export function databasesOf({ steps, queries }: Pick<Report, 'steps' | 'queries'>): readonly string[] {
  return [...new Set([...steps.filter(inDatabase).map((step) => step.target), ...queries.map((query) => query.database)])]
}

export const inDatabase = ({ kind }: Pick<Report['steps'][number], 'kind'>): boolean => kind === 'setting' || kind === 'extension'

/** The first database that a text names in quotes; empty when it names none. */
function databaseIn(text: string, databases: ReadonlySet<string>): string {
  for (const [, name = ''] of text.matchAll(/"([^"\n]+)"/g)) if (databases.has(name)) return name
  // A name may contain quotes itself.
  for (const name of databases) if (text.includes(`"${name}"`)) return name
  return ''
}
