/** The steps of a run by id and by database: hundreds of databases have thousands of steps, so they are looked up, not searched. */
import { type Step, type StepId, type StepStatus, waiting } from './steps.ts'

interface StepList {
  readonly steps: readonly Step[]
  step(id: StepId): Step | undefined
  stepsIn(database: string): readonly Step[]
  /** Replaces all steps. */
  replace(steps: readonly Step[]): void
  /** Replaces the step of the same id. */
  update(step: Step): void
  mark(id: StepId, status: StepStatus, detail?: string): void
  wait(id: StepId, first: StepId): void
}

export function createStepList(): StepList {
  const steps: Step[] = []
  const places = new Map<StepId, number>()
  const inDatabase = new Map<string, number[]>()
  const stepAt = (place: number): Step => steps[place] as Step
  const placeOf = (id: StepId): number => {
    const place = places.get(id)
    if (place === undefined) throw new Error(`no step ${id}`)
    return place
  }
  return {
    steps,
    step(id) {
      const place = places.get(id)
      return place === undefined ? undefined : stepAt(place)
    },
    stepsIn: (database) => (inDatabase.get(database) ?? []).map(stepAt),
    replace(all) {
      steps.splice(0, steps.length, ...all)
      places.clear()
      inDatabase.clear()
      for (const [place, step] of steps.entries()) {
        if (!places.has(step.id)) places.set(step.id, place)
        if (step.kind !== 'extension' && step.kind !== 'setting') continue
        const own = inDatabase.get(step.database)
        if (own === undefined) inDatabase.set(step.database, [place])
        else own.push(place)
      }
    },
    update(step) {
      steps[placeOf(step.id)] = step
    },
    mark(id, status, detail) {
      const { waitsFor: _, ...step } = stepAt(placeOf(id))
      steps[placeOf(id)] = { ...step, status, detail: detail ?? step.detail }
    },
    wait(id, first) {
      steps[placeOf(id)] = waiting(stepAt(placeOf(id)), first)
    },
  }
}
