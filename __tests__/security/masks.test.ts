/** Nothing that a run leaves contains a secret, whatever its length, and only GitHub's runner gets the commands that mask secrets. */
import { statSync } from 'node:fs'
import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import { type JobResult, runJob } from '../../emulator/runner.ts'
import { hidden, hideSecret, withoutSecrets } from '../../src/lib/secrets.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { begin, onlyService, usual } from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app'] })
const jobs: JobResult[] = []
beforeAll(() => begin(emulator))
afterEach(() => Promise.all(jobs.splice(0).map((job) => job.remove())))

async function run(inputs: Record<string, string> = {}, env: Record<string, string> = {}): Promise<JobResult> {
  const look = { mode: 'check', 'fail-on-drift': 'false', 'test-queries': 'false' }
  const own = { ...emulator.inputs, ...onlyService(emulator, 'openai', 'app'), ...usual, ...look, ...inputs }
  const result = await runJob({ inputs: own, env: { ...emulator.env, ...env } })
  jobs.push(result)
  return result
}

const token = /eyJ[\w-]{10,}\.[\w-]{10,}/

describe('outside GitHub Actions', () => {
  test.each([{ GITHUB_ACTIONS: '' }, { GITHUB_ACTIONS: 'false' }])(
    '%j: no mask shows a secret on standard output',
    async (env) => {
      const password = 'a-database-password-4711'
      const result = await run({ 'database-user': 'pgadmin', 'database-password': password }, env)
      expect(result.outputs['failure-reason'], result.raw).toBe('credentials')
      expect(result.raw).not.toContain('::add-mask::')
      expect(result.raw).not.toMatch(token)
      expect(result.raw).not.toContain(password)
      const post = await result.post()
      expect(post.raw).not.toContain('::add-mask::')
    },
  )

  test('the post step prints none either', async () => {
    await begin(emulator, { shape: (world) => Object.assign(world.servers[0] ?? {}, { firewallRules: {} }) })
    const result = await run({ 'temporary-firewall-rule': 'true' }, { GITHUB_ACTIONS: '' })
    const post = await result.post()
    expect(post.raw).toContain('Removed the temporary firewall rule')
    expect(result.raw + post.raw).not.toContain('::add-mask::')
    expect(result.raw + post.raw).not.toMatch(token)
    await begin(emulator)
  })
})

test('inside GitHub Actions every secret is masked before anything else is printed', async () => {
  const password = 'a-database-password-4711'
  const result = await run({ 'database-user': 'pgadmin', 'database-password': password })
  expect(result.raw.startsWith(`::add-mask::${password}`)).toBe(true)
  expect(result.masked.some((value) => token.test(value))).toBe(true)
})

describe('a short secret', () => {
  test.each(['k3y', 'abc', '7', 'hunter2', 'a"b\\c'])('the password %s is shown nowhere as a word', async (password) => {
    // The server repeats what it received, so its message in the report is searched as well.
    const text = `password authentication failed: "${password}", ${JSON.stringify(password)}, ${encodeURIComponent(password)}`
    emulator.world.sqlFault = () => ({ kind: 'error', code: '28P01', message: text })
    const result = await run({ 'database-user': 'pgadmin', 'database-password': password })
    delete emulator.world.sqlFault
    expect(result.masked).toContain(password)
    const [finding] = result.report.findings
    expect(finding.code).toMatch(/login-refused|role-not-found/)
    expect(finding.detail).not.toContain(`"${password}"`)
  })

  test.each(['openai-key', 'cognitive-key', 'machine-learning-key'])('as %s is refused, without being shown', async (name) => {
    const result = await run({ 'auth-type': 'subscription-key', mode: 'apply', [name]: 'k3y-767' })
    expect(result.outputs['failure-reason']).toBe('input')
    expect(result.report.findings[0].detail).toContain(`\`${name}\`: has 7 characters; a key needs at least 8`)
    expect(result.log + result.summary + JSON.stringify(result.report)).not.toContain('k3y-767')
  })
})

test('only this user may read the report', async () => {
  const result = await run()
  if (process.platform !== 'win32') expect(statSync(result.outputs['report-path'] ?? '').mode & 0o777).toBe(0o600)
})

describe('texts without secrets', () => {
  hideSecret('s3cr"et\\ of\u00e4 some length')
  hideSecret('abc')
  hideSecret('long-enough-1')
  hideSecret('long-enough-1-and-longer')
  hideSecret('-----BEGIN KEY-----\r\nMIIBVwIBADANBgkq\n}\n')
  hideSecret('\ud800 half of a pair')

  test.each<[string, string]>([
    ['s3cr"et\\ of\u00e4 some length', '***'],
    [JSON.stringify({ key: 's3cr"et\\ of\u00e4 some length' }), '{"key":"***"}'],
    [`https://host/?key=${encodeURIComponent('s3cr"et\\ of\u00e4 some length')}&x`, 'https://host/?key=***&x'],
    ['abc, (abc) abc.', '***, (***) ***.'],
    ['postgres://user:abc@host/db', 'postgres://user:***@host/db'],
    ['abcdef xabc 1abc abc1 abc_d', 'abcdef xabc 1abc abc1 abc_d'],
    ['xlong-enough-1x', 'x***x'],
    ['long-enough-1-and-longer', '***'],
    ['MIIBVwIBADANBgkq }', '*** }'],
    ['\ud800 half of a pair', '***'],
    ['nothing', 'nothing'],
  ])('%j', (text, expected) => {
    expect(hidden(text)).toBe(expected)
    expect(withoutSecrets({ a: [text] })).toEqual({ a: [expected] })
  })

  test('words that gates compare stay', () => {
    hideSecret('drift')
    expect(withoutSecrets({ result: 'drift', detail: 'drift' })).toEqual({ result: 'drift', detail: '***' })
  })
})
