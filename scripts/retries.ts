/** docs/retries.md, written from the tables of src/. */
import { localTokenLimitMs, tokenLimitMs } from '../src/azure/credential.ts'
import { pollCapMs } from '../src/azure/pipeline.ts'
import type { Inputs } from '../src/core/inputs.ts'
import { type Allowance, allowances, lastWordMs, outOfTime, runBudgetMs } from '../src/core/time-limit.ts'
import { budgetMs as conversationMs } from '../src/github/rest.ts'
import { oidcLimitMs } from '../src/github/runner.ts'
import { type HttpRow, httpRows, requestTimeoutMs } from '../src/lib/http-retries.ts'
import * as retry from '../src/lib/retry.ts'
import { duration } from '../src/lib/timeout.ts'
import { type SqlRow, sqlRows } from '../src/postgres/again.ts'
import { closeTimeoutMs, connectTimeoutMs, graceMs } from '../src/postgres/connection.ts'
import { lockLimitMs } from '../src/postgres/lock.ts'
import { statementTimeoutMs } from '../src/postgres/transaction.ts'
import { postRetry } from '../src/stages/remove-rule.ts'
import { between, table } from './markdown.ts'

const timedOut = outOfTime(0)
const { busy, limited, renewed, replication, throttled, transient, unreachable } = retry
const paces = { transient, unreachable, busy, throttled, limited, replication, renewed }

function paceOf(schedule: retry.Schedule | undefined): string {
  if (schedule === undefined) return 'never'
  const found = Object.entries(paces).find(([, each]) => each === schedule)
  if (found === undefined) throw new Error('a row has a pace of its own')
  return found[0]
}

const what = {
  transient: 'an error of the connection or of a service',
  unreachable: 'no server answers',
  busy: 'another process’s operation or lock',
  throttled: '429',
  limited: 'GitHub’s limits',
  replication: 'Azure’s own replication',
  renewed: 'a new token, once for a request',
} as const
const span = (ms: number): string => (ms === 0 ? 'none' : duration(ms).replace('.0 ', ' '))
const list = (codes: readonly (string | number)[] | RegExp | undefined): string =>
  codes === undefined
    ? ''
    : (codes instanceof RegExp ? codes.source.split('|').map((part) => `…${part}…`) : codes)
        .map((code) => `\`${code}\``)
        .join(', ')

const stages = { answer: '', connection: 'the connection: ', operation: 'a long-running operation: ' } as const

export function httpRow(row: HttpRow): readonly string[] {
  const seen = [list(row.statuses), list(row.codes), row.sign ?? ''].filter((part) => part !== '').join(' with ')
  return [
    stages[row.stage ?? 'answer'] + (seen === '' ? 'anything else' : seen),
    row.from ?? 'all',
    paceOf(row.schedule),
    row.schedule === undefined ? '' : row.unsafe === true ? 'yes' : 'no',
    row.reason,
  ]
}

export function sqlRow(row: SqlRow): readonly string[] {
  const seen = [list(row.codes), row.text === undefined ? '' : `\`${row.text.source}\``]
    .filter((part) => part !== '')
    .join(' with ')
  const moments = { look: 'first look', work: 'settings, queries', extension: 'extension' } as const
  return [
    seen,
    row.moments.length === 3 ? 'always' : row.moments.map((each) => moments[each]).join(', '),
    paceOf(row.schedule),
    row.reason,
  ]
}

/** What the README says of `timeout-minutes`: the run's own limit and ten minutes, in steps of five. */
export function jobMinutes(
  inputs: Pick<
    Inputs,
    'mode' | 'part' | 'allowRestart' | 'temporaryFirewallRule' | 'verifyTimeoutMs' | 'databases' | 'scopeParts'
  >,
): number {
  return Math.ceil((runBudgetMs(inputs as Inputs) / 60_000 + 9) / 5) * 5
}

const usual = {
  mode: 'apply',
  part: 'all',
  allowRestart: false,
  temporaryFirewallRule: false,
  verifyTimeoutMs: 600_000,
  databases: ['app'],
  scopeParts: [],
} as const
export const examples: readonly [string, Parameters<typeof jobMinutes>[0]][] = [
  ['`check`', { ...usual, mode: 'check' }],
  ['`verify`', { ...usual, mode: 'verify' }],
  ['`apply`', usual],
  ['`apply` with `allow-restart`', { ...usual, allowRestart: true }],
  [
    'the same with `temporary-firewall-rule` and 200 databases',
    { ...usual, allowRestart: true, temporaryFirewallRule: true, databases: Array.from({ length: 200 }, String) },
  ],
]

export function retriesSection(): string {
  const limits: [string, string][] = [
    ['an HTTP request to Resource Manager, Entra, GitHub or its OIDC service, the whole body included', span(requestTimeoutMs)],
    ['an Entra token in all, tries included', span(tokenLimitMs)],
    ['the same from `az` or from the metadata service, which are on the runner', span(localTokenLimitMs)],
    ['the OIDC token in all', span(oidcLimitMs)],
    ['between two polls of a long-running operation, whatever Retry-After says', span(pollCapMs)],
    ['turning on the identity; the allow-list; the restart; a firewall rule', '15, 10, 20, 6 min'],
    ['connecting to PostgreSQL, TLS and login included', span(connectTimeoutMs)],
    [
      'an SQL statement, on the server (`statement_timeout`); `CREATE` and `ALTER EXTENSION`',
      `${span(statementTimeoutMs)}; 1 min`,
    ],
    ['the same on the client, also BEGIN, COPY, COMMIT and ROLLBACK: then the connection is cut', `${span(graceMs)} more`],
    ['a lock (`lock_timeout`); idle in a transaction', '10 s; 1 min'],
    [
      'the advisory lock of the action, in one database for the whole run',
      `as long as \`verify-timeout-minutes\`, at least ${span(lockLimitMs(0))} and at most ${span(lockLimitMs(Number.POSITIVE_INFINITY))}`,
    ],
    ['closing a connection', span(closeTimeoutMs)],
    ['the drift issue and the comment, after the run', `2 min (each ${span(conversationMs)} at most)`],
    [`the post step; what fails in its first ${span(postRetry.budgetMs)} is tried again from the login on`, '8 min'],
  ]
  return [
    '### Paces',
    'Waits double from the first to the longest, each spread by a quarter to either side.\nWhat the other side requests (`Retry-After` in seconds or as a date, `retry-after-ms`, `x-ms-retry-after-ms`) goes before that, up to the longest wait: it is waited that long and up to a quarter more, never less, so that runs with the same response spread out.\n`0`, a date that is past and what cannot be read count as no value.',
    table(
      ['pace', 'for', 'first wait', 'longest wait', 'in all'],
      Object.entries(paces).map(([name, { baseMs, capMs, budgetMs }]) => [
        name,
        what[name as keyof typeof what],
        span(baseMs),
        span(capMs),
        span(budgetMs),
      ]),
    ),
    '### HTTP',
    'The first row that fits decides (`src/lib/http-retries.ts`).\n"POST too": sent again although doing it twice would be wrong.\nOnly the restart needs that; before it creates something on GitHub again, the action looks whether the first try created it.\nAnything in no row is a final answer, and is reported as it is.\nThe SDK queries the metadata service of a runner in Azure, which has its own pace for it.',
    table(['seen', 'from', 'pace', 'POST too', 'why'], httpRows.map(httpRow)),
    '### SQL',
    `Each try is a transaction of its own on a fresh connection (\`src/postgres/again.ts\`).\nAt the first look at a database nothing is waited for longer than ${span(unreachable.budgetMs)}.\nWhen the response to COMMIT is lost, a fresh connection checks whether it took effect: if not, the work is done again; if so, it is verified or put back; what cannot be read counts as written.`,
    table(['SQLSTATE or error', 'when', 'pace', 'why'], sqlRows.map(sqlRow)),
    '### Time limits',
    table(['what', 'longest time'], limits),
    '### The whole run',
    `A run has a limit that follows from its inputs, the sum of these.\nWhen it is reached the run ends as on a cancel (what is committed and not verified is put back, within seconds), reports, and fails with \`failure-reason: ${timedOut.reason}\` and the finding \`${timedOut.code}\`.\nWhat does not end even then is reported as it stands ${span(lastWordMs)} later.`,
    table(
      ['allowance', 'for'],
      allowances.map(({ amount, what: purpose }: Allowance) => [amount, purpose]),
    ),
    'The limit of the job should be higher, so that the report and the post step have their time:',
    table(
      ['one database, defaults', 'ends by itself after', '`timeout-minutes` of the job'],
      examples.map(([name, inputs]) => [name, span(runBudgetMs(inputs as Inputs)), String(jobMinutes(inputs))]),
    ),
  ].join('\n\n')
}

/** The page with its tables written again. */
export const withRetries = (page: string): string => between(page, 'retries', retriesSection())
