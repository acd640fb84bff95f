/** The generated clients, in a module of their own so that they are loaded only when they are needed; one of them is CommonJS. */
export { AuthorizationManagementClient } from '@azure/arm-authorization'
export { PostgreSQLManagementFlexibleServerClient } from '@azure/arm-postgresql-flexible'
