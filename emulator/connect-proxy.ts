/**
 * A forward proxy for HTTPS as companies have one, in a process of its own: CONNECT only, every name leads to this machine.
 * The first line it prints is its port; then one line for each CONNECT: the requested host and port.
 * With an argument it refuses every CONNECT with this status (401, 403, 407 or another), and a page of its own.
 */
import { createServer, STATUS_CODES } from 'node:http'
import { type AddressInfo, connect } from 'node:net'

const refusal = process.argv[2] === undefined ? undefined : Number(process.argv[2])
const server = createServer((_, response) => response.writeHead(405).end())
server.on('connect', (request, outside, head) => {
  process.stdout.write(`${request.url ?? ''}\n`)
  if (refusal !== undefined) {
    outside.on('error', () => outside.destroy())
    outside.end(refused(refusal))
    return
  }
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
// Its parent process keeps its input open; when the parent ends, so does the proxy.
process.stdin.resume().once('end', () => process.exit(0))

/** The whole answer, with the page that a person would see in a browser. */
function refused(status: number): string {
  const reason = STATUS_CODES[status] ?? 'Refused'
  const page = `<html><head><title>Contoso web gateway</title></head><body><h1>${reason}</h1><p>This site is not allowed.</p></body></html>`
  const challenge = status === 407 ? ['Proxy-Authenticate: Basic realm="Contoso web gateway"'] : []
  const lines = [
    `HTTP/1.1 ${status} ${reason}`,
    'Via: 1.1 gateway.contoso.example',
    ...challenge,
    'Content-Type: text/html',
    `Content-Length: ${Buffer.byteLength(page)}`,
    'Connection: close',
  ]
  return `${lines.join('\r\n')}\r\n\r\n${page}`
}
