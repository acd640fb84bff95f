/** Tests of the built action that need no PostgreSQL, so that they run on Windows as well. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, isAbsolute, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { installAz } from '../../emulator/az.ts'
import { type Emulator, startEmulator } from '../../emulator/index.ts'
import { type JobResult, runJob } from '../../emulator/runner.ts'

let emulator: Emulator
let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bundle and its blanks '))
  emulator = await startEmulator({ postgres: false, delays: { operation: 0 } })
})

afterAll(async () => {
  await emulator?.stop()
  await rm(folder, { recursive: true, force: true })
})

/** One job with its post step, which never fails. */
async function run(inputs: Record<string, string>, env: Record<string, string> = {}): Promise<JobResult> {
  const result = await runJob({ inputs: { ...emulator.inputs, ...inputs }, env: { ...emulator.env, ...env } })
  expect((await result.post()).code).toBe(0)
  await result.remove()
  return result
}

test('wrong inputs end it with exit code 1, all outputs and the report', async () => {
  const result = await run({ mode: 'destroy' })
  expect(result.code).toBe(1)
  const { 'report-path': path = '', ...outputs } = result.outputs
  expect(outputs).toEqual({
    'stored-keys': '',
    matrix: '{"include":[]}',
    result: 'failed',
    verified: 'false',
    changed: 'false',
    drift: 'true',
    'failure-reason': 'input',
    'principal-id': '',
    'plan-id': '',
  })
  expect(isAbsolute(path)).toBe(true)
  expect(result.report).toMatchObject({ schemaVersion: 1, failureReason: 'input' })
  expect(result.summary).toContain('<code>mode</code>')
})

test('identity, roles, allow-list and restart, then nothing more to do', async () => {
  const azure = { part: 'azure', 'allow-restart': 'true' }
  const first = await run(azure)
  expect([first.code, first.outputs.result, first.outputs.changed], first.log).toEqual([0, 'changed', 'true'])
  const [server] = emulator.world.servers
  expect(server).toMatchObject({ restarts: 1, identity: { principalId: first.outputs['principal-id'] } })
  const roles = emulator.world.roleAssignments.filter(({ principalId }) => principalId === server?.identity?.principalId)
  expect(roles).toHaveLength(4)

  const written = emulator.writes().length
  const second = await run({ ...azure, mode: 'check' })
  expect([second.code, second.outputs.result], second.log).toEqual([0, 'in-sync'])
  expect(emulator.writes()).toHaveLength(written)
})

test('a summary file and a RUNNER_TEMP that cannot be written to are warnings, and the result stays', async () => {
  const file = join(folder, 'a file')
  await writeFile(file, '')
  const env = { RUNNER_TEMP: join(file, 'temp'), GITHUB_STEP_SUMMARY: join(file, 'summary') }
  const result = await run({ part: 'azure', mode: 'check' }, env)
  expect([result.code, result.outputs.result], result.log).toEqual([0, 'in-sync'])
  expect(result.outputs['report-path']).toBe('')
  expect(result.raw).toMatch(/^::warning title=The report could not be written::.*RUNNER_TEMP/m)
  expect(result.raw).toMatch(/^::warning title=The job summary could not be written::.*GITHUB_STEP_SUMMARY/m)
})

test('lists with the line ends of Windows, and the drift issue', async () => {
  emulator.world.roleAssignments.pop()
  const result = await run({
    part: 'azure',
    mode: 'check',
    databases: 'app\r\nsales 2026\r\n',
    'drift-issue': 'true',
    'github-token': emulator.world.github.token ?? '',
  })
  expect([result.code, result.outputs.result, result.outputs['failure-reason']], result.log).toEqual([1, 'drift', 'drift'])
  expect(emulator.world.github.issues?.map(({ title }) => title)).toEqual([
    'pg-contoso has drifted: identity, roles and allow-list (cognitive, machine-learning, openai, translator)',
  ])
})

test('a database that cannot be reached is reported', async () => {
  const result = await run({ mode: 'check' })
  expect([result.code, result.outputs['failure-reason']], result.log).toEqual([1, 'network'])
})

test("az's session, where az is a batch file and where it is a script", async () => {
  const deployer = emulator.world.principals.find(({ clientId }) => clientId !== undefined)
  const token = await emulator.issueToken(deployer?.objectId ?? '', emulator.url)
  const bin = join(folder, 'bin')
  installAz(bin, { tenantId: emulator.world.tenantId, tokens: { [emulator.url]: token } })
  const path = [bin, dirname(process.execPath), process.env['PATH']].join(delimiter)
  const result = await run(
    { part: 'azure', mode: 'check', 'tenant-id': '', 'client-id': '', 'fail-on-drift': 'false' },
    { PATH: path },
  )
  expect(result.log).toContain("by az's session (azure/login)")
  expect([result.code, result.outputs.result], result.log).toEqual([0, 'drift'])
  // Node warns of arguments that go through a shell.
  expect(result.log).not.toContain('DeprecationWarning')
})

// Only Windows delivers this signal to a process, so here the test raises the event inside it.
test("Ctrl-Break, which Windows' runner sends second, cancels as Ctrl-C does", async () => {
  const file = join(folder, 'break.mjs')
  await writeFile(
    file,
    `const timer = setInterval(() => {
  if (process.listenerCount('SIGBREAK') === 0) return
  clearInterval(timer)
  setTimeout(() => process.emit('SIGBREAK'), 200)
}, 5)
`,
  )
  emulator.world.fault = () => ({ kind: 'hang' })
  const result = await run({ part: 'azure' }, { NODE_OPTIONS: `--import=${pathToFileURL(file).href}` })
  delete emulator.world.fault
  expect([result.code, result.outputs['failure-reason']], result.log).toEqual([1, 'cancelled'])
  expect(result.log).toContain('SIGBREAK')
})
