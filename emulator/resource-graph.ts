/** Azure Resource Graph: one kind of query over everything that a caller may read, page by page, within a quota. */
import { shownAccount } from './accounts.ts'
import { hasRole, mayAct } from './authorization.ts'
import { failure, type HttpError, type Reply } from './http.ts'
import { shownEndpoint, shownServerless, shownWorkspace } from './machine-learning.ts'
import type { Call, Route } from './provider.ts'
import { managementGroupNamed, subscriptionsIn, subscriptionsOf } from './scopes.ts'
import { shownServer } from './server-views.ts'
import type { World } from './world.ts'

/** How many queries a caller has in five seconds, from Azure's documentation. */
const quota = { queries: 15, windowMs: 5_000 }
/** Maximum number of rows of a page. */
const largestPage = 1_000

type Row = Record<string, unknown>

/** The window of each caller: when it began, and how many queries it had. */
interface Window {
  since: number
  used: number
}

export function resourceGraphRoutes(world: World): Route[] {
  const windows = new Map<string, Window>()
  return [
    {
      method: 'POST',
      path: /^\/providers\/Microsoft\.ResourceGraph\/resources$/i,
      apiVersions: ['2022-10-01', '2024-04-01'],
      type: 'resources',
      // Rows that the caller may not read are silently left out.
      action: null,
      handle: (call) => answer(call, spend(world, windows, call.caller.oid)),
    },
  ]
}

/** Subtracts one query from the caller's quota; returns the headers with the rest. */
function spend({ resourceGraph }: World, windows: Map<string, Window>, caller: string): Record<string, string> {
  const { remaining, resetsAfter } = resourceGraph?.quota ?? { remaining: quota.queries, resetsAfter: quota.windowMs }
  const known = windows.get(caller)
  const window = known !== undefined && Date.now() - known.since < resetsAfter ? known : { since: Date.now(), used: 0 }
  windows.set(caller, window)
  const leftMs = Math.max(0, window.since + resetsAfter - Date.now())
  const seconds = Math.ceil(leftMs / 1_000)
  const headers = (left: number): Record<string, string> => ({
    'x-ms-user-quota-remaining': String(left),
    'x-ms-user-quota-resets-after': new Date(seconds * 1_000).toISOString().slice(11, 19),
  })
  if (window.used >= remaining) {
    const text =
      'Client application has been throttled and should not attempt to repeat the request until an amount of time has elapsed.'
    throw failure(429, 'RateLimiting', text, { ...headers(0), 'retry-after': String(seconds) })
  }
  window.used++
  return headers(remaining - window.used)
}

interface Query {
  query?: unknown
  subscriptions?: unknown
  managementGroups?: unknown
  options?: { resultFormat?: unknown; $top?: unknown; $skipToken?: unknown } | null
}

function answer(call: Call, headers: Record<string, string>): Reply {
  const { world, request } = call
  const body = (request.body ?? {}) as Query
  const { types, groups } = parsedQuery(body.query)
  if (body.options?.resultFormat !== undefined && body.options.resultFormat !== 'objectArray')
    throw invalid(`The emulator answers as objectArray, not as '${String(body.options.resultFormat)}'.`)
  const wanted = scopesOf(call, body)
  const all = rows(world)
    .filter(({ type }) => types.includes(String(type).toLowerCase()))
    .filter(({ id }) => {
      const [, , subscription = '', , group = ''] = String(id).toLowerCase().split('/')
      return wanted.has(subscription) && (groups === undefined || groups.includes(group))
    })
    .filter(({ id, type }) => mayAct(world, call.caller.oid, `${String(type)}/read`, String(id)) === 'allowed')
    .sort((a, b) => (String(a['id']) < String(b['id']) ? -1 : 1))
  const size = Math.min(world.resourceGraph?.pageSize ?? largestPage, Number(body.options?.$top ?? 100), largestPage)
  const start = startOf(body.options?.$skipToken)
  const data = all.slice(start, start + size)
  const next = world.resourceGraph?.repeats === true && start > 0 ? start : start + size
  const more = next < all.length
  return {
    status: 200,
    headers,
    body: {
      totalRecords: all.length,
      count: data.length,
      data,
      facets: [],
      resultTruncated: 'false',
      ...(more ? { $skipToken: Buffer.from(`row ${next}`).toString('base64') } : {}),
    },
  }
}

function startOf(token: unknown): number {
  if (token === undefined || token === null) return 0
  const [, row] = /^row (\d+)$/.exec(Buffer.from(String(token), 'base64').toString()) ?? []
  if (row === undefined) throw invalid('The skip token is not one of this service.')
  return Number(row)
}

const shape =
  /^resources\s*\|\s*where type in~ \(([^)]*)\)\s*(?:\|\s*where resourceGroup in~ \(([^)]*)\)\s*)?\|\s*project id, name, type, kind, location, properties, identity\s*\|\s*order by id asc$/i

/** The one shape of query that the emulator understands: a type, perhaps resource groups, whole columns, ordered by id. */
function parsedQuery(query: unknown): { types: string[]; groups: string[] | undefined } {
  const [, types, groups] = shape.exec(String(query ?? '').trim()) ?? []
  if (types === undefined) throw invalid(`The emulator does not understand the query: ${String(query)}`)
  return { types: texts(types), groups: groups === undefined ? undefined : texts(groups) }
}

const texts = (list: string): string[] => [...list.matchAll(/'([^']*)'/g)].map(([, text = '']) => text.toLowerCase())

/** The subscriptions of the query. Those that the caller may not read are left out; when none is left, the query is refused. */
function scopesOf({ world, caller }: Call, { subscriptions, managementGroups }: Query): Set<string> {
  const visible = subscriptionsOf(world).filter(({ id }) => seesSomethingIn(world, caller.oid, id))
  const named = Array.isArray(subscriptions) ? subscriptions.map((id) => String(id).toLowerCase()) : undefined
  const grouped = Array.isArray(managementGroups)
    ? managementGroups.flatMap((name) => {
        const group = managementGroupNamed(world, String(name))
        return group === undefined ? [] : subscriptionsIn(world, group).map((id) => id.toLowerCase())
      })
    : undefined
  if (named !== undefined && grouped !== undefined) throw invalid('A query names subscriptions or management groups, not both.')
  const wanted = named ?? grouped
  const found = visible.map(({ id }) => id.toLowerCase()).filter((id) => wanted === undefined || wanted.includes(id))
  if (wanted !== undefined && found.length === 0) {
    throw failure(
      403,
      'AuthorizationFailed',
      `The client '${caller.appid ?? caller.oid}' with object id '${caller.oid}' does not have authorization to perform action 'Microsoft.ResourceGraph/resources/read' over the scopes of the query.`,
    )
  }
  return new Set(found)
}

/** A role at the subscription, above it or anywhere in it. */
function seesSomethingIn(world: World, objectId: string, subscription: string): boolean {
  const below = `/subscriptions/${subscription}`.toLowerCase()
  const scopes = world.roleAssignments.map(({ scope }) => scope).filter((scope) => scope.toLowerCase().startsWith(below))
  return [below, ...scopes].some((scope) => hasRole(world, objectId, scope))
}

/** All resources, as Resource Graph shows them: types in lower case, no `systemData`. */
function rows(world: World): Row[] {
  const hides = world.resourceGraph?.hidesEndpoints === true
  const endpoints = world.workspaces.flatMap(({ onlineEndpoints, serverlessEndpoints = [] }) => [
    ...onlineEndpoints.map(shownEndpoint),
    ...serverlessEndpoints.map(shownServerless),
  ])
  const withoutAddress = (row: Row): Row => {
    const { scoringUri: _, swaggerUri: __, inferenceEndpoint: ___, ...properties } = row['properties'] as Row
    return { ...row, properties }
  }
  return [
    ...world.servers.map((server) => shownServer(world, server)),
    ...world.accounts.map((account) => shownAccount(world, account)),
    ...world.workspaces.map((workspace) => shownWorkspace(world, workspace)),
    ...(hides ? endpoints.map(withoutAddress) : endpoints),
  ].map((shown) => {
    const row = shown as Row
    return {
      id: row['id'],
      name: row['name'],
      type: String(row['type']).toLowerCase(),
      kind: row['kind'] ?? '',
      location: row['location'],
      properties: row['properties'],
      identity: row['identity'] ?? null,
    }
  })
}

const invalid = (message: string): HttpError => failure(400, 'BadRequest', message)
