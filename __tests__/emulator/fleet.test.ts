/** Resource Graph and the servers of a fleet, as their clients see them. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { deployerName, readerName } from '../../emulator/default-world.ts'
import { fleetGroup, fleetSubscriptions, fleetWorld } from '../../emulator/fleet-world.ts'
import { type Emulator, startEmulator } from '../../emulator/index.ts'
import { passwordLogin } from '../../emulator/postgres.ts'
import { principalNamed } from '../support/support.ts'

const run = promisify(execFile)

// biome-ignore lint/suspicious/noExplicitAny: the assertions check the shape of an answer.
type Json = any

let emulator: Emulator

beforeAll(async () => {
  emulator = await startEmulator({ fleet: true, shape: fleetWorld })
})
afterAll(() => emulator?.stop())
beforeEach(() => {
  emulator.world.resourceGraph = { quota: { remaining: 1_000, resetsAfter: 5_000 } }
})

/** One request as curl would send it; the test's own process does not trust the emulator. */
async function send(
  method: string,
  path: string,
  body?: unknown,
  caller = deployerName,
): Promise<{ status: number; headers: Json; body: Json }> {
  const { token } = await emulator.issueToken(principalNamed(emulator.world, caller).objectId, `${emulator.url}/`)
  const script = `fetch(process.argv[1], JSON.parse(process.argv[2])).then(async (r) => console.log(JSON.stringify({ status: r.status, headers: Object.fromEntries(r.headers), body: await r.json() })))`
  const init = {
    method,
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  }
  const { stdout } = await run(process.execPath, ['-e', script, `${emulator.url}${path}`, JSON.stringify(init)], {
    env: { NODE_EXTRA_CA_CERTS: emulator.caFile },
  })
  return JSON.parse(stdout)
}

const of = (...types: string[]): string =>
  `resources | where type in~ (${types.map((type) => `'${type}'`).join(', ')}) | project id, name, type, kind, location, properties, identity | order by id asc`
const serversOnly = of('Microsoft.DBforPostgreSQL/flexibleServers')
const query = (body: object, caller?: string) =>
  send(
    'POST',
    '/providers/Microsoft.ResourceGraph/resources?api-version=2024-04-01',
    { query: serversOnly, options: { $top: 1_000 }, ...body },
    caller,
  )
const names = ({ body }: { body: Json }): string[] => body.data.map((row: Json) => row.name).sort()

const inFirst = ['pg-contoso', 'pg-contoso-replica', 'pg-stopped']
const inRetail = ['pg-private', 'pg-refusing', 'pg-retail', 'pg-without-login']

describe('Resource Graph', () => {
  test('shows what the caller may read, with whole properties and types in lower case', async () => {
    const answer = await query({})
    expect(names(answer)).toEqual([...inFirst, ...inRetail].sort())
    expect(answer.body).toMatchObject({ totalRecords: 7, count: 7, resultTruncated: 'false' })
    expect(answer.body.data[0]).toMatchObject({
      type: 'microsoft.dbforpostgresql/flexibleservers',
      properties: { state: 'Ready' },
    })
    // The reader has its role in one resource group.
    expect(names(await query({}, readerName))).toEqual(inFirst)
  })

  test('of subscriptions, of management groups with what lies in them, and of resource groups', async () => {
    const { subscriptionId } = emulator.world
    expect(names(await query({ subscriptions: [subscriptionId] }))).toEqual(inFirst)
    expect(names(await query({ managementGroups: ['contoso-retail'] }))).toEqual(inRetail)
    expect(names(await query({ managementGroups: [fleetGroup] }))).toEqual([...inFirst, ...inRetail].sort())
    const grouped = serversOnly.replace(' | project', " | where resourceGroup in~ ('RG-contoso-ai') | project")
    expect(names(await query({ query: grouped, subscriptions: [subscriptionId] }))).toEqual(inFirst)
    expect(names(await query({ query: grouped.replace('RG-contoso-ai', 'other'), subscriptions: [subscriptionId] }))).toEqual([])
  })

  test('leaves out a subscription without a role, and refuses a query of nothing else', async () => {
    const { hidden, retail } = fleetSubscriptions
    expect(names(await query({ subscriptions: [hidden, retail] }))).toEqual(inRetail)
    expect(await query({ subscriptions: [hidden] })).toMatchObject({
      status: 403,
      body: { error: { code: 'AuthorizationFailed' } },
    })
  })

  test('in pages, which can link back with a switch', async () => {
    emulator.world.resourceGraph = { pageSize: 3 }
    const first = await query({})
    expect(first.body).toMatchObject({ count: 3, totalRecords: 7 })
    const second = await query({ options: { $top: 1_000, $skipToken: first.body.$skipToken } })
    const third = await query({ options: { $top: 1_000, $skipToken: second.body.$skipToken } })
    expect([...names(first), ...names(second), ...names(third)].sort()).toEqual([...inFirst, ...inRetail].sort())
    expect(third.body.$skipToken).toBeUndefined()
    emulator.world.resourceGraph = { pageSize: 3, repeats: true }
    const again = await query({ options: { $top: 1_000, $skipToken: first.body.$skipToken } })
    expect(again.body.$skipToken).toBe(first.body.$skipToken)
  })

  test('returns the rest of the quota, and answers 429 when it is used up', async () => {
    emulator.world.resourceGraph = { quota: { remaining: 2, resetsAfter: 60_000 } }
    const first = await query({}, readerName)
    const left = Number(first.headers['x-ms-user-quota-remaining'])
    expect(first.headers['x-ms-user-quota-resets-after']).toMatch(/^00:0[01]:\d\d$/)
    for (let more = left; more > 0; more--) expect((await query({}, readerName)).status).toBe(200)
    const refused = await query({}, readerName)
    expect(refused).toMatchObject({ status: 429, body: { error: { code: 'RateLimiting' } } })
    expect(Number(refused.headers['retry-after'])).toBeGreaterThan(0)
  })

  test('can hide the addresses of online endpoints', async () => {
    const endpoints = of('Microsoft.MachineLearningServices/workspaces/onlineEndpoints')
    expect((await query({ query: endpoints })).body.data[0].properties.scoringUri).toMatch(/^https:/)
    emulator.world.resourceGraph = { hidesEndpoints: true }
    expect((await query({ query: endpoints })).body.data[0].properties.scoringUri).toBeUndefined()
  })

  test.each(['resources | take 5', 'resources'])('refuses the query %s', async (text) => {
    expect((await query({ query: text })).status).toBe(400)
  })
})

describe('scopes', () => {
  test.each([
    ['a subscription', () => `/subscriptions/${fleetSubscriptions.retail}?api-version=2022-12-01`, 200],
    [
      'a resource group',
      () => `/subscriptions/${fleetSubscriptions.retail}/resourceGroups/rg-contoso-ai?api-version=2021-04-01`,
      200,
    ],
    [
      'a resource group of another subscription',
      () => `/subscriptions/${fleetSubscriptions.retail}/resourceGroups/none?api-version=2021-04-01`,
      404,
    ],
    ['a management group', () => `/providers/Microsoft.Management/managementGroups/contoso-retail?api-version=2020-05-01`, 200],
    ['a subscription without a role', () => `/subscriptions/${fleetSubscriptions.hidden}?api-version=2022-12-01`, 403],
    [
      'a management group without a role',
      () => `/providers/Microsoft.Management/managementGroups/contoso-secret?api-version=2020-05-01`,
      403,
    ],
  ])('%s', async (_, path, status) => {
    expect((await send('GET', path())).status).toBe(status)
  })
})

describe('the servers at their names', () => {
  /** Logs in with a password, as the action's process would resolve the name; prints what it found. */
  async function login(server: string, sql = 'SELECT current_database() AS found', database = 'postgres'): Promise<string> {
    const script = `
const { Client } = require('pg')
const client = new Client({ host: process.argv[1] + '.postgres.database.azure.com', port: ${emulator.fleet?.port}, user: '${passwordLogin.user}', password: '${passwordLogin.password}', database: process.argv[3], ssl: {} })
client.connect().then(() => client.query(process.argv[2])).then(({ rows }) => { console.log(rows.map((row) => row.found).join()); process.exit() }, (error) => { console.log(error.code + ' ' + error.message); process.exit() })`
    const { stdout } = await run(process.execPath, ['-e', script, server, sql, database], {
      env: { NODE_EXTRA_CA_CERTS: emulator.caFile, ...emulator.fleet?.env },
    })
    return stdout.trim()
  }
  const databases = `SELECT datname AS found FROM pg_database WHERE NOT datistemplate AND datname NOT IN ('postgres', 'azure_maintenance') ORDER BY 1`

  test('have databases of their own, or those of the first server', async () => {
    expect(await login('pg-contoso', databases)).toBe('app,sales 2026')
    expect(await login('pg-retail', databases)).toBe('orders,returns')
    expect(await login('pg-without-login', databases)).toBe('app,sales 2026')
  })

  test('may refuse, be stopped, or be known in their own network only', async () => {
    expect(await login('pg-refusing')).toMatch(/^28000 no pg_hba\.conf entry for host/)
    expect(await login('pg-private')).toMatch(/^ENOTFOUND/)
    expect(await login('pg-stopped')).toMatch(/ECONNRESET|Connection terminated|socket/i)
  })
})
