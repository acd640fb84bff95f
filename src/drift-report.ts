/**
 * What GitHub issues and comments say of a report, as Markdown; pure. Every value from outside stands inside `<code>`:
 * GitHub looks for mentions and references in the rendered text, where an escaped `@` is an `@` again, but not in code.
 */
import { createHash } from 'node:crypto'
import { grouped, likeness, withoutName } from './alike.ts'
import type { Finding } from './errors.ts'
import { differs } from './plan.ts'
import type { Report } from './report.ts'
import { families, services } from './services.ts'
import { code } from './summary.ts'

type ReportStep = Report['steps'][number]

/** How a text is written, beside what it says. */
export interface Writing {
  /** Names only: strangers may read it. No ids, no values, nothing that a server said. */
  readonly namesOnly: boolean
  /** Page of the workflow run; left out when it is not an http(s) address. */
  readonly runUrl: string
}

/** What an issue's body remembers of the drift it shows. */
export interface DriftState {
  /** Changes with everything the body shows but the run's link. */
  readonly fingerprint: string
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

export interface IssueText {
  readonly title: string
  readonly body: string
  readonly state: DriftState
}

/** GitHub takes 65,536 characters; a little is left for what an edit by hand adds. */
const limit = 65_000
/** Longest value in a cell, in characters; an escaped character takes up to six. */
const longest = 200
/** Most steps an issue's body remembers; eleven characters each. */
const remembered = 2_000
/** Most names in a comment. */
const named = 30
const product = 'azure-ai-postgres-identity'

const hash = (text: string, digits: number): string => createHash('sha256').update(text).digest('hex').slice(0, digits)
const count = (number: number, noun: string): string => `${number} ${noun}${number === 1 ? '' : 's'}`
const serverHash = (serverId: string): string => hash(serverId.toLowerCase().replace(/\/+$/, ''), 32)
const stepHash = (step: ReportStep): string => hash(step.id, 10)

/** The beginning of the hidden comment by which the issue of a server is found; holds no id that could be read back. */
export function driftMarker(serverId: string): string {
  return `<!-- ${product} drift ${serverHash(serverId)}`
}

/** The hidden comment by which a pull request's comment for a server is found. */
export function planMarker(serverId: string): string {
  return `<!-- ${product} plan ${serverHash(serverId)} -->`
}

/** What an issue's body remembers; undefined when it remembers nothing that can be read. */
export function driftState(body: string, serverId: string): DriftState | undefined {
  // The last one is ours, should somebody have quoted another above it.
  const found = [...body.matchAll(new RegExp(`${driftMarker(serverId)} ([0-9a-f]{16}) ([0-9a-f.]*) -->`, 'g'))].at(-1)
  if (found === undefined) return undefined
  return { fingerprint: found[1] ?? '', steps: (found[2] ?? '').split('.').filter((each) => each !== '') }
}

/** Sorts a report's steps; `before` is what the open issue remembers. */
export function driftOf(report: Report, before: DriftState | undefined): Drift {
  const known = new Set(before?.steps)
  const unseen = (step: ReportStep): boolean => step.status === 'skipped' && known.has(stepHash(step))
  return {
    differing: report.steps.filter(differs),
    unseen: report.steps.filter(unseen),
    rest: report.steps.filter((step) => !differs(step) && !unseen(step)),
  }
}

/** The issue while something differs. At most 65,000 characters. */
export function driftIssue(report: Report, drift: Drift, writing: Writing): IssueText {
  const differing = [...rows(drift.differing, writing), ...rows(drift.unseen, writing, 'differed, not looked at since')]
  const rest = rows(drift.rest, writing)
  const findings = findingsPart(report.findings, writing)
  const total = report.steps.length
  const head = [
    `The server ${code(report.server.name)} is not as its workflow asks: ${drift.differing.length + drift.unseen.length} of ${count(total, 'step')} differ.`,
    '',
    '',
  ].join('\n')
  const state: DriftState = {
    fingerprint: hash([head, ...differing, '', ...rest, findings].join('\n'), 16),
    steps: [...drift.differing, ...drift.unseen].map(stepHash).sort().slice(0, remembered),
  }
  // A replica has an identity and a restart of its own.
  const replica = drift.differing.some((step) => step.kind === 'replica')
    ? ', a read replica one that names it as <code>server</code>'
    : ''
  const tail = `\n\n${findings}Seen by ${link(writing, 'this run')}; a run with ${code('mode: apply')} mends it${replica}.\n${explanation}\n\n${mark(report, state)}\n`
  const body = head + tables(differing, rest, drift.rest.length, limit - head.length - tail.length) + tail
  return { title: title(report), body, state }
}

/** The issue when nothing differs any more. */
export function driftGone(report: Report, writing: Writing): IssueText {
  const state: DriftState = { fingerprint: hash('in-sync', 16), steps: [] }
  const body = `The server ${code(report.server.name)} is as its workflow asks. Seen by ${link(writing, 'this run')}.\n${explanation}\n\n${mark(report, state)}\n`
  return { title: title(report), body, state }
}

const explanation = `<sub>Kept by the action: edited when the drift changes, closed when it is gone, opened again when it returns.</sub>`

function title(report: Report): string {
  // Names of servers hold nothing else; what is not one gets no say in a title.
  return `Drift: ${report.server.name.replaceAll(/[^\w.-]/g, '').slice(0, 63)} is not as its workflow asks`
}

function mark(report: Report, state: DriftState): string {
  return `${driftMarker(report.server.id)} ${state.fingerprint} ${state.steps.join('.')} -->`
}

/** Whether another set of steps differs. */
export function sameSteps(a: DriftState, b: DriftState): boolean {
  return a.steps.join() === b.steps.join()
}

/** The comment when another set of steps differs. */
export function changedComment(drift: Drift, before: DriftState, writing: Writing): string {
  const known = new Set(before.steps)
  const now = [...drift.differing, ...drift.unseen]
  const still = new Set(now.map(stepHash))
  const fresh = drift.differing.filter((step) => !known.has(stepHash(step)))
  const mended = drift.rest.filter((step) => known.has(stepHash(step)))
  const vanished = before.steps.filter((each) => !still.has(each)).length - mended.length
  const lines = [`The drift changed, seen by ${link(writing, 'this run')}.`]
  if (fresh.length > 0) lines.push(`- Differs now: ${names(fresh)}`)
  if (mended.length > 0) lines.push(`- As asked again: ${names(mended)}`)
  if (vanished > 0) lines.push(`- No longer asked for: ${count(vanished, 'step')}`)
  return [lines[0], '', ...lines.slice(1)].join('\n')
}

/** The comment when a closed issue is opened again. */
export function returnedComment(drift: Drift, writing: Writing): string {
  return `The server differs again, seen by ${link(writing, 'this run')}.\n\n- Differs now: ${names(drift.differing)}`
}

/** The comment when nothing differs any more. */
export function goneComment(report: Report, writing: Writing): string {
  const run = link(writing, 'this run')
  return report.result === 'changed' ? `Mended by ${run}: nothing differs any more.` : `Nothing differs any more, seen by ${run}.`
}

/** The comment on an issue that another one with a lower number makes superfluous; GitHub understands this wording. */
export function duplicateComment(number: number): string {
  return `Duplicate of #${number}`
}

function names(steps: readonly ReportStep[]): string {
  const shown = steps.slice(0, named).map((step) => code(cut(step.id)))
  return steps.length > named ? `${shown.join(', ')} and ${steps.length - named} more` : shown.join(', ')
}

/** The comment of a pull request: what would change, or changed. At most 65,000 characters. */
export function planComment(report: Report, writing: Writing): string {
  const loud = report.steps.filter((step) => differs(step) || step.status === 'created' || step.status === 'updated')
  const rest = report.steps.filter((step) => !loud.includes(step))
  const head = `### ${code(report.server.name)}: ${standing(report, loud.length)}\n\n`
  const passed = report.queries.filter((query) => query.status === 'passed').length
  const facts = [
    report.planId === '' ? '' : `- plan-id: ${code(report.planId)}`,
    report.queries.length === 0 ? '' : `- test queries: ${passed} of ${report.queries.length} passed`,
    report.findings.length === 0 ? '' : `- findings: ${tally(report.findings)}`,
    `- ${link(writing, 'the run')}`,
  ].filter((each) => each !== '')
  const tail = `\n\n${findingsPart(report.findings, writing)}${facts.join('\n')}\n\n${planMarker(report.server.id)}\n`
  return head + tables(rows(loud, writing), rows(rest, writing), rest.length, limit - head.length - tail.length) + tail
}

function standing(report: Report, loud: number): string {
  const total = report.steps.length
  if (report.result === 'failed') return `the run failed (${code(report.failureReason)})`
  if (report.mode === 'verify') return 'the test queries passed'
  if (report.result === 'changed') return `${count(loud, 'step')} changed`
  if (report.result === 'in-sync') return 'nothing differs'
  return report.mode === 'apply'
    ? `${loud} of ${count(total, 'step')} still differ`
    : `${loud} of ${count(total, 'step')} would change`
}

function tally(findings: readonly Finding[]): string {
  return (['error', 'warning', 'notice'] as const)
    .map((severity) => [findings.filter((finding) => finding.severity === severity).length, severity] as const)
    .filter(([number]) => number > 0)
    .map(([number, severity]) => count(number, severity))
    .join(', ')
}

const icons: Record<Finding['severity'], string> = { error: '🛑', warning: '⚠️', notice: 'ℹ️' }

/** Codes, and titles where everyone who reads may see them; details and fixes stay with the run. */
function findingsPart(findings: readonly Finding[], writing: Writing): string {
  if (findings.length === 0) return ''
  const line = (finding: Finding): string =>
    `- ${icons[finding.severity]} ${code(cut(finding.code))}${writing.namesOnly ? '' : `: ${code(cut(finding.title))}`}`
  const lines = [...new Set(findings.map(line))]
  const more = lines.length > named ? [`- and ${lines.length - named} more`] : []
  return `Findings, explained in the run's summary:\n\n${[...lines.slice(0, named), ...more].join('\n')}\n\n`
}

/** What differs as a table, the rest folded below, in at most `room` characters: rows that find no place are counted. */
function tables(first: readonly string[], rest: readonly string[], steps: number, room: number): string {
  const inFull = fitted(first, room)
  if (rest.length === 0) return inFull
  const before = `${inFull === '' ? '' : `${inFull}\n\n`}<details><summary>${count(steps, 'more step')}</summary>\n\n`
  const after = '\n\n</details>'
  const left = room - before.length - after.length
  // Less than this holds no row worth folding open.
  return left < 2_000 ? inFull : before + fitted(rest, left) + after
}

const tableHead = '| | What | Before | After |\n|:--|:--|:--|:--|'

function fitted(rows: readonly string[], room: number): string {
  if (rows.length === 0) return ''
  let text = tableHead
  for (const [index, each] of rows.entries()) {
    const left = rows.length - index
    const note = `\n\n${count(left, 'more row')} left out here; the run's report has them all.`
    if (text.length + 1 + each.length > room - note.length) return text + note
    text += `\n${each}`
  }
  return text
}

/** Databases that are alike stand in one row when they are more than this. */
const listed = 3
/** Most that their names may take in it, in characters. */
const sharedNames = 1_500

/** A row for each step; one for all databases in which it is the same. */
function rows(steps: readonly ReportStep[], writing: Writing, status?: string): string[] {
  const ofDatabase = ({ kind }: ReportStep): boolean => kind === 'setting' || kind === 'extension'
  return grouped(steps, (step) =>
    ofDatabase(step)
      ? JSON.stringify([
          step.id.slice(step.target.length),
          step.status,
          ...values(step, writing.namesOnly),
          writing.namesOnly ? '' : likeness(step.detail, step.target),
        ])
      : step.id,
  ).flatMap((group) =>
    group.length > listed ? [sharedRow(group, writing, status)] : group.map((step) => row(step, writing, status)),
  )
}

function sharedRow(group: readonly [ReportStep, ...ReportStep[]], writing: Writing, status?: string): string {
  const [step] = group
  const shown: string[] = []
  let room = sharedNames
  for (const { target } of group.slice(0, named)) {
    const name = code(cut(target))
    room -= name.length
    if (room < 0 && shown.length > 0) break
    shown.push(name)
  }
  const more = group.length > shown.length ? ` and ${group.length - shown.length} more` : ''
  const detail = writing.namesOnly || step.detail === '' ? '' : `<br/>${code(cut(withoutName(step.detail, step.target)))}`
  const [before, after] = values(step, writing.namesOnly)
  const what = `${code(cut(step.id.slice(step.target.length + 1)))}<br/>in ${group.length} databases: ${shown.join(', ')}${more}`
  return `| ${status ?? step.status} | ${what} | ${code(cut(before))} | ${code(cut(after))}${detail} |`
}

function row(step: ReportStep, writing: Writing, status: string = step.status): string {
  const service = step.kind === 'role' ? services.find((each) => step.id === `role/${each.name}`) : undefined
  const on = writing.namesOnly ? undefined : step.target.split('/').at(-1)
  const target = service === undefined ? '' : `<br/>${service.title}${on === undefined || on === '' ? '' : ` ${code(cut(on))}`}`
  const detail = writing.namesOnly || step.detail === '' ? '' : `<br/>${code(cut(step.detail))}`
  const [before, after] = values(step, writing.namesOnly)
  return `| ${status} | ${code(cut(step.id))}${target} | ${code(cut(before))} | ${code(cut(after))}${detail} |`
}

const secrets = Object.values(families).map((family) => `/${family.key}`)

/** Words that say nothing of this server beyond what they mean everywhere. */
const plainWords = new Set([
  ...['on', 'off', 'set', 'not set', 'unknown', 'empty', 'not assigned', 'not installed', 'not yet', 'not needed', 'azure_ai'],
  ...['managed-identity', 'subscription-key', 'system-assigned identity on', 'restarted after the identity was turned on'],
  ...services.map((service) => service.role.name),
])
const isPlain = (value: string): boolean => plainWords.has(value) || /^azure_ai \d{1,4}(\.\d{1,4}){0,3}$/.test(value)

/** Before and after as they may be shown: a key never, a value only where it may be read. */
function values(step: ReportStep, namesOnly: boolean): [string, string] {
  if (secrets.some((key) => step.id.endsWith(key))) {
    const word = (value: string): string => (['set', 'not set', 'unknown', 'another value', ''].includes(value) ? value : 'set')
    return [word(step.current), word(step.desired)]
  }
  if (!namesOnly) return [step.current, step.desired]
  const asAsked = step.kind === 'allow-list' ? 'with azure_ai' : 'as asked'
  const other = step.kind === 'allow-list' ? 'without azure_ai' : 'another value'
  const current = step.current.replace(/^on \(.*\)$/s, 'on')
  return [
    isPlain(current) ? current : step.status === 'in-sync' ? asAsked : other,
    isPlain(step.desired) ? step.desired : asAsked,
  ]
}

function cut(value: string): string {
  return value.length > longest ? `${value.slice(0, longest)}…` : value
}

/** A link that cannot be ended early by what the address holds. */
function link(writing: Writing, words: string): string {
  const url = URL.canParse(writing.runUrl) ? new URL(writing.runUrl) : undefined
  if (url === undefined || !/^https?:$/.test(url.protocol)) return words
  return `[${words}](${url.href.replaceAll(/[()<>[\]\\`*_~|]/g, (sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`)})`
}
