/** The steps of a summary: what differs first, then what was done, then the rest. Pure. */
import type { Report, ReportStep } from '../core/report.ts'
import { differs } from '../core/steps.ts'
import { grouped, likeness, listed, withoutName } from './grouping.ts'
import { code, count, named, names, prose, small, table, text, wrapped } from './markdown.ts'
import { serviceOf } from './summary-picture.ts'

/** Rows of a table beyond which it is folded. */
const foldedFrom = 10

const icons: Record<ReportStep['status'], string> = {
  'in-sync': '✅',
  created: '✨',
  updated: '✏️',
  missing: '❌',
  different: '❌',
  failed: '❌',
  skipped: '⏭️',
}
export function stepsPart(report: Report): string {
  const { steps } = report
  if (steps.length === 0) return ''
  const done = (step: ReportStep): boolean => step.status === 'created' || step.status === 'updated'
  const bad = steps.filter(differs)
  const changed = steps.filter(done)
  const rest = steps.filter((step) => !differs(step) && !done(step))
  const databases = new Set(steps.filter(inDatabase).map((step) => step.target)).size
  const parts = ['### Steps\n']
  if (bad.length > 0) parts.push(stepTable(bad, ['Found', 'Wanted'], count(bad.length, 'step'), false, databases))
  if (changed.length > 0)
    parts.push(stepTable(changed, ['Before', 'After'], `✨ ${changed.length} done`, bad.length > 0, databases))
  if (rest.length > 0) {
    const inSync = rest.filter((step) => step.status === 'in-sync').length
    const title = [inSync > 0 ? `✅ ${inSync} in sync` : '', rest.length > inSync ? `⏭️ ${rest.length - inSync} skipped` : '']
      .filter((each) => each !== '')
      .join(', ')
    parts.push(stepTable(rest, ['Found', 'Wanted'], title, true, databases))
  }
  return parts.join('\n')
}

/** Steps of several databases that say the same stand in one row. */
function stepTable(
  steps: readonly ReportStep[],
  [was, becomes]: readonly [string, string],
  title: string,
  fold: boolean,
  databases: number,
): string {
  const groups = grouped(steps, (step) =>
    inDatabase(step)
      ? JSON.stringify([step.name, step.current, step.desired, step.status, likeness(step.detail, step.target)])
      : step.id,
  )
  const rows = groups.map((group) => {
    const [step] = group
    const said = group.length === 1 ? step.detail : withoutName(step.detail, step.target)
    const detail = said === '' ? '' : `<br/><sub>${prose(said)}</sub>`
    return `| ${icons[step.status]}&nbsp;${statusWord(step)} | ${subject(step)}<br/>${where(group, databases)} | ${state(step, step.current)} | ${state(step, step.desired)}${detail} |`
  })
  return table(`| | What | ${was} | ${becomes} |\n|:--|:--|:--|:--|`, rows, title, fold || steps.length > foldedFrom)
}

/** A restart is done, not created. */
function statusWord({ kind, status }: ReportStep): string {
  return kind === 'restart' && status === 'created' ? 'restarted' : status.replace('-', '&#8209;')
}

export const inDatabase = (step: ReportStep): boolean => step.kind === 'setting' || step.kind === 'extension'

/** The databases that a report speaks of. */
export function databasesOf({ steps, queries }: Pick<Report, 'steps' | 'queries'>): readonly string[] {
  return [...new Set([...steps.filter(inDatabase).map((step) => step.target), ...queries.map((query) => query.database)])]
}

function subject(step: ReportStep): string {
  const subjects: Record<ReportStep['kind'], () => string> = {
    identity: () => 'Managed identity',
    restart: () => 'Restart',
    firewall: () => 'Firewall rule',
    replica: () => 'Read replica',
    'allow-list': () => `Allow-list ${code('azure.extensions')}`,
    role: () => `Role for ${text(serviceOf(step).title)}`,
    extension: () => `Extension ${code('azure_ai')}`,
    setting: () => wrapped(step.name ?? step.id),
  }
  return subjects[step.kind]()
}

/** The place of a step, or of the same step in several databases. */
function where(group: readonly ReportStep[], databases: number): string {
  const [step] = group
  if (step === undefined) return ''
  if (step.kind === 'role') return small(`on ${named(step.target)}`)
  if (step.kind === 'replica') return small(code(step.target))
  if (!inDatabase(step)) return small('of the server')
  if (group.length > listed && group.length === databases) return small(`in all ${databases} databases`)
  return names(
    'in ',
    group.map((each) => each.target),
  )
}

/** What a step was or is to be: values as code, states in words. */
function state(step: ReportStep, value: string): string {
  if (/^\/subscriptions\//i.test(value)) return named(value)
  const isValue = (step.kind === 'setting' && value !== 'not set' && value !== 'unknown') || step.kind === 'allow-list'
  return isValue ? wrapped(value) : prose(value)
}
