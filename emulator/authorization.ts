/** Azure's role-based access control, from the role assignments of the world. */
import { type AssignmentRequest, allows } from './conditions.ts'
import { managementGroupNamed, subscriptionsIn } from './scopes.ts'
import type { DenyAssignment, RoleAssignment, RoleDefinition, World } from './world.ts'

export type Verdict = 'allowed' | 'denied' | 'condition-not-fulfilled'

/** Whether the caller, or a group it is in, has a role with this action at the scope or above. Actions match without case. */
export function mayAct(world: World, objectId: string, action: string, scope: string, request?: AssignmentRequest): Verdict {
  let verdict: Verdict = 'denied'
  for (const [assignment, role] of rolesOf(world, objectId, scope)) {
    if (!covers(role.actions, action) || covers(role.notActions, action)) continue
    if (assignment.condition === undefined || allows(assignment.condition, action, request)) return 'allowed'
    verdict = 'condition-not-fulfilled'
  }
  return verdict
}

/** The deny assignment that forbids an action at a scope; undefined when none does. */
export function deniedBy(world: World, action: string, scope: string): DenyAssignment | undefined {
  return world.denyAssignments.find((each) => covers(each.actions, action) && isAtOrBelow(scope, each.scope))
}

/** The same for data actions, which the AI services check. They learn of an assignment `delays.rolePropagation` after it was created. */
export function mayUseData(world: World, objectId: string, action: string, scope: string): boolean {
  return propagatedRolesOf(world, objectId, scope).some(
    ([, role]) => covers(role.dataActions, action) && !covers(role.notDataActions, action),
  )
}

/** For services whose data plane requires an action of the control plane (Machine Learning). */
export function mayActAtService(world: World, objectId: string, action: string, scope: string): boolean {
  return propagatedRolesOf(world, objectId, scope).some(
    ([, role]) => covers(role.actions, action) && !covers(role.notActions, action),
  )
}

/** Whether the caller has any role at the scope or above. */
export const hasRole = (world: World, objectId: string, scope: string): boolean => rolesOf(world, objectId, scope).length > 0

/** The principal and every group it is in, at any depth. */
export function withGroups(world: World, objectId: string): Set<string> {
  const found = new Set<string>()
  const visit = (id: string): void => {
    if (found.has(id.toLowerCase())) return
    found.add(id.toLowerCase())
    const principal = world.principals.find((candidate) => candidate.objectId.toLowerCase() === id.toLowerCase())
    for (const group of principal?.memberOf ?? []) visit(group)
  }
  visit(objectId)
  return found
}

/** Whether `scope` is `ancestor` or lies below it. The root and management groups lie above every subscription. */
export function isAtOrBelow(scope: string, ancestor: string): boolean {
  const lower = scope.toLowerCase()
  const above = ancestor.toLowerCase().replace(/\/+$/, '')
  if (above === '' || lower === above || lower.startsWith(`${above}/`)) return true
  return above.startsWith('/providers/microsoft.management/managementgroups/') && lower.startsWith('/subscriptions/')
}

/** GUID at the end of a role definition id. */
export function roleDefinitionName(roleDefinitionId: string): string {
  return roleDefinitionId.slice(roleDefinitionId.lastIndexOf('/') + 1).toLowerCase()
}

function propagatedRolesOf(world: World, objectId: string, scope: string): [RoleAssignment, RoleDefinition][] {
  return rolesOf(world, objectId, scope).filter(([{ createdAt }]) => Date.now() - createdAt >= world.delays.rolePropagation)
}

/** As {@link isAtOrBelow}, and a management group that the world describes lies above its own subscriptions only. */
function reaches(world: World, ancestor: string, scope: string): boolean {
  const named = (id: string) =>
    managementGroupNamed(world, /^\/providers\/Microsoft\.Management\/managementGroups\/([^/]+)$/i.exec(id)?.[1] ?? '')
  const group = named(ancestor)
  if (group === undefined) return isAtOrBelow(scope, ancestor)
  for (let at = named(scope); at !== undefined; at = managementGroupNamed(world, at.parent ?? '')) if (at === group) return true
  return subscriptionsIn(world, group).some((id) => isAtOrBelow(scope, `/subscriptions/${id}`))
}

function rolesOf(world: World, objectId: string, scope: string): [RoleAssignment, RoleDefinition][] {
  const principals = withGroups(world, objectId)
  const found: [RoleAssignment, RoleDefinition][] = []
  for (const assignment of world.roleAssignments) {
    if (!principals.has(assignment.principalId.toLowerCase()) || !reaches(world, assignment.scope, scope)) continue
    const role = world.roleDefinitions.find(({ name }) => name.toLowerCase() === roleDefinitionName(assignment.roleDefinitionId))
    if (role) found.push([assignment, role])
  }
  return found
}

/** `*` in a pattern stands for anything, slashes included. */
function covers(patterns: string[], action: string): boolean {
  return patterns.some((pattern) => {
    const source = pattern
      .split('*')
      .map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&'))
      .join('.*')
    return new RegExp(`^${source}$`, 'i').test(action)
  })
}
