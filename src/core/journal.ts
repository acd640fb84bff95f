/** What a run knows so far: kept current while it works, so that an interrupted run reports the truth. */
import type { Failure, Finding } from '../errors/failure.ts'
import type { ObservedDatabase } from './observed.ts'
import type { ServiceName } from './services.ts'
import { type Step, type StepId, type StepStatus, waiting } from './steps.ts'

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
  /** The databases as they were found; undefined when none was looked at. */
  readonly observed: readonly ObservedDatabase[] | undefined
  /** The step of this id as it is now. */
  step(id: string): Step | undefined
  /** Extension and settings of a database, in the order of the plan. */
  stepsIn(database: string): readonly Step[]
  plan(steps: readonly Step[], planId: string): void
  /** The step of the temporary firewall rule: before those of the plan. */
  firewall(step: Step): void
  expect(databases: readonly string[]): void
  observe(databases: readonly ObservedDatabase[]): void
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
  // Hundreds of databases have thousands of steps: looked up, not searched.
  const places = new Map<string, number>()
  const inDatabase = new Map<string, number[]>()
  const asked = new Map<string, number>()
  const told = new Set<string>()
  let writes = 0
  let fingerprint = ''
  let observed: readonly ObservedDatabase[] | undefined
  const arrange = (): void => {
    places.clear()
    inDatabase.clear()
    for (const [place, step] of steps.entries()) {
      if (!places.has(step.id)) places.set(step.id, place)
      if (step.kind !== 'extension' && step.kind !== 'setting') continue
      const own = inDatabase.get(step.database)
      if (own === undefined) inDatabase.set(step.database, [place])
      else own.push(place)
    }
  }
  const stepAt = (place: number): Step => steps[place] as Step
  const placeOf = (id: StepId): number => {
    const place = places.get(id)
    if (place === undefined) throw new Error(`no step ${id}`)
    return place
  }
  /** Whether this has not been told yet. */
  const isNew = (kind: 'finding' | 'failure', { code, detail }: { readonly code: string; readonly detail: string }): boolean => {
    const key = JSON.stringify([kind, code, detail])
    if (told.has(key)) return false
    told.add(key)
    return true
  }
  return {
    steps,
    databases,
    get planId() {
      return fingerprint
    },
    get observed() {
      return observed
    },
    queries,
    findings,
    failures,
    get changed() {
      return writes > 0
    },
    plan(planned, planId) {
      const rules = steps.filter((step) => step.kind === 'firewall')
      steps.splice(0, steps.length, ...rules, ...planned)
      fingerprint = planId
      arrange()
    },
    firewall(step) {
      steps.unshift(step)
      arrange()
    },
    step(id) {
      const place = places.get(id)
      return place === undefined ? undefined : stepAt(place)
    },
    stepsIn: (database) => (inDatabase.get(database) ?? []).map(stepAt),
    observe(found) {
      observed = found
    },
    expect(names) {
      databases.splice(0, databases.length, ...names)
    },
    mark(id, status, detail) {
      const { waitsFor: _, ...step } = stepAt(placeOf(id))
      steps[placeOf(id)] = { ...step, status, detail: detail ?? step.detail }
    },
    wait(id, first) {
      steps[placeOf(id)] = waiting(stepAt(placeOf(id)), first)
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
      const key = JSON.stringify([result.database, result.service])
      const place = asked.get(key)
      if (place === undefined) asked.set(key, queries.push(result) - 1)
      else queries[place] = result
    },
    finding(finding) {
      if (isNew('finding', finding)) findings.push(finding)
    },
    fail(failure) {
      if (isNew('failure', failure)) failures.push(failure)
    },
  }
}
