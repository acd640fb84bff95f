/** Reads Resource Manager: the server and its surroundings, the resources, the role assignments, the keys for a rollback. */

import type { ResourceManager } from '../azure/resource-manager.ts'
import { accountOfDeployments, type Inputs, type NamedService } from '../core/inputs.ts'
import { type Administrator, givesRole, type Observed, type ObservedServer, type RoleAssignment } from '../core/observed.ts'
import { scopeOf } from '../core/scope.ts'
import { memberOf, type Resource, type Service, type ServiceName, serviceNamed } from '../core/services.ts'
import { Failure, Failures, failuresOf } from '../errors/failure.ts'
import { canonicalId, sameId } from '../lib/resource-id.ts'
import type { KeyCandidates } from '../postgres/azure-ai.ts'

/** What Resource Manager shows; the databases come later, when it is known where and as whom to connect. */
export type Surroundings = Omit<Observed, 'databases'>

/**
 * Reads Resource Manager, all requests at once.
 * @throws {Failures} all that could not be read, together
 */
export async function observeSurroundings(inputs: Inputs, azure: ResourceManager): Promise<Surroundings> {
  const failures: Failure[] = []
  const collected = async <T>(promise: Promise<T>): Promise<T | undefined> => {
    try {
      return await promise
    } catch (error) {
      failures.push(...failuresOf(error))
      return undefined
    }
  }
  // A server that is not Ready refuses some reads: it is judged by its state then, not by these refusals.
  const refusedByServer: Failure[] = []
  const reading = azure.server()
  // Nor are its errors retried: nothing that it refuses now is waited for.
  const notReady = reading.then(({ state }) => (state === 'Ready' ? new Promise<never>(() => undefined) : undefined))
  notReady.catch(() => undefined)
  const ofServer = <T>(promise: Promise<T>): Promise<T | undefined> => {
    const read = promise.catch((error: unknown) => {
      refusedByServer.push(...failuresOf(error))
      return undefined
    })
    return Promise.race([read, notReady.catch(() => read)])
  }
  const { looksAtRoles: withRoles, runsSql: withSql, byIdentity } = scopeOf(inputs)
  // Several services may live on one account: it is read once, with its deployments when one of them needs these.
  const account = withSql ? accountOfDeployments(inputs) : undefined
  const resourceOf = once(inputs, ({ resource }) =>
    collected(azure.resource(resource, account !== undefined && sameId(resource.id, account.id))),
  )
  const assignmentsAt = once(inputs, async ({ resource }) => (withRoles ? collected(azure.roleAssignments(resource.id)) : []))
  const perService = inputs.services.map(async (named) => {
    const { service } = named
    const [found, assignments] = await Promise.all([
      resourceOf(named),
      assignmentsAt(named),
      withRoles ? collected(refuseAccessRole(named, azure)) : undefined,
    ])
    return { service, found, assignments }
  })
  const [server, runningIdentity, administrators, allowList, replicas, ...services] = await Promise.all([
    collected(reading),
    ofServer(runningWithoutSql(inputs, azure, reading)),
    withSql && inputs.database.user === undefined ? ofServer(azure.administrators()) : ([] as readonly Administrator[]),
    ofServer(azure.allowList()),
    collected(azure.replicas()),
    ...perService,
  ])
  if (server === undefined || server.state === 'Ready') failures.push(...refusedByServer)
  // A check reports everything else, too, as long as there is a server.
  const goesOn = inputs.mode === 'check' && server !== undefined
  if (server === undefined || (failures.length > 0 && !goesOn)) throw new Failures(failures)
  const resources = new Map<ServiceName, Resource>()
  const roleAssignments = new Map<ServiceName, readonly RoleAssignment[]>()
  for (const { service, found, assignments } of services) {
    if (found !== undefined) resources.set(service, found)
    if (assignments !== undefined) roleAssignments.set(service, assignments)
  }
  if (withRoles && server.principalId !== undefined) {
    await collected(addGroupAssignments(inputs, azure, server.principalId, roleAssignments))
  }
  // What a switch would break on a replica matters in every part.
  const known = replicas ?? []
  const [assignments, running] =
    byIdentity && known.length > 0
      ? await Promise.all([
          withRoles ? roleAssignments : assignmentsOf(inputs, azure, collected),
          collected(runningIdentities(azure, server, known)),
        ])
      : [roleAssignments, undefined]
  // One after the other: each adds to what the one before found.
  for (const { principalId } of known) {
    if (byIdentity && principalId !== undefined) await collected(addGroupAssignments(inputs, azure, principalId, assignments))
  }
  if (failures.length > 0 && !goesOn) throw new Failures(failures)
  return {
    server,
    administrators: administrators ?? [],
    allowList,
    resources,
    roleAssignments,
    replicas: known.map((replica) => ({
      server: replica,
      missingRoles: byIdentity ? missingRoles(inputs, replica, assignments) : [],
      restarted: running?.get(replica.id),
    })),
    runningIdentity,
    failures,
  }
}

/** Where SQL runs, the databases show it; else a missing restart would stay unknown. */
async function runningWithoutSql(
  inputs: Inputs,
  azure: ResourceManager,
  reading: Promise<ObservedServer>,
): Promise<string | undefined> {
  const server = await reading.catch(() => undefined)
  const { byIdentity, runsSql } = scopeOf(inputs)
  const isAsked = server?.principalId !== undefined && byIdentity && (server.isReplica || !runsSql)
  return isAsked ? azure.runningIdentity(server) : undefined
}

/**
 * A custom role may do what it likes: one that can assign roles is refused like the built-in ones.
 * @throws {Failure} `input`
 */
async function refuseAccessRole({ service, resource, roleId }: NamedService, azure: ResourceManager): Promise<void> {
  const { role } = serviceNamed(service)
  if (roleId === role.id || (await azure.roleCanAssignRoles(resource.id, roleId)) !== true) return
  throw new Failure({
    reason: 'input',
    code: 'role-assigns-roles',
    title: 'A role of the inputs can assign roles',
    detail: `Role ${roleId} (\`${service}-role\`) permits writing role assignments or role definitions: whoever controls the server could give itself any right on ${resource.name}.`,
    fix: `az role definition list --name ${roleId} --query "[].permissions"   # remove Microsoft.Authorization from its actions, or leave \`${service}-role\` out for ${role.name}`,
  })
}

/** The assignments at each named resource, for replicas in a part that does not look at roles otherwise. */
async function assignmentsOf(
  inputs: Inputs,
  azure: ResourceManager,
  collected: <T>(promise: Promise<T>) => Promise<T | undefined>,
): Promise<Map<ServiceName, readonly RoleAssignment[]>> {
  const found = new Map<ServiceName, readonly RoleAssignment[]>()
  await Promise.all(
    inputs.services.map(async ({ service, resource }) => {
      const assignments = await collected(azure.roleAssignments(resource.id))
      if (assignments !== undefined) found.set(service, assignments)
    }),
  )
  return found
}

/** Reads each named resource once, however many services name it. */
function once<T>(inputs: Inputs, read: (named: NamedService) => Promise<T>): (named: NamedService) => Promise<T> {
  const reads = new Map<string, Promise<T>>()
  for (const named of inputs.services) {
    const id = canonicalId(named.resource.id)
    if (!reads.has(id)) reads.set(id, read(named))
  }
  return (named) => reads.get(canonicalId(named.resource.id)) ?? read(named)
}

/** A role may come through a group: read only where none is assigned directly. */
async function addGroupAssignments(
  inputs: Inputs,
  azure: ResourceManager,
  principalId: string,
  roleAssignments: Map<ServiceName, readonly RoleAssignment[]>,
): Promise<void> {
  await Promise.all(
    inputs.services.map(async ({ service, resource, roleId }) => {
      const scope = resource.id
      const direct = roleAssignments.get(service)
      // What could not be read stays unread.
      if (direct === undefined || direct.some((each) => givesRole(each, principalId, roleId, scope))) return
      roleAssignments.set(service, [...direct, ...(await azure.groupAssignments(scope, principalId))])
    }),
  )
}

/**
 * Whether each replica was restarted since its identity was turned on, where that can be seen: it reports its own
 * identity; it reports another; or it reports none although its primary reports one.
 */
async function runningIdentities(
  azure: ResourceManager,
  primary: ObservedServer,
  replicas: readonly ObservedServer[],
): Promise<ReadonlyMap<string, boolean>> {
  const withIdentity = replicas.filter((replica) => replica.principalId !== undefined)
  if (withIdentity.length === 0) return new Map()
  const [own, ...theirs] = await Promise.all([primary, ...withIdentity].map((server) => azure.runningIdentity(server)))
  const found = new Map<string, boolean>()
  for (const [index, replica] of withIdentity.entries()) {
    const reported = theirs[index]
    if (reported === undefined || (reported === '' && !own)) continue
    found.set(replica.id, reported.toLowerCase() === replica.principalId?.toLowerCase())
  }
  return found
}

function missingRoles(
  inputs: Inputs,
  replica: ObservedServer,
  assignments: ReadonlyMap<ServiceName, readonly RoleAssignment[]>,
): ServiceName[] {
  const { principalId } = replica
  return inputs.services
    .filter(({ service, resource, roleId }) => {
      const scope = resource.id
      const read = assignments.get(service)
      if (principalId === undefined) return true
      // What could not be read is reported as that.
      return read !== undefined && !read.some((each) => givesRole(each, principalId, roleId, scope))
    })
    .map(({ service }) => service)
}

/**
 * For `subscription-key`: the keys of each named family, from the inputs or read from the resource, by name of their setting.
 * @throws {Failures} all that could not be read, together
 */
export async function observeKeys(
  inputs: Inputs,
  azure: ResourceManager,
  resources: ReadonlyMap<ServiceName, Resource>,
): Promise<KeyCandidates> {
  const keys = new Map<string, readonly string[]>()
  const { byIdentity, runsSql } = scopeOf(inputs)
  if (byIdentity || !runsSql) return keys
  const failures: Failure[] = []
  await Promise.all(
    inputs.services.map(async ({ service: name }) => {
      const service = serviceNamed(name)
      const { key } = memberOf(service)
      // Two services may share a key: the first of them has it read.
      if (inputs.services.find((each) => memberOf(serviceNamed(each.service)).key === key)?.service !== name) return
      const input = inputs.keys.get(key)
      const resource = resources.get(name)
      try {
        if (input !== undefined) keys.set(key, [input])
        // A resource that refuses keys is reported by the preconditions.
        else if (resource !== undefined && takesKeys(service, resource)) keys.set(key, await azure.keys(resource))
      } catch (error) {
        failures.push(...failuresOf(error))
      }
    }),
  )
  if (failures.length > 0) throw new Failures(failures)
  return keys
}

/** An account that does not refuse them, or an endpoint whose mode takes them. */
function takesKeys({ authModes }: Service, { localAuthDisabled, authMode }: Resource): boolean {
  return authModes === undefined ? !localAuthDisabled : authModes['subscription-key'].includes(authMode ?? '')
}
