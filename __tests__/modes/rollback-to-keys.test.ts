/** The rollback from the identity to keys: keys are tried before they are committed, and identity and roles stay. */
import { describe, expect, test } from 'vitest'
import type { Switches } from '../../emulator/world.ts'
import { findingWith } from '../support/findings.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { nonEmptySettingsOf } from '../support/settings.ts'
import {
  accountNamed,
  addKeyedEndpoint,
  admitReader,
  application,
  apply,
  asReader,
  begin,
  callersOfServices,
  codesOf,
  giveIdentity,
  giveRoles,
  identitySettings,
  onlyService,
  putSettings,
  queriesOf,
  questions,
  rolesOfServer,
  seeded,
  serverOf,
  settingsOf,
  start,
  statusesOf,
} from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app', 'crm'] })

const wrongKey = 'wrong0key1wrong2key3wrong4key5wrong6key7wrong8'
const back = { 'auth-type': 'subscription-key' }

/** Every family works with the identity, in both databases. */
async function onIdentity(switches: Partial<Switches> = {}): Promise<Record<string, string>> {
  await begin(emulator, {
    shape: (world) => {
      addKeyedEndpoint(world)
      Object.assign(world.servers[0]?.configurations['azure.extensions'] ?? {}, { value: 'pg_trgm,vector,azure_ai' })
    },
  })
  giveIdentity(emulator)
  giveRoles(emulator)
  for (const database of ['app', 'crm']) await putSettings(emulator, database, identitySettings(emulator.world))
  Object.assign(emulator.world.switches, switches)
  await emulator.refresh()
  emulator.world.exchanges.length = 0
  return settingsOf(emulator, 'app')
}

const openai = (database = 'app'): Record<string, string> => ({ ...onlyService(emulator, 'openai', database), ...back })
const keysOf = (name: string) => accountNamed(emulator.world, name).keys
const byKey = () => emulator.world.workspaces[0]?.onlineEndpoints[1]

describe('back to keys', () => {
  test('keys are read from the resources for every family; no query of an application fails, and identity and roles stay', async () => {
    await onIdentity()
    const roles = rolesOfServer(emulator)
    const identity = structuredClone(serverOf(emulator).identity)
    const stop = application(emulator, 'app', 'azure_openai')
    const result = await apply(emulator, {
      ...back,
      translator: '',
      'machine-learning': byKey()?.id ?? '',
      databases: 'app\ncrm',
    })
    expect((await stop()).failed).toEqual([])
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true', drift: 'false' })
    expect(emulator.writes()).toEqual([])
    expect(rolesOfServer(emulator)).toEqual(roles)
    expect(serverOf(emulator).identity).toEqual(identity)
    for (const database of ['app', 'crm']) {
      expect(await settingsOf(emulator, database)).toEqual({
        'azure_openai.auth_type': 'subscription-key',
        'azure_openai.endpoint': 'https://contoso-openai.openai.azure.com',
        'azure_openai.subscription_key': keysOf('contoso-openai').key1,
        'azure_cognitive.auth_type': 'subscription-key',
        'azure_cognitive.endpoint': 'https://contoso-language.cognitiveservices.azure.com',
        'azure_cognitive.subscription_key': keysOf('contoso-language').key1,
        'azure_ml.auth_type': 'subscription-key',
        'azure_ml.scoring_endpoint': byKey()?.scoringUri,
        'azure_ml.endpoint_key': byKey()?.keys.primaryKey,
      })
    }
    expect(Object.values(queriesOf(result))).toEqual(new Array(6).fill('passed: key'))
    expect(callersOfServices(emulator.world.exchanges)).toContain(undefined)
    // Both keys of each resource are masked as soon as they are read.
    for (const key of [...Object.values(keysOf('contoso-openai')), ...Object.values(byKey()?.keys ?? {})])
      expect(result.masked).toContain(key)
    expect(Object.keys(statusesOf(result)).some((id) => id === 'identity' || id.startsWith('role/'))).toBe(false)

    const again = await apply(emulator, { ...back, translator: '', 'machine-learning': byKey()?.id ?? '', databases: 'app\ncrm' })
    expect(again.outputs, again.log).toMatchObject({ result: 'in-sync', changed: 'false', verified: 'true' })
  })

  test('with keys as inputs none is read; translator alone gets the region and the key of cognitive-key', async () => {
    await begin(emulator)
    giveIdentity(emulator)
    const result = await apply(emulator, {
      ...onlyService(emulator, 'translator', 'app'),
      openai: emulator.inputs['openai'] ?? '',
      ...back,
      'openai-key': keysOf('contoso-openai').key2,
      'cognitive-key': keysOf('contoso-translator').key1,
    })
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(emulator.keyReads()).toEqual([])
    expect(await settingsOf(emulator, 'app')).toMatchObject({
      'azure_openai.subscription_key': keysOf('contoso-openai').key2,
      'azure_cognitive.auth_type': 'subscription-key',
      'azure_cognitive.region': 'westeurope',
      'azure_cognitive.subscription_key': keysOf('contoso-translator').key1,
    })
    expect(result.masked).toContain(keysOf('contoso-translator').key1)
  })

  test('a wrong key fails in the trial: nothing is committed, and the identity keeps working', async () => {
    const before = await onIdentity()
    const stop = application(emulator, 'app', 'azure_openai')
    const result = await apply(emulator, { ...openai(), 'openai-key': wrongKey })
    expect((await stop()).failed).toEqual([])
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'verification', changed: 'false' })
    const finding = findingWith(result, 'key-refused')
    expect(finding.detail).toContain('The key or the endpoint is wrong')
    expect(await settingsOf(emulator, 'app')).toEqual(before)
  })
})

describe('an obstacle is reported before anything is changed', () => {
  test('an account that refuses keys and an online endpoint that accepts only tokens are reported together', async () => {
    const before = await onIdentity()
    accountNamed(emulator.world, 'contoso-openai').disableLocalAuth = true
    const result = await apply(emulator, { ...back, translator: '', databases: 'app' })
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'azure', changed: 'false' })
    expect(codesOf(result), result.log).toEqual(expect.arrayContaining(['key-login-disabled', 'endpoint-auth-mode']))
    expect(emulator.writes()).toEqual([])
    expect(await settingsOf(emulator, 'app')).toEqual(before)
  })

  test('an online endpoint with tokens of its own', async () => {
    await onIdentity()
    const endpoint = byKey()
    if (endpoint !== undefined) endpoint.authMode = 'AMLToken'
    const result = await apply(emulator, {
      ...onlyService(emulator, 'machine-learning', 'app'),
      ...back,
      'machine-learning': endpoint?.id ?? '',
    })
    expect(codesOf(result), result.log).toEqual(['endpoint-auth-mode'])
  })

  test('a caller that may not list keys: the finding names the action, the scope and the role that has it', async () => {
    const before = await onIdentity()
    await admitReader(emulator)
    const result = await apply(emulator, { ...openai(), ...asReader(emulator) })
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'permission', changed: 'false' })
    const [finding] = result.report.findings
    expect(finding.detail, result.log).toMatch(/Microsoft\.CognitiveServices\/accounts\/listKeys\/action/i)
    expect(finding.fix).toContain('--role "Cognitive Services User"')
    expect(await settingsOf(emulator, 'app')).toEqual(before)
    // With the key as input there is nothing to list.
    const withInput = await apply(emulator, { ...openai(), ...asReader(emulator), 'openai-key': keysOf('contoso-openai').key1 })
    expect(withInput.outputs, withInput.log).toMatchObject({ result: 'changed', verified: 'true' })
  })

  test('two accounts for the one key of azure_cognitive: before any request', async () => {
    await onIdentity()
    const result = await apply(emulator, { ...back, openai: '', 'machine-learning': '', 'machine-learning-input': '' })
    expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'input' })
    expect(result.log).toContain('azure_cognitive has one key')
    expect(emulator.world.exchanges).toEqual([])
  })
})

describe('a stored key is compared by its salted hash', () => {
  test('a rotated key is drift, the second key of a resource is in sync with a notice, and neither is shown', async () => {
    await onIdentity()
    const { key1, key2 } = keysOf('contoso-openai')
    await putSettings(emulator, 'app', {
      ...identitySettings(emulator.world),
      'azure_openai.auth_type': 'subscription-key',
      'azure_openai.subscription_key': key2,
    })
    const second = await apply(emulator, { ...openai(), mode: 'check' })
    expect(second.outputs, second.log).toMatchObject({ result: 'in-sync', verified: 'true' })
    expect(codesOf(second)).toContain('second-key-stored')

    Object.assign(keysOf('contoso-openai'), { key1: `rotated-${key1}`, key2: `rotated-${key2}` })
    const rotated = await apply(emulator, { ...openai(), mode: 'check' })
    expect(rotated.outputs, rotated.log).toMatchObject({ result: 'drift' })
    expect(rotated.report.steps.find(({ id }: { id: string }) => id === 'app/azure_openai.subscription_key')).toMatchObject({
      status: 'different',
      current: 'set',
      desired: 'set',
      detail: 'another key than that of the resource',
    })
    for (const result of [second, rotated]) {
      const shown = `${result.summary}${JSON.stringify(result.report)}${result.log}`
      for (const key of [key1, key2]) expect(shown).not.toContain(key)
    }

    const fixed = await apply(emulator, openai())
    expect(fixed.outputs, fixed.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect((await settingsOf(emulator, 'app'))['azure_openai.subscription_key']).toBe(`rotated-${key1}`)
  })
})

describe('where the functions see only committed settings', () => {
  test.each<[string, Partial<Switches>]>([
    ['as it is', { committedRowsOnly: true }],
    ['and a key cannot be cleared', { committedRowsOnly: true, clearingRefused: true }],
  ])('%s: a wrong key is committed, fails immediately and is reverted; the right one stays', async (_, switches) => {
    const before = await onIdentity(switches)
    const { key1 } = keysOf('contoso-openai')
    const wrong = await apply(emulator, { ...openai(), 'openai-key': wrongKey, 'verify-timeout-minutes': '0' })
    expect(wrong.outputs, wrong.log).toMatchObject({ result: 'failed', 'failure-reason': 'verification' })
    expect(wrong.log).toContain('putting the previous settings back')
    const after = await nonEmptySettingsOf(emulator, 'app')
    // Where clearing is refused the new key may stay; nothing uses it.
    if (switches.clearingRefused === true) delete after['azure_openai.subscription_key']
    expect(after).toEqual(before)
    await emulator.postgres.query('app', questions.azure_openai)

    const right = await apply(emulator, openai())
    expect(right.outputs, right.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect((await nonEmptySettingsOf(emulator, 'app'))['azure_openai.subscription_key']).toBe(key1)

    // From one key to another: the server itself restores the previous one, which no client sees.
    const worse = await apply(emulator, { ...openai(), 'openai-key': wrongKey, 'verify-timeout-minutes': '0' })
    expect(worse.outputs['result'], worse.log).toBe('failed')
    expect((await nonEmptySettingsOf(emulator, 'app'))['azure_openai.subscription_key']).toBe(key1)
    await emulator.postgres.query('app', questions.azure_openai)
  })

  test('from nothing: keys work with the first run', async () => {
    await onIdentity({ committedRowsOnly: true })
    await emulator.postgres.query('app', 'DELETE FROM azure_ai.settings')
    const result = await apply(emulator, openai())
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
  })
})

describe('killed during the rollback to keys', () => {
  test.each([11, 12, 13])('(moment %i): a second run completes it', async (seed) => {
    await onIdentity()
    emulator.world.delays.inference = 60
    const random = seeded(seed)
    const job = await start(emulator, openai('app\ncrm'), (line) => {
      if (line.includes('Settings and test queries')) setTimeout(() => job.child.kill('SIGKILL'), random() * 700)
    })
    await job.done
    for (const database of ['app', 'crm']) await emulator.postgres.query(database, questions.azure_openai)
    const again = await apply(emulator, openai('app\ncrm'))
    expect(again.outputs, again.log).toMatchObject({ verified: 'true', 'failure-reason': 'none', drift: 'false' })
    for (const database of ['app', 'crm']) {
      expect(await settingsOf(emulator, database)).toMatchObject({
        'azure_openai.auth_type': 'subscription-key',
        'azure_openai.subscription_key': keysOf('contoso-openai').key1,
      })
    }
  })
})
