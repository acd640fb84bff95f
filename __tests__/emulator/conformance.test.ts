import { readFileSync } from 'node:fs'
import { request } from 'node:https'
import * as authorization from '@azure/arm-authorization'
import { PostgreSQLManagementFlexibleServerClient } from '@azure/arm-postgresql-flexible'
import { ClientSecretCredential } from '@azure/identity'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { checkConformance, specificationsFolder } from '../../emulator/conformance.ts'
import { builtInRoles, deployerName } from '../../emulator/default-world.ts'
import { type Emulator, startEmulator } from '../../emulator/index.ts'

const folder = specificationsFolder()
if (folder === undefined) {
  process.stderr.write(
    'Conformance is not checked: set AZURE_SPECS to a folder with the OpenAPI files of Azure/azure-rest-api-specs.\n',
  )
}

describe.skipIf(folder === undefined)("the emulated Resource Manager, compared with Microsoft's OpenAPI files", () => {
  let emulator: Emulator
  beforeAll(async () => {
    emulator = await started()
  })
  afterAll(() => emulator?.stop())

  test('every handler, driven by the SDKs and by plain requests', async () => {
    await drive(emulator)
    const { operations, problems } = await checkConformance(emulator.world.exchanges, folder ?? '')
    expect(
      problems.map(({ exchange, code, message }) => `${exchange.method} ${exchange.url} ${exchange.status}: ${code} ${message}`),
    ).toEqual([])
    expect(Object.keys(operations).sort()).toEqual([
      'Accounts_Get',
      'Accounts_ListKeys',
      'AdministratorsMicrosoftEntra_Get',
      'AdministratorsMicrosoftEntra_ListByServer',
      'Configurations_Get',
      'Configurations_ListByServer',
      'Configurations_Put',
      'Deployments_Get',
      'Deployments_List',
      'FirewallRules_CreateOrUpdate',
      'FirewallRules_Delete',
      'FirewallRules_Get',
      'FirewallRules_ListByServer',
      'OnlineEndpoints_Get',
      'OnlineEndpoints_List',
      'OnlineEndpoints_ListKeys',
      'Replicas_ListByServer',
      'RoleAssignments_Create',
      'RoleAssignments_Delete',
      'RoleAssignments_Get',
      'RoleAssignments_ListForResource',
      'RoleDefinitions_Get',
      'RoleDefinitions_List',
      'ServerlessEndpoints_Get',
      'ServerlessEndpoints_ListKeys',
      'Servers_Get',
      'Servers_Restart',
      'Servers_Update',
      'Workspaces_Get',
    ])
  })

  test('the check itself reports errors', async () => {
    await get(emulator, `${emulator.inputs['server']}?api-version=2025-08-01`)
    const exchange = structuredClone(emulator.reads().at(-1))
    if (!exchange) throw new Error('nothing was recorded')
    const body = exchange.responseBody as { location?: string; properties: Record<string, unknown> }
    delete body.location
    body.properties['storage'] = 'much'
    const elsewhere = { ...exchange, url: exchange.url.replace('flexibleServers', 'rigidServers') }
    const { problems } = await checkConformance([exchange, elsewhere], folder ?? '')
    expect(new Set(problems.map(({ code }) => code))).toEqual(
      new Set(['INVALID_TYPE', 'OBJECT_MISSING_REQUIRED_PROPERTY', 'unknown-operation']),
    )
  })
})

describe('serverless endpoints, compared with the documented shape', () => {
  let emulator: Emulator
  beforeAll(async () => {
    emulator = await started()
  })
  afterAll(() => emulator?.stop())

  test('both requests conform, and a change of the shape is reported', async () => {
    await askServerless(emulator)
    const { operations, problems } = await checkConformance(emulator.world.exchanges)
    expect(problems).toEqual([])
    expect(operations).toEqual({ ServerlessEndpoints_Get: 1, ServerlessEndpoints_ListKeys: 1 })
    const [exchange] = structuredClone(emulator.world.exchanges)
    if (exchange === undefined) throw new Error('nothing was recorded')
    const { properties } = exchange.responseBody as { properties: Record<string, unknown> }
    Object.assign(properties, { authMode: 'AADToken', inferenceEndpoint: {} })
    const wrong = await checkConformance([exchange])
    expect(new Set(wrong.problems.map(({ code }) => code))).toEqual(
      new Set(['ENUM_MISMATCH', 'OBJECT_MISSING_REQUIRED_PROPERTY']),
    )
  })
})

async function askServerless(emulator: Emulator): Promise<void> {
  const id = emulator.world.workspaces[0]?.serverlessEndpoints?.[0]?.id
  await get(emulator, `${id}?api-version=2024-10-01`)
  await get(emulator, `${id}/listKeys?api-version=2024-10-01`, 'POST')
}

function started(): Promise<Emulator> {
  return startEmulator({
    delays: { operation: 0 },
    shape(world) {
      const [primary] = world.servers
      const [openai] = world.accounts
      if (!primary || !openai) throw new Error('the default world lacks a server or an account')
      const replica = { ...structuredClone(primary), name: 'pg-replica', id: primary.id.replace('pg-contoso', 'pg-replica') }
      world.servers.push({
        ...replica,
        replicationRole: 'AsyncReplica',
        sourceServerResourceId: primary.id,
        clusterSize: 1,
        highAvailability: { mode: 'SameZone', state: 'Healthy' },
        identity: { type: 'SystemAssigned', principalId: crypto.randomUUID() },
      })
      world.accounts.push({ ...structuredClone(openai), name: 'contoso-multi', id: `${openai.id}-multi`, kind: 'AIServices' })
    },
  })
}

async function drive(emulator: Emulator): Promise<void> {
  const { world } = emulator
  const who = world.principals.find(({ displayName }) => displayName === deployerName)
  const ca = readFileSync(emulator.caFile, 'utf8')
  const credential = new ClientSecretCredential(world.tenantId, who?.clientId ?? '', who?.clientSecret ?? '', {
    authorityHost: emulator.url,
    disableInstanceDiscovery: true,
    tlsOptions: { ca },
  })
  const options = { endpoint: emulator.url, credentialScopes: [`${emulator.url}/.default`], tlsOptions: { ca } }
  const servers = new PostgreSQLManagementFlexibleServerClient(credential, world.subscriptionId, options)
  const roles = new authorization.AuthorizationManagementClient(credential, world.subscriptionId, options)
  const group = world.resourceGroup
  const quick = { updateIntervalInMs: 20 }
  const failed = (work: Promise<unknown>) => expect(work).rejects.toThrow()

  // Servers
  await servers.servers.get(group, 'pg-contoso')
  await failed(servers.servers.get(group, 'pg-none'))
  const users = Object.fromEntries(Object.keys(world.servers[0]?.identity?.userAssignedIdentities ?? {}).map((id) => [id, {}]))
  const identity = { type: 'SystemAssigned,UserAssigned', userAssignedIdentities: users }
  await servers.servers.beginUpdateAndWait(group, 'pg-contoso', { identity }, quick)
  await failed(servers.servers.beginUpdateAndWait(group, 'pg-replica', { identity: { type: 'None' } }, quick))
  await servers.servers.beginRestartAndWait(group, 'pg-contoso', quick)
  await all(servers.replicas.listByServer(group, 'pg-contoso'))
  await all(servers.administratorsMicrosoftEntra.listByServer(group, 'pg-contoso'))
  await servers.administratorsMicrosoftEntra.get(group, 'pg-contoso', who?.objectId ?? '')
  await all(servers.configurations.listByServer(group, 'pg-contoso'))
  await servers.configurations.get(group, 'pg-contoso', 'azure.extensions')
  const extensions = { value: 'pg_trgm,vector,azure_ai', source: 'user-override' }
  await servers.configurations.beginPutAndWait(group, 'pg-contoso', 'azure.extensions', extensions, quick)
  await failed(servers.configurations.beginPutAndWait(group, 'pg-contoso', 'azure.extensions', { value: 'none_such' }, quick))
  const addresses = { startIpAddress: '203.0.113.7', endIpAddress: '203.0.113.7' }
  await servers.firewallRules.beginCreateOrUpdateAndWait(group, 'pg-contoso', 'office', addresses, quick)
  await servers.firewallRules.get(group, 'pg-contoso', 'office')
  await all(servers.firewallRules.listByServer(group, 'pg-contoso'))
  await servers.firewallRules.beginDeleteAndWait(group, 'pg-contoso', 'office', quick)
  await servers.firewallRules.beginDeleteAndWait(group, 'pg-contoso', 'office', quick)

  // Roles
  const openai = world.accounts[0]?.id ?? ''
  const scope = openai.replace(/^\//, '')
  const principalId = world.servers[0]?.identity?.principalId ?? ''
  const roleDefinitionId = `/subscriptions/${world.subscriptionId}/providers/Microsoft.Authorization/roleDefinitions/${builtInRoles.cognitiveServicesOpenAIUser}`
  const wanted = { roleDefinitionId, principalId, principalType: 'ServicePrincipal', description: 'for pg-contoso' }
  const name = crypto.randomUUID()
  await roles.roleAssignments.create(scope, name, wanted)
  await roles.roleAssignments.create(scope, name, wanted)
  await failed(roles.roleAssignments.create(scope, crypto.randomUUID(), wanted))
  await roles.roleAssignments.get(scope, name)
  for (const filter of ['atScope()', `principalId eq '${principalId}'`, `assignedTo('${principalId}')`]) {
    await all(roles.roleAssignments.listForScope(scope, { filter }))
  }
  await roles.roleAssignments.delete(scope, name)
  await roles.roleAssignments.delete(scope, name)
  await roles.roleDefinitions.get(scope, builtInRoles.cognitiveServicesUser)
  await all(roles.roleDefinitions.list(scope))

  // The others, as plain requests
  for (const account of world.accounts) {
    await get(emulator, `${account.id}?api-version=2025-09-01`)
    await get(emulator, `${account.id}/deployments?api-version=2025-09-01`)
    await get(emulator, `${account.id}/listKeys?api-version=2025-09-01`, 'POST')
  }
  await get(emulator, `${openai}/deployments/gpt-4o-mini?api-version=2025-09-01`)
  const workspace = world.workspaces[0]
  const endpoint = workspace?.onlineEndpoints[0]
  await get(emulator, `${workspace?.id}?api-version=2022-10-01`)
  await get(emulator, `${workspace?.id}/onlineEndpoints?api-version=2022-10-01`)
  await get(emulator, `${endpoint?.id}?api-version=2022-10-01`)
  if (endpoint) endpoint.authMode = 'Key'
  await get(emulator, `${endpoint?.id}/listKeys?api-version=2022-10-01`, 'POST')
  await askServerless(emulator)
}

async function get(emulator: Emulator, path: string, method = 'GET'): Promise<void> {
  const who = emulator.world.principals.find(({ displayName }) => displayName === deployerName)
  const { token } = await emulator.issueToken(who?.objectId ?? '', `${emulator.url}/`)
  const status = await new Promise<number | undefined>((resolve, reject) => {
    const sent = request(
      `${emulator.url}${path}`,
      { method, ca: readFileSync(emulator.caFile), headers: { authorization: `Bearer ${token}` } },
      (response) => {
        response.resume()
        response.on('end', () => resolve(response.statusCode))
      },
    )
    sent.on('error', reject)
    sent.end()
  })
  expect(status).toBe(200)
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = []
  for await (const item of items) found.push(item)
  return found
}
