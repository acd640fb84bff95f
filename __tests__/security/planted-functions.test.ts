/**
 * Functions with names of PostgreSQL's own, created by the owner of a database or by a role that may create in `public`, are
 * never called by the action, whose role is an administrator (CVE-2018-1058).
 */

import { readFileSync } from 'node:fs'
import pg from 'pg'
import { beforeAll, describe, expect, test } from 'vitest'
import { deployerName } from '../../emulator/default-world.ts'
import { passwordLogin } from '../../emulator/postgres.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import {
  apply,
  begin,
  logLength,
  logStatements,
  serverOf,
  settingsOf,
  statementsSince,
  workWithKeys,
} from '../support/support.ts'
import { plant, sprung } from './planted.ts'

/**
 * In `visited` and `forwarding` an ordinary role may create in `public`; `owned` belongs to it, and has its schema first. The
 * traps of `forwarding` are few and answer as the real functions do, so that a run which calls them ends well.
 */
const emulator = await ownEmulator({ databases: ['visited', 'owned', 'forwarding'] })
const { postgres } = emulator

/** What a session of `owned` starts with. `role` would have it act as the owner of the traps. */
const hostileSettings: Readonly<Record<string, string>> = {
  search_path: 'evil, public, pg_catalog',
  role: 'mallory',
  quote_all_identifiers: 'on',
  standard_conforming_strings: 'off',
  datestyle: 'German',
  timezone: 'Pacific/Chatham',
  intervalstyle: 'sql_standard',
  bytea_output: 'escape',
  extra_float_digits: '-15',
  default_transaction_read_only: 'on',
  default_transaction_isolation: 'serializable',
  transform_null_equals: 'on',
  log_parameter_max_length_on_error: '-1',
  debug_print_plan: 'on',
  'azure.service_principal_id': '00000000-0000-0000-0000-000000000bad',
}

beforeAll(async () => {
  await begin(emulator)
  await postgres.query(
    'postgres',
    `CREATE ROLE mallory LOGIN; GRANT mallory TO ${pg.escapeIdentifier(deployerName)}, ${passwordLogin.user}; ALTER DATABASE owned OWNER TO mallory`,
  )
  for (const database of ['visited', 'postgres']) {
    await postgres.query(database, 'GRANT CREATE ON SCHEMA public TO PUBLIC')
    await plantFully(database, 'public')
  }
  await postgres.query('forwarding', 'GRANT CREATE ON SCHEMA public TO PUBLIC')
  await plantForwarding('forwarding')
  await postgres.query('owned', 'CREATE SCHEMA evil AUTHORIZATION mallory; GRANT ALL ON SCHEMA evil, public TO PUBLIC')
  await plantFully('owned', 'evil')
  await plantFully('owned', 'public')
  for (const [name, value] of Object.entries(hostileSettings)) {
    const values = name === 'search_path' ? value : pg.escapeLiteral(value)
    await postgres.query('postgres', `ALTER DATABASE owned SET ${name} = ${values}`)
    // The emulator's own sessions do not change.
    const own = name === 'search_path' ? 'pg_catalog' : name === 'role' ? 'azuresu' : undefined
    const [usual] =
      own === undefined ? await postgres.query('postgres', `SELECT current_setting('${name}', true) AS value`) : [{ value: own }]
    await postgres.query(
      'postgres',
      `ALTER ROLE azuresu IN DATABASE owned SET ${name} = ${own ?? pg.escapeLiteral(String(usual?.['value'] ?? ''))}`,
    )
  }
  for (const database of ['visited', 'postgres'])
    await postgres.query('postgres', `ALTER ROLE azuresu IN DATABASE ${database} SET search_path = pg_catalog`)
  await logStatements(emulator)
}, 300_000)

/** Overloads in `public` that PostgreSQL prefers for the types at hand although pg_catalog comes first. */
async function plantForwarding(database: string): Promise<void> {
  const traps: [name: string, args: string, result: string, answer: string][] = [
    ['pg_try_advisory_xact_lock', 'text, text', 'boolean', 'true'],
    ['cardinality', 'real[]', 'integer', 'pg_catalog.array_length($1, 1)'],
    ['step', 'jsonb, text, text', 'jsonb', '$1 || pg_catalog.jsonb_build_object($2, $3)'],
    ['convert_to', 'text, text', 'bytea', 'pg_catalog.convert_to($1, $2::name)'],
    ['format_type', 'oid, text', 'text', 'pg_catalog.format_type($1, NULL::integer)'],
    ['has_database_privilege', 'name, text', 'boolean', 'true'],
  ]
  const functions = traps.map(
    ([name, args, result, answer]) => `CREATE FUNCTION public.${name}(${args}) RETURNS ${result} LANGUAGE plpgsql AS $$ BEGIN
      RAISE LOG 'planted: function public.${name}';
      BEGIN EXECUTE 'GRANT azure_pg_admin TO mallory'; EXCEPTION WHEN OTHERS THEN NULL; END;
      RETURN ${answer};
    END $$`,
  )
  const aggregate = `CREATE AGGREGATE public.json_object_agg(text, text) (SFUNC = public.step, STYPE = jsonb, INITCOND = '{}')`
  await postgres.query(database, ['SET ROLE mallory', ...functions, aggregate].join(';'))
}

async function plantFully(database: string, schema: string): Promise<void> {
  const made = await plant(emulator, database, schema)
  expect(made['functions']).toBeGreaterThan(3_000)
  expect(made['operators']).toBeGreaterThan(1_000)
  expect(made['types']).toBeGreaterThan(40)
  expect(made['views']).toBeGreaterThan(8)
}

/** As a careless client. */
async function careless(database: string, statements: readonly (string | [string, unknown[]])[]): Promise<void> {
  const client = new pg.Client({
    host: postgres.host,
    port: postgres.port,
    ...passwordLogin,
    database,
    ssl: { ca: readFileSync(emulator.caFile, 'utf8') },
  })
  await client.connect()
  try {
    for (const each of statements) {
      const [text, values] = typeof each === 'string' ? [each] : each
      await client.query(text, values).catch(() => undefined)
    }
  } finally {
    await client.end()
  }
}

async function expectUntouched(from: number): Promise<void> {
  expect(sprung(emulator, from)).toEqual([])
  const members = await postgres.query(
    'postgres',
    `SELECT FROM pg_auth_members WHERE member = 'mallory'::regrole AND roleid IN ('azure_pg_admin'::regrole, 'azure_ai_settings_manager'::regrole)`,
  )
  expect(members).toEqual([])
}

describe('the traps', () => {
  test.each(['visited', 'owned'])('run for a careless client, in "%s"', async (database) => {
    const from = logLength(emulator)
    await careless(database, [
      ['SELECT pg_try_advisory_xact_lock($1, $2)', [1, 2]],
      'SELECT cardinality(ARRAY[1.0]::real[])',
      'SELECT json_object_agg(name, setting) FROM pg_settings',
      `SELECT convert_to('salt' || 'value'::text, 'UTF8')`,
      'SELECT format_type(t, NULL) FROM unnest(ARRAY[25]::oid[]) AS t',
      `SELECT has_database_privilege(current_database(), 'TEMPORARY')`,
      'SELECT host(inet_client_addr())',
      `SELECT 'x'::text = 'y'`,
    ])
    const found = sprung(emulator, from)
    if (database === 'owned') {
      for (const name of ['cardinality', 'json_object_agg', 'convert_to', 'host'])
        expect(found).toContain(`owned: function evil.${name}`)
      expect(found).toContain('owned: operator evil.=')
      expect(found).toContain('owned: type evil.text')
    } else expect(found.length).toBeGreaterThan(2)
  })
})

describe('no trap runs', () => {
  const inputs = { databases: 'visited\nowned' }

  test('of those that return what the real functions do: a role that may only create in public gets no other right', async () => {
    const from = logLength(emulator)
    const only = { databases: 'forwarding', cognitive: '', translator: '', 'machine-learning': '', 'machine-learning-input': '' }
    const set = await apply(emulator, only)
    const back = await apply(emulator, { ...only, 'auth-type': 'subscription-key' })
    await expectUntouched(from)
    expect(set.outputs, set.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(back.outputs, back.log).toMatchObject({ result: 'changed', verified: 'true' })
    await postgres.query('forwarding', 'DROP EXTENSION azure_ai CASCADE')
  })

  test('while everything is set up and keys are cleared, one part after the other', async () => {
    await workWithKeys(emulator, 'visited')
    const from = logLength(emulator)
    const azure = await apply(emulator, { ...inputs, part: 'azure' })
    expect(azure.outputs['failure-reason'], azure.log).toBe('none')
    const database = await apply(emulator, { ...inputs, part: 'database', 'clear-keys': 'true' })
    expect(database.outputs, database.log).toMatchObject({ result: 'changed', verified: 'true' })
    await expectUntouched(from)
    expect((await settingsOf(emulator, 'owned'))['azure_openai.auth_type']).toBe('managed-identity')
    expect((await settingsOf(emulator, 'visited'))['azure_openai.subscription_key']).toBe('')
    expectTransactions(from)
  })

  test('in a check of all databases through a firewall rule of its own', async () => {
    const from = logLength(emulator)
    serverOf(emulator).firewallRules = {}
    await emulator.refresh()
    const result = await apply(emulator, { databases: '*', mode: 'check', 'temporary-firewall-rule': 'true' })
    await result.post()
    expect(result.outputs, result.log).toMatchObject({ result: 'in-sync', verified: 'true' })
    await expectUntouched(from)
    expectTransactions(from)
    serverOf(emulator).firewallRules = { all: { startIpAddress: '0.0.0.0', endIpAddress: '255.255.255.255' } }
    await emulator.refresh()
  })

  test('in a verify, during the rollback to keys, and during the switch to the identity again', async () => {
    const from = logLength(emulator)
    const verified = await apply(emulator, { ...inputs, mode: 'verify', 'embedding-deployment': 'text-embedding-3-small' })
    expect(verified.outputs, verified.log).toMatchObject({ result: 'in-sync', verified: 'true' })
    const one = { ...inputs, cognitive: '', translator: '', 'machine-learning': '', 'machine-learning-input': '' }
    const back = await apply(emulator, { ...one, 'auth-type': 'subscription-key' })
    expect(back.outputs, back.log).toMatchObject({ result: 'changed' })
    const again = await apply(emulator, { ...one, 'clear-keys': 'true' })
    expect(again.outputs, again.log).toMatchObject({ result: 'changed', verified: 'true' })
    await expectUntouched(from)
    expectTransactions(from)
  })
})

/** Every statement that is sent belongs to a transaction whose second statement sets the search path. */
function expectTransactions(from: number): void {
  const sessions = new Map<string, string[]>()
  for (const { pid, user, sql } of statementsSince(emulator, from)) {
    if (user !== deployerName) continue
    sessions.set(pid, [...(sessions.get(pid) ?? []), sql])
  }
  expect(sessions.size).toBeGreaterThan(2)
  for (const statements of sessions.values()) {
    let inside = false
    for (const [index, sql] of statements.entries()) {
      if (sql.startsWith('BEGIN')) {
        expect(statements[index + 1]).toMatch(/^SET LOCAL search_path = pg_catalog, pg_temp$/)
        inside = true
      } else if (/^(COMMIT|ROLLBACK)$/.test(sql)) inside = false
      else expect(inside, sql).toBe(true)
    }
  }
}
