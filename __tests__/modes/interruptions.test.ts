/** Concurrent runs, killed runs and cancelled runs. */
import { existsSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { ownEmulator } from '../support/own-emulator.ts'
import {
  apply,
  begin,
  codesOf,
  giveIdentity,
  onlyService,
  rolesOfServer,
  serverOf,
  settingsOf,
  start,
  until,
  workWithKeys,
} from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app', 'crm'] })

const only = onlyService(emulator, 'openai', 'app')

describe('two runs at the same time', () => {
  test('both succeed and leave four role assignments and the settings of both databases', async () => {
    await begin(emulator, { delays: { operation: 200, roleReplication: 2_000, rolePropagation: 1_000 } })
    const results = await Promise.all([apply(emulator), apply(emulator)])
    for (const result of results) {
      expect(result.outputs, result.log).toMatchObject({ verified: 'true', 'failure-reason': 'none', drift: 'false' })
      expect(['changed', 'in-sync']).toContain(result.outputs['result'])
      expect(result.code).toBe(0)
    }
    expect(rolesOfServer(emulator)).toHaveLength(4)
    const settings = await settingsOf(emulator, 'app')
    expect(Object.keys(settings)).toHaveLength(8)
    expect(await settingsOf(emulator, 'crm')).toEqual(settings)
    expect(serverOf(emulator).configurations['azure.extensions']?.value.split(',').sort()).toEqual([
      'azure_ai',
      'pg_trgm',
      'vector',
    ])
  })

  test('an extension that another session is updating is updated once', async () => {
    await begin(emulator)
    giveIdentity(emulator)
    await workWithKeys(emulator, 'app', '1.0.0')
    // Committed as soon as the run waits for the same row.
    const other = emulator.postgres.query(
      'app',
      `BEGIN; ALTER EXTENSION azure_ai UPDATE; DO $$ BEGIN FOR n IN 1..1200 LOOP
        EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'); PERFORM pg_sleep(0.05);
      END LOOP; END $$; COMMIT`,
    )
    const result = await apply(emulator, { ...only, 'update-extension': 'true' })
    await other
    expect(result.log).toContain('… database "app": tuple concurrently updated; again in')
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
  })

  test('one waits for a database that the other is switching, and logs the session', async () => {
    await begin(emulator)
    giveIdentity(emulator)
    const [ended, release] = await lockDatabase('app')
    const job = await start(emulator, only, (line) => {
      if (line.includes('another session holds the lock of this action in database "app"')) release()
    })
    const result = await job.done
    await ended
    expect(result.log).toMatch(/another session holds the lock of this action in database "app": waiting for azuresu \(pid \d+/)
    expect(result.outputs).toMatchObject({ result: 'changed', verified: 'true' })
  })
})

test('the run waits for an operation of another caller on the server, and logs it', async () => {
  await begin(emulator, { shape: ({ servers }) => Object.assign(servers[0] ?? {}, { state: 'Updating' }) })
  giveIdentity(emulator)
  const job = await start(emulator, only, (line) => {
    if (line.includes('pg-contoso is Updating')) serverOf(emulator).state = 'Ready'
  })
  const result = await job.done
  expect(result.log).toMatch(/… pg-contoso is Updating; waiting for at most .* more/)
  expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
})

/** Takes the lock of a run in a database, until it is released. */
async function lockDatabase(database: string): Promise<[Promise<void>, () => void]> {
  let release: () => void = () => undefined
  const released = new Promise<void>((resolve) => {
    release = resolve
  })
  const { postgres } = emulator
  // The lock belongs to the transaction, whose last statement runs until it is cancelled.
  const statement = postgres
    .query(database, `BEGIN; SELECT pg_advisory_xact_lock(${0x61697067}, ${0x6d6a6f62}); SELECT pg_sleep(60); COMMIT`)
    .catch(() => undefined)
  void released.then(() =>
    postgres.query(
      'postgres',
      `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; SELECT pg_advisory%'`,
    ),
  )
  await until(
    async () => (await postgres.query('postgres', `SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted`)).length > 0,
  )
  return [statement.then(() => undefined), release]
}

/** As an administrator would. */
async function restart(): Promise<void> {
  const server = serverOf(emulator)
  const { principalId } = server.identity ?? {}
  if (principalId !== undefined) server.loadedPrincipalId = principalId
  await emulator.postgres.restart()
  server.startedAt = Date.now()
}

describe('a run that is killed', () => {
  test.each([
    ['while the identity is being turned on', /^Enabling the system-assigned identity/],
    ['when roles and allow-list are written', /^Role .*: assigned/],
    ['while the server restarts', /^Restarting /],
    ['while it waits for the roles', /… waiting for the identity and its roles/],
  ])('%s is reported as failed, and a second run completes it', async (_, moment) => {
    await begin(emulator, { delays: { operation: 300, rolePropagation: Number.POSITIVE_INFINITY } })
    const job = await start(emulator, only, (line) => {
      if (moment.test(line)) job.child.kill('SIGKILL')
    })
    const killed = await job.done
    emulator.world.delays.rolePropagation = 2_000
    expect(killed.signal, killed.log).toBe('SIGKILL')
    expect(killed.outputs).toMatchObject({ result: 'failed', verified: 'false', drift: 'true', 'failure-reason': 'internal' })
    // Set before the first write was sent.
    if (emulator.writes().length > 0) expect(killed.outputs['changed']).toBe('true')
    expect(killed.report).toMatchObject({ result: 'failed', findings: [expect.objectContaining({ code: 'unfinished' })] })
    expect((await killed.post()).code).toBe(0)

    let next = await apply(emulator, { ...only, 'verify-timeout-minutes': '0.2' })
    if (next.outputs['result'] === 'failed') {
      // Killed between identity and restart: the next run reports what is missing, and its fix works.
      expect(serverOf(emulator).loadedPrincipalId).toBeUndefined()
      expect(codesOf(next)).toEqual(['no-token'])
      expect(next.report.findings[0].fix).toContain('az postgres flexible-server restart')
      await restart()
      next = await apply(emulator, only)
    }
    expect(next.outputs, next.log).toMatchObject({ verified: 'true', 'failure-reason': 'none' })
    expect(rolesOfServer(emulator)).toHaveLength(1)
    expect(await settingsOf(emulator, 'app')).toMatchObject({ 'azure_openai.auth_type': 'managed-identity' })
  })
})

describe('a run that is cancelled', () => {
  test.each(['SIGINT', 'SIGTERM'] as const)(
    'by %s while it waits for a role ends within 5 seconds and leaves what worked',
    async (signal) => {
      await begin(emulator, { delays: { rolePropagation: Number.POSITIVE_INFINITY } })
      const before = await workWithKeys(emulator, 'app')
      let sent = 0
      const job = await start(emulator, { ...only, 'verify-timeout-minutes': '2' }, (line) => {
        if (sent === 0 && line.includes('… waiting for the identity and its roles')) {
          sent = performance.now()
          job.child.kill(signal)
        }
      })
      const result = await job.done
      expect(performance.now() - sent).toBeLessThan(5_000)
      expect(sent).toBeGreaterThan(0)
      expect(result.code).toBe(1)
      expect(result.outputs).toMatchObject({
        result: 'failed',
        'failure-reason': 'cancelled',
        verified: 'false',
        changed: 'true',
      })
      expect(existsSync(result.outputs['report-path'] ?? '')).toBe(true)
      expect(result.report.findings[0]).toMatchObject({ code: 'cancelled', detail: expect.stringContaining(signal) })
      expect(result.report.steps.length).toBeGreaterThan(0)
      expect(result.summary).toContain('❌')
      expect(await settingsOf(emulator, 'app')).toEqual(before)
    },
  )

  test('while Azure does not answer', async () => {
    await begin(emulator)
    let sent = 0
    let job: Awaited<ReturnType<typeof start>> | undefined
    emulator.world.fault = ({ plane, method }) => {
      if (plane !== 'resource-manager' || method !== 'PATCH') return undefined
      sent = performance.now()
      job?.child.kill('SIGINT')
      return { kind: 'hang' }
    }
    job = await start(emulator, only)
    const result = await job.done
    expect(performance.now() - sent).toBeLessThan(5_000)
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'cancelled' })
  })

  test('while a test query runs: its transaction ends and nothing stays locked', async () => {
    await begin(emulator, { delays: { inference: 12_000 } })
    const before = await workWithKeys(emulator, 'app')
    let sent = 0
    const job = await start(emulator, only, (line) => {
      if (line.includes('Settings and test queries')) {
        setTimeout(() => {
          sent = performance.now()
          job.child.kill('SIGINT')
        }, 1_500)
      }
    })
    const result = await job.done
    expect(performance.now() - sent).toBeLessThan(5_000)
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'cancelled' })
    expect(await settingsOf(emulator, 'app')).toEqual(before)
    // The server notices within client_connection_check_interval that the client disconnected.
    const locks = () => emulator.postgres.query('postgres', `SELECT pid FROM pg_locks WHERE locktype = 'advisory'`)
    const gone = performance.now()
    await until(async () => (await locks()).length === 0)
    // Without the cancel the query would run longer.
    expect(performance.now() - gone).toBeLessThan(9_000)
  })
})
