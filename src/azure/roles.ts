/** Role assignments and role definitions. */
import { createHash } from 'node:crypto'
import { canAssignRoles, type RolePermission } from '../core/access-roles.ts'
import type { RoleAssignment } from '../core/observed.ts'
import { describe } from '../lib/bounded.ts'
import { verdictOn } from '../lib/http-retries.ts'
import { nameIn, subscriptionIn } from '../lib/resource-id.ts'
import { retrying } from '../lib/retry.ts'
import { duration } from '../lib/timeout.ts'
import { type CallOptions, type Calls, pagesOfClient } from './calls.ts'
import { itemsOf } from './pages.ts'

interface RoleToAssign {
  readonly scope: string
  /** GUID of the role definition. */
  readonly roleId: string
  readonly principalId: string
  readonly description: string
}

export interface Roles {
  /** Assignments at the scope and above it. */
  roleAssignments(scope: string): Promise<readonly RoleAssignment[]>
  /** Assignments that reach the principal through its groups, at the scope and above it. */
  groupAssignments(scope: string, principalId: string): Promise<readonly RoleAssignment[]>
  /** Whether a role definition can assign roles; undefined when it could not be read. */
  roleCanAssignRoles(scope: string, roleId: string): Promise<boolean | undefined>
  /** Assigns the role on exactly the scope; an assignment that exists already is success. True when it was created. */
  assignRole(role: RoleToAssign): Promise<boolean>
}

interface RoleDefinitionBody {
  properties?: { permissions?: RolePermission[] }
}

export function createRoles(calls: Calls, options: CallOptions): Roles {
  const { call, read, authorization } = calls
  const { log, signal } = options
  const listAssignments = (scope: string, filter: string): Promise<readonly RoleAssignment[]> =>
    call(
      'listing role assignments',
      async () => {
        const found: RoleAssignment[] = []
        const list = (await authorization()).roleAssignments.listForScope(withoutSlash(scope), { filter })
        for await (const each of itemsOf(await pagesOfClient(list), 'listing role assignments')) {
          const { scope: at, principalId, roleDefinitionId } = each
          // One that does not say what it gives to whom, and where, gives nothing.
          if (!isText(at) || !isText(principalId) || !isText(roleDefinitionId)) continue
          found.push({
            id: String(each.id ?? ''),
            scope: at,
            principalId,
            reaches: undefined,
            roleId: nameIn(roleDefinitionId).toLowerCase(),
            description: isText(each.description) ? each.description : undefined,
            createdOn: each.createdOn ?? undefined,
          })
        }
        return found
      },
      scope,
    )

  return {
    roleAssignments: (scope) => listAssignments(scope, 'atScope()'),

    groupAssignments: async (scope, principalId) => {
      const found = await listAssignments(scope, `atScope() and assignedTo('${principalId}')`)
      return found
        .filter((each) => each.principalId.toLowerCase() !== principalId.toLowerCase())
        .map((each) => ({ ...each, reaches: principalId }))
    },

    roleCanAssignRoles: async (scope, roleId) => {
      const id = `${scope}/providers/Microsoft.Authorization/roleDefinitions/${roleId}`
      try {
        const { properties } = (await read(id, '2022-04-01', 'reading a role definition')) as RoleDefinitionBody
        return canAssignRoles(properties?.permissions ?? [])
      } catch (error) {
        if (signal.aborted) throw signal.reason
        // Not every identity that may assign the role may read its definition.
        log.debug(`Role ${roleId} was not looked into: ${describe(error)}`)
        return undefined
      }
    },

    assignRole: roleAssigner(calls, options),
  }
}

function roleAssigner({ call, authorization }: Calls, { log, signal }: CallOptions): Roles['assignRole'] {
  let directoryToldAt = Number.NEGATIVE_INFINITY
  const create = async ({ scope, roleId, principalId, description }: RoleToAssign): Promise<boolean> => {
    const roleDefinitionId = `/subscriptions/${subscriptionIn(scope)}/providers/Microsoft.Authorization/roleDefinitions/${roleId}`
    const body = { roleDefinitionId, principalId, principalType: 'ServicePrincipal', description }
    try {
      const { roleAssignments } = await authorization()
      await roleAssignments.create(withoutSlash(scope), assignmentName(scope, principalId, roleId), body)
      return true
    } catch (error) {
      if ((error as { code?: unknown }).code === 'RoleAssignmentExists') return false
      throw error
    }
  }
  return (role) =>
    call(
      'assigning a role',
      () =>
        retrying(() => create(role), {
          signal,
          // The directory learns of a new identity a little later than Resource Manager.
          verdict: (error) => {
            const { code, statusCode: status } = error as { code?: string; statusCode?: number }
            return code === 'PrincipalNotFound'
              ? verdictOn({ stage: 'answer', from: 'Resource Manager', status, code }, true)
              : false
          },
          onWait: (_, waitMs, leftMs) => {
            // All roles wait for the same thing: it is logged once in a while, not for each.
            if (performance.now() - directoryToldAt < 3_000) return
            directoryToldAt = performance.now()
            log.info(
              `… the directory does not know the new identity yet; again in ${duration(waitMs)}, for at most ${duration(leftMs)} more`,
            )
          },
        }),
      role.scope,
    )
}

/** Uniqueness of a role assignment is scope, principal and role; a name made of them (UUIDv5, as Bicep's `guid()`) finds itself again. */
export function assignmentName(scope: string, principalId: string, roleId: string): string {
  const namespace = Buffer.from('11fb06fb712d4ddd98c7e71bbd588830', 'hex')
  const text = [scope, principalId, roleId].map((part) => part.toLowerCase()).join('-')
  const hash = createHash('sha1').update(namespace).update(text).digest().subarray(0, 16)
  hash.writeUInt8((hash.readUInt8(6) & 0x0f) | 0x50, 6)
  hash.writeUInt8((hash.readUInt8(8) & 0x3f) | 0x80, 8)
  const hex = hash.toString('hex')
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-')
}

const withoutSlash = (scope: string): string => scope.replace(/^\/+/, '')
const isText = (value: unknown): value is string => typeof value === 'string' && value !== ''
