/** The built action on responses of azure_ai that occur in the field. Repeated results decide, not texts. */
import { randomUUID } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import type { Switches } from '../../emulator/world.ts'
import { noPauses } from '../support/clock.ts'
import { errorsOf, findingWith } from '../support/findings.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import {
  apply,
  begin,
  codesOf,
  differingSteps,
  giveIdentity,
  giveRoles,
  identitySettings,
  onlyService,
  putSettings,
  queriesOf,
  serverOf,
  settingsOf,
  statusesOf,
  workWithKeys,
} from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app'] })
const openai = (): Record<string, string> => onlyService(emulator, 'openai', 'app')

async function turn(switches: Partial<Switches>): Promise<void> {
  Object.assign(emulator.world.switches, switches)
  await emulator.refresh()
}

describe('a working family is switched, whatever the response of an unreachable endpoint', () => {
  test.each(['dns', 'proxy', 'wildcard', 'unfamiliar'] as const)('%s', async (deadHost) => {
    await begin(emulator)
    await workWithKeys(emulator, 'app')
    await turn({ deadHost, wording: 'unfamiliar-numbers' })
    const result = await apply(emulator, openai(), undefined, noPauses())
    expect(codesOf(result), result.log).not.toContain('trial-unclear')
    expect(result.outputs).toMatchObject({ result: 'changed' })
    expect((await settingsOf(emulator, 'app'))['azure_openai.auth_type']).toBe('managed-identity')
  })
})

describe('get_setting for a setting that is not set or does not exist', () => {
  const ways = (['null', 'empty', 'raises'] as const).flatMap((unset) =>
    (['not-valid-key', 'invalid-name'] as const).map((unknownSetting) => ({ unset, unknownSetting })),
  )

  test.each(ways)('%j: a missing setting of a service that is not named has no effect', async (switches) => {
    await begin(emulator)
    await turn({ ...switches, lackedSettings: ['azure_cognitive.translator_resource_id'] })
    const result = await apply(emulator, openai(), undefined, noPauses())
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
  })

  test.each(ways)('%j: a missing setting of a named service is reported', async (switches) => {
    await begin(emulator)
    await putSettings(emulator, 'app', {})
    await turn({ ...switches, lackedSettings: ['azure_cognitive.translator_resource_id'] })
    const result = await apply(emulator, onlyService(emulator, 'translator', 'app'), undefined, noPauses())
    const found = findingWith(result, 'extension-too-old')
    expect(found?.detail, result.log).toContain('does not know azure_cognitive.translator_resource_id.')
  })
})

describe('a stored endpoint that no service accepts differs', () => {
  const endpoint = 'https://contoso-openai.openai.azure.com'
  test.each([` ${endpoint}`, `${endpoint}\n`, 'https://user:pw@contoso-openai.openai.azure.com', `${endpoint}#x`])(
    '%j',
    async (stored) => {
      await begin(emulator)
      giveIdentity(emulator)
      giveRoles(emulator)
      await putSettings(emulator, 'app', { ...identitySettings(emulator.world), 'azure_openai.endpoint': stored })
      const result = await apply(emulator, { ...openai(), mode: 'check' })
      expect(differingSteps(result)['app/azure_openai.endpoint']?.[0], result.log).toBe('different')
    },
  )
})

test('a refusal is shown although the default of throw_on_error is false', async () => {
  await begin(emulator, { switches: { throwOnErrorDefault: false } })
  giveIdentity(emulator)
  await putSettings(emulator, 'app', identitySettings(emulator.world))
  giveRoles(emulator)
  emulator.world.fault = ({ plane }) =>
    plane === 'ai' ? { kind: 'answer', status: 404, body: '{"error":{"code":"DeploymentNotFound","message":"gone"}}' } : undefined
  const result = await apply(emulator, { ...openai(), mode: 'check' })
  expect(codesOf(result), result.log).toContain('deployment-not-found')
})

test('the run waits for a deployment that Resource Manager lists and the service does not know yet', async () => {
  await begin(emulator, { delays: { deploymentPropagation: 3_000 } })
  for (const { deployments } of emulator.world.accounts) for (const each of deployments ?? []) each.createdAt = Date.now()
  const result = await apply(emulator, openai())
  expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
})

test('verify reports immediately that a family has no endpoint', async () => {
  await begin(emulator)
  giveIdentity(emulator)
  await putSettings(emulator, 'app', {})
  const inputs = { ...openai(), mode: 'verify', 'verify-timeout-minutes': '60', 'embedding-deployment': 'embed' }
  const result = await apply(emulator, inputs)
  expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'verification', verified: 'false' })
  expect(codesOf(result)).toContain('endpoint-not-set')
  expect(queriesOf(result)['app/openai']).toContain('azure_openai.endpoint is not set')
})

describe('a server that runs with a former identity', () => {
  async function former(): Promise<string> {
    await begin(emulator, { switches: { formerIdentityWorks: true } })
    giveIdentity(emulator)
    giveRoles(emulator)
    serverOf(emulator).configurations['azure.extensions'] = { value: 'azure_ai', source: 'user-override' }
    await putSettings(emulator, 'app', identitySettings(emulator.world))
    const before = randomUUID()
    serverOf(emulator).loadedPrincipalId = before
    await emulator.refresh()
    return before
  }

  test('check shows the restart as a missing step', async () => {
    const before = await former()
    const result = await apply(emulator, { ...openai(), mode: 'check' })
    expect(differingSteps(result)['restart']?.slice(0, 2), result.log).toEqual([
      'missing',
      `the server runs with identity ${before}`,
    ])
    expect(result.outputs['drift']).toBe('true')
    expect(errorsOf(result)).toEqual([])
    expect(codesOf(result)).not.toContain('unused-input')
  })

  test.each([
    ['check of the databases', { mode: 'check', part: 'database' }, 'set `mode: apply` and `part: all`'],
    ['verify', { mode: 'verify' }, 'set `mode: apply`'],
    ['apply of the databases', { part: 'database' }, 'set `part: all`'],
  ])('%s ends immediately with restart-required, and with no other error', async (_, mode, missing) => {
    const before = await former()
    const result = await apply(emulator, { ...openai(), ...mode, 'verify-timeout-minutes': '60' })
    expect(result.outputs, result.log).toMatchObject({
      result: 'failed',
      'failure-reason': 'restart-required',
      verified: 'false',
    })
    expect(errorsOf(result).map(({ code }) => code)).toEqual(['restart-required'])
    expect(findingWith(result, 'restart-required').detail).toContain(before)
    expect(findingWith(result, 'restart-required').fix).toContain(missing)
    const [restart] = result.report.steps.filter(({ kind }: { kind: string }) => kind === 'restart')
    if (restart !== undefined)
      expect(restart).toMatchObject({ status: 'skipped', current: `the server still runs with identity ${before}` })
    expect(result.report.queries[0]).toMatchObject({ status: 'failed', attempts: 1 })
  })

  test('verify reports what the service answers where it may not read the server', async () => {
    await former()
    emulator.world.fault = ({ plane, url }) =>
      plane === 'resource-manager' && /flexibleServers\/pg-contoso\?/i.test(url)
        ? { kind: 'answer', status: 403, body: '{"error":{"code":"AuthorizationFailed","message":"no"}}' }
        : undefined
    const result = await apply(emulator, { ...openai(), mode: 'verify', 'verify-timeout-minutes': '0.02' })
    delete emulator.world.fault
    expect(
      errorsOf(result).map(({ code }) => code),
      result.log,
    ).toEqual(['role-not-effective'])
  })

  test('is no matter for a verify by key', async () => {
    await former()
    await putSettings(emulator, 'app', {
      ...identitySettings(emulator.world),
      'azure_openai.auth_type': 'subscription-key',
      'azure_openai.subscription_key': 'a-wrong-key',
    })
    const inputs = { ...openai(), mode: 'verify', 'auth-type': 'subscription-key', 'verify-timeout-minutes': '0' }
    const result = await apply(emulator, inputs)
    expect(
      errorsOf(result).map(({ code }) => code),
      result.log,
    ).toEqual(['key-refused'])
  })

  test('without SQL the plan of a check has the restart, and apply carries out that plan', async () => {
    const before = await former()
    const { restarts } = serverOf(emulator)
    const checked = await apply(emulator, { ...openai(), mode: 'check', part: 'azure' })
    expect(differingSteps(checked)['restart']?.slice(0, 2), checked.log).toEqual([
      'missing',
      `the server runs with identity ${before}`,
    ])
    const plan = { part: 'azure', 'plan-id': checked.outputs['plan-id'] ?? '' }
    const refused = await apply(emulator, { ...openai(), ...plan, 'allow-restart': 'false' })
    expect(refused.outputs, refused.log).toMatchObject({ 'failure-reason': 'restart-required', changed: 'false' })
    expect(serverOf(emulator).restarts).toBe(restarts)
    const result = await apply(emulator, { ...openai(), ...plan }, undefined, noPauses())
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', drift: 'false' })
    expect(serverOf(emulator).restarts).toBe(restarts + 1)
    expect(await apply(emulator, { ...openai(), mode: 'check', part: 'azure' })).toMatchObject({ outputs: { result: 'in-sync' } })
  })

  test('whose queries pass is not restarted, and the plan of a check lacks the restart', async () => {
    const before = await former()
    giveRoles(emulator, undefined, before)
    const checked = await apply(emulator, { ...openai(), mode: 'check' })
    expect(checked.outputs, checked.log).toMatchObject({ result: 'in-sync', drift: 'false' })
    const { restarts } = serverOf(emulator)
    const plan = { 'plan-id': checked.outputs['plan-id'] ?? '' }
    const result = await apply(emulator, { ...openai(), ...plan }, undefined, noPauses())
    expect(result.outputs, result.log).toMatchObject({ result: 'in-sync', changed: 'false', 'failure-reason': 'none' })
    expect(statusesOf(result)['restart']).toBe('skipped')
    expect(serverOf(emulator).restarts).toBe(restarts)
  })

  test('is not restarted by an apply whose approved plan has no restart', async () => {
    const before = await former()
    giveRoles(emulator, undefined, before)
    const checked = await apply(emulator, { ...openai(), mode: 'check' })
    // The former identity loses its role after the approval.
    emulator.world.roleAssignments = emulator.world.roleAssignments.filter(({ principalId }) => principalId !== before)
    const { restarts } = serverOf(emulator)
    const plan = { 'plan-id': checked.outputs['plan-id'] ?? '' }
    const result = await apply(emulator, { ...openai(), ...plan }, undefined, noPauses())
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'restart-required' })
    expect(findingWith(result, 'restart-required').detail).toContain('`plan-id` has no restart')
    expect(serverOf(emulator).restarts).toBe(restarts)
  })

  test('apply restarts it immediately with allow-restart', async () => {
    await former()
    const { restarts } = serverOf(emulator)
    const result = await apply(emulator, openai(), undefined, noPauses())
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(serverOf(emulator).restarts).toBe(restarts + 1)
  })

  test('apply ends immediately with restart-required without allow-restart', async () => {
    await former()
    const result = await apply(emulator, { ...openai(), 'allow-restart': 'false', 'verify-timeout-minutes': '60' })
    expect(result.outputs['failure-reason'], result.log).toBe('restart-required')
    expect(statusesOf(result)['restart']).toBe('missing')
    expect(result.report.queries[0].attempts).toBe(1)
    expect(errorsOf(result).map(({ code }) => code)).toEqual(['restart-required'])
  })
})
