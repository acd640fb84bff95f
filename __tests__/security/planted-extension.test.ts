/** Objects of other roles in the schemas of azure_ai are neither called nor taken over. */
import { beforeAll, expect, test } from 'vitest'
import { findingWith } from '../support/findings.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import {
  apply,
  begin,
  databasesOf,
  giveIdentity,
  giveRoles,
  logLength,
  onlyService,
  queriesOf,
  settingsOf,
  statusesOf,
  workWithKeys,
} from '../support/support.ts'
import { sprung } from './planted.ts'

const emulator = await ownEmulator({ databases: ['sound', 'overload', 'setting', 'creator', 'before', 'lost'] })
const { postgres } = emulator

const body = (answer: string): string => `LANGUAGE plpgsql AS $$ BEGIN RAISE LOG 'planted: function'; RETURN ${answer}; END $$`
/** Without defaults it would be preferred to the extension's own. */
const embeddings = `CREATE FUNCTION azure_openai.create_embeddings(deployment_name text, input text, timeout_ms integer) RETURNS real[] ${body("'{1}'")}`
const asMallory = (database: string, statement: string) => postgres.query(database, `SET ROLE mallory; ${statement}`)

beforeAll(async () => {
  await begin(emulator)
  giveIdentity(emulator)
  giveRoles(emulator)
  await postgres.query('postgres', 'CREATE ROLE mallory LOGIN')
  for (const database of ['sound', 'overload', 'setting', 'creator', 'lost']) await workWithKeys(emulator, database)

  await postgres.query('overload', 'GRANT CREATE, USAGE ON SCHEMA azure_openai TO mallory')
  await asMallory('overload', embeddings)
  await postgres.query('overload', 'REVOKE CREATE ON SCHEMA azure_openai FROM mallory')

  await postgres.query('setting', 'GRANT CREATE, USAGE ON SCHEMA azure_ai TO mallory')
  await asMallory(
    'setting',
    `CREATE FUNCTION azure_ai.get_setting(key text, missing boolean DEFAULT true) RETURNS text ${body("'x'")}`,
  )
  await postgres.query('setting', 'REVOKE CREATE ON SCHEMA azure_ai FROM mallory')

  await postgres.query('creator', 'GRANT CREATE ON SCHEMA azure_cognitive TO PUBLIC')

  // A member of the extension whose owner can replace it.
  await postgres.query('lost', 'ALTER FUNCTION azure_ai.get_setting(text) OWNER TO mallory')

  await postgres.query('before', 'CREATE SCHEMA azure_ai AUTHORIZATION mallory; GRANT USAGE ON SCHEMA azure_ai TO PUBLIC')
  await asMallory('before', `CREATE FUNCTION azure_ai.get_setting(key text) RETURNS text ${body("'x'")}`)
})

const failures = (result: Awaited<ReturnType<typeof apply>>): string[] =>
  result.report.findings
    .filter(({ code }: { code: string }) => code === 'foreign-functions')
    .map(({ detail }: { detail: string }) => detail)

test('a check reports each of them and calls none', async () => {
  const from = logLength(emulator)
  const result = await apply(emulator, { ...onlyService(emulator, 'openai', databasesOf(emulator).join('\n')), mode: 'check' })
  expect(sprung(emulator, from)).toEqual([])
  expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'database', verified: 'false' })
  const details = failures(result)
  const of = (database: string): string => details.find((detail) => detail.startsWith(`Database "${database}":`)) ?? ''
  expect(of('overload')).toContain('FUNCTION azure_openai.create_embeddings(text,text,integer)')
  expect(of('setting')).toContain('FUNCTION azure_ai.get_setting(text,boolean)')
  expect(of('creator')).toContain('SCHEMA azure_cognitive')
  expect(of('lost')).toContain('FUNCTION azure_ai.get_setting(text)')
  expect(of('before')).toContain('SCHEMA azure_ai')
  expect(details).toHaveLength(5)
  const fixes = result.report.findings.map(({ fix }: { fix: string }) => fix).join('\n')
  expect(fixes).toContain('DROP FUNCTION azure_openai.create_embeddings(text,text,integer);   -- in "overload"')
  expect(fixes).toContain(
    'ALTER SCHEMA azure_cognitive OWNER TO azure_pg_admin; REVOKE CREATE ON SCHEMA azure_cognitive FROM PUBLIC;',
  )
  // The unaffected database is reported all the same.
  expect(statusesOf(result)['sound/azure_openai.auth_type']).toBe('different')
})

test.each(['overload', 'setting', 'creator', 'before', 'lost'])(
  'an apply in "%s" writes nothing and calls none',
  async (database) => {
    const before = await settingsOf(emulator, database)
    const from = logLength(emulator)
    const result = await apply(emulator, onlyService(emulator, 'openai', database))
    expect(sprung(emulator, from)).toEqual([])
    expect(result.outputs, result.log).toMatchObject({
      result: 'failed',
      'failure-reason': 'database',
      verified: 'false',
      changed: 'false',
    })
    expect(await settingsOf(emulator, database)).toEqual(before)
    if (database === 'before') {
      expect(await postgres.query(database, `SELECT FROM pg_extension WHERE extname = 'azure_ai'`)).toEqual([])
    }
  },
)

test('a database without planted objects is switched', async () => {
  const result = await apply(emulator, onlyService(emulator, 'openai', 'sound'))
  expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
})

test('an extension without a fixed schema is created in public; without that schema the fix has the command that creates it', async () => {
  emulator.world.switches.schemaOpen = true
  await emulator.refresh()
  await postgres.createDatabase('bare')
  await postgres.query('bare', 'DROP SCHEMA public CASCADE')
  const only = onlyService(emulator, 'openai', 'bare')
  const without = await apply(emulator, only)
  expect(without.outputs, without.log).toMatchObject({ result: 'failed', 'failure-reason': 'database', changed: 'false' })
  const finding = findingWith(without, 'no-public-schema')
  expect(finding?.fix).toMatch(/^CREATE SCHEMA public AUTHORIZATION azure_pg_admin;/)
  await postgres.query('bare', finding.fix)
  const result = await apply(emulator, only)
  expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
  const [made] = await postgres.query(
    'bare',
    `SELECT extnamespace::regnamespace::text AS schema FROM pg_extension WHERE extname = 'azure_ai'`,
  )
  expect(made).toEqual({ schema: 'public' })
  emulator.world.switches.schemaOpen = false
  await emulator.refresh()
})

test('an azure_ai that uses the search path finds its own functions, not those of public', async () => {
  await postgres.query('sound', 'CREATE SCHEMA evil AUTHORIZATION mallory; GRANT ALL ON SCHEMA evil, public TO PUBLIC')
  for (const schema of ['public', 'evil']) {
    await asMallory('sound', `CREATE FUNCTION ${schema}.trap() RETURNS boolean ${body('true')}`)
    await asMallory(
      'sound',
      `CREATE VIEW ${schema}.settings AS SELECT 'azure_openai.endpoint'::text AS key, 'x'::text AS value WHERE ${schema}.trap()`,
    )
    await asMallory('sound', `CREATE FUNCTION ${schema}.setting_keys() RETURNS text[] ${body("'{}'")}`)
    await asMallory('sound', `CREATE DOMAIN ${schema}.sentiment_analysis_result AS text CHECK (${schema}.trap())`)
    await postgres.query('sound', `GRANT SELECT ON ${schema}.settings TO PUBLIC`)
  }
  await postgres.query('postgres', 'ALTER DATABASE sound SET search_path = evil, public, pg_catalog')
  emulator.world.switches.namesByPath = true
  await emulator.refresh()
  const from = logLength(emulator)
  const result = await apply(emulator, { databases: 'sound', 'clear-keys': 'true' })
  expect(sprung(emulator, from)).toEqual([])
  expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
  expect(Object.values(queriesOf(result)).every((each) => each.startsWith('passed'))).toBe(true)
  const back = await apply(emulator, { ...onlyService(emulator, 'openai', 'sound'), 'auth-type': 'subscription-key' })
  expect(back.outputs, back.log).toMatchObject({ result: 'changed', verified: 'true' })
  expect(sprung(emulator, from)).toEqual([])
  emulator.world.switches.namesByPath = false
  await emulator.refresh()
})
