import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/index.ts'
import { type JobResult, runJob } from '../../emulator/runner.ts'
import { findingWith } from '../support/findings.ts'
import { begin, codesOf, emulate, usual } from '../support/support.ts'

/** Leads nowhere but through the proxy. */
const name = 'azure.contoso.example'
let behind: Emulator
let local: Emulator
let proxy: Proxy
const ended: JobResult[] = []

interface Proxy {
  readonly url: string
  /** `HOST:PORT` of each requested tunnel so far. */
  readonly tunnels: string[]
  stop(): void
}

beforeAll(async () => {
  ;[behind, local, proxy] = await Promise.all([
    emulate({ host: name, databases: ['app'] }),
    emulate({ databases: ['app'] }),
    startProxy(),
  ])
})
beforeEach(async () => {
  await Promise.all([begin(behind), begin(local)])
  proxy.tunnels.length = 0
})
afterAll(async () => {
  proxy?.stop()
  await Promise.all([...ended.map((job) => job.remove()), behind?.stop(), local?.stop()])
})

/** @param refusal status with which it refuses every CONNECT */
async function startProxy(refusal?: number): Promise<Proxy> {
  const program = join(import.meta.dirname, '..', '..', 'emulator', 'connect-proxy.ts')
  const child: ChildProcess = spawn(process.execPath, [program, ...(refusal === undefined ? [] : [String(refusal)])], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const tunnels: string[] = []
  const port = await new Promise<string>((resolve) => {
    let first = true
    createInterface({ input: child.stdout as NonNullable<typeof child.stdout> }).on('line', (line) => {
      if (first) resolve(line)
      else tunnels.push(line)
      first = false
    })
  })
  return { url: `http://127.0.0.1:${port}`, tunnels, stop: () => void child.stdin?.end() }
}

const only = { cognitive: '', translator: '', 'machine-learning': '', 'machine-learning-input': '' }

async function job(emulator: Emulator, env: Record<string, string>, inputs: Record<string, string> = {}): Promise<JobResult> {
  const result = await runJob({ inputs: { ...emulator.inputs, ...usual, ...only, ...inputs }, env: { ...emulator.env, ...env } })
  ended.push(result)
  return result
}

describe('behind a proxy', () => {
  test("Azure, Entra and GitHub's OIDC service are reached through it, PostgreSQL is not", async () => {
    const result = await job(behind, { HTTPS_PROXY: proxy.url })
    expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
    const port = new URL(behind.url).port
    expect(new Set(proxy.tunnels)).toEqual(new Set([`${name}:${port}`]))
    const planes = new Set(behind.world.exchanges.map(({ plane }) => plane))
    for (const plane of ['github', 'entra', 'resource-manager']) expect(planes).toContain(plane)
    expect(proxy.tunnels.join()).not.toContain(String(behind.postgres.port))
  })

  test('the drift issue and the look-up of its author go through it', async () => {
    const { github, exchanges } = behind.world
    const issue = { 'drift-issue': 'true', 'github-token': github.token ?? '' }
    for (let run = 0; run < 2; run++) {
      const result = await job(behind, { HTTPS_PROXY: proxy.url }, { ...look, ...issue })
      expect(result.code, result.log).toBe(0)
    }
    expect(github.issues).toMatchObject([{ state: 'open', comments: [] }])
    expect(exchanges.map(({ url }) => url)).toEqual(expect.arrayContaining(['/github/api/user', '/github/api/graphql']))
  })

  test.each([401, 403, 407])(
    'that answers %s to CONNECT: the failure names the status and does not show the page of the proxy',
    async (status) => {
      const refusing = await startProxy(status)
      try {
        const url = new URL(refusing.url)
        url.username = 'someone'
        url.password = 'pr0xy-password'
        const result = await job(behind, { HTTPS_PROXY: url.href })
        expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'network' })
        const failure = findingWith(result, 'proxy-refused')
        expect(failure.detail).toContain(`${new URL(refusing.url).host} answered ${status}`)
        expect(result.raw + JSON.stringify(result.report)).not.toMatch(/Contoso web gateway|pr0xy-password/)
      } finally {
        refusing.stop()
      }
    },
  )

  test('its variables work in lower case as well', async () => {
    const result = await job(behind, { https_proxy: proxy.url }, { mode: 'check', part: 'azure', 'fail-on-drift': 'false' })
    expect(result.code, result.log).toBe(0)
    expect(proxy.tunnels.length).toBeGreaterThan(0)
  })

  const look = { mode: 'check', part: 'azure', 'fail-on-drift': 'false' }

  test('a host that NO_PROXY names is reached directly, another is not', async () => {
    const direct = await job(local, { HTTPS_PROXY: proxy.url, NO_PROXY: 'example.org,localhost' }, look)
    expect(direct.code, direct.log).toBe(0)
    expect(proxy.tunnels).toEqual([])
    const proxied = await job(local, { HTTPS_PROXY: proxy.url, NO_PROXY: 'example.org' }, look)
    expect(proxied.code, proxied.log).toBe(0)
    expect(new Set(proxy.tunnels)).toEqual(new Set([new URL(local.url).host]))
  })

  test.each([
    ['whose name cannot be resolved', { 'database-host': 'pg-contoso.invalid' }, 'dns'],
    ['where nothing listens', { 'database-port': '1' }, 'connection-refused'],
  ])('a database %s: the failure says that PostgreSQL does not go through the proxy', async (_, inputs, code) => {
    const through = await job(behind, { HTTPS_PROXY: proxy.url }, { mode: 'check', ...inputs })
    const failure = findingWith(through, code)
    expect(codesOf(through), through.log).toContain(code)
    expect(failure.detail).toContain('PostgreSQL does not go through the proxy of this job')
    expect(through.outputs['failure-reason']).toBe('network')
    const without = await job(local, {}, { mode: 'check', ...inputs })
    expect(JSON.stringify(without.report.findings)).not.toContain('proxy')
  })
})
