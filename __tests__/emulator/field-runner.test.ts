/** An az with an old session and a proxy that refuses, as they occur on runners; tested without the action. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { createInterface } from 'node:readline'
import { AzureCliCredential } from '@azure/identity'
import { afterEach, describe, expect, test } from 'vitest'
import { type AzSession, installAz } from '../../emulator/az.ts'

describe('az', () => {
  const bin = mkdtempSync(join(tmpdir(), 'aipg-az-'))
  const before = process.env['PATH']
  afterEach(() => {
    process.env['PATH'] = before
    rmSync(bin, { recursive: true, force: true })
  })

  const [azure, database] = ['https://management.azure.com', 'https://ossrdbms-aad.database.windows.net']
  const expiresAt = new Date(Date.now() + 3_600_000)
  const session: AzSession = {
    tenantId: '5f1e6c3a-9b57-4a0e-8f0d-2c7c4b1a9d63',
    tokens: { [azure]: { token: 'for-azure', expiresAt }, [database]: { token: 'for-the-database', expiresAt } },
  }
  const tenMinutesAgo = (): number => Date.now() - 600_000

  /** The token, or the error, as the SDK returns it. */
  async function token(resource: string, state: AzSession | undefined): Promise<string> {
    installAz(bin, state)
    process.env['PATH'] = [bin, before].join(delimiter)
    return new AzureCliCredential().getToken(`${resource}/.default`).then(
      (found) => found.token,
      (error: unknown) => String(error),
    )
  }

  test('has tokens for every resource while its session is young', async () => {
    expect(await token(azure, session)).toBe('for-azure')
    expect(await token(database, { ...session, signedInAt: Date.now() - 60_000 })).toBe('for-the-database')
  })

  test('has none for another scope when its session is ten minutes old, and the SDK advises to log in', async () => {
    const old = { ...session, signedInAt: tenMinutesAgo(), cached: [azure] }
    expect(await token(azure, old)).toBe('for-azure')
    expect(await token(database, old)).toContain("Please run 'az login' from a command prompt")
    const { stderr } = await run(join(bin, 'az'), ['account', 'get-access-token', '--resource', database])
    expect(stderr).toContain('ERROR: AADSTS700024: Client assertion is not within its valid time range.')
    expect(stderr).toMatch(/Please run:\naz login\n$/)
  })

  test('has none without a session', async () => {
    expect(await token(azure, undefined)).toContain("Please run 'az login'")
  })

  async function run(file: string, args: string[]): Promise<{ stderr: string }> {
    const child = spawn(file, args, { stdio: ['ignore', 'ignore', 'pipe'] })
    let stderr = ''
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      stderr += chunk
    })
    await once(child, 'close')
    return { stderr }
  }
})

describe('a proxy that refuses', () => {
  const program = join(import.meta.dirname, '..', '..', 'emulator', 'connect-proxy.ts')

  test.each([
    ['401', 'HTTP/1.1 401 Unauthorized', false],
    ['407', 'HTTP/1.1 407 Proxy Authentication Required', true],
  ])('answers CONNECT with %s and a page of its own', async (status, line, challenge) => {
    const child = spawn(process.execPath, [program, status], { stdio: ['pipe', 'pipe', 'inherit'] })
    const lines = createInterface({ input: child.stdout })
    const [port] = (await once(lines, 'line')) as [string]
    const socket = connect(Number(port), '127.0.0.1')
    socket.end('CONNECT management.azure.com:443 HTTP/1.1\r\nHost: management.azure.com:443\r\n\r\n')
    let answer = ''
    for await (const chunk of socket.setEncoding('utf8')) answer += chunk
    child.stdin.end()
    await once(child, 'close')
    expect(answer.split('\r\n')[0]).toBe(line)
    expect(answer).toContain('Via: 1.1 gateway.contoso.example')
    expect(answer.includes('Proxy-Authenticate: Basic realm="Contoso web gateway"')).toBe(challenge)
    expect(answer).toContain('<title>Contoso web gateway</title>')
  })
})
