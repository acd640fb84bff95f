/** An apply reports what it lacks before its first write, or, when Azure refuses a write, what the refusal was about. */
import { randomUUID } from 'node:crypto'
import { beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { builtInRoles, deployerName } from '../../emulator/default-world.ts'
import type { JobResult } from '../../emulator/runner.ts'
import type { World } from '../../emulator/world.ts'
import { findingsWith, findingWith } from '../support/findings.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import {
  accountNamed,
  addReplica,
  apply,
  assignRole,
  begin,
  codesOf,
  giveIdentity,
  onlyService,
  principalNamed,
  serverOf,
  settingsOf,
  statusesOf,
  workWithKeys,
} from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app', 'crm'] })

const only = onlyService(emulator, 'openai', 'app')

/** The run was refused, and nothing was written in Azure or a database. */
async function expectUntouched(result: JobResult): Promise<void> {
  expect(emulator.writes()).toEqual([])
  expect(result.outputs).toMatchObject({ result: 'failed', changed: 'false', verified: 'false', drift: 'true' })
  expect(result.code).toBe(1)
  for (const step of result.report.steps) expect(['created', 'updated']).not.toContain(step.status)
  for (const finding of result.report.findings) if (finding.severity === 'error') expect(finding.fix).not.toBe('')
}

describe('preconditions', () => {
  test('all are reported together, each with its fix, and nothing is written', async () => {
    await begin(emulator, {
      shape: (world) => {
        delete accountNamed(world, 'contoso-openai').customSubDomainName
        accountNamed(world, 'contoso-language').kind = 'SpeechServices'
        accountNamed(world, 'contoso-translator').provisioningState = 'Updating'
        const endpoint = world.workspaces[0]?.onlineEndpoints[0]
        if (endpoint !== undefined) endpoint.authMode = 'Key'
      },
    })
    await emulator.postgres.query('crm', "CREATE EXTENSION azure_ai VERSION '1.0.0'")
    const result = await apply(emulator)
    await expectUntouched(result)
    expect(codesOf(result)).toEqual(
      expect.arrayContaining([
        'custom-subdomain',
        'account-kind',
        'resource-not-ready',
        'endpoint-auth-mode',
        'extension-too-old',
      ]),
    )
    expect(findingWith(result, 'custom-subdomain').fix).toContain('--custom-domain contoso-openai')
    expect(findingWith(result, 'custom-subdomain').fix).toContain('--resource-group rg-contoso-ai')
    expect(findingWith(result, 'account-kind').detail).toMatch(
      /SpeechServices; expected TextAnalytics or CognitiveServices or AIServices/,
    )
    expect(findingWith(result, 'endpoint-auth-mode').detail).toContain('authMode Key')
    expect(findingWith(result, 'extension-too-old').fix).toContain('ALTER EXTENSION azure_ai UPDATE')
    expect(result.raw.match(/^::error /gm)?.length).toBe(codesOf(result).length)
    expect(await settingsOf(emulator, 'app')).toEqual({})
  })

  test('a stopped server: the finding has the command that starts it', async () => {
    await begin(emulator, { shape: ({ servers }) => Object.assign(servers[0] ?? {}, { state: 'Stopped' }) })
    const result = await apply(emulator, only)
    await expectUntouched(result)
    expect(result.outputs['failure-reason']).toBe('azure')
    expect(findingWith(result, 'server-not-ready').fix).toContain(
      'az postgres flexible-server start --resource-group rg-contoso-ai --name pg-contoso',
    )
  })

  test('an elastic cluster is refused', async () => {
    await begin(emulator, { shape: ({ servers }) => Object.assign(servers[0] ?? {}, { clusterSize: 2 }) })
    const result = await apply(emulator, only)
    await expectUntouched(result)
    expect(result.outputs['failure-reason']).toBe('azure')
    expect(codesOf(result)).toEqual(['elastic-cluster'])
  })

  test('Entra logins that are off: the finding has the command that turns them on', async () => {
    await begin(emulator, {
      shape: ({ servers }) =>
        Object.assign(servers[0] ?? {}, { authConfig: { activeDirectoryAuth: 'Disabled', passwordAuth: 'Enabled' } }),
    })
    const result = await apply(emulator, only)
    await expectUntouched(result)
    expect(findingWith(result, 'entra-authentication-off').fix).toContain('--microsoft-entra-auth Enabled')
    expect(result.outputs['failure-reason']).toBe('azure')
  })

  describe('a connecting role', () => {
    const limited = { ...only, 'database-user': 'limited' }
    beforeEach(async () => {
      await begin(emulator)
      await emulator.postgres.query('postgres', 'DROP ROLE IF EXISTS limited')
      await emulator.postgres.query('postgres', 'CREATE ROLE limited LOGIN')
      const { objectId } = principalNamed(emulator.world, deployerName)
      await emulator.postgres.query('postgres', `COMMENT ON ROLE limited IS 'aadauth,oid=${objectId},type=service'`)
      // The role's tokens so far stay its password.
      await emulator.refresh()
    })

    test('that may not create the extension is reported with the missing role', async () => {
      const result = await apply(emulator, limited)
      await expectUntouched(result)
      expect(result.outputs['failure-reason']).toBe('permission')
      expect(findingWith(result, 'may-not-create-extension').fix).toContain('GRANT azure_pg_admin TO "limited"')
    })

    test('that may not set settings is reported with the missing role', async () => {
      await emulator.postgres.query('app', 'CREATE EXTENSION azure_ai')
      const result = await apply(emulator, limited)
      await expectUntouched(result)
      expect(result.outputs['failure-reason']).toBe('permission')
      expect(findingWith(result, 'may-not-set').fix).toContain('GRANT azure_ai_settings_manager TO "limited"')
    })

    test('that may set settings is enough where the extension exists', async () => {
      await emulator.postgres.query('app', 'CREATE EXTENSION azure_ai')
      await emulator.postgres.query('app', 'GRANT azure_ai_settings_manager TO limited')
      const result = await apply(emulator, limited)
      expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    })
  })

  test('an update that the allow-list forbids fails immediately in a run that does not write the list', async () => {
    await begin(emulator)
    giveIdentity(emulator)
    await workWithKeys(emulator, 'app', '1.0.0')
    const result = await apply(emulator, { ...only, part: 'database', 'update-extension': 'true' })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'database' })
    expect(findingWith(result, 'not-allow-listed').fix).not.toBe('')
    expect(result.log).not.toContain('again in')
  })

  test('a read replica that would break is reported before any write; one with its own identity and role is no problem', async () => {
    await begin(emulator, { shape: addReplica })
    const before = await workWithKeys(emulator, 'app')
    const refused = await apply(emulator, only)
    await expectUntouched(refused)
    expect(refused.outputs['failure-reason']).toBe('azure')
    expect(findingWith(refused, 'replica-would-break').fix).toContain(`server: ${emulator.world.servers[1]?.id}`)
    expect(await settingsOf(emulator, 'app')).toEqual(before)

    const replica = await apply(emulator, { ...only, server: emulator.world.servers[1]?.id ?? '' })
    expect(replica.outputs, replica.log).toMatchObject({ result: 'changed', 'failure-reason': 'none' })
    const primary = await apply(emulator, only)
    expect(primary.outputs, primary.log).toMatchObject({ result: 'changed', verified: 'true' })
  })

  test('a replica is no obstacle while nothing works yet', async () => {
    await begin(emulator, { shape: addReplica })
    const result = await apply(emulator, only)
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
  })

  test('part: database without azure_ai on the allow-list: the fix is to run part: azure first', async () => {
    await begin(emulator)
    const result = await apply(emulator, { ...only, part: 'database' })
    await expectUntouched(result)
    expect(findingWith(result, 'not-allow-listed').fix).toContain('part: azure')
  })

  test('a resource that does not exist and a workspace with several endpoints are reported', async () => {
    await begin(emulator, {
      shape: ({ workspaces }) => {
        const [first] = workspaces[0]?.onlineEndpoints ?? []
        if (first !== undefined) workspaces[0]?.onlineEndpoints.push({ ...first, id: `${first.id}-2`, name: `${first.name}-2` })
      },
    })
    const result = await apply(emulator, {
      openai: `${accountNamed(emulator.world, 'contoso-openai').id}-gone`,
      'machine-learning': emulator.world.workspaces[0]?.id ?? '',
    })
    await expectUntouched(result)
    expect(result.outputs['failure-reason']).toBe('input')
    expect(findingWith(result, 'resource-not-found').detail).toContain('contoso-openai-gone')
    expect(findingWith(result, 'not-one-endpoint').fix).toContain('churn-scoring-2')
  })
})

describe('a missing permission names the action, the scope and the role that has it', () => {
  const grants = (...roles: string[]) => ({
    shape: (world: World) => {
      const deployer = principalNamed(world, deployerName).objectId
      const scope = `/subscriptions/${world.subscriptionId}/resourceGroups/${world.resourceGroup}`
      for (let index = world.roleAssignments.length - 1; index >= 0; index--) {
        if (world.roleAssignments[index]?.principalId === deployer) world.roleAssignments.splice(index, 1)
      }
      for (const role of roles) assignRole(world, deployer, scope, role, { createdAt: 0, createdBy: deployer })
    },
  })
  const serverWriter = 'aaaaaaaa-1111-4222-8333-444455556666'

  beforeAll(() => {
    emulator.world.roleDefinitions.push({
      name: serverWriter,
      roleName: 'Server writer',
      actions: [
        '*/read',
        'Microsoft.DBforPostgreSQL/flexibleServers/write',
        'Microsoft.DBforPostgreSQL/flexibleServers/configurations/write',
        'Microsoft.Authorization/roleAssignments/write',
        'Microsoft.ManagedIdentity/userAssignedIdentities/assign/action',
      ],
      notActions: [],
      dataActions: [],
      notDataActions: [],
    })
  })

  function expectDenied(result: JobResult, action: string | RegExp, scope: string, role: string): void {
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'permission', verified: 'false' })
    const denied = findingsWith(result, 'authorization-failed')
    const match = denied.find(({ detail }) => detail.match(action) !== null && detail.toLowerCase().includes(scope.toLowerCase()))
    expect(match, JSON.stringify(denied, null, 2)).toBeDefined()
    expect(match?.fix).toContain(`--role "${role}"`)
    expect(match?.fix).toContain(principalNamed(emulator.world, deployerName).objectId)
  }

  test('to read anything', async () => {
    await begin(emulator, grants())
    const result = await apply(emulator, only)
    expectDenied(result, 'Microsoft.DBforPostgreSQL/flexibleServers/read', serverOf(emulator).id, 'Reader')
    expectDenied(
      result,
      /Microsoft.CognitiveServices\/accounts\/(deployments\/)?read/,
      accountNamed(emulator.world, 'contoso-openai').id,
      'Reader',
    )
    expect(emulator.writes()).toEqual([])
  })

  test('to turn the identity on', async () => {
    await begin(emulator, grants(builtInRoles.reader))
    const result = await apply(emulator, only)
    expectDenied(result, 'Microsoft.DBforPostgreSQL/flexibleServers/write', serverOf(emulator).id, 'Contributor')
    expect(statusesOf(result)).toMatchObject({ identity: 'failed', 'role/openai': 'skipped' })
    expect(emulator.writes().map(({ status }) => status)).toEqual([403])
    expect(await settingsOf(emulator, 'app')).toEqual({})
  })

  test('to assign roles: the other steps are done, and the server is not restarted', async () => {
    await begin(emulator, grants(builtInRoles.contributor))
    const result = await apply(emulator, only)
    expectDenied(
      result,
      'Microsoft.Authorization/roleAssignments/write',
      accountNamed(emulator.world, 'contoso-openai').id,
      'Role Based Access Control Administrator',
    )
    expect(statusesOf(result)).toMatchObject({
      identity: 'created',
      'role/openai': 'failed',
      'allow-list': 'updated',
      'app/extension': 'created',
      'app/azure_openai.auth_type': 'skipped',
    })
    // The scope is the resource, not the role assignment that was refused.
    const { fix } = findingWith(result, 'authorization-failed')
    expect(fix).toContain(`--scope "${accountNamed(emulator.world, 'contoso-openai').id}"`)
    expect(serverOf(emulator).restarts).toBe(0)
    expect(result.report.queries[0]).toMatchObject({ status: 'skipped', error: 'waits for role/openai' })
  })

  test('to assign roles, for a condition on its own assignment', async () => {
    await begin(emulator, grants(builtInRoles.contributor, builtInRoles.rbacAdministrator))
    const own = emulator.world.roleAssignments.at(-1)
    if (own !== undefined) {
      own.condition = `((!(ActionMatches{'Microsoft.Authorization/roleAssignments/write'})) OR (@Request[Microsoft.Authorization/roleAssignments:RoleDefinitionId] ForAnyOfAnyValues:GuidEquals {${builtInRoles.reader}}))`
    }
    const result = await apply(emulator, only)
    expect(findingWith(result, 'authorization-failed').detail).toContain('condition on its own role assignment')
    expect(result.outputs['failure-reason']).toBe('permission')
  })

  test('to write the allow-list', async () => {
    await begin(emulator, grants(builtInRoles.rbacAdministrator))
    giveIdentity(emulator)
    const result = await apply(emulator, only)
    expectDenied(result, 'Microsoft.DBforPostgreSQL/flexibleServers/configurations/write', serverOf(emulator).id, 'Contributor')
    expect(statusesOf(result)).toMatchObject({ 'role/openai': 'created', 'allow-list': 'failed', 'app/extension': 'skipped' })
  })

  test('to restart the server', async () => {
    await begin(emulator, grants(serverWriter))
    const result = await apply(emulator, only)
    expectDenied(result, 'Microsoft.DBforPostgreSQL/flexibleServers/restart/action', serverOf(emulator).id, 'Contributor')
    expect(statusesOf(result)).toMatchObject({
      identity: 'created',
      'role/openai': 'created',
      'app/extension': 'created',
      restart: 'failed',
    })
  })
})

describe('signing in', () => {
  test('a workflow that the app does not trust: the finding names what did not match', async () => {
    await begin(emulator)
    const { subject } = emulator.world.github
    emulator.world.github.subject = 'repo:contoso/other:ref:refs/heads/main'
    const result = await apply(emulator, only)
    emulator.world.github.subject = subject
    await expectUntouched(result)
    expect(result.outputs['failure-reason']).toBe('credentials')
    expect(findingWith(result, 'federation-mismatch').detail).toContain('repo:contoso/other:ref:refs/heads/main')
  })

  test('an app that the tenant does not know is reported', async () => {
    await begin(emulator)
    const result = await apply(emulator, { ...only, 'client-id': randomUUID() })
    await expectUntouched(result)
    expect(result.outputs['failure-reason']).toBe('credentials')
    expect(codesOf(result)).toContain('app-unknown')
  })
})
