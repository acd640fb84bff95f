/**
 * Many database servers at their own names: one port, which forwards each client to the PostgreSQL of the server that it named in
 * its TLS handshake, and a file of the names that the action's process resolves (names.cjs).
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Postgres } from './postgres.ts'
import type { Server, World } from './world.ts'

export interface Fleet {
  /** The port of all servers. */
  port: number
  /** For the process of the action. */
  env: Record<string, string>
  /** The PostgreSQL behind a server; undefined when there is none. */
  postgres(server: Pick<Server, 'id'>): Postgres | undefined
  /** To be called after servers were added or their network changed. */
  applyNames(): void
  stop(): Promise<void>
}

interface FleetOptions {
  world: World
  /** An existing folder of the emulator. */
  folder: string
  /** The PostgreSQL of the first server. */
  first: Postgres
  start(server: Server, folder: string, databases: string[]): Promise<Postgres>
}

/** The request of a client for TLS, and the server's response. */
const sslRequest = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])
const accepted = 'S'.charCodeAt(0)
/** Maximum number of bytes before a handshake has to name a server. */
const longestHello = 32_768

export async function startFleet({ world, folder, first, start }: FleetOptions): Promise<Fleet> {
  const own = new Map<string, Postgres>()
  for (const [index, server] of world.servers.entries()) {
    if (index === 0 || server.postgres !== 'own') continue
    const place = join(folder, `server-${index}`)
    mkdirSync(place, { mode: 0o711 })
    own.set(server.id.toLowerCase(), await start(server, place, server.databases ?? []))
  }
  const behind = (server: Pick<Server, 'id'>): Postgres | undefined => {
    const known = world.servers.find(({ id }) => id.toLowerCase() === server.id.toLowerCase())
    if (known === undefined) return undefined
    return known === world.servers[0] || known.postgres === 'shared' ? first : own.get(known.id.toLowerCase())
  }
  const namesFile = join(folder, 'names')
  const applyNames = (): void => {
    const domain = /\..*/.exec(world.servers[0]?.fullyQualifiedDomainName ?? '')?.[0] ?? ''
    // The name of a server in a private network is known in that network only.
    const isPublic = ({ network }: Server): boolean =>
      network.publicNetworkAccess === 'Enabled' && network.delegatedSubnetResourceId === undefined
    const names = world.servers.filter(isPublic).map(({ fullyQualifiedDomainName }) => fullyQualifiedDomainName.toLowerCase())
    writeFileSync(namesFile, [domain, ...names].join('\n'))
  }
  applyNames()

  const open = new Set<Socket>()
  const listener = createServer((client) => {
    open.add(client)
    client.on('close', () => open.delete(client))
    client.on('error', () => {})
    lead(client, (name) => {
      const server = world.servers.find(({ fullyQualifiedDomainName }) => fullyQualifiedDomainName.toLowerCase() === name)
      return server?.state === 'Stopped' || server === undefined ? undefined : behind(server)?.port
    })
  })
  await new Promise<void>((resolve, reject) => {
    listener.once('error', reject)
    listener.listen(0, '127.0.0.1', resolve)
  })
  return {
    port: (listener.address() as AddressInfo).port,
    env: {
      NODE_OPTIONS: `--require=${JSON.stringify(fileURLToPath(new URL('names.cjs', import.meta.url)))}`,
      EMULATED_NAMES: namesFile,
    },
    postgres: behind,
    applyNames,
    async stop() {
      const closed = new Promise((resolve) => listener.close(resolve))
      for (const socket of open) socket.destroy()
      await Promise.all([closed, ...[...own.values()].map((postgres) => postgres.stop())])
    },
  }
}

/** Accepts TLS, reads which server the handshake names, and connects the client to it; all further bytes pass unchanged. */
function lead(client: Socket, portOf: (name: string) => number | undefined): void {
  let received = Buffer.alloc(0)
  const read = (chunk: Buffer): void => {
    received = Buffer.concat([received, chunk])
    if (received.length < sslRequest.length) return
    if (!received.subarray(0, sslRequest.length).equals(sslRequest)) return void client.destroy()
    if (received.length === sslRequest.length) return void client.write('S')
    const hello = received.subarray(sslRequest.length)
    const name = serverName(hello)
    if (name === undefined) {
      if (hello.length > longestHello) client.destroy()
      return
    }
    client.off('data', read)
    client.pause()
    const port = portOf(name)
    if (port === undefined) return void client.destroy()
    handOver(client, port, hello)
  }
  client.on('data', read)
}

function handOver(client: Socket, port: number, hello: Buffer): void {
  const inside = connect({ host: '127.0.0.1', port, noDelay: true }, () => inside.write(sslRequest))
  inside.on('error', () => client.destroy())
  inside.on('close', () => client.destroySoon())
  client.on('close', () => inside.destroy())
  inside.once('data', (answer) => {
    if (answer[0] !== accepted) return void client.destroy()
    inside.write(hello)
    client.pipe(inside)
    inside.pipe(client)
  })
}

/** The server name of a TLS ClientHello, in lower case; undefined until the message is complete. Empty when it has none. */
function serverName(hello: Buffer): string | undefined {
  // A record of the handshake: type, version, length; then the message: type, length, version, random.
  if (hello.length < 5 || hello.length < 5 + hello.readUInt16BE(3)) return undefined
  let at = 5 + 4 + 2 + 32
  at += 1 + hello.readUInt8(at)
  at += 2 + hello.readUInt16BE(at)
  at += 1 + hello.readUInt8(at)
  const end = at + 2 + hello.readUInt16BE(at)
  for (at += 2; at + 4 <= end; ) {
    const type = hello.readUInt16BE(at)
    const length = hello.readUInt16BE(at + 2)
    // server_name: a list of names, each with a type and a length.
    if (type === 0) return hello.toString('latin1', at + 9, at + 9 + hello.readUInt16BE(at + 7)).toLowerCase()
    at += 4 + length
  }
  return ''
}
