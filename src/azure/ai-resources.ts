/** The resources behind the services: accounts with their deployments and keys, and online endpoints. */
import type { Cloud } from '../core/clouds.ts'
import type { Resource } from '../core/services.ts'
import type { Deployment } from '../core/test-query.ts'
import { Failure } from '../errors/failure.ts'
import { malformed } from '../errors/malformed.ts'
import { bounded, longestName, withoutEndSlashes } from '../lib/bounded.ts'
import { liesIn, parseResourceId, type ResourceId, samePart } from '../lib/resource-id.ts'
import type { CallOptions, Calls } from './calls.ts'
import { expectSame, otherResource } from './expect-same.ts'
import { foreignHost, isServiceEndpoint, isSubdomain } from './hosts.ts'
import { itemsOf } from './pages.ts'

const cognitiveServicesVersion = '2025-09-01'
const machineLearningVersion = '2022-10-01'
const serverlessVersion = '2024-10-01'
export const serverlessType = 'Microsoft.MachineLearningServices/workspaces/serverlessEndpoints'

export interface AiResources {
  deployments(account: ResourceId): Promise<readonly Deployment[]>
  /** The keys of an account or an endpoint, the first one first. Secrets: masked before they are returned. */
  keys(resource: Resource): Promise<readonly string[]>
  /** An AI account with its deployments (requested only when `withDeployments`), or an online or serverless endpoint. */
  resource(id: ResourceId, withDeployments: boolean): Promise<Resource>
}

/** Shapes of Resource Manager's answers, as far as they are read. */
interface AccountBody {
  id?: string
  name?: string
  kind?: string
  location?: string
  properties?: {
    endpoint?: unknown
    endpoints?: Record<string, unknown>
    customSubDomainName?: unknown
    disableLocalAuth?: boolean
    provisioningState?: string
    authMode?: string
    scoringUri?: unknown
    inferenceEndpoint?: { uri?: unknown }
  }
}
interface KeysBody {
  key1?: unknown
  key2?: unknown
  primaryKey?: unknown
  secondaryKey?: unknown
}
interface DeploymentBody {
  name?: string
  properties?: { model?: { name?: string }; capabilities?: Record<string, string> }
}
export function createAiResources(calls: Calls, { cloud, log, signal }: CallOptions): AiResources {
  const { call, read, endpoint, http, pagesOf } = calls
  const deploymentsOf = async (id: string): Promise<Deployment[]> => {
    const url = `${endpoint}${id}/deployments?api-version=${cognitiveServicesVersion}`
    const doing = 'reading the deployments'
    const found: Deployment[] = []
    for await (const each of itemsOf(pagesOf<DeploymentBody>(url, doing, id), doing))
      found.push({
        name: each.name ?? '',
        model: each.properties?.model?.name ?? '',
        capabilities: each.properties?.capabilities ?? {},
      })
    return found
  }

  return {
    keys: async (resource) => {
      const version = versionOf(resource)
      const doing = `listing the keys of ${resource.name}`
      const url = `${endpoint}${resource.settingsId}/listKeys?api-version=${version}`
      const body = (await call(doing, () => http.list(url, doing, signal, resource.id), resource.id)) as KeysBody
      const keys = [body.key1, body.key2, body.primaryKey, body.secondaryKey].filter(isText)
      for (const key of keys) log.secret(key)
      if (keys.length === 0) throw malformed(`The list of keys of ${resource.name}`, body)
      return keys
    },

    deployments: (account) => deploymentsOf(account.id),

    resource: async (id, withDeployments) => {
      if (/^Microsoft\.CognitiveServices\/accounts$/i.test(id.type)) {
        const [body, deployments] = await Promise.all([
          read(id.id, cognitiveServicesVersion, `reading the account ${id.name}`) as Promise<AccountBody>,
          withDeployments ? deploymentsOf(id.id) : [],
        ])
        return accountOf(id, body, deployments, cloud)
      }
      if (samePart(id.type, serverlessType)) {
        const doing = `reading the serverless endpoint ${id.name}`
        return serverlessOf(id, (await read(id.id, serverlessVersion, doing)) as AccountBody, cloud)
      }
      if (isEndpoint(id)) {
        return onlineEndpointOf(
          id,
          (await read(id.id, machineLearningVersion, `reading the online endpoint ${id.name}`)) as AccountBody,
          cloud,
        )
      }
      const doing = `listing the online endpoints of ${id.name}`
      const url = `${endpoint}${id.id}/onlineEndpoints?api-version=${machineLearningVersion}`
      const found: AccountBody[] = []
      for await (const each of itemsOf(pagesOf<AccountBody>(url, doing, id.id), doing)) found.push(each)
      const [only, ...more] = found
      if (only === undefined || more.length > 0) throw notOneEndpoint(id, found)
      return onlineEndpointOf(id, only, cloud)
    },
  }
}

const isText = (value: unknown): value is string => typeof value === 'string' && value !== ''

export function accountOf(id: ResourceId, body: AccountBody, deployments: readonly Deployment[], cloud: Cloud): Resource {
  expectSame(id, body.id)
  const { properties } = body
  const subdomain = properties?.customSubDomainName || undefined
  if (subdomain !== undefined && !isSubdomain(subdomain)) throw malformed(`The custom subdomain of ${id.name}`, subdomain)
  // An account shows endpoints of many kinds: those that cannot be stored are left out, as if it did not show them.
  const endpoints = [properties?.endpoint, ...Object.values(properties?.endpoints ?? {})].filter((each) =>
    isServiceEndpoint(each, cloud),
  )
  return {
    id: id.id,
    settingsId: id.id,
    name: body.name ?? id.name,
    kind: body.kind ?? '',
    location: body.location ?? '',
    provisioningState: properties?.provisioningState ?? 'unknown',
    endpoints,
    customSubdomain: subdomain,
    localAuthDisabled: properties?.disableLocalAuth === true,
    authMode: undefined,
    deployments,
  }
}

/** The api-version for the keys of a resource. */
function versionOf({ kind, authMode }: Resource): string {
  if (kind === serverlessKind) return serverlessVersion
  return authMode === undefined ? cognitiveServicesVersion : machineLearningVersion
}

const serverlessKind = 'ServerlessEndpoint'

/** @throws {Failure} `foreign-host` for an address that is not of Azure */
export function serverlessOf(id: ResourceId, body: AccountBody, cloud: Cloud): Resource {
  expectSame(id, body.id)
  const { properties } = body
  const authMode = properties?.authMode
  return {
    ...ofEndpoint(id, body),
    settingsId: id.id,
    kind: serverlessKind,
    endpoints: addressOf(id, properties?.inferenceEndpoint?.uri, cloud),
    localAuthDisabled: authMode === 'AAD',
  }
}

/** The address that an endpoint shows; none where it has none yet. */
function addressOf({ name }: ResourceId, shown: unknown, cloud: Cloud): readonly string[] {
  const uri = shown || undefined
  if (uri === undefined) return []
  if (isServiceEndpoint(uri, cloud)) return [uri]
  throw foreignHost(
    `Resource Manager shows ${bounded(String(uri), longestName)} as the address of the endpoint ${name}, which is not an https address of Azure Machine Learning; neither a token nor a key is sent there.`,
  )
}

/** What online and serverless endpoints show alike. */
function ofEndpoint(named: ResourceId, { name, location, properties }: AccountBody) {
  return {
    id: named.id,
    name: name ?? named.name,
    location: location ?? '',
    provisioningState: properties?.provisioningState ?? 'unknown',
    customSubdomain: undefined,
    authMode: properties?.authMode ?? 'unknown',
    deployments: [],
  }
}

/** The role goes on the resource that was named; the settings come from the endpoint, which is that one or lies below it. */
export function onlineEndpointOf(named: ResourceId, body: AccountBody, cloud: Cloud): Resource {
  return {
    ...ofEndpoint(named, body),
    settingsId: endpointIdOf(named, body),
    kind: 'OnlineEndpoint',
    endpoints: addressOf(named, body.properties?.scoringUri, cloud),
    localAuthDisabled: body.properties?.authMode === 'AADToken',
  }
}

function endpointIdOf(named: ResourceId, { id, name }: AccountBody): string {
  if (isEndpoint(named)) {
    expectSame(named, id)
    return named.id
  }
  const below = `${named.id}/onlineEndpoints/`
  const own = typeof id === 'string' ? withoutEndSlashes(id) : `${below}${name}`
  const parsed = parseResourceId(own)
  if (parsed === undefined || !isEndpoint(parsed) || !liesIn(own, named.id))
    throw otherResource(`an online endpoint of ${named.id}`, id)
  return `${below}${parsed.name}`
}

const isEndpoint = ({ type }: ResourceId): boolean =>
  samePart(type, 'Microsoft.MachineLearningServices/workspaces/onlineEndpoints')

function notOneEndpoint(workspace: ResourceId, endpoints: readonly AccountBody[]): Failure {
  const ids = endpoints.flatMap(({ id }) => (typeof id === 'string' && id !== '' ? [id] : [])).slice(0, 20)
  return new Failure({
    reason: 'input',
    code: 'not-one-endpoint',
    title: `The workspace has ${endpoints.length === 0 ? 'no online endpoint' : `${endpoints.length} online endpoints`}`,
    detail: `\`machine-learning\` names the workspace ${workspace.name}, which stands for its endpoint only when it has exactly one.`,
    fix:
      ids.length === 0
        ? `az ml online-endpoint create --resource-group ${workspace.resourceGroup} --workspace-name ${workspace.name} --name NAME --auth-mode aad_token`
        : `Name one of them as \`machine-learning\`:\n${ids.join('\n')}`,
  })
}
