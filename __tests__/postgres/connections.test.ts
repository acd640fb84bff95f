import { randomUUID } from 'node:crypto'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { createSecureContext, TLSSocket, connect as tlsConnect } from 'node:tls'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { builtInRoles, deployerName } from '../../emulator/default-world.ts'
import type { Emulator } from '../../emulator/index.ts'
import { passwordLogin } from '../../emulator/postgres.ts'
import { type JobResult, runJob } from '../../emulator/runner.ts'
import { hurried, noPauses } from '../support/clock.ts'
import { errorsOf, findingWith } from '../support/findings.ts'
import {
  accountNamed,
  assignRole,
  begin,
  codesOf,
  databasesOf,
  emulate,
  giveIdentity,
  principalNamed,
  serverOf,
  statusesOf,
  usual,
} from '../support/support.ts'

let emulator: Emulator
const ended: JobResult[] = []
const listeners: Server[] = []

beforeAll(async () => {
  emulator = await emulate({ databases: ['app'] })
})
beforeEach(() => begin(emulator))
afterAll(async () => {
  for (const listener of listeners) listener.close()
  await Promise.all(ended.map((job) => job.remove()))
  await emulator?.stop()
})

const only = { cognitive: '', translator: '', 'machine-learning': '', 'machine-learning-input': '' }

async function job(inputs: Record<string, string>, env: Record<string, string> = emulator.env): Promise<JobResult> {
  const result = await runJob({ inputs: { ...emulator.inputs, ...usual, ...only, ...inputs }, env })
  ended.push(result)
  return result
}

/** With these inputs the run contacts only the database: no sign-in, and Resource Manager only for its description of the cloud. */
const byPassword = {
  mode: 'verify',
  'verify-timeout-minutes': '0',
  'embedding-deployment': 'text-embedding-3-small',
  'database-user': passwordLogin.user,
  'database-password': passwordLogin.password,
}

async function listen(onConnection: (socket: Socket) => void): Promise<number> {
  const listener = createServer((socket) => {
    socket.on('error', () => socket.destroy())
    onConnection(socket)
  })
  listeners.push(listener)
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve))
  return (listener.address() as AddressInfo).port
}

/** What a client says first, once TLS is up. */
interface Greeting {
  readonly parameters: Readonly<Record<string, string>>
  readonly bytes: Buffer
}

/** Takes PostgreSQL's request for TLS with a certificate for these names, reads the startup message and hands both on. */
function overTls(names: string[], onGreeting: (client: TLSSocket, greeting: Greeting) => void): Promise<number> {
  const { cert, key } = emulator.certificate(names)
  const secureContext = createSecureContext({ cert, key })
  return listen((socket) => {
    socket.once('data', () => {
      socket.write('S')
      const client = new TLSSocket(socket, { isServer: true, secureContext })
      client.on('error', () => client.destroy())
      client.once('data', (bytes: Buffer) => {
        const words = bytes.subarray(8).toString('utf8').split('\0')
        const parameters: Record<string, string> = {}
        for (let index = 0; words[index] !== '' && words[index] !== undefined; index += 2)
          parameters[words[index] ?? ''] = words[index + 1] ?? ''
        onGreeting(client, { parameters, bytes })
      })
    })
  })
}

/** Ends the connection with an error, as PostgreSQL does before the login. */
function refuse(client: TLSSocket, sqlState: string, text: string): void {
  const fields = Buffer.from(`SFATAL\0VFATAL\0C${sqlState}\0M${text}\0\0`)
  const head = Buffer.alloc(5)
  head.write('E')
  head.writeInt32BE(fields.length + 4, 1)
  client.end(Buffer.concat([head, fields]))
}

/** Hands a connection on to the real PostgreSQL. */
function pass(client: TLSSocket, { bytes }: Greeting, onData?: (chunk: Buffer) => void): void {
  const { host, port } = emulator.postgres
  const socket = connect({ host, port })
  const request = Buffer.alloc(8)
  request.writeInt32BE(8)
  request.writeInt32BE(80877103, 4)
  socket.once('connect', () => socket.write(request))
  socket.once('data', () => {
    const inside = tlsConnect({ socket, rejectUnauthorized: false })
    inside.write(bytes)
    inside.on('error', () => client.destroy()).on('close', () => client.destroy())
    client.on('close', () => inside.destroy())
    client.on('data', (chunk: Buffer) => {
      onData?.(chunk)
      inside.write(chunk)
    })
    inside.pipe(client)
  })
  socket.on('error', () => client.destroy())
}

const inGroupOf = '--resource-group rg-contoso-ai'

describe('each failure of a connection has its own code and fix', () => {
  test.each([
    [
      'the name is not known',
      'dns',
      'network',
      async () => ({ 'database-host': 'pg-contoso.invalid' }),
      'nslookup pg-contoso.invalid',
    ],
    [
      'nothing listens',
      'connection-refused',
      'network',
      async () => ({ 'database-port': '1' }),
      'Check that the server is started',
    ],
    [
      'the password is wrong',
      'login-refused',
      'credentials',
      async () => ({ 'database-password': 'guessed' }),
      `az postgres flexible-server microsoft-entra-admin list ${inGroupOf} --server-name pg-contoso`,
    ],
    [
      'the database does not exist',
      'database-not-found',
      'input',
      async () => ({ databases: 'nowhere' }),
      `az postgres flexible-server db list ${inGroupOf} --server-name pg-contoso`,
    ],
    [
      'the firewall keeps this runner out, and names the address it sees',
      'firewall',
      'network',
      async () => {
        serverOf(emulator).firewallRules = {}
        await emulator.refresh()
        return {}
      },
      `az postgres flexible-server firewall-rule create ${inGroupOf} --server-name pg-contoso --name runner --start-ip-address 127.0.0.1 --end-ip-address 127.0.0.1`,
    ],
    [
      'the role may have no more connections',
      'connection-limit',
      'database',
      async () => {
        await emulator.postgres.query('postgres', `ALTER ROLE ${passwordLogin.user} CONNECTION LIMIT 0`)
        return {}
      },
      'CONNECTION LIMIT',
    ],
    [
      'the database may have no more connections',
      'connection-limit',
      'database',
      async () => {
        await emulator.postgres.query('postgres', 'ALTER DATABASE app CONNECTION LIMIT 0')
        return {}
      },
      'ALTER DATABASE "app" CONNECTION LIMIT -1;',
    ],
    [
      'the database takes no connections',
      'database-closed',
      'database',
      async () => {
        await emulator.postgres.query('postgres', 'ALTER DATABASE app ALLOW_CONNECTIONS false')
        return {}
      },
      'ALTER DATABASE "app" ALLOW_CONNECTIONS true;',
    ],
  ])('%s', async (_, code, reason, arrange, fix) => {
    try {
      const result = await job({ ...byPassword, ...(await arrange()) }, { ...emulator.env, ...noPauses() })
      expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': reason, verified: 'false' })
      expect(findingWith(result, code).fix).toContain(fix)
      expect(errorsOf(result)).toHaveLength(1)
    } finally {
      await emulator.postgres.query('postgres', `ALTER ROLE ${passwordLogin.user} CONNECTION LIMIT -1`)
      await emulator.postgres.query('postgres', 'ALTER DATABASE app CONNECTION LIMIT -1')
      await emulator.postgres.query('postgres', 'ALTER DATABASE app ALLOW_CONNECTIONS true')
    }
  })

  // The wording of Azure's PostgreSQL; the emulator's own reports only that a password is wrong.
  test.each([
    [
      '28000',
      'The access token has expired. Acquire a new token and retry.',
      'database-token-expired',
      'credentials',
      'timedatectl',
    ],
    ['28000', 'role "pgadmin" does not exist', 'role-not-found', 'credentials', 'pgaadauth_create_principal'],
    ['28P01', 'Principal "gha" was not found in the tenant', 'role-not-found', 'credentials', 'microsoft-entra-admin list'],
    [
      '28000',
      'Service principal oid mismatch for role "gha"',
      'principal-mismatch',
      'credentials',
      'microsoft-entra-admin delete',
    ],
    [
      '28P01',
      'The access token for role "gha" is neither an AAD_AUTH_TOKENTYPE_APP_USER or an AAD_AUTH_TOKENTYPE_APP_OBO token',
      'principal-mismatch',
      'credentials',
      'its type (User, Group or ServicePrincipal)',
    ],
    ['28P01', 'Could not validate AAD user 3c0b9a52', 'principal-mismatch', 'credentials', 'microsoft-entra-admin create'],
    [
      '53300',
      'remaining connection slots are reserved for azure replication users',
      'too-many-connections',
      'database',
      'pg_stat_activity',
    ],
    ['08P01', 'unsupported startup parameter: extra_float_digits', 'pooler-refuses-parameter', 'network', 'database-port: 5432'],
    ['XX000', 'turned away at the gate', 'postgres-error', 'database', 'word for word'],
  ])('the server refuses with %s %s', async (sqlState, text, code, reason, fix) => {
    let tries = 0
    const port = await overTls(['127.0.0.1'], (client) => {
      tries++
      refuse(client, sqlState, text)
    })
    const result = await job({ ...byPassword, 'database-port': String(port) }, { ...emulator.env, ...noPauses() })
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': reason })
    const failure = findingWith(result, code)
    expect(failure.detail).toContain(text)
    expect(failure.fix).toContain(fix)
    // A connection may become free soon: two minutes of retries, at most 20 s apart. No other refusal here changes by itself.
    if (sqlState === '53300') {
      expect(tries).toBeGreaterThan(6)
      expect(tries).toBeLessThan(16)
    } else expect(tries).toBe(1)
  })

  // In real time: less than two seconds.
  test.each([
    ['57P03', 'the database system is starting up'],
    ['53300', 'remaining connection slots are reserved for azure replication users'],
  ])('the server refuses with %s for a moment: the run waits and connects', async (sqlState, text) => {
    let refused = 0
    const port = await overTls(['127.0.0.1'], (client, greeting) =>
      refused++ < 2 ? refuse(client, sqlState, text) : pass(client, greeting),
    )
    const result = await job({ ...byPassword, 'database-port': String(port) })
    expect(codesOf(result), result.log).toContain('extension-missing')
    expect(refused).toBeGreaterThan(2)
  })

  test('the server does not answer', async () => {
    const silent = await listen(() => undefined)
    // The action waits 15 seconds for a connection; the test's clock shortens that, because nothing will come.
    const clock = hurried([[15_000, 15_000, 3_000]])
    const result = await job({ ...byPassword, 'database-port': String(silent) }, { ...emulator.env, ...clock })
    expect(findingWith(result, 'connection-timeout').fix).toContain(`az postgres flexible-server show ${inGroupOf}`)
    expect(result.outputs['failure-reason']).toBe('network')
  })

  test('the server stays in its start-up', async () => {
    let tries = 0
    const port = await overTls(['127.0.0.1'], (client) => {
      tries++
      refuse(client, '57P03', 'the database system is starting up')
    })
    const result = await job({ ...byPassword, 'database-port': String(port) }, { ...emulator.env, ...noPauses() })
    expect(findingWith(result, 'starting-up').fix).toContain('again in a minute')
    expect(result.outputs['failure-reason']).toBe('database')
    // Half a minute of tries.
    expect(tries).toBeGreaterThan(3)
  })
})

describe('TLS', () => {
  // In a well-known cloud a verify with a password contacts only the database.
  const alone = { ...byPassword, environment: 'AzureCloud' }

  test('is always verified: an untrusted root ends the connection', async () => {
    const result = await job(alone, {})
    const failure = findingWith(result, 'tls-not-trusted')
    expect(result.outputs['failure-reason']).toBe('network')
    expect(failure.fix).toContain('NODE_EXTRA_CA_CERTS')
    expect(failure.fix).toContain('cannot be turned off')
    const noCheck = await job(alone, { NODE_TLS_REJECT_UNAUTHORIZED: '0' })
    findingWith(noCheck, 'tls-not-trusted')
  })

  // macOS keeps its roots in the keychain.
  test.runIf(process.platform === 'linux')("is verified by the system's roots as well as by Node's", async () => {
    const bySystem = await job(alone, { SSL_CERT_FILE: emulator.caFile })
    expect(codesOf(bySystem), bySystem.log).toContain('extension-missing')
    const byNode = await job(alone, { NODE_EXTRA_CA_CERTS: emulator.caFile })
    expect(codesOf(byNode), byNode.log).toContain('extension-missing')
  })

  const { fullyQualifiedDomainName: own } = { fullyQualifiedDomainName: 'pg-contoso.postgres.database.azure.com' }
  test.each([
    ["the server's own name", [own], 'extension-missing'],
    ['`database-host`', ['127.0.0.1'], 'extension-missing'],
    ['neither', ['pg-other.postgres.database.azure.com'], 'tls-not-trusted'],
  ])('a certificate for %s', async (_, names, code) => {
    const port = await overTls(names, pass)
    const result = await job({ ...alone, 'database-port': String(port) }, { NODE_EXTRA_CA_CERTS: emulator.caFile })
    const failure = findingWith(result, code)
    if (code !== 'tls-not-trusted') return
    expect(failure.detail).toContain('ERR_TLS_CERT_ALTNAME_INVALID')
    expect(failure.fix).toContain('`database-host`')
    expect(failure.fix).not.toContain('NODE_EXTRA_CA_CERTS')
  })
})

describe('through a pooler', () => {
  /** The startup parameters that PgBouncer accepts by default. */
  const knownParameters = [
    'user',
    'database',
    'application_name',
    'client_encoding',
    'datestyle',
    'timezone',
    'standard_conforming_strings',
  ]

  test('that refuses unknown startup parameters, everything works and nothing depends on the session', async () => {
    const refused: string[] = []
    const queries: string[] = []
    const named: string[] = []
    const port = await overTls(['127.0.0.1'], (client, greeting) => {
      const unknown = Object.keys(greeting.parameters).find((name) => !knownParameters.includes(name.toLowerCase()))
      if (unknown !== undefined) {
        refused.push(unknown)
        refuse(client, '08P01', `unsupported startup parameter: ${unknown}`)
        return
      }
      let rest = Buffer.alloc(0)
      pass(client, greeting, (chunk) => {
        rest = Buffer.concat([rest, chunk])
        while (rest.length >= 5 && rest.length >= rest.readInt32BE(1) + 1) {
          const length = rest.readInt32BE(1) + 1
          const [kind, body] = [String.fromCharCode(rest[0] ?? 0), rest.subarray(5, length)]
          if (kind === 'Q') queries.push(body.toString('utf8').replace(/\0$/, ''))
          if (kind === 'P') {
            const [name = '', sql = ''] = body.toString('utf8').split('\0')
            if (name !== '') named.push(name)
            queries.push(sql)
          }
          rest = rest.subarray(length)
        }
      })
    })
    const result = await job({ 'database-port': String(port) })
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(refused).toEqual([])
    expect(named).toEqual([])
    expect(queries.length).toBeGreaterThan(5)
    const statements = queries.flatMap((text) => text.split(';').map((statement) => statement.trim()))
    expect(statements.filter((statement) => /^(SET(?! LOCAL)|PREPARE|LISTEN|DECLARE.*WITH HOLD)\b/i.test(statement))).toEqual([])
  })
})

describe('who connects', () => {
  const look = { mode: 'check', 'fail-on-drift': 'false' }

  function inGroup(group: string): string {
    const objectId = randomUUID()
    emulator.world.principals.push({ objectId, displayName: group, kind: 'Group' })
    principalNamed(emulator.world, deployerName).memberOf = [objectId]
    return objectId
  }

  test('a caller that is not an administrator gets a failure that lists the administrator groups', async () => {
    const objectId = inGroup('dba team')
    serverOf(emulator).administrators = [
      { objectId, principalName: 'dba team', principalType: 'Group' },
      { objectId: randomUUID(), principalName: 'Operations', principalType: 'Group' },
      { objectId: randomUUID(), principalName: 'person@contoso.example', principalType: 'User' },
    ]
    await emulator.refresh()
    const failure = findingWith(await job(look), 'not-an-administrator')
    expect(failure.detail).toContain('Groups among them: dba team, Operations;')
    expect(failure.detail).toContain("connects with the group's name as `database-user`")
    expect(failure.detail).not.toContain('person@contoso.example')
    const { objectId: own } = principalNamed(emulator.world, deployerName)
    expect(failure.fix).toContain(
      `microsoft-entra-admin create --resource-group rg-contoso-ai --server-name pg-contoso --object-id ${own}`,
    )

    const member = await job({ ...look, 'database-user': 'dba team' })
    expect(member.code, member.log).toBe(0)
    expect(member.log).toContain('as "dba team"')
  })

  test.each(['dba team', 'Ops "Büro" d\'été', '数据库 管理员', 'a;b--c'])(
    'a role named %s works, found by object id or set as database-user',
    async (name) => {
      const { objectId } = principalNamed(emulator.world, deployerName)
      serverOf(emulator).administrators = [
        { objectId: objectId.toUpperCase(), principalName: name, principalType: 'ServicePrincipal' },
      ]
      await emulator.refresh()
      const found = await job(look)
      expect(found.code, found.log).toBe(0)
      expect(found.log).toContain(`as "${name}"`)
      const group = inGroup(`${name} group`)
      serverOf(emulator).administrators = [{ objectId: group, principalName: `${name} group`, principalType: 'Group' }]
      await emulator.refresh()
      const named = await job({ ...look, 'database-user': `${name} group` })
      expect(named.code, named.log).toBe(0)
    },
  )

  test('a role that the identity has through a group counts, with a warning', async () => {
    const { world } = emulator
    const identity = giveIdentity(emulator)
    const group = randomUUID()
    const outer = randomUUID()
    world.principals.push({ objectId: group, displayName: 'ai callers', kind: 'Group', memberOf: [outer] })
    world.principals.push({ objectId: outer, displayName: 'all callers', kind: 'Group' })
    Object.assign(world.principals.find(({ objectId }) => objectId === identity) ?? {}, { memberOf: [group] })
    const { id } = accountNamed(world, 'contoso-openai')
    const more = { principalType: 'Group', createdAt: 0, createdBy: identity } as const
    assignRole(world, outer, id, builtInRoles.cognitiveServicesOpenAIUser, more)
    await emulator.refresh()
    const result = await job({})
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(statusesOf(result)['role/openai']).toBe('in-sync')
    expect(emulator.writes().filter(({ url }) => /roleAssignments/i.test(url))).toEqual([])
    const warning = findingWith(result, 'role-by-group')
    expect(warning.detail).toContain(outer)
    expect(warning.detail).toContain('can take hours')
    expect(databasesOf(emulator)).toEqual(['app'])
  })
})
