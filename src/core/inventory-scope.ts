/** The input `scope`: subscriptions, resource groups and management groups that an inventory covers. Pure. */
import { canonicalId, parseScopeId, type ScopeId } from '../lib/resource-id.ts'
import { listOf, type Problem, quoted } from './input-readers.ts'

/** A part of the scope. */
export type ScopePart = ScopeId

/** Most parts of one scope. */
const mostParts = 500

/** Parts, each once: two ids may be spellings of one. */
export function scopePartsOf(text: string, problem: Problem): readonly ScopePart[] {
  const found = new Map<string, ScopePart>()
  const ids = listOf(text)
  if (ids.length > mostParts) problem('scope', `names ${ids.length} scopes; at most ${mostParts} are accepted`)
  for (const id of ids.slice(0, mostParts)) {
    const part = parseScopeId(id)
    if (part === undefined) {
      problem(
        'scope',
        `${quoted(id)} is not a scope; expected \`/subscriptions/SUBSCRIPTION\`, \`/subscriptions/SUBSCRIPTION/resourceGroups/GROUP\` or \`/providers/Microsoft.Management/managementGroups/GROUP\``,
      )
    } else found.set(canonicalId(part.id), part)
  }
  return [...found.values()]
}
