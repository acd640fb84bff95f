/** A program named `az` that behaves like the Azure CLI with a session, or without one. Put it first on PATH. */
import { chmodSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** The session of `az`. */
export interface AzSession {
  tenantId: string
  /** Tokens by the resource that they are for, without a slash at the end. Another resource fails with AADSTS500011. */
  tokens: Record<string, { token: string; expiresAt: Date }>
  /**
   * When `azure/login` signed in with an OIDC assertion (ms since epoch). The assertion is good for five minutes; after them only the
   * resources in `cached` still get a token, and the others fail with AADSTS700024. Absent: the session can always get tokens.
   */
  signedInAt?: number
  /** Resources for which the session has a token already. */
  cached?: string[]
}

/** Writes the program into the folder, or changes the session of the one in it; `undefined`: no session. */
export function installAz(folder: string, session: AzSession | undefined): void {
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'session.json'), JSON.stringify(session ?? null))
  if (existsSync(join(folder, 'az.mjs'))) return
  writeFileSync(join(folder, 'az.mjs'), program)
  writeFileSync(join(folder, 'az'), `#!/bin/sh\nexec '${process.execPath}' '${join(folder, 'az.mjs')}' "$@"\n`)
  chmodSync(join(folder, 'az'), 0o755)
  // On Windows `az` is a batch file.
  writeFileSync(join(folder, 'az.cmd'), `@"${process.execPath}" "${join(folder, 'az.mjs')}" %*\r\n`)
}

const program = `import { readFileSync } from 'node:fs'

const session = JSON.parse(readFileSync(new URL('session.json', import.meta.url), 'utf8'))
const [group, command, ...options] = process.argv.slice(2)
const fail = (text) => {
  console.error(text)
  process.exit(1)
}
if (group !== 'account' || session === null) fail("ERROR: Please run 'az login' to setup account.")
if (command === 'show') {
  console.log(JSON.stringify({ environmentName: 'AzureCloud', tenantId: session.tenantId }))
  process.exit(0)
}
const resource = options[options.indexOf('--resource') + 1].replace(/\\/+$/, '')
const found = session.tokens[resource]
if (found === undefined) fail('ERROR: AADSTS500011: The resource principal named ' + resource + ' was not found in the tenant.')
const fiveMinutes = 300_000
const { signedInAt, cached = [] } = session
if (signedInAt !== undefined && !cached.includes(resource) && Date.now() - signedInAt > fiveMinutes) {
  const time = (at) => new Date(at).toISOString()
  fail(
    'ERROR: AADSTS700024: Client assertion is not within its valid time range. Current time: ' + time(Date.now()) +
      ', assertion valid from ' + time(signedInAt) + ', expiry time of assertion ' + time(signedInAt + fiveMinutes) + '. ' +
      'Review the documentation at https://learn.microsoft.com/entra/identity-platform/certificate-credentials .\\n' +
      'Interactive authentication is needed. Please run:\\naz login',
  )
}
const expires_on = Math.floor(Date.parse(found.expiresAt) / 1000)
console.log(JSON.stringify({ accessToken: found.token, expires_on, tokenType: 'Bearer' }))
`
