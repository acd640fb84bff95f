import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { actionFile, type JobResult, runJob } from '../../emulator/runner.ts'
import { ids } from '../support/support.ts'

let folder: string
let accidents = 0

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'outputs-'))
})

afterAll(() => rm(folder, { recursive: true, force: true }))

/** Runs the action, whose requests get no response, and runs `accident` in it as soon as its first outputs are written. */
async function run(accident: string): Promise<JobResult> {
  const file = join(folder, `${++accidents}.mjs`)
  await writeFile(
    file,
    `import { readFileSync } from 'node:fs'
const timer = setInterval(() => {
  if (!readFileSync(process.env.GITHUB_OUTPUT, 'utf8').includes('report-path')) return
  clearInterval(timer)
  ${accident}
}, 5)
`,
  )
  const result = await runJob({
    inputs: {
      ...{ mode: 'check', server: ids.server, databases: 'app', openai: ids.openai, environment: 'https://127.0.0.1:9' },
      ...{ 'tenant-id': '5f1e6c3a-9b57-4a0e-8f0d-2c7c4b1a9d63', 'client-id': '7e4b2d18-3f60-4c9a-8d25-b1a6f0c3e974' },
      audience: 'api://unused.test',
    },
    env: { NODE_OPTIONS: `--import=${pathToFileURL(file).href}` },
  })
  await rm(result.folder, { recursive: true, force: true })
  return result
}

const closed = {
  result: 'failed',
  verified: 'false',
  changed: 'false',
  drift: 'true',
  'failure-reason': 'internal',
  'principal-id': '',
  'plan-id': '',
}

test.each([
  ['an uncaught Error', `throw new TypeError('out of nowhere')`, 'out of nowhere'],
  ['a thrown text', `throw 'a mere text'`, 'a mere text'],
  ['a thrown undefined', `throw undefined`, 'undefined'],
  ['an unhandled rejection', `Promise.reject({ answer: 42 })`, '{"answer":42}'],
])('%s: the step fails, with every output and a report', async (_, accident, text) => {
  const result = await run(accident)
  expect(result.code, result.raw).toBe(1)
  expect(result.outputs).toMatchObject(closed)
  expect(Object.keys(result.outputs).sort()).toEqual(Object.keys((await actionFile()).outputs).sort())
  expect(result.report).toMatchObject({ schemaVersion: 1, mode: 'check', result: 'failed', failureReason: 'internal' })
  expect(result.report.findings[0]).toMatchObject({ severity: 'error', code: 'internal', detail: text })
  expect(result.summary).toContain('internal')
})

test('a run that is killed right after its start leaves outputs and a report with the result failed', async () => {
  const result = await run(`process.kill(process.pid, 'SIGKILL')`)
  expect(result.signal).toBe('SIGKILL')
  expect(result.outputs).toMatchObject(closed)
  expect(Object.keys(result.outputs).sort()).toEqual(Object.keys((await actionFile()).outputs).sort())
  expect(result.report).toMatchObject({ schemaVersion: 1, result: 'failed', failureReason: 'internal', verified: false })
  expect(result.report.findings[0]).toMatchObject({ code: 'unfinished' })
})
