/** The work of each family in each database, read from the plan. Pure: what cannot be done is returned with its reason. */
import { type Inputs, titleOf } from '../core/inputs.ts'
import type { Journal } from '../core/journal.ts'
import type { ObservedDatabase } from '../core/observed.ts'
import { desiredSettings } from '../core/plan.ts'
import { isConfigured } from '../core/preconditions.ts'
import { type Family, type Resource, type Service, type ServiceName, sameValue } from '../core/services.ts'
import { firstOpen, queryNeeds, type Step, type StepId } from '../core/steps.ts'
import { Failure, type Finding } from '../errors/failure.ts'
import { fallbackCall, type KeyCandidates, testCall } from '../postgres/azure-ai.ts'
import type { Call, Setting } from '../postgres/trial.ts'

/** The work of one family in one database. */
export interface Job {
  readonly database: ObservedDatabase
  readonly family: Family
  /** Setting steps of this family that differ. */
  readonly steps: readonly Step[]
  readonly settings: readonly Setting[]
  /** The key to store; at most one. */
  readonly secrets: readonly Setting[]
  /** The step that clears the stored key once the identity is verified. */
  readonly clear: Step | undefined
  /** What the settings were, for putting them back. */
  readonly previous: readonly Setting[]
  readonly calls: readonly Call[]
  /** Without a time limit of its own a query would hold the locks of its transaction, so it runs on committed settings only. */
  readonly onlyCommitted: boolean
  readonly keyStored: boolean
}

export interface JobOptions {
  readonly inputs: Inputs
  readonly resources: ReadonlyMap<ServiceName, Resource>
  /** For `subscription-key`: by name of the setting. */
  readonly keys: KeyCandidates
}

/** A step that is left undone, with its reason or with the step that it waits for. */
type LeftStep = { readonly step: Step } & (
  | { readonly waitsFor: StepId }
  | { readonly status: Step['status']; readonly reason: string }
)

/** What there is to do for a family in a database, and what is not done. */
export interface Planned {
  readonly job: Job | undefined
  readonly skipped: readonly { readonly service: ServiceName; readonly reason: string }[]
  readonly left: readonly LeftStep[]
  readonly failures: readonly Failure[]
  readonly findings: readonly Finding[]
}

const nothing: Planned = { job: undefined, skipped: [], left: [], failures: [], findings: [] }

interface FamilyIn {
  readonly family: Family
  readonly services: readonly Service[]
  readonly database: ObservedDatabase
}

/** @param journal is only read: the steps as they are now */
export function jobFor(options: JobOptions, journal: Pick<Journal, 'step' | 'stepsIn'>, of: FamilyIn): Planned {
  const { inputs } = options
  const { family, services, database } = of
  const skipAll = (reason: string) => services.map(({ name }) => ({ service: name, reason }))
  if (database.failure !== undefined) return { ...nothing, skipped: skipAll(database.failure.title) }
  const own = journal
    .stepsIn(database.name)
    .filter(({ change }) => (change?.kind === 'setting' || change?.kind === 'key') && change.family === family.name)
  const names = services.map(({ name }) => name)
  const first = firstOpen(queryNeeds(names, database.name), journal.step)
  if (first !== undefined)
    return { ...nothing, skipped: skipAll(`waits for ${first}`), left: own.map((step) => ({ step, waitsFor: first })) }
  if (inputs.mode === 'verify' && database.mayRead && !database.settings.has(family.endpoint))
    return { ...nothing, skipped: skipAll(`${family.endpoint} is not set`), failures: [endpointNotSet(family, database.name)] }
  return jobOf(options, of, own)
}

function jobOf(options: JobOptions, of: FamilyIn, own: readonly Step[]): Planned {
  const { inputs, keys } = options
  const { family, database } = of
  const { calls, skipped, hasEndless } = queriesOf(options, of)
  const unverified = [
    ...unnamedUses(options, family, database),
    ...skipped.map(({ service, reason }) => `${titleOf(service)}: ${reason}`),
  ]
  const clear = own.find(({ change }) => change?.kind === 'key' && change.action === 'blank')
  const steps = own.filter((step) => step !== clear)
  const isBlind = unverified.length > 0
  const keepsKey = clear !== undefined && isBlind && !inputs.allowUnproven
  const keptKey = keepsKey ? { failures: [notCleared(of, unverified)], left: [leftAs(clear, notAllQueried('cleared'))] } : nothing
  if (steps.length > 0 && isBlind && isConfigured(database, family) && !inputs.allowUnproven) {
    const reason = notAllQueried('switched')
    return {
      ...nothing,
      skipped: [...skipped, ...calls.map(({ service }) => ({ service, reason }))],
      left: [...keptKey.left, ...steps.map((step) => leftAs(step, reason))],
      failures: [...keptKey.failures, notSwitched(of, unverified)],
    }
  }
  const changes = steps.flatMap(({ change }) => (change?.kind === 'setting' ? [change] : []))
  const job: Job = {
    database,
    family,
    steps,
    secrets: steps.flatMap(({ change }) =>
      change?.kind === 'key' ? [[change.setting, keys.get(change.setting)?.[0] ?? ''] as const] : [],
    ),
    clear: keepsKey ? undefined : clear,
    settings: changes.map((change) => [change.setting, change.to]),
    previous: changes.map((change) => [change.setting, change.from ?? '']),
    calls,
    onlyCommitted: hasEndless,
    keyStored: database.keysSet.has(family.key) || !database.mayRead,
  }
  return {
    job: steps.length === 0 && job.clear === undefined && calls.length === 0 ? undefined : job,
    skipped,
    left: keptKey.left,
    failures: keptKey.failures,
    findings: steps.length > 0 && isBlind ? [setUnverified(of, unverified)] : [],
  }
}

const leftAs = (step: Step, reason: string): LeftStep => ({ step, status: step.status, reason })

const notAllQueried = (done: string): string =>
  `not ${done}: the test queries cannot verify everything that the family is used for`

function queriesOf({ inputs, resources }: JobOptions, { services, database }: FamilyIn) {
  const calls: Call[] = []
  const skipped: { service: ServiceName; reason: string }[] = []
  let hasEndless = false
  for (const service of services) {
    const wanted = service.arguments(inputs, resources.get(service.name))
    const tested = 'skip' in wanted ? wanted : testCall(service.test, wanted, database.functions)
    const call = inputs.testQueries ? tested : { skip: '`test-queries` is false' }
    if ('skip' in call) skipped.push({ service: service.name, reason: call.skip })
    else {
      const deployment = 'skip' in wanted ? undefined : wanted.find(({ name }) => name === 'deployment_name')?.value
      calls.push({
        name: service.name,
        service: service.name,
        deployment,
        sql: call.sql,
        isAnswer: service.test.isAnswer,
        answer: service.test.answer,
        fallback: fallbackOf(service, database),
      })
      hasEndless ||= !call.hasTimeout
    }
  }
  return { calls, skipped, hasEndless }
}

/** The query for a service that has retired the function of its test query; undefined where the version offers none. */
function fallbackOf({ name, fallback }: Service, { functions }: ObservedDatabase): Call | undefined {
  const call = fallback && fallbackCall(fallback, functions)
  if (fallback === undefined || call === undefined || 'skip' in call) return undefined
  const { isAnswer, answer } = fallback
  return { name, service: name, deployment: undefined, sql: call.sql, isAnswer, answer, fallback: undefined }
}

/** Whether there is anything to set; a key to clear is not, that comes after the verification. */
export const differing = (job: Job): boolean => job.settings.length > 0 || job.secrets.length > 0

/** Whether a configuration would be lost that works today. */
export const worksToday = (job: Job): boolean => differing(job) && isConfigured(job.database, job.family)

/** What the database shows a family to be used for although no named service, and so no test query, covers it. */
function unnamedUses({ inputs, resources }: JobOptions, family: Family, { settings }: ObservedDatabase): string[] {
  const has = (name: ServiceName): boolean => inputs.given.some((each) => each.service === name)
  const uses: string[] = []
  if (family.name === 'azure_cognitive' && !has('translator')) {
    const set = ['azure_cognitive.region', 'azure_cognitive.translator_resource_id'].filter((setting) => settings.has(setting))
    if (set.length > 0)
      uses.push(`${set.join(' and ')} ${set.length === 1 ? 'is' : 'are'} set: it translates, and \`translator\` is not set`)
  }
  if (family.name === 'azure_cognitive' && has('translator') && !has('cognitive')) {
    const endpoint = settings.get(family.endpoint) ?? ''
    const wanted = desiredSettings(inputs, resources).find((each) => each.setting === family.endpoint)?.value
    // A Translator may be reached by a global endpoint, too; one of these names belongs to one account.
    if (wanted !== undefined && /\.cognitiveservices\./i.test(endpoint) && !sameValue(family.endpoint, endpoint, wanted))
      uses.push(`${family.endpoint} is that of another account: it analyses text, and \`cognitive\` is not set`)
  }
  if (family.name === 'azure_ml' && settings.has('azure_ml.serverless_ranking_endpoint')) {
    uses.push('azure_ml.serverless_ranking_endpoint is set: azure_ai.rank uses the same auth_type, and no test query covers it')
  }
  return uses
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

function notCleared({ family, database }: FamilyIn, unverified: readonly string[]): Failure {
  return new Failure({
    reason: 'verification',
    code: 'key-not-blanked-unproven',
    title: 'A stored key was not cleared: the test queries cannot verify everything that its family is used for',
    detail: `${family.key} in "${database.name}" (${unverified.join('; ')}).`,
    fix: 'Name what it is used for and let its test query run (see the reason), or set `allow-unproven: true` to clear it without verification.',
  })
}

function notSwitched({ family, database }: FamilyIn, unverified: readonly string[]): Failure {
  return new Failure({
    reason: 'verification',
    code: 'not-switched-unproven',
    title: 'A family that works today was not switched: its test queries cannot verify everything that it is used for',
    detail: `${family.name} in "${database.name}" (${unverified.join('; ')}).`,
    fix: 'Name what it is used for and let its test query run (see the reason), or set `allow-unproven: true` to switch without verification.',
  })
}

function setUnverified({ family, database }: FamilyIn, unverified: readonly string[]): Finding {
  return {
    severity: 'warning',
    code: 'unproven',
    title: 'A family is set but not verified',
    detail: `${family.name} in "${database.name}" (${unverified.join('; ')}).`,
    fix: 'Let the test query run: see the reason.',
  }
}
