import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { fleetSubscriptions } from '../../emulator/fleet-world.ts'
import type { Emulator } from '../../emulator/index.ts'
import type { JobResult } from '../../emulator/runner.ts'
import type { Account, Server } from '../../emulator/world.ts'
import { applyEntry, setUp, startFleetEmulator, takeInventory, wholeScope, withOpenAiKey } from '../support/fleet.ts'
import {
  accountNamed,
  codesOf,
  logLength,
  logStatements,
  removeJobs,
  statementsSince,
  writingStatements,
} from '../support/support.ts'

let emulator: Emulator

const server = (name: string): Server => {
  const found = emulator.world.servers.find((each) => each.name === name)
  if (found === undefined) throw new Error(`no server ${name}`)
  return found
}
const postgresOf = (name: string) => emulator.fleet?.postgres(server(name))
const account = (subdomain: string): Account => {
  const found = emulator.world.accounts.find((each) => each.customSubDomainName === subdomain)
  if (found === undefined) throw new Error(`no account ${subdomain}`)
  return found
}
const nameOf = (id: string): string => id.split('/').at(-1) ?? ''
/** Rows as `SERVER DATABASE FAMILY`, with what is to be looked at. */
const rows = (result: JobResult): string[] =>
  // biome-ignore lint/suspicious/noExplicitAny: the assertions check the shape of the report
  result.report.inventory.map((row: any) =>
    [nameOf(row.server), row.database, row.family, row.authType, nameOf(row.resource), row.keyStored, row.reason]
      .filter((each) => each !== '' && each !== null)
      .join(' | '),
  )
const matrix = (result: JobResult): Record<string, string>[] => JSON.parse(result.outputs['matrix'] ?? '').include

beforeAll(async () => {
  emulator = await startFleetEmulator()
  const openai = account('contoso-openai')
  const retail = account('contoso-openai-retail')
  const language = accountNamed(emulator.world, 'contoso-language')
  await setUp(postgresOf('pg-contoso'), 'app', {
    ...withOpenAiKey('contoso-openai', openai.keys.key1),
    'azure_cognitive.auth_type': 'subscription-key',
    'azure_cognitive.endpoint': 'https://contoso-language.cognitiveservices.azure.com/',
    'azure_cognitive.subscription_key': language.keys.key1,
  })
  await setUp(postgresOf('pg-contoso'), 'sales 2026', withOpenAiKey('contoso-openai', openai.keys.key2))
  await setUp(postgresOf('pg-retail'), 'orders', withOpenAiKey('contoso-openai-retail', retail.keys.key1))
  await setUp(postgresOf('pg-retail'), 'returns', {
    ...withOpenAiKey('contoso-secret', 'a key of a hidden account'),
    'azure_cognitive.endpoint': 'https://contoso.azure-api.net/language',
  })
})
afterAll(() => emulator?.stop())
afterAll(removeJobs)
beforeEach(() => {
  delete emulator.world.resourceGraph
  delete emulator.world.fault
})

describe('an inventory of the whole fleet', () => {
  let result: JobResult
  let statements: string[]
  beforeAll(async () => {
    await logStatements(emulator)
    const from = logLength(emulator)
    emulator.world.exchanges.length = 0
    result = await takeInventory(emulator)
    statements = writingStatements(statementsSince(emulator, from))
  })

  test('has a row for each family in use, with the resource behind it, and one for each server that cannot be inspected', () => {
    expect(rows(result)).toEqual([
      'pg-contoso | app | azure_openai | subscription-key | contoso-openai | true',
      'pg-contoso | app | azure_cognitive | subscription-key | contoso-language | true',
      'pg-contoso | sales 2026 | azure_openai | subscription-key | contoso-openai | true',
      'pg-contoso-replica | A read replica, which has the settings of pg-contoso',
      'pg-stopped | The server is Stopped',
      expect.stringMatching(/^pg-private \| .*resolve/),
      expect.stringMatching(/^pg-refusing \| .*firewall/i),
      'pg-retail | orders | azure_openai | subscription-key | contoso-openai | true',
      'pg-retail | returns | azure_openai | subscription-key | true',
      'pg-retail | returns | azure_cognitive | false',
      'pg-without-login | It is not known which role to connect as',
    ])
  })

  test('distinguishes accounts of the same name in two subscriptions', () => {
    const of = (name: string): string =>
      result.report.inventory.find((row: { server: string }) => nameOf(row.server) === name).resource
    expect(of('pg-contoso')).toBe(account('contoso-openai').id)
    expect(of('pg-retail')).toBe(account('contoso-openai-retail').id)
  })

  test('ends as drift with the number of keys, and never as verified', () => {
    expect(result.outputs).toMatchObject({
      result: 'drift',
      drift: 'true',
      'stored-keys': '5',
      verified: 'false',
      changed: 'false',
      'failure-reason': 'drift',
    })
    expect(result.code).toBe(1)
  })

  test('lists the replica before its primary, and has no entry for what is not visible', () => {
    expect(matrix(result)).toEqual([
      {
        ...{ name: 'pg-contoso-replica', server: server('pg-contoso-replica').id, databases: 'app' },
        ...{ openai: account('contoso-openai').id, cognitive: account('contoso-language').id },
        ...{ translator: '', 'machine-learning': '', ranking: '' },
      },
      expect.objectContaining({ name: 'pg-contoso-replica-2', databases: 'sales 2026', cognitive: '' }),
      expect.objectContaining({
        name: 'pg-retail',
        server: server('pg-retail').id,
        databases: 'orders',
        openai: account('contoso-openai-retail').id,
      }),
    ])
    expect(codesOf(result)).toEqual(
      expect.arrayContaining(['not-inspected', 'resource-not-visible', 'identity-missing', 'replica-first']),
    )
  })

  test('writes nothing, neither in Azure nor in a database, runs no test query and reads no key', () => {
    expect(emulator.writes()).toEqual([])
    expect(emulator.keyReads()).toEqual([])
    expect(emulator.world.exchanges.filter(({ plane }) => plane === 'ai')).toEqual([])
    expect(statements).toEqual([])
  })

  test('shows keys first, then what is unknown, then the next step', () => {
    expect(result.summary).toMatch(/^## 🔑 7 servers: 5 keys stored\n/)
    const order = ['pg-contoso', 'pg-retail', 'pg-stopped'].map((name) =>
      result.summary.indexOf(`>${name.replaceAll('-', '&#45;')}<`),
    )
    expect(order).toEqual([...order].sort((a, b) => a - b))
    expect(order.every((place) => place > 0)).toBe(true)
    expect(result.summary).toContain('fromJSON(needs.inventory.outputs.matrix)')
    expect(result.log).toMatch(/::error title=5 keys stored on 7 servers::/)
  })

  test('its requests to Resource Graph and the responses match the OpenAPI file of 2024-04-01', () => {
    const queries = emulator.world.exchanges.filter(({ url }) => url.includes('/Microsoft.ResourceGraph/'))
    expect(queries.length).toBe(2)
    for (const { requestBody, responseBody } of queries) {
      // biome-ignore lint/suspicious/noExplicitAny: the assertions check the shapes
      const [query, answer] = [requestBody, responseBody] as any[]
      const known = ['subscriptions', 'managementGroups', 'query', 'options', 'facets']
      expect(Object.keys(query).filter((name) => !known.includes(name))).toEqual([])
      expect(query.options).toEqual({ resultFormat: 'objectArray', $top: 500 })
      expect(answer).toMatchObject({ totalRecords: expect.any(Number), count: answer.data.length, resultTruncated: 'false' })
    }
  })

  test('shows no key, in whatever it writes', () => {
    const written = [result.raw, result.summary, JSON.stringify(result.report), JSON.stringify(result.outputs)].join('\n')
    for (const { keys } of emulator.world.accounts) for (const key of Object.values(keys)) expect(written).not.toContain(key)
    expect(written).not.toContain('a key of a hidden account')
  })
})

describe('scopes', () => {
  const servers = (result: JobResult): string[] => [
    ...new Set<string>(result.report.inventory.map((row: { server: string }) => nameOf(row.server))),
  ]

  test('a subscription, and a resource group with its neighbour, each server once', async () => {
    const { retail } = fleetSubscriptions
    const one = await takeInventory(emulator, { scope: `/subscriptions/${retail}/` })
    expect(servers(one)).toEqual(['pg-private', 'pg-refusing', 'pg-retail', 'pg-without-login'])
    const { subscriptionId, resourceGroup } = emulator.world
    const two = await takeInventory(emulator, {
      scope: `/subscriptions/${subscriptionId}/resourceGroups/${resourceGroup}\n/subscriptions/${subscriptionId}`,
    })
    expect(servers(two)).toEqual(['pg-contoso', 'pg-contoso-replica', 'pg-stopped'])
  })

  test.each([
    ['a subscription without a role', () => `/subscriptions/${fleetSubscriptions.hidden}`],
    [
      'a visible and a hidden subscription together',
      () => `/subscriptions/${fleetSubscriptions.retail},/subscriptions/${fleetSubscriptions.hidden}`,
    ],
    ['a management group without a role', () => '/providers/Microsoft.Management/managementGroups/contoso-secret'],
    ['a resource group that does not exist', () => `/subscriptions/${fleetSubscriptions.retail}/resourceGroups/none`],
  ])('%s is a failure, never an empty fleet', async (_, scope) => {
    const result = await takeInventory(emulator, { scope: scope() })
    expect(result.outputs).toMatchObject({ result: 'failed', 'stored-keys': '', matrix: '{"include":[]}' })
    expect(['permission', 'azure', 'input']).toContain(result.outputs['failure-reason'])
  })

  test('one server, with the databases that are named', async () => {
    const result = await takeInventory(emulator, { server: server('pg-retail').id, databases: 'orders' })
    expect(rows(result)).toEqual(['pg-retail | orders | azure_openai | subscription-key | contoso-openai | true'])
    expect(result.outputs['stored-keys']).toBe('1')
    const absent = await takeInventory(emulator, { server: server('pg-retail').id, databases: 'orders\nnone' })
    expect(absent.outputs).toMatchObject({ result: 'drift', 'stored-keys': '' })
  })
})

test('one server is opened to the runner until the post step, and nothing else changes', async () => {
  const result = await takeInventory(emulator, { server: server('pg-refusing').id, 'temporary-firewall-rule': 'true' })
  expect(rows(result)).toEqual(['pg-refusing | false | No database has azure_ai'])
  expect(result.outputs).toMatchObject({ result: 'in-sync', changed: 'false', 'stored-keys': '0' })
  expect(Object.keys(server('pg-refusing').firewallRules)).toEqual([expect.stringMatching(/^gha-aipg-/)])
  expect((await result.post()).code).toBe(0)
  expect(server('pg-refusing').firewallRules).toEqual({})
})

describe('Resource Graph', () => {
  test('is read page by page, and the run waits when the quota is used up', async () => {
    emulator.world.resourceGraph = { pageSize: 3, quota: { remaining: 2, resetsAfter: 1_000 } }
    const result = await takeInventory(emulator, { databases: 'none' })
    expect(new Set(result.report.inventory.map((row: { server: string }) => row.server)).size).toBe(7)
  })

  test('that leads back to a page is a failure', async () => {
    emulator.world.resourceGraph = { pageSize: 3, repeats: true }
    const result = await takeInventory(emulator)
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'azure' })
    expect(codesOf(result)).toContain('list-unending')
  })

  test('that refuses is a failure, with the right that is missing', async () => {
    const body = JSON.stringify({
      error: {
        code: 'AuthorizationFailed',
        message:
          "The client 'x' with object id 'y' does not have authorization to perform action 'Microsoft.ResourceGraph/resources/read' over scope '/subscriptions/z'.",
      },
    })
    emulator.world.fault = ({ url }) => (url.includes('ResourceGraph') ? { kind: 'answer', status: 403, body } : undefined)
    const result = await takeInventory(emulator)
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'permission' })
    expect(JSON.stringify(result.report.findings)).toContain('Microsoft.ResourceGraph/resources/read')
  })

  test('that breaks a connection or is throttled is queried again', async () => {
    let count = 0
    emulator.world.fault = ({ url }) => {
      if (!url.includes('ResourceGraph')) return undefined
      count++
      if (count === 1) return { kind: 'reset-before' }
      return count === 2 ? { kind: 'answer', status: 429, headers: { 'retry-after': '1' }, body: '{}' } : undefined
    }
    expect((await takeInventory(emulator, { server: server('pg-retail').id })).outputs['result']).toBe('drift')
    expect(count).toBeGreaterThan(2)
  })
})

describe('the drift issue', () => {
  const issues = () => emulator.world.github.issues ?? []
  const withIssue = (inputs: Record<string, string> = {}) =>
    takeInventory(emulator, { 'drift-issue': 'true', 'github-token': emulator.world.github.token ?? '', ...inputs })

  test('of a scope is one, edited in place, with names only in a public repository', async () => {
    emulator.world.github.visibility = 'public'
    await withIssue()
    await withIssue()
    expect(issues().length).toBe(1)
    const [issue] = issues()
    expect(issue?.title).toBe('inventory has drifted: all databases')
    expect(issue?.body).toContain('azure&#95;openai.subscription&#95;key')
    expect(issue?.body).toMatch(/<code>keys<\/code>.*pg&#45;stopped.*\| <code>unknown<\/code> \| <code>not set<\/code> \|/)
    expect(issue?.body).not.toContain(emulator.world.subscriptionId)
    expect(issue?.body).not.toMatch(/openai\.azure\.com|openai&#46;azure/)
  })

  test('of another scope, or of one server, is another one, and a check does not take it over', async () => {
    emulator.world.github.issues = []
    await withIssue()
    await withIssue({ server: server('pg-retail').id })
    expect(issues().map(({ title, state }) => [title, state])).toEqual([
      ['inventory has drifted: all databases', 'open'],
      ['pg-retail has drifted: all databases', 'open'],
    ])
  })
})

describe('inputs', () => {
  test.each([
    ['a service', { openai: 'x' }, 'openai'],
    ['a role', { 'openai-role': '5e0bd9bd-7b93-4f28-af87-19fc36ad61bd' }, 'openai-role'],
    ['a key', { 'openai-key': 'a key of a service' }, 'openai-key'],
    ['plan-id', { 'plan-id': '0123456789abcdef.0123456789abcdef' }, 'plan-id'],
    ['clear-keys', { 'clear-keys': 'true' }, 'clear-keys'],
    ['server beside scope', { scope: wholeScope, server: '/subscriptions/0/x' }, 'scope'],
    ['database-host with scope', { 'database-host': 'localhost' }, 'database-host'],
    ['temporary-firewall-rule with scope', { 'temporary-firewall-rule': 'true' }, 'temporary-firewall-rule'],
    ['runner-ip with scope', { 'runner-ip': '203.0.113.7' }, 'runner-ip'],
    ['a scope that is none', { scope: '/subscriptions/all' }, 'scope'],
    ['neither server nor scope', { scope: '' }, 'server'],
    ['scope in another mode', { mode: 'check', databases: 'app' }, 'scope'],
  ])('%s is refused before any request', async (_, inputs, named) => {
    emulator.world.exchanges.length = 0
    const result = await takeInventory(emulator, { scope: wholeScope, ...(inputs as Record<string, string>) })
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'input' })
    expect(JSON.stringify(result.report.findings)).toContain(`\`${named}\`:`)
    expect(emulator.world.exchanges.filter(({ plane }) => plane !== 'github')).toEqual([])
  })
})

test('applying its matrices leads a fleet to an inventory without keys', { timeout: 240_000 }, async () => {
  // A resource that is not visible cannot be switched, so the test fixes it by hand.
  await postgresOf('pg-retail')?.query('returns', 'DROP EXTENSION azure_ai CASCADE')
  const scope = [server('pg-contoso').id, server('pg-retail').id].map((id) => id.split('/').slice(0, 5).join('/')).join('\n')
  emulator.world.servers.splice(0, Number.POSITIVE_INFINITY, ...['pg-contoso', 'pg-retail', 'pg-contoso-replica'].map(server))
  const waves: string[][] = []
  let result = await takeInventory(emulator, { scope })
  for (; matrix(result).length > 0 && waves.length < 5; result = await takeInventory(emulator, { scope })) {
    waves.push(matrix(result).map(({ name }) => name ?? ''))
    for (const entry of matrix(result)) {
      const applied = await applyEntry(emulator, entry)
      // A replica may have two entries, and the first does what the second needs.
      expect([entry['name'], applied.outputs['failure-reason']]).toEqual([entry['name'], 'none'])
      expect(['changed', 'in-sync']).toContain(applied.outputs['result'])
    }
  }
  expect(waves).toEqual([
    ['pg-contoso-replica', 'pg-contoso-replica-2', 'pg-retail'],
    ['pg-contoso', 'pg-contoso-2'],
  ])
  expect(result.outputs).toMatchObject({
    result: 'in-sync',
    drift: 'false',
    'stored-keys': '0',
    matrix: '{"include":[]}',
    'failure-reason': 'none',
  })
  expect(result.code).toBe(0)
  expect(result.summary).toMatch(/^## ✅ 3 servers: no key is stored\n/)
})
