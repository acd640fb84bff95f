/** Connections to PostgreSQL: verified TLS, a time limit for each statement, nothing that a transaction-pooling PgBouncer refuses. */

import { randomBytes } from 'node:crypto'
import type { EventEmitter } from 'node:events'
import { type Duplex, Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import * as tls from 'node:tls'
import type { Client, QueryConfig } from 'pg'
import { explain } from '../errors/explain.ts'
import { Failure } from '../errors/failure.ts'
import { malformed } from '../errors/malformed.ts'
import type { Circumstances, Message } from '../errors/message.ts'
import { bounded, describe, longestName } from '../lib/bounded.ts'
import type { Log } from '../lib/log.ts'
import { retrying, transient, unreachable } from '../lib/retry.ts'
import { withoutCredentials } from '../lib/secrets.ts'
import { duration } from '../lib/timeout.ts'
import type { Greeted } from './greeting.ts'
import { createSlots, type Slots } from './slots.ts'
import { type Row, type Session, statementTimeoutMs, type Transactions, transactionsOn } from './transaction.ts'

/** Longest time to connect, TLS and login included, in milliseconds. */
export const connectTimeoutMs = 15_000
/** Longest time to take leave of the server before the line is cut, in milliseconds. */
export const closeTimeoutMs = 2_000
/** SQLSTATE of a server, a database or a role that takes no further connection. */
const noSlot = '53300'
/** The client waits this much longer than the server, so that the server's own answer is seen. */
export const graceMs = 5_000

/** How long one run waits for the lock in one database, whatever it tries meanwhile. */
export interface LockPatience {
  /** In milliseconds. */
  readonly limitMs: number
  /** Since when the lock was not to be had, by `performance.now()`; undefined once this run had it. */
  since: number | undefined
}

export interface Address {
  readonly host: string
  readonly port: number
  /** The server's own name: its certificate must be valid for it, or for `host`. */
  readonly serverName: string
  /** For texts of fixes. */
  readonly server: string
  readonly resourceGroup: string
  readonly isSet: Circumstances['isSet']
  /** Whether the job has a proxy: PostgreSQL does not go through it. */
  readonly behindProxy: boolean
  /** Connections that were opened to it beforehand. */
  readonly greeted: Greeted | undefined
  /** How long a run waits for its lock in a database, in milliseconds. */
  readonly lockLimitMs: number
}

/** A certificate is valid when it is for the server's own name or for the host of the inputs. */
export function tlsFor(serverName: string, host: string): tls.ConnectionOptions {
  return {
    rejectUnauthorized: true,
    checkServerIdentity: (_name, certificate) => {
      const asItself = tls.checkServerIdentity(serverName, certificate)
      const valid = asItself === undefined || tls.checkServerIdentity(host, certificate) === undefined
      return valid ? undefined : asItself
    },
  }
}

interface Login {
  readonly user: string
  /** Called just before connecting: an Entra token lives for an hour at most. */
  readonly password: () => Promise<string>
}

/** Runs SQL in transactions only: there is no way to send a statement outside of one. */
export interface Connection extends Transactions {
  /** Its own among all connections of all runs: eight hex digits. */
  readonly id: string
  readonly database: string
  readonly user: string
  /** How long this run still waits for its advisory lock in this database. */
  readonly lockPatience: LockPatience
  close(): Promise<void>
}

export interface Connector {
  /**
   * Waits for a slot among those of this run, and for one of the server's when it has none left just now.
   * @throws {Failure}
   */
  connect(database: string, signal: AbortSignal): Promise<Connection>
  /** For work that opens a second connection while its first is open: each `connect` takes the slots of both. */
  readonly paired: Pick<Connector, 'connect'>
  /** That second connection: its slot was taken with the first. */
  readonly second: Pick<Connector, 'connect'>
  /** Takes note of what the server has, in connections: how many, and how many of them are kept from users. */
  learn(all: number, reserved: number): void
  /** Any error of a statement as a failure. */
  failure(error: unknown, database: string, doing: string): Failure
}

/** Runs `body` on a connection of its own. Closing is not waited for: it must not delay the run. */
export async function connected<T>(
  connector: Pick<Connector, 'connect'>,
  database: string,
  signal: AbortSignal,
  body: (connection: Connection) => Promise<T>,
): Promise<T> {
  const connection = await connector.connect(database, signal)
  try {
    return await body(connection)
  } finally {
    void connection.close()
  }
}

/** An error of PostgreSQL, its driver or the line, reduced to what the table of errors looks at. */
export function messageOf(error: unknown): Message {
  const fields = (error ?? {}) as { code?: unknown; message?: unknown; detail?: unknown; errors?: unknown[] }
  // A connection tried at several addresses fails with all their errors.
  const first = Array.isArray(fields.errors) && fields.errors.length > 0 ? fields.errors[0] : error
  const text = describe(first) || describe(error)
  const detail = typeof fields.detail === 'string' && fields.detail !== '' ? ` (${bounded(fields.detail)})` : ''
  const code = typeof fields.code === 'string' ? bounded(fields.code, longestName) : errnoIn(text)
  return { origin: 'postgres', code, text: withoutCredentials(text) + withoutCredentials(detail) }
}

/** The driver's own errors carry no code. */
function errnoIn(text: string): string {
  if (/query read timeout/i.test(text)) return 'QUERY_TIMEOUT'
  if (/timeout expired|connection timeout|connect timed? ?out/i.test(text)) return 'ETIMEDOUT'
  if (/connection (terminated|ended)|not queryable|connection error/i.test(text)) return 'CONNECTION_LOST'
  return ''
}

/** SQLSTATE or errno of an error; empty when there is none. */
export function sqlState(error: unknown): string {
  return error instanceof Failure ? sqlState(error.cause) : messageOf(error).code
}

export function createConnector(address: Address, login: Login, log: Log): Connector {
  const slots = createSlots()
  /** Since when the server has refused every connection for want of a slot, by `performance.now()`. */
  let fullSince: number | undefined
  const patience = new Map<string, LockPatience>()
  const patienceFor = (database: string): LockPatience => {
    const known = patience.get(database) ?? { limitMs: address.lockLimitMs, since: undefined }
    patience.set(database, known)
    return known
  }
  const failure = (error: unknown, database: string, doing: string): Failure => {
    if (error instanceof Failure) return error
    const { host, port, server, resourceGroup, behindProxy, isSet } = address
    const at: Circumstances = { doing, database, user: login.user, host, port, server, resourceGroup, behindProxy, isSet }
    return explain(messageOf(error), at, error)
  }

  /** A server that has no slot left is tried again for a while; after that, each further connection tries once. */
  const patiently = (database: string, signal: AbortSignal): Promise<Connection> =>
    retrying(
      async () => {
        const connection = await open(database, signal)
        fullSince = undefined
        return connection
      },
      {
        signal,
        verdict: (error) => {
          if (sqlState(error) !== noSlot) return false
          // A limit of one database or role is mostly there to stay.
          if (/too many connections for/i.test(messageOf(error).text)) return { schedule: unreachable }
          fullSince ??= performance.now()
          return performance.now() - fullSince < transient.budgetMs ? { schedule: transient } : false
        },
        onWait: (error, waitMs) =>
          log.info(
            `… database "${database}": ${messageOf(error instanceof Failure ? error.cause : error).text}; again in ${duration(waitMs)}`,
          ),
      },
    )

  const connectWith = async (take: Slots['take'], database: string, signal: AbortSignal): Promise<Connection> => {
    const release = await take(signal)
    try {
      const connection = await patiently(database, signal)
      return {
        ...connection,
        async close() {
          try {
            await connection.close()
          } finally {
            release()
          }
        },
      }
    } catch (error) {
      release()
      throw error
    }
  }

  const open = async (database: string, signal: AbortSignal): Promise<Connection> => {
    signal.throwIfAborted()
    // In the startup message a NUL ends a value, and what follows would be a parameter of its own.
    for (const name of [login.user, database]) if (name.includes('\0')) throw malformed('A name of a role or database', name)
    const { client, drop } = await dialTrusted({
      address,
      user: login.user,
      password: await login.password(),
      database,
      signal,
      failure,
    })
    const close = async (): Promise<void> => {
      signal.removeEventListener('abort', drop)
      await Promise.race([
        client.end().catch(() => undefined),
        new Promise((resolve) => setTimeout(resolve, closeTimeoutMs).unref()),
      ])
      drop()
    }
    return {
      id: randomBytes(4).toString('hex'),
      database,
      user: login.user,
      lockPatience: patienceFor(database),
      close,
      ...transactionsOn(sessionOf(client, signal, drop)),
    }
  }

  return {
    failure,
    connect: (database, signal) => connectWith((stop) => slots.take(stop), database, signal),
    paired: { connect: (database, signal) => connectWith((stop) => slots.take(stop, 2), database, signal) },
    second: { connect: patiently },
    learn: slots.learn,
  }
}

interface Dial {
  readonly address: Address
  readonly user: string
  readonly password: string
  readonly database: string
  readonly signal: AbortSignal
  readonly failure: Connector['failure']
}

/** A client that is logged in, and what cuts its connection. */
interface Dialled {
  readonly client: Client
  readonly drop: () => void
}

/** Trusts Node's own roots and NODE_EXTRA_CA_CERTS; those of the system are read only where these do not do, which takes a moment. */
async function dialTrusted(of: Dial): Promise<Dialled> {
  try {
    return await dial(of, undefined)
  } catch (error) {
    const isUntrusted = error instanceof Failure && error.code === 'tls-not-trusted'
    if (!isUntrusted || sqlState(error) === 'ERR_TLS_CERT_ALTNAME_INVALID') throw error
    // Older versions of Node cannot read those of the system.
    if (typeof tls.getCACertificates !== 'function') throw error
    return dial(of, [...tls.getCACertificates('default'), ...tls.getCACertificates('system')])
  }
}

async function dial(of: Dial, ca: string[] | undefined): Promise<Dialled> {
  const { address, user, password, database, signal, failure } = of
  const { Client } = await import('./driver.ts')
  const stream = ca === undefined ? await address.greeted?.take() : undefined
  const client = new Client({
    host: address.host,
    port: address.port,
    user,
    password,
    database,
    connectionTimeoutMillis: connectTimeoutMs,
    keepAlive: true,
    application_name: 'azure-ai-postgres-identity',
    // Statements that come at once are sent at once.
    pipeline: true,
    ...(stream === undefined
      ? { ssl: { ...tlsFor(address.serverName, address.host), ...(ca === undefined ? {} : { ca }) } }
      : { stream: () => stream }),
  })
  // A connection that dies between statements is reported by the next statement.
  client.on('error', () => undefined)
  const drop = (): void => {
    ;(client as unknown as { connection?: { stream?: { destroy(): void } } }).connection?.stream?.destroy()
  }
  signal.addEventListener('abort', drop, { once: true })
  boundReceived(client, stream !== undefined)
  try {
    await client.connect()
  } catch (error) {
    signal.removeEventListener('abort', drop)
    drop()
    if (signal.aborted) throw signal.reason
    throw failure(hasAnswered(client) ? loginTimeout(error) : error, database, 'connecting')
  }
  return { client, drop }
}

/** Most bytes that one connection may receive: nothing that is read here comes near. */
const mostReceived = 16 * 1024 * 1024

/** Ends a connection whose server sends without end: the driver would keep all rows, and a message of any length. */
function boundReceived(client: Client, isSecure: boolean): void {
  const { connection } = client as unknown as { connection: EventEmitter & { readonly stream: Duplex } }
  let bytes = 0
  const watch = (): void => {
    connection.stream.on('data', (chunk: Buffer) => {
      bytes += chunk.length
      if (bytes <= mostReceived) return
      const text = `the server sent more than ${mostReceived / 1024 / 1024} MB over one connection`
      connection.stream.destroy(Object.assign(new Error(text), { code: 'MESSAGE_TOO_LARGE' }))
    })
  }
  if (isSecure) watch()
  else connection.once('sslconnect', watch)
}

/** Whether the server took up TLS on this connection: from then on it is no firewall and no wrong address that keeps it waiting. */
function hasAnswered(client: Client): boolean {
  return (client as unknown as { connection?: { stream?: { encrypted?: boolean } } }).connection?.stream?.encrypted === true
}

/** The time limit of a connection, ended while the server answers: a session can hold one database, and only that, in the login. */
function loginTimeout(error: unknown): unknown {
  const { code, text } = messageOf(error)
  return code === 'ETIMEDOUT' ? Object.assign(new Error(text, { cause: error }), { code: 'LOGIN_TIMEOUT' }) : error
}

/** What the driver's client can do, with time limits and the end of the run. `drop` cuts the line. */
function sessionOf(client: Client, signal: AbortSignal, drop: () => void): Session {
  return {
    async run(text, values, timeoutMs) {
      signal.throwIfAborted()
      try {
        const config = { text, values: values === undefined ? undefined : [...values], query_timeout: timeoutMs + graceMs }
        const results = (await client.query(config as QueryConfig)) as { rows?: Row[] } | { rows?: Row[] }[]
        return [results].flat().map(({ rows }) => rows ?? [])
      } catch (error) {
        if (signal.aborted) throw signal.reason
        // The server did not even say that it took too long: what follows would only queue behind it.
        if (messageOf(error).code === 'QUERY_TIMEOUT') drop()
        throw error
      }
    },
    async copyIn(statement, rows) {
      const { copyFrom } = await import('./driver.ts')
      signal.throwIfAborted()
      const lines = rows.map((row) => `${row.map(copyText).join('\t')}\n`)
      const limit = AbortSignal.any([signal, AbortSignal.timeout(statementTimeoutMs + graceMs)])
      // COPY talks back and forth: the driver does that only alone on the line.
      const alone = client as unknown as { pipeline: boolean }
      alone.pipeline = false
      try {
        await pipeline(Readable.from(lines), client.query(copyFrom(statement)), { signal: limit })
      } catch (error) {
        if (signal.aborted) throw signal.reason
        if (!limit.aborted) throw error
        drop()
        throw new Error('Query read timeout', { cause: error })
      } finally {
        alone.pipeline = true
      }
    },
  }
}

/** A value in COPY's text format. */
function copyText(value: string): string {
  const escapes: Record<string, string> = { '\\': '\\\\', '\n': '\\n', '\r': '\\r', '\t': '\\t' }
  return value.replaceAll(/[\\\n\r\t]/g, (sign) => escapes[sign] ?? sign)
}
