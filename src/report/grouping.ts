/** What is the same in many databases is reported once, with their names: a summary of hundreds of them stays readable. Pure. */
import type { AlikeFindings } from '../core/report.ts'
import type { Finding } from '../errors/failure.ts'

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
  return groups.map(([{ finding }, ...others]) => ({ finding, others: others.map(({ database }) => database) }))
}

/** The first database that a text names in quotes; empty when it names none. */
function databaseIn(text: string, databases: ReadonlySet<string>): string {
  for (const [, name = ''] of text.matchAll(/"([^"\n]+)"/g)) if (databases.has(name)) return name
  // A name may contain quotes itself.
  for (const name of databases) if (text.includes(`"${name}"`)) return name
  return ''
}
