import { readFile } from 'node:fs/promises'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { checkConformance, specificationsFolder } from '../../emulator/conformance.ts'
import { builtInRoles, deployerName, readerName } from '../../emulator/default-world.ts'
import type { JobResult } from '../../emulator/runner.ts'
import type { RoleAssignment } from '../../emulator/world.ts'
import { errorsOf, findingWith } from '../support/findings.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import {
  accountNamed,
  admitReader,
  apply,
  askEmbedding,
  asReader,
  begin,
  callersOfServices,
  codesOf,
  giveIdentity,
  logLength,
  logSince,
  onlyService,
  principalNamed,
  rolesOfServer,
  serverOf,
  settingsOf,
  statusesOf,
  tablesOf,
  workWithKeys,
} from '../support/support.ts'

const emulator = await ownEmulator()

/** One service in one database, for tests that do not depend on their number. */
const only = onlyService(emulator, 'openai', 'app')

/** The four roles of the interface at exactly the named resources. */
function fourRoles(): string[] {
  const { world } = emulator
  return [
    `${builtInRoles.cognitiveServicesOpenAIUser} on ${accountNamed(world, 'contoso-openai').id}`,
    `${builtInRoles.cognitiveServicesUser} on ${accountNamed(world, 'contoso-language').id}`,
    `${builtInRoles.cognitiveServicesUser} on ${accountNamed(world, 'contoso-translator').id}`,
    `${builtInRoles.dataScientist} on ${world.workspaces[0]?.onlineEndpoints[0]?.id}`,
  ].sort()
}

function settingsWanted(): Record<string, string> {
  return {
    'azure_cognitive.auth_type': 'managed-identity',
    'azure_cognitive.endpoint': 'https://contoso-language.cognitiveservices.azure.com',
    'azure_cognitive.region': 'westeurope',
    'azure_cognitive.translator_resource_id': accountNamed(emulator.world, 'contoso-translator').id,
    'azure_ml.auth_type': 'managed-identity',
    'azure_ml.scoring_endpoint': 'https://churn-scoring.swedencentral.inference.ml.azure.com/score',
    'azure_openai.auth_type': 'managed-identity',
    'azure_openai.endpoint': 'https://contoso-openai.openai.azure.com',
  }
}

const putsOfRoles = (): number => emulator.writes().filter(({ url }) => /roleAssignments/i.test(url)).length

describe('from nothing, with slow replication and propagation', () => {
  let first: JobResult
  let userAssigned: unknown

  beforeAll(async () => {
    await begin(emulator, {
      delays: {
        operation: 300,
        principalReplication: 4_000,
        roleReplication: 8_000,
        rolePropagation: 10_000,
        identityPropagation: 3_000,
        allowListPropagation: 1_500,
      },
    })
    await emulator.postgres.query('postgres', "ALTER SYSTEM SET log_statement = 'all'")
    await emulator.postgres.query('postgres', 'SELECT pg_reload_conf()')
    userAssigned = structuredClone(serverOf(emulator).identity?.userAssignedIdentities)
    first = await apply(emulator, { 'verify-timeout-minutes': '1' })
  })
  afterAll(async () => {
    await emulator.postgres.query('postgres', 'ALTER SYSTEM RESET log_statement')
    await emulator.postgres.query('postgres', 'SELECT pg_reload_conf()')
  })

  test('ends changed and verified', () => {
    expect(first.log).toContain('Result: changed, verified: true')
    expect(first.code).toBe(0)
    expect(first.outputs).toMatchObject({
      result: 'changed',
      changed: 'true',
      drift: 'false',
      verified: 'true',
      'failure-reason': 'none',
      'principal-id': serverOf(emulator).identity?.principalId,
    })
  })

  test('writes exactly four role assignments at the named scopes, each once and with the server in its description', () => {
    expect(rolesOfServer(emulator)).toEqual(fourRoles())
    const own = emulator.world.roleAssignments.filter(({ principalId }) => principalId === first.outputs['principal-id'])
    for (const assignment of own) {
      expect(assignment.principalType).toBe('ServicePrincipal')
      expect(assignment.description).toContain(serverOf(emulator).id)
    }
  })

  test('sets the settings in both databases, the one with a space among them, and no key', async () => {
    expect(await settingsOf(emulator, 'app')).toEqual(settingsWanted())
    expect(await settingsOf(emulator, 'sales 2026')).toEqual(settingsWanted())
  })

  test('keeps other allow-list entries and the user-assigned identity', () => {
    const server = serverOf(emulator)
    expect(server.configurations['azure.extensions']?.value.split(',')).toEqual(['pg_trgm', 'vector', 'azure_ai'])
    expect(server.identity?.type).toBe('SystemAssigned,UserAssigned')
    expect(server.identity?.userAssignedIdentities).toEqual(userAssigned)
  })

  test('restarts the server exactly once, after everything else in Azure', () => {
    expect(serverOf(emulator).restarts).toBe(1)
    const writes = emulator.writes().filter(({ status }) => status < 400)
    expect(writes.at(-1)?.url).toContain('/restart')
  })

  test('waits in one database at a time: the others are queried once one has passed', () => {
    const attempts = first.report.queries
      .filter(({ service }: { service: string }) => service === 'openai')
      .map((query: { attempts: number }) => query.attempts)
    const waits = first.log.match(/… waiting for the identity and its roles to take effect: .*azure_openai/g) ?? []
    expect(attempts).toHaveLength(2)
    expect(waits.length).toBeGreaterThan(0)
    // Each wait follows one refused query, in either database; then each of the two passes once.
    expect(attempts[0] + attempts[1]).toBe(waits.length + 2)
  })

  test('logs while it waits the reason, the time so far and the time left', () => {
    expect(first.log).toMatch(
      /… waiting for the identity and its roles to take effect: azure_\w+ \(.+\).*; .* so far, at most .* more/,
    )
    expect(first.log).toContain('the directory does not know the new identity yet')
  })

  test('only the identity of the server called the services', () => {
    const callers = new Set(callersOfServices(emulator.world.exchanges))
    expect([...callers]).toEqual([first.outputs['principal-id']])
  })

  test('writes a report of the schema: steps, queries, findings, nothing else in a step', () => {
    const { report } = first
    expect(Object.keys(report)).toEqual([
      'schemaVersion',
      'mode',
      'part',
      'result',
      'failureReason',
      'changed',
      'drift',
      'verified',
      'storedKeys',
      'setUp',
      'toDo',
      'planId',
      'startedAt',
      'durationMs',
      'server',
      'steps',
      'queries',
      'findings',
    ])
    expect(report).toMatchObject({
      schemaVersion: 1,
      mode: 'apply',
      part: 'all',
      result: 'changed',
      server: { id: serverOf(emulator).id, name: 'pg-contoso', principalId: first.outputs['principal-id'] },
    })
    for (const step of report.steps) {
      expect(Object.keys(step).sort()).toEqual(['current', 'desired', 'detail', 'id', 'kind', 'status', 'target'])
      expect(['created', 'updated']).toContain(step.status)
    }
    expect(Object.keys(statusesOf(first))).toEqual(
      expect.arrayContaining([
        'identity',
        'restart',
        'allow-list',
        'role/openai',
        'sales 2026/extension',
        'app/azure_ml.auth_type',
      ]),
    )
    expect(report.queries).toHaveLength(8)
    for (const query of report.queries) {
      expect(Object.keys(query).sort()).toEqual(
        ['answer', 'attempts', 'database', 'durationMs', 'error', 'proof', 'service', 'sql', 'status'].sort(),
      )
      expect(query).toMatchObject({ status: 'passed', proof: 'keyless', error: '' })
      expect(query.durationMs).toBeGreaterThan(0)
      expect(query.sql).toMatch(/timeout_ms => 15000/)
    }
    // Notices at most.
    expect(report.findings.filter(({ severity }: { severity: string }) => severity !== 'notice')).toEqual([])
  })

  test('the SQL of the report can be pasted', async () => {
    for (const { sql, database } of first.report.queries) {
      expect(await emulator.postgres.query(database, sql)).toHaveLength(1)
    }
  })

  test('the summary has the state, the picture, the steps and the queries, in complete tables', () => {
    const { summary } = first
    expect(summary.split('\n')[0]).toMatch(/^## ✅ .*needs no secrets now: 25 steps done, all 8 test queries verified/)
    expect(summary).toContain('```mermaid')
    const tables = tablesOf(summary)
    expect(tables).toHaveLength(3)
    for (const table of tables) expect(new Set(table.map((row) => row.length)).size).toBe(1)
    for (const database of ['app', 'sales 2026']) expect(summary).toContain(`✅&nbsp;<code>${database}</code>`)
    expect(summary.match(/1536 dimensions/g)).toHaveLength(2)
  })

  test('a successful run has no annotation, and its post step does nothing', async () => {
    expect(first.raw).not.toMatch(/^::(error|warning|notice)/m)
    const post = await first.post()
    expect(post.code).toBe(0)
    expect(post.raw).not.toMatch(/^::(error|warning)/m)
  })

  test.skipIf(specificationsFolder() === undefined)('its traffic conforms to the OpenAPI files', async () => {
    const { operations, problems } = await checkConformance(emulator.world.exchanges, specificationsFolder() ?? '')
    expect(problems.map(({ exchange, code, message }) => `${exchange.method} ${exchange.url}: ${code} ${message}`)).toEqual([])
    expect(operations).toMatchObject({
      Servers_Update: 1,
      RoleAssignments_Create: expect.any(Number),
    })
  })

  test('the second run sends no write, sets nothing and ends in-sync', async () => {
    const requests = emulator.writes().length
    const position = logLength(emulator)
    const second = await apply(emulator)
    expect(emulator.writes().length).toBe(requests)
    const log = logSince(emulator, position)
    expect(log).toContain('azure_ai.get_setting')
    expect(log).not.toContain('azure_ai.set_setting')
    expect(log).not.toMatch(/CREATE EXTENSION|ALTER EXTENSION/)
    expect(second.outputs).toMatchObject({
      result: 'in-sync',
      changed: 'false',
      drift: 'false',
      verified: 'true',
      'failure-reason': 'none',
    })
    expect(new Set(Object.values(statusesOf(second)))).toEqual(new Set(['in-sync']))
    expect(serverOf(emulator).restarts).toBe(1)
    expect(second.summary.split('\n')[0]).toContain('is in sync: nothing to do, all 8 test queries verified')
  })

  test('an app that may only read succeeds when nothing is missing', async () => {
    await admitReader(emulator)
    const result = await apply(emulator, { ...asReader(emulator), 'allow-restart': 'false' })
    expect(result.outputs).toMatchObject({ result: 'in-sync', verified: 'true', changed: 'false' })
    expect(result.code).toBe(0)
  })
})

describe('a role that never takes effect', () => {
  beforeEach(async () => {
    await begin(emulator, { delays: { rolePropagation: Number.POSITIVE_INFINITY } })
  })
  afterEach(() => {
    emulator.world.delays.rolePropagation = 0
  })

  test('leaves a database that works with its key unchanged, and working throughout', async () => {
    const before = await workWithKeys(emulator, 'app')
    expect(await askEmbedding(emulator, 'app')).toBe(1536)
    // The restart of a new identity would disconnect the client, so the identity is on already.
    giveIdentity(emulator)

    let asked = 0
    const failed: unknown[] = []
    let over = false
    const client = (async () => {
      while (!over) {
        await askEmbedding(emulator, 'app').then(
          () => asked++,
          (error: unknown) => failed.push(error),
        )
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
    })()
    const result = await apply(emulator, { databases: 'app', 'verify-timeout-minutes': '0.1' })
    over = true
    await client

    expect(failed).toEqual([])
    expect(asked).toBeGreaterThan(5)
    expect(await settingsOf(emulator, 'app')).toEqual(before)
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'verification', verified: 'false', drift: 'true' })
    expect(result.code).toBe(1)
    expect(codesOf(result)).toContain('role-not-effective')
    const advice = findingWith(result, 'role-not-effective').fix
    expect(advice).toMatch(/raise `verify-timeout-minutes` \(now [\d.]+\)/)
    for (const query of result.report.queries) expect(query.status).toBe('failed')
    expect(statusesOf(result)['app/azure_openai.auth_type']).toBe('different')
    // At most one attempt after the time limit, and the log has it.
    expect(result.report.durationMs).toBeLessThan(60_000)
    expect(result.summary.split('\n')[0]).toContain('❌')
    expect(result.raw).toMatch(/^::error title=The service does not accept the identity/m)
  })

  test('leaves an empty database empty, and reports it', async () => {
    giveIdentity(emulator)
    const result = await apply(emulator, { databases: 'app', 'verify-timeout-minutes': '0' })
    expect(await settingsOf(emulator, 'app')).toEqual({})
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'verification' })
    expect(statusesOf(result)['app/azure_openai.endpoint']).toBe('missing')
  })

  test('a change that was tried and rolled back does not count as changed', async () => {
    const before = await workWithKeys(emulator, 'app')
    giveIdentity(emulator)
    const result = await apply(emulator, { databases: 'app', part: 'database', 'verify-timeout-minutes': '0' })
    expect(await settingsOf(emulator, 'app')).toEqual(before)
    expect(result.outputs).toMatchObject({ result: 'failed', changed: 'false', 'failure-reason': 'verification' })
  })
})

function giveRole(principalId: string, roleId: string, scope: string): RoleAssignment {
  const name = crypto.randomUUID()
  const assignment: RoleAssignment = {
    id: `${scope}/providers/Microsoft.Authorization/roleAssignments/${name}`,
    name,
    scope,
    principalId,
    principalType: 'ServicePrincipal',
    roleDefinitionId: `/subscriptions/${emulator.world.subscriptionId}/providers/Microsoft.Authorization/roleDefinitions/${roleId}`,
    createdAt: Date.now() - 3_600_000,
    createdBy: 'another app',
  }
  emulator.world.roleAssignments.push(assignment)
  return assignment
}

describe('existing role assignments', () => {
  let principalId: string
  let openai: string
  let group: string
  beforeEach(async () => {
    await begin(emulator)
    principalId = giveIdentity(emulator)
    openai = accountNamed(emulator.world, 'contoso-openai').id
    group = openai.slice(0, openai.indexOf('/providers'))
  })

  test('at the resource group count: nothing is written', async () => {
    giveRole(principalId, builtInRoles.cognitiveServicesOpenAIUser, group)
    const result = await apply(emulator, only)
    expect(putsOfRoles()).toBe(0)
    expect(result.outputs).toMatchObject({ result: 'changed', verified: 'true' })
    expect(result.report.steps.find((step: { id: string }) => step.id === 'role/openai')).toMatchObject({
      status: 'in-sync',
      detail: `inherited from ${group}`,
    })
  })

  test('of a broader role, at a sibling or of another principal do not count', async () => {
    giveRole(principalId, builtInRoles.owner, group)
    giveRole(principalId, builtInRoles.cognitiveServicesOpenAIUser, accountNamed(emulator.world, 'contoso-language').id)
    giveRole(principalNamed(emulator.world, readerName).objectId, builtInRoles.cognitiveServicesOpenAIUser, openai)
    const result = await apply(emulator, only)
    expect(putsOfRoles()).toBe(1)
    expect(rolesOfServer(emulator)).toContain(`${builtInRoles.cognitiveServicesOpenAIUser} on ${openai}`)
    expect(result.outputs).toMatchObject({ result: 'changed', verified: 'true' })
  })

  test('that the list does not show yet cause the status 409, which is success', async () => {
    const hidden = giveRole(principalId, builtInRoles.cognitiveServicesOpenAIUser, openai)
    hidden.createdAt = Date.now()
    emulator.world.delays.roleReplication = 60_000
    const result = await apply(emulator, only)
    expect(
      emulator
        .writes()
        .filter(({ url }) => url.includes('roleAssignments'))
        .map(({ status }) => status),
    ).toEqual([409])
    expect(statusesOf(result)['role/openai']).toBe('in-sync')
    expect(result.outputs).toMatchObject({ result: 'changed', verified: 'true' })
    expect(rolesOfServer(emulator)).toHaveLength(1)
  })

  test('two services on one account get both roles', async () => {
    const account = accountNamed(emulator.world, 'contoso-openai')
    account.kind = 'AIServices'
    const result = await apply(emulator, { ...only, cognitive: openai })
    expect(rolesOfServer(emulator)).toEqual(
      [`${builtInRoles.cognitiveServicesOpenAIUser} on ${openai}`, `${builtInRoles.cognitiveServicesUser} on ${openai}`].sort(),
    )
    expect(result.outputs).toMatchObject({ result: 'changed', verified: 'true' })
  })
})

describe('the restart', () => {
  test('that is not allowed ends with restart-required, and everything else is done', async () => {
    await begin(emulator)
    const result = await apply(emulator, { ...only, 'allow-restart': 'false', 'verify-timeout-minutes': '0.05' })
    expect(result.outputs).toMatchObject({
      result: 'failed',
      'failure-reason': 'restart-required',
      changed: 'true',
      verified: 'false',
    })
    expect(serverOf(emulator).restarts).toBe(0)
    expect(statusesOf(result)).toMatchObject({
      identity: 'created',
      'role/openai': 'created',
      'app/extension': 'created',
      restart: 'missing',
    })
    expect(await settingsOf(emulator, 'app')).toEqual({})
    const finding = findingWith(result, 'restart-required')
    expect(finding.fix).toContain('az postgres flexible-server restart --resource-group rg-contoso-ai --name pg-contoso')
  })

  test('that turns out to be unnecessary is skipped, and the run succeeds', async () => {
    await begin(emulator, { switches: { restartNeeded: false } })
    const result = await apply(emulator, { ...only, 'allow-restart': 'false' })
    expect(result.outputs).toMatchObject({ result: 'changed', verified: 'true', 'failure-reason': 'none' })
    expect(statusesOf(result)['restart']).toBe('skipped')
    expect(serverOf(emulator).restarts).toBe(0)
  })
})

describe('a part of the work', () => {
  test('part: azure runs no SQL, part: database writes nothing in Resource Manager, and together they do everything', async () => {
    await begin(emulator)
    const azure = await apply(emulator, { ...only, part: 'azure' })
    expect(azure.outputs).toMatchObject({ result: 'changed', verified: 'false', drift: 'false', 'failure-reason': 'none' })
    expect(azure.code).toBe(0)
    expect(statusesOf(azure)).toMatchObject({
      identity: 'created',
      restart: 'created',
      'app/extension': 'skipped',
      'app/azure_openai.endpoint': 'skipped',
    })
    expect(azure.report.queries).toEqual([expect.objectContaining({ status: 'skipped', error: 'part: azure runs no SQL' })])
    expect(await settingsOf(emulator, 'app')).toEqual({})
    expect(serverOf(emulator).restarts).toBe(1)

    const requests = emulator.writes().length
    const database = await apply(emulator, { ...only, part: 'database' })
    expect(emulator.writes().length).toBe(requests)
    expect(database.outputs).toMatchObject({ result: 'changed', verified: 'true', drift: 'false' })
    expect(statusesOf(database)).toMatchObject({
      identity: 'skipped',
      'role/openai': 'skipped',
      'allow-list': 'skipped',
      'app/extension': 'created',
    })
  })

  test('a read replica as server gets identity, roles and restart; its settings come from the primary', async () => {
    await begin(emulator, {
      shape: ({ servers }) => {
        const [primary] = servers
        if (primary === undefined) throw new Error('no server')
        servers.push({
          ...structuredClone(primary),
          id: `${primary.id}-replica`,
          name: 'pg-contoso-replica',
          replicationRole: 'AsyncReplica',
          sourceServerResourceId: primary.id,
        })
      },
    })
    const replica = emulator.world.servers[1]
    const result = await apply(emulator, { server: replica?.id ?? '', databases: 'app' })
    expect(result.outputs).toMatchObject({ result: 'changed', verified: 'false', 'failure-reason': 'none' })
    expect(replica?.restarts).toBe(1)
    expect(replica?.identity?.principalId).toBe(result.outputs['principal-id'])
    expect(
      emulator.world.roleAssignments.filter(({ principalId }) => principalId === replica?.identity?.principalId),
    ).toHaveLength(4)
    expect(statusesOf(result)['app/extension']).toBe('skipped')
    expect(result.report.queries[0]).toMatchObject({ status: 'skipped', error: 'a read replica has the settings of its primary' })
    expect(await settingsOf(emulator, 'app')).toEqual({})
  })
})

describe('databases that cannot be reached', () => {
  test('one of several is an error, and the others are done', async () => {
    await begin(emulator)
    const result = await apply(emulator, { ...only, databases: 'app\nunknown database' })
    expect(result.outputs).toMatchObject({
      result: 'failed',
      'failure-reason': 'input',
      changed: 'true',
      verified: 'false',
      drift: 'true',
    })
    const errors = errorsOf(result)
    expect(errors).toEqual([expect.objectContaining({ code: 'database-not-found' })])
    expect(await settingsOf(emulator, 'app')).toMatchObject({ 'azure_openai.auth_type': 'managed-identity' })
    const query = (database: string) => result.report.queries.find((each: { database: string }) => each.database === database)
    expect(query('app')).toMatchObject({ status: 'passed' })
    expect(query('unknown database')).toMatchObject({ status: 'skipped' })
    expect(statusesOf(result)['unknown database/extension']).toBe('failed')
  })

  test('when none can be reached the run ends before its first write', async () => {
    await begin(emulator, { shape: ({ servers }) => Object.assign(servers[0] ?? {}, { firewallRules: {} }) })
    const result = await apply(emulator, only)
    expect(emulator.writes()).toEqual([])
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'network', changed: 'false' })
    const finding = result.report.findings[0]
    expect(finding.code).toBe('firewall')
    expect(finding.fix).toContain('--start-ip-address 127.0.0.1')
  })

  test('a login that is not an administrator: the failure names the object id to register', async () => {
    await begin(emulator, { shape: ({ servers }) => servers[0]?.administrators.splice(0) })
    const result = await apply(emulator, only)
    expect(emulator.writes()).toEqual([])
    expect(result.outputs['failure-reason']).toBe('credentials')
    expect(result.report.findings[0].fix).toContain(principalNamed(emulator.world, deployerName).objectId)
  })
})

describe('names of databases with a meaning in shells, SQL or Markdown', () => {
  const names = ['a|b<script>', `x"y'z`, '%s::set-output name=a::b', '::error::boom', 'träume 漢字', '$(touch x) `y`']

  test('work like any other, and summary, log and outputs stay intact', async () => {
    await begin(emulator)
    giveIdentity(emulator)
    for (const name of names) await emulator.postgres.createDatabase(name)
    try {
      const result = await apply(emulator, { ...only, databases: names.join('\n') })
      expect(result.outputs).toMatchObject({ result: 'changed', verified: 'true', drift: 'false' })
      expect(Object.keys(result.outputs).sort()).toEqual(
        [
          'changed',
          'drift',
          'failure-reason',
          'matrix',
          'plan-id',
          'principal-id',
          'report-path',
          'result',
          'stored-keys',
          'verified',
        ].sort(),
      )
      for (const name of names) {
        expect(await settingsOf(emulator, name)).toMatchObject({ 'azure_openai.auth_type': 'managed-identity' })
        expect(statusesOf(result)[`${name}/extension`]).toBe('created')
      }
      const commands = [...result.raw.matchAll(/^\s*::([a-z-]+)/gm)].map((match) => match[1])
      expect(new Set(commands)).toEqual(new Set(['add-mask', 'debug', 'group', 'endgroup']))
      for (const table of tablesOf(result.summary)) expect(new Set(table.map((row) => row.length)).size).toBe(1)
      expect(result.summary).not.toMatch(/<script/i)
      expect(JSON.parse(await readFile(result.outputs['report-path'] ?? '', 'utf8'))).toEqual(result.report)
    } finally {
      for (const name of names) await emulator.postgres.query('postgres', `DROP DATABASE "${name.replaceAll('"', '""')}"`)
    }
  })
})
