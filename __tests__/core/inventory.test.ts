import { describe, expect, test } from 'vitest'
import { countsOf, type Fleet, hasDrift, type Inspected, inventoryOf, rowsOf } from '../../src/core/inventory.ts'
import { inventoryFindings } from '../../src/core/inventory-findings.ts'
import { type Matrix, matrixJson, matrixOf } from '../../src/core/inventory-matrix.ts'
import type { FleetResource } from '../../src/core/inventory-resources.ts'
import type { ObservedDatabase, RoleAssignment } from '../../src/core/observed.ts'
import { serviceNamed } from '../../src/core/services.ts'
import { Failure } from '../../src/errors/failure.ts'
import { observedDatabase, observedServer } from '../support/support.ts'

const group = (subscription: string): string =>
  `/subscriptions/${subscription}0000000-0000-4000-8000-000000000000/resourceGroups/rg/providers`
const principalId = '11111111-2222-4333-8444-555555555555'

function account(name: string, kind: string, options: Partial<FleetResource> & { subscription?: string } = {}): FleetResource {
  const { subscription = '1', ...rest } = options
  const id = `${group(subscription)}/Microsoft.CognitiveServices/accounts/${name}`
  return {
    ...{ id, settingsId: id, name, kind, type: 'Microsoft.CognitiveServices/accounts', location: 'westeurope' },
    ...{ provisioningState: 'Succeeded', endpoints: [], customSubdomain: name, localAuthDisabled: false },
    ...{ authMode: undefined, deployments: [] },
    ...rest,
  }
}

function server(name: string, databases: readonly ObservedDatabase[], changes: Partial<Inspected['server']> = {}): Inspected {
  const id = `${group('1')}/Microsoft.DBforPostgreSQL/flexibleServers/${name}`
  const shown = observedServer({ id, name, principalId, identityType: 'SystemAssigned' })
  return { server: { ...shown, primary: undefined, ...changes }, failure: undefined, databases, isAllowed: true }
}

const database = (name: string, settings: Record<string, string>, keys: readonly string[] = []): ObservedDatabase =>
  observedDatabase(name, {
    extension: { installed: '1.3.1', available: '1.3.1' },
    mayRead: true,
    settings: new Map(Object.entries(settings)),
    keysSet: new Set(keys),
  })

const openai = account('shop-openai', 'OpenAI')
const language = account('shop-language', 'TextAnalytics')
const onOpenAi = (authType: string, host = 'shop-openai.openai.azure.com'): Record<string, string> => ({
  'azure_openai.auth_type': authType,
  'azure_openai.endpoint': `https://${host}/`,
})
const openAiKey = 'azure_openai.subscription_key'

/** Every role on every resource, for the principal of {@link server}. */
function allRoles(resources: readonly FleetResource[], holder = principalId): Fleet['assignments'] {
  const roles = (['openai', 'cognitive', 'machine-learning'] as const).map((name) => serviceNamed(name).role.id)
  const assignments = (scope: string): RoleAssignment[] =>
    roles.map((roleId) => ({
      ...{ id: `${scope}/x`, scope, principalId: holder, reaches: undefined, roleId },
      ...{ description: undefined, createdOn: undefined },
    }))
  return new Map(resources.map(({ id }) => [id.toLowerCase(), assignments(id)]))
}

function fleet(servers: readonly Inspected[], resources: readonly FleetResource[] = [openai, language]) {
  const inventory = inventoryOf({ servers, resources, assignments: allRoles(resources) })
  return { inventory, matrix: matrixOf(inventory), counts: countsOf(inventory), rows: rowsOf(inventory) }
}

const brief = (matrix: Matrix): string[] =>
  matrix.include.map(({ name, databases }) => `${name}: ${databases?.replaceAll('\n', ' ')}`)
const codes = ({ inventory, matrix }: ReturnType<typeof fleet>): string[] =>
  inventoryFindings(inventory, matrix).map(({ code }) => code)

describe('the resource behind an endpoint', () => {
  const found = (host: string, resources: readonly FleetResource[]): string | undefined =>
    fleet([server('pg', [database('app', onOpenAi('subscription-key', host))])], resources).rows[0]?.resource

  test.each(['shop-openai.openai.azure.com', 'shop-openai.cognitiveservices.azure.com', 'SHOP-OPENAI.openai.azure.us'])(
    '%s',
    (host) => {
      expect(found(host, [openai])).toBe(openai.id)
    },
  )

  test('accounts of the same name in two subscriptions differ by their custom subdomain', () => {
    const other = account('shop-openai', 'OpenAI', { subscription: '2', customSubdomain: 'shop-openai-eu' })
    expect(found('shop-openai-eu.openai.azure.com', [openai, other])).toBe(other.id)
    expect(found('shop-openai.openai.azure.com', [other, openai])).toBe(openai.id)
  })

  test.each([
    ['a gateway', 'contoso.azure-api.net'],
    ['the host of a region', 'westeurope.api.cognitive.microsoft.com'],
    ['an account that is not visible', 'elsewhere.openai.azure.com'],
    ['a host that only begins like an account', 'shop-openai.example.com'],
    ['a host that is no domain of Azure', 'shop-openai.openai.azure.com.example.com'],
  ])('%s belongs to no resource', (_, host) => {
    const regional = account('regional', 'OpenAI', {
      customSubdomain: undefined,
      endpoints: ['https://westeurope.api.cognitive.microsoft.com/'],
    })
    const result = fleet([server('pg', [database('app', onOpenAi('subscription-key', host))])], [openai, regional])
    expect(result.rows[0]?.resource).toBe('')
    expect(result.counts.notVisible).toBe(1)
    expect(codes(result)).toContain('resource-not-visible')
    expect(result.matrix.include).toEqual([])
  })

  test('an account of the wrong kind does not count: a Language account cannot serve azure_openai', () => {
    expect(found('shop-language.openai.azure.com', [language])).toBe('')
  })

  test('an online endpoint is found by the host of its scoring URI', () => {
    const endpoint = account('churn', 'OnlineEndpoint', {
      id: `${group('1')}/Microsoft.MachineLearningServices/workspaces/ml/onlineEndpoints/churn`,
      type: 'Microsoft.MachineLearningServices/workspaces/onlineEndpoints',
      customSubdomain: undefined,
      endpoints: ['https://churn.westeurope.inference.ml.azure.com/score'],
    })
    const settings = { 'azure_ml.scoring_endpoint': 'https://churn.westeurope.inference.ml.azure.com/score' }
    const { matrix } = fleet([server('pg', [database('app', settings, ['azure_ml.endpoint_key'])])], [endpoint])
    expect(matrix.include[0]?.['machine-learning']).toBe(endpoint.id)
  })

  test('a serverless endpoint is found by its host, whatever the path: it fills the input ranking, and its key counts', () => {
    const reranker = account('rerank', 'ServerlessEndpoint', {
      id: `${group('1')}/Microsoft.MachineLearningServices/workspaces/ml/serverlessEndpoints/rerank`,
      type: 'Microsoft.MachineLearningServices/workspaces/serverlessEndpoints',
      endpoints: ['https://rerank.westeurope.models.ai.azure.com'],
      customSubdomain: undefined,
    })
    const settings = {
      'azure_ml.auth_type': 'subscription-key',
      'azure_ml.serverless_ranking_endpoint': 'https://rerank.westeurope.models.ai.azure.com/v1/rerank',
    }
    const key = 'azure_ml.serverless_ranking_endpoint_key'
    const { rows, matrix, counts } = fleet([server('pg', [database('app', settings, [key])])], [reranker])
    expect(rows).toMatchObject([{ family: 'azure_ml', resource: reranker.id, keyStored: true }])
    expect(matrix.include).toMatchObject([{ databases: 'app', ranking: reranker.id, 'machine-learning': '' }])
    expect(counts.storedKeys).toBe(1)
  })

  test('a Translator account or resource id fills the input translator, any other cognitive account the input cognitive', () => {
    const translator = account('shop-translator', 'TextTranslation')
    const entryFor = (settings: Record<string, string>) =>
      fleet([server('pg', [database('app', settings, ['azure_cognitive.subscription_key'])])], [language, translator]).matrix
        .include[0]
    const endpoint = (name: string) => ({ 'azure_cognitive.endpoint': `https://${name}.cognitiveservices.azure.com` })
    expect(entryFor(endpoint('shop-translator'))).toMatchObject({ cognitive: '', translator: translator.id })
    expect(entryFor(endpoint('shop-language'))).toMatchObject({ cognitive: language.id, translator: '' })
    const byId = {
      'azure_cognitive.translator_resource_id': translator.id.toUpperCase().replace('/SUBSCRIPTIONS', '/subscriptions'),
    }
    expect(entryFor({ ...endpoint('shop-language'), ...byId })).toMatchObject({
      cognitive: language.id,
      translator: translator.id,
    })
    // An apply for the Translator alone would be refused: the endpoint belongs to an account that is not visible.
    expect(entryFor({ ...endpoint('not-visible'), ...byId })).toBeUndefined()
    const global = { 'azure_cognitive.endpoint': 'https://api.cognitive.microsofttranslator.com' }
    expect(entryFor({ ...global, ...byId })).toMatchObject({ cognitive: '', translator: translator.id })
  })
})

describe('rows and counts', () => {
  test('there is one row for each family in use, with keyStored true or false', () => {
    const app = database(
      'app',
      {
        ...onOpenAi('subscription-key'),
        'azure_cognitive.auth_type': 'managed-identity',
        'azure_cognitive.endpoint': 'https://shop-language.cognitiveservices.azure.com',
      },
      [openAiKey],
    )
    const { rows, counts } = fleet([server('pg', [app])])
    expect(rows.map(({ family, authType, resource, keyStored }) => ({ family, authType, resource, keyStored }))).toEqual([
      { family: 'azure_openai', authType: 'subscription-key', resource: openai.id, keyStored: true },
      { family: 'azure_cognitive', authType: 'managed-identity', resource: language.id, keyStored: false },
    ])
    expect(counts).toMatchObject({ servers: 1, databases: 1, storedKeys: 1, uses: 2, onIdentity: 1, notInspected: 0 })
    expect(hasDrift(counts)).toBe(true)
  })

  test('azure_ml counts two keys', () => {
    const settings = {
      'azure_ml.scoring_endpoint': 'https://a.example',
      'azure_ml.serverless_ranking_endpoint': 'https://b.example',
    }
    const keys = ['azure_ml.endpoint_key', 'azure_ml.serverless_ranking_endpoint_key']
    expect(fleet([server('pg', [database('app', settings, keys)])]).counts).toMatchObject({ storedKeys: 2, uses: 2 })
  })

  test('a key without an endpoint counts as use; a database with neither is one row without a family', () => {
    const { rows, counts } = fleet([
      server('pg', [database('a', {}, [openAiKey]), database('b', { 'azure_openai.auth_type': 'managed-identity' })]),
    ])
    expect(rows.map(({ database: name, family, keyStored }) => [name, family, keyStored])).toEqual([
      ['a', 'azure_openai', true],
      ['b', '', false],
    ])
    expect(counts.storedKeys).toBe(1)
  })

  test('a server that could not be inspected is a row with its reason, counts as drift, and hides no other server', () => {
    const failure = new Failure({
      reason: 'network',
      code: 'connection-timeout',
      title: 'No answer',
      detail: 'After 15 s.',
      fix: 'x',
    })
    const closed = { ...server('closed', []), failure }
    const unread = observedDatabase('unread', {
      extension: { installed: '1.3.1', available: undefined },
      mayRead: false,
      user: 'checker',
    })
    const result = fleet([closed, server('open', [unread, database('app', onOpenAi('managed-identity'))])])
    expect(
      result.rows.map(({ server: id, database: name, reason, keyStored }) => [id.split('/').at(-1), name, reason, keyStored]),
    ).toEqual([
      ['closed', '', 'No answer', null],
      ['open', 'unread', 'The role "checker" may not read the settings of azure_ai', null],
      ['open', 'app', '', false],
    ])
    expect(result.counts).toMatchObject({ storedKeys: 0, notInspected: 2, onIdentity: 1 })
    expect(hasDrift(result.counts)).toBe(true)
    expect(codes(result)).toEqual(['not-inspected', 'not-inspected'])
  })

  test('when nothing could be read, the number of stored keys is unknown, not 0', () => {
    const failure = new Failure({ reason: 'network', code: 'dns', title: 'Unknown name', detail: '', fix: '' })
    expect(fleet([{ ...server('closed', []), failure }]).counts.storedKeys).toBeNull()
    expect(fleet([]).counts).toMatchObject({ storedKeys: 0, servers: 0 })
  })

  test('with every family on the identity and no key stored there is no drift, no finding and no entry', () => {
    const result = fleet([server('pg', [database('app', onOpenAi('managed-identity'))])])
    expect(hasDrift(result.counts)).toBe(false)
    expect(codes(result)).toEqual([])
    expect(matrixJson(result.matrix)).toBe('{"include":[]}')
  })
})

describe('the matrix', () => {
  test('databases that use the same resources share an entry; others have their own, with a unique name', () => {
    const both = {
      ...onOpenAi('subscription-key'),
      'azure_cognitive.endpoint': 'https://shop-language.cognitiveservices.azure.com',
    }
    const { matrix } = fleet([
      server('pg', [
        database('a', onOpenAi('subscription-key'), [openAiKey]),
        database('b', both, [openAiKey]),
        database('c', onOpenAi('managed-identity'), [openAiKey]),
        database('done', onOpenAi('managed-identity')),
      ]),
    ])
    expect(brief(matrix)).toEqual(['pg: a c', 'pg-2: b'])
    expect(matrix.include[1]).toEqual({
      ...{ name: 'pg-2', server: server('pg', []).server.id, databases: 'b', openai: openai.id, cognitive: language.id },
      ...{ translator: '', 'machine-learning': '', ranking: '' },
    })
  })

  test('servers of one name have entries of different names, whatever their case', () => {
    const other = server('PG', [database('a', onOpenAi('subscription-key'))], {
      id: `${group('2')}/Microsoft.DBforPostgreSQL/flexibleServers/PG`,
    })
    const third = server('pg-2', [database('a', onOpenAi('subscription-key'))])
    const names = fleet([server('pg', [database('a', onOpenAi('subscription-key'))]), other, third]).matrix.include.map(
      ({ name }) => name,
    )
    expect(new Set(names.map((name) => name?.toLowerCase())).size).toBe(3)
  })

  test('it has at most 256 entries, those with stored keys first, and a finding names how many are left out', () => {
    const servers = Array.from({ length: 300 }, (_, index) => {
      const name = `pg-${String(index).padStart(3, '0')}`
      return server(name, [database('a', onOpenAi('subscription-key'), index >= 290 ? [openAiKey] : [])])
    })
    const result = fleet(servers)
    expect(result.matrix.include.length).toBe(256)
    expect(result.matrix.include.slice(0, 11).map(({ name }) => name)).toEqual([
      ...Array.from({ length: 10 }, (_, index) => `pg-${290 + index}`),
      'pg-000',
    ])
    expect(inventoryFindings(result.inventory, result.matrix).find(({ code }) => code === 'matrix-cut')?.detail).toMatch(
      /^44 entries/,
    )
  })

  test('stays below the size of an output', () => {
    const many = Array.from({ length: 1_000 }, (_, index) => database(`${'d'.repeat(55)}${index}`, onOpenAi('subscription-key')))
    const result = fleet(Array.from({ length: 40 }, (_, index) => server(`pg-${index}`, many)))
    expect(Buffer.byteLength(matrixJson(result.matrix))).toBeLessThan(900_000)
    expect(result.matrix.include.length + result.matrix.left).toBe(40)
    expect(result.matrix.left).toBeGreaterThan(0)
  })

  test('stays below the size of an output as GitHub counts it: two bytes for each UTF-16 unit', () => {
    const many = Array.from({ length: 100 }, (_, index) => database(`${'d'.repeat(57)}${index}`, onOpenAi('subscription-key')))
    const result = fleet(Array.from({ length: 256 }, (_, index) => server(`pg-${index}`, many)))
    expect(matrixJson(result.matrix).length * 2).toBeLessThan(1_000_000)
    expect(result.matrix.left).toBeGreaterThan(0)
  })

  test('a server with too many databases for one entry has several entries, and the other servers keep theirs', () => {
    const names = Array.from({ length: 20_000 }, (_, index) => `${'d'.repeat(57)}${index}`)
    const many = names.map((name) => database(name, onOpenAi('subscription-key'), [openAiKey]))
    const { matrix } = fleet([server('pg', many), server('pg-small', [database('a', onOpenAi('subscription-key'), [openAiKey])])])
    expect(matrix.include.length).toBeGreaterThan(1)
    // An input becomes an environment variable, which Linux limits to 128 KiB.
    for (const entry of matrix.include) expect(Buffer.byteLength(entry['databases'] ?? '')).toBeLessThan(128 * 1_024)
    expect(matrix.include.map(({ name }) => name)).toContain('pg-small')
  })

  test('a replica whose primary is not part of the inventory has no entry for keys, which only the primary can clear', () => {
    const keys = database('a', onOpenAi('subscription-key'), [openAiKey])
    const alone = (changes: Partial<Inspected['server']>) =>
      fleet([server('pg-replica', [keys], { isReplica: true, primary: `${group('2')}/x/y/pg`, ...changes })])
    expect(alone({}).matrix.include).toEqual([])
    expect(alone({}).counts.storedKeys).toBe(1)
    expect(brief(alone({ principalId: undefined, identityType: 'None' }).matrix)).toEqual(['pg-replica: a'])
  })

  test('a primary waits for a replica that lacks an identity or a role; the replica has the entry', () => {
    const primary = server('pg', [database('a', onOpenAi('subscription-key'), [openAiKey])])
    const replica = (changes: Partial<Inspected['server']>) =>
      server('pg-replica', [], { isReplica: true, primary: primary.server.id, ...changes })
    const lacking = fleet([primary, replica({ principalId: undefined, identityType: 'None' })])
    expect(brief(lacking.matrix)).toEqual(['pg-replica: a'])
    expect(codes(lacking)).toEqual(['identity-missing', 'replica-first'])
    const withoutRole = fleet([primary, replica({ principalId: '99999999-2222-4333-8444-555555555555' })])
    expect(brief(withoutRole.matrix)).toEqual(['pg-replica: a'])
    expect(codes(withoutRole)).toEqual(['role-missing', 'replica-first'])
    expect(brief(fleet([primary, replica({})]).matrix)).toEqual(['pg: a'])
    // A stopped replica cannot be set up; its primary waits nevertheless.
    expect(brief(fleet([primary, replica({ principalId: undefined, state: 'Stopped' })]).matrix)).toEqual([])
  })

  test("a replica's keys are not counted again, and its row names the primary whose settings it has", () => {
    const primary = server('pg', [database('a', onOpenAi('subscription-key'), [openAiKey])])
    const replica = server('a-replica', [], {
      isReplica: true,
      primary: primary.server.id.toUpperCase().replace('/SUBSCRIPTIONS', '/subscriptions'),
    })
    const { rows, counts } = fleet([replica, primary])
    expect(counts).toMatchObject({ servers: 2, databases: 1, storedKeys: 1, notInspected: 0 })
    expect(rows.map(({ server: id, reason }) => [id.split('/').at(-1), reason])).toEqual([
      ['a-replica', 'A read replica, which has the settings of pg'],
      ['pg', ''],
    ])
  })

  test('a missing identity, role or allow-list entry makes an entry, but no drift', () => {
    const app = database('a', onOpenAi('managed-identity'))
    const without = fleet([server('pg', [app], { principalId: undefined })])
    expect(brief(without.matrix)).toEqual(['pg: a'])
    expect(hasDrift(without.counts)).toBe(false)
    expect(codes(without)).toEqual(['identity-missing'])
    expect(codes(fleet([{ ...server('pg', [app]), isAllowed: false }]))).toEqual(['azure-ai-not-allowed'])
    const noRole = inventoryOf({
      servers: [server('pg', [app])],
      resources: [openai],
      assignments: new Map([[openai.id.toLowerCase(), []]]),
    })
    expect(brief(matrixOf(noRole))).toEqual(['pg: a'])
    const unread = inventoryOf({ servers: [server('pg', [app])], resources: [openai], assignments: new Map() })
    expect(brief(matrixOf(unread))).toEqual([])
    expect(inventoryFindings(unread, matrixOf(unread)).map(({ code }) => code)).toEqual(['roles-not-read'])
  })

  test.each(['a,b', 'a\nb', ' a', '*'])('a database called %j gets no entry, and a finding explains why', (name) => {
    const result = fleet([
      server('pg', [database(name, onOpenAi('subscription-key')), database('b', onOpenAi('subscription-key'))]),
    ])
    expect(brief(result.matrix)).toEqual(['pg: b'])
    expect(codes(result)).toEqual(['not-in-matrix'])
  })

  test('a key that belongs to no visible resource gets no entry, because a run would change nothing', () => {
    const settings = { ...onOpenAi('managed-identity'), 'azure_cognitive.endpoint': 'https://contoso.azure-api.net' }
    const result = fleet([server('pg', [database('a', settings, ['azure_cognitive.subscription_key'])])])
    expect(result.matrix.include).toEqual([])
    expect(hasDrift(result.counts)).toBe(true)
  })
})
