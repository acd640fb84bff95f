/** The fingerprint of a plan, by which `apply` recognises what an earlier `check` showed. Pure. */
import { createHash } from 'node:crypto'
import { canonicalId } from '../lib/resource-id.ts'
import type { Inputs } from './inputs.ts'
import type { Observed } from './observed.ts'
import { databaseNames } from './plan.ts'
import { differs, type Step } from './steps.ts'

/** What of a step makes it another plan: what is done to what, not how it is worded. */
function fingerprint({ id, change }: Step): readonly string[] {
  switch (change?.kind) {
    case 'allow-list':
      return [id, ...[...change.entries].sort()]
    case 'role':
      return [id, canonicalId(change.scope), change.roleId]
    case 'extension':
      return [id, change.statement]
    case 'setting':
      return [id, change.from ?? '', change.to]
    case 'key':
      return [id, change.action]
    case 'identity':
    case 'restart':
    case undefined:
      return [id]
  }
}

const sha256 = (parts: readonly string[]): string => createHash('sha256').update(JSON.stringify(parts)).digest('hex')
/** Longest list of steps in an id, in characters: that of a longer plan names no steps. */
const longestList = 60_000
/** Most changes that are listed one by one. */
const listedChanges = 20

/** What a plan consists of: replicas are no part of it, since apply writes them with the replica as server only. */
function isPlanned(step: Step): boolean {
  return differs(step) && step.status !== 'failed' && step.kind !== 'replica'
}

/** What a plan is for: the server, and the databases in any order. */
export function planScope(inputs: Inputs, observed: Pick<Observed, 'databases'>): readonly string[] {
  return [canonicalId(inputs.server.id), ...[...databaseNames(inputs, observed)].sort()]
}

const short = (parts: readonly string[], digits: number): string => sha256(parts).slice(0, digits)

/**
 * Fingerprint of the steps that differ: 16 hex digits over all of them, 16 of the scope, then 16 for each step (eight of its id,
 * eight of what is done). Neither order nor wording nor time is in it; `allow-restart` is not, either.
 */
export function planId(steps: readonly Step[], scope: readonly string[] = []): string {
  const due = steps.filter(isPlanned).sort((a, b) => (a.id < b.id ? -1 : 1))
  const list = due.map((step) => short([step.id], 8) + short(fingerprint(step), 8)).join('')
  const parts = [short(due.flatMap(fingerprint), 16), short(scope, 16)]
  return [...parts, ...(list === '' || list.length > longestList ? [] : [list])].join('.')
}

/** The steps of an earlier plan: the hash of what is done, by that of its id. */
const stepsIn = (list: string): ReadonlyMap<string, string> =>
  new Map((list.match(/.{16}/g) ?? []).map((part) => [part.slice(0, 8), part.slice(8)]))

/** Whether an earlier plan has the step; a plan that was too long to tell its steps apart has none. */
export function hasStep(earlier: string, { id }: Pick<Step, 'id'>): boolean {
  return stepsIn(earlier.split('.')[2] ?? '').has(short([id], 8))
}

/**
 * What keeps these steps from being those of an earlier plan: a step that differs now and was not in it, or differs in another
 * way. Steps that are done by now are no reason, so a job that was cut off can be run again. Undefined when nothing does.
 */
export function sinceThen(earlier: string, steps: readonly Step[], scope: readonly string[] = []): readonly string[] | undefined {
  const now = planId(steps, scope)
  if (now === earlier) return undefined
  const [all = '', madeFor = '', list = ''] = earlier.split('.')
  if (madeFor !== short(scope, 16)) return ['it was made for another server or for other databases']
  if (list === '' && all !== short([], 16)) return ['the earlier plan was too long to tell its steps apart']
  const before = stepsIn(list)
  const changes: string[] = []
  for (const step of steps) {
    const was = before.get(short([step.id], 8))
    const to = `${step.current} -> ${step.desired}`
    if (!isPlanned(step)) {
      if (step.status === 'failed' && was !== undefined) changes.push(`${step.id} is unknown now`)
    } else if (was === undefined) changes.push(`${step.id} differs now: ${to}`)
    else if (was !== short(fingerprint(step), 8)) changes.push(`${step.id} differs in another way: ${to}`)
  }
  if (changes.length > listedChanges) changes.splice(listedChanges, changes.length, `${changes.length - listedChanges} more`)
  return changes.length === 0 ? undefined : changes
}
