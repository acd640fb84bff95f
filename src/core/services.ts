/**
 * The services the action knows, one row each: role, resource, settings and test query. Observation, plan, application,
 * proof and report all read this table, so they cannot disagree.
 */

import { azureRoles, type BuiltInRole } from '../lib/azure-roles.ts'
import { withoutEndSlashes } from '../lib/bounded.ts'
import { canonicalId } from '../lib/resource-id.ts'

export type ServiceName = 'openai' | 'cognitive' | 'translator' | 'machine-learning'
export type FamilyName = 'azure_openai' | 'azure_cognitive' | 'azure_ml'
export type AuthType = 'managed-identity' | 'subscription-key'

/** Settings that azure_ai keeps once for all services of a family in each database. */
export interface Family {
  readonly name: FamilyName
  readonly authType: string
  readonly endpoint: string
  /** A secret. */
  readonly key: string
  /** Non-secret settings that show what else the family is used for. */
  readonly others: readonly string[]
  /** Those of them that something answers by, whether or not the endpoint is set. */
  readonly alsoServes: readonly string[]
}

export const families: Readonly<Record<FamilyName, Family>> = {
  azure_openai: {
    name: 'azure_openai',
    authType: 'azure_openai.auth_type',
    endpoint: 'azure_openai.endpoint',
    key: 'azure_openai.subscription_key',
    others: [],
    alsoServes: [],
  },
  azure_cognitive: {
    name: 'azure_cognitive',
    authType: 'azure_cognitive.auth_type',
    endpoint: 'azure_cognitive.endpoint',
    key: 'azure_cognitive.subscription_key',
    others: ['azure_cognitive.region', 'azure_cognitive.translator_resource_id'],
    alsoServes: [],
  },
  azure_ml: {
    name: 'azure_ml',
    authType: 'azure_ml.auth_type',
    endpoint: 'azure_ml.scoring_endpoint',
    key: 'azure_ml.endpoint_key',
    others: ['azure_ml.serverless_ranking_endpoint'],
    alsoServes: ['azure_ml.serverless_ranking_endpoint'],
  },
}

/** What Resource Manager tells of a resource that a service lives on, reduced to what matters here. */
export interface Resource {
  /** As the inputs name it, never as an answer does: where the role goes. */
  readonly id: string
  /** Where endpoint and keys come from: the online endpoint of a workspace, else the same. */
  readonly settingsId: string
  readonly name: string
  /** Of an account; `OnlineEndpoint` for Machine Learning. */
  readonly kind: string
  readonly location: string
  readonly provisioningState: string
  /** All https endpoints it shows, the main one first. */
  readonly endpoints: readonly string[]
  readonly customSubdomain: string | undefined
  /** Whether keys are refused. */
  readonly localAuthDisabled: boolean
  /** Of an online endpoint. */
  readonly authMode: string | undefined
  /** Of an account with OpenAI models. */
  readonly deployments: readonly Deployment[]
}

export interface Deployment {
  readonly name: string
  readonly model: string
  readonly capabilities: Readonly<Record<string, string>>
}

/** Where a value of a setting comes from. */
interface SettingSource {
  readonly setting: string
  readonly value: (resource: Resource, authType: AuthType) => string | undefined
  /** Left to another service of the family when that one is given too. */
  readonly leftTo?: ServiceName
  /** Set only for this way to sign in. */
  readonly onlyFor?: AuthType
}

/** An argument of a test function: passed by name, and only when the installed version has it. */
export interface Argument {
  readonly name: string
  readonly type: 'text' | 'jsonb' | 'boolean' | 'integer'
  readonly value: string
}

/** What the test query of a service is made of. */
export interface TestQuery {
  readonly schema: string
  readonly function: string
  /** SQL around the call: one row, one column. */
  readonly wrap: (call: string) => string
  /** Whether a value that is not empty is a result: whoever answers 200 to everything has none. */
  readonly isAnswer: (value: string) => boolean
  /** What the answer says, for a reader. */
  readonly answer: (value: string) => string
}

/** What the inputs say about test queries. */
interface TestInputs {
  readonly embeddingDeployment: string | undefined
  readonly machineLearningInput: string | undefined
  readonly machineLearningDeployment: string | undefined
}

/** A function that stands in for the test function where the service has retired that one. */
export interface FallbackQuery extends TestQuery {
  /** For its first text argument, whatever that is called. */
  readonly text: string
}

export interface Service {
  readonly fallback?: FallbackQuery
  readonly name: ServiceName
  readonly title: string
  readonly family: FamilyName
  readonly role: BuiltInRole
  readonly resourceTypes: readonly string[]
  /** Account kinds that serve it; undefined: any. */
  readonly kinds: readonly string[] | undefined
  readonly settings: readonly SettingSource[]
  readonly test: TestQuery
  /** The arguments of the call, or why it cannot be made. */
  readonly arguments: (inputs: TestInputs, resource: Resource | undefined) => readonly Argument[] | { readonly skip: string }
}

/** Longest time a test function may wait for its service, in milliseconds. */
const queryTimeoutMs = 15_000

const accountType = 'Microsoft.CognitiveServices/accounts'
const literal = (name: string, value: string): Argument => ({ name, type: 'text', value })

/** `https://NAME.LABEL.SUFFIX` from whichever endpoint of the account shows its suffix (`NAME.openai.azure.us`, `NAME.cognitiveservices.azure.cn`). */
function subdomainEndpoint(resource: Resource, label: 'openai' | 'cognitiveservices'): string | undefined {
  const subdomain = resource.customSubdomain?.toLowerCase()
  if (subdomain === undefined) return undefined
  const hosts = resource.endpoints.flatMap((endpoint) => (URL.canParse(endpoint) ? [new URL(endpoint).hostname] : []))
  const own = hosts.find((host) => host.startsWith(`${subdomain}.${label}.`))
  if (own !== undefined) return `https://${own}`
  const suffix = hosts
    .map((host) => /\.(?:openai|cognitiveservices|services\.ai)\.(.+)$/.exec(host)?.[1])
    .find((found) => found !== undefined)
  // An account may show only a global endpoint; its cloud is then known by that endpoint's own ending.
  const national = ['us', 'cn'].find((ending) => hosts.some((host) => host.endsWith(`.${ending}`)))
  const cloud = suffix ?? `azure.${national ?? 'com'}`
  return `https://${subdomain}.${label}.${cloud}`
}

/** A key works with a regional endpoint, too; a token does not. */
function endpointOf(resource: Resource, label: 'openai' | 'cognitiveservices', authType: AuthType): string | undefined {
  return subdomainEndpoint(resource, label) ?? (authType === 'subscription-key' ? resource.endpoints[0] : undefined)
}

const embeddingModel = /embed|ada-002/i

/** The deployment for the embedding query: the first that can embed, by name; else any; undefined when there is none. */
export function embeddingDeployment(deployments: readonly Deployment[]): Deployment | undefined {
  const sorted = [...deployments].sort((a, b) => Number(a.name > b.name) - Number(a.name < b.name))
  return sorted.find((each) => each.capabilities.embeddings === 'true' || embeddingModel.test(each.model)) ?? sorted[0]
}

export const services: readonly Service[] = [
  {
    name: 'openai',
    title: 'Azure OpenAI',
    family: 'azure_openai',
    role: azureRoles.openai,
    resourceTypes: [accountType],
    kinds: ['OpenAI', 'AIServices'],
    settings: [
      { setting: families.azure_openai.authType, value: (_, authType) => authType },
      { setting: families.azure_openai.endpoint, value: (resource, authType) => endpointOf(resource, 'openai', authType) },
    ],
    test: {
      schema: 'azure_openai',
      function: 'create_embeddings',
      wrap: (call) => `SELECT pg_catalog.cardinality(${call}) AS dimensions`,
      isAnswer: (value) => Number(value) > 0,
      answer: (value) => `${value} dimensions`,
    },
    arguments: (inputs, resource) => {
      const deployment = inputs.embeddingDeployment ?? embeddingDeployment(resource?.deployments ?? [])?.name
      if (deployment === undefined)
        return { skip: 'the account has no deployment to ask, and `embedding-deployment` is not given' }
      return [literal('deployment_name', deployment), literal('input', 'The identity works')]
    },
  },
  {
    name: 'cognitive',
    title: 'Azure AI Language',
    family: 'azure_cognitive',
    role: azureRoles.cognitive,
    resourceTypes: [accountType],
    kinds: ['TextAnalytics', 'CognitiveServices', 'AIServices'],
    settings: [
      { setting: families.azure_cognitive.authType, value: (_, authType) => authType },
      {
        setting: families.azure_cognitive.endpoint,
        value: (resource, authType) => endpointOf(resource, 'cognitiveservices', authType),
      },
    ],
    test: {
      schema: 'azure_cognitive',
      function: 'analyze_sentiment',
      wrap: (call) => `SELECT (${call}).sentiment AS sentiment`,
      isAnswer: (value) => /^(?:positive|negative|neutral|mixed)$/i.test(value),
      answer: (value) => value,
    },
    fallback: {
      schema: 'azure_cognitive',
      function: 'detect_language',
      wrap: (call) => `SELECT pg_catalog.to_jsonb(${call}) AS language`,
      isAnswer: (value) => value !== '{}' && value !== 'null',
      answer: (value) => value,
      text: 'Signing in without a password is wonderful.',
    },
    arguments: () => [literal('text', 'Signing in without a password is wonderful.'), literal('language', 'en')],
  },
  {
    name: 'translator',
    title: 'Azure AI Translator',
    family: 'azure_cognitive',
    role: azureRoles.cognitive,
    resourceTypes: [accountType],
    kinds: ['TextTranslation', 'CognitiveServices', 'AIServices'],
    settings: [
      { setting: families.azure_cognitive.authType, value: (_, authType) => authType },
      {
        setting: families.azure_cognitive.endpoint,
        value: (resource, authType) => endpointOf(resource, 'cognitiveservices', authType),
        leftTo: 'cognitive',
      },
      { setting: 'azure_cognitive.region', value: (resource) => resource.location.toLowerCase().replaceAll(' ', '') },
      { setting: 'azure_cognitive.translator_resource_id', value: (resource) => resource.id, onlyFor: 'managed-identity' },
    ],
    test: {
      schema: 'azure_cognitive',
      function: 'translate',
      wrap: (call) => `SELECT pg_catalog.to_jsonb(${call}) AS translation`,
      isAnswer: (value) => translated(value) !== '',
      answer: (value) => translated(value),
    },
    arguments: () => [literal('text', 'Good morning, world'), literal('target_language', 'es'), literal('source_language', 'en')],
  },
  {
    name: 'machine-learning',
    title: 'Azure Machine Learning',
    family: 'azure_ml',
    role: azureRoles.machineLearning,
    resourceTypes: [
      'Microsoft.MachineLearningServices/workspaces',
      'Microsoft.MachineLearningServices/workspaces/onlineEndpoints',
    ],
    kinds: undefined,
    settings: [
      { setting: families.azure_ml.authType, value: (_, authType) => authType },
      { setting: families.azure_ml.endpoint, value: (resource) => resource.endpoints[0] },
    ],
    test: {
      schema: 'azure_ml',
      function: 'invoke',
      wrap: (call) => `SELECT ${call} AS answer`,
      // A model may answer anything.
      isAnswer: () => true,
      answer: (value) => value,
    },
    arguments: (inputs) => {
      if (inputs.machineLearningInput === undefined) return { skip: '`machine-learning-input` is not given' }
      const input: Argument = { name: 'input_data', type: 'jsonb', value: inputs.machineLearningInput }
      const deployment = inputs.machineLearningDeployment
      return deployment === undefined ? [input] : [input, literal('deployment_name', deployment)]
    },
  },
]

/** Arguments that every test query gets when the installed version has them. */
export const commonArguments: readonly Argument[] = [
  { name: 'disable_service_logs', type: 'boolean', value: 'true' },
  // Where its default is false, a refusal would come as NULL and without its reason.
  { name: 'throw_on_error', type: 'boolean', value: 'true' },
  { name: 'timeout_ms', type: 'integer', value: String(queryTimeoutMs) },
]

export function serviceNamed(name: ServiceName): Service {
  const service = services.find((each) => each.name === name)
  if (service === undefined) throw new Error(`no service ${name}`)
  return service
}

/**
 * The translated text out of whatever shape the composite has: the first `text` below `translations`, else the whole; empty
 * when there is no text where the translations are.
 */
function translated(value: string): string {
  try {
    const whole = JSON.parse(value) as { translations?: unknown } | null
    const { translations } = whole ?? {}
    const found = Array.isArray(translations) ? (translations[0] as { text?: unknown } | null)?.text : undefined
    if (typeof found === 'string') return found
    return hasText(translations === undefined ? whole : translations) ? value : ''
  } catch {
    return value
  }
}

/** Whether a value of JSON holds a text that is not empty. */
function hasText(value: unknown): boolean {
  if (typeof value === 'object' && value !== null) return Object.values(value).some(hasText)
  return typeof value === 'string' && value !== ''
}

/**
 * Whether two values of a setting mean the same to the service: endpoints without trailing slash and case of the host,
 * resource ids without case, a region only in its canonical form.
 */
export function sameValue(setting: string, a: string, b: string): boolean {
  return canonical(setting, a) === canonical(setting, b)
}

function canonical(setting: string, value: string): string {
  // A service takes none of these, and azure_ai passes on what is stored: it is no other spelling of a value that works.
  if (/[\s\p{Cc}]/u.test(value)) return value
  if (setting.endsWith('endpoint') && URL.canParse(value)) {
    const url = new URL(value)
    if (url.username !== '' || url.password !== '' || value.includes('#')) return value
    return `${url.origin}${withoutEndSlashes(url.pathname)}${url.search}`
  }
  if (setting.endsWith('resource_id')) return canonicalId(value)
  return value
}
