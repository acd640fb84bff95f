/** A fleet: servers, accounts and subscriptions of every kind that an inventory meets, around the default world. */
import { randomUUID } from 'node:crypto'
import { builtInRoles } from './default-world.ts'
import { managementGroupId } from './scopes.ts'
import type { Account, Server, World } from './world.ts'

export const fleetSubscriptions = {
  /** Beside the first one of the default world: the deployer is its owner. */
  retail: '91d4e7c3-2b6a-4c58-8f1d-0e5a7b93c264',
  /** The deployer has no role in it. */
  hidden: 'c7a05b1e-94f2-4d3b-b8e6-52d1f0a3c987',
} as const
export const fleetGroup = 'contoso'

/** Use it as the `shape` of an emulator with `fleet`. */
export function fleetWorld(world: World): void {
  const [first] = world.servers
  const deployer = world.principals[0]?.objectId ?? ''
  if (first === undefined) throw new Error('the default world has no server')
  const { retail, hidden } = fleetSubscriptions
  world.subscriptions = [
    { id: retail, name: 'Contoso Retail' },
    { id: hidden, name: 'Contoso Secret' },
  ]
  world.managementGroups = [
    { name: fleetGroup, displayName: 'Contoso', subscriptions: [world.subscriptionId] },
    { name: 'contoso-retail', displayName: 'Contoso Retail', parent: fleetGroup, subscriptions: [retail] },
    { name: 'contoso-secret', displayName: 'Contoso Secret', subscriptions: [hidden] },
  ]
  giveRole(world, deployer, builtInRoles.reader, managementGroupId(fleetGroup))
  giveRole(world, deployer, builtInRoles.owner, `/subscriptions/${retail}`)
  world.servers.push(
    anotherServer(first, 'pg-retail', { postgres: 'own', databases: ['orders', 'returns'] }, retail),
    anotherServer(first, 'pg-refusing', { postgres: 'own', firewallRules: {} }, retail),
    anotherServer(first, 'pg-stopped', { state: 'Stopped', postgres: 'shared' }),
    anotherServer(first, 'pg-private', { network: { publicNetworkAccess: 'Disabled' }, postgres: 'shared' }, retail),
    anotherServer(first, 'pg-without-login', { administrators: [], postgres: 'shared' }, retail),
    anotherServer(first, 'pg-contoso-replica', { replicationRole: 'AsyncReplica', sourceServerResourceId: first.id }),
    anotherServer(first, 'pg-secret', { postgres: 'shared' }, hidden),
  )
  world.accounts.push(
    anotherAccount(world, 'contoso-openai', { customSubDomainName: 'contoso-openai-retail' }, retail),
    anotherAccount(world, 'contoso-secret', { customSubDomainName: 'contoso-secret' }, hidden),
  )
}

/** `count` servers with one PostgreSQL behind all of them. */
export function largeFleet(count: number): (world: World) => void {
  return (world) => {
    const [first] = world.servers
    if (first === undefined) throw new Error('the default world has no server')
    const numbers = Array.from({ length: count - 1 }, (_, index) => String(index + 2).padStart(4, '0'))
    world.servers.push(...numbers.map((number) => anotherServer(first, `pg-${number}`, { postgres: 'shared' })))
    giveRole(world, world.principals[0]?.objectId ?? '', builtInRoles.reader, `/subscriptions/${world.subscriptionId}`)
  }
}

export function giveRole(world: World, principalId: string, role: string, scope: string): void {
  const name = randomUUID()
  world.roleAssignments.push({
    id: `${scope}/providers/Microsoft.Authorization/roleAssignments/${name}`,
    name,
    scope,
    principalId,
    principalType: 'ServicePrincipal',
    roleDefinitionId: `/subscriptions/${world.subscriptionId}/providers/Microsoft.Authorization/roleDefinitions/${role}`,
    createdAt: Date.parse('2025-11-03T08:00:00Z'),
    createdBy: principalId,
  })
}

const inSubscription = (id: string, subscription: string | undefined): string =>
  subscription === undefined ? id : id.replace(/^(\/subscriptions\/)[^/]+/, `$1${subscription}`)

function anotherServer(like: Server, name: string, changes: Partial<Server>, subscription?: string): Server {
  return {
    ...structuredClone(like),
    name,
    id: inSubscription(like.id.replace(/[^/]+$/, name), subscription),
    fullyQualifiedDomainName: like.fullyQualifiedDomainName.replace(/^[^.]+/, name),
    identity: { type: 'None' },
    ...changes,
  }
}

function anotherAccount({ accounts }: World, name: string, changes: Partial<Account>, subscription: string): Account {
  const like = accounts.find(({ kind }) => kind === 'OpenAI')
  if (like === undefined) throw new Error('the world has no OpenAI account')
  return { ...structuredClone(like), name, id: inSubscription(like.id.replace(/[^/]+$/, name), subscription), ...changes }
}
