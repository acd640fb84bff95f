/**
 * The plan: what is wanted against what was found, as steps. Pure: no I/O, no clock. The same list drives apply, report
 * and summary.
 */
import { createHash } from 'node:crypto'
import { type Inputs, titleOf } from './inputs.ts'
import { allowsAzureAi, formerAssignment, formerIdentity, holding, type Observed, type ObservedDatabase } from './observed.ts'
import {
  type FamilyName,
  families,
  type Resource,
  type Service,
  type ServiceName,
  sameValue,
  serviceNamed,
  services,
} from './services.ts'

export type StepKind = 'identity' | 'restart' | 'firewall' | 'allow-list' | 'role' | 'replica' | 'extension' | 'setting'

export type StepStatus = 'in-sync' | 'missing' | 'different' | 'created' | 'updated' | 'failed' | 'skipped'

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
      readonly action: 'store' | 'blank'
    }

/** One thing that is to be in a certain state. Texts are for readers; `change` is for apply. */
export interface Step {
  readonly id: string
  readonly kind: StepKind
  readonly target: string
  readonly current: string
  readonly desired: string
  readonly status: StepStatus
  readonly detail: string
  readonly change?: Change
}

/** A step whose state another run or person has to mend. */
export function differs(step: Step): boolean {
  return step.status === 'missing' || step.status === 'different' || step.status === 'failed'
}

/** The steps of all parts in the order in which they are applied. */
export function plan(inputs: Inputs, observed: Observed): readonly Step[] {
  const azure = azureSteps(inputs, observed)
  const replicas = replicaSteps(inputs, observed)
  const restart = inputs.authType === 'managed-identity' ? [restartStep(inputs, observed)] : []
  const found = new Map(observed.databases.map((database) => [database.name, database]))
  const perDatabase = databaseNames(inputs, observed).flatMap((name) => databaseSteps(inputs, observed, name, found.get(name)))
  if (inputs.part === 'database') {
    const reason = 'part: database writes nothing in Resource Manager'
    return [...[...azure, ...restart].map((step) => skipped(step, reason)), ...perDatabase]
  }
  return [
    ...azure,
    ...perDatabase.filter((step) => step.kind === 'extension'),
    ...restart,
    ...replicas,
    ...perDatabase.filter((step) => step.kind !== 'extension'),
  ]
}

/** The databases that take part: those that are named, or those that were found. */
export function databaseNames(inputs: Inputs, observed: Pick<Observed, 'databases'>): readonly string[] {
  return inputs.databases === '*' ? observed.databases.map((database) => database.name) : inputs.databases
}

/**
 * The plan as a check tells it: what cannot be judged or done before another step is done is skipped and says what it
 * waits for, so that one difference is reported once.
 */
export function withWaits(steps: readonly Step[]): readonly Step[] {
  const open = new Set(steps.filter(differs).map((step) => step.id))
  const waitsFor = (step: Step): string | undefined => {
    if (step.kind === 'role' || step.kind === 'restart') return 'identity'
    if (step.kind === 'extension')
      return step.change?.kind === 'extension' && step.change.statement === 'create' ? 'allow-list' : undefined
    return step.kind === 'setting' ? `${step.target}/extension` : undefined
  }
  const waiting = new Map<string, string>()
  const byId = new Map(steps.map((step) => [step.id, step]))
  return steps.map((step) => {
    const first = waitsFor(step)
    if (first === undefined || !differs(step) || step.status === 'failed') return step
    const root = open.has(first) ? first : waiting.get(first)
    const extension = byId.get(first)
    // An extension that is only to be updated keeps no setting from being judged.
    if (
      root === undefined ||
      (step.kind === 'setting' && extension?.change?.kind === 'extension' && extension.change.statement === 'update')
    )
      return step
    waiting.set(step.id, first)
    return skipped(step, `waits for ${first}`)
  })
}

/** What of a step makes it another plan: what is done to what, not how it is worded. */
function fingerprint({ id, change }: Step): readonly string[] {
  switch (change?.kind) {
    case 'allow-list':
      return [id, ...[...change.entries].sort()]
    case 'role':
      return [id, change.scope.toLowerCase(), change.roleId]
    case 'extension':
      return [id, change.statement]
    case 'setting':
      return [id, change.from ?? '', change.to]
    case 'key':
      return [id, change.action]
    default:
      return [id]
  }
}

const sha256 = (parts: readonly string[]): string => createHash('sha256').update(JSON.stringify(parts)).digest('hex')
/** Longest list of steps in an id, in characters: that of a longer plan names no steps. */
const longestList = 60_000
/** Most changes that are listed one by one. */
const listedChanges = 20

/** What a plan consists of: replicas are no part of it, since apply mends them with the replica as server only. */
function isPlanned(step: Step): boolean {
  return differs(step) && step.status !== 'failed' && step.kind !== 'replica'
}

/** What a plan is for: the server, and the databases in any order. */
export function planScope(inputs: Inputs, observed: Pick<Observed, 'databases'>): readonly string[] {
  return [inputs.server.id.toLowerCase(), ...[...databaseNames(inputs, observed)].sort()]
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
  const before = new Map((list.match(/.{16}/g) ?? []).map((part) => [part.slice(0, 8), part.slice(8)]))
  const changes: string[] = []
  for (const step of steps) {
    const was = before.get(short([step.id], 8))
    const to = `${step.current} -> ${step.desired}`
    if (!isPlanned(step)) {
      if (step.status === 'failed' && was !== undefined) changes.push(`${step.id} cannot be told`)
    } else if (was === undefined) changes.push(`${step.id} differs now: ${to}`)
    else if (was !== short(fingerprint(step), 8)) changes.push(`${step.id} differs in another way: ${to}`)
  }
  if (changes.length > listedChanges) changes.splice(listedChanges, changes.length, `${changes.length - listedChanges} more`)
  return changes.length === 0 ? undefined : changes
}

function skipped(step: Step, detail: string): Step {
  const { change: _, ...rest } = step
  return { ...rest, status: 'skipped', detail }
}

function azureSteps(inputs: Inputs, observed: Observed): Step[] {
  // The way back to keys leaves identity and roles as they are: something else may use them.
  const steps = inputs.authType === 'managed-identity' ? identitySteps(inputs, observed) : []
  const { allowList } = observed
  if (allowList === undefined) {
    const unknown = { current: 'unknown', desired: 'azure_ai', status: 'failed', detail: 'it could not be read' } as const
    return [...steps, { id: 'allow-list', kind: 'allow-list', target: 'azure.extensions', ...unknown }]
  }
  const listed = allowsAzureAi(allowList)
  const entries = listed ? allowList : [...allowList, 'azure_ai']
  steps.push({
    id: 'allow-list',
    kind: 'allow-list',
    target: 'azure.extensions',
    current: allowList.join(', ') || 'empty',
    desired: entries.join(', '),
    status: listed ? 'in-sync' : 'different',
    detail: '',
    ...(listed ? {} : { change: { kind: 'allow-list', entries } as const }),
  })
  return steps
}

function identitySteps(inputs: Inputs, observed: Observed): Step[] {
  const { server } = observed
  const steps: Step[] = []
  const identity = { id: 'identity', kind: 'identity', target: server.name, desired: 'system-assigned identity on' } as const
  if (server.principalId !== undefined) {
    steps.push({ ...identity, current: `on (${server.principalId})`, status: 'in-sync', detail: '' })
  } else {
    const kept = server.userAssignedIdentities.length
    steps.push({
      ...identity,
      current: 'off',
      status: 'missing',
      detail: kept === 0 ? '' : `${kept} user-assigned ${kept === 1 ? 'identity is' : 'identities are'} kept`,
      change: { kind: 'identity' },
    })
  }

  for (const given of inputs.given) {
    const service = serviceNamed(given.service)
    const scope = given.resource.id
    const role = given.roleId === service.role.id ? service.role.name : `role ${given.roleId}`
    const step = { id: `role/${given.service}`, kind: 'role', target: scope, desired: role } as const
    const principal = server.principalId
    const assigned =
      principal === undefined
        ? undefined
        : holding(observed.roleAssignments.get(given.service) ?? [], principal, given.roleId, scope)
    const assignments = observed.roleAssignments.get(given.service)
    if (assignments === undefined && principal !== undefined) {
      steps.push({ ...step, current: 'unknown', status: 'failed', detail: 'the role assignments could not be read' })
      continue
    }
    const former = formerAssignment(observed.roleAssignments.get(given.service) ?? [], server, given.roleId, scope)
    if (assigned === undefined) {
      steps.push({
        ...step,
        current: former === undefined ? 'not assigned' : `assigned to ${former.principalId}`,
        status: 'missing',
        detail: former === undefined ? '' : 'that was the identity of this server before: it was restored or made anew',
        change: { kind: 'role', service: given.service, scope, roleId: given.roleId },
      })
    } else {
      const inherited = assigned.scope.toLowerCase() !== scope.toLowerCase()
      steps.push({
        ...step,
        current: role,
        status: 'in-sync',
        detail: [
          inherited ? `inherited from ${assigned.scope}` : '',
          assigned.reaches === undefined ? '' : `through group ${assigned.principalId}`,
        ]
          .filter((each) => each !== '')
          .join(', '),
      })
    }
  }
  return steps
}

/**
 * Read replicas have the settings of their primary and identities of their own. They are mended by a run with the replica
 * as server, so apply tells of them and a check counts them.
 */
function replicaSteps(inputs: Inputs, observed: Observed): Step[] {
  if (observed.server.isReplica || inputs.part === 'database' || inputs.authType !== 'managed-identity') return []
  return observed.replicas.map(({ server, missingRoles, restarted }) => {
    const lacks = [
      ...(server.principalId === undefined ? ['no identity'] : []),
      ...(server.principalId === undefined ? [] : missingRoles.map((service) => `no role for ${titleOf(service)}`)),
      ...(server.principalId !== undefined && restarted === false ? ['not restarted since its identity was turned on'] : []),
    ]
    const good = lacks.length === 0
    const step: Step = {
      id: `replica/${server.name}`,
      kind: 'replica',
      target: server.id,
      current: good ? 'identity and roles of its own' : lacks.join(', '),
      desired: 'identity and roles of its own',
      status: good ? 'in-sync' : 'different',
      detail: good
        ? ''
        : lacks.every((each) => each.startsWith('not restarted'))
          ? 'restart this replica'
          : 'run the action with this replica as `server`',
    }
    return good || inputs.mode === 'check' ? step : skipped(step, 'mended by a run with this replica as `server`')
  })
}

/** A newly enabled identity works only after a restart. */
function restartStep(inputs: Inputs, observed: Observed): Step {
  const step = { id: 'restart', kind: 'restart', target: observed.server.name } as const
  if (observed.server.principalId !== undefined) {
    const former = formerIdentity(observed)
    if (former === undefined) return { ...step, current: 'not needed', desired: 'not needed', status: 'in-sync', detail: '' }
    return { ...step, current: `the server runs with identity ${former}`, ...restartWanted(inputs) }
  }
  return { ...step, current: 'not yet', ...restartWanted(inputs) }
}

function restartWanted({ allowRestart }: Inputs): Pick<Step, 'desired' | 'status' | 'detail' | 'change'> {
  return {
    desired: 'restarted after the identity was turned on',
    status: 'missing',
    detail: allowRestart ? '' : '`allow-restart` is false',
    ...(allowRestart ? { change: { kind: 'restart' } as const } : {}),
  }
}

/** What the settings of the given services are to be, each setting once, in the fixed order of their names. */
export function desiredSettings(
  inputs: Inputs,
  resources: ReadonlyMap<ServiceName, Resource>,
): readonly { readonly setting: string; readonly value: string; readonly family: FamilyName; readonly service: ServiceName }[] {
  const given = new Set(inputs.given.map((each) => each.service))
  const found = new Map<string, { setting: string; value: string; family: FamilyName; service: ServiceName }>()
  for (const service of services) {
    const resource = resources.get(service.name)
    if (!given.has(service.name) || resource === undefined) continue
    for (const source of service.settings) {
      const value = source.value(resource, inputs.authType)
      if (
        value === undefined ||
        (source.onlyFor ?? inputs.authType) !== inputs.authType ||
        (source.leftTo !== undefined && given.has(source.leftTo)) ||
        found.has(source.setting)
      )
        continue
      found.set(source.setting, { setting: source.setting, value, family: service.family, service: service.name })
    }
  }
  return [...found.values()].sort((a, b) => (a.setting < b.setting ? -1 : 1))
}

function databaseSteps(inputs: Inputs, observed: Observed, name: string, database: ObservedDatabase | undefined): Step[] {
  const steps = [
    extensionStep(inputs, name, database),
    ...settingSteps(inputs, observed, name, database),
    ...keySteps(inputs, name, database),
  ]
  if (inputs.part === 'azure') return steps.map((step) => skipped(step, 'part: azure runs no SQL'))
  if (observed.server.isReplica) return steps.map((step) => skipped(step, 'a read replica has the settings of its primary'))
  if (database === undefined)
    return steps.map((step) => ({ ...skipped(step, `the server is ${observed.server.state}`), status: 'failed' }))
  const { failure } = database
  if (database.extension.installed !== undefined && !database.mayRead) {
    const reason = 'the connecting role may not read the settings'
    return steps.map((step) =>
      step.kind === 'setting' ? { ...skipped(step, reason), current: 'unknown', status: 'failed' } : step,
    )
  }
  if (failure !== undefined) return steps.map((step) => ({ ...skipped(step, failure.title), status: 'failed' }))
  return steps
}

function extensionStep(inputs: Inputs, name: string, database: ObservedDatabase | undefined): Step {
  const step = { id: `${name}/extension`, kind: 'extension', target: name } as const
  const { installed, available } = database?.extension ?? {}
  if (installed === undefined) {
    return {
      ...step,
      current: database === undefined || database.failure !== undefined ? 'unknown' : 'not installed',
      desired: available === undefined ? 'azure_ai' : `azure_ai ${available}`,
      status: 'missing',
      detail: '',
      change: { kind: 'extension', database: name, statement: 'create' },
    }
  }
  if (inputs.updateExtension && available !== undefined && isOlder(installed, available)) {
    return {
      ...step,
      current: `azure_ai ${installed}`,
      desired: `azure_ai ${available}`,
      status: 'different',
      detail: '',
      change: { kind: 'extension', database: name, statement: 'update' },
    }
  }
  return { ...step, current: `azure_ai ${installed}`, desired: 'azure_ai', status: 'in-sync', detail: '' }
}

/** Keys show as set or not set: to be stored on the way back to keys, to be blanked with `clear-keys`. */
function keySteps(inputs: Inputs, name: string, database: ObservedDatabase | undefined): Step[] {
  const store = inputs.authType === 'subscription-key'
  if (!store && !inputs.clearKeys) return []
  return givenFamilies(inputs).map(({ family }) => {
    const isSet = database?.keysSet.has(family.key) === true
    const state = database?.keyStates.get(family.key)
    const unknown = database === undefined || database.failure !== undefined
    const inSync = store ? isSet && state !== 'other' : !isSet
    if (store && isSet && state === undefined && !unknown) {
      // A role that may not read the key cannot have it compared.
      const detail = 'the connecting role cannot have it compared with that of the resource'
      const same = { current: 'set', desired: 'set', status: 'skipped', detail } as const
      return { id: `${name}/${family.key}`, kind: 'setting', target: name, ...same }
    }
    const change = {
      kind: 'key',
      database: name,
      family: family.name,
      setting: family.key,
      action: store ? 'store' : 'blank',
    } as const
    return {
      id: `${name}/${family.key}`,
      kind: 'setting',
      target: name,
      current: unknown ? 'unknown' : isSet ? 'set' : 'not set',
      desired: store ? 'set' : 'not set',
      status: inSync ? 'in-sync' : isSet ? 'different' : 'missing',
      detail: store && isSet && !inSync ? 'another key than that of the resource' : '',
      ...(inSync ? {} : { change }),
    }
  })
}

function settingSteps(inputs: Inputs, observed: Observed, name: string, database: ObservedDatabase | undefined): Step[] {
  return desiredSettings(inputs, observed.resources).map(({ setting, value, family }) => {
    const current = database?.settings.get(setting)
    const inSync = current !== undefined && sameValue(setting, current, value)
    const unknown = database === undefined || database.failure !== undefined
    return {
      id: `${name}/${setting}`,
      kind: 'setting',
      target: name,
      current: current ?? (unknown ? 'unknown' : 'not set'),
      desired: value,
      status: inSync ? 'in-sync' : current === undefined ? 'missing' : 'different',
      detail: '',
      ...(inSync ? {} : { change: { kind: 'setting', database: name, family, setting, from: current, to: value } as const }),
    }
  })
}

/** Compares versions number by number. */
export function isOlder(version: string, than: string): boolean {
  const numbers = (text: string): number[] => text.split('.').map((part) => Number.parseInt(part, 10) || 0)
  const a = numbers(version)
  const b = numbers(than)
  for (let index = 0; index < Math.max(a.length, b.length); index++) {
    const difference = (a[index] ?? 0) - (b[index] ?? 0)
    if (difference !== 0) return difference < 0
  }
  return false
}

/** The families of the given services, each with its services, in the order of the table. */
export function givenFamilies(
  inputs: Inputs,
): readonly { readonly family: (typeof families)[FamilyName]; readonly services: readonly Service[] }[] {
  return Object.values(families).flatMap((family) => {
    const own = inputs.given.map((each) => serviceNamed(each.service)).filter((service) => service.family === family.name)
    return own.length === 0 ? [] : [{ family, services: own }]
  })
}
