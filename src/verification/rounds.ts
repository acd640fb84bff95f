/**
 * The test queries of all families and databases: in rounds while the identity and its roles take effect, or once for a
 * check. One database waits for a family; the others are tried when it has passed.
 */

import type { Journal } from '../core/journal.ts'
import type { ObservedDatabase } from '../core/observed.ts'
import { givenFamilies } from '../core/plan.ts'
import type { Family, Service } from '../core/services.ts'
import { firstOpen, queryNeeds, type StepId } from '../core/steps.ts'
import { backoff, mapLimited, pause } from '../lib/retry.ts'
import { duration } from '../lib/timeout.ts'
import { most } from '../postgres/slots.ts'
import { type Attempt, type ProveOptions, skipQuery, type Task, taskOf } from './jobs.ts'
import { databaseFailed, giveUp, readOnlyProof, record } from './record.ts'
import { askFreshly, patiently } from './session.ts'
import { attempt } from './switch.ts'
import { judge } from './verdict.ts'

/** Failures of the server, its identity or the services, which every database meets alike. */
const meetsAll: ReadonlySet<string> = new Set([
  'no-token',
  'role-not-effective',
  'token-not-accepted',
  'subdomain-unknown',
  'throttled',
])
/** Answers of an AI service that it gives only to who came with a token. */
const provesToken: ReadonlySet<string> = new Set([
  'role-not-effective',
  'token-not-accepted',
  'custom-subdomain',
  'subdomain-unknown',
  'ai-firewall',
  'ai-private',
  'deployment-not-found',
  'one-endpoint',
  'throttled',
])
/** Pace of the rounds while roles and identity take effect. */
const rounds = { baseMs: 1_000, capMs: 20_000, budgetMs: Number.POSITIVE_INFINITY }

export async function prove(options: ProveOptions): Promise<void> {
  const { inputs, log, signal, journal } = options
  const pending: { family: Family; tasks: Task[]; opened: boolean }[] = []
  for (const { family, services } of givenFamilies(inputs)) {
    const tasks = options.databases.flatMap((database) => taskOf(options, family, services, database) ?? [])
    if (tasks.length > 0) pending.push({ family, tasks, opened: false })
  }
  let { since, noTokenLimitMs } = options
  // An answer of an AI service proves a token: from then on no restart is considered.
  let tokenHad = false
  const tried = async (task: Task): Promise<Attempt> => {
    const result = await attempt(options, task)
    tokenHad ||= result === 'done' ? passedKeyless(journal, task) : provesToken.has(result.failure.code)
    return result
  }
  const leftMs = (): number => inputs.verifyTimeoutMs - (performance.now() - since)

  for (let round = 1; pending.some((each) => each.tasks.length > 0); round++) {
    for (const group of pending) {
      if (group.tasks.length === 0) continue
      // One database at a time waits for what all of them wait for; the others are tried once one has passed.
      let alone: Task | undefined
      while (group.tasks.length > 0 && !group.opened && alone === undefined) {
        const leader = group.tasks[0] as Task
        const result = await tried(leader)
        if (result === 'done') group.opened = true
        // What is wrong with one database need not be wrong with the next.
        if (result === 'done' || result.final) group.tasks.shift()
        else if (meetsAll.has(result.failure.code)) {
          // The next round tries another one: what keeps this one may be its own. Where settings are tried by committing them, none is disturbed for that.
          if (leader.visibility !== 'hidden') group.tasks.push(...group.tasks.splice(0, 1))
          break
        } else alone = leader
      }
      if (group.opened || alone !== undefined) {
        const others = group.tasks.filter((task) => task !== alone)
        const results = await mapLimited(others, most, tried)
        group.opened ||= results.includes('done')
        group.tasks = group.tasks.filter((task) => {
          const result = results[others.indexOf(task)]
          return task === alone || (result !== 'done' && result?.final === false)
        })
      }
    }
    const waiting = pending.filter((each) => each.tasks.length > 0)
    if (waiting.length === 0) return
    const noToken = waiting.every(({ tasks }) =>
      tasks.every((task) => task.waitingFor === undefined || task.waitingFor.code === 'no-token'),
    )
    if (noToken && !tokenHad && noTokenLimitMs !== undefined && performance.now() - since >= noTokenLimitMs) {
      if (options.onNoToken === undefined || !(await options.onNoToken())) break
      // Once: from here on it is waited for as long as for the rest.
      noTokenLimitMs = undefined
      since = performance.now()
      continue
    }
    if (leftMs() <= 0) break
    const wait = Math.min(backoff(rounds, round), Math.max(leftMs(), 0))
    const what = waiting.map(({ family, tasks }) => `${family.name} (${waitedFor(tasks)?.title ?? 'not tried yet'})`).join(', ')
    log.info(
      `… waiting for the identity and its roles to take effect: ${what}; ${duration(performance.now() - since)} so far, at most ${duration(leftMs())} more`,
    )
    await pause(wait, signal)
  }
  for (const { tasks } of pending) {
    for (const task of tasks) giveUp(options, task, task.waitingFor ?? waitedFor(tasks), journal)
  }
}

/** What the databases of a family wait for. */
const waitedFor = (tasks: readonly Task[]) => tasks.find((task) => task.waitingFor !== undefined)?.waitingFor

/** Whether the task was answered without a key. */
function passedKeyless({ queries }: Journal, { database, calls }: Task): boolean {
  return calls.some(({ name }) =>
    queries.some((query) => query.database === database.name && query.service === name && query.proof === 'keyless'),
  )
}

/**
 * Asks the test queries once, read-only, where the steps that they depend on are in sync; for checks.
 */
export async function askOnce(options: ProveOptions): Promise<void> {
  const { inputs, journal, signal } = options
  await mapLimited(options.databases, most, async (database) => {
    const tasks = givenFamilies(inputs).flatMap(({ family, services }) => {
      const ready: Service[] = []
      for (const service of services) {
        const waitsFor = firstNeeded(journal, database, service)
        if (waitsFor === undefined) ready.push(service)
        else skipQuery(journal, database.name, service.name, `waits for ${waitsFor}`)
      }
      return ready.length === 0 ? [] : (taskOf(options, family, ready, database) ?? [])
    })
    const asked = tasks.map((task) => {
      task.attempts = 1
      const outcomes = patiently(options, task.database.name, () => askFreshly(options, task))
      outcomes.catch(() => undefined)
      return { task, outcomes }
    })
    // Told in their order, whichever answers first.
    for (const { task, outcomes: asking } of asked) {
      try {
        const outcomes = await asking
        const verdict = judge(options, task, outcomes)
        if (verdict === 'passed') record(options, task, outcomes, readOnlyProof(options, task))
        else giveUp(options, task, verdict.failure, journal)
      } catch (error) {
        if (signal.aborted) throw signal.reason
        databaseFailed(options, task, error)
      }
    }
  })
}

/** The first step that a query needs and that is still open; undefined when its answer will mean something. */
function firstNeeded(journal: Journal, database: ObservedDatabase, service: Service): StepId | undefined {
  if (database.failure !== undefined) return undefined
  const settings = journal
    .stepsIn(database.name)
    .filter((step) => step.kind === 'setting' && step.family === service.family)
    .map(({ id }) => id)
  return firstOpen([...queryNeeds([service.name], database.name), ...settings], journal.step)
}
