/** The restart that a new identity needs: only when nothing but a token is missing, once, and logged before it happens. */
import { randomUUID } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import type { Delays, Fault, Switches, World } from '../../emulator/world.ts'
import { noPauses } from '../support/clock.ts'
import { findingWith } from '../support/findings.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import {
  accountNamed,
  apply,
  begin,
  codesOf,
  giveIdentity,
  giveRoles,
  identitySettings,
  onlyService,
  putSettings,
  rolesOfServer,
  serverOf,
  settingsOf,
  start,
  statusesOf,
  until,
  workWithKeys,
} from '../support/support.ts'
import { httpFaults } from '../support/sweep/sweep.ts'

const emulator = await ownEmulator({ databases: ['app'] })

/** The identity was turned on earlier, and the server has not been restarted since. `loaded`: what it runs with. */
async function turnedOnEarlier(delays: Partial<Delays> = {}, loaded?: string, switches: Partial<Switches> = {}): Promise<void> {
  await begin(emulator, { delays, switches })
  giveIdentity(emulator)
  const server = serverOf(emulator)
  delete server.loadedPrincipalId
  if (loaded !== undefined) server.loadedPrincipalId = loaded
  await emulator.refresh()
}

const openai = (): Record<string, string> => onlyService(emulator, 'openai', 'app')

describe('an identity that was turned on earlier, on a server that was never restarted', () => {
  test('allowed: one restart, logged with what it interrupts, then success', async () => {
    await turnedOnEarlier({ identityPropagation: 100 })
    const server = serverOf(emulator)
    server.highAvailability = { mode: 'ZoneRedundant', state: 'Healthy' }
    emulator.world.servers.push({
      ...structuredClone(server),
      id: `${server.id}-replica`,
      name: 'pg-contoso-replica',
      replicationRole: 'AsyncReplica',
      sourceServerResourceId: server.id,
    })
    const report = emulator.postgres.query('postgres', 'SELECT pg_sleep(120)').catch(() => undefined)
    const longest = `SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep(120)%' AND pid <> pg_backend_pid() AND clock_timestamp() - xact_start > '1 s'`
    await until(async () => (await emulator.postgres.query('postgres', longest)).length > 0)
    const result = await apply(emulator, openai(), undefined, noPauses())
    await report
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true', 'failure-reason': 'none' })
    expect(server.restarts).toBe(1)
    expect(result.report.steps.find(({ id }: { id: string }) => id === 'restart')).toMatchObject({
      status: 'created',
      current: 'the server runs without an identity',
      desired: 'restarted after the identity was turned on',
    })
    const lines = result.log.split('\n')
    const at = (text: string): number => lines.findIndex((line) => line.includes(text))
    expect(at('The identity does not work yet, and the server runs without an identity')).toBeGreaterThan(-1)
    expect(lines[at('connections: ')]).toMatch(
      /connections: [1-9]\d*, of which [1-9]\d* are busy; longest open transaction: [1-9]\d* s/,
    )
    expect(lines[at('high availability')]).toContain('high availability: ZoneRedundant (Healthy); read replicas: 1')
    expect(at('high availability')).toBeLessThan(at('pg-contoso is back'))
  })

  test('the server reports another running identity: the run restarts without a wait, and has its full time afterwards', async () => {
    await turnedOnEarlier({ identityPropagation: 2_500 }, randomUUID())
    const result = await apply(emulator, openai())
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(serverOf(emulator).restarts).toBe(1)
    expect(result.log).toContain('restart: the server runs with identity')
  })

  test('a restart that does not help is not repeated', async () => {
    await turnedOnEarlier({ identityPropagation: Number.POSITIVE_INFINITY }, randomUUID())
    const result = await apply(emulator, { ...openai(), 'verify-timeout-minutes': '0.05' })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'verification' })
    expect(serverOf(emulator).restarts).toBe(1)
    const again = await apply(emulator, { ...openai(), 'verify-timeout-minutes': '0.02' })
    expect(again.outputs['result']).toBe('failed')
    expect(serverOf(emulator).restarts).toBe(1)
  })

  test("a response of another server instead of Azure's does not count as a restart, and the next run restarts", async () => {
    await turnedOnEarlier({}, randomUUID())
    emulator.world.fault = ({ method, url }) =>
      method === 'POST' && url.includes('/restart?') ? httpFaults['html-200'] : undefined
    const result = await apply(emulator, openai())
    delete emulator.world.fault
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false', 'failure-reason': 'network' })
    expect(codesOf(result)).toContain('azure-not-json')
    expect(result.log).toContain('Sign in to the network')
    expect(statusesOf(result)['restart']).toBe('failed')
    expect(serverOf(emulator).restarts).toBe(0)
    const next = await apply(emulator, openai())
    expect(next.outputs, next.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(serverOf(emulator).restarts).toBe(1)
  })

  test('not allowed: restart-required with the exact command, and what worked stays unchanged', async () => {
    await turnedOnEarlier()
    const before = await workWithKeys(emulator, 'app')
    const result = await apply(emulator, { ...openai(), 'allow-restart': 'false', 'verify-timeout-minutes': '0.02' })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'restart-required' })
    expect(findingWith(result, 'restart-required').fix).toMatch(
      /^az postgres flexible-server restart --resource-group rg-contoso-ai --name pg-contoso( |$)/,
    )
    expect(serverOf(emulator).restarts).toBe(0)
    expect(await settingsOf(emulator, 'app')).toEqual(before)
  })
})

describe('a response of the AI service shows that a token exists, and causes no restart', () => {
  const answers: [string, (url: string) => Fault | undefined, string][] = [
    ['401 PermissionDenied', () => undefined, 'role-not-effective'],
    [
      '403',
      () => ({
        kind: 'answer',
        status: 403,
        body: '{"error":{"code":"403","message":"Access denied due to Virtual Network/Firewall rules."}}',
      }),
      'ai-firewall',
    ],
    [
      '404',
      () => ({
        kind: 'answer',
        status: 404,
        body: '{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}',
      }),
      'deployment-not-found',
    ],
    ['429', () => ({ kind: 'answer', status: 429, body: '{"error":{"code":"429","message":"Too many requests"}}' }), 'throttled'],
  ]
  test.each(answers)('%s', async (_, answer, code) => {
    await turnedOnEarlier({ rolePropagation: Number.POSITIVE_INFINITY })
    // The identity can get tokens: some servers need no restart.
    emulator.world.switches.restartNeeded = false
    emulator.world.fault = ({ plane, url }) => (plane === 'ai' ? answer(url) : undefined)
    const result = await apply(emulator, { ...openai(), 'verify-timeout-minutes': '0.02' })
    delete emulator.world.fault
    expect(codesOf(result), result.log).toEqual([code, ...codesOf(result).slice(1)])
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'verification' })
    expect(serverOf(emulator).restarts).toBe(0)
  })

  test('also when another family still fails without a token', async () => {
    await turnedOnEarlier()
    emulator.world.switches.restartNeeded = false
    emulator.world.fault = ({ plane, url }) =>
      plane === 'identity' && url.includes('ml.azure.com')
        ? { kind: 'answer', status: 400, body: '{"error":{"message":"no token for this one"}}' }
        : undefined
    const result = await apply(emulator, { cognitive: '', translator: '', databases: 'app', 'verify-timeout-minutes': '0.03' })
    delete emulator.world.fault
    expect(codesOf(result), result.log).toContain('no-token')
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'verification' })
    expect(serverOf(emulator).restarts).toBe(0)
  })

  test('a server that was started after its identity had a role is not restarted either', async () => {
    await turnedOnEarlier({}, undefined, { sqlIdentity: 'unknown' })
    giveRoles(emulator)
    rolesGivenAt(Date.now() - 10 * 60_000)
    const result = await apply(emulator, { ...openai(), 'verify-timeout-minutes': '0.02' })
    expect(codesOf(result), result.log).toContain('no-token')
    expect(serverOf(emulator).restarts).toBe(0)
  })
})

/** As if the roles of the server's identity had been assigned at this time, in milliseconds since 1970. */
function rolesGivenAt(createdAt: number): void {
  for (const assignment of emulator.world.roleAssignments) assignment.createdAt = createdAt
}

describe('evidence that the server was not restarted since it has its identity', () => {
  const states: [string, () => Promise<void>, RegExp][] = [
    [
      'a refusal names another principal',
      async () => {
        const former = randomUUID()
        await turnedOnEarlier({}, former, { sqlIdentity: 'unknown', formerIdentityWorks: true })
        emulator.world.principals.push({ objectId: former, displayName: 'pg-contoso', kind: 'ManagedIdentity' })
      },
      /former identity [0-9a-f-]{36}/,
    ],
    ['the running identity is empty', async () => turnedOnEarlier(), /runs without an identity/],
  ]

  test.each(states)(
    '%s: check has the restart in its plan, and apply ends immediately with restart-required',
    async (_, state, text) => {
      await state()
      if (rolesOfServer(emulator).length === 0) giveRoles(emulator)
      await workWithIdentitySettings()
      const checked = await apply(emulator, { ...openai(), mode: 'check', 'allow-restart': 'false' })
      expect(statusesOf(checked)['restart'], checked.log).toBe('missing')
      expect(checked.report.steps.find(({ id }: { id: string }) => id === 'restart').current).toMatch(text)
      const refused = await apply(emulator, { ...openai(), 'allow-restart': 'false', 'verify-timeout-minutes': '5' })
      expect(refused.outputs, refused.log).toMatchObject({ result: 'failed', 'failure-reason': 'restart-required' })
      expect(refused.report.durationMs).toBeLessThan(60_000)
      expect(statusesOf(refused)['restart']).toBe('missing')
      expect(serverOf(emulator).restarts).toBe(0)
    },
  )

  test('a query that passed with the identity means no restart, whatever the server shows', async () => {
    await turnedOnEarlier({}, undefined, { sqlIdentity: 'empty' })
    giveRoles(emulator)
    const server = serverOf(emulator)
    server.loadedPrincipalId = server.identity?.principalId ?? ''
    await emulator.refresh()
    const result = await apply(emulator, openai())
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(server.restarts).toBe(0)
    const checked = await apply(emulator, { ...openai(), mode: 'check' })
    expect(statusesOf(checked)['restart']).toBe('in-sync')
  })
})

/** Settings as an apply leaves them, so that a check runs the test query. */
const workWithIdentitySettings = (): Promise<void> => putSettings(emulator, 'app', identitySettings(emulator.world))

describe('interrupted at any point and run again', () => {
  type Request = Parameters<NonNullable<World['fault']>>[0]
  const moments: [string, (request: Request) => boolean][] = [
    ['the identity is turned on', ({ method }) => method === 'PATCH'],
    ['a role is assigned', ({ method, url }) => method === 'PUT' && /roleAssignments/i.test(url)],
    ['the allow-list is written', ({ method, url }) => method === 'PUT' && /configurations/i.test(url)],
    ['the restart is requested', ({ method, url }) => method === 'POST' && /\/restart\?/i.test(url)],
    ['the identity requests a token', ({ plane }) => plane === 'identity'],
    ['the service is called', ({ plane }) => plane === 'ai'],
  ]
  test.each(moments)('(when %s): a second run completes it, with one restart in all', async (_, moment) => {
    await begin(emulator, { delays: { operation: 200, identityPropagation: 50 } })
    let job: Awaited<ReturnType<typeof start>> | undefined
    emulator.world.fault = (request) => {
      if (moment(request)) job?.child.kill('SIGKILL')
      return undefined
    }
    job = await start(emulator, openai())
    const killed = await job.done
    delete emulator.world.fault
    expect(killed.signal, killed.log).toBe('SIGKILL')
    expect(killed.outputs).toMatchObject({ result: 'failed', verified: 'false', 'failure-reason': 'internal' })
    // An operation of Azure continues without its caller.
    const result = await apply(emulator, openai(), undefined, noPauses())
    expect(result.outputs, result.log).toMatchObject({ verified: 'true', 'failure-reason': 'none', drift: 'false' })
    expect(serverOf(emulator).restarts).toBe(1)
    expect(rolesOfServer(emulator)).toHaveLength(1)
    expect(await settingsOf(emulator, 'app')).toEqual({
      'azure_openai.auth_type': 'managed-identity',
      'azure_openai.endpoint': 'https://contoso-openai.openai.azure.com',
    })
    expect(accountNamed(emulator.world, 'contoso-openai').disableLocalAuth).toBe(false)
  })
})
