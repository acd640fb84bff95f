/** What test queries are made of: functions, arguments and what their answers say. Pure. */

/** An argument of a test function: passed by name, and only when the installed version has it. */
export interface Argument {
  readonly name: string
  readonly type: 'text' | 'text[]' | 'jsonb' | 'boolean' | 'integer'
  /** As PostgreSQL reads it: an array as `{"a","b"}`. */
  readonly value: string
}

/** A function that is called, and how its answer is read. */
export interface TestQuery {
  readonly schema: string
  readonly function: string
  /** SQL around the call: one row, one column. */
  readonly wrap: (call: string) => string
  /** Whether a value that is not empty is a result: whoever answers 200 to everything has none. */
  readonly isAnswer: (value: string) => boolean
  /** What the answer says, for a reader. */
  readonly answer: (value: string) => string
}

/** A function that replaces the test function where the service has retired that one. */
export interface FallbackQuery extends TestQuery {
  /** For its first text argument, whatever that is called. */
  readonly text: string
}

/** What the inputs say about test queries. */
export interface TestInputs {
  readonly embeddingDeployment: string | undefined
  readonly chatDeployment: string | undefined
  readonly machineLearningInput: string | undefined
  readonly machineLearningDeployment: string | undefined
}

/** A deployment of a model in an account. */
export interface Deployment {
  readonly name: string
  readonly model: string
  readonly capabilities: Readonly<Record<string, string>>
}

/** Each query of a service has a name of its own. */
export type QueryName = 'embedding' | 'chat' | 'sentiment' | 'translation' | 'scoring' | 'ranking'

/** One test query of a service. */
export interface ServiceQuery {
  readonly name: QueryName
  /** For a reader: the service, or what of it is queried. */
  readonly title: string
  readonly test: TestQuery
  readonly fallback?: FallbackQuery
  /** The arguments of the call, or why it cannot be made; undefined where the inputs do not want it. */
  readonly arguments: (
    inputs: TestInputs,
    deployments: readonly Deployment[],
  ) => readonly Argument[] | { readonly skip: string } | undefined
  /** The argument that names a deployment. */
  readonly deploymentArgument?: string
  /** The query adds to another one of its service: a family is verified without it where its function is missing. */
  readonly isExtra?: true
  /** No version gives its function a time limit, so the limit of the statement bounds it. */
  readonly hasNoLimit?: true
}

/** Longest time a test function may wait for its service, in milliseconds. */
const queryTimeoutMs = 15_000

/** Arguments that every test query gets when the installed version has them. */
export const commonArguments: readonly Argument[] = [
  { name: 'disable_service_logs', type: 'boolean', value: 'true' },
  // Where its default is false, a refusal would come as NULL and without its reason.
  { name: 'throw_on_error', type: 'boolean', value: 'true' },
  { name: 'timeout_ms', type: 'integer', value: String(queryTimeoutMs) },
]

/**
 * The translated text out of whatever shape the composite has: the first `text` below `translations`, else the whole; empty
 * when there is no text where the translations are.
 */
export function translated(value: string): string {
  try {
    const whole = JSON.parse(value) as { translations?: unknown } | null
    const { translations } = whole ?? {}
    const found = Array.isArray(translations) ? (translations[0] as { text?: unknown } | null)?.text : undefined
    if (typeof found === 'string') return found
    return hasText(translations === undefined ? whole : translations) ? value : ''
  } catch {
    return value
  }
}

/** Whether a value of JSON contains a text that is not empty. */
function hasText(value: unknown): boolean {
  if (typeof value === 'object' && value !== null) return Object.values(value).some(hasText)
  return typeof value === 'string' && value !== ''
}

/** Documents that the reranker is to rank; the first one answers the question. */
export const documents = {
  ids: ['0', '1'],
  contents: ['A managed identity signs in without a password.', 'A recipe for bread needs flour, water and salt.'],
} as const

/** The ids in the order of their rank, out of rows of whatever columns; empty when a document is missing or another is there. */
export function rankedDocuments(value: string): readonly string[] {
  try {
    const rows = JSON.parse(value) as unknown
    if (!Array.isArray(rows)) return []
    const ids: readonly string[] = rows.map((row: Readonly<Record<string, unknown>>) => String(row?.id ?? ''))
    const isWhole = ids.length === documents.ids.length && documents.ids.every((id) => ids.includes(id))
    return isWhole ? ids : []
  } catch {
    return []
  }
}
