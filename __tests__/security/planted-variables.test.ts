/**
 * Variables that an earlier step of the job wrote into GITHUB_ENV. With `tenant-id` and `client-id` none of them decides where
 * the action signs in, and a known cloud's login goes to that cloud's sign-in host whatever the environment says.
 */
import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { deployerName } from '../../emulator/default-world.ts'
import { oidcAudience } from '../../emulator/entra.ts'
import { type Emulator, startEmulator } from '../../emulator/index.ts'
import { type JobResult, startJob } from '../../emulator/runner.ts'
import { principalNamed } from '../support/support.ts'
import { type HostileHost, startHostileHost } from './hostile-host.ts'

let emulator: Emulator
let hostile: HostileHost
let proxy: Server
/** `HOST:PORT` of each tunnel requested from the proxy; it opens none. */
const tunnels: string[] = []
let folder: string
const jobs: JobResult[] = []
const secret = `Plant8Q~${randomUUID()}`

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'aipg-planted-'))
  emulator = await startEmulator({ postgres: false })
  hostile = await startHostileHost(emulator.certificate(['localhost', '127.0.0.1', 'westus.localhost']))
  proxy = createServer()
  proxy.on('connect', (request, socket) => {
    tunnels.push(request.url ?? '')
    socket.end('HTTP/1.1 502 Bad Gateway\r\n\r\n')
  })
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
})
beforeEach(() => {
  hostile.received.length = 0
  tunnels.length = 0
  emulator.world.exchanges.length = 0
})
afterAll(async () => {
  await Promise.all(jobs.map((job) => job.remove()))
  proxy?.close()
  hostile?.stop()
  await emulator?.stop()
  rmSync(folder, { recursive: true, force: true })
})

/** Every variable that the SDKs read to find out where or how to sign in, pointing to the hostile host. */
function planted(): Record<string, string> {
  const file = join(folder, 'planted.jwt')
  writeFileSync(file, secret)
  return {
    AZURE_AUTHORITY_HOST: hostile.url,
    AZURE_TENANT_ID: randomUUID(),
    AZURE_CLIENT_ID: randomUUID(),
    AZURE_CLIENT_SECRET: secret,
    AZURE_FEDERATED_TOKEN_FILE: file,
    AZURE_KUBERNETES_TOKEN_PROXY: hostile.url,
    AZURE_POD_IDENTITY_AUTHORITY_HOST: hostile.url,
    IDENTITY_ENDPOINT: `${hostile.url}/identity`,
    IDENTITY_HEADER: secret,
    IMDS_ENDPOINT: hostile.url,
    MSI_ENDPOINT: `${hostile.url}/msi`,
    MSI_SECRET: secret,
    AZURE_TOKEN_CREDENTIALS: 'dev',
    AZURE_LOG_LEVEL: 'verbose',
    DEBUG: 'azure*',
  }
}

async function job(inputs: Record<string, string>, env: Record<string, string>, until?: () => boolean): Promise<JobResult> {
  const { ACTIONS_ID_TOKEN_REQUEST_URL = '', ACTIONS_ID_TOKEN_REQUEST_TOKEN = '', NODE_EXTRA_CA_CERTS = '' } = emulator.env
  const look = { mode: 'check', part: 'azure', 'fail-on-drift': 'false' }
  const started = await startJob({
    inputs: { ...emulator.inputs, ...look, ...inputs },
    env: { PATH: folder, NODE_EXTRA_CA_CERTS, ACTIONS_ID_TOKEN_REQUEST_URL, ACTIONS_ID_TOKEN_REQUEST_TOKEN, ...env },
  })
  // The run waits for a cloud that does not answer; the test does not need to.
  const watch = setInterval(() => until?.() && started.child.kill('SIGTERM'), 50)
  const result = await started.done
  clearInterval(watch)
  jobs.push(result)
  return result
}

test.each([
  ['none of a region', {}],
  ['a region of the SDK', { AZURE_REGIONAL_AUTHORITY_NAME: 'westus' }],
  ['a region to be looked up', { AZURE_REGIONAL_AUTHORITY_NAME: 'AutoDiscoverRegion', REGION_NAME: 'westus' }],
  ['a region of the library below it', { MSAL_FORCE_REGION: 'westus' }],
])('with tenant-id and client-id, and %s: the job signs in with its OIDC token, at its own cloud', async (_, region) => {
  const result = await job({}, { ...planted(), ...region })
  expect(result.code, result.log).toBe(0)
  expect(result.log).toContain("by the workflow's OIDC token, in tenant")
  expect(hostile.received).toEqual([])
  // The log of the SDKs contains no token and no secret beside the commands that mask them.
  const shown = result.raw.replaceAll(/^::add-mask::.*$/gm, '')
  expect(shown).not.toMatch(/eyJ[\w-]{10,}\.[\w-]{10,}/)
  expect(shown).not.toContain(secret)
})

test.each([
  ['AzureCloud', 'login.microsoftonline.com'],
  ['AzureUSGovernment', 'login.microsoftonline.us'],
  // The name that Microsoft's library prefers for login.chinacloudapi.cn.
  ['AzureChinaCloud', 'login.partner.microsoftonline.cn'],
])(
  '%s: a client secret is sent to %s, whatever AZURE_AUTHORITY_HOST and the variables of regions say',
  async (environment, signInHost) => {
    const proxied = { HTTPS_PROXY: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`, NO_PROXY: 'localhost' }
    const login = {
      AZURE_TENANT_ID: emulator.world.tenantId,
      AZURE_CLIENT_ID: principalNamed(emulator.world, deployerName).clientId ?? '',
      AZURE_CLIENT_SECRET: secret,
      AZURE_AUTHORITY_HOST: hostile.url,
      AZURE_REGIONAL_AUTHORITY_NAME: 'westus',
      MSAL_FORCE_REGION: 'westus',
    }
    const inputs = { environment, 'tenant-id': '', 'client-id': '', audience: '' }
    await job(inputs, { ...proxied, ...login }, () => tunnels.length > 0)
    expect(new Set(tunnels)).toEqual(new Set([`${signInHost}:443`]))
    expect(hostile.received).toEqual([])
  },
)

test('the OIDC token of a known cloud is sent to its sign-in host, whatever AZURE_AUTHORITY_HOST says', async () => {
  const proxied = { HTTPS_PROXY: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`, NO_PROXY: 'localhost' }
  await job({ environment: 'AzureCloud', audience: '' }, { ...planted(), ...proxied }, () => tunnels.length > 0)
  expect(new Set(tunnels)).toEqual(new Set(['login.microsoftonline.com:443']))
  expect(hostile.received).toEqual([])
  const audiences = emulator.world.exchanges.filter(({ plane }) => plane === 'github').map(({ url }) => url)
  expect(audiences.join()).not.toContain(encodeURIComponent(oidcAudience))
})
