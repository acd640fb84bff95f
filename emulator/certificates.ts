/** A certificate authority of the emulator's own: nothing outside it trusts what it issues. */
import { createPublicKey, generateKeyPair, randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { isIP } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import forge from 'node-forge'

export interface Authority {
  /** Path of the CA certificate, for `NODE_EXTRA_CA_CERTS` and `sslrootcert`. */
  caFile: string
  /** The CA certificate, PEM. */
  caPem: string
  /** A server certificate and its key, PEM, for these DNS names (wildcards allowed) and IP addresses. */
  issue(names: string[]): { cert: string; key: string }
}

/** Makes a new authority and writes its certificate to `folder`/ca.pem; its key never leaves the process. */
export async function createAuthority(folder: string): Promise<Authority> {
  // OpenSSL makes keys in a tenth of a second, node-forge in many seconds. One key serves all server certificates.
  const [caKey, leafKey] = await Promise.all([rsaKey(), rsaKey()])
  const issuer = [{ name: 'commonName', value: `Emulated Azure ${randomBytes(4).toString('hex')}` }]

  const ca = certificate(caKey, issuer, issuer)
  ca.setExtensions([
    { name: 'basicConstraints', cA: true, critical: true },
    { name: 'keyUsage', keyCertSign: true, cRLSign: true, critical: true },
    { name: 'subjectKeyIdentifier' },
  ])
  const signer = forge.pki.privateKeyFromPem(caKey)
  ca.sign(signer, forge.md.sha256.create())
  const caPem = forge.pki.certificateToPem(ca)
  const caFile = join(folder, 'ca.pem')
  await writeFile(caFile, caPem)

  return {
    caFile,
    caPem,
    issue(names) {
      const subject = [{ name: 'commonName', value: (names[0] ?? 'localhost').slice(0, 64) }]
      const leaf = certificate(leafKey, subject, issuer)
      leaf.setExtensions([
        { name: 'basicConstraints', cA: false, critical: true },
        { name: 'keyUsage', digitalSignature: true, keyEncipherment: true, critical: true },
        { name: 'extKeyUsage', serverAuth: true },
        {
          name: 'subjectAltName',
          altNames: names.map((name) => (isIP(name) ? { type: 7, ip: name } : { type: 2, value: name })),
        },
        { name: 'subjectKeyIdentifier' },
        { name: 'authorityKeyIdentifier', keyIdentifier: ca.generateSubjectKeyIdentifier().getBytes() },
      ])
      leaf.sign(signer, forge.md.sha256.create())
      return { cert: forge.pki.certificateToPem(leaf), key: leafKey }
    },
  }
}

async function rsaKey(): Promise<string> {
  const { privateKey } = await promisify(generateKeyPair)('rsa', { modulusLength: 2048 })
  // PKCS #1 is what node-forge reads.
  return privateKey.export({ type: 'pkcs1', format: 'pem' }) as string
}

function certificate(key: string, subject: forge.pki.CertificateField[], issuer: forge.pki.CertificateField[]) {
  const made = forge.pki.createCertificate()
  made.publicKey = forge.pki.publicKeyFromPem(createPublicKey(key).export({ type: 'spki', format: 'pem' }) as string)
  // A leading zero bit keeps the serial number positive.
  made.serialNumber = `0${randomBytes(8).toString('hex').slice(1)}`
  made.validity.notBefore = new Date(Date.now() - 3_600_000)
  made.validity.notAfter = new Date(Date.now() + 30 * 24 * 3_600_000)
  made.setSubject(subject)
  made.setIssuer(issuer)
  return made
}
