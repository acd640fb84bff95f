/** GitHub's REST API for one repository, below `/github/api`: issues and comments, and the author of the token (GraphQL as well). */
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { type Handler, HttpError, type Reply, type Request } from './http.ts'
import type { GitHubAuthor, GitHubComment, GitHubIssue, World } from './world.ts'

const bot: GitHubAuthor = { login: 'github-actions[bot]', id: 41898282, type: 'Bot', association: 'NONE' }
const longestBody = 65_536
const longestTitle = 256

/** `url` is that of the HTTPS server. Adds a token and an empty list of issues to a world that has none. */
export function createGitHubRest(world: World, url: string): Handler {
  const { github } = world
  github.token ??= `ghs_${randomBytes(18).toString('hex')}`
  github.issues ??= []
  // Read each time: a test may replace the list.
  const issues = (): GitHubIssue[] => (github.issues ??= [])
  let lastComment = 2_400_000_000

  const now = (): string => new Date().toISOString().replace(/\.\d+Z$/, 'Z')
  const actor = (): GitHubAuthor => github.actor ?? bot
  const may = (what: 'issues' | 'pullRequests', level: 'read' | 'write'): boolean => {
    const granted = github.permissions?.[what] ?? 'write'
    return granted === 'write' || (level === 'read' && (granted === 'read' || github.visibility === 'public'))
  }
  /** Comments on a pull request need either permission. */
  const require = (level: 'read' | 'write', issue?: GitHubIssue): void => {
    if (may('issues', level) || (issue?.isPullRequest && may('pullRequests', level))) {
      if (level === 'write' && github.archived) throw refusal(403, 'Repository was archived so is read-only.')
      return
    }
    throw refusal(403, 'Resource not accessible by integration')
  }

  const web = (): string => `${url}/${github.repository}`
  const showUser = (author: GitHubAuthor) => ({
    login: author.login,
    id: idOf(author),
    type: author.type,
    site_admin: false,
  })
  const showIssue = (issue: GitHubIssue) => ({
    id: 3_100_000_000 + issue.number,
    number: issue.number,
    url: `${url}/github/api/repos/${github.repository}/issues/${issue.number}`,
    html_url: `${web()}/${issue.isPullRequest ? 'pull' : 'issues'}/${issue.number}`,
    title: issue.title,
    body: issue.body === '' ? null : issue.body,
    state: issue.state,
    state_reason: issue.stateReason,
    labels: issue.labels.map((name) => ({ name, color: 'ededed', default: false, description: null })),
    user: showUser(issue.author),
    author_association: issue.author.association,
    comments: issue.comments.length,
    locked: issue.locked ?? false,
    active_lock_reason: null,
    created_at: issue.createdAt,
    updated_at: issue.updatedAt,
    closed_at: issue.state === 'closed' ? issue.updatedAt : null,
    ...(issue.isPullRequest ? { pull_request: { html_url: `${web()}/pull/${issue.number}` } } : {}),
  })
  const showComment = (issue: GitHubIssue, comment: GitHubComment) => ({
    id: comment.id,
    url: `${url}/github/api/repos/${github.repository}/issues/comments/${comment.id}`,
    html_url: `${web()}/${issue.isPullRequest ? 'pull' : 'issues'}/${issue.number}#issuecomment-${comment.id}`,
    body: comment.body,
    user: showUser(comment.author),
    author_association: comment.author.association,
    created_at: comment.createdAt,
    updated_at: comment.updatedAt,
  })

  const issueNumbered = (number: string): GitHubIssue => {
    const issue = issues().find((each) => each.number === Number(number))
    if (issue === undefined) throw refusal(404, 'Not Found')
    return issue
  }
  const commentWithId = (id: string): { issue: GitHubIssue; comment: GitHubComment } => {
    for (const issue of issues()) {
      const comment = issue.comments.find((each) => each.id === Number(id))
      if (comment !== undefined) return { issue, comment }
    }
    throw refusal(404, 'Not Found')
  }

  /** A page of a list, with the links to the others. */
  const page = (request: Request, items: readonly unknown[]): Reply => {
    const query = request.url.searchParams
    const size = Math.min(Math.max(Number(query.get('per_page') ?? 30) || 30, 1), 100)
    const number = Math.max(Number(query.get('page') ?? 1) || 1, 1)
    const last = Math.max(Math.ceil(items.length / size), 1)
    const to = (target: number, rel: string): string => {
      const there = new URL(request.url.pathname + request.url.search, url)
      there.searchParams.set('page', String(target))
      return `<${there.href}>; rel="${rel}"`
    }
    const links = [
      ...(number > 1 ? [to(number - 1, 'prev')] : []),
      ...(number < last ? [to(number + 1, 'next'), to(last, 'last')] : []),
      ...(number > 1 ? [to(1, 'first')] : []),
    ]
    return {
      status: 200,
      body: items.slice((number - 1) * size, number * size),
      ...(links.length > 0 ? { headers: { link: links.join(', ') } } : {}),
    }
  }

  const textOf = (body: Fields, field: string, resource: string, longest: number): string | undefined => {
    const value = body[field]
    if (value === undefined || value === null) return undefined
    if (typeof value !== 'string') throw invalid(resource, field, 'invalid', `${field} is not a string`)
    // GitHub counts characters, not UTF-16 units.
    if ([...value].length > longest)
      throw invalid(resource, field, 'custom', `${field} is too long (maximum is ${longest} characters)`)
    return value
  }

  const routes: readonly [string, RegExp, (request: Request, at: readonly string[]) => Reply][] = [
    [
      'GET',
      /^$/,
      () => {
        const [owner, name] = github.repository.split('/')
        const visibility = github.visibility ?? 'private'
        return {
          status: 200,
          body: {
            id: 712345678,
            name,
            full_name: github.repository,
            owner: { login: owner, type: 'Organization' },
            private: visibility !== 'public',
            visibility,
            has_issues: github.issuesEnabled ?? true,
            archived: github.archived ?? false,
            default_branch: 'main',
            html_url: web(),
          },
        }
      },
    ],
    [
      'GET',
      /^\/labels$/,
      (request) =>
        page(
          request,
          [...new Set(issues().flatMap((issue) => issue.labels))].sort().map((name) => ({ name, color: 'ededed' })),
        ),
    ],
    [
      'GET',
      /^\/issues$/,
      (request) => {
        enabled()
        require('read')
        const query = request.url.searchParams
        const state = query.get('state') ?? 'open'
        const labels = (query.get('labels') ?? '').split(',').filter((each) => each !== '')
        const order = query.get('direction') === 'asc' ? 1 : -1
        const by = (issue: GitHubIssue): string => (query.get('sort') === 'updated' ? issue.updatedAt : '')
        const found = issues()
          .filter((issue) => state === 'all' || issue.state === state)
          .filter((issue) => labels.every((label) => issue.labels.some((each) => each.toLowerCase() === label.toLowerCase())))
          .sort((a, b) => order * (by(a).localeCompare(by(b)) || a.number - b.number))
        return page(request, found.map(showIssue))
      },
    ],
    [
      'POST',
      /^\/issues$/,
      (request) => {
        enabled()
        require('write')
        const body = fields(request)
        const title = textOf(body, 'title', 'Issue', longestTitle)
        if (title === undefined || title === '') throw invalid('Issue', 'title', 'missing_field')
        const issue: GitHubIssue = {
          number: Math.max(0, ...issues().map((each) => each.number)) + 1,
          title,
          body: textOf(body, 'body', 'Issue', longestBody) ?? '',
          state: 'open',
          stateReason: null,
          labels: github.dropsLabels ? [] : labelsOf(body),
          author: actor(),
          isPullRequest: false,
          createdAt: now(),
          updatedAt: now(),
          comments: [],
        }
        issues().push(issue)
        return { status: 201, body: showIssue(issue), headers: { location: showIssue(issue).url } }
      },
    ],
    [
      'GET',
      /^\/issues\/(\d+)$/,
      (_, [number = '']) => {
        const issue = issueNumbered(number)
        require('read', issue)
        return { status: 200, body: showIssue(issue) }
      },
    ],
    [
      'PATCH',
      /^\/issues\/(\d+)$/,
      (request, [number = '']) => {
        const issue = issueNumbered(number)
        if (!issue.isPullRequest) enabled()
        require('write', issue)
        const body = fields(request)
        const title = textOf(body, 'title', 'Issue', longestTitle)
        const text = textOf(body, 'body', 'Issue', longestBody)
        const { state, state_reason: reason } = body
        if (state !== undefined && state !== 'open' && state !== 'closed') throw invalid('Issue', 'state', 'invalid')
        if (
          reason !== undefined &&
          !['completed', 'not_planned', 'duplicate', 'reopened', null].includes(reason as string | null)
        ) {
          throw invalid('Issue', 'state_reason', 'invalid')
        }
        if (title !== undefined) issue.title = title
        if (text !== undefined) issue.body = text
        if (body.labels !== undefined) issue.labels = labelsOf(body)
        if (state !== undefined && state !== issue.state) {
          issue.state = state
          issue.stateReason = (reason as GitHubIssue['stateReason']) ?? (state === 'closed' ? 'completed' : 'reopened')
        }
        issue.updatedAt = now()
        return { status: 200, body: showIssue(issue) }
      },
    ],
    [
      'GET',
      /^\/issues\/(\d+)\/comments$/,
      (request, [number = '']) => {
        const issue = issueNumbered(number)
        require('read', issue)
        const since = Date.parse(request.url.searchParams.get('since') ?? '')
        const recent = issue.comments.filter((each) => Number.isNaN(since) || Date.parse(each.updatedAt) >= since)
        return page(
          request,
          recent.map((comment) => showComment(issue, comment)),
        )
      },
    ],
    [
      'POST',
      /^\/issues\/(\d+)\/comments$/,
      (request, [number = '']) => {
        const issue = issueNumbered(number)
        if (!issue.isPullRequest) enabled()
        require('write', issue)
        if (issue.locked) throw refusal(403, 'Unable to create comment because issue is locked.')
        const text = textOf(fields(request), 'body', 'IssueComment', longestBody)
        if (text === undefined || text.trim() === '') throw invalid('IssueComment', 'body', 'missing_field')
        const comment: GitHubComment = { id: ++lastComment, body: text, author: actor(), createdAt: now(), updatedAt: now() }
        issue.comments.push(comment)
        issue.updatedAt = now()
        return { status: 201, body: showComment(issue, comment) }
      },
    ],
    [
      'PATCH',
      /^\/issues\/comments\/(\d+)$/,
      (request, [id = '']) => {
        const { issue, comment } = commentWithId(id)
        require('write', issue)
        const text = textOf(fields(request), 'body', 'IssueComment', longestBody)
        if (text === undefined || text.trim() === '') throw invalid('IssueComment', 'body', 'missing_field')
        comment.body = text
        comment.updatedAt = now()
        return { status: 200, body: showComment(issue, comment) }
      },
    ],
    [
      'DELETE',
      /^\/issues\/comments\/(\d+)$/,
      (_, [id = '']) => {
        const { issue, comment } = commentWithId(id)
        require('write', issue)
        issue.comments.splice(issue.comments.indexOf(comment), 1)
        return { status: 204 }
      },
    ],
  ]

  const enabled = (): void => {
    if (github.issuesEnabled === false) throw refusal(410, 'Issues has been disabled in this repository.')
  }

  const tokenKind = (): NonNullable<World['github']['tokenKind']> =>
    github.tokenKind ?? (actor().type === 'User' ? 'personal' : 'installation')
  const user = (): Reply => {
    if (tokenKind() !== 'personal') throw refusal(403, 'Resource not accessible by integration')
    return { status: 200, headers: limits(), body: showUser(actor()) }
  }
  /** Answers the one query for the viewer, whichever fields it selects. */
  const graphql = (request: Request): Reply => {
    const query = String(fields(request)['query'] ?? '')
    const [, selected] = /^\s*(?:query\s*)?\{\s*viewer\s*\{([\w\s,]+)\}\s*\}\s*$/.exec(query) ?? []
    const refused = (type: string, message: string): Reply => ({
      status: 200,
      headers: limits(),
      body: { data: null, errors: [{ type, message }] },
    })
    if (selected === undefined) return refused('INVALID_QUERY', 'This emulator knows the query for the viewer only')
    if (tokenKind() === 'unknown') return refused('FORBIDDEN', 'Resource not accessible by integration')
    // A viewer is always a User, also when it is an app.
    const known: Fields = { login: actor().login, databaseId: idOf(actor()), __typename: 'User' }
    const viewer = Object.fromEntries(selected.split(/[\s,]+/).flatMap((name) => (name in known ? [[name, known[name]]] : [])))
    return { status: 200, headers: limits(), body: { data: { viewer } } }
  }

  return (request) => {
    if (request.headers['user-agent'] === undefined) {
      throw refusal(403, 'Request forbidden by administrative rules. Please make sure your request has a User-Agent header.')
    }
    // Octokit says `token`, others `Bearer`.
    const token = /^(?:token|bearer)\s+(\S+)$/i.exec(request.headers.authorization ?? '')?.[1]
    if (token !== github.token) throw refusal(401, 'Bad credentials')
    const path = decodeURIComponent(request.url.pathname.slice('/github/api'.length))
    if (request.method === 'GET' && path === '/user') return user()
    if (request.method === 'POST' && path === '/graphql') return graphql(request)
    const repository = `/repos/${github.repository}`
    const own = path.toLowerCase() === repository.toLowerCase() || path.toLowerCase().startsWith(`${repository.toLowerCase()}/`)
    if (!own) throw refusal(404, 'Not Found')
    for (const [method, pattern, handle] of routes) {
      const found = pattern.exec(path.slice(repository.length))
      if (method !== request.method || found === null) continue
      const reply = handle(request, found.slice(1))
      return { ...reply, headers: { ...limits(), ...reply.headers } }
    }
    throw refusal(404, 'Not Found')
  }
}

/** The number of an account: that of the world, else one that follows from the login. */
function idOf({ login, id }: GitHubAuthor): number {
  if (id !== undefined) return id
  if (login.toLowerCase() === bot.login) return bot.id ?? 0
  return 1_000_000 + createHash('sha256').update(login.toLowerCase()).digest().readUIntBE(0, 4)
}

type Fields = Readonly<Record<string, unknown>>

function fields(request: Request): Fields {
  if (typeof request.body !== 'object' || request.body === null) throw refusal(400, 'Problems parsing JSON')
  return request.body as Fields
}

function labelsOf(body: Fields): string[] {
  if (!Array.isArray(body.labels)) return []
  return body.labels.map((label: unknown) => String(typeof label === 'object' ? (label as Fields | null)?.name : label))
}

function limits(): Record<string, string> {
  return {
    'x-github-request-id': randomUUID().toUpperCase(),
    'x-ratelimit-limit': '5000',
    'x-ratelimit-remaining': '4987',
    'x-ratelimit-reset': String(Math.ceil(Date.now() / 1_000) + 3_000),
  }
}

/** An error in GitHub's shape. */
function refusal(status: number, message: string, more: Fields = {}): HttpError {
  const body = { message, ...more, documentation_url: 'https://docs.github.com/rest', status: String(status) }
  return new HttpError({ status, headers: limits(), body })
}

function invalid(resource: string, field: string, code: string, message?: string): HttpError {
  return refusal(422, 'Validation Failed', { errors: [{ resource, field, code, ...(message === undefined ? {} : { message }) }] })
}
