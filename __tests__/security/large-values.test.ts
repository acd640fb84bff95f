/** Values, messages and results of a database or a listener that are larger than the action reads. */

import type { AddressInfo } from 'node:net'
import { createServer, type Server } from 'node:net'
import { createSecureContext, TLSSocket } from 'node:tls'
import { afterEach, describe, expect, test } from 'vitest'
import { ownEmulator } from '../support/own-emulator.ts'
import { apply, begin, codesOf, giveIdentity, onlyService, settingsOf, workWithKeys } from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app', 'crm'] })
const { world, postgres } = emulator
const only = onlyService(emulator, 'openai', 'app')

/** All that a run prints and writes, in characters. */
const size = (result: { raw: string; summary: string; report: unknown }): number =>
  result.raw.length + result.summary.length + JSON.stringify(result.report ?? '').length

describe('a setting of megabytes', () => {
  test.each(['azure_openai.endpoint', 'azure_openai.auth_type'])(
    '%s: its database fails, the other one is switched',
    async (setting) => {
      await begin(emulator)
      giveIdentity(emulator)
      await workWithKeys(emulator, 'app')
      await workWithKeys(emulator, 'crm')
      await postgres.query('app', `UPDATE azure_ai.settings SET value = repeat('x', 50000000) WHERE key = $1`, [setting])
      const result = await apply(emulator, { ...only, databases: 'app\ncrm' })
      expect(codesOf(result), result.log.slice(-2_000)).toContain('setting-too-long')
      expect(result.outputs['failure-reason']).toBe('database')
      expect(size(result)).toBeLessThan(200_000)
      const [row] = await postgres.query('app', 'SELECT length(value) AS n FROM azure_ai.settings WHERE key = $1', [setting])
      expect(row?.['n']).toBe(50_000_000)
      expect(await settingsOf(emulator, 'crm')).toMatchObject({ 'azure_openai.auth_type': 'managed-identity' })
    },
  )

  test('of a service that is not named: only that setting is left out', async () => {
    await begin(emulator)
    giveIdentity(emulator)
    await workWithKeys(emulator, 'app')
    await postgres.query(
      'app',
      `UPDATE azure_ai.settings SET value = repeat('x', 50000000) WHERE key = 'azure_ml.scoring_endpoint'`,
    )
    const result = await apply(emulator, { ...only, mode: 'check' })
    expect(codesOf(result)).toContain('setting-too-long')
    expect(size(result)).toBeLessThan(200_000)
  })
})

describe('an error text of a database', () => {
  test.each([
    ['of 240 kB', 240_000, 'fail'],
    ['of megabytes', 8_000_000, 'role "'],
  ])('%s is shortened in log, report and summary', async (_, length, part) => {
    await begin(emulator)
    giveIdentity(emulator)
    await postgres.query('app', 'CREATE EXTENSION azure_ai')
    world.fault = ({ plane }) =>
      plane === 'ai' ? { kind: 'answer', status: 500, body: part.repeat(length / part.length) } : undefined
    const result = await apply(emulator, { ...only, 'verify-timeout-minutes': '0' })
    expect(result.outputs['result'], result.log.slice(-2_000)).toBe('failed')
    expect(result.log).toContain('more characters)')
    expect(size(result)).toBeLessThan(400_000)
    expect(result.endedAt - result.startedAt).toBeLessThan(60_000)
  })
})

describe('a listener with a certificate of its own that sends a message without end', () => {
  let server: Server | undefined
  afterEach(() => {
    server?.close()
    server = undefined
  })

  /** Speaks PostgreSQL up to TLS, then answers with the beginning of a message of a gigabyte, and goes on with it. */
  async function endless(type: string): Promise<number> {
    const context = createSecureContext(emulator.certificate(['localhost', '127.0.0.1']))
    server = createServer((socket) => {
      socket.on('error', () => undefined)
      socket.once('data', () => {
        socket.write('S')
        const secure = new TLSSocket(socket, { isServer: true, secureContext: context })
        secure.on('error', () => undefined)
        secure.once('data', () => {
          const head = Buffer.alloc(5)
          head.write(type)
          head.writeUInt32BE(1_000_000_000, 1)
          secure.write(head)
          const more = Buffer.alloc(1024 * 1024, 'x')
          const pour = (): void => {
            while (!secure.destroyed && secure.write(more));
            if (!secure.destroyed) secure.once('drain', pour)
          }
          pour()
        })
      })
    })
    await new Promise<void>((resolve) => server?.listen(0, '127.0.0.1', resolve))
    return (server.address() as AddressInfo).port
  }

  test.each([
    ['an error', 'E'],
    ['a notice', 'N'],
    ['a row', 'D'],
  ])('%s', async (_, type) => {
    await begin(emulator)
    giveIdentity(emulator)
    const port = await endless(type)
    const result = await apply(emulator, { ...only, mode: 'check', 'database-host': '127.0.0.1', 'database-port': String(port) })
    expect(codesOf(result), result.log).toContain('message-too-large')
    expect(result.endedAt - result.startedAt).toBeLessThan(12_000)
  })
})
