/** What a run speaks for in GitHub: its server, part, services and databases, and how that compares to what another run speaks for. Pure. */
import { createHash } from 'node:crypto'
import { canonicalId } from '../lib/resource-id.ts'
import type { Inputs, Part } from './inputs.ts'
import { type ServiceName, services } from './services.ts'

/** What one run covers, with the names that readers know. */
export interface Coverage {
  /** Resource id; case and a trailing slash make no difference. */
  readonly server: string
  readonly part: Part
  readonly services: readonly ServiceName[]
  /** Names, or every database of the server. */
  readonly databases: readonly string[] | '*'
}

/**
 * The same as an issue or a comment remembers it. A database is eight hex digits, since readers of a public repository
 * must not learn names from it. The list of a run with more than {@link maxNames} databases is one digest of 32 digits, which
 * only equals itself.
 */
export interface Mark {
  readonly part: Part
  /** Sorted. */
  readonly services: readonly string[]
  /** Sorted; empty for `part: azure`, which looks into no database. */
  readonly databases: readonly string[] | '*'
}

/** Most databases that a mark lists; nine characters each. */
const maxNames = 1_000
const parts: readonly Part[] = ['all', 'azure', 'database']
const hash = (text: string, digits: number): string => createHash('sha256').update(text).digest('hex').slice(0, digits)

/** 32 hex digits for a server, from which its id cannot be read back. */
export function serverHash(serverId: string): string {
  return hash(canonicalId(serverId), 32)
}

export function coverageOf(inputs: Pick<Inputs, 'mode' | 'server' | 'scopeParts' | 'part' | 'services' | 'databases'>): Coverage {
  const { part, databases, scopeParts } = inputs
  // An inventory speaks for keys wherever they are, not for what a workflow configures on a server: its issue is one of its own.
  const scope = scopeParts.length > 0 ? scopeParts.map(({ id }) => canonicalId(id)).sort() : [canonicalId(inputs.server.id)]
  return {
    server: inputs.mode === 'inventory' ? `inventory of ${scope.join(' ')}` : inputs.server.id,
    part,
    services: inputs.services.map(({ service }) => service),
    databases,
  }
}

export function markOf({ server, part, databases, ...of }: Coverage): Mark {
  return { part, services: [...new Set(of.services)].sort(), databases: part === 'azure' ? [] : hashed(server, databases) }
}

function hashed(server: string, databases: Coverage['databases']): Mark['databases'] {
  if (databases === '*') return '*'
  const names = [...new Set(databases)].sort()
  if (names.length > maxNames) return [hash(JSON.stringify(names), 32)]
  // The id of the server, which strangers do not know, keeps them from trying likely names.
  const key = canonicalId(server)
  return [...new Set(names.map((name) => hash(JSON.stringify([key, name]), 8)))].sort()
}

/** Whether everything that `b` speaks for is spoken for by `a`. Both are of the same server. */
export function covers(a: Mark, b: Mark): boolean {
  if (a.part !== 'all' && a.part !== b.part) return false
  if (!b.services.every((service) => a.services.includes(service))) return false
  if (a.databases === '*') return true
  const known = new Set(a.databases)
  return b.databases !== '*' && b.databases.every((database) => known.has(database))
}

/** Whether both speak for the same. */
export function isSame(a: Mark, b: Mark): boolean {
  return covers(a, b) && covers(b, a)
}

/** As it stands in a hidden comment: letters, digits, `.`, `-`, `=`, `*` and blanks. */
export function markText({ part, services, databases }: Mark): string {
  return `part=${part} services=${services.join('.')} databases=${databases === '*' ? '*' : databases.join('.')}`
}

/** What {@link markText} writes, as a regular expression without groups; takes time in proportion to the text. */
export const markPattern = 'part=[a-z]{1,10} services=[a-z.-]{0,200} databases=(?:\\*|[0-9a-f.]{0,9000})'

/** Reads what {@link markText} wrote. People can edit it: undefined for whatever this version would not have written. */
export function readMark(text: string): Mark | undefined {
  const [, part, listed = '', databases = ''] = /^part=([a-z]+) services=([a-z.-]*) databases=(\*|[0-9a-f.]*)$/.exec(text) ?? []
  const known = parts.find((each) => each === part)
  if (known === undefined) return undefined
  const mark = { part: known, services: split(listed), databases: databases === '*' ? ('*' as const) : split(databases) }
  const names = new Set<string>(services.map(({ name }) => name))
  const isList = mark.databases === '*' || mark.databases.every((each) => /^([0-9a-f]{8}|[0-9a-f]{32})$/.test(each))
  return isList && mark.services.every((each) => names.has(each)) ? mark : undefined
}

function split(text: string): readonly string[] {
  return text === '' ? [] : text.split('.')
}
