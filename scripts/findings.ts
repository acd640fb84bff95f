/** docs/findings.md: the tables of codes, from scripts/code-texts.ts and the table of errors. */
import { known } from '../src/errors/explain.ts'
import type { FailureReason } from '../src/errors/failure.ts'
import { errors, findings } from './code-texts.ts'
import { between, table } from './markdown.ts'

const groups: readonly (readonly FailureReason[])[] = [
  ...(['input', 'credentials', 'permission', 'network', 'azure', 'database', 'verification'] as const).map((reason) => [reason]),
  ['restart-required', 'drift', 'cancelled', 'internal'],
]

/** The codes of these reasons. What the table of errors knows is explained in docs/troubleshooting.md, and only linked here. */
function errorRows(reasons: readonly FailureReason[]): readonly (readonly string[])[] {
  const own = Object.entries(errors).filter(([, { reason }]) => reasons.includes(reason))
  const outside = known.filter(({ reason }) => reasons.includes(reason))
  return [
    ...own.map(([code, { means, todo }]) => [`\`${code}\``, means, todo]),
    ...outside.map(({ code, title }) => [`\`${code}\``, `${title}.`, `[Cause and fix](troubleshooting.md#${code})`]),
  ].sort(([a = ''], [b = '']) => (a < b ? -1 : 1))
}

/** The page with its tables written again. */
export function withCodes(page: string): string {
  const rows = Object.entries(findings).map(([code, { severity, means, todo }]) => [`\`${code}\``, severity, means, todo])
  const sections = groups.map((reasons) => {
    const head = `### ${reasons.map((reason) => `\`${reason}\``).join(', ')}`
    return `${head}\n\n${table(['code', 'what it means', 'what to do'], errorRows(reasons))}`
  })
  const withFindings = between(page, 'findings', table(['code', 'severity', 'what it means', 'what to do'], rows))
  return between(withFindings, 'errors', sections.join('\n\n'))
}
