/** What the resource providers behind Resource Manager have in common. */
import type { AssignmentRequest } from './conditions.ts'
import type { Claims } from './entra.ts'
import { failure, type HttpError, type Reply, type Request } from './http.ts'
import type { World } from './world.ts'

export interface Call {
  world: World
  url: string
  request: Request
  caller: Claims
  /** Captures of the route, percent-decoded. */
  parameters: string[]
  /** Throws 403 in Resource Manager's words unless the caller may do this. */
  authorize(action: string, scope: string, request?: AssignmentRequest): void
}

export interface Route {
  method: string
  /** On the path, without case. Captures become `parameters`. */
  path: RegExp
  apiVersions: string[]
  /** Named in the error for an unknown api-version. */
  type: string
  /** Acts on the resource; null for routes that authorize themselves. */
  action: string | null
  /** The scope that the action is checked on; the path itself when absent. */
  scope?: (parameters: string[]) => string
  handle(call: Call): Reply | Promise<Reply>
}

/** Source of a pattern that captures subscription and resource group. */
export const resourceGroupPath = '/subscriptions/([^/]+)/resourceGroups/([^/]+)'

/** 404 as Resource Manager words it. `type` like `Microsoft.DBforPostgreSQL/flexibleServers`. */
export function resourceNotFound(type: string, name: string, resourceGroup: string): HttpError {
  return failure(
    404,
    'ResourceNotFound',
    `The Resource '${type}/${name}' under resource group '${resourceGroup}' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix`,
  )
}

export function sameId(a: string, b: string): boolean {
  return a.toLowerCase() === b.toLowerCase()
}

/** The `properties` of a request's body; empty when there are none. */
export function propertiesOf(body: unknown): Record<string, unknown> {
  const properties = (body as { properties?: unknown } | undefined)?.properties
  return typeof properties === 'object' && properties !== null ? (properties as Record<string, unknown>) : {}
}
