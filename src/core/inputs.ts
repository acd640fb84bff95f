/**
 * The inputs, parsed and validated before any request is sent: all problems together, each naming its input and what was
 * expected.
 */

import type { AdvisedInput } from '../errors/message.ts'
import { notUnicast } from '../lib/ipv4.ts'
import { type ResourceId, sameId } from '../lib/resource-id.ts'
import { accessRoles } from './access-roles.ts'
import type { InputName } from './input-names.ts'
import {
  checkTexts,
  guid,
  hostName,
  inputFailure,
  ipAddress,
  listOf,
  type Problem,
  quoted,
  type Raw,
  readers,
} from './input-readers.ts'
import { inventoryScopeOf } from './inventory-inputs.ts'
import type { ScopePart } from './inventory-scope.ts'
import { type AuthType, allMembers, memberOf, type ServiceName, serviceNamed, services } from './services.ts'
import { type Target, targetOf } from './target.ts'

export type Mode = 'apply' | 'check' | 'verify' | 'inventory'
export type Part = 'all' | 'azure' | 'database'

/** A service that the inputs name, its resource and its role. */
export interface NamedService {
  readonly service: ServiceName
  readonly resource: ResourceId
  /** GUID of the role definition. */
  readonly roleId: string
}

export interface Inputs extends Target {
  readonly mode: Mode
  readonly part: Part
  /** Of an inventory of more than one server; empty otherwise. */
  readonly scopeParts: readonly ScopePart[]
  /** As the input lists them, or `'*'`. */
  readonly databases: readonly string[] | '*'
  /** Role inputs that are set without their service, and an audience without the app it is for. */
  readonly rolesWithoutService: readonly InputName[]
  readonly audienceUnused: boolean
  /** In the order of the services table. */
  readonly services: readonly NamedService[]
  readonly authType: AuthType
  /** Keys of the inputs, by name of their setting; the others are read from the resources. Only with `subscription-key`. */
  readonly keys: ReadonlyMap<string, string>
  readonly clearKeys: boolean
  readonly allowRestart: boolean
  readonly allowUnproven: boolean
  readonly updateExtension: boolean
  readonly testQueries: boolean
  readonly embeddingDeployment: string | undefined
  readonly chatDeployment: string | undefined
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
  /** The fingerprint of an earlier check that apply compares its plan with. */
  readonly planId: string | undefined
  readonly failOnDrift: boolean
  readonly driftIssue: boolean
  readonly pullRequestComment: boolean
}

/** Shortest key, in characters. Azure's have 32 and more; a shorter one could be part of any word, and could not be hidden in texts. */
const shortestKey = 8

/** As plan.ts writes it: the fingerprint of all steps, and of each. */
const planIdPattern = /^[0-9a-f]{16}\.[0-9a-f]{16}(\.([0-9a-f]{16}){1,3750})?$/
/** The account whose deployments are read, since no input names one for its test query. */
export function accountOfDeployments(
  inputs: Pick<Inputs, 'services' | 'embeddingDeployment' | 'testQueries'>,
): ResourceId | undefined {
  if (!inputs.testQueries || inputs.embeddingDeployment !== undefined) return undefined
  return inputs.services.find((each) => each.service === 'openai')?.resource
}

/**
 * Parses the raw texts of all inputs.
 * @throws {Failure} with reason `input`, naming every problem at once.
 */
export function parseInputs(raw: Raw): Inputs {
  const problems: string[] = []
  const problem: Problem = (input, expected) => void problems.push(`\`${input}\`: ${expected}`)
  checkTexts(raw, problems, problem)
  const { oneOf, flag, optional, matching } = readers(raw, problem)
  const mode = oneOf<Mode>('mode', ['apply', 'check', 'verify', 'inventory'])
  const part = oneOf<Part>('part', ['all', 'azure', 'database'])
  const authType = oneOf<AuthType>('auth-type', ['managed-identity', 'subscription-key'])
  const scopeParts = inventoryScopeOf(raw, problem)
  const { server, ...target } = targetOf(raw, problem)
  const inputs: Omit<Inputs, 'server'> = {
    ...target,
    mode,
    part,
    scopeParts,
    authType,
    services: mode === 'inventory' ? [] : servicesOf(raw, problem),
    databases: parseDatabases(raw.databases, { mode, part, problem }),
    rolesWithoutService: services.flatMap(({ name }) =>
      raw[`${name}-role`] !== '' && raw[name] === '' ? [`${name}-role` as const] : [],
    ),
    audienceUnused: raw.audience !== '' && raw['client-id'] === '',
    keys: new Map(allMembers.flatMap(({ key, keyInput }) => (raw[keyInput] === '' ? [] : [[key, raw[keyInput]] as const]))),
    verifyTimeoutMs: verifyTimeoutOf(raw['verify-timeout-minutes'], problem),
    machineLearningInput: jsonOf(optional('machine-learning-input'), problem),
    database: loginOf(raw, problem),
    clearKeys: flag('clear-keys'),
    allowRestart: flag('allow-restart'),
    allowUnproven: flag('allow-unproven'),
    updateExtension: flag('update-extension'),
    testQueries: flag('test-queries'),
    embeddingDeployment: optional('embedding-deployment'),
    chatDeployment: optional('chat-deployment'),
    machineLearningDeployment: optional('machine-learning-deployment'),
    temporaryFirewallRule: flag('temporary-firewall-rule'),
    runnerIp: runnerIpOf(raw['runner-ip'], problem),
    planId: matching('plan-id', planIdPattern, 'the `plan-id` of a check'),
    failOnDrift: flag('fail-on-drift'),
    driftIssue: flag('drift-issue'),
    pullRequestComment: flag('pull-request-comment'),
  }
  checkKeys(raw, inputs, problem)
  checkTogether(raw, inputs, problem)
  if (problems.length > 0 || server === undefined) throw inputFailure(problems)
  return { ...inputs, server }
}

/** The named services, each with its resource and its role. */
function servicesOf(raw: Raw, problem: Problem): readonly NamedService[] {
  const { matching, resourceOf } = readers(raw, problem)
  const named: NamedService[] = []
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
    if (resource !== undefined) named.push({ service: service.name, resource, roleId: (role ?? service.role.id).toLowerCase() })
  }
  if (services.every((service) => raw[service.name] === '')) {
    problem('openai', `no service is named; name at least one of ${services.map((service) => `\`${service.name}\``).join(', ')}`)
  }
  return named
}

function verifyTimeoutOf(text: string, problem: Problem): number {
  const minutes = Number(text)
  if (!/^\d+(\.\d+)?$/.test(text) || minutes > 360)
    problem('verify-timeout-minutes', `${quoted(text)} is not a number of minutes from 0 to 360 (decimals allowed)`)
  return Math.round(minutes * 60_000)
}

function jsonOf(text: string | undefined, problem: Problem): string | undefined {
  try {
    if (text !== undefined) JSON.parse(text, refusedByJsonb)
  } catch (error) {
    const why = quoted(error instanceof Error ? error.message : String(error))
    problem('machine-learning-input', `is not JSON that PostgreSQL accepts: ${why}`)
  }
  return text
}

function loginOf(raw: Raw, problem: Problem): Inputs['database'] {
  const { optional } = readers(raw, problem)
  const portText = raw['database-port']
  const port = Number(portText)
  if (!/^\d{1,5}$/.test(portText) || port < 1 || port > 65_535)
    problem('database-port', `${quoted(portText)} is not a port from 1 to 65535`)
  const host = optional('database-host')
  if (host !== undefined && !hostName.test(host) && !ipAddress.test(host))
    problem('database-host', `${quoted(host)} is not a host name or an address`)
  if (raw['database-password'] !== '' && raw['database-user'] === '')
    problem('database-user', 'is required with `database-password`')
  return { user: optional('database-user'), password: optional('database-password'), host, port }
}

/** Keys are for the rollback, long enough to be hidden, and each for a named service. */
function checkKeys(raw: Raw, { authType, services: named }: Pick<Inputs, 'authType' | 'services'>, problem: Problem): void {
  for (const { key, keyInput: input } of allMembers) {
    if (raw[input] === '') continue
    if (raw[input].length < shortestKey)
      problem(
        input,
        `has ${raw[input].length} characters; a key needs at least ${shortestKey}, or it could not be hidden in log and report`,
      )
    if (authType !== 'subscription-key') problem(input, 'is only for `auth-type: subscription-key`')
    else if (!named.some((each) => memberOf(serviceNamed(each.service)).key === key))
      problem(input, 'is set, but no service that uses it')
  }
}

/** What contradicts each other, or is missing together. */
function checkTogether(raw: Raw, inputs: Omit<Inputs, 'server'>, problem: Problem): void {
  const { authType, services: named, mode, database } = inputs
  const byKey = authType === 'subscription-key'
  if (inputs.clearKeys && byKey) problem('clear-keys', 'contradicts `auth-type: subscription-key`')
  const [language, translator] = (['cognitive', 'translator'] as const).map(
    (name) => named.find((each) => each.service === name)?.resource.id,
  )
  if (byKey && language !== undefined && translator !== undefined && !sameId(language, translator)) {
    problem(
      'translator',
      'is another account than `cognitive`; with `subscription-key` both must be one multi-service account, since azure_cognitive has one key',
    )
  }
  if ((inputs.driftIssue || inputs.pullRequestComment) && raw['github-token'] === '')
    problem('github-token', 'is required for `drift-issue` and `pull-request-comment`, and empty')
  // A header takes no other characters; the request would fail as if the network had.
  if (!/^[!-~]*$/.test(raw['github-token']))
    problem('github-token', 'contains whitespace or a character that is not valid in a token')
  if (mode === 'verify' && !inputs.testQueries) problem('test-queries', 'is false, and `mode: verify` only runs the test queries')
  const asksControlPlane = mode !== 'verify' || database.user === undefined || database.host === undefined
  if (!asksControlPlane && accountOfDeployments(inputs) !== undefined) {
    problem(
      'embedding-deployment',
      'is required by `verify` with `openai` when `database-host` and `database-user` are set: Resource Manager is not called then',
    )
  }
}

/** One unicast IPv4 address: a firewall rule opens the server to whatever stands there. */
function runnerIpOf(text: string, problem: Problem): string | undefined {
  if (text === '') return undefined
  const why = notUnicast(text)
  if (why !== undefined) problem('runner-ip', `${quoted(text)} is ${why}; expected one unicast IPv4 address`)
  return text
}

/** Databases by line or comma, each once, in the order of the input. */
function parseDatabases(
  text: string,
  { mode, part, problem }: Pick<Inputs, 'mode' | 'part'> & { readonly problem: Problem },
): readonly string[] | '*' {
  const names = listOf(text)
  if (names.length === 1 && names[0] === '*' && mode !== 'apply') return '*'
  if (names.length === 0 && mode === 'inventory') return '*'
  if (names.includes('*')) {
    problem(
      'databases',
      names.length > 1
        ? '`*` stands alone'
        : '`*` is allowed in `check`, `verify` and `inventory` only: `apply` names the databases that it changes',
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
      throw new Error('jsonb takes neither \\u0000 nor half a surrogate pair')
  }
  if (typeof value === 'number' && !Number.isFinite(value)) throw new Error('a number is larger than jsonb takes')
  return value
}

/** Inputs that are set but have no effect with the others: reported, not refused, so that one workflow can serve many servers. */
export function unusedInputs(inputs: Inputs): readonly InputName[] {
  const has = (name: ServiceName): boolean => inputs.services.some((each) => each.service === name)
  const unused: InputName[] = []
  if (inputs.runnerIp !== undefined && !inputs.temporaryFirewallRule) unused.push('runner-ip')
  if (inputs.planId !== undefined && inputs.mode !== 'apply') unused.push('plan-id')
  const asks = inputs.testQueries && inputs.part !== 'azure'
  if (inputs.embeddingDeployment !== undefined && !(asks && has('openai'))) unused.push('embedding-deployment')
  if (inputs.chatDeployment !== undefined && !(asks && has('openai'))) unused.push('chat-deployment')
  if (inputs.machineLearningInput !== undefined && !(asks && has('machine-learning'))) unused.push('machine-learning-input')
  if (
    inputs.machineLearningDeployment !== undefined &&
    !(asks && has('machine-learning') && inputs.machineLearningInput !== undefined)
  ) {
    unused.push('machine-learning-deployment')
  }
  for (const name of inputs.rolesWithoutService) unused.push(name)
  if (inputs.audienceUnused) unused.push('audience')
  if (inputs.mode === 'verify' && inputs.driftIssue) unused.push('drift-issue')
  if ((inputs.mode === 'verify' || inputs.mode === 'inventory') && inputs.part !== 'all') unused.push('part')
  if (inputs.mode === 'inventory') {
    if (inputs.authType !== 'managed-identity') unused.push('auth-type')
    if (inputs.pullRequestComment) unused.push('pull-request-comment')
  }
  // The plan of a check says whether the restart is allowed.
  if ((inputs.mode === 'verify' || inputs.mode === 'inventory') && inputs.allowRestart) unused.push('allow-restart')
  if (inputs.part === 'azure') {
    if (inputs.clearKeys) unused.push('clear-keys')
    if (inputs.database.user !== undefined) unused.push('database-user')
  }
  return unused
}

/** Whether each of the inputs that fixes advise is set: a fix never advises one that is. */
export function advisedInputs(inputs: Inputs): Readonly<Record<AdvisedInput, boolean>> {
  return {
    'allow-restart': inputs.allowRestart,
    'clear-keys': inputs.clearKeys,
    'database-host': inputs.database.host !== undefined,
    'temporary-firewall-rule': inputs.temporaryFirewallRule,
    'update-extension': inputs.updateExtension,
  }
}

/** Title of a service for a reader. */
export function titleOf(name: ServiceName): string {
  return serviceNamed(name).title
}
