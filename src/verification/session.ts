/** How a database is queried: on fresh connections, with its own errors retried, and without believing a COMMIT that got no response. */
import type { ReadDatabase } from '../core/observed.ts'
import { Failure } from '../errors/failure.ts'
import type { Log } from '../lib/log.ts'
import { later, retrying, type Verdict } from '../lib/retry.ts'
import { duration } from '../lib/timeout.ts'
import { verdictOnSql } from '../postgres/again.ts'
import { type Connection, type Connector, connected, sqlState } from '../postgres/connection.ts'
import { settingsLockedBy } from '../postgres/lock.ts'
import { type Call, type CallOutcomes, hasStored, queryReadOnly, type Setting } from '../postgres/trial.ts'

/** How long putting settings back may take after a cancel, in milliseconds: the runner waits a few seconds only. */
const graceMs = 4_000

interface SessionOptions {
  readonly database: ReadDatabase
  readonly connector: Pick<Connector, 'connect' | 'paired' | 'second' | 'failure'>
  readonly log: Log
  readonly signal: AbortSignal
  /** How long another session's lock is waited for, in milliseconds. */
  readonly lockLimitMs: number
}

/** What became of a COMMIT. `unknown`: it cannot be read, so it counts as committed. */
type CommitState = 'committed' | 'rolled-back' | 'unknown'

export class DatabaseSession {
  readonly #options: SessionOptions

  constructor(options: SessionOptions) {
    this.#options = options
  }

  get database(): ReadDatabase {
    return this.#options.database
  }

  get signal(): AbortSignal {
    return this.#options.signal
  }

  /** For what has to be done also after a cancel. */
  outliving(): DatabaseSession {
    return new DatabaseSession({ ...this.#options, signal: later(this.signal, graceMs) })
  }

  /** For the connection that keeps a key until it is certain that it need not be put back: it outlives a cancel, and has a second one beside it. */
  keeping(): DatabaseSession {
    const { connector } = this.#options
    return new DatabaseSession({ ...this.#options, connector: { ...connector, ...connector.paired } }).outliving()
  }

  /** For that second connection. */
  beside(): DatabaseSession {
    const { connector } = this.#options
    return new DatabaseSession({ ...this.#options, connector: { ...connector, ...connector.second } })
  }

  /** Runs `body` on a connection of its own: a session may remember settings it saw. */
  fresh<T>(body: (connection: Connection) => Promise<T>): Promise<T> {
    return connected(this.#options.connector, this.database.name, this.signal, body)
  }

  /** Runs `body` again after errors of the database that pass. */
  patiently<T>(body: () => Promise<T>): Promise<T> {
    return retrying(body, {
      signal: this.signal,
      verdict: (error) => this.#verdict(error),
      onWait: (error, waitMs, leftMs) => {
        const { title } = this.failure(error, 'switching')
        const pace = `again in ${duration(waitMs)}, for at most ${duration(leftMs)} more`
        this.#options.log.info(`… database "${this.database.name}": ${title}; ${pace}`)
      },
    })
  }

  /** Another session's lock is waited for as long as the lock of this action. */
  #verdict(error: unknown): Verdict {
    const verdict = verdictOnSql(error, 'work')
    if (verdict === false || sqlState(error) !== '55P03') return verdict
    return { ...verdict, schedule: { ...verdict.schedule, budgetMs: this.#options.lockLimitMs } }
  }

  /** The failure, with the sessions that held the lock that it waited for. */
  async withLockHolders(failure: Failure): Promise<Failure> {
    if (failure.code !== 'lock' || sqlState(failure) !== '55P03') return failure
    const holders = await this.fresh(settingsLockedBy).catch(() => '')
    if (holders === '') return failure
    return new Failure({ ...failure, detail: `${failure.detail}. Held by ${holders}.` }, failure.cause)
  }

  /** Runs the test queries read-only, on what is committed. */
  query(calls: readonly Call[]): Promise<CallOutcomes> {
    return this.fresh((connection) => queryReadOnly(connection, this.database, calls))
  }

  /** A dropped connection is not a result: retry once, immediately. */
  async queryTwice(calls: readonly Call[]): Promise<CallOutcomes> {
    try {
      return await this.query(calls)
    } catch (error) {
      if (this.signal.aborted || verdictOnSql(error, 'work') === false) throw error
      return this.query(calls)
    }
  }

  /** After a COMMIT that got no response: whether it took effect. Looks also after a cancel. */
  async confirmCommit(settings: readonly Setting[], secrets: readonly Setting[]): Promise<CommitState> {
    const session = this.outliving()
    this.#options.log.info(`… database "${this.database.name}": no response to COMMIT; checking whether it took effect`)
    const look = () => session.fresh((connection) => hasStored(connection, this.database, settings, secrets))
    const held = await session.patiently(look).catch(() => undefined)
    if (held === undefined) return 'unknown'
    return held ? 'committed' : 'rolled-back'
  }

  failure(error: unknown, doing: string): Failure {
    return this.#options.connector.failure(error, this.database.name, doing)
  }
}
