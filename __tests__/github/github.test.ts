/**
 * The drift issue and the pull request comment against the emulated REST API, over real HTTPS. The product's module runs in
 * a process of its own, as NODE_EXTRA_CA_CERTS and the proxy variables are read when a process starts.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { createAuthority } from '../../emulator/certificates.ts'
import { defaultWorld } from '../../emulator/default-world.ts'
import { createGitHubRest } from '../../emulator/github-rest.ts'
import { type HttpServer, listen } from '../../emulator/http.ts'
import type { Exchange, GitHubComment, GitHubIssue, World } from '../../emulator/world.ts'
import type { Coverage } from '../../src/core/coverage.ts'
import type { Report } from '../../src/core/report.ts'
import type { Finding } from '../../src/errors/failure.ts'
import type { Place } from '../../src/github/rest.ts'
import { driftMarker, driftState, planMark } from '../../src/report/drift-issue.ts'
import { noPauses } from '../support/clock.ts'

type ReportStep = Report['steps'][number]
interface Answer {
  finding: Finding | null
  log: string[]
}

/** Clients do not use a proxy for loopback names. Only the proxy of these tests resolves this name. */
const apiName = 'api.contoso.test'
const world: World = defaultWorld()
const { github } = world
let folder = ''
let http: HttpServer
let url = ''
let caFile = ''
let run: Runner

/** The module in a process of its own. */
interface Runner {
  issue(report: Report, place?: Partial<Place>, abortAfterMs?: number): Promise<Answer>
  comment(report: Report, place?: Partial<Place>): Promise<Answer>
  /** Both with another {@link Coverage} than one database and one service. */
  of(coverage: Partial<Coverage>): Pick<Runner, 'issue' | 'comment'>
  stop(): Promise<void>
}

const script = `
const { keepDriftIssue, keepPullRequestComment } = await import(${JSON.stringify(new URL('../../src/report/conversation.ts', import.meta.url).href)})
process.on('message', async ({ id, what, report, coverage, place, abortAfterMs }) => {
  const log = []
  const say = (text) => log.push(text)
  const controller = new AbortController()
  if (abortAfterMs !== undefined) setTimeout(() => controller.abort(new Error('The run was cancelled')), abortAfterMs)
  const options = { signal: controller.signal, log: { debug: say, info: say, result: say, secret: say, group: (_, body) => body() } }
  const finding = await (what === 'issue' ? keepDriftIssue : keepPullRequestComment)({ ...report }, coverage, { ...place }, options)
    .catch((error) => ({ code: 'rejected', detail: String(error?.stack) }))
  process.send({ id, finding: finding ?? null, log })
})
process.send({ ready: true })`

async function runner(env: Record<string, string> = {}): Promise<Runner> {
  const child: ChildProcess = spawn(process.execPath, ['--input-type=module', '--eval', script], {
    env: { PATH: process.env['PATH'] ?? '', NODE_EXTRA_CA_CERTS: caFile, GITHUB_API_URL: `${url}/github/api`, ...env },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  const waiting = new Map<number, (answer: Answer) => void>()
  let count = 0
  await new Promise<void>((resolve, reject) => {
    child.on('message', (message: { ready?: boolean; id: number } & Answer) => {
      if (message.ready) resolve()
      else waiting.get(message.id)?.(message)
    })
    child.on('exit', (code) => reject(new Error(`the process ended with ${code}`)))
  })
  const call = (
    what: string,
    report: Report,
    place: Partial<Place>,
    of: Partial<Coverage>,
    abortAfterMs?: number,
  ): Promise<Answer> =>
    new Promise((resolve) => {
      const id = ++count
      waiting.set(id, resolve)
      const part = report.part === '' ? 'all' : report.part
      const coverage: Coverage = { server: report.server.id, part, services: ['openai'], databases: ['app'], ...of }
      // An absent number does not survive the way as `undefined`, but is absent again.
      child.send({ id, what, report, coverage, place: { ...here(), ...place }, abortAfterMs })
    })
  const of = (coverage: Partial<Coverage>): Pick<Runner, 'issue' | 'comment'> => ({
    issue: (report, place = {}, abortAfterMs) => call('issue', report, place, coverage, abortAfterMs),
    comment: (report, place = {}) => call('comment', report, { pullRequest: 7, ...place }, coverage),
  })
  return {
    ...of({}),
    of,
    stop: () =>
      new Promise((resolve) => {
        child.on('exit', () => resolve())
        child.kill()
      }),
  }
}

function here(): Omit<Place, 'pullRequest'> {
  return {
    apiUrl: `${url}/github/api`,
    graphqlUrl: `${url}/github/api/graphql`,
    serverUrl: 'https://github.com',
    owner: 'contoso',
    repository: 'shop',
    runUrl: 'https://github.com/contoso/shop/actions/runs/4711',
    token: github.token ?? '',
    fromFork: false,
  }
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'github-'))
  const authority = await createAuthority(folder)
  caFile = authority.caFile
  const handlers = {} as Parameters<typeof listen>[0]['handlers']
  http = await listen({ world, authority, names: ['localhost', '127.0.0.1', '::1', apiName], planeOf: () => 'github', handlers })
  url = `https://localhost:${http.port}`
  handlers.github = createGitHubRest(world, url)
  run = await runner()
})

afterAll(async () => {
  await run.stop()
  await http.stop()
  await rm(folder, { recursive: true, force: true })
})

const bot = { login: 'github-actions[bot]', type: 'Bot', association: 'NONE' } as const
const stranger = { login: 'mallory', type: 'User', association: 'NONE' } as const

beforeEach(() => {
  issues().length = 0
  issues().push(issueOf({ number: 7, title: 'A change', isPullRequest: true, author: stranger }))
  world.exchanges.length = 0
  world.delays.latency = 0
  delete world.fault
  for (const name of ['permissions', 'actor', 'tokenKind', 'visibility', 'issuesEnabled', 'archived', 'dropsLabels'] as const)
    delete github[name]
})

function issues(): GitHubIssue[] {
  github.issues ??= []
  return github.issues
}
const drifts = (): GitHubIssue[] => issues().filter((issue) => /azure-ai-postgres-identity drift/.test(issue.body))
function theIssue(): GitHubIssue {
  const [issue, ...others] = drifts()
  if (issue === undefined || others.length > 0) throw new Error(`${drifts().length} drift issues`)
  return issue
}
const comments = (): string[] => theIssue().comments.map((comment) => comment.body)
const pullRequestComments = (): GitHubComment[] => issues().find((issue) => issue.number === 7)?.comments ?? []
const isLookUp = ({ url: path }: { url: string }): boolean => /\/api\/(user|graphql)$/.test(path)
const writes = (): Exchange[] => world.exchanges.filter((exchange) => exchange.method !== 'GET' && !isLookUp(exchange))

function issueOf(fields: Partial<GitHubIssue> & { number: number }): GitHubIssue {
  const at = '2026-01-05T08:00:00Z'
  const common = {
    body: '',
    state: 'open',
    stateReason: null,
    labels: [],
    author: bot,
    isPullRequest: false,
    comments: [],
  } as const
  return { title: `Issue ${fields.number}`, createdAt: at, updatedAt: at, ...structuredClone(common), ...fields } as GitHubIssue
}

const serverId =
  '/subscriptions/0f5ae1b2-77c3-4b52-9d6e-2f6f3f6ad101/resourceGroups/shop/providers/Microsoft.DBforPostgreSQL/flexibleServers/contoso-db'
const principal = '5f0c6a7e-1111-4222-8333-c0ffee000001'
const account = `${serverId.split('/providers')[0]}/providers/Microsoft.CognitiveServices/accounts/contoso-openai`

const steps: Record<string, ReportStep> = {
  identity: step('identity', 'identity', `on (${principal})`, 'system-assigned identity on', 'in-sync'),
  role: { ...step('role/openai', 'role', 'not assigned', 'Cognitive Services OpenAI User', 'missing'), target: account },
  allowList: step('allow-list', 'allow-list', 'postgis', 'postgis, azure_ai', 'different'),
  endpoint: step(
    'app/azure_openai.endpoint',
    'setting',
    'https://old.openai.azure.com',
    'https://contoso-openai.openai.azure.com',
    'different',
  ),
  key: step('app/azure_openai.subscription_key', 'setting', 'sk-must-never-show', 'not set', 'different'),
}

function step(id: string, kind: ReportStep['kind'], current: string, desired: string, status: ReportStep['status']): ReportStep {
  return { id, kind, target: id.split('/')[0] ?? id, current, desired, status, detail: '' }
}

function inSyncStep(from: ReportStep | undefined): ReportStep {
  if (from === undefined) throw new Error('the step does not exist')
  return { ...from, status: 'in-sync', current: from.desired }
}

/** A check's report; `drift` when one of the steps differs. */
function reportOf(list: readonly (ReportStep | undefined)[], more: Partial<Report> = {}): Report {
  const own = list.filter((each) => each !== undefined)
  const drift = own.some((each) => ['missing', 'different', 'failed'].includes(each.status))
  return {
    schemaVersion: 1,
    mode: 'check',
    part: 'all',
    result: drift ? 'drift' : 'in-sync',
    failureReason: drift ? 'drift' : 'none',
    changed: false,
    drift,
    verified: !drift,
    storedKeys: { before: 0, after: 0 },
    setUp: true,
    toDo: own.filter((each) => ['missing', 'different', 'failed'].includes(each.status)).length,
    planId: 'p1-3c0ffee',
    startedAt: '2026-01-05T08:00:00.000Z',
    durationMs: 4_000,
    server: { id: serverId, name: 'contoso-db', host: 'contoso-db.postgres.database.azure.com', principalId: principal },
    steps: own,
    queries: [],
    findings: [],
    ...more,
  }
}

const drifted = (): Report => reportOf([steps['identity'], steps['role'], steps['endpoint']])
const inSync = (): Report => reportOf([steps['identity'], inSyncStep(steps['role']), inSyncStep(steps['endpoint'])])

/** Delays the first reads of a kind until `count` of them have come, so that every reader sees the state before any of them wrote. */
function releasedTogether(count: number, isRead: (path: string) => boolean): NonNullable<World['fault']> {
  let arrived = 0
  let release = (): void => {}
  const all = new Promise<void>((resolve) => {
    release = resolve
  })
  return ({ method, url: path }) => {
    if (method !== 'GET' || !isRead(path) || arrived >= count) return undefined
    if (++arrived === count) release()
    return { kind: 'watched', acted: () => all }
  }
}

async function kept(answer: Promise<Answer>): Promise<string[]> {
  const { finding, log } = await answer
  expect(finding).toBeNull()
  return log
}

describe('the drift issue', () => {
  test('is opened, left unchanged, edited, closed and opened again', async () => {
    await kept(run.issue(inSync()))
    expect(writes(), 'nothing to open').toEqual([])

    const log = await kept(run.issue(drifted()))
    expect(log.join('\n')).toContain(`Drift issue: opened ${url}/contoso/shop/issues/8`)
    expect(theIssue()).toMatchObject({
      state: 'open',
      labels: ['azure-ai-drift'],
      title: 'contoso-db has drifted: database app (openai)',
    })
    const first = theIssue().body
    expect(first).toContain('has drifted: 2 of 3 steps, no key is stored.')
    expect(first).toContain('[this run](https://github.com/contoso/shop/actions/runs/4711)')
    expect(first.indexOf('role&#47;openai'), 'what differs stands first').toBeLessThan(first.indexOf('<code>identity</code>'))
    expect(first).not.toContain('/subscriptions/')

    world.exchanges.length = 0
    await kept(run.issue(drifted(), { runUrl: 'https://github.com/contoso/shop/actions/runs/4712' }))
    expect(writes(), 'the same drift is not written again').toEqual([])

    const another = { ...steps['endpoint'], current: 'https://third.openai.azure.com' } as ReportStep
    await kept(run.issue(reportOf([steps['identity'], steps['role'], another])))
    expect(theIssue().body).toContain('third')
    expect(comments(), 'the same steps with other values are no news').toEqual([])

    await kept(run.issue(reportOf([steps['identity'], inSyncStep(steps['role']), another, steps['allowList']])))
    expect(comments()).toHaveLength(1)
    expect(comments()[0]).toMatch(/Differs now: <code>allow&#45;list<\/code>\n- In sync again: <code>role&#47;openai<\/code>/)

    await kept(run.issue(reportOf([steps['identity'], another, steps['allowList']])))
    expect(comments(), 'a step that is no longer required and did not differ is no news').toHaveLength(1)
    await kept(run.issue(reportOf([steps['identity'], steps['allowList']])))
    expect(comments()[1]).toContain('No longer part of it: 1 step')

    await kept(run.issue(reportOf([steps['identity'], inSyncStep(steps['allowList'])])))
    expect(theIssue()).toMatchObject({ state: 'closed', stateReason: 'completed' })
    expect(theIssue().body).toContain('is in sync with its workflow')
    expect(comments()[2]).toContain('Nothing differs any more')
    world.exchanges.length = 0
    await kept(run.issue(inSync()))
    expect(writes(), 'closed is closed').toEqual([])

    await kept(run.issue(drifted()))
    expect(theIssue()).toMatchObject({ number: 8, state: 'open', stateReason: 'reopened' })
    expect(comments()[3]).toMatch(/differs again.*\n\n- Differs now: <code>role/s)

    await kept(run.issue({ ...inSync(), mode: 'apply', result: 'changed', changed: true }))
    expect(theIssue().state).toBe('closed')
    expect(comments()[4]).toContain('Fixed by [this run]')
  })

  test('is not changed by a run that failed or that ran test queries only', async () => {
    await kept(run.issue(drifted()))
    world.exchanges.length = 0
    const failed = { result: 'failed', drift: true, failureReason: 'permission' } as const
    await kept(run.issue({ ...drifted(), ...failed }))
    await kept(run.issue({ ...inSync(), ...failed, failureReason: 'verification' }))
    await kept(run.issue({ ...inSync(), mode: 'verify', steps: [] }))
    expect(world.exchanges).toEqual([])
  })

  test('keeps a step that differed and that this run could not judge', async () => {
    await kept(run.issue(drifted()))
    const waiting = { ...steps['endpoint'], status: 'skipped', detail: 'waits for app/extension' } as ReportStep
    await kept(run.issue(reportOf([steps['identity'], inSyncStep(steps['role']), waiting])))
    expect(theIssue().state).toBe('open')
    expect(theIssue().body).toContain('differed, not looked at since')
    expect(comments()[0]).toBe(
      'The drift changed, seen by [this run](https://github.com/contoso/shop/actions/runs/4711).\n\n- In sync again: <code>role&#47;openai</code>',
    )
    await kept(run.issue(inSync()))
    expect(theIssue().state).toBe('closed')
  })

  test('two servers have one each', async () => {
    const other = drifted()
    await kept(run.issue(drifted()))
    await kept(
      run.issue({ ...other, server: { ...other.server, id: serverId.replace('contoso-db', 'second-db'), name: 'second-db' } }),
    )
    await kept(run.issue({ ...drifted(), server: { ...other.server, id: serverId.toUpperCase() } }))
    expect(drifts().map((issue) => issue.title)).toEqual([
      expect.stringContaining('contoso-db'),
      expect.stringContaining('second-db'),
    ])
  })

  test('several runs at once leave one issue', async () => {
    world.fault = releasedTogether(3, (path) => path.endsWith('/repos/contoso/shop'))
    await Promise.all([1, 2, 3].map(async () => kept(run.issue(drifted()))))
    const created = writes().filter((exchange) => exchange.method === 'POST' && exchange.url.endsWith('/issues'))
    expect(created.length, 'they did race').toBe(3)
    const [first, ...others] = drifts()
    expect(first).toMatchObject({ number: 8, state: 'open', comments: [] })
    for (const other of others) {
      expect(other).toMatchObject({ state: 'closed', stateReason: 'not_planned', comments: [{ body: 'Duplicate of #8' }] })
    }
    delete world.fault
    await kept(run.issue(inSync()))
    await kept(run.issue(drifted()))
    expect(
      drifts()
        .filter((issue) => issue.state === 'open')
        .map((issue) => issue.number),
    ).toEqual([8])
  })

  test('closes open duplicates, whatever their origin', async () => {
    await kept(run.issue(drifted()))
    const { body } = theIssue()
    issues().push(
      issueOf({ number: 9, body, labels: ['azure-ai-drift'] }),
      issueOf({ number: 10, body, labels: ['azure-ai-drift'] }),
    )
    await kept(run.issue(drifted()))
    expect(drifts().map((issue) => issue.state)).toEqual(['open', 'closed', 'closed'])
    expect(drifts()[2]?.comments[0]?.body).toBe('Duplicate of #8')
  })

  test('is found among 250 others, on later pages and without its label', async () => {
    await kept(run.issue(drifted()))
    for (let number = 9; number < 259; number++) issues().push(issueOf({ number, labels: ['azure-ai-drift'] }))
    await kept(run.issue(drifted()))
    expect(world.exchanges.filter((exchange) => exchange.url.includes('page=3')).length).toBe(1)
    for (const issue of issues()) issue.labels = []
    await kept(run.issue(inSync()))
    expect(theIssue()).toMatchObject({ number: 8, state: 'closed' })
    await kept(run.issue(drifted()))
    expect(theIssue()).toMatchObject({ number: 8, state: 'open' })
  })

  test('is kept without its label when GitHub drops the label', async () => {
    github.dropsLabels = true
    await kept(run.issue(drifted()))
    await kept(run.issue(drifted()))
    await kept(run.issue(inSync()))
    expect(theIssue()).toMatchObject({ labels: [], state: 'closed' })
  })

  test('does not take over an issue of a stranger or a pull request', async () => {
    github.visibility = 'public'
    await kept(run.issue(drifted()))
    const { body } = theIssue()
    issues().length = 0
    issues().push(
      issueOf({ number: 3, body, labels: ['azure-ai-drift'], author: stranger }),
      issueOf({ number: 4, body, labels: ['azure-ai-drift'], isPullRequest: true }),
    )
    await kept(run.issue(drifted()))
    expect(drifts().map((issue) => issue.number)).toEqual([3, 4, 5])
    expect(drifts()[0]).toMatchObject({ body, state: 'open', comments: [] })
    const member = { login: 'ada', type: 'User', association: 'MEMBER' } as const
    issues().length = 0
    github.actor = member
    await kept(run.issue(drifted()))
    await kept(run.issue(inSync()))
    expect(theIssue(), 'a personal token of a member is as good').toMatchObject({ state: 'closed', author: member })
  })

  test('stays below the limit of GitHub', async () => {
    const many = Array.from({ length: 5_000 }, (_, index) =>
      step(
        `database-${index} <with> @a/lengthy#name/azure_openai.endpoint`,
        'setting',
        '&'.repeat(900),
        `https://${index}`,
        'different',
      ),
    )
    const rest = Array.from({ length: 3_000 }, (_, index) =>
      // All differ, because equal ones would share a row.
      step(`quiet-${index}/extension`, 'extension', `azure_ai 1.1.${index}`, 'azure_ai', 'in-sync'),
    )
    for (const report of [reportOf(many), reportOf([...rest, ...many]), reportOf([...many.slice(0, 3), ...rest])]) {
      issues().length = 0
      await kept(run.issue(report))
      const { body } = theIssue()
      expect(body.length).toBeLessThanOrEqual(65_000)
      expect(body).toMatch(/\d+ more rows left out here; the run's report has them all\./)
      expect(body).toMatch(/ -->\n$/)
      world.exchanges.length = 0
      await kept(run.issue(report))
      expect(writes()).toEqual([])
      await kept(run.issue(reportOf([...report.steps.slice(0, -1), steps['allowList']])))
      await kept(run.issue(reportOf(report.steps.map(inSyncStep))))
      expect(theIssue().state).toBe('closed')
      issues().push(issueOf({ number: 7, isPullRequest: true }))
      await kept(run.comment(report))
      expect(pullRequestComments()[0]?.body.length).toBeLessThanOrEqual(65_000)
    }
  })
})

/** Number, state and title of each drift issue. */
const listed = (): string[] => drifts().map(({ number, state, title }) => `#${number} ${state}: ${title}`)
const endpointOf = (database: string, status: ReportStep['status'] = 'different'): ReportStep =>
  ({ ...steps['endpoint'], id: `${database}/azure_openai.endpoint`, target: database, status }) as ReportStep
const differsIn = (...databases: string[]): Report => reportOf(databases.map((database) => endpointOf(database)))
const fineIn = (...databases: string[]): Report => reportOf(databases.map((database) => endpointOf(database, 'in-sync')))

describe('runs on one server that cover', () => {
  test('different databases keep an issue each', async () => {
    const [app, crm] = [run.of({ databases: ['app'] }), run.of({ databases: ['crm'] })]
    await kept(app.issue(differsIn('app')))
    await kept(crm.issue(differsIn('crm')))
    await kept(crm.issue(fineIn('crm')))
    expect(listed()).toEqual([
      '#8 open: contoso-db has drifted: database app (openai)',
      '#9 closed: contoso-db has drifted: database crm (openai)',
    ])
    world.exchanges.length = 0
    await kept(app.issue(differsIn('app')))
    expect(writes()).toEqual([])
    await kept(crm.issue(differsIn('crm')))
    await kept(app.issue(fineIn('app')))
    expect(listed().map((each) => each.split(':')[0])).toEqual(['#8 closed', '#9 open'])
  })

  test('the same databases in another order, or with a name repeated, keep one', async () => {
    await kept(run.of({ databases: ['app', 'crm'], services: ['openai', 'translator'] }).issue(differsIn('app')))
    await kept(run.of({ databases: ['crm', 'app', 'crm'], services: ['translator', 'openai'] }).issue(differsIn('app')))
    expect(listed()).toEqual(['#8 open: contoso-db has drifted: databases app, crm (openai, translator)'])
  })

  test('overlapping databases, or different services, leave each other alone', async () => {
    await kept(run.of({ databases: ['app', 'crm'] }).issue(differsIn('app', 'crm')))
    await kept(run.of({ databases: ['crm', 'web'] }).issue(differsIn('crm', 'web')))
    await kept(run.of({ databases: ['app', 'crm'], services: ['translator'] }).issue(differsIn('app')))
    await kept(run.of({ databases: '*', services: ['cognitive'] }).issue(fineIn('app', 'crm', 'web')))
    expect(listed()).toEqual([
      '#8 open: contoso-db has drifted: databases app, crm (openai)',
      '#9 open: contoso-db has drifted: databases crm, web (openai)',
      '#10 open: contoso-db has drifted: databases app, crm (translator)',
    ])
  })

  test('all that others cover take their open issues over, and keep the lowest number', async () => {
    await kept(run.of({ databases: ['app'] }).issue(differsIn('app')))
    await kept(run.of({ databases: ['crm'] }).issue(differsIn('crm')))
    await kept(run.of({ databases: ['crm'], services: ['translator'] }).issue(differsIn('crm')))
    await kept(run.of({ databases: '*' }).issue(differsIn('app', 'crm', 'web')))
    expect(listed()).toEqual([
      '#8 open: contoso-db has drifted: all databases (openai)',
      '#9 closed: contoso-db has drifted: database crm (openai)',
      '#10 open: contoso-db has drifted: database crm (translator)',
    ])
    expect(drifts()[0]?.comments.map((each) => decoded(each.body))).toEqual([
      expect.stringMatching(/Differs now: <code>crm\/azure_openai\.endpoint<\/code>, <code>web\/azure_openai\.endpoint<\/code>$/),
    ])
    expect(drifts()[1]).toMatchObject({ stateReason: 'not_planned', comments: [{ body: 'Duplicate of #8' }] })
    const wide = run.of({ databases: ['app', 'crm'], services: ['openai', 'translator'] })
    await kept(wide.issue(fineIn('app', 'crm')))
    expect(listed().map((each) => each.split(':')[0])).toEqual(['#8 open', '#9 closed', '#10 closed'])
    expect(decoded(drifts()[2]?.body ?? '')).toContain('This issue covers 1 database, for <code>translator</code>')
    await kept(run.of({ databases: ['crm'], services: ['translator'] }).issue(differsIn('crm')))
    expect(listed()[2], 'what was closed in sync is opened again by the runs that opened it').toMatch(/^#10 open/)
  })

  test('part of what another covers keep an issue of their own, which the wider run takes over once', async () => {
    await kept(run.of({ databases: '*' }).issue(differsIn('app', 'crm')))
    const app = run.of({ databases: ['app'] })
    await kept(app.issue(fineIn('app')))
    expect(listed()).toEqual(['#8 open: contoso-db has drifted: all databases (openai)'])
    await kept(app.issue(differsIn('app')))
    expect(listed()[1]).toBe('#9 open: contoso-db has drifted: database app (openai)')
    await kept(run.of({ databases: '*' }).issue(differsIn('app', 'crm')))
    expect(drifts()[1]).toMatchObject({ state: 'closed', stateReason: 'not_planned' })
    const before = structuredClone(issues())
    const log = await kept(app.issue(differsIn('app')))
    expect(log.at(-1)).toMatch(/Drift issue: .*\/issues\/8 shows it already/)
    await kept(run.of({ databases: '*' }).issue(differsIn('app', 'crm')))
    expect(issues(), 'two runs do not close and open it in turn').toEqual(before)
    const more = reportOf([endpointOf('app'), { ...endpointOf('app'), id: 'app/azure_openai.auth_type' }])
    await kept(app.issue(more))
    expect(drifts()[1]).toMatchObject({ state: 'open', stateReason: 'reopened' })
  })

  test('another part speak for that part only, whatever databases the part azure names', async () => {
    const azure = { ...reportOf([steps['role']]), part: 'azure' } as const
    await kept(run.of({ databases: ['app'] }).issue(azure))
    await kept(run.of({ databases: ['crm'] }).issue(azure))
    await kept(run.issue({ ...differsIn('app'), part: 'database' }))
    expect(listed()).toEqual([
      '#8 open: contoso-db has drifted: identity, roles and allow-list (openai)',
      '#9 open: contoso-db has drifted: settings in database app (openai)',
    ])
    await kept(run.issue({ ...reportOf([inSyncStep(steps['role'])]), part: 'azure' }))
    expect(listed().map((each) => each.split(':')[0])).toEqual(['#8 closed', '#9 open'])
    await kept(run.of({ databases: '*' }).issue({ ...azure, steps: [inSyncStep(steps['role'])], result: 'in-sync' }))
    expect(listed().map((each) => each.split(':')[0])).toEqual(['#8 closed', '#9 open'])
    await kept(run.issue(drifted()))
    expect(listed()[1]).toBe('#9 open: contoso-db has drifted: database app (openai)')
    await kept(run.issue({ ...reportOf([inSyncStep(steps['role'])]), part: 'azure' }))
    await kept(run.issue({ ...fineIn('app'), part: 'database' }))
    expect(listed()[1], 'a part does not close the issue of the whole').toMatch(/^#9 open/)
    await kept(run.issue(inSync()))
    expect(listed()[1]).toMatch(/^#9 closed/)
  })

  test('more databases than an issue lists keep one for exactly these', async () => {
    const many = Array.from({ length: 1_500 }, (_, index) => `tenant-${index}`)
    await kept(run.of({ databases: many }).issue(differsIn('tenant-3')))
    await kept(run.of({ databases: many.toReversed() }).issue(differsIn('tenant-3')))
    expect(listed()).toEqual(['#8 open: contoso-db has drifted: databases tenant-0, tenant-1, tenant-10 and 1497 more (openai)'])
    await kept(run.of({ databases: [...many, 'app'] }).issue(fineIn('app')))
    expect(theIssue().state).toBe('open')
    await kept(run.of({ databases: '*' }).issue(fineIn('app')))
    expect(theIssue().state).toBe('closed')
  })

  test('anything keep a comment each on a pull request, by the same rule', async () => {
    const headings = (): string[] =>
      pullRequestComments().map(
        ({ id, body }) =>
          `${id} ${decoded(body)
            .match(/This covers (.*)\./)?.[1]
            ?.replaceAll(/<\/?code>/g, '')}`,
      )
    await kept(run.of({ databases: ['app'] }).comment(differsIn('app')))
    await kept(run.of({ databases: ['crm'] }).comment(fineIn('crm')))
    await kept(run.of({ databases: ['crm', 'web'], services: ['translator'] }).comment(fineIn('crm')))
    const ids = pullRequestComments().map(({ id }) => id)
    expect(headings()).toEqual([
      `${ids[0]} database app, for openai`,
      `${ids[1]} database crm, for openai`,
      `${ids[2]} databases crm, web, for translator`,
    ])
    await kept(run.of({ databases: ['crm'], services: ['openai', 'translator'] }).comment(fineIn('crm')))
    await kept(run.of({ databases: ['app', 'crm'], services: ['openai', 'translator'] }).comment(fineIn('app')))
    expect(headings()).toEqual([
      `${ids[0]} databases app, crm, for openai, translator`,
      `${ids[2]} databases crm, web, for translator`,
    ])
  })
})

describe('what an issue remembers', () => {
  test.each([
    ['a service that there is not', /services=openai/, 'services=bing'],
    ['a part that there is not', /part=all/, 'part=everything'],
    ['a database that is no hash', /databases=[0-9a-f]{8}/, 'databases=app'],
    ['a list without end', /databases=[0-9a-f]{8}/, `databases=${'0a1b2c3d.'.repeat(5_000)}0a1b2c3d`],
    ['nothing', /<!--.*-->/, ''],
  ])('is ignored when it is %s', async (_, from, to) => {
    await kept(run.issue(drifted()))
    const issue = theIssue()
    issue.body = issue.body.replace(from, to)
    const { body } = issue
    await kept(run.of({ databases: '*' }).issue(inSync()))
    expect([issue.state, issue.body === body]).toEqual(['open', true])
  })

  test('is read in bounded time, however often the text repeats itself', () => {
    const beginning = `${driftMarker(serverId)} part=all services=openai databases=${'0a1b2c3d.'.repeat(900)} differs=`
    const took = (length: number): number => {
      const body = beginning.repeat(Math.ceil(length / beginning.length)).slice(0, length)
      const start = performance.now()
      for (let times = 0; times < 5; times++)
        expect([driftState(body, serverId), planMark(body, serverId)]).toEqual([undefined, undefined])
      return performance.now() - start
    }
    took(65_536)
    expect(took(1_048_576)).toBeLessThan(40 * Math.max(1, took(65_536)))
  })

  test('contains databases only as hashes with the server id, so that names cannot be guessed', async () => {
    const markOf = (body: string | undefined): string | undefined => /databases=([0-9a-f]{8}) /.exec(body ?? '')?.[1]
    await kept(run.issue(drifted()))
    const report = drifted()
    await kept(run.issue({ ...report, server: { ...report.server, id: `${serverId}2` } }))
    expect(markOf(drifts()[0]?.body)).toBeDefined()
    expect(markOf(drifts()[1]?.body)).not.toBe(markOf(drifts()[0]?.body))
  })
})

describe('what strangers may read', () => {
  const outside = 'FATAL: password authentication failed for user "ada"'
  const all = (): Report => {
    const endpoint = { ...steps['endpoint'], detail: outside } as ReportStep
    const finding = {
      severity: 'warning',
      code: 'key-still-stored',
      title: `Trouble at ${account}`,
      detail: outside,
      fix: `az ${account}`,
    } as const
    return reportOf([steps['identity'], steps['role'], steps['allowList'], endpoint, steps['key']], { findings: [finding] })
  }

  test.each(['public', undefined, 'private', 'internal'] as const)('%s repository', async (visibility) => {
    if (visibility === undefined) {
      // GitHub does not report the visibility.
      world.fault = ({ url: path }) =>
        path.endsWith('/repos/contoso/shop') ? { kind: 'answer', status: 404, body: '{"message":"Not Found"}' } : undefined
    } else github.visibility = visibility
    await kept(run.issue(all()))
    await kept(run.comment(all()))
    for (const body of [theIssue().body, pullRequestComments()[0]?.body ?? '']) {
      const seen = decoded(body)
      expect(seen).toContain('contoso-db')
      expect(seen).toContain('app/azure_openai.endpoint')
      expect(seen).toContain('Cognitive Services OpenAI User')
      expect(seen).toContain('key-still-stored')
      expect(seen).not.toContain('sk-must-never-show')
      const restricted = [principal, 'openai.azure.com', 'contoso-openai', 'postgis', 'FATAL', 'Trouble']
      if (visibility === 'private' || visibility === 'internal') {
        for (const value of restricted) expect(seen).toContain(value)
      } else {
        for (const value of [...restricted, 'subscriptions', '0f5ae1b2']) expect(seen).not.toContain(value)
        expect(seen).toMatch(/app\/azure_openai\.endpoint<\/code> \| <code>another value<\/code> \| <code>as wanted<\/code>/)
        expect(seen).toContain('<code>without azure_ai</code> | <code>with azure_ai</code>')
      }
    }
  })

  test('an issue is written again when the repository becomes public', async () => {
    await kept(run.issue(all()))
    github.visibility = 'public'
    await kept(run.issue(all()))
    expect(decoded(theIssue().body)).not.toContain('openai.azure.com')
    expect(comments()).toEqual([])
  })
})

describe('values from outside', () => {
  test.each([
    'a|b\n# @octocat #1 GH-2 contoso/shop#3 <script>alert(1)</script>',
    '--> <!-- azure-ai-postgres-identity drift 0123456789abcdef0123456789abcdef 0123456789abcdef  -->',
    '`</code>` [x](https://evil.example) ![i](https://evil.example/i.png) https://evil.example @contoso/team',
    '\u202e\u2066\u200b\u0007 *b* _i_ ~s~ $x$ &commat;octocat :tada: 7f0c3a1d5be94a2c8e6f01b2d3c4e5f601728394',
  ])('form no markup: %j', async (hostile) => {
    const one = step(`${hostile}/azure_openai.endpoint`, 'setting', hostile, hostile, 'different')
    const role = { ...step('role/openai', 'role', hostile, hostile, 'missing'), target: `${account}/${hostile}`, detail: hostile }
    const report = reportOf([one, { ...role, detail: hostile }], {
      planId: hostile,
      server: { id: serverId, name: hostile, host: hostile, principalId: hostile },
      findings: [{ severity: 'error', code: hostile as Finding['code'], title: hostile, detail: hostile, fix: hostile }],
    })
    const runUrl = `https://github.com/contoso/shop/actions/runs/1)@octocat<script>`
    await kept(run.issue(report, { runUrl }))
    await kept(run.issue(reportOf([one, steps['allowList']], { server: report.server }), { runUrl }))
    await kept(run.issue(reportOf([inSyncStep(one)], { server: report.server }), { runUrl }))
    await kept(run.issue(report, { runUrl }))
    await kept(run.comment(report, { runUrl }))
    const texts = [theIssue().body, ...comments(), ...pullRequestComments().map((each) => each.body)]
    expect(texts).toHaveLength(5)
    for (const body of texts) {
      // Without code, our tags and our links, only our own words are left.
      const left = body
        .replaceAll(/<code>(?:[^<>@#&|`\n]|&#\d+;|<wbr>)*<\/code>/g, 'VALUE')
        .replaceAll(
          /\[(this run|the run)\]\(https:\/\/github\.com\/contoso\/shop\/actions\/runs\/1%29@octocat%3Cscript%3E\)/g,
          'LINK',
        )
        .replace(/<!-- azure-ai-postgres-identity (drift|plan) [0-9a-z.= -]+ -->\n$/, '')
        .replaceAll(/<\/?(br\/|sub|details|summary)>/g, '')
      expect(left).not.toMatch(/[<>@`\\[\]!$~*]|evil|octocat|script|#\d|[0-9a-f]{7,}/)
      expect(left).toMatch(/VALUE|LINK/)
    }
    expect(theIssue().title).not.toMatch(/[^\w. :()-]/)
  })
})

/** Entities as what they stand for. */
function decoded(markdown: string): string {
  return markdown.replaceAll(/&#(\d+);/g, (_, number: string) => String.fromCharCode(Number(number)))
}

describe('what GitHub refuses', () => {
  const answer = (status: number, message: string, headers: Record<string, string> = {}) =>
    ({ kind: 'answer', status, headers, body: JSON.stringify({ message }) }) as const

  test('a token without issues: write, private and public', async () => {
    github.permissions = { issues: 'none' }
    const { finding } = await run.issue(drifted())
    expect(finding).toMatchObject({ severity: 'warning', code: 'drift-issue-permission' })
    expect(finding?.detail).toContain('GitHub answered 403: Resource not accessible by integration')
    expect(finding?.fix).toContain('issues: write')
    github.permissions = { issues: 'read' }
    github.visibility = 'public'
    expect((await run.issue(drifted())).finding?.code).toBe('drift-issue-permission')
    expect((await run.issue(drifted(), { repository: 'elsewhere' })).finding?.code).toBe('drift-issue-permission')
    expect(drifts()).toEqual([])
  })

  test('a wrong token, and a missing one', async () => {
    const { finding, log } = await run.issue(drifted(), { token: 'ghs_wrong' })
    expect(finding).toMatchObject({ severity: 'warning', code: 'github-token-refused' })
    expect((await run.comment(drifted(), { token: 'ghs_wrong' })).finding?.code).toBe('github-token-refused')
    expect(JSON.stringify([finding, log])).not.toContain('ghs_wrong')
    expect((await run.issue(drifted(), { token: '' })).finding).toMatchObject({ severity: 'warning' })
  })

  test('a repository without issues, an archived one', async () => {
    github.issuesEnabled = false
    expect((await run.issue(drifted())).finding?.code).toBe('drift-issue-disabled')
    expect((await run.comment(drifted())).finding, 'comments on pull requests need no issues').toBeNull()
    github.issuesEnabled = true
    github.archived = true
    const { finding } = await run.issue(drifted())
    expect(finding).toMatchObject({ code: 'drift-issue-failed', detail: expect.stringContaining('archived') })
  })

  test('passing errors of every kind are retried, and nothing is created twice', async () => {
    const passingErrors = [
      answer(502, 'Bad Gateway'),
      { kind: 'reset-before' },
      { kind: 'reset-after' },
      { kind: 'truncate' },
      answer(403, 'You have exceeded a secondary rate limit', { 'retry-after': '0' }),
      answer(429, 'Too Many Requests', { 'retry-after': '0' }),
    ] as const
    const quick = await runner(noPauses())
    for (const error of passingErrors) {
      issues().length = 0
      // Each kind of write fails once, and so does the first read.
      const met = new Set<string>()
      world.fault = ({ method, url: path }) => {
        if (isLookUp({ url: path })) return undefined
        const what = method === 'GET' ? method : `${method} ${path.replace(/\d+/g, 'N')}`
        if (met.has(what)) return undefined
        met.add(what)
        return error
      }
      await kept(quick.issue(drifted()))
      await kept(quick.issue(inSync()))
      expect(theIssue(), JSON.stringify(error)).toMatchObject({ state: 'closed' })
      expect(comments(), JSON.stringify(error)).toHaveLength(1)
      issues().push(issueOf({ number: 7, isPullRequest: true }))
      met.clear()
      await kept(quick.comment(drifted()))
      await kept(quick.comment(inSync()))
      expect(pullRequestComments(), JSON.stringify(error)).toHaveLength(1)
      expect([...met].sort()).toEqual(['GET', expect.stringMatching('PATCH'), expect.stringMatching('POST')])
    }
    await quick.stop()
  })

  test.each([
    ['secondary', { 'retry-after': '2' }],
    ['primary', { 'x-ratelimit-remaining': '0', 'x-ratelimit-reset': String(Math.ceil(Date.now() / 1_000) - 5) }],
  ])('after a %s rate limit the run waits as long as GitHub requires', async (_, headers) => {
    let refused = 0
    world.fault = ({ method, url: path }) => {
      if (method !== 'POST' || isLookUp({ url: path }) || refused > 0) return undefined
      refused = performance.now()
      return answer(403, 'Wait', headers)
    }
    const { finding, log } = await run.issue(drifted())
    expect(finding).toBeNull()
    expect(log.join('\n')).toMatch(/POST \/issues: 403 Wait.*again in [123]\.\d s/)
    expect(performance.now() - refused).toBeGreaterThan('retry-after' in headers ? 1_900 : 900)
    expect(theIssue().state).toBe('open')
  })

  test('the run does not wait for a long limit', async () => {
    world.fault = () => answer(403, 'You have exceeded a secondary rate limit', { 'retry-after': '3600' })
    const { finding } = await run.issue(drifted())
    expect(finding).toMatchObject({ code: 'drift-issue-failed', detail: expect.stringContaining('secondary rate limit') })
    expect(world.exchanges.filter((exchange) => !isLookUp(exchange))).toHaveLength(1)
  })

  test('a permanent refusal', async () => {
    world.fault = ({ method }) => (method === 'POST' ? answer(422, 'Validation Failed') : undefined)
    const { finding } = await run.issue(drifted())
    expect(finding).toMatchObject({ code: 'drift-issue-failed', detail: 'GitHub answered 422: Validation Failed' })
    expect(writes()).toHaveLength(1)
  })

  test('a run that is cancelled while it waits', async () => {
    world.fault = () => ({ kind: 'hang' })
    const started = performance.now()
    const { finding } = await run.issue(drifted(), {}, 300)
    expect(finding).toMatchObject({ severity: 'warning', code: 'drift-issue-failed', detail: 'The run was cancelled' })
    expect(performance.now() - started).toBeLessThan(5_000)
  })

  test('a token goes to no host but the API, whatever a page links to', async () => {
    const next = `<https://127.0.0.1:${http.port}/github/api/repos/contoso/shop/issues?page=2>; rel="next"`
    world.fault = ({ url: path }) =>
      path.includes('/issues?') ? { kind: 'answer', status: 200, headers: { link: next }, body: '[]' } : undefined
    await kept(run.issue(inSync()))
    expect(world.exchanges.map((exchange) => exchange.host)).not.toContain('127.0.0.1')
  })
})

describe('answers without end', () => {
  test('a page that links to itself or to an earlier page ends the list', async () => {
    for (const next of ['issues?page=1', 'issues?page=2']) {
      world.exchanges.length = 0
      const link = `<${url}/github/api/repos/contoso/shop/${next}>; rel="next"`
      world.fault = ({ url: path }) =>
        path.includes('/issues?') ? { kind: 'answer', status: 200, headers: { link }, body: '[]' } : undefined
      await kept(run.issue(inSync()))
      // With the label and without it, each with the page that is linked to.
      expect(world.exchanges.filter((exchange) => exchange.url.includes('/issues?'))).toHaveLength(4)
    }
  })

  test('endless pages are read up to a limit', async () => {
    let page = 0
    world.fault = ({ url: path }) => {
      const link = `<${url}/github/api/repos/contoso/shop/issues?page=${++page}>; rel="next"`
      return path.includes('/issues?') ? { kind: 'answer', status: 200, headers: { link }, body: '[]' } : undefined
    }
    await kept(run.issue(inSync()))
    expect(world.exchanges.filter((exchange) => exchange.url.includes('/issues?'))).toHaveLength(20)
  })

  test.each([
    ['JSON', (text: string) => JSON.stringify({ message: text })],
    ['a page', (text: string) => `<html>${text}</html>`],
  ])('an error of megabytes is shortened: %s', async (_, made) => {
    world.fault = ({ url: path }) =>
      isLookUp({ url: path }) ? undefined : { kind: 'answer', status: 422, body: made('rate limit '.repeat(500_000)) }
    const { finding, log } = await run.issue(drifted())
    expect(finding).toMatchObject({ code: 'drift-issue-failed' })
    expect(finding?.detail.length).toBeLessThan(1_000)
    expect(log.join('\n').length).toBeLessThan(100_000)
  })
})

describe('the comment on a pull request', () => {
  test('is written once, then edited', async () => {
    pullRequestComments().push({ id: 1, body: 'Looks good', author: stranger, createdAt: '', updatedAt: '' })
    const checked: Report = {
      ...drifted(),
      queries: [
        {
          ...{ database: 'app', service: 'openai', name: 'embedding', sql: '', status: 'passed', proof: 'keyless' },
          ...{ attempts: 1, durationMs: 40, answer: '', error: '' },
        } as const,
      ],
      findings: ['warning', 'warning', 'notice'].map(
        (severity, index) => ({ severity, code: `code-${index}`, title: 'T', detail: '', fix: '' }) as unknown as Finding,
      ),
    }
    await kept(run.comment(checked))
    const [, comment] = pullRequestComments()
    expect(comment?.body).toContain('has drifted: 2 of 3 steps, the test query passed, no key is stored')
    expect(decoded(comment?.body ?? '')).toContain('plan-id: <code>p1-3c0ffee</code>')
    expect(comment?.body).toContain('test queries: 1 of 1 passed')
    expect(comment?.body).toContain('findings: 2 warnings, 1 notice')
    world.exchanges.length = 0
    await kept(run.comment(checked))
    expect(writes()).toEqual([])
    const texts: [Report, string][] = [
      [inSync(), 'is in sync: nothing to do, no test query ran, no key is stored'],
      [{ ...drifted(), result: 'failed', failureReason: 'network' }, 'the run failed (<code>network</code>)'],
      [
        { ...inSync(), mode: 'apply', result: 'changed', steps: [{ ...steps['role'], status: 'created' } as ReportStep] },
        'is set up: 1 step done',
      ],
      [{ ...inSync(), mode: 'verify', steps: [] }, '</code>: no test query ran'],
      [{ ...drifted(), mode: 'apply', setUp: false }, 'is not set up yet: 2 steps to do'],
    ]
    for (const [report, words] of texts) {
      await kept(run.comment(report, { runUrl: 'https://github.com/contoso/shop/actions/runs/4720' }))
      expect(pullRequestComments()).toHaveLength(2)
      expect(comment?.body).toContain(words)
      expect(comment?.body).toContain('runs/4720')
    }
  })

  test('is found behind 250 others, exists once for each server, and once after a race', async () => {
    for (let id = 1; id <= 250; id++) pullRequestComments().push({ id, body: `${id}`, author: bot, createdAt: '', updatedAt: '' })
    const other = drifted()
    const second = { ...other, server: { ...other.server, id: `${serverId}2` } }
    await kept(run.comment(drifted()))
    await kept(run.comment(second))
    await kept(run.comment(inSync()))
    expect(pullRequestComments()).toHaveLength(252)
    pullRequestComments().length = 0
    world.fault = releasedTogether(3, (path) => path.includes('/issues/7/comments?'))
    await Promise.all([1, 2, 3].map(async () => kept(run.comment(drifted()))))
    expect(pullRequestComments()).toHaveLength(1)
    expect(writes().filter((exchange) => exchange.method === 'DELETE')).toHaveLength(2)
  })

  test("does not take over a stranger's comment", async () => {
    await kept(run.comment(drifted()))
    const [own] = pullRequestComments()
    if (own === undefined) throw new Error('no comment')
    own.author = stranger
    const { body } = own
    await kept(run.comment(inSync()))
    expect(pullRequestComments().map((each) => each.body === body)).toEqual([true, false])
  })

  test('needs one of two permissions; on a fork the finding explains that forks have none', async () => {
    github.permissions = { issues: 'none', pullRequests: 'write' }
    await kept(run.comment(drifted()))
    github.permissions = { issues: 'write', pullRequests: 'none' }
    await kept(run.comment(inSync()))
    expect(pullRequestComments()).toHaveLength(1)
    github.permissions = { issues: 'read', pullRequests: 'read' }
    const { finding } = await run.comment(drifted())
    expect(finding).toMatchObject({ severity: 'warning', code: 'pull-request-comment-permission' })
    expect(finding?.fix).toContain('pull-requests: write')
    const fork = (await run.comment(drifted(), { fromFork: true })).finding
    expect(fork).toMatchObject({
      severity: 'warning',
      code: 'pull-request-comment-permission',
      detail: expect.stringContaining('fork'),
    })
    expect(fork?.fix).not.toContain('write')
  })

  test('without a pull request there is a notice, without a server nothing', async () => {
    const answer = await run.comment(drifted(), { pullRequest: undefined })
    expect(answer.finding).toMatchObject({ severity: 'notice', code: 'pull-request-absent' })
    await kept(run.comment({ ...drifted(), result: 'failed', server: { id: '', name: '', host: '', principalId: '' } }))
    expect(world.exchanges).toEqual([])
  })
})

describe('the connection to GitHub', () => {
  let proxy: Server
  const tunnels: string[] = []
  beforeAll(async () => {
    proxy = createServer().on('connect', (request, socket) => {
      tunnels.push(request.url ?? '')
      const [, port] = (request.url ?? '').split(':')
      const there = connect(Number(port), 'localhost', () => {
        socket.write('HTTP/1.1 200 Connection established\r\n\r\n')
        there.pipe(socket)
        socket.pipe(there)
      })
      for (const end of [there, socket]) end.on('error', () => there.destroy())
    })
    await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
  })
  afterAll(() => {
    proxy.closeAllConnections()
    proxy.close()
  })

  test('goes through a proxy, and directly where NO_PROXY names the host', async () => {
    const apiUrl = `https://${apiName}:${http.port}/github/api`
    const env = { GITHUB_API_URL: apiUrl, HTTPS_PROXY: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}` }
    const through = await runner(env)
    const past = await runner({ ...env, NO_PROXY: '.contoso.test' })
    try {
      await kept(through.issue(drifted(), { apiUrl }))
      await kept(through.issue(inSync(), { apiUrl }))
      expect(theIssue().state).toBe('closed')
      expect(new Set(tunnels)).toEqual(new Set([`${apiName}:${http.port}`]))
      tunnels.length = 0
      expect((await past.issue(drifted(), { apiUrl }, 1_500)).finding?.code).toBe('drift-issue-failed')
      expect(tunnels).toEqual([])
    } finally {
      await Promise.all([through.stop(), past.stop()])
    }
  })

  test('without the CA it fails immediately, and the finding names the certificate', async () => {
    const without = await runner({ NODE_EXTRA_CA_CERTS: '' })
    try {
      const { finding } = await without.issue(drifted())
      expect(finding).toMatchObject({ severity: 'warning', code: 'drift-issue-failed' })
      expect(finding?.detail).toMatch(/could not be reached.*certificate/)
    } finally {
      await without.stop()
    }
  })
})
