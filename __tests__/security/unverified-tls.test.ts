/** With NODE_TLS_REJECT_UNAUTHORIZED=0, which an earlier step can set for the whole job, the action still verifies certificates. */
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { deployerName } from '../../emulator/default-world.ts'
import { type Emulator, startEmulator } from '../../emulator/index.ts'
import { type JobOptions, type JobResult, runJob, runPost } from '../../emulator/runner.ts'
import { postState } from '../../src/stages/post-state.ts'
import { principalNamed } from '../support/support.ts'

let emulator: Emulator
let folder: string
const jobs: JobResult[] = []
const exported = { NODE_TLS_REJECT_UNAUTHORIZED: '0' }

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'aipg-tls-'))
  emulator = await startEmulator({ postgres: false, delays: { operation: 0 } })
})
beforeEach(() => {
  emulator.world.exchanges.length = 0
})
afterAll(async () => {
  await Promise.all(jobs.map((job) => job.remove()))
  await emulator?.stop()
  rmSync(folder, { recursive: true, force: true })
})

/** The environment of a job that does not trust the emulated Azure. */
function untrusting(): Record<string, string> {
  return Object.fromEntries(Object.entries(emulator.env).filter(([name]) => name !== 'NODE_EXTRA_CA_CERTS'))
}

async function check(inputs: Record<string, string>, options: Partial<JobOptions>): Promise<JobResult> {
  const look = { mode: 'check', part: 'azure', 'fail-on-drift': 'false' }
  const result = await runJob({ inputs: { ...emulator.inputs, ...look, ...inputs }, env: emulator.env, ...options })
  jobs.push(result)
  return result
}

const warning =
  /^::warning title=A variable that turns off the verification of certificates has no effect::NODE_TLS_REJECT_UNAUTHORIZED is 0/m

describe('Azure with a certificate of an unknown authority', () => {
  test.each<[string, Record<string, string>, Record<string, string>]>([
    ["the workflow's OIDC token", {}, {}],
    [
      'a client secret',
      { 'tenant-id': '', 'client-id': '', audience: '' },
      { AZURE_CLIENT_SECRET: 'a-client-secret-0123456789' },
    ],
  ])('gets no request, with %s', async (_, inputs, login) => {
    const { clientId = '' } = principalNamed(emulator.world, deployerName)
    const ambient = { AZURE_TENANT_ID: emulator.world.tenantId, AZURE_CLIENT_ID: clientId, AZURE_AUTHORITY_HOST: emulator.url }
    const result = await check(inputs, { env: { ...untrusting(), ...ambient, ...login }, exported })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'network' })
    expect(result.report.findings.map(({ code }: { code: string }) => code)).toEqual(
      expect.arrayContaining(['azure-not-trusted', 'tls-variable-ignored']),
    )
    expect(result.log).toMatch(warning)
    expect(emulator.world.exchanges).toEqual([])
  })

  test('gets none from the post step either', async () => {
    const { server, environment, 'tenant-id': tenant, 'client-id': client, audience } = emulator.inputs
    const rule = 'gha-aipg-1000000000-0123456789ab'
    const state = { run: '4711', rule, created: true, server, environment, 'tenant-id': tenant, 'client-id': client, audience }
    const post = await runPost({ [postState]: JSON.stringify(state) }, { env: untrusting(), exported })
    expect(post.code).toBe(0)
    expect(post.raw).toMatch(warning)
    expect(post.raw).toMatch(/^::warning title=A firewall rule was left behind::.*certificate/m)
    expect(emulator.world.exchanges).toEqual([])
    await post.remove()
  })
})

test('where Azure is trusted, the run is as without the variable, and warns', async () => {
  const result = await check({}, { exported })
  expect([result.code, result.outputs.result], result.log).toEqual([0, 'drift'])
  expect(result.log).toMatch(warning)
  expect(result.report.findings).toContainEqual(
    expect.objectContaining({
      severity: 'warning',
      code: 'tls-variable-ignored',
      fix: expect.stringContaining('NODE_EXTRA_CA_CERTS'),
    }),
  )
  // Node itself would print a warning with the first connection that is not verified.
  expect(result.log).not.toContain('makes TLS connections and HTTPS requests insecure')
})

test.each(['1', '', 'true'])('the value "%s" turns nothing off, so there is no warning', async (value) => {
  const result = await check({}, { exported: { NODE_TLS_REJECT_UNAUTHORIZED: value } })
  expect([result.code, result.outputs.result], result.log).toEqual([0, 'drift'])
  expect(result.log).not.toContain('NODE_TLS_REJECT_UNAUTHORIZED')
})

test.skipIf(process.platform === 'win32')('az does not inherit it', async () => {
  const seen = join(folder, 'environment of az')
  writeFileSync(join(folder, 'az'), `#!/bin/sh\nenv > '${seen}'\nexit 1\n`)
  chmodSync(join(folder, 'az'), 0o755)
  const env = { ...emulator.env, PATH: `${folder}:/usr/bin:/bin`, HOME: folder, IDENTITY_ENDPOINT: `${emulator.url}/nowhere` }
  await check({ 'tenant-id': '', 'client-id': '', audience: '' }, { env, exported: { ...exported, PGOPTIONS: '-c role=x' } })
  expect(existsSync(seen)).toBe(true)
  const inherited = readFileSync(seen, 'utf8')
  expect(inherited).toContain('GITHUB_ACTIONS=true')
  expect(inherited).not.toMatch(/^(NODE_TLS_REJECT_UNAUTHORIZED|PGOPTIONS)=/m)
})
