/** The job summary: the report as GitHub Markdown. Every value is escaped; the whole stays below GitHub's 1 MiB. Pure. */

import type { QueryResult } from '../core/journal.ts'
import { type Report, withTexts } from '../core/report.ts'
import { type ServiceName, serviceNamed, services } from '../core/services.ts'
import { differs } from '../core/steps.ts'
import type { Finding } from '../errors/failure.ts'
import { longestText } from '../lib/bounded.ts'
import { duration } from '../lib/timeout.ts'
import { onOneLine, visible } from '../lib/unicode.ts'
import { alikeFindings, grouped, likeness, withoutName } from './grouping.ts'

/** GitHub refuses more than 1 MiB for a step; other lines may stand in the file already. In bytes. */
const limit = 900_000
/** Most that one table or list may take of it, in bytes. */
const partLimit = 170_000
/** Longest value shown in a cell, in characters. */
const longest = 1_000
/** Longest SQL shown, in characters. */
const longestSql = 4_000
/** Longest text in a fence, in characters. */
const longestFence = 4_000
/** Rows of a table beyond which it is folded. */
const foldedFrom = 24
/** Databases that are alike stand in one row when they are more than this. */
const listed = 3
/** Names shown at once; the others unfold. */
const namesAtOnce = 6
/** Most that a list of names may take, in bytes. */
const namesLimit = 6_000

type ReportStep = Report['steps'][number]

export function summary(of: Report): string {
  // What is not shown is not looked at, either.
  const report = withTexts(of, longestText)
  const findings = findingsPart(report)
  const parts = [
    headline(report),
    // What went wrong is read first; what is merely worth knowing, last.
    report.result === 'failed' ? findings : '',
    picture(report),
    stepsPart(report),
    answersPart(report),
    sqlPart(report),
    report.result === 'failed' ? '' : findings,
    footer(report),
  ]
  let text = ''
  for (const part of parts.filter((each) => each !== '')) {
    // Whole parts or none: half a table helps nobody.
    const bytes = Buffer.byteLength(part)
    text +=
      Buffer.byteLength(text) + bytes > limit
        ? `\n> A part of ${bytes} bytes is left out here; it stands in the report.\n`
        : `${part}\n`
  }
  return text
}

const icons: Record<ReportStep['status'], string> = {
  'in-sync': '✅',
  created: '✨',
  updated: '✏️',
  missing: '❌',
  different: '❌',
  failed: '❌',
  skipped: '⏭️',
}
const queryIcons: Record<QueryResult['status'], string> = { passed: '✅', failed: '❌', skipped: '⏭️' }
const findingIcons: Record<Finding['severity'], string> = { error: '🛑', warning: '⚠️', notice: 'ℹ️' }

/** Whether every test query passed, and none of them with a key in reach. */
function isKeyless(report: Report): boolean {
  return report.verified && report.queries.every((query) => query.proof === 'keyless')
}

function headline(report: Report): string {
  const name = report.server.name === '' ? 'The server' : code(report.server.name)
  const passed = report.queries.filter((query) => query.status === 'passed').length
  const total = report.queries.length
  const mended = report.steps.filter((step) => step.status === 'created' || step.status === 'updated').length
  const proof =
    total === 0
      ? 'no test query ran'
      : report.verified
        ? `all ${total} test queries passed`
        : `${passed} of ${total} test queries passed`
  const reason = report.findings.find((finding) => finding.severity === 'error')?.title ?? 'failed'
  const lines: Record<Report['result'], string> = {
    'in-sync': report.mode === 'verify' ? `## ✅ ${name}: ${proof}` : `## ✅ ${name} is in sync: nothing to do, ${proof}`,
    changed: `## ✅ ${name} ${isKeyless(report) ? 'needs no secrets now' : 'is set up'}: ${count(mended, 'step')} done, ${proof}`,
    drift: `## ⚠️ ${name} has drifted: ${count(report.steps.filter(differs).length, 'step')} differ, ${proof}`,
    failed: `## ❌ ${report.server.name === '' ? '' : `${name}: `}${prose(reason)} (${code(report.failureReason)})`,
  }
  const why = isKeyless(report)
    ? '\nEvery call from the database to these services is made with the identity of the server itself. No key was in reach when the queries below passed.\n'
    : ''
  return `${lines[report.result]}\n${why}`
}

const count = (number: number, noun: string): string => `${number} ${noun}${number === 1 ? '' : 's'}`

/** Server, identity, roles and resources. Labels hold letters, digits and a few signs only. */
function picture(report: Report): string {
  const roles = report.steps.filter((step) => step.kind === 'role')
  if (report.server.name === '' || roles.length === 0) return ''
  const label = (value: string): string => value.replaceAll(/[^\p{L}\p{N} ._:-]/gu, '·').slice(0, 60)
  const identity = report.steps.find((step) => step.kind === 'identity')
  const good = (step: ReportStep): boolean => !differs(step) && step.status !== 'skipped'
  const on = identity === undefined || good(identity) || report.server.principalId !== ''
  const lines = [
    '%%{init: {"flowchart": {"nodeSpacing": 16, "rankSpacing": 40}}}%%',
    'flowchart LR',
    `  db[("${label(report.server.name)}<br/>azure_ai")] ${on ? '-->' : '-.->'} id{{"managed identity"}}${on ? '' : ':::bad'}`,
  ]
  // One account may serve several services: one box, an arrow for each role.
  const resources = [...new Set(roles.map((step) => step.target.toLowerCase()))]
  for (const [index, resource] of resources.entries()) {
    const own = roles.filter((step) => step.target.toLowerCase() === resource)
    const titles = own.map((step) => label(serviceOf(step).title)).join('<br/>')
    const name = label(lastSegment(own[0]?.target ?? ''))
    const answered = report.queries.filter((query) => own.some((step) => serviceOf(step).name === query.service))
    const state =
      answered.some((query) => query.status === 'failed') || own.some(differs)
        ? 'bad'
        : answered.length > 0 && answered.every((query) => query.status === 'passed')
          ? 'proven'
          : 'plain'
    for (const [nth, step] of own.entries()) {
      const [start, end] = good(step) ? ['--', '-->'] : ['-.', '.->']
      lines.push(
        `  id ${start} "${label(step.desired)}" ${end} r${index}${nth === 0 ? `["${titles}<br/>${name}"]:::${state}` : ''}`,
      )
    }
  }
  lines.push(
    '  classDef proven fill:#1f883d,stroke:#1a7f37,color:#fff',
    '  classDef bad fill:#cf222e,stroke:#a40e26,color:#fff',
    '  classDef plain fill:#59636e,stroke:#454c54,color:#fff',
  )
  return `\n\`\`\`mermaid\n${lines.join('\n')}\n\`\`\`\n`
}

const serviceOf = (step: ReportStep) => serviceNamed(step.id.slice('role/'.length) as ServiceName)
const lastSegment = (id: string): string => id.split('/').at(-1) ?? ''

function stepsPart(report: Report): string {
  const { steps } = report
  if (steps.length === 0) return ''
  const done = (step: ReportStep): boolean => step.status === 'created' || step.status === 'updated'
  const bad = steps.filter(differs)
  const mended = steps.filter(done)
  const rest = steps.filter((step) => !differs(step) && !done(step))
  const databases = new Set(steps.filter(inDatabase).map((step) => step.target)).size
  const parts = ['### Steps\n']
  if (bad.length > 0) parts.push(stepTable(bad, ['Found', 'Wanted'], count(bad.length, 'step'), false, databases))
  if (mended.length > 0) parts.push(stepTable(mended, ['Before', 'After'], `✨ ${mended.length} done`, bad.length > 0, databases))
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
      ? JSON.stringify([
          step.id.slice(step.target.length),
          step.current,
          step.desired,
          step.status,
          likeness(step.detail, step.target),
        ])
      : step.id,
  )
  const rows = groups.map((group) => {
    const [step] = group
    const said = group.length === 1 ? step.detail : withoutName(step.detail, step.target)
    const detail = said === '' ? '' : `<br/><sub>${prose(said)}</sub>`
    return `| ${icons[step.status]}&nbsp;${step.status.replace('-', '&#8209;')} | ${subject(step)}<br/>${where(group, databases)} | ${state(step, step.current)} | ${state(step, step.desired)}${detail} |`
  })
  return table(`| | What | ${was} | ${becomes} |\n|:--|:--|:--|:--|`, rows, title, fold || rows.length > foldedFrom)
}

const inDatabase = (step: ReportStep): boolean => step.kind === 'setting' || step.kind === 'extension'

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
    setting: () => wrapped(step.id.slice(step.target.length + 1)),
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

const small = (markup: string): string => `<sub>${markup}</sub>`

/** Names of databases: the first few, the others folded below them, and in the report what is too much even for that. */
function names(before: string, databases: readonly string[]): string {
  const shown = databases.map(code)
  // One more takes no more room than the words for it.
  if (shown.length <= namesAtOnce + 1) return small(before + shown.join(', '))
  const rest = shown.slice(namesAtOnce)
  const { kept, left } = within(rest, namesLimit)
  const more = left === 0 ? '' : ` and ${left} more in the report`
  const first = small(before + shown.slice(0, namesAtOnce).join(', '))
  return `${first}<details><summary>${small(`and ${rest.length} more`)}</summary>${small(kept.join(', ') + more)}</details>`
}

/** What a step was or is to be: values as code, states in words. */
function state(step: ReportStep, value: string): string {
  if (/^\/subscriptions\//i.test(value)) return named(value)
  const isValue = (step.kind === 'setting' && value !== 'not set' && value !== 'unknown') || step.kind === 'allow-list'
  return isValue ? wrapped(value) : prose(value)
}

/** A resource by its name; the whole id shows under the pointer, and in the list of ids at the end. */
function named(id: string): string {
  return `<code title="${entities(onOneLine(cut(id)))}">${coded(onOneLine(cut(lastSegment(id))))}</code>`
}

const order = (query: QueryResult): number => services.findIndex((service) => service.name === query.service)

/** The answers: a row for each database, or for all that have the same ones; a column for each service. */
function answersPart(report: Report): string {
  const { queries } = report
  if (queries.length === 0) return ''
  const asked = services.filter((service) => queries.some((query) => query.service === service.name))
  // In the order of the steps, which is that of the input; queries end when they end.
  const planned = new Set(report.steps.filter(inDatabase).map((step) => step.target))
  const databases = new Map<string, QueryResult[]>()
  for (const database of planned) if (queries.some((query) => query.database === database)) databases.set(database, [])
  for (const query of queries) {
    const own = databases.get(query.database)
    if (own === undefined) databases.set(query.database, [query])
    else own.push(query)
  }
  const groups = grouped([...databases.entries()], ([database, own]) =>
    JSON.stringify(
      asked.map((service) => {
        const query = own.find((each) => each.service === service.name)
        return query && [query.status, query.answer, query.proof, likeness(query.error, database)]
      }),
    ),
  ).flatMap((group) => (group.length > listed ? [group] : group.map((each) => [each] as const)))
  const rows = groups.map((group) => {
    const own = group[0][1]
    const bad = own.some((query) => query.status === 'failed')
    const icon = bad ? '❌' : own.every((query) => query.status === 'passed') ? '✅' : '⏭️'
    const cells = asked.map((service) =>
      answer(group.flatMap(([, queries]) => queries.find((query) => query.service === service.name) ?? [])),
    )
    const which = group.map(([database]) => database)
    const all = which.length === databases.size
    const label =
      which.length === 1
        ? code(which[0] ?? '')
        : `**${all ? 'all ' : ''}${which.length} databases**${all ? '' : `<br/>${names('', which)}`}`
    return { bad, row: `| ${icon}&nbsp;${label} | ${cells.join(' | ')} |` }
  })
  // What failed stands first.
  const sorted = [...rows.filter((each) => each.bad), ...rows.filter((each) => !each.bad)].map((each) => each.row)
  const head = `| Database | ${asked.map((service) => text(service.title)).join(' | ')} |\n|:--|${asked.map(() => ':--').join('|')}|`
  const fold = sorted.length > foldedFrom && !rows.some((each) => each.bad)
  return `### Test queries\n\n${table(head, sorted, `Answers of ${count(databases.size, 'database')}`, fold)}`
}

/** One number, or the span of several. */
function span(numbers: readonly number[]): string {
  const [least, most] = [Math.min(...numbers), Math.max(...numbers)]
  return least === most ? `${least}` : `${least} to ${most}`
}

/** What a service answered in a database, or in several that it answered alike. */
function answer(queries: readonly QueryResult[]): string {
  const [query] = queries
  if (query === undefined) return ''
  const { status, proof } = query
  const error = queries.length === 1 ? query.error : withoutName(query.error, query.database)
  const said =
    status === 'passed'
      ? wrapped(query.answer)
      : `<sub>${soft(error.length > 160 ? `${error.slice(0, 160)}…` : error, words)}</sub>`
  const durations = queries.map((each) => each.durationMs)
  const tries = queries.map((each) => each.attempts)
  const notes = [
    durations.some((ms) => ms > 0) ? `${span(durations)} ms` : '',
    tries.some((number) => number > 1) ? `${span(tries)} tries` : '',
    status === 'passed' && proof !== 'none' ? proof : '',
  ].filter((note) => note !== '')
  const line = notes.length === 0 ? '' : `<br/><sub>${notes.join(', ')}</sub>`
  return `${status === 'passed' ? '' : `${queryIcons[status]} ${status}<br/>`}${said}${line}`
}

/** The queries as SQL, each once: most often they are the same in every database. */
function sqlPart(report: Report): string {
  const asked = report.queries.filter((query) => query.sql !== '').sort((a, b) => order(a) - order(b))
  if (asked.length === 0) return ''
  const all = new Set(asked.map((query) => query.database)).size
  const rows = grouped(asked, (query) => JSON.stringify([query.service, query.sql])).map((group) => {
    const [query] = group
    const databases = new Set(group.map((each) => each.database))
    const only = databases.size === all ? '' : `<br/>${names('in ', [...databases])}`
    return `| ${text(serviceNamed(query.service).title)}${only} | ${sqlBlock(query.sql)} |`
  })
  const title = 'The queries as SQL, as they ran; paste one into psql to see it again'
  return `${table('| Query | SQL |\n|:--|:--|', rows, title, rows.length > foldedFrom)}`
}

/** SQL in a cell, an argument a line. A cell holds one line of Markdown: line breaks are entities. */
function sqlBlock(sql: string): string {
  const whole = sql.length > longestSql ? `${sql.slice(0, longestSql)}… -- cut; the whole stands in the report` : `${sql};`
  const lines = whole
    .split(/('(?:[^']|'')*')/)
    .map((piece, index) => (index % 2 === 1 ? piece : piece.replaceAll(/(\(|, )(?=\w+ => )/g, (open) => `${open.trim()}\n  `)))
    .join('')
  const shown = coded(visible(lines)).replaceAll(/\r?\n/g, '&#10;')
  // A block does not wrap: what is too wide for the page stands as code, which does.
  const wide = lines.split('\n').some((line) => line.length > 95)
  return wide ? `<code>${shown}</code>` : `<pre lang="sql"><code>${shown}</code></pre>`
}

function findingsPart(report: Report): string {
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
function fix(value: string): string {
  if (value.includes('\n')) return fence(value)
  const [, words = '', command = ''] =
    /^(.*?)((?:(?<=^|[:;] )(?:az|curl|nslookup|SELECT|GRANT|ALTER|CREATE|CALL|SET) .*)?)$/s.exec(value) ?? []
  const sentence = words.trim() === '' ? '' : `Fix: ${prose(words.trim())}`
  return [sentence, command === '' ? '' : fence(command)].filter((each) => each !== '').join('\n\n')
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

/** A table under the limit of a part, whole rows only; folded under its title. */
function table(head: string, rows: readonly string[], title: string, fold: boolean): string {
  const { kept, left } = within(rows, partLimit)
  const more = left === 0 ? '' : `\n\n> The rest (${count(left, 'row')}) is left out here; it stands in the report.`
  const body = `${[head, ...kept].join('\n')}${more}`
  return fold ? folded(title, body) : `${body}\n`
}

/** As many of the texts, from the first, as stay below the limit in bytes. */
function within(texts: readonly string[], bytes: number): { kept: readonly string[]; left: number } {
  let sum = 0
  let end = 0
  for (const each of texts) {
    sum += Buffer.byteLength(each) + 1
    if (sum > bytes) break
    end++
  }
  return { kept: texts.slice(0, end), left: texts.length - end }
}

function folded(title: string, body: string): string {
  return `<details><summary>${title}</summary>\n\n${body}\n\n</details>\n`
}

/** A fence longer than any run of backticks inside; a value cannot end it. */
function fence(body: string): string {
  const runs = body.match(/`+/g) ?? []
  const ticks = '`'.repeat(Math.max(3, ...runs.map((run) => run.length + 1)))
  return `${ticks}\n${visible(body.slice(0, longestFence)).slice(0, longestFence)}\n${ticks}`
}

/** A value as code. */
export function code(value: string): string {
  return value === '' ? '' : `<code>${coded(cut(value).replaceAll(/\s+/g, ' '))}</code>`
}

/** A value as text, its line breaks kept. */
export function text(value: string): string {
  return words(cut(value))
}

/** A value as code that may wrap behind its separators; copied, it is what it was. */
function wrapped(value: string): string {
  return value === '' ? '' : `<code>${soft(value, coded)}</code>`
}

/** A value on one line that may wrap behind its separators. */
function soft(value: string, as: (piece: string) => string): string {
  return cut(value)
    .replaceAll(/\s+/g, ' ')
    .split(/(?<=[./,:;=&?_-])(?=[^\s./,:;=&?_-])/)
    .map(as)
    .join('<wbr>')
}

/** Our own sentences, with values of others inside: what stands between backticks becomes code, the rest text. */
function prose(value: string): string {
  // What stands at the beginning of a line could be code by its indentation, or a list by its number.
  return cut(value)
    .trimStart()
    .split(/`([^`\n]+)`/)
    .map((piece, index) => (index % 2 === 1 ? `<code>${coded(piece)}</code>` : words(piece)))
    .join('')
    .replace(/^(\d{1,9})([.)])/, (_, number: string, sign: string) => `${number}&#${sign.charCodeAt(0)};`)
}

function cut(value: string): string {
  return visible(value.length > longest ? `${value.slice(0, longest)}…` : value)
}

/** What could begin markup, a mention, a reference or a link becomes an entity. */
function entities(value: string): string {
  return value.replaceAll(/[!"#$%&*+\-/:<>?@[\\\]^_`{|}~]/g, (sign) => `&#${sign.charCodeAt(0)};`)
}

/** A value between tags of our own. Markdown knows nothing of `<code>`, and makes links of addresses inside it. */
function coded(value: string): string {
  return entities(value)
    .replaceAll(/&#64;(?=\S)/g, '$&<wbr>')
    .replaceAll(/(www)\./gi, '$1<wbr>&#46;')
}

/**
 * A value as text outside code. GitHub looks for mentions, references, emoji and formulas in the rendered text, where an
 * entity is a sign again: a tag that shows nothing comes between.
 */
function words(value: string): string {
  return coded(value)
    .replaceAll(/&#(35|58);(?=\S)/g, '$&<wbr>')
    .replaceAll(/(\bgh&#45;)(?=\d)/gi, '$1<wbr>')
    .replaceAll('&#36;', '<span>&#36;</span>')
    .replaceAll(/\r?\n/g, '<br/>')
}
