/** What the tests of whole runs share: the built action against the emulated Azure, and a world put back to its beginning. */
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse } from 'yaml'
import { builtInRoles, defaultWorld, readerName } from '../../emulator/default-world.ts'
import { type Emulator, startEmulator } from '../../emulator/index.ts'
import { type Job, type JobResult, runJob, startJob } from '../../emulator/runner.ts'
import type {
  Account,
  Delays,
  Exchange,
  OnlineEndpoint,
  Principal,
  RoleAssignment,
  Server,
  Switches,
  World,
} from '../../emulator/world.ts'
import { type InputName, inputNames } from '../../src/core/input-names.ts'
import { type Inputs, parseInputs } from '../../src/core/inputs.ts'
import type { Observed, ObservedServer, ReadDatabase } from '../../src/core/observed.ts'
import type { Resource } from '../../src/core/services.ts'

/** Restart permitted and no more than half a minute of waiting: what most tests start from. */
export const usual = { 'allow-restart': 'true', 'verify-timeout-minutes': '0.5' }

/** Runs the action once. `inputs` go over those of the emulator and {@link usual}, `env` over the emulator's: a clock, for example. */
export function apply(
  emulator: Emulator,
  inputs: Record<string, string> = {},
  onLine?: (line: string) => void,
  env: Record<string, string> = {},
): Promise<JobResult> {
  return kept(runJob(jobOf(emulator, inputs, onLine, env)))
}

/** As {@link apply}, without waiting for the end. */
export async function start(
  emulator: Emulator,
  inputs: Record<string, string> = {},
  onLine?: (line: string) => void,
): Promise<Job> {
  const job = await startJob(jobOf(emulator, inputs, onLine))
  void kept(job.done)
  return job
}

function jobOf(
  emulator: Emulator,
  inputs: Record<string, string>,
  onLine?: (line: string) => void,
  env: Record<string, string> = {},
) {
  return {
    inputs: { ...emulator.inputs, ...usual, ...inputs },
    env: { ...emulator.env, ...env },
    ...(onLine === undefined ? {} : { onLine }),
  }
}

const jobs: JobResult[] = []

async function kept(job: Promise<JobResult>): Promise<JobResult> {
  const result = await job
  jobs.push(result)
  return result
}

/** Removes the folders of all jobs of this file. */
export async function removeJobs(): Promise<void> {
  await Promise.all(jobs.splice(0).map((job) => job.remove()))
}

/** A fresh beginning for each test of a file that shares one emulator. */
export interface Beginning {
  delays?: Partial<Delays>
  switches?: Partial<Switches>
  /** Changes the world before anything else happens. */
  shape?: (world: World) => void
}

const untouched = new WeakMap<
  World,
  { servers: string; accounts: string; workspaces: string; principals: string; roles: string }
>()

/** The emulator with nothing set up; {@link begin} brings it back here. */
export async function emulate(options: Parameters<typeof startEmulator>[0] = {}): Promise<Emulator> {
  const emulator = await startEmulator(options)
  const { world } = emulator
  untouched.set(world, {
    servers: JSON.stringify(world.servers),
    accounts: JSON.stringify(world.accounts),
    workspaces: JSON.stringify(world.workspaces),
    principals: JSON.stringify(world.principals),
    roles: JSON.stringify(world.roleAssignments),
  })
  return emulator
}

/** No identity, no role, no extension, nothing asked yet; then the given delays, switches and changes. */
export async function begin(emulator: Emulator, beginning: Beginning = {}): Promise<void> {
  const { world, postgres } = emulator
  const first = untouched.get(world)
  if (first === undefined) throw new Error('start the emulator with emulate()')
  calm(world)
  delete world.fault
  delete world.refusals
  delete world.tokenLifetime
  // The first server keeps its identity as an object: Resource Manager knows by it which one has a PostgreSQL.
  const [primary] = JSON.parse(first.servers) as Server[]
  const servers = JSON.parse(first.servers) as Server[]
  const own = serverOf(emulator)
  for (const key of Object.keys(own)) delete (own as unknown as Record<string, unknown>)[key]
  Object.assign(own, primary)
  world.servers.splice(1, Number.POSITIVE_INFINITY, ...servers.slice(1))
  replace(world.accounts, JSON.parse(first.accounts) as Account[])
  replace(world.workspaces, JSON.parse(first.workspaces) as World['workspaces'])
  replace(world.principals, JSON.parse(first.principals) as Principal[])
  replace(world.roleAssignments, JSON.parse(first.roles) as RoleAssignment[])
  replace(world.locks, [])
  replace(world.denyAssignments, [])
  await emulator.refresh()
  for (const name of databasesOf(emulator)) await postgres.query(name, 'DROP EXTENSION IF EXISTS azure_ai CASCADE')
  Object.assign(world.switches, beginning.switches)
  Object.assign(world.delays, beginning.delays)
  beginning.shape?.(world)
  // Delays are read whenever they matter.
  if (beginning.switches !== undefined || beginning.shape !== undefined) await emulator.refresh()
  world.exchanges.length = 0
}

/** Switches as they are likely to be, and no delay. */
function calm(world: World): void {
  const { switches, delays } = defaultWorld()
  Object.assign(world.switches, switches)
  Object.assign(world.delays, delays, { operation: 0 })
}

function replace<T>(list: T[], by: T[]): void {
  list.splice(0, Number.POSITIVE_INFINITY, ...by)
}

export function databasesOf(emulator: Emulator): string[] {
  return (emulator.inputs['databases'] ?? '').split('\n')
}

/** The server that has a PostgreSQL. */
export function serverOf(emulator: Emulator): Server {
  const [server] = emulator.world.servers
  if (server === undefined) throw new Error('the world has no server')
  return server
}

/** The identity as it is long after it was turned on: known to the running server. Its object id. */
export function giveIdentity(emulator: Emulator): string {
  const server = serverOf(emulator)
  const objectId = randomUUID()
  emulator.world.principals.push({ objectId, displayName: server.name, kind: 'ManagedIdentity' })
  server.identity = { ...server.identity, type: 'SystemAssigned,UserAssigned', principalId: objectId }
  server.loadedPrincipalId = objectId
  return objectId
}

export function accountNamed(world: World, name: string): Account {
  const found = world.accounts.find((account) => account.name === name)
  if (found === undefined) throw new Error(`no account ${name}`)
  return found
}

/** The app that may only read may log in to the databases. */
export async function admitReader(emulator: Emulator): Promise<void> {
  const { objectId } = principalNamed(emulator.world, readerName)
  serverOf(emulator).administrators.push({ objectId, principalName: readerName, principalType: 'ServicePrincipal' })
  await emulator.refresh()
}

/** Inputs of a job that signs in as the app that may only read, and the world in which it may log in to the database. */
export function asReader(emulator: Emulator): Record<string, string> {
  const reader = principalNamed(emulator.world, readerName)
  return { 'client-id': reader.clientId ?? '' }
}

export function principalNamed(world: World, name: string): Principal {
  const found = world.principals.find((principal) => principal.displayName === name)
  if (found === undefined) throw new Error(`no principal ${name}`)
  return found
}

/** Role assignments of the server's own identity, as `ROLE-GUID on SCOPE`, sorted. */
export function rolesOfServer(emulator: Emulator): string[] {
  const principalId = serverOf(emulator).identity?.principalId
  return emulator.world.roleAssignments
    .filter((assignment) => assignment.principalId === principalId)
    .map((assignment) => `${assignment.roleDefinitionId.split('/').at(-1)} on ${assignment.scope}`)
    .sort()
}

/** Every row of the settings table, keys included; empty without the extension. */
export async function settingsOf(emulator: Emulator, database: string): Promise<Record<string, string>> {
  const { postgres } = emulator
  const [found] = await postgres.query(database, `SELECT to_regclass('azure_ai.settings') IS NOT NULL AS found`)
  if (found?.['found'] !== true) return {}
  const rows = await postgres.query(database, 'SELECT key, value FROM azure_ai.settings ORDER BY key')
  return Object.fromEntries(rows.map((row) => [String(row['key']), String(row['value'])]))
}

/** A database that was set up long ago: azure_ai there, every family working with its key. The version is the server's newest unless given. */
export async function workWithKeys(emulator: Emulator, database: string, version?: string): Promise<Record<string, string>> {
  const { postgres, world } = emulator
  const openai = accountNamed(world, 'contoso-openai')
  const language = accountNamed(world, 'contoso-language')
  const endpoint = world.workspaces[0]?.onlineEndpoints[0]
  await postgres.query(database, `CREATE EXTENSION IF NOT EXISTS azure_ai${version === undefined ? '' : ` VERSION '${version}'`}`)
  const settings: Record<string, string> = {
    'azure_openai.auth_type': 'subscription-key',
    'azure_openai.endpoint': 'https://contoso-openai.openai.azure.com/',
    'azure_openai.subscription_key': openai.keys.key1,
    'azure_cognitive.auth_type': 'subscription-key',
    'azure_cognitive.endpoint': 'https://contoso-language.cognitiveservices.azure.com/',
    'azure_cognitive.subscription_key': language.keys.key1,
    'azure_ml.auth_type': 'subscription-key',
    'azure_ml.scoring_endpoint': endpoint?.scoringUri ?? '',
    'azure_ml.endpoint_key': endpoint?.keys.primaryKey ?? '',
  }
  const known = Object.entries(settings).filter(([key]) => version !== '1.0.0' || !key.endsWith('auth_type'))
  await postgres.query(
    database,
    'SELECT azure_ai.set_setting(key, value) FROM unnest($1::text[], $2::text[]) AS given (key, value)',
    [known.map(([key]) => key), known.map(([, value]) => value)],
  )
  return settingsOf(emulator, database)
}

/** Asks an embedding as an application would, with whatever is set; throws what azure_ai throws. */
export async function askEmbedding(emulator: Emulator, database: string): Promise<number> {
  const sql = `SELECT cardinality(azure_openai.create_embeddings('text-embedding-3-small', 'hello', timeout_ms => 10000)) AS n`
  const [row] = await emulator.postgres.query(database, sql)
  return Number(row?.['n'])
}

/** Requests for embeddings, sentiments and so on that were answered, and with whose token; `undefined` is a key. */
export function callersOfServices(exchanges: readonly Exchange[]): (string | undefined)[] {
  return exchanges.filter(({ plane, status }) => plane === 'ai' && status === 200).map(({ caller }) => caller)
}

/** The server's log since a position in it, as {@link logLength} gives it. */
export function logSince(emulator: Emulator, from: number): string {
  return readFileSync(emulator.postgres.logFile, 'utf8').slice(from)
}

export function logLength(emulator: Emulator): number {
  return readFileSync(emulator.postgres.logFile, 'utf8').length
}

/** One statement of the server's log. */
export interface LoggedStatement {
  pid: string
  user: string
  database: string
  sql: string
}

/** What came over the network since a position in the log, one entry for each statement; needs `log_statement = all`. */
export function statementsSince(emulator: Emulator, from: number): LoggedStatement[] {
  return logSince(emulator, from)
    .split(/^(?=\d{4}-\d\d-\d\d [\d:.]+ \w+ \[)/m)
    .flatMap((entry) => {
      const match = /^\S+ \S+ \S+ \[(\d+)\] (.*)@(.*?) LOG: {2}(?:statement|execute [^:]*): ([\s\S]*)$/.exec(entry)
      const [, pid = '', user = '', database = '', text = ''] = match ?? []
      if (match === null || user === 'azuresu') return []
      const parts = text.includes('SET LOCAL') ? text.split(';') : [text]
      return parts.map((sql) => ({ pid, user, database, sql: sql.trim() }))
    })
}

/** Statements that change something that stays, or could: read-write transactions that are not rolled back count. */
export function writingStatements(statements: readonly LoggedStatement[]): string[] {
  const changing =
    /^(CREATE|ALTER|DROP|INSERT|UPDATE|DELETE|MERGE|TRUNCATE|GRANT|REVOKE|COMMENT|COPY|DO|CALL|COMMIT|END|PREPARE TRANSACTION)\b/i
  const found: string[] = []
  // What is rolled back stays nowhere; a transaction that is still open at the end may not be.
  const open = new Map<string, string[]>()
  for (const { pid, sql } of statements) {
    if (/^(BEGIN|START)\b/i.test(sql) && !/\bREAD ONLY\b/i.test(sql)) open.set(pid, [sql])
    if (/^ROLLBACK$/i.test(sql)) open.delete(pid)
    if (!changing.test(sql) && !/azure_ai\.set_setting\s*\(/i.test(sql)) continue
    const transaction = open.get(pid)
    if (/^(COMMIT|END)\b/i.test(sql)) {
      found.push(...(transaction?.slice(1) ?? []), sql)
      open.delete(pid)
    } else (transaction ?? found).push(sql)
  }
  return [...found, ...[...open.values()].flat()]
}

/** Has PostgreSQL log every statement. */
export async function logStatements(emulator: Emulator): Promise<void> {
  await emulator.postgres.query('postgres', `ALTER SYSTEM SET log_statement = 'all'`)
  await emulator.postgres.query('postgres', 'SELECT pg_reload_conf()')
  for (let left = 100; left > 0; left--) {
    const [row] = await emulator.postgres.query('postgres', 'SHOW log_statement')
    if (row?.['log_statement'] === 'all') return
  }
  throw new Error('PostgreSQL did not take over log_statement')
}

/** The world and the settings as they are now; the function brings them back. Extensions that were dropped are made anew. */
export async function remember(emulator: Emulator): Promise<() => Promise<void>> {
  const { world, postgres } = emulator
  const then = JSON.stringify(world, (name, value) => (name === 'exchanges' ? undefined : value))
  const settings = new Map<string, Record<string, string>>()
  for (const name of databasesOf(emulator)) settings.set(name, await settingsOf(emulator, name))
  return async () => {
    delete world.fault
    delete world.refusals
    const back = JSON.parse(then) as World
    const own = serverOf(emulator)
    for (const key of Object.keys(own)) delete (own as unknown as Record<string, unknown>)[key]
    Object.assign(own, back.servers[0])
    world.servers.splice(1, Number.POSITIVE_INFINITY, ...back.servers.slice(1))
    replace(world.accounts, back.accounts)
    replace(world.workspaces, back.workspaces)
    replace(world.principals, back.principals)
    replace(world.roleAssignments, back.roleAssignments)
    calm(world)
    await emulator.refresh()
    for (const [name, rows] of settings) {
      await postgres.query(name, 'CREATE EXTENSION IF NOT EXISTS azure_ai')
      await postgres.query(name, 'DELETE FROM azure_ai.settings')
      const values = Object.entries(rows)
      await postgres.query(name, 'INSERT INTO azure_ai.settings SELECT * FROM unnest($1::text[], $2::text[])', [
        values.map(([key]) => key),
        values.map(([, value]) => value),
      ])
    }
  }
}

/** Steps that differ: `[status, current, desired]` by id. */
export function differingSteps(result: JobResult): Record<string, [status: string, current: string, desired: string]> {
  const steps = (result.report?.steps ?? []) as { id: string; status: string; current: string; desired: string }[]
  return Object.fromEntries(
    steps
      .filter(({ status }) => ['missing', 'different', 'failed'].includes(status))
      .map(({ id, status, current, desired }) => [id, [status, current, desired]]),
  )
}

/** Details of skipped steps by id. */
export function skippedSteps(result: JobResult): Record<string, string> {
  const steps = (result.report?.steps ?? []) as { id: string; status: string; detail: string }[]
  return Object.fromEntries(steps.filter(({ status }) => status === 'skipped').map(({ id, detail }) => [id, detail]))
}

/** `STATUS: why or proof` of each test query, by `DATABASE/SERVICE`. */
export function queriesOf(result: JobResult): Record<string, string> {
  const queries = (result.report?.queries ?? []) as {
    database: string
    service: string
    status: string
    proof: string
    error: string
  }[]
  return Object.fromEntries(
    queries.map(({ database, service, status, proof, error }) => [
      `${database}/${service}`,
      `${status}: ${status === 'passed' ? proof : error}`,
    ]),
  )
}

/** A finding's code, one line each, for assertions that show all of them when they fail. */
export function codesOf(result: JobResult): string[] {
  return ((result.report?.findings ?? []) as { code: string }[]).map(({ code }) => code)
}

/** Status of each step by id. */
export function statusesOf(result: JobResult): Record<string, string> {
  return Object.fromEntries(
    ((result.report?.steps ?? []) as { id: string; status: string }[]).map(({ id, status }) => [id, status]),
  )
}

/** The rows of each Markdown table as cells; a pipe inside a cell would show as a cell too many. */
export function tablesOf(markdown: string): string[][][] {
  const tables: string[][][] = []
  let table: string[][] | undefined
  for (const line of markdown.split('\n')) {
    if (line.startsWith('|')) {
      table ??= []
      table.push(line.replace(/^\||\|$/g, '').split('|'))
    } else {
      if (table !== undefined) tables.push(table)
      table = undefined
    }
  }
  if (table !== undefined) tables.push(table)
  return tables
}

/** Numbers in [0, 1) that the seed decides (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Waits until it is so; throws when it is not within a minute: a busy machine is no reason to fail. */
export async function until(such: () => boolean | Promise<boolean>): Promise<void> {
  const end = performance.now() + 60_000
  while (!(await such())) {
    if (performance.now() > end) throw new Error('it did not come to pass within 60 s')
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

/** Gives a principal a role at a scope, as somebody did an hour ago, unless more is said of it. `role`: its GUID. */
export function assignRole(
  world: World,
  principalId: string,
  scope: string,
  role: string,
  more: Partial<RoleAssignment> = {},
): void {
  const name = more.name ?? randomUUID()
  world.roleAssignments.push({
    id: `${scope}/providers/Microsoft.Authorization/roleAssignments/${name}`,
    name,
    scope,
    principalId,
    principalType: 'ServicePrincipal',
    roleDefinitionId: `/subscriptions/${world.subscriptionId}/providers/Microsoft.Authorization/roleDefinitions/${role}`,
    createdAt: Date.now() - 3_600_000,
    createdBy: 'somebody',
    ...more,
  })
}

/** The roles of the server's identity on what the emulator's inputs name. `createdAt`: an hour ago when absent. */
export function giveRoles(
  emulator: Emulator,
  createdAt: number = Date.now() - 3_600_000,
  principalId: string = serverOf(emulator).identity?.principalId ?? '',
): void {
  const { world, inputs } = emulator
  const roles = {
    openai: builtInRoles.cognitiveServicesOpenAIUser,
    cognitive: builtInRoles.cognitiveServicesUser,
    translator: builtInRoles.cognitiveServicesUser,
    'machine-learning': builtInRoles.dataScientist,
  }
  for (const [service, role] of Object.entries(roles)) {
    assignRole(world, principalId, inputs[service] ?? '', role, { createdAt })
  }
}

/** An online endpoint that takes a key, beside the first one, which takes tokens. */
export function addKeyedEndpoint(world: World): OnlineEndpoint {
  const [first] = world.workspaces[0]?.onlineEndpoints ?? []
  if (first === undefined) throw new Error('the world has no online endpoint')
  const name = `${first.name}-by-key`
  const keyed: OnlineEndpoint = {
    ...structuredClone(first),
    id: first.id.replace(/[^/]+$/, name),
    name,
    authMode: 'Key',
    scoringUri: first.scoringUri.replace(first.name, name),
  }
  world.workspaces[0]?.onlineEndpoints.push(keyed)
  return keyed
}

/** A read replica of the server, as Azure makes one: without an identity. */
export function addReplica(world: World): void {
  const [primary] = world.servers
  if (primary === undefined) throw new Error('no server')
  world.servers.push({
    ...structuredClone(primary),
    id: `${primary.id}-replica`,
    name: 'pg-contoso-replica',
    replicationRole: 'AsyncReplica',
    sourceServerResourceId: primary.id,
  })
}

/** Puts the rows in the place of what the settings table of the database holds. */
export async function putSettings(emulator: Emulator, database: string, rows: Readonly<Record<string, string>>): Promise<void> {
  const { postgres } = emulator
  await postgres.query(database, 'CREATE EXTENSION IF NOT EXISTS azure_ai')
  await postgres.query(database, 'DELETE FROM azure_ai.settings')
  await postgres.query(database, 'INSERT INTO azure_ai.settings SELECT * FROM unnest($1::text[], $2::text[])', [
    Object.keys(rows),
    Object.values(rows),
  ])
}

/** The settings with which Azure OpenAI, Language and Machine Learning work with the identity. */
export function identitySettings(world: World): Record<string, string> {
  return {
    'azure_cognitive.auth_type': 'managed-identity',
    'azure_cognitive.endpoint': 'https://contoso-language.cognitiveservices.azure.com',
    'azure_ml.auth_type': 'managed-identity',
    'azure_ml.scoring_endpoint': world.workspaces[0]?.onlineEndpoints[0]?.scoringUri ?? '',
    'azure_openai.auth_type': 'managed-identity',
    'azure_openai.endpoint': 'https://contoso-openai.openai.azure.com',
  }
}

/** Inputs for one service alone, in one database. */
export function onlyService(emulator: Emulator, service: string, database: string): Record<string, string> {
  const none = { openai: '', cognitive: '', translator: '', 'machine-learning': '', 'machine-learning-input': '' }
  const own = Object.fromEntries(
    Object.entries(emulator.inputs).filter(([name]) => name === service || name === `${service}-input`),
  )
  return { ...none, ...own, databases: database }
}

/** Inputs of a check that opens the temporary firewall rule and runs no test query. */
export function checkWithRule(emulator: Emulator): Record<string, string> {
  return {
    ...emulator.inputs,
    ...onlyService(emulator, 'openai', 'app'),
    ...usual,
    'temporary-firewall-rule': 'true',
    mode: 'check',
    'fail-on-drift': 'false',
    'test-queries': 'false',
  }
}

/** What an application asks of each family. */
export const questions = {
  azure_openai: `SELECT cardinality(azure_openai.create_embeddings('text-embedding-3-small', 'hello', timeout_ms => 10000))`,
  azure_cognitive: `SELECT (azure_cognitive.analyze_sentiment('good', 'en', timeout_ms => 10000)).sentiment`,
  azure_ml: `SELECT azure_ml.invoke('{"data": [[1, 2]]}'::jsonb, timeout_ms => 10000)`,
} as const

/** The same with the second member of azure_ml. */
const asked = {
  ...questions,
  ranking: `SELECT id FROM azure_ai.rank('how to sign in', ARRAY['with an identity', 'bread'], ARRAY['0', '1']) LIMIT 1`,
} as const

/** An application that asks every 50 ms, or as soon as it has its answer; the function stops it and tells how it went. */
export function application(
  emulator: Emulator,
  database: string,
  family: keyof typeof asked,
): () => Promise<{ asked: number; failed: string[] }> {
  let over = false
  let count = 0
  const failed: string[] = []
  const work = (async () => {
    while (!over) {
      const next = performance.now() + 50
      await emulator.postgres.query(database, asked[family]).then(
        () => count++,
        (error: unknown) => failed.push(String(error)),
      )
      await new Promise((resolve) => setTimeout(resolve, Math.max(next - performance.now(), 0)))
    }
  })()
  return async () => {
    over = true
    await work
    return { asked: count, failed }
  }
}

// ---- pieces for tests without a run

const action = parse(readFileSync(join(import.meta.dirname, '..', '..', 'action.yml'), 'utf8')) as {
  inputs: Record<string, { default?: string }>
}
const group = '/subscriptions/3c0b9a52-6d1f-4f7e-a1f4-8e5d70b6c219/resourceGroups/rg'

/** Resource ids of a made-up subscription. */
export const ids = {
  server: `${group}/providers/Microsoft.DBforPostgreSQL/flexibleServers/pg-one`,
  openai: `${group}/providers/Microsoft.CognitiveServices/accounts/ai-one`,
  cognitive: `${group}/providers/Microsoft.CognitiveServices/accounts/language-one`,
  translator: `${group}/providers/Microsoft.CognitiveServices/accounts/translator-one`,
  'machine-learning': `${group}/providers/Microsoft.MachineLearningServices/workspaces/ml-one/onlineEndpoints/score-one`,
} as const

/** What the runner would pass: the defaults of action.yml, a server, a database and all four services, then what is given. */
export function rawInputs(given: Partial<Record<InputName, string>> = {}): Record<InputName, string> {
  const raw = Object.fromEntries(
    inputNames.map((name) => {
      const fallback = action.inputs[name]?.default ?? ''
      return [name, fallback.startsWith('${{') ? '' : fallback]
    }),
  ) as Record<InputName, string>
  return { ...raw, ...ids, databases: 'app', ...given }
}

export function parsed(given: Partial<Record<InputName, string>> = {}): Inputs {
  return parseInputs(rawInputs(given))
}

export function observedServer(given: Partial<ObservedServer> = {}): ObservedServer {
  return {
    id: ids.server,
    name: 'pg-one',
    host: 'pg-one.postgres.database.azure.com',
    version: '17',
    state: 'Ready',
    identityType: 'None',
    principalId: undefined,
    userAssignedIdentities: [],
    publicAccess: true,
    inVirtualNetwork: false,
    entraAuthentication: true,
    passwordAuthentication: true,
    isReplica: false,
    isElasticCluster: false,
    highAvailability: undefined,
    ...given,
  }
}

export function observedDatabase(name: string, given: Partial<ReadDatabase> = {}): ReadDatabase {
  return {
    name,
    user: 'deployer',
    serverVersion: 17,
    isReadOnly: false,
    extension: { installed: undefined, available: '1.3.1' },
    creation: { needsSchema: false, hasPublic: true, foreign: [] },
    extensionSchemas: [],
    mayCreateExtension: true,
    mayRead: true,
    maySet: true,
    logging: new Map(),
    settings: new Map(),
    keysSet: new Set(),
    literalKeys: new Set(),
    keyStates: new Map(),
    startedAt: undefined,
    runningIdentity: undefined,
    unknownSettings: new Set(),
    functions: [],
    ...given,
  }
}

function resource(id: string, given: Partial<Resource>): Resource {
  return {
    id,
    settingsId: id,
    name: id.split('/').at(-1) ?? '',
    kind: 'OpenAI',
    location: 'swedencentral',
    provisioningState: 'Succeeded',
    endpoints: [],
    customSubdomain: id.split('/').at(-1),
    localAuthDisabled: false,
    authMode: undefined,
    deployments: [],
    ...given,
  }
}

/** A server with nothing set up and four services that are as they should be. */
export function observed(given: Partial<Observed> = {}): Observed {
  return {
    server: observedServer(),
    administrators: [],
    allowList: ['vector'],
    failures: [],
    runningIdentity: undefined,
    replicas: [],
    resources: new Map([
      ['openai', resource(ids.openai, { endpoints: ['https://ai-one.openai.azure.com/'] })],
      [
        'cognitive',
        resource(ids.cognitive, { kind: 'TextAnalytics', endpoints: ['https://language-one.cognitiveservices.azure.com/'] }),
      ],
      [
        'translator',
        resource(ids.translator, {
          kind: 'TextTranslation',
          location: 'westeurope',
          endpoints: ['https://api.cognitive.microsofttranslator.com/'],
        }),
      ],
      [
        'machine-learning',
        resource(ids['machine-learning'], {
          kind: 'OnlineEndpoint',
          authMode: 'AADToken',
          customSubdomain: undefined,
          endpoints: ['https://score-one.swedencentral.inference.ml.azure.com/score'],
        }),
      ],
    ]),
    roleAssignments: new Map(),
    databases: [observedDatabase('app')],
    ...given,
  }
}
