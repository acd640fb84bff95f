/** The findings of a summary: what has the same cause is shown once, with its fix to copy. Pure. */
import type { Report } from '../core/report.ts'
import type { Finding } from '../errors/failure.ts'
import { visible } from '../lib/unicode.ts'
import { alikeFindings } from './grouping.ts'
import { code, count, fence, longestFence, names, partLimit, prose, within } from './markdown.ts'
import { databasesOf } from './summary-steps.ts'

const findingIcons: Record<Finding['severity'], string> = { error: '🛑', warning: '⚠️', notice: 'ℹ️' }

export function findingsPart(report: Report): string {
  if (report.findings.length === 0) return ''
  const rows = alikeFindings(report.findings, databasesOf(report)).map(({ finding, others }) => {
    const title = `${findingIcons[finding.severity]} **${prose(finding.title)}** (${code(finding.code)})`
    const same = others.length === 0 ? '' : `\n${names(`The same in ${count(others.length, 'other database')}: `, others)}\n`
    return `${title}\n\n${prose(finding.detail)}\n${same}${finding.fix === '' ? '' : `\n${fix(visible(finding.fix.slice(0, longestFence)))}\n`}`
  })
  const { kept, left } = within(rows, partLimit)
  const more = left === 0 ? [] : [`> The rest (${left} more) is left out here; it stands in the report.\n`]
  return ['### Findings\n', ...kept, ...more].join('\n')
}

/** A fix: what is a command stands in a fence, for its copy button; what is a sentence stands as one, and wraps. */
export function fix(value: string): string {
  if (value.includes('\n')) return fence(value)
  const [, words = '', command = ''] =
    /^(.*?)((?:(?<=^|[:;] )(?:az|curl|nslookup|SELECT|GRANT|ALTER|CREATE|CALL|SET) .*)?)$/s.exec(value) ?? []
  const sentence = words.trim() === '' ? '' : `Fix: ${prose(words.trim())}`
  return [sentence, command === '' ? '' : fence(command)].filter((each) => each !== '').join('\n\n')
}
