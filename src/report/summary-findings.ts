/** The findings of a summary: what has the same cause is shown once, with its fix to copy. Pure. */
import type { AlikeFindings, Report } from '../core/report.ts'
import { visible } from '../lib/unicode.ts'
import { alikeFindings, databasesOf, grouped, joinedFixes, mostPlaces, partsOfFix } from './grouping.ts'
import { code, count, fence, findingIcons, longestFence, names, partLimit, prose, within } from './markdown.ts'

export function findingsPart(report: Report): string {
  if (report.findings.length === 0) return ''
  const alike = alikeFindings(report.findings, databasesOf(report))
  const causes = grouped(alike, ({ finding: { severity, code, title } }) => JSON.stringify([severity, code, title]))
  const rows = causes.map((group) => {
    const [{ finding }] = group
    const title = `${findingIcons[finding.severity]} **${prose(finding.title)}** (${code(finding.code)})`
    const shown = fixesOf(group)
    return `${title}\n\n${detailsOf(group)}\n${shown === '' ? '' : `\n${fix(shown)}\n`}`
  })
  const { kept, left } = within(rows, partLimit)
  const more = left === 0 ? [] : [`> The rest (${left} more) is left out here; it is in the report.\n`]
  return ['### Findings\n', ...kept, ...more].join('\n')
}

function detailsOf(group: readonly AlikeFindings[]): string {
  const details = group.map(({ finding, others }) => {
    const same = others.length === 0 ? '' : `\n\n${names(`The same in ${count(others.length, 'other database')}: `, others)}`
    return { detail: prose(finding.detail), same }
  })
  const [only] = details
  if (details.length === 1 && only !== undefined) return `${only.detail}${only.same === '' ? '' : `\n${only.same.slice(1)}`}`
  const lines = details.slice(0, mostPlaces).map(({ detail, same }) => `- ${detail}${same === '' ? '' : `<br/>${same.trim()}`}`)
  const left = details.length - lines.length
  return [...lines, ...(left > 0 ? [`- and ${left} more in the report`] : [])].join('\n')
}

/** The fixes of one cause, each once; cut before anything looks at them. */
function fixesOf(group: readonly AlikeFindings[]): string {
  return visible(joinedFixes(group.map(({ finding }) => finding.fix)).slice(0, longestFence))
}

/** A fix: a command is in a fence, for its copy button; a sentence is text, which wraps. */
export function fix(value: string): string {
  const { words, command } = partsOfFix(value)
  if (words.includes('\n')) return fence(value)
  const sentence = words.trim() === '' ? '' : `Fix: ${prose(words.trim())}`
  return [sentence, command === '' ? '' : fence(command)].filter((each) => each !== '').join('\n\n')
}
