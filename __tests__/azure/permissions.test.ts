import { spawnSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { AuthorizationManagementClient } from '@azure/arm-authorization'
import { ClientSecretCredential } from '@azure/identity'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type AssignmentRequest, allows } from '../../emulator/conditions.ts'
import { builtInRoles, readerName } from '../../emulator/default-world.ts'
import type { Emulator } from '../../emulator/index.ts'
import { passwordLogin } from '../../emulator/postgres.ts'
import { type JobResult, runJob } from '../../emulator/runner.ts'
import { families, services } from '../../src/core/services.ts'
import { explain } from '../../src/errors/explain.ts'
import { findingsWith } from '../support/findings.ts'
import {
  accountNamed,
  assignRole,
  begin,
  codesOf,
  emulate,
  giveIdentity,
  principalNamed,
  remember,
  serverOf,
  settingsOf,
  usual,
} from '../support/support.ts'

const page = readFileSync(join(import.meta.dirname, '..', '..', 'docs', 'permissions.md'), 'utf8')
const blocks = (language: string): string[] =>
  [...page.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\``, 'gm'))].map(([, text = '']) => text)

interface Role {
  Name: string
  Actions: string[]
  NotActions: string[]
  DataActions: string[]
  NotDataActions: string[]
}
const documentedRoles = blocks('json').map((text) => JSON.parse(text) as Role)
function role(name: string): Role {
  const found = documentedRoles.find((each) => each.Name === `azure_ai identity: ${name}`)
  if (found === undefined) throw new Error(`docs/permissions.md has no role for ${name}`)
  return found
}
const [condition = '', ofServerAlone = ''] = blocks('text')
/** Statements of the SQL block that begins with this comment. */
function sql(title: string): string {
  const found = blocks('sql').find((text) => text.startsWith(`-- ${title}`))
  if (found === undefined) throw new Error(`docs/permissions.md has no SQL for ${title}`)
  return found
}

let emulator: Emulator
const ended: JobResult[] = []

beforeAll(async () => {
  emulator = await emulate({ databases: ['app'] })
})
afterEach(async () => {
  await forgetRoles()
})
afterAll(async () => {
  await Promise.all(ended.map((job) => job.remove()))
  await emulator?.stop()
})

const caller = () => principalNamed(emulator.world, readerName)
const assigning = 'Microsoft.Authorization/roleAssignments/write'

/** From now on the caller has these roles on the group, and no other right in Azure. */
function give(...roles: Role[]): void {
  const { world } = emulator
  const { objectId } = caller()
  const scope = `/subscriptions/${world.subscriptionId}/resourceGroups/${world.resourceGroup}`
  const others = world.roleAssignments.filter(({ principalId }) => principalId !== objectId)
  world.roleAssignments.splice(0, Number.POSITIVE_INFINITY, ...others)
  for (const { Name, Actions, NotActions, DataActions, NotDataActions } of roles) {
    const definition = randomUUID()
    world.roleDefinitions.push({
      name: definition,
      roleName: Name,
      actions: Actions,
      notActions: NotActions,
      dataActions: DataActions,
      notDataActions: NotDataActions,
    })
    assignRole(world, objectId, scope, definition, {
      ...(Actions.includes(assigning) ? { condition: condition.replace('OBJECT-ID', objectId) } : {}),
      createdAt: 0,
      createdBy: objectId,
    })
  }
}

const without = (from: Role, action: string): Role => ({ ...from, Actions: from.Actions.filter((each) => each !== action) })

/** As the server's administrator, who is no superuser. */
async function asAdministrator(database: string, text: string): Promise<void> {
  const client = new pg.Client({
    host: emulator.postgres.host,
    port: emulator.postgres.port,
    ...passwordLogin,
    database,
    ssl: { ca: readFileSync(emulator.caFile, 'utf8') },
  })
  await client.connect()
  try {
    await client.query(text.replaceAll('OBJECT-ID', caller().objectId))
  } finally {
    await client.end()
  }
}

async function asUser(user: string, text: string): Promise<unknown[]> {
  return emulator.postgres.query('app', `SET ROLE ${pg.escapeIdentifier(user)}; ${text}`)
}

async function forgetRoles(): Promise<void> {
  await emulator.postgres.query('app', 'DROP SCHEMA IF EXISTS azure_ai_identity CASCADE')
  for (const name of ['gha-apply', 'gha-check']) await emulator.postgres.query('postgres', `DROP ROLE IF EXISTS "${name}"`)
}

async function becomeAdministrator(): Promise<void> {
  const { objectId, displayName } = caller()
  serverOf(emulator).administrators = [{ objectId, principalName: displayName, principalType: 'ServicePrincipal' }]
  await emulator.refresh()
}

const fiveServices = (): Record<string, string> => ({
  ...emulator.inputs,
  ranking: emulator.world.workspaces[0]?.serverlessEndpoints?.[0]?.id ?? '',
})

async function job(inputs: Record<string, string>): Promise<JobResult> {
  const result = await runJob({
    inputs: { ...fiveServices(), 'client-id': caller().clientId ?? '', ...usual, 'verify-timeout-minutes': '0.1', ...inputs },
    env: emulator.env,
  })
  ended.push(result)
  return result
}

/** The run ended with `permission`, and its finding names the action. */
function expectDenied(result: JobResult, action: string): void {
  expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'permission', verified: 'false' })
  const denial = findingsWith(result, 'authorization-failed').find(({ detail }) =>
    detail.toLowerCase().includes(action.toLowerCase()),
  )
  expect(denial, result.log).toBeDefined()
  expect(denial?.detail).toMatch(/over \/subscriptions\//)
  expect(denial?.detail).toMatch(/request id [0-9a-f-]{36}/)
  expect(denial?.fix).toMatch(/^az role assignment create .*--role "[^"]+" --scope "\/subscriptions\//)
}

test('the page is complete: roles, condition, and a wrapper that returns all settings the action reads', () => {
  expect(documentedRoles.map(({ Name }) => Name.replace('azure_ai identity: ', ''))).toEqual([
    'apply',
    'restart',
    'check',
    'verify',
    'inventory',
    'part azure',
    'part database',
    'temporary firewall rule',
    'keys',
  ])
  for (const { Actions, DataActions } of documentedRoles) {
    expect(new Set(Actions).size).toBe(Actions.length)
    expect(Actions.filter((action) => action.includes('*'))).toEqual([])
    expect(DataActions).toEqual([])
  }
  for (const id of [builtInRoles.cognitiveServicesUser, builtInRoles.cognitiveServicesOpenAIUser, builtInRoles.dataScientist])
    expect(condition).toContain(id)
  const read = new Set([
    ...Object.values(families).flatMap((family) => [
      family.authType,
      ...family.others,
      ...family.members.flatMap(({ endpoint, key }) => [endpoint, key]),
    ]),
    ...services.flatMap((service) => service.settings.map(({ setting }) => setting)),
  ])
  const returned = [...sql('wrapper').matchAll(/'(azure_\w+\.\w+)'/g)].map(([, name = '']) => name)
  expect(returned.sort()).toEqual([...read].sort())
})

describe('apply', () => {
  beforeEach(async () => {
    await begin(emulator)
    await becomeAdministrator()
  })

  test('works with its role and its condition', async () => {
    give(role('apply'))
    const result = await job({})
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
  })

  test.each(role('apply').Actions)('fails without %s', async (action) => {
    give(without(role('apply'), action))
    expectDenied(await job({}), action)
  })

  /** Verdict on a role for a principal, under the condition of the page with its last comparison replaced by `last`, or as it is. */
  function verdict(principalId: string, more: Partial<AssignmentRequest> = {}, last?: string): boolean {
    const text = condition.replace('OBJECT-ID', caller().objectId)
    const whole = last === undefined ? text : text.replace(/^.*roleAssignments:PrincipalId\].*$/m, last)
    const request = { roleDefinitionName: builtInRoles.cognitiveServicesUser, principalType: 'ServicePrincipal', principalId }
    return allows(whole, assigning, { ...request, ...more })
  }

  test('the condition allows the roles of azure_ai for other service principals, and nothing else', () => {
    const { objectId } = caller()
    const server = randomUUID()
    for (const { role } of services)
      expect([role.name, verdict(server, { roleDefinitionName: role.id })]).toEqual([role.name, true])
    expect(verdict(objectId)).toBe(false)
    expect(verdict(objectId.toUpperCase())).toBe(false)
    for (const principalType of ['User', 'Group', '']) expect(verdict(server, { principalType })).toBe(false)
    for (const roleDefinitionName of [builtInRoles.owner, builtInRoles.rbacAdministrator, builtInRoles.contributor, ''])
      expect(verdict(server, { roleDefinitionName })).toBe(false)
    // The condition does not concern other actions of the same role.
    expect(allows(condition, 'Microsoft.DBforPostgreSQL/flexibleServers/write')).toBe(true)
  })

  test('the command that a refusal proposes has a condition that allows the same, and no deletion of other roles', () => {
    const { objectId } = caller()
    const text = `The client 'a' with object id '${objectId}' does not have authorization to perform action '${assigning}' over scope '/subscriptions/s'`
    const { fix } = explain({ origin: 'azure', code: 'AuthorizationFailed', text }, { doing: 'testing' })
    // Parsed as a shell does: the last argument is the condition.
    const { stdout } = spawnSync('bash', ['-c', `az() { printf '%s' "\${@: -1}"; }; ${fix}`], { encoding: 'utf8' })
    const allowed = (principalId: string, roleDefinitionName: string, principalType = 'ServicePrincipal'): boolean =>
      allows(stdout, assigning, { principalId, roleDefinitionName, principalType })
    for (const { role } of services) expect(allowed(randomUUID(), role.id)).toBe(true)
    expect(allowed(objectId, builtInRoles.cognitiveServicesUser)).toBe(false)
    expect(allowed(randomUUID(), builtInRoles.owner)).toBe(false)
    expect(allowed(randomUUID(), builtInRoles.cognitiveServicesUser, 'Group')).toBe(false)
    expect(allows(stdout, 'Microsoft.Authorization/roleAssignments/delete')).toBe(false)
  })

  test('its narrower form allows the identity of the server alone', () => {
    const server = randomUUID()
    const narrow = (principalId: string): boolean =>
      verdict(principalId, {}, ofServerAlone.replace('SERVER-PRINCIPAL-ID', server))
    expect([narrow(server), narrow(caller().objectId), narrow(randomUUID())]).toEqual([true, false, false])
  })

  test('the app cannot give itself a role of azure_ai, with the rights that give the role to the server', async () => {
    give(role('apply'))
    const { objectId } = caller()
    const { world, url, caFile } = emulator
    const tlsOptions = { ca: readFileSync(caFile, 'utf8') }
    const { clientId = '', clientSecret = '' } = caller()
    const credential = new ClientSecretCredential(world.tenantId, clientId, clientSecret, {
      authorityHost: url,
      disableInstanceDiscovery: true,
      tlsOptions,
    })
    const client = new AuthorizationManagementClient(credential, world.subscriptionId, {
      endpoint: url,
      credentialScopes: [`${url}/.default`],
      tlsOptions,
    })
    await expect(
      client.roleAssignments.create(accountNamed(world, 'contoso-language').id.slice(1), randomUUID(), {
        principalId: objectId,
        principalType: 'ServicePrincipal',
        roleDefinitionId: `/subscriptions/${world.subscriptionId}/providers/Microsoft.Authorization/roleDefinitions/${builtInRoles.cognitiveServicesUser}`,
      }),
    ).rejects.toThrow(/ABAC condition not fulfilled/)
  })

  test('the condition blocks any other role', async () => {
    give(role('apply'))
    const result = await job({
      'openai-role': builtInRoles.contributor,
      cognitive: '',
      translator: '',
      'machine-learning': '',
      'machine-learning-input': '',
      ranking: '',
    })
    expectDenied(result, 'Microsoft.Authorization/roleAssignments/write')
    expect(result.report.findings[0].detail).toContain('a condition on its own role assignment forbids it')
  })
})

describe('apply on a server whose part in Azure is done', () => {
  beforeEach(async () => {
    await begin(emulator)
    await becomeAdministrator()
    const server = serverOf(emulator)
    const principalId = giveIdentity(emulator)
    // The server still runs with an earlier identity, so a restart is left to do.
    server.loadedPrincipalId = randomUUID()
    Object.assign(server.configurations['azure.extensions'] ?? {}, { value: 'pg_trgm,vector,azure_ai' })
    await emulator.refresh()
    for (const { name, role } of services) {
      const scope = fiveServices()[name]
      if (scope) assignRole(emulator.world, principalId, scope, role.id, { createdAt: 0 })
    }
  })

  test('works with the roles for check and restart, and writes nothing but the restart', async () => {
    give(role('check'), role('restart'))
    emulator.world.exchanges.length = 0
    const result = await job({})
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(emulator.writes().map(({ method, url }) => `${method} ${url}`)).toEqual([expect.stringMatching(/^POST .*\/restart\b/)])
  })

  test('fails without the right to restart', async () => {
    give(role('check'))
    expectDenied(await job({}), 'Microsoft.DBforPostgreSQL/flexibleServers/restart/action')
  })
})

describe('part: azure and part: database, by two identities', () => {
  beforeEach(async () => {
    await begin(emulator)
    await becomeAdministrator()
  })

  test('work one after the other', async () => {
    give(role('part azure'))
    const azure = await job({ part: 'azure' })
    expect(azure.outputs, azure.log).toMatchObject({ result: 'changed', 'failure-reason': 'none' })
    give(role('part database'))
    emulator.world.exchanges.length = 0
    const database = await job({ part: 'database' })
    expect(database.outputs, database.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(emulator.writes()).toEqual([])
  })

  test.each(role('part azure').Actions)('part: azure fails without %s', async (action) => {
    give(without(role('part azure'), action))
    expectDenied(await job({ part: 'azure' }), action)
  })

  test.each(role('part database').Actions)('part: database fails without %s', async (action) => {
    give(without(role('part database'), action))
    expectDenied(await job({ part: 'database' }), action)
  })
})

describe('on a server that is set up', () => {
  let back: () => Promise<void>

  beforeAll(async () => {
    await begin(emulator)
    const made = await runJob({ inputs: { ...fiveServices(), ...usual }, env: emulator.env })
    ended.push(made)
    expect(made.outputs, made.log).toMatchObject({ result: 'changed', verified: 'true' })
    back = await remember(emulator)
  })
  beforeEach(() => back())

  /** The checker of the page; `leave` is a statement that is left out. */
  async function makeChecker(leave = ''): Promise<void> {
    await asAdministrator('app', sql('wrapper').replace(leave, ''))
    await asAdministrator('postgres', sql('checker, in the database postgres').replace(leave, ''))
    await asAdministrator('app', sql('checker, in each database').replace(leave, ''))
  }
  const checker = { mode: 'check', 'database-user': 'gha-check' }

  test('check works with its role, and reads the settings through the wrapper', async () => {
    give(role('check'))
    await makeChecker()
    const result = await job(checker)
    expect(result.outputs, result.log).toMatchObject({ result: 'in-sync', verified: 'true', changed: 'false' })
    // It also detects drift, and that a key is stored, though not which.
    await emulator.postgres.query(
      'app',
      "SELECT azure_ai.set_setting('azure_openai.endpoint', 'https://elsewhere.openai.azure.com')",
    )
    await emulator.postgres.query(
      'app',
      "SELECT azure_ai.set_setting('azure_openai.subscription_key', 'a-key-that-must-stay-hidden')",
    )
    const drifted = await job(checker)
    expect(drifted.outputs['result'], drifted.log).toBe('drift')
    expect(codesOf(drifted)).toContain('key-still-stored')
    expect(drifted.raw + JSON.stringify(drifted.report)).not.toContain('a-key-that-must-stay-hidden')
  })

  test('the checker can neither read nor write a key; a member of azure_ai_settings_manager can do both', async () => {
    await emulator.postgres.query('app', "SELECT azure_ai.set_setting('azure_openai.subscription_key', 'a-key')")
    await makeChecker()
    const read = "SELECT azure_ai.get_setting('azure_openai.subscription_key') AS value"
    const write = "SELECT azure_ai.set_setting('azure_openai.subscription_key', 'another')"
    await expect(asUser('gha-check', read)).rejects.toThrow(/permission denied/)
    await expect(asUser('gha-check', write)).rejects.toThrow(/permission denied/)
    await expect(asUser('gha-check', 'SELECT * FROM azure_ai.settings')).rejects.toThrow(/permission denied/)
    const rows = (await asUser('gha-check', 'SELECT * FROM azure_ai_identity.settings()')) as {
      key: string
      value: string | null
      is_set: boolean
    }[]
    expect(rows.find(({ key }) => key === 'azure_openai.subscription_key')).toEqual({
      key: 'azure_openai.subscription_key',
      value: null,
      is_set: true,
    })
    expect(JSON.stringify(rows)).not.toContain('a-key')

    await asAdministrator('postgres', sql('apply'))
    expect(await asUser('gha-apply', read)).toEqual([{ value: 'a-key' }])
    await asUser('gha-apply', write)
    expect((await settingsOf(emulator, 'app'))['azure_openai.subscription_key']).toBe('another')
  })

  describe('a schema of the wrapper that another role made first', () => {
    const planted = `CREATE FUNCTION azure_ai_identity.settings() RETURNS TABLE (key text, value text, is_set boolean)
      LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RAISE LOG 'planted: wrapper'; RETURN; END $$`
    const logged = () => readFileSync(emulator.postgres.logFile, 'utf8').split('planted: wrapper').length

    beforeEach(async () => {
      await emulator.postgres.query(
        'app',
        `DROP ROLE IF EXISTS mallory; CREATE ROLE mallory LOGIN; CREATE SCHEMA azure_ai_identity AUTHORIZATION mallory;
         GRANT ALL ON SCHEMA azure_ai_identity TO PUBLIC`,
      )
      await emulator.postgres.query('app', `SET ROLE mallory; ${planted}`)
    })
    afterEach(async () => {
      await forgetRoles()
      await emulator.postgres.query('app', 'DROP OWNED BY mallory CASCADE; DROP ROLE mallory')
    })

    test('blocks its creation with an error, and nothing is half done', async () => {
      await expect(asAdministrator('app', sql('wrapper'))).rejects.toThrow('schema "azure_ai_identity" already exists')
      const functions = await emulator.postgres.query(
        'app',
        `SELECT proowner::regrole::text AS owner FROM pg_proc WHERE pronamespace = 'azure_ai_identity'::regnamespace`,
      )
      expect(functions).toEqual([{ owner: 'mallory' }])
    })

    test.each([
      ['is that of an ordinary role', ''],
      ['was left to an administrator', 'ALTER SCHEMA azure_ai_identity OWNER TO azure_pg_admin'],
      ['contains a function of an administrator', 'ALTER FUNCTION azure_ai_identity.settings() OWNER TO azure_pg_admin'],
      [
        'belongs to an administrator with its function, and others may still create in it',
        'ALTER SCHEMA azure_ai_identity OWNER TO azure_pg_admin; ALTER FUNCTION azure_ai_identity.settings() OWNER TO azure_pg_admin',
      ],
    ])('is not trusted when it %s', async (_, statements) => {
      await emulator.postgres.query('app', `${statements || 'SELECT'}`)
      give(role('check'))
      await asAdministrator('postgres', sql('checker, in the database postgres'))
      const before = logged()
      const result = await job(checker)
      expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'permission', verified: 'false' })
      expect(codesOf(result)).toContain('may-not-read')
      expect(logged()).toBe(before)
    })
  })

  test.each(role('check').Actions)('check fails without %s', async (action) => {
    give(without(role('check'), action))
    await makeChecker()
    // The run looks up the role to connect as only when `database-user` is not set.
    expectDenied(await job(action.includes('administrators') ? { mode: 'check' } : checker), action)
  })

  test.each([...sql('checker, in each database').matchAll(/^GRANT .*;$/gm)].map(([statement]) => statement))(
    'check fails without %s',
    async (statement) => {
      give(role('check'))
      await makeChecker(statement)
      const result = await job(checker)
      expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'permission' })
      expect(codesOf(result)).toContain('may-not-read')
    },
  )

  test('verify works with its role, and without one when the inputs name everything it would look up', async () => {
    await becomeAdministrator()
    give(role('verify'))
    const found = await job({ mode: 'verify' })
    expect(found.outputs, found.log).toMatchObject({ result: 'in-sync', verified: 'true' })
    give()
    await makeChecker()
    const named = await job({ mode: 'verify', 'database-user': 'gha-check', 'embedding-deployment': 'text-embedding-3-small' })
    expect(named.outputs, named.log).toMatchObject({ result: 'in-sync', verified: 'true' })
    // Without the wrapper the queries pass, but it is unknown whether a key answered.
    await emulator.postgres.query('app', 'DROP SCHEMA azure_ai_identity CASCADE')
    const blind = await job({ mode: 'verify', 'database-user': 'gha-check', 'embedding-deployment': 'text-embedding-3-small' })
    expect(blind.outputs, blind.log).toMatchObject({ 'failure-reason': 'verification', verified: 'false', 'stored-keys': '' })
  })

  test.each(role('verify').Actions)('verify fails without %s', async (action) => {
    await becomeAdministrator()
    give(without(role('verify'), action))
    expectDenied(await job({ mode: 'verify' }), action)
  })

  test('apply works by azure_ai_settings_manager where the extension is there, and not without it', async () => {
    give(role('apply'))
    await emulator.postgres.query('app', "SELECT azure_ai.set_setting('azure_openai.endpoint', '')")
    const [grant = ''] = /^GRANT .*;$/m.exec(sql('apply')) ?? []
    await asAdministrator('postgres', sql('apply').replace(grant, ''))
    const denied = await job({ 'database-user': 'gha-apply' })
    expect(denied.outputs, denied.log).toMatchObject({ result: 'failed', 'failure-reason': 'permission', changed: 'false' })
    expect(codesOf(denied).filter((code) => code.startsWith('may-not-'))).toHaveLength(1)
    await asAdministrator('postgres', grant)
    const result = await job({ 'database-user': 'gha-apply' })
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
  })

  describe('temporary-firewall-rule', () => {
    beforeEach(async () => {
      serverOf(emulator).firewallRules = {}
      await becomeAdministrator()
    })
    const withRule = { mode: 'check', 'temporary-firewall-rule': 'true' }

    test('works with its role and that of check', async () => {
      give(role('check'), role('temporary firewall rule'))
      const result = await job(withRule)
      expect(result.outputs, result.log).toMatchObject({ result: 'in-sync', verified: 'true' })
      await result.post()
      expect(serverOf(emulator).firewallRules).toEqual({})
    })

    test('with the right to read locks, a lock that forbids deleting keeps the server closed', async () => {
      emulator.world.locks.push({ name: 'keep', scope: serverOf(emulator).id, level: 'CanNotDelete' })
      try {
        give(role('check'), role('temporary firewall rule'))
        const result = await job(withRule)
        expect(result.outputs['result'], result.log).toBe('failed')
        expect(serverOf(emulator).firewallRules).toEqual({})
      } finally {
        emulator.world.locks.length = 0
      }
    })

    test.each(role('temporary firewall rule').Actions)('without %s it fails, warns, or works all the same', async (action) => {
      give(role('check'), without(role('temporary firewall rule'), action))
      const result = await job(withRule)
      if (action === 'Microsoft.Authorization/locks/read') {
        expect(result.outputs, result.log).toMatchObject({ result: 'in-sync', verified: 'true' })
        await result.post()
        expect(serverOf(emulator).firewallRules).toEqual({})
        return
      }
      if (!action.endsWith('/delete')) {
        expectDenied(result, action)
        return
      }
      const post = await result.post()
      expect(post.code).toBe(0)
      // The runner has no access all the same: the rule allows an address reserved for documentation.
      expect(Object.values(serverOf(emulator).firewallRules)).toEqual([
        expect.objectContaining({ startIpAddress: '192.0.2.1', endIpAddress: '192.0.2.1' }),
      ])
      expect(post.raw).toMatch(/^::warning title=A firewall rule was left behind::/m)
      expect(post.raw).toContain(action)
      expect(post.raw).toContain('firewall-rule delete')
    })
  })

  describe('subscription-key', () => {
    beforeEach(async () => {
      await becomeAdministrator()
      for (const workspace of emulator.world.workspaces)
        for (const endpoint of workspace.onlineEndpoints) endpoint.authMode = 'Key'
    })
    const byKey = { 'auth-type': 'subscription-key', cognitive: '', translator: '' }

    test('works with its role and that of apply', async () => {
      give(role('apply'), role('keys'))
      const result = await job(byKey)
      expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    })

    test.each(role('keys').Actions)('fails without %s', async (action) => {
      give(role('apply'), without(role('keys'), action))
      expectDenied(await job(byKey), action)
    })
  })
})
