/**
 * The language of Azure's conditions on role assignments (ABAC), as far as conditions that limit role assignments use it:
 * https://learn.microsoft.com/azure/role-based-access-control/conditions-format
 */

/** The role assignment that a caller wants to write. */
export interface AssignmentRequest {
  roleDefinitionName: string
  principalId: string
  principalType: string
}

/** What a condition is evaluated against: the action, and what the request wants to write. */
interface Attempt {
  action: string
  request?: AssignmentRequest | undefined
}
type Expression = (attempt: Attempt) => boolean

/** Attributes of a request that writes a role assignment. */
const attributes: Record<string, (request: AssignmentRequest) => string> = {
  'microsoft.authorization/roleassignments:roledefinitionid': (request) => request.roleDefinitionName,
  'microsoft.authorization/roleassignments:principalid': (request) => request.principalId,
  'microsoft.authorization/roleassignments:principaltype': (request) => request.principalType,
}

/** Attributes have one value each, so `ForAny` and `ForAll` of the left side mean the same. */
const operators: Record<string, (value: string, listed: string[]) => boolean> = {
  'foranyofanyvalues:guidequals': (value, listed) => listed.includes(value),
  'foranyofanyvalues:stringequalsignorecase': (value, listed) => listed.includes(value),
  'foranyofanyvalues:guidnotequals': (value, listed) => listed.some((each) => each !== value),
  'foranyofallvalues:guidnotequals': (value, listed) => listed.every((each) => each !== value),
}

/**
 * Whether a condition allows an action. `request` is what would be written, for actions that write a role assignment.
 * Throws on an expression that the emulator does not know: a test must not pass because its condition was ignored.
 */
export function allows(condition: string, action: string, request?: AssignmentRequest): boolean {
  const tokens = condition.match(/&&|\|\||[()!]|\{[^}]*\}|@\w+\[[^\]]*\]|[^\s(){}!@]+/g) ?? []
  const expression = either(tokens)
  if (tokens.length > 0) throw unknown(tokens[0])
  return expression({ action, request })
}

function either(tokens: string[]): Expression {
  const sides = [both(tokens)]
  while (/^(OR|\|\|)$/i.test(tokens[0] ?? '')) {
    tokens.shift()
    sides.push(both(tokens))
  }
  return (attempt) => sides.some((side) => side(attempt))
}

function both(tokens: string[]): Expression {
  const sides = [single(tokens)]
  while (/^(AND|&&)$/i.test(tokens[0] ?? '')) {
    tokens.shift()
    sides.push(single(tokens))
  }
  return (attempt) => sides.every((side) => side(attempt))
}

function single(tokens: string[]): Expression {
  const token = tokens.shift() ?? ''
  if (/^(!|NOT)$/i.test(token)) {
    const negated = single(tokens)
    return (attempt) => !negated(attempt)
  }
  if (token === '(') {
    const inner = either(tokens)
    const closing = tokens.shift()
    if (closing !== ')') throw unknown(closing)
    return inner
  }
  if (token.toLowerCase() === 'actionmatches') {
    const actions = listOf(tokens.shift())
    return ({ action }) => actions.includes(action.toLowerCase())
  }
  const [, source = '', path = ''] = /^@(Request|Resource)\[(.*)\]$/i.exec(token) ?? []
  const attribute = attributes[path.toLowerCase()]
  if (attribute === undefined) throw unknown(token)
  const name = tokens.shift() ?? ''
  const compare = operators[name.toLowerCase()]
  if (compare === undefined) throw unknown(name)
  const listed = listOf(tokens.shift())
  // Attributes of an existing assignment (@Resource) matter for deleting only, and the emulator's callers do not pass the assignment that they delete.
  if (source.toLowerCase() === 'resource') return () => false
  return ({ request }) => request !== undefined && compare(attribute(request).toLowerCase(), listed)
}

function listOf(token = ''): string[] {
  const list = /^\{(.*)\}$/s.exec(token)?.[1]
  if (list === undefined) throw unknown(token)
  return list.split(',').map((item) => item.trim().replace(/^'|'$/g, '').toLowerCase())
}

function unknown(token = 'its end'): Error {
  return new Error(`The emulator does not know ${token} in a condition of a role assignment: see emulator/conditions.ts`)
}
