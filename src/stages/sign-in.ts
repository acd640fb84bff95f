/** Getting in: the cloud, the login, Resource Manager and the way to the databases. */

import { discoverCloud } from '../azure/cloud.ts'
import { type AmbientLogin, claimsOf } from '../azure/credential.ts'
import { databaseHost } from '../azure/hosts.ts'
import type { ResourceManager } from '../azure/resource-manager.ts'
import type { Tokens } from '../azure/tokens.ts'
import { type Cloud, knownCloud } from '../core/clouds.ts'
import { accountOfDeployments, advisedInputs, type Inputs } from '../core/inputs.ts'
import type { Administrator } from '../core/observed.ts'
import type { Target } from '../core/target.ts'
import { Failure } from '../errors/failure.ts'
import type { Log } from '../lib/log.ts'
import { canonicalId } from '../lib/resource-id.ts'
import { orAborted } from '../lib/timeout.ts'
import type { Connector } from '../postgres/connection.ts'
import type { Greeted } from '../postgres/greeting.ts'

/** What signing in takes from the job. */
export interface SignInContext {
  readonly log: Log
  readonly signal: AbortSignal
  readonly ambient: AmbientLogin
  /** Removes variables of this process, which an SDK would read. */
  readonly removeVariables: (names: readonly string[]) => void
  /** The workflow's OIDC token for an audience. */
  readonly idToken: (audience: string) => Promise<string>
  readonly workflow: Workflow
}

/** What the outside gives to a run. */
export interface Outside extends SignInContext {
  /** Keeps the name of the temporary firewall rule for the post step, and whether it is known to have been made. */
  readonly remember: (rule: string, state: 'requested' | 'made') => void
  /** Called as soon as they are known. */
  readonly reportFacts: (facts: { readonly host?: string; readonly principalId?: string }) => void
}

/** What the event that started the workflow says of it. */
export interface Workflow {
  readonly event: string
  readonly actor: string
  /** A pull request whose head is a fork. */
  readonly fromFork: boolean
  /** Host of the job's proxy; undefined without one. */
  readonly proxy: string | undefined
}

/** The cloud, its login and its Resource Manager. */
export interface AzureSession {
  readonly cloud: Cloud
  readonly tokens: Tokens
  readonly azure: ResourceManager
}

export interface Session extends AzureSession {
  readonly workflow: Workflow
  readonly log: Log
  readonly greeting: Promise<Greeting> | undefined
}

/** The audience of the OIDC token that the run will request; undefined when it requests none. */
export function audienceOf(inputs: Inputs): string | undefined {
  return needsTokens(inputs) ? inputs.oidc?.audience : undefined
}

/** Signs in to the cloud of a target; nothing but the OIDC token is requested before it is needed. */
export function enterAzure(target: Target, context: SignInContext): Promise<AzureSession> {
  return enterCloud(target, context, target.oidc?.audience, 0)
}

/**
 * Variables that turn on the logs of the SDKs, which contain whole requests with their tokens. They are read when an SDK is
 * loaded. Only the runner would mask the tokens, and not those that are not known yet.
 */
const sdkLogVariables = ['AZURE_LOG_LEVEL', 'DEBUG']

/**
 * Cloud, tokens and Resource Manager; the SDKs are loaded while the OIDC token is on its way.
 * @param audience of the OIDC token; undefined when none is needed
 * @param requests how many requests to Resource Manager come at once: so many connections are opened ahead
 */
async function enterCloud(
  target: Target,
  outside: SignInContext,
  audience: string | undefined,
  requests: number,
): Promise<AzureSession> {
  const { log, signal } = outside
  const named = knownCloud(target.environment)
  const idToken = async (): Promise<string> => {
    try {
      return await orAborted(outside.idToken(audience ?? ''), signal)
    } catch (error) {
      if (signal.aborted) throw signal.reason
      throw oidcFailure(error, outside.workflow)
    }
  }
  const oidc = audience === undefined ? undefined : target.oidc
  // Requested first: it needs nothing else.
  const early = oidc === undefined ? undefined : idToken()
  early?.catch(() => undefined)
  const { ReadyAgent } = await import('../azure/agent.ts')
  const { proxy } = outside.workflow
  const agent = proxy === undefined ? new ReadyAgent() : undefined
  // Connections that are sure to be needed are opened while the OIDC token is on its way.
  agent?.open(named?.resourceManager ?? target.environment, requests)
  if (named !== undefined && oidc !== undefined) agent?.open(named.authority, 2)
  // One after the other, and in between a turn for what is on the line: an SDK takes longer to load than a round trip.
  const turn = (): Promise<void> => new Promise((over) => setImmediate(over))
  await turn()
  outside.removeVariables(sdkLogVariables)
  const { createHttp, createPipeline } = await import('../azure/pipeline.ts')
  await turn()
  const { signIn } = await import('../azure/credential.ts')
  const { createResourceManager } = await import('../azure/resource-manager.ts')
  await turn()
  let cloud = named
  if (cloud === undefined) {
    const url = target.environment
    const http = createHttp(createPipeline({ tokens: undefined, scope: '', host: new URL(url).host, signal, log, agent, proxy }))
    cloud = await discoverCloud(url, http, signal)
  }
  if (named === undefined && oidc !== undefined) agent?.open(cloud.authority, 2)
  let unused = early
  const tokens = signIn({
    cloud,
    oidc,
    idToken: () => {
      const token = unused ?? idToken()
      unused = undefined
      return token
    },
    ambient: outside.ambient,
    removeVariables: outside.removeVariables,
    log,
    signal,
    agent,
    proxy,
  })
  return { cloud, tokens, azure: createResourceManager({ cloud, tokens, server: target.server, log, signal, agent, proxy }) }
}

/** As {@link enterAzure}, for a whole run: what the databases will need is under way as well. */
export async function enter(inputs: Inputs, outside: SignInContext): Promise<Session> {
  const { cloud, tokens, azure } = await enterCloud(inputs, outside, audienceOf(inputs), requestsAtOnce(inputs))
  // What the databases will need is on its way while Resource Manager answers; a failure is reported where it is awaited.
  const withSql = inputs.part !== 'azure'
  if (withSql && inputs.database.password === undefined) {
    // The SDK would read Entra's configuration twice if both tokens were requested at once.
    const first = requestsAtOnce(inputs) > 0 ? tokens.get(cloud.resourceManagerScope) : Promise.resolve()
    first.then(() => tokens.get(cloud.postgresScope)).catch(() => undefined)
  }
  // A temporary firewall rule has to be there first.
  const greeting =
    withSql && !inputs.temporaryFirewallRule && inputs.mode !== 'inventory' ? greetServer(inputs, cloud) : undefined
  greeting?.catch(() => undefined)
  return { greeting, workflow: outside.workflow, cloud, tokens, azure, log: outside.log }
}

/** As {@link enter}, and signs in to Resource Manager before anything else is requested. */
export async function signInForRun(inputs: Inputs, outside: SignInContext): Promise<Session> {
  const session = await enter(inputs, outside)
  await session.tokens.get(session.cloud.resourceManagerScope)
  return session
}

/** How many requests to Resource Manager a run begins with; a verify with all it needs has none. */
function requestsAtOnce(inputs: Inputs): number {
  const { mode, services, database } = inputs
  const deployments = accountOfDeployments(inputs) === undefined ? 0 : 1
  const administrators = database.user === undefined ? 1 : 0
  if (mode === 'verify') return administrators + deployments
  const resources = new Set(services.map(({ resource }) => canonicalId(resource.id))).size
  return 3 + 2 * resources + administrators + deployments
}

/** Connections up to TLS, and where they lead. */
interface Greeting extends Greeted {
  readonly host: string
  readonly serverName: string
}

/** Opens connections to the databases up to TLS, before it is known as whom. `end` them when they are of no use. */
async function greetServer(inputs: Inputs, cloud: Cloud): Promise<Greeting> {
  const [{ greet }, { tlsFor }] = await Promise.all([import('../postgres/greeting.ts'), import('../postgres/connection.ts')])
  const serverName = `${inputs.server.name}${cloud.postgresSuffix}`
  const host = inputs.database.host ?? serverName
  const count = inputs.testQueries ? 4 : 1
  return { host, serverName, ...greet(host, inputs.database.port, tlsFor(serverName, host), count) }
}

/** False for a verify whose inputs name all that Resource Manager would show. */
export function callsResourceManager(inputs: Inputs): boolean {
  return requestsAtOnce(inputs) > 0 || inputs.temporaryFirewallRule
}

function needsTokens(inputs: Inputs): boolean {
  return callsResourceManager(inputs) || inputs.database.password === undefined
}

const permissionFix = 'Let the job have it:\npermissions:\n  id-token: write\n  contents: read'

function oidcFailure(error: unknown, { event, actor, fromFork }: Workflow): Failure {
  const text = error instanceof Error ? error.message : String(error)
  const isLacking = /ACTIONS_ID_TOKEN_REQUEST_(URL|TOKEN)/.test(text)
  const byDependabot = actor === 'dependabot[bot]'
  const noToken = (detail: string, fix: string): Failure => {
    const title = "The workflow's OIDC token is not available"
    return new Failure({ reason: 'credentials', code: 'no-oidc-token', title, detail, fix }, error)
  }
  if (fromFork)
    return noToken(
      isLacking ? 'A pull request from a fork started this run, and its runs never get a token.' : text,
      'Leave the step out for forks: if: github.event.pull_request.head.repo.full_name == github.repository',
    )
  if (byDependabot && (isLacking || event === 'pull_request'))
    return noToken(
      isLacking ? 'Dependabot started this run, and its runs may only read unless the workflow says otherwise.' : text,
      event === 'pull_request'
        ? "Leave the step out for Dependabot: if: github.actor != 'dependabot[bot]'; or set `permissions: { id-token: write, contents: read }` in the job"
        : permissionFix,
    )
  if (isLacking) return noToken(`The job lacks the permission for it (${text})`, permissionFix)
  return noToken(
    text,
    "Run the job again; on a self-hosted runner check the way to GitHub's OIDC service (HTTPS_PROXY, NODE_EXTRA_CA_CERTS).",
  )
}

/** Where and as whom to connect. The certificate is to be valid for the host that Resource Manager shows, or for `database-host`. */
export async function connectorFor(
  inputs: Inputs,
  { cloud, tokens, workflow, log, greeting }: Session,
  shownHost: string,
  administrators: readonly Administrator[],
): Promise<{ readonly connector: Connector; readonly user: string; readonly host: string }> {
  const [{ createConnector }, { lockLimitMs }] = await Promise.all([
    import('../postgres/connection.ts'),
    import('../postgres/lock.ts'),
  ])
  const serverName = databaseHost(shownHost, inputs.server.name, cloud)
  const { password } = inputs.database
  const host = inputs.database.host ?? serverName
  const user =
    inputs.database.user ??
    administratorOf(inputs, administrators, password === undefined ? await tokens.get(cloud.postgresScope) : undefined)
  const greeted = await greeting
  // What was guessed is not where the server is.
  const fits = greeted?.host === host && greeted.serverName === serverName
  if (!fits) greeted?.end()
  const connector = createConnector(
    {
      host,
      port: inputs.database.port,
      serverName,
      server: inputs.server.name,
      resourceGroup: inputs.server.resourceGroup,
      isSet: advisedInputs(inputs),
      behindProxy: workflow.proxy !== undefined,
      greeted: fits ? greeted : undefined,
      lockLimitMs: lockLimitMs(inputs.verifyTimeoutMs),
    },
    { user, password: async () => password ?? tokens.get(cloud.postgresScope) },
    log,
  )
  return { connector, user, host }
}

/** The caller among the server's Entra administrators: found by the object id in its token. */
function administratorOf(inputs: Inputs, administrators: readonly Administrator[], token: string | undefined): string {
  const claim = token === undefined ? undefined : claimsOf(token).oid
  const oid = typeof claim === 'string' ? claim : undefined
  const own = administrators.find((each) => oid !== undefined && each.objectId.toLowerCase() === oid.toLowerCase())
  if (own !== undefined) return own.principalName
  const groups = administrators.filter((each) => each.principalType === 'Group').map((each) => each.principalName)
  const { resourceGroup, name } = inputs.server
  const hint =
    groups.length === 0
      ? ''
      : ` Groups among them: ${groups.join(', ')}; a member connects with the group's name as \`database-user\`.`
  throw new Failure({
    reason: 'credentials',
    code: 'not-an-administrator',
    title: 'It is not known which role to connect as',
    detail: `${oid === undefined ? 'The login names no object id' : `Object id ${oid} is not among the Entra administrators of ${name}`}, and \`database-user\` is not set.${hint}`,
    fix:
      oid === undefined
        ? 'Set `database-user`.'
        : `az postgres flexible-server microsoft-entra-admin create --resource-group ${resourceGroup} --server-name ${name} --object-id ${oid} --display-name NAME-OF-THE-APP --type ServicePrincipal   # or set \`database-user\``,
  })
}
