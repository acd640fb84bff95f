import { createPrivateKey, randomUUID } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { getCACertificates, setDefaultCACertificates } from 'node:tls'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { type AzSession, installAz } from '../../emulator/az.ts'
import { deployerName } from '../../emulator/default-world.ts'
import { oidcAudience, postgresAudience } from '../../emulator/entra.ts'
import type { Emulator } from '../../emulator/index.ts'
import { type Job, type JobResult, startJob } from '../../emulator/runner.ts'
import type { GitHubWorld } from '../../emulator/world.ts'
import { discoverCloud } from '../../src/azure/cloud.ts'
import { type AmbientLogin, claimsOf, signIn } from '../../src/azure/credential.ts'
import type { Http } from '../../src/azure/pipeline.ts'
import { type Cloud, knownCloud } from '../../src/core/clouds.ts'
import type { Log } from '../../src/lib/log.ts'
import { errorsOf, type Finding } from '../support/findings.ts'
import { begin, codesOf, emulate, principalNamed, usual } from '../support/support.ts'

let emulator: Emulator
let github: GitHubWorld
let folder: string
const ended: JobResult[] = []

beforeAll(async () => {
  emulator = await emulate()
  github = { ...emulator.world.github }
  folder = mkdtempSync(join(tmpdir(), 'aipg-credentials-'))
})
beforeEach(async () => {
  const { world } = emulator
  for (const name of Object.keys(world.github)) delete (world.github as unknown as Record<string, unknown>)[name]
  Object.assign(world.github, github)
  await begin(emulator)
})
afterAll(async () => {
  await Promise.all(ended.map((job) => job.remove()))
  rmSync(folder, { recursive: true, force: true })
  await emulator?.stop()
})

/** A look at Azure alone: what it takes is a login. */
const look = {
  mode: 'check',
  part: 'azure',
  'fail-on-drift': 'false',
  cognitive: '',
  translator: '',
  'machine-learning': '',
  'machine-learning-input': '',
}
const withoutOidc = { 'tenant-id': '', 'client-id': '' }
const deployer = () => principalNamed(emulator.world, deployerName)

/** A job with exactly this environment beside what the runner sets, and with no az in it unless it is put on PATH. */
async function begun(inputs: Record<string, string>, env: Record<string, string>, onLine?: (line: string) => void): Promise<Job> {
  const nothing = join(folder, 'empty')
  mkdirSync(nothing, { recursive: true })
  return startJob({
    inputs: { ...emulator.inputs, ...usual, ...look, ...inputs },
    env: { PATH: nothing, NODE_EXTRA_CA_CERTS: emulator.caFile, ...env },
    ...(onLine === undefined ? {} : { onLine }),
  })
}

async function job(inputs: Record<string, string> = {}, env: Record<string, string> = emulator.env): Promise<JobResult> {
  const result = await (await begun(inputs, env)).done
  ended.push(result)
  return result
}

/** The sign-in worked and was logged, and Resource Manager saw the deployer. */
function expectSignedIn(result: JobResult, way: string): void {
  expect(result.code, result.log).toBe(0)
  const { objectId, clientId } = deployer()
  expect(result.log).toContain(`Signed in as app ${clientId} (object id ${objectId}) by ${way}`)
  const callers = emulator.world.exchanges.filter(({ plane, caller }) => plane === 'resource-manager' && caller !== undefined)
  expect(new Set(callers.map(({ caller }) => caller))).toEqual(new Set([objectId]))
}

function onlyFailure(result: JobResult): Finding {
  expect(result.code, result.log).toBe(1)
  expect(result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'credentials', changed: 'false' })
  const errors = errorsOf(result)
  expect(errors, result.log).toHaveLength(1)
  return errors[0] as Finding
}

/** Variables of a service principal in the environment. */
const principal = (more: Record<string, string>) => ({
  AZURE_TENANT_ID: emulator.world.tenantId,
  AZURE_CLIENT_ID: deployer().clientId ?? '',
  // The emulated cloud describes itself, so the login has to name its sign-in host.
  AZURE_AUTHORITY_HOST: emulator.url,
  ...more,
})

/** A folder for PATH with an az that has a session of the deployer, or none. */
async function azOnPath({ signedIn }: { signedIn: boolean }): Promise<string> {
  const bin = mkdtempSync(join(folder, 'bin-'))
  const tokens: AzSession['tokens'] = {}
  for (const audience of [emulator.url, postgresAudience]) {
    tokens[audience] = await emulator.issueToken(deployer().objectId, audience)
  }
  installAz(bin, signedIn ? { tenantId: emulator.world.tenantId, tokens } : undefined)
  return bin
}

describe('each way of signing in, through the SDK', () => {
  test("the workflow's OIDC token", async () => {
    expectSignedIn(await job(), `the workflow's OIDC token, in tenant ${emulator.world.tenantId}`)
  })

  test('a service principal with a secret', async () => {
    const secret = deployer().clientSecret ?? ''
    const result = await job(withoutOidc, principal({ AZURE_CLIENT_SECRET: secret }))
    expectSignedIn(result, `AZURE_CLIENT_SECRET, in tenant ${emulator.world.tenantId}`)
    expect(result.masked).toContain(secret)
  })

  test.each([
    ['', undefined],
    [' whose key has a password', 'Only-4-Tests'],
  ])('a service principal with a certificate%s', async (_, passphrase) => {
    const { cert, key } = emulator.certificate(['contoso deployer'], 'rsa')
    deployer().certificates = [cert]
    const file = join(folder, `${randomUUID()}.pem`)
    const written =
      passphrase === undefined
        ? key
        : createPrivateKey(key).export({ type: 'pkcs8', format: 'pem', cipher: 'aes-256-cbc', passphrase })
    writeFileSync(file, `${written}${cert}`)
    const env = principal({
      AZURE_CLIENT_CERTIFICATE_PATH: file,
      ...(passphrase === undefined ? {} : { AZURE_CLIENT_CERTIFICATE_PASSWORD: passphrase }),
    })
    const result = await job(withoutOidc, env)
    expectSignedIn(result, `AZURE_CLIENT_CERTIFICATE_PATH, in tenant ${emulator.world.tenantId}`)
    if (passphrase !== undefined) expect(result.masked).toContain(passphrase)
  })

  test('a certificate that is not registered fails with the text of Entra', async () => {
    const { cert, key } = emulator.certificate(['another app'], 'rsa')
    const file = join(folder, `${randomUUID()}.pem`)
    writeFileSync(file, key + cert)
    const failure = onlyFailure(await job(withoutOidc, principal({ AZURE_CLIENT_CERTIFICATE_PATH: file })))
    expect(failure.detail).toContain('AADSTS700027')
    expect(failure.detail).toContain('not registered')
  })

  test('workload identity', async () => {
    const { ACTIONS_ID_TOKEN_REQUEST_URL: url = '', ACTIONS_ID_TOKEN_REQUEST_TOKEN: token = '' } = emulator.env
    const file = join(folder, `${randomUUID()}.jwt`)
    writeFileSync(file, await federatedToken(url, token))
    const result = await job(withoutOidc, principal({ AZURE_FEDERATED_TOKEN_FILE: file }))
    expectSignedIn(result, `workload identity (AZURE_FEDERATED_TOKEN_FILE), in tenant ${emulator.world.tenantId}`)
  })

  test("az's session, for Azure and for the database", async () => {
    const bin = await azOnPath({ signedIn: true })
    const result = await job({ ...withoutOidc, part: 'all' }, { PATH: bin })
    expectSignedIn(result, "az's session (azure/login)")
    expect(result.log).toContain(`as "${deployerName}"`)
  })

  test("az's session that is ten minutes old: the failure names the cause, and inputs that need no session", async () => {
    const bin = mkdtempSync(join(folder, 'bin-'))
    const tokens = { [emulator.url]: await emulator.issueToken(deployer().objectId, emulator.url) }
    const signedInAt = Date.now() - 600_000
    installAz(bin, { tenantId: emulator.world.tenantId, tokens, signedInAt, cached: [] })
    const failure = onlyFailure(await job(withoutOidc, { PATH: bin }))
    expect(failure.code).toBe('az-session-too-old')
    expect(failure.fix).toMatch(/`tenant-id` and `client-id`.*azure\/login/)
  })

  test("the managed identity of the runner's machine", async () => {
    const header = randomUUID()
    const requested: string[] = []
    const endpoint = createServer(async (request, response) => {
      const url = new URL(request.url ?? '', 'http://localhost')
      const resource = url.searchParams.get('resource') ?? ''
      requested.push(resource)
      if (request.headers['x-identity-header'] !== header) return response.writeHead(403).end()
      const { token, expiresAt } = await emulator.issueToken(deployer().objectId, resource)
      const body = {
        access_token: token,
        expires_on: String(Math.floor(expiresAt.getTime() / 1000)),
        resource,
        token_type: 'Bearer',
      }
      return response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body))
    })
    await new Promise<void>((resolve) => endpoint.listen(0, '127.0.0.1', resolve))
    try {
      const { port } = endpoint.address() as AddressInfo
      const env = { IDENTITY_ENDPOINT: `http://127.0.0.1:${port}/msi/token`, IDENTITY_HEADER: header }
      expectSignedIn(await job(withoutOidc, env), "the runner's managed identity")
      expect(requested.length).toBeGreaterThan(0)
    } finally {
      endpoint.close()
    }
  })

  test.each([
    ['no az at all', () => ''],
    ['an az without a session', () => azOnPath({ signedIn: false })],
  ])('none, with %s: one message lists the ways, immediately', async (_, bin) => {
    const path = await bin()
    const result = await job(withoutOidc, path === '' ? {} : { PATH: path })
    const failure = onlyFailure(result)
    expect(failure.code).toBe('no-login')
    for (const way of ['tenant-id', 'client-id', 'id-token: write', 'azure/login', 'AZURE_CLIENT_SECRET'])
      expect(failure.fix).toContain(way)
    // The run does not wait and does not retry.
    expect(result.log).not.toMatch(/again in|waiting/)
    expect(result.report.durationMs).toBeLessThan(10_000)
  })
})

/** A token of the workflow, as a token file contains it. */
async function federatedToken(url: string, requestToken: string): Promise<string> {
  trustEmulator()
  const answer = await fetch(`${url}&audience=${encodeURIComponent(oidcAudience)}`, {
    headers: { authorization: `Bearer ${requestToken}` },
  })
  return ((await answer.json()) as { value: string }).value
}

/** This process trusts the emulator from here on, as a job does by NODE_EXTRA_CA_CERTS. */
function trustEmulator(): void {
  setDefaultCACertificates([...getCACertificates('default'), readFileSync(emulator.caFile, 'utf8')])
}

describe("Entra's refusals, through the SDK", () => {
  const subject = 'repo:contoso/shop:environment:production'
  const immutable = 'repo:contoso@1234567/shop@712345678:ref:refs/heads/main'
  const usualIssuer = 'https://token.actions.githubusercontent.com'
  const usualSubject = 'repo:contoso/shop:ref:refs/heads/main'
  const usualAudience = oidcAudience

  test.each([
    ['AADSTS700213', 'another subject', 'the subject', { subject }, {}],
    ['AADSTS700213', 'a subject of the immutable form', 'the subject', { subject: immutable }, {}],
    ['AADSTS7002138', 'another case', 'the case of the letters', { subject: 'repo:Contoso/shop:ref:refs/heads/main' }, {}],
    ['AADSTS700211', 'another issuer', 'the issuer', { issuer: `${usualIssuer}/contoso` }, {}],
    ['AADSTS700212', 'another audience', 'the audience', {}, { audience: 'api://Elsewhere' }],
  ])(
    '%s, %s: the failure shows what was presented, and the command that makes it match',
    async (number, _, part, claims, inputs) => {
      Object.assign(emulator.world.github, claims)
      const failure = onlyFailure(await job(inputs))
      const presented = { issuer: usualIssuer, subject: usualSubject, audience: usualAudience, ...claims, ...inputs }
      expect(failure.code).toBe('federation-mismatch')
      expect(failure.detail).toContain(
        `presented issuer "${presented.issuer}", subject "${presented.subject}" and audience "${presented.audience}"; ${part} is not what`,
      )
      expect(failure.detail).toContain(`${number}:`)

      const { clientId = '' } = deployer()
      const [, id, parameters = ''] =
        /^az ad app federated-credential create --id (\S+) --parameters '(\{.*\})'$/.exec(failure.fix) ?? []
      expect(id).toBe(clientId)
      const created = JSON.parse(parameters) as { name: string; issuer: string; subject: string; audiences: string[] }
      expect(created).toEqual({
        name: expect.stringMatching(/^[A-Za-z0-9][A-Za-z0-9-]{2,119}$/),
        issuer: presented.issuer,
        subject: presented.subject,
        audiences: [presented.audience],
      })
      // The command creates what was missing.
      deployer().federatedCredentials?.push({ ...created, audience: created.audiences[0] ?? '' })
      expect((await job(inputs)).code).toBe(0)
    },
  )

  test('AADSTS70021, the older code of the same refusal', async () => {
    const text = 'AADSTS70021: No matching federated identity record found for presented assertion. Assertion Issuer: x.'
    emulator.world.fault = ({ plane, method }) =>
      plane === 'entra' && method === 'POST'
        ? {
            kind: 'answer',
            status: 401,
            body: JSON.stringify({ error: 'invalid_client', error_description: text, error_codes: [70021] }),
          }
        : undefined
    const failure = onlyFailure(await job())
    expect(failure.code).toBe('federation-mismatch')
    expect(failure.detail).toContain('AADSTS70021:')
    expect(failure.fix).toContain(`"subject":"${usualSubject}"`)
  })

  test('AADSTS700016, an app that the tenant does not know', async () => {
    const id = randomUUID()
    const failure = onlyFailure(await job({ 'client-id': id }))
    expect(failure.code).toBe('app-unknown')
    expect(failure.detail).toContain('AADSTS700016')
    expect(failure.fix).toContain(`az ad app show --id ${id}`)
  })

  test.each([
    ['OIDC', (tenant: string) => job({ 'tenant-id': tenant })],
    ['a secret', (tenant: string) => job(withoutOidc, principal({ AZURE_TENANT_ID: tenant, AZURE_CLIENT_SECRET: 'x' }))],
  ])('AADSTS90002, a tenant that does not exist, by %s', async (_, run) => {
    const failure = onlyFailure(await run(randomUUID()))
    expect(failure.code).toBe('tenant-unknown')
    expect(failure.detail).toContain('AADSTS90002')
    expect(failure.fix).toContain('az account show --query tenantId')
  })

  test('AADSTS700024, an expired assertion', async () => {
    emulator.world.github.tokenLifetime = -60_000
    const failure = onlyFailure(await job())
    expect(failure.code).toBe('assertion-expired')
    expect(failure.detail).toContain('AADSTS700024')
    expect(failure.fix).toContain('timedatectl')
  })

  test.each([
    ['AADSTS7000215', 'wrong', () => 'not-the-secret'],
    ['AADSTS7000222', 'expired', () => deployer().clientSecret ?? ''],
  ])('%s, a secret that is %s', async (number, what, secret) => {
    if (what === 'expired') deployer().clientSecretExpired = true
    const failure = onlyFailure(await job(withoutOidc, principal({ AZURE_CLIENT_SECRET: secret() })))
    expect(failure.code).toBe('client-secret-refused')
    expect(failure.detail).toContain(number)
    expect(failure.fix).toContain(`az ad app credential reset --id ${deployer().clientId}`)
  })

  test('the causes are logged only with debug logging', async () => {
    const result = await job({ 'client-id': randomUUID() })
    const lines = result.log.split('\n')
    const causes = lines.filter((line) => line.includes('caused by:'))
    expect(causes.length).toBeGreaterThan(0)
    for (const line of causes) expect(line).toMatch(/^::debug::app-unknown, caused by: /)
    expect(lines.filter((line) => /^\s+at .*\.js:\d+/.test(line))).toEqual([])
  })
})

describe("a job without the workflow's OIDC token", () => {
  const { GITHUB_EVENT_PATH: eventPath } = { GITHUB_EVENT_PATH: () => join(folder, `${randomUUID()}.json`) }
  const event = (name: string, actor: string, fork: boolean): Record<string, string> => {
    const file = eventPath()
    const repository = (full: string) => ({ repo: { full_name: full, fork: full !== 'contoso/shop' } })
    const pull = { head: repository(fork ? 'stranger/shop' : 'contoso/shop'), base: repository('contoso/shop') }
    writeFileSync(file, JSON.stringify(name === 'push' ? {} : { number: 7, pull_request: pull }))
    return { GITHUB_EVENT_PATH: file, GITHUB_EVENT_NAME: name, GITHUB_ACTOR: actor }
  }

  test.each([
    [
      'lacks the permission',
      'push',
      'octocat',
      false,
      /lacks the permission/,
      /permissions:\n {2}id-token: write\n {2}contents: read/,
    ],
    [
      'comes from a fork',
      'pull_request',
      'stranger',
      true,
      /pull request from a fork/,
      /head\.repo\.full_name == github\.repository/,
    ],
    [
      'comes from Dependabot',
      'pull_request',
      'dependabot[bot]',
      false,
      /Dependabot started/,
      /github\.actor != 'dependabot\[bot\]'/,
    ],
  ])('%s: the failure explains it', async (_, name, actor, fork, detail, fix) => {
    const failure = onlyFailure(await job({}, event(name, actor, fork)))
    expect(failure.code).toBe('no-oidc-token')
    expect(failure.detail).toMatch(detail)
    expect(failure.fix).toMatch(fix)
    expect(emulator.world.exchanges.filter(({ plane }) => plane === 'entra')).toEqual([])
  })

  test('because GitHub refuses it gets no advice to add a permission that it has', async () => {
    const failure = onlyFailure(await job({}, { ...emulator.env, ACTIONS_ID_TOKEN_REQUEST_TOKEN: 'stale' }))
    expect(failure.code).toBe('no-oidc-token')
    expect(failure.fix).not.toContain('permissions')
  })
})

describe('tokens in the course of a run', () => {
  afterEach(() => {
    vi.useRealTimers()
  })

  test('that live for minutes only are requested again whenever one is needed', async () => {
    emulator.world.tokenLifetime = 4 * 60_000
    expectSignedIn(await job(), "the workflow's OIDC token")
    const requested = emulator.world.exchanges.filter(({ plane, method }) => plane === 'entra' && method === 'POST')
    expect(requested.length).toBeGreaterThan(2)
  })

  test('that Resource Manager refuses are replaced by new ones', async () => {
    let refused = 0
    emulator.world.fault = ({ plane, url }) =>
      plane === 'resource-manager' && /flexibleServers\/[^/?]+\?/.test(url) && refused++ === 0
        ? {
            kind: 'answer',
            status: 401,
            body: JSON.stringify({ error: { code: 'ExpiredAuthenticationToken', message: 'over' } }),
          }
        : undefined
    expectSignedIn(await job(), "the workflow's OIDC token")
    expect(refused).toBeGreaterThan(1)
    const requested = emulator.world.exchanges.filter(({ plane, method }) => plane === 'entra' && method === 'POST')
    expect(requested).toHaveLength(2)
  })

  test('are requested with a fresh assertion each time, over more than an hour', async () => {
    trustEmulator()
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() })
    const { ACTIONS_ID_TOKEN_REQUEST_URL: url = '', ACTIONS_ID_TOKEN_REQUEST_TOKEN: requestToken = '' } = emulator.env
    const assertions: number[] = []
    const tokens = signIn({
      cloud: emulated(),
      oidc: { tenantId: emulator.world.tenantId, clientId: deployer().clientId ?? '' },
      idToken: () => {
        assertions.push(Date.now())
        return federatedToken(url, requestToken)
      },
      ambient: noLogin,
      removeVariables: () => undefined,
      log: silent,
      signal: new AbortController().signal,
    })
    const scope = `${emulator.url}/.default`
    const start = Date.now()
    const at = async (minutes: number): Promise<string> => {
      vi.setSystemTime(start + minutes * 60_000)
      return tokens.get(scope)
    }
    const first = await at(0)
    expect(claimsOf(first)['oid']).toBe(deployer().objectId)
    expect(await at(10)).toBe(first)
    expect(await at(54)).toBe(first)
    expect(assertions).toHaveLength(1)
    const second = await at(56)
    expect(second).not.toBe(first)
    expect(await at(100)).toBe(second)
    const third = await at(112)
    expect(new Set([first, second, third]).size).toBe(3)
    expect(assertions.map((time) => Math.round((time - start) / 60_000))).toEqual([0, 56, 112])
    // Concurrent calls for a token share one request.
    emulator.world.exchanges.length = 0
    await Promise.all(Array.from({ length: 5 }, () => tokens.get(`${postgresAudience}/.default`)))
    expect(emulator.world.exchanges.filter(({ plane, method }) => plane === 'entra' && method === 'POST')).toHaveLength(1)
  })

  test.each([
    ['Entra', 'entra', 'POST'],
    ["GitHub's OIDC service", 'github', 'GET'],
    ['the metadata of the cloud', 'resource-manager', 'GET'],
  ] as const)('SIGINT while %s does not answer ends the run within five seconds', async (_, plane, method) => {
    let running: Job | undefined
    let sent = 0
    emulator.world.fault = (request) => {
      if (request.plane !== plane || request.method !== method) return undefined
      if (sent === 0) {
        sent = performance.now()
        setTimeout(() => running?.child.kill('SIGINT'), 200)
      }
      return { kind: 'hang' }
    }
    running = await begun({}, emulator.env)
    const result = await running.done
    ended.push(result)
    expect(performance.now() - sent).toBeLessThan(5_000)
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'cancelled' })
  })
})

const silent: Log = { debug() {}, info() {}, result() {}, secret() {}, group: (_, body) => body() }
const noLogin: AmbientLogin = {
  tenantId: undefined,
  clientId: undefined,
  clientSecret: undefined,
  clientCertificatePath: undefined,
  clientCertificatePassword: undefined,
  federatedTokenFile: undefined,
  authorityHost: undefined,
  managedIdentity: false,
}
const emulated = (): Cloud => ({
  name: 'emulated',
  resourceManager: emulator.url,
  resourceManagerScope: `${emulator.url}/.default`,
  authority: emulator.url,
  postgresScope: `${postgresAudience}/.default`,
  postgresSuffix: '.postgres.database.azure.com',
  oidcAudience: undefined,
  wellKnown: false,
})

describe('clouds', () => {
  test.each([
    ['azurecloud', 'management.azure.com', 'login.microsoftonline.com', 'database.windows.net', 'azure.com', ''],
    [
      'azureusgovernment',
      'management.usgovcloudapi.net',
      'login.microsoftonline.us',
      'database.usgovcloudapi.net',
      'usgovcloudapi.net',
      'USGov',
    ],
    [
      'azurechinacloud',
      'management.chinacloudapi.cn',
      'login.chinacloudapi.cn',
      'database.chinacloudapi.cn',
      'chinacloudapi.cn',
      'China',
    ],
  ])('%s', (name, resourceManager, authority, postgres, suffix, audience) => {
    const cloud = knownCloud(name)
    expect(cloud).toMatchObject({
      resourceManager: `https://${resourceManager}`,
      resourceManagerScope: `https://${resourceManager}/.default`,
      authority: `https://${authority}`,
      postgresScope: `https://ossrdbms-aad.${postgres}/.default`,
      postgresSuffix: `.postgres.database.${suffix}`,
      oidcAudience: `api://AzureADTokenExchange${audience}`,
      wellKnown: true,
    })
    // The URL of its Resource Manager means the same cloud.
    expect(knownCloud(`https://${resourceManager}`)).toBe(cloud)
  })

  const document = {
    name: 'Private',
    resourceManager: 'https://management.private.example/',
    authentication: { loginEndpoint: 'https://login.private.example/', audiences: ['https://management.private.example/'] },
    ossrDbmsResourceId: 'https://ossrdbms.private.example',
    suffixes: { postgresqlServerEndpoint: 'postgres.private.example' },
  }
  const described = (answer: unknown): Promise<Cloud> => {
    const http: Http = { get: async () => answer, list: async () => undefined }
    return discoverCloud('https://management.private.example', http, new AbortController().signal)
  }
  const own = {
    name: 'Private',
    resourceManager: 'https://management.private.example',
    resourceManagerScope: 'https://management.private.example/.default',
    authority: 'https://login.private.example',
    postgresScope: 'https://ossrdbms.private.example/.default',
    postgresSuffix: '.postgres.private.example',
    wellKnown: false,
  }

  test('a private cloud is read from its own description: a document, an older one, or one in an array', async () => {
    expect(await described(document)).toMatchObject(own)
    const { ossrDbmsResourceId, ...older } = document
    expect(await described({ ...older, ossrdbmsResourceId: ossrDbmsResourceId })).toMatchObject(own)
    const other = {
      ...document,
      resourceManager: 'https://management.azure.com/',
      ossrDbmsResourceId: 'https://elsewhere.example',
    }
    expect(await described([other, document])).toMatchObject(own)
  })

  test.each([
    [
      'a login over http',
      { ...document, authentication: { ...document.authentication, loginEndpoint: 'http://login.private.example' } },
    ],
    ['a Resource Manager over http', { ...document, resourceManager: 'http://management.other.example' }],
    ['no login', { ...document, authentication: undefined }],
    ['nothing at all', null],
  ])('a description with %s is refused', async (_, answer) => {
    await expect(described(answer)).rejects.toMatchObject({ code: 'cloud-metadata', reason: 'azure' })
  })

  test('a run in a private cloud that answers with an array; no token goes where a description points over http', async () => {
    let answer: (text: string) => unknown = (text) => [
      { name: 'other', resourceManager: 'https://other.example' },
      JSON.parse(text),
    ]
    const text = JSON.stringify({
      resourceManager: `${emulator.url}/`,
      authentication: { loginEndpoint: emulator.url, audiences: [`${emulator.url}/`] },
      ossrdbmsResourceId: postgresAudience,
      suffixes: { postgresqlServerEndpoint: 'postgres.database.azure.com' },
    })
    emulator.world.fault = ({ url }) =>
      url.startsWith('/metadata/') ? { kind: 'answer', status: 200, body: JSON.stringify(answer(text)) } : undefined
    expectSignedIn(await job(), "the workflow's OIDC token")

    answer = () => JSON.parse(text.replace(`"loginEndpoint":"${emulator.url}"`, `"loginEndpoint":"http://localhost:1"`))
    emulator.world.exchanges.length = 0
    const result = await job()
    expect(codesOf(result)).toContain('cloud-metadata')
    expect(result.outputs['failure-reason']).toBe('azure')
    expect(emulator.world.exchanges.filter(({ plane }) => plane === 'entra')).toEqual([])
  })

  test('an operation whose status lies on a foreign host gets no token there', async () => {
    const seen: (string | undefined)[] = []
    const foreign = createHttpsServer(emulator.certificate(['localhost']), (request, response) => {
      seen.push(request.headers.authorization)
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ status: 'Succeeded' }))
    })
    await new Promise<void>((resolve) => foreign.listen(0, '127.0.0.1', resolve))
    try {
      const { port } = foreign.address() as AddressInfo
      const elsewhere = `https://localhost:${port}/subscriptions/x/operations/1?api-version=2025-08-01`
      for (const header of ['azure-asyncoperation', 'location']) {
        emulator.world.fault = ({ plane, method }) =>
          plane === 'resource-manager' && method === 'PATCH'
            ? { kind: 'answer', status: 202, headers: { [header]: elsewhere }, body: '' }
            : undefined
        const result = await job({ mode: 'apply' })
        expect(codesOf(result), result.log).toContain('foreign-host')
        expect(result.outputs['failure-reason']).toBe('azure')
      }
      expect(seen.filter((header) => header !== undefined)).toEqual([])
    } finally {
      foreign.close()
    }
  })
})
