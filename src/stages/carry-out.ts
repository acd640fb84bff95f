/** The one way in which a step is written: blocked steps wait, a refused write changed nothing, a failed one is reported. */

import type { ResourceManager } from '../azure/resource-manager.ts'
import type { Observed } from '../core/observed.ts'
import { blockedBy, type Change, type ChangeOf, type DoneStatus, type Step } from '../core/steps.ts'
import { knownOf } from '../errors/explain.ts'
import { Failure, failuresOf } from '../errors/failure.ts'
import type { DatabaseAccess } from './observe-databases.ts'
import type { Run } from './run.ts'

/** What the writes of a run need beside what all stages share. */
export interface WriteRun extends Run {
  readonly observed: Observed
  readonly azure: ResourceManager
  /** Undefined when no SQL is to be run. */
  readonly access: DatabaseAccess | undefined
}

/** What a write did. `in-sync`: it was done already, so nothing was written. */
export interface Written {
  readonly status: Extract<DoneStatus, 'created' | 'updated' | 'in-sync'>
  readonly detail?: string
  /** For the log. */
  readonly message: string
}

export interface Write {
  /** Calls `sending` right before the first request that may change something; for SQL that is COMMIT. */
  readonly write: (sending: () => void) => Promise<Written>
  /** What an error means; by default it is reported as it is. */
  readonly explain?: (error: unknown) => readonly Failure[]
  /** Without this step nothing else makes sense: its failure ends the run. */
  readonly endsRun?: boolean
}

/** Whether it is certain that a write was refused and changed nothing. */
function wroteNothing(error: unknown): boolean {
  return error instanceof Failure && (error.reason === 'permission' || knownOf(error)?.refusesWrite === true)
}

/** The steps of one kind that have something to do, with their change. */
export function due<K extends Change['kind']>({ journal }: Run, kind: K): { step: Step; change: ChangeOf<K> }[] {
  return journal.steps.flatMap((step) => (step.change?.kind === kind ? [{ step, change: step.change as ChangeOf<K> }] : []))
}

/** @throws {unknown} the reason of a cancel, or the error of a step that ends the run */
export async function carryOut({ journal, log, signal }: Run, step: Step, { write, explain, endsRun }: Write): Promise<void> {
  const first = blockedBy(step, journal.step)
  if (first !== undefined) {
    journal.wait(step.id, first)
    return
  }
  let takeBack: (() => void) | undefined
  try {
    const written = await write(() => {
      takeBack ??= journal.writing()
    })
    if (written.status === 'in-sync') takeBack?.()
    journal.mark(step.id, written.status, written.detail)
    log.info(written.message)
  } catch (error) {
    if (signal.aborted) throw signal.reason
    if (wroteNothing(error)) takeBack?.()
    journal.mark(step.id, 'failed')
    if (endsRun === true) throw error
    for (const failure of (explain ?? failuresOf)(error)) journal.fail(failure)
  }
}
