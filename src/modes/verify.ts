/** `verify`: only the test queries, waiting for them as apply does. Resource Manager is read only for what is not set. */
import { databaseFindings } from '../core/findings.ts'
import { accountOfDeployments } from '../core/inputs.ts'
import type { Journal, QueryResult } from '../core/journal.ts'
import { isRead, type ObservedDatabase } from '../core/observed.ts'
import { isVerified } from '../core/report.ts'
import type { Resource, ServiceName } from '../core/services.ts'
import type { Deployment } from '../core/test-query.ts'
import { Failure } from '../errors/failure.ts'
import { firstOf } from '../lib/bounded.ts'
import { admitRunner } from '../stages/observe.ts'
import { observeDatabases } from '../stages/observe-databases.ts'
import { watchInVerify } from '../stages/restart-need.ts'
import type { Run } from '../stages/run.ts'
import { callsResourceManager, connectorFor, enter, type Session } from '../stages/sign-in.ts'
import { runTestQueries } from '../stages/test-queries.ts'
import { verifyFamilies } from '../verification/rounds.ts'

export async function verify(run: Run): Promise<void> {
  const { inputs, journal, log } = run
  const session = await log.group('Sign in', () => enter(inputs, run))
  const { connector, resources, server } = await log.group('Observe', () => observeLittle(run, session))
  if (server !== undefined) await log.group('Firewall', () => admitRunner(run, session, server, connector))

  const access = { connector, keys: new Map() }
  const databases = await observeDatabases(run, access)
  for (const { failure } of databases) if (failure !== undefined) journal.fail(failure)
  for (const failure of withoutExtension(databases)) journal.fail(failure)

  const { onWaiting, conclude } = watchInVerify(run, callsResourceManager(inputs) ? session.azure : undefined, databases)
  await log.group('Test queries', () => runTestQueries(run, { ...access, databases, resources, onWaiting }, verifyFamilies))
  await conclude()
  for (const finding of databaseFindings(inputs, databases, journal)) journal.finding(finding)
  if (journal.failures.length === 0 && !isVerified(inputs, journal, [])) journal.fail(notVerified(journal))
}

/** What passed with a key in reach, or did not run, is not verified; this mode succeeds only when all of it is. */
function notVerified({ queries }: Journal): Failure {
  const open = queries.filter(({ status, proof }) => status !== 'passed' || proof === 'key-present')
  const why = ({ status, error }: QueryResult): string => (status === 'passed' ? 'it passed with a stored key in reach' : error)
  const named = open.map((query) => `${query.service} in "${query.database}": ${why(query)}`)
  return new Failure({
    reason: 'verification',
    code: 'not-verified',
    title: 'Not every test query is verified',
    detail: `${firstOf(named, { separator: '; ' })}.`,
    fix: 'Clear stored keys with `mode: apply` and `clear-keys: true`, and set the input that a skipped query needs, or leave its service out.',
  })
}

/** As whom to connect, the deployments of the OpenAI account, and the server itself for a firewall rule: each only where it is needed. */
async function observeLittle({ inputs, log, reportFacts }: Run, session: Session) {
  const { azure, cloud } = session
  const account = accountOfDeployments(inputs)
  const [administrators, deployments, server] = await Promise.all([
    inputs.database.user === undefined ? azure.administrators() : [],
    account === undefined ? [] : azure.deployments(account),
    inputs.temporaryFirewallRule ? azure.server() : undefined,
  ])
  const { connector, user, host } = await connectorFor(
    inputs,
    session,
    `${inputs.server.name}${cloud.postgresSuffix}`,
    administrators,
  )
  reportFacts({ host })
  log.info(`Databases at ${host} as "${user}"`)
  const openai = inputs.services.find((each) => each.service === 'openai')
  const resources = new Map<ServiceName, Resource>()
  if (openai !== undefined) resources.set('openai', withDeployments(openai.resource, deployments))
  return { connector, server, resources }
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

/** Where there is nothing to query, a verify must not succeed. */
function withoutExtension(databases: readonly ObservedDatabase[]): Failure[] {
  return databases
    .filter((database) => isRead(database) && database.extension.installed === undefined)
    .map(
      ({ name }) =>
        new Failure({
          reason: 'database',
          code: 'extension-missing',
          title: 'azure_ai is not installed',
          detail: `"${name}" has no azure_ai, so none of its test queries can run.`,
          fix: 'Run this action with `mode: apply`.',
        }),
    )
}
