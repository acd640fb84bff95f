/** Any role that may connect can hold the action's lock: that costs a run some time, and nothing else. */
import { readFileSync } from 'node:fs'
import pg from 'pg'
import { afterEach, beforeAll, expect, test } from 'vitest'
import { findingsWith } from '../support/findings.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import {
  apply,
  begin,
  giveIdentity,
  giveRoles,
  logLength,
  logStatements,
  onlyService,
  settingsOf,
  statementsSince,
  workWithKeys,
  writingStatements,
} from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app'] })
const { postgres } = emulator
const lock = `${0x61697067}, ${0x6d6a6f62}`
const open: pg.Client[] = []

beforeAll(async () => {
  await postgres.query('postgres', `CREATE ROLE mallory LOGIN PASSWORD 'mallory'`)
  await logStatements(emulator)
})
afterEach(async () => {
  await Promise.all(open.splice(0).map((client) => client.end()))
})

/** A session of an ordinary role that has no right but to connect. */
async function mallory(): Promise<pg.Client> {
  const client = new pg.Client({
    host: postgres.host,
    port: postgres.port,
    user: 'mallory',
    password: 'mallory',
    database: 'app',
    application_name: 'nightly\n::error::x',
    ssl: { ca: readFileSync(emulator.caFile, 'utf8') },
  })
  await client.connect()
  client.on('error', () => undefined)
  open.push(client)
  return client
}

test('held for the whole run, it ends each attempt in time, the failure names its holder, and nothing is written', async () => {
  await begin(emulator)
  giveIdentity(emulator)
  giveRoles(emulator)
  const before = await workWithKeys(emulator, 'app')
  const holder = await mallory()
  const { rows } = await holder.query(`SELECT pg_backend_pid() AS pid, pg_advisory_lock(${lock})`)
  const from = logLength(emulator)
  const start = performance.now()
  // Three families need the lock, each more than once.
  const result = await apply(emulator, { 'verify-timeout-minutes': '0', 'clear-keys': 'true' })
  const tookMs = performance.now() - start
  expect(result.outputs, result.log).toMatchObject({
    result: 'failed',
    'failure-reason': 'database',
    verified: 'false',
  })
  const found = findingsWith(result, 'lock')
  expect(found.length).toBeGreaterThan(0)
  expect(found[0]?.detail).toMatch(
    new RegExp(`^Database "app": mallory \\(pid ${rows[0].pid}, nightly.*, from 127\\.0\\.0\\.1, for .*\\) holds it\\.`),
  )
  expect(found[0]?.fix).toContain(`SELECT pg_catalog.pg_terminate_backend(${rows[0].pid});`)
  expect(result.log).toMatch(
    /another session holds the lock of this action in database "app": waiting for mallory .*, for at most 5\.0 s/,
  )
  expect(result.raw).not.toMatch(/^::error::x/m)
  // The run waits five seconds once, not once for each attempt; the rest is the time of a run.
  expect(result.log.match(/^… another session holds the lock of this action/gm)).toHaveLength(1)
  expect(tookMs).toBeLessThan(60_000)
  expect(await settingsOf(emulator, 'app')).toEqual(before)
  expect(writingStatements(statementsSince(emulator, from)).filter((sql) => /COMMIT|set_setting/.test(sql))).toEqual([])
})

test('taken between COMMIT and the check, it does not prevent the return of the previous key', async () => {
  await begin(emulator, { switches: { committedRowsOnly: true } })
  giveIdentity(emulator)
  const before = await workWithKeys(emulator, 'app')
  const holder = await mallory()
  let taken: Promise<unknown> | undefined
  emulator.world.sqlFault = ({ text }) => {
    if (text !== 'COMMIT' || taken !== undefined) return undefined
    // The session takes it as soon as the transaction that holds it ends.
    taken = holder.query(`SELECT pg_advisory_lock(${lock})`)
    return { kind: 'watched', acted: async () => void (await taken) }
  }
  const result = await apply(emulator, {
    ...onlyService(emulator, 'openai', 'app'),
    'auth-type': 'subscription-key',
    'openai-key': 'not-the-key-of-the-account',
    'verify-timeout-minutes': '0',
  })
  delete emulator.world.sqlFault
  expect(taken).toBeDefined()
  expect(result.outputs, result.log).toMatchObject({ result: 'failed' })
  expect(result.log).toContain('settings are put back without the lock of this action, which mallory')
  expect((await settingsOf(emulator, 'app'))['azure_openai.subscription_key']).toBe(before['azure_openai.subscription_key'])
})
