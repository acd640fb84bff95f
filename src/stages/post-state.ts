/**
 * What the main step leaves for the post step: all that removing the firewall rule takes, and no secret. The post step reads
 * no inputs, because inside a composite action they may be absent by then, or evaluate to another server.
 */

import { parseTarget, type Target, targetInputs } from '../core/target.ts'
import { isTemporaryRule } from './firewall-rules.ts'

/**
 * The only name under which the main step saves a state. It also saves an empty one at its start: the runner then sets
 * STATE_temporary-firewall-rule for the post step itself, whatever another step wrote into GITHUB_ENV.
 */
export const postState = 'temporary-firewall-rule'

/** Longest state that is read, in characters. */
const longest = 8_192

export interface PostState {
  readonly target: Target
  readonly rule: string
  /** Whether the main step saw that the rule was created; otherwise its creation may still be under way. */
  readonly created: boolean
  /** Number of the workflow run, which alone may delete the rule. */
  readonly runId: string
}

export function stateText({ target, rule, created, runId }: PostState): string {
  const { server, environment, oidc } = target
  return JSON.stringify({
    rule,
    created,
    run: runId,
    server: server.id,
    environment,
    'tenant-id': oidc?.tenantId ?? '',
    'client-id': oidc?.clientId ?? '',
    audience: oidc?.audience ?? '',
  })
}

/**
 * Reads the state; undefined when the main step created no rule. Its values pass the rules of the inputs, because the main
 * step may have been killed before it could save any, and another step may have written this one.
 * @throws {Error} when it is not a state of this action
 */
export function parseState(text: string, runId: string): PostState | undefined {
  if (text === '') return undefined
  const state = objectOf(text)
  const { rule, created, run } = state
  if (typeof rule !== 'string' || !isTemporaryRule(rule)) throw new Error('the state names no firewall rule of this action')
  const texts = Object.fromEntries(targetInputs.map((name) => [name, state[name]]))
  if (typeof created !== 'boolean' || Object.values(texts).some((value) => typeof value !== 'string'))
    throw new Error('the state is not complete')
  // Another step may have written a state of another run into the environment.
  if (run !== runId) throw new Error('the state is that of another workflow run')
  return { rule, created, runId, target: parseTarget(texts as Record<(typeof targetInputs)[number], string>) }
}

function objectOf(text: string): Record<string, unknown> {
  if (text.length > longest) throw new Error(`the state is ${text.length} characters long`)
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>
  } catch {
    // The parser's message would repeat the text, which another step may have written.
  }
  throw new Error('the state is not a JSON object')
}
