/** The restart that a new identity needs: when it is done, what it interrupts, and waiting until the server is back. */

import { isRead } from '../core/observed.ts'
import { namedFamilies } from '../core/plan.ts'
import type { StepKind } from '../core/steps.ts'
import { Failure } from '../errors/failure.ts'
import { retrying } from '../lib/retry.ts'
import { activity } from '../postgres/azure-ai.ts'
import { type Connector, connected, messageOf } from '../postgres/connection.ts'
import { carryOut, due, type Write, type WriteRun } from './carry-out.ts'
import { startUp, untilReady } from './server-state.ts'

/** Restarts the server where the plan says so, and where its identity can then be used. */
export async function applyRestart(run: WriteRun): Promise<void> {
  const { journal } = run
  for (const { step } of due(run, 'restart')) {
    const failed = (kind: StepKind): boolean => {
      const own = journal.steps.filter((each) => each.kind === kind && each.status !== 'skipped')
      return own.length > 0 && own.every((each) => each.status === 'failed')
    }
    // Nothing could use the identity: what failed has to be fixed first, and the next run restarts.
    if (failed('role') || failed('extension') || failed('allow-list'))
      journal.mark(step.id, 'skipped', 'not restarted: the steps before it failed')
    else if (!isLeftToQueries(run)) await carryOut(run, step, restartWrite(run))
  }
}

/** Whether databases use an identity already: where their queries pass, whatever the server runs with, it is not restarted. */
export function isLeftToQueries({ inputs, observed, access }: WriteRun): boolean {
  const usesIdentity = observed.databases
    .filter(isRead)
    .some(({ settings }) => namedFamilies(inputs).some(({ family }) => settings.get(family.authType) === 'managed-identity'))
  return access !== undefined && observed.server.principalId !== undefined && usesIdentity
}

/** Restarts the server, after logging what that interrupts, and waits until it is Ready and takes connections. */
export function restartWrite(run: WriteRun): Write {
  const { observed, azure, access, log, signal } = run
  const { server, replicas } = observed
  const database = observed.databases.find(isRead)
  return {
    endsRun: true,
    write: async (sending) => {
      log.info(`Restarting ${server.name}: its identity works only after a restart; connections are cut for a moment`)
      if (access !== undefined && database !== undefined)
        log.info(`  ${await activityOf(access.connector, database.name, signal)}`)
      log.info(
        `  high availability: ${server.highAvailability ?? 'off'}; read replicas: ${replicas.length}, which are not restarted`,
      )
      sending()
      await azure.restart()
      await untilReady({ name: server.name, azure, log, signal })
      if (access !== undefined && database !== undefined) await untilConnected(run, access.connector, database.name)
      return { status: 'created', detail: 'restarted by this run', message: `${server.name} is back` }
    },
  }
}

/** What a restart will interrupt, for the log; an error here stops nothing. */
async function activityOf(connector: Connector, database: string, signal: AbortSignal): Promise<string> {
  try {
    return await connected(connector, database, signal, activity)
  } catch (error) {
    if (signal.aborted) throw signal.reason
    return `what it interrupts is not known: ${connector.failure(error, database, 'looking at its activity').title}`
  }
}

async function untilConnected({ signal, log }: WriteRun, connector: Connector, database: string): Promise<void> {
  await retrying(() => connected(connector, database, signal, async () => undefined), {
    signal,
    verdict: (error) =>
      error instanceof Failure && ['network', 'database'].includes(error.reason) ? { schedule: startUp } : false,
    onWait: (error) => log.info(`… waiting for connections: ${error instanceof Failure ? error.title : messageOf(error).text}`),
  })
}
