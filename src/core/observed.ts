/** What was found: the state of the server, its surroundings and its databases, as the plan reads it. Plain data. */

import type { Failure } from '../errors/failure.ts'
import { isManagementGroup, liesIn, sameId } from '../lib/resource-id.ts'
import type { Resource, ServiceName } from './services.ts'

export interface ObservedServer {
  /** As the inputs name it; that of a replica as Resource Manager spells it. */
  readonly id: string
  readonly name: string
  readonly host: string
  /** Major version. */
  readonly version: string
  readonly state: string
  readonly identityType: 'None' | 'SystemAssigned' | 'UserAssigned' | 'SystemAssigned,UserAssigned'
  /** Object id of the system-assigned identity. */
  readonly principalId: string | undefined
  readonly userAssignedIdentities: readonly string[]
  readonly publicAccess: boolean
  readonly inVirtualNetwork: boolean
  readonly entraAuthentication: boolean
  readonly passwordAuthentication: boolean
  readonly isReplica: boolean
  readonly isElasticCluster: boolean
  readonly highAvailability: string | undefined
}

/** A role assignment as Resource Manager lists it. */
export interface RoleAssignment {
  readonly id: string
  readonly scope: string
  readonly principalId: string
  /** The principal that has the role as a member of the group that it is assigned to; undefined for a role assigned directly. */
  readonly reaches: string | undefined
  /** GUID, lower case. */
  readonly roleId: string
  readonly description: string | undefined
  readonly createdOn: Date | undefined
}

export interface Administrator {
  readonly objectId: string
  readonly principalName: string
  readonly principalType: string
}

/** A function of the extension, one overload. */
export interface FunctionSignature {
  readonly schema: string
  readonly name: string
  /** Input arguments in order. */
  readonly arguments: readonly { readonly name: string; readonly type: string; readonly hasDefault: boolean }[]
}

/** A database that could not be read, and why. */
interface UnreadDatabase {
  readonly name: string
  readonly failure: Failure
}

export interface ReadDatabase {
  readonly name: string
  readonly failure?: undefined
  readonly user: string
  /** Major version of the running server. */
  readonly serverVersion: number
  readonly isReadOnly: boolean
  readonly extension: { readonly installed: string | undefined; readonly available: string | undefined }
  /** What CREATE EXTENSION depends on. */
  readonly creation: {
    /** Whether it has to name a schema, for what the extension leaves without one. */
    readonly needsSchema: boolean
    /** Whether there is a schema `public` for it. */
    readonly hasPublic: boolean
    /** What others put into the schemas of azure_ai, as `SCHEMA name` or `FUNCTION name(types)`. */
    readonly foreign: readonly string[]
  }
  /** Schemas that are members of the extension. */
  readonly extensionSchemas: readonly string[]
  readonly mayCreateExtension: boolean
  /** False also when the extension is not there. */
  readonly mayRead: boolean
  readonly maySet: boolean
  /** Server parameters that decide whether statements, and keys in them, reach a log; by name. */
  readonly logging: ReadonlyMap<string, string>
  /** Values of the settings that are no secrets; undefined or missing: not set. */
  readonly settings: ReadonlyMap<string, string>
  /** Secrets that have a value. */
  readonly keysSet: ReadonlySet<string>
  /** Those of them that are the word for the managed identity, in any spelling: no service accepts it as a key. */
  readonly literalKeys: ReadonlySet<string>
  /** Stored keys compared with those of the resource: its first, its second, or another. Empty when there is nothing to compare with. */
  readonly keyStates: ReadonlyMap<string, 'first' | 'second' | 'other'>
  /** When the server was last started. */
  readonly startedAt: Date | undefined
  /** The identity that the server says it knows; undefined when it does not say. */
  readonly runningIdentity: string | undefined
  /** Settings that the installed version does not know. */
  readonly unknownSettings: ReadonlySet<string>
  readonly functions: readonly FunctionSignature[]
}

export type ObservedDatabase = ReadDatabase | UnreadDatabase

export const isRead = (database: ObservedDatabase): database is ReadDatabase => database.failure === undefined

export interface ObservedReplica {
  readonly server: ObservedServer
  /** Services whose role its identity lacks. */
  readonly missingRoles: readonly ServiceName[]
  /** Whether it was restarted since its identity was turned on; undefined when nothing shows it. */
  readonly restarted: boolean | undefined
}

/** Whether the allow-list contains azure_ai, in whatever case. */
export const allowsAzureAi = (allowList: readonly string[]): boolean =>
  allowList.some((entry) => entry.toLowerCase() === 'azure_ai')

export interface Observed {
  readonly server: ObservedServer
  readonly administrators: readonly Administrator[]
  /** Entries of `azure.extensions`; undefined when they could not be read. */
  readonly allowList: readonly string[] | undefined
  readonly replicas: readonly ObservedReplica[]
  readonly resources: ReadonlyMap<ServiceName, Resource>
  /** At each named resource and its ancestors; a service whose assignments could not be read is missing. */
  readonly roleAssignments: ReadonlyMap<ServiceName, readonly RoleAssignment[]>
  /** What could not be read; only a check goes on without it. */
  readonly failures: readonly Failure[]
  /** Empty for `part: azure`. */
  readonly databases: readonly ObservedDatabase[]
  /**
   * The identity that the running server reports through Resource Manager, read where no database can show it; '' when it
   * reports none, undefined when it does not report or was not asked.
   */
  readonly runningIdentity: string | undefined
}

/** What shows with which identity the server runs. */
export interface Running extends Pick<Observed, 'databases' | 'runningIdentity'> {
  readonly server: Pick<ObservedServer, 'principalId'>
}

/** Another identity than the server's own, which the running server still uses; undefined when nothing shows one. */
export function formerIdentity({ server, databases, runningIdentity }: Running): string | undefined {
  const own = server.principalId?.toLowerCase()
  const shown = [runningIdentity, ...databases.filter(isRead).map((database) => database.runningIdentity)]
  return shown.find((each) => each !== undefined && each !== '' && each.toLowerCase() !== own)
}

/** Whether an assignment gives the role to the principal at the scope or an ancestor of it. */
export function givesRole(assignment: RoleAssignment, principalId: string, roleId: string, scope: string): boolean {
  const holder = (assignment.reaches ?? assignment.principalId).toLowerCase()
  return holder === principalId.toLowerCase() && assignment.roleId === roleId.toLowerCase() && covers(assignment.scope, scope)
}

/** The assignment by which the principal has the role: one assigned directly before one through a group, the nearest scope first. */
export function assignmentGiving(
  assignments: readonly RoleAssignment[],
  principalId: string,
  roleId: string,
  scope: string,
): RoleAssignment | undefined {
  const distance = ({ scope: above }: RoleAssignment): number =>
    above !== '/' && liesIn(scope, above) ? scope.length - above.length : Number.MAX_SAFE_INTEGER
  const through = ({ reaches }: RoleAssignment): number => (reaches === undefined ? 0 : 1)
  return sorted(
    assignments.filter((each) => givesRole(each, principalId, roleId, scope)),
    (a, b) => through(a) - through(b) || distance(a) - distance(b),
  )[0]
}

/** In an order that does not depend on that of the list: what is alike otherwise goes by its id. */
function sorted(
  assignments: readonly RoleAssignment[],
  compare: (a: RoleAssignment, b: RoleAssignment) => number = () => 0,
): readonly RoleAssignment[] {
  return [...assignments].sort((a, b) => compare(a, b) || (a.id < b.id ? -1 : 1))
}

/** How role assignments of this action name the server that they are for. */
export function assignmentDescription(serverId: string): string {
  return `azure_ai of PostgreSQL flexible server ${serverId} (set by azure-ai-postgres-identity)`
}

/** An assignment of the role that this action made for an identity the server no longer has. */
export function formerAssignment(
  assignments: readonly RoleAssignment[],
  server: Pick<ObservedServer, 'id' | 'principalId'>,
  roleId: string | undefined,
  scope: string,
): RoleAssignment | undefined {
  const description = assignmentDescription(server.id).toLowerCase()
  return sorted(assignments).find(
    (each) =>
      each.description?.toLowerCase() === description &&
      each.principalId.toLowerCase() !== server.principalId?.toLowerCase() &&
      sameId(each.scope, scope) &&
      (roleId === undefined || each.roleId === roleId.toLowerCase()),
  )
}

/** Whether `ancestor` is the scope itself, or a resource group, subscription, management group or the root above it. */
function covers(ancestor: string, scope: string): boolean {
  // Lists at a scope show management groups only when they are above it.
  return liesIn(scope, ancestor) || isManagementGroup(ancestor)
}
