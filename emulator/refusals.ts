/** Writes that Resource Manager refuses although nothing is wrong with them: a busy server in every spelling, a policy, a limit. */
import { failure, type HttpError } from './http.ts'
import type { Refusal, World } from './world.ts'

/** Status and text that belong to a code; `{name}` is the server's name. */
const known: Record<string, { status: number; message: string } | undefined> = {
  ServerIsBusy: {
    status: 409,
    message: "Cannot complete operation because server '{name}' is busy processing another operation.",
  },
  ServerBusy: { status: 409, message: "Server '{name}' is busy with another operation. Please try again later." },
  AnotherOperationInProgress: { status: 409, message: "Another operation is in progress on the server '{name}'." },
  ServerIsNotReady: {
    status: 409,
    message: 'This operation can only be performed on Started servers. Server Name = {name}, Current Server State = Updating.',
  },
  AadAuthOperationCannotBePerformedWhenServerIsNotAccessible: {
    status: 409,
    message: 'The Azure Active Directory operation cannot be performed when the server {name} is not accessible.',
  },
  // The service forgets to fill in its template.
  OperationFailed: { status: 500, message: '{0}' },
  RequestDisallowedByPolicy: {
    status: 403,
    message: `Resource '{name}' was disallowed by policy. Policy identifiers: '[{"policyAssignment":{"name":"Contoso guardrails"}}]'.`,
  },
  RoleAssignmentLimitExceeded: { status: 400, message: 'No more role assignments can be created.' },
}

/** The next refusal for this kind of write, if there is one: it counts as met. */
export function takeRefusal(world: World, write: Refusal['write']): Refusal | undefined {
  const refusals = world.refusals ?? []
  const index = refusals.findIndex((refusal) => refusal.write === write)
  const found = refusals[index]
  if (found === undefined) return undefined
  const left = (found.times ?? 1) - 1
  if (left > 0) found.times = left
  else refusals.splice(index, 1)
  return found
}

export function refused(refusal: Refusal, name: string): HttpError {
  const usual = known[refusal.code]
  const message = (refusal.message ?? usual?.message ?? 'The request was refused.').replaceAll('{name}', name)
  return failure(refusal.status ?? usual?.status ?? 409, refusal.code, message)
}
