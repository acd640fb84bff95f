import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { expect, test } from 'vitest'
import { reset } from '../../emulator/sockets.ts'

test.each([
  ['open', () => undefined, 'ECONNRESET'],
  ['being shut down', (socket: Socket) => void socket.end('the last word'), ''],
])('a connection that is %s can be reset, and nothing of it is left', async (_, before, code) => {
  const server = createServer()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1').resume()
  const met = new Promise<string>((resolve) => {
    client.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? ''))
    client.once('close', () => resolve(''))
  })
  const [socket] = (await once(server, 'connection')) as [Socket]
  before(socket)
  const closed = once(socket, 'close')
  reset(socket)
  await closed
  expect(await met).toBe(code)
  client.destroy()
  server.close()
})
