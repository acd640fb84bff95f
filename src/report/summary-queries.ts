/** The test queries of a summary: their results by database and service, and their SQL. Pure. */
import type { QueryResult } from '../core/journal.ts'
import type { Report } from '../core/report.ts'
import { allQueries, placeOfQuery } from '../core/services.ts'
import { visible } from '../lib/unicode.ts'
import { grouped, groupedWhereMany, inDatabase, likeness, withoutName } from './grouping.ts'
import { code, coded, count, names, soft, table, text, words, wrapped } from './markdown.ts'

/** Rows of a table beyond which it is folded. */
const foldedFrom = 24
/** Longest SQL shown, in characters. */
const longestSql = 4_000

const queryIcons: Record<QueryResult['status'], string> = { passed: '✅', failed: '❌', skipped: '⏭️' }

/** The answers: a row for each database, or for all that have the same ones; a column for each query. */
export function answersPart({ queries, steps }: Report): string {
  if (queries.length === 0) return ''
  const columns = allQueries.filter(({ name }) => queries.some((query) => query.name === name))
  const byDatabase = new Map(grouped(queries, ({ database }) => database).map((own) => [own[0].database, own]))
  // In the order of the steps, which is that of the input; queries end when they end.
  const databases = new Set([...steps.filter(inDatabase).map(({ target }) => target), ...byDatabase.keys()])
  const answers = [...databases].map((database) => ({ database, own: byDatabase.get(database) ?? [] }))
  const answered = answers.filter(({ own }) => own.length > 0)
  const groups = groupedWhereMany(answered, ({ database, own }) =>
    JSON.stringify(
      columns.map(({ name }) => {
        const query = own.find((each) => each.name === name)
        return query && [query.status, query.answer, query.proof, likeness(query.error, database)]
      }),
    ),
  )
  const rows = groups.map((group) => {
    const [{ own }] = group
    const isBad = own.some(({ status }) => status === 'failed')
    const passedOrSkipped = own.every(({ status }) => status === 'passed') ? '✅' : '⏭️'
    const cells = columns.map(({ name }) => answer(group.flatMap((each) => each.own.find((query) => query.name === name) ?? [])))
    const label = databasesLabel(
      group.map(({ database }) => database),
      byDatabase.size,
    )
    return { isBad, row: `| ${isBad ? '❌' : passedOrSkipped}&nbsp;${label} | ${cells.join(' | ')} |` }
  })
  // What failed is first.
  const sorted = [...rows.filter(({ isBad }) => isBad), ...rows.filter(({ isBad }) => !isBad)].map(({ row }) => row)
  const head = `| Database | ${columns.map(({ title }) => text(title)).join(' | ')} |\n|:--|${columns.map(() => ':--').join('|')}|`
  const fold = sorted.length > foldedFrom && !rows.some(({ isBad }) => isBad)
  return `### Test queries\n\n${table(head, sorted, `Answers of ${count(byDatabase.size, 'database')}`, fold)}`
}

/** The databases of a row, of so many in all. */
function databasesLabel(databases: readonly string[], all: number): string {
  const [only] = databases
  if (only !== undefined && databases.length === 1) return code(only)
  return databases.length === all ? `**all ${all} databases**` : `**${databases.length} databases**<br/>${names('', databases)}`
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
  const shown =
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
  return `${status === 'passed' ? '' : `${queryIcons[status]} ${status}<br/>`}${shown}${line}`
}

/** The queries as SQL, each once: most often they are the same in every database. */
export function sqlPart(report: Report): string {
  const queries = report.queries.filter((query) => query.sql !== '').sort((a, b) => placeOfQuery(a) - placeOfQuery(b))
  if (queries.length === 0) return ''
  const all = new Set(queries.map((query) => query.database)).size
  const rows = grouped(queries, (query) => JSON.stringify([query.name, query.sql])).map((group) => {
    const [query] = group
    const databases = new Set(group.map((each) => each.database))
    const only = databases.size === all ? '' : `<br/>${names('in ', [...databases])}`
    return `| ${text(allQueries[placeOfQuery(query)]?.title ?? '')}${only} | ${sqlBlock(query.sql)} |`
  })
  const title = 'The queries as SQL, as they ran; paste one into psql to see it again'
  return `${table('| Query | SQL |\n|:--|:--|', rows, title, rows.length > foldedFrom)}`
}

/** SQL in a cell, an argument a line. A cell has one line of Markdown: line breaks are entities. */
function sqlBlock(sql: string): string {
  const whole = sql.length > longestSql ? `${sql.slice(0, longestSql)}… -- cut; the whole is in the report` : `${sql};`
  const lines = whole
    .split(/('(?:[^']|'')*')/)
    .map((piece, index) => (index % 2 === 1 ? piece : piece.replaceAll(/(\(|, )(?=\w+ => )/g, (open) => `${open.trim()}\n  `)))
    .join('')
  const shown = coded(visible(lines)).replaceAll(/\r?\n/g, '&#10;')
  // A block does not wrap: what is too wide for the page stands as code, which does.
  const wide = lines.split('\n').some((line) => line.length > 95)
  return wide ? `<code>${shown}</code>` : `<pre lang="sql"><code>${shown}</code></pre>`
}
