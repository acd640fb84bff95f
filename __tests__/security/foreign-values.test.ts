/** Endpoints, server names, keys and names of deployments in answers of Resource Manager: where a token, a key or a login would go. */
import { describe, expect, test } from 'vitest'
import { runJob } from '../../emulator/runner.ts'
import { noPauses } from '../support/clock.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { apply, begin, codesOf, giveIdentity, onlyService, settingsOf, workWithKeys } from '../support/support.ts'
import { startHostilePostgres } from './hostile-postgres.ts'
import { aboutServer, type Body, properties, rewrite, withProperties } from './rewriting.ts'

const emulator = await ownEmulator({ databases: ['app'] })
const { world } = emulator
const only = onlyService(emulator, 'openai', 'app')
const soon = { 'verify-timeout-minutes': '0' }
const certificate = emulator.certificate(['localhost', '127.0.0.1'])

/** Every place in the log, the report, the summary and the outputs. */
const allOf = (result: Awaited<ReturnType<typeof apply>>): string =>
  `${result.raw} ${result.summary} ${JSON.stringify(result.report)} ${JSON.stringify(result.outputs)}`

describe('the endpoint that would be stored', () => {
  const stored = async (): Promise<string> => JSON.stringify(await settingsOf(emulator, 'app'))

  test.each([
    'evil.example/',
    'evil.example#',
    'evil.example?',
    'user@evil.example:443/',
    'evil.example\\',
    'evil.example',
    'x.evil.example/.openai.azure.com',
    '..',
    ' ',
  ])('a custom subdomain %j moves it to no other host', async (customSubDomainName) => {
    await begin(emulator)
    giveIdentity(emulator)
    rewrite(world, 'GET', /\/accounts\/contoso-openai\?/i, (body) => withProperties(body, { customSubDomainName }))
    const result = await apply(emulator, { ...only, ...soon })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false' })
    expect(await stored()).not.toContain('evil')
    expect(world.exchanges.filter((each) => each.plane === 'identity')).toEqual([])
  })

  test.each([
    'https://contoso-openai.openai.evil.example/',
    'http://contoso-openai.openai.azure.com/',
    'https://user:pw@contoso-openai.openai.azure.com/',
    'https://contoso-openai.openai.azure.com.evil.example/',
    'https://contoso-openai.openai.azure.com:8443/',
    'javascript:alert(1)',
  ])('an account that shows only %s gets the endpoint of its own cloud or none, by identity and by key', async (shown) => {
    for (const more of [{}, { 'auth-type': 'subscription-key' }]) {
      await begin(emulator)
      giveIdentity(emulator)
      rewrite(world, 'GET', /\/accounts\/contoso-openai\?/i, (body) =>
        withProperties(body, { endpoint: shown, endpoints: { OpenAI: shown } }),
      )
      const result = await apply(emulator, { ...only, ...soon, ...more })
      expect(await stored(), result.log).not.toMatch(/evil|http:|user:|8443|javascript/)
    }
  })

  test.each([
    'https://churn-scoring.evil.example/score',
    'http://churn-scoring.swedencentral.inference.ml.azure.com/score',
    'https://user:pw@churn-scoring.swedencentral.inference.ml.azure.com/score',
    'https://inference.ml.azure.com.evil.example/score',
    'https://churn-scoring.swedencentral.inference.ml.azure.com:8443/score',
    'https://evil.example/.inference.ml.azure.com/score',
    7,
  ])('a scoring URI %j is not stored: neither a token nor a key would go there', async (scoringUri) => {
    for (const more of [{}, { 'auth-type': 'subscription-key' }]) {
      await begin(emulator)
      giveIdentity(emulator)
      rewrite(world, 'GET', /\/onlineEndpoints\/churn-scoring\?/i, (body) =>
        withProperties(body, { scoringUri, ...('auth-type' in more ? { authMode: 'Key' } : {}) }),
      )
      const result = await apply(emulator, { ...onlyService(emulator, 'machine-learning', 'app'), ...soon, ...more })
      expect(codesOf(result), result.log).toContain('foreign-host')
      expect(await stored()).not.toMatch(/evil|http:|user:|8443/)
      expect(emulator.writes()).toEqual([])
    }
  })
})

describe('the name of the server', () => {
  test.each([
    ['the name of a host of others', 'localhost'],
    ['the suffix of the cloud behind it', 'localhost#.postgres.database.azure.com'],
    ['another server of the cloud', 'pg-evil.postgres.database.azure.com'],
    ['no text', 7],
  ])('in Resource Manager is %s: no login goes there', async (_, fullyQualifiedDomainName) => {
    await begin(emulator)
    const listener = await startHostilePostgres(certificate)
    try {
      rewrite(world, 'GET', aboutServer, (body) => withProperties(body, { fullyQualifiedDomainName }))
      for (const mode of ['check', 'apply']) {
        const result = await apply(emulator, {
          ...only,
          ...soon,
          mode,
          'database-host': '',
          'database-port': String(listener.port),
        })
        expect(codesOf(result), result.log).toContain('foreign-host')
        expect(result.outputs['failure-reason']).toBe('azure')
      }
      expect(listener.passwords).toEqual([])
      expect(listener.startups).toEqual([])
    } finally {
      await listener.stop()
    }
  })

  test('an administrator whose name contains a NUL adds no startup parameter', async () => {
    await begin(emulator)
    const listener = await startHostilePostgres(certificate)
    try {
      rewrite(world, 'GET', /\/administrators\?/i, (body) => ({
        value: (body['value'] as Body[]).map((each) =>
          withProperties(each, { principalName: `${String(properties(each)['principalName'])}\0options\0-c role=azuresu\0x` }),
        ),
      }))
      const result = await apply(emulator, { ...only, ...soon, mode: 'check', 'database-port': String(listener.port) })
      expect(listener.startups.filter((parameters) => 'options' in parameters)).toEqual([])
      expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false' })
    } finally {
      await listener.stop()
    }
  })
})

describe('keys and deployments with hostile names', () => {
  test.each([
    ['workflow commands and line ends', '::stop-commands::x\n::set-env name=PATH::/evil\r\n::error::planted-by-key'],
    ['quotes and backslashes', `'); SELECT pg_sleep(100); -- \\' \\x27 $$ \t end-of-it`],
    ['a megabyte', `k${'0123456789'.repeat(100_000)}`],
  ])('a key of %s is stored as it is or not at all, and shown nowhere', async (_, key1) => {
    await begin(emulator)
    await workWithKeys(emulator, 'app')
    rewrite(world, 'POST', /\/listKeys\?/i, (body) => ({ ...body, key1 }))
    const result = await apply(emulator, { ...only, ...soon, 'auth-type': 'subscription-key' })
    // The service does not know the key, so the working settings are restored.
    expect(result.outputs, result.log.slice(-3_000)).toMatchObject({ result: 'failed', verified: 'false' })
    const printed = allOf({
      ...result,
      raw: result.raw
        .split('\n')
        .filter((line) => !line.startsWith('::add-mask::'))
        .join('\n'),
    })
    for (const line of key1.split(/\r?\n/)) expect(printed.includes(line.slice(0, 200))).toBe(false)
    expect(result.raw.split('\n').filter((line) => /^::(stop-commands|set-env)/.test(line))).toEqual([])
    expect((await settingsOf(emulator, 'app'))['azure_openai.subscription_key']).not.toBe(key1)
  })

  test.each([200, 400])('a key in an answer of status %i that was cut off is shown nowhere', async (status) => {
    await begin(emulator)
    await workWithKeys(emulator, 'app')
    const key = `8fX${'a1B2c3D4e5F6g7H8'.repeat(5)}z`
    world.fault = ({ method, url }) =>
      method === 'POST' && /\/listKeys\?/i.test(url)
        ? { kind: 'answer', status, body: `{"key1":"${key}","key2":"${key.slice(0, 40)}` }
        : undefined
    const result = await runJob({
      inputs: { ...emulator.inputs, ...only, ...soon, 'auth-type': 'subscription-key' },
      env: { ...emulator.env, ...noPauses() },
    })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false' })
    expect(allOf(result)).not.toContain(key.slice(0, 40))
    await result.remove()
  })

  test.each([[{}], [7], [['a']]])('a key that is %j is no key', async (key1) => {
    await begin(emulator)
    await workWithKeys(emulator, 'app')
    const before = await settingsOf(emulator, 'app')
    rewrite(world, 'POST', /\/listKeys\?/i, () => ({ key1 }))
    const result = await apply(emulator, { ...only, ...soon, 'auth-type': 'subscription-key' })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false' })
    expect(result.outputs['failure-reason'], result.log).not.toBe('internal')
    expect(await settingsOf(emulator, 'app')).toEqual(before)
  })

  test.each([
    `x'); CREATE TABLE public.planted (); --`,
    `x\\'); CREATE TABLE public.planted (); --`,
    `x\0'); CREATE TABLE public.planted (); --`,
    '$$; CREATE TABLE public.planted (); $$',
  ])('a deployment named %j runs no SQL, also where a backslash is an escape', async (name) => {
    await begin(emulator)
    giveIdentity(emulator)
    await emulator.postgres.query('postgres', 'ALTER DATABASE app SET standard_conforming_strings = off')
    try {
      rewrite(world, 'GET', /\/deployments\?/i, (body) => ({
        value: (body['value'] as Body[]).map((each) => ({ ...each, name })),
      }))
      const result = await apply(emulator, { ...only, ...soon, 'embedding-deployment': '' })
      expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false' })
      const [row] = await emulator.postgres.query('app', `SELECT to_regclass('public.planted') IS NULL AS none`)
      expect(row?.['none']).toBe(true)
    } finally {
      await emulator.postgres.query('postgres', 'ALTER DATABASE app RESET standard_conforming_strings')
    }
  })
})
