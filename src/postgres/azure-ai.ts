/** The azure_ai extension, as SQL sees it: what is installed, what is set, how its functions are called. */
import { createHash, randomBytes } from 'node:crypto'
import type { FunctionSignature, ObservedDatabase } from '../observed.ts'
import { type Argument, commonArguments, families, type Service, services } from '../services.ts'
import { type Connection, type Connector, messageOf, readAtOnce } from './connection.ts'

/** All settings that are read, no secret among them. */
const plainSettings: readonly string[] = [
  ...new Set([
    ...Object.values(families).flatMap((family) => [family.authType, family.endpoint, ...family.others]),
    ...services.flatMap((service) => service.settings.map((each) => each.setting)),
  ]),
].sort()
const secretSettings: readonly string[] = Object.values(families).map((family) => family.key)

const mayCall = (
  name: string,
): string => `coalesce((SELECT bool_or(has_schema_privilege(n.oid, 'usage') AND has_function_privilege(p.oid, 'execute'))
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'azure_ai' AND p.proname = '${name}'), false)`

/**
 * The function of an administrator that tells a checker the settings and of keys only whether they are set; SECURITY
 * DEFINER, so that the checker needs no right to read keys. How it is made stands in docs/permissions.md.
 */
const wrapper = 'azure_ai_identity.settings()'

/** Server parameters that decide whether statements and their parameters are written somewhere. */
const loggingParameters = [
  'log_statement',
  'log_min_duration_statement',
  'log_parameter_max_length',
  'pgaudit.log',
  'pgaudit.log_parameter',
  'auto_explain.log_parameter_max_length',
  'pg_qs.parameters_capture_mode',
]

const factsSql = `SELECT current_setting('server_version_num')::int / 10000 AS version,
  pg_is_in_recovery() AS read_only,
  (SELECT extversion FROM pg_extension WHERE extname = 'azure_ai') AS installed,
  (SELECT default_version FROM pg_available_extensions WHERE name = 'azure_ai') AS available,
  EXISTS (SELECT FROM pg_roles WHERE rolname = 'azure_pg_admin' AND pg_has_role(current_user, oid, 'member')) AS admin,
  EXISTS (SELECT FROM pg_roles WHERE rolname = 'azure_ai_settings_manager' AND pg_has_role(current_user, oid, 'member')) AS manager,
  ${mayCall('get_setting')} AS may_read,
  ${mayCall('set_setting')} AS may_write,
  coalesce((SELECT has_schema_privilege(n.oid, 'usage') AND has_function_privilege(p.oid, 'execute')
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = 'azure_ai_identity' AND p.proname = 'settings' AND p.pronargs = 0
      -- Anybody may make a function of this name: it counts when an administrator made it to run as him.
      AND p.prosecdef AND EXISTS (SELECT FROM pg_roles WHERE rolname = 'azure_pg_admin' AND pg_has_role(p.proowner, oid, 'member'))
  ), false) AS may_ask,
  (SELECT json_object_agg(name, setting) FROM pg_settings WHERE name = ANY($1)) AS logging,
  current_setting('max_connections')::int AS connections,
  -- The second is known from version 16 on.
  current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,
  pg_postmaster_start_time() AS started_at,
  current_setting('azure.service_principal_id', true) AS running_identity`

const functionsSql = `SELECT n.nspname AS schema, p.proname AS name,
  coalesce(p.proargnames, '{}') AS names, coalesce(p.proargmodes::text[], '{}') AS modes, p.pronargs AS count, p.pronargdefaults AS defaults,
  ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY AS a(t, i) ORDER BY i) AS types
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname IN ('azure_openai', 'azure_cognitive', 'azure_ml') AND p.prokind = 'f'`

/** By name of the setting: the keys that a stored one is held against, the first one first. */
export type KeyCandidates = ReadonlyMap<string, readonly string[]>

/** Looks at a database over an open connection, in a read-only transaction. Never selects a secret. */
export async function observeDatabase(
  connection: Connection,
  connector: Connector,
  keys: KeyCandidates,
): Promise<ObservedDatabase> {
  const name = connection.database
  try {
    // client_connection_check_interval is not needed for reads: any version will do.
    const [[facts] = [], functionRows = []] = await readAtOnce(connection, 0, [
      { text: factsSql, values: [loggingParameters] },
      { text: functionsSql },
    ])
    connector.learn(Number(facts?.connections), Number(facts?.reserved))
    const installed = text(facts?.installed)
    const isInstalled = installed !== undefined
    const functions = isInstalled ? functionRows.map(signatureOf) : []
    const mayReadAll = isInstalled && facts?.may_read === true
    const mayRead = mayReadAll || (isInstalled && facts?.may_ask === true)
    const maySet = isInstalled ? facts?.manager === true && facts.may_write === true : facts?.admin === true
    const readable = mayReadAll
      ? await settings(connection, keys)
      : mayRead
        ? await wrappedSettings(connection)
        : { values: new Map(), keysSet: new Set<string>(), keyStates: new Map(), unknown: new Set<string>() }
    return {
      name,
      failure: undefined,
      user: connection.user,
      serverVersion: Number(facts?.version ?? 0),
      isReadOnly: facts?.read_only === true,
      extension: { installed, available: text(facts?.available) },
      mayCreateExtension: facts?.admin === true,
      mayRead,
      maySet,
      logging: new Map(Object.entries((facts?.logging ?? {}) as Record<string, string>)),
      settings: readable.values,
      keysSet: readable.keysSet,
      keyStates: readable.keyStates,
      startedAt: facts?.started_at instanceof Date ? facts.started_at : undefined,
      runningIdentity: text(facts?.running_identity),
      unknownSettings: readable.unknown,
      functions,
    }
  } catch (error) {
    return unobserved(name, connection.user, connector.failure(error, name, 'looking at the settings'))
  }
}

/** Who is connected, as a line for the log. */
export async function activity(connection: Connection): Promise<string> {
  const [[row] = []] = await readAtOnce(connection, 0, [
    {
      text: `SELECT count(*) AS connections, count(*) FILTER (WHERE state <> 'idle') AS busy,
  coalesce(extract(epoch FROM max(clock_timestamp() - xact_start))::int, 0) AS longest
FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`,
    },
  ])
  return `connections: ${row?.connections ?? '?'}, of which ${row?.busy ?? '?'} are busy; longest open transaction: ${row?.longest ?? '?'} s`
}

/** The databases of a server that take connections, template databases and Azure's own left out. */
export async function listDatabases(connection: Connection): Promise<readonly string[]> {
  const [rows = []] = await readAtOnce(connection, 0, [
    {
      text: `SELECT datname FROM pg_database
WHERE datallowconn AND NOT datistemplate AND datname NOT IN ('azure_maintenance', 'azure_sys') ORDER BY datname`,
    },
  ])
  return rows.map((row) => String(row.datname))
}

/** A database that could not be looked at. */
export function unobserved(name: string, user: string, failure: ObservedDatabase['failure']): ObservedDatabase {
  return {
    name,
    failure,
    user,
    serverVersion: 0,
    isReadOnly: false,
    extension: { installed: undefined, available: undefined },
    mayCreateExtension: false,
    mayRead: false,
    maySet: false,
    logging: new Map(),
    settings: new Map(),
    keysSet: new Set(),
    keyStates: new Map(),
    startedAt: undefined,
    runningIdentity: undefined,
    unknownSettings: new Set(),
    functions: [],
  }
}

interface Readable {
  values: Map<string, string>
  keysSet: Set<string>
  keyStates: Map<string, 'first' | 'second' | 'other'>
  unknown: Set<string>
}

/** Reads all at once; where one key is not known to this version, one by one. */
async function settings(connection: Connection, keys: KeyCandidates): Promise<Readable> {
  const found: Readable = { values: new Map(), keysSet: new Set(), keyStates: new Map(), unknown: new Set() }
  // Neither value travels: the server salts and hashes its own, we ours.
  const salt = randomBytes(16).toString('hex')
  const sql = `SELECT key, CASE WHEN NOT secret THEN value END AS value, secret AND coalesce(value, '') <> '' AS key_set,
  CASE WHEN secret AND $3 <> '' THEN encode(sha256(convert_to($3 || value, 'UTF8')), 'hex') END AS hash
FROM (SELECT key, secret, azure_ai.get_setting(key) AS value FROM unnest($1::text[], $2::boolean[]) AS wanted(key, secret)) AS stored`
  const read = async (names: readonly string[]): Promise<void> => {
    const values = [names, names.map((name) => secretSettings.includes(name)), keys.size === 0 ? '' : salt]
    const [rows = []] = await readAtOnce(connection, 0, [{ text: sql, values }])
    for (const row of rows) {
      const key = String(row.key)
      const value = text(row.value)
      // NULL and '' both mean: not set.
      if (value !== undefined && value !== '') found.values.set(key, value)
      if (row.key_set !== true) continue
      found.keysSet.add(key)
      const candidates = keys.get(key)
      if (candidates === undefined) continue
      const index = candidates.findIndex(
        (candidate) =>
          createHash('sha256')
            .update(salt + candidate)
            .digest('hex') === row.hash,
      )
      found.keyStates.set(key, index === -1 ? 'other' : index === 0 ? 'first' : 'second')
    }
  }
  const all = [...plainSettings, ...secretSettings]
  try {
    await read(all)
  } catch (error) {
    if (!isUnknownSetting(error)) throw error
    await Promise.all(
      all.map(async (key) => {
        try {
          await read([key])
        } catch (single) {
          if (!isUnknownSetting(single)) throw single
          found.unknown.add(key)
        }
      }),
    )
  }
  return found
}

/** The same by way of the wrapper: no key can be read, so none can be compared. A setting it leaves out is not known to this version. */
async function wrappedSettings(connection: Connection): Promise<Readable> {
  const found: Readable = { values: new Map(), keysSet: new Set(), keyStates: new Map(), unknown: new Set() }
  const [rows = []] = await readAtOnce(connection, 0, [{ text: `SELECT key, value, is_set FROM ${wrapper}` }])
  const told = new Map(rows.map((row) => [String(row.key), row]))
  for (const key of [...plainSettings, ...secretSettings]) {
    const row = told.get(key)
    if (row === undefined) found.unknown.add(key)
    else if (secretSettings.includes(key)) {
      if (row.is_set === true) found.keysSet.add(key)
    } else {
      const value = text(row.value)
      if (value !== undefined && value !== '') found.values.set(key, value)
    }
  }
  return found
}

export function isUnknownSetting(error: unknown): boolean {
  return /is not a valid configuration key/i.test(messageOf(error).text)
}

const text = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined)

function signatureOf(row: Readonly<Record<string, unknown>>): FunctionSignature {
  const names = row.names as string[]
  const modes = row.modes as string[]
  const types = row.types as string[]
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

/** A call of a test function as SQL that can be pasted, or why the installed version offers none that fits. */
export type TestCall = { readonly sql: string; readonly hasTimeout: boolean } | { readonly skip: string }

/**
 * Writes the call: the overload whose arguments have our types, arguments by name, literals with their type, and of the
 * optional ones only those that the installed version has.
 */
export function testCall(
  service: Service,
  wanted: readonly Argument[],
  functions: readonly FunctionSignature[],
  quote: (text: string) => string,
): TestCall {
  const { schema, function: name, wrap } = service.test
  const overloads = functions.filter((each) => each.schema === schema && each.name === name)
  if (overloads.length === 0) return { skip: `the installed azure_ai has no ${schema}.${name}` }
  const has = (each: FunctionSignature, argument: Argument): boolean =>
    each.arguments.some((own) => own.name === argument.name && own.type === argument.type)
  // The first argument decides the overload (text or text[]); the others may be missing in a version.
  const [first] = wanted
  const overload = overloads.find((each) => {
    const passed = [...wanted, ...commonArguments].filter((argument) => has(each, argument)).map((argument) => argument.name)
    return first !== undefined && has(each, first) && each.arguments.every((own) => own.hasDefault || passed.includes(own.name))
  })
  if (overload === undefined)
    return { skip: `no overload of ${schema}.${name} in the installed azure_ai takes what the test query passes` }
  const passed = [...wanted, ...commonArguments].filter((argument) => has(overload, argument))
  const shown = passed.map((argument) => `${argument.name} => ${literalOf(argument, quote)}`)
  return {
    sql: wrap(`${schema}.${name}(${shown.join(', ')})`),
    hasTimeout: passed.some((argument) => argument.name === 'timeout_ms'),
  }
}

function literalOf(argument: Argument, quote: (text: string) => string): string {
  return argument.type === 'boolean' || argument.type === 'integer'
    ? argument.value
    : `${quote(argument.value)}::${argument.type}`
}
