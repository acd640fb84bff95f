/**
 * The switch of a family inside a transaction: set what differs, run the test queries, commit only when they pass.
 * Readers see nothing of it before COMMIT; a second writer waits. Settings are written in the order of the list.
 */
import { createHash, randomBytes } from 'node:crypto'
import type { ReadDatabase } from '../core/observed.ts'
import type { ServiceName } from '../core/services.ts'
import type { QueryName } from '../core/test-query.ts'
import { Failure } from '../errors/failure.ts'
import { bounded } from '../lib/bounded.ts'
import type { Log } from '../lib/log.ts'
import { withoutCredentials } from '../lib/secrets.ts'
import { verdictOnSql } from './again.ts'
import { type Connection, messageOf } from './connection.ts'
import { takeLock, takeLockToPutBack } from './lock.ts'
import { isUndefinedName, withNames } from './names.ts'
import { quoteLiteral, type Row, statementTimeoutMs, type Transaction } from './transaction.ts'

/** `[setting, value]`; an empty value blanks. No secrets: these travel as bind parameters. */
export type Setting = readonly [key: string, value: string]

export interface Call {
  readonly name: QueryName
  readonly service: ServiceName
  /** For a reader. */
  readonly title: string
  /** The setting of the endpoint that it calls. */
  readonly endpoint: string
  /** The deployment that it names, where it names one. */
  readonly deployment: string | undefined
  readonly sql: string
  /** Whether a value says that the service did what it was to do. An empty one never does. */
  readonly isAnswer: (value: string) => boolean
  /** What the answer says, for a reader. */
  readonly answer: (value: string) => string
  /** Runs in its place where the service has retired the function. */
  readonly fallback: Call | undefined
}

/** The result of one test query. */
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

/** What is known of the database that a transaction runs in. */
type Ground = Pick<ReadDatabase, 'serverVersion' | 'extensionSchemas'>

interface TrialRequest {
  readonly database: Ground
  readonly settings: readonly Setting[]
  /** Keys to store: they reach the server as the data of a COPY, after the settings. */
  readonly secrets?: readonly Setting[]
  /** Whether to keep what the settings were, keys included, on the server, for `restore` on the same connection. */
  readonly keep?: boolean
  /** Called when keys have to travel as bind parameters, which statement logs keep. */
  readonly onExposed?: () => void
  /** Stored secrets to hide while the queries run, each with its placeholder. */
  readonly hide: readonly Setting[]
  readonly calls: readonly Call[]
  /** Whether to commit after these outcomes; hidden secrets are back in any case. */
  readonly commit: (outcomes: CallOutcomes) => boolean
  readonly log: Log
}

interface TrialOutcome {
  readonly outcomes: CallOutcomes
  readonly committed: boolean
  /** False when the extension refused to have the secret replaced: then no query ran. */
  readonly hidden: boolean
}

/** Runs the trial on a connection of its own. Throws what PostgreSQL throws when the transaction itself fails. */
export function trial(connection: Connection, request: TrialRequest): Promise<TrialOutcome> {
  const { serverVersion, extensionSchemas } = request.database
  return withNames(extensionSchemas, (schemas) =>
    connection.write({ serverVersion, schemas }, (transaction) =>
      tryIn(transaction, connection, request, schemas.length === 0 && extensionSchemas.length > 0),
    ),
  )
}

/** `mayLookUp`: whether the trial is repeated with the extension's schemas in the path when a name is not found. */
async function tryIn(
  transaction: Transaction,
  connection: Connection,
  request: TrialRequest,
  mayLookUp: boolean,
): Promise<TrialOutcome> {
  await takeLock(transaction, connection, request.log)
  const secrets = request.secrets ?? []
  if (request.keep === true) await keepPrevious(transaction, connection, request, [...request.settings, ...secrets])
  for (const setting of request.settings) await set(transaction, setting)
  if (secrets.length > 0) await store(transaction, connection, secrets, request.onExposed)
  if (request.hide.length > 0) {
    await transaction.query('SAVEPOINT key_within_reach')
    try {
      for (const secret of request.hide) await set(transaction, secret)
    } catch (error) {
      if (mayLookUp && isUndefinedName(messageOf(error).code)) throw error
      // A lock, a time limit or a lost connection says nothing about what the version takes: the whole is tried again.
      if (verdictOnSql(error, 'work') !== false) throw error
      // Not every version lets a key be replaced by anything: the caller tries another way or says so.
      return { outcomes: new Map(), committed: false, hidden: false }
    }
  }
  const outcomes = new Map<string, CallOutcome>()
  // The locks are held for as long as one query may take, however many there are.
  const until = performance.now() + statementTimeoutMs
  for (const call of request.calls) {
    if (outcomes.size > 0) {
      const leftMs = Math.max(Math.round(until - performance.now()), 1_000)
      await transaction.query(`SET LOCAL statement_timeout = ${leftMs}`)
    }
    await transaction.query('SAVEPOINT test_query')
    const outcome = await runCall(transaction, call, mayLookUp)
    outcomes.set(call.name, outcome)
    await transaction.query(outcome.ok ? 'RELEASE SAVEPOINT test_query' : 'ROLLBACK TO SAVEPOINT test_query')
  }
  if (request.hide.length > 0) await transaction.query('ROLLBACK TO SAVEPOINT key_within_reach')
  const committed = request.commit(outcomes)
  if (committed) await transaction.commit()
  return { outcomes, committed, hidden: request.hide.length > 0 }
}

/**
 * Whether the settings and keys are the stored ones: for a COMMIT whose answer was lost. Undefined when they may not be read.
 * Keys do not travel: the server salts and hashes its own, we ours.
 */
export async function hasStored(
  connection: Connection,
  { serverVersion, extensionSchemas }: Ground,
  settings: readonly Setting[],
  secrets: readonly Setting[],
): Promise<boolean | undefined> {
  const salt = randomBytes(16).toString('hex')
  const hash = (value: string): string => createHash('sha256').update(`${salt}${value}`).digest('hex')
  const wanted = [
    ...settings.map(([key, value]) => `(${quoteLiteral(key)}::text, ${quoteLiteral(value)}::text, false)`),
    ...secrets.map(([key, value]) => `(${quoteLiteral(key)}::text, '${hash(value)}'::text, true)`),
  ]
  if (wanted.length === 0) return true
  const sql = `SELECT bool_and(CASE WHEN secret THEN encode(sha256(convert_to('${salt}' || stored, 'UTF8')), 'hex') ELSE stored END = value) AS held
FROM (SELECT secret, value, coalesce(azure_ai.get_setting(key), '') AS stored FROM (VALUES ${wanted.join(', ')}) AS wanted(key, value, secret)) AS compared`
  try {
    const [[row] = []] = await withNames(extensionSchemas, (schemas) => connection.read([sql], { serverVersion, schemas }))
    return row?.held === true
  } catch (error) {
    if (messageOf(error).code === '42501') return undefined
    throw error
  }
}

/** Puts settings back and commits. One that was not set is cleared, by whichever of '' and NULL the version takes. */
export function writeBack(connection: Connection, ground: Ground, settings: readonly Setting[], log: Log): Promise<void> {
  const { serverVersion, extensionSchemas } = ground
  return withNames(extensionSchemas, (schemas) =>
    connection.write({ serverVersion, schemas }, async (transaction) => {
      await takeLockToPutBack(transaction, connection, log)
      for (const [key, value] of settings) {
        // A version that takes neither has had a key: that is what it falls back to.
        const values = value !== '' ? [value] : ['', null, ...(key.endsWith('auth_type') ? ['subscription-key'] : [])]
        await setFirst(transaction, key, values)
      }
      await transaction.commit()
    }),
  )
}

/** Sets the first of the values that is taken. */
async function setFirst(transaction: Transaction, key: string, values: readonly (string | null)[]): Promise<void> {
  for (const [index, value] of values.entries()) {
    await transaction.query('SAVEPOINT put_back')
    try {
      await transaction.query('SELECT azure_ai.set_setting($1::text, $2::text)', [key, value])
      // A function that is strict does nothing with NULL and says nothing: it is looked at.
      const looked = `SELECT coalesce(azure_ai.get_setting($1::text), '') = '' AS is_unset`
      const [now] = value === null ? await transaction.query(looked, [key]) : []
      if (value !== null || now?.is_unset === true || index === values.length - 1) return
    } catch (error) {
      if (index === values.length - 1 || messageOf(error).code === 'CONNECTION_LOST') throw error
      await transaction.query('ROLLBACK TO SAVEPOINT put_back')
    }
  }
}

/** The tables are this connection's own: behind a pooler another connection may get its session. */
const previousOf = ({ id }: Connection): string => `pg_temp.aipg_previous_${id}`
const secretOf = ({ id }: Connection): string => `pg_temp.aipg_secret_${id}`

/** Keeps what the settings are in a temporary table of the session: keys do not leave the server. */
async function keepPrevious(
  transaction: Transaction,
  connection: Connection,
  { database: { serverVersion } }: TrialRequest,
  settings: readonly Setting[],
): Promise<void> {
  // This session is idle while others check what it committed; a limit of the database would end it, and the key with it.
  if (serverVersion >= 14) await transaction.query('SET SESSION idle_session_timeout = 0')
  const keys = settings.map(([key]) => key)
  const table = previousOf(connection)
  await withTemporaryTable(
    transaction,
    `CREATE TEMPORARY TABLE ${table} (key text, value text) ON COMMIT PRESERVE ROWS`,
    () =>
      transaction.query(
        `INSERT INTO ${table} SELECT key, coalesce(azure_ai.get_setting(key), '') FROM unnest($1::text[]) AS key`,
        [keys],
      ),
    async () => undefined,
  )
}

/** Puts back what `keep` kept, on the same connection. False when there is nothing kept: no right to temporary tables, or a pooler. */
export function restore(connection: Connection, { serverVersion, extensionSchemas }: Ground, log: Log): Promise<boolean> {
  const table = previousOf(connection)
  const put = (transaction: Transaction, which: string) =>
    transaction.query(
      `SELECT azure_ai.set_setting(key, value) FROM (SELECT key, value FROM ${table} WHERE ${which} ORDER BY key) AS previous`,
    )
  const unsetKey = `value = '' AND right(key, 4) = '_key'`
  return withNames(extensionSchemas, (schemas) =>
    connection.write({ serverVersion, schemas }, async (transaction) => {
      const [kept] = await transaction.query(`SELECT to_regclass('${table}') IS NOT NULL AS kept`)
      if (kept?.kept !== true) return false
      await takeLockToPutBack(transaction, connection, log)
      await put(transaction, `NOT (${unsetKey})`)
      await transaction.query('SAVEPOINT unset_key')
      try {
        await put(transaction, unsetKey)
      } catch (error) {
        if (isUndefinedName(messageOf(error).code)) throw error
        // Not every version lets a key be cleared: the other settings are back, and with them it is of no use.
        await transaction.query('ROLLBACK TO SAVEPOINT unset_key')
      }
      await transaction.query(`DROP TABLE ${table}`)
      await transaction.commit()
      return true
    }),
  )
}

/** Drops what `keep` kept: with a pooler, the session outlives the connection. */
export function forget(connection: Connection, { serverVersion }: Ground): Promise<void> {
  return connection.write({ serverVersion }, async (transaction) => {
    await transaction.query(`DROP TABLE IF EXISTS ${previousOf(connection)}`)
    await transaction.commit()
  })
}

/** Stores keys by way of a temporary table; without the right to one, as bind parameters. */
async function store(
  transaction: Transaction,
  connection: Connection,
  secrets: readonly Setting[],
  onExposed: (() => void) | undefined,
): Promise<void> {
  const table = secretOf(connection)
  await withTemporaryTable(
    transaction,
    `CREATE TEMPORARY TABLE ${table} (key text, value text) ON COMMIT DROP`,
    async () => {
      await transaction.copyIn(`COPY ${table} FROM STDIN`, secrets)
      await transaction.query(`SELECT azure_ai.set_setting(key, value) FROM ${table}`)
    },
    async () => {
      onExposed?.()
      for (const secret of secrets) await set(transaction, secret)
    },
  )
}

/** Runs `body` with the table, or `without` where the role may not make one (42501). */
async function withTemporaryTable(
  transaction: Transaction,
  create: string,
  body: () => Promise<unknown>,
  without: () => Promise<unknown>,
): Promise<void> {
  await transaction.query('SAVEPOINT temporary_table')
  try {
    await transaction.query(create)
  } catch (error) {
    if (messageOf(error).code !== '42501') throw error
    await transaction.query('ROLLBACK TO SAVEPOINT temporary_table')
    await without()
    return
  }
  await body()
}

/**
 * Runs the test queries read-only, each in a transaction of its own, all in one round trip; a function that refuses that is
 * run again in a transaction that is rolled back.
 */
export async function queryReadOnly(connection: Connection, ground: Ground, calls: readonly Call[]): Promise<CallOutcomes> {
  const { serverVersion, extensionSchemas } = ground
  const outcomes = new Map<string, CallOutcome>()
  let before: Promise<unknown> | undefined
  const running = calls.map((call, index) => {
    // The server answers one after the other: each has its own time, which begins when the one before is answered.
    const timeoutMs = statementTimeoutMs * (index + 1)
    const rows = withNames(extensionSchemas, (schemas) => connection.read([call.sql], { serverVersion, schemas, timeoutMs }))
    const outcome = outcomeOf(
      call,
      rows.then(([answer = []]) => answer),
      before,
    )
    before = rows.catch(() => undefined)
    return outcome
  })
  for (const [index, outcome] of (await Promise.all(running)).entries()) {
    const call = calls[index] as Call
    outcomes.set(call.name, outcome)
    if (outcome.ok || outcome.code !== '25006') continue
    const again = await withNames(extensionSchemas, (schemas) =>
      connection.write({ serverVersion, schemas }, (transaction) =>
        runCall(transaction, call, schemas.length === 0 && extensionSchemas.length > 0),
      ),
    )
    outcomes.set(call.name, { ...again, inReadWrite: true })
  }
  return outcomes
}

/** Throws when a name was not found and is to be looked up in the extension's schemas. */
async function runCall(transaction: Transaction, call: Call, mayLookUp: boolean): Promise<CallOutcome> {
  const outcome = await outcomeOf(call, transaction.query(call.sql), undefined)
  if (!outcome.ok && mayLookUp && isUndefinedName(outcome.code)) throw outcome.cause
  return outcome
}

/** The result of a test query that is under way; its time counts from now, or from the end of what is `before` it on the line. */
async function outcomeOf(
  { isAnswer }: Call,
  rows: Promise<readonly Row[]>,
  before: Promise<unknown> | undefined,
): Promise<CallOutcome> {
  let start = performance.now()
  const begun = before?.then(() => {
    start = performance.now()
  })
  try {
    const [row] = await rows
    await begun
    const answer = shown(row)
    const durationMs = performance.now() - start
    // No answer verifies nothing.
    if (answer === '') return { ok: false, text: 'the function answered NULL', code: '', durationMs, cause: undefined }
    if (!isAnswer(answer))
      return { ok: false, text: `the function answered without a result: ${answer}`, code: '', durationMs, cause: undefined }
    return { ok: true, answer, durationMs }
  } catch (error) {
    const { text, code } = messageOf(error)
    // A run that is cancelled or a lost connection says nothing about the service.
    if (
      error instanceof Failure ||
      ['CONNECTION_LOST', 'ECONNRESET', '57P01', '57P05', 'QUERY_TIMEOUT', 'MESSAGE_TOO_LARGE'].includes(code)
    )
      throw error
    return { ok: false, text, code, durationMs: performance.now() - start, cause: error }
  }
}

/** Longest answer of a test function that is kept, in characters: what a reader sees of it is cut again. */
const longestAnswer = 65_536

/** The one value of the answer as text, without what a service may have sent back of the request. */
function shown(row: Row | undefined): string {
  const value = row === undefined ? null : Object.values(row)[0]
  return value === null || value === undefined
    ? ''
    : withoutCredentials(bounded(typeof value === 'string' ? value : JSON.stringify(value), longestAnswer))
}

async function set(transaction: Transaction, [key, value]: Setting): Promise<void> {
  await transaction.query('SELECT azure_ai.set_setting($1::text, $2::text)', [key, value])
}
