/** Azure Resource Graph: lists of servers and AI resources over whole subscriptions and management groups. */
import type { ResourceGraphClient } from '@azure/arm-resourcegraph'
import type { FleetServer } from '../core/inventory.ts'
import type { FleetResource } from '../core/inventory-resources.ts'
import type { ScopePart } from '../core/inventory-scope.ts'
import { services } from '../core/services.ts'
import { Failure } from '../errors/failure.ts'
import { malformed } from '../errors/malformed.ts'
import { describe } from '../lib/bounded.ts'
import { canonicalId, liesIn, parseResourceId, type ResourceId, samePart } from '../lib/resource-id.ts'
import { pause } from '../lib/retry.ts'
import { accountOf, onlineEndpointOf, serverlessOf, serverlessType } from './ai-resources.ts'
import { answerFailure } from './answers.ts'
import { type CallOptions, type Calls, lazily } from './calls.ts'
import { otherResource } from './expect-same.ts'
import { itemsOf, type Page } from './pages.ts'
import { observedServer } from './servers.ts'

const serverType = 'Microsoft.DBforPostgreSQL/flexibleServers'
const accountType = 'Microsoft.CognitiveServices/accounts'
const onlineEndpointType = 'Microsoft.MachineLearningServices/workspaces/onlineEndpoints'

/** Types that services live on. A workspace has no endpoint of its own: what lies below it is listed. */
const resourceTypes: readonly string[] = (() => {
  const all = [...new Set(services.flatMap((service) => service.resourceTypes))]
  return all.filter((type) => !all.some((other) => other.startsWith(`${type}/`)))
})()

/** Rows of a page: an account has some ten kilobytes. */
const pageSize = 500
/** Longest wait for a new quota, in milliseconds; Azure renews it every five seconds. */
const longestWaitMs = 30_000

export interface ResourceGraph {
  /** The servers of a scope. A part of it that cannot be read is a failure: the query itself would leave it out without a word. */
  serversIn(scope: readonly ScopePart[]): Promise<readonly FleetServer[]>
  /** Read replicas and AI resources in everything that the identity may read. */
  everything(): Promise<Everything>
}

export interface Everything {
  readonly servers: readonly FleetServer[]
  readonly resources: readonly FleetResource[]
  /** Resources that were listed without their endpoint. */
  readonly withoutEndpoint: readonly ResourceId[]
}

interface Row {
  id?: unknown
  name?: unknown
  type?: unknown
  kind?: unknown
  location?: unknown
  properties?: unknown
  identity?: unknown
}

interface Query {
  readonly doing: string
  readonly types: readonly string[]
  readonly subscriptions?: readonly string[]
  readonly managementGroups?: readonly string[]
  readonly groups?: readonly string[]
}

export function createResourceGraph(calls: Calls, { cloud, log, signal }: CallOptions): ResourceGraph {
  const { endpoint, pipeline, read } = calls
  const client = lazily(async () => {
    const { ResourceGraphClient } = await import('@azure/arm-resourcegraph')
    // The pipeline carries the token; the client wants a credential all the same.
    return new ResourceGraphClient({ getToken: async () => null }, { endpoint, pipeline })
  })
  const list = async (query: Query): Promise<Row[]> => {
    const found: Row[] = []
    const pages = pagesOf(await client(), query, { calls, signal })
    for await (const row of itemsOf(pages, query.doing)) found.push(row)
    return found
  }
  const doing = 'listing servers'
  const serverQuery = { doing, types: [serverType] }
  const containers = (scope: readonly ScopePart[], kind: ScopePart['kind']): string[] =>
    scope.filter((part) => part.kind === kind).map(({ container }) => container)

  return {
    async serversIn(scope) {
      const subscriptions = containers(scope, 'subscription')
      const managementGroups = containers(scope, 'management-group')
      const groups = scope.filter(({ kind }) => kind === 'resource-group')
      await Promise.all(scope.map((part) => read(part.id, versions[part.kind], `reading the scope ${part.id}`)))
      // One after the other: all of them spend the same quota.
      const found: FleetServer[] = []
      const add = async (query: Omit<Query, keyof typeof serverQuery>, lies: (id: string) => boolean): Promise<void> => {
        for (const row of await list({ ...serverQuery, ...query })) found.push(serverOf(row, lies))
      }
      const within = (parts: readonly ScopePart[]) => (id: string) => parts.some((part) => liesIn(id, part.id))
      const whole = scope.filter(({ kind }) => kind === 'subscription')
      if (subscriptions.length > 0) await add({ subscriptions }, within(whole))
      for (const group of managementGroups) await add({ managementGroups: [group] }, () => true)
      for (const subscription of new Set(groups.map(({ container }) => canonicalId(container)))) {
        const own = groups.filter(({ container }) => samePart(container, subscription))
        await add({ subscriptions: [subscription], groups: own.map(({ group }) => group) }, within(own))
      }
      return uniqueById(found)
    },

    async everything() {
      const rows = await list({ doing: 'listing AI resources', types: [serverType, ...resourceTypes] })
      const servers: FleetServer[] = []
      const resources: FleetResource[] = []
      const withoutEndpoint: ResourceId[] = []
      for (const row of rows) {
        const id = idOf(row)
        if (isType(id, serverType)) {
          servers.push(serverOf(row, () => true))
          continue
        }
        try {
          const resource = resourceOf(id, row)
          if (resource === undefined) withoutEndpoint.push(id)
          else resources.push(resource)
        } catch (error) {
          // What names a foreign host is not what an endpoint leads to; the others still are.
          log.debug(`${id.id} is left out: ${describe(error)}`)
        }
      }
      return { servers: uniqueById(servers), resources: uniqueById(resources), withoutEndpoint }
    },
  }

  function resourceOf(id: ResourceId, row: Row): FleetResource | undefined {
    const body = { ...row, id: id.id, properties: objectOf(row.properties) } as Parameters<typeof accountOf>[1]
    if (isType(id, accountType)) return { ...accountOf(id, body, [], cloud), type: accountType }
    const isServerless = isType(id, serverlessType)
    const address = isServerless ? body.properties?.inferenceEndpoint?.uri : body.properties?.scoringUri
    if (!address) return undefined
    return isServerless
      ? { ...serverlessOf(id, body, cloud), type: serverlessType }
      : { ...onlineEndpointOf(id, body, cloud), type: onlineEndpointType }
  }
}

/** By which each kind of scope is read. */
const versions: Readonly<Record<ScopePart['kind'], string>> = {
  subscription: '2022-12-01',
  'resource-group': '2021-04-01',
  'management-group': '2020-05-01',
}

const isType = (id: ResourceId, type: string): boolean => samePart(id.type, type)

function textOf({ types, groups }: Query): string {
  // The names are those of types and of validated resource groups: neither contains a quote.
  const listed = (texts: readonly string[]): string => texts.map((text) => `'${text}'`).join(', ')
  return [
    'resources',
    `where type in~ (${listed(types)})`,
    ...(groups === undefined ? [] : [`where resourceGroup in~ (${listed(groups)})`]),
    'project id, name, type, kind, location, properties, identity',
    'order by id asc',
  ].join(' | ')
}

async function* pagesOf(
  client: ResourceGraphClient,
  query: Query,
  { calls, signal }: { readonly calls: Calls; readonly signal: AbortSignal },
): AsyncGenerator<Page<Row>> {
  const { doing, subscriptions, managementGroups } = query
  for (let token: string | undefined, isFirst = true; isFirst || token !== undefined; isFirst = false) {
    let waitMs = 0
    const request = {
      query: textOf(query),
      ...(subscriptions === undefined ? {} : { subscriptions: [...subscriptions] }),
      ...(managementGroups === undefined ? {} : { managementGroups: [...managementGroups] }),
      options: { resultFormat: 'objectArray' as const, top: pageSize, ...(token === undefined ? {} : { skipToken: token }) },
    }
    const page = await calls.call(doing, async () => {
      try {
        return await client.resources(request, {
          abortSignal: signal,
          onResponse: ({ headers }) => {
            waitMs = quotaWaitMs(headers.get('x-ms-user-quota-remaining'), headers.get('x-ms-user-quota-resets-after'))
          },
        })
      } catch (error) {
        throw withBody(error, doing)
      }
    })
    if (!Array.isArray(page.data)) throw malformed('A page of Resource Graph', page.data)
    token = page.skipToken || undefined
    if (token === undefined && page.resultTruncated === 'true') throw truncated(doing)
    yield { items: page.data as Row[], next: token }
    if (token !== undefined && waitMs > 0) await pause(waitMs, signal)
  }
}

/** The client gives an error without the text of the response, which says what was refused. */
function withBody(error: unknown, doing: string): unknown {
  const { response, code, message } = error as { response?: Parameters<typeof answerFailure>[0]; code?: string; message?: string }
  if (response === undefined || response.bodyAsText !== undefined) return error
  return answerFailure({ ...response, bodyAsText: JSON.stringify({ error: { code, message } }) }, { doing }, error)
}

/** How long to wait before the next query, in milliseconds: only when none is left. `HH:MM:SS` until there are some again. */
function quotaWaitMs(remaining: string | undefined, resetsAfter: string | undefined): number {
  if (remaining?.trim() !== '0') return 0
  const [, hours, minutes, seconds] = /^(\d{1,2}):(\d{2}):(\d{2})/.exec(resetsAfter?.trim() ?? '') ?? []
  if (hours === undefined) return 0
  return Math.min(longestWaitMs, (Number(hours) * 3_600 + Number(minutes) * 60 + Number(seconds)) * 1_000)
}

const objectOf = (value: unknown): Record<string, unknown> =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}

function idOf(row: Row): ResourceId {
  const id = typeof row?.id === 'string' ? parseResourceId(row.id) : undefined
  if (id === undefined) throw malformed('A row of Resource Graph', row?.id)
  return id
}

function serverOf(row: Row, lies: (id: string) => boolean): FleetServer {
  const id = idOf(row)
  if (!isType(id, serverType) || !lies(id.id)) throw otherResource('a flexible server of the scope', id.id)
  const properties = objectOf(row.properties)
  const model = { ...properties, identity: objectOf(row.identity), id: id.id, name: id.name }
  const server = observedServer(model as Parameters<typeof observedServer>[0])
  const source = properties.sourceServerResourceId
  return { ...server, primary: server.isReplica && typeof source === 'string' ? source : undefined }
}

function uniqueById<T extends { readonly id: string }>(items: readonly T[]): T[] {
  return [...new Map(items.map((item) => [canonicalId(item.id), item])).values()]
}

function truncated(doing: string): Failure {
  return new Failure({
    reason: 'azure',
    code: 'list-cut',
    title: 'Resource Graph cut a list',
    detail: `While ${doing}: it left out rows and gave nothing that leads to them.`,
    fix: 'Run the job again; if it stays, name smaller scopes.',
  })
}
