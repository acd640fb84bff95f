/** A role that owns a database, or has some right on azure_ai's objects, against a run of an administrator. */
import { readFileSync } from 'node:fs'
import pg from 'pg'
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { deployerName } from '../../emulator/default-world.ts'
import { type JobResult, runJob } from '../../emulator/runner.ts'
import { hurried } from '../support/clock.ts'
import { findingWith } from '../support/findings.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import {
  accountNamed,
  apply,
  begin,
  codesOf,
  giveIdentity,
  giveRoles,
  identitySettings,
  logLength,
  logSince,
  onlyService,
  putSettings,
  queriesOf,
  serverOf,
  settingsOf,
  statusesOf,
  usual,
  workWithKeys,
} from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app', 'owned'] })
const { postgres, world } = emulator
const open: pg.Client[] = []

beforeAll(async () => {
  await postgres.query('postgres', `CREATE ROLE mallory LOGIN CREATEDB PASSWORD 'mallory'; ALTER DATABASE owned OWNER TO mallory`)
})
beforeEach(async () => {
  await begin(emulator)
  giveIdentity(emulator)
  giveRoles(emulator)
  await workWithKeys(emulator, 'app')
  await workWithKeys(emulator, 'owned')
})
afterEach(async () => {
  await Promise.all(open.splice(0).map((client) => client.end()))
  await postgres.query('owned', 'REVOKE ALL ON azure_ai.settings FROM mallory; REVOKE azure_ai_settings_manager FROM mallory')
  await postgres.query('owned', 'DROP SCHEMA IF EXISTS evil CASCADE')
})

/** A session of the role that owns the database `owned`. */
async function mallory(database = 'owned'): Promise<pg.Client> {
  const client = new pg.Client({
    host: postgres.host,
    port: postgres.port,
    user: 'mallory',
    password: 'mallory',
    database,
    ssl: { ca: readFileSync(emulator.caFile, 'utf8') },
  })
  client.on('error', () => undefined)
  await client.connect()
  open.push(client)
  return client
}

const only = (databases: string): Record<string, string> => onlyService(emulator, 'openai', databases)

/** A function that makes its owner an administrator when it runs with the rights for that, and records what it sees. */
const trap = `CREATE SCHEMA evil; CREATE TABLE evil.loot (value text); GRANT ALL ON SCHEMA evil TO PUBLIC; GRANT ALL ON evil.loot TO PUBLIC;
CREATE FUNCTION evil.trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  RAISE LOG 'trap sprang in a session of %', session_user;
  INSERT INTO evil.loot VALUES (NEW.value);
  BEGIN GRANT azure_pg_admin TO mallory; EXCEPTION WHEN OTHERS THEN NULL; END;
  RETURN NEW;
END $$`

/** No code of mallory ran in a session of the action, and mallory got neither a key nor a role. */
async function expectNoGain(from: number): Promise<void> {
  expect(logSince(emulator, from)).not.toContain(`trap sprang in a session of ${deployerName}`)
  const [loot] = await postgres.query('owned', `SELECT to_regclass('evil.loot') IS NOT NULL AS found`)
  const rows = loot?.['found'] === true ? await postgres.query('owned', 'SELECT value FROM evil.loot') : []
  const { key1, key2 } = accountNamed(world, 'contoso-openai').keys
  expect(rows.filter(({ value }) => [key1, key2].includes(String(value)))).toEqual([])
  const members = await postgres.query(
    'postgres',
    `SELECT FROM pg_auth_members WHERE member = 'mallory'::regrole AND roleid = 'azure_pg_admin'::regrole`,
  )
  expect(members).toEqual([])
}

/** The run changed nothing in `owned`, reported why, and switched `app`. */
function expectRefused(result: JobResult, object: string): void {
  expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false' })
  expect(findingWith(result, 'foreign-functions').detail).toContain(object)
  expect(statusesOf(result)['app/azure_openai.auth_type']).toBe('updated')
}

describe('on the table of the settings', () => {
  test('a trigger of a role that has TRIGGER on it: no setting is written there, and no key', async () => {
    await postgres.query('owned', 'GRANT TRIGGER ON azure_ai.settings TO mallory')
    const own = await mallory()
    await own.query(trap)
    await own.query('CREATE TRIGGER audit BEFORE INSERT OR UPDATE ON azure_ai.settings FOR EACH ROW EXECUTE FUNCTION evil.trap()')
    const from = logLength(emulator)
    const set = await apply(emulator, only('app\nowned'))
    const back = await apply(emulator, { ...only('owned'), 'auth-type': 'subscription-key' })
    await expectNoGain(from)
    expectRefused(set, 'TRIGGER audit ON azure_ai.settings')
    expect(codesOf(back), back.log).toContain('foreign-functions')
    await postgres.query('owned', findingWith(set, 'foreign-functions').fix)
    const again = await apply(emulator, only('owned'))
    expect(again.outputs, again.log).toMatchObject({ result: 'changed', verified: 'true' })
    await expectNoGain(from)
  })

  test("a trigger whose function is an administrator's is part of the server", async () => {
    await postgres.query(
      'owned',
      `CREATE SCHEMA evil; CREATE FUNCTION evil.noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
       CREATE TRIGGER noted BEFORE INSERT OR UPDATE ON azure_ai.settings FOR EACH ROW EXECUTE FUNCTION evil.noted()`,
    )
    const result = await apply(emulator, only('owned'))
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
  })

  test('a rule of a role that was made its owner copies no key', async () => {
    const own = await mallory()
    await own.query(trap)
    await postgres.query('owned', 'ALTER TABLE azure_ai.settings OWNER TO mallory')
    await own.query(
      'CREATE RULE copy AS ON INSERT TO azure_ai.settings DO ALSO INSERT INTO evil.loot VALUES (NEW.value); ALTER TABLE azure_ai.settings ALTER value SET DEFAULT current_user',
    )
    const from = logLength(emulator)
    const back = await apply(emulator, { ...only('owned'), 'auth-type': 'subscription-key' })
    const set = await apply(emulator, only('app\nowned'))
    await expectNoGain(from)
    expect(codesOf(back), back.log).toContain('foreign-functions')
    expectRefused(set, 'TABLE azure_ai.settings')
  })

  test('a foreign key to it, with triggers on the referring table, runs nothing', async () => {
    await postgres.query('owned', 'GRANT REFERENCES ON azure_ai.settings TO mallory')
    const own = await mallory()
    await own.query(trap)
    await own.query(
      `CREATE TABLE evil.referring (key text REFERENCES azure_ai.settings (key) ON UPDATE CASCADE ON DELETE CASCADE, value text);
       CREATE TRIGGER referring BEFORE INSERT OR UPDATE ON evil.referring FOR EACH ROW EXECUTE FUNCTION evil.trap();
       INSERT INTO evil.referring VALUES ('azure_openai.subscription_key', NULL), ('azure_openai.auth_type', NULL)`,
    )
    const from = logLength(emulator)
    const result = await apply(emulator, { ...only('owned'), 'clear-keys': 'true' })
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    await expectNoGain(from)
  })

  test('CREATE on a schema of azure_ai through pg_database_owner counts as a right of the owner', async () => {
    await postgres.query('owned', 'GRANT CREATE ON SCHEMA azure_openai TO pg_database_owner')
    const own = await mallory()
    await own.query(`CREATE FUNCTION azure_openai.nothing_yet() RETURNS integer LANGUAGE sql AS 'SELECT 1'`)
    const from = logLength(emulator)
    const result = await apply(emulator, only('app\nowned'))
    expectRefused(result, 'SCHEMA azure_openai')
    await expectNoGain(from)
    await postgres.query(
      'owned',
      'DROP FUNCTION azure_openai.nothing_yet(); REVOKE CREATE ON SCHEMA azure_openai FROM pg_database_owner',
    )
  })
})

test('objects that depend on the functions of azure_ai are not computed: generated columns, indexes, views', async () => {
  const own = await mallory()
  await own.query(trap)
  await own.query(
    `CREATE FUNCTION evil.noted(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RAISE LOG 'trap sprang in a session of %', session_user; RETURN $1; END $$;
     CREATE TABLE evil.texts (text text, vector real[] GENERATED ALWAYS AS (azure_openai.create_embeddings(text, evil.noted(text))) STORED);
     CREATE INDEX ON evil.texts (evil.noted(text));
     CREATE VIEW evil.pg_extension AS SELECT evil.noted('azure_ai') AS extname, azure_ai.version() AS extversion;
     CREATE STATISTICS evil.stats ON evil.noted(text), text FROM evil.texts`,
  )
  const from = logLength(emulator)
  const result = await apply(emulator, { ...only('owned'), 'clear-keys': 'true', 'update-extension': 'true' })
  expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
  await expectNoGain(from)
})

test('values that look like SQL are restored unchanged, and run nothing', async () => {
  const hostile = `x'); GRANT azure_pg_admin TO mallory; --\\'; $$ \n E'\\x00' %s`
  const translator = accountNamed(world, 'contoso-translator')
  await putSettings(emulator, 'owned', {
    'azure_cognitive.auth_type': 'subscription-key',
    'azure_cognitive.endpoint': `https://${translator.customSubDomainName}.cognitiveservices.azure.com`,
    'azure_cognitive.subscription_key': translator.keys.key1,
    'azure_cognitive.region': translator.location,
    // They are not sent together with a key, so the working settings keep working.
    'azure_cognitive.translator_resource_id': hostile,
  })
  world.switches.committedRowsOnly = true
  world.delays.rolePropagation = Number.POSITIVE_INFINITY
  const principal = serverOf(emulator).identity?.principalId
  for (const each of world.roleAssignments) if (each.principalId === principal) each.createdAt = Date.now()
  await emulator.refresh()
  const before = await settingsOf(emulator, 'owned')
  const result = await apply(emulator, { ...onlyService(emulator, 'translator', 'owned'), 'verify-timeout-minutes': '0' })
  expect(result.outputs, result.log).toMatchObject({ verified: 'false' })
  expect(result.log).toContain('putting the previous settings back')
  expect(await settingsOf(emulator, 'owned')).toEqual(before)
  const members = await postgres.query(
    'postgres',
    `SELECT FROM pg_auth_members WHERE member = 'mallory'::regrole AND roleid = 'azure_pg_admin'::regrole`,
  )
  expect(members).toEqual([])
})

describe('a database that delays its sessions does not delay the others', () => {
  test('its login does not end, since a session renames it', async () => {
    await postgres.query('postgres', 'CREATE DATABASE "0" OWNER mallory')
    const own = await mallory('postgres')
    await own.query('BEGIN')
    await own.query('ALTER DATABASE "0" RENAME TO "1"')
    const result = await runJob({
      inputs: { ...emulator.inputs, ...usual, ...only('*'), mode: 'check' },
      env: { ...emulator.env, ...hurried([[15_000, 15_000, 3_000]]) },
    })
    await own.query('ROLLBACK')
    await postgres.query('postgres', 'DROP DATABASE "0"')
    expect(codesOf(result), result.log).toContain('login-timeout')
    expect(codesOf(result)).not.toContain('connection-timeout')
    expect(statusesOf(result)).toMatchObject({
      '0/extension': 'failed',
      'app/extension': 'in-sync',
      'owned/extension': 'in-sync',
    })
    await result.remove()
  })

  test('its test query is refused as if the role were not effective yet', async () => {
    // The owner sets an account of the same tenant on which the identity has no role.
    const other = accountNamed(world, 'contoso-language')
    world.roleAssignments = world.roleAssignments.filter(({ scope }) => scope !== other.id)
    await putSettings(emulator, 'app', {
      ...identitySettings(world),
      'azure_openai.endpoint': `https://${other.customSubDomainName}.openai.azure.com`,
    })
    await putSettings(emulator, 'owned', identitySettings(world))
    const result = await apply(emulator, {
      ...only('app\nowned'),
      mode: 'verify',
      'verify-timeout-minutes': '0.05',
      'embedding-deployment': 'text-embedding-3-small',
    })
    expect(result.outputs, result.log).toMatchObject({ verified: 'false' })
    expect(queriesOf(result)['owned/openai'], result.log).toBe('passed: keyless')
    expect(queriesOf(result)['app/openai']).toMatch(/^failed: /)
  })
})

describe('a key that the rollback stores', () => {
  test.each([
    ['in a temporary table', ''],
    ['as a parameter, since the owner took the right to temporary tables away', 'REVOKE TEMPORARY ON DATABASE owned FROM PUBLIC'],
  ])('%s: no session of the owner sees it, although the owner watches all others and may read new tables', async (_, before) => {
    await putSettings(emulator, 'owned', identitySettings(world))
    // The run keeps the previous key only as long as the check of the new one takes.
    world.delays.inference = 300
    await postgres.query(
      'owned',
      `GRANT pg_monitor, pg_read_all_stats, pg_read_all_data TO mallory; ALTER DEFAULT PRIVILEGES FOR ROLE ${pg.escapeIdentifier(deployerName)} GRANT ALL ON TABLES TO PUBLIC; ${before}`,
    )
    const watcher = await mallory()
    let over = false
    let seen = ''
    let tables = 0
    const watching = (async () => {
      while (!over) {
        const { rows } = await watcher.query(
          `SELECT (SELECT json_agg(a) FROM pg_stat_activity AS a)::text AS activity, (SELECT json_agg(l) FROM pg_locks AS l)::text AS locks`,
        )
        seen += rows.map((row) => `${row.activity}${row.locks}`).join()
        const found = await watcher.query(
          `SELECT c.oid::regclass::text AS name FROM pg_class AS c WHERE c.relpersistence = 't' AND c.relkind = 'r' AND c.relname LIKE 'aipg%'`,
        )
        tables += found.rows.length
        for (const { name } of found.rows) {
          for (const sql of [`SELECT * FROM ${name}`, `COPY ${name} TO STDOUT`, `TABLE ${name}`])
            await watcher.query(sql).then(
              ({ rows: read }) => {
                seen += JSON.stringify(read)
              },
              () => undefined,
            )
        }
      }
    })()
    const result = await apply(emulator, { ...only('owned'), 'auth-type': 'subscription-key' })
    over = true
    await watching
    await postgres.query(
      'owned',
      `GRANT TEMPORARY ON DATABASE owned TO PUBLIC; REVOKE pg_monitor, pg_read_all_stats, pg_read_all_data FROM mallory; ALTER DEFAULT PRIVILEGES FOR ROLE ${pg.escapeIdentifier(deployerName)} REVOKE ALL ON TABLES FROM PUBLIC`,
    )
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(codesOf(result).includes('key-as-parameter')).toBe(before !== '')
    const { key1, key2 } = accountNamed(world, 'contoso-openai').keys
    expect(seen).toContain('azure-ai-postgres-identity')
    for (const key of [key1, key2]) expect(seen).not.toContain(key.slice(0, 20))
    if (before === '') expect(tables).toBeGreaterThan(0)
  })
})
