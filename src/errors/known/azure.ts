/** Errors of Resource Manager. */

import { busyCodes } from '../../lib/http-retries.ts'
import { accessAdministrator, assignmentCondition, denied, leastRoleFor, quotedForShell } from '../az.ts'
import type { Known } from '../message.ts'

export const azure: readonly Known[] = [
  {
    codes: ['AuthorizationFailed', 'LinkedAuthorizationFailed', 'RoleAssignmentsWriteDenied'],
    reason: 'permission',
    code: 'authorization-failed',
    title: 'A permission is missing in Azure',
    cause: ({ text }) => {
      const { action, scope } = denied(text)
      const condition = /ABAC condition/i.test(text) ? ', or a condition on its own role assignment forbids it' : ''
      return `The identity this job signs in with may not perform ${action} over ${scope}${condition}.`
    },
    fix: ({ text }) => {
      const { action, scope, principal } = denied(text)
      const role = leastRoleFor(action)
      const condition =
        role === accessAdministrator
          ? ` --condition-version 2.0 --condition ${quotedForShell(assignmentCondition(principal))}`
          : ''
      return `az role assignment create --assignee-object-id ${principal} --assignee-principal-type ServicePrincipal --role "${role}" --scope "${scope}"${condition}`
    },
  },
  {
    codes: [
      'InvalidAuthenticationToken',
      'InvalidAuthenticationTokenAudience',
      'InvalidAuthenticationTokenTenant',
      'ExpiredAuthenticationToken',
      'AuthenticationFailed',
    ],
    reason: 'credentials',
    code: 'token-refused',
    title: 'Resource Manager refused the token',
    fix: 'Check that `environment` names the cloud of the subscription and `tenant-id` the tenant that the subscription trusts.',
  },
  {
    codes: ['SubscriptionNotFound', 'InvalidSubscriptionId'],
    reason: 'input',
    code: 'subscription-not-found',
    title: 'The subscription is not known',
    fix: 'az account show --query id --output tsv   # and compare it with the subscription in the resource ids; `tenant-id` must be its tenant',
  },
  {
    codes: ['ResourceNotFound', 'ResourceGroupNotFound', 'NotFound', 'ParentResourceNotFound'],
    reason: 'input',
    code: 'resource-not-found',
    title: 'A resource does not exist',
    cause: ({ text }, at) => `${at.resource ?? 'The resource'} was not found: ${text}`,
    fix: (_, at) =>
      `az resource show --ids "${at.resource ?? 'RESOURCE-ID'}"   # copy the id from the portal: Settings > Properties > Id`,
  },
  {
    codes: [...busyCodes, 'Conflict', 'OperationNotAllowed'],
    code: 'server-busy',
    title: 'The server is busy with another operation',
    refusesWrite: true,
    fix: 'Wait for the operation to end (portal: the server > Activity log), then run this job again; it goes on where it stopped.',
  },
  {
    codes: ['PrincipalNotFound'],
    code: 'principal-not-found',
    title: 'The directory does not know the new identity yet',
    fix: 'Run this job again in a few minutes; a new identity is sometimes slow to reach every copy of the directory.',
  },
  {
    codes: ['RoleAssignmentLimitExceeded'],
    code: 'role-assignment-limit',
    title: 'The subscription has no room for another role assignment',
    refusesWrite: true,
    fix: 'az role assignment list --all --query "[?principalName==\'\']" --output table   # assignments of deleted principals can be removed',
  },
  {
    codes: ['RequestDisallowedByPolicy', 'ScopeLocked', 'DenyAssignmentAuthorizationFailed', 'ReadOnlyDisabledSubscription'],
    code: 'refused-by-governance',
    title: 'A policy or a lock forbids the change',
    refusesWrite: true,
    fix: 'az lock list --output table ; az policy assignment list --output table   # ask the owner of the lock or policy for an exemption',
  },
]
