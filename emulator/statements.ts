/**
 * A proxy before PostgreSQL that intercepts statements for `world.sqlFault`. TLS ends here and begins again towards the server,
 * so that each statement of a connection can be read, counted, dropped or replaced, or its response delayed. All other responses
 * are the server's; only the refusal of a login is written here.
 */
import type { Socket } from 'node:net'
import { connect } from 'node:net'
import { type SecureContext, connect as secure, TLSSocket } from 'node:tls'
import { reset } from './sockets.ts'
import type { SqlFault, Statement } from './world.ts'

export interface InterceptOptions {
  outside: Socket
  /** Where the server listens, on 127.0.0.1. */
  port: number
  /** The server's own certificate and key. */
  context: SecureContext
  /** PEM of the authority, and the name in the server's certificate. */
  ca: string
  serverName: string
  /** Called for each statement before the server sees it. */
  fault: (statement: Omit<Statement, 'number'>) => SqlFault | undefined
  /** Ends a backend as an administrator does. */
  terminate: (pid: number) => Promise<void>
}

const sslRequest = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])
const [query, parse, sync, copyDone, copyFail, startupType] = ['Q', 'P', 'S', 'c', 'f', ''] as const
/** The text of the statement that represents the beginning of a connection. */
const connecting = '(connect)'
/** Messages of one statement in the extended protocol, before its Sync. */
const parts = new Set(['P', 'B', 'D', 'E', 'C', 'H'])

/** A statement that the server is executing, and what happens when its response is complete. */
interface Pending {
  readonly fault: SqlFault | undefined
  readonly held: Buffer[]
}

/** Takes over an accepted connection. Passes the sockets that it opens to `opened`, so that the caller can close them. */
export function interceptStatements(options: InterceptOptions, opened: (socket: Socket) => void): void {
  const { outside } = options
  const inside = connect({ host: '127.0.0.1', port: options.port, noDelay: true })
  opened(inside)
  const lose = (): void => {
    reset(outside)
    inside.destroy()
  }
  inside.on('error', lose)
  inside.on('close', () => outside.destroySoon())
  outside.on('close', () => inside.destroy())
  outside.once('data', (first: Buffer) => {
    outside.pause()
    if (!first.equals(sslRequest)) {
      // Without TLS, or a request to cancel: the bytes pass unchanged.
      inside.write(first)
      outside.pipe(inside)
      inside.pipe(outside)
      return
    }
    inside.write(sslRequest)
    inside.once('data', (answer: Buffer) => {
      inside.pause()
      outside.write(answer)
      if (answer.toString('latin1') !== 'S') return outside.destroySoon()
      const server = secure({ socket: inside, ca: options.ca, servername: options.serverName })
      const client = new TLSSocket(outside, { isServer: true, secureContext: options.context })
      server.on('error', lose)
      client.on('error', lose)
      client.on('end', () => server.end())
      converse(options, client, server, lose)
    })
  })
}

function converse(options: InterceptOptions, client: TLSSocket, server: TLSSocket, lose: () => void): void {
  let database = ''
  let user = ''
  let pid = 0
  let started = false
  let batch: Buffer[] = []
  let text = ''
  /** Several when a client sends without waiting for answers, which come in the same order. */
  const pending: Pending[] = []
  const send = (bytes: Buffer, fault?: SqlFault): void => {
    pending.push({ fault, held: [] })
    server.write(bytes)
  }

  const begin = (words: string, bytes: Buffer, mayReplace: boolean): void => {
    const fault = options.fault({ database, user, text: words })
    switch (fault?.kind) {
      case 'lost-before':
        lose()
        return
      case 'shutdown':
        // The server's final error, FATAL 57P01, reaches the client unchanged.
        options.terminate(pid).catch(lose)
        return
      case 'error': {
        if (words === connecting) {
          // Before a login there is no transaction that the server could fail, so its refusal is written here.
          client.end(message('E', `SFATAL\0VFATAL\0C${fault.code}\0M${fault.message}\0\0`), lose)
          return
        }
        if (!mayReplace) {
          send(message(copyFail, `${fault.message}\0`))
          return
        }
        const raise = `DO $fault$ BEGIN RAISE EXCEPTION USING ERRCODE = '${fault.code}', MESSAGE = '${fault.message.replaceAll("'", "''")}'; END $fault$`
        send(message(query, `${raise}\0`))
        return
      }
      default:
        send(bytes, fault)
    }
  }

  let early: Buffer = Buffer.alloc(0)
  client.on('data', (chunk: Buffer) => {
    early = Buffer.concat([early, chunk])
    for (;;) {
      const size = started ? 1 + lengthAt(early, 1) : lengthAt(early, 0)
      if (Number.isNaN(size) || early.length < size) return
      const whole = early.subarray(0, size)
      early = early.subarray(size)
      const type = started ? String.fromCharCode(whole[0] ?? 0) : startupType
      if (type === startupType) {
        started = true
        const words = whole.subarray(8).toString().split('\0')
        database = parameterOf(words, 'database') ?? ''
        user = parameterOf(words, 'user') ?? ''
        begin(connecting, whole, true)
      } else if (type === query) {
        begin(textOf(whole.subarray(5)), whole, true)
      } else if (parts.has(type)) {
        // After the name of the statement comes its text.
        if (type === parse) text = textOf(whole.subarray(whole.indexOf(0, 5) + 1))
        batch.push(whole)
      } else if (type === sync && batch.length > 0) {
        const all = Buffer.concat([...batch, whole])
        batch = []
        begin(text, all, true)
      } else if (type === copyDone) {
        begin('(rows of COPY)', whole, false)
      } else server.write(whole)
    }
  })

  // A delayed message delays all messages after it, so that their order stays.
  let turn: Promise<unknown> = Promise.resolve()
  const inTurn = (work: () => unknown): void => {
    turn = turn.then(work).catch(lose)
  }

  let late: Buffer = Buffer.alloc(0)
  server.on('data', (chunk: Buffer) => {
    late = Buffer.concat([late, chunk])
    for (;;) {
      const size = 1 + lengthAt(late, 1)
      if (Number.isNaN(size) || late.length < size) return
      const whole = late.subarray(0, size)
      late = late.subarray(size)
      const type = String.fromCharCode(whole[0] ?? 0)
      if (type === 'K') pid = whole.readInt32BE(5)
      // During the login the server waits for the client's responses, so these messages are not delayed.
      const [first] = pending
      if (first?.fault === undefined || (type === 'R' && whole.readInt32BE(5) !== 0)) inTurn(() => client.write(whole))
      else first.held.push(whole)
      // ReadyForQuery, or CopyInResponse: the statement is complete, and the client may see its response.
      if (type === 'Z' || type === 'G') {
        pending.shift()
        if (first?.fault !== undefined) answered(first)
      }
    }
  })

  // A server that refuses or ends the connection sends an error and closes: that error is the response.
  server.on('end', () => {
    const affected = pending.find(({ fault }) => fault !== undefined)
    if (affected !== undefined) answered(affected)
    inTurn(() => client.end())
  })

  const answered = ({ fault, held }: Pending): void =>
    inTurn(async () => {
      if (fault?.kind !== 'watched') {
        lose()
        return
      }
      await fault.acted?.()
      client.write(Buffer.concat(held), () => void fault.answered?.())
    })
}

const lengthAt = (buffer: Buffer, at: number): number => (buffer.length < at + 4 ? Number.NaN : buffer.readInt32BE(at))
const textOf = (buffer: Buffer): string => buffer.subarray(0, buffer.indexOf(0)).toString()
const parameterOf = (words: string[], name: string): string | undefined => {
  const at = words.indexOf(name)
  return at === -1 ? undefined : words[at + 1]
}

function message(type: string, body: string): Buffer {
  const bytes = Buffer.from(body)
  const head = Buffer.alloc(5)
  head.write(type, 'latin1')
  head.writeInt32BE(4 + bytes.length, 1)
  return Buffer.concat([head, bytes])
}
