/** Carries out the steps that differ, in the order of the plan; what is in sync is not touched. */
import type { ResourceManager } from '../azure/resource-manager.ts'
import type { Inputs } from '../core/inputs.ts'
import type { Journal } from '../core/journal.ts'
import { allowsAzureAi, assignmentDescription, type Observed, type ObservedDatabase } from '../core/observed.ts'
import type { Change, Step } from '../core/plan.ts'
import type { ServiceName } from '../core/services.ts'
import { Failure, failuresOf } from '../errors/failure.ts'
import type { Log } from '../lib/log.ts'
import { mapLimited, retrying } from '../lib/retry.ts'
import { duration } from '../lib/timeout.ts'
import { notAllowListed, verdictOnSql } from '../postgres/again.ts'
import { changeExtension, extensionSql, type KeyCandidates, observeDatabase } from '../postgres/azure-ai.ts'
import { type Connector, messageOf, sqlState } from '../postgres/connection.ts'
import { most } from '../postgres/slots.ts'

export interface ApplyOptions {
  readonly inputs: Inputs
  readonly observed: Observed
  readonly azure: ResourceManager
  readonly journal: Journal
  readonly log: Log
  readonly signal: AbortSignal
  /** Told as soon as it is known. */
  readonly known: (facts: { readonly principalId: string }) => void
}

/** What applying the Azure part came to. */
export interface AzureApplied {
  /** Services whose role could not be given. */
  readonly withoutRole: ReadonlySet<ServiceName>
}

type ChangeOf<K extends Change['kind']> = Extract<Change, { kind: K }>

/** The steps of one kind that have something to do, with their change. */
export function due<K extends Change['kind']>(journal: Journal, kind: K): { step: Step; change: ChangeOf<K> }[] {
  return journal.steps.flatMap((step) => (step.change?.kind === kind ? [{ step, change: step.change as ChangeOf<K> }] : []))
}

/** Refusals before anything was written, beside a missing permission: a lock, a policy, a deny assignment, a limit, a busy server. */
const refusedCodes: ReadonlySet<string> = new Set(['refused-by-governance', 'role-assignment-limit', 'server-busy'])

/** Whether it is certain that a write was refused and changed nothing. */
export const wroteNothing = (error: unknown): boolean =>
  error instanceof Failure && (error.reason === 'permission' || refusedCodes.has(error.code))

/** Identity, then role assignments and allow-list at once. A failing identity ends the run; a failing role costs its service. */
export async function applyAzure(options: ApplyOptions): Promise<AzureApplied> {
  const { journal, observed, azure, log, signal } = options
  let { principalId } = observed.server
  for (const { step } of due(journal, 'identity')) {
    log.info(`Turning on the system-assigned identity of ${observed.server.name}`)
    const refused = journal.writing()
    try {
      principalId = await azure.enableIdentity()
      options.known({ principalId })
      journal.mark(step.id, 'created')
      log.info(`Identity is on: ${principalId}`)
    } catch (error) {
      if (signal.aborted) throw signal.reason
      if (wroteNothing(error)) refused()
      journal.mark(step.id, 'failed')
      for (const { step: role } of due(journal, 'role')) journal.mark(role.id, 'skipped', 'waits for identity')
      throw error
    }
  }

  const withoutRole = new Set<ServiceName>()
  const assigned = new Map<string, Promise<boolean>>()
  // Two services on one account may want the same role: it is given once.
  const assign = (scope: string, roleId: string, principal: string): Promise<boolean> => {
    const key = `${scope} ${roleId}`.toLowerCase()
    const known = assigned.get(key)
    if (known !== undefined) return known
    const assigning = azure.assignRole(scope, roleId, principal, assignmentDescription(observed.server.id))
    assigned.set(key, assigning)
    return assigning
  }
  const roles = due(journal, 'role').map(async ({ step, change }) => {
    if (principalId === undefined) return
    const refused = journal.writing()
    try {
      const created = await assign(change.scope, change.roleId, principalId)
      if (!created) refused()
      journal.mark(step.id, created ? 'created' : 'in-sync', created ? step.detail : 'was there already')
      log.info(`Role ${step.desired} on ${change.scope.split('/').at(-1)}: ${created ? 'assigned' : 'was there already'}`)
    } catch (error) {
      if (signal.aborted) throw signal.reason
      withoutRole.add(change.service)
      if (wroteNothing(error)) refused()
      journal.mark(step.id, 'failed')
      for (const failure of failuresOf(error)) journal.fail(failure)
    }
  })
  const allowList = due(journal, 'allow-list').map(async ({ step }) => {
    const refused = journal.writing()
    try {
      const entries = await azure.allowExtension('azure_ai')
      journal.mark(step.id, 'updated')
      log.info(`Allow-list azure.extensions: ${entries.join(', ')}`)
    } catch (error) {
      if (signal.aborted) throw signal.reason
      if (wroteNothing(error)) refused()
      journal.mark(step.id, 'failed')
      for (const failure of failuresOf(error)) journal.fail(failure)
    }
  })
  await Promise.all([...roles, ...allowList])
  return { withoutRole }
}

/** CREATE EXTENSION or ALTER EXTENSION .. UPDATE where it is due; gives the databases as they are then. */
export async function applyExtensions(
  options: ApplyOptions,
  connector: Connector,
  keys: KeyCandidates,
): Promise<readonly ObservedDatabase[]> {
  const { inputs, journal, observed, log, signal } = options
  const changes = new Map(due(journal, 'extension').map((each) => [each.change.database, each]))
  const allowList = journal.steps.find((step) => step.id === 'allow-list')
  // An allow-list without azure_ai that this run does not write is nothing to wait for.
  const vain = inputs.part === 'database' && observed.allowList !== undefined && !allowsAzureAi(observed.allowList)
  return mapLimited(observed.databases, most, async (database) => {
    const found = changes.get(database.name)
    if (found === undefined || database.failure !== undefined) return database
    const { step, change } = found
    if (allowList?.status === 'failed') {
      journal.mark(step.id, 'skipped', 'waits for allow-list')
      return database
    }
    const statement = extensionSql(database.creation, change.statement)
    try {
      let refused: (() => void) | undefined
      const run = async (): Promise<ObservedDatabase> => {
        const connection = await connector.connect(database.name, signal)
        try {
          refused ??= journal.writing()
          await changeExtension(connection, database, change.statement)
          const seen = await observeDatabase(connection, connector, keys)
          if (seen.failure !== undefined && verdictOnSql(seen.failure, 'extension') !== false) throw seen.failure
          return seen
        } finally {
          await connection.close()
        }
      }
      // Both statements do nothing where it is done: a COMMIT that was cut off may be followed by another.
      const seen = await retrying(run, {
        signal,
        verdict: (error) => (vain && notAllowListed.test(messageOf(error).text) ? false : verdictOnSql(error, 'extension')),
        onWait: (error, waitMs) =>
          log.info(`… database "${database.name}": ${messageOf(error).text}; again in ${duration(waitMs)}`),
      }).catch((error: unknown) => {
        if (['42501', '0A000', '55P03'].includes(sqlState(error))) refused?.()
        throw error
      })
      journal.mark(step.id, change.statement === 'create' ? 'created' : 'updated')
      log.info(`Database "${database.name}": ${statement}`)
      if (seen.failure !== undefined) journal.fail(seen.failure)
      return seen
    } catch (error) {
      if (signal.aborted) throw signal.reason
      journal.mark(step.id, 'failed')
      const failure = connector.failure(error, database.name, statement)
      journal.fail(failure)
      return database
    }
  })
}
