/** The generated clients, in a module of their own so that they are loaded only when they are needed; one of them is CommonJS. */
import { getContinuationToken as tokenOfAuthorization } from '@azure/arm-authorization'
import { getContinuationToken as tokenOfPostgres } from '@azure/arm-postgresql-flexible'

export { AuthorizationManagementClient } from '@azure/arm-authorization'
export { PostgreSQLManagementFlexibleServerClient } from '@azure/arm-postgresql-flexible'

/** What leads to the page after this one; each client remembers it for the pages that it read itself. */
export function nextPageOf(page: unknown): string | undefined {
  return tokenOfAuthorization(page) ?? tokenOfPostgres(page)
}
