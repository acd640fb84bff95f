/** Names and values that others chose, in runs over all databases (`databases: '*'`), which no input names. */
import pg from 'pg'
import { afterEach, beforeAll, expect, test } from 'vitest'
import type { JobResult } from '../../emulator/runner.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import {
  apply,
  begin,
  giveIdentity,
  giveRoles,
  identitySettings,
  onlyService,
  putSettings,
  statusesOf,
  workWithKeys,
} from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app'] })
const { postgres, world } = emulator
const inSync = identitySettings(world)

/** Each is a database other than `app`, with a name that careless code could mistake for `app`, for a step of it or for something else. */
const names = [
  'App',
  ' app',
  'app ',
  'app/extension',
  'app/azure_openai.auth_type',
  'role',
  'identity',
  '*',
  '__proto__',
  'constructor',
  'x"; DROP DATABASE app; --',
  "x'; DROP DATABASE app; --",
  'two\nlines',
  '\n::error::x',
  '%s%n$1',
  '😀'.repeat(15),
  'y'.repeat(63),
  '\t',
  '\u0001\u0007\u001b[2J',
  'postgres://evil.example/app',
  'app?sslmode=disable',
  '/var/run',
  '\u202eppa',
]

beforeAll(async () => {
  await begin(emulator)
  giveIdentity(emulator)
  giveRoles(emulator)
  await postgres.query('postgres', 'CREATE ROLE mallory LOGIN CREATEDB; CREATE ROLE reader LOGIN')
})

const made: string[] = []
async function make(name: string, more = ''): Promise<void> {
  await postgres.query('postgres', `CREATE DATABASE ${pg.escapeIdentifier(name)} OWNER mallory${more}`)
  made.push(name)
}
afterEach(async () => {
  for (const name of made.splice(0)) await postgres.query('postgres', `DROP DATABASE ${pg.escapeIdentifier(name)} WITH (FORCE)`)
})

const check = (inputs: Record<string, string> = {}): Promise<JobResult> =>
  apply(emulator, { ...onlyService(emulator, 'openai', '*'), mode: 'check', ...inputs })

/** Lines of the log that look like a step of the plan. */
function planLines(result: JobResult): string[] {
  return result.log
    .split('\n')
    .filter((line) => /^(in-sync|missing|different|failed|skipped) +\S/.test(line) && !line.includes(' openai (embedding) in "'))
}

test('each database is judged by its own settings, one line of the log for each step', async () => {
  await putSettings(emulator, 'app', { ...inSync, 'azure_openai.auth_type': 'subscription-key' })
  // Every second one is in sync, so code that mistakes it for `app` would report `app` as in sync.
  for (const name of names) {
    await make(name)
    await putSettings(emulator, name, inSync)
  }
  const result = await check()
  expect(result.outputs, result.log).toMatchObject({ result: 'drift', verified: 'false' })
  const statuses = statusesOf(result)
  const steps = result.report.steps as { id: string; target: string; kind: string }[]
  expect(new Set(steps.map(({ id }) => id)).size).toBe(steps.length)
  expect(statuses['app/azure_openai.auth_type']).toBe('different')
  for (const name of names) {
    expect([name, statuses[`${name}/extension`]]).toEqual([name, 'in-sync'])
    expect([name, statuses[`${name}/azure_openai.auth_type`]]).toEqual([name, 'in-sync'])
    expect(steps.filter(({ target, kind }) => target === name && kind === 'setting')).toHaveLength(2)
  }
  const queries = result.report.queries as { database: string; status: string }[]
  expect(
    queries
      .filter(({ status }) => status === 'passed')
      .map(({ database }) => database)
      .sort(),
  ).toEqual([...names].sort())
  expect(queries.filter(({ status }) => status !== 'passed').map(({ database }) => database)).toEqual(['app'])
  expect(planLines(result)).toHaveLength(steps.length)
})

test('a verify queries each of them over its own connection', async () => {
  const some = names.filter((_, index) => index % 3 === 0)
  await putSettings(emulator, 'app', inSync)
  for (const name of some) {
    await make(name)
    await putSettings(emulator, name, { ...inSync, 'azure_openai.endpoint': 'https://trial.invalid' })
  }
  const result = await check({ mode: 'verify', 'verify-timeout-minutes': '0', 'embedding-deployment': 'text-embedding-3-small' })
  expect(result.outputs, result.log).toMatchObject({ verified: 'false' })
  const queries = result.report.queries as { database: string; status: string }[]
  expect(queries.filter(({ status }) => status === 'passed').map(({ database }) => database)).toEqual(['app'])
})

test('a line break in a name, in a value or in an error adds no line to the log that looks like another step', async () => {
  const line = '\nin-sync   app/azure_openai.auth_type: managed-identity'
  await putSettings(emulator, 'app', { ...inSync, 'azure_openai.auth_type': 'subscription-key' })
  await make(`x${line}`)
  await workWithKeys(emulator, `x${line}`)
  await make('valued')
  await putSettings(emulator, 'valued', {
    ...inSync,
    'azure_openai.endpoint': `https://x${line}\n::error::x\npassed  openai in "app": 1536 dimensions`,
  })
  const result = await check()
  expect(result.outputs, result.log).toMatchObject({ result: 'drift', verified: 'false' })
  const lines = result.log.split('\n')
  expect(lines.filter((each) => /^in-sync +app\/azure_openai\.auth_type/.test(each))).toEqual([])
  // The only error is that of drift, which names its steps on one line.
  const own = /^::error title=pg-contoso has drifted from its workflow::/
  expect(lines.filter((each) => /^(passed|::error)/.test(each) && !own.test(each))).toEqual([])
  expect(lines.filter((each) => /^different app\/azure_openai\.auth_type/.test(each))).toHaveLength(1)
})

test('a name that is not UTF-8 does not count as the database whose name it resembles', async () => {
  await make('latin', ` ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0`)
  // Sessions of a database send names in its encoding.
  await postgres.query('latin', `CREATE DATABASE "x\u00ff" OWNER mallory`)
  try {
    await make('x\ufffd')
    await putSettings(emulator, 'app', inSync)
    await putSettings(emulator, 'x\ufffd', inSync)
    const result = await check()
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false' })
    const [finding] = result.report.findings as { code: string; detail: string }[]
    expect(finding).toMatchObject({ code: 'name-not-readable' })
    const queries = result.report.queries as { database: string; status: string }[]
    expect(queries.filter(({ status }) => status === 'passed').map(({ database }) => database)).toEqual(['app'])
  } finally {
    await postgres.query('latin', `DROP DATABASE "x\u00ff"`)
  }
})

test('the fix for a planted function runs nothing of it, whatever its name and that of its database', async () => {
  const name = `); GRANT azure_pg_admin TO reader; --`
  await make(name)
  const sign = '\u0001'
  // The text may be cut anywhere: in a name, in one with quotes, in a list of names.
  const types = [sign.repeat(60), `"`.repeat(60), `; GRANT azure_pg_admin TO reader; --`, 'x'.repeat(60)].map((each) =>
    pg.escapeIdentifier(each),
  )
  await postgres.query(
    name,
    [
      'GRANT CREATE ON SCHEMA public TO mallory',
      'SET ROLE mallory',
      'CREATE SCHEMA azure_ai',
      ...types.map((type) => `CREATE TYPE public.${type} AS (n integer)`),
    ].join(';'),
  )
  for (const [index, args] of [types, [types[0]], [types[1]], [types[2]], types.slice(1)].entries()) {
    await postgres.query(
      name,
      `SET ROLE mallory; CREATE FUNCTION azure_ai.get_setting(${args.map((type) => `public.${type}`).join(', ')}) RETURNS integer LANGUAGE sql AS 'SELECT ${index}'`,
    )
  }
  const fixes = new Set<string>()
  for (let left = 5; left > 0; left--) {
    const result = await apply(emulator, { ...onlyService(emulator, 'openai', name), mode: 'check' })
    const findings = result.report.findings as { code: string; fix: string }[]
    const fix = findings.find(({ code }) => code === 'foreign-functions')?.fix ?? ''
    expect(fix, result.log).not.toBe('')
    fixes.add(fix)
    // An administrator pastes the fix. psql does not send its own commands to the server.
    if (!fix.startsWith('\\')) await postgres.query(name, fix)
    await postgres.query(
      name,
      `DO $$ DECLARE f regprocedure; BEGIN SELECT oid INTO f FROM pg_proc WHERE proname = 'get_setting' ORDER BY oid::regprocedure::text LIMIT 1; IF f IS NOT NULL THEN EXECUTE 'DROP FUNCTION ' || f; END IF; END $$`,
    )
    const members = await postgres.query('postgres', `SELECT FROM pg_auth_members WHERE member = 'reader'::regrole`)
    expect(members, fix).toEqual([])
  }
  expect(fixes.size).toBeGreaterThan(2)
})
