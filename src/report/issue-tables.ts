/** Pieces of Markdown for GitHub's issues and comments: rows of steps, findings, names and links, each of bounded length. Pure. */

import type { ReportStep } from '../core/report.ts'
import { allMembers, services } from '../core/services.ts'
import type { Finding } from '../errors/failure.ts'
import { nameIn } from '../lib/resource-id.ts'
import { groupedWhereMany, inDatabase, likeness, withoutName } from './grouping.ts'
import { code, count, findingIcons } from './markdown.ts'

/** How a text is written, beside what it says. */
export interface Writing {
  /** Names only, because strangers may read it: no ids, no values, no text of a server. */
  readonly namesOnly: boolean
  /** Page of the workflow run; left out when it is not an http(s) address. */
  readonly runUrl: string
}

/** Longest value in a cell, in characters; an escaped character takes up to six. */
const longest = 200
/** Most names, or findings, in a list. */
const named = 30
/** Most that the list of findings takes, in characters. */
const findingsRoom = 15_000

/** Codes, and titles where everyone who reads may see them; details and fixes stay with the run. */
export function findingsPart(findings: readonly Finding[], writing: Writing): string {
  if (findings.length === 0) return ''
  const line = (finding: Finding): string =>
    `- ${findingIcons[finding.severity]} ${code(cut(finding.code))}${writing.namesOnly ? '' : `: ${code(cut(finding.title))}`}`
  const lines = [...new Set(findings.map(line))]
  const shown = fitting(lines, findingsRoom)
  const more = lines.length > shown.length ? [`- and ${lines.length - shown.length} more`] : []
  return `Findings, explained in the run's summary:\n\n${[...shown, ...more].join('\n')}\n\n`
}

/** The first of the texts: at most {@link named}, and at most `room` characters, but always one. */
function fitting(texts: readonly string[], room: number): string[] {
  let left = room
  const end = texts.findIndex((text, index) => {
    left -= text.length
    return index > 0 && (left < 0 || index >= named)
  })
  return texts.slice(0, end === -1 ? texts.length : end)
}

/** Names as code, as many as have a place: in one row, or in so many characters. */
export function shownNames(names: readonly string[], room = sharedNames): string[] {
  return fitting(
    names.map((name) => code(cut(name))),
    room,
  )
}

/** As {@link shownNames}, in a sentence that counts the others. */
export function listOf(names: readonly string[], room = sharedNames): string {
  const shown = shownNames(names, room)
  const left = names.length - shown.length
  return left > 0 ? `${shown.join(', ')} and ${left} more` : shown.join(', ')
}

/** What differs as a table, the rest folded below, in at most `room` characters: rows that find no place are counted. */
export function tables(first: readonly string[], rest: readonly string[], steps: number, room: number): string {
  const inFull = fitted(first, room)
  if (rest.length === 0) return inFull
  const before = `${inFull === '' ? '' : `${inFull}\n\n`}<details><summary>${count(steps, 'more step')}</summary>\n\n`
  const after = '\n\n</details>'
  const left = room - before.length - after.length
  // Less room than this has no row that is worth unfolding.
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

/** Most that the names of databases take in a row, in characters. */
const sharedNames = 1_500

/** A row for each step; one for all databases in which it is the same. */
export function rows(steps: readonly ReportStep[], writing: Writing, status?: string): string[] {
  const { namesOnly } = writing
  const likenessOf = (step: ReportStep): unknown[] => [
    step.name ?? step.id,
    step.status,
    ...values(step, namesOnly),
    namesOnly ? '' : likeness(step.detail, step.target),
  ]
  return groupedWhereMany(steps, (step) => (inDatabase(step) ? JSON.stringify(likenessOf(step)) : step.id)).map((group) =>
    row(group, writing, status),
  )
}

function row(group: readonly [ReportStep, ...ReportStep[]], { namesOnly }: Writing, status?: string): string {
  const [step] = group
  const isShared = group.length > 1
  const what = isShared
    ? `${code(cut(step.name ?? step.id))}<br/>in ${group.length} databases: ${listOf(group.map(({ target }) => target))}`
    : `${code(cut(step.id))}${targetOf(step, namesOnly)}`
  const text = isShared ? withoutName(step.detail, step.target) : step.detail
  const detail = namesOnly || text === '' ? '' : `<br/>${code(cut(text))}`
  const [before, after] = values(step, namesOnly)
  return `| ${status ?? step.status} | ${what} | ${code(cut(before))} | ${code(cut(after))}${detail} |`
}

function targetOf(step: ReportStep, namesOnly: boolean): string {
  const service = services.find((each) => each.name === step.service)
  const name = namesOnly ? '' : nameIn(step.target)
  return service === undefined ? '' : `<br/>${service.title}${name === '' ? '' : ` ${code(cut(name))}`}`
}

const secrets: readonly string[] = allMembers.map(({ key }) => key)

/** Words that say nothing of this server beyond what they mean everywhere. */
const plainWords = new Set([
  ...['on', 'off', 'set', 'not set', 'unknown', 'empty', 'not assigned', 'not installed', 'not yet', 'not needed', 'azure_ai'],
  ...['managed-identity', 'subscription-key', 'system-assigned identity on', 'restarted after the identity was turned on'],
  ...services.map((service) => service.role.name),
])
const isPlain = (value: string): boolean => plainWords.has(value) || /^azure_ai \d{1,4}(\.\d{1,4}){0,3}$/.test(value)

/** Before and after as they may be shown: a key never, a value only where it may be read. */
function values(step: ReportStep, namesOnly: boolean): [string, string] {
  if (secrets.some((key) => (step.name ?? step.id).endsWith(key))) {
    const word = (value: string): string => (['set', 'not set', 'unknown', 'another value', ''].includes(value) ? value : 'set')
    return [word(step.current), word(step.desired)]
  }
  if (!namesOnly) return [step.current, step.desired]
  const wanted = step.kind === 'allow-list' ? 'with azure_ai' : 'as wanted'
  const other = step.kind === 'allow-list' ? 'without azure_ai' : 'another value'
  const current = step.current.replace(/^on \(.*\)$/s, 'on')
  const shown = step.status === 'in-sync' ? wanted : other
  return [isPlain(current) ? current : shown, isPlain(step.desired) ? step.desired : wanted]
}

export function cut(value: string): string {
  return value.length > longest ? `${value.slice(0, longest)}…` : value
}

/** A link that no character of the address can end early. */
export function link(writing: Writing, words: string): string {
  const address = addressOf(writing)
  return address === undefined ? words : `[${words}](${address})`
}

/** The address of the run's page as it stands in a link; undefined when it is no http(s) address. */
export function addressOf({ runUrl }: Writing): string | undefined {
  const url = URL.canParse(runUrl) ? new URL(runUrl) : undefined
  if (url === undefined || !/^https?:$/.test(url.protocol)) return undefined
  return url.href.replaceAll(/[()<>[\]\\`*_~|]/g, (sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`)
}
