/** Reads the databases of a run, named or found: version, settings, and what the connecting role may do. */
import { isRead, type ObservedDatabase } from '../core/observed.ts'
import { Failure } from '../errors/failure.ts'
import { mapLimited, retrying } from '../lib/retry.ts'
import { duration } from '../lib/timeout.ts'
import { onOneLine } from '../lib/unicode.ts'
import { verdictOnSql } from '../postgres/again.ts'
import { type KeyCandidates, listDatabases, observeDatabase } from '../postgres/azure-ai.ts'
import { type Connector, connected } from '../postgres/connection.ts'
import { maxConnections } from '../postgres/slots.ts'
import type { Run } from './run.ts'

/** How the databases are reached, and the keys that theirs are compared with. */
export interface DatabaseAccess {
  readonly connector: Connector
  /** For `subscription-key`; empty otherwise. */
  readonly keys: KeyCandidates
}

/** Reads the named databases, or all that have azure_ai, and notes in the journal which take part. */
export async function observeDatabases(run: Run, access: DatabaseAccess): Promise<readonly ObservedDatabase[]> {
  const { inputs, journal, signal } = run
  let databases: readonly ObservedDatabase[] = []
  try {
    databases = await databasesAt(inputs.databases, access, run)
    journal.observe(databases)
  } catch (error) {
    // Which databases there are is not known; what Resource Manager shows still is.
    if (signal.aborted || !(error instanceof Failure)) throw error
    journal.fail(error)
  }
  journal.expect(databases.map((database) => database.name))
  if (inputs.databases === '*' && databases.length === 0 && journal.failures.length === 0) {
    journal.fail(
      new Failure({
        reason: 'database',
        code: 'no-database',
        title: 'No database has azure_ai',
        detail: `\`databases\` is \`*\`, and azure_ai is installed in no database of ${inputs.server.name}. DROP EXTENSION also deletes its settings.`,
        fix: 'Name the databases that need it, and run with `mode: apply`.',
      }),
    )
  }
  return databases
}

type Looking = Pick<Run, 'signal' | 'log'>

/** Says in the log why a database is looked at again. */
function waiting({ log }: Looking, connector: Connector, name: string): (error: unknown, waitMs: number) => void {
  return (error, waitMs) => {
    const { title } = connector.failure(error, name, 'looking at the settings')
    log.info(`… database "${onOneLine(name)}": ${title}; again in ${duration(waitMs)}`)
  }
}

/** The named databases, or all that have azure_ai. */
export function databasesAt(
  wanted: readonly string[] | '*',
  access: DatabaseAccess,
  run: Looking,
): Promise<readonly ObservedDatabase[]> {
  return wanted === '*' ? findDatabases(access, run) : readDatabases(wanted, access, run)
}

/** Finds the databases that have azure_ai, by way of the one that every server has; those that cannot be looked at are among them. */
async function findDatabases(access: DatabaseAccess, run: Looking): Promise<readonly ObservedDatabase[]> {
  const { connector } = access
  const { signal } = run
  const list = (): Promise<readonly string[]> => connected(connector, 'postgres', signal, listDatabases)
  const names = await retrying(list, {
    signal,
    verdict: (error) => verdictOnSql(error, 'look'),
    onWait: waiting(run, connector, 'postgres'),
  }).catch((error: unknown) => {
    throw signal.aborted ? signal.reason : connector.failure(error, 'postgres', 'listing the databases')
  })
  // What is no UTF-8 reads as U+FFFD: a connection by that name would lead to another database, if to any.
  const unreadable = [...new Set(names.filter((name) => name.includes('\ufffd')))]
  const readable = names.filter((name) => !name.includes('\ufffd'))
  const databases = [
    ...(await readDatabases(readable, access, run)),
    ...unreadable.map((name) => ({ name, failure: notReadable(name) })),
  ]
  return databases.filter((each) => !isRead(each) || each.extension.installed !== undefined)
}

function notReadable(name: string): Failure {
  return new Failure({
    reason: 'database',
    code: 'name-not-readable',
    title: 'The name of a database is not UTF-8',
    detail: `A name reads as "${name}": it was written in another encoding, and the database cannot be connected to by it.`,
    fix: '\\l   -- shows the encodings: rename it in a session of a database that has the encoding of its name',
  })
}

/**
 * Looks at the databases, as many at a time as the connector allows; one that cannot be looked at carries its failure and
 * keeps no other from being seen. A server that does not answer at all is waited for once, not for each database.
 */
async function readDatabases(
  names: readonly string[],
  { connector, keys }: DatabaseAccess,
  run: Looking,
): Promise<ObservedDatabase[]> {
  const { signal } = run
  let settleFirst: (silence: Failure | undefined) => void = () => undefined
  const firstSilence = new Promise<Failure | undefined>((resolve) => {
    settleFirst = resolve
  })
  const look = (name: string): Promise<ObservedDatabase> =>
    connected(connector, name, signal, async (connection) => {
      settleFirst(undefined)
      const found = await observeDatabase(connection, connector, keys)
      if (found.failure !== undefined && verdictOnSql(found.failure, 'look') !== false) throw found.failure
      return found
    })
  return mapLimited(names, maxConnections, async (name, index) => {
    try {
      const silence = index === 0 ? undefined : await firstSilence
      if (silence !== undefined) return { name, failure: silence }
      return await retrying(() => look(name), {
        signal,
        verdict: (error) => verdictOnSql(error, 'look'),
        onWait: waiting(run, connector, name),
      })
    } catch (error) {
      if (signal.aborted) throw signal.reason
      const failure = connector.failure(error, name, 'connecting')
      settleFirst(failure.code === 'connection-timeout' ? failure : undefined)
      return { name, failure }
    } finally {
      if (index === 0) settleFirst(undefined)
    }
  })
}
