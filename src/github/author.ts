/**
 * Who wrote an issue or a comment. Only texts of the token's own author count as written by this action: anyone can copy a
 * hidden comment into a text of their own, other bots and members of the repository included.
 */

/** The user or app behind a token. */
export interface Author {
  /** In lower case, without the `[bot]` that some answers append to the name of an app. */
  readonly name: string
  readonly isBot: boolean
  /** GitHub's number of the account; undefined when it is not known. */
  readonly id: number | undefined
}

type Json = Readonly<Record<string, unknown>>

/** The author behind the token that every job gets. Only an app can have a login with brackets, so no number is needed. */
export const jobAuthor: Author = { name: 'github-actions', isBot: true, id: undefined }

/** Longest time that the look-up may take in all, in milliseconds: the issue is written without it, too. */
const lookUpMs = 5_000

/** A user as the REST API shows one (`login`, `id`, `type`); undefined for anything else. */
export function authorOf(user: unknown): Author | undefined {
  const { login, id, type } = asObject(user)
  return read(login, id, type === 'Bot')
}

/** The `viewer` of an answer of the GraphQL API, which names no type. `isApp`: the token is known to be that of an app. */
function viewerOf(answer: unknown, isApp: boolean): Author | undefined {
  const { login, databaseId } = asObject(asObject(asObject(answer)['data'])['viewer'])
  return read(login, databaseId, isApp)
}

function read(login: unknown, id: unknown, isBot: boolean): Author | undefined {
  if (typeof login !== 'string' || !/^[\w.-]{1,100}(\[bot\])?$/i.test(login)) return undefined
  const name = login.toLowerCase()
  return {
    name: name.replace(/\[bot\]$/, ''),
    isBot: isBot || name.endsWith('[bot]'),
    id: typeof id === 'number' && Number.isSafeInteger(id) && id > 0 ? id : undefined,
  }
}

/** Whether both are one account: by their numbers where both are known, else by name and kind. */
export function isSameAuthor(a: Author | undefined, b: Author): boolean {
  if (a === undefined) return false
  if (a.id !== undefined && b.id !== undefined) return a.id === b.id
  return a.name === b.name && a.isBot === b.isBot
}

/** Requests of the look-up. Each resolves with the status and the parsed body, and rejects when there is no answer. */
interface LookUp {
  /** `GET /user` */
  user(signal: AbortSignal): Promise<{ status: number; data: unknown }>
  /** `POST` of this query to the GraphQL API; undefined where that is not part of the same host. */
  readonly viewer: ((query: string, signal: AbortSignal) => Promise<{ status: number; data: unknown }>) | undefined
}

/**
 * Looks up whose token this is. A personal token may read its user; that of an app (a job's own among them) may not, and
 * learns its name from GraphQL. Resolves with undefined where neither answers within {@link lookUpMs}; does not reject.
 */
export async function lookUpAuthor(look: LookUp, signal: AbortSignal): Promise<Author | undefined> {
  const done = new AbortController()
  const limit = AbortSignal.any([signal, done.signal, AbortSignal.timeout(lookUpMs)])
  const nothing = { status: 0, data: undefined }
  // Both at once: most tokens need the second, and one that hangs must not use up the time of the other.
  const viewer = (look.viewer?.('query { viewer { login databaseId } }', limit) ?? Promise.resolve(nothing)).catch(() => nothing)
  const user = await look.user(limit).catch(() => nothing)
  const found = user.status === 200 ? authorOf(user.data) : undefined
  if (found !== undefined) {
    done.abort()
    return found
  }
  const { status, data } = await viewer
  return status === 200 ? viewerOf(data, user.status === 403) : undefined
}

function asObject(value: unknown): Json {
  return typeof value === 'object' && value !== null ? (value as Json) : {}
}
