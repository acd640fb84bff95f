/**
 * The advisory lock of this action: one run at a time writes settings in a database. Everybody who may connect can take it, so
 * waiting for it has an end, and names the session that holds it.
 */
import { Failure } from '../errors/failure.ts'
import { duration } from '../lib/timeout.ts'
import { onOneLine } from '../lib/unicode.ts'
import { type Connection, type LockPatience, sqlState } from './connection.ts'
import { lockTimeoutMs, type Row, type Transaction } from './transaction.ts'

/** As long as the run waits for its test queries, two minutes at most; another run holds the lock for some seconds at a time. */
export const lockLimitMs = (verifyTimeoutMs: number): number => Math.min(120_000, Math.max(5_000, verifyTimeoutMs))

/** The two keys of the lock; the lock space is that of the database. */
const keys = `${0x61697067}, ${0x6d6a6f62}`
/** Longest wait for the lock before settings are put back, in milliseconds: a cancelled run has a few seconds in all. */
const putBackWaitMs = 1_500

/**
 * Takes the lock until the transaction ends.
 * @throws {Failure} `lock` when this run has waited for it in this database for as long as it may
 */
export async function takeLock(
  transaction: Transaction,
  { database, lockPatience: patience }: Connection,
  log: { info(line: string): void },
): Promise<void> {
  if (await isFree(transaction)) {
    patience.since = undefined
    return
  }
  patience.since ??= performance.now()
  const leftMs = Math.ceil(patience.limitMs - (performance.now() - patience.since))
  const holders = await holdersOf(transaction)
  if (leftMs <= 0) throw heldTooLong(database, holders, patience)
  log.info(
    `… another session holds the lock of this action in database "${database}": waiting for ${shown(holders)}, for at most ${duration(leftMs)}`,
  )
  await transaction.query(`SET LOCAL lock_timeout = ${Math.min(lockTimeoutMs, leftMs)}`)
  try {
    await transaction.query(`SELECT pg_advisory_xact_lock(${keys})`)
  } catch (error) {
    // A wait that ends early is tried again: others queue behind a session that waits.
    if (sqlState(error) === '55P03' && leftMs <= lockTimeoutMs) throw heldTooLong(database, holders, patience)
    throw error
  }
  patience.since = undefined
  await transaction.query(`SET LOCAL lock_timeout = ${lockTimeoutMs}`)
}

/** Takes the lock where it is free soon, and goes on without it otherwise: a session that keeps it must not keep a working configuration away. */
export async function takeLockToPutBack(
  transaction: Transaction,
  { database }: Connection,
  log: { info(line: string): void },
): Promise<void> {
  for (const until = performance.now() + putBackWaitMs; ; ) {
    if (await isFree(transaction)) return
    if (performance.now() > until) break
    await new Promise((resolve) => setTimeout(resolve, 250))
  }
  const holders = await holdersOf(transaction)
  log.info(`… database "${database}": settings are put back without the lock of this action, which ${shown(holders)} holds`)
}

async function isFree(transaction: Transaction): Promise<boolean> {
  const [row] = await transaction.query(`SELECT pg_try_advisory_xact_lock(${keys}) AS taken`)
  return row?.taken === true
}

/** Sessions that hold locks on the tables of azure_ai, which keep settings from being written, as a text; empty when there is none. */
export async function settingsLockedBy(connection: Connection): Promise<string> {
  const [rows = []] = await connection.read(
    [
      `SELECT DISTINCT a.pid, a.usename AS user, a.application_name AS application, host(a.client_addr) AS address,
  extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.backend_start))::int AS seconds
FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid JOIN pg_depend AS d ON d.objid = l.relation JOIN pg_extension AS x ON x.oid = d.refobjid
WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid() AND l.mode NOT IN ('AccessShareLock', 'ShareUpdateExclusiveLock')
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND x.extname = 'azure_ai'
ORDER BY seconds DESC, a.pid LIMIT 3`,
    ],
    { serverVersion: 0 },
  )
  return rows.length === 0 ? '' : shown(rows)
}

/** What other sessions show of themselves depends on the rights of the connecting role. */
function holdersOf(transaction: Transaction): Promise<readonly Row[]> {
  return transaction.query(
    `SELECT a.pid, a.usename AS user, a.application_name AS application, host(a.client_addr) AS address,
  extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.backend_start))::int AS seconds
FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid, l.objid, l.objsubid) = (${keys}, 2) ORDER BY a.pid LIMIT 3`,
  )
}

/** Other clients choose their name and application: one line, and no longer than PostgreSQL's own names. */
function shown(holders: readonly Row[]): string {
  const text = (value: unknown): string => onOneLine(String(value ?? 'unknown')).slice(0, 80)
  const each = holders.map(
    ({ pid, user, application, address, seconds }) =>
      `${text(user)} (pid ${text(pid)}, ${text(application === '' ? 'no application name' : application)}, from ${text(address ?? 'a local socket')}, for ${duration(Number(seconds ?? 0) * 1_000)})`,
  )
  return each.join(', ') || 'a session that is gone'
}

function heldTooLong(database: string, holders: readonly Row[], { limitMs }: LockPatience): Failure {
  const ends = holders.map(({ pid }) => `SELECT pg_catalog.pg_terminate_backend(${Number(pid)});`).join(' ')
  return new Failure({
    reason: 'database',
    code: 'lock',
    title: 'Another session holds the lock of this action',
    detail: `Database "${database}": ${shown(holders)} holds it. This run waited for ${duration(limitMs)} and wrote nothing there.`,
    fix: `${ends || 'Run again.'}${ends === '' ? '' : `   -- in "${onOneLine(database)}", unless it is another run of this action: then wait for that one; then run again`}`,
  })
}
