/**
 * The plan: the desired state compared with the state that was found, as steps. Pure: no I/O, no clock. The same list drives
 * apply, report and summary.
 */
import { sameId } from '../lib/resource-id.ts'
import { type Inputs, titleOf } from './inputs.ts'
import {
  allowsAzureAi,
  assignmentGiving,
  formerAssignment,
  formerIdentity,
  isRead,
  type Observed,
  type ObservedDatabase,
  type ReadDatabase,
} from './observed.ts'
import { lackedBy, newerVersion, settingLacked } from './offered.ts'
import { scopeOf } from './scope.ts'
import {
  type FamilyName,
  families,
  keysOf,
  memberOf,
  type Resource,
  type Service,
  type ServiceName,
  serviceNamed,
  services,
} from './services.ts'
import { sameValue } from './setting-values.ts'
import { extensionStep, inOrder, roleStep, type Step, settingStep, skipped } from './steps.ts'

/** The steps of all parts in the order in which they are done. */
export function plan(inputs: Inputs, observed: Observed): readonly Step[] {
  const { byIdentity } = scopeOf(inputs)
  // The rollback to keys leaves identity and roles as they are: something else may use them.
  const azure: readonly Step[] = [
    ...(byIdentity ? [identityStep(observed), ...roleSteps(inputs, observed), restartStep(inputs, observed)] : []),
    allowListStep(observed),
  ]
  const found = new Map(observed.databases.map((database) => [database.name, database]))
  return inOrder([
    ...(inputs.part === 'database'
      ? azure.map((step) => skipped(step, 'part: database writes nothing in Resource Manager'))
      : [...azure, ...replicaSteps(inputs, observed)]),
    ...databaseNames(inputs, observed).flatMap((name) => databaseSteps(inputs, observed, name, found.get(name))),
  ])
}

/** The databases that take part: those that are named, or those that were found. */
export function databaseNames(inputs: Inputs, observed: Pick<Observed, 'databases'>): readonly string[] {
  return inputs.databases === '*' ? observed.databases.map((database) => database.name) : inputs.databases
}

function allowListStep({ allowList }: Observed): Step {
  const step = { id: 'allow-list', kind: 'allow-list', target: 'azure.extensions' } as const
  if (allowList === undefined)
    return { ...step, current: 'unknown', desired: 'azure_ai', status: 'failed', detail: 'it could not be read' }
  const current = allowList.join(', ') || 'empty'
  if (allowsAzureAi(allowList)) return { ...step, current, desired: current, status: 'in-sync', detail: '' }
  const entries = [...allowList, 'azure_ai']
  const change = { kind: 'allow-list', entries } as const
  return { ...step, current, desired: entries.join(', '), status: 'different', detail: '', change }
}

function identityStep({ server }: Observed): Step {
  const step = { id: 'identity', kind: 'identity', target: server.name, desired: 'system-assigned identity on' } as const
  if (server.principalId !== undefined) return { ...step, current: `on (${server.principalId})`, status: 'in-sync', detail: '' }
  const kept = server.userAssignedIdentities.length
  return {
    ...step,
    current: 'off',
    status: 'missing',
    detail: kept === 0 ? '' : `${kept} user-assigned ${kept === 1 ? 'identity is' : 'identities are'} kept`,
    change: { kind: 'identity' },
  }
}

/** The role of each named service on exactly its resource. */
function roleSteps(inputs: Inputs, { server, roleAssignments }: Observed): readonly Step[] {
  return inputs.services.map(({ service, resource, roleId }): Step => {
    const scope = resource.id
    const { role } = serviceNamed(service)
    const desired = roleId === role.id ? role.name : `role ${roleId}`
    const step = { id: roleStep(service), kind: 'role', service, scope, target: scope, desired } as const
    const assignments = roleAssignments.get(service)
    const principal = server.principalId
    if (assignments === undefined && principal !== undefined)
      return { ...step, current: 'unknown', status: 'failed', detail: 'the role assignments could not be read' }
    const assigned = principal === undefined ? undefined : assignmentGiving(assignments ?? [], principal, roleId, scope)
    if (assigned !== undefined) {
      const inherited = !sameId(assigned.scope, scope)
      const how = [
        inherited ? `inherited from ${assigned.scope}` : '',
        assigned.reaches === undefined ? '' : `through group ${assigned.principalId}`,
      ]
      return { ...step, current: desired, status: 'in-sync', detail: how.filter((each) => each !== '').join(', ') }
    }
    const former = formerAssignment(assignments ?? [], server, roleId, scope)
    return {
      ...step,
      current: former === undefined ? 'not assigned' : `assigned to ${former.principalId}`,
      status: 'missing',
      detail: former === undefined ? '' : 'a former identity of this server, which was restored or created again',
      change: { kind: 'role', service, scope, roleId },
    }
  })
}

/**
 * Read replicas have the settings of their primary and identities of their own. They are fixed by a run with the replica
 * as server, so apply reports them and a check counts them.
 */
function replicaSteps(inputs: Inputs, observed: Observed): Step[] {
  if (observed.server.isReplica || !scopeOf(inputs).looksAtRoles) return []
  return observed.replicas.map(({ server, missingRoles, restarted }) => {
    const lacks = [
      ...(server.principalId === undefined ? ['no identity'] : []),
      ...(server.principalId === undefined ? [] : missingRoles.map((service) => `no role for ${titleOf(service)}`)),
      ...(server.principalId !== undefined && restarted === false ? ['not restarted since its identity was turned on'] : []),
    ]
    const desired = 'identity and roles of its own'
    const step = { id: `replica/${server.name}`, kind: 'replica', target: server.id, desired } as const
    if (lacks.length === 0) return { ...step, current: desired, status: 'in-sync', detail: '' }
    const onlyRestart = server.principalId !== undefined && missingRoles.length === 0
    const detail = onlyRestart ? 'restart this replica' : 'run the action with this replica as `server`'
    const found: Step = { ...step, current: lacks.join(', '), status: 'different', detail }
    return inputs.mode === 'check' ? found : skipped(found, 'fixed by a run with this replica as `server`')
  })
}

/** A newly enabled identity works only after a restart. */
function restartStep(inputs: Inputs, observed: Observed): Step {
  const step = { id: 'restart', kind: 'restart', target: observed.server.name } as const
  if (observed.server.principalId !== undefined) {
    const former = formerIdentity(observed)
    if (former === undefined) return { ...step, current: 'not needed', ...noRestart }
    return { ...step, current: `the server runs with identity ${former}`, ...restartWanted(inputs) }
  }
  return { ...step, current: 'not yet', ...restartWanted(inputs) }
}

/** A restart that is not needed. */
export const noRestart = { desired: 'not needed', status: 'in-sync', detail: '' } as const

export function restartWanted({ allowRestart }: Inputs): Pick<Step, 'desired' | 'status' | 'detail' | 'change'> {
  return {
    desired: 'restarted after the identity was turned on',
    status: 'missing',
    detail: allowRestart ? '' : '`allow-restart` is false',
    ...(allowRestart ? { change: { kind: 'restart' } as const } : {}),
  }
}

/** What the settings of the named services are to be, each setting once, in the fixed order of their names. */
export function desiredSettings(
  inputs: Inputs,
  resources: ReadonlyMap<ServiceName, Resource>,
): readonly { readonly setting: string; readonly value: string; readonly family: FamilyName; readonly service: ServiceName }[] {
  const named = new Set(inputs.services.map((each) => each.service))
  const found = new Map<string, { setting: string; value: string; family: FamilyName; service: ServiceName }>()
  for (const service of services) {
    const resource = resources.get(service.name)
    if (!named.has(service.name) || resource === undefined) continue
    for (const source of service.settings) {
      const value = source.value(resource, inputs.authType)
      if (
        value === undefined ||
        (source.onlyFor ?? inputs.authType) !== inputs.authType ||
        (source.leftTo !== undefined && named.has(source.leftTo)) ||
        found.has(source.setting)
      )
        continue
      found.set(source.setting, { setting: source.setting, value, family: service.family, service: service.name })
    }
  }
  return [...found.values()].sort((a, b) => (a.setting < b.setting ? -1 : 1))
}

function databaseSteps(inputs: Inputs, observed: Observed, name: string, found: ObservedDatabase | undefined): Step[] {
  const database = found !== undefined && isRead(found) ? found : undefined
  const steps = [
    stepOfExtension(inputs, name, database),
    ...settingSteps(inputs, observed, name, database),
    ...keySteps(inputs, name, database),
  ]
  if (inputs.part === 'azure') return steps.map((step) => skipped(step, 'part: azure runs no SQL'))
  if (observed.server.isReplica) return steps.map((step) => skipped(step, 'a read replica has the settings of its primary'))
  if (database === undefined) {
    const reason = found?.failure?.title ?? `the server is ${observed.server.state}`
    return steps.map((step) => ({ ...skipped(step, reason), status: 'failed' }))
  }
  if (database.extension.installed !== undefined && !database.mayRead) {
    const reason = 'the connecting role may not read the settings'
    return steps.map((step) =>
      step.kind === 'setting' ? { ...skipped(step, reason), current: 'unknown', status: 'failed' } : step,
    )
  }
  return steps
}

function stepOfExtension(inputs: Inputs, name: string, database: ReadDatabase | undefined): Step {
  const step = { id: extensionStep(name), kind: 'extension', database: name, target: name } as const
  const { installed, available } = database?.extension ?? {}
  if (installed === undefined) {
    return {
      ...step,
      current: database === undefined ? 'unknown' : 'not installed',
      desired: available === undefined ? 'azure_ai' : `azure_ai ${available}`,
      status: 'missing',
      detail: '',
      change: { kind: 'extension', database: name, statement: 'create' },
    }
  }
  if (database !== undefined && updates(inputs, database)) {
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

/** Whether the azure_ai that this run finds, or leaves, has the service. */
const isOffered = (inputs: Inputs, service: Service, database: ReadDatabase | undefined): boolean =>
  database === undefined || updates(inputs, database) || lackedBy(database, service) === undefined

/** The key of a member that is not named is cleared as well: a step shows it only where it is stored. */
const isKeyOfInterest = (key: string, named: readonly Service[], database: ReadDatabase | undefined): boolean =>
  named.some((service) => memberOf(service).key === key) || database?.keysSet.has(key) === true

/** Keys show as set or not set: to be stored on the rollback to keys, to be cleared with `clear-keys`. */
function keySteps(inputs: Inputs, name: string, database: ReadDatabase | undefined): Step[] {
  const store = !scopeOf(inputs).byIdentity
  if (!store && !inputs.clearKeys) return []
  const keys = namedFamilies(inputs).flatMap(({ family, services: named }) =>
    (store
      ? named.filter((service) => isOffered(inputs, service, database)).map((service) => memberOf(service).key)
      : keysOf(family).filter((key) => isKeyOfInterest(key, named, database))
    )
      .filter((key, index, all) => all.indexOf(key) === index)
      .map((key) => ({ family: family.name, key })),
  )
  return keys.map(({ family, key }): Step => {
    const step = { id: settingStep(name, key), kind: 'setting', database: name, family, setting: key, target: name } as const
    const isSet = database?.keysSet.has(key) === true
    const state = database?.keyStates.get(key)
    if (store && isSet && state === undefined) {
      const detail = 'the connecting role may not read the key, so it is not compared with that of the resource'
      return { ...step, current: 'set', desired: 'set', status: 'skipped', detail }
    }
    const word = (set: boolean): string => (set ? 'set' : 'not set')
    const shown = { current: database === undefined ? 'unknown' : word(isSet), desired: word(store) }
    if (store ? isSet && state !== 'other' : !isSet) return { ...step, ...shown, status: 'in-sync', detail: '' }
    return {
      ...step,
      ...shown,
      status: isSet ? 'different' : 'missing',
      detail: store && isSet ? 'another key than that of the resource' : '',
      change: { kind: 'key', database: name, family, setting: key, action: store ? 'store' : 'clear' },
    }
  })
}

function settingSteps(inputs: Inputs, observed: Observed, name: string, database: ReadDatabase | undefined): Step[] {
  const named = inputs.services.map(({ service }) => service)
  return desiredSettings(inputs, observed.resources).map(({ setting, value, family }): Step => {
    const step = { id: settingStep(name, setting), kind: 'setting', database: name, family, setting, target: name } as const
    const current = database?.settings.get(setting)
    if (current !== undefined && sameValue(setting, current, value))
      return { ...step, current, desired: value, status: 'in-sync', detail: '' }
    const lacked = database === undefined || updates(inputs, database) ? undefined : settingLacked(database, setting, named)
    if (lacked !== undefined) return { ...step, current: 'not set', desired: value, status: 'skipped', detail: lacked }
    return {
      ...step,
      current: current ?? (database === undefined ? 'unknown' : 'not set'),
      desired: value,
      status: current === undefined ? 'missing' : 'different',
      detail: '',
      change: { kind: 'setting', database: name, family, setting, from: current, to: value },
    }
  })
}

/** Whether this run updates the extension of the database. */
export function updates({ updateExtension }: Pick<Inputs, 'updateExtension'>, { extension }: ReadDatabase): boolean {
  return updateExtension && newerVersion(extension) !== undefined
}

/** The families of the named services, each with its services, in the order of the table. */
export function namedFamilies(
  inputs: Inputs,
): readonly { readonly family: (typeof families)[FamilyName]; readonly services: readonly Service[] }[] {
  return Object.values(families).flatMap((family) => {
    const own = inputs.services.map((each) => serviceNamed(each.service)).filter((service) => service.family === family.name)
    return own.length === 0 ? [] : [{ family, services: own }]
  })
}
