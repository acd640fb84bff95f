/** States of Resource Manager and identities that occur in the field, tested in the emulator directly. Tests of the action use these states. */
import { readFileSync } from 'node:fs'
import { request as httpsRequest } from 'node:https'
import { connect, type TLSSocket } from 'node:tls'
import { beforeEach, describe, expect, test } from 'vitest'
import { deployerName } from '../../emulator/default-world.ts'
import type { Refusal, Switches } from '../../emulator/world.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import {
  accountNamed,
  askEmbedding,
  begin,
  giveIdentity,
  giveRoles,
  identitySettings,
  principalNamed,
  putSettings,
  serverOf,
  until,
  workWithKeys,
} from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app'] })
const { world, postgres } = emulator
const ca = readFileSync(emulator.caFile)

beforeEach(() => begin(emulator))

// biome-ignore lint/suspicious/noExplicitAny: the assertions check the shape of an answer.
type Answer = { status: number; headers: Record<string, unknown>; body: any }

/** One request to Resource Manager as the deployer. */
async function send(method: string, url: string, body?: unknown): Promise<Answer> {
  const { token } = await emulator.issueToken(principalNamed(world, deployerName).objectId, `${emulator.url}/`)
  const options = { method, ca, agent: false, headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' } }
  return new Promise((resolve, reject) => {
    const request = httpsRequest(new URL(url, emulator.url), options, (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk
      })
      response.on('end', () => {
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body: text === '' ? undefined : JSON.parse(text) })
      })
    })
    request.on('error', reject)
    request.end(body === undefined ? undefined : JSON.stringify(body))
  })
}

const onServer = (method: string, rest = '', body?: unknown): Promise<Answer> =>
  send(method, `${serverOf(emulator).id}${rest}?api-version=2025-08-01`, body)

/** Polls until the operation has ended; its last answer. */
async function ended({ headers }: Answer): Promise<Answer> {
  const url = String(headers['azure-asyncoperation'] ?? headers['location'])
  for (;;) {
    const answer = await send('GET', url)
    if (answer.status !== 202 && answer.body?.status !== 'InProgress') return answer
  }
}

async function turn(switches: Partial<Switches>): Promise<void> {
  Object.assign(world.switches, switches)
  await emulator.refresh()
}

const identity = { identity: { type: 'SystemAssigned' } }
const rule = { properties: { startIpAddress: '203.0.113.7', endIpAddress: '203.0.113.7' } }
const list = { properties: { value: 'azure_ai', source: 'user-override' } }
const writes: Record<Exclude<Refusal['write'], 'roleAssignment'>, () => Promise<Answer>> = {
  server: () => onServer('PATCH', '', identity),
  configuration: () => onServer('PUT', '/configurations/azure.extensions', list),
  firewallRule: () => onServer('PUT', '/firewallRules/one', rule),
  firewallRuleDelete: () => onServer('DELETE', '/firewallRules/allow-runner'),
  restart: () => onServer('POST', '/restart'),
}
const kinds = Object.keys(writes) as (keyof typeof writes)[]

/** The state that a refused write must not change. */
function state(): string {
  const { identity: own, configurations, firewallRules, restarts, state: name } = serverOf(emulator)
  return JSON.stringify({ own, configurations, firewallRules, restarts, name })
}

describe('a write that is refused', () => {
  const spellings: [code: string, status: number, text: string][] = [
    ['ServerIsBusy', 409, "Cannot complete operation because server 'pg-contoso' is busy processing another operation."],
    ['ServerBusy', 409, "Server 'pg-contoso' is busy with another operation. Please try again later."],
    ['AnotherOperationInProgress', 409, 'Another operation is in progress'],
    [
      'ServerIsNotReady',
      409,
      'can only be performed on Started servers. Server Name = pg-contoso, Current Server State = Updating',
    ],
    ['AadAuthOperationCannotBePerformedWhenServerIsNotAccessible', 409, 'server pg-contoso is not accessible'],
    ['OperationFailed', 500, '{0}'],
    ['RequestDisallowedByPolicy', 403, "Resource 'pg-contoso' was disallowed by policy"],
  ]

  test.each(spellings)('is answered with the code at once, for every kind of write: %s', async (code, status, text) => {
    const before = state()
    world.refusals = kinds.map((write) => ({ write, code }))
    for (const write of kinds) {
      const answer = await writes[write]()
      expect([answer.status, answer.body.error.code], write).toEqual([status, code])
      expect(answer.body.error.message).toContain(text)
    }
    expect(state()).toBe(before)
    expect(world.refusals).toEqual([])
  })

  test.each(spellings)('is accepted, and the operation ends with the code: %s', async (code, status, text) => {
    const before = state()
    world.refusals = kinds.map((write) => ({ write, code, as: 'operation' }))
    for (const write of kinds) {
      const accepted = await writes[write]()
      expect(accepted.status, write).toBe(202)
      const answer = await ended(accepted)
      const byOperation = accepted.headers['azure-asyncoperation'] !== undefined
      expect([answer.status, answer.body.status], write).toEqual(byOperation ? [200, 'Failed'] : [status, undefined])
      expect(answer.body.error.code).toBe(code)
      expect(answer.body.error.message).toContain(text)
    }
    expect(state()).toBe(before)
  })

  test('passes after the configured number of refusals, which may have a status and text of their own', async () => {
    world.refusals = [{ write: 'restart', code: 'Strange', status: 418, message: 'on {name}', times: 2 }]
    for (let left = 2; left > 0; left--) {
      expect(await writes.restart()).toMatchObject({
        status: 418,
        body: { error: { code: 'Strange', message: 'on pg-contoso' } },
      })
    }
    expect((await ended(await writes.restart())).status).toBe(200)
    expect(serverOf(emulator).restarts).toBe(1)
  })

  test('may be a role assignment, at its limit', async () => {
    world.refusals = [{ write: 'roleAssignment', code: 'RoleAssignmentLimitExceeded' }]
    const { id } = accountNamed(world, 'contoso-openai')
    const properties = {
      roleDefinitionId: `/subscriptions/${world.subscriptionId}/providers/Microsoft.Authorization/roleDefinitions/5e0bd9bd-7b93-4f28-af87-19fc36ad61bd`,
      principalId: giveIdentity(emulator),
      principalType: 'ServicePrincipal',
    }
    const url = `${id}/providers/Microsoft.Authorization/roleAssignments/11111111-1111-4111-8111-111111111111?api-version=2022-04-01`
    const before = world.roleAssignments.length
    expect(await send('PUT', url, { properties })).toMatchObject({
      status: 400,
      body: { error: { code: 'RoleAssignmentLimitExceeded' } },
    })
    expect(world.roleAssignments).toHaveLength(before)
    expect((await send('PUT', url, { properties })).status).toBe(201)
  })
})

describe('reads', () => {
  test.each([
    ['refused', 400, 'ServerStoppedError'],
    ['failed', 500, 'InternalServerError'],
  ] as const)('of configurations are %s by a server that is Stopped or Starting', async (stoppedReads, status, code) => {
    world.switches.stoppedReads = stoppedReads
    const reads = ['/configurations', '/configurations/azure.extensions']
    for (const name of ['Stopped', 'Starting'] as const) {
      serverOf(emulator).state = name
      for (const read of reads) expect(await onServer('GET', read)).toMatchObject({ status, body: { error: { code } } })
      expect(await onServer('GET')).toMatchObject({ status: 200, body: { properties: { state: name } } })
      expect((await onServer('GET', '/firewallRules')).status).toBe(200)
    }
    serverOf(emulator).state = 'Ready'
    for (const read of reads) expect((await onServer('GET', read)).status).toBe(200)
  })

  test('show a new principalId late', async () => {
    world.switches.latePrincipalReads = 2
    await ended(await onServer('PATCH', '', identity))
    const shown = []
    for (let left = 4; left > 0; left--) shown.push((await onServer('GET')).body.identity)
    const { principalId } = serverOf(emulator).identity ?? {}
    const late = { type: 'SystemAssigned' }
    const whole = { ...late, principalId, tenantId: world.tenantId }
    expect(shown).toEqual([late, late, whole, whole])
  })
})

describe('the identity that the server runs with', () => {
  const show = async (): Promise<unknown> =>
    (await postgres.query('app', `SELECT current_setting('azure.service_principal_id', true) AS id`))[0]?.['id']
  const shown = async (): Promise<unknown> => (await onServer('GET', '/configurations/azure.service_principal_id')).body

  test('is shown by SQL as it was at the start, as it is, or not at all', async () => {
    const running = giveIdentity(emulator)
    const current = '22222222-2222-4222-8222-222222222222'
    serverOf(emulator).identity = { type: 'SystemAssigned', principalId: current }
    await turn({ sqlIdentity: 'running' })
    expect(await show()).toBe(running)
    await turn({ sqlIdentity: 'current' })
    expect(await show()).toBe(current)
    await turn({ sqlIdentity: 'empty' })
    expect(await show()).toBe('')
    await turn({ sqlIdentity: 'unknown' })
    expect(await show()).toBeNull()
    await expect(postgres.query('app', 'SHOW azure.service_principal_id')).rejects.toMatchObject({ code: '42704' })
    await turn({ sqlIdentity: 'running' })
    expect(await show()).toBe(running)
  })

  test('changes at a restart only, or at once', async () => {
    await ended(await onServer('PATCH', '', identity))
    const { principalId } = serverOf(emulator).identity ?? {}
    expect(await show()).toBe('')
    await ended(await onServer('POST', '/restart'))
    expect(await show()).toBe(principalId)

    await turn({ sqlIdentity: 'current' })
    await ended(await onServer('PATCH', '', { identity: { type: 'None' } }))
    expect(await show()).toBe('')
    await ended(await onServer('PATCH', '', identity))
    expect(await show()).toBe(serverOf(emulator).identity?.principalId)
    expect(await show()).not.toBe(principalId)
  })

  test('is shown by Resource Manager as well, without a value, or as an unknown parameter', async () => {
    const running = giveIdentity(emulator)
    expect(await shown()).toMatchObject({ properties: { value: running } })
    await turn({ armIdentity: 'empty' })
    expect(await shown()).toMatchObject({ properties: { value: '' } })
    await turn({ armIdentity: 'unknown' })
    expect(await shown()).toMatchObject({ error: { code: 'ResourceNotFound' } })
    const names = (await onServer('GET', '/configurations')).body.value.map(({ name }: { name: string }) => name)
    expect(names).not.toContain('azure.service_principal_id')
  })

  test('may be a former one until the restart, and a 401 names it', async () => {
    await turn({ formerIdentityWorks: true, wording: 'wrapped' })
    const former = giveIdentity(emulator)
    giveRoles(emulator)
    await putSettings(emulator, 'app', identitySettings(world))
    expect(await askEmbedding(emulator, 'app')).toBe(1536)

    await ended(await onServer('PATCH', '', { identity: { type: 'None' } }))
    await ended(await onServer('PATCH', '', identity))
    const { principalId = '' } = serverOf(emulator).identity ?? {}
    world.roleAssignments.splice(
      0,
      Number.POSITIVE_INFINITY,
      ...world.roleAssignments.filter((one) => one.principalId !== former),
    )
    giveRoles(emulator)
    await expect(askEmbedding(emulator, 'app')).rejects.toThrow(
      `azure_openai.create_embeddings: 401: The principal \`${former}\` lacks the required data action`,
    )
    await ended(await onServer('POST', '/restart'))
    expect(await askEmbedding(emulator, 'app')).toBe(1536)
    expect(world.exchanges.filter(({ plane }) => plane === 'ai').at(-1)?.caller).toBe(principalId)
  })
})

test('a deployment that is listed may be unknown to the service for a time', async () => {
  await workWithKeys(emulator, 'app')
  const account = accountNamed(world, 'contoso-openai')
  const deployment = account.deployments.find(({ name }) => name === 'text-embedding-3-small')
  if (deployment === undefined) throw new Error('the world has no embedding deployment')
  deployment.createdAt = Date.now()
  world.delays.deploymentPropagation = 300_000
  const listed = await send('GET', `${account.id}/deployments?api-version=2025-09-01`)
  const found = listed.body.value.find(({ name }: { name: string }) => name === deployment.name)
  expect(Date.parse(found.systemData.createdAt)).toBe(deployment.createdAt)
  await expect(askEmbedding(emulator, 'app')).rejects.toThrow(
    'If you created the deployment within the last 5 minutes, please wait a moment and try again.',
  )
  deployment.createdAt -= 300_000
  expect(await askEmbedding(emulator, 'app')).toBe(1536)
})

test('a connection that is opened early and not used is answered with 408, one in use is not', async () => {
  world.delays.unusedConnection = 400
  const open = (): TLSSocket =>
    connect({ port: Number(new URL(emulator.url).port), host: '127.0.0.1', servername: 'localhost', ca })
  let answer = ''
  for await (const chunk of open().setEncoding('utf8')) answer += chunk
  expect(answer).toMatch(/^HTTP\/1\.1 408 Request Timeout\r\n/)
  const used = open()
  let first = ''
  used.setEncoding('utf8').on('data', (chunk: string) => {
    first += chunk
  })
  used.write('GET /metadata/endpoints?api-version=2022-09-01 HTTP/1.1\r\nHost: localhost\r\n\r\n')
  await until(() => first !== '')
  await new Promise((resolve) => setTimeout(resolve, 500))
  expect(first).toMatch(/^HTTP\/1\.1 200 OK\r\n/)
  expect(first).not.toContain('408')
  expect(used.readyState).toBe('open')
  used.destroy()
})
