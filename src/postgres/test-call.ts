/** The call of a test function, written for the overload that the installed version has. Pure. */
import type { FunctionSignature } from '../core/observed.ts'
import { type Argument, commonArguments, type FallbackQuery, type TestQuery } from '../core/test-query.ts'
import { quoteLiteral } from './transaction.ts'

/** A call of a test function as SQL that can be pasted, or why the installed version offers none that fits. */
type TestCall = { readonly sql: string; readonly hasTimeout: boolean } | { readonly skip: string }

/**
 * Writes the call: the overload whose arguments have our types, arguments by name, literals with their type, and of the
 * optional ones only those that the installed version has.
 */
export function testCall(
  { schema, function: name, wrap }: TestQuery,
  wanted: readonly Argument[],
  functions: readonly FunctionSignature[],
): TestCall {
  const overloads = functions.filter((each) => each.schema === schema && each.name === name)
  if (overloads.length === 0) return { skip: `the installed azure_ai has no ${schema}.${name}` }
  const has = (each: FunctionSignature, argument: Argument): boolean =>
    each.arguments.some((own) => own.name === argument.name && own.type === argument.type)
  // The first argument decides the overload (text or text[]); the others may be missing in a version.
  const [first] = wanted
  const overload = overloads.find((each) => {
    const passed = [...wanted, ...commonArguments].filter((argument) => has(each, argument)).map((argument) => argument.name)
    return first !== undefined && has(each, first) && each.arguments.every((own) => own.hasDefault || passed.includes(own.name))
  })
  if (overload === undefined)
    return { skip: `no overload of ${schema}.${name} in the installed azure_ai takes what the test query passes` }
  const passed = [...wanted, ...commonArguments].filter((argument) => has(overload, argument))
  const shown = passed.map((argument) => `${argument.name} => ${literalOf(argument)}`)
  return {
    sql: wrap(`${schema}.${name}(${shown.join(', ')})`),
    hasTimeout: passed.some((argument) => argument.name === 'timeout_ms'),
  }
}

/** The call of a fallback: its first text argument is what the installed version calls it. */
export function fallbackCall(query: FallbackQuery, functions: readonly FunctionSignature[]): TestCall {
  const name = functions
    .filter((each) => each.schema === query.schema && each.name === query.function)
    .map((each) => each.arguments.find(({ type }) => type === 'text')?.name)
    .find((found) => found !== undefined && found !== '')
  return testCall(query, name === undefined ? [] : [{ name, type: 'text', value: query.text }], functions)
}

function literalOf(argument: Argument): string {
  return argument.type === 'boolean' || argument.type === 'integer'
    ? argument.value
    : `${quoteLiteral(argument.value)}::pg_catalog.${argument.type}`
}
