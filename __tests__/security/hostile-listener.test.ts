/** A listener at the address of the database that is not a PostgreSQL, or one that an attacker runs. */
import { afterEach, describe, expect, test } from 'vitest'
import { passwordLogin } from '../../emulator/postgres.ts'
import { hurried } from '../support/clock.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { apply, begin, codesOf, onlyService } from '../support/support.ts'
import {
  complete,
  dataRow,
  errorResponse,
  type HostilePostgres,
  int32,
  type Manners,
  message,
  notice,
  parameter,
  ready,
  rowDescription,
  startHostilePostgres,
  type Visitor,
  welcome,
} from './hostile-postgres.ts'

const emulator = await ownEmulator({ databases: ['app'] })
const good = emulator.certificate(['127.0.0.1'])
const listeners: HostilePostgres[] = []
afterEach(async () => {
  await Promise.all(listeners.splice(0).map((listener) => listener.stop()))
})

async function listen(manners: Manners, certificate = good): Promise<HostilePostgres> {
  const listener = await startHostilePostgres(certificate, manners)
  listeners.push(listener)
  return listener
}

/** The run contacts only the database; the waits between tries, and for a connection or a response, are short. */
const alone = {
  ...onlyService(emulator, 'openai', 'app'),
  mode: 'verify',
  'verify-timeout-minutes': '0',
  'embedding-deployment': 'text-embedding-3-small',
}
const byPassword = { 'database-user': passwordLogin.user, 'database-password': passwordLogin.password }
const quick = hurried([
  [375, 1_999, 5],
  [2_001, 14_999, 5],
  [15_000, 15_000, 2_000],
  [20_000, 25_000, 1_500],
])

async function run(port: number, more: Record<string, string> = byPassword) {
  await begin(emulator)
  const env = emulator.env
  Object.assign(env, quick)
  try {
    const result = await apply(emulator, { ...alone, ...more, 'database-port': String(port) })
    expect(result.outputs, result.log.slice(-2_000)).toMatchObject({ verified: 'false' })
    expect(result.endedAt - result.startedAt).toBeLessThan(30_000)
    expect(result.raw.length + result.summary.length).toBeLessThan(200_000)
    return result
  } finally {
    delete env['NODE_OPTIONS']
  }
}

describe('before TLS', () => {
  const refusal = errorResponse('28000', 'no pg_hba.conf entry for host "203.0.113.7", no encryption', 'FATAL')
  test.each([
    ['TLS refused', Buffer.from('N')],
    ['TLS refused, and an ordinary welcome behind it', Buffer.concat([Buffer.from('N'), welcome])],
    ['TLS taken, and an answer without it behind that', Buffer.concat([Buffer.from('S'), welcome])],
    ['a refusal that names an address', refusal],
    ['a request for the password', message('R', int32(3))],
  ])('%s: only the request for TLS is sent, and no firewall rule is created', async (_, bytes) => {
    for (const more of [byPassword, {}]) {
      const listener = await listen({ beforeTls: (socket) => socket.write(bytes) })
      await run(listener.port, { ...more, 'temporary-firewall-rule': 'true' })
      expect(listener.inTheClear.length).toBeGreaterThan(0)
      for (const sent of listener.inTheClear) expect(sent.toString('hex')).toBe('0000000804d2162f')
      expect(emulator.writes()).toEqual([])
    }
  })
})

describe('a certificate', () => {
  test.each([
    ['of another name', ['pg-other.postgres.database.azure.com']],
    ['of all names of the cloud but its own', ['*.database.azure.com', 'postgres.database.azure.com']],
    ['of a name that begins as its own', ['127.0.0.10', 'pg-contoso.postgres.database.azure.com.evil.example']],
  ])('%s: neither a name nor a token is sent, and its refusal opens no firewall', async (_, names) => {
    const listener = await listen(
      {
        onStartup: ({ send }) => send(errorResponse('28000', 'no pg_hba.conf entry for host "203.0.113.7"', 'FATAL')),
      },
      emulator.certificate(names),
    )
    const result = await run(listener.port, { 'temporary-firewall-rule': 'true' })
    expect(codesOf(result), result.log).toContain('tls-not-trusted')
    expect([listener.startups, listener.passwords, emulator.writes()]).toEqual([[], [], []])
  })
})

describe('a login', () => {
  test.each([
    ['of a kind that is unknown', message('R', int32(7))],
    ['of a kind that does not exist', message('R', int32(4_711))],
    ['of SASL with no mechanism', message('R', int32(10), '\0')],
    ['of a mechanism of its own', message('R', int32(10), 'PLAIN\0OAUTHBEARER\0\0')],
  ])('%s: no password is sent, and the run ends', async (_, question) => {
    const listener = await listen({ onStartup: ({ send }) => send(question) })
    await run(listener.port)
    expect(listener.passwords).toEqual([])
  })

  test('by SCRAM with two thousand million rounds: the run refuses to compute them', async () => {
    const listener = await listen({
      onStartup: ({ send }) => send(message('R', int32(10), 'SCRAM-SHA-256\0\0')),
      onPassword: ({ send }, sent) => {
        const nonce = /r=([^,\0]+)/.exec(sent.toString('latin1'))?.[1] ?? ''
        send(message('R', int32(11), `r=${nonce}x,s=${Buffer.from('salt').toString('base64')},i=2000000000`))
      },
    })
    await run(listener.port)
    expect(listener.passwords.length).toBe(1)
  })

  test('by SCRAM whose server does not know the password itself is refused', async () => {
    const listener = await listen({
      onStartup: ({ send }) => send(message('R', int32(10), 'SCRAM-SHA-256\0\0')),
      onPassword: ({ send }, sent) => {
        const nonce = /r=([^,\0]+)/.exec(sent.toString('latin1'))?.[1] ?? ''
        if (sent.toString('latin1').startsWith('SCRAM'))
          send(message('R', int32(11), `r=${nonce}x,s=${Buffer.from('salt').toString('base64')},i=4096`))
        else send(message('R', int32(12), `v=${Buffer.alloc(32, 1).toString('base64')}`), welcome)
      },
    })
    await run(listener.port)
    expect(listener.queries).toEqual([])
    expect(listener.passwords.join()).not.toContain(passwordLogin.password)
  })
})

/** Sends repeatedly until the client disconnects; returns how many bytes it accepted. */
function flood(part: Buffer, sent: { bytes: number }): (visitor: Visitor) => void {
  return (visitor) => {
    const more = (): void => {
      while (!visitor.socket.destroyed) {
        sent.bytes += part.length
        // A limit for the test itself.
        if (sent.bytes > 400_000_000) return
        if (!visitor.send(part)) {
          visitor.socket.once('drain', more)
          return
        }
      }
    }
    more()
  }
}

describe('a flood', () => {
  const large = Buffer.alloc(1_000_000, 'x')
  const many = (part: Buffer): Buffer => Buffer.concat(Array.from({ length: Math.ceil(100_000 / part.length) }, () => part))
  const floods: [string, Buffer, Buffer?][] = [
    ['notices', many(notice('x'.repeat(100)))],
    ['parameters', many(parameter('x'.repeat(50), 'y'.repeat(50)))],
    ['rows', many(dataRow('x'.repeat(100))), rowDescription({ x: 25 })],
    ['results', many(Buffer.concat([rowDescription({ ['x'.repeat(5_000)]: 25 }), complete]))],
    ['a message of a gigabyte', large, Buffer.concat([Buffer.from('D'), int32(1_073_741_824)])],
    ['a name of a column of a gigabyte', large, Buffer.concat([Buffer.from('T'), int32(1_073_741_824)])],
  ]

  test.each(floods)('of %s instead of a result ends with a named failure', async (_, part, first = Buffer.alloc(0)) => {
    const sent = { bytes: 0 }
    const listener = await listen({
      onQuery: (visitor) => {
        visitor.send(first)
        flood(part, sent)(visitor)
      },
    })
    const result = await run(listener.port)
    expect(codesOf(result), result.log).toContain('message-too-large')
    expect(sent.bytes).toBeLessThan(100_000_000)
  })

  test.each(floods)('of %s instead of a login ends the run', async (_, part, first = Buffer.alloc(0)) => {
    const sent = { bytes: 0 }
    const listener = await listen({
      onStartup: (visitor) => {
        visitor.send(first)
        flood(part, sent)(visitor)
      },
    })
    await run(listener.port)
    expect(sent.bytes).toBeLessThan(200_000_000)
  })

  test('of errors ends with the first', async () => {
    const sent = { bytes: 0 }
    const listener = await listen({ onQuery: flood(many(errorResponse('XX000', 'x'.repeat(100))), sent) })
    await run(listener.port)
    expect(sent.bytes).toBeLessThan(100_000_000)
  })
})

describe('a result of another shape', () => {
  const facts = {
    version: '17',
    installed: '1.3.1',
    available: '1.3.1',
    admin: 't',
    may_read: 't',
    may_ask: 't',
    may_write: 't',
    manager: 't',
  }
  const columns = (row: object): Buffer => rowDescription(Object.fromEntries(Object.keys(row).map((name) => [name, 25])))
  const result = (row: Record<string, string | null>): Buffer =>
    Buffer.concat([columns(row), dataRow(...Object.values(row)), complete])
  const shapes: [string, (visitor: Visitor) => void][] = [
    ['nothing, though it is ready', ({ send }) => send(ready)],
    ['nothing, though it is ready several times', ({ send }) => send(ready, ready, ready)],
    ['rows without columns', ({ send }) => send(dataRow('1'), complete, ready)],
    ['more values than columns', ({ send }) => send(rowDescription({ a: 25 }), dataRow('1', '2', '3'), complete, ready)],
    ['JSON that is none', ({ send }) => send(rowDescription({ a: 3802 }), dataRow('{'), complete, ready)],
    ['a result of one statement for all', ({ send }) => send(result(facts), ready)],
    ['the same row for every statement', ({ send }) => send(...Array.from({ length: 20 }, () => result(facts)), ready)],
    [
      'texts for lists',
      ({ send }) =>
        send(
          ...Array.from({ length: 20 }, () =>
            result({ ...facts, names: 'a', modes: 'b', types: 'c', schema: 'd', kind: 'SCHEMA', name: '"; --' }),
          ),
          ready,
        ),
    ],
    ['a length of zero', ({ send }) => send(Buffer.from([68, 0, 0, 0, 0, 68, 0, 0, 0, 0]), ready)],
    [
      'a row with a length that is not there',
      ({ send }) => send(rowDescription({ a: 25 }), message('D', Buffer.from([0, 1, 127, 255, 255, 255])), complete, ready),
    ],
    ['a request for rows', ({ send }) => send(message('G', Buffer.from([0, 0, 0])), ready)],
    ['signs of no protocol', ({ send }) => send(Buffer.from('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n'))],
    ['an error without a text', ({ send }) => send(message('E', Buffer.from([0])), ready)],
  ]
  test.each(shapes)('%s: nothing is verified', async (_, answer) => {
    const listener = await listen({ onQuery: answer })
    await run(listener.port)
  })

  test('no result at all', async () => {
    const listener = await listen({ onQuery: () => undefined })
    await run(listener.port)
  })

  test('none except for the query of the address, whose false address creates no rule', async () => {
    for (const address of ['0.0.0.0', '203.0.113.7']) {
      const listener = await listen({
        onQuery: ({ send }, sql) => {
          if (/inet_client_addr/.test(sql)) send(...Array.from({ length: 14 }, () => result({ address })), ready)
          else send(complete, ready)
        },
      })
      await run(listener.port, { ...byPassword, 'temporary-firewall-rule': 'true' })
      expect(emulator.writes()).toEqual([])
    }
  })

  test('false server parameters do not change what is sent', async () => {
    const texts: string[][] = []
    for (const lies of [
      [],
      [parameter('standard_conforming_strings', 'off'), parameter('client_encoding', 'SJIS'), parameter('server_version', '1')],
    ]) {
      const listener = await listen({ onStartup: ({ send }) => send(message('R', int32(0)), ...lies, ready) })
      await run(listener.port, { ...byPassword, 'embedding-deployment': `x\\'); SELECT 1; --` })
      texts.push(listener.queries)
    }
    expect(texts[0]?.length).toBeGreaterThan(0)
    expect(texts[1]).toEqual(texts[0])
  })
})
