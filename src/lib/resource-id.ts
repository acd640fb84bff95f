/** Ids of Resource Manager: the only place that takes one apart or compares two. Pure. */
import { withoutEndSlashes } from './bounded.ts'

const guid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

/** A Resource Manager id, taken apart. */
export interface ResourceId {
  /** As in the input, without trailing slash. */
  readonly id: string
  readonly subscription: string
  readonly resourceGroup: string
  /** `Microsoft.X/things/parts`. */
  readonly type: string
  /** Names along the type, outermost first. */
  readonly names: readonly string[]
  readonly name: string
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

/** Whether two ids name the same resource: case and a trailing slash do not matter. */
export function sameId(a: string, b: string): boolean {
  return canonicalId(a) === canonicalId(b)
}

/** The id as a key: in lower case, without trailing slash. */
export function canonicalId(id: string): string {
  return withoutEndSlashes(id.toLowerCase())
}

/** Whether `id` is the scope itself or lies in it: a group, a subscription or the root. */
export function liesIn(id: string, scope: string): boolean {
  return `${canonicalId(id)}/`.startsWith(`${canonicalId(scope)}/`)
}

/** The last name of an id, for a reader. */
export function nameIn(id: string): string {
  return id.split('/').at(-1) ?? id
}

/** The resource group of an id, for a command that is shown; `GROUP` when there is none. */
export function groupIn(id: string | undefined): string {
  return /\/resourceGroups\/([^/]+)/i.exec(id ?? '')?.[1] ?? 'GROUP'
}

/** The subscription of an id; empty when there is none. */
export function subscriptionIn(id: string): string {
  return /\/subscriptions\/([^/]+)/i.exec(id)?.[1] ?? ''
}

/** Whether two parts of ids, such as types or subscriptions, are the same: case does not matter. */
export function samePart(a: string, b: string): boolean {
  return a.toLowerCase() === b.toLowerCase()
}

/** A subscription, a resource group or a management group. */
export interface ScopeId {
  readonly kind: 'subscription' | 'resource-group' | 'management-group'
  /** As in the input, without trailing slash. */
  readonly id: string
  /** Of the subscription or the management group; the subscription of a resource group. */
  readonly container: string
  /** Of a resource group; empty otherwise. */
  readonly group: string
}

/** Takes the id of a scope apart; undefined when it is none. */
export function parseScopeId(text: string): ScopeId | undefined {
  const id = withoutEndSlashes(text)
  const [, subscription = '', group] =
    /^\/subscriptions\/([^/]+)(?:\/resourceGroups\/([\p{L}\p{N}_.()-]{1,90}))?$/iu.exec(id) ?? []
  if (guid.test(subscription) && !/^\.+$/.test(group ?? ''))
    return { kind: group === undefined ? 'subscription' : 'resource-group', id, container: subscription, group: group ?? '' }
  const [, name] = /^\/providers\/Microsoft\.Management\/managementGroups\/([\w.()-]{1,90})$/i.exec(id) ?? []
  return name === undefined || /^\.+$/.test(name) ? undefined : { kind: 'management-group', id, container: name, group: '' }
}

/** Whether the scope is a management group, which contains subscriptions that its id does not name. */
export function isManagementGroup(scope: string): boolean {
  return canonicalId(scope).startsWith('/providers/microsoft.management/managementgroups/')
}

/** The scope of a lock; undefined when the id is not that of a lock. */
export function scopeOfLock(id: string): string | undefined {
  return /^(\/.{1,2000})\/providers\/Microsoft\.Authorization\/locks\/[^/]{1,300}$/i.exec(id)?.[1]
}

/** The resource that a role assignment or a lock is for; any other id as it is. */
export function withoutAuthorization(id: string): string {
  const end = id.toLowerCase().lastIndexOf('/providers/microsoft.authorization/')
  return end > 0 ? id.slice(0, end) : id
}
