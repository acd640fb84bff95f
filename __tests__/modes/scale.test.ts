/**
 * Many databases and many runs: connections stay few, the summary short, the final state right. SCALE=200 makes 200
 * databases and 20 runs of it, and prints what it measured.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/index.ts'
import { passwordLogin } from '../../emulator/postgres.ts'
import { shareOf } from '../../src/postgres/slots.ts'
import {
  apply,
  begin,
  codesOf,
  emulate,
  logLength,
  logSince,
  onlyService,
  removeJobs,
  rolesOfServer,
  settingsOf,
  start,
} from '../support/support.ts'

const many = Number(process.env.SCALE ?? 12)
const long = process.env.SCALE !== undefined
const atOnce = long ? 20 : 6
const names = Array.from({ length: many }, (_, index) => `tenant_${String(index + 1).padStart(3, '0')}`)
/** As on the smallest server that Azure offers: 50 connections, of which 15 are reserved. */
const small = { all: 50, reserved: 15 }

let emulator: Emulator

beforeAll(async () => {
  emulator = await emulate({ databases: names })
  await set({ log_connections: 'on', log_disconnections: 'on' })
}, 600_000)
afterAll(async () => {
  await removeJobs()
  await emulator.stop()
})

/** Sets parameters of the server and restarts it. */
async function set(parameters: Record<string, string | number>): Promise<void> {
  for (const [name, value] of Object.entries(parameters)) {
    await emulator.postgres.query('postgres', `ALTER SYSTEM SET ${name} = '${value}'`)
  }
  await emulator.postgres.restart()
}

/** Server processes of closed connections that may still exist when the next connection opens. */
const leaving = 1

/** Connections of the action since a position in the server's log: how many, and how many at once at most. */
function connectionsSince(from: number): { total: number; most: number; mostInOne: number } {
  const open = new Map<string, string>()
  const found = { total: 0, most: 0, mostInOne: 0 }
  for (const line of logSince(emulator, from).split('\n')) {
    const [, pid = '', user = '', database = '', what] =
      /\[(\d+)\] (.*?)@(.*?) LOG: {2}(connection authorized|disconnection):/.exec(line) ?? []
    if (what === undefined || user === 'azuresu' || user === passwordLogin.user) continue
    if (what === 'disconnection') open.delete(pid)
    else {
      open.set(pid, database)
      found.total++
      found.most = Math.max(found.most, open.size)
      found.mostInOne = Math.max(found.mostInOne, [...open.values()].filter((each) => each === database).length)
    }
  }
  return found
}

function connect(): pg.Client {
  const { host, port } = emulator.postgres
  const client = new pg.Client({
    host,
    port,
    ...passwordLogin,
    database: 'postgres',
    ssl: { ca: readFileSync(emulator.caFile, 'utf8') },
  })
  client.on('error', () => undefined)
  return client
}

/** An application that keeps a connection, and one that opens a new one each time; both query ten times a second. */
function applications(): () => Promise<{ answered: number; failed: string[] }> {
  let over = false
  let answered = 0
  const failed: string[] = []
  const queryAlways = async (query: () => Promise<unknown>): Promise<void> => {
    while (!over) {
      await query().then(
        () => answered++,
        (error: unknown) => failed.push(String(error)),
      )
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
  const kept = connect()
  const work = Promise.all([
    kept.connect().then(() => queryAlways(() => kept.query('SELECT 1'))),
    queryAlways(async () => {
      const client = connect()
      try {
        await client.connect()
        await client.query('SELECT 1')
      } finally {
        await client.end()
      }
    }),
  ])
  return async () => {
    over = true
    await work
    await kept.end()
    return { answered, failed }
  }
}

/** Runs the action; returns the result with the processor seconds and megabytes that the action used. */
async function measured(inputs: Record<string, string>) {
  const usage = join(emulator.folder, 'usage.json')
  const script = `import{writeFileSync as w}from'node:fs';process.on('exit',()=>w(${JSON.stringify(usage)},JSON.stringify(process.resourceUsage())))`
  const from = logLength(emulator)
  emulator.env.NODE_OPTIONS = `--import=data:text/javascript,${encodeURIComponent(script)}`
  const began = performance.now()
  const result = await apply(emulator, { 'verify-timeout-minutes': '60', ...inputs })
  const seconds = (performance.now() - began) / 1_000
  delete emulator.env.NODE_OPTIONS
  const { userCPUTime, systemCPUTime, maxRSS } = JSON.parse(readFileSync(usage, 'utf8'))
  const connections = connectionsSince(from)
  const figures = {
    seconds: Math.round(seconds * 10) / 10,
    cpuSeconds: Math.round((userCPUTime + systemCPUTime) / 10_000) / 100,
    megabytes: Math.round(maxRSS / 1_024),
    ...connections,
    summary: Buffer.byteLength(result.summary),
    outputs: JSON.stringify(result.outputs).length,
    report: JSON.stringify(result.report).length,
  }
  return { result, connections, figures }
}

const table: Record<string, object> = {}
afterAll(() => {
  if (long) console.table(table)
})

describe('many databases', () => {
  beforeAll(async () => {
    await begin(emulator)
  }, 600_000)

  const sizes = long ? [1, 10, 50, many] : [many]
  test.each(sizes)(
    '%i: few connections, closed when done; a short summary',
    async (size) => {
      const databases = names.slice(0, size)
      for (const name of databases) await emulator.postgres.query(name, 'DROP EXTENSION IF EXISTS azure_ai CASCADE')
      const share = shareOf(100, 3)
      const runs = {
        apply: ['changed', {}],
        again: ['in-sync', {}],
        ...(long ? { check: ['in-sync', { mode: 'check' }], verify: ['in-sync', { mode: 'verify' }] } : {}),
      } as Record<string, [string, Record<string, string>]>
      for (const [name, [wanted, inputs]] of Object.entries(runs)) {
        const { result, connections, figures } = await measured({ databases: databases.join('\n'), ...inputs })
        table[`${name}, ${size}`] = figures
        expect([name, result.outputs.result, result.outputs.verified, codesOf(result)]).toEqual([
          name,
          wanted,
          'true',
          expect.not.arrayContaining(['internal']),
        ])
        expect(connections.most).toBeLessThanOrEqual(share + leaving)
        // In a check the families of a database run their queries at once, each on a connection of its own.
        expect(connections.mostInOne).toBeLessThanOrEqual((name === 'check' ? share : 1) + leaving)
        // Counted for each database: what one more costs is the same for the first and the last.
        expect(connections.total).toBeLessThanOrEqual((name === 'apply' ? 12 : 4) * size + 3)
        expect(Buffer.byteLength(result.summary)).toBeLessThan(20_000)
        if (size > 3) expect(result.summary).toContain(`**all ${size} databases**`)
        expect(Buffer.byteLength(JSON.stringify(result.outputs))).toBeLessThan(10_000)
        expect(figures.megabytes).toBeLessThan(250)
      }
    },
    1_800_000,
  )
})

describe('a small server', () => {
  const shared = names.slice(0, long ? 4 : 2)
  const inputs = { databases: shared.join('\n') }

  beforeAll(async () => {
    await set({ max_connections: small.all, reserved_connections: small.reserved - 3 })
  })
  beforeEach(async () => {
    await begin(emulator)
  }, 600_000)

  test(`${atOnce} runs at once: all succeed, nothing exists twice, and applications keep their connections`, async () => {
    const from = logLength(emulator)
    // This run restarts the server for its new identity, before the applications connect.
    await apply(emulator, { databases: shared[0] ?? '', part: 'azure' })
    const stop = applications()
    const jobs = await Promise.all(
      Array.from({ length: atOnce }, () => start(emulator, { ...inputs, 'verify-timeout-minutes': '10' })),
    )
    const results = await Promise.all(jobs.map((job) => job.done))
    const queries = await stop()
    for (const result of results) {
      expect([result.code, result.outputs.result, result.outputs.verified, codesOf(result)]).toEqual([
        0,
        expect.stringMatching(/^(changed|in-sync)$/),
        'true',
        expect.not.arrayContaining(['internal']),
      ])
    }
    expect(connectionsSince(from).most).toBeLessThanOrEqual(atOnce * (shareOf(small.all, small.reserved) + leaving))
    expect(queries.failed).toEqual([])
    expect(queries.answered).toBeGreaterThan(10)
    expect(new Set(rolesOfServer(emulator)).size).toBe(rolesOfServer(emulator).length)
    const [first, ...others] = await Promise.all(shared.map((name) => settingsOf(emulator, name)))
    for (const other of others) expect(other).toEqual(first)
    const { code, outputs } = await apply(emulator, { ...inputs, mode: 'check' })
    expect([code, outputs.result]).toEqual([0, 'in-sync'])
  }, 1_800_000)

  test('when others use every connection the run waits for one, and logs it', async () => {
    const others = Array.from({ length: small.all - small.reserved }, connect)
    for (const each of others) await each.connect()
    let waited = false
    const result = await apply(emulator, { ...inputs, mode: 'check' }, (line) => {
      if (waited || !/remaining connection slots|too many clients/.test(line)) return
      waited = true
      for (const each of others) void each.end()
    })
    expect([waited, result.outputs.result, codesOf(result)]).toEqual([
      true,
      'drift',
      expect.not.arrayContaining(['too-many-connections']),
    ])
  })

  test('the rollback to keys opens at most two connections', async () => {
    const openai = onlyService(emulator, 'openai', shared.join('\n'))
    await apply(emulator, openai)
    const from = logLength(emulator)
    const back = await apply(emulator, { ...openai, 'auth-type': 'subscription-key' })
    expect([back.outputs['result'], codesOf(back)]).toEqual(['changed', expect.not.arrayContaining(['internal'])])
    expect(connectionsSince(from).most).toBeLessThanOrEqual(2 + leaving)
  })
})
