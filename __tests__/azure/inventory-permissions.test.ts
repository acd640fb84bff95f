/** The role and the function of docs/permissions.md are what an inventory needs: each right is taken away once. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readerName } from '../../emulator/default-world.ts'
import { fleetGroup, fleetWorld, giveRole } from '../../emulator/fleet-world.ts'
import type { Emulator } from '../../emulator/index.ts'
import type { JobResult } from '../../emulator/runner.ts'
import { managementGroupId } from '../../emulator/scopes.ts'
import { sqlFiles } from '../../scripts/docs.ts'
import { setUp, startFleetEmulator, takeInventory, wholeScope, withOpenAiKey } from '../support/fleet.ts'
import { accountNamed, codesOf, principalNamed, removeJobs } from '../support/support.ts'

const page = readFileSync(join(import.meta.dirname, '..', '..', 'docs', 'permissions.md'), 'utf8')
const role = [...page.matchAll(/^```json\n([\s\S]*?)^```$/gm)]
  .map(([, text = '']) => JSON.parse(text) as { Name: string; Actions: string[] })
  .find(({ Name }) => Name.endsWith(': inventory'))
const definition = '6a1e0f53-7b2c-4d94-8e15-c3f8a07d9b26'

let emulator: Emulator

beforeAll(async () => {
  emulator = await startFleetEmulator(fleetWorld)
  const { world, fleet } = emulator
  const { objectId } = principalNamed(world, readerName)
  const kept = ['pg-contoso', 'pg-retail']
  world.servers.splice(0, Number.POSITIVE_INFINITY, ...world.servers.filter(({ name }) => kept.includes(name)))
  world.roleAssignments.splice(
    0,
    Number.POSITIVE_INFINITY,
    ...world.roleAssignments.filter(({ principalId }) => principalId !== objectId),
  )
  world.roleDefinitions.push({ name: definition, roleName: '', actions: [], notActions: [], dataActions: [], notDataActions: [] })
  giveRole(world, objectId, definition, managementGroupId(fleetGroup))
  world.servers[0]?.administrators.push({ objectId, principalName: readerName, principalType: 'ServicePrincipal' })
  await emulator.refresh()
  const endpoint = world.workspaces[0]?.onlineEndpoints[0]
  await setUp(emulator.postgres, 'app', {
    ...withOpenAiKey('contoso-openai', accountNamed(world, 'contoso-openai').keys.key1),
    'azure_ml.scoring_endpoint': endpoint?.scoringUri ?? '',
    'azure_ml.serverless_ranking_endpoint': `${world.workspaces[0]?.serverlessEndpoints?.[0]?.uri}/v2/rerank`,
  })
  // On the other server the reader is a role that may call the function and nothing else.
  const [inPostgres = '', inEach = ''] = [...sqlFiles(page).values()].map((text) => text.replaceAll('OBJECT-ID', objectId))
  const retail = fleet?.postgres({ id: world.servers[1]?.id ?? '' })
  await setUp(retail, 'orders', withOpenAiKey('contoso-openai-retail', 'a key that must stay hidden'))
  await retail?.query('postgres', inPostgres)
  await retail?.query('orders', inEach)
})
afterAll(() => emulator?.stop())
afterAll(removeJobs)

/** An inventory with the documented role, without one of its actions. */
function look(lacking: string | undefined, inputs: Record<string, string> = {}): Promise<JobResult> {
  const found = emulator.world.roleDefinitions.find(({ name }) => name === definition)
  if (found === undefined || role === undefined) throw new Error('docs/permissions.md has no role for an inventory')
  found.actions = role.Actions.filter((action) => action !== lacking)
  if (lacking !== undefined && found.actions.length === role.Actions.length) throw new Error(`the role has no ${lacking}`)
  const { clientId = '' } = principalNamed(emulator.world, readerName)
  return takeInventory(emulator, { 'client-id': clientId, ...inputs })
}
const server = (index: number): string => emulator.world.servers[index]?.id ?? ''
const subscription = (): string => server(0).split('/').slice(0, 3).join('/')
const group = (): string => server(0).split('/').slice(0, 5).join('/')

test('the role is enough, whatever the scope is', async () => {
  for (const scope of [wholeScope, subscription(), group()]) {
    const result = await look(undefined, { scope })
    expect([scope, result.outputs['result'], codesOf(result)]).toEqual([
      scope,
      'drift',
      expect.not.arrayContaining(['roles-not-read', 'resource-not-visible']),
    ])
    expect(result.report.inventory.filter((row: { keyStored: boolean }) => row.keyStored)).toHaveLength(1)
  }
})

describe('without', () => {
  const prefix = 'Microsoft.'
  test.each([
    ['Management/managementGroups/read', () => wholeScope],
    ['Resources/subscriptions/read', subscription],
    ['Resources/subscriptions/resourceGroups/read', group],
  ])('%s a scope of that kind is refused', async (action, scope) => {
    expect((await look(`${prefix}${action}`, { scope: scope() })).outputs).toMatchObject({
      result: 'failed',
      'failure-reason': 'permission',
    })
  })

  test.each([
    ['DBforPostgreSQL/flexibleServers/read', 'scope-empty'],
    ['DBforPostgreSQL/flexibleServers/administrators/read', 'not-inspected'],
    ['CognitiveServices/accounts/read', 'resource-not-visible'],
    ['MachineLearningServices/workspaces/onlineEndpoints/read', 'resource-not-visible'],
    ['MachineLearningServices/workspaces/serverlessEndpoints/read', 'resource-not-visible'],
    ['Authorization/roleAssignments/read', 'roles-not-read'],
  ])('%s the run reports what it cannot read: %s', async (action, code) => {
    expect(codesOf(await look(`${prefix}${action}`, { scope: subscription() }))).toContain(code)
  })

  test('configurations/read only the allow-lists are unknown', async () => {
    const lacking = `${prefix}DBforPostgreSQL/flexibleServers/configurations/read`
    const [all, some] = [await look(undefined, { scope: subscription() }), await look(lacking, { scope: subscription() })]
    expect(some.report.inventory).toEqual(all.report.inventory)
    expect(codesOf(all)).toContain('azure-ai-not-allowed')
    expect(codesOf(some)).not.toContain('azure-ai-not-allowed')
  })
})

test('the function is enough in a database: it shows that a key is stored, and the role sees no key', async () => {
  const lacking = 'Microsoft.DBforPostgreSQL/flexibleServers/administrators/read'
  const result = await look(lacking, { server: server(1), 'database-user': 'gha-check' })
  expect(result.report.inventory).toMatchObject([{ database: 'orders', family: 'azure_openai', keyStored: true, reason: '' }])
  const retail = emulator.fleet?.postgres({ id: server(1) })
  await expect(
    retail?.query('orders', `SET ROLE "gha-check"; SELECT azure_ai.get_setting('azure_openai.subscription_key')`),
  ).rejects.toThrow('permission denied')
})
