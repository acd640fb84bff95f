/**
 * Everybody who may write in a repository can copy the hidden comment of the drift issue into a text of their own, and
 * whoever may triage can edit ours. The built action adopts, edits and closes only what its own token's author wrote.
 */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { JobResult } from '../../emulator/runner.ts'
import type { Exchange, Fault, GitHubAuthor, GitHubIssue } from '../../emulator/world.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { apply, codesOf, giveIdentity, giveRoles, onlyService, serverOf } from '../support/support.ts'

const emulator = await ownEmulator({ postgres: false, databases: ['app'] })
const { world } = emulator
const { github } = world
const env = emulator.env as Record<string, string>

const forgers: readonly GitHubAuthor[] = [
  { login: 'dependabot[bot]', type: 'Bot', association: 'NONE' },
  { login: 'github-actions', type: 'User', association: 'NONE' },
  { login: 'ada', type: 'User', association: 'MEMBER' },
  { login: 'eve', type: 'User', association: 'COLLABORATOR' },
  { login: 'contoso', type: 'User', association: 'OWNER' },
  { login: 'mallory', type: 'User', association: 'NONE' },
]
const pullRequest = 2

const untouched = structuredClone({ server: serverOf(emulator), roles: world.roleAssignments })

beforeEach(async () => {
  Object.assign(serverOf(emulator), { loadedPrincipalId: undefined, identity: undefined }, structuredClone(untouched.server))
  world.roleAssignments.splice(0, Number.POSITIVE_INFINITY, ...structuredClone(untouched.roles))
  world.exchanges.length = 0
  issues().length = 0
  for (const name of ['actor', 'tokenKind', 'visibility'] as const) delete github[name]
  const event = join(emulator.folder, 'event.json')
  const repo = { full_name: 'contoso/shop' }
  await writeFile(event, JSON.stringify({ pull_request: { number: pullRequest, head: { repo }, base: { repo } } }))
  env['GITHUB_EVENT_PATH'] = event
  env['GITHUB_GRAPHQL_URL'] = `${emulator.url}/github/api/graphql`
})

afterEach(() => {
  delete world.fault
})

function aPullRequest(): GitHubIssue {
  const at = '2026-01-05T08:00:00Z'
  const author = { login: 'ada', type: 'User', association: 'MEMBER' } as const
  return {
    ...{ number: pullRequest, title: 'A change', body: '', state: 'open', stateReason: null, labels: [], author },
    ...{ isPullRequest: true, createdAt: at, updatedAt: at, comments: [] },
  }
}

/** A check that needs no database: of identity, role and allow-list. */
function check(inputs: Record<string, string> = {}): Promise<JobResult> {
  return apply(emulator, {
    ...onlyService(emulator, 'openai', 'app'),
    mode: 'check',
    part: 'azure',
    'drift-issue': 'true',
    'github-token': github.token ?? '',
    ...inputs,
  })
}

async function drifted(inputs?: Record<string, string>): Promise<JobResult> {
  const result = await check(inputs)
  expect(result.outputs, result.log).toMatchObject({ result: 'drift' })
  return result
}

/** Everything is as the workflow requires. */
async function inSync(): Promise<JobResult> {
  giveIdentity(emulator)
  giveRoles(emulator)
  const parameters = serverOf(emulator).configurations
  parameters['azure.extensions'] = { value: 'AZURE_AI', source: 'user-override' }
  const result = await check()
  expect(result.outputs, result.log).toMatchObject({ result: 'in-sync' })
  return result
}

const issues = (): GitHubIssue[] => (github.issues ??= [])

/** The issue that the action writes, removed from the repository. */
async function ownIssue(): Promise<GitHubIssue> {
  await drifted()
  const [issue] = issues().splice(0)
  if (issue === undefined) throw new Error('no issue was opened')
  return issue
}

function forged(from: GitHubIssue, number: number, author: GitHubAuthor): GitHubIssue {
  return { ...structuredClone(from), number, author }
}

describe('an issue with our hidden comment', () => {
  test.each(forgers.map((author) => [`${author.login}, ${author.association}`, author] as const))(
    'by %s is left alone, and the real one stays',
    async (_, author) => {
      const own = await ownIssue()
      const closed = { ...forged(own, 2, author), state: 'closed', stateReason: 'completed' } as const
      issues().push(forged(own, 1, author), closed, { ...own, number: 3 })
      const before = structuredClone(issues())
      await drifted()
      expect(issues()).toEqual(before)

      await inSync()
      expect(issues().slice(0, 2)).toEqual(before.slice(0, 2))
      expect(issues()[2]).toMatchObject({ state: 'closed', stateReason: 'completed' })
    },
  )

  test('by others does not prevent a new issue', async () => {
    const own = await ownIssue()
    issues().push(...forgers.map((author, index) => forged(own, index + 1, author)))
    const before = structuredClone(issues())
    await drifted()
    expect(issues().slice(0, -1)).toEqual(before)
    expect(issues().at(-1)).toMatchObject({ author: { login: 'github-actions[bot]' }, state: 'open', comments: [] })
  })

  test.each([
    ['a user with the name of our app', 'github-actions[bot]', 4_711],
    ['our own account under a former name', 'someone', 41_898_282],
  ])('by %s: the number decides where both are known', async (_, login, id) => {
    const own = await ownIssue()
    issues().push(forged(own, 1, { login, id, type: 'Bot', association: 'NONE' }))
    await drifted()
    expect(issues()).toHaveLength(id === 4_711 ? 2 : 1)
  })
})

describe('our issue, edited by another', () => {
  const edits: readonly [string, (issue: GitHubIssue) => void][] = [
    ['its title', (issue) => (issue.title = 'All is well')],
    ['its text, the hidden comment kept', (issue) => (issue.body = issue.body.replace(/^.*\n/, 'All is well.\n'))],
    ['a row taken out', (issue) => (issue.body = issue.body.replace(/\n\| missing .*/, ''))],
    [
      'a link to another page',
      (issue) => (issue.body = issue.body.replace(/\(https:[^)]*\)/, '(https://contoso-login.example)')),
    ],
    ['a text in front', (issue) => (issue.body = `Paste your token below.\n\n${issue.body}`)],
    ['a text behind', (issue) => (issue.body += 'Paste your token below.')],
  ]
  test.each(edits)('%s: is restored', async (_, edit) => {
    await drifted()
    const [issue] = issues()
    if (issue === undefined) throw new Error('no issue was opened')
    const { title, body } = issue
    edit(issue)
    expect([issue.title, issue.body]).not.toEqual([title, body])
    await drifted()
    expect(issues()).toHaveLength(1)
    expect(issues()[0]).toMatchObject({ title, body, comments: [] })
  })

  test('is not edited when only the number of the run differs', async () => {
    await drifted()
    world.exchanges.length = 0
    env['GITHUB_RUN_ID'] = '4712'
    await drifted()
    delete env['GITHUB_RUN_ID']
    const written = world.exchanges.filter(({ plane, method, url }) => plane === 'github' && method !== 'GET' && !isLookUp(url))
    expect(written).toEqual([])
  })
})

describe('a comment with our hidden comment', () => {
  test.each(forgers.map((author) => [`${author.login}, ${author.association}`, author] as const))(
    'by %s is left alone',
    async (_, author) => {
      const change = aPullRequest()
      issues().push(change)
      const inputs = { 'drift-issue': 'false', 'pull-request-comment': 'true' }
      await drifted(inputs)
      const [own] = change.comments
      if (own === undefined) throw new Error('no comment was written')
      const forged = { ...own, id: own.id - 1, author, body: own.body.replace(/steps? to do|has drifted/, 'is fine') }
      change.comments.unshift(forged)
      const before = structuredClone(change.comments)
      await drifted(inputs)
      expect(change.comments).toEqual(before)
      change.comments.pop()
      await drifted(inputs)
      expect(change.comments).toMatchObject([before[0], { author: { login: 'github-actions[bot]' } }])
    },
  )
})

const isLookUp = (url: string): boolean => /\/github\/api\/(user|graphql)$/.test(url)
const answer = (status: number, body: string, headers: Record<string, string> = {}): Fault => ({
  kind: 'answer',
  status,
  body,
  headers: { 'content-type': 'application/json', ...headers },
})

describe('the author of the token', () => {
  const failures: readonly [string, Fault][] = [
    ['answers 404', answer(404, '{"message":"Not Found"}')],
    ['answers 500', answer(500, '')],
    ['answers 403 for a limit', answer(403, '{"message":"secondary rate limit"}', { 'retry-after': '3600' })],
    ['answers a page of something in between', answer(200, '<html>Sign in</html>', { 'content-type': 'text/html' })],
    ['answers without the expected fields', answer(200, '{"login":7,"data":{"viewer":[]}}')],
    ['answers null', answer(200, 'null')],
    ['leads to another place', answer(302, '', { location: 'https://127.0.0.1:1/user' })],
    ['breaks', { kind: 'reset-before' }],
    ['is cut off', { kind: 'truncate' }],
  ]
  test.each(failures)('a look-up that %s does not prevent the issue', async (_, fault) => {
    world.fault = ({ url }) => (isLookUp(url) ? fault : undefined)
    const { report, log } = await drifted()
    expect(
      report.findings.filter(({ code }: { code: string }) => code.startsWith('drift-issue')),
      log,
    ).toEqual([])
    expect(issues()).toHaveLength(1)
    world.exchanges.length = 0
    await drifted()
    expect(issues(), 'it is found again as that of the job').toHaveLength(1)
    expect(lookUps().length, 'each is sent once').toBeLessThanOrEqual(2)
    await inSync()
    expect(issues()).toMatchObject([{ state: 'closed', comments: [{}] }])
  })

  test('a look-up that never answers delays the issue by seconds', async () => {
    world.fault = ({ url }) => (isLookUp(url) ? { kind: 'hang' } : undefined)
    const started = performance.now()
    const { log } = await drifted()
    expect(issues(), log).toHaveLength(1)
    expect(performance.now() - started).toBeLessThan(30_000)
  })

  const lookUps = (): Exchange[] => world.exchanges.filter(({ url }) => isLookUp(url))

  test.each([
    ['a person, in no relation to the repository', { login: 'grace', type: 'User', association: 'NONE' }, 'personal'],
    ['a person, whose name GraphQL alone gives', { login: 'grace', type: 'User', association: 'NONE' }, 'installation'],
    ['an app of its own', { login: 'contoso-drift[bot]', type: 'Bot', association: 'NONE' }, 'installation'],
  ] as const)('%s: its issue is recognised', async (_, actor, tokenKind) => {
    Object.assign(github, { actor, tokenKind })
    await drifted()
    await drifted()
    expect(issues()).toMatchObject([{ state: 'open', author: actor }])
    const [own] = issues()
    if (own === undefined) throw new Error('no issue was opened')
    // An issue of the job's own token belongs to another author here.
    issues().push({
      ...structuredClone(own),
      number: 2,
      author: { login: 'github-actions[bot]', type: 'Bot', association: 'NONE' },
    })
    await inSync()
    expect(issues().map(({ state }) => state)).toEqual(['closed', 'open'])
  })

  test('a token whose author never becomes known leaves one open issue, as its own issue shows the author', async () => {
    Object.assign(github, { actor: { login: 'grace', type: 'User', association: 'MEMBER' }, tokenKind: 'unknown' })
    await drifted()
    await drifted()
    await drifted()
    expect(issues().map(({ number, state }) => [number, state])).toEqual([
      [1, 'open'],
      [2, 'closed'],
      [3, 'closed'],
    ])
  })

  test('the token goes to no other host', async () => {
    env['GITHUB_GRAPHQL_URL'] = `https://127.0.0.1:${new URL(emulator.url).port}/github/api/graphql`
    await drifted()
    expect(issues()).toHaveLength(1)
    expect(lookUps().map(({ method }) => method)).toEqual(['GET'])
  })

  test('a redirect is not followed', async () => {
    world.fault = ({ url }) =>
      url.includes('/repos/contoso/shop/issues')
        ? answer(307, '{"message":"Moved"}', { location: `${emulator.url}/elsewhere` })
        : undefined
    const result = await drifted()
    expect(codesOf(result)).toContain('drift-issue-failed')
    expect(world.exchanges.filter(({ url }) => url.startsWith('/elsewhere'))).toEqual([])
  })
})

describe('a locked conversation', () => {
  test('an issue is kept up to date, and the finding says that it is locked', async () => {
    await drifted()
    const [issue] = issues()
    if (issue === undefined) throw new Error('no issue was opened')
    issue.locked = true
    expect(codesOf(await drifted()), 'the issue does not change').not.toContain('drift-issue-locked')
    const result = await inSync()
    expect(issue).toMatchObject({ state: 'closed', comments: [] })
    const finding = result.report.findings.find(({ code }: { code: string }) => code.startsWith('drift-issue'))
    expect(finding, result.log).toMatchObject({ severity: 'warning', code: 'drift-issue-locked' })
    expect(finding.fix).toContain('gh issue unlock 1 --repo contoso/shop')
  })

  test('a pull request: the finding says so, not that a permission is missing', async () => {
    issues().push({ ...aPullRequest(), locked: true })
    const result = await drifted({ 'drift-issue': 'false', 'pull-request-comment': 'true' })
    expect(codesOf(result)).toContain('pull-request-comment-locked')
    expect(codesOf(result)).not.toContain('pull-request-comment-permission')
  })
})
