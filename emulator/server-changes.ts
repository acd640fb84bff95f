/** Reads the PATCH of a flexible server, and applies it to the server's identity. */
import { randomUUID } from 'node:crypto'
import { failure } from './http.ts'
import { propertiesOf, sameId } from './provider.ts'
import type { Principal, Server, World } from './world.ts'

type IdentityType = NonNullable<Server['identity']>['type']

export interface IdentityPatch {
  type: IdentityType
  userAssignedIdentities: Record<string, unknown>
}

interface Patch {
  identity?: IdentityPatch
  authConfig: Partial<Server['authConfig']>
  network: Partial<Server['network']>
}

/** Reads the PATCH of a server. The emulator refuses what it cannot do instead of ignoring it. */
export function readPatch(body: unknown, server: Server): Patch {
  const patched = (typeof body === 'object' && body !== null ? body : {}) as Record<string, unknown>
  const properties = propertiesOf(body)
  const unknown = [
    ...Object.keys(patched).filter((name) => !['identity', 'properties'].includes(name)),
    ...Object.keys(properties).filter((name) => !['authConfig', 'network'].includes(name)),
  ]
  if (unknown.length > 0) {
    throw failure(400, 'NotEmulated', `The emulator cannot change ${unknown.join(', ')} of a server.`)
  }
  const patch: Patch = {
    authConfig: pick(properties.authConfig, ['activeDirectoryAuth', 'passwordAuth']),
    network: pick(properties.network, ['publicNetworkAccess']),
  }
  if (patched.identity !== undefined && patched.identity !== null) {
    if ((server.clusterSize ?? 0) > 0) {
      throw failure(
        400,
        'OperationNotSupportedForElasticCluster',
        `The identity of the elastic cluster '${server.name}' cannot be changed.`,
      )
    }
    patch.identity = readIdentity(patched.identity as Record<string, unknown>, server)
  }
  return patch
}

function readIdentity(identity: Record<string, unknown>, server: Server): IdentityPatch {
  const type = String(identity.type ?? '').replaceAll(' ', '')
  const known: IdentityType[] = ['None', 'SystemAssigned', 'UserAssigned', 'SystemAssigned,UserAssigned']
  const found = known.find((candidate) => sameId(candidate, type))
  if (found === undefined) {
    throw failure(400, 'InvalidIdentityType', `The identity type '${String(identity.type)}' is not valid.`)
  }
  const users = (identity.userAssignedIdentities ?? {}) as Record<string, unknown>
  for (const [id, value] of Object.entries(users)) {
    if (typeof value === 'object' && value !== null && Object.keys(value).length > 0) {
      throw failure(
        400,
        'InvalidIdentityValues',
        `Invalid value for the identities '${id}'. The 'UserAssignedIdentities' property keys should only be empty json objects, null or the resource exisiting property.`,
      )
    }
  }
  if (!found.includes('UserAssigned') && Object.keys(users).length > 0) {
    throw failure(400, 'InvalidIdentityValues', `The identity type '${found}' does not go with user-assigned identities.`)
  }
  const left = Object.keys(merged(server.identity?.userAssignedIdentities, users))
  if (found.includes('UserAssigned') && left.length === 0) {
    throw failure(400, 'InvalidIdentityValues', 'The user-assigned identities are missing.')
  }
  return { type: found, userAssignedIdentities: users }
}

/** Named identities join those that are there; `null` takes one away. Ids match without case. */
function merged(
  present: NonNullable<Server['identity']>['userAssignedIdentities'],
  named: Record<string, unknown>,
): Record<string, { principalId: string; clientId: string }> {
  const result = { ...present }
  for (const [id, value] of Object.entries(named)) {
    const key = Object.keys(result).find((candidate) => sameId(candidate, id)) ?? id
    if (value === null) delete result[key]
    else result[key] ??= { principalId: randomUUID(), clientId: randomUUID() }
  }
  return result
}

export function changeIdentity(world: World, server: Server, patch: IdentityPatch): void {
  const before = server.identity
  const system = patch.type.startsWith('SystemAssigned')
  const users = patch.type.includes('UserAssigned')
    ? merged(before?.userAssignedIdentities, patch.userAssignedIdentities)
    : undefined
  let principalId = before?.principalId
  if (system && principalId === undefined) {
    const principal: Principal = {
      objectId: randomUUID(),
      displayName: server.name,
      kind: 'ManagedIdentity',
      clientId: randomUUID(),
      createdAt: Date.now(),
    }
    world.principals.push(principal)
    principalId = principal.objectId
    server.readsWithoutPrincipal = world.switches.latePrincipalReads
  }
  if (!system && principalId !== undefined) {
    // The directory forgets it; its role assignments stay behind, as in Azure.
    world.principals.splice(0, Infinity, ...world.principals.filter(({ objectId }) => objectId !== principalId))
    principalId = undefined
  }
  server.identity = {
    type: patch.type,
    ...(principalId === undefined ? {} : { principalId }),
    ...(users === undefined ? {} : { userAssignedIdentities: users }),
  }
}

function pick<Name extends string>(from: unknown, names: Name[]): Partial<Record<Name, 'Enabled' | 'Disabled'>> {
  const values = (typeof from === 'object' && from !== null ? from : {}) as Record<string, unknown>
  const picked: Partial<Record<Name, 'Enabled' | 'Disabled'>> = {}
  for (const name of names) {
    const value = values[name]
    if (value === 'Enabled' || value === 'Disabled') picked[name] = value
  }
  return picked
}
