/** The steps of a summary: what differs first, then what was done, then the rest. Pure. */
import type { Report, ReportStep } from '../core/report.ts'
import { differs, isWritten } from '../core/steps.ts'
import { grouped, inDatabase, likeness, listed, withoutName } from './grouping.ts'
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
/** One of the tables of steps. */
interface StepTable {
  readonly steps: readonly ReportStep[]
  readonly columns: readonly [was: string, becomes: string]
  readonly title: string
  readonly isFolded: boolean
}

export function stepsPart({ steps }: Report): string {
  if (steps.length === 0) return ''
  const bad = steps.filter(differs)
  const written = steps.filter(isWritten)
  const rest = steps.filter((step) => !differs(step) && !isWritten(step))
  const inSync = rest.filter(({ status }) => status === 'in-sync').length
  const skipped = rest.length - inSync
  const ofRest = [...(inSync > 0 ? [`✅ ${inSync} in sync`] : []), ...(skipped > 0 ? [`⏭️ ${skipped} skipped`] : [])].join(', ')
  const tables: readonly StepTable[] = [
    { steps: bad, columns: ['Found', 'Wanted'], title: count(bad.length, 'step'), isFolded: false },
    { steps: written, columns: ['Before', 'After'], title: `✨ ${written.length} done`, isFolded: bad.length > 0 },
    { steps: rest, columns: ['Found', 'Wanted'], title: ofRest, isFolded: true },
  ]
  const databases = new Set(steps.filter(inDatabase).map((step) => step.target)).size
  const shown = tables.filter((each) => each.steps.length > 0).map((each) => stepTable(each, databases))
  return ['### Steps\n', ...shown].join('\n')
}

/** Steps that are the same in several databases are in one row. */
function stepTable({ steps, columns: [was, becomes], title, isFolded }: StepTable, databases: number): string {
  const groups = grouped(steps, (step) =>
    inDatabase(step)
      ? JSON.stringify([step.name, step.current, step.desired, step.status, likeness(step.detail, step.target)])
      : step.id,
  )
  const rows = groups.map((group) => {
    const [step] = group
    const common = group.length === 1 ? step.detail : withoutName(step.detail, step.target)
    const detail = common === '' ? '' : `<br/>${small(prose(common))}`
    return `| ${icons[step.status]}&nbsp;${statusWord(step)} | ${subject(step)}<br/>${where(group, databases)} | ${state(step, step.current)} | ${state(step, step.desired)}${detail} |`
  })
  return table(`| | What | ${was} | ${becomes} |\n|:--|:--|:--|:--|`, rows, title, isFolded || steps.length > foldedFrom)
}

/** A restart is done, not created. */
function statusWord({ kind, status }: ReportStep): string {
  return kind === 'restart' && status === 'created' ? 'restarted' : status.replace('-', '&#8209;')
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
