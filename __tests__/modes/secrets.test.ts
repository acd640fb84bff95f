/** No token and no key appears anywhere it should not: every byte of everything that a run leaves is searched. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/index.ts'
import type { JobResult } from '../../emulator/runner.ts'
import { apply, begin, emulate, logLength, logSince, removeJobs, workWithKeys } from '../support/support.ts'

/** Header and payload of a JSON web token. */
const token = /eyJ[\w-]{10,}\.[\w-]{10,}/

let emulator: Emulator

beforeAll(async () => {
  emulator = await emulate({ databases: ['app'] })
  for (const setting of [
    "log_statement = 'all'",
    'log_min_duration_statement = 0',
    "log_min_messages = 'debug1'",
    'log_connections = on',
  ]) {
    await emulator.postgres.query('postgres', `ALTER SYSTEM SET ${setting}`)
  }
  await emulator.postgres.query('postgres', 'SELECT pg_reload_conf()')
})
afterAll(async () => {
  await removeJobs()
  await emulator?.stop()
})

/** Everything that the run left, by name. */
async function traces(result: JobResult, position: number): Promise<Map<string, string>> {
  const found = new Map<string, string>()
  const log = (raw: string) =>
    raw
      .split('\n')
      .filter((line) => !line.startsWith('::add-mask::'))
      .join('\n')
  found.set('log', log(result.raw))
  found.set('log as shown', result.log)
  found.set('post log', log((await result.post()).raw))
  found.set('outputs', JSON.stringify(result.outputs))
  found.set('summary', result.summary)
  found.set('report', JSON.stringify(result.report))
  found.set('PostgreSQL log', logSince(emulator, position))
  for (const entry of await readdir(result.folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) found.set(`file ${entry.name}`, await readFile(join(entry.parentPath, entry.name), 'latin1'))
  }
  return found
}

function keysOf(): string[] {
  const { accounts, workspaces, principals } = emulator.world
  return [
    ...accounts.flatMap(({ keys }) => Object.values(keys)),
    ...workspaces.flatMap(({ onlineEndpoints, serverlessEndpoints = [] }) =>
      [...onlineEndpoints, ...serverlessEndpoints].flatMap(({ keys }) => Object.values(keys)),
    ),
    ...principals.flatMap(({ clientSecret }) => (clientSecret === undefined ? [] : [clientSecret])),
  ]
}

async function expectNothingShown(result: JobResult, position: number): Promise<void> {
  const secrets = [...new Set([...result.masked.filter((value) => value.length > 8), ...keysOf()])]
  for (const [name, content] of await traces(result, position)) {
    expect(token.test(content), `${name} holds a token: ${token.exec(content)?.[0].slice(0, 30)}`).toBe(false)
    for (const secret of secrets) expect(content.includes(secret), `${name} holds ${secret.slice(0, 4)}…`).toBe(false)
  }
}

test('the search finds what it looks for', async () => {
  const { token: real } = await emulator.issueToken(
    emulator.world.principals[0]?.objectId ?? '',
    'https://ossrdbms-aad.database.windows.net',
  )
  expect(token.test(`x ${real} y`)).toBe(true)
})

test('a run from keys to identity shows no token and no key, and masks the tokens that it uses', async () => {
  await begin(emulator)
  await workWithKeys(emulator, 'app')
  const position = logLength(emulator)
  const result = await apply(emulator)
  expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
  // OIDC, Resource Manager, PostgreSQL.
  expect(result.masked.filter((value) => token.test(value)).length).toBeGreaterThanOrEqual(3)
  expect(logSince(emulator, position)).toContain('set_setting')
  await expectNothingShown(result, position)

  const again = logLength(emulator)
  await expectNothingShown(await apply(emulator), again)
})

test('a run that fails shows none either, whatever it passes on of what Azure and PostgreSQL say', async () => {
  await begin(emulator, { delays: { rolePropagation: Number.POSITIVE_INFINITY }, switches: { keyWins: true } })
  await workWithKeys(emulator, 'app')
  const position = logLength(emulator)
  const result = await apply(emulator, { 'verify-timeout-minutes': '0', databases: 'app\nnot there' })
  expect(result.outputs['result']).toBe('failed')
  await expectNothingShown(result, position)
})

test('a run with client secret and password login shows neither', async () => {
  await begin(emulator)
  const position = logLength(emulator)
  const wrong = 'not-the-password-4711'
  const result = await apply(emulator, { 'database-user': 'pgadmin', 'database-password': wrong })
  expect(result.outputs['failure-reason']).toBe('credentials')
  expect(result.masked).toContain(wrong)
  await expectNothingShown(result, position)
})

test.each([
  ['in the query', (key: string) => `https://gateway.azure-api.net/shop?subscription-key=${key}`],
  ['in the user info', (key: string) => `https://user:${key}@gateway.azure-api.net/shop`],
])('a key that a stored endpoint contains %s is shown by no mode', async (_, endpointWith) => {
  await begin(emulator)
  await workWithKeys(emulator, 'app')
  const key = 'a-short-key-of-4711'
  await emulator.postgres.query('app', "SELECT azure_ai.set_setting('azure_openai.endpoint', $1)", [endpointWith(key)])
  const kept = ['server', 'environment', 'tenant-id', 'client-id', 'audience', 'database-host', 'database-port']
  const ofInventory = Object.keys(emulator.inputs).map((name) => [name, kept.includes(name) ? emulator.inputs[name] : ''])
  for (const inputs of [
    { mode: 'check' },
    { ...Object.fromEntries(ofInventory), mode: 'inventory', 'allow-restart': 'false' },
    {},
  ]) {
    const result = await apply(emulator, inputs)
    for (const text of [result.raw.replaceAll(/^::add-mask::.*$/gm, ''), result.summary, JSON.stringify(result.report)])
      expect(text.includes(key), JSON.stringify(inputs)).toBe(false)
    expect(result.report.mode).toBe((inputs as { mode?: string }).mode ?? 'apply')
  }
})

test('the log of the emulator itself keeps no token, so that the search means something', () => {
  expect(token.test(JSON.stringify(emulator.world.exchanges))).toBe(false)
})
