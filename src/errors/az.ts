/** Builds the commands that fixes show. */

import { azureRoles } from '../lib/azure-roles.ts'
import { groupIn, parseResourceId, withoutAuthorization } from '../lib/resource-id.ts'
import type { AdvisedInput, Circumstances } from './message.ts'

export const accessAdministrator = 'Role Based Access Control Administrator'

const leastRoles: readonly [RegExp, string][] = [
  [/\/read$/i, 'Reader'],
  [/^microsoft\.authorization\/roleassignments\/write$/i, accessAdministrator],
  [/^microsoft\.cognitiveservices\/.*\/listkeys\/action$/i, azureRoles.cognitive.name],
  [/^microsoft\.machinelearningservices\/.*\/listkeys\/action$/i, azureRoles.machineLearning.name],
  [/^microsoft\.managedidentity\/userassignedidentities\/assign\/action$/i, 'Managed Identity Operator'],
]

/** The least built-in role that contains an action, for the fix of a missing action. */
export const leastRoleFor = (action: string): string => leastRoles.find(([pattern]) => pattern.test(action))?.[1] ?? 'Contributor'

/** The action, scope and principal that an AuthorizationFailed message names. */
export function denied(text: string): { action: string; scope: string; principal: string } {
  // The refusal of a linked resource begins with what the caller may do.
  const linked = /not have permission to perform action\(s\) '([^']+)' on the linked scope\(s\) '([^'"`$\\\n]+)'/i.exec(text)
  return {
    action: linked?.[1] ?? /perform action '([^']+)'/i.exec(text)?.[1] ?? 'the action that Azure names',
    // A role is assigned at a resource, not at the role assignment whose writing was refused.
    scope: withoutAuthorization(linked?.[2] ?? /over scope '([^'"`$\\\n]+)'/i.exec(text)?.[1] ?? 'the scope that Azure names'),
    principal: /object id '([\w-]+)'/i.exec(text)?.[1] ?? 'OBJECT-ID-OF-THE-CALLER',
  }
}

/**
 * The condition that lets a principal assign the roles of azure_ai to other service principals, and nothing else.
 * Without it the role would allow its holder to make any principal owner, itself included.
 */
export function assignmentCondition(principal: string): string {
  const attribute = (name: string): string => `@Request[Microsoft.Authorization/roleAssignments:${name}]`
  const roles = Object.values(azureRoles)
    .map(({ id }) => id)
    .sort()
    .join(', ')
  const unless = (action: string): string => `!(ActionMatches{'Microsoft.Authorization/roleAssignments/${action}'})`
  return [
    `((${unless('write')}) OR (${attribute('RoleDefinitionId')} ForAnyOfAnyValues:GuidEquals {${roles}} AND`,
    `(${attribute('PrincipalType')} ForAnyOfAnyValues:StringEqualsIgnoreCase {'ServicePrincipal'} AND`,
    `${attribute('PrincipalId')} ForAnyOfAllValues:GuidNotEquals {${principal}}))) AND`,
    `((${unless('delete')}) OR (${attribute('RoleDefinitionId').replace('Request', 'Resource')} ForAnyOfAnyValues:GuidEquals {${roles}}))`,
  ].join(' ')
}

/** One argument of a POSIX shell, whatever the text contains. */
export function quotedForShell(text: string): string {
  return `'${text.replaceAll("'", `'"'"'`)}'`
}

/** `--name N --resource-group G` of a resource id, as az wants it. */
export function named(resource: string | undefined): string {
  const parsed = parseResourceId(resource ?? '')
  const name = /\/accounts\b/i.test(parsed?.type ?? '') ? parsed?.names[0] : undefined
  return `--name ${name ?? 'NAME'} --resource-group ${groupIn(resource)}`
}

/** The server, for commands about something that belongs to it. */
export const ofServer = ({ resourceGroup = 'GROUP', server = 'SERVER' }: Circumstances): string =>
  `--resource-group ${resourceGroup} --server-name ${server}`

/** The server, for commands about the server itself. */
export const serverItself = ({ resourceGroup = 'GROUP', server = 'SERVER' }: Circumstances): string =>
  `--resource-group ${resourceGroup} --name ${server}`

/** The advice to set an input; empty where the input is set. */
export const unlessSet = ({ isSet }: Circumstances, input: AdvisedInput, advice: string): string =>
  isSet?.[input] === true ? '' : advice
