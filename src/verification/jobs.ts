/** The work of one family in one database, read off the plan. */

import { type Inputs, titleOf } from '../core/inputs.ts'
import type { Journal } from '../core/journal.ts'
import type { ObservedDatabase } from '../core/observed.ts'
import { desiredSettings } from '../core/plan.ts'
import { isConfigured } from '../core/preconditions.ts'
import { type Family, type Resource, type Service, type ServiceName, sameValue } from '../core/services.ts'
import { firstOpen, queryNeeds, type Step } from '../core/steps.ts'
import { Failure } from '../errors/failure.ts'
import type { Log } from '../lib/log.ts'
import { type KeyCandidates, testCall } from '../postgres/azure-ai.ts'
import type { Connector } from '../postgres/connection.ts'
import type { Call, CallOutcomes, Setting } from '../postgres/trial.ts'

/** The work of one family in one database. */
export interface Task {
  readonly database: ObservedDatabase
  readonly family: Family
  /** Setting steps of this family that differ. */
  readonly steps: readonly Step[]
  readonly settings: readonly Setting[]
  /** The key to store; at most one. */
  readonly secrets: readonly Setting[]
  /** The step that blanks the stored key once the identity is proven. */
  readonly blank: Step | undefined
  /** What the settings were, for putting them back. */
  readonly previous: readonly Setting[]
  readonly calls: readonly Call[]
  readonly keyStored: boolean
  attempts: number
  /** Found out in each database: another one may have another version, and a key stored that would answer. */
  visibility: Visibility | undefined
  /** Takes back that something was written, when it is put back. */
  wrote: (() => void) | undefined
  /** When settings were last committed to be tried, by `performance.now()`. */
  committedAt: number | undefined
  /** What the last try came to while it may still become better. */
  waitingFor: Failure | undefined
  lastOutcomes: CallOutcomes
}

/** What came of an attempt: done, or not yet, or never. */
export type Attempt = 'done' | { readonly failure: Failure; readonly final: boolean }

/** Whether the extension sees settings that this session has not committed yet. */
export type Visibility = 'visible' | 'hidden' | 'unclear'

export interface ProveOptions {
  readonly inputs: Inputs
  readonly databases: readonly ObservedDatabase[]
  readonly resources: ReadonlyMap<ServiceName, Resource>
  readonly connector: Connector
  readonly journal: Journal
  readonly log: Log
  readonly signal: AbortSignal
  /** When the clock started, by `performance.now()`. */
  readonly since: number
  /** How long to wait while all that is missing is a token, in milliseconds; undefined: as long as for the rest. */
  readonly noTokenLimitMs: number | undefined
  /** Asked once when that limit is reached: true when the server was restarted, and the clock starts anew. */
  readonly onNoToken?: () => Promise<boolean>
  /** For `subscription-key`: by name of the setting. */
  readonly keys: KeyCandidates
}

/** The task of a family in a database; undefined when there is nothing to try, which the journal then says. */
export function taskOf(
  options: ProveOptions,
  family: Family,
  services: readonly Service[],
  database: ObservedDatabase,
): Task | undefined {
  const { inputs, journal } = options
  const own = journal
    .stepsIn(database.name)
    .filter(({ change }) => (change?.kind === 'setting' || change?.kind === 'key') && change.family === family.name)
  let blank = own.find(({ change }) => change?.kind === 'key' && change.action === 'blank')
  const steps = own.filter((step) => step !== blank)
  const skipAll = (reason: string): undefined => {
    for (const step of own) journal.mark(step.id, 'skipped', reason)
    for (const service of services) skipQuery(journal, database.name, service.name, reason)
    return undefined
  }
  if (database.failure !== undefined) {
    for (const service of services) skipQuery(journal, database.name, service.name, database.failure.title)
    return undefined
  }
  const needed = queryNeeds(
    services.map(({ name }) => name),
    database.name,
  )
  const first = firstOpen(needed, journal.step)
  if (first !== undefined) {
    for (const step of own) journal.wait(step.id, first)
    for (const service of services) skipQuery(journal, database.name, service.name, `waits for ${first}`)
    return undefined
  }

  if (inputs.mode === 'verify' && database.mayRead && !database.settings.has(family.endpoint)) {
    journal.fail(endpointNotSet(family, database.name))
    return skipAll(`${family.endpoint} is not set`)
  }

  const keyStored = database.keysSet.has(family.key) || !database.mayRead
  const changes = steps.flatMap((step) => (step.change?.kind === 'setting' ? [step.change] : []))
  const calls: Call[] = []
  const unasked = unnamedUses(options, family, database)
  let endless = false
  for (const service of services) {
    const wanted = service.arguments(inputs, options.resources.get(service.name))
    const call = !inputs.testQueries
      ? { skip: '`test-queries` is false' }
      : 'skip' in wanted
        ? wanted
        : testCall(service, wanted, database.functions)
    if ('skip' in call) {
      skipQuery(journal, database.name, service.name, call.skip)
      unasked.push(`${titleOf(service.name)}: ${call.skip}`)
    } else {
      calls.push({ name: service.name, sql: call.sql, isAnswer: service.test.isAnswer })
      endless ||= !call.hasTimeout
    }
  }
  if (blank !== undefined && unasked.length > 0 && !inputs.allowUnproven) {
    const failure = new Failure({
      reason: 'verification',
      code: 'key-not-blanked-unproven',
      title: 'A stored key was not blanked: the test queries cannot prove all that its family is used for',
      detail: `${family.key} in "${database.name}" (${unasked.join('; ')}).`,
      fix: 'Name what it is used for and let its test query run (see the reason), or give `allow-unproven: true` to blank it without proof.',
    })
    journal.fail(failure)
    journal.mark(blank.id, blank.status, 'not blanked: the test queries cannot prove all that its family is used for')
    blank = undefined
  }
  const task: Task = {
    database,
    family,
    steps,
    secrets: steps.flatMap(({ change }) =>
      change?.kind === 'key' ? [[change.setting, options.keys.get(change.setting)?.[0] ?? ''] as const] : [],
    ),
    blank,
    settings: changes.map((change) => [change.setting, change.to]),
    previous: changes.map((change) => [change.setting, change.from ?? '']),
    calls,
    keyStored,
    attempts: 0,
    // Without a time limit of its own a query would hold the locks of its transaction.
    visibility: endless ? 'hidden' : undefined,
    wrote: undefined,
    committedAt: undefined,
    waitingFor: undefined,
    lastOutcomes: new Map(),
  }
  if (steps.length > 0 && unasked.length > 0 && isConfigured(database, family) && !inputs.allowUnproven) {
    const failure = new Failure({
      reason: 'verification',
      code: 'not-switched-unproven',
      title: 'A family that works today was not switched: its test queries cannot prove all it is used for',
      detail: `${family.name} in "${database.name}" (${unasked.join('; ')}).`,
      fix: 'Name what it is used for and let its test query run (see the reason), or give `allow-unproven: true` to switch without proof.',
    })
    journal.fail(failure)
    for (const step of steps) journal.mark(step.id, step.status, 'not switched: its test queries cannot prove all it is used for')
    for (const call of calls)
      skipQuery(
        journal,
        database.name,
        call.name as ServiceName,
        'not switched: the test queries cannot prove all that the family is used for',
      )
    return undefined
  }
  if (steps.length > 0 && unasked.length > 0) {
    journal.finding({
      severity: 'warning',
      code: 'unproven',
      title: 'A family is set but not proven',
      detail: `${family.name} in "${database.name}" (${unasked.join('; ')}).`,
      fix: 'Let the test query run: see the reason.',
    })
  }
  return steps.length === 0 && blank === undefined && calls.length === 0 ? undefined : task
}

function endpointNotSet(family: Family, database: string): Failure {
  return new Failure({
    reason: 'verification',
    code: 'endpoint-not-set',
    title: 'A family has no endpoint',
    detail: `${family.endpoint} is not set in "${database}", so none of its test queries can pass.`,
    fix: 'Run this action with `mode: apply`, this database and the service.',
  })
}

/** Whether there is anything to set; a key to blank is none, that comes after the proof. */
export const differing = (task: Task): boolean => task.settings.length > 0 || task.secrets.length > 0
/** Whether it would be lost what answers users today. */
export const worksToday = (task: Task): boolean => differing(task) && isConfigured(task.database, task.family)

export function skipQuery(journal: Journal, database: string, service: ServiceName, reason: string): void {
  journal.query({
    database,
    service,
    sql: '',
    status: 'skipped',
    proof: 'none',
    attempts: 0,
    durationMs: 0,
    answer: '',
    error: reason,
  })
}

/** What the database shows a family to be used for although no given service, and so no test query, stands for it. */
function unnamedUses({ inputs, resources }: ProveOptions, family: Family, { settings }: ObservedDatabase): string[] {
  const has = (name: ServiceName): boolean => inputs.given.some((each) => each.service === name)
  const uses: string[] = []
  if (family.name === 'azure_cognitive' && !has('translator')) {
    const set = ['azure_cognitive.region', 'azure_cognitive.translator_resource_id'].filter((setting) => settings.has(setting))
    if (set.length > 0)
      uses.push(`${set.join(' and ')} ${set.length === 1 ? 'is' : 'are'} set: it translates, and \`translator\` is not given`)
  }
  if (family.name === 'azure_cognitive' && has('translator') && !has('cognitive')) {
    const endpoint = settings.get(family.endpoint) ?? ''
    const wanted = desiredSettings(inputs, resources).find((each) => each.setting === family.endpoint)?.value
    // A Translator may be reached by a global endpoint, too; one of these names belongs to one account.
    if (wanted !== undefined && /\.cognitiveservices\./i.test(endpoint) && !sameValue(family.endpoint, endpoint, wanted))
      uses.push(`${family.endpoint} is that of another account: it analyses text, and \`cognitive\` is not given`)
  }
  if (family.name === 'azure_ml' && settings.has('azure_ml.serverless_ranking_endpoint')) {
    uses.push('azure_ml.serverless_ranking_endpoint is set: azure_ai.rank obeys the same auth_type, and nothing here asks it')
  }
  return uses
}
