/** Writes what the plan lists before the settings: identity, roles, allow-list, extension. What is in sync is not touched. */

import { allowsAzureAi, assignmentDescription, isRead, type ObservedDatabase, type ReadDatabase } from '../core/observed.ts'
import type { ChangeOf, Step } from '../core/steps.ts'
import { Failure } from '../errors/failure.ts'
import { canonicalId, nameIn } from '../lib/resource-id.ts'
import { mapLimited, retrying } from '../lib/retry.ts'
import { duration } from '../lib/timeout.ts'
import { notAllowListed, verdictOnSql } from '../postgres/again.ts'
import { changeExtension, extensionSql, observeDatabase } from '../postgres/azure-ai.ts'
import { connected, messageOf } from '../postgres/connection.ts'
import { maxConnections } from '../postgres/slots.ts'
import { carryOut, due, type Write, type WriteRun } from './carry-out.ts'
import type { DatabaseAccess } from './observe-databases.ts'

/** The identity, then roles and allow-list at once. An identity that cannot be enabled ends the run; a failing role costs its service. */
export async function writeAzure(run: WriteRun): Promise<void> {
  const { journal, observed, azure } = run
  let { principalId } = observed.server
  for (const { step } of due(run, 'identity')) {
    const write = identityWrite(run, (id) => {
      principalId = id
    })
    await carryOut(run, step, write).catch((error: unknown) => {
      for (const { step: role } of due(run, 'role'))
        if (journal.step('identity')?.status === 'failed') journal.wait(role.id, 'identity')
      throw error
    })
  }
  const assign = roleAssigner(run, principalId ?? '')
  await Promise.all([
    ...due(run, 'role').map(({ step, change }) => carryOut(run, step, { write: (sending) => assign(step, change, sending) })),
    ...due(run, 'allow-list').map(({ step }) =>
      carryOut(run, step, {
        write: async (sending) => {
          sending()
          const entries = await azure.allowExtension('azure_ai')
          return { status: 'updated', message: `Allow-list azure.extensions: ${entries.join(', ')}` }
        },
      }),
    ),
  ])
}

function identityWrite({ observed, azure, log, reportFacts }: WriteRun, enabled: (principalId: string) => void): Write {
  return {
    endsRun: true,
    write: async (sending) => {
      log.info(`Enabling the system-assigned identity of ${observed.server.name}`)
      sending()
      const principalId = await azure.enableIdentity()
      reportFacts({ principalId })
      enabled(principalId)
      return { status: 'created', message: `Identity is on: ${principalId}` }
    },
  }
}

function roleAssigner({ observed, azure }: WriteRun, principalId: string) {
  const assigned = new Map<string, Promise<boolean>>()
  // Two services on one account may want the same role: it is assigned once.
  const assignOnce = (scope: string, roleId: string): Promise<boolean> => {
    const key = `${canonicalId(scope)} ${roleId}`
    const assigning =
      assigned.get(key) ??
      azure.assignRole({ scope, roleId, principalId, description: assignmentDescription(observed.server.id) })
    assigned.set(key, assigning)
    return assigning
  }
  return async (step: Step, { scope, roleId }: ChangeOf<'role'>, sending: () => void): ReturnType<Write['write']> => {
    sending()
    const created = await assignOnce(scope, roleId)
    const how = created ? 'assigned' : 'was there already'
    const message = `Role ${step.desired} on ${nameIn(scope)}: ${how}`
    return { status: created ? 'created' : 'in-sync', detail: created ? step.detail : how, message }
  }
}

/** CREATE EXTENSION or ALTER EXTENSION .. UPDATE where it is due; returns the databases as they are afterwards. */
export async function writeExtensions(run: WriteRun, access: DatabaseAccess): Promise<readonly ObservedDatabase[]> {
  const changes = new Map(due(run, 'extension').map((each) => [each.change.database, each]))
  return mapLimited(run.observed.databases, maxConnections, async (database) => {
    const found = changes.get(database.name)
    if (found === undefined || !isRead(database)) return database
    let after: ObservedDatabase = database
    await carryOut(run, found.step, extensionWrite(run, access, { database, change: found.change, seen: (now) => (after = now) }))
    return after
  })
}

/** In PostgreSQL's words, where these are at hand. */
const reasonOf = (error: unknown): string => (error instanceof Failure ? error.title : messageOf(error).text)

interface ExtensionChange {
  readonly database: ReadDatabase
  readonly change: ChangeOf<'extension'>
  /** Called with the database as it is afterwards. */
  readonly seen: (database: ObservedDatabase) => void
}

function extensionWrite(run: WriteRun, access: DatabaseAccess, { database, change, seen }: ExtensionChange): Write {
  const { journal, log, observed, scope, signal } = run
  const { connector, keys } = access
  const statement = extensionSql(database.creation, change.statement)
  // An allow-list without azure_ai that this run does not write is no reason to wait.
  const inVain = !scope.writesAzure && observed.allowList !== undefined && !allowsAzureAi(observed.allowList)
  const attempt = (sending: () => void): Promise<ObservedDatabase> =>
    connected(connector, database.name, signal, async (connection) => {
      await changeExtension(connection, database, { statement: change.statement, beforeCommit: sending })
      const now = await observeDatabase(connection, connector, keys)
      if (now.failure !== undefined && verdictOnSql(now.failure, 'extension') !== false) throw now.failure
      return now
    })
  return {
    explain: (error) => [connector.failure(error, database.name, statement)],
    write: async (sending) => {
      // Both statements do nothing where it is done already: a COMMIT without a response may be followed by another.
      const now = await retrying(() => attempt(sending), {
        signal,
        verdict: (error) => (inVain && notAllowListed.test(messageOf(error).text) ? false : verdictOnSql(error, 'extension')),
        onWait: (error, waitMs) => log.info(`… database "${database.name}": ${reasonOf(error)}; again in ${duration(waitMs)}`),
      })
      seen(now)
      if (now.failure !== undefined) journal.fail(now.failure)
      return {
        status: change.statement === 'create' ? 'created' : 'updated',
        message: `Database "${database.name}": ${statement}`,
      }
    },
  }
}
