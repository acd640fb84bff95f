/** Functions of azure_ai that look names up by the search path. It is not documented whether any does. */
import { sqlState } from './connection.ts'

/** An undefined function or operator, relation, object or type. */
const undefinedStates: ReadonlySet<string> = new Set(['42883', '42P01', '42704'])

export const isUndefinedName = (code: string): boolean => undefinedStates.has(code)

/**
 * Runs `body` with nothing but pg_catalog in the search path, and again with the extension's own schemas behind it when a name
 * was not found. `public` and the schemas of others are never among them.
 */
export async function withNames<T>(
  extensionSchemas: readonly string[],
  body: (schemas: readonly string[]) => Promise<T>,
): Promise<T> {
  try {
    return await body([])
  } catch (error) {
    if (extensionSchemas.length === 0 || !isUndefinedName(sqlState(error))) throw error
    return body(extensionSchemas)
  }
}
