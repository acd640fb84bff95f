/** Ids of Resource Manager: the only place that takes one apart or compares two. Pure. */
import { withoutEndSlashes } from './bounded.ts'

const guid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

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
