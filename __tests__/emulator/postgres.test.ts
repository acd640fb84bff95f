import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, realpathSync, statSync } from 'node:fs'
import https from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { from as copyFrom } from 'pg-copy-streams'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { type Authority, createAuthority } from '../../emulator/certificates.ts'
import { defaultWorld } from '../../emulator/default-world.ts'
import { type Guard, guard } from '../../emulator/guardian.ts'
import { type Postgres, passwordLogin, startPostgres } from '../../emulator/postgres.ts'
import type { Server, SqlFault, Statement, Switches, World } from '../../emulator/world.ts'

interface ReceivedRequest {
  method: string
  host: string
  url: string
  headers: Record<string, string | string[] | undefined>
  body: unknown
}

interface Machine {
  world: World
  server: Server
  folder: string
  authority: Authority
  postgres: Postgres
  /** The requests that the services received, including the identity endpoint. */
  requests: ReceivedRequest[]
  /** Connections to the services. */
  callers: Set<object>
  /** How the services answer; `undefined`: never. */
  answer: (request: ReceivedRequest) => { status?: number; body: unknown } | undefined
  stop(): Promise<void>
}

const openAi = 'https://contoso.openai.azure.com'
const language = 'https://contoso.cognitiveservices.azure.com'
const everyone = { everyone: { startIpAddress: '0.0.0.0', endIpAddress: '255.255.255.255' } }
const deployer = { objectId: '11111111-1111-4111-8111-111111111111', principalName: 'Déploy "Bot" O\'Neil' }

function good({ url, headers }: ReceivedRequest): { status?: number; body: unknown } {
  if (url.startsWith('/identity/token')) {
    if (headers['x-identity-header'] !== 'identity-secret') return { status: 403, body: {} }
    return { body: { access_token: 'identity-token' } }
  }
  if (url.includes('/embeddings')) return { body: { data: [{ index: 0, embedding: [0.5, -0.25] }] } }
  if (url.includes(':analyze-text')) {
    const confidenceScores = { positive: 0.9, neutral: 0.1, negative: 0 }
    return { body: { results: { documents: [{ id: '1', sentiment: 'positive', confidenceScores }], errors: [] } } }
  }
  if (url.includes('/translate')) {
    return { body: [{ detectedLanguage: { language: 'en', score: 1 }, translations: [{ text: 'Hola', to: 'es' }] }] }
  }
  return { body: { scored: true } }
}

async function startMachine(version: string, shape: (world: World, server: Server) => void = () => {}): Promise<Machine> {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), 'pg-test-')))
  const guardian: Guard = guard(folder)
  const authority = await createAuthority(folder)
  const requests: ReceivedRequest[] = []
  const services = https.createServer(
    authority.issue(['*.openai.azure.com', '*.cognitiveservices.azure.com', '*.westeurope.inference.ml.azure.com', 'localhost']),
    async (request, response) => {
      const chunks: Buffer[] = []
      for await (const chunk of request) chunks.push(chunk)
      const text = Buffer.concat(chunks).toString()
      const { method = '', url = '', headers } = request
      const one: ReceivedRequest = { method, host: headers.host ?? '', url, headers, body: text ? JSON.parse(text) : undefined }
      requests.push(one)
      const answer = machine.answer(one)
      if (!answer) return
      response.statusCode = answer.status ?? 200
      response.end(typeof answer.body === 'string' ? answer.body : JSON.stringify(answer.body))
    },
  )
  const callers = new Set<object>()
  services.on('connection', (socket) => {
    callers.add(socket)
    socket.on('close', () => callers.delete(socket))
  })
  services.listen(0, '127.0.0.1')
  await once(services, 'listening')

  const world = defaultWorld()
  const server = world.servers[0]!
  server.version = version
  server.administrators = [{ ...deployer, principalType: 'ServicePrincipal' }]
  server.firewallRules = { ...everyone }
  server.configurations = { 'azure.extensions': { value: 'AZURE_AI,vector', source: 'user-override' } }
  shape(world, server)
  const postgres = await startPostgres({
    world,
    server,
    folder,
    authority,
    servicesPort: (services.address() as AddressInfo).port,
    identitySecret: 'identity-secret',
    databases: ['app', 'sales 2026'],
  })
  const machine: Machine = {
    world,
    server,
    folder,
    authority,
    postgres,
    requests,
    callers,
    answer: good,
    async stop() {
      await postgres.stop()
      services.closeAllConnections()
      services.close()
      await guardian.release()
    },
  }
  return machine
}

const clients: pg.Client[] = []

async function connect(machine: Machine, config: pg.ClientConfig = {}): Promise<pg.Client> {
  const client = new pg.Client({
    host: machine.postgres.host,
    port: machine.postgres.port,
    database: 'app',
    ...passwordLogin,
    ssl: { ca: machine.authority.caPem, servername: machine.server.fullyQualifiedDomainName },
    ...config,
  })
  client.on('error', () => {})
  clients.push(client)
  await client.connect()
  return client
}

/** The error of a statement or a connection, as `SQLSTATE text`. */
async function failing(promise: Promise<unknown>): Promise<string> {
  const outcome = await promise.then(
    () => undefined,
    (error: Error & { code?: string }) => error,
  )
  if (!outcome) throw new Error('it succeeded')
  return `${outcome.code} ${outcome.message}`
}

async function value(client: pg.Client, sql: string, parameters: unknown[] = []): Promise<unknown> {
  const { rows } = await client.query(sql, parameters)
  return Object.values(rows[0] ?? {})[0]
}

/** azure_ai afresh in `app`, with these settings. */
async function prepare(machine: Machine, settings: Record<string, string> = {}, version = ''): Promise<void> {
  await machine.postgres.query('app', 'DROP EXTENSION IF EXISTS azure_ai')
  await machine.postgres.query('app', `CREATE EXTENSION azure_ai ${version ? `VERSION '${version}'` : ''}`)
  for (const [key, setting] of Object.entries(settings)) {
    await machine.postgres.query('app', 'SELECT azure_ai.set_setting($1, $2)', [key, setting])
  }
}

const byKey = {
  'azure_openai.auth_type': 'subscription-key',
  'azure_openai.endpoint': openAi,
  'azure_openai.subscription_key': 'stored-key-1',
}
const byIdentity = { 'azure_openai.auth_type': 'managed-identity', 'azure_openai.endpoint': `${openAi}/` }
const embed = "SELECT azure_openai.create_embeddings('small', 'a b c'::text, timeout_ms => 5000)"

let machine: Machine
beforeAll(async () => {
  machine = await startMachine('17', (world) => {
    world.principals.push({ ...principal('22222222-2222-4222-8222-222222222222'), memberOf: [deployer.objectId] })
  })
  await machine.postgres.query('app', "CREATE ROLE reporter LOGIN PASSWORD 'reporter'")
})
afterEach(async () => {
  Object.assign(machine.world.switches, defaultWorld().switches)
  await machine.postgres.applySwitches()
  machine.answer = good
  machine.requests.length = 0
  for (const client of clients.splice(0)) await client.end().catch(() => {})
})
afterAll(() => machine?.stop())

function principal(objectId: string): World['principals'][number] {
  return { objectId, displayName: 'someone', kind: 'User' }
}

const reporter = { user: 'reporter', password: 'reporter' }

describe('a connection', () => {
  it('uses TLS with a certificate of the server name, and nothing else', async () => {
    const client = await connect(machine)
    expect(await value(client, 'SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()')).toBe(true)
    expect(await failing(connect(machine, { ssl: { ca: machine.authority.caPem, servername: 'other.example' } }))).toContain(
      'ERR_TLS_CERT_ALTNAME_INVALID',
    )
    expect(await failing(connect(machine, { ssl: false }))).toMatch(
      /^28000 no pg_hba.conf entry for host "127.0.0.1", user "pgadmin", database "app", no encryption$/,
    )
  })

  it('follows the firewall rules, and the server itself refuses', async () => {
    machine.server.firewallRules = { other: { startIpAddress: '203.0.113.7', endIpAddress: '203.0.113.9' } }
    await machine.postgres.applyFirewall()
    expect(await failing(connect(machine))).toBe(
      '28000 no pg_hba.conf entry for host "127.0.0.1", user "pgadmin", database "app", SSL encryption',
    )
    machine.server.firewallRules = { mine: { startIpAddress: '126.255.255.250', endIpAddress: '127.0.0.6' } }
    await machine.postgres.applyFirewall()
    expect(await value(await connect(machine), 'SELECT 1')).toBe(1)
    machine.server.network.publicNetworkAccess = 'Disabled'
    await machine.postgres.applyFirewall()
    expect(await failing(connect(machine))).toContain('no pg_hba.conf entry')
    machine.server.network.publicNetworkAccess = 'Enabled'
    machine.server.firewallRules = { ...everyone }
    await machine.postgres.applyFirewall()
  })

  it('is dropped silently with the switch, and opens with a rule', async () => {
    machine.world.switches.silentFirewall = true
    machine.server.firewallRules = {}
    await machine.postgres.applyFirewall()
    expect(await failing(connect(machine, { connectionTimeoutMillis: 500 }))).toContain('timeout expired')
    machine.server.firewallRules = { ...everyone }
    await machine.postgres.applyFirewall()
    expect(await value(await connect(machine), 'SELECT 1')).toBe(1)
  })

  it('cannot reach the database of the platform', async () => {
    expect(await failing(connect(machine, { database: 'azure_maintenance' }))).toContain('pg_hba.conf rejects connection')
  })

  it('accepts an Entra token as the password of the role of the principal, and of its groups, until it expires', async () => {
    const user = deployer.principalName
    const login = (password: string, name = user) => connect(machine, { user: name, password })
    const token = `eyJ.${'x'.repeat(1800)}.sig`
    expect(await failing(login(token))).toMatch(/^28P01/)
    await machine.postgres.acceptToken(deployer.objectId.toUpperCase(), token, new Date(Date.now() + 60_000))
    expect(await value(await login(token), 'SELECT current_user::text')).toBe(user)
    expect(await failing(login(`${token}x`))).toMatch(/^28P01/)
    await machine.postgres.acceptToken('22222222-2222-4222-8222-222222222222', 'of-a-member', new Date(Date.now() + 60_000))
    await login('of-a-member')
    await machine.postgres.acceptToken(deployer.objectId, token, new Date(Date.now() - 1000))
    expect(await failing(login(token))).toMatch(/^28P01/)

    await machine.postgres.query(
      'app',
      `CREATE ROLE labelled LOGIN; COMMENT ON ROLE labelled IS 'aadauth,oid=abc-1,type=service'`,
    )
    await machine.postgres.acceptToken('ABC-1', 'labelled-token', new Date(Date.now() + 60_000))
    await login('labelled-token', 'labelled')
    expect(readFileSync(machine.postgres.logFile, 'utf8')).not.toContain('labelled-token')
  })

  it('has the rights of azure_pg_admin for administrators, who are no superusers, until they are removed', async () => {
    const added = {
      objectId: '33333333-3333-4333-8333-333333333333',
      principalName: 'Später dazu',
      principalType: 'User' as const,
    }
    await machine.postgres.acceptToken(added.objectId, 'early', new Date(Date.now() + 60_000))
    machine.server.administrators.push(added)
    await machine.postgres.applyAdministrators()
    const client = await connect(machine, { user: added.principalName, password: 'early' })
    expect(
      (
        await client.query(`SELECT pg_has_role(current_user, 'azure_pg_admin', 'member') AS admin,
          pg_has_role(current_user, 'azure_ai_settings_manager', 'member') AS manager, rolsuper FROM pg_roles WHERE rolname = current_user`)
      ).rows,
    ).toEqual([{ admin: true, manager: true, rolsuper: false }])
    machine.server.administrators.pop()
    await machine.postgres.applyAdministrators()
    expect(await failing(connect(machine, { user: added.principalName, password: 'early' }))).toMatch(/^28000/)
  })
})

describe('CREATE EXTENSION', () => {
  it('is for members of azure_pg_admin and for what is on the allow-list', async () => {
    await machine.postgres.query('sales 2026', 'DROP EXTENSION IF EXISTS azure_ai')
    const ordinary = await connect(machine, { ...reporter, database: 'sales 2026' })
    expect(await failing(ordinary.query('CREATE EXTENSION azure_ai'))).toBe(
      '42501 Only members of "azure_pg_admin" are allowed to use CREATE EXTENSION',
    )
    const admin = await connect(machine, { database: 'sales 2026' })
    machine.server.configurations['azure.extensions'] = { value: 'vector', source: 'user-override' }
    await machine.postgres.applyConfigurations()
    await admin.query("SET azure.extensions = 'azure_ai'")
    expect(await failing(admin.query('CREATE EXTENSION azure_ai'))).toBe(
      '0A000 extension "azure_ai" is not allow-listed for users in Azure Database for PostgreSQL',
    )

    machine.world.delays.allowListPropagation = 3_000
    machine.server.configurations['azure.extensions'] = { value: 'vector,Azure_AI', source: 'user-override' }
    await machine.postgres.applyConfigurations()
    machine.world.delays.allowListPropagation = 0
    expect(await failing(admin.query('CREATE EXTENSION azure_ai'))).toContain('not allow-listed')
    await sleep(3_050)
    await admin.query('CREATE EXTENSION azure_ai')
    expect(await value(await connect(machine), 'SHOW azure.extensions')).toBe('vector,Azure_AI')
  })

  it('can be followed by ALTER and DROP of another administrator', async () => {
    await prepare(machine, {}, '1.0.0')
    await machine.postgres.acceptToken(deployer.objectId, 'token', new Date(Date.now() + 60_000))
    const other = await connect(machine, { user: deployer.principalName, password: 'token' })
    expect(await value(other, 'SELECT azure_ai.version()')).toBe('1.0.0')
    await other.query('ALTER EXTENSION azure_ai UPDATE')
    expect(await value(other, 'SELECT azure_ai.version()')).toBe('1.3.1')
    await other.query('DROP EXTENSION azure_ai')
    await other.query('CREATE EXTENSION azure_ai')
    const ordinary = await connect(machine, reporter)
    expect(await failing(ordinary.query('DROP EXTENSION azure_ai'))).toMatch(/^42501/)
    await (await connect(machine)).query('DROP EXTENSION azure_ai')
  })
})

describe('settings', () => {
  it('are for members of azure_ai_settings_manager, by known names', async () => {
    await prepare(machine)
    const ordinary = await connect(machine, reporter)
    for (const sql of [
      "SELECT azure_ai.get_setting('azure_openai.endpoint')",
      "SELECT azure_ai.set_setting('azure_openai.endpoint', 'x')",
      'SELECT * FROM azure_ai.settings',
      "SELECT azure_ai_emulator.request('a', 'b', '{}', '{}', '{}', '{}', 1, true, 1, 1)",
    ]) {
      expect(await failing(ordinary.query(sql))).toMatch(/^42501 permission denied/)
    }
    const admin = await connect(machine)
    expect(await failing(admin.query('TABLE azure_ai.settings'))).toMatch(/^42501/)
    expect(await failing(admin.query("SELECT azure_ai.set_setting('azure_openai.key', 'x')"))).toContain(
      'azure_openai.key is not a valid configuration key',
    )
    await admin.query("SELECT azure_ai.set_setting('azure_openai.endpoint', 'https://a')")
    await admin.query("SELECT azure_ai.set_setting('azure_openai.endpoint', 'https://b')")
    expect(await value(admin, "SELECT azure_ai.get_setting('azure_openai.endpoint')")).toBe('https://b')
    expect(await value(admin, "SELECT azure_ai.get_setting('azure_ml.endpoint_key')")).toBeNull()
    await machine.postgres.query('app', 'GRANT azure_ai_settings_manager TO reporter')
    expect(await value(await connect(machine, reporter), "SELECT azure_ai.get_setting('azure_openai.endpoint')")).toBe(
      'https://b',
    )
    await machine.postgres.query('app', 'REVOKE azure_ai_settings_manager FROM reporter')
  })

  it('answer and refuse as the switches say', async () => {
    await prepare(machine)
    machine.world.switches.unset = 'empty'
    machine.world.switches.clearingRefused = true
    const admin = await connect(machine)
    expect(await value(admin, "SELECT azure_ai.get_setting('azure_ml.endpoint_key')")).toBe('')
    expect(await failing(admin.query("SELECT azure_ai.set_setting('azure_ml.endpoint_key', '')"))).toMatch(/^22023/)
    expect(await failing(admin.query("SELECT azure_ai.set_setting('azure_ml.endpoint_key', NULL)"))).toMatch(/^22023/)
    await admin.query("SELECT azure_ai.set_setting('azure_ml.scoring_endpoint', '')")
  })
})

describe('test functions', () => {
  it('make a real request with the key, for an ordinary role in a read-only transaction', async () => {
    await prepare(machine, byKey)
    const ordinary = await connect(machine, reporter)
    await ordinary.query('BEGIN READ ONLY')
    expect(await value(ordinary, embed)).toEqual([0.5, -0.25])
    await ordinary.query('COMMIT')
    expect(machine.requests).toHaveLength(1)
    expect(machine.requests[0]).toMatchObject({
      method: 'POST',
      host: 'contoso.openai.azure.com',
      url: '/openai/deployments/small/embeddings?api-version=2024-02-01',
      headers: { 'api-key': 'stored-key-1' },
      body: { input: ['a b c'] },
    })
    expect(machine.requests[0]?.headers.authorization).toBeUndefined()
  })

  it('make it with a token of the identity, for each family', async () => {
    const resource = '/subscriptions/s/resourceGroups/g/providers/Microsoft.CognitiveServices/accounts/t'
    await prepare(machine, {
      ...byIdentity,
      'azure_cognitive.auth_type': 'managed-identity',
      'azure_cognitive.endpoint': language,
      'azure_cognitive.region': 'westeurope',
      'azure_cognitive.translator_resource_id': resource,
      'azure_ml.auth_type': 'managed-identity',
      'azure_ml.scoring_endpoint': 'https://e1.westeurope.inference.ml.azure.com/score',
    })
    const ordinary = await connect(machine, reporter)
    expect(await value(ordinary, embed)).toEqual([0.5, -0.25])
    expect(
      (await ordinary.query("SELECT * FROM azure_cognitive.analyze_sentiment('so good', 'en', disable_service_logs => true)"))
        .rows,
    ).toEqual([{ sentiment: 'positive', positive_score: 0.9, neutral_score: 0.1, negative_score: 0 }])
    expect(
      await value(ordinary, "SELECT t.translations[1].text FROM azure_cognitive.translate('Hello'::text, 'es'::text) AS t"),
    ).toBe('Hola')
    expect(await value(ordinary, `SELECT azure_ml.invoke('{"x": "ü\\"\\\\"}'::jsonb, deployment_name => 'blue')`)).toEqual({
      scored: true,
    })

    const tokens = machine.requests.filter(({ url }) => url.startsWith('/identity/'))
    expect(tokens.map(({ url }) => new URLSearchParams(url.split('?')[1]).get('resource'))).toEqual([
      'https://cognitiveservices.azure.com',
      'https://cognitiveservices.azure.com',
      'https://cognitiveservices.azure.com',
      'https://ml.azure.com',
    ])
    expect(tokens[0]?.headers).toMatchObject({ metadata: 'true', 'x-identity-header': 'identity-secret' })
    const calls = machine.requests.filter(({ url }) => !url.startsWith('/identity/'))
    expect(calls.map(({ headers }) => headers.authorization)).toEqual(Array(4).fill('Bearer identity-token'))
    expect(calls[1]).toMatchObject({
      url: '/language/:analyze-text?api-version=2023-04-01',
      body: {
        kind: 'SentimentAnalysis',
        parameters: { loggingOptOut: true },
        analysisInput: { documents: [{ id: '1', language: 'en', text: 'so good' }] },
      },
    })
    expect(calls[2]).toMatchObject({ body: [{ Text: 'Hello' }], headers: { 'ocp-apim-resourceid': resource } })
    expect(calls[2]?.url).toContain('/translator/text/v3.0/translate?api-version=3.0&to=es')
    expect(calls[3]).toMatchObject({ url: '/score', body: { x: 'ü"\\' }, headers: { 'azureml-model-deployment': 'blue' } })
  })

  it('report the error of the service', async () => {
    await prepare(machine, byIdentity)
    const client = await connect(machine)
    machine.answer = (request) =>
      request.url.startsWith('/identity')
        ? good(request)
        : { status: 401, body: { error: { code: 'PermissionDenied', message: 'The principal lacks' } } }
    expect(await failing(client.query(embed))).toBe(
      'XX000 Azure OpenAI request failed with status 401: {"error":{"code":"PermissionDenied","message":"The principal lacks"}}',
    )
    expect(await value(client, embed.replace('timeout_ms', 'throw_on_error => false, timeout_ms'))).toBeNull()
    machine.answer = () => ({ status: 400, body: { error: 'invalid_request', error_description: 'Identity not found' } })
    expect(await failing(client.query(embed))).toContain(
      'failed to get an access token for the managed identity: Identity not found',
    )
    machine.answer = (request) => (request.url.startsWith('/identity') ? good(request) : { body: '{"data": [' })
    expect(await failing(client.query(embed))).toContain('not JSON')
    machine.answer = () => undefined
    expect(await failing(client.query(embed.replace('5000', '300')))).toContain('timed out after 300 ms')

    await client.query('BEGIN')
    await client.query("SELECT azure_ai.set_setting('azure_openai.endpoint', 'https://trial.invalid')")
    expect(await failing(client.query(embed))).toContain('could not resolve host: trial.invalid')
    await client.query('ROLLBACK')
    machine.answer = good
    await client.query("SELECT azure_ai.set_setting('azure_openai.endpoint', 'https://elsewhere.example')")
    expect(await failing(client.query(embed))).toContain('could not connect')
    await client.query("SELECT azure_ai.set_setting('azure_openai.endpoint', '')")
    expect(await failing(client.query(embed))).toContain('azure_openai.endpoint is not set')

    machine.world.switches.unfamiliarTexts = true
    await machine.postgres.applySwitches()
    await client.query("SELECT azure_ai.set_setting('azure_openai.endpoint', 'https://contoso.openai.azure.com')")
    machine.answer = () => ({ status: 400, body: {} })
    expect(await failing(client.query(embed))).toBe('XX000 E7741 upstream handshake rejected')
  })

  it('retry as often as max_attempts says', async () => {
    await prepare(machine, byKey)
    machine.answer = (request) => (machine.requests.length < 3 ? { status: 429, body: {} } : good(request))
    const client = await connect(machine)
    expect(await value(client, embed.replace('5000', '5000, max_attempts => 3, retry_delay_ms => 10'))).toEqual([0.5, -0.25])
    expect(machine.requests).toHaveLength(3)
  })

  it('can be cancelled, time out and notice a lost client, and leave no request behind', async () => {
    await prepare(machine, byKey)
    machine.answer = () => undefined
    const watched = await connect(machine)
    const running: number[] = []
    const noneIsLeft = async () => {
      for (let left = 300; left > 0 && machine.callers.size > 0; left--) await sleep(100)
      expect(machine.callers.size).toBe(0)
    }
    const started = async () => {
      while (machine.requests.length === 0) await sleep(10)
      machine.requests.length = 0
    }
    const endless = embed.replace('5000', '3600000')

    running.push(Number(await value(watched, 'SELECT pg_backend_pid()')))
    await watched.query("SET statement_timeout = '1s'")
    expect(await failing(watched.query(endless))).toMatch(/^57014 canceling statement due to statement timeout/)
    await watched.query('RESET statement_timeout')
    await started()
    await noneIsLeft()

    const cancelled = failing(watched.query(endless))
    await started()
    await machine.postgres.query('app', 'SELECT pg_cancel_backend($1)', [running[0]])
    expect(await cancelled).toMatch(/^57014/)
    await noneIsLeft()

    const ended = failing(watched.query(endless))
    await started()
    await machine.postgres.terminateClients()
    expect(await ended).toMatch(/57P01|terminat/)
    await noneIsLeft()

    const lost = await connect(machine)
    running.push(Number(await value(lost, 'SELECT pg_backend_pid()')))
    await lost.query("SET client_connection_check_interval = '100ms'")
    void lost.query(endless).catch(() => {})
    await started()
    ;(lost as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy()
    expect(machine.callers.size).toBe(1)
    await noneIsLeft()
    expect(await machine.postgres.query('app', 'SELECT pid FROM pg_stat_activity WHERE pid = $1', [running[1]])).toEqual([])
  })

  it('leave no key in the log', async () => {
    await prepare(machine, byKey)
    await machine.postgres.query('app', "ALTER DATABASE app SET log_statement = 'all'")
    await machine.postgres.query('app', 'ALTER DATABASE app SET log_min_duration_statement = 0')
    await (await connect(machine)).query(embed)
    await machine.postgres.query('app', 'ALTER DATABASE app RESET ALL')
    const log = readFileSync(machine.postgres.logFile, 'utf8')
    expect(log).toContain('create_embeddings')
    expect(log).not.toContain(Buffer.from('stored-key-1').toString('hex'))
    const own = log.split('\n').filter((line) => line.includes('stored-key-1') && !line.includes('set_setting'))
    expect(own).toEqual([])
  })
})

describe('one statement', () => {
  const seen: Statement[] = []
  /** Applies the fault to statements that contain the words. */
  const failAt = (words: string, fault: SqlFault) => {
    seen.length = 0
    machine.world.sqlFault = (statement) => {
      seen.push(statement)
      return statement.text.includes(words) ? fault : undefined
    }
  }
  const rows = async () => Number((await machine.postgres.query('app', 'SELECT count(*) AS n FROM written'))[0]?.['n'])
  const ended = (client: pg.Client) => new Promise<void>((resolve) => client.once('end', () => resolve()))

  beforeAll(async () => {
    await machine.postgres.query('app', 'CREATE TABLE written (n int); GRANT ALL ON written TO PUBLIC')
  })
  afterEach(async () => {
    delete machine.world.sqlFault
    await machine.postgres.query('app', 'TRUNCATE written')
  })

  it('is seen as it was sent, in either protocol, and the server answers as usual', async () => {
    failAt('nothing', { kind: 'lost-before' })
    const client = await connect(machine)
    expect(await value(client, 'SELECT $1::int + 1', [41])).toBe(42)
    expect(await value(client, 'SELECT 2')).toBe(2)
    expect(await failing(client.query('SELEC'))).toMatch(/^42601/)
    expect(seen.map(({ number, ...statement }) => statement)).toEqual(
      ['(connect)', 'SELECT $1::int + 1', 'SELECT 2', 'SELEC'].map((text) => ({
        database: 'app',
        user: passwordLogin.user,
        text,
      })),
    )
    expect(await failing(connect(machine, { password: 'wrong' }))).toMatch(/^28P01/)
  })

  it.each([
    ['before the server sees it', 'lost-before', 0],
    ['after it was carried out', 'lost-after', 1],
  ] as const)('can lose the connection %s', async (_, kind, inserted) => {
    failAt('INSERT', { kind })
    const client = await connect(machine)
    const gone = ended(client)
    expect(await failing(client.query('INSERT INTO written VALUES ($1)', [1]))).toMatch(/ECONNRESET|Connection terminated/)
    await gone
    expect(await rows()).toBe(inserted)
    // A connection is lost as well as a statement.
    failAt('(connect)', { kind })
    expect(await failing(connect(machine))).toMatch(/ECONNRESET|Connection terminated/)
  })

  it('can end with an administrator ending the backend', async () => {
    failAt('INSERT', { kind: 'shutdown' })
    const client = await connect(machine)
    const gone = ended(client)
    expect(await failing(client.query('INSERT INTO written VALUES (1)'))).toMatch(/^57P01 terminating connection/)
    await gone
    expect(await rows()).toBe(0)
  })

  it.each(['40P01', '57014'])('can fail with %s, which leaves the transaction as that error does', async (code) => {
    failAt('VALUES (2)', { kind: 'error', code, message: "it's over" })
    const client = await connect(machine)
    await client.query('BEGIN')
    await client.query('INSERT INTO written VALUES (1)')
    await client.query('SAVEPOINT before')
    expect(await failing(client.query('INSERT INTO written VALUES (2)'))).toBe(`${code} it's over`)
    expect(await failing(client.query('SELECT 1'))).toMatch(/^25P02/)
    await client.query('ROLLBACK TO SAVEPOINT before')
    await client.query('INSERT INTO written VALUES ($1)', [3])
    await client.query('COMMIT')
    expect(await rows()).toBe(2)
  })

  it('that takes rows can fail with them', async () => {
    failAt('(rows of COPY)', { kind: 'error', code: '57014', message: 'too slow' })
    const client = await connect(machine)
    const copying = pipeline(Readable.from(['1\n']), client.query(copyFrom('COPY written FROM STDIN')))
    expect(await failing(copying)).toMatch(/^57014 /)
    expect(await rows()).toBe(0)
  })

  it('can be watched: it is carried out before its answer is sent', async () => {
    const events: string[] = []
    failAt('INSERT', {
      kind: 'watched',
      acted: async () => void events.push(`acted, ${await rows()} rows, ${answered ? 'answered' : 'no answer yet'}`),
      answered: () => void events.push('answered'),
    })
    let answered = false
    const client = await connect(machine)
    await client.query('INSERT INTO written VALUES (1)').then(() => {
      answered = true
    })
    while (events.length < 2) await sleep(5)
    expect(events).toEqual(['acted, 1 rows, no answer yet', 'answered'])
  })

  describe('among statements that are sent without waiting for answers', () => {
    const piped = async () => Object.assign(await connect(machine), { pipeline: true })
    const texts = ['BEGIN', 'INSERT INTO written VALUES (1)', 'SELECT 7 AS seven', 'COMMIT']

    it('can be watched, and the statements after it wait', async () => {
      const events: string[] = []
      failAt('INSERT', {
        kind: 'watched',
        acted: async () => {
          await sleep(50)
          events.push('acted')
        },
        answered: () => void events.push('answered'),
      })
      const client = await piped()
      const answers = texts.map((text) => client.query(text).then(() => void events.push(text)))
      await Promise.all(answers)
      expect(seen.map(({ text }) => text)).toEqual(['(connect)', ...texts])
      expect(events.filter((each) => each !== 'answered')).toEqual([texts[0], 'acted', ...texts.slice(1)])
      expect(events).toContain('answered')
    })

    it.each(['BEGIN', 'INSERT', 'SELECT 7', 'COMMIT'])('can lose the connection after %s', async (words) => {
      failAt(words, { kind: 'lost-after' })
      const client = await piped()
      const outcomes = await Promise.allSettled(texts.map((text) => client.query(text)))
      // A reset also discards earlier answers that were not received yet.
      const after = outcomes.slice(texts.findIndex((text) => text.includes(words)))
      expect(after.map(({ status }) => status)).toEqual(after.map(() => 'rejected'))
      if (words === 'COMMIT') expect(await rows()).toBe(1)
    })

    it('can fail, and the others fail as well', async () => {
      failAt('SELECT 7', { kind: 'error', code: '57014', message: 'too slow' })
      const client = await piped()
      const outcomes = await Promise.allSettled(texts.map((text) => client.query(text)))
      expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected', 'fulfilled'])
      expect(await rows()).toBe(0)
    })
  })
})

describe('undocumented behaviour', () => {
  // New connections use the current switches.
  const flip = (switches: Partial<Switches>) => Object.assign(machine.world.switches, switches)
  const stored = { ...byKey, ...byIdentity, 'azure_openai.subscription_key': 'stored-key-1' }

  it('a stored key may win over auth_type', async () => {
    await prepare(machine, stored)
    await (await connect(machine)).query(embed)
    expect(machine.requests.at(-1)?.headers['api-key']).toBeUndefined()
    flip({ keyWins: true })
    await (await connect(machine)).query(embed)
    expect(machine.requests.at(-1)?.headers['api-key']).toBe('stored-key-1')
  })

  it('the functions may read committed rows only', async () => {
    await prepare(machine, byKey)
    flip({ committedRowsOnly: true })
    const client = await connect(machine)
    await client.query('BEGIN')
    await client.query("SELECT azure_ai.set_setting('azure_openai.endpoint', 'https://trial.invalid')")
    await client.query(embed)
    await client.query('COMMIT')
    expect(await failing(client.query(embed))).toContain('could not resolve host')
  })

  it('the functions may keep for a session what they saw first, also over a rollback', async () => {
    await prepare(machine, byKey)
    flip({ sessionCache: true })
    const client = await connect(machine)
    await client.query('BEGIN')
    await client.query("SELECT azure_ai.set_setting('azure_openai.endpoint', 'https://trial.invalid')")
    expect(await failing(client.query(embed))).toContain('could not resolve host')
    await client.query('ROLLBACK')
    expect(await failing(client.query(embed))).toContain('could not resolve host')
    expect(await value(await connect(machine), embed)).toEqual([0.5, -0.25])
  })

  it('the functions may refuse to run read-only', async () => {
    await prepare(machine, byKey)
    flip({ refuseReadOnly: true })
    const client = await connect(machine)
    await client.query('BEGIN READ ONLY')
    expect(await failing(client.query(embed))).toMatch(/^25006/)
    await client.query('ROLLBACK')
    expect(await value(client, embed)).toEqual([0.5, -0.25])
  })

  it('an old extension may be installed, which knows no identity until it is updated', async () => {
    for (const name of ['app', 'sales 2026']) await machine.postgres.query(name, 'DROP EXTENSION IF EXISTS azure_ai')
    flip({ oldExtension: true })
    for (const database of ['app', 'sales 2026']) {
      const admin = await connect(machine, { database })
      expect(await value(admin, 'SELECT azure_ai.version()')).toBe('1.0.0')
      expect(await failing(admin.query("SELECT azure_ai.get_setting('azure_openai.auth_type')"))).toContain(
        'azure_openai.auth_type is not a valid configuration key',
      )
      expect(await value(admin, "SELECT default_version FROM pg_available_extensions WHERE name = 'azure_ai'")).toBe('1.3.1')
      await admin.query('ALTER EXTENSION azure_ai UPDATE')
      expect(await value(admin, "SELECT azure_ai.get_setting('azure_openai.auth_type')")).toBeNull()
    }
  })
})

describe('a restart', () => {
  it('is a real one, after which the server knows its identity', async () => {
    const client = await connect(machine)
    const since = await value(client, 'SELECT pg_postmaster_start_time()')
    expect(await value(client, 'SHOW azure.service_principal_id')).toBe('')
    machine.server.loadedPrincipalId = '44444444-4444-4444-8444-444444444444'
    const lost = new Promise((resolve) => client.once('error', resolve))
    await machine.postgres.restart()
    await lost
    const again = await connect(machine)
    expect(await value(again, 'SELECT pg_postmaster_start_time()')).not.toEqual(since)
    expect(await value(again, 'SHOW azure.service_principal_id')).toBe('44444444-4444-4444-8444-444444444444')
  })
})

describe('a second server on the same machine', () => {
  it('of version 18 has azure_ai 2.0.0, with signatures of its own', async () => {
    const second = await startMachine('18')
    try {
      await prepare(second)
      await prepare(machine)
      const signatures = (one: Machine) =>
        one.postgres.query(
          'app',
          `SELECT proname, pg_get_function_arguments(oid) AS arguments FROM pg_proc
           WHERE proname IN ('create_embeddings', 'analyze_sentiment', 'invoke') ORDER BY 1, 2`,
        )
      const [older, newer] = [JSON.stringify(await signatures(machine)), JSON.stringify(await signatures(second))]
      expect(older).not.toContain('dimensions')
      expect(newer).toContain('dimensions integer')
      expect(newer).toContain('model_version text')
      expect(older).toContain('input_data jsonb, timeout_ms integer')
      expect(newer).toContain('input_data jsonb, deployment_name text')
      expect(await second.postgres.query('app', 'SELECT azure_ai.version()')).toEqual([{ version: '2.0.0' }])
      expect(await machine.postgres.query('app', 'SELECT azure_ai.version()')).toEqual([{ version: '1.3.1' }])
      const ranking = "SELECT azure_ai.get_setting('azure_ml.serverless_ranking_endpoint')"
      expect(await second.postgres.query('app', ranking)).toEqual([{ get_setting: null }])
      expect(await failing(machine.postgres.query('app', ranking))).toContain('not a valid configuration key')
      const semantic = `SELECT proname FROM pg_proc WHERE pronamespace = 'azure_ai'::regnamespace
        AND proname IN ('rank', 'generate', 'is_true', 'extract') GROUP BY 1 ORDER BY 1`
      const names = ['extract', 'generate', 'is_true', 'rank'].map((proname) => ({ proname }))
      expect(await second.postgres.query('app', semantic)).toEqual(names)
      expect(await machine.postgres.query('app', semantic)).toEqual([])
      expect(
        await machine.postgres.query(
          'app',
          "SELECT version FROM pg_available_extension_versions WHERE name = 'azure_ai' ORDER BY 1",
        ),
      ).toEqual([{ version: '1.0.0' }, { version: '1.3.1' }])
    } finally {
      await second.stop()
    }
    expect(existsSync(second.folder)).toBe(false)
  })
})

/** Starts a PostgreSQL in a process of its own, which prints its progress and then waits to be killed. */
function startElsewhere(folder: string, account: { uid?: number; gid?: number }) {
  const file = (name: string) => JSON.stringify(new URL(`../../emulator/${name}`, import.meta.url).href)
  const program = `
    import { guard } from ${file('guardian.ts')}
    import { createAuthority } from ${file('certificates.ts')}
    import { defaultWorld } from ${file('default-world.ts')}
    import { startPostgres } from ${file('postgres.ts')}
    const folder = ${JSON.stringify(folder)}
    guard(folder)
    const world = defaultWorld()
    const authority = await createAuthority(folder)
    console.log('starting')
    await startPostgres({ world, server: world.servers[0], folder, authority, servicesPort: 1, identitySecret: '', databases: [] })
    console.log('ready')
    setInterval(() => {}, 1000)`
  return spawn(process.execPath, ['--input-type=module', '--no-warnings', '-e', program], {
    cwd: '/',
    stdio: ['ignore', 'pipe', 'inherit'],
    ...account,
  })
}

/** The command lines of all processes. */
function processes(): string[] {
  return execFileSync('ps', ['-A', '-ww', '-o', 'args='], { encoding: 'utf8' }).trimEnd().split('\n')
}

async function killedAt(word: string, account: { uid?: number; gid?: number; pause?: number } = {}): Promise<void> {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), 'pg-killed-')))
  const { pause = 0, ...ids } = account
  const of = (place: string) => processes().filter((line) => line.includes(place))
  if (ids.uid !== undefined) execFileSync('chown', [`${ids.uid}:${ids.gid}`, folder])
  const child = startElsewhere(folder, ids)
  const ended = once(child, 'exit')
  let output = ''
  for await (const chunk of child.stdout) {
    output += chunk
    if (output.includes(word)) break
  }
  expect(output).toContain(word)
  await sleep(pause)
  if (word === 'ready') expect(of(folder).length).toBeGreaterThan(1)
  child.kill('SIGKILL')
  await ended
  for (let left = 600; left > 0 && (existsSync(folder) || of(folder).length > 0); left--) await sleep(100)
  expect(of(folder)).toEqual([])
  expect(existsSync(folder)).toBe(false)
}

describe('after SIGKILL of its parent', () => {
  it('no process and no folder is left', () => killedAt('ready'))
  it('nor while it was starting', () => killedAt('starting', { pause: 500 }))
})

/** Whether other accounts can read this checkout. */
function othersMayRead(): boolean {
  for (let at = fileURLToPath(new URL('../..', import.meta.url)); ; at = dirname(at)) {
    if ((statSync(at).mode & 0o001) === 0) return false
    if (at === dirname(at)) return true
  }
}

describe.runIf(process.getuid?.() === 0 && othersMayRead())('run by an ordinary user', () => {
  it('starts as well, and leaves nothing behind', async () => {
    const id = (option: string) => Number(execFileSync('id', [option, 'nobody'], { encoding: 'utf8' }))
    await killedAt('ready', { uid: id('-u'), gid: id('-g') })
  })
})
