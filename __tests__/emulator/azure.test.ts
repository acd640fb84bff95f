import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { request as httpsRequest } from 'node:https'
import { promisify } from 'node:util'
import * as authorization from '@azure/arm-authorization'
import { PostgreSQLManagementFlexibleServerClient } from '@azure/arm-postgresql-flexible'
import { ClientSecretCredential } from '@azure/identity'
import { decodeJwt, SignJWT } from 'jose'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { builtInRoles, deployerName, readerName } from '../../emulator/default-world.ts'
import { cognitiveAudience, oidcAudience, postgresAudience } from '../../emulator/entra.ts'
import { type Emulator, startEmulator } from '../../emulator/index.ts'
import type { Account, Principal, Server, World } from '../../emulator/world.ts'
import { assignRole } from '../support/support.ts'

const run = promisify(execFile)
const never = 'repo:contoso/other:ref:refs/heads/main'

// biome-ignore lint/suspicious/noExplicitAny: the assertions check the shape of an answer.
type Json = any

interface Answer {
  status: number
  headers: Record<string, string | string[] | undefined>
  body: Json
}

let emulator: Emulator
let world: World

beforeAll(async () => {
  emulator = await startEmulator({ delays: { operation: 0, inference: 0 }, shape: addOddResources })
  world = emulator.world
})

afterAll(() => emulator?.stop())

/** Adds a replica, an elastic cluster and unusual AI accounts to the default world. */
function addOddResources(shaped: World): void {
  const [primary] = shaped.servers
  const [openai] = shaped.accounts
  if (!primary || !openai) throw new Error('the default world lacks a server or an account')
  const server = (name: string, changes: Partial<Server>): Server => ({
    ...structuredClone(primary),
    name,
    id: primary.id.replace('pg-contoso', name),
    ...changes,
  })
  shaped.servers.push(
    server('pg-replica', { replicationRole: 'AsyncReplica', sourceServerResourceId: primary.id }),
    server('pg-cluster', { clusterSize: 2 }),
    server('pg-stopped', { state: 'Stopped' }),
  )
  const account = (name: string, changes: Partial<Account>): Account => ({
    ...structuredClone(openai),
    name,
    id: openai.id.replace('contoso-openai', name),
    customSubDomainName: name,
    ...changes,
  })
  const regional = account('contoso-regional', { kind: 'TextAnalytics' })
  delete regional.customSubDomainName
  shaped.accounts.push(
    account('contoso-multi', { kind: 'AIServices' }),
    account('contoso-closed', { publicNetworkAccess: 'Disabled' }),
    account('contoso-walled', { networkAcls: { defaultAction: 'Deny' } }),
    account('contoso-keyless', { disableLocalAuth: true }),
    regional,
  )
}

/** One request to the emulator; `host` as the Host header and TLS name of a service. */
function send(
  method: string,
  path: string,
  options: {
    token?: string
    host?: string
    body?: unknown
    form?: Record<string, string>
    headers?: Record<string, string>
    from?: Emulator
  } = {},
): Promise<Answer> {
  const from = options.from ?? emulator
  const host = options.host ?? 'localhost'
  const sent = options.form
    ? new URLSearchParams(options.form).toString()
    : options.body === undefined
      ? undefined
      : JSON.stringify(options.body)
  return new Promise((resolve, reject) => {
    const request = httpsRequest(
      {
        host: '127.0.0.1',
        port: new URL(from.url).port,
        servername: host,
        ca: caOf(from),
        method,
        path,
        agent: false,
        headers: {
          host,
          ...(options.token === undefined ? {} : { authorization: `Bearer ${options.token}` }),
          ...(sent === undefined
            ? {}
            : { 'content-type': options.form ? 'application/x-www-form-urlencoded' : 'application/json' }),
          ...options.headers,
        },
      },
      (response) => {
        const chunks: Buffer[] = []
        response.on('data', (chunk: Buffer) => chunks.push(chunk))
        response.on('error', reject)
        response.on('aborted', () => reject(new Error('aborted')))
        response.on('end', () => {
          const text = Buffer.concat(chunks).toString()
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            body: text === '' ? undefined : JSON.parse(text),
          })
        })
      },
    )
    request.on('error', reject)
    request.end(sent)
  })
}

const caCache = new Map<string, string>()
function caOf(from: Emulator): string {
  const known = caCache.get(from.caFile) ?? process.getBuiltinModule('node:fs').readFileSync(from.caFile, 'utf8')
  caCache.set(from.caFile, known)
  return known
}

function principal(name: string): Principal {
  const found = world.principals.find(({ displayName }) => displayName === name)
  if (!found) throw new Error(`no principal ${name}`)
  return found
}

function account(name: string): Account {
  const found = world.accounts.find((candidate) => candidate.name === name)
  if (!found) throw new Error(`no account ${name}`)
  return found
}

function server(name = 'pg-contoso'): Server {
  const found = world.servers.find((candidate) => candidate.name === name)
  if (!found) throw new Error(`no server ${name}`)
  return found
}

function credentialOf(who: Principal): ClientSecretCredential {
  return new ClientSecretCredential(world.tenantId, who.clientId ?? '', who.clientSecret ?? '', {
    authorityHost: emulator.url,
    disableInstanceDiscovery: true,
    tlsOptions: { ca: caOf(emulator) },
  })
}

const clientOptions = () => ({
  endpoint: emulator.url,
  credentialScopes: [`${emulator.url}/.default`],
  tlsOptions: { ca: caOf(emulator) },
})

function postgresClient(who = principal(deployerName)): PostgreSQLManagementFlexibleServerClient {
  return new PostgreSQLManagementFlexibleServerClient(credentialOf(who), world.subscriptionId, clientOptions())
}

function rolesClient(who = principal(deployerName)): authorization.AuthorizationManagementClient {
  return new authorization.AuthorizationManagementClient(credentialOf(who), world.subscriptionId, clientOptions())
}

const quick = { updateIntervalInMs: 20 }

async function managementToken(name = deployerName): Promise<string> {
  return (await emulator.issueToken(principal(name).objectId, `${emulator.url}/`)).token
}

function newPrincipal(changes: Partial<Principal> = {}): Principal {
  const made: Principal = { objectId: crypto.randomUUID(), displayName: 'made by a test', kind: 'ManagedIdentity', ...changes }
  world.principals.push(made)
  return made
}

function assign(principalId: string, role: string, scope: string, createdAt = 0): void {
  assignRole(world, principalId, scope, role, { createdAt, createdBy: principalId })
}

async function withWorld<T>(change: () => void, restore: () => void, work: () => Promise<T>): Promise<T> {
  change()
  try {
    return await work()
  } finally {
    restore()
  }
}

describe('Entra', () => {
  test('a job signs in with its OIDC token, through the real packages, with nothing but the environment', async () => {
    const script = `
      import * as core from '@actions/core'
      import { ClientAssertionCredential } from '@azure/identity'
      const { url, tenant, client } = JSON.parse(process.argv[1])
      const credential = new ClientAssertionCredential(tenant, client, () => core.getIDToken('${oidcAudience}'),
        { authorityHost: url, disableInstanceDiscovery: true })
      const scopes = [url + '//.default', url + '/.default', '${postgresAudience}/.default', '${postgresAudience}/.default']
      const tokens = []
      for (const scope of scopes) tokens.push((await credential.getToken(scope)).token)
      process.stdout.write('\\n' + JSON.stringify(tokens))`
    const argument = JSON.stringify({ url: emulator.url, tenant: world.tenantId, client: principal(deployerName).clientId })
    const { stdout } = await run(process.execPath, ['--input-type=module', '-e', script, argument], {
      env: { PATH: process.env['PATH'], ...emulator.env },
    })
    const [slash, plain, postgres] = (JSON.parse(stdout.slice(stdout.lastIndexOf('\n'))) as string[]).map((token) =>
      decodeJwt(token),
    )
    expect(slash).toMatchObject({
      aud: `${emulator.url}/`,
      oid: principal(deployerName).objectId,
      tid: world.tenantId,
      idtyp: 'app',
    })
    expect(plain).toMatchObject({ aud: emulator.url })
    expect(postgres).toMatchObject({ aud: postgresAudience })
    expect((plain?.exp ?? 0) - (plain?.iat ?? 0)).toBe(3600)
  })

  const signIn = (form: Record<string, string>, tenant = world.tenantId) =>
    send('POST', `/${tenant}/oauth2/v2.0/token`, {
      form: {
        grant_type: 'client_credentials',
        scope: `${emulator.url}/.default`,
        client_id: principal(deployerName).clientId ?? '',
        ...form,
      },
    })
  const assertion = async (audience = oidcAudience): Promise<string> => {
    const url = new URL(emulator.env['ACTIONS_ID_TOKEN_REQUEST_URL'] ?? '')
    const token = emulator.env['ACTIONS_ID_TOKEN_REQUEST_TOKEN'] ?? ''
    const { body } = await send('GET', `${url.pathname}${url.search}&audience=${encodeURIComponent(audience)}`, { token })
    return body.value
  }
  const signInAs = async (subject: string, issuer = world.github.issuer, audience?: string) => {
    const kept = { ...world.github }
    return withWorld(
      () => Object.assign(world.github, { subject, issuer }),
      () => Object.assign(world.github, kept),
      async () => signIn({ client_assertion: await assertion(audience), client_assertion_type: 'jwt' }),
    )
  }

  test('refusals have the codes of Entra', async () => {
    const subject = world.github.subject
    expect((await signInAs(never)).body.error_description).toMatch(
      new RegExp(`^AADSTS700213: .* presented assertion subject '${never}'`),
    )
    expect((await signInAs(subject.replace('contoso', 'Contoso'))).body.error_codes).toEqual([7002138])
    expect((await signInAs(subject, 'https://token.actions.example')).body.error_codes).toEqual([700211])
    expect((await signInAs(subject, undefined, 'api://Other')).body.error_codes).toEqual([700212])
    expect((await signInAs(subject)).status).toBe(200)

    const forged = await new SignJWT({})
      .setProtectedHeader({ alg: 'HS256' })
      .setIssuer(world.github.issuer)
      .setSubject(subject)
      .setAudience(oidcAudience)
      .setExpirationTime('5m')
      .sign(new TextEncoder().encode('not the key of the issuer, whatever it is'))
    expect((await signIn({ client_assertion: forged })).body.error_codes).toEqual([700027])

    const wrongSecret = await signIn({ client_secret: 'guess' })
    expect(wrongSecret.status).toBe(401)
    expect(wrongSecret.body).toMatchObject({ error: 'invalid_client', error_codes: [7000215], trace_id: expect.any(String) })
    expect((await signIn({ client_id: crypto.randomUUID(), client_secret: 'x' })).body.error_codes).toEqual([700016])
    expect((await signIn({ client_secret: 'x' }, crypto.randomUUID())).body.error_codes).toEqual([90002])
    const secret = { client_secret: principal(deployerName).clientSecret ?? '' }
    expect((await signIn({ ...secret, scope: 'https://unknown.example/.default' })).body.error_codes).toEqual([500011])
    expect((await signIn({ ...secret, scope: 'https://management.azure.com/user_impersonation' })).body.error_codes).toEqual([
      1002012,
    ])
  })

  test('an OIDC token is only for the job that has the request token', async () => {
    expect((await send('GET', '/github/oidc?x=1', { token: 'other' })).status).toBe(401)
  })

  test('the same PostgreSQL token is returned while it is valid, because it is the password; others are new', async () => {
    const { objectId } = principal(deployerName)
    const twice = (audience: string) =>
      Promise.all([emulator.issueToken(objectId, audience), emulator.issueToken(objectId, audience)])
    const [first, second] = await twice(postgresAudience)
    expect(second.token).toBe(first.token)
    const [third, fourth] = await twice(cognitiveAudience)
    expect(fourth.token).not.toBe(third.token)
  })

  test('the token opens PostgreSQL over verified TLS, and so does nothing else', async () => {
    const { token } = await emulator.issueToken(principal(deployerName).objectId, postgresAudience)
    const connect = async (password: string) => {
      const client = new pg.Client({
        host: emulator.inputs['database-host'] ?? '',
        port: Number(emulator.inputs['database-port']),
        user: deployerName,
        password,
        database: 'sales 2026',
        ssl: { ca: caOf(emulator), servername: server().fullyQualifiedDomainName },
      })
      await client.connect()
      const { rows } = await client.query('SELECT current_user AS who, current_database() AS database')
      await client.end()
      return rows[0]
    }
    expect(await connect(token)).toEqual({ who: deployerName, database: 'sales 2026' })
    await expect(connect('guess')).rejects.toThrow(/password authentication failed/)
  })
})

describe('Resource Manager', () => {
  test('describes its cloud, and needs no token for it', async () => {
    const { status, body } = await send('GET', '/metadata/endpoints?api-version=2022-09-01')
    expect(status).toBe(200)
    expect(body).toMatchObject({
      authentication: { loginEndpoint: emulator.url, audiences: expect.arrayContaining([`${emulator.url}/`]) },
      resourceManager: `${emulator.url}/`,
      ossrDbmsResourceId: postgresAudience,
      suffixes: { postgresqlServerEndpoint: 'postgres.database.azure.com' },
    })
  })

  test('refuses tokens that are missing, forged, or for another audience', async () => {
    const path = `${server().id}?api-version=2025-08-01`
    const code = async (token?: string) => (await send('GET', path, token === undefined ? {} : { token })).body.error.code
    expect(await code()).toBe('AuthenticationFailed')
    expect(await code('a.b.c')).toBe('InvalidAuthenticationToken')
    const other = await emulator.issueToken(principal(deployerName).objectId, cognitiveAudience)
    expect(await code(other.token)).toBe('InvalidAuthenticationTokenAudience')
    const answer = await send('GET', path, { token: other.token })
    expect(answer.status).toBe(401)
    expect(answer.headers['www-authenticate']).toContain('Bearer')
    await withWorld(
      () => {
        world.tokenLifetime = -1000
      },
      () => {
        delete world.tokenLifetime
      },
      async () => expect(await code(await managementToken())).toBe('ExpiredAuthenticationToken'),
    )
  })

  test('reports what does not exist, and the supported api-versions', async () => {
    const token = await managementToken()
    const get = async (path: string) => {
      const { status, body, headers } = await send('GET', path, { token })
      expect(headers['x-ms-request-id']).toEqual(expect.any(String))
      expect(headers['x-ms-correlation-request-id']).toEqual(expect.any(String))
      return [status, body.error.code]
    }
    assign(principal(deployerName).objectId, builtInRoles.reader, '/')
    try {
      expect(await get(`${server().id}x?api-version=2025-08-01`)).toEqual([404, 'ResourceNotFound'])
      const elsewhere = server().id.replace('rg-contoso-ai', 'rg-none')
      expect(await get(`${elsewhere}?api-version=2025-08-01`)).toEqual([404, 'ResourceGroupNotFound'])
      const other = server().id.replace(world.subscriptionId, crypto.randomUUID())
      expect(await get(`${other}?api-version=2025-08-01`)).toEqual([404, 'SubscriptionNotFound'])
      expect(await get(`${server().id}?api-version=2019-01-01`)).toEqual([400, 'NoRegisteredProviderFound'])
      expect(await get(server().id)).toEqual([400, 'MissingApiVersionParameter'])
    } finally {
      world.roleAssignments.pop()
    }
    expect((await send('GET', `//${server().id.toUpperCase().slice(1)}?api-version=2025-08-01`, { token })).status).toBe(200)
  })

  test('a reader reads; a refusal names the missing action and scope', async () => {
    const reader = principal(readerName)
    const client = postgresClient(reader)
    const shown = await client.servers.get(world.resourceGroup, 'pg-contoso')
    expect(shown).toMatchObject({ state: 'Ready', version: '18', fullyQualifiedDomainName: server().fullyQualifiedDomainName })
    await expect(
      client.servers.beginUpdateAndWait(world.resourceGroup, 'pg-contoso', { identity: { type: 'SystemAssigned' } }),
    ).rejects.toThrow(
      `The client '${reader.clientId}' with object id '${reader.objectId}' does not have authorization to perform action 'Microsoft.DBforPostgreSQL/flexibleServers/write' over scope '${server().id}' or the scope is invalid. If access was recently granted, please refresh your credentials.`,
    )
    const keys = await send('POST', `${account('contoso-openai').id}/listKeys?api-version=2025-09-01`, {
      token: await managementToken(readerName),
    })
    expect(keys.body.error).toMatchObject({
      code: 'AuthorizationFailed',
      message: expect.stringContaining('accounts/listKeys/action'),
    })
  })

  test('rights come from groups and from above, with wildcards and exceptions', async () => {
    const group = newPrincipal({ kind: 'Group' })
    const member = newPrincipal({ kind: 'User', memberOf: [group.objectId] })
    const token = (await emulator.issueToken(member.objectId, `${emulator.url}/`)).token
    const status = async (method: string, path: string, body?: unknown) => (await send(method, path, { token, body })).status
    const rule = `${server('pg-replica').id}/firewallRules/office?api-version=2025-08-01`
    const body = { properties: { startIpAddress: '203.0.113.1', endIpAddress: '203.0.113.9' } }
    expect(await status('PUT', rule, body)).toBe(403)
    assign(group.objectId, builtInRoles.contributor, `/subscriptions/${world.subscriptionId}`)
    expect(await status('PUT', rule, body)).toBe(202)
    const role = `${server().id}/providers/Microsoft.Authorization/roleAssignments/${crypto.randomUUID()}?api-version=2022-04-01`
    expect(
      await status('PUT', role, { properties: { roleDefinitionId: builtInRoles.reader, principalId: member.objectId } }),
    ).toBe(403)
    expect((await send('PUT', role, { token, body: {} })).body.error.message).toContain(
      "'Microsoft.Authorization/roleAssignments/write'",
    )
  })
})

describe('flexible servers', () => {
  test('an identity joins the user-assigned ones, in a 202 operation; the server is busy meanwhile', async () => {
    const client = postgresClient()
    const replica = server('pg-replica')
    const before = structuredClone(replica.identity?.userAssignedIdentities)
    const ids = Object.fromEntries(Object.keys(before ?? {}).map((id) => [id, {}]))
    await withWorld(
      () => {
        world.delays.operation = 300
      },
      () => {
        world.delays.operation = 0
      },
      async () => {
        const poller = await client.servers.beginUpdate(
          world.resourceGroup,
          replica.name,
          { identity: { type: 'SystemAssigned,UserAssigned', userAssignedIdentities: ids } },
          quick,
        )
        expect((await client.servers.get(world.resourceGroup, replica.name)).state).toBe('Updating')
        await expect(client.servers.beginRestartAndWait(world.resourceGroup, replica.name)).rejects.toMatchObject({
          code: 'ServerIsBusy',
          statusCode: 409,
        })
        const done = await poller.pollUntilDone()
        expect(done.identity).toMatchObject({ type: 'SystemAssigned,UserAssigned', tenantId: world.tenantId })
        expect(done.state).toBe('Ready')
      },
    )
    expect(replica.identity?.userAssignedIdentities).toEqual(before)
    const made = world.principals.find(({ objectId }) => objectId === replica.identity?.principalId)
    expect(made).toMatchObject({ kind: 'ManagedIdentity', displayName: replica.name, createdAt: expect.any(Number) })

    // The type SystemAssigned alone removes the user-assigned identities.
    await client.servers.beginUpdateAndWait(world.resourceGroup, replica.name, { identity: { type: 'SystemAssigned' } }, quick)
    expect(replica.identity).toEqual({ type: 'SystemAssigned', principalId: made?.objectId })
    await client.servers.beginUpdateAndWait(world.resourceGroup, replica.name, { identity: { type: 'None' } }, quick)
    expect(world.principals.some(({ objectId }) => objectId === made?.objectId)).toBe(false)
  })

  test('refuses what the server cannot do', async () => {
    const client = postgresClient()
    const enable = (name: string) =>
      client.servers.beginUpdateAndWait(world.resourceGroup, name, { identity: { type: 'SystemAssigned' } }, quick)
    await expect(enable('pg-cluster')).rejects.toMatchObject({ statusCode: 400 })
    await expect(enable('pg-stopped')).rejects.toMatchObject({ statusCode: 409 })
    const token = await managementToken()
    const patch = await send('PATCH', `${server().id}?api-version=2025-08-01`, { token, body: { sku: { name: 'x' } } })
    expect(patch.body.error).toMatchObject({ code: 'NotEmulated', message: expect.stringContaining('sku') })
  })

  test('lists replicas and administrators', async () => {
    const client = postgresClient()
    const replicas = await all(client.replicas.listByServer(world.resourceGroup, 'pg-contoso'))
    expect(replicas.map(({ name, replicationRole }) => [name, replicationRole])).toEqual([['pg-replica', 'AsyncReplica']])
    const administrators = await all(client.administratorsMicrosoftEntra.listByServer(world.resourceGroup, 'pg-contoso'))
    expect(administrators).toMatchObject([
      {
        objectId: principal(deployerName).objectId,
        principalName: deployerName,
        principalType: 'ServicePrincipal',
        tenantId: world.tenantId,
      },
    ])
  })

  test('a server parameter reaches PostgreSQL; unknown extensions and names do not', async () => {
    const client = postgresClient()
    const put = (name: string, value: string) =>
      client.configurations.beginPutAndWait(world.resourceGroup, 'pg-contoso', name, { value, source: 'user-override' }, quick)
    const before = await client.configurations.get(world.resourceGroup, 'pg-contoso', 'azure.extensions')
    expect(before).toMatchObject({ value: 'pg_trgm,vector', dataType: 'Set', isDynamicConfig: true })
    expect(await put('azure.extensions', 'pg_trgm,vector,azure_ai')).toMatchObject({
      value: 'pg_trgm,vector,azure_ai',
      source: 'user-override',
    })
    await expect
      .poll(async () => (await emulator.postgres.query('app', 'SHOW azure.extensions'))[0])
      .toEqual({
        'azure.extensions': 'pg_trgm,vector,azure_ai',
      })
    await expect(put('azure.extensions', 'azure_ai,nonsense')).rejects.toThrow(/nonsense/)
    await expect(put('no_such_parameter', '1')).rejects.toMatchObject({ statusCode: 404 })
  })

  test('firewall rules come and go, with their names and addresses checked', async () => {
    const client = postgresClient()
    const rule = { startIpAddress: '203.0.113.7', endIpAddress: '203.0.113.7' }
    const put = (name: string, addresses = rule) =>
      client.firewallRules.beginCreateOrUpdateAndWait(world.resourceGroup, 'pg-contoso', name, addresses, quick)
    expect(await put('temporary-1')).toMatchObject({ name: 'temporary-1', ...rule })
    expect((await all(client.firewallRules.listByServer(world.resourceGroup, 'pg-contoso'))).map(({ name }) => name)).toEqual([
      'allow-runner',
      'temporary-1',
    ])
    await client.firewallRules.beginDeleteAndWait(world.resourceGroup, 'pg-contoso', 'temporary-1', quick)
    await client.firewallRules.beginDeleteAndWait(world.resourceGroup, 'pg-contoso', 'temporary-1', quick)
    expect(Object.keys(server().firewallRules)).toEqual(['allow-runner'])
    await expect(put('ends-with-', rule)).rejects.toMatchObject({ statusCode: 400 })
    await expect(put('six', { startIpAddress: '::1', endIpAddress: '::1' })).rejects.toMatchObject({ statusCode: 400 })
    const kept = server().network
    await withWorld(
      () => {
        server().network = { publicNetworkAccess: 'Disabled' }
      },
      () => {
        server().network = kept
      },
      () => expect(put('closed')).rejects.toThrow(/private access/),
    )
  })

  test('a restart is real', async () => {
    const startedAt = async () =>
      String((await emulator.postgres.query('app', 'SELECT pg_postmaster_start_time()::text AS at'))[0]?.['at'])
    const before = await startedAt()
    const { restarts } = server()
    await postgresClient().servers.beginRestartAndWait(world.resourceGroup, 'pg-contoso', quick)
    expect(await startedAt()).not.toBe(before)
    expect(server()).toMatchObject({ restarts: restarts + 1, state: 'Ready' })
  })
})

describe('role assignments', () => {
  const roleId = (role: string) =>
    `/subscriptions/${world.subscriptionId}/providers/Microsoft.Authorization/roleDefinitions/${role}`
  const create = (scope: string, name: string, principalId: string, changes: Record<string, unknown> = {}, who?: Principal) =>
    rolesClient(who).roleAssignments.create(scope.replace(/^\//, ''), name, {
      roleDefinitionId: roleId(builtInRoles.cognitiveServicesOpenAIUser),
      principalId,
      principalType: 'ServicePrincipal',
      ...changes,
    })
  const list = async (scope: string, filter?: string) => {
    const found = await all(rolesClient().roleAssignments.listForScope(scope, filter === undefined ? {} : { filter }))
    return found.map(({ scope: at }) => at)
  }

  test('a triple exists once, whatever its name', async () => {
    const scope = account('contoso-openai').id
    const { objectId } = newPrincipal()
    const name = crypto.randomUUID()
    expect(await create(scope, name, objectId, { description: 'for pg-contoso' })).toMatchObject({
      name,
      scope,
      principalId: objectId,
      principalType: 'ServicePrincipal',
      description: 'for pg-contoso',
      createdBy: principal(deployerName).objectId,
      createdOn: expect.any(Date),
    })
    expect(await create(scope, name, objectId)).toMatchObject({ name })
    await expect(create(scope, crypto.randomUUID(), objectId)).rejects.toMatchObject({
      code: 'RoleAssignmentExists',
      statusCode: 409,
    })
    const other = newPrincipal()
    await expect(create(scope, name, other.objectId)).rejects.toMatchObject({
      code: 'RoleAssignmentUpdateNotPermitted',
      statusCode: 400,
    })
    await expect(create(scope, 'not-a-guid', objectId)).rejects.toMatchObject({ code: 'InvalidRoleAssignmentId' })
    await expect(
      create(scope, crypto.randomUUID(), other.objectId, { roleDefinitionId: roleId(crypto.randomUUID()) }),
    ).rejects.toMatchObject({
      code: 'RoleDefinitionDoesNotExist',
    })
    await expect(create(scope, crypto.randomUUID(), other.objectId, { principalType: 'User' })).rejects.toMatchObject({
      code: 'UnmatchedPrincipalType',
    })
    await expect(create(`${scope}-none`, crypto.randomUUID(), other.objectId)).rejects.toMatchObject({ code: 'ResourceNotFound' })
    const roles = rolesClient().roleAssignments
    expect(await roles.delete(scope, name)).toMatchObject({ principalId: objectId })
    await roles.delete(scope, name)
    await expect(roles.get(scope, name)).rejects.toMatchObject({ statusCode: 404 })
  })

  test('a principal that the directory does not know yet', async () => {
    const scope = account('contoso-openai').id
    await expect(create(scope, crypto.randomUUID(), crypto.randomUUID())).rejects.toThrow(
      /does not exist in the directory .* replication delay/,
    )
    const young = newPrincipal({ createdAt: Date.now() })
    await withWorld(
      () => {
        world.delays.principalReplication = 3_600_000
      },
      () => {
        world.delays.principalReplication = 0
      },
      async () => {
        const name = crypto.randomUUID()
        await expect(create(scope, name, young.objectId)).rejects.toMatchObject({ code: 'PrincipalNotFound' })
        young.createdAt = Date.now() - 3_600_000
        await create(scope, name, young.objectId)
      },
    )
  })

  test('filters: at and above, and below unless atScope; groups with assignedTo; replication hides what is new', async () => {
    const group = newPrincipal({ kind: 'Group' })
    const member = newPrincipal({ memberOf: [group.objectId] })
    const resourceGroup = `/subscriptions/${world.subscriptionId}/resourceGroups/${world.resourceGroup}`
    const resource = account('contoso-language').id
    assign(member.objectId, builtInRoles.reader, `/subscriptions/${world.subscriptionId}`)
    assign(member.objectId, builtInRoles.reader, resource)
    assign(group.objectId, builtInRoles.reader, resourceGroup)
    assign(member.objectId, builtInRoles.reader, account('contoso-openai').id)

    const above = `/subscriptions/${world.subscriptionId}`
    expect(await list(resource, `principalId eq '${member.objectId}'`)).toEqual([above, resource])
    expect(await list(resource, `assignedTo('${member.objectId}')`)).toEqual([above, resource, resourceGroup])
    expect(await list(resourceGroup, `principalId eq '${member.objectId}'`)).toHaveLength(3)
    expect(await list(resourceGroup, `atScope() and principalId eq '${member.objectId}'`)).toEqual([above])
    expect(await list(resourceGroup, `atScope() and assignedTo('${member.objectId}')`)).toEqual([above, resourceGroup])
    expect(await list(resourceGroup)).toEqual(expect.arrayContaining([above, resource, resourceGroup]))
    expect(await list(resource, 'atScope()')).not.toContain(account('contoso-openai').id)
    await expect(list(resource, "name eq 'x'")).rejects.toMatchObject({ statusCode: 400 })

    const young = newPrincipal()
    assign(young.objectId, builtInRoles.reader, resource, Date.now())
    await withWorld(
      () => {
        world.delays.roleReplication = 3_600_000
      },
      () => {
        world.delays.roleReplication = 0
      },
      async () => {
        expect(await list(resource, `principalId eq '${young.objectId}'`)).toEqual([])
        for (const made of world.roleAssignments.slice(-1)) made.createdAt -= 3_600_000
        expect(await list(resource, `principalId eq '${young.objectId}'`)).toEqual([resource])
      },
    )
  })

  test('a caller whose own assignment is limited by a condition', async () => {
    const limited = newPrincipal({ kind: 'ServicePrincipal', clientId: crypto.randomUUID(), clientSecret: 'limited' })
    assign(limited.objectId, builtInRoles.rbacAdministrator, account('contoso-openai').id)
    const granted = world.roleAssignments.at(-1)
    if (granted) {
      granted.condition = `((!(ActionMatches{'Microsoft.Authorization/roleAssignments/write'})) OR (@Request[Microsoft.Authorization/roleAssignments:RoleDefinitionId] ForAnyOfAnyValues:GuidEquals {${builtInRoles.cognitiveServicesOpenAIUser}}))`
    }
    const scope = account('contoso-openai').id
    const one = newPrincipal()
    await create(scope, crypto.randomUUID(), one.objectId, {}, limited)
    await expect(
      create(scope, crypto.randomUUID(), one.objectId, { roleDefinitionId: roleId(builtInRoles.owner) }, limited),
    ).rejects.toThrow(
      /does not have authorization or an ABAC condition not fulfilled to perform action 'Microsoft\.Authorization\/roleAssignments\/write'/,
    )
  })

  test('role definitions by id and by name', async () => {
    const definitions = rolesClient().roleDefinitions
    const byId = await definitions.get(account('contoso-openai').id, builtInRoles.cognitiveServicesUser)
    expect(byId).toMatchObject({ roleName: 'Cognitive Services User', roleType: 'BuiltInRole' })
    const byName = await all(
      definitions.list(`/subscriptions/${world.subscriptionId}/resourceGroups/${world.resourceGroup}`, {
        filter: "roleName eq 'Owner'",
      }),
    )
    expect(byName.map(({ name }) => name)).toEqual([builtInRoles.owner])
  })
})

describe('accounts and Machine Learning in Resource Manager', () => {
  test('shows kinds, endpoints, deployments; returns keys to callers with the right to list them', async () => {
    const token = await managementToken()
    const get = async (id: string, version: string, method = 'GET') =>
      (await send(method, `${id}?api-version=${version}`, { token })).body
    const openai = account('contoso-openai')
    expect(await get(openai.id, '2025-09-01')).toMatchObject({
      kind: 'OpenAI',
      properties: {
        endpoint: 'https://contoso-openai.openai.azure.com/',
        customSubDomainName: 'contoso-openai',
        disableLocalAuth: false,
      },
    })
    expect((await get(account('contoso-multi').id, '2025-09-01')).properties.endpoints).toMatchObject({
      'OpenAI Language Model Instance API': 'https://contoso-multi.openai.azure.com/',
    })
    expect((await get(account('contoso-language').id, '2025-09-01')).identity.type).toBe('SystemAssigned, UserAssigned')
    const deployments = await get(`${openai.id}/deployments`, '2025-09-01')
    expect(deployments.value.map((one: Json) => [one.name, one.properties.capabilities.embeddings])).toEqual([
      ['gpt-4o-mini', undefined],
      ['text-embedding-3-small', 'true'],
    ])
    expect(await get(`${openai.id}/listKeys`, '2025-09-01', 'POST')).toEqual(openai.keys)
    expect((await get(`${account('contoso-keyless').id}/listKeys`, '2025-09-01', 'POST')).error.message).toContain(
      'disableLocalAuth',
    )

    const workspace = world.workspaces[0]
    const endpoint = workspace?.onlineEndpoints[0]
    expect(await get(workspace?.id ?? '', '2022-10-01')).toMatchObject({
      name: 'contoso-ml',
      type: 'Microsoft.MachineLearningServices/workspaces',
    })
    const endpoints = await get(`${workspace?.id}/onlineEndpoints`, '2022-10-01')
    expect(endpoints.value).toMatchObject([
      { name: 'churn-scoring', properties: { authMode: 'AADToken', scoringUri: endpoint?.scoringUri } },
    ])
    expect((await get(`${endpoint?.id}/listKeys`, '2022-10-01', 'POST')).error.code).toBe('BadRequest')

    const reranker = workspace?.serverlessEndpoints?.[0]
    expect(await get(reranker?.id ?? '', '2024-10-01')).toMatchObject({
      name: 'contoso-rerank',
      type: 'Microsoft.MachineLearningServices/workspaces/serverlessEndpoints',
      properties: { authMode: 'KeyAndAAD', provisioningState: 'Succeeded', inferenceEndpoint: { uri: reranker?.uri } },
    })
    expect(await get(`${reranker?.id}/listKeys`, '2024-10-01', 'POST')).toEqual(reranker?.keys)
  })
})

describe('AI services', () => {
  const embed = (options: {
    account?: string
    deployment?: string
    body?: unknown
    token?: string
    key?: string
    domain?: string
  }) =>
    send('POST', `/openai/deployments/${options.deployment ?? 'text-embedding-3-small'}/embeddings?api-version=2024-02-01`, {
      host: `${options.account ?? 'contoso-openai'}.${options.domain ?? 'openai.azure.com'}`,
      body: options.body ?? { input: 'hello world' },
      ...(options.token === undefined ? {} : { token: options.token }),
      ...(options.key === undefined ? {} : { headers: { 'api-key': options.key } }),
    })
  const tokenFor = async (role: string, scope: string, audience = cognitiveAudience, createdAt = 0) => {
    const { objectId } = newPrincipal()
    assign(objectId, role, scope, createdAt)
    return (await emulator.issueToken(objectId, audience)).token
  }

  test('embeddings are unit vectors of the text', async () => {
    const key = account('contoso-openai').keys.key1
    const vectors = async (input: string | string[], more = {}) =>
      (await embed({ key, body: { input, ...more } })).body.data.map((one: Json) => one.embedding as number[])
    const dot = (a: number[], b: number[]) => a.reduce((sum, value, at) => sum + value * (b[at] ?? 0), 0)
    const [shop, store, cat] = await vectors(['the red shop sells books', 'the red store sells books', 'quantum chromodynamics'])
    expect(shop).toHaveLength(1536)
    expect(dot(shop, shop)).toBeCloseTo(1, 6)
    expect(dot(shop, store)).toBeGreaterThan(dot(shop, cat) + 0.2)
    expect((await vectors('the red shop sells books'))[0]).toEqual(shop)
    expect((await vectors('hello', { dimensions: 256 }))[0]).toHaveLength(256)
  })

  test('give the reason of a refusal', async () => {
    const openai = account('contoso-openai')
    const key = openai.keys.key2
    const refusal = async (answer: Promise<Answer>) => [
      (await answer).status,
      (await answer).body.error.code,
      (await answer).body.error.message,
    ]
    expect(await refusal(embed({ account: 'unknown', key }))).toEqual([
      404,
      'ResourceNotFound',
      'Subdomain does not map to a resource.',
    ])
    expect(await refusal(embed({ key: 'guess' }))).toEqual([
      401,
      '401',
      expect.stringContaining('Access denied due to invalid subscription key'),
    ])
    expect(await refusal(embed({}))).toEqual([
      401,
      '401',
      expect.stringContaining('Unauthorized. Access token is missing, invalid, audience is incorrect'),
    ])
    expect(await refusal(embed({ key, deployment: 'none' }))).toEqual([
      404,
      'DeploymentNotFound',
      expect.stringContaining('The API deployment for this resource does not exist.'),
    ])
    expect(await refusal(embed({ key, deployment: 'gpt-4o-mini' }))).toEqual([
      400,
      'OperationNotSupported',
      expect.stringContaining('The embeddings operation does not work with the specified model, gpt-4o-mini.'),
    ])
    const keyOf = (name: string) => account(name).keys.key1
    expect(await refusal(embed({ account: 'contoso-keyless', key: keyOf('contoso-keyless') }))).toEqual([
      403,
      'AuthenticationTypeDisabled',
      'Key based authentication is disabled for this resource.',
    ])
    expect(await refusal(embed({ account: 'contoso-closed', key: keyOf('contoso-closed') }))).toEqual([
      403,
      '403',
      'Public access is disabled. Please configure private endpoint.',
    ])
    expect(await refusal(embed({ account: 'contoso-walled', key: keyOf('contoso-walled') }))).toEqual([
      403,
      '403',
      'Access denied due to Virtual Network/Firewall rules.',
    ])
    const token = await tokenFor(builtInRoles.cognitiveServicesOpenAIUser, openai.id)
    expect(await refusal(embed({ token, account: 'swedencentral', domain: 'api.cognitive.microsoft.com' }))).toEqual([
      400,
      'BadRequest',
      'Please provide a custom subdomain for token authentication, otherwise API key is required.',
    ])
  })

  test('a token needs the right audience, role and scope, and the time a role takes', async () => {
    const openai = account('contoso-openai')
    const status = async (token: string) => (await embed({ token })).status
    expect(await status(await tokenFor(builtInRoles.cognitiveServicesOpenAIUser, openai.id))).toBe(200)
    expect(await status(await tokenFor(builtInRoles.cognitiveServicesUser, `/subscriptions/${world.subscriptionId}`))).toBe(200)
    expect(await status(await tokenFor(builtInRoles.cognitiveServicesOpenAIUser, account('contoso-multi').id))).toBe(401)
    expect(await status(await tokenFor(builtInRoles.owner, openai.id))).toBe(401)
    expect(await status(await tokenFor(builtInRoles.cognitiveServicesOpenAIUser, openai.id, 'https://ml.azure.com'))).toBe(401)
    await withWorld(
      () => {
        world.delays.rolePropagation = 60_000
      },
      () => {
        world.delays.rolePropagation = 0
      },
      async () => {
        const token = await tokenFor(builtInRoles.cognitiveServicesOpenAIUser, openai.id, cognitiveAudience, Date.now())
        const answer = await embed({ token })
        expect(answer.status).toBe(401)
        expect(answer.body.error).toEqual({
          code: 'PermissionDenied',
          message: expect.stringMatching(
            /^The principal `[-0-9a-f]+` lacks the required data action `Microsoft\.CognitiveServices\/accounts\/OpenAI\/deployments\/embeddings\/action` to perform `POST \/openai\/deployments\/\{deployment-id\}\/embeddings` operation\.$/,
          ),
        })
      },
    )
  })

  test('sentiment follows the words', async () => {
    const analyze = async (...texts: string[]) => {
      const { body } = await send('POST', '/language/:analyze-text?api-version=2023-04-01', {
        host: 'contoso-language.cognitiveservices.azure.com',
        token: await tokenFor(builtInRoles.cognitiveServicesUser, account('contoso-language').id),
        body: {
          kind: 'SentimentAnalysis',
          analysisInput: { documents: texts.map((text, at) => ({ id: String(at), language: 'en', text })) },
        },
      })
      return body.results.documents
    }
    const documents = await analyze(
      'I love this product, it works great!',
      'This is not good.',
      'The parcel has four sides.',
      'Great shop. Awful service.',
    )
    expect(documents.map((one: Json) => one.sentiment)).toEqual(['positive', 'negative', 'neutral', 'mixed'])
    for (const { confidenceScores: scores } of documents)
      expect(scores.positive + scores.neutral + scores.negative).toBeCloseTo(1, 9)
    const openaiOnly = await tokenFor(builtInRoles.cognitiveServicesOpenAIUser, account('contoso-language').id)
    const refused = await send('POST', '/language/:analyze-text', {
      host: 'contoso-language.cognitiveservices.azure.com',
      token: openaiOnly,
      body: {},
    })
    expect(refused.body.error).toEqual({ code: 'PermissionDenied', message: 'Principal does not have access to API/Operation.' })
  })

  test('translation on the Translator itself or through another account, unless it insists on its own endpoint', async () => {
    const translator = account('contoso-translator')
    const token = await tokenFor(builtInRoles.cognitiveServicesUser, translator.id)
    const translate = (host: string, headers: Record<string, string>, to = 'es', bearerToken: string | undefined = token) =>
      send('POST', `/translator/text/v3.0/translate?api-version=3.0&to=${to}`, {
        host: `${host}.cognitiveservices.azure.com`,
        headers,
        body: [{ Text: 'Hello world, Zorblax' }],
        ...(bearerToken === '' ? {} : { token: bearerToken }),
      })
    const named = { 'Ocp-Apim-ResourceId': translator.id }
    expect((await translate('contoso-translator', named)).body).toEqual([
      { detectedLanguage: { language: 'en', score: 1 }, translations: [{ text: 'Hola mundo, Zorblax', to: 'es' }] },
    ])
    expect((await translate('contoso-language', named, 'de')).body[0].translations[0].text).toBe('Hallo Welt, Zorblax')
    expect((await translate('contoso-language', {})).status).toBe(401)
    expect((await translate('contoso-translator', named, 'xx')).body.error.code).toBe(400036)
    await withWorld(
      () => {
        world.switches.translateOwnEndpoint = true
      },
      () => {
        world.switches.translateOwnEndpoint = false
      },
      async () => {
        expect((await translate('contoso-language', named)).status).toBe(404)
        expect((await translate('contoso-translator', named)).status).toBe(200)
      },
    )
    const key = { 'Ocp-Apim-Subscription-Key': translator.keys.key1 }
    expect((await translate('contoso-translator', key, 'fr', '')).body.error.code).toBe(401000)
    expect(
      (await translate('contoso-translator', { ...key, 'Ocp-Apim-Subscription-Region': 'westeurope' }, 'fr', '')).status,
    ).toBe(200)
  })

  test('an online endpoint computes from its input', async () => {
    const endpoint = world.workspaces[0]?.onlineEndpoints[0]
    if (!endpoint) throw new Error('no endpoint')
    const score = (
      token: string | undefined,
      body: unknown = JSON.parse(emulator.inputs['machine-learning-input'] ?? ''),
      headers: Record<string, string> = {},
    ) =>
      send('POST', '/score', {
        host: new URL(endpoint.scoringUri).host,
        body,
        headers,
        ...(token === undefined ? {} : { token }),
      })
    const token = await tokenFor(builtInRoles.dataScientist, endpoint.id, 'https://ml.azure.com')
    expect((await score(token)).body).toEqual([15, 10])
    expect((await score(token, [[1.5, 2]])).body).toEqual([3.5])
    expect((await score(token, {})).status).toBe(424)
    expect((await score(token, undefined, { 'azureml-model-deployment': 'green' })).status).toBe(404)
    expect((await score(token, undefined, { 'azureml-model-deployment': 'blue' })).status).toBe(200)
    expect((await score(await tokenFor(builtInRoles.reader, endpoint.id, 'https://ml.azure.com'))).status).toBe(401)
    await withWorld(
      () => {
        endpoint.authMode = 'Key'
      },
      () => {
        endpoint.authMode = 'AADToken'
      },
      async () => {
        expect((await score(token)).status).toBe(401)
        expect((await score(endpoint.keys.primaryKey)).status).toBe(200)
      },
    )
  })

  test('a reranker takes its key or a token, at the paths that it has', async () => {
    const endpoint = world.workspaces[0]?.serverlessEndpoints?.[0]
    if (!endpoint) throw new Error('no endpoint')
    const body = { query: 'the key', documents: ['a cat', 'the key'] }
    const rank = (token: string | undefined, path = '/v2/rerank') =>
      send('POST', path, { host: new URL(endpoint.uri).host, body, ...(token === undefined ? {} : { token }) })
    const token = await tokenFor(builtInRoles.dataScientist, endpoint.id, 'https://ml.azure.com')
    expect((await rank(token)).body.results.map(({ index }: { index: number }) => index)).toEqual([1, 0])
    expect((await rank(await tokenFor(builtInRoles.reader, endpoint.id, 'https://ml.azure.com'))).status).toBe(401)
    expect((await rank(undefined)).status).toBe(401)
    expect((await rank(endpoint.keys.secondaryKey)).status).toBe(200)
    await withWorld(
      () => {
        endpoint.paths = ['/v1/rerank']
        endpoint.authMode = 'AAD'
      },
      () => {
        delete endpoint.paths
        endpoint.authMode = 'KeyAndAAD'
      },
      async () => {
        expect((await rank(token)).status).toBe(404)
        expect((await rank(token, '/v1/rerank')).status).toBe(200)
        expect((await rank(endpoint.keys.primaryKey, '/v1/rerank')).status).toBe(401)
      },
    )
    await withWorld(
      () => {
        endpoint.authMode = 'Key'
      },
      () => {
        endpoint.authMode = 'KeyAndAAD'
      },
      async () => {
        expect((await rank(token)).status).toBe(401)
        expect((await rank(endpoint.keys.primaryKey)).status).toBe(200)
      },
    )
  })

  test('a chat model answers, gpt-5 refuses a temperature, and neither without the role', async () => {
    const openai = account('contoso-openai')
    const chat = (token: string, deployment = 'gpt-4o-mini') =>
      send('POST', `/openai/deployments/${deployment}/chat/completions?api-version=2024-10-21`, {
        host: 'contoso-openai.openai.azure.com',
        body: { messages: [{ role: 'user', content: 'Say hello' }], temperature: 0.2 },
        token,
      })
    const token = await tokenFor(builtInRoles.cognitiveServicesOpenAIUser, openai.id)
    expect((await chat(token)).body.choices[0].message.content).toBe('Hello')
    expect((await chat(token, 'text-embedding-3-small')).body.error.code).toBe('OperationNotSupported')
    expect((await chat(await tokenFor(builtInRoles.reader, openai.id))).status).toBe(401)
    await withWorld(
      () => {
        openai.deployments.push({ name: 'five', model: { name: 'gpt-5', version: '2025-08-07', format: 'OpenAI' } })
      },
      () => {
        openai.deployments.pop()
      },
      async () => {
        const refused = await chat(token, 'five')
        expect(refused.status).toBe(400)
        expect(refused.body.error.message).toContain("'temperature' does not support 0.2")
      },
    )
  })

  test('unfamiliar texts have the same status, but no known text', async () => {
    await withWorld(
      () => {
        world.switches.unfamiliarTexts = true
      },
      () => {
        world.switches.unfamiliarTexts = false
      },
      async () => {
        const answer = await embed({ key: 'guess' })
        expect(answer.status).toBe(401)
        expect(JSON.stringify(answer.body)).not.toMatch(/subscription|denied/i)
      },
    )
  })
})

describe('the identity of the database server', () => {
  test('answers only after a restart, and then a test function runs with it once the role is there', async () => {
    const embed = async () => {
      const { token } = await emulator.issueToken(principal(deployerName).objectId, postgresAudience)
      const client = new pg.Client({
        host: emulator.postgres.host,
        port: emulator.postgres.port,
        user: deployerName,
        password: token,
        database: 'app',
        ssl: { ca: caOf(emulator), servername: server().fullyQualifiedDomainName },
      })
      await client.connect()
      try {
        const { rows } = await client.query(
          "SELECT cardinality(azure_openai.create_embeddings(deployment_name => 'text-embedding-3-small'::text, input => 'hello'::text, timeout_ms => 5000)) AS size",
        )
        return rows[0].size
      } catch (error) {
        return (error as Error).message
      } finally {
        await client.end()
      }
    }
    server().configurations['azure.extensions'] = { value: 'azure_ai', source: 'user-override' }
    await emulator.refresh()
    await emulator.postgres.query('app', 'CREATE EXTENSION IF NOT EXISTS azure_ai')
    for (const [key, value] of [
      ['auth_type', 'managed-identity'],
      ['endpoint', 'https://contoso-openai.openai.azure.com'],
    ]) {
      await emulator.postgres.query('app', 'SELECT azure_ai.set_setting($1, $2)', [`azure_openai.${key}`, value])
    }
    expect(await embed()).toMatch(/token|identity/i)

    const client = postgresClient()
    const identity = { type: 'SystemAssigned,UserAssigned', userAssignedIdentities: server().identity?.userAssignedIdentities }
    const ids = Object.fromEntries(Object.keys(identity.userAssignedIdentities ?? {}).map((id) => [id, {}]))
    await client.servers.beginUpdateAndWait(
      world.resourceGroup,
      'pg-contoso',
      { identity: { type: 'SystemAssigned,UserAssigned', userAssignedIdentities: ids } },
      quick,
    )
    const principalId = server().identity?.principalId ?? ''
    expect(await embed()).toMatch(/Identity not found/)
    await client.servers.beginRestartAndWait(world.resourceGroup, 'pg-contoso', quick)
    expect(server().loadedPrincipalId).toBe(principalId)
    expect(await embed()).toMatch(/PermissionDenied/)
    assign(principalId, builtInRoles.cognitiveServicesOpenAIUser, account('contoso-openai').id)
    expect(await embed()).toBe(1536)
    await withWorld(
      () => {
        world.delays.identityPropagation = 60_000
      },
      () => {
        world.delays.identityPropagation = 0
      },
      async () => expect(await embed()).toMatch(/Identity not found/),
    )
    expect(world.exchanges.at(-1)).toMatchObject({ plane: 'identity', status: 400 })
  })

  test('the identity endpoint is for the database alone', async () => {
    const path = `/identity/token?api-version=2018-02-01&resource=${cognitiveAudience}`
    expect((await send('GET', path, { headers: { Metadata: 'true' } })).status).toBe(403)
  })
})

describe('the emulator itself', () => {
  test('world.fault: another answer, a broken connection before or after, half an answer, silence', async () => {
    const token = await managementToken()
    const rule = `${server('pg-replica').id}/firewallRules/fault?api-version=2025-08-01`
    const body = { properties: { startIpAddress: '203.0.113.1', endIpAddress: '203.0.113.1' } }
    const put = () => send('PUT', rule, { token, body })
    const seen = () => world.exchanges.at(-1)
    try {
      world.fault = ({ plane, method }) =>
        plane === 'resource-manager' && method === 'PUT'
          ? { kind: 'answer', status: 429, headers: { 'retry-after': '7' }, body: '{"error":{"code":"TooManyRequests"}}' }
          : undefined
      expect(await put()).toMatchObject({
        status: 429,
        headers: { 'retry-after': '7' },
        body: { error: { code: 'TooManyRequests' } },
      })
      world.fault = () => ({ kind: 'reset-before' })
      await expect(put()).rejects.toThrow()
      expect(server('pg-replica').firewallRules['fault']).toBeUndefined()
      expect(seen()).toMatchObject({ method: 'PUT', status: 0 })
      world.fault = () => ({ kind: 'reset-after' })
      await expect(put()).rejects.toThrow()
      expect(server('pg-replica').firewallRules['fault']).toBeDefined()
      expect(seen()).toMatchObject({ method: 'PUT', status: 202 })
      world.fault = () => ({ kind: 'truncate' })
      await expect(send('GET', rule, { token })).rejects.toThrow()
      world.fault = () => ({ kind: 'hang' })
      const silent = send('GET', rule, { token }).then(
        () => 'answered',
        () => 'ended',
      )
      expect(await Promise.race([silent, new Promise((resolve) => setTimeout(resolve, 200, 'silent'))])).toBe('silent')
    } finally {
      delete world.fault
    }
  })

  test('counts writes and reads, and records no secret', async () => {
    const token = await managementToken()
    const counts = () => [emulator.writes().length, emulator.reads().length, emulator.keyReads().length]
    const [writes = 0, reads = 0, keys = 0] = counts()
    await send('GET', `${server().id}?api-version=2025-08-01`, { token })
    await send('POST', `${account('contoso-openai').id}/listKeys?api-version=2025-09-01`, { token })
    await send('PATCH', `${server().id}?api-version=2025-08-01`, { token, body: { sku: {} } })
    expect(counts()).toEqual([writes + 1, reads + 2, keys + 1])
    const record = JSON.stringify(world.exchanges)
    const secrets = world.accounts.flatMap(({ keys: { key1, key2 } }) => [key1, key2])
    for (const { clientSecret } of world.principals) if (clientSecret && clientSecret.length > 10) secrets.push(clientSecret)
    for (const secret of secrets) expect(record).not.toContain(secret)
    expect(record).not.toMatch(/eyJ[\w-]+\.eyJ[\w-]+\./)
    expect(world.exchanges.map(({ number }) => number)).toEqual(world.exchanges.map((_, at) => at + 1))
  })

  test('two run at once, with keys and ports of their own, and leave nothing', async () => {
    const other = await startEmulator({ databases: ['only'] })
    try {
      expect(other.url).not.toBe(emulator.url)
      expect(other.world.accounts[0]?.keys).not.toEqual(world.accounts[0]?.keys)
      const token = await managementToken()
      expect((await send('GET', `${server().id}?api-version=2025-08-01`, { token, from: other })).status).toBe(401)
      expect(other.inputs['databases']).toBe('only')
    } finally {
      await other.stop()
    }
    expect(existsSync(other.folder)).toBe(false)
    await expect(send('GET', '/metadata/endpoints?api-version=2022-09-01', { from: other })).rejects.toThrow(/ECONNREFUSED/)
  })
})

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = []
  for await (const item of items) found.push(item)
  return found
}
