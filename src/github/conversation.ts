/** The drift issue and the comment on a pull request: how they are found, kept single and current over GitHub's REST API. */

import {
  changedComment,
  type Drift,
  driftGone,
  driftIssue,
  driftMarker,
  driftOf,
  driftState,
  duplicateComment,
  goneComment,
  planComment,
  planMarker,
  returnedComment,
  sameSteps,
  type Writing,
} from '../drift-report.ts'
import { describe, type Finding } from '../errors.ts'
import { requestTimeoutMs, retryAfterMs, type Sign, verdictOn } from '../http.ts'
import type { Log } from '../log.ts'
import type { Report } from '../report.ts'
import { retrying, type Verdict } from '../retry.ts'
import { duration } from '../waiting.ts'

/** Where the run takes place. */
export interface Place {
  /** GITHUB_API_URL */
  readonly apiUrl: string
  /** GITHUB_SERVER_URL */
  readonly serverUrl: string
  readonly owner: string
  readonly repository: string
  /** Page of this run. */
  readonly runUrl: string
  readonly token: string
  /** Number of the pull request of this event, undefined when there is none. */
  readonly pullRequest: number | undefined
  /** From the event: the head is a fork. */
  readonly fromFork: boolean
}

export interface ConversationOptions {
  readonly log: Log
  readonly signal: AbortSignal
}

/** Keeps the listing small; the marker in the body decides. */
export const driftLabel = 'azure-ai-drift'

/** Longest time that an issue or a comment may take in all, in milliseconds: the run has its result already. */
export const budgetMs = 300_000
/** Most pages of a hundred that are looked through. */
const pages = { issues: 10, comments: 30 }

/**
 * Opens, edits, closes or reopens the one issue of the report's server. A failed run leaves it as it is, and so does one that
 * looked at test queries only: neither knows whether the drift is there.
 * Resolves with a finding (a warning) when it could not be done; does not reject.
 */
export async function keepDriftIssue(report: Report, place: Place, options: ConversationOptions): Promise<Finding | undefined> {
  if (report.result === 'failed' || report.mode === 'verify' || report.steps.length === 0) return undefined
  try {
    const gitHub = await connect(place, options)
    const found = await driftIssues(gitHub, report, report.result === 'drift' ? 'all' : 'open')
    const open = found.filter((issue) => issue.state === 'open')
    const issue = open[0] ?? found[0]
    for (const other of open.slice(1)) await closeDuplicate(gitHub, other, open[0]?.number ?? 0)
    const before = issue?.state === 'open' ? driftState(issue.body, report.server.id) : undefined
    const drift = driftOf(report, before)
    const differs = drift.differing.length + drift.unseen.length > 0
    if (issue === undefined && !differs) return undefined
    const writing = await howToWrite(gitHub, place)
    const done =
      issue === undefined
        ? await openIssue(gitHub, report, drift, writing)
        : !differs
          ? await closeIssue(gitHub, issue, report, writing)
          : issue.state === 'open'
            ? await editIssue(gitHub, issue, report, drift, writing)
            : await reopenIssue(gitHub, issue, report, drift, writing)
    options.log.info(`Drift issue: ${done}`)
    return undefined
  } catch (error) {
    return issueFinding(error)
  }
}

/**
 * Writes the plan into the one comment that the pull request has for the report's server.
 * Resolves with a finding when there is no pull request (a notice) or it could not be done (a warning); does not reject.
 */
export async function keepPullRequestComment(
  report: Report,
  place: Place,
  options: ConversationOptions,
): Promise<Finding | undefined> {
  const { pullRequest } = place
  if (pullRequest === undefined) {
    return {
      severity: 'notice',
      code: 'pull-request-absent',
      title: 'There is no pull request to comment on',
      detail: 'This run was not started by an event of a pull request; the plan stands in the job summary.',
      fix: 'Nothing to do; `pull-request-comment` takes effect in workflows with `on: pull_request`.',
    }
  }
  // Without a server (inputs that could not be read) there is nothing to find a comment by.
  if (report.server.id === '') return undefined
  try {
    const gitHub = await connect(place, options)
    const writing = await howToWrite(gitHub, place)
    const body = planComment(report, writing)
    const path = `/issues/${pullRequest}/comments`
    const find = async (): Promise<Comment[]> => {
      const all = await gitHub.list(`${path}?per_page=100`, pages.comments, commentOf)
      return all.filter((each) => each.trusted && each.body.includes(planMarker(report.server.id))).sort((a, b) => a.id - b.id)
    }
    let [kept] = await find()
    if (kept === undefined) {
      const created = await gitHub.create(path, { body }, commentOf, async () => (await find())[0])
      // Another run may have done the same meanwhile: the older comment stays.
      kept = (await find())[0] ?? created
      if (kept.id !== created.id) await gitHub.send('DELETE', `/issues/comments/${created.id}`)
    }
    if (!same(kept.body, body)) await gitHub.send('PATCH', `/issues/comments/${kept.id}`, { body })
    options.log.info(`Pull request comment: ${kept.url}`)
    return undefined
  } catch (error) {
    return commentFinding(error, place)
  }
}

interface Issue {
  readonly number: number
  readonly state: string
  readonly body: string
  readonly url: string
  readonly updatedAt: string
  readonly isPullRequest: boolean
  readonly trusted: boolean
}

interface Comment {
  readonly id: number
  readonly body: string
  readonly url: string
  readonly trusted: boolean
}

type Json = Readonly<Record<string, unknown>>

/**
 * Whether the author could write to the repository anyway. In a public one everybody can copy a marker into an issue of
 * their own, and must not come to own what the action writes by it.
 */
function trusted(raw: Json): boolean {
  const { type } = (raw.user ?? {}) as Json
  return type === 'Bot' || ['OWNER', 'MEMBER', 'COLLABORATOR'].includes(String(raw.author_association))
}

function issueOf(raw: Json): Issue {
  return {
    number: Number(raw.number),
    state: String(raw.state),
    body: String(raw.body ?? ''),
    url: String(raw.html_url ?? ''),
    updatedAt: String(raw.updated_at ?? ''),
    isPullRequest: raw.pull_request !== undefined && raw.pull_request !== null,
    trusted: trusted(raw),
  }
}

function commentOf(raw: Json): Comment {
  return { id: Number(raw.id), body: String(raw.body ?? ''), url: String(raw.html_url ?? ''), trusted: trusted(raw) }
}

/** GitHub may turn line ends round and cut what is blank at the ends. */
function same(a: string, b: string): boolean {
  const even = (text: string): string => text.replaceAll('\r\n', '\n').trim()
  return even(a) === even(b)
}

/** The server's issues by their marker, lowest number first. Not by the search API: that lags behind. */
async function driftIssues(gitHub: GitHub, report: Report, state: 'open' | 'all'): Promise<Issue[]> {
  const marker = driftMarker(report.server.id)
  const look = async (query: string): Promise<Issue[]> => {
    const all = await gitHub.list(`/issues?${query}state=${state}&per_page=100`, pages.issues, issueOf)
    return all.filter((each) => !each.isPullRequest && each.trusted && each.body.includes(marker))
  }
  const labelled = await look(`labels=${driftLabel}&`)
  // Somebody may have taken the label off, or it could not be set.
  const found = labelled.length > 0 ? labelled : await look('')
  return found.sort((a, b) => a.number - b.number)
}

async function openIssue(gitHub: GitHub, report: Report, drift: Drift, writing: Writing): Promise<string> {
  const { title, body } = driftIssue(report, drift, writing)
  const isOpen = (issue: Issue): boolean => issue.state === 'open'
  const created = await gitHub.create('/issues', { title, body, labels: [driftLabel] }, issueOf, async () =>
    (await driftIssues(gitHub, report, 'open')).find(isOpen),
  )
  // Another run may have done the same meanwhile. Both see both now, and agree on the lower number.
  const first = (await driftIssues(gitHub, report, 'open')).find(isOpen)
  if (first === undefined || first.number >= created.number) return `opened ${created.url}`
  await closeDuplicate(gitHub, created, first.number)
  return `${first.url} is there already`
}

async function closeDuplicate(gitHub: GitHub, issue: Issue, of: number): Promise<void> {
  await gitHub.send('PATCH', `/issues/${issue.number}`, { state: 'closed', state_reason: 'not_planned' })
  await comment(gitHub, issue, duplicateComment(of))
}

async function editIssue(gitHub: GitHub, issue: Issue, report: Report, drift: Drift, writing: Writing): Promise<string> {
  const before = driftState(issue.body, report.server.id)
  const { body, state } = driftIssue(report, drift, writing)
  if (before?.fingerprint === state.fingerprint && sameSteps(before, state)) return `unchanged ${issue.url}`
  await gitHub.send('PATCH', `/issues/${issue.number}`, { body })
  if (before !== undefined && !sameSteps(before, state)) {
    await comment(gitHub, issue, changedComment(drift, before, writing))
  }
  return `edited ${issue.url}`
}

async function reopenIssue(gitHub: GitHub, issue: Issue, report: Report, drift: Drift, writing: Writing): Promise<string> {
  const { body } = driftIssue(report, drift, writing)
  await gitHub.send('PATCH', `/issues/${issue.number}`, { state: 'open', state_reason: 'reopened', body })
  await comment(gitHub, issue, returnedComment(drift, writing))
  return `reopened ${issue.url}`
}

async function closeIssue(gitHub: GitHub, issue: Issue, report: Report, writing: Writing): Promise<string> {
  const { body } = driftGone(report, writing)
  await gitHub.send('PATCH', `/issues/${issue.number}`, { state: 'closed', state_reason: 'completed', body })
  await comment(gitHub, issue, goneComment(report, writing))
  return `closed ${issue.url}`
}

async function comment(gitHub: GitHub, issue: Issue, body: string): Promise<void> {
  const path = `/issues/${issue.number}/comments`
  const since = issue.updatedAt === '' ? '' : `&since=${encodeURIComponent(issue.updatedAt)}`
  await gitHub.create(path, { body }, commentOf, async () => {
    const recent = await gitHub.list(`${path}?per_page=100${since}`, pages.comments, commentOf)
    return recent.find((each) => each.trusted && same(each.body, body))
  })
}

/** Strangers read a public repository; when GitHub does not say what it is, it counts as one. */
async function howToWrite(gitHub: GitHub, place: Place): Promise<Writing> {
  try {
    const raw = (await gitHub.send('GET', '')) as Json | undefined
    return { namesOnly: raw?.private !== true || raw.visibility === 'public', runUrl: place.runUrl }
  } catch (error) {
    if (statusOf(error) === 403 || statusOf(error) === 404) return { namesOnly: true, runUrl: place.runUrl }
    throw error
  }
}

type Method = 'GET' | 'POST' | 'PATCH' | 'DELETE'

/** Paths are below the repository's. Rejects with what Octokit throws. */
interface GitHub {
  /** Repeats what fails in passing; so not for what must not happen twice. */
  send(method: Exclude<Method, 'POST'>, path: string, body?: Json): Promise<unknown>
  /** All items, page by page, at most so many pages. */
  list<T>(path: string, most: number, read: (raw: Json) => T): Promise<T[]>
  /** Makes something once: after an answer that leaves open whether it was made, `find` looks before the next try. */
  create<T>(path: string, body: Json, read: (raw: Json) => T, find: () => Promise<T | undefined>): Promise<T>
}

/** An answer whose body is not what GitHub sends: of something in between, or cut off. */
class Unreadable extends Error {}

async function connect(place: Place, options: ConversationOptions): Promise<GitHub> {
  const { log } = options
  const signal = AbortSignal.any([options.signal, AbortSignal.timeout(budgetMs)])
  const { getOctokit } = await import('@actions/github')
  const debug = (text: string): void => log.debug(text)
  const octokit = getOctokit(place.token, {
    userAgent: 'azure-ai-postgres-identity',
    log: { debug, info: debug, warn: debug, error: debug },
  })
  const base = `${place.apiUrl.replace(/\/+$/, '')}/repos/${encodeURIComponent(place.owner)}/${encodeURIComponent(place.repository)}`
  const { origin } = new URL(base)

  const once = async (method: Method, url: string, body?: Json) => {
    const request = { signal: AbortSignal.any([signal, AbortSignal.timeout(requestTimeoutMs)]) }
    return octokit.request({ method, url, ...(body === undefined ? {} : { data: body }), request })
  }
  const patiently = <T>(what: string, attempt: () => Promise<T>, verdict: (error: unknown) => Verdict): Promise<T> =>
    retrying(attempt, {
      signal,
      verdict,
      onWait: (error, waitMs) =>
        log.info(`GitHub, ${what}: ${statusOf(error) ?? ''} ${describe(error)}; again in ${duration(waitMs)}`),
    })
  const objectOf = (data: unknown): Json => {
    if (typeof data !== 'object' || data === null || Array.isArray(data)) throw new Unreadable('an answer that is not JSON')
    return data as Json
  }

  return {
    send: (method, path, body) =>
      patiently(
        `${method} ${path}`,
        async () => {
          try {
            const { data, status } = await once(method, base + path, body)
            return status === 204 ? undefined : objectOf(data)
          } catch (error) {
            // Gone is what it was to be; the answer to the try before may have been lost.
            if (method === 'DELETE' && statusOf(error) === 404) return undefined
            throw error
          }
        },
        verdictOf,
      ),
    async list(path, most, read) {
      const items: Json[] = []
      let url: string | undefined = base + path
      for (let page = 1; url !== undefined && page <= most; page++) {
        const here: string = url
        const { data, headers } = await patiently(
          `GET ${path}`,
          async () => {
            const answer = await once('GET', here)
            if (!Array.isArray(answer.data)) throw new Unreadable('an answer that is not a list')
            return answer
          },
          verdictOf,
        )
        items.push(...(data as Json[]))
        url = /<([^<>]+)>;\s*rel="next"/.exec(headers.link ?? '')?.[1]
        // The token goes to no other host, whatever the answer says.
        if (url !== undefined && new URL(url).origin !== origin) url = undefined
      }
      return items.map(read)
    },
    create(path, body, read, find) {
      let unsure = false
      return patiently(
        `POST ${path}`,
        async () => {
          if (unsure) {
            const found = await find()
            if (found !== undefined) return found
          }
          unsure = true
          const { data } = await once('POST', base + path, body)
          return read(objectOf(data))
        },
        verdictOf,
      )
    },
  }
}

/** What Octokit throws, as far as it matters here; all absent in what others throw. */
interface Thrown {
  readonly status?: number
  readonly response?: {
    readonly headers?: Readonly<Record<string, string | undefined>>
    readonly data?: { readonly message?: unknown }
  }
}
const thrown = (error: unknown): Thrown => (error instanceof Error ? (error as Thrown) : {})

/** Status of the answer. Octokit gives a request that got none the status 500. */
const statusOf = (error: unknown): number | undefined => (thrown(error).response === undefined ? undefined : thrown(error).status)
const headersOf = (error: unknown): Readonly<Record<string, string | undefined>> => thrown(error).response?.headers ?? {}
/** Whether a request was sent, or meant to be, and got no answer. */
const isUnanswered = (error: unknown): boolean => thrown(error).status !== undefined && thrown(error).response === undefined

/** Errno or TLS code, somewhere down the causes. */
function breakOf(error: unknown): string {
  for (let each: unknown = error; each instanceof Error; each = each.cause) {
    const { code } = each as { code?: unknown }
    if (typeof code === 'string' && code !== '') return code
  }
  return ''
}

/** GitHub's rate limits, primary and secondary: 429, or a 403 that says so. */
function isThrottled(error: unknown): boolean {
  const status = statusOf(error)
  const headers = headersOf(error)
  return (
    status === 429 ||
    (status === 403 &&
      (headers['retry-after'] !== undefined ||
        headers['x-ratelimit-remaining'] === '0' ||
        /rate limit|abuse detection/i.test(describe(error))))
  )
}

/** Whoever makes something looks for it before the next try (`create`): every request may be repeated. */
function verdictOf(error: unknown): Verdict {
  const from = 'GitHub'
  if (error instanceof Unreadable) return verdictOn({ stage: 'answer', from, status: 200, signs: ['not JSON'] }, true)
  const status = statusOf(error)
  if (status === undefined) return isUnanswered(error) ? verdictOn({ stage: 'line', from, code: breakOf(error) }, true) : false
  const afterMs = askedWaitMs(error)
  const signs: Sign[] = []
  if (headersOf(error)['retry-after'] !== undefined) signs.push('Retry-After')
  if (isThrottled(error)) signs.push('limit reached')
  return verdictOn({ stage: 'answer', from, status, signs, afterMs }, true)
}

/** How long GitHub asks to wait, in milliseconds; a minute when a limit is reached and nothing is said. */
function askedWaitMs(error: unknown): number | undefined {
  const headers = headersOf(error)
  const { 'x-ratelimit-remaining': remaining, 'x-ratelimit-reset': reset } = headers
  const afterMs = retryAfterMs((name) => headers[name])
  if (afterMs !== undefined) return Math.max(1_000, afterMs)
  if (remaining === '0' && reset !== undefined && /^\d+$/.test(reset)) return Math.max(1_000, Number(reset) * 1_000 - Date.now())
  return isThrottled(error) ? 60_000 : undefined
}

/** What went wrong, as the end of a sentence. */
function said(error: unknown): string {
  const status = statusOf(error)
  const message = thrown(error).response?.data?.message
  if (status !== undefined) return `GitHub answered ${status}: ${typeof message === 'string' ? message : describe(error)}`
  if (!isUnanswered(error)) return describe(error)
  const code = breakOf(error)
  return `GitHub could not be reached: ${describe(error)}${code === '' ? '' : ` (${code})`}`
}

const again = 'Run the job again; the result of this run does not depend on it.'

/** A refused token; undefined for anything else. */
function tokenFinding(error: unknown): Finding | undefined {
  if (statusOf(error) !== 401) return undefined
  return {
    severity: 'warning',
    code: 'github-token-refused',
    title: 'GitHub does not accept the token',
    detail: said(error),
    fix: "Leave `github-token` out: its default is the job's own token. Or give it one that is valid, from a secret.",
  }
}

/** Neither a limit nor an archived repository, where no permission would help. */
function lacksPermission(error: unknown): boolean {
  const status = statusOf(error)
  return (status === 403 || status === 404) && !isThrottled(error) && !/archived/i.test(describe(error))
}

function permissions(line: string): string {
  return `Add to the job, beside what it has:\npermissions:\n  contents: read\n  id-token: write\n  ${line}`
}

function issueFinding(error: unknown): Finding {
  const refused = tokenFinding(error)
  if (refused !== undefined) return refused
  if (lacksPermission(error)) {
    return {
      severity: 'warning',
      code: 'drift-issue-permission',
      title: 'The token may not write issues: the drift issue was not kept',
      detail: `${said(error)}. It needs \`permissions: issues: write\`.`,
      fix: permissions('issues: write'),
    }
  }
  if (statusOf(error) === 410) {
    return {
      severity: 'warning',
      code: 'drift-issue-disabled',
      title: 'The repository has no issues: the drift issue was not kept',
      detail: said(error),
      fix: 'Turn them on (Settings > General > Features > Issues), or leave `drift-issue` out.',
    }
  }
  return {
    severity: 'warning',
    code: 'drift-issue-failed',
    title: 'The drift issue was not kept',
    detail: said(error),
    fix: again,
  }
}

function commentFinding(error: unknown, place: Place): Finding {
  const refused = tokenFinding(error)
  if (refused !== undefined) return refused
  if (lacksPermission(error)) {
    return {
      severity: 'warning',
      code: 'pull-request-comment-permission',
      title: 'The token may not comment on the pull request',
      detail: place.fromFork
        ? `${said(error)}. The pull request comes from a fork, whose runs get a token that may only read; the plan stands in the job summary.`
        : `${said(error)}. It needs \`permissions: pull-requests: write\`.`,
      fix: place.fromFork ? 'Nothing to do; read the plan in the job summary.' : permissions('pull-requests: write'),
    }
  }
  return {
    severity: 'warning',
    code: 'pull-request-comment-failed',
    title: 'The comment on the pull request was not kept',
    detail: said(error),
    fix: again,
  }
}
