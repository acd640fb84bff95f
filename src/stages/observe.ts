/** Reads the state of everything that the run is about: Resource Manager first, then, where SQL runs, the databases. */
import { isRead, type Observed, type ObservedServer } from '../core/observed.ts'
import { Failures, failuresOf } from '../errors/failure.ts'
import { onOneLine } from '../lib/unicode.ts'
import type { Connector } from '../postgres/connection.ts'
import { openFirewall } from './firewall.ts'
import { observeKeys, observeSurroundings, type Surroundings } from './observe-azure.ts'
import { type DatabaseAccess, observeDatabases } from './observe-databases.ts'
import type { Run } from './run.ts'
import { passingStates, untilSettled } from './server-state.ts'
import { type AzureSession, connectorFor, type Session } from './sign-in.ts'

export interface Found {
  readonly observed: Observed
  /** Undefined when no SQL is to be run. */
  readonly access: DatabaseAccess | undefined
}

/** How often a server that is busy again by the time that everything was read is waited for. */
const mostRounds = 10

export async function observe(run: Run, session: Session): Promise<Found> {
  const { inputs, log, scope } = run
  const surroundings = await observeSettled(run, session)
  const { server } = surroundings
  run.reportFacts({ host: inputs.database.host ?? server.host, principalId: server.principalId ?? '' })
  const replicas = server.isReplica ? 'a read replica' : `${surroundings.replicas.length} read replicas`
  log.info(`Server ${server.name}: ${server.state}, identity ${server.identityType}, ${replicas}`)
  for (const [service, resource] of surroundings.resources)
    log.info(`${service}: ${resource.name} (${resource.kind}, ${resource.location})`)
  if (!scope.runsSql || server.isReplica || server.state !== 'Ready')
    return { observed: { ...surroundings, databases: [] }, access: undefined }

  const [{ connector, user, host }, keys] = await Promise.all([
    connectorFor(inputs, session, server.host, surroundings.administrators),
    observeKeys(inputs, session.azure, surroundings.resources),
  ]).catch((error: unknown) => {
    // What could not be read may be the cause: it is reported first.
    throw surroundings.failures.length === 0 || run.signal.aborted
      ? error
      : new Failures([...surroundings.failures, ...failuresOf(error)])
  })
  if (inputs.temporaryFirewallRule) await admitRunner(run, session, server, connector)
  const access = { connector, keys }
  const databases = await observeDatabases(run, access)
  log.info(`Databases at ${host} as "${user}":`)
  for (const database of databases) {
    const state = isRead(database) ? `azure_ai ${database.extension.installed ?? 'not installed'}` : database.failure.title
    log.info(onOneLine(`  "${database.name}": ${state}`))
  }
  return { observed: { ...surroundings, databases }, access }
}

/** Reads Resource Manager, and reads it again after an operation of another job that was under way. */
async function observeSettled({ inputs, log, signal }: Run, { azure }: Session): Promise<Surroundings> {
  let surroundings = await observeSurroundings(inputs, azure)
  // Another job's temporary firewall rule shows as Updating: a check that opens one of its own waits as well.
  const waits = inputs.mode === 'apply' || inputs.temporaryFirewallRule
  for (let round = 0; round < mostRounds && waits && passingStates.includes(surroundings.server.state); round++) {
    await untilSettled({ name: surroundings.server.name, azure, log, signal })
    surroundings = await observeSurroundings(inputs, azure)
  }
  return surroundings
}

/** Opens the firewall to this runner; the step stands before those of the plan. */
export async function admitRunner(
  run: Run,
  { azure }: AzureSession,
  server: ObservedServer,
  connector: Connector,
): Promise<void> {
  const { inputs, journal, log, signal, remember } = run
  journal.firewall(await openFirewall({ inputs, server, azure, connector, log, signal, remember, finding: journal.finding }))
}
