/** Roles that would let the server's identity assign roles, and with that take any right on a resource. */
import { randomUUID } from 'node:crypto'
import { beforeEach, describe, expect, test } from 'vitest'
import { builtInRoles } from '../../emulator/default-world.ts'
import { canAssignRoles } from '../../src/core/access-roles.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { apply, begin, codesOf, giveIdentity, onlyService, rolesOfServer } from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app'] })
const { world } = emulator

beforeEach(async () => {
  await begin(emulator)
  giveIdentity(emulator)
})

const azure = (role: string, inputs: Record<string, string> = {}) =>
  apply(emulator, { ...onlyService(emulator, 'openai', 'app'), part: 'azure', 'openai-role': role, ...inputs })

/** Creates a custom role with these actions; returns its id. */
function customRole(actions: string[], notActions: string[] = []): string {
  const name = randomUUID()
  world.roleDefinitions.push({ name, roleName: `Custom ${name}`, actions, notActions, dataActions: [], notDataActions: [] })
  return name
}

test.each([
  ['Owner', builtInRoles.owner],
  ['User Access Administrator', builtInRoles.userAccessAdministrator],
  ['Role Based Access Control Administrator', builtInRoles.rbacAdministrator.toUpperCase()],
])('%s is refused before any request', async (name, role) => {
  const result = await azure(role)
  expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'input', changed: 'false' })
  expect(result.report.findings[0].detail).toContain(`\`openai-role\`: is the id of ${name}`)
  expect(world.exchanges).toEqual([])
  expect(rolesOfServer(emulator)).toEqual([])
})

test.each([
  ['everything', ['*'], []],
  ['all of Microsoft.Authorization', ['Microsoft.Authorization/*'], ['Microsoft.Authorization/roleAssignments/delete']],
  ['one action', ['Microsoft.CognitiveServices/*/read', 'microsoft.authorization/ROLEASSIGNMENTS/write'], []],
  ['role definitions', ['*/write'], ['Microsoft.Authorization/roleAssignments/*']],
])('a custom role that permits %s is refused before the first write, and by a check', async (_, actions, notActions) => {
  const role = customRole(actions, notActions)
  for (const mode of ['apply', 'check']) {
    const result = await azure(role, { mode })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'input', changed: 'false' })
    expect(codesOf(result)).toContain('role-assigns-roles')
  }
  expect(emulator.writes()).toEqual([])
  expect(rolesOfServer(emulator)).toEqual([])
})

test.each([
  ['calls the service alone', ['Microsoft.CognitiveServices/*/read'], []],
  ['leaves Microsoft.Authorization out', ['*'], ['Microsoft.Authorization/*/Write']],
])('a custom role that %s is assigned', async (_, actions, notActions) => {
  const role = customRole(actions, notActions)
  const result = await azure(role)
  expect(result.outputs['result'], result.log).toBe('changed')
  expect(rolesOfServer(emulator)).toEqual([`${role} on ${emulator.inputs['openai']}`])
})

test('a custom role whose definition may not be read is assigned', async () => {
  const role = customRole(['*'])
  world.fault = ({ method, url }) =>
    method === 'GET' && url.includes('/roleDefinitions/')
      ? { kind: 'answer', status: 403, body: JSON.stringify({ error: { code: 'AuthorizationFailed', message: 'no' } }) }
      : undefined
  const result = await azure(role)
  expect(result.outputs['result'], result.log).toBe('changed')
  expect(codesOf(result)).not.toContain('authorization-failed')
})

test('a built-in role of the services table costs no further request', async () => {
  await azure('')
  expect(emulator.reads().filter(({ url }) => url.includes('/roleDefinitions/'))).toEqual([])
})

describe('patterns of actions', () => {
  test.each([
    ['Microsoft.Authorization/roleAssignments/write', true],
    ['*/roleAssignments/*', true],
    ['Microsoft.*/write', true],
    ['*/*/*', true],
    ['Microsoft.Authorization/roleAssignments', false],
    ['Microsoft.Authorization/*/read', false],
    ['Microsoft.Authorization/roleAssignments/write*write', false],
    ['*/roleAssignments/*/write', false],
    ['', false],
  ])('%s', (pattern, expected) => {
    expect(canAssignRoles([{ actions: [pattern] }])).toBe(expected)
    expect(canAssignRoles([{ notActions: [] }, { actions: ['*/read', pattern], notActions: ['*/delete'] }])).toBe(expected)
    expect(canAssignRoles([{ actions: [pattern], notActions: ['*'] }])).toBe(false)
  })

  test('a long pattern takes no time', () => {
    const start = performance.now()
    expect(canAssignRoles([{ actions: [`${'*a'.repeat(500_000)}*`] }])).toBe(false)
    expect(performance.now() - start).toBeLessThan(5_000)
  })
})
