/** The work of each family in each database, read from the plan. Pure: what cannot be done is returned with its reason. */
import { type Inputs, titleOf } from '../core/inputs.ts'
import type { Journal } from '../core/journal.ts'
import { isRead, type ObservedDatabase, type ReadDatabase } from '../core/observed.ts'
import { lackedBy, settingLacked } from '../core/offered.ts'
import { desiredSettings } from '../core/plan.ts'
import { isConfigured } from '../core/preconditions.ts'
import {
  type Family,
  keysOf,
  memberOf,
  type QueryId,
  queriesOf,
  type Resource,
  type Service,
  type ServiceName,
  serviceNamed,
  services,
} from '../core/services.ts'
import { sameValue } from '../core/setting-values.ts'
import { type ChangeOf, firstOpen, queryNeeds, type Step, type StepId } from '../core/steps.ts'
import type { ServiceQuery } from '../core/test-query.ts'
import { Failure, type Finding } from '../errors/failure.ts'
import type { KeyCandidates } from '../postgres/azure-ai.ts'
import { fallbackCall, testCall } from '../postgres/test-call.ts'
import type { Call, Setting } from '../postgres/trial.ts'

/** The work of one family in one database. */
export interface Job {
  readonly database: ReadDatabase
  readonly family: Family
  /** Setting steps of this family that differ. */
  readonly steps: readonly Step[]
  readonly settings: readonly Setting[]
  /** The keys to store. */
  readonly secrets: readonly Setting[]
  /** The steps that clear the stored keys once the identity is verified. */
  readonly clear: readonly Step[]
  /** What the settings were, for putting them back. */
  readonly previous: readonly Setting[]
  readonly calls: readonly Call[]
  /** Without a time limit of its own a query would hold the locks of its transaction, so it runs on committed settings only. */
  readonly onlyCommitted: boolean
  /** Settings that hold a key, or may hold one: they are to be hidden from the queries. */
  readonly storedKeys: readonly string[]
  /** Values to try where a service answers 404 to an endpoint that is to be set, by name of the setting. */
  readonly otherwise: ReadonlyMap<string, string>
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
  readonly skipped: readonly (QueryId & { readonly reason: string })[]
  readonly left: readonly LeftStep[]
  readonly failures: readonly Failure[]
  readonly findings: readonly Finding[]
}

const nothing: Planned = { job: undefined, skipped: [], left: [], failures: [], findings: [] }

interface FamilyIn<Database extends ObservedDatabase = ReadDatabase> {
  readonly family: Family
  readonly services: readonly Service[]
  readonly database: Database
}

/** @param journal is only read: the steps as they are now */
export function jobFor(options: JobOptions, journal: Pick<Journal, 'step' | 'stepsIn'>, of: FamilyIn<ObservedDatabase>): Planned {
  const { inputs } = options
  const { family, services, database } = of
  const skip = (of: readonly Service[], reason: string) =>
    of.flatMap((service) =>
      queriesOf(service, inputs).map(({ name }): QueryId & { reason: string } => ({ service: service.name, name, reason })),
    )
  if (!isRead(database)) return { ...nothing, skipped: skip(services, database.failure.title) }
  const own = journal
    .stepsIn(database.name)
    .filter(({ change }) => (change?.kind === 'setting' || change?.kind === 'key') && change.family === family.name)
  const names = services.map(({ name }) => name)
  const first = firstOpen(queryNeeds(names, database.name), journal.step)
  if (first !== undefined)
    return { ...nothing, skipped: skip(services, `waits for ${first}`), left: own.map((step) => ({ step, waitsFor: first })) }
  // The rest of the family goes on without what the version lacks, or what has no endpoint to query.
  const left = services.flatMap((service) => {
    const { endpoint } = memberOf(service)
    const lacked = lackedBy(database, service)
    const isUnset = inputs.mode === 'verify' && database.mayRead && !database.settings.has(endpoint)
    const reason = lacked ?? (isUnset ? `${endpoint} is not set` : undefined)
    return reason === undefined ? [] : [{ service, reason, unset: lacked === undefined ? endpoint : undefined }]
  })
  const ready = services.filter((service) => !left.some((each) => each.service === service))
  const isLacked = (step: Step): boolean =>
    step.kind === 'setting' && left.length > 0 && settingLacked(database, step.setting, names) !== undefined
  const planned = jobOf(
    options,
    { family, database, services: ready },
    own.filter((step) => !isLacked(step)),
  )
  const unset = new Set(left.flatMap((each) => each.unset ?? []))
  return {
    ...planned,
    skipped: [...left.flatMap(({ service, reason }) => skip([service], reason)), ...planned.skipped],
    left: [
      ...own.filter(isLacked).map((step) => ({ step, status: 'skipped', reason: left[0]?.reason ?? '' }) as const),
      ...planned.left,
    ],
    failures: [...[...unset].map((endpoint) => endpointNotSet(endpoint, database.name)), ...planned.failures],
  }
}

function jobOf(options: JobOptions, of: FamilyIn, own: readonly Step[]): Planned {
  const { inputs, keys } = options
  const { family, database } = of
  const { calls, skipped, hasEndless } = callsOf(options, of)
  const unverified = [
    ...unnamedUses(options, family, database),
    ...skipped.filter(({ isExtra }) => !isExtra).map(({ service, reason }) => `${titleOf(service)}: ${reason}`),
  ]
  const clear = own.filter(({ change }) => change?.kind === 'key' && change.action === 'clear')
  const steps = own.filter((step) => !clear.includes(step))
  const isBlind = unverified.length > 0
  const keepsKey = clear.length > 0 && isBlind && !inputs.allowUnproven
  const keptKey = keepsKey
    ? { failures: [notCleared(of, clear, unverified)], left: clear.map((step) => leftAs(step, notAllQueried('cleared'))) }
    : nothing
  if (steps.length > 0 && isBlind && isConfigured(database, family) && !inputs.allowUnproven) {
    const reason = notAllQueried('switched')
    return {
      ...nothing,
      skipped: [...skipped, ...calls.map(({ service, name }) => ({ service, name, reason }))],
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
    clear: keepsKey ? [] : clear,
    settings: changes.map((change) => [change.setting, change.to]),
    previous: changes.map((change) => [change.setting, change.from ?? '']),
    calls,
    onlyCommitted: hasEndless,
    storedKeys: storedKeysOf(of),
    otherwise: otherValues(of, changes),
  }
  return {
    job: steps.length === 0 && job.clear.length === 0 && calls.length === 0 ? undefined : job,
    skipped,
    left: keptKey.left,
    failures: keptKey.failures,
    findings: steps.length > 0 && isBlind ? [setUnverified(of, unverified)] : [],
  }
}

const leftAs = (step: Step, reason: string): LeftStep => ({ step, status: step.status, reason })

const notAllQueried = (done: string): string =>
  `not ${done}: the test queries cannot verify everything that the family is used for`

/** Where the keys may not be read, those of the named services may be stored. */
function storedKeysOf({ family, services, database }: FamilyIn): readonly string[] {
  const named = services.map((service) => memberOf(service).key)
  return keysOf(family).filter((key) => database.keysSet.has(key) || (!database.mayRead && named.includes(key)))
}

function otherValues({ services }: FamilyIn, changes: readonly ChangeOf<'setting'>[]): ReadonlyMap<string, string> {
  const sources = services.flatMap(({ settings }) => settings)
  return new Map(
    changes.flatMap(({ setting, to }) => {
      const other = sources.find((source) => source.setting === setting)?.otherwise?.(to)
      return other === undefined ? [] : [[setting, other] as const]
    }),
  )
}

function callsOf({ inputs, resources }: JobOptions, { services, database }: FamilyIn) {
  const calls: Call[] = []
  const skipped: (QueryId & { reason: string; isExtra: boolean })[] = []
  let hasEndless = false
  for (const service of services) {
    for (const query of queriesOf(service, inputs)) {
      const wanted = query.arguments(inputs, resources.get(service.name)?.deployments ?? []) ?? []
      const tested = 'skip' in wanted ? wanted : testCall(query.test, wanted, database.functions)
      const call = inputs.testQueries ? tested : { skip: '`test-queries` is false' }
      const id = { service: service.name, name: query.name }
      if ('skip' in call) {
        skipped.push({ ...id, reason: call.skip, isExtra: query.isExtra === true })
        continue
      }
      const deployment = 'skip' in wanted ? undefined : wanted.find(({ name }) => name === query.deploymentArgument)?.value
      const of = { ...id, title: query.title, endpoint: memberOf(service).endpoint }
      const { isAnswer, answer } = query.test
      calls.push({ ...of, deployment, sql: call.sql, isAnswer, answer, fallback: fallbackOf(of, query, database) })
      hasEndless ||= !call.hasTimeout && query.hasNoLimit !== true
    }
  }
  return { calls, skipped, hasEndless }
}

/** The query for a service that has retired the function of its test query; undefined where the version offers none. */
function fallbackOf(
  of: Pick<Call, 'service' | 'name' | 'title' | 'endpoint'>,
  { fallback }: ServiceQuery,
  { functions }: ReadDatabase,
): Call | undefined {
  const call = fallback && fallbackCall(fallback, functions)
  if (fallback === undefined || call === undefined || 'skip' in call) return undefined
  const { isAnswer, answer } = fallback
  return { ...of, deployment: undefined, sql: call.sql, isAnswer, answer, fallback: undefined }
}

/** The keys that are cleared once the identity is verified, as settings. */
export const clearedKeys = ({ clear }: Pick<Job, 'clear'>): readonly Setting[] =>
  clear.flatMap((step) => (step.kind === 'setting' ? [[step.setting, ''] as const] : []))

/** Names of settings in a sentence. */
export const namesOf = (settings: readonly string[]): string => settings.join(' and ')

/** Whether there is anything to set; a key to clear is not, that comes after the verification. */
export const differing = (job: Job): boolean => job.settings.length > 0 || job.secrets.length > 0

/** Whether a configuration would be lost that works today. */
export const worksToday = (job: Job): boolean => differing(job) && isConfigured(job.database, job.family)

/** What the database shows a family to be used for although no named service, and so no test query, covers it. */
function unnamedUses({ inputs, resources }: JobOptions, family: Family, { settings }: ReadDatabase): string[] {
  const has = (name: ServiceName): boolean => inputs.services.some((each) => each.service === name)
  const uses: string[] = []
  if (family.name === 'azure_cognitive' && !has('translator')) {
    const set = ['azure_cognitive.region', 'azure_cognitive.translator_resource_id'].filter((setting) => settings.has(setting))
    if (set.length > 0)
      uses.push(`${set.join(' and ')} ${set.length === 1 ? 'is' : 'are'} set: it translates, and \`translator\` is not set`)
  }
  if (family.name === 'azure_cognitive' && has('translator') && !has('cognitive')) {
    const setting = 'azure_cognitive.endpoint'
    const endpoint = settings.get(setting) ?? ''
    const wanted = desiredSettings(inputs, resources).find((each) => each.setting === setting)?.value
    // A Translator may be reached by a global endpoint, too; one of these names belongs to one account.
    if (wanted !== undefined && /\.cognitiveservices\./i.test(endpoint) && !sameValue(setting, endpoint, wanted))
      uses.push(`${setting} is that of another account: it analyses text, and \`cognitive\` is not set`)
  }
  for (const { endpoint } of family.members) {
    const service = services.find((each) => memberOf(each).endpoint === endpoint)
    const isNamed = inputs.services.some((each) => memberOf(serviceNamed(each.service)).endpoint === endpoint)
    if (service !== undefined && !isNamed && settings.has(endpoint))
      uses.push(`${endpoint} is set: it has the same auth_type, and \`${service.name}\` is not named`)
  }
  return uses
}

function endpointNotSet(endpoint: string, database: string): Failure {
  return new Failure({
    reason: 'verification',
    code: 'endpoint-not-set',
    title: 'A family has no endpoint',
    detail: `${endpoint} is not set in "${database}", so none of its test queries can pass.`,
    fix: 'Run this action with `mode: apply`.',
  })
}

function notCleared({ database }: FamilyIn, clear: readonly Step[], unverified: readonly string[]): Failure {
  return new Failure({
    reason: 'verification',
    code: 'key-not-blanked-unproven',
    title: 'A stored key was not cleared: the test queries cannot verify everything that its family is used for',
    detail: `${namesOf(clearedKeys({ clear }).map(([key]) => key))} in "${database.name}" (${unverified.join('; ')}).`,
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
