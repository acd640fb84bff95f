/** An Azure for one machine: Entra, Resource Manager, the AI services and a real PostgreSQL with azure_ai, on loopback over TLS. */
import { randomBytes } from 'node:crypto'
import { realpathSync } from 'node:fs'
import { chmod, mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createServices, isServiceHost, serviceNames } from './ai-services.ts'
import { createAuthority } from './certificates.ts'
import { defaultWorld } from './default-world.ts'
import { createEntra, type IssuedToken, oidcAudience } from './entra.ts'
import { type Fleet, startFleet } from './fleet.ts'
import { createGitHub } from './github.ts'
import { createGitHubRest } from './github-rest.ts'
import { guard } from './guardian.ts'
import { type Handler, type HttpServer, listen } from './http.ts'
import { type LatencyProxy, openLatencyProxy } from './latency-proxy.ts'
import { type Postgres, startPostgres } from './postgres.ts'
import { createResourceManager, resourceManagerAudiences } from './resource-manager.ts'
import { serverRoutes } from './servers.ts'
import type { Delays, Exchange, Server, Switches, World } from './world.ts'

export interface EmulatorOptions {
  delays?: Partial<Delays>
  switches?: Partial<Switches>
  /** Databases of the primary server; `app` and `sales 2026` when absent. */
  databases?: string[]
  /** The name by which Resource Manager, Entra and GitHub are reached; `localhost` when absent. Another name leads here only through a proxy. */
  host?: string
  /** Puts proxies with adjustable latency before HTTPS and PostgreSQL; the inputs and variables of the action lead through them. */
  far?: boolean
  /** `false`: no PostgreSQL, for machines that it does not run on (Windows). Its address leads nowhere then; everything else works. */
  postgres?: boolean
  /** Reaches every server at its own name, each with the PostgreSQL that the world gives it. */
  fleet?: boolean
  /** Changes the default world before anything starts. Without `fleet` only the first server has a PostgreSQL. */
  shape?: (world: World) => void
}

export interface Emulator {
  world: World
  /** `https://localhost:PORT` (or the `host` of the options), the value of the action's input `environment`. */
  url: string
  /** All files of the emulator; deleted by `stop`. */
  folder: string
  caFile: string
  postgres: Postgres
  /** With `fleet`: the servers at their names. */
  fleet: Fleet | undefined
  /** With `far`: the proxies, without latency at first. */
  latencyProxies: { http: LatencyProxy; postgres: LatencyProxy } | undefined
  /** Environment for a job on this machine, as the runner would give it. */
  env: Record<string, string>
  /** Inputs of the action for this world. */
  inputs: Record<string, string>
  /** Resource Manager requests so far that changed something or tried to. */
  writes(): Exchange[]
  /** Those that only read, requests for keys and queries of Resource Graph among them. */
  reads(): Exchange[]
  /** Requests for keys. */
  keyReads(): Exchange[]
  /** A token as another sign-in would return it (an az session, a user). Throws for an unknown object id. */
  issueToken(objectId: string, audience: string): Promise<IssuedToken>
  /** A server certificate of the same authority for these DNS names and addresses, and its key; both PEM. */
  certificate(names: string[], kind?: 'ec' | 'rsa'): { cert: string; key: string }
  /** Brings firewall, administrators, configurations and switches of a world changed by hand to PostgreSQL. */
  refresh(): Promise<void>
  stop(): Promise<void>
}

/** Takes about three seconds. Several may run at once. */
export async function startEmulator(options: EmulatorOptions = {}): Promise<Emulator> {
  const world = defaultWorld()
  Object.assign(world.delays, options.delays)
  Object.assign(world.switches, options.switches)
  options.shape?.(world)
  // A proxy listens on one address, and `localhost` may be two.
  const host = options.host ?? (options.far === true ? '127.0.0.1' : 'localhost')
  const databases = options.databases ?? ['app', 'sales 2026']
  const primary = world.servers[0]
  if (!primary) throw new Error('The world has no server.')
  const administrator = world.principals.find(({ clientId }) => clientId !== undefined)
  settle(world)

  // The real path, because PostgreSQL gets it and may not follow another user's links.
  const folder = await mkdtemp(join(realpathSync(tmpdir()), 'azure-'))
  const guardian = guard(folder)
  let http: HttpServer | undefined
  let postgres: Postgres | undefined
  let fleet: Fleet | undefined
  const proxies: LatencyProxy[] = []
  const stop = async (): Promise<void> => {
    await Promise.all([fleet?.stop(), postgres?.stop(), http?.stop(), ...proxies.map((proxy) => proxy.close())])
    await guardian.release()
  }

  try {
    // PostgreSQL may run as another user, who needs access to its subfolder.
    await chmod(folder, 0o711)
    /** Servers by the secret of their PostgreSQL for the identity endpoint. */
    const identities = new Map<string, Server>()
    const running = new Set<Postgres>()
    const requestToken = randomBytes(24).toString('hex')
    const [authority, github] = await Promise.all([createAuthority(folder), createGitHub(world, requestToken)])

    const handlers = {} as Record<Exchange['plane'], Handler>
    http = await listen({
      world,
      authority,
      names: [...new Set([host, 'localhost', '127.0.0.1', '::1', ...serviceNames(world)])],
      planeOf,
      handlers,
    })
    const far = async (name: string, port: number): Promise<LatencyProxy | undefined> => {
      if (options.far !== true) return undefined
      const proxy = await openLatencyProxy(name, port)
      proxies.push(proxy)
      return proxy
    }
    const httpProxy = await far('HTTPS', http.port)
    const url = `https://${host}:${httpProxy?.port ?? http.port}`
    const behind = (server: Server): Postgres | undefined => {
      if (!postgres) throw new Error('PostgreSQL is not running.')
      return server === primary ? postgres : fleet?.postgres(server)
    }
    const entra = await createEntra({
      world,
      url,
      resourceManagerAudiences: resourceManagerAudiences(url),
      gitHubKey: github.publicKey,
      serverWith: (secret) => identities.get(secret),
      acceptToken: async (objectId, token, expiresAt) => {
        await Promise.all([...running].map((each) => each.acceptToken(objectId, token, expiresAt)))
      },
    })
    handlers.entra = entra.handle
    handlers.identity = entra.identity
    const rest = createGitHubRest(world, url)
    handlers.github = (request) => (request.url.pathname.startsWith('/github/api/') ? rest(request) : github.handle(request))
    handlers.ai = createServices(world, entra)
    handlers['resource-manager'] = createResourceManager({ world, url, entra, routes: serverRoutes(world, url, behind) })

    const servicesPort = http.port
    const startOne = async (server: Server, place: string, names: string[]): Promise<Postgres> => {
      const identitySecret = randomBytes(24).toString('hex')
      identities.set(identitySecret, server)
      const own = await startPostgres({ world, server, folder: place, authority, servicesPort, identitySecret, databases: names })
      running.add(own)
      server.startedAt = Date.now()
      return own
    }
    postgres = options.postgres === false ? noPostgres : await startOne(primary, folder, databases)
    if (options.fleet === true) fleet = await startFleet({ world, folder, first: postgres, start: startOne })

    const requests = (wanted: (exchange: Exchange) => boolean): Exchange[] =>
      world.exchanges.filter((exchange) => exchange.plane === 'resource-manager' && wanted(exchange))
    const asksForKeys = ({ method, url }: Exchange): boolean => method === 'POST' && /\/listKeys(\?|$)/i.test(url)
    const queries = ({ method, url }: Exchange): boolean =>
      method === 'POST' && /\/providers\/Microsoft\.ResourceGraph\/resources\?/i.test(url)
    const started = postgres
    const postgresProxy = await far('PostgreSQL', started.port)
    return {
      world,
      url,
      folder,
      caFile: authority.caFile,
      postgres: started,
      fleet,
      latencyProxies:
        httpProxy === undefined || postgresProxy === undefined ? undefined : { http: httpProxy, postgres: postgresProxy },
      env: {
        NODE_EXTRA_CA_CERTS: authority.caFile,
        // A client secret or a certificate is used in this cloud only when the job names the cloud's sign-in host.
        AZURE_AUTHORITY_HOST: url,
        ACTIONS_ID_TOKEN_REQUEST_URL: `${url}/github/oidc?api-version=2.0`,
        ACTIONS_ID_TOKEN_REQUEST_TOKEN: requestToken,
        GITHUB_API_URL: `${url}/github/api`,
        GITHUB_GRAPHQL_URL: `${url}/github/api/graphql`,
        GITHUB_REPOSITORY: world.github.repository,
      },
      inputs: {
        environment: url,
        server: primary.id,
        databases: databases.join('\n'),
        ...resourceInputs(world),
        'tenant-id': world.tenantId,
        ...(administrator?.clientId === undefined ? {} : { 'client-id': administrator.clientId }),
        audience: oidcAudience,
        'database-host': started.host,
        'database-port': String(postgresProxy?.port ?? started.port),
      },
      writes: () => requests((exchange) => exchange.method !== 'GET' && !asksForKeys(exchange) && !queries(exchange)),
      reads: () => requests((exchange) => exchange.method === 'GET' || asksForKeys(exchange) || queries(exchange)),
      keyReads: () => requests(asksForKeys),
      async issueToken(objectId, audience) {
        const principal = world.principals.find((candidate) => candidate.objectId === objectId)
        if (!principal) throw new Error(`No principal has the object id ${objectId}.`)
        return entra.issue(principal, audience)
      },
      certificate: (names, kind) => authority.issue(names, kind),
      async refresh() {
        fleet?.applyNames()
        for (const each of running) {
          await each.applySwitches()
          await each.applyAdministrators()
          await each.applyConfigurations()
          await each.applyFirewall()
        }
      },
      stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}

/** Resource Manager changes a server in the world alone. */
const noPostgres: Postgres = {
  host: '127.0.0.1',
  // The port of tcpmux, which no machine uses.
  port: 1,
  logFile: '',
  restart: async () => {},
  stop: async () => {},
  acceptToken: async () => {},
  applyConfigurations: async () => {},
  applyFirewall: async () => {},
  applyAdministrators: async () => {},
  applySwitches: async () => {},
  query: () => Promise.reject(new Error('This emulator was started without PostgreSQL.')),
  createDatabase: () => Promise.reject(new Error('This emulator was started without PostgreSQL.')),
  terminateClients: async () => {},
}

/** Makes a shaped world consistent: existing identities get principals, and the server knows its own. */
function settle(world: World): void {
  for (const server of world.servers) {
    const principalId = server.identity?.principalId
    if (principalId === undefined) continue
    server.loadedPrincipalId ??= principalId
    if (!world.principals.some(({ objectId }) => objectId === principalId)) {
      world.principals.push({ objectId: principalId, displayName: server.name, kind: 'ManagedIdentity' })
    }
  }
}

function planeOf(host: string, path: string): Exchange['plane'] {
  if (isServiceHost(host)) return 'ai'
  if (/^\/(subscriptions|providers|metadata)\//i.test(path)) return 'resource-manager'
  if (path.startsWith('/github/')) return 'github'
  if (path.startsWith('/identity/')) return 'identity'
  return 'entra'
}

function resourceInputs(world: World): Record<string, string> {
  const account = (...kinds: string[]): string | undefined => world.accounts.find(({ kind }) => kinds.includes(kind))?.id
  const endpoint = world.workspaces.flatMap(({ onlineEndpoints }) => onlineEndpoints)[0]?.id
  const found = {
    openai: account('OpenAI') ?? account('AIServices'),
    cognitive: account('TextAnalytics') ?? account('CognitiveServices', 'AIServices'),
    translator: account('TextTranslation'),
    'machine-learning': endpoint,
    'machine-learning-input':
      endpoint === undefined
        ? undefined
        : JSON.stringify({
            input_data: {
              columns: ['tenure', 'calls'],
              index: [0, 1],
              data: [
                [12, 3],
                [1, 9],
              ],
            },
          }),
  }
  return Object.fromEntries(Object.entries(found).filter((entry): entry is [string, string] => entry[1] !== undefined))
}

/** Starts the emulator, prints how to use it, and runs until a signal ends it. */
async function main(): Promise<void> {
  const emulator = await startEmulator()
  const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`
  const inputs = Object.entries({ ...emulator.inputs, 'allow-restart': 'true' }).map(
    ([name, value]) => [`INPUT_${name.toUpperCase()}`, value] as const,
  )
  const assignments = [...Object.entries(emulator.env), ...inputs].map(([name, value]) => quoted(`${name}=${value}`))
  process.stdout.write(`Azure emulator
  Resource Manager and Entra  ${emulator.url}
  CA certificate              ${emulator.caFile}
  PostgreSQL                  ${emulator.postgres.host}:${emulator.postgres.port}

The built action against it, with the environment of a job:

env ${assignments.join(' \\\n  ')} \\
  node dist/index.js

Ctrl-C ends it.
`)
  const end = (): void => {
    process.off('SIGINT', end)
    process.off('SIGTERM', end)
    emulator.stop().then(
      () => process.exit(0),
      (error: unknown) => {
        process.stderr.write(`${String(error)}\n`)
        process.exit(1)
      },
    )
  }
  process.on('SIGINT', end)
  process.on('SIGTERM', end)
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) await main()
