/** A listener that answers every PostgreSQL connection, over TLS, with one refusal of its own choice. */
import { createServer, type Server, type Socket } from 'node:net'
import { createSecureContext, TLSSocket } from 'node:tls'

export interface RefusingServer {
  readonly port: number
  /** The message of the refusal, SQLSTATE 28000. */
  message: string
  stop(): void
}

export async function startRefusingServer(certificate: { cert: string; key: string }): Promise<RefusingServer> {
  const secureContext = createSecureContext(certificate)
  const sockets = new Set<Socket>()
  const server: Server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => undefined).on('close', () => sockets.delete(socket))
    // SSLRequest, which is eight bytes long.
    socket.once('data', () => {
      socket.write('S')
      const secure = new TLSSocket(socket, { isServer: true, secureContext })
      secure.on('error', () => undefined)
      secure.once('data', () => secure.end(errorResponse(found.message)))
    })
  })
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening))
  const address = server.address()
  const found: RefusingServer = {
    port: typeof address === 'object' && address !== null ? address.port : 0,
    message: '',
    stop: () => {
      server.close()
      for (const socket of sockets) socket.destroy()
    },
  }
  return found
}

function errorResponse(message: string): Buffer {
  const fields = Buffer.from(`SFATAL\0VFATAL\0C28000\0M${message}\0\0`)
  const head = Buffer.alloc(5)
  head.write('E')
  head.writeInt32BE(fields.length + 4, 1)
  return Buffer.concat([head, fields])
}
