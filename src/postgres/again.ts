/** What PostgreSQL, its driver and the line say that is worth another try. Each try is a transaction of its own. The first row that fits decides. */
import { busy, replication, type Schedule, transient, unreachable, type Verdict } from '../lib/retry.ts'
import { messageOf, sqlState } from './connection.ts'

/**
 * `look`: the first time that a database is connected to, where a wrong setting and a closed firewall look like a fault;
 * `work`: settings and test queries, in a database that was seen; `extension`: CREATE and ALTER EXTENSION.
 */
type SqlMoment = 'look' | 'work' | 'extension'

/** CREATE or ALTER EXTENSION for what the server's allow-list does not contain, or not yet. */
export const notAllowListed = /not allow-listed/i

export interface SqlRow {
  /** SQLSTATE, errno, or one of the names that this action gives to the driver's own errors. */
  readonly codes?: readonly string[]
  /** A pattern that the message contains. */
  readonly text?: RegExp
  readonly moments: readonly SqlMoment[]
  readonly schedule: Schedule
  readonly reason: string
}

const always = ['look', 'work', 'extension'] as const
const afterLook = ['work', 'extension'] as const

export const sqlRows: readonly SqlRow[] = [
  {
    codes: ['40P01', '40001'],
    moments: always,
    schedule: busy,
    reason: 'Deadlock, serialization failure: another writer went first, and this transaction was undone as a whole',
  },
  {
    codes: ['55P03'],
    moments: always,
    schedule: busy,
    reason: 'Another session holds the lock for longer than `lock_timeout`; waiting on would keep others waiting behind us',
  },
  {
    codes: ['57P01', '57P02', '57P05', 'ECONNRESET', 'EPIPE', 'CONNECTION_LOST', '08000', '08003', '08006'],
    moments: always,
    schedule: transient,
    reason:
      'A restart, a failover, a broken line or a limit on idle sessions. What was not committed is undone; after COMMIT was sent it is read what is there',
  },
  { codes: ['57P03'], moments: always, schedule: transient, reason: 'The server is starting up or shutting down' },
  { codes: ['53300'], moments: always, schedule: transient, reason: 'No connection is left just now' },
  {
    codes: ['57014', 'QUERY_TIMEOUT'],
    moments: always,
    schedule: transient,
    reason:
      'Slower than the limit of a statement, or cancelled by another session: undone. A test query that says so has answered',
  },
  {
    codes: ['08001', 'LOGIN_TIMEOUT', 'ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH', 'ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN'],
    moments: afterLook,
    schedule: transient,
    reason:
      'During a failover the name may lead nowhere for a moment. Not at the first look: a wrong name and a closed firewall say the same',
  },
  {
    text: notAllowListed,
    moments: ['extension'],
    schedule: replication,
    reason: 'The server obeys a new allow-list a moment after Resource Manager has it',
  },
  {
    codes: ['23505'],
    moments: ['extension'],
    schedule: replication,
    reason: 'Two runs create the extension at once; the second try finds it there',
  },
  {
    text: /tuple concurrently updated/i,
    moments: ['extension'],
    schedule: replication,
    reason: 'Two runs update the extension at once, for which PostgreSQL has no code of its own',
  },
]

/** The row that fits an error; undefined when none does. */
function sqlRowOf(error: unknown, moment: SqlMoment): SqlRow | undefined {
  const code = sqlState(error)
  return sqlRows.find(
    (row) =>
      row.moments.includes(moment) &&
      (row.codes === undefined || row.codes.includes(code)) &&
      (row.text === undefined || row.text.test(messageOf(error).text)),
  )
}

/** At the first look a server that is away is waited for no longer than half a minute. */
export function verdictOnSql(error: unknown, moment: SqlMoment): Verdict {
  const row = sqlRowOf(error, moment)
  if (row === undefined) return false
  return { schedule: moment === 'look' ? { ...row.schedule, budgetMs: unreachable.budgetMs } : row.schedule }
}
