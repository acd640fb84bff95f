/** Runs the steps of the live workflow in their order against the emulated Azure, as they will run against a real one. */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { appendFile, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { parse } from 'yaml'
import { type Emulator, startEmulator } from '../../emulator/index.ts'
import { type JobResult, runJob } from '../../emulator/runner.ts'
import { databasesOf, settingsOf } from '../support/support.ts'

const root = join(import.meta.dirname, '..', '..')
const { jobs } = parse(readFileSync(join(root, '.github', 'workflows', 'live.yml'), 'utf8')) as {
  jobs: { live: { steps: { id?: string; uses?: string; with?: Record<string, unknown> }[] } }
}
const steps = jobs.live.steps.filter(({ uses }) => uses === './')

let emulator: Emulator
let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'live-'))
  emulator = await startEmulator({
    databases: ['app'],
    // Closed to the runner, as a new server is.
    shape: (world) => {
      for (const server of world.servers) server.firewallRules = {}
    },
  })
})

afterAll(async () => {
  await emulator?.stop()
  await rm(folder, { recursive: true, force: true })
})

async function compare(outcomes: Record<string, unknown>): Promise<{ code: number; stdout: string; summary: string }> {
  const file = join(folder, 'summary.md')
  await appendFile(file, '')
  const before = (await readFile(file, 'utf8')).length
  const env = { PATH: process.env['PATH'] ?? '', STEPS: JSON.stringify(outcomes), GITHUB_STEP_SUMMARY: file }
  const ended = await promisify(execFile)(process.execPath, [join(root, 'scripts', 'live.ts')], { env }).then(
    ({ stdout }) => ({ code: 0, stdout }),
    (error: { code: number; stdout: string }) => ({ code: error.code, stdout: error.stdout }),
  )
  return { ...ended, summary: (await readFile(file, 'utf8')).slice(before) }
}

test('the steps switch to the identity, roll back to keys and switch again, and the last step reports success or what differs', async () => {
  const { inputs } = emulator
  const variables: Record<string, string> = {
    LIVE_TENANT_ID: inputs['tenant-id'] ?? '',
    LIVE_CLIENT_ID: inputs['client-id'] ?? '',
    LIVE_SERVER_ID: inputs['server'] ?? '',
    LIVE_DATABASES: inputs['databases'] ?? '',
    LIVE_OPENAI_ID: inputs['openai'] ?? '',
    LIVE_COGNITIVE_ID: inputs['cognitive'] ?? '',
    LIVE_TRANSLATOR_ID: inputs['translator'] ?? '',
    LIVE_MACHINE_LEARNING_ID: inputs['machine-learning'] ?? '',
    LIVE_MACHINE_LEARNING_INPUT: inputs['machine-learning-input'] ?? '',
    LIVE_EMBEDDING_DEPLOYMENT: '',
  }
  const used = new Set<string>()
  const filled = (value: unknown): string =>
    String(value).replaceAll(/\$\{\{ *vars\.(\w+) *\}\}/g, (_, name: string) => {
      used.add(name)
      const found = variables[name]
      if (found === undefined) throw new Error(`docs/live.md and this test know no ${name}`)
      return found
    })
  // Inputs that a real subscription does not need.
  const here = Object.fromEntries(
    ['environment', 'audience', 'database-host', 'database-port'].map((name) => [name, inputs[name] ?? '']),
  )

  const outcomes: Record<string, { outcome: string; outputs: Record<string, string> }> = {}
  const results: JobResult[] = []
  for (const step of steps) {
    const inputs = Object.fromEntries(Object.entries(step.with ?? {}).map(([name, value]) => [name, filled(value)]))
    const result = await runJob({ inputs: { ...here, ...inputs }, env: emulator.env })
    results.push(result)
    outcomes[step.id ?? ''] = { outcome: result.code === 0 ? 'success' : 'failure', outputs: { ...result.outputs } }
    expect((await result.post()).code).toBe(0)
    if (step.id === 'back') {
      const [database = ''] = databasesOf(emulator)
      expect(await settingsOf(emulator, database)).toMatchObject({ 'azure_openai.auth_type': 'subscription-key' })
    }
  }
  expect(emulator.world.servers[0]?.firewallRules).toEqual({})
  for (const database of databasesOf(emulator)) {
    const settings = await settingsOf(emulator, database)
    expect(settings['azure_openai.auth_type']).toBe('managed-identity')
    expect(settings['azure_openai.subscription_key'] ?? '').toBe('')
  }

  const good = await compare(outcomes)
  expect(good.stdout, JSON.stringify(outcomes, undefined, 2)).toContain('ended as expected')
  expect(good.code).toBe(0)
  expect(good.summary).toBe(good.stdout)
  expect(good.stdout).toMatch(/app\/openai: passed \(keyless\), \d+ attempts/)

  const [{ id = '' } = {}] = steps
  const { [id]: _, ...others } = outcomes
  expect(await compare(others)).toMatchObject({ code: 1, stdout: expect.stringContaining(`- ${id}: did not run`) })
  const unverified = {
    ...outcomes,
    verify: { outcome: 'success', outputs: { ...outcomes['verify']?.outputs, verified: 'false' } },
  }
  expect(await compare(unverified)).toMatchObject({ code: 1, stdout: expect.stringContaining('verify: verified is false') })

  const page = await readFile(join(root, 'docs', 'live.md'), 'utf8')
  for (const name of used) expect(page).toContain(`\`${name}\``)
  await Promise.all(results.map((result) => result.remove()))
}, 300_000)
