/** Finds the drift issue and the comment on a pull request, and keeps each single and current over GitHub's REST API. */

import type { Coverage, Mark } from '../core/coverage.ts'
import { covers, isSame, markOf } from '../core/coverage.ts'
import type { Report } from '../core/report.ts'
import type { Finding } from '../errors/failure.ts'
import { type ConversationOptions, connect, type GitHub, isThrottled, type Json, type Place, statusOf } from '../github/rest.ts'
import { commentFinding, issueFinding, lockedIssue, lockedPullRequest } from './conversation-findings.ts'
import {
  asKept,
  changedComment,
  type Drift,
  type DriftState,
  driftGone,
  driftIssue,
  driftMarker,
  driftOf,
  driftState,
  goneComment,
  planComment,
  planMark,
  readsSame,
  returnedComment,
  showsAll,
} from './drift-issue.ts'
import type { Writing } from './issue-tables.ts'

/** Keeps the listing small. Which issues are of this action is decided by author and marker. */
const driftLabel = 'azure-ai-drift'

/** Most pages of a hundred entries that are read. */
const pages = { issues: 10, comments: 30 }

/** What the work on the drift issue needs. */
interface IssueWork {
  readonly gitHub: GitHub
  readonly report: Report
  readonly coverage: Coverage
  /** What the run covers, as issues remember it. */
  readonly mark: Mark
  readonly writing: Writing
  /** Issues on which GitHub refused a comment because they are locked. */
  readonly locked: Issue[]
}

/**
 * Opens, edits, closes or reopens the one issue of what the run covers. Open issues of runs that cover part of it are taken
 * over; all others are left alone. A failed run leaves the issue as it is, and so does one that ran test queries only: neither
 * knows whether there is drift.
 * Resolves with a warning when that failed; does not reject.
 */
export async function keepDriftIssue(
  report: Report,
  coverage: Coverage,
  place: Place,
  options: ConversationOptions,
): Promise<Finding | undefined> {
  if (report.result === 'failed' || report.mode === 'verify' || report.steps.length === 0) return undefined
  const locked: Issue[] = []
  try {
    const gitHub = await connect(place, options)
    const mark = markOf(coverage)
    const found = await driftIssues(gitHub, coverage, report.result === 'drift' ? 'all' : 'open')
    const covered = found.filter((issue) => covers(mark, issue.remembered.mark))
    const open = covered.filter(isOpen)
    const steps = open.flatMap((issue) => issue.remembered.steps)
    const drift = driftOf(report, steps)
    const differs = drift.differing.length + drift.unseen.length > 0
    if (open.length === 0 && !differs) return undefined
    const work: IssueWork = { gitHub, report, coverage, mark, locked, writing: await howToWrite(gitHub, place) }
    const done = !differs ? await closeAll(work, open) : await showDrift(work, drift, found)
    options.log.info(`Drift issue: ${done}`)
    const [first] = locked
    return first === undefined ? undefined : lockedIssue(first, place)
  } catch (error) {
    return issueFinding(error)
  }
}

/**
 * Writes the plan into the one comment that the pull request has for what the run covers. Comments of runs that cover part
 * of it are taken over; all others are left alone.
 * Resolves with a notice when there is no pull request, and with a warning when writing failed; does not reject.
 */
export async function keepPullRequestComment(
  report: Report,
  coverage: Coverage,
  place: Place,
  options: ConversationOptions,
): Promise<Finding | undefined> {
  const { pullRequest } = place
  if (pullRequest === undefined) {
    return {
      severity: 'notice',
      code: 'pull-request-absent',
      title: 'There is no pull request to comment on',
      detail: 'This run was not started by an event of a pull request; the plan is in the job summary.',
      fix: 'Nothing to do; `pull-request-comment` takes effect in workflows with `on: pull_request`.',
    }
  }
  // Comments are found by the server, which is unknown when the inputs could not be read.
  if (report.server.id === '') return undefined
  let gitHub: GitHub | undefined
  try {
    gitHub = await connect(place, options)
    const writing = await howToWrite(gitHub, place)
    const url = await keepComment(gitHub, pullRequest, coverage, planComment(report, coverage, writing))
    options.log.info(`Pull request comment: ${url}`)
    return undefined
  } catch (error) {
    const isLocked = gitHub !== undefined && statusOf(error) === 403 && (await lockedNow(gitHub, pullRequest))
    return isLocked ? lockedPullRequest(pullRequest, place, error) : commentFinding(error, place)
  }
}

async function keepComment(gitHub: GitHub, pullRequest: number, coverage: Coverage, body: string): Promise<string> {
  const path = `/issues/${pullRequest}/comments`
  const mark = markOf(coverage)
  const find = async (fits: (own: Mark, other: Mark) => boolean): Promise<Comment[]> => {
    const all = await gitHub.listOwn(`${path}?per_page=100`, pages.comments, commentOf)
    const found = all.filter((comment) => {
      const other = planMark(comment.body, coverage.server)
      return other !== undefined && fits(mark, other)
    })
    return found.sort((a, b) => a.id - b.id)
  }
  const [first, ...others] = await find(covers)
  let kept = first
  if (kept === undefined) {
    const created = await gitHub.create(path, { body }, commentOf, async () => (await find(isSame))[0])
    // Another run may have created one at the same time: the older comment stays.
    kept = (await find(isSame))[0] ?? created
    if (kept.id !== created.id) others.push(created)
  }
  if (asKept(kept.body) !== asKept(body)) await gitHub.send('PATCH', `/issues/comments/${kept.id}`, { body })
  for (const other of others) await gitHub.send('DELETE', `/issues/comments/${other.id}`)
  return kept.url
}

interface Issue {
  readonly number: number
  readonly state: string
  readonly stateReason: string
  readonly title: string
  readonly body: string
  readonly url: string
  readonly updatedAt: string
  readonly isPullRequest: boolean
  readonly isLocked: boolean
}

/** An issue of this action about the same server. */
interface DriftIssue extends Issue {
  readonly remembered: DriftState
}

interface Comment {
  readonly id: number
  readonly body: string
  readonly url: string
}

const isOpen = (issue: Issue): boolean => issue.state === 'open'

function issueOf(raw: Json): Issue {
  return {
    number: Number(raw.number),
    state: String(raw.state),
    stateReason: String(raw.state_reason ?? ''),
    title: String(raw.title ?? ''),
    body: String(raw.body ?? ''),
    url: String(raw.html_url ?? ''),
    updatedAt: String(raw.updated_at ?? ''),
    isPullRequest: raw.pull_request !== undefined && raw.pull_request !== null,
    isLocked: raw.locked === true,
  }
}

function commentOf(raw: Json): Comment {
  return { id: Number(raw.id), body: String(raw.body ?? ''), url: String(raw.html_url ?? '') }
}

/** The server's issues by their marker, lowest number first. Not by the search API: that lags behind. */
async function driftIssues(gitHub: GitHub, coverage: Coverage, state: 'open' | 'all'): Promise<DriftIssue[]> {
  const marker = driftMarker(coverage.server)
  const mark = markOf(coverage)
  const look = async (query: string): Promise<DriftIssue[]> => {
    const own = await gitHub.listOwn(`/issues?${query}state=${state}&per_page=100`, pages.issues, issueOf)
    return own.flatMap((issue) => {
      if (issue.isPullRequest || !issue.body.includes(marker)) return []
      const remembered = driftState(issue.body, coverage.server)
      return remembered === undefined ? [] : [{ ...issue, remembered }]
    })
  }
  const labelled = await look(`labels=${driftLabel}&`)
  // The label can be removed by hand, and a token without the right to label creates issues without it.
  const found = labelled.some((issue) => isSame(mark, issue.remembered.mark)) ? labelled : await look('')
  return found.sort((a, b) => a.number - b.number)
}

/** Open issues of what the run covers become one, with the lowest number. */
async function showDrift(work: IssueWork, drift: Drift, found: readonly DriftIssue[]): Promise<string> {
  const { mark } = work
  const [kept, ...others] = found.filter((issue) => isOpen(issue) && covers(mark, issue.remembered.mark))
  if (kept !== undefined) {
    for (const other of others) await closeDuplicate(work, other, kept.number)
    return editIssue(work, kept, drift)
  }
  const closed = found.find((issue) => isSame(mark, issue.remembered.mark))
  if (closed === undefined) return openIssue(work, drift)
  // A run that covers more closed this one in favour of its own. If this run opened it again, the two would undo each other each time.
  const wider = found.find((issue) => isOpen(issue) && covers(issue.remembered.mark, mark) && showsAll(issue.remembered, drift))
  if (wider !== undefined && closed.stateReason !== 'completed') return `${wider.url} shows it already`
  return reopenIssue(work, closed, drift)
}

async function openIssue(work: IssueWork, drift: Drift): Promise<string> {
  const { gitHub, coverage, mark } = work
  const { title, body } = driftIssue(work.report, coverage, drift, work.writing)
  const find = async (): Promise<DriftIssue | undefined> =>
    (await driftIssues(gitHub, coverage, 'open')).find((issue) => isOpen(issue) && isSame(mark, issue.remembered.mark))
  const created = await gitHub.create<Issue>('/issues', { title, body, labels: [driftLabel] }, issueOf, find)
  // Another run may have opened one at the same time. Both runs see both issues now, and keep the lower number.
  const first = await find()
  if (first === undefined || first.number >= created.number) return `opened ${created.url}`
  await closeDuplicate(work, created, first.number)
  return editIssue(work, first, drift)
}

/** GitHub understands the wording of the comment. */
async function closeDuplicate(work: IssueWork, issue: Issue, of: number): Promise<void> {
  await work.gitHub.send('PATCH', `/issues/${issue.number}`, { state: 'closed', state_reason: 'not_planned' })
  await comment(work, issue, `Duplicate of #${of}`)
}

async function editIssue(work: IssueWork, issue: DriftIssue, drift: Drift): Promise<string> {
  const { title, body, state } = driftIssue(work.report, work.coverage, drift, work.writing)
  // All that readers see is compared: an edit by hand can change the text and leave the marker as it is.
  if (issue.title === title && readsSame(issue.body, body, work.writing)) return `unchanged ${issue.url}`
  await work.gitHub.send('PATCH', `/issues/${issue.number}`, { title, body })
  const isSameDrift = issue.remembered.steps.join() === state.steps.join()
  if (!isSameDrift) await comment(work, issue, changedComment(drift, issue.remembered, work.writing))
  return `edited ${issue.url}`
}

async function reopenIssue(work: IssueWork, issue: Issue, drift: Drift): Promise<string> {
  const { title, body } = driftIssue(work.report, work.coverage, drift, work.writing)
  await work.gitHub.send('PATCH', `/issues/${issue.number}`, { state: 'open', state_reason: 'reopened', title, body })
  await comment(work, issue, returnedComment(drift, work.writing))
  return `reopened ${issue.url}`
}

/** Each issue remembers what it covered, so that a run that covers no more than that opens it again. */
async function closeAll(work: IssueWork, issues: readonly DriftIssue[]): Promise<string> {
  for (const issue of issues) {
    const body = driftGone(work.report, issue.remembered.mark, work.coverage, work.writing)
    await work.gitHub.send('PATCH', `/issues/${issue.number}`, { state: 'closed', state_reason: 'completed', body })
    await comment(work, issue, goneComment(work.report, work.writing))
  }
  return `closed ${issues.map((issue) => issue.url).join(', ')}`
}

/** On a locked issue GitHub may refuse comments, though not edits. */
async function comment(work: IssueWork, issue: Issue, body: string): Promise<void> {
  const path = `/issues/${issue.number}/comments`
  const since = issue.updatedAt === '' ? '' : `&since=${encodeURIComponent(issue.updatedAt)}`
  try {
    await work.gitHub.create(path, { body }, commentOf, async () => {
      const recent = await work.gitHub.listOwn(`${path}?per_page=100${since}`, pages.comments, commentOf)
      return recent.find((each) => asKept(each.body) === asKept(body))
    })
  } catch (error) {
    if (!issue.isLocked || statusOf(error) !== 403 || isThrottled(error)) throw error
    work.locked.push(issue)
  }
}

/** Whether GitHub shows a pull request as locked; false when that cannot be read. */
async function lockedNow(gitHub: GitHub, number: number): Promise<boolean> {
  try {
    return ((await gitHub.send('GET', `/issues/${number}`)) as Json | undefined)?.locked === true
  } catch {
    return false
  }
}

/** Strangers read a public repository; one that GitHub does not describe counts as public. */
async function howToWrite(gitHub: GitHub, place: Place): Promise<Writing> {
  try {
    const raw = (await gitHub.send('GET', '')) as Json | undefined
    return { namesOnly: raw?.private !== true || raw.visibility === 'public', runUrl: place.runUrl }
  } catch (error) {
    if (statusOf(error) === 403 || statusOf(error) === 404) return { namesOnly: true, runUrl: place.runUrl }
    throw error
  }
}
