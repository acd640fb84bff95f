/** Responses of Azure, Entra and GitHub that are too large, link elsewhere, never end, or describe another resource. */
import { statSync } from 'node:fs'
import { dirname } from 'node:path'
import { gzipSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import type { Exchange, Fault } from '../../emulator/world.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import {
  apply,
  begin,
  codesOf,
  giveIdentity,
  onlyService,
  rolesOfServer,
  settingsOf,
  start,
  workWithKeys,
} from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app'] })
const { world, inputs } = emulator
const only = onlyService(emulator, 'openai', 'app')
/** Only Resource Manager: no database is inspected. */
const azureOnly = { ...only, mode: 'check', part: 'azure', 'fail-on-drift': 'false' }

/** Ten megabytes on the wire are ten gigabytes unpacked; built of one part that is repeated. */
function bomb(gigabytes: number): Buffer {
  const part = gzipSync(Buffer.alloc(64 * 1024 * 1024, ' '), { level: 9 })
  return Buffer.concat(Array.from({ length: gigabytes * 16 }, () => part))
}

/** Applies the fault to requests of a plane whose path contains the text. */
function faulty(plane: Exchange['plane'], part: string, fault: Fault): void {
  world.fault = (request) => (request.plane === plane && request.url.includes(part) ? fault : undefined)
}

const changed = (change: (body: Record<string, unknown>) => unknown): Fault => ({
  kind: 'rewrite',
  change: (body) => change(body as Record<string, unknown>),
})

describe('an answer that is too large', () => {
  const packed = { 'content-encoding': 'gzip', 'content-type': 'application/json' }

  test.each([
    ['Resource Manager, an account', 'resource-manager', '/accounts/'],
    ['Resource Manager, the role assignments', 'resource-manager', '/roleAssignments'],
    ['Entra, its configuration', 'entra', '/.well-known/openid-configuration'],
  ] as const)('of %s: gzip that unpacks to gigabytes ends the run, soon and with a name', async (_, plane, part) => {
    await begin(emulator)
    faulty(plane, part, { kind: 'answer', status: 200, headers: packed, body: bomb(4) })
    const result = await apply(emulator, azureOnly)
    expect(codesOf(result), result.log.slice(-2_000)).toContain('answer-too-large')
    expect(result.endedAt - result.startedAt).toBeLessThan(30_000)
    expect(result.log.length).toBeLessThan(100_000)
    expect(world.exchanges.filter(({ url }) => url.includes(part)).length).toBeLessThan(4)
  })

  test("of GitHub's OIDC service", async () => {
    await begin(emulator)
    faulty('github', '/oidc', { kind: 'answer', status: 200, body: `{"value":"${'x'.repeat(40_000_000)}"}` })
    const result = await apply(emulator, azureOnly)
    expect(codesOf(result)).toContain('no-oidc-token')
    expect(result.log).toContain('more than 16 MB')
    expect(result.log.length).toBeLessThan(100_000)
  })

  test('an error text of megabytes is shortened, and still names the error', async () => {
    await begin(emulator)
    const message = `over scope '/subscriptions/${'fail '.repeat(400_000)}`
    faulty('resource-manager', '/accounts/', {
      kind: 'answer',
      status: 403,
      body: JSON.stringify({ error: { code: 'AuthorizationFailed', message } }),
    })
    const result = await apply(emulator, azureOnly)
    expect(codesOf(result)).toContain('authorization-failed')
    expect(result.raw.length + result.summary.length + JSON.stringify(result.report).length).toBeLessThan(200_000)
  })

  test('names of megabytes in good answers leave log, report and summary small', async () => {
    await begin(emulator)
    giveIdentity(emulator)
    const long = 'n'.repeat(1_000_000)
    world.fault = ({ plane, method }) =>
      plane === 'resource-manager' && method === 'GET'
        ? changed((body) => ({
            ...body,
            ...(Array.isArray(body['value']) ? {} : { kind: long, location: long, name: long }),
          }))
        : undefined
    const result = await apply(emulator, azureOnly)
    expect(result.raw.length + result.summary.length + JSON.stringify(result.report ?? '').length).toBeLessThan(400_000)
  })
})

describe('a redirect is not followed', () => {
  const elsewhere = (): Exchange[] => world.exchanges.filter(({ host }) => host === '127.0.0.1')
  const to = { location: `${inputs['environment']?.replace('localhost', '127.0.0.1')}/elsewhere?api-version=2.0` }

  test.each([301, 302, 303, 307, 308])('of the OIDC service: %i', async (status) => {
    await begin(emulator)
    faulty('github', '/oidc', { kind: 'answer', status, headers: to })
    const result = await apply(emulator, azureOnly)
    expect(codesOf(result)).toContain('no-oidc-token')
    expect(elsewhere()).toEqual([])
  })

  test.each([
    ['Resource Manager', 'resource-manager', '/accounts/', 302],
    ['Resource Manager', 'resource-manager', '/flexibleServers/', 307],
    ['Entra', 'entra', '/openid-configuration', 302],
    ['Entra', 'entra', '/oauth2/', 307],
  ] as const)('of %s, to its own address or another: %s %s %i', async (_, plane, part, status) => {
    for (const location of [to.location, `${inputs['environment']}/elsewhere`]) {
      await begin(emulator)
      faulty(plane, part, { kind: 'answer', status, headers: { location } })
      const result = await apply(emulator, azureOnly)
      expect(codesOf(result), result.log).toContain('redirected')
      expect(world.exchanges.filter(({ url }) => url.includes('/elsewhere'))).toEqual([])
    }
  })
})

describe('a list that does not end', () => {
  const lists = [
    ['role assignments', '/roleAssignments', {}],
    ['firewall rules', '/firewallRules', { part: 'all', 'temporary-firewall-rule': 'true' }],
    ['administrators', '/administrators', { part: 'all', mode: 'apply' }],
    ['deployments', '/deployments', { part: 'all', mode: 'apply', 'embedding-deployment': '' }],
  ] as const

  test.each(lists)('%s: a page that links to itself is read twice', async (_, part, more) => {
    await begin(emulator)
    const own = inputs['environment'] ?? ''
    world.fault = ({ plane, url }) =>
      plane === 'resource-manager' && url.includes(part) ? changed((body) => ({ ...body, nextLink: `${own}${url}` })) : undefined
    const result = await apply(emulator, { ...azureOnly, ...more })
    expect(codesOf(result), result.log).toContain('list-unending')
    expect(world.exchanges.filter(({ url }) => url.includes(part)).length).toBeLessThanOrEqual(3)
  })

  test.each(lists)('%s: endless pages are read up to a limit', async (_, part, more) => {
    await begin(emulator)
    const own = inputs['environment'] ?? ''
    let page = 0
    world.fault = ({ plane, url }) =>
      plane === 'resource-manager' && url.includes(part)
        ? changed((body) => ({ ...body, nextLink: `${own}${url.replace(/&page=\d+$/, '')}&page=${++page}` }))
        : undefined
    const result = await apply(emulator, { ...azureOnly, ...more })
    expect(codesOf(result), result.log).toContain('list-unending')
    expect(page).toBeLessThanOrEqual(200)
  })

  test('the next page of a list is on another host: no token is sent there', async () => {
    await begin(emulator)
    const other = (inputs['environment'] ?? '').replace('localhost', '127.0.0.1')
    for (const link of [
      `${other}/subscriptions/x`,
      `${(inputs['environment'] ?? '').replace('https:', 'http:')}/subscriptions/x`,
    ]) {
      faulty(
        'resource-manager',
        '/roleAssignments',
        changed((body) => ({ ...body, nextLink: link })),
      )
      const result = await apply(emulator, azureOnly)
      expect(codesOf(result), result.log).toContain('foreign-host')
      expect(world.exchanges.filter(({ url }) => url === '/subscriptions/x')).toEqual([])
    }
  })
})

describe('an answer about another resource', () => {
  const other = (id: string): string => id.replace(/[^/]+$/, 'someone-elses')

  test('an account with the id of another: no role is assigned anywhere', async () => {
    for (const id of [other(inputs['openai'] ?? ''), `/subscriptions/${world.subscriptionId}`, '/', 7]) {
      await begin(emulator)
      giveIdentity(emulator)
      faulty(
        'resource-manager',
        '/accounts/contoso-openai?',
        changed((body) => ({ ...body, id })),
      )
      const result = await apply(emulator, only)
      expect(codesOf(result), result.log).toEqual(['other-resource'])
      expect(result.outputs['failure-reason']).toBe('azure')
      expect(rolesOfServer(emulator)).toEqual([])
      expect(emulator.writes()).toEqual([])
    }
  })

  test('the same id in another case is the same resource, and the role goes on it as it is named', async () => {
    await begin(emulator)
    giveIdentity(emulator)
    faulty(
      'resource-manager',
      '/accounts/contoso-openai?',
      changed((body) => ({ ...body, id: String(body['id']).toUpperCase() })),
    )
    const result = await apply(emulator, only)
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(rolesOfServer(emulator)).toEqual([`5e0bd9bd-7b93-4f28-af87-19fc36ad61bd on ${inputs['openai']}`])
  })

  test('the server with the id of another', async () => {
    await begin(emulator)
    const id = other(inputs['server'] ?? '')
    world.fault = ({ plane, method, url }) =>
      plane === 'resource-manager' && method === 'GET' && /\/flexibleServers\/[^/]+\?/i.test(url)
        ? changed((body) => ({ ...body, id }))
        : undefined
    const result = await apply(emulator, only)
    expect(codesOf(result), result.log).toEqual(['other-resource'])
    expect(emulator.writes()).toEqual([])
  })

  test('a read replica that is not a server', async () => {
    await begin(emulator)
    faulty(
      'resource-manager',
      '/replicas',
      changed(() => ({ value: [{ id: '/subscriptions/../../x', name: 'x' }] })),
    )
    expect(codesOf(await apply(emulator, only))).toEqual(['other-resource'])
  })

  test('the only endpoint of a workspace lies in another workspace: no role, and its keys are not read', async () => {
    const workspace = (inputs['machine-learning'] ?? '').replace(/\/onlineEndpoints\/.*$/, '')
    const ofWorkspace = { ...onlyService(emulator, 'machine-learning', 'app'), 'machine-learning': workspace }
    for (const id of [other(workspace), `${other(workspace)}/onlineEndpoints/x`, `${workspace}-2/onlineEndpoints/x`]) {
      await begin(emulator)
      giveIdentity(emulator)
      faulty(
        'resource-manager',
        '/onlineEndpoints?',
        changed((body) => ({ value: (body['value'] as object[]).map((each) => ({ ...each, id })) })),
      )
      for (const more of [{}, { 'auth-type': 'subscription-key' }]) {
        const result = await apply(emulator, { ...ofWorkspace, ...more })
        expect(codesOf(result), result.log).toEqual(['other-resource'])
      }
      expect(emulator.writes()).toEqual([])
      expect(emulator.keyReads()).toEqual([])
    }
  })

  test('an allow-list of megabytes is not written back', async () => {
    await begin(emulator)
    faulty(
      'resource-manager',
      '/configurations/azure.extensions',
      changed((body) => ({ ...body, properties: { ...(body['properties'] as object), value: 'vector,'.repeat(200_000) } })),
    )
    const result = await apply(emulator, only)
    expect(codesOf(result), result.log).toEqual(['answer-too-large'])
    expect(emulator.writes()).toEqual([])
  })
})

test('a hostile text of a service while a working family is switched: a cancel still restores the settings, immediately', async () => {
  await begin(emulator, { switches: { committedRowsOnly: true } })
  giveIdentity(emulator)
  const before = await workWithKeys(emulator, 'app')
  let sentAt = 0
  let usesIdentity = false
  let job: Awaited<ReturnType<typeof start>> | undefined
  // Before the COMMIT the key is used, so the first token of the identity shows that the settings are committed.
  world.fault = ({ plane }) => {
    if (plane === 'identity') usesIdentity = true
    if (plane !== 'ai' || !usesIdentity) return undefined
    // The run reads the text a moment later.
    if (sentAt === 0) setTimeout(() => job?.child.kill('SIGINT'), 1_000)
    sentAt ||= performance.now()
    return { kind: 'answer', status: 500, body: JSON.stringify({ error: { code: '500', message: 'fail'.repeat(60_000) } }) }
  }
  job = await start(emulator, only)
  const result = await job.done
  expect(sentAt, result.log.slice(-3_000)).toBeGreaterThan(0)
  expect(result.endedAt - sentAt).toBeLessThan(15_000)
  expect(await settingsOf(emulator, 'app')).toEqual(before)
  expect(result.outputs['failure-reason']).toBe('cancelled')
})

test.skipIf(process.platform === 'win32')('only the user of the runner may read the report', async () => {
  await begin(emulator)
  const result = await apply(emulator, azureOnly)
  const path = result.outputs['report-path'] ?? ''
  expect((statSync(path).mode & 0o777).toString(8)).toBe('600')
  expect((statSync(dirname(path)).mode & 0o777).toString(8)).toBe('700')
})
