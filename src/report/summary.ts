/** The job summary: the report as GitHub Markdown, below GitHub's 1 MiB. Pure. */
import { type Report, withTexts } from '../core/report.ts'
import { longestText } from '../lib/bounded.ts'
import { duration } from '../lib/timeout.ts'
import { isKeyless, standing } from './headline.ts'
import { inventoryParts } from './inventory.ts'
import { code, fence, folded, prose } from './markdown.ts'
import { findingsPart } from './summary-findings.ts'
import { picture } from './summary-picture.ts'
import { answersPart, sqlPart } from './summary-queries.ts'
import { stepsPart } from './summary-steps.ts'

/** GitHub refuses more than 1 MiB for a step; other lines may be in the file already. In bytes. */
const limit = 900_000

export function summary(of: Report): string {
  // Texts that are not shown in full need no work in full, either.
  const report = withTexts(of, longestText)
  const { inventory, rows = [] } = report
  const [head = '', ...rest] =
    inventory === undefined
      ? [headline(report), picture(report), answersPart(report), sqlPart(report), stepsPart(report)]
      : inventoryParts(report, { ...inventory, rows })
  const findings = findingsPart(report)
  // What went wrong is read first; what is merely worth knowing, last.
  const parts = report.result === 'failed' ? [head, findings, ...rest] : [head, ...rest, findings]
  return joined([...parts, inventory === undefined ? nextPart(report) : '', footer(report)])
}

function joined(parts: readonly string[]): string {
  let text = ''
  for (const part of parts.filter((each) => each !== '')) {
    // Whole parts or none: half a table is of no help.
    const bytes = Buffer.byteLength(part)
    text +=
      Buffer.byteLength(text) + bytes > limit
        ? `\n> A part of ${bytes} bytes is left out here; it is in the report.\n`
        : `${part}\n`
  }
  return text
}

function headline(report: Report): string {
  const name = report.server.name === '' ? 'The server' : code(report.server.name)
  const error = report.findings.find((finding) => finding.severity === 'error')?.title ?? 'failed'
  const failed = `${report.server.name === '' ? '' : `${name}: `}${prose(error)} (${code(report.failureReason)})`
  const icons: Record<Report['result'], string> = { 'in-sync': '✅', changed: '✅', drift: '⚠️', failed: '❌' }
  const why = isKeyless(report)
    ? "\nEvery test query below passed with the managed identity of the server. No stored key was in a query's reach.\n"
    : ''
  const line = report.result === 'failed' ? failed : name + standing(report)
  return `## ${icons[report.result]} ${line}\n${why}${keysLine(report)}`
}

function keysLine({ storedKeys: { before, after }, findings }: Report): string {
  if (before === null || after === null || (before === 0 && after === 0)) return ''
  const others = findings.some((finding) => finding.code === 'other-keys-stored') ? ' for the named services' : ''
  return before === after
    ? `\n🔑 **Keys stored${others}: ${after}**\n`
    : `\n🔑 **Keys stored${others}: ${before} before, ${after} now**\n`
}

/** Longest plan-id that the next step repeats, in characters: that of a large plan fills pages. */
const longestPlanId = 200

/** What to do now, when there is something: one sentence, and what to paste. A failed run begins with its errors, which say it. */
function nextPart(report: Report): string {
  const next = (sentence: string, paste: string): string => `### Next\n\n${sentence}\n\n${fence(paste)}\n`
  if (report.result === 'failed') return ''
  if (report.result === 'drift') {
    const plan = report.planId === '' || report.planId.length > longestPlanId ? [] : [`plan-id: ${report.planId}`]
    return next('Run this action again, and let it do what is listed:', ['mode: apply', ...plan].join('\n'))
  }
  const keysWanted = report.queries.some(({ proof }) => proof === 'key')
  if ((report.storedKeys.after ?? 0) > 0 && !keysWanted && report.mode !== '')
    return next('Clear the keys that are still stored:', 'mode: apply\nclear-keys: true')
  const off = report.findings.find((finding) => finding.code === 'key-login-possible')
  if (off === undefined) return ''
  return next('When nothing else uses the keys of the resource, turn its key access off:', off.fix)
}

function footer(report: Report): string {
  const mode = report.mode === '' ? '' : `mode ${code(report.mode)} · `
  const line = `<sub>${mode}${duration(report.durationMs)}</sub>`
  const ids = [
    report.server.id,
    ...new Set(report.steps.filter((step) => step.kind === 'role').map((step) => step.target)),
    report.server.principalId === '' ? '' : `${report.server.principalId}   (object id of the identity)`,
  ].filter((id) => id !== '')
  return ids.length === 0 ? line : `${folded('Ids', fence(ids.join('\n')))}\n${line}`
}
