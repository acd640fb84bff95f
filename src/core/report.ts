/** What a run came to: result, outputs and the JSON report, all derived from the journal; pure. */

import type { Failure, FailureReason, Finding } from '../errors/failure.ts'
import { bounded } from '../lib/bounded.ts'
import type { Inputs, Mode, Part } from './inputs.ts'
import type { InventoryRow } from './inventory.ts'
import type { InventoryResult } from './inventory-result.ts'
import type { Journal, QueryResult } from './journal.ts'
import { families, placeOfQuery, queriesOf, type ServiceName, serviceNamed } from './services.ts'
import { differs, type Step } from './steps.ts'
import { type StoredKeys, storedKeys } from './stored-keys.ts'
import type { QueryName } from './test-query.ts'

export type Result = 'in-sync' | 'changed' | 'drift' | 'failed'

/** A step as the JSON report has it. */
type JsonStep = Pick<Step, 'id' | 'kind' | 'target' | 'current' | 'desired' | 'status' | 'detail'>

/** A step with what it is about, for the summary; the JSON report leaves that out. */
export interface ReportStep extends JsonStep {
  readonly service?: ServiceName
  readonly database?: string
  /** It waits for another step. */
  readonly waits?: boolean
  /** Of the setting, or `extension`: what the step is called inside of its database. */
  readonly name?: string
}

const jsonStep = ({ id, kind, target, current, desired, status, detail }: JsonStep): JsonStep => {
  return { id, kind, target, current, desired, status, detail }
}

function reported(step: Step): ReportStep {
  const flat = { ...jsonStep(step), ...(step.waitsFor === undefined ? {} : { waits: true }) }
  if (step.kind === 'role') return { ...flat, service: step.service }
  if (step.kind === 'extension') return { ...flat, database: step.database, name: 'extension' }
  return step.kind === 'setting' ? { ...flat, database: step.database, name: step.setting } : flat
}

/** The report as its file has it. */
export function asJson({ inventory: _, rows, ...of }: Report): unknown {
  const queries = of.queries.map(({ name: _name, ...query }) => query)
  return { ...of, steps: of.steps.map(jsonStep), queries, ...(rows === undefined ? {} : { inventory: rows }) }
}

/** The JSON report, schema version 1. Never a secret in it. */
export interface Report {
  readonly schemaVersion: 1
  readonly mode: Mode | ''
  readonly part: Part | ''
  readonly result: Result
  readonly failureReason: FailureReason
  readonly changed: boolean
  readonly drift: boolean
  readonly verified: boolean
  readonly storedKeys: StoredKeys
  /** Whether the databases use the identity already: what differs then is drift. */
  readonly setUp: boolean
  /** Steps that differ, and those that wait for them. */
  readonly toDo: number
  readonly planId: string
  /** ISO 8601, UTC. */
  readonly startedAt: string
  readonly durationMs: number
  readonly server: { readonly id: string; readonly name: string; readonly host: string; readonly principalId: string }
  readonly steps: readonly ReportStep[]
  readonly queries: readonly QueryResult[]
  readonly findings: readonly Finding[]
  /** Only of an inventory. */
  readonly inventory?: InventoryResult
  /** Its rows, as many as the report file takes. */
  readonly rows?: readonly InventoryRow[]
}

/** Findings that say the same of different databases. */
export interface AlikeFindings {
  /** The first of them, word for word. */
  readonly finding: Finding
  /** The databases of the others, in order. */
  readonly others: readonly string[]
  /** The fixes of all. */
  readonly fixes: readonly string[]
}

interface Facts {
  readonly inputs: Inputs | undefined
  readonly journal: Journal
  /** What ended the run early. */
  readonly thrown: readonly Failure[]
  readonly startedAt: Date
  readonly durationMs: number
  readonly host: string
  readonly principalId: string
}

/** Derives the report. An error outranks drift, in a check drift outranks a failing query. */
export function report(facts: Facts): Report {
  const { inputs, journal } = facts
  const failures = ranked([...facts.thrown, ...journal.failures])
  const { inventory } = journal
  const drift = inputs === undefined || facts.thrown.length > 0 || journal.steps.some(differs) || inventory?.drift === true
  const [first] = failures
  // In a check the drift explains the query; in apply the query explains why the drift was not fixed.
  const failure = inputs?.mode === 'check' && first?.reason === 'verification' && drift ? undefined : first
  const good = journal.changed ? 'changed' : 'in-sync'
  const ended = drift ? 'drift' : good
  const result: Result = failure === undefined ? ended : 'failed'
  const severity = { error: 0, warning: 1, notice: 2 }
  const findings = [...unique(failures).map((each) => each.finding()), ...journal.findings].sort(
    (a, b) => severity[a.severity] - severity[b.severity],
  )
  return {
    schemaVersion: 1,
    mode: inputs?.mode ?? '',
    part: inputs?.part ?? '',
    result,
    failureReason: failure?.reason ?? (drift ? 'drift' : 'none'),
    changed: journal.changed,
    drift,
    verified: isVerified(inputs, journal, failures),
    storedKeys:
      inventory === undefined
        ? storedKeys(inputs, journal)
        : { before: inventory.counts.storedKeys, after: inventory.counts.storedKeys },
    setUp: isSetUp(journal.steps),
    toDo: journal.steps.filter((step) => differs(step) || step.waitsFor !== undefined).length,
    planId: journal.planId,
    startedAt: facts.startedAt.toISOString(),
    durationMs: Math.round(facts.durationMs),
    server: { id: inputs?.server.id ?? '', name: inputs?.server.name ?? '', host: facts.host, principalId: facts.principalId },
    steps: journal.steps.map(reported),
    queries: inOrderOf(journal),
    findings,
    ...(inventory === undefined ? {} : { inventory, rows: inventory.rows }),
  }
}

/** The queries by database, in the order of the run, then in the order of the services: they end in any order. */
function inOrderOf({ queries, databases }: Journal): readonly QueryResult[] {
  const places = new Map(databases.map((name, place) => [name, place]))
  const ofDatabase = ({ database }: QueryResult): number => places.get(database) ?? databases.length
  return [...queries].sort((a, b) => ofDatabase(a) - ofDatabase(b) || placeOfQuery(a) - placeOfQuery(b))
}

/** The failure that names the reason first: a cancel, a required restart, then errors, then the test queries. */
function ranked(failures: readonly Failure[]): Failure[] {
  const ranks: Partial<Record<FailureReason, number>> = { cancelled: 0, 'restart-required': 1, verification: 3 }
  const rank = ({ reason }: Failure): number => ranks[reason] ?? 2
  return [...failures].sort((a, b) => rank(a) - rank(b))
}

/** An auth_type that is in sync shows it; where no SQL runs, a role does. */
function isSetUp(steps: readonly Step[]): boolean {
  const authTypes: readonly string[] = Object.values(families).map(({ authType }) => authType)
  return steps.some(
    (step) =>
      step.status === 'in-sync' && (step.kind === 'role' || (step.kind === 'setting' && authTypes.includes(step.setting))),
  )
}

/** Every test query of every named service passed in every database, and no stored key can have answered instead. */
export function isVerified(inputs: Inputs | undefined, journal: Journal, failures: readonly Failure[]): boolean {
  if (inputs === undefined || failures.some((failure) => failure.reason !== 'verification')) return false
  const queries = inputs.services.flatMap(({ service }) => queriesOf(serviceNamed(service), inputs).map(({ name }) => name))
  const expected = journal.databases.flatMap((database) => queries.map((name) => ({ database, name })))
  const key = (database: string, name: QueryName): string => JSON.stringify([database, name])
  const passed = new Set(
    journal.queries
      .filter((query) => query.status === 'passed' && query.proof !== 'key-present')
      .map((query) => key(query.database, query.name)),
  )
  return expected.length > 0 && expected.every(({ database, name }) => passed.has(key(database, name)))
}

/** Failures that say the same thing are reported once. */
function unique(failures: readonly Failure[]): Failure[] {
  const first = new Map(failures.toReversed().map((failure) => [JSON.stringify([failure.code, failure.detail]), failure]))
  return [...failures].filter((failure) => first.get(JSON.stringify([failure.code, failure.detail])) === failure)
}

/** Most bytes of the report file. */
const reportLimit = 5_000_000
/** Longest text in a report that would be larger, in characters, tried in this order. */
const shorter = [1_024, 256]

/**
 * The report as it fits into its file: where it would be larger than 5 MB its longest texts are cut, and what still finds no
 * room is left out, the last items first. A finding says how much.
 */
export function fitted(of: Report): Report {
  const bytes = fileBytesOf(of)
  if (bytes <= reportLimit) return of
  let fit = of
  let size = bytes
  for (const limit of shorter) {
    if (size <= reportLimit) break
    fit = withTexts(of, limit)
    size = fileBytesOf(fit)
  }
  const { steps, queries, findings, rows } = fit
  // What one list leaves of its share, the next ones have.
  const some = size > reportLimit
  const first = some ? within(findings, reportLimit / 3) : { kept: findings, bytes: 0 }
  const second = some ? within(steps, (reportLimit - first.bytes) / 2) : { kept: steps, bytes: 0 }
  const inventoried =
    some && rows !== undefined ? within(rows, reportLimit - first.bytes - second.bytes) : { kept: rows, bytes: 0 }
  const third = some ? within(queries, reportLimit - first.bytes - second.bytes - inventoried.bytes) : { kept: queries, bytes: 0 }
  const cut: Finding = {
    severity: 'notice',
    code: 'report-cut',
    title: 'The report is cut to its limit',
    detail: `In full it has ${bytes} bytes. Its longest texts are cut, and ${steps.length - second.kept.length} steps, ${queries.length - third.kept.length} test queries and ${findings.length - first.kept.length} findings${rows === undefined ? '' : ` and ${rows.length - (inventoried.kept?.length ?? 0)} rows of the inventory`} are left out.`,
    fix: 'Run the action for fewer databases at a time to have all of it.',
  }
  const kept = inventoried.kept === undefined ? {} : { rows: inventoried.kept }
  return { ...fit, ...kept, steps: second.kept, queries: third.kept, findings: [...first.kept, cut] }
}

/** Bytes of a value as the file has it. */
const bytesOf = (value: unknown): number => Buffer.byteLength(JSON.stringify(value, null, 2))
const fileBytesOf = (of: Report): number => bytesOf(asJson(of))

/** The first items of a list that take no more than so many bytes in the file. */
function within<T>(list: readonly T[], limit: number): { readonly kept: readonly T[]; readonly bytes: number } {
  // Each line of an item is indented by four more blanks in the file, and an item has ten lines at most.
  const indent = 50
  let bytes = 0
  let count = 0
  for (const item of list) {
    const more = bytesOf(item) + indent
    if (bytes + more > limit) break
    bytes += more
    count++
  }
  return { kept: list.slice(0, count), bytes }
}

/** The report with every text of its lists cut. */
export function withTexts(of: Report, limit: number): Report {
  const cut = <T extends object>(item: T): T =>
    Object.fromEntries(
      Object.entries(item).map(([name, value]) => [name, typeof value === 'string' ? bounded(value, limit) : value]),
    ) as T
  return {
    ...of,
    steps: of.steps.map(cut),
    queries: of.queries.map(cut),
    findings: of.findings.map(cut),
    ...(of.rows === undefined ? {} : { rows: of.rows.map(cut) }),
  }
}

/** Whether the step goes red. */
export function fails(of: Report, failOnDrift: boolean): boolean {
  return of.result === 'failed' || (of.result === 'drift' && failOnDrift)
}
