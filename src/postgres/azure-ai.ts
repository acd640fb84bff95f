/** The azure_ai extension, as SQL sees it: what is installed, what is set, how its functions are called. */
import { createHash, randomBytes } from 'node:crypto'
import type { FunctionSignature, ObservedDatabase, ReadDatabase } from '../core/observed.ts'
import { foreignObjects } from '../core/preconditions.ts'
import { allMembers, families, services } from '../core/services.ts'
import type { Argument } from '../core/test-query.ts'
import { Failure } from '../errors/failure.ts'
import { bounded, longestName } from '../lib/bounded.ts'
import { hideSecret } from '../lib/secrets.ts'
import { onOneLine } from '../lib/unicode.ts'
import { type Connection, type Connector, messageOf, sqlState } from './connection.ts'
import { factsSql, foreignSql, functionsSql, schemasSql, wrapper } from './facts.ts'
import { withNames } from './names.ts'
import { quoteLiteral } from './transaction.ts'

/** All settings that are read, no secret among them. */
const plainSettings: readonly string[] = [
  ...new Set([
    ...Object.values(families).flatMap((family) => [family.authType, ...family.others]),
    ...allMembers.map(({ endpoint }) => endpoint),
    ...services.flatMap((service) => service.settings.map((each) => each.setting)),
  ]),
].sort()
const secretSettings: readonly string[] = allMembers.map(({ key }) => key)

/** Longest value of a setting, in characters; endpoints and resource ids have some hundred. */
const longestSetting = 8_192
/** Most rows of the function that shows the settings. */
const mostSettings = 1_000
/** Most databases that one run looks into. */
const mostDatabases = 5_000

/** By name of the setting: the keys that a stored one is held against, the first one first. */
export type KeyCandidates = ReadonlyMap<string, readonly string[]>

/** Looks at a database over an open connection, in read-only transactions. Never selects a secret. */
export async function observeDatabase(
  connection: Connection,
  connector: Connector,
  keys: KeyCandidates,
): Promise<ObservedDatabase> {
  const name = connection.database
  try {
    const [[facts] = [], functionRows = [], schemaRows = [], foreignRows = []] = await connection.read(
      [factsSql, functionsSql, schemasSql, foreignSql],
      unknownVersion,
    )
    connector.learn(Number(facts?.connections), Number(facts?.reserved))
    const installed = text(facts?.installed)
    const isInstalled = installed !== undefined
    const foreign = foreignRows.map((row) => `${row.kind} ${row.name}`)
    if (isInstalled && foreign.length > 0) return { name, failure: foreignObjects(name, foreign) }
    const extensionSchemas = schemaRows.map((row) => String(row.name))
    const mayReadAll = isInstalled && facts?.may_read === true
    const mayRead = mayReadAll || (isInstalled && facts?.may_ask === true)
    const maySet = isInstalled ? facts?.manager === true && facts.may_write === true : facts?.admin === true
    const read = mayReadAll ? () => settings(connection, extensionSchemas, keys) : () => wrappedSettings(connection)
    const readable = mayRead
      ? await read()
      : {
          values: new Map(),
          keysSet: new Set<string>(),
          literalKeys: new Set<string>(),
          keyStates: new Map(),
          unknown: new Set<string>(),
        }
    return {
      name,
      failure: undefined,
      user: connection.user,
      serverVersion: Number(facts?.version ?? 0),
      isReadOnly: facts?.read_only === true,
      extension: { installed, available: text(facts?.available) },
      creation: { needsSchema: facts?.needs_schema === true, hasPublic: facts?.has_public === true, foreign },
      extensionSchemas,
      mayCreateExtension: facts?.admin === true,
      mayRead,
      maySet,
      logging: new Map(Object.entries((facts?.logging ?? {}) as Record<string, string>)),
      settings: readable.values,
      keysSet: readable.keysSet,
      literalKeys: readable.literalKeys,
      keyStates: readable.keyStates,
      startedAt: facts?.started_at === undefined ? undefined : new Date(Number(facts.started_at)),
      runningIdentity: text(facts?.running_identity),
      unknownSettings: readable.unknown,
      functions: isInstalled ? functionRows.map(signatureOf) : [],
    }
  } catch (error) {
    return { name, failure: connector.failure(error, name, 'looking at the settings') }
  }
}

/** Limits that need a version of their own are not needed for short reads. */
const unknownVersion = { serverVersion: 0 }

/** Who is connected, as a line for the log. */
export async function activity(connection: Connection): Promise<string> {
  const [[row] = []] = await connection.read(
    [
      `SELECT count(*) AS connections, count(*) FILTER (WHERE state <> 'idle') AS busy,
  coalesce(extract(epoch FROM max(clock_timestamp() - xact_start))::int, 0) AS longest
FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`,
    ],
    unknownVersion,
  )
  return `connections: ${row?.connections ?? '?'}, of which ${row?.busy ?? '?'} are busy; longest open transaction: ${row?.longest ?? '?'} s`
}

/** The databases of a server that take connections, template databases and Azure's own left out. */
export async function listDatabases(connection: Connection): Promise<readonly string[]> {
  const [rows = []] = await connection.read(
    [
      `SELECT datname FROM pg_database
WHERE datallowconn AND NOT datistemplate AND datname NOT IN ('azure_maintenance', 'azure_sys') ORDER BY datname LIMIT ${mostDatabases + 1}`,
    ],
    unknownVersion,
  )
  if (rows.length > mostDatabases)
    throw new Failure({
      reason: 'database',
      code: 'too-many-databases',
      title: 'The server has more databases than one run looks into',
      detail: `\`databases\` is \`*\`, and the server has more than ${mostDatabases.toLocaleString('en')}.`,
      fix: 'Name the databases, some thousand in each run.',
    })
  return rows.map((row) => String(row.datname))
}

/** The address from which the server sees this connection; undefined when it does not show one. */
export async function addressSeen(connection: Connection): Promise<string | undefined> {
  const [[row] = []] = await connection.read(['SELECT host(inet_client_addr()) AS address'], unknownVersion)
  return text(row?.address)
}

/** Why this connection cannot keep an old key for putting it back, as the end of a sentence; undefined when it can. */
export async function whyNoKeyIsKept(connection: Connection): Promise<string | undefined> {
  const [[row] = []] = await connection.read(
    [`SELECT has_database_privilege(current_database(), 'TEMPORARY') AS may`],
    unknownVersion,
  )
  if (row?.may !== true) return 'the role may not create temporary tables'
  return (await keepsSession(connection))
    ? undefined
    : 'a pooler in transaction mode is between, which gives each transaction another session'
}

/** Creates or updates the extension. Both statements do nothing where that is done. */
export async function changeExtension(
  connection: Connection,
  { serverVersion, creation }: ReadDatabase,
  { statement, beforeCommit }: { statement: 'create' | 'update'; beforeCommit: () => void },
): Promise<void> {
  await connection.write({ serverVersion }, async (transaction) => {
    await transaction.query(`SET LOCAL statement_timeout = ${extensionTimeoutMs}`)
    await transaction.query(extensionSql(creation, statement), undefined, extensionTimeoutMs)
    beforeCommit()
    await transaction.commit()
  })
}

const extensionTimeoutMs = 60_000

/** The schema is stated only where the version leaves it open: the path of this action names none that objects could go to. */
export function extensionSql({ needsSchema }: ReadDatabase['creation'], statement: 'create' | 'update'): string {
  if (statement === 'update') return 'ALTER EXTENSION azure_ai UPDATE'
  return `CREATE EXTENSION IF NOT EXISTS azure_ai${needsSchema ? ' SCHEMA public' : ''}`
}

/**
 * Whether this connection keeps its session from one transaction to the next: a pooler in transaction mode does not, and what is
 * kept in a temporary table would be another session's.
 */
async function keepsSession(connection: Connection): Promise<boolean> {
  const pids = new Set<string>()
  for (let round = 0; round < 3; round++) {
    const [[row] = []] = await connection.read(['SELECT pg_backend_pid()::text AS pid'], unknownVersion)
    pids.add(String(row?.pid))
  }
  return pids.size === 1
}

interface Readable {
  values: Map<string, string>
  keysSet: Set<string>
  literalKeys: Set<string>
  keyStates: Map<string, 'first' | 'second' | 'other'>
  unknown: Set<string>
}

/** Reads all at once; where one key is not known to this version, one by one. */
async function settings(connection: Connection, extensionSchemas: readonly string[], keys: KeyCandidates): Promise<Readable> {
  const found: Readable = {
    values: new Map(),
    keysSet: new Set(),
    literalKeys: new Set(),
    keyStates: new Map(),
    unknown: new Set(),
  }
  // Neither value travels: the server salts and hashes its own, we ours.
  const salt = randomBytes(16).toString('hex')
  const hash =
    keys.size === 0 ? 'NULL' : `CASE WHEN secret THEN encode(sha256(convert_to('${salt}' || value, 'UTF8')), 'hex') END`
  const sql = (names: readonly string[]): string => {
    const wanted = names.map((name) => `(${quoteLiteral(name)}::text, ${secretSettings.includes(name)})`)
    return `SELECT key, CASE WHEN NOT secret THEN left(value, ${longestSetting + 1}) END AS value, secret AND coalesce(value, '') <> '' AS key_set,
  secret AND lower(replace(btrim(value), '_', '-')) = 'managed-identity' AS key_is_word, ${hash} AS hash
FROM (SELECT key, secret, azure_ai.get_setting(key) AS value FROM (VALUES ${wanted.join(', ')}) AS wanted(key, secret)) AS stored`
  }
  const read = async (names: readonly string[]): Promise<void> => {
    const [rows = []] = await withNames(extensionSchemas, (schemas) =>
      connection.read([sql(names)], { ...unknownVersion, schemas }),
    )
    for (const row of rows) {
      const key = String(row.key)
      const value = settingOf(connection, key, row)
      // NULL and '' both mean: not set.
      if (value !== undefined && value !== '') found.values.set(key, value)
      if (row.key_set !== true) continue
      found.keysSet.add(key)
      if (row.key_is_word === true) found.literalKeys.add(key)
      const candidates = keys.get(key)
      if (candidates === undefined) continue
      const index = candidates.findIndex(
        (candidate) =>
          createHash('sha256')
            .update(salt + candidate)
            .digest('hex') === row.hash,
      )
      found.keyStates.set(key, (['first', 'second'] as const)[index] ?? 'other')
    }
  }
  const all = [...plainSettings, ...secretSettings]
  try {
    await read(all)
  } catch (error) {
    if (!isRefusedSetting(error)) throw error
    // What a version says of a name that no version has, it says of every setting that it does not know.
    const control = await read([noSuchSetting]).then(
      () => undefined,
      (refusal: unknown) => refusalOf(refusal, noSuchSetting),
    )
    await Promise.all(
      all.map(async (key) => {
        try {
          await read([key])
        } catch (single) {
          if (!isRefusedSetting(single)) throw single
          // Anything else that is refused for this name alone is not set.
          if (refusalOf(single, key) === control || isUnknownSetting(single)) found.unknown.add(key)
        }
      }),
    )
  }
  return found
}

/** The same by way of the wrapper: no key can be read, so none can be compared. A setting it leaves out is not known to this version. */
async function wrappedSettings(connection: Connection): Promise<Readable> {
  const found: Readable = {
    values: new Map(),
    keysSet: new Set(),
    literalKeys: new Set(),
    keyStates: new Map(),
    unknown: new Set(),
  }
  const [rows = []] = await connection.read(
    [
      `SELECT left(key, ${longestName}) AS key, left(value, ${longestSetting + 1}) AS value, is_set FROM ${wrapper} LIMIT ${mostSettings}`,
    ],
    unknownVersion,
  )
  const shown = new Map(rows.map((row) => [String(row.key), row]))
  for (const key of [...plainSettings, ...secretSettings]) {
    const row = shown.get(key)
    if (row === undefined) found.unknown.add(key)
    else if (secretSettings.includes(key)) {
      if (row.is_set === true) found.keysSet.add(key)
    } else {
      const value = settingOf(connection, key, row)
      if (value !== undefined && value !== '') found.values.set(key, value)
    }
  }
  return found
}

/** A name that no version of azure_ai has. */
const noSuchSetting = 'azure_ai_identity.no_such_setting'
/** Classes of SQLSTATE that say something about the connection, the rights, the locks or the server, and nothing about a setting. */
const otherClasses: ReadonlySet<string> = new Set(['08', '25', '28', '40', '42', '53', '54', '55', '57', '58'])

/** Whether `get_setting` itself refused a name: PostgreSQL answered, and nothing else was wrong. */
function isRefusedSetting(error: unknown): boolean {
  const code = sqlState(error)
  return isUnknownSetting(error) || (/^[0-9A-Z]{5}$/.test(code) && !otherClasses.has(code.slice(0, 2)))
}

/** A refusal without the name that it is about, for comparing it with that of another name. */
const refusalOf = (error: unknown, key: string): string => `${sqlState(error)} ${messageOf(error).text.replaceAll(key, 'KEY')}`

function isUnknownSetting(error: unknown): boolean {
  return /is not a valid configuration key/i.test(messageOf(error).text)
}

/**
 * The value of a setting. One that was cut in the database is no value: it could not be put back.
 * @throws {Failure} `setting-too-long`
 */
function settingOf({ database }: Connection, key: string, row: Readonly<Record<string, unknown>>): string | undefined {
  const value = text(row.value)
  if (value === undefined || value.length <= longestSetting) {
    for (const secret of value === undefined ? [] : secretsIn(value)) hideSecret(secret)
    return value
  }
  throw new Failure({
    reason: 'database',
    code: 'setting-too-long',
    title: 'A setting of azure_ai is longer than any value it can have',
    detail: `${key} in "${database}" has more than ${longestSetting.toLocaleString('en')} characters and begins with ${bounded(value, 100)}. Nothing was written in this database.`,
    fix: `SELECT azure_ai.set_setting('${key}', '');   -- in "${onOneLine(database)}", unless it is another setting that is wrong`,
  })
}

/** Shortest part of an endpoint that is taken for a secret, in characters. */
const shortestSecret = 12

/** What a stored endpoint contains of a login: its password, and the parameters of a gateway. */
function secretsIn(endpoint: string): readonly string[] {
  if (!URL.canParse(endpoint)) return []
  const { password, searchParams } = new URL(endpoint)
  const given = [...searchParams].filter(([name]) => /key|sig|token|code|secret|pass/i.test(name)).map(([, value]) => value)
  // A word that its owner chose must not be struck out of a report as if it were a secret.
  return [password, ...given].filter((each) => each.length >= shortestSecret && /\d/.test(each) && /[a-z]/i.test(each))
}

const text = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined)

/** Types of arguments that a test query passes, by their oids: how a name is written is a setting, and anybody may make a type of any name. */
const typeNames: ReadonlyMap<string, Argument['type']> = new Map([
  ['16', 'boolean'],
  ['23', 'integer'],
  ['25', 'text'],
  ['1009', 'text[]'],
  ['3802', 'jsonb'],
])

function signatureOf(row: Readonly<Record<string, unknown>>): FunctionSignature {
  const names = row.names as string[]
  const modes = row.modes as string[]
  const types = (row.types as string[]).map((oid) => typeNames.get(oid) ?? `the type with oid ${oid}`)
  const count = Number(row.count)
  // proargnames covers outputs too; the inputs are those of mode i, b or v, in order.
  const inputs = modes.length === 0 ? names : names.filter((_, index) => 'ibv'.includes(modes[index] ?? ''))
  const firstDefault = count - Number(row.defaults)
  return {
    schema: String(row.schema),
    name: String(row.name),
    arguments: types.map((type, index) => ({ name: inputs[index] ?? '', type, hasDefault: index >= firstDefault })),
  }
}
