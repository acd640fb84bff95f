/** The restart that a new identity needs: when it is considered, what it interrupts, and waiting until the server is back. */

import type { Inputs } from '../core/inputs.ts'
import type { Journal } from '../core/journal.ts'
import { formerIdentity, isRead, type ObservedDatabase } from '../core/observed.ts'
import { type RestartEvidence, restartEvidence } from '../core/restart-evidence.ts'
import type { StepKind } from '../core/steps.ts'
import { Failure } from '../errors/failure.ts'
import { retrying } from '../lib/retry.ts'
import { activity } from '../postgres/azure-ai.ts'
import { type Connector, messageOf } from '../postgres/connection.ts'
import type { VerifyOptions, Waiting } from '../verification/rounds.ts'
import { carryOut, due, type Write, type WriteRun } from './carry-out.ts'
import { startUp, untilReady } from './server-state.ts'

/** How long to wait for a token before a restart is the likelier cure, in milliseconds. */
const noTokenPatienceMs = 3 * 60_000

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
    else await carryOut(run, step, restartWrite(run))
  }
}

/** Restarts the server, after logging what that interrupts, and waits until it is Ready and takes connections. */
function restartWrite(run: WriteRun): Write {
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
    const connection = await connector.connect(database, signal)
    try {
      return await activity(connection)
    } finally {
      await connection.close()
    }
  } catch (error) {
    if (signal.aborted) throw signal.reason
    return `what it interrupts is not known: ${connector.failure(error, database, 'looking at its activity').title}`
  }
}

async function untilConnected({ signal, log }: WriteRun, connector: Connector, database: string): Promise<void> {
  await retrying(async () => (await connector.connect(database, signal)).close(), {
    signal,
    verdict: (error) =>
      error instanceof Failure && ['network', 'database'].includes(error.reason) ? { schedule: startUp } : false,
    onWait: (error) => log.info(`… waiting for connections: ${error instanceof Failure ? error.title : messageOf(error).text}`),
  })
}

/** What a restart does to the waiting of the test queries. */
interface RestartPolicy {
  readonly onWaiting: VerifyOptions['onWaiting']
  /** Called when the test queries are over. */
  readonly conclude: () => Promise<void> | void
  /** Waiting changes nothing: one try shows whether the identity works after all. */
  readonly triesOnce: boolean
}

const noPolicy: RestartPolicy = { onWaiting: undefined, conclude: () => undefined, triesOnce: false }

/**
 * When a restart is considered: while no query has passed with the identity, and something shows that the server has not been
 * restarted since it has it. One restart in all; after it nothing is evidence.
 */
export function restartPolicy(run: WriteRun, databases: readonly ObservedDatabase[]): RestartPolicy {
  const { inputs, journal, observed, scope } = run
  const step = journal.step('restart')
  if (step === undefined || step.status === 'created') return noPolicy
  const limitMs = Math.min(noTokenPatienceMs, inputs.verifyTimeoutMs)
  const former = formerIdentity(observed)
  if (step.status === 'missing' && former !== undefined)
    return { ...noPolicy, triesOnce: true, conclude: () => formerOutcome(inputs, journal, former) }
  if (step.status === 'missing') {
    // This run turned the identity on, and may not restart: beyond some minutes waiting for a token is vain.
    const onWaiting = async ({ noToken, waitedMs }: Waiting) => (noToken && waitedMs >= limitMs ? 'give-up' : undefined)
    return { ...noPolicy, onWaiting, conclude: () => restartOutcome(inputs, journal) }
  }
  const roleAssignedNow = journal.steps.some(({ kind, status }) => kind === 'role' && status === 'created')
  let isOver = false
  let required: RestartEvidence | undefined
  const onWaiting = async ({ noToken, refusedPrincipals, waitedMs }: Waiting) => {
    const evidence = isOver ? undefined : restartEvidence(observed, databases, { noToken, refusedPrincipals, roleAssignedNow })
    if (evidence === undefined || !(evidence.certain || waitedMs >= limitMs)) return undefined
    isOver = true
    if (!inputs.allowRestart || !scope.writesAzure) {
      required = evidence
      return 'give-up'
    }
    run.log.info(`The identity does not work yet, and ${evidence.text}`)
    await carryOut(run, step, restartWrite(run))
    return 'restarted'
  }
  const conclude = async (): Promise<void> => {
    // Where no query ran, what the server shows is the only evidence.
    const noneRan = journal.failures.length === 0 && journal.queries.every(({ status }) => status === 'skipped')
    if (noneRan && databases.length > 0) await onWaiting({ noToken: true, refusedPrincipals: [], waitedMs: 0 })
    const why = scope.writesAzure ? '`allow-restart` is false' : 'part: database does not restart'
    if (required !== undefined)
      journal.fail(restartRequired(inputs, `The identity does not work yet, and ${required.text}; ${why}.`))
  }
  return { ...noPolicy, onWaiting, conclude }
}

/**
 * Without SQL nothing fails for want of a token. The identity that the server reports decides: another one means that a
 * restart was cut off between the two; none at all is what some servers always report, and is only a finding.
 */
export async function restartWithoutSql(run: WriteRun): Promise<void> {
  const { inputs, journal, azure, observed } = run
  const { server } = observed
  const running = await azure.runningIdentity(server)
  if (running === undefined || running.toLowerCase() === server.principalId?.toLowerCase()) return
  const { resourceGroup, name } = inputs.server
  if (running === '') {
    journal.finding({
      severity: 'notice',
      code: 'restart-unknown',
      title: 'Unknown whether the server was restarted after its identity was enabled',
      detail: `${name} names no identity that it runs with. If azure_ai cannot get a token there, a restart is missing.`,
      fix: `az postgres flexible-server restart --resource-group ${resourceGroup} --name ${name}   # only when the test queries fail for want of a token`,
    })
    return
  }
  const step = journal.step('restart')
  if (inputs.allowRestart && step !== undefined) await carryOut(run, step, restartWrite(run))
  else journal.fail(restartRequired(inputs, `The server still runs with identity ${running}, and \`allow-restart\` is false.`))
}

/** The running server uses a former identity, and the restart was not allowed: the step is needed unless everything passed. */
function formerOutcome(inputs: Inputs, journal: Journal, former: string): void {
  if (allPassed(journal)) journal.mark('restart', 'skipped', 'not needed: the test queries passed without it')
  else if (!inputs.allowRestart)
    journal.fail(restartRequired(inputs, `The server still runs with identity ${former}, and \`allow-restart\` is false.`))
}

function allPassed({ queries }: Journal): boolean {
  const ran = queries.filter((query) => query.status !== 'skipped')
  return ran.length > 0 && ran.every((query) => query.status === 'passed')
}

/** The identity was turned on and the restart it needs was not allowed: the results of the queries decide. */
function restartOutcome(inputs: Inputs, journal: Journal): void {
  if (allPassed(journal)) {
    journal.mark('restart', 'skipped', 'not needed: the test queries passed without it')
    return
  }
  const refusals = journal.failures.filter((failure) => failure.reason === 'verification')
  const tokenWasHad =
    refusals.length > 0 && refusals.every((failure) => !['no-token', 'ai-error', 'not-tried'].includes(failure.code))
  if (tokenWasHad) return
  // It was allowed: what failed before it kept this run from it, and is reported.
  if (inputs.allowRestart) return
  journal.fail(restartRequired(inputs, 'This run turned the identity on, and `allow-restart` is false.'))
}

function restartRequired(inputs: Inputs, detail: string): Failure {
  const { resourceGroup, name } = inputs.server
  return new Failure({
    reason: 'restart-required',
    code: 'restart-required',
    title: 'The server has to be restarted before its identity works',
    detail,
    fix: `az postgres flexible-server restart --resource-group ${resourceGroup} --name ${name}   # then run this job again${inputs.allowRestart ? '' : '; or set `allow-restart: true`'}`,
  })
}
