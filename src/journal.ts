/** What a run knows so far: kept current while it works, so that an interrupted run reports the truth. */
import type { Failure, Finding } from './errors.ts'
import type { Step, StepStatus } from './plan.ts'
import type { ServiceName } from './services.ts'

export type Proof = 'keyless' | 'key-present' | 'key' | 'none'

/** A test query as the report shows it. */
export interface QueryResult {
  readonly database: string
  readonly service: ServiceName
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
  plan(steps: readonly Step[], planId: string): void
  /** The step of the temporary firewall rule: before those of the plan. */
  door(step: Step): void
  expect(databases: readonly string[]): void
  /** The new state of a step. */
  mark(id: string, status: StepStatus, detail?: string): void
  /**
   * Called right before a write is sent: from then on the run counts as one that changed something. What it returns is
   * called when the write was refused, so that nothing was written.
   */
  writing(): () => void
  query(result: QueryResult): void
  finding(finding: Finding): void
  fail(failure: Failure): void
}

/** @param onChanged called once, before the first write */
export function createJournal(onChanged: () => void): Journal {
  const steps: Step[] = []
  const queries: QueryResult[] = []
  const findings: Finding[] = []
  const failures: Failure[] = []
  const databases: string[] = []
  let writes = 0
  let fingerprint = ''
  return {
    steps,
    databases,
    get planId() {
      return fingerprint
    },
    queries,
    findings,
    failures,
    get changed() {
      return writes > 0
    },
    plan(planned, planId) {
      const doors = steps.filter((step) => step.kind === 'firewall')
      steps.splice(0, steps.length, ...doors, ...planned)
      fingerprint = planId
    },
    door(step) {
      steps.unshift(step)
    },
    expect(names) {
      databases.splice(0, databases.length, ...names)
    },
    mark(id, status, detail) {
      const index = steps.findIndex((step) => step.id === id)
      const step = steps[index]
      if (step === undefined) throw new Error(`no step ${id}`)
      steps[index] = { ...step, status, detail: detail ?? step.detail }
    },
    writing() {
      writes++
      if (writes === 1) onChanged()
      let counted = true
      return () => {
        if (counted) writes--
        counted = false
      }
    },
    query(result) {
      const index = queries.findIndex((each) => each.database === result.database && each.service === result.service)
      if (index === -1) queries.push(result)
      else queries[index] = result
    },
    finding(finding) {
      if (!findings.some((each) => each.code === finding.code && each.detail === finding.detail)) findings.push(finding)
    },
    fail(failure) {
      if (!failures.some((each) => each.code === failure.code && each.detail === failure.detail)) failures.push(failure)
    },
  }
}
