// Loaded before the action (--require): resolves the names of the emulated database servers, as the DNS of a network does.
// EMULATED_NAMES is a file with a line for each name that leads to this machine; other names of its first line's domain do not exist.
const { readFileSync } = require('node:fs')
const dns = require('node:dns')
const { syncBuiltinESMExports } = require('node:module')

const original = dns.lookup
dns.lookup = (host, options, callback) => {
  const done = typeof options === 'function' ? options : callback
  const [domain, ...names] = readFileSync(process.env.EMULATED_NAMES, 'utf8').split('\n')
  if (!host.toLowerCase().endsWith(domain)) return original(host, options, callback)
  if (!names.includes(host.toLowerCase())) {
    const error = Object.assign(new Error(`getaddrinfo ENOTFOUND ${host}`), {
      code: 'ENOTFOUND',
      syscall: 'getaddrinfo',
      hostname: host,
    })
    process.nextTick(done, error)
  } else if (typeof options === 'object' && options?.all === true)
    process.nextTick(done, null, [{ address: '127.0.0.1', family: 4 }])
  else process.nextTick(done, null, '127.0.0.1', 4)
}
syncBuiltinESMExports()
