/** The input `scope`: subscriptions, resource groups and management groups that an inventory covers. Pure. */
import { withoutEndSlashes } from '../lib/bounded.ts'
import { canonicalId } from '../lib/resource-id.ts'
import { guid, type Problem, quoted } from './input-readers.ts'

/** A part of the scope. */
export interface ScopePart {
  readonly kind: 'subscription' | 'resource-group' | 'management-group'
  /** Without trailing slash, as it was given otherwise. */
  readonly id: string
  /** Of the subscription or the management group; the subscription of a resource group. */
  readonly container: string
  /** Of a resource group; empty otherwise. */
  readonly group: string
}

/** Most parts of one scope. */
const mostParts = 500

/** Parts by line or comma, each once. */
export function scopePartsOf(text: string, problem: Problem): readonly ScopePart[] {
  const found = new Map<string, ScopePart>()
  const ids = text
    .split(/[\n,]/)
    .map((id) => id.trim())
    .filter((id) => id !== '')
  if (ids.length > mostParts) problem('scope', `names ${ids.length} scopes; at most ${mostParts} are accepted`)
  for (const id of ids.slice(0, mostParts)) {
    const part = partOf(withoutEndSlashes(id))
    if (part === undefined) {
      problem(
        'scope',
        `${quoted(id)} is not a scope; expected \`/subscriptions/SUBSCRIPTION\`, \`/subscriptions/SUBSCRIPTION/resourceGroups/GROUP\` or \`/providers/Microsoft.Management/managementGroups/GROUP\``,
      )
    } else found.set(canonicalId(part.id), part)
  }
  return [...found.values()]
}

function partOf(id: string): ScopePart | undefined {
  const [, subscription = '', group] =
    /^\/subscriptions\/([^/]+)(?:\/resourceGroups\/([\p{L}\p{N}_.()-]{1,90}))?$/iu.exec(id) ?? []
  if (guid.test(subscription) && !/^\.+$/.test(group ?? ''))
    return { kind: group === undefined ? 'subscription' : 'resource-group', id, container: subscription, group: group ?? '' }
  const [, name] = /^\/providers\/Microsoft\.Management\/managementGroups\/([\w.()-]{1,90})$/i.exec(id) ?? []
  return name === undefined || /^\.+$/.test(name) ? undefined : { kind: 'management-group', id, container: name, group: '' }
}
