/**
 * A forward proxy for HTTPS as companies have one, in a process of its own: CONNECT only, every name leads to this machine.
 * The first line it prints is its port; then one line for each CONNECT: the host and port that were asked for.
 */
import { createServer } from 'node:http'
import { type AddressInfo, connect } from 'node:net'

const server = createServer((_, response) => response.writeHead(405).end())
server.on('connect', (request, outside, head) => {
  process.stdout.write(`${request.url ?? ''}\n`)
  const port = Number(/:(\d+)$/.exec(request.url ?? '')?.[1] ?? 443)
  const inside = connect({ host: '127.0.0.1', port })
  inside.once('connect', () => {
    outside.write('HTTP/1.1 200 Connection established\r\n\r\n')
    inside.write(head)
    inside.pipe(outside)
    outside.pipe(inside)
  })
  inside.on('error', () => outside.end('HTTP/1.1 502 Bad Gateway\r\n\r\n'))
  outside.on('error', () => inside.destroy())
  outside.on('close', () => inside.destroy())
})
server.listen(0, '127.0.0.1', () => process.stdout.write(`${(server.address() as AddressInfo).port}\n`))
// Whoever started it holds its input: it ends when they do.
process.stdin.resume().once('end', () => process.exit(0))
