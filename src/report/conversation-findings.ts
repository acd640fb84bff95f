/** Why the drift issue or the comment could not be written, as findings with the command or the permission that fixes it. */
import type { Finding } from '../errors/failure.ts'
import { isThrottled, type Place, reasonOf, statusOf } from '../github/rest.ts'
import { describe } from '../lib/bounded.ts'

/** The part of an issue that its finding names. */
interface Issue {
  readonly number: number
  readonly url: string
}

const again = 'Run the job again; the result of this run does not depend on it.'

/** A refused token; undefined for anything else. */
function tokenFinding(error: unknown): Finding | undefined {
  if (statusOf(error) !== 401) return undefined
  return {
    severity: 'warning',
    code: 'github-token-refused',
    title: 'GitHub does not accept the token',
    detail: reasonOf(error),
    fix: "Leave `github-token` out: its default is the job's own token. Or set it to one that is valid, from a secret.",
  }
}

/** A limit and an archived repository look the same, and no permission would help there. */
function lacksPermission(error: unknown): boolean {
  const status = statusOf(error)
  return (status === 403 || status === 404) && !isThrottled(error) && !/archived/i.test(describe(error))
}

export function lockedIssue({ number, url }: Issue, { owner, repository }: Place): Finding {
  return {
    severity: 'warning',
    code: 'drift-issue-locked',
    title: `The drift issue #${number} is locked`,
    detail: `Its title, text and state are up to date, but GitHub refuses comments on it, so watchers were not notified: ${url}`,
    fix: `gh issue unlock ${number} --repo ${owner}/${repository}   # or delete the issue: the next run opens another`,
  }
}

export function lockedPullRequest(number: number, { owner, repository }: Place, error: unknown): Finding {
  return {
    severity: 'warning',
    code: 'pull-request-comment-locked',
    title: `The pull request #${number} is locked: the comment was not kept`,
    detail: `${reasonOf(error)}. The plan is in the job summary.`,
    fix: `gh pr unlock ${number} --repo ${owner}/${repository}`,
  }
}

function permissions(line: string): string {
  return `Add to the job:\npermissions:\n  contents: read\n  id-token: write\n  ${line}`
}

export function issueFinding(error: unknown): Finding {
  const refused = tokenFinding(error)
  if (refused !== undefined) return refused
  if (lacksPermission(error)) {
    return {
      severity: 'warning',
      code: 'drift-issue-permission',
      title: 'The token may not write issues: the drift issue was not kept',
      detail: `${reasonOf(error)}. It needs \`permissions: issues: write\`.`,
      fix: permissions('issues: write'),
    }
  }
  if (statusOf(error) === 410) {
    return {
      severity: 'warning',
      code: 'drift-issue-disabled',
      title: 'The repository has no issues: the drift issue was not kept',
      detail: reasonOf(error),
      fix: 'Turn them on (Settings > General > Features > Issues), or leave `drift-issue` out.',
    }
  }
  return {
    severity: 'warning',
    code: 'drift-issue-failed',
    title: 'The drift issue was not kept',
    detail: reasonOf(error),
    fix: again,
  }
}

export function commentFinding(error: unknown, place: Place): Finding {
  const refused = tokenFinding(error)
  if (refused !== undefined) return refused
  if (lacksPermission(error)) {
    return {
      severity: 'warning',
      code: 'pull-request-comment-permission',
      title: 'The token may not comment on the pull request',
      detail: place.fromFork
        ? `${reasonOf(error)}. The pull request comes from a fork, whose runs get a token that may only read; the plan is in the job summary.`
        : `${reasonOf(error)}. It needs \`permissions: pull-requests: write\`.`,
      fix: place.fromFork ? 'Nothing to do; read the plan in the job summary.' : permissions('pull-requests: write'),
    }
  }
  return {
    severity: 'warning',
    code: 'pull-request-comment-failed',
    title: 'The comment on the pull request was not kept',
    detail: reasonOf(error),
    fix: again,
  }
}
