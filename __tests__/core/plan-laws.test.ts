/** Properties of every plan, over random inputs and random states of Azure and the databases. */
import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { findings } from '../../src/core/findings.ts'
import { advisedInputs, type Inputs } from '../../src/core/inputs.ts'
import { createJournal } from '../../src/core/journal.ts'
import {
  assignmentDescription,
  isRead,
  type Observed,
  type ObservedDatabase,
  type ObservedReplica,
  type ReadDatabase,
  type RoleAssignment,
} from '../../src/core/observed.ts'
import { databaseNames, namedFamilies, plan } from '../../src/core/plan.ts'
import { planId, sinceThen } from '../../src/core/plan-id.ts'
import { preconditions } from '../../src/core/preconditions.ts'
import { allMembers, families, keysOf, type Resource, type ServiceName } from '../../src/core/services.ts'
import { sameValue } from '../../src/core/setting-values.ts'
import { type Change, differs, type Step, withWaits } from '../../src/core/steps.ts'
import { Failure } from '../../src/errors/failure.ts'
import { cheap } from '../support/law.ts'
import { ids, observed, observedDatabase, observedServer, parsed } from '../support/support.ts'

const serviceNames = ['openai', 'cognitive', 'translator', 'machine-learning'] as const
/** Some that could be taken for the first half of another step's id. */
const databasePool = ['app', 'sales 2026', 'crm', 'role', 'identity', 'app/extension', 'données "x"']
const own = '11111111-2222-4333-8444-555555555555'
const another = '99999999-2222-4333-8444-555555555555'
const otherRole = '8e3af657-a8ff-443c-a75c-2fe8c4bcb635'
const customRole = '0f0f0f0f-1111-4222-8333-444444444444'
const keyText = 'k3y-that-must-not-be-seen'

// ---- inputs

const someInputs = fc
  .record({
    services: fc.subarray([...serviceNames], { minLength: 1 }),
    oneAccount: fc.boolean(),
    workspace: fc.boolean(),
    customRoles: fc.subarray([...serviceNames]),
    mode: fc.constantFrom('apply', 'check'),
    part: fc.constantFrom('all', 'all', 'azure', 'database'),
    authType: fc.constantFrom('managed-identity', 'managed-identity', 'subscription-key'),
    clearKeys: fc.boolean(),
    allowRestart: fc.boolean(),
    updateExtension: fc.boolean(),
    databases: fc.shuffledSubarray(databasePool, { minLength: 1 }),
    every: fc.boolean(),
  })
  .map((drawn) => {
    const raw: Record<string, string> = {}
    const byKey = drawn.authType === 'subscription-key'
    const one = drawn.oneAccount || byKey
    for (const service of serviceNames) {
      const id =
        service === 'translator' && one
          ? ids.cognitive
          : service === 'machine-learning' && drawn.workspace
            ? ids[service].replace(/\/onlineEndpoints\/.*/, '')
            : ids[service]
      raw[service] = drawn.services.includes(service) ? id : ''
      if (drawn.customRoles.includes(service) && drawn.services.includes(service)) raw[`${service}-role`] = customRole
    }
    if (byKey && drawn.services.includes('openai')) raw['openai-key'] = keyText
    return parsed({
      ...raw,
      mode: drawn.mode,
      part: drawn.part,
      'auth-type': drawn.authType,
      'clear-keys': String(drawn.clearKeys && !byKey),
      'allow-restart': String(drawn.allowRestart),
      'update-extension': String(drawn.updateExtension),
      databases: drawn.every && drawn.mode === 'check' ? '*' : drawn.databases.join('\n'),
    })
  })

// ---- states

/** What each setting is to be, worked out a second time and in another way than the plan does. */
function wanted(inputs: Inputs, resources: ReadonlyMap<ServiceName, Resource>): Map<string, string> {
  const values = new Map<string, string | undefined>()
  const byKey = inputs.authType === 'subscription-key'
  const named = (service: ServiceName): Resource | undefined =>
    inputs.services.some((each) => each.service === service) ? resources.get(service) : undefined
  const account = (resource: Resource, domain: string): string | undefined =>
    resource.customSubdomain === undefined
      ? byKey
        ? resource.endpoints[0]
        : undefined
      : `https://${resource.customSubdomain}.${domain}.azure.com`
  const openai = named('openai')
  const language = named('cognitive')
  const translator = named('translator')
  const learning = named('machine-learning')
  if (openai !== undefined) {
    values.set('azure_openai.auth_type', inputs.authType)
    values.set('azure_openai.endpoint', account(openai, 'openai'))
  }
  if (language !== undefined || translator !== undefined) values.set('azure_cognitive.auth_type', inputs.authType)
  if (language !== undefined) values.set('azure_cognitive.endpoint', account(language, 'cognitiveservices'))
  if (translator !== undefined) {
    // The language account sets the endpoint when `cognitive` is set, whether or not that account could be read.
    if (!inputs.services.some(({ service }) => service === 'cognitive'))
      values.set('azure_cognitive.endpoint', account(translator, 'cognitiveservices'))
    values.set('azure_cognitive.region', translator.location.toLowerCase().replaceAll(' ', ''))
    if (!byKey) values.set('azure_cognitive.translator_resource_id', translator.id)
  }
  if (learning !== undefined) {
    values.set('azure_ml.auth_type', inputs.authType)
    values.set('azure_ml.scoring_endpoint', learning.endpoints[0])
  }
  return new Map([...values].flatMap(([key, value]) => (value === undefined ? [] : [[key, value] as const])))
}

/** Written otherwise and meaning the same. */
function respelt(setting: string, value: string): string {
  if (setting.endsWith('endpoint')) return value.replace(/\/\/[^/]+/, (host) => host.toUpperCase()).replace(/\/?$/, '/')
  if (setting.endsWith('resource_id')) return `${value.toUpperCase()}/`
  return value
}

const someResource = (service: ServiceName): fc.Arbitrary<Resource> =>
  fc
    .record({
      subdomain: fc.option(fc.constantFrom('one', 'two'), { nil: undefined, freq: 4 }),
      shows: fc.constantFrom('own', 'global', 'several', 'nothing'),
      location: fc.constantFrom('swedencentral', 'Sweden Central'),
    })
    .map(({ subdomain, shows, location }) => {
      const first = observed().resources.get(service)
      if (first === undefined) throw new Error(service)
      if (service === 'machine-learning')
        return { ...first, location, endpoints: shows === 'nothing' ? [] : ['https://score.x.inference.ml.azure.com/score'] }
      const global = `https://${location.toLowerCase().replace(' ', '')}.api.cognitive.microsoft.com/`
      const label = service === 'openai' ? 'openai' : 'cognitiveservices'
      const ownName = `https://${subdomain}.${label}.azure.com/`
      const several = [`https://${subdomain}.services.ai.azure.com/`, `https://${subdomain}.cognitiveservices.azure.com/`]
      const endpoints = { own: [ownName], global: [global], several, nothing: [] }[subdomain === undefined ? 'global' : shows]
      return { ...first, location, customSubdomain: subdomain, endpoints }
    })

const someResources: fc.Arbitrary<ReadonlyMap<ServiceName, Resource>> = fc
  .tuple(fc.subarray([...serviceNames], { minLength: 3 }), ...serviceNames.map(someResource))
  .map(
    ([read, ...all]) =>
      new Map(serviceNames.flatMap((name, index) => (read.includes(name) ? [[name, all[index] as Resource]] : []))),
  )

type Where = 'resource' | 'spelt' | 'group' | 'subscription' | 'root' | 'management' | 'sibling' | 'child'
interface DrawnAssignment {
  who: 'own' | 'spelt' | 'another' | 'group'
  where: Where
  role: 'wanted' | 'other'
  described: boolean
}
const someAssignment: fc.Arbitrary<DrawnAssignment> = fc.record({
  who: fc.constantFrom('own', 'spelt', 'another', 'group'),
  where: fc.constantFrom<Where>('resource', 'spelt', 'group', 'subscription', 'root', 'management', 'sibling', 'child'),
  role: fc.constantFrom('wanted', 'other'),
  described: fc.boolean(),
})

function assignment(drawn: DrawnAssignment, scope: string, roleId: string, serial: number): RoleAssignment {
  const scopes: Record<Where, string> = {
    resource: scope,
    spelt: `${scope.toUpperCase()}`,
    group: scope.slice(0, scope.indexOf('/providers')),
    subscription: scope.split('/').slice(0, 3).join('/'),
    root: '/',
    management: '/providers/Microsoft.Management/managementGroups/contoso',
    sibling: `${scope}-2`,
    child: `${scope}/deployments/a`,
  }
  const at = scopes[drawn.where]
  const id = drawn.who === 'another' ? another : drawn.who === 'spelt' ? own.toUpperCase() : own
  return {
    id: `${at}/providers/Microsoft.Authorization/roleAssignments/${serial}`,
    scope: at,
    principalId: drawn.who === 'group' ? `group-${serial}` : id === another ? `${another.slice(0, -2)}${(serial % 90) + 10}` : id,
    reaches: drawn.who === 'group' ? own : undefined,
    roleId: drawn.role === 'wanted' ? roleId : otherRole,
    description: drawn.described ? assignmentDescription(ids.server) : undefined,
    createdOn: undefined,
  }
}

type Spelling = 'unset' | 'right' | 'respelt' | 'wrong'
interface DrawnDatabase {
  state: 'fine' | 'failed' | 'unreadable' | 'missing'
  installed: '1.0.0' | '1.3.1' | '2.0.0' | undefined
  available: '1.3.1' | '2.0.0' | undefined
  settings: Spelling[]
  keys: ('unset' | 'first' | 'second' | 'other' | 'unknown')[]
}
const someDatabase: fc.Arbitrary<DrawnDatabase> = fc.record({
  state: fc.constantFrom('fine', 'fine', 'fine', 'fine', 'fine', 'failed', 'unreadable', 'missing'),
  installed: fc.constantFrom('1.0.0', '1.3.1', '2.0.0', undefined),
  available: fc.constantFrom('1.3.1', '2.0.0', undefined),
  settings: fc.array(fc.constantFrom<Spelling>('unset', 'right', 'respelt', 'wrong'), { minLength: 9, maxLength: 9 }),
  keys: fc.array(fc.constantFrom('unset', 'first', 'second', 'other', 'unknown'), { minLength: 3, maxLength: 3 }),
})

const everySetting = [
  ...new Set([
    ...Object.values(families).flatMap((family) => [family.authType, ...family.others]),
    ...allMembers.map(({ endpoint }) => endpoint),
  ]),
]

const failure = (title: string): Failure => new Failure({ reason: 'network', code: 'dns', title, detail: title, fix: 'x' })

function database(name: string, drawn: DrawnDatabase, values: ReadonlyMap<string, string>): ObservedDatabase {
  if (drawn.state === 'failed') return { name, failure: failure(`"${name}" does not answer`) }
  const { installed } = drawn
  const readable = installed !== undefined && drawn.state !== 'unreadable'
  const settings = new Map<string, string>()
  const keysSet = new Set<string>()
  const keyStates = new Map<string, 'first' | 'second' | 'other'>()
  for (const [index, setting] of everySetting.entries()) {
    const right = values.get(setting)
    const spelling = drawn.settings[index] ?? 'unset'
    if (!readable || spelling === 'unset') continue
    if (spelling === 'wrong' || right === undefined) settings.set(setting, `https://${name.length}.somewhere.else/`)
    else settings.set(setting, spelling === 'right' ? right : respelt(setting, right))
  }
  for (const [index, { key }] of allMembers.entries()) {
    const state = drawn.keys[index] ?? 'unset'
    if (!readable || state === 'unset') continue
    keysSet.add(key)
    if (state !== 'unknown') keyStates.set(key, state)
  }
  return observedDatabase(name, {
    extension: { installed, available: drawn.available },
    mayRead: readable,
    maySet: readable || installed === undefined,
    settings,
    keysSet,
    keyStates,
    unknownSettings: new Set(installed === '1.0.0' ? everySetting.filter((each) => each.endsWith('auth_type')) : []),
  })
}

const someReplica = fc.record({
  principalId: fc.constantFrom(undefined, another),
  missing: fc.subarray([...serviceNames]),
  restarted: fc.constantFrom(undefined, true, false),
})

const someDrawn = fc.record({
  principalId: fc.constantFrom(undefined, own, own.toUpperCase()),
  state: fc.constantFrom('Ready', 'Ready', 'Ready', 'Stopped'),
  isReplica: fc.constantFrom(false, false, false, true),
  isElasticCluster: fc.constantFrom(false, false, false, true),
  userAssigned: fc.nat(2),
  allowList: fc.option(
    fc.uniqueArray(fc.constantFrom('vector', 'pg_trgm', 'azure_storage', 'azure_ai_x', 'AZURE_AI', 'azure_ai'), {
      selector: (name) => name.toLowerCase(),
    }),
    { nil: undefined, freq: 8 },
  ),
  resources: someResources,
  assignments: fc.array(fc.array(someAssignment, { maxLength: 5 }), { minLength: 4, maxLength: 4 }),
  unreadRoles: fc.constantFrom<ServiceName[]>([], [], [], ['openai'], ['translator', 'cognitive']),
  databases: fc.array(someDatabase, { minLength: databasePool.length, maxLength: databasePool.length }),
  replicas: fc.array(someReplica, { maxLength: 2 }),
})
type Drawn = typeof someDrawn extends fc.Arbitrary<infer T> ? T : never

function replicaOf({ principalId, missing, restarted }: Drawn['replicas'][number], serial: number): ObservedReplica {
  return {
    server: observedServer({ id: `${ids.server}-${serial}`, name: `pg-one-${serial}`, isReplica: true, principalId }),
    missingRoles: missing,
    restarted,
  }
}

/** A state as a run with these inputs would observe it. */
function stateOf(inputs: Inputs, drawn: Drawn): Observed {
  // Only a check continues when a resource could not be read.
  const resources = inputs.mode === 'check' ? drawn.resources : new Map([...observed().resources, ...drawn.resources])
  const sees = inputs.part !== 'azure' && !drawn.isReplica && drawn.state === 'Ready'
  const values = wanted(inputs, resources)
  const names = inputs.databases === '*' ? databasePool.slice(2) : inputs.databases
  const databases = names.map((name, index) => database(name, drawn.databases[index] as DrawnDatabase, values))
  return observed({
    server: observedServer({
      principalId: drawn.principalId,
      state: drawn.state,
      isReplica: drawn.isReplica,
      isElasticCluster: drawn.isElasticCluster,
      userAssignedIdentities: ['/one', '/two'].slice(0, drawn.userAssigned),
    }),
    allowList: inputs.mode === 'check' ? drawn.allowList : (drawn.allowList ?? []),
    resources,
    roleAssignments: new Map(
      inputs.services.flatMap(({ service, roleId, resource }, index) => {
        if (inputs.mode === 'check' && drawn.unreadRoles.includes(service)) return []
        const scope = resource.id
        const list = (drawn.assignments[index] ?? []).map((each, serial) => assignment(each, scope, roleId, 10 * index + serial))
        // Azure refuses a second assignment of the same role to the same principal at the same scope.
        const alike = (a: RoleAssignment, b: RoleAssignment): boolean =>
          [a.scope, a.roleId, a.principalId].join().toLowerCase() === [b.scope, b.roleId, b.principalId].join().toLowerCase()
        return [[service, list.filter((each, at) => list.findIndex((other) => alike(each, other)) === at)] as const]
      }),
    ),
    replicas: drawn.replicas.map(replicaOf),
    databases: sees
      ? databases.filter((_, index) => drawn.databases[index]?.state !== 'missing' || inputs.databases !== '*')
      : [],
  })
}

const somewhere = fc.tuple(someInputs, someDrawn).map(([inputs, drawn]) => ({ inputs, state: stateOf(inputs, drawn) }))

/** The same state with everything in it that the inputs require. */
function perfected(inputs: Inputs, state: Observed, spelling: (setting: string, value: string) => string): Observed {
  const principalId = state.server.principalId ?? own
  const resources = new Map([...observed().resources, ...state.resources])
  const values = wanted(inputs, resources)
  const byKey = inputs.authType === 'subscription-key'
  return {
    ...state,
    server: { ...state.server, principalId, state: 'Ready' },
    allowList: [...(state.allowList ?? []).filter((entry) => entry.toLowerCase() !== 'azure_ai'), 'Azure_AI'],
    resources,
    roleAssignments: new Map(
      inputs.services.map(({ service, roleId, resource }) => {
        const scope = resource.id
        const good = { who: 'own', where: 'group', role: 'wanted', described: false } as const
        return [service, [...(state.roleAssignments.get(service) ?? []), assignment(good, scope, roleId, 77)]]
      }),
    ),
    replicas: state.replicas.map((replica) => ({
      server: { ...replica.server, principalId: another },
      missingRoles: [],
      restarted: true,
    })),
    databases:
      inputs.part === 'azure' || state.server.isReplica
        ? []
        : (inputs.databases === '*' ? databasePool : inputs.databases).map((name) => {
            const { keysSet } = state.databases.filter(isRead).find((each) => each.name === name) ?? observedDatabase(name)
            const ownKeys = namedFamilies(inputs).flatMap(({ family }) => keysOf(family))
            const stored = new Set(
              byKey
                ? [...keysSet, ...ownKeys]
                : [...keysSet].filter((key) => !inputs.clearKeys || !ownKeys.includes(key as never)),
            )
            return observedDatabase(name, {
              extension: { installed: '2.0.0', available: '2.0.0' },
              settings: new Map([...values].map(([setting, value]) => [setting, spelling(setting, value)])),
              keysSet: stored,
              keyStates: new Map([...stored].map((key) => [key, 'second'])),
            })
          }),
  }
}

// ---- the state after apply, as data

/** The state after one change of a plan, as the services and the database would show it. */
function after(inputs: Inputs, state: Observed, change: Change): Observed {
  const inDatabase = (name: string, edit: (database: ReadDatabase) => Partial<ReadDatabase>): Observed => ({
    ...state,
    databases: state.databases.map((each) => (each.name === name && isRead(each) ? { ...each, ...edit(each) } : each)),
  })
  switch (change.kind) {
    case 'identity':
      return { ...state, server: { ...state.server, principalId: own } }
    case 'restart':
      return state
    case 'allow-list':
      return { ...state, allowList: change.entries }
    case 'role': {
      const { principalId } = state.server
      // Without an identity there is no principal for the role, so apply waits for it.
      if (principalId === undefined) return state
      const drawn = { who: 'own', where: 'resource', role: 'wanted', described: true } as const
      const made = { ...assignment(drawn, change.scope, change.roleId, 88), principalId }
      // The assignment appears at every named resource below its scope.
      return {
        ...state,
        roleAssignments: new Map(
          [...state.roleAssignments].map(([service, list]) => {
            const id = inputs.services.find((each) => each.service === service)?.resource.id
            return [service, id?.toLowerCase() === change.scope.toLowerCase() ? [...list, made] : list]
          }),
        ),
      }
    }
    case 'extension':
      return inDatabase(change.database, ({ extension, mayRead }) => ({
        extension: { ...extension, installed: extension.available ?? '1.3.1' },
        mayRead: mayRead || change.statement === 'create',
        unknownSettings: new Set(),
      }))
    case 'setting':
      return inDatabase(change.database, ({ settings }) => ({ settings: new Map([...settings, [change.setting, change.to]]) }))
    case 'key':
      return inDatabase(change.database, ({ keysSet, keyStates }) => ({
        keysSet:
          change.action === 'store'
            ? new Set([...keysSet, change.setting])
            : new Set([...keysSet].filter((key) => key !== change.setting)),
        keyStates: new Map([...keyStates, [change.setting, 'first' as const]]),
      }))
  }
}

const changesOf = (steps: readonly Step[]): readonly Change[] => steps.flatMap(({ change }) => change ?? [])
const afterAll = (inputs: Inputs, state: Observed, changes: readonly Change[]): Observed =>
  changes.reduce((before, change) => after(inputs, before, change), state)
const byId = (steps: readonly Step[]): Step[] => [...steps].sort((a, b) => (a.id < b.id ? -1 : 1))

/** The same list in another order, decided by numbers that were drawn. */
function reordered<T>(list: readonly T[], numbers: readonly number[]): T[] {
  return list
    .map((each, index) => [numbers[index % Math.max(numbers.length, 1)] ?? 0, index, each] as const)
    .sort(([a, i], [b, j]) => a - b || j - i)
    .map(([, , each]) => each)
}

const order = fc.array(fc.nat(100), { minLength: 8, maxLength: 8 })

/** Everything that Azure and PostgreSQL list, in another order; but for the allow-list, whose order is shown and kept. */
function relisted(state: Observed, numbers: readonly number[]): Observed {
  return {
    ...state,
    databases: reordered(state.databases, numbers),
    replicas: reordered(state.replicas, numbers),
    resources: new Map(reordered([...state.resources], numbers)),
    roleAssignments: new Map(
      reordered(
        [...state.roleAssignments].map(([service, list]) => [service, reordered(list, numbers)] as const),
        numbers,
      ),
    ),
  }
}

describe('the plan does not depend on order', () => {
  test('of what Azure and PostgreSQL list', () => {
    fc.assert(
      fc.property(somewhere, order, ({ inputs, state }, numbers) => {
        const one = plan(inputs, state)
        const two = plan(inputs, relisted(state, numbers))
        // The databases of `*`, and replicas always, are in the order in which they were listed.
        expect(byId(two)).toEqual(byId(one))
        if (inputs.databases !== '*' && state.replicas.length < 2) expect(two).toEqual(one)
        expect(planId(two)).toBe(planId(one))
        expect(byId(withWaits(two))).toEqual(byId(withWaits(one)))
      }),
      cheap,
    )
  })

  test('of the databases and services in the inputs', () => {
    fc.assert(
      fc.property(somewhere, order, ({ inputs, state }, numbers) => {
        const other: Inputs = {
          ...inputs,
          services: reordered(inputs.services, numbers),
          databases: inputs.databases === '*' ? '*' : reordered(inputs.databases, numbers),
        }
        const one = plan(inputs, state)
        const two = plan(other, state)
        expect(byId(two)).toEqual(byId(one))
        expect(planId(two)).toBe(planId(one))
        // Within a database, and in Azure, the order stays.
        for (const name of databaseNames(inputs, state)) {
          const ownSteps = (steps: readonly Step[]) => steps.filter(({ target, kind }) => kind === 'setting' && target === name)
          expect(ownSteps(two).filter(({ change }) => change?.kind !== 'key')).toEqual(
            ownSteps(one).filter(({ change }) => change?.kind !== 'key'),
          )
        }
        expect(new Set(preconditions(other, state, two).map(({ message }) => message))).toEqual(
          new Set(preconditions(inputs, state, one).map(({ message }) => message)),
        )
      }),
      cheap,
    )
  })

  test('of the allow-list: the plan id depends only on its entries', () => {
    fc.assert(
      fc.property(somewhere, order, ({ inputs, state }, numbers) => {
        fc.pre(state.allowList !== undefined)
        const one = plan(inputs, state)
        const two = plan(inputs, { ...state, allowList: reordered(state.allowList ?? [], numbers) })
        const shape = (steps: readonly Step[]) => steps.map(({ id, status }) => [id, status])
        expect(shape(two)).toEqual(shape(one))
        expect(planId(two)).toBe(planId(one))
      }),
      cheap,
    )
  })

  test('and neither do the findings, apart from their own order', () => {
    fc.assert(
      fc.property(somewhere, order, ({ inputs, state }, numbers) => {
        const findingsOf = (found: Observed) => {
          const journal = createJournal(() => undefined)
          journal.plan(plan(inputs, found), '')
          return new Set(findings(inputs, found, journal).map(({ code, detail, fix }) => `${code} ${detail} ${fix}`))
        }
        expect(findingsOf(relisted(state, numbers))).toEqual(findingsOf(state))
      }),
      cheap,
    )
  })
})

describe('each step', () => {
  test('has a unique id, and one that differs has a change or a reason', () => {
    fc.assert(
      fc.property(somewhere, ({ inputs, state }) => {
        const steps = plan(inputs, state)
        expect(new Set(steps.map(({ id }) => id)).size).toBe(steps.length)
        const wrong = steps.filter((step) => {
          const writes = step.change !== undefined
          const explained = step.detail !== ''
          switch (step.status) {
            case 'missing':
            case 'different':
              return !writes && !explained
            case 'failed':
            case 'skipped':
              return writes || !explained
            case 'in-sync':
              return writes
            default:
              return true
          }
        })
        expect(wrong).toEqual([])
      }),
      cheap,
    )
  })

  test('changes only what the inputs name', () => {
    fc.assert(
      fc.property(somewhere, ({ inputs, state }) => {
        const steps = plan(inputs, state)
        const names = databaseNames(inputs, state)
        const named = new Set(namedFamilies(inputs).map(({ family }) => family.name))
        for (const change of changesOf(steps)) {
          if ('database' in change) {
            expect(inputs.part).not.toBe('azure')
            expect(state.server.isReplica).toBe(false)
            expect(names).toContain(change.database)
            // A database that could not be inspected is not written.
            expect(state.databases.find(({ name }) => name === change.database)?.failure).toBeUndefined()
          } else expect(inputs.part).not.toBe('database')
          switch (change.kind) {
            case 'identity':
            case 'restart':
            case 'role':
              expect(inputs.authType).toBe('managed-identity')
              if (change.kind === 'restart') expect(inputs.allowRestart).toBe(true)
              if (change.kind !== 'role') break
              expect(change.scope).toBe(inputs.services.find(({ service }) => service === change.service)?.resource.id)
              expect(change.roleId).toBe(inputs.services.find(({ service }) => service === change.service)?.roleId)
              break
            case 'allow-list':
              expect(change.entries).toEqual([...(state.allowList ?? []), 'azure_ai'])
              break
            case 'extension':
              if (change.statement === 'update') expect(inputs.updateExtension).toBe(true)
              break
            case 'setting':
              expect(named).toContain(change.family)
              expect(change.setting.startsWith(`${change.family}.`)).toBe(true)
              expect(change.setting).not.toMatch(/_key$/)
              expect(wanted(inputs, state.resources).get(change.setting)).toBe(change.to)
              break
            case 'key':
              expect(named).toContain(change.family)
              expect(change.action === 'store').toBe(inputs.authType === 'subscription-key')
              if (change.action === 'clear') expect(inputs.clearKeys).toBe(true)
          }
        }
        expect(JSON.stringify(steps)).not.toContain(keyText)
      }),
      cheap,
    )
  })

  test('that waits names a step of the plan, and the chain ends at one that differs', () => {
    fc.assert(
      fc.property(somewhere, ({ inputs, state }) => {
        const steps = plan(inputs, state)
        const shown = withWaits(steps)
        expect(shown.map(({ id }) => id)).toEqual(steps.map(({ id }) => id))
        // Whether anything differs stays the same.
        expect(shown.some(differs)).toBe(steps.some(differs))
        for (const [index, step] of shown.entries()) {
          if (differs(step)) expect(step).toEqual(steps[index])
          let at: Step | undefined = step
          for (let far = 0; at?.detail.startsWith('waits for '); far++) {
            expect(far).toBeLessThan(5)
            const name = at.detail.slice('waits for '.length)
            at = shown.find(({ id }) => id === name)
          }
          if (at === undefined || (at !== step && !differs(at))) expect.fail(JSON.stringify([step, at]))
        }
      }),
      cheap,
    )
  })

  test('has the right current and desired value of a setting', () => {
    fc.assert(
      fc.property(somewhere, ({ inputs, state }) => {
        const values = wanted(inputs, state.resources)
        const steps = plan(inputs, state)
        for (const name of databaseNames(inputs, state)) {
          const found = state.databases.filter(isRead).find((each) => each.name === name)
          for (const [setting, value] of values) {
            const step = steps.find(({ id }) => id === `${name}/${setting}`)
            expect(step?.desired).toBe(value)
            if (step?.status === 'in-sync') expect(sameValue(setting, found?.settings.get(setting) ?? '', value)).toBe(true)
            if (step?.status === 'missing') expect(found?.settings.has(setting)).toBe(false)
          }
          const others = steps.filter(({ id, kind }) => kind === 'setting' && id.startsWith(`${name}/azure_`))
          for (const { id } of others) {
            const setting = id.slice(name.length + 1)
            expect(values.has(setting) || /_key$/.test(setting)).toBe(true)
          }
        }
      }),
      cheap,
    )
  })
})

describe('the state after a plan', () => {
  test('a state that meets the inputs has nothing to do, however its values are spelt', () => {
    fc.assert(
      fc.property(somewhere, fc.boolean(), ({ inputs, state }, otherwise) => {
        const there = perfected(inputs, state, otherwise ? respelt : (_, value) => value)
        const steps = plan(inputs, there)
        expect(steps.filter(differs)).toEqual([])
        expect(
          steps.filter(({ status, detail }) => status !== 'in-sync' && !/^(part:|a read replica|fixed by)/.test(detail)),
        ).toEqual([])
        expect(planId(steps)).toBe(planId([]))
        expect(sinceThen(planId([]), steps)).toBeUndefined()
      }),
      cheap,
    )
  })

  test('after all changes of the plan nothing is left to change, and only steps without a change differ', () => {
    fc.assert(
      fc.property(somewhere, ({ inputs, state }) => {
        const steps = plan(inputs, state)
        const then = plan(inputs, afterAll(inputs, state, changesOf(steps)))
        expect(changesOf(then)).toEqual([])
        const hopeless = new Set(steps.filter((step) => differs(step) && step.change === undefined).map(({ id }) => id))
        // Assignments that could not be read cannot be found in sync.
        for (const { service } of inputs.services) if (!state.roleAssignments.has(service)) hopeless.add(`role/${service}`)
        expect(then.filter(differs).filter(({ id }) => !hopeless.has(id))).toEqual([])
      }),
      cheap,
    )
  })

  test('after some of the changes, in any order, the plan has exactly the others left', () => {
    fc.assert(
      fc.property(somewhere, order, fc.nat(12), ({ inputs, state }, numbers, count) => {
        const steps = plan(inputs, state)
        const done = reordered(
          steps.filter(({ change }) => change !== undefined),
          numbers,
        ).slice(0, count)
        const left = plan(inputs, afterAll(inputs, state, changesOf(done)))
        const planned = new Map(steps.map(({ id, change }) => [id, change]))
        for (const { id, change } of left) {
          // Here a setting can be set before its extension exists, which no server allows.
          if (change !== undefined && !isDeepStrictEqual(change, planned.get(id))) expect(change, id).toEqual(planned.get(id))
        }
        // Applying the rest completes the plan.
        const end = plan(inputs, afterAll(inputs, afterAll(inputs, state, changesOf(done)), changesOf(left)))
        expect(changesOf(end)).toEqual([])
      }),
      cheap,
    )
  })
})

describe('the plan id', () => {
  test('is the same for the same changes and another for others, and the changes since are named', () => {
    fc.assert(
      fc.property(somewhere, fc.option(someDrawn), fc.boolean(), ({ inputs, state }, drawn, otherRoles) => {
        const others = inputs.services.map((each) => ({ ...each, roleId: otherRoles ? otherRole : each.roleId }))
        const one = plan(inputs, state)
        const two = plan({ ...inputs, services: others }, drawn === null ? state : stateOf(inputs, drawn))
        const due = (steps: readonly Step[]) =>
          byId(steps)
            .filter((step) => differs(step) && step.status !== 'failed' && step.kind !== 'replica')
            .map(({ id, change }) => [
              id,
              change?.kind === 'allow-list'
                ? [...change.entries].sort()
                : change?.kind === 'restart'
                  ? undefined
                  : change?.kind === 'setting'
                    ? { ...change, from: change.from ?? '' }
                    : change,
            ])
        expect(planId(one)).toMatch(/^[0-9a-f]{16}\.[0-9a-f]{16}(\.([0-9a-f]{16})+)?$/)
        expect(sinceThen(planId(one), one)).toBeUndefined()
        const same = JSON.stringify(due(one)) === JSON.stringify(due(two))
        expect(planId(one) === planId(two)).toBe(same)
        const changes = sinceThen(planId(one), two)
        const before = new Map(due(one).map(([id, change]) => [id, JSON.stringify(change)]))
        const isPart = due(two).every(([id, change]) => before.has(id) && before.get(id) === JSON.stringify(change))
        const isUnknown = two.some((step) => step.status === 'failed' && before.has(step.id))
        expect(changes === undefined).toBe(same || (isPart && !isUnknown))
        if (changes !== undefined) expect(changes.length).toBeGreaterThan(0)
      }),
      cheap,
    )
  })
})

test('every failed precondition has a title, a detail and a fix', () => {
  fc.assert(
    fc.property(somewhere, ({ inputs, state }) => {
      for (const problem of preconditions(inputs, state, plan(inputs, state))) {
        expect(problem).toBeInstanceOf(Failure)
        for (const part of [problem.title, problem.detail, problem.fix, problem.code]) expect(part).not.toBe('')
        expect(`${problem.detail} ${problem.fix}`).not.toMatch(/undefined|\[object/)
      }
    }),
    cheap,
  )
})

test('no fix suggests an input that is set', () => {
  fc.assert(
    fc.property(somewhere, ({ inputs, state }) => {
      const journal = createJournal(() => undefined)
      const steps = plan(inputs, state)
      journal.plan(steps, '')
      const fixes = [...preconditions(inputs, state, steps), ...findings(inputs, state, journal)].map(({ fix }) => fix)
      for (const [input, isSet] of Object.entries(advisedInputs(inputs)))
        if (isSet) expect(fixes.filter((fix) => fix.includes(`\`${input}`))).toEqual([])
    }),
    cheap,
  )
})
