/** Undocumented behaviour, in each variant: an apply either succeeds or fails cleanly, and a key never counts as the identity. */
import { describe, expect, test } from 'vitest'
import type { JobResult } from '../../emulator/runner.ts'
import type { Switches } from '../../emulator/world.ts'
import { hurried } from '../support/clock.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { nonEmptySettingsOf } from '../support/settings.ts'
import {
  apply,
  begin,
  callersOfServices,
  codesOf,
  giveIdentity,
  rolesOfServer,
  serverOf,
  settingsOf,
  statusesOf,
  workWithKeys,
} from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['fresh', 'keyed'] })

type Query = { database: string; service: string; status: string; proof: string; error: string }
const queries = (result: JobResult, database: string): Query[] =>
  result.report.queries.filter((query: Query) => query.database === database)

/** An empty database, and one where every family works with its key. */
async function bothBeginnings(switches: Partial<Switches>): Promise<Record<string, string>> {
  await begin(emulator, { switches: { ...switches, clearingRefused: false, namesByPath: false } })
  const before = await workWithKeys(emulator, 'keyed', switches.oldExtension === true ? '1.0.0' : undefined)
  Object.assign(emulator.world.switches, switches)
  await emulator.refresh()
  emulator.world.exchanges.length = 0
  return before
}

/** What is true of every run, whatever its result. */
function expectClean(result: JobResult): void {
  expect(result.outputs['failure-reason'], result.log).not.toBe('internal')
  expect(result.report.schemaVersion).toBe(1)
  expect(['in-sync', 'changed', 'failed']).toContain(result.outputs['result'])
  expect(result.code).toBe(result.outputs['result'] === 'failed' ? 1 : 0)
  const failed = result.outputs['result'] === 'failed'
  expect(result.outputs['failure-reason'] === 'none').toBe(!failed)
  if (failed) expect(result.report.findings.some(({ severity }: { severity: string }) => severity === 'error')).toBe(true)
}

/** Both databases switched and every query passed. */
async function expectSwitched(result: JobResult): Promise<void> {
  expect(result.outputs, result.log).toMatchObject({ result: 'changed', 'failure-reason': 'none', drift: 'false' })
  expect(rolesOfServer(emulator)).toHaveLength(4)
  for (const database of ['fresh', 'keyed']) {
    const settings = await settingsOf(emulator, database)
    for (const family of ['azure_openai', 'azure_cognitive', 'azure_ml'])
      expect(settings[`${family}.auth_type`]).toBe('managed-identity')
    for (const query of queries(result, database)) expect(query, query.error).toMatchObject({ status: 'passed' })
  }
}

/** The stored keys are unchanged. */
async function expectKeysKept(before: Record<string, string>): Promise<void> {
  const after = await settingsOf(emulator, 'keyed')
  for (const [key, value] of Object.entries(before)) if (key.endsWith('_key')) expect(after[key]).toBe(value)
}

const families = ['azure_openai', 'azure_cognitive', 'azure_ml'] as const
const familyOf: Record<string, (typeof families)[number]> = {
  openai: 'azure_openai',
  cognitive: 'azure_cognitive',
  translator: 'azure_cognitive',
  'machine-learning': 'azure_ml',
}

/** Each family of the database with the key is either switched, and all its queries passed, or unchanged. */
async function expectWholeFamilies(result: JobResult, before: Record<string, string>): Promise<void> {
  const after = await nonEmptySettingsOf(emulator, 'keyed')
  for (const family of families) {
    const own = queries(result, 'keyed').filter(({ service }) => familyOf[service] === family)
    const rows = (settings: Record<string, string>) => Object.entries(settings).filter(([key]) => key.startsWith(`${family}.`))
    if (own.every(({ status }) => status === 'passed')) expect(after[`${family}.auth_type`]).toBe('managed-identity')
    else expect(rows(after)).toEqual(rows(before))
  }
}

describe('each variant, from nothing and from a database that works with its key', () => {
  test.each<[string, Partial<Switches>]>([
    ['everything as it is likely to be', {}],
    ["an unset key is ''", { unset: 'empty' }],
    ['a key cannot be cleared', { clearingRefused: true }],
    ['the functions remember the settings of their session', { sessionCache: true }],
    ['the functions refuse to run read-only', { refuseReadOnly: true }],
    ['unknown texts', { unfamiliarTexts: true }],
    ['names looked up by the search path', { namesByPath: true }],
    ['names looked up by the search path, and read-only refused', { namesByPath: true, refuseReadOnly: true }],
    ['no schema of its own', { schemaOpen: true }],
    ['remembered settings, and unset is empty', { sessionCache: true, unset: 'empty' }],
    ['read-only refused and remembered settings', { refuseReadOnly: true, sessionCache: true }],
  ])('%s: switched, and verified without a key', async (_, switches) => {
    const before = await bothBeginnings(switches)
    const result = await apply(emulator)
    expectClean(result)
    await expectSwitched(result)
    await expectKeysKept(before)
    for (const query of [...queries(result, 'fresh'), ...queries(result, 'keyed')]) expect(query.proof).toBe('keyless')
    expect(result.outputs['verified']).toBe('true')
    const answered = new Set(callersOfServices(emulator.world.exchanges).filter((caller) => caller !== undefined))
    expect([...answered]).toEqual([result.outputs['principal-id']])
  })

  test.each<[string, Partial<Switches>]>([
    ['a stored key wins over auth_type', { keyWins: true }],
    ['a key cannot be cleared and wins', { clearingRefused: true, keyWins: true }],
    ['unknown texts, and a stored key wins', { unfamiliarTexts: true, keyWins: true }],
    ['committed rows only, and a stored key wins', { committedRowsOnly: true, keyWins: true }],
  ])(
    '%s: the empty database is switched, and where the key answers nothing is called keyless or verified',
    async (_, switches) => {
      const before = await bothBeginnings(switches)
      const result = await apply(emulator, { 'verify-timeout-minutes': '0.02' })
      expectClean(result)
      await expectKeysKept(before)
      await expectWholeFamilies(result, before)
      for (const query of queries(result, 'fresh'))
        expect(query, query.error).toMatchObject({ status: 'passed', proof: 'keyless' })
      for (const query of queries(result, 'keyed')) expect(query.proof).not.toBe('keyless')
      expect(result.outputs['verified']).toBe('false')

      // In sync where it was switched; a run with nothing to set verifies no more than that.
      const again = await apply(emulator, { 'verify-timeout-minutes': '0' })
      expectClean(again)
      for (const query of queries(again, 'keyed')) expect(query.proof).not.toBe('keyless')
      expect(again.outputs['verified']).toBe('false')
    },
  )

  test('the functions read committed rows only: committed, checked immediately, and not keyless where a key is stored', async () => {
    const before = await bothBeginnings({ committedRowsOnly: true })
    const result = await apply(emulator, { translator: '', 'machine-learning': '', 'machine-learning-input': '' })
    expectClean(result)
    expect(result.outputs, result.log).toMatchObject({
      result: 'changed',
      'failure-reason': 'none',
      drift: 'false',
      verified: 'false',
    })
    expect(codesOf(result)).toContain('uncommitted-settings-not-seen')
    await expectKeysKept(before)
    for (const query of queries(result, 'fresh')) expect(query).toMatchObject({ status: 'passed', proof: 'keyless' })
    for (const query of queries(result, 'keyed')) expect(query).toMatchObject({ status: 'passed', proof: 'key-present' })
    expect((await nonEmptySettingsOf(emulator, 'keyed'))['azure_openai.auth_type']).toBe('managed-identity')
  })

  test('no restart is needed', async () => {
    await bothBeginnings({ restartNeeded: false })
    const result = await apply(emulator, { 'allow-restart': 'false', 'verify-timeout-minutes': '0.1' })
    expectClean(result)
    await expectSwitched(result)
    expect(result.outputs['verified']).toBe('true')
    expect(serverOf(emulator).restarts).toBe(0)
    expect(statusesOf(result)['restart']).toBe('skipped')
  })

  test('translate needs an endpoint of its own: the family stays unchanged, and the finding has the fix', async () => {
    const before = await bothBeginnings({ translateOwnEndpoint: true })
    const result = await apply(emulator, { 'verify-timeout-minutes': '0.05' })
    expectClean(result)
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'verification', verified: 'false' })
    expect(codesOf(result)).toContain('one-endpoint')
    const after = await settingsOf(emulator, 'keyed')
    for (const [key, value] of Object.entries(before)) if (key.startsWith('azure_cognitive')) expect(after[key]).toBe(value)
    // The other families are not affected.
    expect(after['azure_openai.auth_type']).toBe('managed-identity')
    expect(after['azure_ml.auth_type']).toBe('managed-identity')
  })

  test('the installed extension is too old: nothing is written without update-extension', async () => {
    const before = await bothBeginnings({ oldExtension: true })
    const refused = await apply(emulator)
    expectClean(refused)
    expect(refused.outputs).toMatchObject({ 'failure-reason': 'database', changed: 'false' })
    expect(codesOf(refused)).toContain('extension-too-old')
    expect(emulator.writes()).toEqual([])
    expect(await settingsOf(emulator, 'keyed')).toEqual(before)

    const updated = await apply(emulator, { 'update-extension': 'true' })
    expectClean(updated)
    await expectSwitched(updated)
    await expectKeysKept(before)
    expect(updated.outputs['verified']).toBe('true')
    expect(statusesOf(updated)).toMatchObject({ 'fresh/extension': 'updated', 'keyed/extension': 'updated' })
  })

  test('the installed extension is too old and reports it with an unknown text', async () => {
    const before = await bothBeginnings({ oldExtension: true, unfamiliarTexts: true })
    const result = await apply(emulator, { databases: 'keyed' })
    expectClean(result)
    expect(result.outputs['failure-reason']).toBe('database')
    expect(emulator.writes()).toEqual([])
    expect(await settingsOf(emulator, 'keyed')).toEqual(before)
  })

  test('a firewall that drops silently is reported as a network problem before the first write', async () => {
    await begin(emulator, {
      switches: { silentFirewall: true },
      shape: ({ servers }) => Object.assign(servers[0] ?? {}, { firewallRules: {} }),
    })
    // The action waits 15 seconds for a connection; nothing will come.
    const result = await apply(emulator, {}, undefined, hurried([[15_000, 15_000, 2_000]]))
    expectClean(result)
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'network', changed: 'false' })
    expect(codesOf(result)).toContain('connection-timeout')
    expect(emulator.writes()).toEqual([])
  })
})

describe('a role that never takes effect while a key is stored', () => {
  const cases: [string, Partial<Switches>][] = [
    ['as it is likely to be', {}],
    ['a stored key wins', { keyWins: true }],
    ['a stored key wins and cannot be cleared', { keyWins: true, clearingRefused: true }],
    ['a key cannot be cleared', { clearingRefused: true }],
    ['committed rows only', { committedRowsOnly: true }],
    ['committed rows only, and a stored key wins', { committedRowsOnly: true, keyWins: true }],
    ['remembered settings, and a stored key wins', { sessionCache: true, keyWins: true }],
    ['strange texts, and a stored key wins', { unfamiliarTexts: true, keyWins: true }],
    ['strange texts', { unfamiliarTexts: true }],
  ]
  test.each(cases)('%s: no query counts as keyless, and nothing is verified', async (_, switches) => {
    const before = await bothBeginnings(switches)
    emulator.world.delays.rolePropagation = Number.POSITIVE_INFINITY
    giveIdentity(emulator)

    const result = await apply(emulator, { databases: 'keyed', 'verify-timeout-minutes': '0.02' })
    expectClean(result)
    expect(result.outputs['verified']).toBe('false')
    for (const query of queries(result, 'keyed')) expect(query.proof).not.toBe('keyless')
    await expectKeysKept(before)
    await expectWholeFamilies(result, before)
  })
})
