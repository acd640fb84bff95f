/**
 * The one place that builds transactions. No other module can reach the session itself, so no statement runs outside of a
 * transaction that has looked away from everything that the owner of a database may have planted or set.
 */

/** Longest time of a statement unless it has a limit of its own, in milliseconds. */
export const statementTimeoutMs = 20_000
/** Longest wait for a lock unless it has a limit of its own, in milliseconds: others queue behind a session that waits. */
export const lockTimeoutMs = 10_000

export type Row = Readonly<Record<string, unknown>>

/** What a session can do; only this module and the one that opens it use it. */
export interface Session {
  /** Runs one text. The rows of each of its statements, in order. */
  run(text: string, values: readonly unknown[] | undefined, timeoutMs: number): Promise<readonly (readonly Row[])[]>
  copyIn(statement: string, rows: readonly (readonly string[])[]): Promise<void>
}

interface TransactionOptions {
  /** Major version of the server; 0 while it is not known. */
  readonly serverVersion: number
  /** Schemas of azure_ai that names are looked up in after pg_catalog. Empty unless a function of azure_ai needs it. */
  readonly schemas?: readonly string[]
}

export interface Transaction {
  /** Runs one statement; its rows. */
  query(text: string, values?: readonly unknown[], timeoutMs?: number): Promise<readonly Row[]>
  /** Runs `COPY .. FROM STDIN` with rows of text: their values are in no statement, and so in no log. */
  copyIn(statement: string, rows: readonly (readonly string[])[]): Promise<void>
  /** Ends the transaction. What returns or throws without it is rolled back. */
  commit(): Promise<void>
}

export interface Transactions {
  /**
   * Runs statements that need nothing of each other's answers in a read-only transaction of their own, in one round trip. They
   * are literal text: one message to the server ends at its first error, so nothing runs when the transaction did not begin.
   * @returns the rows of each
   */
  read(
    statements: readonly string[],
    options: TransactionOptions & { readonly timeoutMs?: number },
  ): Promise<readonly (readonly Row[])[]>
  /** Runs `body` in a transaction that is rolled back unless `body` commits it. */
  write<T>(options: TransactionOptions, body: (transaction: Transaction) => Promise<T>): Promise<T>
}

export function transactionsOn(session: Session): Transactions {
  const run = async (text: string, values?: readonly unknown[], timeoutMs = statementTimeoutMs): Promise<readonly Row[]> =>
    (await session.run(text, values, timeoutMs)).at(-1) ?? []
  return {
    async read(statements, options) {
      const timeoutMs = options.timeoutMs ?? statementTimeoutMs
      const opened = session.run([...opening('READ ONLY', options), ...statements].join(';\n'), undefined, timeoutMs)
      const ended = run('ROLLBACK', undefined, timeoutMs)
      // The error of the statements is the one to report; what the end of a broken session says adds nothing.
      ended.catch(() => undefined)
      const rows = await opened
      await ended
      return rows.slice(rows.length - statements.length)
    },
    async write(options, body) {
      let isOpen = true
      const whileOpen = <T>(work: () => Promise<T>): Promise<T> =>
        isOpen ? work() : Promise.reject(new Error('a statement was sent after the end of its transaction'))
      try {
        // Awaited before anything else is sent: without the transaction none of the settings below would be in force.
        await run(opening('READ WRITE', options).join(';\n'))
        const result = await body({
          query: (...statement) => whileOpen(() => run(...statement)),
          copyIn: (...copy) => whileOpen(() => session.copyIn(...copy)),
          commit: () =>
            whileOpen(async () => {
              isOpen = false
              await run('COMMIT')
            }),
        })
        if (isOpen) await run('ROLLBACK')
        return result
      } catch (error) {
        await run('ROLLBACK').catch(() => undefined)
        throw error
      } finally {
        isOpen = false
      }
    },
  }
}

/**
 * The statements that begin every transaction. The owner of a database decides what a session of it starts with (`ALTER DATABASE
 * .. SET`), and a session of a pooler may carry what another client left: whatever changes the meaning of what is sent or read
 * is set here, for this transaction only.
 */
function opening(access: 'READ ONLY' | 'READ WRITE', { serverVersion, schemas = [] }: TransactionOptions): string[] {
  const since = (version: number, statement: string): string[] => (serverVersion >= version ? [statement] : [])
  return [
    `BEGIN ISOLATION LEVEL READ COMMITTED ${access}`,
    // Functions, operators and types of anybody else are not found. Without being named, pg_temp would come first.
    `SET LOCAL search_path = ${['pg_catalog', ...schemas.map(quoteIdentifier), 'pg_temp'].join(', ')}`,
    // `ALTER DATABASE .. SET role` would have the session act as another role than the one that signed in.
    'SET LOCAL ROLE NONE',
    // With `off`, a backslash in a literal would be an escape. What is sent together with this line was read before it takes effect,
    // so quoteLiteral writes literals that mean the same either way.
    'SET LOCAL standard_conforming_strings = on',
    // An error of a test query would end the session, and with it the transaction that tries another way.
    'SET LOCAL exit_on_error = off',
    `SET LOCAL lock_timeout = ${lockTimeoutMs}`,
    `SET LOCAL statement_timeout = ${statementTimeoutMs}`,
    `SET LOCAL idle_in_transaction_session_timeout = '60s'`,
    // A dump of parsed statements would put constants, and among them bound keys, into the server's log.
    'SET LOCAL debug_print_parse = off',
    'SET LOCAL debug_print_rewritten = off',
    'SET LOCAL debug_print_plan = off',
    // Bound keys would stand in the log of an error.
    ...since(13, 'SET LOCAL log_parameter_max_length_on_error = 0'),
    // The server notices a client that is gone while a test function still waits.
    ...since(14, `SET LOCAL client_connection_check_interval = '2s'`),
    // A limit on the whole transaction would end one that puts a working configuration back.
    ...since(17, 'SET LOCAL transaction_timeout = 0'),
  ]
}

/** Quotes a name of a schema, table or role. */
const quoteIdentifier = (name: string): string => `"${name.replaceAll('"', '""')}"`

/** Quotes a text as a literal that means the same whatever `standard_conforming_strings` is. */
export function quoteLiteral(text: string): string {
  const quoted = `'${text.replaceAll("'", "''").replaceAll('\\', '\\\\')}'`
  return text.includes('\\') ? `E${quoted}` : quoted
}
