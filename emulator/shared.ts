/**
 * What the emulators of one test run share, because creating each part takes a second of processor time: the keys that sign
 * tokens, and an initialised database cluster. An environment variable names a private folder of the run for them; without it
 * every emulator creates its own.
 */
import { createPrivateKey, createPublicKey, generateKeyPair } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { guard } from './guardian.ts'

const variable = 'EMULATOR_SHARED_FOLDER'

/** Makes the folder for this process and those that it starts. The function that is returned removes the folder. */
export function shareAmongEmulators(): () => Promise<void> {
  const folder = mkdtempSync(join(realpathSync(tmpdir()), 'azure-shared-'))
  // PostgreSQL may run as another user, who has to pass through.
  chmodSync(folder, 0o711)
  process.env[variable] = folder
  const guardian = guard(folder)
  return () => guardian.release()
}

export interface SigningKey {
  publicKey: CryptoKey
  privateKey: CryptoKey
}

type CryptoKey = Awaited<ReturnType<typeof crypto.subtle.importKey>>

/** An RSA key for RS256. `use` is what it signs: the same for all emulators that share, and different for each use. */
export async function signingKey(use: 'entra' | 'github'): Promise<SigningKey> {
  const folder = process.env[variable] || undefined
  const file = folder === undefined ? undefined : join(folder, `${use}.pem`)
  let pem = file !== undefined && existsSync(file) ? readFileSync(file, 'utf8') : undefined
  if (pem === undefined) {
    const { privateKey } = await promisify(generateKeyPair)('rsa', { modulusLength: 2048 })
    pem = privateKey.export({ type: 'pkcs8', format: 'pem' }) as string
    // Renamed into place, so that no emulator reads half a key. Where two make one at once, each uses its own.
    if (file !== undefined) {
      writeFileSync(`${file}.${process.pid}`, pem, { mode: 0o600 })
      renameSync(`${file}.${process.pid}`, file)
    }
  }
  const key = createPrivateKey(pem)
  const algorithm = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' }
  return {
    privateKey: key.toCryptoKey(algorithm, true, ['sign']),
    publicKey: createPublicKey(key).toCryptoKey(algorithm, true, ['verify']),
  }
}

/**
 * A folder that is created once: the first emulator that needs it calls `make` with the path, and the others wait.
 * Returns the path of the finished folder; undefined when nothing is shared, or when it is not finished after 30 seconds.
 */
export async function sharedFolder(name: string, make: (path: string) => Promise<void>): Promise<string | undefined> {
  const parent = process.env[variable]
  if (!parent || !existsSync(parent)) return undefined
  const finished = join(parent, name)
  const lock = `${finished}.lock`
  for (const until = Date.now() + 30_000; Date.now() < until; await sleep(20)) {
    if (existsSync(finished)) return finished
    try {
      mkdirSync(lock)
    } catch {
      continue
    }
    try {
      if (!existsSync(finished)) {
        await make(`${finished}.new`)
        renameSync(`${finished}.new`, finished)
      }
    } finally {
      rmSync(lock, { recursive: true })
    }
  }
  return undefined
}
