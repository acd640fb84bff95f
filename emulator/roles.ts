/** Microsoft.Authorization: role assignments and role definitions, api-version 2022-04-01. */
import { isAtOrBelow, roleDefinitionName, withGroups } from './authorization.ts'
import { failure, type HttpError } from './http.ts'
import { type Call, type Route, sameId } from './provider.ts'
import { refused, takeRefusal } from './refusals.ts'
import type { RoleAssignment, RoleDefinition, World } from './world.ts'

const apiVersions = ['2022-04-01']
const guid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i
const writeAction = 'Microsoft.Authorization/roleAssignments/write'

export const roleRoutes: Route[] = [
  {
    method: 'GET',
    path: /^(.*)\/providers\/Microsoft\.Authorization\/roleAssignments$/i,
    apiVersions,
    type: 'roleAssignments',
    action: 'Microsoft.Authorization/roleAssignments/read',
    scope: ([scope = '']) => scope || '/',
    handle: list,
  },
  {
    method: 'GET',
    path: /^(.*)\/providers\/Microsoft\.Authorization\/roleAssignments\/([^/]+)$/i,
    apiVersions,
    type: 'roleAssignments',
    action: 'Microsoft.Authorization/roleAssignments/read',
    scope: ([scope = '']) => scope || '/',
    handle({ world, parameters: [scope = '', name = ''] }) {
      const found = world.roleAssignments.find(
        (assignment) => sameId(assignment.name, name) && sameId(assignment.scope, scope || '/'),
      )
      if (!found) throw assignmentNotFound(name)
      return { status: 200, body: shown(found) }
    },
  },
  {
    method: 'PUT',
    path: /^(.*)\/providers\/Microsoft\.Authorization\/roleAssignments\/([^/]+)$/i,
    apiVersions,
    type: 'roleAssignments',
    action: null,
    handle: put,
  },
  {
    method: 'DELETE',
    path: /^(.*)\/providers\/Microsoft\.Authorization\/roleAssignments\/([^/]+)$/i,
    apiVersions,
    type: 'roleAssignments',
    action: 'Microsoft.Authorization/roleAssignments/delete',
    scope: ([scope = '']) => scope || '/',
    handle({ world, parameters: [scope = '', name = ''] }) {
      const index = world.roleAssignments.findIndex(
        (assignment) => sameId(assignment.name, name) && sameId(assignment.scope, scope || '/'),
      )
      if (index < 0) return { status: 204 }
      const [removed] = world.roleAssignments.splice(index, 1)
      return { status: 200, body: removed && shown(removed) }
    },
  },
  {
    method: 'GET',
    path: /^(.*)\/providers\/Microsoft\.Authorization\/roleDefinitions$/i,
    apiVersions,
    type: 'roleDefinitions',
    action: 'Microsoft.Authorization/roleDefinitions/read',
    scope: ([scope = '']) => scope || '/',
    handle({ world, request }) {
      const filter = request.url.searchParams.get('$filter') ?? ''
      const roleName = /^\s*roleName\s+eq\s+'([^']*)'\s*$/i.exec(filter)?.[1]
      if (filter !== '' && roleName === undefined && !/^\s*(atScope\(\)|type\s+eq\s+'BuiltInRole')\s*$/i.test(filter)) {
        throw unsupportedFilter(filter)
      }
      const found = world.roleDefinitions.filter((role) => roleName === undefined || sameId(role.roleName, roleName))
      return { status: 200, body: { value: found.map((role) => shownDefinition(world, role)) } }
    },
  },
  {
    method: 'GET',
    path: /^(.*)\/providers\/Microsoft\.Authorization\/roleDefinitions\/([^/]+)$/i,
    apiVersions,
    type: 'roleDefinitions',
    action: 'Microsoft.Authorization/roleDefinitions/read',
    scope: ([scope = '']) => scope || '/',
    handle({ world, parameters: [, name = ''] }) {
      const role = world.roleDefinitions.find((candidate) => sameId(candidate.name, name))
      if (!role) {
        throw failure(404, 'RoleDefinitionDoesNotExist', `The specified role definition with ID '${name}' does not exist.`)
      }
      return { status: 200, body: shownDefinition(world, role) }
    },
  },
]

function list({ world, request, parameters: [path = ''] }: Call) {
  const scope = path || '/'
  const filter = request.url.searchParams.get('$filter') ?? ''
  let atScope = false
  let wanted: Set<string> | undefined
  for (const part of filter === '' ? [] : filter.split(/\s+and\s+/i)) {
    const principal = /^\s*principalId\s+eq\s+'([^']*)'\s*$/i.exec(part)?.[1]
    const assignee = /^\s*assignedTo\('([^']*)'\)\s*$/i.exec(part)?.[1]
    if (/^\s*atScope\(\)\s*$/i.test(part)) atScope = true
    else if (principal !== undefined) wanted = new Set([principal.toLowerCase()])
    else if (assignee !== undefined) wanted = withGroups(world, assignee)
    else throw unsupportedFilter(filter)
  }
  checkScope(world, scope)
  const now = Date.now()
  const found = world.roleAssignments.filter(
    (assignment) =>
      now - assignment.createdAt >= world.delays.roleReplication &&
      (isAtOrBelow(scope, assignment.scope) || (!atScope && isAtOrBelow(assignment.scope, scope))) &&
      (wanted?.has(assignment.principalId.toLowerCase()) ?? true),
  )
  return { status: 200, body: { value: found.map(shown) } }
}

function put({ world, request, caller, parameters: [path = '', name = ''], authorize }: Call) {
  const scope = path || '/'
  const body = request.body as { properties?: Record<string, unknown> } | undefined
  const properties = body?.properties ?? {}
  const text = (key: string): string | undefined => (typeof properties[key] === 'string' ? properties[key] : undefined)
  const roleName = roleDefinitionName(text('roleDefinitionId') ?? '')
  const principalId = text('principalId') ?? ''
  const principalType = text('principalType') ?? 'User'

  authorize(writeAction, scope, { roleDefinitionName: roleName, principalId, principalType })
  if (!guid.test(name)) {
    throw failure(
      400,
      'InvalidRoleAssignmentId',
      `The role assignment ID '${name}' is not valid. The role assignment ID must be a GUID.`,
    )
  }
  if (!guid.test(principalId) || roleName === '') {
    throw failure(
      400,
      'InvalidCreateRoleAssignmentRequest',
      'The request to create a role assignment is not valid: roleDefinitionId and principalId are required.',
    )
  }
  checkScope(world, scope)
  const role = world.roleDefinitions.find((candidate) => sameId(candidate.name, roleName))
  if (!role) {
    throw failure(
      400,
      'RoleDefinitionDoesNotExist',
      `The specified role definition with ID '${roleName.replaceAll('-', '')}' does not exist.`,
    )
  }
  const roleDefinitionId = `/subscriptions/${world.subscriptionId}/providers/Microsoft.Authorization/roleDefinitions/${role.name}`
  const isSame = (assignment: RoleAssignment): boolean =>
    sameId(assignment.scope, scope) &&
    sameId(assignment.principalId, principalId) &&
    sameId(roleDefinitionName(assignment.roleDefinitionId), roleName)

  const namesake = world.roleAssignments.find((assignment) => sameId(assignment.name, name))
  if (namesake) {
    if (!isSame(namesake)) {
      throw failure(
        400,
        'RoleAssignmentUpdateNotPermitted',
        'Tenant ID, application ID, principal ID, and scope are not allowed to be updated.',
      )
    }
    const description = text('description')
    if (description !== undefined) namesake.description = description
    return { status: 200, body: shown(namesake) }
  }
  const twin = world.roleAssignments.find(isSame)
  if (twin) {
    throw failure(
      409,
      'RoleAssignmentExists',
      `The role assignment already exists. The ID of the conflicting role assignment is ${twin.name.replaceAll('-', '')}.`,
    )
  }
  const principal = world.principals.find(({ objectId }) => sameId(objectId, principalId))
  if (!principal || Date.now() - (principal.createdAt ?? 0) < world.delays.principalReplication) {
    throw failure(
      400,
      'PrincipalNotFound',
      `Principal ${principalId.replaceAll('-', '')} does not exist in the directory ${world.tenantId}. Check that you have the correct principal ID. If you are creating this principal and then immediately assigning a role, this error might be related to a replication delay. In this case, set the role assignment principalType property to a value, such as ServicePrincipal, User, or Group.  See https://aka.ms/docs-principaltype`,
    )
  }
  const kind = principal.kind === 'ManagedIdentity' ? 'ServicePrincipal' : principal.kind
  if (text('principalType') !== undefined && kind !== principalType) {
    throw failure(
      400,
      'UnmatchedPrincipalType',
      `The PrincipalId '${principalId.replaceAll('-', '')}' has type '${kind}' , which is different from specified PrinciaplType '${principalType}'.`,
    )
  }
  const refusal = takeRefusal(world, 'roleAssignment')
  if (refusal !== undefined) throw refused(refusal, scope.slice(scope.lastIndexOf('/') + 1))
  const description = text('description')
  const condition = text('condition')
  const made: RoleAssignment = {
    id: `${scope === '/' ? '' : scope}/providers/Microsoft.Authorization/roleAssignments/${name}`,
    name,
    scope,
    principalId: principal.objectId,
    principalType: kind,
    roleDefinitionId,
    ...(description === undefined ? {} : { description }),
    ...(condition === undefined ? {} : { condition }),
    createdAt: Date.now(),
    createdBy: caller.oid,
  }
  world.roleAssignments.push(made)
  return { status: 201, body: shown(made) }
}

/** Throws the 404 of a scope that names a resource which does not exist. */
function checkScope(world: World, scope: string): void {
  const resource = /^\/subscriptions\/[^/]+\/resourceGroups\/([^/]+)\/providers\/([^/]+\/[^/]+)\/([^/]+)(\/.*)?$/i.exec(scope)
  if (!resource) return
  const ids = [
    ...world.servers.map(({ id }) => id),
    ...world.accounts.map(({ id }) => id),
    ...world.workspaces.flatMap(({ id, onlineEndpoints, serverlessEndpoints = [] }) => [
      id,
      ...[...onlineEndpoints, ...serverlessEndpoints].map((endpoint) => endpoint.id),
    ]),
  ]
  if (ids.some((id) => sameId(id, scope))) return
  const [, group, type, name, rest = ''] = resource
  throw failure(
    404,
    'ResourceNotFound',
    `The Resource '${type}/${name}${rest}' under resource group '${group}' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix`,
  )
}

function shown(assignment: RoleAssignment): Record<string, unknown> {
  const time = new Date(assignment.createdAt).toISOString()
  return {
    properties: {
      roleDefinitionId: assignment.roleDefinitionId,
      principalId: assignment.principalId,
      principalType: assignment.principalType,
      scope: assignment.scope,
      ...(assignment.description === undefined ? {} : { description: assignment.description }),
      ...(assignment.condition === undefined ? {} : { condition: assignment.condition, conditionVersion: '2.0' }),
      createdOn: time,
      updatedOn: time,
      createdBy: assignment.createdBy,
      updatedBy: assignment.createdBy,
    },
    id: assignment.id,
    type: 'Microsoft.Authorization/roleAssignments',
    name: assignment.name,
  }
}

function shownDefinition(world: World, role: RoleDefinition): Record<string, unknown> {
  return {
    properties: {
      roleName: role.roleName,
      type: 'BuiltInRole',
      description: role.roleName,
      assignableScopes: ['/'],
      permissions: [
        {
          actions: role.actions,
          notActions: role.notActions,
          dataActions: role.dataActions,
          notDataActions: role.notDataActions,
        },
      ],
      createdOn: '2018-01-01T00:00:00.000Z',
      updatedOn: '2026-01-01T00:00:00.000Z',
    },
    id: `/subscriptions/${world.subscriptionId}/providers/Microsoft.Authorization/roleDefinitions/${role.name}`,
    type: 'Microsoft.Authorization/roleDefinitions',
    name: role.name,
  }
}

function assignmentNotFound(name: string): HttpError {
  return failure(404, 'RoleAssignmentNotFound', `The role assignment '${name}' is not found.`)
}

function unsupportedFilter(filter: string): HttpError {
  return failure(
    400,
    'UnsupportedQuery',
    `The filter '${filter}' is not supported. Supported filters are either 'atScope()' or 'principalId eq '{value}'' or 'assignedTo('{value}')'.`,
  )
}
