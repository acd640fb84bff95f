/** Random worlds as small data that can be printed, and the emulator brought into the state that such data describes. */
import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import { builtInRoles } from '../../emulator/default-world.ts'
import type { Emulator } from '../../emulator/index.ts'
import type { Account, Delays, Switches, World } from '../../emulator/world.ts'
import { assignmentDescription } from '../../src/core/observed.ts'
import { type FamilyName, type ServiceName, serviceNamed } from '../../src/core/services.ts'
import { accountNamed, addKeyedEndpoint, assignRole, begin, databasesOf, giveIdentity, serverOf } from './support.ts'

const services = ['openai', 'cognitive', 'translator', 'machine-learning', 'ranking'] as const
const familyNames = ['azure_openai', 'azure_cognitive', 'azure_ml'] as const

/** What a family is set to before the first run. */
export type FamilyState = 'unset' | 'endpoint' | 'key' | 'identity' | 'identity-and-key' | 'elsewhere'

export interface RandomDatabase {
  /** Undefined: not installed. */
  readonly version: '1.0.0' | '1.3.1' | 'newest' | undefined
  readonly families: Readonly<Record<FamilyName, FamilyState>>
  /** Something else that obeys a family's auth_type. */
  readonly alsoUsed: 'no' | 'translation' | 'ranking'
}

export interface RandomWorld {
  readonly given: readonly ServiceName[]
  /** One multi-service account for all that one can serve. */
  readonly oneAccount: boolean
  readonly authType: 'managed-identity' | 'subscription-key'
  readonly part: 'all' | 'azure' | 'database'
  readonly clearKeys: boolean
  readonly allowRestart: boolean
  readonly allowUnproven: boolean
  readonly updateExtension: boolean
  readonly testQueries: boolean
  /** `unused`: on, and the running server does not know it. */
  readonly identity: 'off' | 'on' | 'unused'
  readonly userAssigned: boolean
  /** Where each service's role is held, once there is an identity. */
  readonly roles: Readonly<Record<ServiceName, 'none' | 'resource' | 'group' | 'subscription' | 'by-group' | 'too-broad'>>
  /** Roles of an identity that the server had before. */
  readonly former: boolean
  readonly allowList: readonly string[]
  readonly databases: readonly RandomDatabase[]
  readonly switches: Partial<Switches>
  readonly delays: Partial<Delays>
  /** The run at the same time: the same inputs for fewer families and databases. */
  readonly beside: { readonly families: number; readonly databases: number; readonly afterMs: number }
}

/** One in `n`, and shrinking towards the other. */
const seldom = <T>(n: number, usual: T, other: T): fc.Arbitrary<T> =>
  fc.oneof({ weight: n - 1, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary: fc.constant(other) })

const familyState = fc.constantFrom<FamilyState>('unset', 'key', 'identity', 'identity-and-key', 'endpoint', 'elsewhere')

const database: fc.Arbitrary<RandomDatabase> = fc.record({
  version: fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom('newest' as const, undefined) },
    { weight: 1, arbitrary: fc.constantFrom('1.3.1' as const, '1.0.0' as const) },
  ),
  families: fc.record({ azure_openai: familyState, azure_cognitive: familyState, azure_ml: familyState }),
  alsoUsed: fc.oneof(
    { weight: 6, arbitrary: fc.constant('no' as const) },
    { weight: 1, arbitrary: fc.constantFrom('translation' as const, 'ranking' as const) },
  ),
})

const role = fc.constantFrom('none', 'resource', 'group', 'subscription', 'by-group', 'too-broad')

const switches: fc.Arbitrary<Partial<Switches>> = fc
  .record({
    unset: seldom<Switches['unset']>(4, 'null', 'empty'),
    clearingRefused: seldom(8, false, true),
    keyWins: seldom(20, false, true),
    committedRowsOnly: seldom(20, false, true),
    sessionCache: seldom(6, false, true),
    restartNeeded: seldom(4, true, false),
    translateOwnEndpoint: seldom(20, false, true),
    refuseReadOnly: seldom(6, false, true),
    unfamiliarTexts: seldom(20, false, true),
  })
  .map((drawn) => drawn)

export const randomWorld: fc.Arbitrary<RandomWorld> = fc
  .record({
    given: fc.subarray([...services], { minLength: 1 }),
    oneAccount: seldom(3, false, true),
    authType: seldom<RandomWorld['authType']>(4, 'managed-identity', 'subscription-key'),
    part: fc.oneof(
      { weight: 8, arbitrary: fc.constant('all' as const) },
      { weight: 1, arbitrary: fc.constant('azure' as const) },
      { weight: 1, arbitrary: fc.constant('database' as const) },
    ),
    clearKeys: seldom(3, false, true),
    allowRestart: seldom(5, true, false),
    allowUnproven: seldom(4, false, true),
    updateExtension: seldom(2, true, false),
    testQueries: seldom(10, true, false),
    identity: fc.oneof(
      { weight: 3, arbitrary: fc.constant('on' as const) },
      { weight: 2, arbitrary: fc.constant('off' as const) },
      { weight: 1, arbitrary: fc.constant('unused' as const) },
    ),
    userAssigned: fc.boolean(),
    roles: fc.record({ openai: role, cognitive: role, translator: role, 'machine-learning': role, ranking: role }),
    former: seldom(4, false, true),
    allowList: fc.uniqueArray(fc.constantFrom('vector', 'pg_trgm', 'AZURE_AI', 'azure_storage'), { maxLength: 3 }),
    databases: fc.array(database, { minLength: 1, maxLength: 3 }),
    switches,
    delays: fc.record({
      operation: fc.constantFrom(0, 100),
      rolePropagation: fc.constantFrom(0, 300),
      roleReplication: fc.constantFrom(0, 500),
      principalReplication: fc.constantFrom(0, 200),
      allowListPropagation: fc.constantFrom(0, 200),
    }),
    beside: fc.record({
      families: fc.integer({ min: 1, max: 7 }),
      databases: fc.integer({ min: 1, max: 7 }),
      afterMs: fc.nat(1_500),
    }),
  })
  .map((world) => {
    const byKey = world.authType === 'subscription-key'
    return {
      ...world,
      clearKeys: world.clearKeys && !byKey,
      // The way back takes one account for both.
      oneAccount: world.oneAccount || (byKey && world.given.includes('cognitive') && world.given.includes('translator')),
      // Where it cannot be foretold how a run ends, waiting decides nothing.
      delays: foretold(world) ? world.delays : {},
    }
  })

/** Whether everything is documented or harmless, nothing forbids what is needed, and so an apply has to end well. */
export function foretold(world: Omit<RandomWorld, 'delays' | 'beside'>): boolean {
  const { given, switches, databases } = world
  const byKey = world.authType === 'subscription-key'
  const sql = world.part !== 'azure'
  const has = (name: ServiceName): boolean => given.includes(name)
  const strange = switches.keyWins || switches.committedRowsOnly || switches.unfamiliarTexts || switches.translateOwnEndpoint
  if (strange && sql) return false
  if (sql && databases.some(({ version }) => version === '1.0.0' && !world.updateExtension)) return false
  if (sql && !world.testQueries) return false
  if (sql && has('machine-learning') && !has('ranking') && databases.some(({ alsoUsed }) => alsoUsed === 'ranking')) return false
  // Only the newest version ranks.
  const ranks = ({ version }: RandomDatabase): boolean => version === undefined || version === 'newest' || world.updateExtension
  if (sql && has('ranking') && !databases.every(ranks)) return false
  const isScored = ({ families: { azure_ml: state } }: RandomDatabase): boolean => state !== 'unset'
  if (sql && has('ranking') && !has('machine-learning') && databases.some(isScored)) return false
  if (sql && has('cognitive') && !has('translator') && databases.some(({ alsoUsed }) => alsoUsed === 'translation')) return false
  // A Translator alone, where the text analysis of another account may be in use.
  const foreign = ({ version, families: { azure_cognitive: state } }: RandomDatabase): boolean =>
    version !== undefined && state !== 'unset' && !(world.oneAccount && state !== 'elsewhere')
  if (sql && has('translator') && !has('cognitive') && databases.some(foreign)) return false
  if (sql && world.clearKeys && (switches.clearingRefused || (has('cognitive') && !has('translator')))) return false
  if (byKey) return sql ? databases.every(({ version }) => version !== undefined) || allowed(world) || world.part === 'all' : true
  if (world.identity === 'unused' && sql) return false
  const restart = world.identity === 'off' && switches.restartNeeded !== false
  if (world.part === 'azure') return world.identity !== 'off' || world.allowRestart
  if (restart && !world.allowRestart) return false
  if (world.part === 'all') return true
  const holds = (name: ServiceName): boolean => !['none', 'too-broad'].includes(world.roles[name])
  return (
    world.identity === 'on' && given.every(holds) && (databases.every(({ version }) => version !== undefined) || allowed(world))
  )
}

const allowed = ({ allowList }: Pick<RandomWorld, 'allowList'>): boolean => allowList.includes('AZURE_AI')

/** The names of the databases that take part. */
export function databasesIn(emulator: Emulator, world: RandomWorld): string[] {
  return databasesOf(emulator).slice(0, world.databases.length)
}

/** The resource that is given for a service. */
function resourceFor(emulator: Emulator, world: RandomWorld, service: ServiceName): string {
  if (service === 'machine-learning') {
    const endpoints = emulator.world.workspaces[0]?.onlineEndpoints ?? []
    return (world.authType === 'subscription-key' ? endpoints.at(-1) : endpoints[0])?.id ?? ''
  }
  if (service === 'ranking') return emulator.world.workspaces[0]?.serverlessEndpoints?.[0]?.id ?? ''
  const own = { openai: 'contoso-openai', cognitive: 'contoso-language', translator: 'contoso-translator' }[service]
  return accountNamed(emulator.world, world.oneAccount ? 'contoso-ai' : own).id
}

/** The action's inputs; `beside`: those of the run at the same time. */
export function inputsFor(emulator: Emulator, world: RandomWorld, beside = false): Record<string, string> {
  const all = databasesIn(emulator, world)
  const some = <T>(list: readonly T[], bits: number): readonly T[] => {
    const chosen = list.filter((_, index) => (bits >> index) & 1)
    return chosen.length === 0 || !beside ? list : chosen
  }
  // A family is switched as a whole: half of its services would be asked for something else.
  const own = familyNames.filter((family) => world.given.some((name) => serviceNamed(name).family === family))
  const families = some(own, world.beside.families)
  const given = world.given.filter((name) => families.includes(serviceNamed(name).family))
  return {
    ...Object.fromEntries(services.map((name) => [name, given.includes(name) ? resourceFor(emulator, world, name) : ''])),
    ...(given.includes('machine-learning') ? {} : { 'machine-learning-input': '' }),
    databases: some(all, world.beside.databases).join('\n'),
    'auth-type': world.authType,
    part: world.part,
    'clear-keys': String(world.clearKeys),
    'allow-restart': String(world.allowRestart),
    'allow-unproven': String(world.allowUnproven),
    'update-extension': String(world.updateExtension),
    'test-queries': String(world.testQueries),
    'verify-timeout-minutes': foretold(world) ? '1' : '0.02',
  }
}

/** Brings the emulator into the state of the random world; nothing was asked of it then. */
export async function become(emulator: Emulator, random: RandomWorld): Promise<void> {
  await begin(emulator)
  const { world, postgres } = emulator
  const server = serverOf(emulator)
  const ai: Account = {
    ...structuredClone(accountNamed(world, 'contoso-openai')),
    id: accountNamed(world, 'contoso-openai').id.replace(/[^/]+$/, 'contoso-ai'),
    name: 'contoso-ai',
    customSubDomainName: 'contoso-ai',
    kind: 'AIServices',
    // The same in every world of one making.
    keys: { key1: 'the first key of contoso-ai', key2: 'the second key of contoso-ai' },
  }
  world.accounts.push(ai)
  if (random.authType === 'subscription-key') addKeyedEndpoint(world)
  // Somebody's, to be left alone.
  server.firewallRules['office'] = { startIpAddress: '203.0.113.7', endIpAddress: '203.0.113.9' }
  server.configurations['work_mem'] = { value: '8192', source: 'user-override' }
  server.configurations['azure.extensions'] = { value: random.allowList.join(','), source: 'user-override' }
  if (!random.userAssigned) delete server.identity
  delete server.loadedPrincipalId
  if (random.identity !== 'off') {
    const objectId = giveIdentity(emulator)
    if (!random.userAssigned) server.identity = { type: 'SystemAssigned', principalId: objectId }
    if (random.identity === 'unused') delete server.loadedPrincipalId
    giveRandomRoles(emulator, random, objectId)
  }
  if (random.former)
    assign(
      world,
      randomUUID(),
      resourceFor(emulator, random, random.given[0] ?? 'openai'),
      roleOf(random.given[0] ?? 'openai'),
      assignmentDescription(server.id),
    )
  for (const [index, name] of databasesIn(emulator, random).entries()) {
    const drawn = random.databases[index]
    if (drawn?.version === undefined) continue
    const version = drawn.version === 'newest' ? '' : ` VERSION '${drawn.version}'`
    await postgres.query(name, `CREATE EXTENSION azure_ai${version}`)
    const rows = Object.entries(settingsBefore(emulator, random, drawn)).filter(
      ([key]) => drawn.version !== '1.0.0' || !/auth_type|resource_id|ranking/.test(key),
    )
    await postgres.query(name, 'INSERT INTO azure_ai.settings SELECT * FROM unnest($1::text[], $2::text[])', [
      rows.map(([key]) => key),
      rows.map(([, value]) => value),
    ])
  }
  Object.assign(world.switches, random.switches)
  Object.assign(world.delays, random.delays)
  await emulator.refresh()
  if (random.identity !== 'off') await postgres.restart()
  server.startedAt = Date.now()
  world.exchanges.length = 0
}

const roleOf = (service: ServiceName): string => serviceNamed(service).role.id

function assign(world: World, principalId: string, scope: string, roleId: string, description?: string): void {
  const alike = world.roleAssignments.some(
    (each) => each.principalId === principalId && each.scope === scope && each.roleDefinitionId.endsWith(roleId),
  )
  if (alike) return
  assignRole(world, principalId, scope, roleId, description === undefined ? {} : { description })
}

function giveRandomRoles(emulator: Emulator, random: RandomWorld, objectId: string): void {
  const { world } = emulator
  const group = randomUUID()
  world.principals.push({ objectId: group, displayName: 'users of AI', kind: 'Group' })
  const own = world.principals.find((each) => each.objectId === objectId)
  if (own !== undefined) own.memberOf = [group]
  for (const service of services) {
    const scope = resourceFor(emulator, random, service)
    switch (random.roles[service]) {
      case 'none':
        break
      case 'resource':
        assign(world, objectId, scope, roleOf(service))
        break
      case 'group':
        assign(world, objectId, scope.slice(0, scope.indexOf('/providers')), roleOf(service))
        break
      case 'subscription':
        assign(world, objectId, `/subscriptions/${world.subscriptionId}`, roleOf(service))
        break
      case 'by-group':
        assign(world, group, scope, roleOf(service))
        break
      case 'too-broad':
        assign(world, objectId, scope, builtInRoles.contributor)
    }
  }
}

/** The rows of a database that was set up before. */
function settingsBefore(emulator: Emulator, random: RandomWorld, { families, alsoUsed }: RandomDatabase): Record<string, string> {
  const { world } = emulator
  const openai = accountNamed(world, random.oneAccount ? 'contoso-ai' : 'contoso-openai')
  const language = accountNamed(world, random.oneAccount ? 'contoso-ai' : 'contoso-language')
  const endpoints = world.workspaces[0]?.onlineEndpoints ?? []
  const endpoint = random.authType === 'subscription-key' ? endpoints.at(-1) : endpoints[0]
  const usual: Record<FamilyName, { endpoint: [string, string]; key: [string, string] }> = {
    azure_openai: {
      endpoint: ['azure_openai.endpoint', `https://${openai.name}.openai.azure.com/`],
      key: ['azure_openai.subscription_key', openai.keys.key1],
    },
    azure_cognitive: {
      endpoint: ['azure_cognitive.endpoint', `https://${language.name}.cognitiveservices.azure.com/`],
      key: ['azure_cognitive.subscription_key', language.keys.key2],
    },
    azure_ml: {
      endpoint: ['azure_ml.scoring_endpoint', endpoint?.scoringUri ?? ''],
      key: ['azure_ml.endpoint_key', endpoint?.keys.primaryKey ?? ''],
    },
  }
  const rows: Record<string, string> = {}
  for (const family of familyNames) {
    const state = families[family]
    if (state === 'unset') continue
    const { endpoint: at, key } = usual[family]
    rows[at[0]] = state === 'elsewhere' ? 'https://contoso-gone.cognitiveservices.azure.com' : at[1]
    if (state === 'endpoint') continue
    rows[`${family}.auth_type`] = state.startsWith('identity') ? 'managed-identity' : 'subscription-key'
    if (state !== 'identity') rows[key[0]] = state === 'elsewhere' ? 'a key of long ago' : key[1]
  }
  if (alsoUsed === 'translation') rows['azure_cognitive.region'] = 'westeurope'
  if (alsoUsed === 'ranking') rows['azure_ml.serverless_ranking_endpoint'] = 'https://ranking.contoso.com'
  return rows
}
