/** One run of the action in each mode: observe, plan, apply, prove. What it came to stands in the journal. */

import { databaseFindings, findings } from '../core/findings.ts'
import { accountToAsk, type Inputs, unusedInputs } from '../core/inputs.ts'
import type { Journal } from '../core/journal.ts'
import type { Observed, ObservedDatabase, ObservedServer } from '../core/observed.ts'
import { databaseNames, differs, plan, planId, planScope, type Step, sinceThen, withWaits } from '../core/plan.ts'
import { preconditions } from '../core/preconditions.ts'
import type { Deployment, Resource, ServiceName } from '../core/services.ts'
import { Failure, Failures, failuresOf } from '../errors/failure.ts'
import { onOneLine } from '../lib/unicode.ts'
import type { KeyCandidates } from '../postgres/azure-ai.ts'
import type { Connector } from '../postgres/connection.ts'
import { openDoor } from '../stages/firewall.ts'
import { findDatabases, observeDatabases, observeKeys, observeSurroundings } from '../stages/observe.ts'
import { applyRestart, restartPolicy, restartWithoutSql } from '../stages/restart.ts'
import { passingStates, untilSettled } from '../stages/server-state.ts'
import { connectorFor, enter, type Outside, type Session } from '../stages/sign-in.ts'
import { applyAzure, applyExtensions } from '../stages/write.ts'
import { skipQuery } from '../verification/jobs.ts'
import { askOnce, prove } from '../verification/rounds.ts'

/** @throws {Failure | Failures} what ended the run before it was done; the journal holds what was done until then */
export async function run(inputs: Inputs, journal: Journal, outside: Outside): Promise<void> {
  for (const input of unusedInputs(inputs)) {
    journal.finding({
      severity: 'notice',
      code: 'unused-input',
      title: 'An input has no effect',
      detail: `\`${input}\` is given, but what it belongs to is not.`,
      fix: '',
    })
  }
  if (inputs.databases !== '*') journal.expect(inputs.databases)
  if (inputs.mode === 'verify') return verify(inputs, journal, outside)
  const session = await outside.log.group('Sign in', async () => {
    const entered = await enter(inputs, outside)
    await entered.tokens.get(entered.cloud.resourceManagerScope)
    return entered
  })
  const found = await outside.log.group('Observe', () => observe(inputs, journal, session, outside))
  return inputs.mode === 'check' ? check(inputs, journal, outside, found) : apply(inputs, journal, outside, session, found)
}

interface Found {
  readonly observed: Observed
  /** Undefined when no SQL is to be run. */
  readonly connector: Connector | undefined
  /** For `subscription-key`; empty otherwise. */
  readonly keys: KeyCandidates
}

const noKeys: KeyCandidates = new Map()

async function observe(inputs: Inputs, journal: Journal, session: Session, outside: Outside): Promise<Found> {
  const { log, signal, known } = outside
  const withSql = inputs.part !== 'azure'
  let surroundings = await observeSurroundings(inputs, session.azure)
  // Another job's temporary firewall rule shows as Updating: a check that opens one of its own waits as well.
  const waits = inputs.mode === 'apply' || inputs.temporaryFirewallRule
  // With several jobs at it, the next operation may have begun by the time that everything is looked at.
  for (let again = 0; again < 10 && waits && passingStates.includes(surroundings.server.state); again++) {
    await untilSettled({ name: surroundings.server.name, azure: session.azure, log, signal })
    surroundings = await observeSurroundings(inputs, session.azure)
  }
  const { server } = surroundings
  known({ host: inputs.database.host ?? server.host, principalId: server.principalId ?? '' })
  log.info(
    `Server ${server.name}: ${server.state}, identity ${server.identityType}, ${server.isReplica ? 'a read replica' : `${surroundings.replicas.length} read replicas`}`,
  )
  for (const [service, resource] of surroundings.resources)
    log.info(`${service}: ${resource.name} (${resource.kind}, ${resource.location})`)
  if (!withSql || server.isReplica || server.state !== 'Ready')
    return { observed: { ...surroundings, databases: [] }, connector: undefined, keys: noKeys }

  const [{ connector, user, host }, keys] = await Promise.all([
    connectorFor(inputs, session, server.host, surroundings.administrators),
    observeKeys(inputs, session.azure, surroundings.resources),
  ]).catch((error: unknown) => {
    // What could not be read may be why: it is told first.
    throw surroundings.failures.length === 0 || signal.aborted
      ? error
      : new Failures([...surroundings.failures, ...failuresOf(error)])
  })
  if (inputs.temporaryFirewallRule) await admit(inputs, journal, session, outside, server, connector)
  const databases = await look(inputs, journal, connector, user, keys, signal)
  log.info(`Databases at ${host} as "${user}":`)
  for (const database of databases) {
    const state = database.failure?.title ?? `azure_ai ${database.extension.installed ?? 'not installed'}`
    log.info(onOneLine(`  "${database.name}": ${state}`))
  }
  return { observed: { ...surroundings, databases }, connector, keys }
}

/** Opens the server to this runner; the step stands before those of the plan. */
async function admit(
  inputs: Inputs,
  journal: Journal,
  session: Session,
  { log, signal, remember }: Outside,
  server: ObservedServer,
  connector: Connector,
): Promise<void> {
  journal.door(
    await openDoor({ inputs, server, azure: session.azure, connector, log, signal, remember, finding: journal.finding }),
  )
}

/** The named databases, or all that have azure_ai. */
async function look(
  inputs: Inputs,
  journal: Journal,
  connector: Connector,
  user: string,
  keys: KeyCandidates,
  signal: AbortSignal,
): Promise<readonly ObservedDatabase[]> {
  let databases: readonly ObservedDatabase[] = []
  try {
    databases =
      inputs.databases === '*'
        ? await findDatabases(user, connector, keys, signal)
        : await observeDatabases(inputs.databases, user, connector, keys, signal)
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
        detail: `\`databases\` is \`*\`, and azure_ai is installed in none of ${inputs.server.name}: DROP EXTENSION loses its settings as well.`,
        fix: 'Name the databases that are to have it, and run with `mode: apply`.',
      }),
    )
  }
  return databases
}

function tellPlan(journal: Journal, { log }: Outside): Promise<void> {
  return log.group('Plan', async () => {
    for (const step of journal.steps) {
      const change = differs(step) ? `${step.current} -> ${step.desired}` : step.current
      // A name or a value with a line break would add a line that looks like another step.
      log.info(onOneLine(`${step.status.padEnd(9)} ${step.id}: ${change}${step.detail === '' ? '' : ` (${step.detail})`}`))
    }
  })
}

function tellQueries(journal: Journal, { log }: Outside): void {
  for (const query of journal.queries) {
    const how = query.status === 'passed' ? `${query.answer} (${query.durationMs} ms, ${query.proof})` : query.error
    log.result(onOneLine(`${query.status.padEnd(7)} ${query.service} in "${query.database}": ${how}`))
  }
}

/** Changes nothing: all differences are collected, none stops the others. */
async function check(inputs: Inputs, journal: Journal, outside: Outside, { observed, connector }: Found): Promise<void> {
  const steps = plan(inputs, observed)
  journal.plan(withWaits(steps), planId(steps, planScope(inputs, observed)))
  await tellPlan(journal, outside)
  for (const failure of observed.failures) journal.fail(failure)
  for (const problem of preconditions(inputs, observed, steps)) journal.fail(problem)
  for (const { failure } of observed.databases) if (failure !== undefined) journal.fail(failure)
  if (connector === undefined) explainMissingQueries(inputs, observed, journal)
  else {
    await outside.log.group('Test queries', async () => {
      await askOnce(proving(inputs, journal, outside, observed.databases, observed.resources, connector))
      tellQueries(journal, outside)
    })
  }
  for (const finding of findings(inputs, observed, journal)) journal.finding(finding)
}

/** What every way of asking test queries needs. */
function proving(
  inputs: Inputs,
  journal: Journal,
  { log, signal }: Outside,
  databases: readonly ObservedDatabase[],
  resources: ReadonlyMap<ServiceName, Resource>,
  connector: Connector,
) {
  return {
    inputs,
    journal,
    log,
    signal,
    databases,
    resources,
    connector,
    without: new Set<ServiceName>(),
    since: performance.now(),
    noTokenLimitMs: undefined,
    keys: noKeys,
  }
}

/** Only the test queries, waiting for them as apply does; Resource Manager is asked only for what is not given. */
async function verify(inputs: Inputs, journal: Journal, outside: Outside): Promise<void> {
  const { log, signal, known } = outside
  const openai = inputs.given.find((each) => each.service === 'openai')
  const asked = accountToAsk(inputs)
  const session = await log.group('Sign in', () => enter(inputs, outside))
  const { connector, user, resources, server } = await log.group('Observe', async () => {
    const [administrators, deployments, server] = await Promise.all([
      inputs.database.user === undefined ? session.azure.administrators() : [],
      asked === undefined ? [] : session.azure.deployments(asked),
      inputs.temporaryFirewallRule ? session.azure.server() : undefined,
    ])
    const serverName = `${inputs.server.name}${session.cloud.postgresSuffix}`
    const made = await connectorFor(inputs, session, serverName, administrators)
    known({ host: made.host })
    log.info(`Databases at ${made.host} as "${made.user}"`)
    return {
      ...made,
      server,
      resources:
        openai === undefined
          ? new Map<ServiceName, Resource>()
          : new Map([['openai' as const, withDeployments(openai.resource, deployments)]]),
    }
  })
  if (server !== undefined) await log.group('Firewall', () => admit(inputs, journal, session, outside, server, connector))
  const databases = await look(inputs, journal, connector, user, noKeys, signal)
  for (const { failure } of databases) if (failure !== undefined) journal.fail(failure)
  for (const failure of withoutExtension(databases)) journal.fail(failure)
  await log.group('Test queries', async () => {
    await prove(proving(inputs, journal, outside, databases, resources, connector))
    tellQueries(journal, outside)
  })
  for (const finding of databaseFindings(inputs, databases, journal)) journal.finding(finding)
}

/** Where there is nothing to ask, a verify must not end well. */
function withoutExtension(databases: readonly ObservedDatabase[]): Failure[] {
  return databases
    .filter((database) => database.failure === undefined && database.extension.installed === undefined)
    .map(
      ({ name }) =>
        new Failure({
          reason: 'database',
          code: 'extension-missing',
          title: 'azure_ai is not installed',
          detail: `"${name}" has no azure_ai, so none of its test queries can run.`,
          fix: 'Run this action with `mode: apply` and this database among `databases`.',
        }),
    )
}

/** As much of an account as the embedding query needs. */
function withDeployments({ id, name }: { id: string; name: string }, deployments: readonly Deployment[]): Resource {
  return {
    id,
    settingsId: id,
    name,
    kind: '',
    location: '',
    provisioningState: '',
    endpoints: [],
    customSubdomain: undefined,
    localAuthDisabled: false,
    authMode: undefined,
    deployments,
  }
}

async function apply(
  inputs: Inputs,
  journal: Journal,
  outside: Outside,
  session: Session,
  { observed, connector, keys }: Found,
): Promise<void> {
  const { log, signal } = outside
  const steps = plan(inputs, observed)
  const scope = planScope(inputs, observed)
  journal.plan(steps, planId(steps, scope))
  await tellPlan(journal, outside)
  if (inputs.planId !== undefined) refuseAnotherPlan(inputs.planId, steps, scope)
  refuse(inputs, observed, journal)

  const options = { inputs, observed, azure: session.azure, journal, log, signal, known: outside.known }
  let databases: Observed['databases'] = observed.databases
  let without: ReadonlySet<ServiceName> = new Set()
  let since = performance.now()
  await log.group('Apply', async () => {
    if (inputs.part !== 'database') {
      const applied = await applyAzure(options)
      without = applied.withoutRole
    }
    if (connector !== undefined) databases = await applyExtensions(options, connector, keys)
    if (inputs.part !== 'database') await applyRestart(options, connector)
    if (journal.changed) since = performance.now()
    else log.info('Nothing to do before the settings')
  })

  if (connector === undefined && observed.server.principalId !== undefined && inputs.authType === 'managed-identity') {
    await restartWithoutSql(options, observed.server)
  }
  const restart = restartPolicy(options, connector, databases)
  if (connector !== undefined) {
    await log.group('Settings and test queries', async () => {
      await prove({
        ...proving(
          restart.triesOnce === true ? { ...inputs, verifyTimeoutMs: 0 } : inputs,
          ...([journal, outside, databases, observed.resources, connector] as const),
        ),
        without,
        since,
        keys,
        ...restart.patience,
      })
      tellQueries(journal, outside)
    })
  } else explainMissingQueries(inputs, observed, journal)
  restart.conclude()
  for (const finding of findings(inputs, { ...observed, databases }, journal)) journal.finding(finding)
}

/** The plan was checked, perhaps approved, and is another one now. */
function refuseAnotherPlan(earlier: string, steps: readonly Step[], scope: readonly string[]): void {
  const changes = sinceThen(earlier, steps, scope)
  if (changes === undefined) return
  throw new Failure({
    reason: 'drift',
    code: 'plan-changed',
    title: 'The plan is not the one that was checked',
    detail: `Since the check: ${changes.join('; ')}. Nothing was written.`,
    fix: `Run \`mode: check\` again and look at its plan; the plan-id is now ${planId(steps, scope)}`,
  })
}

/** Ends the run before its first write when something stands in the way; all of it is told together. */
function refuse(inputs: Inputs, observed: Observed, journal: Journal): void {
  const problems = preconditions(inputs, observed, journal.steps)
  const unreachable = observed.databases.flatMap((each) => each.failure ?? [])
  if (problems.length > 0) throw new Failures([...problems, ...unreachable])
  if (unreachable.length > 0 && unreachable.length === observed.databases.length) throw new Failures(unreachable)
  for (const failure of unreachable) journal.fail(failure)
}

/** Without SQL there are no queries; the report says why. */
function explainMissingQueries(inputs: Inputs, observed: Observed, journal: Journal): void {
  const { server } = observed
  const reason =
    inputs.part === 'azure'
      ? 'part: azure runs no SQL'
      : server.isReplica
        ? 'a read replica has the settings of its primary'
        : `the server is ${server.state}`
  for (const database of databaseNames(inputs, observed)) {
    for (const { service } of inputs.given) {
      skipQuery(journal, database, service, reason)
    }
  }
}
