/** Two jobs of a matrix on one server: each keeps the issue and the comment of its own databases and services, with the built action. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import type { JobResult } from '../../emulator/runner.ts'
import type { GitHubComment, GitHubIssue } from '../../emulator/world.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { apply, begin, giveIdentity, giveRoles, onlyService, remember } from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app', 'crm'] })
const { github } = emulator.world
const env = emulator.env as Record<string, string>
const change: GitHubIssue = {
  ...{ number: 1, title: 'A change', body: '', state: 'open', stateReason: null, labels: [], isPullRequest: true, comments: [] },
  ...{ createdAt: '2026-01-05T08:00:00Z', updatedAt: '2026-01-05T08:00:00Z' },
  author: { login: 'ada', type: 'User', association: 'MEMBER' },
}
let again: () => Promise<void>

/** `app` is as the workflow requires, `crm` has no azure_ai yet. */
beforeAll(async () => {
  await begin(emulator)
  giveIdentity(emulator)
  giveRoles(emulator)
  const result = await apply(emulator, { ...onlyService(emulator, 'openai', 'app'), 'test-queries': 'false' })
  expect(result.outputs, result.log).toMatchObject({ result: 'changed' })
  again = await remember(emulator)
})

beforeEach(() => {
  github.issues = [{ ...structuredClone(change) }]
})

afterEach(async () => {
  delete env['GITHUB_EVENT_PATH']
  await again()
})

function leg(databases: string, inputs: Record<string, string> = {}): Promise<JobResult> {
  return apply(emulator, {
    ...onlyService(emulator, 'openai', databases),
    mode: 'check',
    'test-queries': 'false',
    'github-token': github.token ?? '',
    'drift-issue': 'true',
    ...inputs,
  })
}

const issues = (): GitHubIssue[] => (github.issues ?? []).slice(1)
const listed = (): string[] =>
  issues().map(({ state, title }) => `${state}: ${title.replace(/^.* (?:has drifted|is not set up yet): /, '')}`)
const comments = (): GitHubComment[] => github.issues?.[0]?.comments ?? []

test('the one in sync does not close the issue of the other, nor write into it', async () => {
  expect((await leg('crm')).outputs['result']).toBe('drift')
  expect(listed()).toEqual(['open: database crm (openai)'])
  const before = structuredClone(issues())
  expect((await leg('app')).outputs['result']).toBe('in-sync')
  expect(issues()).toEqual(before)
})

test('both jobs at once keep one issue each, and close their own', async () => {
  await emulator.postgres.query('app', 'DROP EXTENSION azure_ai CASCADE')
  await Promise.all([leg('app'), leg('crm')])
  expect(listed().sort()).toEqual(['open: database app (openai)', 'open: database crm (openai)'])
  const repaired = await leg('crm', { mode: 'apply' })
  expect(repaired.outputs, repaired.log).toMatchObject({ result: 'changed' })
  expect(listed().sort()).toEqual(['closed: database crm (openai)', 'open: database app (openai)'])
})

test('jobs by service keep one issue each', async () => {
  const translator = onlyService(emulator, 'translator', 'app')
  expect((await leg('app', translator)).outputs['result']).toBe('drift')
  expect((await leg('app')).outputs['result']).toBe('in-sync')
  expect(listed()).toEqual(['open: database app (translator)'])
})

test('a check of all databases takes the issues of both over, and not what another wrote', async () => {
  await leg('crm')
  const [own] = issues()
  if (own === undefined) throw new Error('no issue was opened')
  const others = { ...structuredClone(own), number: 3, author: { login: 'ada', type: 'User', association: 'MEMBER' } } as const
  github.issues?.push(others)
  const before = structuredClone(others)
  await emulator.postgres.query('crm', 'CREATE EXTENSION IF NOT EXISTS azure_ai')
  expect((await leg('*')).outputs['result']).toBe('drift')
  expect(listed()).toEqual(['open: all databases (openai)', 'open: database crm (openai)'])
  expect(issues()[1]).toEqual(before)
  // The job that covers less does not change the wider issue.
  expect((await leg('app')).outputs['result']).toBe('in-sync')
  expect(listed()[0]).toBe('open: all databases (openai)')
})

test('each keeps its own comment on a pull request', async () => {
  const event = join(emulator.folder, 'event.json')
  const repo = { full_name: 'contoso/shop' }
  await writeFile(event, JSON.stringify({ pull_request: { number: 1, head: { repo }, base: { repo } } }))
  env['GITHUB_EVENT_PATH'] = event
  const inputs = { 'drift-issue': 'false', 'pull-request-comment': 'true' }
  await Promise.all([leg('app', inputs), leg('crm', inputs)])
  const bodies = comments()
    .map(({ body }) => body)
    .sort()
  expect(bodies).toEqual([
    expect.stringMatching(/(has drifted|is not set up yet): \d+/),
    expect.stringContaining('is in sync: nothing to do'),
  ])
  await leg('app', inputs)
  expect(
    comments()
      .map(({ body }) => body)
      .sort(),
  ).toEqual(bodies)
})
