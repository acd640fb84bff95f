/** Errors in the middle of a switch: unverified settings are not committed, or are reverted, and changes of others are kept. */
import { expect, test } from 'vitest'
import type { Fault } from '../../emulator/world.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import {
  addKeyedEndpoint,
  apply,
  begin,
  codesOf,
  giveIdentity,
  onlyService,
  serverOf,
  settingsOf,
  statusesOf,
  workWithKeys,
} from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app'] })

const openai = () => onlyService(emulator, 'openai', 'app')

/** Changes the response to the n-th calls of the AI services, or does something when they come. */
function onCalls(which: readonly number[], what: () => Fault | undefined): void {
  let calls = 0
  emulator.world.fault = ({ plane }) => (plane === 'ai' && which.includes(++calls) ? what() : undefined)
}

const later = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

let throttles = 0
/** Each with a different text. */
const throttle = (): Fault => ({
  kind: 'answer',
  status: 429,
  body: JSON.stringify({ error: { code: '429', message: `Rate limit is exceeded. Try again in ${++throttles} seconds.` } }),
})

test.each([1, 2, 3])('after a throttled control (call %i) the stored key never counts as the identity', async (call) => {
  await begin(emulator, { switches: { committedRowsOnly: true, keyWins: true } })
  giveIdentity(emulator)
  await workWithKeys(emulator, 'app')
  onCalls([call], throttle)
  const result = await apply(emulator, { ...openai(), 'verify-timeout-minutes': '0.05' })
  expect(result.report.queries[0].proof, result.log).not.toBe('keyless')
  expect(result.outputs['verified']).toBe('false')
})

test.each(['apply', 'check'])(
  'an identity that begins to work between two trials of %s does not count as a key that wins',
  async (mode) => {
    await begin(emulator)
    giveIdentity(emulator)
    await workWithKeys(emulator, 'app')
    if (mode === 'check') await apply(emulator, openai())
    // Only the first trial, which uses a placeholder for the key, is refused, with an unknown text.
    onCalls([1], () => ({ kind: 'answer', status: 401, body: 'Not you, not now.' }))
    const result = await apply(emulator, { ...openai(), mode })
    expect(codesOf(result), result.log).not.toContain('key-wins')
    expect(result.report.queries[0], result.log).toMatchObject({ status: 'passed', proof: 'keyless' })
    expect(result.outputs['verified']).toBe('true')
  },
)

test('when a lock blocks the placeholder, the stored key never counts as the identity', async () => {
  await begin(emulator, { switches: { keyWins: true } })
  giveIdentity(emulator)
  await workWithKeys(emulator, 'app')
  let isNext = false
  let met = 0
  emulator.world.sqlFault = ({ text }) => {
    if (isNext && text.includes('set_setting')) {
      isNext = false
      met++
      return { kind: 'error', code: '55P03', message: 'canceling statement due to lock timeout' }
    }
    isNext ||= met === 0 && text.startsWith('SAVEPOINT key_within_reach')
    return undefined
  }
  try {
    const result = await apply(emulator, { ...openai(), 'verify-timeout-minutes': '0.05' })
    expect(met, result.log).toBe(1)
    expect(result.report.queries[0].proof, result.log).not.toBe('keyless')
    expect(result.outputs['verified']).toBe('false')
  } finally {
    delete emulator.world.sqlFault
  }
})

test('a throttled control commits nothing where a key works and the role never takes effect', async () => {
  await begin(emulator, { switches: { committedRowsOnly: true }, delays: { rolePropagation: Number.POSITIVE_INFINITY } })
  giveIdentity(emulator)
  const before = await workWithKeys(emulator, 'app')
  onCalls([1], throttle)
  const result = await apply(emulator, { ...openai(), 'verify-timeout-minutes': '0' })
  expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'verification' })
  expect(await settingsOf(emulator, 'app')).toEqual(before)
})

test('a check after COMMIT that loses its connection is retried, and the previous settings are restored when it fails again', async () => {
  await begin(emulator, { switches: { committedRowsOnly: true } })
  giveIdentity(emulator)
  const before = await workWithKeys(emulator, 'app')
  // The control gets its response; then every call of the check is cut off.
  onCalls([2, 3, 4, 5, 6, 7, 8], () => {
    void emulator.postgres.terminateClients()
    return { kind: 'hang' }
  })
  const result = await apply(emulator, { ...openai(), 'verify-timeout-minutes': '0' })
  expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false' })
  expect(result.outputs['failure-reason']).not.toBe('internal')
  expect(await settingsOf(emulator, 'app')).toEqual(before)
})

test('a database that ends idle sessions loses no key: the session that keeps the key stays open', async () => {
  await begin(emulator, { switches: { committedRowsOnly: true } })
  giveIdentity(emulator)
  const before = await workWithKeys(emulator, 'app')
  const { postgres } = emulator
  await postgres.query('postgres', "ALTER ROLE azuresu IN DATABASE app SET idle_session_timeout = '0'")
  await postgres.query('postgres', "ALTER DATABASE app SET idle_session_timeout = '400ms'")
  try {
    // The check of the committed key takes longer than the idle timeout.
    emulator.world.fault = ({ plane }) => (plane === 'ai' ? { kind: 'watched', acted: () => later(900) } : undefined)
    const result = await apply(emulator, {
      ...openai(),
      'auth-type': 'subscription-key',
      'openai-key': 'another-key-entirely',
      'verify-timeout-minutes': '0',
    })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false' })
    expect(codesOf(result), result.log).not.toContain('key-not-put-back')
    expect(await settingsOf(emulator, 'app')).toEqual(before)
  } finally {
    await postgres.query('postgres', 'ALTER DATABASE app RESET idle_session_timeout')
    await postgres.query('postgres', 'ALTER ROLE azuresu IN DATABASE app RESET idle_session_timeout')
  }
})

const refusal = (): Fault => ({ kind: 'answer', status: 401, body: '{"error":{"code":"401","message":"Not you."}}' })

test.each([
  ['for a moment', [1, 2, 3, 4, 5]],
  ['until it is cleared', [1, 2, 3, 4, 5, 6, 7, 8, 9]],
])('a key that is refused %s is restored when nothing passes without it', async (_, calls) => {
  await begin(emulator, { switches: { committedRowsOnly: true }, delays: { rolePropagation: Number.POSITIVE_INFINITY } })
  giveIdentity(emulator)
  const before = await workWithKeys(emulator, 'app')
  onCalls(calls, refusal)
  const { postgres } = emulator
  await postgres.query('postgres', "ALTER DATABASE app SET idle_session_timeout = '400ms'")
  try {
    const inputs = { ...openai(), 'clear-keys': 'true', 'verify-timeout-minutes': '0.05' }
    const result = await apply(emulator, inputs)
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'verification', 'stored-keys': '1' })
    expect(codesOf(result), result.log).not.toContain('key-not-put-back')
    expect(await settingsOf(emulator, 'app')).toEqual(before)
  } finally {
    await postgres.query('postgres', 'ALTER DATABASE app RESET idle_session_timeout')
  }
})

test('a key that is not verified and cannot be restored is reported', async () => {
  await begin(emulator, { switches: { committedRowsOnly: true } })
  giveIdentity(emulator)
  await workWithKeys(emulator, 'app')
  onCalls([2, 3, 4, 5, 6, 7, 8], () => {
    void emulator.postgres.terminateClients()
    return { kind: 'hang' }
  })
  const inputs = {
    ...openai(),
    'auth-type': 'subscription-key',
    'openai-key': 'another-key-entirely',
    'verify-timeout-minutes': '0',
  }
  const result = await apply(emulator, inputs)
  expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false' })
  expect(codesOf(result)).toContain('key-not-put-back')
  const step = (result.report.steps as { id: string; status: string; detail: string }[]).find(({ id }) =>
    id.endsWith('subscription_key'),
  )
  expect(step).toMatchObject({ status: 'failed', detail: expect.stringContaining('could not be put back') })
})

test('a database that only ranks is not switched without verification', async () => {
  await begin(emulator)
  giveIdentity(emulator)
  await emulator.postgres.query('app', 'CREATE EXTENSION azure_ai')
  const endpoint = 'https://rank.swedencentral.models.ai.azure.com'
  const settings = { 'azure_ml.serverless_ranking_endpoint': endpoint, 'azure_ml.serverless_ranking_endpoint_key': 'a-key-of-it' }
  for (const setting of Object.entries(settings))
    await emulator.postgres.query('app', 'SELECT azure_ai.set_setting($1, $2)', setting)
  const before = await settingsOf(emulator, 'app')
  const result = await apply(emulator, onlyService(emulator, 'machine-learning', 'app'))
  expect(codesOf(result)).toContain('not-switched-unproven')
  expect(await settingsOf(emulator, 'app')).toEqual(before)
})

test('an extension that another app allows meanwhile, and an identity that it assigns, are kept', async () => {
  await begin(emulator)
  const server = serverOf(emulator)
  const other = `${server.id.split('/providers/')[0]}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-of-another-app`
  emulator.world.fault = ({ plane, method, url }) => {
    if (plane !== 'resource-manager') return undefined
    // Right after the plan, before the first write.
    if (method === 'PUT' && url.includes('roleAssignments')) {
      const list = server.configurations['azure.extensions']
      if (list !== undefined && !list.value.includes('postgis')) list.value += ',postgis'
    }
    if (method === 'GET' && url.includes('/replicas') && server.identity?.userAssignedIdentities !== undefined) {
      server.identity.userAssignedIdentities[other] ??= {
        principalId: '11111111-2222-4333-8444-555555555555',
        clientId: '66666666-7777-4888-8999-aaaaaaaaaaaa',
      }
    }
    return undefined
  }
  const result = await apply(emulator, openai())
  expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
  expect(server.configurations['azure.extensions']?.value.split(',')).toEqual(
    expect.arrayContaining(['pg_trgm', 'vector', 'postgis', 'azure_ai']),
  )
  expect(Object.keys(server.identity?.userAssignedIdentities ?? {})).toContain(other)
})

test('when no database has azure_ai the run fails with no-database', async () => {
  await begin(emulator)
  giveIdentity(emulator)
  for (const mode of ['check', 'verify']) {
    const result = await apply(emulator, { ...openai(), mode, databases: '*' })
    expect(result.outputs, mode).toMatchObject({ result: 'failed', verified: 'false' })
    expect(codesOf(result), mode).toContain('no-database')
  }
})

test('a check reports the rest when one part cannot be read', async () => {
  await begin(emulator)
  emulator.world.fault = ({ method, url }) =>
    method === 'GET' && url.includes('azure.extensions')
      ? {
          kind: 'answer',
          status: 403,
          body: JSON.stringify({
            error: {
              code: 'AuthorizationFailed',
              message:
                "The client 'x' with object id 'y' does not have authorization to perform action 'Microsoft.DBforPostgreSQL/flexibleServers/configurations/read' over scope 'z'.",
            },
          }),
        }
      : undefined
  const result = await apply(emulator, { ...openai(), mode: 'check' })
  expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'permission' })
  expect(statusesOf(result)).toMatchObject({ identity: 'missing', 'allow-list': 'failed' })
})

test('an online endpoint in key mode does not accept the identity: the finding names the mode that does', async () => {
  await begin(emulator)
  giveIdentity(emulator)
  const endpoint = addKeyedEndpoint(emulator.world)
  const result = await apply(emulator, { ...onlyService(emulator, 'machine-learning', 'app'), 'machine-learning': endpoint.id })
  expect(codesOf(result)).toContain('endpoint-auth-mode')
  expect(emulator.writes()).toEqual([])
})
