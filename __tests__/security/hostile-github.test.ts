/**
 * Strangers, bots and members of a repository against the drift issue and the comment, with the built action: they quote its
 * hidden comment where another workflow repeats it, edit its state, close and flood, and another server answers.
 */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { JobResult } from '../../emulator/runner.ts'
import type { GitHubAuthor, GitHubIssue } from '../../emulator/world.ts'
import { commandsIn } from '../support/hostile.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { apply, codesOf, giveIdentity, giveRoles, onlyService, serverOf } from '../support/support.ts'
import { startHostileHost } from './hostile-host.ts'

const emulator = await ownEmulator({ postgres: false, databases: ['app'] })
const hostile = await startHostileHost(emulator.certificate(['localhost', '127.0.0.1']))
const { world } = emulator
const { github } = world
const env = emulator.env as Record<string, string>
const bot: GitHubAuthor = { login: 'github-actions[bot]', type: 'Bot', association: 'NONE' }
const mallory: GitHubAuthor = { login: 'mallory', type: 'User', association: 'NONE' }
const untouched = structuredClone({ server: serverOf(emulator), roles: world.roleAssignments })
const issues = (): GitHubIssue[] => (github.issues ??= [])

beforeEach(async () => {
  Object.assign(serverOf(emulator), { loadedPrincipalId: undefined, identity: undefined }, structuredClone(untouched.server))
  world.roleAssignments.splice(0, Number.POSITIVE_INFINITY, ...structuredClone(untouched.roles))
  world.exchanges.length = 0
  hostile.received.length = 0
  issues().length = 0
  github.visibility = 'public'
  const event = join(emulator.folder, 'event.json')
  const repo = { full_name: 'contoso/shop' }
  await writeFile(event, JSON.stringify({ pull_request: { number: 900, head: { repo }, base: { repo } } }))
  env['GITHUB_EVENT_PATH'] = event
  env['GITHUB_GRAPHQL_URL'] = `${emulator.url}/github/api/graphql`
})
afterEach(() => {
  delete world.fault
})
afterAll(() => hostile.stop())

/** A check that needs no database: of identity, role and allow-list. */
function check(inputs: Record<string, string> = {}): Promise<JobResult> {
  const own = { mode: 'check', part: 'azure', 'drift-issue': 'true', 'github-token': github.token ?? '' }
  return apply(emulator, { ...onlyService(emulator, 'openai', 'app'), ...own, ...inputs })
}

async function drifted(inputs?: Record<string, string>): Promise<JobResult> {
  const result = await check(inputs)
  expect(result.outputs, result.log).toMatchObject({ result: 'drift' })
  return result
}

async function inSync(inputs?: Record<string, string>): Promise<JobResult> {
  giveIdentity(emulator)
  giveRoles(emulator)
  serverOf(emulator).configurations['azure.extensions'] = { value: 'AZURE_AI', source: 'user-override' }
  const result = await check(inputs)
  expect(result.outputs, result.log).toMatchObject({ result: 'in-sync' })
  return result
}

function issueOf(number: number, more: Partial<GitHubIssue> = {}): GitHubIssue {
  const at = '2026-01-05T08:00:00Z'
  const common = { body: '', state: 'open', stateReason: null, labels: [], author: mallory, isPullRequest: false } as const
  return { ...common, number, title: `Issue ${number}`, labels: [], comments: [], createdAt: at, updatedAt: at, ...more }
}

/** The issue that the action writes, removed from the repository. */
async function ownIssue(): Promise<GitHubIssue> {
  await drifted()
  const [issue] = issues().splice(0)
  if (issue === undefined) throw new Error('no issue was opened')
  return issue
}

const hiddenIn = (body: string): string => /<!-- azure-ai-postgres-identity .* -->/.exec(body)?.[0] ?? ''

describe('another workflow of the same author that repeats the text of a stranger', () => {
  const quotes: [string, (text: string) => string][] = [
    ['in a fence', (text) => `The scan found 3 secrets:\n\n\`\`\`\n${text}\n\`\`\`\n\nRotate them now.`],
    ['as a line', (text) => `Thank you for the report:\n${text}\nWe will answer soon.`],
    ['behind a whole issue of ours', (text) => `Quoted:\n\n<code>pg</code> has drifted from its workflow\n${text}\n-- end`],
  ]

  test.each(quotes)('%s: its issue is not edited or closed, and the action opens its own', async (_, quoted) => {
    const { body } = await ownIssue()
    issues().push(issueOf(1, { author: bot, body: quoted(hiddenIn(body)), labels: ['azure-ai-drift'] }))
    const [before] = structuredClone(issues())
    await drifted()
    expect(issues()).toHaveLength(2)
    expect(issues()[1]?.title).toContain('is not set up yet')
    await inSync()
    expect(issues()[0]).toEqual(before)
    expect(issues()[1]).toMatchObject({ state: 'closed', stateReason: 'completed' })
  })

  test.each(quotes)('%s: its comment on a pull request is not overwritten or deleted', async (_, quoted) => {
    const change = issueOf(900, { isPullRequest: true })
    issues().push(change)
    const inputs = { 'drift-issue': 'false', 'pull-request-comment': 'true' }
    await drifted(inputs)
    const [own] = change.comments.splice(0)
    if (own === undefined) throw new Error('no comment was written')
    const scan = (id: number) => ({ ...own, id, body: quoted(hiddenIn(own.body)) })
    change.comments.push(scan(own.id - 1), own, scan(own.id + 1))
    const before = structuredClone(change.comments)
    await inSync(inputs)
    expect(change.comments.map(({ id }) => id)).toEqual(before.map(({ id }) => id))
    expect([change.comments[0], change.comments[2]]).toEqual([before[0], before[2]])
    expect(change.comments[1]?.body).toContain('is in sync: nothing to do')
  })
})

describe('a member who may triage', () => {
  test('closes the issue while the drift exists: it is opened again', async () => {
    await drifted()
    const [issue] = issues()
    Object.assign(issue ?? {}, { state: 'closed', stateReason: 'not_planned', labels: [] })
    await drifted()
    expect(issues()).toMatchObject([{ state: 'open', stateReason: 'reopened' }])
  })

  test.each<[string, (hidden: string) => string]>([
    ['another server', (hidden) => hidden.replace(/drift [0-9a-f]{32}/, `drift ${'0'.repeat(32)}`)],
    ['another service', (hidden) => hidden.replace('services=openai', 'services=translator')],
    ['a service that does not exist', (hidden) => hidden.replace('services=openai', 'services=none')],
    ['nothing that can be read', (hidden) => hidden.replace(/ part=.*/, ' part= -->')],
    ['no hidden comment', () => ''],
  ])('changes the state in the issue to %s: the drift is in an open issue after the next run', async (_, edit) => {
    await drifted()
    const [issue] = issues()
    if (issue === undefined) throw new Error('no issue was opened')
    issue.body = issue.body.replace(hiddenIn(issue.body), edit(hiddenIn(issue.body)))
    Object.assign(issue, { state: 'closed', stateReason: 'completed' })
    await drifted()
    const open = issues().filter(({ state }) => state === 'open')
    expect(open).toHaveLength(1)
    expect(open[0]?.title).toContain('is not set up yet')
  })

  test('writes thousands of steps and unfinished comments into it: the run is not delayed, and the text is restored', async () => {
    await drifted()
    const [issue] = issues()
    if (issue === undefined) throw new Error('no issue was opened')
    const { body } = issue
    const begun = hiddenIn(body).replace(/ -->$/, '')
    issue.body = `${begun} `.repeat(300).slice(0, 60_000) + body.slice(-3_000)
    const result = await drifted()
    expect(result.endedAt - result.startedAt).toBeLessThan(20_000)
    expect(issues()).toMatchObject([{ body, state: 'open' }])
  })
})

describe('a stranger', () => {
  test('opens a thousand issues after ours: ours stays the only one, with few requests', async () => {
    await drifted()
    for (let number = 2; number <= 1_200; number++) issues().push(issueOf(number, { body: 'azure-ai-postgres-identity drift' }))
    world.exchanges.length = 0
    await drifted()
    expect(issues().filter(({ title }) => title.includes('is not set up yet'))).toHaveLength(1)
    expect(world.exchanges.filter(({ plane }) => plane === 'github').length).toBeLessThan(10)
  })

  test('opens a thousand issues that a template labels: at most one more issue, within the limit of pages', async () => {
    await drifted()
    for (let number = 2; number <= 1_200; number++) issues().push(issueOf(number, { labels: ['azure-ai-drift'] }))
    for (let run = 0; run < 3; run++) {
      world.exchanges.length = 0
      await drifted()
      expect(world.exchanges.filter(({ plane }) => plane === 'github').length).toBeLessThan(60)
    }
    expect(issues().filter(({ title }) => title.includes('is not set up yet')).length).toBeLessThanOrEqual(2)
  })
})

describe('a server that answers instead of the API', () => {
  const isWrite = (method: string, url: string): boolean => method !== 'GET' && url.includes('/issues')

  test.each([301, 302, 303, 307, 308])(
    'redirects a write by %d: the token does not go along, and the result stays',
    async (status) => {
      world.fault = ({ method, url }) =>
        isWrite(method, url)
          ? { kind: 'answer', status, headers: { location: `${hostile.url}/repos/contoso/shop/issues` } }
          : undefined
      const result = await drifted()
      expect(codesOf(result)).toContain('drift-issue-failed')
      expect(hostile.received).toEqual([])
    },
  )

  test('names another host for GraphQL: the token does not go there', async () => {
    for (const path of ['/graphql', `/@${new URL(emulator.url).host}/github/api/graphql`]) {
      env['GITHUB_GRAPHQL_URL'] = `${hostile.url}${path}`
      await drifted()
    }
    expect(issues()).toHaveLength(1)
    expect(hostile.received).toEqual([])
  })

  test.each([
    '::stop-commands::OWNED',
    '\n::add-mask::OWNED\n::error::OWNED',
    '##[set-output name=result]OWNED',
    '\u2028::set-output name=verified::OWNED',
  ])('gives an issue the address %j: no line of the log is a command', async (address) => {
    world.fault = ({ method, url }) =>
      isWrite(method, url)
        ? { kind: 'rewrite', change: (body) => ({ ...(body as object), html_url: address, number: address }) }
        : undefined
    const result = await check()
    const known = ['add-mask', 'debug', 'group', 'endgroup', 'error', 'warning', 'notice']
    for (const { name, data } of commandsIn(result.raw)) {
      expect(known).toContain(name)
      if (name === 'add-mask') expect(data).not.toContain('OWNED')
    }
    expect(result.outputs).toMatchObject({ result: 'drift', verified: 'false' })
  })

  test('sends lists of other objects: the action writes its own issue, and changes nothing else', async () => {
    const odd = [
      null,
      7,
      'x',
      [],
      {},
      { user: null, body: {} },
      { user: { login: bot.login, type: 'Bot' }, body: 7, number: 'x' },
    ]
    world.fault = ({ method, url }) =>
      method === 'GET' && url.includes('/issues?') ? { kind: 'rewrite', change: () => odd } : undefined
    await drifted()
    expect(issues()).toMatchObject([{ state: 'open', author: { login: bot.login } }])
  })
})
