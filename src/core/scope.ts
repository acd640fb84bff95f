/** What a run does at all: derived once from mode, part and auth-type, so that nothing else compares these. Pure. */
import type { Inputs } from './inputs.ts'

export interface Scope {
  /** Writes in Resource Manager: identity, roles, allow-list, restart. */
  readonly writesAzure: boolean
  /** Looks at identity and roles; false on the rollback to keys, which leaves them as they are. */
  readonly looksAtRoles: boolean
  /** Connects to the databases. */
  readonly runsSql: boolean
  /** Writes settings and keys. */
  readonly writesSql: boolean
  /** The databases are to use the managed identity, not keys. */
  readonly byIdentity: boolean
  /** Waits for roles and identity to take effect; a check queries once. */
  readonly waits: boolean
}

export function scopeOf({ mode, part, authType }: Pick<Inputs, 'mode' | 'part' | 'authType'>): Scope {
  const byIdentity = authType === 'managed-identity'
  // `verify` and `inventory` have no part: both are about what is in the databases.
  const runsSql = mode === 'verify' || mode === 'inventory' || part !== 'azure'
  return {
    byIdentity,
    runsSql,
    writesAzure: mode === 'apply' && part !== 'database',
    looksAtRoles: part !== 'database' && byIdentity,
    writesSql: mode === 'apply' && runsSql,
    waits: (mode === 'apply' || mode === 'verify') && runsSql,
  }
}
