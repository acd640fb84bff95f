/** The action's process connects to, looks up and starts only what its inputs require. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/index.ts'
import { type JobResult, runJob } from '../../emulator/runner.ts'
import { begin, emulate, giveIdentity, giveRoles, onlyService, usual } from '../support/support.ts'

let emulator: Emulator
const jobs: JobResult[] = []

beforeAll(async () => {
  emulator = await emulate({ databases: ['app'] })
})
afterAll(async () => {
  await Promise.all(jobs.map((job) => job.remove()))
  await emulator?.stop()
})

interface Recorded {
  result: JobResult
  /** `kind: what`, each once, sorted; without the line by which the recorder reports its start. */
  traffic: string[]
}

async function recorded(inputs: Record<string, string>, env: Record<string, string> = {}, post = false): Promise<Recorded> {
  const file = join(emulator.folder, `recorded-${jobs.length}.jsonl`)
  // Only the recorder needs NODE_OPTIONS; users do not set it.
  const recorder = { NODE_OPTIONS: `--require "${join(import.meta.dirname, '..', 'support', 'recorder.cjs')}"`, RECORDED: file }
  const result = await runJob({
    inputs: { ...emulator.inputs, ...usual, ...inputs },
    env: { ...emulator.env, ...recorder, ...env },
  })
  jobs.push(result)
  if (post) await result.post()
  const lines = (await readFile(file, 'utf8'))
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as [string, string])
  expect(lines.filter(([kind]) => kind === 'started')).toHaveLength(post ? 2 : 1)
  return { result, traffic: [...new Set(lines.filter(([kind]) => kind !== 'started').map((each) => each.join(': ')))].sort() }
}

/** Resource Manager, Entra and GitHub are one host of the emulator; PostgreSQL is the other. */
function expectedTraffic(): string[] {
  const { host } = new URL(emulator.url)
  const database = `${emulator.inputs['database-host']}:${emulator.inputs['database-port']}`
  return [`connection: ${database}`, `connection: ${host}`, 'look-up: localhost'].sort()
}

/** Node may also look up addresses, which needs no network. */
const withoutAddresses = (traffic: string[]): string[] => traffic.filter((each) => !/^look-up: [\d.:]+$/.test(each))

test('an input error connects to nothing, looks up nothing and starts nothing; its post step neither', async () => {
  await begin(emulator)
  const { result, traffic } = await recorded({ server: 'none' }, {}, true)
  expect(result.outputs['failure-reason']).toBe('input')
  expect(traffic).toEqual([])
})

test('apply and check connect to Resource Manager, Entra, GitHub and the database, and to nothing else', async () => {
  await begin(emulator)
  const first = await recorded({}, {}, true)
  expect(first.result.outputs, first.result.log).toMatchObject({ result: 'changed', verified: 'true' })
  expect(withoutAddresses(first.traffic)).toEqual(expectedTraffic())
  const second = await recorded({ mode: 'check', 'drift-issue': 'true', 'github-token': emulator.world.github.token ?? '' })
  expect(second.result.outputs['result'], second.result.log).toBe('in-sync')
  expect(withoutAddresses(second.traffic)).toEqual(expectedTraffic())
})

test('a verify with password, host and deployment connects to the database alone', async () => {
  await begin(emulator)
  const inputs = { ...onlyService(emulator, 'openai', 'app'), mode: 'verify', 'embedding-deployment': 'text-embedding-3-small' }
  const login = { 'database-user': 'pgadmin', 'database-password': 'wrong', 'tenant-id': '', 'client-id': '' }
  const { result, traffic } = await recorded({ ...inputs, ...login, environment: 'AzureCloud' })
  expect(result.outputs['failure-reason'], result.log).toBe('credentials')
  expect(withoutAddresses(traffic)).toEqual([expectedTraffic()[0]])
})

test('az and the metadata service are used only when the inputs and variables name no other login', async () => {
  await begin(emulator)
  giveIdentity(emulator)
  giveRoles(emulator)
  const none = { 'tenant-id': '', 'client-id': '', ...onlyService(emulator, 'openai', 'app'), mode: 'check' }
  const deployer = emulator.world.principals.find(({ clientSecret }) => clientSecret !== undefined)
  const secret = {
    AZURE_TENANT_ID: emulator.world.tenantId,
    AZURE_CLIENT_ID: deployer?.clientId ?? '',
    AZURE_CLIENT_SECRET: deployer?.clientSecret ?? '',
  }
  const named = await recorded(none, secret)
  expect(named.result.outputs['result'], named.result.log).not.toBe('in-sync')
  for (const each of withoutAddresses(named.traffic)) expect(expectedTraffic()).toContain(each)

  const left = await recorded(none, { PATH: emulator.folder })
  expect(left.result.outputs['failure-reason'], left.result.log).toBe('credentials')
  const further = withoutAddresses(left.traffic).filter((each) => !expectedTraffic().includes(each))
  expect(further).toEqual(['connection: 169.254.169.254:80', 'process: az'])
})
