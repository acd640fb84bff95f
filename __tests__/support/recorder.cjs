// Loaded before the action (--require): writes down every connection, look-up, datagram and process that it starts.
const { appendFileSync } = require('node:fs')
const childProcess = require('node:child_process')
const dgram = require('node:dgram')
const dns = require('node:dns')
const net = require('node:net')
const { syncBuiltinESMExports } = require('node:module')

const write = (kind, what) => appendFileSync(process.env.RECORDED, `${JSON.stringify([kind, what])}\n`)

function record(object, name, kind, what) {
  const original = object[name]
  object[name] = function (...args) {
    write(kind, what(...args))
    return original.apply(this, args)
  }
}

// TLS, HTTP, HTTP/2 and fetch all come through here.
record(net.Socket.prototype, 'connect', 'connection', (...args) => {
  const [first, second] = Array.isArray(args[0]) ? args[0] : args
  if (typeof first === 'object') return first.path ?? `${first.host ?? 'localhost'}:${first.port}`
  return typeof first === 'string' ? first : `${typeof second === 'string' ? second : 'localhost'}:${first}`
})
for (const api of [dns, dns.promises, dns.Resolver.prototype, dns.promises.Resolver.prototype]) {
  for (const name of Object.getOwnPropertyNames(api)) {
    if (/^(lookup|resolve\w*|reverse)$/.test(name) && typeof api[name] === 'function')
      record(api, name, 'look-up', (host) => host)
  }
}
record(dgram.Socket.prototype, 'send', 'datagram', (...args) => args.filter((each) => typeof each === 'string').at(-1) ?? '')
record(childProcess.ChildProcess.prototype, 'spawn', 'process', (options) => options.file)
for (const name of ['spawnSync', 'execFileSync', 'execSync']) record(childProcess, name, 'process', (file) => file)
syncBuiltinESMExports()
write('started', process.argv[1])
