/** What a run knows so far: kept current while it works, so that an interrupted run reports the truth. */
import type { Failure, Finding } from '../errors/failure.ts'
import type { InventoryResult } from './inventory-result.ts'
import type { ObservedDatabase } from './observed.ts'
import type { FamilyName, ServiceName } from './services.ts'
import { createStepList } from './step-list.ts'
import type { Step, StepId, StepStatus } from './steps.ts'
import type { QueryName } from './test-query.ts'

export type Proof = 'keyless' | 'key-present' | 'key' | 'none'

/**
 * A stored key is sent although the identity is configured. `refused`: the service does not take it, which a failure reports.
 * `accepted`: it answers in the place of the identity.
 */
export type KeyAnswer = 'accepted' | 'refused'

/** A test query as the report shows it. */
export interface QueryResult {
  readonly database: string
  readonly service: ServiceName
  /** Which of its queries; not in the JSON report, where the SQL shows it. */
  readonly name: QueryName
  /** What ran, ready to paste; empty when nothing could run. */
  readonly sql: string
  readonly status: 'passed' | 'failed' | 'skipped'
  readonly proof: Proof
  readonly attempts: number
  readonly durationMs: number
  readonly answer: string
  readonly error: string
}

export interface Journal {
  readonly steps: readonly Step[]
  readonly queries: readonly QueryResult[]
  readonly findings: readonly Finding[]
  /** Failures that did not end the run at once. */
  readonly failures: readonly Failure[]
  /** Whether anything was written that stays. */
  readonly changed: boolean
  /** Fingerprint of the steps that differed when they were planned; empty before. */
  readonly planId: string
  /** Databases whose every query has to pass for the run to be verified. */
  readonly databases: readonly string[]
  /** The databases as they were found; undefined when none was looked at. */
  readonly observed: readonly ObservedDatabase[] | undefined
  /** What an inventory found; undefined in every other mode, and before it has found anything. */
  readonly inventory: InventoryResult | undefined
  /** The step of this id as it is now. */
  step(id: string): Step | undefined
  /** Extension and settings of a database, in the order of the plan. */
  stepsIn(database: string): readonly Step[]
  plan(steps: readonly Step[], planId: string): void
  /** The step of the temporary firewall rule: before those of the plan. */
  firewall(step: Step): void
  expect(databases: readonly string[]): void
  observe(databases: readonly ObservedDatabase[]): void
  inventoried(result: InventoryResult): void
  /** Replaces the step of the same id: what a run found out about it after the plan. */
  update(step: Step): void
  /** The new state of a step. */
  mark(id: StepId, status: StepStatus, detail?: string): void
  /** The step is not done, because another one has to be done first. */
  wait(id: StepId, first: StepId): void
  /**
   * Called right before a write is sent: from then on the run counts as one that changed something. What it returns is
   * called when the write was refused, so that nothing was written.
   */
  writing(): () => void
  query(result: QueryResult): void
  /** What became of the stored keys of a family, as its test queries show. */
  keySent(database: string, family: FamilyName, answer: KeyAnswer): void
  /** Undefined where no query shows that a stored key was sent. */
  keyAnswer(database: string, family: FamilyName): KeyAnswer | undefined
  finding(finding: Finding): void
  fail(failure: Failure): void
}

/** @param onChanged called once, before the first write */
export function createJournal(onChanged: () => void): Journal {
  const list = createStepList()
  const { steps, step, stepsIn, update, mark, wait } = list
  const queries: QueryResult[] = []
  const findings: Finding[] = []
  const failures: Failure[] = []
  const databases: string[] = []
  const places = new Map<string, number>()
  const reported = new Set<string>()
  const keyAnswers = new Map<string, KeyAnswer>()
  const familyIn = (database: string, family: FamilyName): string => JSON.stringify([database, family])
  let writes = 0
  let fingerprint = ''
  let observed: readonly ObservedDatabase[] | undefined
  let inventory: InventoryResult | undefined
  /** Whether this was not reported yet. */
  const isNew = (kind: 'finding' | 'failure', { code, detail }: { readonly code: string; readonly detail: string }): boolean => {
    const key = JSON.stringify([kind, code, detail])
    if (reported.has(key)) return false
    reported.add(key)
    return true
  }
  return {
    ...{ steps, step, stepsIn, update, mark, wait, databases, queries, findings, failures },
    get planId() {
      return fingerprint
    },
    get observed() {
      return observed
    },
    get inventory() {
      return inventory
    },
    inventoried(result) {
      inventory = result
    },
    get changed() {
      return writes > 0
    },
    plan(planned, planId) {
      list.replace([...steps.filter(({ kind }) => kind === 'firewall'), ...planned])
      fingerprint = planId
    },
    firewall: (rule) => list.replace([rule, ...steps]),
    observe(found) {
      observed = found
    },
    expect(names) {
      databases.splice(0, databases.length, ...names)
    },
    writing() {
      writes++
      if (writes === 1) onChanged()
      let isCounted = true
      return () => {
        if (isCounted) writes--
        isCounted = false
      }
    },
    query(result) {
      const key = JSON.stringify([result.database, result.service, result.name])
      const place = places.get(key)
      if (place === undefined) places.set(key, queries.push(result) - 1)
      else queries[place] = result
    },
    keySent(database, family, answer) {
      keyAnswers.set(familyIn(database, family), answer)
    },
    keyAnswer: (database, family) => keyAnswers.get(familyIn(database, family)),
    finding(finding) {
      if (isNew('finding', finding)) findings.push(finding)
    },
    fail(failure) {
      if (isNew('failure', failure)) failures.push(failure)
    },
  }
}
