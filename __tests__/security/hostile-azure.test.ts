/** A Resource Manager or an Entra whose answers try to move a token, a role, a key or a setting to another place. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, describe, expect, test } from 'vitest'
import { builtInRoles } from '../../emulator/default-world.ts'
import type { Exchange, Fault } from '../../emulator/world.ts'
import { hurried } from '../support/clock.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import {
  apply,
  assignRole,
  begin,
  codesOf,
  giveIdentity,
  onlyService,
  rolesOfServer,
  serverOf,
  statusesOf,
} from '../support/support.ts'
import { startHostileHost } from './hostile-host.ts'
import { aboutServer, type Body, properties, rewrite, withProperties } from './rewriting.ts'

const emulator = await ownEmulator({ databases: ['app'] })
const { world, inputs } = emulator
const only = onlyService(emulator, 'openai', 'app')
const soon = { 'verify-timeout-minutes': '0' }
const own = inputs['environment'] ?? ''
const { cert, key } = emulator.certificate(['localhost', '127.0.0.1'])
const host = await startHostileHost({ cert, key })
const plaintext = createServer((request, response) => {
  host.received.push(`${request.method} ${request.url} ${JSON.stringify(request.headers)}`)
  response.end('{}')
})
await new Promise<void>((resolve) => plaintext.listen(0, '127.0.0.1', resolve))
const plaintextUrl = `http://localhost:${(plaintext.address() as AddressInfo).port}`
afterAll(async () => {
  plaintext.close()
  await host.stop()
})

async function beginHere(): Promise<void> {
  await begin(emulator)
  host.received.length = 0
}

describe('a long-running operation with a poll URL on another host', () => {
  const places: [string, () => string][] = [
    ['another host', () => `${host.url}/subscriptions/x`],
    ['another port of the same host', () => `${host.url.replace('localhost', new URL(own).hostname)}/subscriptions/x`],
    ['the same host without TLS', () => `${own.replace('https:', 'http:')}/subscriptions/x`],
    ['a host without TLS', () => `${plaintextUrl}/subscriptions/x`],
    ['a host behind what looks like the own one', () => `https://${new URL(own).host}@${new URL(host.url).host}/subscriptions/x`],
    ['a file', () => 'file:///etc/passwd'],
    ['no address', () => 'elsewhere\\@'],
  ]

  test.each(
    places.flatMap(([name, place], index) =>
      ['azure-asyncoperation', 'location', 'operation-location']
        .slice(0, index < 2 ? 3 : 1)
        .map((header) => [header, name, place] as const),
    ),
  )('%s leads to %s: no token goes there', async (header, _, place) => {
    await beginHere()
    const answer: Fault = { kind: 'answer', status: 202, headers: { [header]: place(), 'retry-after': '0' } }
    world.fault = ({ method, url }) => (method === 'PATCH' && aboutServer.test(url) ? answer : undefined)
    const result = await apply(emulator, { ...only, ...soon })
    expect(host.received).toEqual([])
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false' })
    expect(rolesOfServer(emulator)).toEqual([])
  })

  test.each(['-5', 'NaN', '1e400', '99999999999', 'Fri, 31 Dec 9999 23:59:59 GMT', 'soon'])(
    'Retry-After: %s makes it neither endless nor a busy loop',
    async (after) => {
      await beginHere()
      let polls = 0
      const waiting: Fault = {
        kind: 'answer',
        status: 200,
        headers: { 'retry-after': after },
        body: JSON.stringify({ status: 'InProgress' }),
      }
      world.fault = ({ method, url }) =>
        method === 'GET' && /azureAsyncOperation|operationResults|asyncOperations/i.test(url) && polls++ < 1 ? waiting : undefined
      const { env } = emulator
      // A poll is delayed by at most half a minute, which the clock of the test shortens. The limit of a request is as long and becomes
      // as short: three seconds are enough for an answer on a busy machine.
      Object.assign(env, hurried([[20_000, 40_000, 3_000]]))
      try {
        const result = await apply(emulator, { ...only, part: 'azure' })
        expect(result.outputs, result.log).toMatchObject({ result: 'changed' })
        expect(polls).toBeGreaterThan(1)
      } finally {
        delete env['NODE_OPTIONS']
      }
    },
  )
})

describe('the next page of a list', () => {
  test.each([
    ['a file', () => 'file:///etc/passwd'],
    ['a relative address', () => '/subscriptions/x'],
    ['a host behind what looks like the own one', () => `https://${new URL(own).host}@${new URL(host.url).host}/subscriptions/x`],
    ['a host without TLS', () => `${plaintextUrl}/subscriptions/x`],
    ['no text', () => ({ href: host.url }) as unknown as string],
  ])('is %s: no token goes there', async (_, place) => {
    // One list that the action reads itself, and one that a generated client reads.
    for (const part of ['deployments', 'administrators']) {
      await beginHere()
      giveIdentity(emulator)
      rewrite(world, 'GET', new RegExp(`/${part}\\?`, 'i'), (body) => ({ ...body, nextLink: place() }))
      const result = await apply(emulator, { ...only, ...soon, mode: 'check', 'embedding-deployment': '' })
      expect(host.received).toEqual([])
      expect(result.outputs['verified'], result.log).toBe('false')
    }
  })
})

describe('an answer about another server or parameter', () => {
  test('right after the identity was turned on: its identity gets no role', async () => {
    await beginHere()
    const stranger = '7d3f9c52-0000-4000-8000-00000000e711'
    let patched = false
    world.fault = ({ method, url }) => {
      if (!aboutServer.test(url)) return undefined
      patched ||= method === 'PATCH'
      if (method !== 'GET' || !patched) return undefined
      return {
        kind: 'rewrite',
        change: (body) => ({
          ...(body as Body),
          id: String((body as Body)['id']).replace(/[^/]+$/, 'someone-elses'),
          identity: { type: 'SystemAssigned', principalId: stranger },
        }),
      }
    }
    const result = await apply(emulator, { ...only, ...soon, part: 'azure' })
    expect(codesOf(result), result.log).toContain('other-resource')
    expect(world.roleAssignments.filter(({ principalId }) => principalId === stranger)).toEqual([])
  })

  test.each([7, {}, '', 'x', "' or 1 eq 1", '../../x'])('a principal id that is %j gets no role', async (principalId) => {
    await beginHere()
    giveIdentity(emulator)
    rewrite(world, 'GET', aboutServer, (body) => ({ ...body, identity: { type: 'SystemAssigned', principalId } }))
    const result = await apply(emulator, { ...only, ...soon, part: 'azure' })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'azure' })
    expect(emulator.writes().filter(({ url }) => /roleAssignments/i.test(url))).toEqual([])
    expect(emulator.reads().filter(({ url }) => /assignedTo/i.test(url))).toEqual([])
  })

  test('the value of another parameter is not written into the allow-list', async () => {
    await beginHere()
    rewrite(world, 'GET', /\/configurations\/azure\.extensions\?/i, (body) => ({
      ...withProperties(body, { value: 'scram-sha-256,md5' }),
      id: String(body['id']).replace(/[^/]+$/, 'azure.accepted_password_auth_method'),
      name: 'azure.accepted_password_auth_method',
    }))
    const result = await apply(emulator, { ...only, ...soon, part: 'azure' })
    expect(codesOf(result), result.log).toContain('other-resource')
    expect(emulator.writes().filter(({ url }) => /configurations/i.test(url))).toEqual([])
  })

  test('an allow-list with line ends, quotes and workflow commands is kept as a list and printed as text', async () => {
    await beginHere()
    const entries = ['vector', "pg_trgm'; DROP TABLE x; --", '"\r\n::error::planted', '::set-output name=verified::true']
    serverOf(emulator).configurations['azure.extensions'] = { value: entries.join(','), source: 'user-override' }
    const result = await apply(emulator, { ...only, ...soon, part: 'azure' })
    const [write] = emulator.writes().filter(({ url }) => /configurations/i.test(url))
    expect(properties(write?.requestBody as Body)['value']).toBe([...entries.map((each) => each.trim()), 'azure_ai'].join(','))
    expect(
      result.raw
        .split('\n')
        .filter((line) => /^\s*::(?!add-mask|group|endgroup|debug|error title|notice title|warning title)/.test(line)),
    ).toEqual([])
    expect(result.outputs['verified']).toBe('false')
  })
})

describe('a list of role assignments', () => {
  const scopes: [string, () => string | undefined][] = [
    ['a resource whose name is the beginning of it', () => inputs['openai']?.slice(0, -1)],
    [
      'a resource group whose name is the beginning of its own',
      () => /^.*?\/resourceGroups\/[^/]+/i.exec(inputs['openai'] ?? '')?.[0].slice(0, -1),
    ],
    ['something below it', () => `${inputs['openai']}/deployments/x`],
    ['no scope at all', () => undefined],
  ]
  test.each(scopes)('a role at %s is not the role on the account', async (_, scope) => {
    await beginHere()
    const principalId = giveIdentity(emulator)
    const role = builtInRoles.cognitiveServicesOpenAIUser
    assignRole(world, principalId, inputs['openai'] ?? '', role)
    rewrite(world, 'GET', /\/roleAssignments\?/i, (body) => ({
      value: (body['value'] as Body[]).map((each) =>
        properties(each)['principalId'] === principalId ? withProperties(each, { scope: scope() }) : each,
      ),
    }))
    const result = await apply(emulator, { ...only, mode: 'check', part: 'azure', 'fail-on-drift': 'false' })
    expect(statusesOf(result)['role/openai'], result.log).toBe('missing')
  })

  test.each([
    ['another principal', { principalId: '00000000-0000-4000-8000-000000000001' }],
    [
      'another role whose id ends alike',
      { roleDefinitionId: `/x/roleDefinitions/y-${builtInRoles.cognitiveServicesOpenAIUser}` },
    ],
    ['texts that are none', { principalId: 7, roleDefinitionId: ['x'], scope: {} }],
  ])('an assignment of %s does not count', async (_, change) => {
    await beginHere()
    const principalId = giveIdentity(emulator)
    assignRole(world, principalId, inputs['openai'] ?? '', builtInRoles.cognitiveServicesOpenAIUser)
    rewrite(world, 'GET', /\/roleAssignments\?(?!.*assignedTo)/i, (body) => ({
      value: (body['value'] as Body[]).map((each) => withProperties(each, change)),
    }))
    const result = await apply(emulator, { ...only, mode: 'check', part: 'azure', 'fail-on-drift': 'false' })
    expect(statusesOf(result)['role/openai'] ?? 'none', result.log).not.toBe('in-sync')
    expect(result.outputs['drift']).toBe('true')
  })
})

describe('Entra', () => {
  test.each(['token_endpoint', 'authorization_endpoint', 'issuer', 'jwks_uri'])(
    'names another host as %s: the assertion does not go there',
    async (field) => {
      await beginHere()
      const change = (body: unknown): unknown => ({ ...(body as Body), [field]: `${host.url}/token` })
      world.fault = ({ plane, url }) =>
        plane === 'entra' && url.includes('openid-configuration') ? { kind: 'rewrite', change } : undefined
      await apply(emulator, { ...only, ...soon, mode: 'check', part: 'azure' })
      expect(host.received).toEqual([])
    },
  )

  const answers: [string, Body][] = [
    ['a token with a line end', { access_token: 'x\r\nx-injected: 1' }],
    ['a token that is an object', { access_token: {} }],
    ['a token that lives for ever', { expires_in: 1e308 }],
    ['a token that expired before it was issued', { expires_in: -1 }],
    ['no lifetime', { expires_in: 'NaN' }],
  ]
  test.each(answers)('answers with %s: the run ends after a few requests', async (_, change) => {
    await beginHere()
    world.fault = ({ plane, method }) =>
      plane === 'entra' && method === 'POST'
        ? { kind: 'rewrite', change: (body) => ({ ...(body as Body), ...change }) }
        : undefined
    const result = await apply(emulator, { ...only, ...soon, mode: 'check', part: 'azure', 'fail-on-drift': 'false' })
    expect(['drift', 'failed'], result.log).toContain(result.outputs['result'])
    const requests = world.exchanges.filter(({ plane, method }: Exchange) => plane === 'entra' && method === 'POST').length
    expect(requests).toBeLessThan(20)
    expect(result.endedAt - result.startedAt).toBeLessThan(20_000)
  })
})
