/**
 * The steps of a plan: what each kind of step is about, what it needs before it, and which step keeps another one waiting. Pure.
 */
import type { FamilyName, ServiceName } from './services.ts'

/** Such as `role/openai` or `DATABASE/azure_openai.endpoint`: the key of a step in the report, never parsed. */
export type StepId = string

/** What the plan found. `failed`: the state could not be read. `skipped`: this run does not judge it. */
type PlannedStatus = 'in-sync' | 'missing' | 'different' | 'failed' | 'skipped'

/** What a run made of a step. */
export type DoneStatus = 'created' | 'updated' | 'failed' | 'skipped' | 'in-sync'

export type StepStatus = PlannedStatus | DoneStatus

/** What apply does for a step; absent when there is nothing to do. */
export type Change =
  | { readonly kind: 'identity' }
  | { readonly kind: 'restart' }
  | { readonly kind: 'allow-list'; readonly entries: readonly string[] }
  | { readonly kind: 'role'; readonly service: ServiceName; readonly scope: string; readonly roleId: string }
  | { readonly kind: 'extension'; readonly database: string; readonly statement: 'create' | 'update' }
  | {
      readonly kind: 'setting'
      readonly database: string
      readonly family: FamilyName
      readonly setting: string
      readonly from: string | undefined
      readonly to: string
    }
  | {
      /** The value itself is no part of the plan. */
      readonly kind: 'key'
      readonly database: string
      readonly family: FamilyName
      readonly setting: string
      readonly action: 'store' | 'clear'
    }

export type ChangeOf<K extends Change['kind']> = Extract<Change, { kind: K }>

/** What a step is about, by its kind. */
interface Subjects {
  readonly firewall: unknown
  readonly identity: unknown
  readonly role: { readonly service: ServiceName; readonly scope: string }
  readonly 'allow-list': unknown
  readonly extension: { readonly database: string }
  readonly restart: unknown
  readonly replica: unknown
  readonly setting: { readonly database: string; readonly family: FamilyName; readonly setting: string }
}

export type StepKind = keyof Subjects

interface Shown<K extends StepKind> {
  readonly id: StepId
  readonly kind: K
  /** The texts are for readers; nothing decides by them. */
  readonly target: string
  readonly current: string
  readonly desired: string
  readonly status: StepStatus
  readonly detail: string
  /** The step that has to be done before this one. */
  readonly waitsFor?: StepId
  readonly change?: Change
}

type StepOf<K extends StepKind> = Shown<K> & Subjects[K]
export type Step = { [K in StepKind]: StepOf<K> }[StepKind]

export const roleStep = (service: ServiceName): StepId => `role/${service}`
export const extensionStep = (database: string): StepId => `${database}/extension`
export const settingStep = (database: string, setting: string): StepId => `${database}/${setting}`

/**
 * One row for each kind of step, in the order in which steps are done: which steps it needs, as far as they are in the plan.
 */
const needsOf: { readonly [K in StepKind]: (step: StepOf<K>) => readonly StepId[] } = {
  firewall: () => [],
  identity: () => [],
  role: () => ['identity'],
  'allow-list': () => [],
  // An installed extension may be updated although its list no longer allows to create it.
  extension: ({ change }) => (change?.kind === 'extension' && change.statement === 'create' ? ['allow-list'] : []),
  restart: () => ['identity'],
  replica: () => [],
  setting: ({ database }) => [extensionStep(database)],
}

const order = Object.keys(needsOf) as StepKind[]

/** The steps in the order in which they are done; steps of one kind stay as they are. */
export function inOrder(steps: readonly Step[]): readonly Step[] {
  return order.flatMap((kind) => steps.filter((step) => step.kind === kind))
}

/** Whether the step still has to be done, by another run or by a person. */
export function differs({ status }: Pick<Step, 'status'>): boolean {
  return status === 'missing' || status === 'different' || status === 'failed'
}

/** Whether this run wrote the step. */
export function isWritten({ status }: Pick<Step, 'status'>): boolean {
  return status === 'created' || status === 'updated'
}

/** Whether what needs this step has to wait for it. */
export function isOpen(step: Step): boolean {
  if (step.status === 'failed' || step.waitsFor !== undefined) return true
  // An extension of an older version answers as well.
  const onlyOlder = step.change?.kind === 'extension' && step.change.statement === 'update'
  return differs(step) && !onlyOlder
}

/** The steps by their id, as a plan or a journal has them. */
export type StepLookup = (id: StepId) => Step | undefined

/** The only rule about waiting: the first of the needed steps that is still open. */
export function firstOpen(needed: readonly StepId[], lookup: StepLookup): StepId | undefined {
  return needed.find((id) => {
    const step = lookup(id)
    return step !== undefined && isOpen(step)
  })
}

/** The step that this one waits for; undefined when it can be done. */
export function blockedBy(step: Step, lookup: StepLookup): StepId | undefined {
  const needs = needsOf[step.kind] as (of: Step) => readonly StepId[]
  return firstOpen(needs(step), lookup)
}

/** What a test query of these services in this database needs, beside the settings of their family. */
export function queryNeeds(services: readonly ServiceName[], database: string): readonly StepId[] {
  return ['identity', ...services.map(roleStep), extensionStep(database)]
}

/** A step that waits for another one. */
export function waiting(step: Step, first: StepId): Step {
  return { ...skipped(step, `waits for ${first}`), waitsFor: first }
}

/** A step that this run does not do. */
export function skipped(step: Step, detail: string): Step {
  const { change: _, ...rest } = step
  return { ...rest, status: 'skipped', detail }
}

/** The plan as a check shows it: a step that waits for another one is skipped, so that one difference is reported once. */
export function withWaits(steps: readonly Step[]): readonly Step[] {
  const shown = new Map(steps.map((step) => [step.id, step]))
  // A needed step comes before those that need it, so it is known by then whether it waits itself.
  for (const step of inOrder(steps)) {
    const first = differs(step) && step.status !== 'failed' ? blockedBy(step, (id) => shown.get(id)) : undefined
    if (first !== undefined) shown.set(step.id, waiting(step, first))
  }
  return steps.map((step) => shown.get(step.id) ?? step)
}
