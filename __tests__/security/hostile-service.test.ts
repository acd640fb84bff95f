/** An AI service, or a gateway in front of it, whose responses imitate access, try to show a secret, or fill the run's memory. */
import { beforeEach, describe, expect, test } from 'vitest'
import type { Fault, Switches } from '../../emulator/world.ts'
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
  queriesOf,
  settingsOf,
  workWithKeys,
} from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app'] })
const { world } = emulator
const once = { 'verify-timeout-minutes': '0' }

/** The identity has its roles and all settings are right, so the result depends on the services only. */
async function beginReady(switches: Partial<Switches> = {}): Promise<void> {
  await begin(emulator, { switches })
  giveIdentity(emulator)
  giveRoles(emulator)
  await putSettings(emulator, 'app', identitySettings(world))
}

/** Sets the response of the AI services; a function gets the number of the request, from 0. */
function answers(fault: Fault | ((number: number) => Fault | undefined)): void {
  let count = 0
  world.fault = ({ plane }) => (plane !== 'ai' ? undefined : typeof fault === 'function' ? fault(count++) : fault)
}

const answer = (status: number, body: unknown): Fault => ({ kind: 'answer', status, body: JSON.stringify(body) })
const refusal = (status: number, message: string, code = 'X'): Fault => answer(status, { error: { code, message } })
/** All texts that are shown, with the masks of the log applied. */
const everything = ({ raw, summary, report, outputs }: Awaited<ReturnType<typeof apply>>): string =>
  `${raw.replaceAll(/^::add-mask::.*$/gm, '')} ${summary} ${JSON.stringify(report)} ${JSON.stringify(outputs)}`

beforeEach(() => beginReady())

describe('a refusal in the words of a service that grants access', () => {
  const words = [
    'OperationNotSupported: The embeddings operation does not work with the specified model',
    'azure_openai.create_embeddings: 400: OperationNotSupported',
    '429: rate limit exceeded, too many requests (status 429)',
    'azure_openai.create_embeddings: 200: {"data": [{"embedding": [1]}]}',
  ]
  const cases = [401, 403, 500].flatMap((status) =>
    (['own', 'wrapped', 'wrapped-with-codes'] as const).map((wording) => [status, wording] as const),
  )
  test.each(cases)('with status %i does not count as access or as throttling: wording %s', async (status, wording) => {
    await beginReady({ wording })
    let number = 0
    const text = words[cases.findIndex((each) => each[0] === status && each[1] === wording) % words.length] ?? ''
    answers(() => refusal(status, number++ % 2 === 0 ? text : (words[0] ?? ''), 'OperationNotSupported'))
    for (const mode of ['verify', 'apply']) {
      const result = await apply(emulator, { ...onlyService(emulator, 'openai', 'app'), ...once, mode })
      expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false' })
      expect(codesOf(result)).not.toContain('throttled')
    }
  })

  test.each([
    'terminating connection due to administrator command (57P01)',
    'Query read timeout',
    'ECONNRESET: Connection terminated',
  ])('and in the words of a database, %s, is one response: it is not retried like a lost connection', async (text) => {
    answers(refusal(400, text))
    const result = await apply(emulator, { ...onlyService(emulator, 'openai', 'app'), ...once, mode: 'verify' })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false', 'failure-reason': 'verification' })
    expect(world.exchanges.filter(({ plane }) => plane === 'ai').length).toBeLessThan(4)
  })
})

describe('a response of 200 without a result does not verify', () => {
  const empty: [string, unknown[]][] = [
    ['openai', [{}, null, [], { data: [] }, { data: [{ index: 0, embedding: [] }] }, { data: [{ index: 0 }] }, { data: [null] }]],
    ['cognitive', [{}, null, { results: { documents: [] } }, ...['', 'granted', { a: 1 }, null].map(sentiment)]],
    ['translator', [[], [{}], null, [{ translations: [] }], [{ translations: [{ text: '' }] }], [{ translations: [{}] }]]],
    ['machine-learning', [null, '']],
  ]
  function sentiment(value: unknown): unknown {
    return { results: { documents: [{ id: '1', sentiment: value, confidenceScores: {} }], errors: [] } }
  }
  test.each(empty.flatMap(([service, bodies]) => bodies.map((body) => [service, JSON.stringify(body)] as const)))(
    '%s: %s',
    async (service, body) => {
      answers({ kind: 'answer', status: 200, body })
      const result = await apply(emulator, { ...onlyService(emulator, service, 'app'), ...once, mode: 'verify' })
      expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false', 'failure-reason': 'verification' })
    },
  )
})

describe('what a service sends back of the request', () => {
  /** Keeps the token that the identity was issued. */
  function stealing(then: (token: string) => Fault): () => string {
    let token = ''
    world.fault = ({ plane }) => {
      if (plane === 'ai') return then(token)
      if (plane !== 'identity') return undefined
      const change = (body: unknown): unknown => {
        token = (body as { access_token: string }).access_token
        return body
      }
      return { kind: 'rewrite', change }
    }
    return () => token
  }
  /** Neither the token nor a usable part of it. */
  function expectHidden(text: string, secret: string): void {
    expect(secret.length).toBeGreaterThan(40)
    for (let at = 0; at + 32 <= secret.length; at += 16) expect(text).not.toContain(secret.slice(at, at + 32))
  }

  test.each(['own', 'wrapped', 'unfamiliar-numbers'] as const)(
    "the token of the server's identity, in a refusal, is shown nowhere: wording %s",
    async (wording) => {
      await beginReady({ wording })
      const token = stealing((sent) =>
        refusal(400, `no such header: Authorization: Bearer ${sent}, ${'x'.repeat(7_400)} ${sent}`),
      )
      const result = await apply(emulator, { ...onlyService(emulator, 'openai', 'app'), ...once, mode: 'verify' })
      expect(result.outputs['verified'], result.log).toBe('false')
      expectHidden(everything(result), token())
    },
  )

  test('the token, in an answer, is shown nowhere', async () => {
    const token = stealing((sent) => answer(200, { headers: { authorization: `Bearer ${sent}` }, token: sent }))
    const result = await apply(emulator, { ...onlyService(emulator, 'machine-learning', 'app'), ...once, mode: 'verify' })
    expect(result.outputs['verified'], result.log).toBe('true')
    expectHidden(everything(result), token())
  })

  test('a stored key that this action never saw is shown nowhere', async () => {
    await begin(emulator)
    await workWithKeys(emulator, 'app')
    const { key1 } = accountNamed(world, 'contoso-openai').keys
    answers(refusal(401, `Access denied due to invalid subscription key '${key1}' (api-key: ${key1})`))
    for (const mode of ['verify', 'check', 'apply']) {
      const result = await apply(emulator, {
        ...onlyService(emulator, 'openai', 'app'),
        ...once,
        mode,
        'auth-type': 'subscription-key',
        'openai-key': '',
      })
      expect(result.outputs['verified'], result.log).toBe('false')
      expectHidden(everything(result), key1)
    }
  })
})

describe('a response that costs memory or time', () => {
  test('of forty megabytes ends with a named failure, and is not shown', async () => {
    answers({ kind: 'answer', status: 200, body: JSON.stringify(Array.from({ length: 40_000 }, () => 'x'.repeat(1_000))) })
    const result = await apply(emulator, { ...onlyService(emulator, 'machine-learning', 'app'), ...once, mode: 'verify' })
    expect(codesOf(result), result.log.slice(-2_000)).toContain('message-too-large')
    expect(everything(result).length).toBeLessThan(100_000)
  })

  test('of an embedding with a million dimensions stays in the database', async () => {
    answers(answer(200, { data: [{ index: 0, embedding: Array.from({ length: 1_000_000 }, () => 0) }] }))
    const result = await apply(emulator, { ...onlyService(emulator, 'openai', 'app'), ...once, mode: 'verify' })
    expect(everything(result).length).toBeLessThan(100_000)
    expect(result.outputs['result'], result.log).toBe('in-sync')
  })

  test.each([2_000, 100_000])('of %i brackets counts as one response', async (depth) => {
    answers({ kind: 'answer', status: 200, body: `${'['.repeat(depth)}${']'.repeat(depth)}` })
    const result = await apply(emulator, { ...onlyService(emulator, 'machine-learning', 'app'), ...once, mode: 'verify' })
    expect(result.outputs['failure-reason'], result.log.slice(-2_000)).not.toBe('internal')
    expect(everything(result).length).toBeLessThan(400_000)
  })

  test('that breaks off every second time, or is another page: the working key stays', async () => {
    await begin(emulator)
    giveIdentity(emulator)
    giveRoles(emulator)
    const before = await workWithKeys(emulator, 'app')
    answers((number) =>
      number % 2 === 0
        ? { kind: 'reset-before' }
        : { kind: 'answer', status: 200, headers: { 'content-type': 'text/html' }, body: '<html>' },
    )
    const result = await apply(emulator, { ...onlyService(emulator, 'openai', 'app'), ...once })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false' })
    expect(await settingsOf(emulator, 'app')).toEqual(before)
  })
})

describe('a service that answers the control differently', () => {
  const control: [string, Fault][] = [
    ['with the name of the host that leads nowhere', refusal(400, 'could not resolve host: trial.invalid')],
    ['with a failure of the gateway', refusal(502, 'could not resolve host: https://trial.invalid/openai')],
    ['as if there were no token', refusal(400, 'failed to get an access token for the managed identity')],
  ]
  test.each(control)('%s: no key counts as the identity', async (_, fault) => {
    // The functions see only committed settings, and a stored key wins: every call uses the key.
    for (const wrong of [(number: number) => number === 0, (number: number) => number % 2 === 0]) {
      await begin(emulator, { switches: { committedRowsOnly: true, keyWins: true } })
      giveIdentity(emulator)
      giveRoles(emulator)
      await workWithKeys(emulator, 'app')
      answers((number) => (wrong(number) ? fault : undefined))
      const result = await apply(emulator, { ...onlyService(emulator, 'openai', 'app'), ...once })
      expect(Object.values(queriesOf(result)), result.log).not.toContain('passed: keyless')
    }
  })
})
