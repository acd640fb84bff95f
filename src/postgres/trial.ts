/**
 * The switch of a family inside a transaction: set what differs, ask the test queries, commit only when they are accepted.
 * Readers see nothing of it before COMMIT; a second writer waits. Settings are written in the order they are given.
 */
import { createHash, randomBytes } from 'node:crypto'
import { Failure } from '../errors.ts'
import type { Log } from '../log.ts'
import { begin, type Connection, messageOf, type Row, readAtOnce, statementTimeoutMs } from './connection.ts'

/** `[setting, value]`; an empty value blanks. No secrets: these travel as bind parameters. */
export type Setting = readonly [key: string, value: string]

export interface Call {
  readonly name: string
  readonly sql: string
}

/** What came of one test query. */
export type CallOutcome =
  | { readonly ok: true; readonly answer: string; readonly durationMs: number; readonly inReadWrite?: true }
  | {
      readonly ok: false
      readonly text: string
      readonly code: string
      readonly durationMs: number
      readonly cause: unknown
      readonly inReadWrite?: true
    }

export type CallOutcomes = ReadonlyMap<string, CallOutcome>

export interface TrialRequest {
  readonly serverVersion: number
  readonly settings: readonly Setting[]
  /** Keys to store: they reach the server as the data of a COPY, after the settings. */
  readonly secrets?: readonly Setting[]
  /** Whether to keep what the settings were, keys included, on the server, for `restore` on the same connection. */
  readonly keep?: boolean
  /** Told when keys have to travel as bind parameters, which statement logs keep. */
  readonly onExposed?: () => void
  /** A stored secret to take out of reach while the queries run, and what to put in its place for them. */
  readonly hide: { readonly key: string; readonly by: string } | undefined
  readonly calls: readonly Call[]
  /** Whether to commit, given the outcomes; the hidden secret is back in any case. */
  readonly commit: (outcomes: CallOutcomes) => boolean
  readonly log: Log
}

export interface TrialOutcome {
  readonly outcomes: CallOutcomes
  readonly committed: boolean
  /** False when the extension refused to have the secret replaced: then nothing was asked. */
  readonly hidden: boolean
}

/** The advisory lock of this action; the lock space is that of the database. */
const lock = { class: 0x61697067, object: 0x6d6a6f62 }

/** Runs the trial on a connection of its own. Throws what PostgreSQL throws when the transaction itself fails. */
export async function trial(connection: Connection, request: TrialRequest): Promise<TrialOutcome> {
  await connection.query(begin('READ WRITE', request.serverVersion))
  try {
    await takeLock(connection, request.log)
    const secrets = request.secrets ?? []
    if (request.keep === true) await keepPrevious(connection, [...request.settings, ...secrets])
    for (const setting of request.settings) await set(connection, setting)
    if (secrets.length > 0) await store(connection, secrets, request.onExposed)
    if (request.hide !== undefined) {
      await connection.query('SAVEPOINT key_within_reach')
      try {
        await set(connection, [request.hide.key, request.hide.by])
      } catch {
        // Not every version lets a key be replaced by anything: the caller tries another way or says so.
        await connection.query('ROLLBACK')
        return { outcomes: new Map(), committed: false, hidden: false }
      }
    }
    const outcomes = new Map<string, CallOutcome>()
    // The locks are held for as long as one query may take, however many there are.
    const until = performance.now() + statementTimeoutMs
    for (const call of request.calls) {
      if (outcomes.size > 0) {
        const leftMs = Math.max(Math.round(until - performance.now()), 1_000)
        await connection.query(`SET LOCAL statement_timeout = ${leftMs}`)
      }
      await connection.query('SAVEPOINT test_query')
      const outcome = await ask(connection, call)
      outcomes.set(call.name, outcome)
      await connection.query(outcome.ok ? 'RELEASE SAVEPOINT test_query' : 'ROLLBACK TO SAVEPOINT test_query')
    }
    if (request.hide !== undefined) await connection.query('ROLLBACK TO SAVEPOINT key_within_reach')
    const committed = request.commit(outcomes)
    await connection.query(committed ? 'COMMIT' : 'ROLLBACK')
    return { outcomes, committed, hidden: request.hide !== undefined }
  } catch (error) {
    await connection.query('ROLLBACK').catch(() => undefined)
    throw error
  }
}

/**
 * Whether the settings and keys are as given: for a COMMIT whose answer was lost. Undefined when they may not be read.
 * Keys do not travel: the server salts and hashes its own, we ours.
 */
export async function holds(
  connection: Connection,
  serverVersion: number,
  settings: readonly Setting[],
  secrets: readonly Setting[],
): Promise<boolean | undefined> {
  const salt = randomBytes(16).toString('hex')
  const hash = (value: string): string => createHash('sha256').update(`${salt}${value}`).digest('hex')
  try {
    const [[row] = []] = await readAtOnce(connection, serverVersion, [
      {
        text: `SELECT coalesce(bool_and(CASE WHEN secret THEN encode(sha256(convert_to($4 || stored, 'UTF8')), 'hex') ELSE stored END = value), true) AS held
FROM (SELECT secret, value, coalesce(azure_ai.get_setting(key), '') AS stored
  FROM unnest($1::text[], $2::text[], $3::boolean[]) AS wanted(key, value, secret)) AS compared`,
        values: [
          [...settings, ...secrets].map(([key]) => key),
          [...settings.map(([, value]) => value), ...secrets.map(([, value]) => hash(value))],
          [...settings.map(() => false), ...secrets.map(() => true)],
          salt,
        ],
      },
    ])
    return row?.held === true
  } catch (error) {
    if (messageOf(error).code === '42501') return undefined
    throw error
  }
}

/** Puts settings back and commits. One that was not set is blanked, by whichever of '' and NULL the version takes. */
export async function writeBack(
  connection: Connection,
  serverVersion: number,
  settings: readonly Setting[],
  log: Log,
): Promise<void> {
  await connection.query(begin('READ WRITE', serverVersion))
  try {
    await takeLock(connection, log)
    for (const [key, value] of settings) {
      // A version that takes neither has had a key: that is what it falls back to.
      const values = value !== '' ? [value] : ['', null, ...(key.endsWith('auth_type') ? ['subscription-key'] : [])]
      await setFirst(connection, key, values)
    }
    await connection.query('COMMIT')
  } catch (error) {
    await connection.query('ROLLBACK').catch(() => undefined)
    throw error
  }
}

/** Sets the first of the values that is taken. */
async function setFirst(connection: Connection, key: string, values: readonly (string | null)[]): Promise<void> {
  for (const [index, value] of values.entries()) {
    await connection.query('SAVEPOINT put_back')
    try {
      await connection.query('SELECT azure_ai.set_setting($1::text, $2::text)', [key, value])
      // A function that is strict does nothing with NULL and says nothing: it is looked at.
      const [now] = value === null ? await connection.query('SELECT azure_ai.get_setting($1::text) AS value', [key]) : []
      if (value !== null || now?.value === null || now?.value === '' || index === values.length - 1) return
    } catch (error) {
      if (index === values.length - 1 || messageOf(error).code === 'CONNECTION_LOST') throw error
      await connection.query('ROLLBACK TO SAVEPOINT put_back')
    }
  }
}

/** The table is this connection's own: behind a pooler another connection may be given its session. */
const previousOf = (connection: Connection): string => `aipg_previous_${connection.id}`

/** Keeps what the settings are in a temporary table of the session: keys do not leave the server. */
async function keepPrevious(connection: Connection, settings: readonly Setting[]): Promise<void> {
  const keys = settings.map(([key]) => key)
  await withTemporaryTable(
    connection,
    `CREATE TEMPORARY TABLE ${previousOf(connection)} (key text, value text) ON COMMIT PRESERVE ROWS`,
    () =>
      connection.query(
        `INSERT INTO pg_temp.${previousOf(connection)} SELECT key, coalesce(azure_ai.get_setting(key), '') FROM unnest($1::text[]) AS key`,
        [keys],
      ),
    async () => undefined,
  )
}

/** Puts back what `keep` kept, on the same connection. False when there is nothing kept: no right to temporary tables, or a pooler. */
export async function restore(connection: Connection, serverVersion: number, log: Log): Promise<boolean> {
  const table = previousOf(connection)
  const [kept] = await connection.query(`SELECT to_regclass('pg_temp.${table}') IS NOT NULL AS kept`)
  if (kept?.kept !== true) return false
  await connection.query(begin('READ WRITE', serverVersion))
  try {
    await takeLock(connection, log)
    const put = (which: string) =>
      connection.query(
        `SELECT azure_ai.set_setting(key, value) FROM (SELECT key, value FROM pg_temp.${table} WHERE ${which} ORDER BY key) AS previous`,
      )
    const unsetKey = String.raw`value = '' AND key LIKE '%\_key'`
    await put(`NOT (${unsetKey})`)
    await connection.query('SAVEPOINT unset_key')
    try {
      await put(unsetKey)
    } catch {
      // Not every version lets a key be blanked: the other settings are back, and with them it is of no use.
      await connection.query('ROLLBACK TO SAVEPOINT unset_key')
    }
    await connection.query(`DROP TABLE pg_temp.${table}`)
    await connection.query('COMMIT')
    return true
  } catch (error) {
    await connection.query('ROLLBACK').catch(() => undefined)
    throw error
  }
}

/** Drops what `keep` kept: with a pooler, the session outlives the connection. */
export async function forget(connection: Connection): Promise<void> {
  await connection.query(`DROP TABLE IF EXISTS pg_temp.${previousOf(connection)}`)
}

/** Stores keys by way of a temporary table; without the right to one, as bind parameters. */
async function store(connection: Connection, secrets: readonly Setting[], onExposed: (() => void) | undefined): Promise<void> {
  await withTemporaryTable(
    connection,
    'CREATE TEMPORARY TABLE aipg_secret (key text, value text) ON COMMIT DROP',
    async () => {
      await connection.copyIn('COPY pg_temp.aipg_secret FROM STDIN', secrets)
      await connection.query('SELECT azure_ai.set_setting(key, value) FROM pg_temp.aipg_secret')
    },
    async () => {
      onExposed?.()
      for (const secret of secrets) await set(connection, secret)
    },
  )
}

/** Runs `body` with the table, or `without` where the role may not make one (42501). */
async function withTemporaryTable(
  connection: Connection,
  create: string,
  body: () => Promise<unknown>,
  without: () => Promise<unknown>,
): Promise<void> {
  await connection.query('SAVEPOINT temporary_table')
  try {
    await connection.query(create)
  } catch (error) {
    if (messageOf(error).code !== '42501') throw error
    await connection.query('ROLLBACK TO SAVEPOINT temporary_table')
    await without()
    return
  }
  await body()
}

/**
 * Asks the test queries read-only, each in a transaction of its own, all in one round trip; a function that refuses that is
 * asked again in a transaction that is rolled back.
 */
export async function askReadOnly(connection: Connection, serverVersion: number, calls: readonly Call[]): Promise<CallOutcomes> {
  const outcomes = new Map<string, CallOutcome>()
  let before: Promise<unknown> | undefined
  const asked = calls.map((call, index) => {
    // The server answers one after the other: each has its own time, which begins when the one before is answered.
    const timeoutMs = statementTimeoutMs * (index + 1)
    const rows = readAtOnce(connection, serverVersion, [{ text: call.sql, timeoutMs }]).then(([answer = []]) => answer)
    const outcome = outcomeOf(rows, before)
    before = rows.catch(() => undefined)
    return outcome
  })
  for (const [index, outcome] of (await Promise.all(asked)).entries()) {
    const call = calls[index] as Call
    outcomes.set(call.name, outcome)
    if (outcome.ok || outcome.code !== '25006') continue
    await connection.query(begin('READ WRITE', serverVersion))
    outcomes.set(call.name, { ...(await ask(connection, call)), inReadWrite: true })
    await connection.query('ROLLBACK')
  }
  return outcomes
}

const ask = (connection: Connection, call: Call): Promise<CallOutcome> => outcomeOf(connection.query(call.sql), undefined)

/** What came of a test query that is under way; its time counts from now, or from the end of what is `before` it on the line. */
async function outcomeOf(rows: Promise<readonly Row[]>, before: Promise<unknown> | undefined): Promise<CallOutcome> {
  let start = performance.now()
  const begun = before?.then(() => {
    start = performance.now()
  })
  try {
    const [row] = await rows
    await begun
    const answer = shown(row)
    const durationMs = performance.now() - start
    // No answer is no proof.
    if (answer === '') return { ok: false, text: 'the function answered NULL', code: '', durationMs, cause: undefined }
    return { ok: true, answer, durationMs }
  } catch (error) {
    const { text, code } = messageOf(error)
    // A run that is cancelled or a lost connection says nothing about the service.
    if (error instanceof Failure || ['CONNECTION_LOST', 'ECONNRESET', '57P01', 'QUERY_TIMEOUT'].includes(code)) throw error
    return { ok: false, text, code, durationMs: performance.now() - start, cause: error }
  }
}

/** The one value of the answer as text. */
function shown(row: Row | undefined): string {
  const value = row === undefined ? null : Object.values(row)[0]
  return value === null || value === undefined ? '' : typeof value === 'string' ? value : JSON.stringify(value)
}

async function set(connection: Connection, [key, value]: Setting): Promise<void> {
  await connection.query('SELECT azure_ai.set_setting($1::text, $2::text)', [key, value])
}

/** One run at a time in each database. Who holds the lock is said; then PostgreSQL waits, for as long as lock_timeout allows. */
async function takeLock(connection: Connection, log: Log): Promise<void> {
  const [row] = await connection.query('SELECT pg_try_advisory_xact_lock($1, $2) AS taken', [lock.class, lock.object])
  if (row?.taken === true) return
  const holders = await connection.query(
    `SELECT a.pid, a.usename, a.application_name, host(a.client_addr) AS address, a.xact_start
     FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
     WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND l.classid = $1 AND l.objid = $2`,
    [lock.class, lock.object],
  )
  const who = holders
    .map((each) => `${each.usename} (pid ${each.pid}, ${each.application_name}, from ${each.address ?? 'a local socket'})`)
    .join(', ')
  log.info(`… another run is switching database "${connection.database}": waiting for ${who === '' ? 'it' : who}`)
  await connection.query('SELECT pg_advisory_xact_lock($1, $2)', [lock.class, lock.object])
}
