/**
 * A report as Markdown for GitHub issues and comments; pure. Every value from outside is inside `<code>`:
 * GitHub looks for mentions and references in the rendered text, where an escaped `@` is an `@` again, but not in code.
 */
import { createHash } from 'node:crypto'
import { type Coverage, isSame, type Mark, markOf, markPattern, markText, readMark, serverHash } from '../core/coverage.ts'
import type { Report, ReportStep } from '../core/report.ts'
import { differs, isWritten } from '../core/steps.ts'
import type { Finding } from '../errors/failure.ts'
import { keysPhrase, standing, toDoPhrase } from './headline.ts'
import { addressOf, findingsPart, link, listOf, rows, shownNames, tables, type Writing } from './issue-tables.ts'
import { code, count } from './markdown.ts'

/** What an issue's body remembers of the drift it shows. */
export interface DriftState {
  /** What the runs that keep this issue cover. */
  readonly mark: Mark
  /** Hashes of the ids of the differing steps, sorted. */
  readonly steps: readonly string[]
}

/** The steps of a report, sorted by what they mean for an issue. */
export interface Drift {
  readonly differing: readonly ReportStep[]
  /** Differed when the issue was last written, and this run did not look (another `part`, or waiting for another step). */
  readonly unseen: readonly ReportStep[]
  readonly rest: readonly ReportStep[]
}

interface IssueText {
  readonly title: string
  readonly body: string
  readonly state: DriftState
}

/** GitHub takes 65,536 characters; a little is left for what an edit by hand adds. */
const limit = 65_000
/** Longest body that is read, in characters: GitHub's own limit, and room for line ends, which it may convert. */
const longestBody = 80_000
/** Most steps an issue's body remembers; eleven characters each. */
const remembered = 2_000
/** Most that a list of names in a comment takes, in characters. */
const commentNames = 10_000
const product = 'azure-ai-postgres-identity'

const stepHash = ({ id }: ReportStep): string => createHash('sha256').update(id).digest('hex').slice(0, 10)

/** The beginning of the hidden comment by which an issue of a server is found; the id cannot be read back from it. */
export function driftMarker(serverId: string): string {
  return `<!-- ${product} drift ${serverHash(serverId)}`
}

/** The beginning of the hidden comment by which a pull request's comment for a server is found. */
export function planMarker(serverId: string): string {
  return `<!-- ${product} plan ${serverHash(serverId)}`
}

/**
 * How a body of this action begins. Other workflows write as the same author, and may quote texts of strangers, who know the
 * hidden comment from its source: one in the middle of a body is theirs. An issue may have been edited at one end, not at both.
 */
const ownBeginning =
  /^<code>[^\n]{1,1000}<\/code> (?:(?:has drifted from|is in sync with) its workflow|has drifted: |is not set up yet: )/

/**
 * What an issue's body remembers; undefined when that cannot be read. Everyone who may edit the issue can have written it, so
 * it is used only to know which of the report's own steps differed before.
 */
export function driftState(body: string, serverId: string): DriftState | undefined {
  const pattern = new RegExp(`${driftMarker(serverId)} (${markPattern}) differs=([0-9a-f.]{0,${11 * remembered}}) -->`, 'g')
  // The last one is ours, should another text quote one above it.
  const found = [...body.slice(-longestBody).matchAll(pattern)].at(-1)
  const mark = readMark(found?.[1] ?? '')
  if (found === undefined || mark === undefined) return undefined
  if (!body.trimEnd().endsWith(found[0]) && !ownBeginning.test(body)) return undefined
  return { mark, steps: (found[2] ?? '').split('.').filter((each) => /^[0-9a-f]{10}$/.test(each)) }
}

/** What the run that wrote a pull request's comment covers; undefined when that cannot be read. */
export function planMark(body: string, serverId: string): Mark | undefined {
  const pattern = new RegExp(`${planMarker(serverId)} (${markPattern}) -->`, 'g')
  const found = [...body.slice(-longestBody).matchAll(pattern)].at(-1)
  if (found === undefined || !body.trimEnd().endsWith(found[0]) || !body.startsWith('### <code>')) return undefined
  return readMark(found[1] ?? '')
}

/** Sorts a report's steps; `before` are the hashes of those that differed when the open issues were last written. */
export function driftOf(report: Report, before: readonly string[]): Drift {
  const known = new Set(before)
  const unseen = (step: ReportStep): boolean => step.status === 'skipped' && known.has(stepHash(step))
  return {
    differing: report.steps.filter(differs),
    unseen: report.steps.filter(unseen),
    rest: report.steps.filter((step) => !differs(step) && !unseen(step)),
  }
}

/** The issue while something differs. At most 65,000 characters. */
export function driftIssue(report: Report, coverage: Coverage, drift: Drift, writing: Writing): IssueText {
  const differing = [...rows(drift.differing, writing), ...rows(drift.unseen, writing, 'differed, not looked at since')]
  const rest = rows(drift.rest, writing)
  const waits = drift.rest.filter((step) => step.waits === true).length
  const toDo = toDoPhrase(report, drift.differing.length + drift.unseen.length + waits)
  const keys = keysPhrase(report)
  const head = `${code(report.server.name)} ${toDo}${keys === '' ? '' : `, ${keys}`}.\n\n`
  const state: DriftState = {
    mark: markOf(coverage),
    steps: [...drift.differing, ...drift.unseen].map(stepHash).sort().slice(0, remembered),
  }
  // A replica has an identity and a restart of its own.
  const replica = drift.differing.some((step) => step.kind === 'replica')
    ? ', a read replica one that names it as <code>server</code>'
    : ''
  const tail = `\n\n${findingsPart(report.findings, writing)}Seen by ${link(writing, 'this run')}; a run with ${code('mode: apply')} fixes it${replica}.\n${explanation(coveredNames(coverage))}\n\n${mark(report, state)}\n`
  const body = head + tables(differing, rest, drift.rest.length, limit - head.length - tail.length) + tail
  return { title: title(report, coverage), body, state }
}

/** The body of the issue when nothing differs any more. `of` is what that issue covers: no more than the run that looked. */
export function driftGone(report: Report, of: Mark, coverage: Coverage, writing: Writing): string {
  // The names behind the marks of another run's issue are not known.
  const about = isSame(of, markOf(coverage)) ? coveredNames(coverage) : covered(of, [])
  return `${code(report.server.name)} is in sync with its workflow again. Seen by ${link(writing, 'this run')}.\n${explanation(about)}\n\n${mark(report, { mark: of, steps: [] })}\n`
}

const explanation = (about: string): string =>
  `<sub>This issue covers ${about}. The action keeps it: edits it when the drift changes, closes it when the drift is gone, opens it again when the drift returns.</sub>`

/** Most names of databases in a title. */
const titled = 3

function title(report: Report, coverage: Coverage): string {
  // A name with a sign that could be a mention, a reference or markup in a title is counted only.
  const isPlain = (name: string): boolean => /^[\p{L}\p{N}_][\p{L}\p{N}_. -]*$/u.test(name) && name.length <= 63
  const shown = coverage.databases === '*' ? [] : sorted(coverage.databases).filter(isPlain).slice(0, titled)
  const server = report.server.name.replaceAll(/[^\w.-]/g, '').slice(0, 63)
  const services = coverage.services.length > 0 ? ` (${sorted(coverage.services).join(', ')})` : ''
  const state = report.setUp ? 'has drifted' : 'is not set up yet'
  return `${server} ${state}: ${scopeOf(coverage.part, databasesIn(coverage.databases, shown))}${services}`
}

/** What a run covers in words, for a body. */
function coveredNames(coverage: Coverage): string {
  const { databases } = coverage
  return covered(coverage, databases === '*' ? [] : shownNames(sorted(databases)))
}

function covered({ part, databases, services }: Coverage | Mark, shown: readonly string[]): string {
  const forServices = services.length > 0 ? `, for ${sorted(services).map(code).join(', ')}` : ''
  return scopeOf(part, databasesIn(databases, shown)) + forServices
}

function scopeOf(part: Coverage['part'], databases: string): string {
  if (part === 'azure') return 'identity, roles and allow-list'
  return part === 'database' ? `settings in ${databases}` : databases
}

function databasesIn(all: readonly string[] | '*', shown: readonly string[]): string {
  if (all === '*') return 'all databases'
  const total = new Set(all).size
  if (shown.length === 0) return count(total, 'database')
  const more = total > shown.length ? ` and ${total - shown.length} more` : ''
  return `database${total === 1 ? '' : 's'} ${shown.join(', ')}${more}`
}

const sorted = <T extends string>(names: readonly T[]): T[] => [...new Set(names)].sort()

function mark(report: Report, state: DriftState): string {
  return `${driftMarker(report.server.id)} ${markText(state.mark)} differs=${state.steps.join('.')} -->`
}

/** A text as GitHub keeps it: it may convert line ends and cut blanks at the ends. */
export const asKept = (text: string): string => text.replaceAll('\r\n', '\n').trim()

/** Whether readers see the same: everything but the number of the run that a link leads to. */
export function readsSame(a: string, b: string, writing: Writing): boolean {
  const before = /^(.*\/)\d+$/.exec(addressOf(writing) ?? '')?.[1]
  const even = (text: string): string => {
    if (before === undefined) return asKept(text)
    const [first, ...others] = asKept(text).split(`[this run](${before}`)
    return [first, ...others.map((each) => each.replace(/^\d{1,20}\)/, '0)'))].join(`[this run](${before}`)
  }
  return even(a) === even(b)
}

/** The comment when another set of steps differs. */
export function changedComment(drift: Drift, before: Pick<DriftState, 'steps'>, writing: Writing): string {
  const known = new Set(before.steps)
  const now = [...drift.differing, ...drift.unseen]
  const still = new Set(now.map(stepHash))
  const fresh = now.filter((step) => !known.has(stepHash(step)))
  const inSyncAgain = drift.rest.filter((step) => known.has(stepHash(step)))
  const vanished = before.steps.filter((each) => !still.has(each)).length - inSyncAgain.length
  const lines = [`The drift changed, seen by ${link(writing, 'this run')}.`]
  if (fresh.length > 0) lines.push(`- Differs now: ${names(fresh)}`)
  if (inSyncAgain.length > 0) lines.push(`- In sync again: ${names(inSyncAgain)}`)
  if (vanished > 0) lines.push(`- No longer part of it: ${count(vanished, 'step')}`)
  return [lines[0], '', ...lines.slice(1)].join('\n')
}

/** The comment when a closed issue is opened again. */
export function returnedComment(drift: Drift, writing: Writing): string {
  return `The server differs again, seen by ${link(writing, 'this run')}.\n\n- Differs now: ${names(drift.differing)}`
}

/** The comment when nothing differs any more. */
export function goneComment(report: Report, writing: Writing): string {
  const run = link(writing, 'this run')
  return report.result === 'changed' ? `Fixed by ${run}: nothing differs any more.` : `Nothing differs any more, seen by ${run}.`
}

/** Whether an issue that remembers this shows every step that differs now. */
export function showsAll(state: DriftState, drift: Drift): boolean {
  const known = new Set(state.steps)
  return drift.differing.every((step) => known.has(stepHash(step)))
}

function names(steps: readonly ReportStep[]): string {
  return listOf(
    steps.map(({ id }) => id),
    commentNames,
  )
}

/** The comment of a pull request: what would change, or changed. At most 65,000 characters. */
export function planComment(report: Report, coverage: Coverage, writing: Writing): string {
  const loud = report.steps.filter((step) => differs(step) || isWritten(step))
  const rest = report.steps.filter((step) => !loud.includes(step))
  const came = report.result === 'failed' ? `: the run failed (${code(report.failureReason)})` : standing(report)
  const head = `### ${code(report.server.name)}${came}\n\nThis covers ${coveredNames(coverage)}.\n\n`
  const passed = report.queries.filter((query) => query.status === 'passed').length
  const facts = [
    report.planId === '' ? '' : `- plan-id: ${code(report.planId)}`,
    report.queries.length === 0 ? '' : `- test queries: ${passed} of ${report.queries.length} passed`,
    report.findings.length === 0 ? '' : `- findings: ${tally(report.findings)}`,
    `- ${link(writing, 'the run')}`,
  ].filter((each) => each !== '')
  const tail = `\n\n${findingsPart(report.findings, writing)}${facts.join('\n')}\n\n${planMarker(report.server.id)} ${markText(markOf(coverage))} -->\n`
  return head + tables(rows(loud, writing), rows(rest, writing), rest.length, limit - head.length - tail.length) + tail
}

function tally(findings: readonly Finding[]): string {
  return (['error', 'warning', 'notice'] as const)
    .map((severity) => [findings.filter((finding) => finding.severity === severity).length, severity] as const)
    .filter(([number]) => number > 0)
    .map(([number, severity]) => count(number, severity))
    .join(', ')
}
