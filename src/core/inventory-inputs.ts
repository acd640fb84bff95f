/** The rules of `mode: inventory`: what it takes, and what contradicts it. Pure. */
import type { ResourceId } from '../lib/resource-id.ts'
import type { InputName } from './input-names.ts'
import type { Problem, Raw } from './input-readers.ts'
import { type ScopePart, scopePartsOf } from './inventory-scope.ts'
import { services } from './services.ts'

/** What stands for the server where `scope` names many. */
export const noServer: ResourceId = { id: '', subscription: '', resourceGroup: '', type: '', names: [], name: '' }

/** An inventory finds services by itself and changes nothing: these would have no meaning, or another one than in `apply`. */
const refused = (raw: Raw): readonly InputName[] =>
  [
    ...services.flatMap(({ name }) => [name, `${name}-role` as const]),
    ...(Object.keys(raw) as InputName[]).filter((name) => name.endsWith('-key')),
    'plan-id' as const,
  ].filter((name) => raw[name] !== '')

/** The parts of `scope`; empty in any other mode, and with `server`. */
export function inventoryScopeOf(raw: Raw, problem: Problem): readonly ScopePart[] {
  if (raw.mode.toLowerCase() !== 'inventory') {
    if (raw.scope !== '') problem('scope', 'is only for `mode: inventory`')
    return []
  }
  for (const name of new Set(refused(raw))) problem(name, 'has no place in `mode: inventory`, which finds what is used')
  if (raw['clear-keys'] === 'true') problem('clear-keys', 'contradicts `mode: inventory`, which changes nothing')
  if (raw.scope === '') return []
  if (raw.server !== '') problem('scope', 'and `server` exclude each other')
  for (const name of ['database-host', 'runner-ip'] as const)
    if (raw[name] !== '') problem(name, 'belongs to one server, and `scope` names many')
  if (raw['temporary-firewall-rule'] === 'true')
    problem('temporary-firewall-rule', 'belongs to one server, and `scope` names many')
  return scopePartsOf(raw.scope, problem)
}

/** Whether the run needs no server. */
export const isScoped = (raw: Raw): boolean => raw.mode.toLowerCase() === 'inventory' && raw.scope !== ''
