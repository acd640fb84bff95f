/** How a family is verified in a database, decided from what is known of it. Pure. */

/** Whether the extension sees settings that its session has not committed yet. */
export type Visibility = 'visible' | 'hidden' | 'unclear'

export type Strategy =
  /** Read-only, on what is committed. */
  | 'ask-only'
  /** In a transaction, with a stored key replaced by a placeholder; committed when it passes and something differs. */
  | 'trial'
  /** What is set can be queried only once it is committed; put back when it fails. */
  | 'commit-then-check'
  /** A key is stored, and the previous one is kept on its connection until the new one passed. */
  | 'store-key'
  /** Nothing is tried now, because a working configuration would be disturbed on a guess. */
  | 'wait'

export interface Situation {
  /** Apply writes what passes; check and verify roll back whatever they try. */
  readonly writes: boolean
  readonly byIdentity: boolean
  /** Whether there is a test query to run. */
  readonly hasQueries: boolean
  readonly visibility: Visibility
  /** Something would be lost that works today. */
  readonly worksToday: boolean
  /** The service refuses the caller under what is committed, and a stored key, which may be the cause, is to be cleared. */
  readonly isKeyDead: boolean
  /** Settings were committed for a check less than a minute ago. */
  readonly committedLately: boolean
  /** A stored key can be hidden from the queries: it is there, and the role may set settings. */
  readonly mayHideKey: boolean
}

export function strategyFor(of: Situation): Strategy {
  if (!of.writes) return of.byIdentity && of.mayHideKey && of.hasQueries && of.visibility === 'visible' ? 'trial' : 'ask-only'
  if (!of.hasQueries) return 'commit-then-check'
  // Nothing works that a COMMIT could disturb.
  if (of.isKeyDead && of.visibility !== 'visible') return 'commit-then-check'
  if (of.visibility === 'hidden') return of.worksToday && of.committedLately ? 'wait' : 'commit-then-check'
  if (of.visibility === 'unclear' && of.worksToday) return 'wait'
  return of.byIdentity ? 'trial' : 'store-key'
}
