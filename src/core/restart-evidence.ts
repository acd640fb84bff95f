/** What shows that the server has not been restarted since it has its identity, although azure_ai needs that. Pure. */
import { formerIdentity, isRead, type Observed, type Running } from './observed.ts'

export interface RestartEvidence {
  /** Ends a sentence. */
  readonly text: string
  /** Otherwise the identity may still come into effect by itself, so it is waited for first. */
  readonly certain: boolean
}

/** What the test queries of this run showed so far. */
export interface QueriesSoFar {
  /** All that is missing is a token, or no query ran. */
  readonly noToken: boolean
  /** Object ids that services named when they refused. */
  readonly refusedPrincipals: readonly string[]
  /** A role that was assigned in this run is younger than any start of the server. */
  readonly roleAssignedNow: boolean
}

/** A server that started this long before its identity got its first role has not had the identity then, in milliseconds. */
const longBeforeMs = 5 * 60_000

export function restartEvidence(
  observed: Running & Pick<Observed, 'roleAssignments'>,
  so: QueriesSoFar,
): RestartEvidence | undefined {
  const own = observed.server.principalId?.toLowerCase()
  if (own === undefined) return undefined
  const running = formerIdentity(observed)
  if (running !== undefined) return { text: `the server still runs with identity ${running}`, certain: true }
  const other = so.refusedPrincipals.find((principal) => principal.toLowerCase() !== own)
  if (other !== undefined) return { text: `a service was called with the former identity ${other}`, certain: true }
  const database = observed.databases.find(isRead)
  if (!so.noToken || database === undefined) return undefined
  const { runningIdentity, startedAt } = database
  if (runningIdentity === '') return { text: 'the server runs without an identity', certain: true }
  // The running identity is that of the server: a restart would change nothing.
  if (runningIdentity !== undefined || startedAt === undefined) return undefined
  const oldest = oldestRole(observed, own, so.roleAssignedNow)
  if (startedAt.getTime() >= oldest) return undefined
  return {
    text: `the server has run since ${startedAt.toISOString()}, before its identity got its first role`,
    certain: Number.isFinite(oldest) && oldest - startedAt.getTime() > longBeforeMs && !so.roleAssignedNow,
  }
}

/** When the identity got its first role, in milliseconds since 1970; negative infinity when that is unknown. */
function oldestRole({ roleAssignments }: Pick<Observed, 'roleAssignments'>, own: string, assignedNow: boolean): number {
  const times = [...roleAssignments.values()]
    .flat()
    .flatMap(({ principalId, createdOn }) =>
      principalId.toLowerCase() === own && createdOn !== undefined ? [createdOn.getTime()] : [],
    )
  if (times.length > 0) return Math.min(...times)
  return assignedNow ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY
}
