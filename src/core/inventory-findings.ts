/** What an inventory found beside keys: what could not be inspected, and what keeps a server from moving. Pure. */
import type { Failure, Finding } from '../errors/failure.ts'
import { firstOf } from '../lib/bounded.ts'
import { canonicalId, nameIn } from '../lib/resource-id.ts'
import { type Inventory, type InventoryServer, isOpen } from './inventory.ts'
import { lacks, type Matrix, waitingFor } from './inventory-matrix.ts'
import { serviceNamed } from './services.ts'

export function inventoryFindings(inventory: Inventory, matrix: Matrix): readonly Finding[] {
  return [
    ...notInspected(inventory),
    ...notVisible(inventory),
    ...surroundings(inventory),
    ...rolesNotRead(inventory),
    ...matrixFindings(inventory, matrix),
  ]
}

const list = (names: readonly string[]): string => firstOf([...new Set(names)], { most: 20 })

/** One finding for each cause, however many servers it keeps from being seen. */
function notInspected({ servers }: Inventory): readonly Finding[] {
  const causes = new Map<string, { first: Failure; names: string[] }>()
  const add = (failure: Failure, name: string): void => {
    const cause = causes.get(failure.code) ?? { first: failure, names: [] }
    cause.names.push(name)
    causes.set(failure.code, cause)
  }
  const unreadable: string[] = []
  for (const { server, failure, follows, databases } of servers) {
    if (follows !== undefined) continue
    if (failure !== undefined) add(failure, server.name)
    for (const { database, reason } of databases) {
      const name = `"${database.name}" on ${server.name}`
      if (database.failure !== undefined) add(database.failure, name)
      else if (reason !== '') unreadable.push(name)
    }
  }
  const found = [...causes.values()].map(
    ({ first, names }): Finding => ({
      severity: 'warning',
      code: 'not-inspected',
      title: `Not inspected: ${first.title}`,
      detail: `${list(names)}. ${first.detail}`,
      fix: first.fix,
    }),
  )
  if (unreadable.length === 0) return found
  return [
    ...found,
    {
      severity: 'warning',
      code: 'not-inspected',
      title: 'Not inspected: the role may not read the settings of azure_ai',
      detail: `${list(unreadable)}. Whether keys are stored there is not known.`,
      fix: 'GRANT azure_ai_settings_manager TO "ROLE";   -- in each database, as an administrator; or create the function of docs/permissions.md, which shows no key',
    },
  ]
}

function notVisible({ servers }: Inventory): readonly Finding[] {
  const where = servers.flatMap(({ server, follows, databases }) =>
    (follows === undefined ? databases : []).flatMap(({ database, uses }) =>
      uses
        .filter(({ resource }) => resource === undefined)
        .map(
          ({ family, endpoint }) =>
            `${family.name} in "${database.name}" on ${server.name} (${endpoint === '' ? 'no endpoint' : hostOf(endpoint)})`,
        ),
    ),
  )
  if (where.length === 0) return []
  return [
    {
      severity: 'warning',
      code: 'resource-not-visible',
      title: 'The resource behind an endpoint is not visible',
      detail: `${list(where)}. The endpoint is that of a gateway or a region, or of a resource that this identity may not read; the matrix does not name it.`,
      fix: 'Give the identity of this job Reader on the subscription of the resource, or set the endpoint of the resource itself.',
    },
  ]
}

const hostOf = (endpoint: string): string => (URL.canParse(endpoint) ? new URL(endpoint).host : endpoint)

/** Identity, allow-list and roles of servers that use azure_ai. */
function surroundings(inventory: Inventory): readonly Finding[] {
  const users = inventory.servers.flatMap((each) => {
    const used = databasesFor(each, inventory).filter(({ uses }) => uses.length > 0)
    return used.length === 0 ? [] : [{ ...each, used }]
  })
  const without = users.filter(({ server }) => server.principalId === undefined)
  const blocked = users.filter(({ isAllowed }) => isAllowed === false)
  const missing = users.flatMap(({ server, used }) =>
    server.principalId === undefined
      ? []
      : used.flatMap(({ resources }) =>
          lacks(server, resources, inventory).map(
            (name) => `${server.name} lacks ${serviceNamed(name).role.name} on ${nameIn(resources.get(name) ?? '')}`,
          ),
        ),
  )
  const found: Finding[] = []
  if (without.length > 0)
    found.push({
      severity: 'notice',
      code: 'identity-missing',
      title: 'Servers that use azure_ai have no managed identity',
      detail: `${list(without.map(({ server }) => server.name))}.`,
      fix: 'Run `mode: apply` for the entries of the output `matrix`: it enables the identity.',
    })
  if (missing.length > 0)
    found.push({
      severity: 'notice',
      code: 'role-missing',
      title: 'Managed identities of servers lack a role',
      detail: `${list(missing)}.`,
      fix: 'Run `mode: apply` for the entries of the output `matrix`: it assigns the role.',
    })
  if (blocked.length > 0)
    found.push({
      severity: 'notice',
      code: 'azure-ai-not-allowed',
      title: 'The allow-list of a server no longer contains azure_ai',
      detail: `${list(blocked.map(({ server }) => server.name))}. The extension works as it is, and cannot be created or updated.`,
      fix: 'Run `mode: apply` for the entries of the output `matrix`: it adds azure_ai to azure.extensions.',
    })
  return found
}

/** A replica has the databases of its primary. */
function databasesFor(server: InventoryServer, { servers }: Inventory): InventoryServer['databases'] {
  const { follows } = server
  return follows === undefined ? server.databases : (servers.find((each) => each.server.id === follows.id)?.databases ?? [])
}

function rolesNotRead({ servers, assignments }: Inventory): readonly Finding[] {
  const used = servers.flatMap(({ databases }) => databases.flatMap(({ resources }) => [...resources.values()]))
  const unread = used.filter((id) => !assignments.has(canonicalId(id)))
  if (unread.length === 0) return []
  return [
    {
      severity: 'notice',
      code: 'roles-not-read',
      title: 'Role assignments on a resource could not be read',
      detail: `${list(unread.map(nameIn))}. Whether a role is missing there is not known.`,
      fix: 'Give the identity of this job Reader on the resource: it contains Microsoft.Authorization/roleAssignments/read.',
    },
  ]
}

function matrixFindings(inventory: Inventory, { left, unnameable }: Matrix): readonly Finding[] {
  const waits = inventory.servers.flatMap((primary) =>
    primary.follows === undefined && primary.databases.some(({ uses }) => uses.some(isOpen))
      ? waitingFor(primary, inventory).map(({ server }) => `${primary.server.name} waits for ${server.name}`)
      : [],
  )
  const found: Finding[] = []
  if (waits.length > 0)
    found.push({
      severity: 'notice',
      code: 'replica-first',
      title: 'Read replicas come before their primary',
      detail: `${list(waits)}: settings reach a replica from its primary, its identity and its roles do not.`,
      fix: 'Run the entries of the output `matrix`, then the inventory again: its matrix names the primary.',
    })
  if (unnameable.length > 0)
    found.push({
      severity: 'warning',
      code: 'not-in-matrix',
      title: 'The name of a database cannot be written into `databases`',
      detail: `${list(unnameable)}: the input is split at commas and line breaks, and trimmed.`,
      fix: 'Rename the database, or set azure_ai in it by hand.',
    })
  if (left > 0)
    found.push({
      severity: 'notice',
      code: 'matrix-cut',
      title: 'The matrix does not contain everything that is left to do',
      detail: `${left} entries are left out: GitHub runs 256 jobs of one matrix, and takes a megabyte for the outputs of a job. Servers that store keys come first.`,
      fix: 'Run the entries of the output `matrix`, then the inventory again: its matrix has the next ones.',
    })
  return found
}
