/** The emulator's own certificate authority, which nothing outside the emulator trusts. */
import { createHash, createPublicKey, generateKeyPairSync, type KeyObject, randomBytes, sign } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { isIP } from 'node:net'
import { join } from 'node:path'

export interface Authority {
  /** Path of the CA certificate, for `NODE_EXTRA_CA_CERTS` and `sslrootcert`. */
  caFile: string
  /** The CA certificate, PEM. */
  caPem: string
  /**
   * A server certificate and its key, PEM, for these DNS names (wildcards allowed) and IP addresses. `rsa` takes a tenth of a second
   * longer; Entra requires it of applications that sign in with a certificate.
   */
  issue(names: string[], kind?: 'ec' | 'rsa'): { cert: string; key: string }
}

/** Creates a new authority and writes its certificate to `folder`/ca.pem; its key never leaves the process. */
export async function createAuthority(folder: string): Promise<Authority> {
  // Elliptic curves: a key takes a millisecond, with RSA a tenth of a second. One key serves all server certificates.
  const [caKey, leafKey] = [newKey(), newKey()]
  const issuer = `Emulated Azure ${randomBytes(4).toString('hex')}`
  const caPem = certificate({
    subject: issuer,
    issuer,
    key: caKey,
    signer: caKey,
    extensions: [
      extension(oids.basicConstraints, sequence(boolean(true)), 'critical'),
      // keyCertSign and cRLSign, bits 5 and 6.
      extension(oids.keyUsage, bits(0b0000_0110, 1), 'critical'),
      extension(oids.subjectKeyIdentifier, der(0x04, keyIdentifier(caKey))),
    ],
  })
  const caFile = join(folder, 'ca.pem')
  await writeFile(caFile, caPem)

  return {
    caFile,
    caPem,
    issue(names, kind = 'ec') {
      const key = kind === 'ec' ? leafKey : generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey
      const cert = certificate({
        subject: (names[0] ?? 'localhost').slice(0, 64),
        issuer,
        key,
        signer: caKey,
        extensions: [
          extension(oids.basicConstraints, sequence(), 'critical'),
          // digitalSignature, bit 0.
          extension(oids.keyUsage, bits(0b1000_0000, 7), 'critical'),
          extension(oids.extendedKeyUsage, sequence(oids.serverAuth)),
          extension(
            oids.subjectAltName,
            sequence(...names.map((name) => (isIP(name) ? der(0x87, addressBytes(name)) : der(0x82, Buffer.from(name))))),
          ),
          extension(oids.subjectKeyIdentifier, der(0x04, keyIdentifier(key))),
          extension(oids.authorityKeyIdentifier, sequence(der(0x80, keyIdentifier(caKey)))),
        ],
      })
      return { cert, key: key.export({ type: 'pkcs8', format: 'pem' }) as string }
    },
  }
}

function newKey(): KeyObject {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
}

interface CertificateFields {
  subject: string
  issuer: string
  key: KeyObject
  signer: KeyObject
  extensions: Buffer[]
}

/** An X.509 certificate, version 3 (RFC 5280), valid from an hour ago for thirty days. PEM. */
function certificate({ subject, issuer, key, signer, extensions }: CertificateFields): string {
  const serial = randomBytes(9)
  // The first byte keeps the number positive and without leading zeros.
  serial[0] = 1
  const algorithm = sequence(oids.ecdsaWithSha256)
  const body = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, serial),
    algorithm,
    commonName(issuer),
    sequence(time(Date.now() - 3_600_000), time(Date.now() + 30 * 24 * 3_600_000)),
    commonName(subject),
    publicKeyInfo(key),
    der(0xa3, sequence(...extensions)),
  )
  const whole = sequence(body, algorithm, der(0x03, Buffer.from([0]), sign('sha256', body, signer)))
  const lines = whole.toString('base64').match(/.{1,64}/g) ?? []
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`
}

function publicKeyInfo(key: KeyObject): Buffer {
  return createPublicKey(key).export({ type: 'spki', format: 'der' })
}

function keyIdentifier(key: KeyObject): Buffer {
  return createHash('sha1').update(publicKeyInfo(key)).digest()
}

function commonName(name: string): Buffer {
  return sequence(der(0x31, sequence(oids.commonName, der(0x0c, Buffer.from(name)))))
}

function extension(id: Buffer, value: Buffer, critical?: 'critical'): Buffer {
  return sequence(id, ...(critical ? [boolean(true)] : []), der(0x04, value))
}

/** The bytes of an IPv4 or IPv6 address. */
function addressBytes(address: string): Buffer {
  if (isIP(address) === 4) return Buffer.from(address.split('.').map(Number))
  const [before = [], after = []] = address.split('::').map((half) => half.split(':').filter(Boolean))
  const zeros = Array.from({ length: 8 - before.length - after.length }, () => '0')
  return Buffer.from([...before, ...zeros, ...after].map((group) => group.padStart(4, '0')).join(''), 'hex')
}

// ---- DER (ITU-T X.690)

function der(tag: number, ...parts: Buffer[]): Buffer {
  const content = Buffer.concat(parts)
  const size = content.length.toString(16)
  const bytes = Buffer.from(size.padStart(size.length + (size.length % 2), '0'), 'hex')
  const length = content.length < 128 ? bytes : Buffer.concat([Buffer.from([0x80 | bytes.length]), bytes])
  return Buffer.concat([Buffer.from([tag]), length, content])
}

function sequence(...parts: Buffer[]): Buffer {
  return der(0x30, ...parts)
}

function boolean(value: boolean): Buffer {
  return der(0x01, Buffer.from([value ? 0xff : 0]))
}

/** Flags in one byte, of which the last `unused` bits do not count. */
function bits(value: number, unused: number): Buffer {
  return der(0x03, Buffer.from([unused, value]))
}

/** Years have two digits, as RFC 5280 requires before 2050. */
function time(at: number): Buffer {
  return der(
    0x17,
    Buffer.from(
      `${new Date(at)
        .toISOString()
        .slice(2)
        .replaceAll(/[-:T]|\..*/g, '')}Z`,
    ),
  )
}

/** Object identifiers. */
const oids = {
  commonName: Buffer.from('0603550403', 'hex'),
  ecdsaWithSha256: Buffer.from('06082a8648ce3d040302', 'hex'),
  subjectKeyIdentifier: Buffer.from('0603551d0e', 'hex'),
  keyUsage: Buffer.from('0603551d0f', 'hex'),
  subjectAltName: Buffer.from('0603551d11', 'hex'),
  basicConstraints: Buffer.from('0603551d13', 'hex'),
  authorityKeyIdentifier: Buffer.from('0603551d23', 'hex'),
  extendedKeyUsage: Buffer.from('0603551d25', 'hex'),
  serverAuth: Buffer.from('06082b06010505070301', 'hex'),
}
