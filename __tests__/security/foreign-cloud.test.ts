/**
 * `environment` as the URL of an attacker's host. That host describes its cloud as it likes, and answers every request;
 * it must receive no assertion, secret or token that is meant for a cloud of Azure.
 */
import { randomUUID } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { deployerName } from '../../emulator/default-world.ts'
import { type Emulator, startEmulator } from '../../emulator/index.ts'
import { type JobResult, runJob, runPost } from '../../emulator/runner.ts'
import { discoverCloud } from '../../src/azure/cloud.ts'
import type { Http } from '../../src/azure/pipeline.ts'
import { isAudienceOfKnownCloud } from '../../src/core/clouds.ts'
import { postState } from '../../src/stages/post-state.ts'
import { principalNamed } from '../support/support.ts'
import { describedBy, type HostileHost, startHostileHost } from './hostile-host.ts'

let emulator: Emulator
let hostile: HostileHost
let folder: string
const jobs: JobResult[] = []

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'aipg-foreign-'))
  emulator = await startEmulator({ postgres: false })
  hostile = await startHostileHost(emulator.certificate(['localhost', '127.0.0.1']))
})
beforeEach(() => {
  hostile.received.length = 0
  hostile.description = describedBy(hostile.url)
  emulator.world.exchanges.length = 0
})
afterAll(async () => {
  await Promise.all(jobs.map((job) => job.remove()))
  hostile?.stop()
  await emulator?.stop()
  rmSync(folder, { recursive: true, force: true })
})

/** A check of Azure with the hostile host as `environment`; PATH contains only what the test puts there. */
async function job(inputs: Record<string, string>, env: Record<string, string> = {}): Promise<JobResult> {
  const empty = join(folder, 'empty')
  mkdirSync(empty, { recursive: true })
  const { ACTIONS_ID_TOKEN_REQUEST_URL = '', ACTIONS_ID_TOKEN_REQUEST_TOKEN = '', NODE_EXTRA_CA_CERTS = '' } = emulator.env
  const look = { mode: 'check', part: 'azure', 'fail-on-drift': 'false' }
  const result = await runJob({
    inputs: { ...emulator.inputs, ...look, environment: hostile.url, audience: 'api://contoso', ...inputs },
    env: { PATH: empty, NODE_EXTRA_CA_CERTS, ACTIONS_ID_TOKEN_REQUEST_URL, ACTIONS_ID_TOKEN_REQUEST_TOKEN, ...env },
  })
  jobs.push(result)
  return result
}

const withoutOidc = { 'tenant-id': '', 'client-id': '', audience: '' }
const principal = (more: Record<string, string>) => ({
  AZURE_TENANT_ID: emulator.world.tenantId,
  AZURE_CLIENT_ID: principalNamed(emulator.world, deployerName).clientId ?? '',
  ...more,
})

/** The audiences for which the job requested an OIDC token of its workflow. */
function audiencesRequested(): (string | null)[] {
  return emulator.world.exchanges
    .filter(({ plane }) => plane === 'github')
    .map(({ url }) => new URL(url, emulator.url).searchParams.get('audience'))
}

/** The hostile host received at most a request for the description of its cloud. */
function expectNothingReceived(secret?: string): void {
  expect(hostile.audiences()).toEqual([])
  expect(hostile.received.filter((text) => !text.startsWith('GET /metadata/endpoints?'))).toEqual([])
  const everything = hostile.received.join('\n')
  expect(everything).not.toMatch(/"authorization"/i)
  if (secret !== undefined) expect(everything).not.toContain(secret)
}

/** The codes of all errors, each once. */
function errorsOf(result: JobResult): string[] {
  const findings = result.report.findings as { severity: string; code: string }[]
  return [...new Set(findings.filter(({ severity }) => severity === 'error').map(({ code }) => code))]
}

function expectFailure(result: JobResult, reason: string, code: string, detail: RegExp): void {
  expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': reason })
  expect(errorsOf(result)).toEqual([code])
  expect(result.report.findings[0].detail).toMatch(detail)
}

describe("the workflow's OIDC token", () => {
  test.each(['', 'api://AzureADTokenExchange', 'api://azureadtokenexchangeusgov/', 'https://management.azure.com'])(
    'audience "%s": no request is sent, and no token is requested',
    async (audience) => {
      expectFailure(await job({ audience }), 'input', 'input', /^`audience`: /)
      expect(hostile.received).toEqual([])
      expect(audiencesRequested()).toEqual([])
    },
  )

  test('an audience of its own: the host receives a token for that audience and for no other', async () => {
    const result = await job({})
    expect(errorsOf(result), result.log).toEqual(['resource-not-found'])
    expect(new Set(hostile.audiences())).toEqual(new Set(['api://contoso']))
    expect(new Set(audiencesRequested())).toEqual(new Set(['api://contoso']))
  })

  test.each([
    [
      "Azure's sign-in host",
      (url: string) => ({ authentication: { loginEndpoint: 'https://login.microsoftonline.com', audiences: [url] } }),
    ],
    [
      "Azure's Resource Manager as audience",
      (url: string) => ({ authentication: { loginEndpoint: url, audiences: ['https://management.azure.com/'] } }),
    ],
    ["Azure's PostgreSQL as audience", () => ({ ossrDbmsResourceId: 'https://ossrdbms-aad.database.windows.net' })],
    ['another Resource Manager', () => ({ resourceManager: 'https://arm.contoso.example' })],
  ])('a description with %s: refused before signing in', async (_, part) => {
    hostile.description = { ...describedBy(hostile.url), ...part(hostile.url) }
    expectFailure(await job({}), 'azure', 'cloud-metadata', /metadata\/endpoints: /)
    expectNothingReceived()
  })
})

describe('a login in the environment', () => {
  const secret = `Fore8Q~${randomUUID()}`
  const file = (text: string): string => {
    const path = join(folder, randomUUID())
    writeFileSync(path, text)
    return path
  }
  const logins: [string, () => Record<string, string>][] = [
    ['AZURE_CLIENT_SECRET', () => ({ AZURE_CLIENT_SECRET: secret })],
    [
      'AZURE_CLIENT_CERTIFICATE_PATH',
      () => {
        const { cert, key } = emulator.certificate(['contoso deployer'])
        return { AZURE_CLIENT_CERTIFICATE_PATH: file(key + cert) }
      },
    ],
    ['AZURE_FEDERATED_TOKEN_FILE', () => ({ AZURE_FEDERATED_TOKEN_FILE: file(secret) })],
  ]
  const authorities: [string, () => Record<string, string>][] = [
    ['is not set', () => ({})],
    ["names Azure's sign-in host", () => ({ AZURE_AUTHORITY_HOST: 'https://login.microsoftonline.com/' })],
    ['names another port', () => ({ AZURE_AUTHORITY_HOST: emulator.url })],
    ['only begins like the host', () => ({ AZURE_AUTHORITY_HOST: `${hostile.url}@login.microsoftonline.com` })],
    ['is no URL', () => ({ AZURE_AUTHORITY_HOST: new URL(hostile.url).host })],
  ]
  const cases = logins.flatMap(([variable, login]) =>
    authorities.map(([when, authority]) => [variable, when, login, authority] as const),
  )
  test.each(cases)('%s is not used when AZURE_AUTHORITY_HOST %s', async (variable, _, login, authority) => {
    const result = await job(withoutOidc, principal({ ...login(), ...authority() }))
    expectFailure(result, 'credentials', 'login-of-another-cloud', new RegExp(`${variable} may belong to another cloud`))
    expect(result.report.findings[0].fix).toContain(`AZURE_AUTHORITY_HOST=${hostile.url}`)
    expectNothingReceived(secret)
    expect(result.raw.replaceAll(`::add-mask::${secret}`, '')).not.toContain(secret)
  })

  test.each(['', '/', '/tenant'])(
    'a secret whose AZURE_AUTHORITY_HOST names that host with the path "%s" is used',
    async (path) => {
      await job(withoutOidc, principal({ AZURE_CLIENT_SECRET: secret, AZURE_AUTHORITY_HOST: `${hostile.url}${path}` }))
      expect(hostile.received.join('\n')).toContain(`client_secret=${secret}`)
    },
  )
})

/** Descriptions that would make az or a managed identity issue a token of Azure's own for this host. */
const descriptions: [string, (url: string) => Record<string, unknown>][] = [
  ["Azure's Resource Manager", () => ({ audiences: ['https://management.azure.com/'] })],
  ['its older name', () => ({ audiences: ['https://management.core.windows.net'] })],
  ['Azure Government', () => ({ audiences: ['https://management.usgovcloudapi.net'] })],
  ['Azure in China', () => ({ audiences: ['https://management.chinacloudapi.cn'] })],
  ['Microsoft Graph', () => ({ audiences: ['https://graph.microsoft.com'] })],
  ['a key vault', () => ({ audiences: ['https://contoso.vault.azure.net'] })],
  ['one of Azure behind one of its own', (url) => ({ audiences: [url, 'https://management.azure.com/'] })],
  ['upper case and a trailing dot', () => ({ audiences: ['HTTPS://MANAGEMENT.AZURE.COM./'] })],
  ['a user name before the host', () => ({ audiences: ['https://arm.example@management.azure.com/'] })],
  ['a user name that looks like the host', () => ({ audiences: ['https://management.azure.com@arm.example/'] })],
  ['a port', () => ({ audiences: ['https://management.azure.com:443/'] })],
  ['a percent-encoded dot', () => ({ audiences: ['https://management%2eazure%2ecom/'] })],
  ['full-width letters', () => ({ audiences: ['https://management.\uff41zure.com/'] })],
  ['a tab inside of the host', () => ({ audiences: ['https://manage\tment.azure.com/'] })],
  ['backslashes', () => ({ audiences: ['https:\\\\management.azure.com\\'] })],
  ['blanks around it', () => ({ audiences: ['  https://management.azure.com  '] })],
  ['an application id', () => ({ audiences: ['797f4846-ba00-4fd7-ba43-dac1f8f63013'] })],
  ['an application id URI', () => ({ audiences: ['api://contoso'] })],
  ['http', () => ({ audiences: ['http://arm.example'] })],
  ['a query', (url) => ({ audiences: [`${url}/?x=https://management.azure.com`] })],
  ['an object', () => ({ audiences: [{ toString: 'x' }] })],
  ['a text instead of a list', () => ({ audiences: 'https://management.azure.com/' })],
  ['no audience', () => ({ audiences: [] })],
]

describe("az's session and the runner's managed identity", () => {
  /** An az with a session; it logs its calls to a file, and issues a token for everything. */
  function az(): { path: string; calls: () => string } {
    const bin = mkdtempSync(join(folder, 'bin-'))
    const log = join(bin, 'log')
    const script = `import { appendFileSync } from 'node:fs'
appendFileSync(${JSON.stringify(log)}, process.argv.slice(2).join(' ') + '\\n')
const later = Math.floor(Date.now() / 1000) + 3600
console.log(JSON.stringify({ environmentName: 'AzureCloud', accessToken: 'a-token-of-az', expires_on: later, tokenType: 'Bearer' }))
`
    writeFileSync(join(bin, 'az.mjs'), script)
    writeFileSync(join(bin, 'az'), `#!/bin/sh\nexec '${process.execPath}' '${join(bin, 'az.mjs')}' "$@"\n`)
    chmodSync(join(bin, 'az'), 0o755)
    return { path: bin, calls: () => (existsSync(log) ? readFileSync(log, 'utf8') : '') }
  }

  const described = (part: Record<string, unknown>): void => {
    const honest = describedBy(hostile.url)
    hostile.description = { ...honest, authentication: { ...honest.authentication, ...part } }
  }

  test.each(descriptions.slice(0, 1))('az issues no token for %s', async (_, part) => {
    described(part(hostile.url))
    const { path, calls } = az()
    expectFailure(await job(withoutOidc, { PATH: path }), 'azure', 'cloud-metadata', /own clouds/)
    expectNothingReceived('a-token-of-az')
    expect(calls()).toBe('')
  })

  test('az issues a token for a private audience', async () => {
    const { path, calls } = az()
    const result = await job(withoutOidc, { PATH: path })
    expect(errorsOf(result), result.log).toEqual(['resource-not-found'])
    expect(calls()).toContain(`get-access-token --output json --resource ${hostile.url}`)
  })

  test("az issues no token for Azure's PostgreSQL", async () => {
    hostile.description = {
      ...describedBy(hostile.url),
      ossrdbmsresourceid: 'https://ossrdbms-aad.database.windows.net/',
      ossrDbmsResourceId: undefined,
    }
    const { path, calls } = az()
    expectFailure(await job({ ...withoutOidc, part: 'all' }, { PATH: path }), 'azure', 'cloud-metadata', /ossrDbmsResourceId/)
    expectNothingReceived('a-token-of-az')
    expect(calls()).toBe('')
  })

  test("the managed identity gets no request for a token of Azure's Resource Manager", async () => {
    const requests: string[] = []
    const endpoint = createServer((request, response) => {
      requests.push(request.url ?? '')
      const later = String(Math.floor(Date.now() / 1_000) + 3_600)
      const body = { access_token: 'a-token-of-the-machine', expires_on: later, resource: 'x', token_type: 'Bearer' }
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body))
    })
    await new Promise<void>((resolve) => endpoint.listen(0, '127.0.0.1', resolve))
    try {
      described({ audiences: ['https://management.azure.com/'] })
      const { port } = endpoint.address() as AddressInfo
      const env = { IDENTITY_ENDPOINT: `http://127.0.0.1:${port}/msi/token`, IDENTITY_HEADER: randomUUID() }
      expectFailure(await job(withoutOidc, env), 'azure', 'cloud-metadata', /own clouds/)
      expectNothingReceived('a-token-of-the-machine')
      expect(requests).toEqual([])
    } finally {
      endpoint.close()
    }
  })
})

describe('the post step, whose state names the host', () => {
  const app = { 'tenant-id': 'contoso.example', 'client-id': randomUUID() }
  test.each([
    ['an OIDC token without an audience', { ...app, audience: '' }],
    ['an OIDC token for Azure', { ...app, audience: 'api://AzureADTokenExchange' }],
    ["a client secret that is Azure's", { 'tenant-id': '', 'client-id': '', audience: '' }],
  ])('%s: it is not sent there', async (_, login) => {
    const rule = 'gha-aipg-1000000000-0123456789ab'
    const state = { rule, created: true, server: emulator.inputs['server'], environment: hostile.url, ...login }
    const env = { ...emulator.env, ...principal({ AZURE_CLIENT_SECRET: 'a-secret-of-azure' }), AZURE_AUTHORITY_HOST: '' }
    const post = await runPost({ [postState]: JSON.stringify(state) }, { env })
    expect([post.code, post.raw]).toEqual([0, expect.stringContaining('::warning title=A firewall rule was left behind::')])
    expectNothingReceived('a-secret-of-azure')
    expect(audiencesRequested()).toEqual([])
    await post.remove()
  })
})

describe('descriptions', () => {
  const url = 'https://arm.contoso.example'
  const discovered = (answer: unknown) => {
    const http: Http = { get: async () => answer, list: async () => undefined }
    return discoverCloud(url, http, new AbortController().signal)
  }
  const refused = { reason: 'azure', code: 'cloud-metadata' }

  test.each(descriptions)('audiences with %s are refused', async (_, part) => {
    const honest = describedBy(url)
    const answer = { ...honest, authentication: { ...honest.authentication, ...part(url) } }
    await expect(discovered(answer)).rejects.toMatchObject(refused)
    // As the audience of PostgreSQL the same value would do the same harm.
    const [last] = [part(url)['audiences']].flat().slice(-1)
    await expect(discovered({ ...honest, ossrDbmsResourceId: last })).rejects.toMatchObject(refused)
  })

  test.each([
    'https://login.microsoftonline.com',
    'https://LOGIN.MICROSOFTONLINE.US./',
    'https://login.chinacloudapi.cn/tenant',
    'https://login.partner.microsoftonline.cn@login.windows.net',
    'https://login.azure.cn',
    'https://sts.windows.net',
    'http://login.contoso.example',
    '//login.contoso.example',
    'https://',
    7,
    null,
  ])('the sign-in host %s is refused', async (loginEndpoint) => {
    const honest = describedBy(url)
    const answer = { ...honest, authentication: { ...honest.authentication, loginEndpoint } }
    await expect(discovered(answer)).rejects.toMatchObject(refused)
  })

  test.each([
    'https://other.contoso.example',
    'https://arm.contoso.example.',
    'https://arm.contoso.example:8443',
    'http://arm.contoso.example',
    'https://arm.contoso.example@other.example',
    'https://management.azure.com/',
    '',
    { href: url },
  ])('the Resource Manager %s is refused', async (resourceManager) => {
    await expect(discovered({ ...describedBy(url), resourceManager })).rejects.toMatchObject(refused)
    await expect(discovered([{ ...describedBy(url), resourceManager }])).rejects.toMatchObject(refused)
  })

  test('names that only look alike, addresses and paths belong to private clouds', async () => {
    for (const audience of [
      'https://management.notazure.com',
      'https://azure.com.contoso.example',
      'https://management-azure.com',
      'https://10.0.0.4:8443/arm',
      'https://[fd00::4]',
      'https://management.contoso.onmicrosoft.com/5f7f9cbd',
    ]) {
      const honest = describedBy(url)
      const cloud = await discovered({ ...honest, authentication: { loginEndpoint: `${audience}/adfs`, audiences: [audience] } })
      expect(cloud).toMatchObject({ resourceManagerScope: `${audience}/.default`, authority: `${audience}/adfs` })
      expect(isAudienceOfKnownCloud(audience)).toBe(false)
    }
  })

  test('the suffix of the database servers may be that of Azure, and is used as a suffix', async () => {
    for (const postgresqlServerEndpoint of ['.postgres.database.azure.com', 'postgres.database.azure.com'])
      expect(await discovered({ ...describedBy(url), suffixes: { postgresqlServerEndpoint } })).toMatchObject({
        postgresSuffix: '.postgres.database.azure.com',
      })
    for (const postgresqlServerEndpoint of ['evil.example/', '@evil.example', 'evil.example:1', 'x'.repeat(1_000), 7])
      await expect(discovered({ ...describedBy(url), suffixes: { postgresqlServerEndpoint } })).rejects.toMatchObject(refused)
  })

  test('a message contains no more than the beginning of a long value', async () => {
    const answer = { ...describedBy(url), ossrDbmsResourceId: `http://${'x'.repeat(100_000)}` }
    await expect(discovered(answer)).rejects.toSatisfy((error: Error) => error.message.length < 1_000)
  })
})
