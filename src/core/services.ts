/**
 * The services the action knows, one row each: role, resource, settings and test query. Observation, plan, application,
 * verification and report all read this table, so they cannot disagree.
 */

import { azureRoles, type BuiltInRole } from '../lib/azure-roles.ts'
import { withoutEndSlashes } from '../lib/bounded.ts'
import type { InputName } from './input-names.ts'
import { otherRankingPath, rankingEndpoint } from './setting-values.ts'
import {
  type Argument,
  type Deployment,
  documents,
  type QueryName,
  rankedDocuments,
  type ServiceQuery,
  type TestInputs,
  translated,
} from './test-query.ts'

export type ServiceName = 'openai' | 'cognitive' | 'translator' | 'machine-learning' | 'ranking'
export type FamilyName = 'azure_openai' | 'azure_cognitive' | 'azure_ml'
export type AuthType = 'managed-identity' | 'subscription-key'

/** An endpoint of a family, and the key that belongs to it. */
interface Member {
  readonly endpoint: string
  /** A secret. */
  readonly key: string
  /** The input that gives the key for the rollback to keys. */
  readonly keyInput: InputName
}

/** Settings that azure_ai keeps once for all services of a family in each database. */
export interface Family {
  readonly name: FamilyName
  readonly authType: string
  /** They share the auth_type, so they are switched, verified and put back together. */
  readonly members: readonly Member[]
  /** Other settings that show what the family is used for; no secrets. */
  readonly others: readonly string[]
}

export const families: Readonly<Record<FamilyName, Family>> = {
  azure_openai: {
    name: 'azure_openai',
    authType: 'azure_openai.auth_type',
    members: [{ endpoint: 'azure_openai.endpoint', key: 'azure_openai.subscription_key', keyInput: 'openai-key' }],
    others: [],
  },
  azure_cognitive: {
    name: 'azure_cognitive',
    authType: 'azure_cognitive.auth_type',
    members: [{ endpoint: 'azure_cognitive.endpoint', key: 'azure_cognitive.subscription_key', keyInput: 'cognitive-key' }],
    others: ['azure_cognitive.region', 'azure_cognitive.translator_resource_id'],
  },
  azure_ml: {
    name: 'azure_ml',
    authType: 'azure_ml.auth_type',
    members: [
      { endpoint: 'azure_ml.scoring_endpoint', key: 'azure_ml.endpoint_key', keyInput: 'machine-learning-key' },
      {
        endpoint: 'azure_ml.serverless_ranking_endpoint',
        key: 'azure_ml.serverless_ranking_endpoint_key',
        keyInput: 'ranking-key',
      },
    ],
    others: [],
  },
}

/** The settings with the keys of a family. */
export const keysOf = ({ members }: Family): readonly string[] => members.map(({ key }) => key)

/** All members of all families. */
export const allMembers: readonly Member[] = Object.values(families).flatMap(({ members }) => members)

/** What Resource Manager shows of the resource of a service, reduced to what matters here. */
export interface Resource {
  /** As the inputs name it, never as an answer does: where the role goes. */
  readonly id: string
  /** Where endpoint and keys come from: the online endpoint of a workspace, else the same. */
  readonly settingsId: string
  readonly name: string
  /** Of an account; `OnlineEndpoint` or `ServerlessEndpoint` for Machine Learning. */
  readonly kind: string
  readonly location: string
  readonly provisioningState: string
  /** All https endpoints it shows, the main one first. */
  readonly endpoints: readonly string[]
  readonly customSubdomain: string | undefined
  /** Whether keys are refused. */
  readonly localAuthDisabled: boolean
  /** Of an online or a serverless endpoint. */
  readonly authMode: string | undefined
  /** Of an account with OpenAI models. */
  readonly deployments: readonly Deployment[]
}

/** Where a value of a setting comes from. */
interface SettingSource {
  readonly setting: string
  readonly value: (resource: Resource, authType: AuthType) => string | undefined
  /** Left to another service of the family when that one is named too. */
  readonly leftTo?: ServiceName
  /** Set only for this way to sign in. */
  readonly onlyFor?: AuthType
  /** What is tried instead of the value where the service answers 404 to it. */
  readonly otherwise?: (value: string) => string
}

export interface Service {
  readonly name: ServiceName
  readonly title: string
  readonly family: FamilyName
  readonly role: BuiltInRole
  readonly resourceTypes: readonly string[]
  /** Account kinds that serve it; undefined: any. */
  readonly kinds: readonly string[] | undefined
  /** Values of `authMode` with which an endpoint takes a token, or a key; undefined for accounts, which have none. */
  readonly authModes: Readonly<Record<AuthType, readonly string[]>> | undefined
  readonly settings: readonly SettingSource[]
  readonly queries: readonly ServiceQuery[]
  /** Not every version of azure_ai has its function and its settings. */
  readonly mayBeMissing?: true
}

const accountType = 'Microsoft.CognitiveServices/accounts'
const sentence = 'Signing in without a password is wonderful.'
/** As PostgreSQL reads an array of texts that contain neither quotes nor backslashes. */
const arrayOf = (texts: readonly string[]): string => `{${texts.map((text) => `"${text}"`).join(',')}}`
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
function accountEndpoint(resource: Resource, label: 'openai' | 'cognitiveservices', authType: AuthType): string | undefined {
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
      { setting: 'azure_openai.endpoint', value: (resource, authType) => accountEndpoint(resource, 'openai', authType) },
    ],
    authModes: undefined,
    queries: [
      {
        name: 'embedding',
        title: 'Azure OpenAI',
        test: {
          schema: 'azure_openai',
          function: 'create_embeddings',
          wrap: (call) => `SELECT pg_catalog.cardinality(${call}) AS dimensions`,
          isAnswer: (value) => Number(value) > 0,
          answer: (value) => `${value} dimensions`,
        },
        arguments: (inputs, deployments) => {
          const deployment = inputs.embeddingDeployment ?? embeddingDeployment(deployments)?.name
          if (deployment === undefined)
            return { skip: 'the account has no deployment to query, and `embedding-deployment` is not set' }
          return [literal('deployment_name', deployment), literal('input', 'The identity works')]
        },
        deploymentArgument: 'deployment_name',
      },
      {
        name: 'chat',
        title: 'Azure OpenAI chat',
        test: {
          schema: 'azure_ai',
          function: 'generate',
          wrap: (call) => `SELECT ${call} AS reply`,
          isAnswer: (value) => value.trim() !== '',
          answer: (value) => value,
        },
        arguments: ({ chatDeployment }) =>
          chatDeployment === undefined
            ? undefined
            : [literal('prompt', 'Reply with the word Hello'), literal('model', chatDeployment)],
        deploymentArgument: 'model',
        isExtra: true,
        hasNoLimit: true,
      },
    ],
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
        setting: 'azure_cognitive.endpoint',
        value: (resource, authType) => accountEndpoint(resource, 'cognitiveservices', authType),
      },
    ],
    authModes: undefined,
    queries: [
      {
        name: 'sentiment',
        title: 'Azure AI Language',
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
          text: sentence,
        },
        arguments: () => [literal('text', sentence), literal('language', 'en')],
      },
    ],
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
        setting: 'azure_cognitive.endpoint',
        value: (resource, authType) => accountEndpoint(resource, 'cognitiveservices', authType),
        leftTo: 'cognitive',
      },
      { setting: 'azure_cognitive.region', value: (resource) => resource.location.toLowerCase().replaceAll(' ', '') },
      { setting: 'azure_cognitive.translator_resource_id', value: (resource) => resource.id, onlyFor: 'managed-identity' },
    ],
    authModes: undefined,
    queries: [
      {
        name: 'translation',
        title: 'Azure AI Translator',
        test: {
          schema: 'azure_cognitive',
          function: 'translate',
          wrap: (call) => `SELECT pg_catalog.to_jsonb(${call}) AS translation`,
          isAnswer: (value) => translated(value) !== '',
          answer: (value) => translated(value),
        },
        arguments: () => [
          literal('text', 'Good morning, world'),
          literal('target_language', 'es'),
          literal('source_language', 'en'),
        ],
      },
    ],
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
    authModes: { 'managed-identity': ['AADToken'], 'subscription-key': ['Key'] },
    settings: [
      { setting: families.azure_ml.authType, value: (_, authType) => authType },
      { setting: 'azure_ml.scoring_endpoint', value: (resource) => resource.endpoints[0] },
    ],
    queries: [
      {
        name: 'scoring',
        title: 'Azure Machine Learning',
        test: {
          schema: 'azure_ml',
          function: 'invoke',
          wrap: (call) => `SELECT ${call} AS answer`,
          // A model may answer anything.
          isAnswer: () => true,
          answer: (value) => value,
        },
        arguments: (inputs) => {
          if (inputs.machineLearningInput === undefined) return { skip: '`machine-learning-input` is not set' }
          const input: Argument = { name: 'input_data', type: 'jsonb', value: inputs.machineLearningInput }
          const deployment = inputs.machineLearningDeployment
          return deployment === undefined ? [input] : [input, literal('deployment_name', deployment)]
        },
        deploymentArgument: 'deployment_name',
      },
    ],
  },
  {
    name: 'ranking',
    title: 'Reranker',
    family: 'azure_ml',
    role: azureRoles.machineLearning,
    resourceTypes: ['Microsoft.MachineLearningServices/workspaces/serverlessEndpoints'],
    kinds: undefined,
    authModes: { 'managed-identity': ['AAD', 'KeyAndAAD'], 'subscription-key': ['Key', 'KeyAndAAD'] },
    settings: [
      { setting: families.azure_ml.authType, value: (_, authType) => authType },
      {
        setting: rankingEndpoint,
        value: ({ endpoints: [host] }) => (host === undefined ? undefined : `${withoutEndSlashes(host)}/v2/rerank`),
        otherwise: otherRankingPath,
      },
    ],
    queries: [
      {
        name: 'ranking',
        title: 'Reranker',
        test: {
          schema: 'azure_ai',
          function: 'rank',
          wrap: (call) => `SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(ranked)) AS ranked FROM ${call} AS ranked`,
          isAnswer: (value) => rankedDocuments(value).length > 0,
          answer: (value) => `document ${rankedDocuments(value).join(' before ')}`,
        },
        arguments: () => [
          literal('query', 'How does a managed identity sign in?'),
          { name: 'document_contents', type: 'text[]', value: arrayOf(documents.contents) },
          { name: 'document_ids', type: 'text[]', value: arrayOf(documents.ids) },
        ],
        hasNoLimit: true,
      },
    ],
    mayBeMissing: true,
  },
]

/** The queries that a run makes of a service. */
export function queriesOf(service: Service, inputs: TestInputs): readonly ServiceQuery[] {
  return service.queries.filter((query) => query.arguments(inputs, []) !== undefined)
}

/** The queries of all services, in the order in which they are shown. */
export const allQueries: readonly ServiceQuery[] = services.flatMap(({ queries }) => queries)

export const placeOfQuery = ({ name }: Pick<QueryId, 'name'>): number => allQueries.findIndex((each) => each.name === name)

/** A query among those of all services. */
export interface QueryId {
  readonly service: ServiceName
  readonly name: QueryName
}

/** Endpoint and key of a service, among those of its family. */
export function memberOf(service: Service): Member {
  const { members } = families[service.family]
  const own = members.find(({ endpoint }) => service.settings.some(({ setting }) => setting === endpoint))
  if (own === undefined) throw new Error(`${service.name} sets no endpoint`)
  return own
}

export function serviceNamed(name: ServiceName): Service {
  const service = services.find((each) => each.name === name)
  if (service === undefined) throw new Error(`no service ${name}`)
  return service
}
