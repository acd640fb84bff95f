/** A PostgreSQL that an attacker runs, for tests of what is sent to it and of what its answers do. */
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { createSecureContext, TLSSocket } from 'node:tls'

/** One client, after TLS unless the listener refused that. */
export interface Visitor {
  readonly socket: TLSSocket
  /** Sends bytes; false when the client is slower than that. */
  send(...messages: readonly Buffer[]): boolean
}

export interface Manners {
  /** Sent instead of `S` in response to the request for TLS; the connection stays unencrypted. */
  readonly beforeTls?: (socket: Socket) => void
  /** Responds to the startup message, instead of {@link welcome}. */
  readonly onStartup?: (visitor: Visitor) => void
  /** Responds to each query, instead of an empty result. */
  readonly onQuery?: (visitor: Visitor, sql: string) => void
  /** Responds to a password, or to a step of SASL, instead of {@link welcome}. */
  readonly onPassword?: (visitor: Visitor, password: Buffer) => void
}

export interface HostilePostgres {
  readonly port: number
  /** The parameters of each startup message. */
  readonly startups: Readonly<Record<string, string>>[]
  /** What was sent as a password. */
  readonly passwords: string[]
  readonly queries: string[]
  /** Everything that came before TLS, or without it. */
  readonly inTheClear: Buffer[]
  stop(): Promise<void>
}

/** A message of the protocol. */
export function message(type: string, ...parts: readonly (Buffer | string)[]): Buffer {
  const body = Buffer.concat(parts.map((part) => Buffer.from(part as string)))
  const head = Buffer.alloc(5)
  head.write(type, 'latin1')
  head.writeUInt32BE(body.length + 4, 1)
  return Buffer.concat([head, body])
}

export function int32(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length)
  for (const [index, value] of values.entries()) bytes.writeInt32BE(value, 4 * index)
  return bytes
}

function int16(value: number): Buffer {
  const bytes = Buffer.alloc(2)
  bytes.writeInt16BE(value)
  return bytes
}

export const ready = message('Z', 'I')
export const complete = message('C', 'SELECT 1\0')
export const parameter = (name: string, value: string): Buffer => message('S', `${name}\0${value}\0`)
export const errorResponse = (code: string, text: string, severity = 'ERROR'): Buffer =>
  message('E', `S${severity}\0V${severity}\0C${code}\0M${text}\0\0`)
export const notice = (text: string): Buffer => message('N', `SNOTICE\0VNOTICE\0C00000\0M${text}\0\0`)
/** Columns by name and oid of their type. */
export function rowDescription(columns: Readonly<Record<string, number>>): Buffer {
  const fields = Object.entries(columns).map(([name, oid]) =>
    Buffer.concat([Buffer.from(`${name}\0`), int32(0), int16(0), int32(oid), int16(-1), int32(-1), int16(0)]),
  )
  return message('T', int16(fields.length), ...fields)
}
export function dataRow(...values: readonly (string | null)[]): Buffer {
  const cells = values.map((value) =>
    value === null ? int32(-1) : Buffer.concat([int32(Buffer.byteLength(value)), Buffer.from(value)]),
  )
  return message('D', int16(values.length), ...cells)
}
/** Accepts the login, as an ordinary server does. */
export const welcome = Buffer.concat([
  message('R', int32(0)),
  parameter('server_version', '17.0'),
  parameter('standard_conforming_strings', 'on'),
  message('K', int32(1, 1)),
  ready,
])

/** @param certificate PEM, of the names that it pretends to have */
export async function startHostilePostgres(
  certificate: { cert: string; key: string },
  manners: Manners = {},
): Promise<HostilePostgres> {
  const secureContext = createSecureContext(certificate)
  const sockets = new Set<Socket>()
  const found = {
    startups: [] as Record<string, string>[],
    passwords: [] as string[],
    queries: [] as string[],
    inTheClear: [] as Buffer[],
  }
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => socket.destroy()).on('close', () => sockets.delete(socket))
    socket.once('data', (request: Buffer) => {
      found.inTheClear.push(request)
      if (manners.beforeTls !== undefined) {
        socket.on('data', (bytes: Buffer) => found.inTheClear.push(bytes))
        manners.beforeTls(socket)
        return
      }
      socket.write('S')
      converse(new TLSSocket(socket, { isServer: true, secureContext }), manners, found)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    ...found,
    port: (server.address() as AddressInfo).port,
    async stop() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

function converse(socket: TLSSocket, manners: Manners, found: Pick<HostilePostgres, 'startups' | 'passwords' | 'queries'>): void {
  socket.on('error', () => socket.destroy())
  const visitor: Visitor = {
    socket,
    send: (...messages) => !socket.destroyed && socket.write(Buffer.concat(messages)),
  }
  let rest = Buffer.alloc(0)
  let started = false
  socket.on('data', (chunk: Buffer) => {
    rest = Buffer.concat([rest, chunk])
    // The startup message has no type.
    while (rest.length >= (started ? 5 : 4)) {
      const length = rest.readUInt32BE(started ? 1 : 0) + (started ? 1 : 0)
      if (rest.length < length) return
      const [whole, type] = [rest.subarray(0, length), started ? String.fromCharCode(rest[0] ?? 0) : 'startup']
      rest = rest.subarray(length)
      if (type === 'startup') {
        started = true
        found.startups.push(parametersOf(whole.subarray(8)))
        if (manners.onStartup === undefined) visitor.send(welcome)
        else manners.onStartup(visitor)
      } else if (type === 'p') {
        const password = whole.subarray(5)
        found.passwords.push(password.toString('utf8').replace(/\0$/, ''))
        if (manners.onPassword === undefined) visitor.send(welcome)
        else manners.onPassword(visitor, password)
      } else if (type === 'Q' || type === 'P') {
        const sql = whole.subarray(5).toString('utf8').replaceAll('\0', '')
        found.queries.push(sql)
        if (manners.onQuery === undefined) visitor.send(complete, ready)
        else manners.onQuery(visitor, sql)
      }
    }
  })
}

function parametersOf(bytes: Buffer): Record<string, string> {
  const words = bytes.toString('utf8').split('\0')
  const parameters: Record<string, string> = {}
  for (let index = 0; words[index] !== '' && words[index] !== undefined; index += 2)
    parameters[words[index] ?? ''] = words[index + 1] ?? ''
  return parameters
}
