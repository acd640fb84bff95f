/**
 * What the owner of a database sets for its sessions (`ALTER DATABASE .. SET`) changes no result of a run. Where it ends the
 * sessions themselves, the run fails in that database, in time, and in no other one.
 */
import { readFileSync } from 'node:fs'
import pg from 'pg'
import { beforeAll, expect, test } from 'vitest'
import { deployerName } from '../../emulator/default-world.ts'
import { runJob } from '../../emulator/runner.ts'
import { noPauses } from '../support/clock.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { begin, codesOf, giveIdentity, giveRoles, onlyService, settingsOf, usual, workWithKeys } from '../support/support.ts'

const hostile = ['first', 'last', 'smallest', 'largest', 'worded'] as const
/** Settings by which an owner makes a database unusable for a session. */
const ending: Readonly<Record<string, string>> = {
  idle: `SET idle_session_timeout = '1ms'`,
  limited: 'SET transaction_timeout = 1',
  crowded: 'CONNECTION LIMIT 0',
  preloading: `SET local_preload_libraries = 'nowhere'`,
}

const emulator = await ownEmulator({ databases: [...hostile, ...Object.keys(ending), 'sound'] })
const { postgres } = emulator

/** Numbers whose extreme only makes the session useless: no memory for temporary tables, or an end of the session itself. */
const useless: ReadonlySet<string> = new Set(['temp_buffers', 'idle_session_timeout', 'transaction_timeout'])

/** Texts that an owner may set. None of these names exists. */
const words: Readonly<Record<string, string>> = {
  application_name: 'x\n::error::x',
  client_encoding: 'SQL_ASCII',
  createrole_self_grant: 'set, inherit',
  datestyle: 'SQL, DMY',
  default_tablespace: '',
  default_text_search_config: 'pg_catalog.german',
  lc_monetary: 'C',
  lc_numeric: 'C',
  lc_time: 'C',
  role: 'mallory',
  search_path: 'nowhere',
  session_authorization: 'mallory',
  temp_tablespaces: '',
  timezone: 'Asia/Kathmandu',
  timezone_abbreviations: 'India',
}

const untouched = new Map<string, Record<string, string>>()

beforeAll(async () => {
  await begin(emulator)
  giveIdentity(emulator)
  giveRoles(emulator)
  await postgres.query(
    'postgres',
    `CREATE ROLE mallory LOGIN PASSWORD 'mallory'; GRANT mallory TO ${pg.escapeIdentifier(deployerName)}`,
  )
  for (const database of [...hostile, ...Object.keys(ending), 'sound']) await workWithKeys(emulator, database)
  for (const each of Object.keys(ending)) untouched.set(each, await settingsOf(emulator, each))
  for (const database of [...hostile, ...Object.keys(ending)])
    await postgres.query('postgres', `ALTER DATABASE ${database} OWNER TO mallory`)
  const owner = new pg.Client({
    host: postgres.host,
    port: postgres.port,
    user: 'mallory',
    password: 'mallory',
    database: 'sound',
    ssl: { ca: readFileSync(emulator.caFile, 'utf8') },
  })
  await owner.connect()
  try {
    const usable = await postgres.query(
      'postgres',
      `SELECT name, vartype, setting, boot_val, min_val, max_val, enumvals FROM pg_settings WHERE context = 'user' AND name NOT LIKE 'transaction\\_%' ORDER BY name`,
    )
    let count = 0
    for (const row of usable) {
      const { name, vartype, setting, min_val: least, max_val: most } = row as Record<string, string>
      if (name === undefined || setting === undefined) continue
      const others = ((row['enumvals'] as string[] | null) ?? []).filter((each) => each !== setting && each !== '')
      const flipped = vartype === 'bool' ? (setting === 'on' ? 'off' : 'on') : undefined
      const values: Partial<Record<(typeof hostile)[number], string | undefined>> = {
        first: flipped ?? others[0],
        last: flipped ?? others.at(-1),
        ...(useless.has(name) ? {} : { smallest: name.endsWith('_timeout') ? '1' : least, largest: most }),
      }
      for (const [database, value] of Object.entries(values)) {
        if (value === undefined || value === null || vartype === 'string') continue
        await owner.query(`ALTER DATABASE ${database} SET ${name} = ${pg.escapeLiteral(value)}`)
        await keepOwn(database, name, setting)
        count++
      }
    }
    expect(count).toBeGreaterThan(200)
    for (const [name, value] of Object.entries(words)) {
      const text = name === 'search_path' ? value : pg.escapeLiteral(value)
      await owner.query(`ALTER DATABASE worded SET ${name} = ${text}`)
      if (name !== 'session_authorization') await keepOwn('worded', name, name === 'role' ? 'azuresu' : undefined)
    }
    for (const [database, change] of Object.entries(ending)) await owner.query(`ALTER DATABASE ${database} ${change}`)
    for (const name of ['idle_session_timeout', 'transaction_timeout'])
      await keepOwn(name.startsWith('idle') ? 'idle' : 'limited', name, '0')
  } finally {
    await owner.end()
  }
}, 180_000)

/** The emulator's own sessions do not change. */
async function keepOwn(database: string, name: string, value: string | undefined): Promise<void> {
  const [now] =
    value === undefined ? await postgres.query('postgres', `SELECT current_setting('${name}', true) AS value`) : [{ value }]
  const text = String(now?.['value'] ?? '')
  const literal = name === 'search_path' ? 'pg_catalog' : pg.escapeLiteral(text)
  await postgres.query('postgres', `ALTER ROLE azuresu IN DATABASE ${database} SET ${name} = ${literal}`)
}

function job(databases: string, inputs: Record<string, string> = {}) {
  return runJob({
    inputs: { ...emulator.inputs, ...usual, ...onlyService(emulator, 'openai', databases), ...inputs },
    env: { ...emulator.env, ...noPauses() },
  })
}

const cases: [string, (typeof hostile)[number]][] = [
  ['each switch turned over, each choice the first other one', 'first'],
  ['each switch turned over, each choice the last other one', 'last'],
  ['each number at its smallest, each time limit a millisecond', 'smallest'],
  ['each number at its largest', 'largest'],
  ['roles, names, encodings and formats', 'worded'],
]

test.each(cases)('%s: the database is switched, verified and its key cleared, and goes back to it', async (_, database) => {
  const set = await job(database, { 'clear-keys': 'true' })
  expect(set.outputs, set.log).toMatchObject({ result: 'changed', verified: 'true' })
  expect(await settingsOf(emulator, database)).toMatchObject({
    'azure_openai.auth_type': 'managed-identity',
    'azure_openai.subscription_key': '',
  })
  const checked = await job(database, { mode: 'check' })
  expect(checked.outputs, checked.log).toMatchObject({ result: 'in-sync', verified: 'true' })
  const back = await job(database, { 'auth-type': 'subscription-key' })
  expect(back.outputs, back.log).toMatchObject({ result: 'changed', verified: 'true' })
  await Promise.all([set, checked, back].map((each) => each.remove()))
})

test('sessions that end at once, or never begin: the run fails in these databases alone', async () => {
  const result = await job([...Object.keys(ending), 'sound'].join('\n'))
  expect(result.outputs, result.log).toMatchObject({ result: 'failed', changed: 'true', verified: 'false' })
  const queries = result.report.queries as { database: string; status: string }[]
  const { idle, ...others } = Object.fromEntries(queries.map(({ database, status }) => [database, status]))
  // A session may be quicker than its limit; then its database is set up like any other.
  expect(['skipped', 'failed', 'passed']).toContain(idle)
  expect(others).toEqual({
    limited: 'skipped',
    crowded: 'skipped',
    preloading: 'skipped',
    sound: 'passed',
  })
  expect(codesOf(result)).not.toContain('internal')
  // No session begins there otherwise, not even the emulator's own.
  await postgres.query('postgres', 'ALTER DATABASE preloading RESET local_preload_libraries')
  const left = Object.keys(ending).filter((each) => each !== 'idle' || idle !== 'passed')
  for (const each of left) expect([each, await settingsOf(emulator, each)]).toEqual([each, untouched.get(each)])
  if (idle === 'passed')
    expect(await settingsOf(emulator, 'idle')).toMatchObject({ 'azure_openai.auth_type': 'managed-identity' })
  await result.remove()
})
