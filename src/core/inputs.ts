/**
 * The inputs, parsed and validated in one place: all problems together, each naming its input and what was expected,
 * before any request is sent.
 */

import { Failure } from '../errors/failure.ts'
import { withoutEndSlashes } from '../lib/bounded.ts'
import { notUnicast } from '../lib/ipv4.ts'
import { accessRoles } from './access-roles.ts'
import { isAudienceOfKnownCloud, knownCloud } from './clouds.ts'
import { type AuthType, type FamilyName, type ServiceName, serviceNamed, services } from './services.ts'

/** Every input of action.yml. A test holds this list against the file. */
export const inputNames = [
  'mode',
  'part',
  'server',
  'databases',
  'openai',
  'cognitive',
  'translator',
  'machine-learning',
  'openai-role',
  'cognitive-role',
  'translator-role',
  'machine-learning-role',
  'auth-type',
  'openai-key',
  'cognitive-key',
  'machine-learning-key',
  'clear-keys',
  'allow-restart',
  'allow-unproven',
  'update-extension',
  'test-queries',
  'embedding-deployment',
  'machine-learning-input',
  'machine-learning-deployment',
  'verify-timeout-minutes',
  'plan-id',
  'environment',
  'tenant-id',
  'client-id',
  'audience',
  'database-user',
  'database-password',
  'database-host',
  'database-port',
  'temporary-firewall-rule',
  'runner-ip',
  'fail-on-drift',
  'drift-issue',
  'pull-request-comment',
  'github-token',
] as const

export type InputName = (typeof inputNames)[number]

/** Inputs whose values are masked before anything else sees them. */
export const secretInputs: readonly InputName[] = [
  'openai-key',
  'cognitive-key',
  'machine-learning-key',
  'database-password',
  'github-token',
]

export type Mode = 'apply' | 'check' | 'verify'
export type Part = 'all' | 'azure' | 'database'

/** A Resource Manager id, taken apart. */
export interface ResourceId {
  /** Without trailing slash, as it was given otherwise. */
  readonly id: string
  readonly subscription: string
  readonly resourceGroup: string
  /** `Microsoft.X/things/parts`. */
  readonly type: string
  /** Names along the type, outermost first. */
  readonly names: readonly string[]
  readonly name: string
}

/** A service that was given, its resource and its role. */
export interface Given {
  readonly service: ServiceName
  readonly resource: ResourceId
  /** GUID of the role definition. */
  readonly roleId: string
}

/** Which server, in which cloud, and as whom: all that the post step needs. */
export interface Target {
  readonly server: ResourceId
  /** Lower-case name of a known cloud, or the https URL of a Resource Manager. */
  readonly environment: string
  /** Sign in with the workflow's OIDC token; undefined: the ambient login. */
  readonly oidc: { readonly tenantId: string; readonly clientId: string; readonly audience: string } | undefined
}

export interface Inputs extends Target {
  readonly mode: Mode
  readonly part: Part
  /** As given, or `'*'`. */
  readonly databases: readonly string[] | '*'
  /** Role inputs that are given without their service, and an audience without the app it is for. */
  readonly rolesWithoutService: readonly InputName[]
  readonly audienceUnused: boolean
  /** In the order of the services table. */
  readonly given: readonly Given[]
  readonly authType: AuthType
  /** Keys that were given, by family; the others are read from the resources. Only with `subscription-key`. */
  readonly keys: ReadonlyMap<FamilyName, string>
  readonly clearKeys: boolean
  readonly allowRestart: boolean
  readonly allowUnproven: boolean
  readonly updateExtension: boolean
  readonly testQueries: boolean
  readonly embeddingDeployment: string | undefined
  readonly machineLearningInput: string | undefined
  readonly machineLearningDeployment: string | undefined
  readonly verifyTimeoutMs: number
  readonly database: {
    readonly user: string | undefined
    readonly password: string | undefined
    readonly host: string | undefined
    readonly port: number
  }
  readonly temporaryFirewallRule: boolean
  /** IPv4. */
  readonly runnerIp: string | undefined
  /** The fingerprint of an earlier check that apply holds its plan against. */
  readonly planId: string | undefined
  readonly failOnDrift: boolean
  readonly driftIssue: boolean
  readonly pullRequestComment: boolean
}

/** Longest value of an input, in characters. */
const longest = 65_536

/** Shortest key, in characters. Azure's have 32 and more; a shorter one could be part of any word, and could not be hidden in texts. */
const shortestKey = 8

/** The known clouds, in lower case. */
export const cloudNames = ['azurecloud', 'azureusgovernment', 'azurechinacloud'] as const

/** Where the key of each family is given. */
const keyInputs: Readonly<Record<FamilyName, InputName>> = {
  azure_openai: 'openai-key',
  azure_cognitive: 'cognitive-key',
  azure_ml: 'machine-learning-key',
}

/** As plan.ts writes it: the fingerprint of all steps, and of each. */
const planIdPattern = /^[0-9a-f]{16}\.[0-9a-f]{16}(\.([0-9a-f]{16}){1,3750})?$/
const guid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i
const domain = /^(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$/i
const hostName = /^(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\.?$/i
const ipAddress = /^(?=.{1,45}$)(\d{1,3}(\.\d{1,3}){3}|[0-9a-f:]*:[0-9a-f:.]+)$/i
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const controlCharacter = /[\u0000-\u001f\u007f]/

/** The account whose deployments Resource Manager is asked for, since none is given for its test query. */
export function accountToAsk(inputs: Pick<Inputs, 'given' | 'embeddingDeployment' | 'testQueries'>): ResourceId | undefined {
  if (!inputs.testQueries || inputs.embeddingDeployment !== undefined) return undefined
  return inputs.given.find((each) => each.service === 'openai')?.resource
}

/** Takes a Resource Manager id apart; undefined when it is none. Case does not matter, a trailing slash is tolerated. */
export function parseResourceId(text: string): ResourceId | undefined {
  const id = withoutEndSlashes(text)
  const match = /^\/subscriptions\/([^/]+)\/resourceGroups\/([^/]+)\/providers\/([^/]+)\/(.+)$/i.exec(id)
  const [, subscription, resourceGroup, provider, rest] = match ?? []
  if (subscription === undefined || resourceGroup === undefined || provider === undefined || rest === undefined) return undefined
  const parts = rest.split('/')
  if (parts.length % 2 !== 0 || parts.includes('')) return undefined
  // A name of dots alone would lead somewhere else in a URL.
  const isName = (part: string): boolean => /^[\w.-]+$/.test(part) && !/^\.+$/.test(part)
  if (!guid.test(subscription) || ![provider, ...parts].every(isName)) return undefined
  if (!/^[\p{L}\p{N}_.()-]+$/u.test(resourceGroup) || /^\.+$/.test(resourceGroup)) return undefined
  const names = parts.filter((_, index) => index % 2 === 1)
  const type = [provider, ...parts.filter((_, index) => index % 2 === 0)].join('/')
  return { id, subscription, resourceGroup, type, names, name: names.at(-1) ?? '' }
}

type Raw = Readonly<Record<InputName, string>>
type Problem = (input: InputName, expected: string) => void

/** The inputs that a {@link Target} is read from. */
export const targetInputs = ['server', 'environment', 'tenant-id', 'client-id', 'audience'] as const

/**
 * Parses the inputs that name the server, its cloud and the login, by the same rules as {@link parseInputs}.
 * @throws {Failure} with reason `input`, naming every problem at once.
 */
export function parseTarget(given: Readonly<Record<(typeof targetInputs)[number], string>>): Target {
  const blank = Object.fromEntries(inputNames.map((name) => [name, ''])) as Record<InputName, string>
  const raw: Raw = { ...blank, ...given }
  const problems: string[] = []
  const problem: Problem = (input, expected) => void problems.push(`\`${input}\`: ${expected}`)
  checkTexts(raw, problems, problem)
  const { server, ...target } = targetOf(raw, problem)
  if (problems.length > 0 || server === undefined) throw inputFailure(problems)
  return { ...target, server }
}

/**
 * Refuses what is too long, and what contains a control character that no value of the input can have.
 * @throws {Failure} for oversized values: nothing else looks at them
 */
function checkTexts(raw: Raw, problems: readonly string[], problem: Problem): void {
  for (const name of inputNames) {
    if (raw[name].length > longest)
      problem(name, `is ${raw[name].length} characters long; nothing of more than ${longest.toLocaleString('en')} is accepted`)
  }
  if (problems.length > 0) throw inputFailure(problems)

  const multiline: readonly InputName[] = ['databases', 'machine-learning-input']
  for (const name of inputNames) {
    const value = multiline.includes(name) ? raw[name].replaceAll(/[\r\n\t]/g, '') : raw[name]
    if (controlCharacter.test(value))
      problem(name, 'contains a line break or another control character, which no value of it can have')
  }
}

/** How the text of an input becomes a value; what is wrong with it becomes a problem. */
function readers(raw: Raw, problem: Problem) {
  const oneOf = <T extends string>(input: InputName, values: readonly T[]): T => {
    const found = values.find((value) => value === lowerCase(raw[input]))
    if (found === undefined)
      problem(input, `${quoted(raw[input])} is not known; expected ${values.map((value) => `\`${value}\``).join(' or ')}`)
    return found ?? (values[0] as T)
  }
  const flag = (input: InputName): boolean => oneOf(input, ['true', 'false']) === 'true'
  const optional = (input: InputName): string | undefined => (raw[input] === '' ? undefined : raw[input])
  const matching = (input: InputName, pattern: RegExp, expected: string): string | undefined => {
    const value = optional(input)
    if (value !== undefined && !pattern.test(value)) problem(input, `${quoted(value)} is not ${expected}`)
    return value
  }
  const resourceOf = (input: InputName, types: readonly string[]): ResourceId | undefined => {
    const value = raw[input]
    const parsed = parseResourceId(value)
    const example = `/subscriptions/SUBSCRIPTION/resourceGroups/GROUP/providers/${types[0] ?? ''}/NAME`
    if (parsed === undefined) {
      problem(input, `${quoted(value)} is not a resource id; expected \`${example}\``)
    } else if (!types.some((type) => type.toLowerCase() === parsed.type.toLowerCase())) {
      const horizon = /^microsoft\.horizondb\//i.test(parsed.type)
        ? ', and HorizonDB is another product, which this action does not serve'
        : ''
      problem(input, `is the id of a \`${parsed.type}\`${horizon}; expected ${types.map((type) => `\`${type}\``).join(' or ')}`)
      return undefined
    }
    return parsed
  }
  return { oneOf, flag, optional, matching, resourceOf }
}

/** The server is undefined when it is missing or wrong. */
function targetOf(raw: Raw, problem: Problem): Omit<Target, 'server'> & { readonly server: ResourceId | undefined } {
  const { matching, resourceOf } = readers(raw, problem)
  if (raw.server === '') problem('server', 'is required: the resource id of the flexible server')
  const server = raw.server === '' ? undefined : resourceOf('server', ['Microsoft.DBforPostgreSQL/flexibleServers'])

  const environment = isHttpsUrl(raw.environment) ? normalUrl(raw.environment) : lowerCase(raw.environment)
  if (!cloudNames.some((name) => name === environment) && !isHttpsUrl(raw.environment)) {
    problem(
      'environment',
      `${quoted(raw.environment)} is not known; expected \`AzureCloud\`, \`AzureUSGovernment\`, \`AzureChinaCloud\` or the https URL of a Resource Manager`,
    )
  }

  const tenantId = raw['tenant-id']
  if (tenantId !== '' && !guid.test(tenantId) && !domain.test(tenantId))
    problem('tenant-id', `${quoted(tenantId)} is not a tenant id (GUID) or a domain`)
  const clientId = matching('client-id', guid, 'an application (client) id (GUID)')
  if ((tenantId === '') !== (clientId === undefined)) {
    problem(
      tenantId === '' ? 'tenant-id' : 'client-id',
      '`tenant-id` and `client-id` belong together: give both, or neither for the ambient login',
    )
  }
  return {
    server,
    environment,
    oidc:
      tenantId === '' || clientId === undefined
        ? undefined
        : { tenantId, clientId, audience: audienceOf(raw.audience, environment, problem) },
  }
}

/**
 * Parses the raw texts of all inputs.
 * @throws {Failure} with reason `input`, naming every problem at once.
 */
export function parseInputs(raw: Raw): Inputs {
  const problems: string[] = []
  const problem: Problem = (input, expected) => void problems.push(`\`${input}\`: ${expected}`)
  checkTexts(raw, problems, problem)
  const { oneOf, flag, optional, matching, resourceOf } = readers(raw, problem)

  const mode = oneOf<Mode>('mode', ['apply', 'check', 'verify'])
  const part = oneOf<Part>('part', ['all', 'azure', 'database'])
  const authType = oneOf<AuthType>('auth-type', ['managed-identity', 'subscription-key'])

  const { server, environment, oidc } = targetOf(raw, problem)

  const given: Given[] = []
  for (const service of services) {
    const roleInput = `${service.name}-role` as const
    const role = matching(roleInput, guid, 'the id (GUID) of a role definition')
    const accessRole = accessRoles.get(role?.toLowerCase() ?? '')
    if (accessRole !== undefined) {
      problem(
        roleInput,
        `is the id of ${accessRole}, a role that can assign roles: whoever controls the server could give itself any right there. Expected a role that can only call the service; without this input it is ${service.role.name}`,
      )
    }
    if (raw[service.name] === '') continue
    const resource = resourceOf(service.name, service.resourceTypes)
    if (resource !== undefined) given.push({ service: service.name, resource, roleId: (role ?? service.role.id).toLowerCase() })
  }
  if (services.every((service) => raw[service.name] === '')) {
    problem('openai', `no service is given; name at least one of ${services.map((service) => `\`${service.name}\``).join(', ')}`)
  }

  const databases = databasesOf(raw.databases, mode, part, problem)

  const minutes = Number(raw['verify-timeout-minutes'])
  if (!/^\d+(\.\d+)?$/.test(raw['verify-timeout-minutes']) || minutes > 360) {
    problem(
      'verify-timeout-minutes',
      `${quoted(raw['verify-timeout-minutes'])} is not a number of minutes from 0 to 360 (decimals allowed)`,
    )
  }

  const machineLearningInput = optional('machine-learning-input')
  if (machineLearningInput !== undefined) {
    try {
      JSON.parse(machineLearningInput, refusedByJsonb)
    } catch (error) {
      problem(
        'machine-learning-input',
        `is not JSON that PostgreSQL takes: ${quoted(error instanceof Error ? error.message : String(error))}`,
      )
    }
  }

  const portText = raw['database-port']
  const port = Number(portText)
  if (!/^\d{1,5}$/.test(portText) || port < 1 || port > 65_535)
    problem('database-port', `${quoted(portText)} is not a port from 1 to 65535`)
  const host = optional('database-host')
  if (host !== undefined && !hostName.test(host) && !ipAddress.test(host))
    problem('database-host', `${quoted(host)} is not a host name or an address`)

  if (raw['database-password'] !== '' && raw['database-user'] === '') {
    problem('database-user', 'is needed with `database-password`: a password does not tell whose it is')
  }

  const inputs: Omit<Inputs, 'server'> = {
    mode,
    part,
    databases,
    given,
    authType,
    rolesWithoutService: services.flatMap(({ name }) =>
      raw[`${name}-role`] !== '' && raw[name] === '' ? [`${name}-role` as const] : [],
    ),
    audienceUnused: raw.audience !== '' && raw['client-id'] === '',
    keys: new Map(
      (Object.entries(keyInputs) as [FamilyName, InputName][]).flatMap(([family, input]) =>
        raw[input] === '' ? [] : [[family, raw[input]] as const],
      ),
    ),
    clearKeys: flag('clear-keys'),
    allowRestart: flag('allow-restart'),
    allowUnproven: flag('allow-unproven'),
    updateExtension: flag('update-extension'),
    testQueries: flag('test-queries'),
    embeddingDeployment: optional('embedding-deployment'),
    machineLearningInput,
    machineLearningDeployment: optional('machine-learning-deployment'),
    verifyTimeoutMs: Math.round(minutes * 60_000),
    environment,
    oidc,
    database: { user: optional('database-user'), password: optional('database-password'), host, port },
    temporaryFirewallRule: flag('temporary-firewall-rule'),
    runnerIp: runnerIpOf(raw['runner-ip'], problem),
    planId: matching('plan-id', planIdPattern, 'the `plan-id` of a check'),
    failOnDrift: flag('fail-on-drift'),
    driftIssue: flag('drift-issue'),
    pullRequestComment: flag('pull-request-comment'),
  }
  for (const [family, input] of Object.entries(keyInputs) as [FamilyName, InputName][]) {
    if (raw[input] !== '' && raw[input].length < shortestKey)
      problem(
        input,
        `has ${raw[input].length} characters; a key needs ${shortestKey} at least, or it could not be hidden in log and report`,
      )
    if (raw[input] !== '' && authType !== 'subscription-key') problem(input, 'is only for `auth-type: subscription-key`')
    else if (raw[input] !== '' && !given.some((each) => serviceNamed(each.service).family === family)) {
      problem(input, 'is given, but no service that uses it')
    }
  }
  if (inputs.clearKeys && authType === 'subscription-key') problem('clear-keys', 'contradicts `auth-type: subscription-key`')
  const [language, translator] = ['cognitive', 'translator'].map((name) =>
    given.find((each) => each.service === name)?.resource.id.toLowerCase(),
  )
  if (authType === 'subscription-key' && language !== undefined && translator !== undefined && language !== translator) {
    problem(
      'translator',
      'is another account than `cognitive`; with `subscription-key` both must be one multi-service account, since azure_cognitive has one key',
    )
  }
  if ((inputs.driftIssue || inputs.pullRequestComment) && raw['github-token'] === '') {
    problem('github-token', 'is needed for `drift-issue` and `pull-request-comment`, and empty')
  }
  // A header takes no other signs; the request would fail as if the network had.
  if (!/^[!-~]*$/.test(raw['github-token'])) problem('github-token', 'holds a blank or a sign that no token has')
  if (mode === 'verify' && !inputs.testQueries) problem('test-queries', 'is false, and `mode: verify` only runs the test queries')
  const asksControlPlane = mode !== 'verify' || inputs.database.user === undefined || host === undefined
  if (!asksControlPlane && accountToAsk({ ...inputs, given }) !== undefined) {
    problem(
      'embedding-deployment',
      'is needed by `verify` with `openai` when `database-host` and `database-user` are given: Resource Manager is not asked then',
    )
  }

  if (problems.length > 0 || server === undefined) throw inputFailure(problems)
  return { ...inputs, server }
}

/**
 * Audience of the OIDC token. A cloud that describes itself needs one of its own: with a token for a known cloud, whoever runs
 * the host could sign in to Azure as this workflow.
 */
function audienceOf(audience: string, environment: string, problem: Problem): string {
  const cloud = knownCloud(environment)
  if (cloud?.oidcAudience !== undefined) return audience === '' ? cloud.oidcAudience : audience
  // What is neither a known cloud nor a URL is a problem of its own.
  if (!isHttpsUrl(environment)) return audience
  if (audience === '') {
    problem(
      'audience',
      "is required when `environment` is a URL: the audience that the app's federated credential in that cloud expects",
    )
  } else if (isAudienceOfKnownCloud(audience)) {
    problem(
      'audience',
      `${quoted(audience)} belongs to one of Azure's own clouds, and \`environment\` is another host; expected the audience of that cloud`,
    )
  }
  return audience
}

/** One unicast IPv4 address: a firewall rule opens the server to whatever stands there. */
function runnerIpOf(text: string, problem: Problem): string | undefined {
  if (text === '') return undefined
  const why = notUnicast(text)
  if (why !== undefined) problem('runner-ip', `${quoted(text)} is ${why}; expected one unicast IPv4 address`)
  return text
}

/** Databases by line or comma, each once, in the order given. */
function databasesOf(text: string, mode: Mode, part: Part, problem: Problem): readonly string[] | '*' {
  const names = [
    ...new Set(
      text
        .split(/[\n,]/)
        .map((name) => name.trim())
        .filter((name) => name !== ''),
    ),
  ]
  if (names.length === 1 && names[0] === '*' && mode !== 'apply') return '*'
  if (names.includes('*')) {
    problem(
      'databases',
      names.length > 1
        ? '`*` stands alone'
        : '`*` is allowed in `check` and `verify` only: `apply` names the databases that it changes',
    )
    return '*'
  }
  if (names.length === 0 && part !== 'azure')
    problem('databases', 'is required: database names, one a line or separated by commas')
  for (const name of names) {
    if (Buffer.byteLength(name) > 63) problem('databases', `${quoted(name)} is longer than the 63 bytes that PostgreSQL allows`)
    if (/^(azure_maintenance|azure_sys|template[01])$/.test(name))
      problem('databases', `${quoted(name)} belongs to Azure or PostgreSQL itself`)
  }
  return names
}

/** Throws for what is JSON and no `jsonb` of PostgreSQL. */
function refusedByJsonb(key: string, value: unknown): unknown {
  for (const text of [key, value]) {
    if (typeof text === 'string' && (text.includes('\0') || !text.isWellFormed()))
      throw new Error('jsonb holds neither \\u0000 nor half a surrogate pair')
  }
  if (typeof value === 'number' && !Number.isFinite(value)) throw new Error('a number is larger than jsonb holds')
  return value
}

/** In lower case as far as it is ASCII: toLowerCase() makes a `k` of the sign for kelvin. */
function lowerCase(text: string): string {
  return text.replaceAll(/[A-Z]/g, (letter) => letter.toLowerCase())
}

function isHttpsUrl(text: string): boolean {
  if (!/^https:\/\//i.test(text) || !URL.canParse(text)) return false
  const url = new URL(text)
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1')
  return (
    (hostName.test(host) || ipAddress.test(host)) &&
    url.username === '' &&
    url.password === '' &&
    url.search === '' &&
    url.hash === ''
  )
}

/** Without trailing slash; names of other alphabets as DNS has them. */
function normalUrl(text: string): string {
  const { origin, pathname } = new URL(text)
  return withoutEndSlashes(`${origin}${pathname}`)
}

/** A value in a message: at most 80 characters of it, control characters shown as such. */
function quoted(value: string): string {
  const shown = JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value)
  return shown.replaceAll('`', "'")
}

function inputFailure(problems: readonly string[]): Failure {
  return new Failure({
    reason: 'input',
    code: 'input',
    title: problems.length === 1 ? 'An input is wrong' : `${problems.length} inputs are wrong`,
    detail: problems.join('\n'),
    fix: 'Correct the `with:` block of the step; the table of inputs is in the README. Nothing was sent to Azure or to the database.',
  })
}

/** Inputs that are given but have no effect with the others: told, not refused, so that one workflow can serve many servers. */
export function unusedInputs(inputs: Inputs): readonly InputName[] {
  const has = (name: ServiceName): boolean => inputs.given.some((each) => each.service === name)
  const unused: InputName[] = []
  if (inputs.runnerIp !== undefined && !inputs.temporaryFirewallRule) unused.push('runner-ip')
  if (inputs.planId !== undefined && inputs.mode !== 'apply') unused.push('plan-id')
  const asks = inputs.testQueries && inputs.part !== 'azure'
  if (inputs.embeddingDeployment !== undefined && !(asks && has('openai'))) unused.push('embedding-deployment')
  if (inputs.machineLearningInput !== undefined && !(asks && has('machine-learning'))) unused.push('machine-learning-input')
  if (
    inputs.machineLearningDeployment !== undefined &&
    !(asks && has('machine-learning') && inputs.machineLearningInput !== undefined)
  ) {
    unused.push('machine-learning-deployment')
  }
  for (const name of inputs.rolesWithoutService) unused.push(name)
  if (inputs.audienceUnused) unused.push('audience')
  if (inputs.mode === 'verify') {
    if (inputs.part !== 'all') unused.push('part')
    if (inputs.driftIssue) unused.push('drift-issue')
  }
  if (inputs.mode !== 'apply' && inputs.allowRestart) unused.push('allow-restart')
  if (inputs.part === 'azure') {
    if (inputs.clearKeys) unused.push('clear-keys')
    if (inputs.database.user !== undefined) unused.push('database-user')
  }
  return unused
}

/** Title of a service for a reader. */
export function titleOf(name: ServiceName): string {
  return serviceNamed(name).title
}
