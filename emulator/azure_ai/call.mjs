// Makes one HTTPS request of a test function, as a child of the backend that runs the function.
// Runs in the data directory: node azure_ai/call.mjs ANSWER_ID BACKEND_PID, the request as JSON in hex on stdin.
// Leaves azure_ai/answers/ANSWER_ID: {status, body} or {failure: 'resolve'|'token'|'timeout'|'connect'|'response', message}.
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import https from 'node:https'
import { setTimeout as sleep } from 'node:timers/promises'

const [id, backend] = process.argv.slice(2)
const network = JSON.parse(readFileSync('azure_ai/network.json', 'utf8'))
const request = JSON.parse(Buffer.from(readFileSync(0, 'utf8').trim(), 'hex').toString())

// Whoever cancels a query signals the whole process group; a backend that dies of a lost client does not.
setInterval(() => {
  try {
    process.kill(Number(backend), 0)
  } catch {
    process.exit(0)
  }
}, 200)

class Failure extends Error {
  /**
   * @param {string} kind
   * @param {string} message
   */
  constructor(kind, message) {
    super(message)
    this.kind = kind
  }
}

/**
 * Every host is on loopback here: that is the emulated network. The name decides SNI, Host and what the certificate must say.
 * @param {URL} url
 * @param {string} method
 * @param {Record<string, string>} headers
 * @param {string | undefined} body
 * @param {AbortSignal} signal
 * @returns {Promise<{ status: number, body: string }>}
 */
function exchange(url, method, headers, body, signal) {
  return new Promise((resolve, reject) => {
    const outgoing = https.request(
      {
        host: '127.0.0.1',
        port: network.port,
        servername: url.hostname,
        ca: network.ca,
        agent: false,
        method,
        path: url.pathname + url.search,
        headers: { ...headers, host: url.host },
        signal,
      },
      (incoming) => {
        /** @type {Buffer[]} */
        const chunks = []
        incoming.on('data', (chunk) => chunks.push(chunk))
        incoming.on('end', () => resolve({ status: incoming.statusCode ?? 0, body: Buffer.concat(chunks).toString() }))
        incoming.on('error', reject)
      },
    )
    outgoing.on('error', reject)
    outgoing.end(body)
  })
}

/**
 * @param {string} resource
 * @param {AbortSignal} signal
 * @returns {Promise<string>}
 */
async function token(resource, signal) {
  const url = new URL(`https://localhost/identity/token?api-version=2018-02-01&resource=${encodeURIComponent(resource)}`)
  const { status, body } = await exchange(
    url,
    'GET',
    { metadata: 'true', 'x-identity-header': network.secret },
    undefined,
    signal,
  )
  /** @type {{ access_token?: string, error_description?: string, error?: { message?: string } }} */
  let answer = {}
  try {
    answer = JSON.parse(body)
  } catch {}
  if (status !== 200 || !answer.access_token)
    throw new Failure('token', answer.error_description ?? answer.error?.message ?? body)
  return answer.access_token
}

/** @returns {Promise<{ status?: number, body?: string, failure?: string, message?: string }>} */
async function attempt() {
  const deadline = new AbortController()
  const timer = setTimeout(() => deadline.abort(), request.timeoutMs)
  try {
    let url
    try {
      url = new URL(request.endpoint)
    } catch {
      throw new Failure('resolve', String(request.endpoint))
    }
    if (url.protocol !== 'https:') throw new Failure('connect', `${url.protocol}// is not supported`)
    if (url.hostname === 'invalid' || url.hostname.endsWith('.invalid')) throw new Failure('resolve', url.hostname)
    if (request.path.length > 0) {
      url.pathname = `${url.pathname.replace(/\/+$/, '')}/${request.path.map((/** @type {string} */ part) => encodeURIComponent(part).replaceAll('%3A', ':')).join('/')}`
    }
    for (const [name, value] of request.query) url.searchParams.append(name, value)
    const headers = { ...request.headers, 'content-type': 'application/json' }
    if (request.tokenResource) headers.authorization = `Bearer ${await token(request.tokenResource, deadline.signal)}`
    const answer = await exchange(url, 'POST', headers, JSON.stringify(request.body), deadline.signal)
    if (answer.status < 300) {
      try {
        JSON.parse(answer.body)
      } catch {
        throw new Failure('response', answer.body.slice(0, 200))
      }
    }
    return answer
  } catch (error) {
    if (error instanceof Failure) return { failure: error.kind, message: error.message }
    if (deadline.signal.aborted) return { failure: 'timeout', message: `${request.timeoutMs} ms` }
    return { failure: 'connect', message: String(/** @type {Error} */ (error).message || error) }
  } finally {
    clearTimeout(timer)
  }
}

let answer
for (let left = request.maxAttempts; ; left--) {
  answer = await attempt()
  const passing =
    ['timeout', 'connect'].includes(answer.failure ?? '') ||
    [408, 429].includes(answer.status ?? 0) ||
    (answer.status ?? 0) >= 500
  if (left <= 1 || !passing) break
  await sleep(request.retryDelayMs)
}
// Renamed into place, so that the backend never reads half an answer.
writeFileSync(`azure_ai/answers/${id}.new`, JSON.stringify(answer))
renameSync(`azure_ai/answers/${id}.new`, `azure_ai/answers/${id}`)
process.exit(0)
