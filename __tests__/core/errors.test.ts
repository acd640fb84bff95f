import { describe, expect, test } from 'vitest'
import { explain, outlook } from '../../src/errors/explain.ts'
import { Failure, Failures, failuresOf } from '../../src/errors/failure.ts'
import type { AdvisedInput, Circumstances, Message } from '../../src/errors/message.ts'
import { describe as describeThrown } from '../../src/lib/bounded.ts'

const at: Circumstances = {
  doing: 'testing',
  server: 'pg-one',
  resourceGroup: 'rg',
  database: 'app',
  user: 'deployer',
  host: 'pg-one.postgres.database.azure.com',
  port: 5432,
  resource: '/subscriptions/s/resourceGroups/rg/providers/Microsoft.CognitiveServices/accounts/ai-one',
  deployment: 'embed',
}
const message = (origin: Message['origin'], text: string, code = ''): Message => ({ origin, code, text })

describe('documented texts lead to their row', () => {
  // azure_ai is likely to pass these texts on with words of its own around them.
  const wrapped = (text: string, status: number): Message =>
    message('ai', `azure_ai: request failed with status ${status}: ${text}`, 'XX000')
  test.each<[text: string, code: string, prospect: string, status?: number]>([
    [
      'The principal `x` lacks the required data action `Microsoft.CognitiveServices/accounts/OpenAI/deployments/embeddings/action`',
      'role-not-effective',
      'propagating',
    ],
    ['{"code":"PermissionDenied"}', 'role-not-effective', 'propagating'],
    ['Principal does not have access to API/Operation.', 'role-not-effective', 'propagating'],
    [
      'Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), or have expired.',
      'token-not-accepted',
      'propagating',
    ],
    ['Please provide a custom subdomain for token authentication, otherwise API key is required.', 'custom-subdomain', 'final'],
    ['Subdomain does not map to a resource.', 'subdomain-unknown', 'propagating'],
    ['AuthenticationTypeDisabled', 'key-login-disabled', 'final'],
    ['Key based authentication is disabled for this resource.', 'key-login-disabled', 'final'],
    ['Access denied due to Virtual Network/Firewall rules.', 'ai-firewall', 'final'],
    ['Public access is disabled. Please configure private endpoint.', 'ai-private', 'final'],
    ['DeploymentNotFound', 'deployment-not-found', 'final'],
    ['The API deployment for this resource does not exist.', 'deployment-not-found', 'final'],
    [
      'OperationNotSupported: The embeddings operation does not work with the specified model',
      'operation-not-supported',
      'proves-access',
      400,
    ],
    ['The embeddings operation does not work with the specified model, gpt-4o.', 'operation-not-supported', 'proves-access', 400],
    ['Access denied due to invalid subscription key or wrong API endpoint.', 'key-refused', 'final'],
    ['429 Too Many Requests', 'throttled', 'throttled', 429],
    ['failed to get an access token for the managed identity: none', 'no-token', 'no-token'],
  ])('%s', (text, code, prospect, status = 401) => {
    expect(explain(wrapped(text, status), at).code).toBe(code)
    expect(outlook(wrapped(text, status))).toBe(prospect)
  })

  test.each([
    ['AuthorizationFailed', 'authorization-failed', 'permission'],
    ['InvalidAuthenticationToken', 'token-refused', 'credentials'],
    ['ExpiredAuthenticationToken', 'token-refused', 'credentials'],
    ['SubscriptionNotFound', 'subscription-not-found', 'input'],
    ['ResourceNotFound', 'resource-not-found', 'input'],
    ['ResourceGroupNotFound', 'resource-not-found', 'input'],
    ['ServerIsBusy', 'server-busy', 'azure'],
    ['PrincipalNotFound', 'principal-not-found', 'azure'],
    ['RoleAssignmentLimitExceeded', 'role-assignment-limit', 'azure'],
    ['RequestDisallowedByPolicy', 'refused-by-governance', 'azure'],
    ['ScopeLocked', 'refused-by-governance', 'azure'],
  ])('Resource Manager: %s', (code, row, reason) => {
    expect(explain(message('azure', 'as Azure says it', code), at)).toMatchObject({ code: row, reason })
  })

  test.each(['AADSTS700211', 'AADSTS700212', 'AADSTS700213', 'AADSTS7002138', 'AADSTS70021'])('Entra: %s', (code) => {
    expect(explain(message('entra', `${code}: No matching federated identity record found`, code), at)).toMatchObject({
      code: 'federation-mismatch',
      reason: 'credentials',
    })
  })
  test.each([
    ['AADSTS700024', 'assertion-expired'],
    ['AADSTS700016', 'app-unknown'],
    ['AADSTS90002', 'tenant-unknown'],
    ['AADSTS7000215', 'client-secret-refused'],
  ])('Entra: %s', (code, row) => {
    expect(explain(message('entra', `${code}: text`, code), at)).toMatchObject({ code: row, reason: 'credentials' })
  })

  test.each([
    ['28000', 'no pg_hba.conf entry for host "203.0.113.7", user "u", database "d", SSL encryption', 'firewall', 'network'],
    ['28P01', 'password authentication failed for user "u"', 'login-refused', 'credentials'],
    ['3D000', 'database "x" does not exist', 'database-not-found', 'input'],
    ['53300', 'remaining connection slots are reserved', 'too-many-connections', 'database'],
    ['57P03', 'the database system is starting up', 'starting-up', 'database'],
    ['08P01', 'unsupported startup parameter: options', 'pooler-refuses-parameter', 'network'],
    [
      '0A000',
      'extension "azure_ai" is not allow-listed for users in Azure Database for PostgreSQL',
      'not-allow-listed',
      'database',
    ],
    ['0A000', 'extension "azure_ai" is not allow-listed for "azure_pg_admin" users in X', 'not-allow-listed', 'database'],
    ['42501', 'Only members of "azure_pg_admin" are allowed to use CREATE EXTENSION', 'database-permission', 'permission'],
    ['XX000', 'azure_openai.auth_type is not a valid configuration key', 'extension-too-old', 'database'],
    ['55P03', 'canceling statement due to lock timeout', 'lock', 'database'],
    ['40P01', 'deadlock detected', 'lock', 'database'],
    ['ENOTFOUND', 'getaddrinfo ENOTFOUND', 'dns', 'network'],
    ['ECONNREFUSED', 'connect ECONNREFUSED', 'connection-refused', 'network'],
    ['ETIMEDOUT', 'timeout expired', 'connection-timeout', 'network'],
    ['SELF_SIGNED_CERT_IN_CHAIN', 'self-signed certificate', 'tls-not-trusted', 'network'],
    ['57P01', 'terminating connection due to administrator command', 'connection-lost', 'network'],
    ['57014', 'canceling statement due to statement timeout', 'statement-timeout', 'database'],
  ])('PostgreSQL: %s %s', (code, text, row, reason) => {
    expect(explain(message('postgres', text, code), at)).toMatchObject({ code: row, reason })
  })
})

describe('the text of a failure', () => {
  test('for a missing permission it names the action, the scope and the least role that has it', () => {
    const text = (action: string): string =>
      `The client 'a' with object id '11111111-2222-4333-8444-555555555555' does not have authorization to perform action '${action}' over scope '/subscriptions/s/resourceGroups/rg' or the scope is invalid.`
    const roleFor = (action: string): string => {
      const failure = explain(message('azure', text(action), 'AuthorizationFailed'), at)
      expect(failure.detail).toContain(action)
      expect(failure.detail).toContain('/subscriptions/s/resourceGroups/rg')
      expect(failure.fix).toContain('--assignee-object-id 11111111-2222-4333-8444-555555555555')
      expect(failure.fix).toContain('--scope "/subscriptions/s/resourceGroups/rg"')
      return /--role "([^"]+)"/.exec(failure.fix)?.[1] ?? ''
    }
    expect(roleFor('Microsoft.Authorization/roleAssignments/write')).toBe('Role Based Access Control Administrator')
    expect(roleFor('Microsoft.Authorization/roleAssignments/read')).toBe('Reader')
    expect(roleFor('Microsoft.DBforPostgreSQL/flexibleServers/read')).toBe('Reader')
    expect(roleFor('Microsoft.DBforPostgreSQL/flexibleServers/write')).toBe('Contributor')
    expect(roleFor('Microsoft.DBforPostgreSQL/flexibleServers/restart/action')).toBe('Contributor')
    expect(roleFor('Microsoft.CognitiveServices/accounts/read')).toBe('Reader')
    expect(roleFor('Microsoft.MachineLearningServices/workspaces/onlineEndpoints/read')).toBe('Reader')
  })

  test('it names an ABAC condition as a possible cause', () => {
    const text = `The client 'a' with object id 'b' does not have authorization or an ABAC condition not fulfilled to perform action 'Microsoft.Authorization/roleAssignments/write' over scope '/s'`
    expect(explain(message('azure', text, 'AuthorizationFailed'), at).detail).toContain('condition on its own role assignment')
  })

  test('for a refusal by the firewall it contains the address that the server named', () => {
    const text = 'no pg_hba.conf entry for host "203.0.113.7", user "u", database "d", SSL encryption'
    const { fix } = explain(message('postgres', text, '28000'), at)
    expect(fix).toContain('--start-ip-address 203.0.113.7 --end-ip-address 203.0.113.7')
    expect(fix).toContain('--resource-group rg --server-name pg-one --name runner')
  })

  test('an unknown text stays verbatim, with code and request id, and gets no guessed cause', () => {
    for (const origin of ['azure', 'entra', 'postgres', 'ai'] as const) {
      const failure = explain({ origin, code: 'E7760', status: 418, text: 'turned away (ref 9c2e)', requestId: 'r-1' }, at)
      expect(failure.code).toBe(`${origin}-error`)
      expect(failure.detail).toBe('418 E7760: turned away (ref 9c2e) (request id r-1)')
      expect(failure.title).toContain('testing')
      expect(failure.fix).not.toBe('')
    }
    expect(outlook(message('ai', 'E7760 turned away'))).toBe('unknown')
  })

  test('names that would end a quoted name are doubled in the SQL of a fix', () => {
    expect(explain(message('postgres', 'permission denied', '42501'), { ...at, user: 'a"; DROP ROLE b; --' }).fix).toContain(
      'TO "a""; DROP ROLE b; --"',
    )
  })

  test('a thrown value becomes a failure: an expected one as it is, any other as internal', () => {
    const failure = explain(message('ai', '429'), at)
    expect(failuresOf(failure)).toEqual([failure])
    expect(failuresOf(new Failures([failure, failure]))).toEqual([failure, failure])
    for (const thrown of [new Error('boom'), 'boom', { boom: 1 }, undefined, null, 4]) {
      const [only] = failuresOf(thrown)
      expect(only).toBeInstanceOf(Failure)
      expect(only).toMatchObject({ reason: 'internal', detail: describeThrown(thrown) })
      expect(only?.detail).not.toBe('')
    }
  })
})

test.each([
  ['azure_openai.create_embeddings: 429: You exceeded your current quota, please check your plan.', 'throttled'],
  ['azure_openai.create_embeddings: 403: You exceeded your current quota after 429 calls.', 'ai-error'],
])('only the status behind the name of the function decides: %s', (text, code) => {
  expect(explain({ origin: 'ai', code: 'XX000', text }, at).code).toBe(code)
})

test.each([
  ['53300', 'too many connections for database "app"', 'connection-limit'],
  ['53300', 'too many connections for role "checker"', 'connection-limit'],
  ['53300', 'sorry, too many clients already', 'too-many-connections'],
  ['2BP01', 'cannot drop function azure_openai.create_embeddings because other objects depend on it', 'extension-has-dependants'],
  ['55000', 'database "app" is not currently accepting connections', 'database-closed'],
])('%s %s', (code, text, finding) => {
  const failure = explain({ origin: 'postgres', code, text }, at)
  expect([failure.code, failure.reason]).toEqual([finding, 'database'])
  expect(failure.fix).not.toContain('CASCADE;')
})

test('the fix for a missing right to assign roles names the resource, not the role assignment', () => {
  const scope = '/subscriptions/S/resourceGroups/G/providers/Microsoft.CognitiveServices/accounts/a'
  const text = `The client 'c' with object id 'o' does not have authorization to perform action 'Microsoft.Authorization/roleAssignments/write' over scope '${scope}/providers/Microsoft.Authorization/roleAssignments/0f0e0d0c'`
  const { fix, detail } = explain({ origin: 'azure', code: 'AuthorizationFailed', status: 403, text }, at)
  expect(fix).toContain(`--scope "${scope}"`)
  expect(detail).toContain(`over ${scope}.`)
})

test.each<[origin: Message['origin'], code: string, text: string, input: AdvisedInput]>([
  ['ai', '', 'failed to get an access token for the managed identity', 'allow-restart'],
  ['ai', '', 'azure_cognitive.analyze_sentiment: 410: this version has been retired', 'update-extension'],
  ['ai', '', 'Access denied due to invalid subscription key', 'clear-keys'],
  ['postgres', '28000', 'no pg_hba.conf entry for host "203.0.113.7", user "u", database "d"', 'temporary-firewall-rule'],
  ['postgres', '22023', '"azure_openai.auth_type" is not a valid configuration key', 'update-extension'],
  ['postgres', 'ENOTFOUND', 'getaddrinfo ENOTFOUND pg-one', 'database-host'],
])('no fix suggests an input that is set: %s %s %s', (origin, code, text, input) => {
  const none = {
    'allow-restart': false,
    'clear-keys': false,
    'database-host': false,
    'temporary-firewall-rule': false,
    'update-extension': false,
  }
  const fixWith = (isSet: Circumstances['isSet']): string => explain({ origin, code, text }, { ...at, isSet }).fix
  expect(fixWith(undefined)).toContain(input)
  expect(fixWith(none)).toContain(input)
  expect(fixWith({ ...none, [input]: true })).not.toContain(input)
})

test.each([
  'Service principal oid mismatch for role "contoso deployer"',
  'token for role "x" is neither an AAD_AUTH_TOKENTYPE_APP_USER or an AAD_AUTH_TOKENTYPE_APP_OBO token',
  'Could not validate AAD user 7e4b2d18-3f60-4c9a-8d25-b1a6f0c3e974',
])('a role of another principal: %s', (text) => {
  const failure = explain({ origin: 'postgres', code: '28000', text }, at)
  expect([failure.code, failure.reason]).toEqual(['principal-mismatch', 'credentials'])
  expect(failure.fix).toContain('--type ServicePrincipal')
})
