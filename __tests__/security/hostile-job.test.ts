/**
 * What an earlier step of the job left behind: variables that PostgreSQL's clients, proxies and Node read, a folder that it
 * prepared, the file of the event. None of it decides which identity the action uses, where a token goes, what a gate reads or
 * which file is written.
 */
import { randomUUID } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer as createHttpServer, type Server as HttpServer } from 'node:http'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createSecureContext, TLSSocket } from 'node:tls'
import { afterAll, beforeEach, describe, expect, test } from 'vitest'
import { createAuthority } from '../../emulator/certificates.ts'
import { deployerName } from '../../emulator/default-world.ts'
import { type JobResult, runJob } from '../../emulator/runner.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import {
  accountNamed,
  begin,
  codesOf,
  giveIdentity,
  giveRoles,
  onlyService,
  principalNamed,
  serverOf,
  settingsOf,
  usual,
  workWithKeys,
} from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app'] })
const folder = mkdtempSync(join(tmpdir(), 'aipg-job-before-'))
const authority = await createAuthority(folder)
const jobs: JobResult[] = []
const servers: (Server | HttpServer)[] = []

beforeEach(async () => {
  await begin(emulator)
  giveIdentity(emulator)
  serverOf(emulator).configurations['azure.extensions'] = { value: 'AZURE_AI', source: 'user-override' }
  await emulator.refresh()
})
afterAll(async () => {
  await Promise.all(jobs.map((job) => job.remove()))
  for (const server of servers) server.close()
  rmSync(folder, { recursive: true, force: true })
})

interface Before {
  /** What an earlier step wrote into GITHUB_ENV. */
  readonly exported?: Record<string, string>
  readonly inputs?: Record<string, string>
  /** The runner's own variables. */
  readonly env?: Record<string, string>
}

/** Runs the action for one service and one database. */
async function run({ exported = {}, inputs = {}, env = {} }: Before): Promise<JobResult> {
  const all = { ...emulator.inputs, ...onlyService(emulator, 'openai', 'app'), ...usual, ...inputs }
  const result = await runJob({ inputs: all, env: { ...emulator.env, ...env }, exported })
  jobs.push(result)
  return result
}

/** Starts a server on a free port of this machine; gives the port. */
async function listening(server: Server | HttpServer): Promise<number> {
  servers.push(server)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return (server.address() as AddressInfo).port
}

/** Everything that was printed, without the commands that mask, which the runner does not show. */
const shownOf = ({ raw }: JobResult): string => raw.replaceAll(/^::add-mask::.*$/gm, '')
const token = /eyJ[\w-]{10,}\.[\w-]{10,}/
const withoutOidc = { 'tenant-id': '', 'client-id': '', audience: '' }
const look = { mode: 'check', part: 'azure', 'fail-on-drift': 'false' }

describe("variables that PostgreSQL's clients read", () => {
  test.each<[string, Record<string, string>]>([
    ['a role to work as', { PGOPTIONS: '-c role=pg_signal_backend' }],
    ['limits and access mode', { PGOPTIONS: '-c default_transaction_read_only=on -c statement_timeout=1 -c lock_timeout=1' }],
    ['a path of schemas', { PGOPTIONS: '--search_path=evil --quote_all_identifiers=on' }],
    ['a replication session, which runs no transactions', { PGREPLICATION: 'database' }],
    ['TLS without verification', { PGSSLMODE: 'no-verify' }],
    ['TLS that begins at once', { PGSSLNEGOTIATION: 'direct' }],
    ['another driver', { NODE_PG_FORCE_NATIVE: '1' }],
    ['another encoding and name', { PGCLIENT_ENCODING: 'SJIS', PGAPPNAME: 'someone', PGBINARY: '1' }],
  ])('%s: the run is as without them', async (_, exported) => {
    giveRoles(emulator)
    const result = await run({ exported })
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect((await settingsOf(emulator, 'app'))['azure_openai.auth_type']).toBe('managed-identity')
  })

  test('another server, database, user and password, without TLS: nothing connects there', async () => {
    const received: string[] = []
    const port = await listening(createServer((socket) => void received.push(`from ${socket.remotePort}`)))
    giveRoles(emulator)
    const exported = {
      PGHOST: '127.0.0.1',
      PGHOSTADDR: '127.0.0.1',
      PGPORT: String(port),
      PGDATABASE: 'postgres',
      PGUSER: 'someone',
      PGPASSWORD: 'x',
      PGSSLMODE: 'disable',
      PGSERVICE: 'planted',
      PGPASSFILE: join(folder, 'pgpass'),
      DATABASE_URL: `postgres://someone:x@127.0.0.1:${port}/app?sslmode=disable`,
    }
    const result = await run({ exported })
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(received).toEqual([])
  })
})

describe('a secret that another step invented', () => {
  const names = ['verification', 'azure_openai.auth_type', 'Microsoft.DBforPostgreSQL']

  test.each(names)('AZURE_CLIENT_SECRET=%s hides nothing in a job that signs in with its OIDC token', async (word) => {
    const result = await run({ exported: { AZURE_CLIENT_SECRET: word, AZURE_CLIENT_CERTIFICATE_PASSWORD: word } })
    expect(result.masked).not.toContain(word)
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(result.report.server.id).toBe(emulator.inputs['server'])
    expect(JSON.stringify(result.report)).not.toContain('***')
  })

  test('a secret that is spelled like a reason leaves the reason readable for gates', async () => {
    const inputs = { part: 'database', 'verify-timeout-minutes': '0', 'github-token': 'verification' }
    const result = await run({ inputs })
    expect(result.masked).toContain('verification')
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'verification', verified: 'false' })
    expect(result.report).toMatchObject({ result: 'failed', failureReason: 'verification' })
  })
})

describe('variables that turn on debug output of Node and its libraries', () => {
  test('NODE_DEBUG prints no token and no key', async () => {
    const { key1 } = accountNamed(emulator.world, 'contoso-openai').keys
    await workWithKeys(emulator, 'app')
    const talk = 'http,https,http2,tls,net,stream,child_process,timer,module,esm,undici,fetch,websocket,fs,url'
    const inputs = { 'auth-type': 'subscription-key', 'openai-key': key1, 'drift-issue': 'true' }
    const result = await run({
      exported: { NODE_DEBUG: talk, NODE_DEBUG_NATIVE: 'tls', DEBUG: '*', RUNNER_DEBUG: '1' },
      inputs: { ...inputs, 'github-token': emulator.world.github.token ?? '' },
    })
    expect(result.outputs['result'], result.log).toMatch(/in-sync|changed/)
    expect(shownOf(result).length).toBeGreaterThan(20_000)
    expect(token.exec(shownOf(result))?.[0]).toBeUndefined()
    expect(shownOf(result)).not.toContain(key1)
    expect(shownOf(result)).not.toContain(emulator.world.github.token)
  })
})

describe('a proxy', () => {
  /** Answers every tunnel as the server behind it, with a certificate of an untrusted authority. */
  async function between() {
    const received: string[] = []
    const tunnels: string[] = []
    const context = createSecureContext(authority.issue(['localhost', '127.0.0.1']))
    const proxy = createHttpServer((request, response) => {
      received.push(`${request.method} ${request.url} ${JSON.stringify(request.headers)}`)
      response.writeHead(502).end()
    })
    proxy.on('connect', ({ url = '' }, socket: Socket) => {
      tunnels.push(url)
      socket.on('error', () => undefined).write('HTTP/1.1 200 Connection established\r\n\r\n')
      const secure = new TLSSocket(socket, { isServer: true, secureContext: context })
      secure.on('error', () => undefined).on('data', (data) => received.push(String(data)))
    })
    return { url: `http://127.0.0.1:${await listening(proxy)}`, received, tunnels }
  }

  test.each([
    ['HTTPS_PROXY', { HTTPS_PROXY: '' }],
    ['https_proxy', { https_proxy: '' }],
    ['ALL_PROXY', { ALL_PROXY: '' }],
    ['NODE_USE_ENV_PROXY', { NODE_USE_ENV_PROXY: '1', HTTPS_PROXY: '', HTTP_PROXY: '' }],
  ])('%s, which opens the TLS of its tunnels: it receives no login, and the run fails immediately', async (_, variables) => {
    const { url, received, tunnels } = await between()
    const exported = Object.fromEntries(Object.entries(variables).map(([name, value]) => [name, value || url]))
    const inputs = { ...look, 'drift-issue': 'true', 'github-token': 'a-github-token-0123456789' }
    const result = await run({ exported, inputs })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false' })
    expect(tunnels.length).toBeGreaterThan(0)
    expect(received).toEqual([])
    expect(result.endedAt - result.startedAt).toBeLessThan(30_000)
  })

  test.each(['HTTP_PROXY', 'http_proxy', 'HTTPS_PROXY', 'ALL_PROXY'])(
    "%s does not receive the token of the runner's managed identity, which comes without TLS",
    async (variable) => {
      const { url, received } = await between()
      const identity = createHttpServer(async (request, response) => {
        const resource = new URL(request.url ?? '', 'http://localhost').searchParams.get('resource') ?? ''
        const { objectId } = principalNamed(emulator.world, deployerName)
        const issued = await emulator.issueToken(objectId, resource)
        const expires = String(Math.floor(issued.expiresAt.getTime() / 1_000))
        const body = { access_token: issued.token, expires_on: expires, resource, token_type: 'Bearer' }
        response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body))
      })
      const exported = {
        PATH: join(folder, 'empty'),
        IDENTITY_ENDPOINT: `http://127.0.0.1:${await listening(identity)}/msi/token`,
        IDENTITY_HEADER: randomUUID(),
        [variable]: url,
        NO_PROXY: 'localhost',
      }
      const result = await run({ env: exported, inputs: { ...look, ...withoutOidc } })
      expect(received).toEqual([])
      expect(result.log).toContain("by the runner's managed identity")
      expect(result.code).toBe(0)
    },
  )

  test('that refuses: the password in its URL is shown nowhere', async () => {
    const proxy = createHttpServer()
    proxy.on('connect', (_, socket) => socket.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n'))
    const password = `Pr0xy-${randomUUID()}`
    const url = `http://someone:${password}@127.0.0.1:${await listening(proxy)}`
    const result = await run({ exported: { HTTPS_PROXY: url }, inputs: look })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false' })
    expect(shownOf(result) + JSON.stringify(result.report) + result.summary).not.toContain(password)
  })
})

describe('a folder that another step prepared in RUNNER_TEMP', () => {
  test('links in it are not followed, files in it stay, and the report is that of the run', async () => {
    const [temporary, elsewhere] = [join(folder, randomUUID()), join(folder, randomUUID())]
    for (const path of [temporary, elsewhere]) mkdirSync(path)
    const victim = join(folder, 'victim')
    writeFileSync(victim, 'untouched')
    symlinkSync(elsewhere, join(temporary, 'azure-ai-postgres-identity'))
    const planted = ['report.json', 'report-.json', 'report-00000000-0000-0000-0000-000000000000.json', 'report.json.new']
    for (const name of planted) symlinkSync(victim, join(elsewhere, name))
    giveRoles(emulator)
    const result = await run({ env: { RUNNER_TEMP: temporary } })
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(result.report).toMatchObject({ result: 'changed', verified: true })
    expect(readFileSync(victim, 'utf8')).toBe('untouched')
    expect(planted).not.toContain(result.outputs['report-path']?.split('/').at(-1))
    expect(readdirSync(elsewhere).length).toBe(planted.length + 1)
  })
})

describe('the file of the event', () => {
  const head = { repo: { full_name: 'contoso/shop' } }
  const events: [string, string, string?][] = [
    ['null', 'null'],
    ['a number', '7'],
    ['a list', '[{"pull_request":{"number":1}}]'],
    ['no pull request', '{"pull_request":null}'],
    ['a pull request that is a text', '{"pull_request":"1"}'],
    ['the number of a deleted fork', JSON.stringify({ pull_request: { number: 1, head: { repo: null }, base: head } }), '1'],
    ['a number that is a path', JSON.stringify({ pull_request: { number: '1/../../../../other/issues/1', head, base: head } })],
    ['a number that is a query', JSON.stringify({ pull_request: { number: '1?x=', head, base: head } })],
    ['a number below zero', JSON.stringify({ pull_request: { number: -1, head, base: head } })],
    ['a number that is an object', JSON.stringify({ pull_request: { number: { toString: 1 }, head, base: head } })],
    ['a number with a fraction', JSON.stringify({ pull_request: { number: 1.5, head, base: head } })],
    ['a prototype', '{"__proto__":{"pull_request":{"number":1}}}'],
  ]

  /** Paths below the API that the action requested with the token. */
  const requested = (): string[] =>
    emulator.world.exchanges.flatMap(({ plane, url }) =>
      plane === 'github' ? (/\/github\/api(\/repos[^?]*)/.exec(url)?.[1] ?? []) : [],
    )

  test.each(events)('%s: the comment goes to the pull request of that number, or nowhere', async (_, text, number) => {
    const path = join(folder, `${randomUUID()}.json`)
    writeFileSync(path, text)
    const inputs = { ...look, 'pull-request-comment': 'true', 'github-token': emulator.world.github.token ?? '' }
    const result = await run({ env: { GITHUB_EVENT_PATH: path }, inputs })
    expect(result.outputs, result.log).toMatchObject({ result: 'drift' })
    if (number === undefined) {
      expect(codesOf(result)).toContain('pull-request-absent')
      expect(requested()).toEqual([])
    } else {
      const own = ['/repos/contoso/shop', `/repos/contoso/shop/issues/${number}/comments`]
      expect(requested().filter((each) => !own.includes(each))).toEqual([])
    }
  })

  test.each([
    ['a device without end', '/dev/zero'],
    ['a folder', tmpdir()],
    ['nothing', join(folder, 'absent')],
  ])('%s instead of the file does not stop the run', async (_, path) => {
    const result = await run({ env: { GITHUB_EVENT_PATH: path }, inputs: look })
    expect(result.outputs, result.log).toMatchObject({ result: 'drift' })
  })
})

describe('names that look like connection strings', () => {
  test('a database name that reads as a URL or as options is used as a name', async () => {
    const received: string[] = []
    const port = await listening(createServer((socket) => void received.push(`from ${socket.remotePort}`)))
    giveRoles(emulator)
    const databases = [
      `postgres://127.0.0.1:${port}/app?sslmode=no-verify`,
      `app host=127.0.0.1 port=${port} sslmode=disable`,
      `socket:/tmp?db=app&host=127.0.0.1:${port}`,
      'app\\000user\\000azuresu',
    ]
    const inputs = { mode: 'check', databases: databases.join('\n'), 'fail-on-drift': 'false' }
    const result = await run({ inputs })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', verified: 'false' })
    expect(new Set(codesOf(result))).toContain('database-not-found')
    expect(received).toEqual([])
  })
})
