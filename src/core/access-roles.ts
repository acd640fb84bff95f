/** Roles that can assign roles: the server's identity never needs one, and with one it could get any right at its scope. */

/** The built-in ones by id, which are refused before any request. */
export const accessRoles: ReadonlyMap<string, string> = new Map([
  ['8e3af657-a8ff-443c-a75c-2fe8c4bcb635', 'Owner'],
  ['18d7d88d-d35e-4fb5-a5c3-7773c20a72d9', 'User Access Administrator'],
  ['f58310d9-a9f6-439a-9e8d-f62e7b41a168', 'Role Based Access Control Administrator'],
])

/** Whoever may do one of these can extend its own rights. */
const accessActions = ['Microsoft.Authorization/roleAssignments/write', 'Microsoft.Authorization/roleDefinitions/write']

/** Permissions of a role definition, as Resource Manager answers them. */
export interface RolePermission {
  readonly actions?: readonly string[]
  readonly notActions?: readonly string[]
}

/** Whether a role with these permissions can assign roles or change role definitions. */
export function canAssignRoles(permissions: readonly RolePermission[]): boolean {
  return permissions.some(({ actions = [], notActions = [] }) =>
    accessActions.some(
      (action) => actions.some((pattern) => matches(pattern, action)) && !notActions.some((pattern) => matches(pattern, action)),
    ),
  )
}

/** Whether an action of a role definition, in which `*` is any text, covers an action. Case does not matter. */
function matches(pattern: string, action: string): boolean {
  const text = action.toLowerCase()
  const [first = '', ...rest] = pattern.toLowerCase().split('*')
  const last = rest.pop()
  if (last === undefined) return first === text
  if (!text.startsWith(first) || !text.endsWith(last)) return false
  let from = first.length
  for (const part of rest) {
    const at = text.indexOf(part, from)
    if (at < 0) return false
    from = at + part.length
  }
  return from + last.length <= text.length
}
