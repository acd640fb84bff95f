import { describe, expect, test, vi } from 'vitest'
import { assignmentName } from '../../src/azure/roles.ts'
import { givesRole, type RoleAssignment } from '../../src/core/observed.ts'
import { isOlder } from '../../src/core/offered.ts'
import { desiredSettings, namedFamilies, plan } from '../../src/core/plan.ts'
import { preconditions } from '../../src/core/preconditions.ts'
import { embeddingDeployment } from '../../src/core/services.ts'
import { sameValue } from '../../src/core/setting-values.ts'
import { differs, type Step } from '../../src/core/steps.ts'
import type { Deployment } from '../../src/core/test-query.ts'
import { backoff, mapLimited, pause, retrying } from '../../src/lib/retry.ts'
import { duration } from '../../src/lib/timeout.ts'
import { ids, observed, observedDatabase, observedServer, parsed } from '../support/support.ts'

const principalId = '11111111-2222-4333-8444-555555555555'
const roles = {
  openai: '5e0bd9bd-7b93-4f28-af87-19fc36ad61bd',
  cognitive: 'a97b65f3-24c7-4388-baec-2e87135dc908',
  'machine-learning': 'f6c7c914-8db3-469d-8ca1-694a8f32e121',
  owner: '8e3af657-a8ff-443c-a75c-2fe8c4bcb635',
}
const assigned = (scope: string, roleId: string, changes: Partial<RoleAssignment> = {}): RoleAssignment => ({
  id: `${scope}/providers/Microsoft.Authorization/roleAssignments/x`,
  scope,
  principalId,
  reaches: undefined,
  roleId,
  description: undefined,
  createdOn: undefined,
  ...changes,
})
const withIdentity = observedServer({ principalId, identityType: 'SystemAssigned' })
const ofId = (steps: readonly Step[], id: string): Step => {
  const found = steps.find((step) => step.id === id)
  if (found === undefined) throw new Error(`no step ${id} among ${steps.map((step) => step.id).join(', ')}`)
  return found
}

describe('the plan', () => {
  test('from nothing it has identity, roles, allow-list, extension, restart, then settings by name', () => {
    const steps = plan(parsed({ 'allow-restart': 'true' }), observed())
    expect(steps.map((step) => step.id)).toEqual([
      'identity',
      'role/openai',
      'role/cognitive',
      'role/translator',
      'role/machine-learning',
      'allow-list',
      'app/extension',
      'restart',
      'app/azure_cognitive.auth_type',
      'app/azure_cognitive.endpoint',
      'app/azure_cognitive.region',
      'app/azure_cognitive.translator_resource_id',
      'app/azure_ml.auth_type',
      'app/azure_ml.scoring_endpoint',
      'app/azure_openai.auth_type',
      'app/azure_openai.endpoint',
    ])
    expect(steps.every(differs)).toBe(true)
    expect(steps.every((step) => step.change !== undefined)).toBe(true)
  })

  test('does not depend on the order in which Azure and PostgreSQL list things', () => {
    const other = ['sales', 'app', 'crm']
    const inputs = parsed({ databases: other.join(',') })
    const databases = other.map((name) =>
      observedDatabase(name, { settings: new Map([['azure_cognitive.region', 'West Europe']]) }),
    )
    const list = [
      assigned(ids.openai, roles.openai),
      assigned(ids.openai, roles.owner),
      assigned('/subscriptions/3c0b9a52-6d1f-4f7e-a1f4-8e5d70b6c219', roles.owner),
    ]
    const one = observed({ server: withIdentity, databases, roleAssignments: new Map([['openai', list]]) })
    const two = observed({
      server: withIdentity,
      databases: databases.toReversed(),
      resources: new Map([...one.resources].toReversed()),
      roleAssignments: new Map([['openai', list.toReversed()]]),
    })
    expect(plan(inputs, two)).toEqual(plan(inputs, one))
  })

  test('a value that is set already is in sync, whatever its case and trailing slash', () => {
    const settings = new Map([
      ['azure_openai.auth_type', 'managed-identity'],
      ['azure_openai.endpoint', 'https://AI-one.openai.azure.com/'],
      ['azure_cognitive.auth_type', 'managed-identity'],
      ['azure_cognitive.endpoint', 'https://language-one.cognitiveservices.azure.com'],
      ['azure_cognitive.region', 'westeurope'],
      ['azure_cognitive.translator_resource_id', `${ids.translator.toUpperCase()}/`],
      ['azure_ml.auth_type', 'managed-identity'],
      ['azure_ml.scoring_endpoint', 'https://score-one.swedencentral.inference.ml.azure.com/score'],
    ])
    const steps = plan(
      parsed(),
      observed({
        server: withIdentity,
        allowList: ['AZURE_AI', 'vector'],
        databases: [observedDatabase('app', { settings, extension: { installed: '1.3.1', available: '1.3.1' } })],
        roleAssignments: new Map([
          ['openai', [assigned(ids.openai.toUpperCase(), roles.openai)]],
          ['cognitive', [assigned(ids.cognitive, roles.cognitive, { principalId: principalId.toUpperCase() })]],
          ['translator', [assigned(ids.translator, roles.cognitive)]],
          ['machine-learning', [assigned(ids['machine-learning'], roles['machine-learning'])]],
        ]),
      }),
    )
    expect(steps.filter(differs)).toEqual([])
    expect(steps.filter((step) => step.change !== undefined)).toEqual([])
  })

  test('the allow-list keeps its entries and gets azure_ai at the end', () => {
    const step = ofId(plan(parsed(), observed({ allowList: ['pg_trgm', 'vector', 'azure_storage'] })), 'allow-list')
    expect(step.change).toEqual({ kind: 'allow-list', entries: ['pg_trgm', 'vector', 'azure_storage', 'azure_ai'] })
    // A name that only begins with azure_ai is another extension.
    expect(ofId(plan(parsed(), observed({ allowList: ['azure_ai_x'] })), 'allow-list').status).toBe('different')
  })

  test('a restart that is not allowed differs and has no change', () => {
    const step = ofId(plan(parsed(), observed()), 'restart')
    expect(step).toMatchObject({ status: 'missing', detail: '`allow-restart` is false' })
    expect(step.change).toBeUndefined()
    expect(ofId(plan(parsed(), observed({ server: withIdentity })), 'restart').status).toBe('in-sync')
  })

  test('part: azure and part: database skip the steps of the other part, with the reason and without a change', () => {
    const azure = plan(parsed({ part: 'azure' }), observed({ databases: [] }))
    for (const step of azure.filter(({ kind }) => kind === 'extension' || kind === 'setting')) {
      expect(step).toMatchObject({ status: 'skipped', detail: 'part: azure runs no SQL' })
      expect(step.change).toBeUndefined()
    }
    expect(ofId(azure, 'identity').status).toBe('missing')

    const database = plan(parsed({ part: 'database' }), observed())
    for (const step of database.filter(({ kind }) => kind !== 'extension' && kind !== 'setting')) {
      expect(step).toMatchObject({ status: 'skipped', detail: 'part: database writes nothing in Resource Manager' })
      expect(step.change).toBeUndefined()
    }
    expect(ofId(database, 'app/azure_openai.endpoint').status).toBe('missing')
  })

  test('a read replica gets identity, roles and restart, and no settings', () => {
    const steps = plan(parsed(), observed({ server: observedServer({ isReplica: true }), databases: [] }))
    expect(ofId(steps, 'identity').change).toEqual({ kind: 'identity' })
    expect(ofId(steps, 'app/azure_ml.auth_type')).toMatchObject({
      status: 'skipped',
      detail: 'a read replica has the settings of its primary',
    })
  })

  test('translator alone sets its own endpoint; together with cognitive, that account sets it', () => {
    const alone = desiredSettings(parsed({ openai: '', cognitive: '', 'machine-learning': '' }), observed().resources)
    expect(Object.fromEntries(alone.map(({ setting, value }) => [setting, value]))).toEqual({
      'azure_cognitive.auth_type': 'managed-identity',
      // The global host that the resource shows accepts no token.
      'azure_cognitive.endpoint': 'https://translator-one.cognitiveservices.azure.com',
      'azure_cognitive.region': 'westeurope',
      'azure_cognitive.translator_resource_id': ids.translator,
    })
    const both = desiredSettings(parsed({ openai: '', 'machine-learning': '' }), observed().resources)
    expect(both.find(({ setting }) => setting === 'azure_cognitive.endpoint')?.value).toBe(
      'https://language-one.cognitiveservices.azure.com',
    )
    expect(both.filter(({ setting }) => setting === 'azure_cognitive.auth_type')).toHaveLength(1)
    expect(namedFamilies(parsed()).map(({ family, services }) => [family.name, services.map(({ name }) => name)])).toEqual([
      ['azure_openai', ['openai']],
      ['azure_cognitive', ['cognitive', 'translator']],
      ['azure_ml', ['machine-learning']],
    ])
  })

  test('the extension is updated only with update-extension and when a newer version is available', () => {
    const database = (installed: string, available: string) =>
      observed({ databases: [observedDatabase('app', { extension: { installed, available } })] })
    expect(ofId(plan(parsed(), database('1.0.0', '1.3.1')), 'app/extension').status).toBe('in-sync')
    const step = ofId(plan(parsed({ 'update-extension': 'true' }), database('1.0.0', '1.3.1')), 'app/extension')
    expect(step).toMatchObject({ status: 'different', change: { statement: 'update' } })
    expect(ofId(plan(parsed({ 'update-extension': 'true' }), database('1.10.0', '1.9.3')), 'app/extension').status).toBe(
      'in-sync',
    )
  })
})

describe('role assignments', () => {
  test('an assignment at the resource or an ancestor counts; one at a sibling, child or namesake, or of another principal, does not', () => {
    const scope = ids.openai
    const satisfying = [
      scope,
      scope.toUpperCase(),
      `${scope}/`,
      scope.slice(0, scope.indexOf('/providers')),
      '/subscriptions/3c0b9a52-6d1f-4f7e-a1f4-8e5d70b6c219',
      '/providers/Microsoft.Management/managementGroups/contoso',
      '/',
    ]
    for (const each of satisfying)
      expect([each, givesRole(assigned(each, roles.openai), principalId, roles.openai, scope)]).toEqual([each, true])
    const others = [`${scope}-2`, `${scope}/deployments/a`, ids.cognitive, `${scope.slice(0, scope.indexOf('/providers'))}-2`]
    for (const each of others)
      expect([each, givesRole(assigned(each, roles.openai), principalId, roles.openai, scope)]).toEqual([each, false])
    expect(givesRole(assigned(scope, roles.openai), 'other', roles.openai, scope)).toBe(false)
  })

  test('a broader role does not replace the narrower one', () => {
    expect(givesRole(assigned(ids.openai, roles.owner), principalId, roles.openai, ids.openai)).toBe(false)
    expect(givesRole(assigned(ids.openai, roles.cognitive), principalId, roles.openai, ids.openai)).toBe(false)
  })

  test('the name is that of guid() in Bicep for scope, principal and role, whatever their case', () => {
    expect(assignmentName('a', 'b', 'c')).toBe('a98fa280-e03f-5afa-8d8e-92d0a9c201e8')
    expect(assignmentName('A', 'b', 'C')).toBe('a98fa280-e03f-5afa-8d8e-92d0a9c201e8')
    expect(assignmentName('a', 'd', 'c')).not.toBe(assignmentName('a', 'b', 'c'))
  })
})

describe('values', () => {
  test('endpoints are equal regardless of trailing slash and case of the host; the case of the path matters', () => {
    expect(sameValue('azure_openai.endpoint', 'https://A.openai.azure.com/', 'https://a.openai.azure.com')).toBe(true)
    expect(sameValue('azure_ml.scoring_endpoint', 'https://a.x.com/score', 'https://a.x.com/Score')).toBe(false)
    expect(sameValue('azure_openai.endpoint', 'https://a.openai.azure.com', 'http://a.openai.azure.com')).toBe(false)
    expect(sameValue('azure_openai.endpoint', 'nonsense', 'nonsense')).toBe(true)
  })

  test('resource ids are equal regardless of case; other values only when they are identical, or a service treats them alike', () => {
    expect(sameValue('azure_cognitive.translator_resource_id', '/Subscriptions/X/', '/subscriptions/x')).toBe(true)
    expect(sameValue('azure_cognitive.region', 'West Europe', 'westeurope')).toBe(false)
    expect(sameValue('azure_openai.endpoint', 'https://a.openai.azure.com\n', 'https://a.openai.azure.com')).toBe(false)
    expect(sameValue('azure_openai.auth_type', 'Managed-Identity', 'managed-identity')).toBe(false)
  })

  test('versions compare number by number', () => {
    expect(isOlder('1.9.3', '1.10.0')).toBe(true)
    expect(isOlder('1.10.0', '1.9.3')).toBe(false)
    expect(isOlder('2.0', '2.0.0')).toBe(false)
    expect(isOlder('1.3.1', '1.3.1')).toBe(false)
    expect(isOlder('1.3', '1.3.1')).toBe(true)
  })

  test('the embedding query uses the first deployment by name that can embed, else any', () => {
    const deployment = (name: string, model: string, capabilities: Record<string, string> = {}): Deployment => ({
      name,
      model,
      capabilities,
    })
    const chat = deployment('a-chat', 'gpt-4o')
    const small = deployment('z-small', 'text-embedding-3-small')
    const ada = deployment('m-old', 'text-embedding-ada-002')
    const odd = deployment('b-odd', 'cohere-vectors', { embeddings: 'true' })
    expect(embeddingDeployment([small, chat, ada])?.name).toBe('m-old')
    expect(embeddingDeployment([small, ada, odd])?.name).toBe('b-odd')
    expect(embeddingDeployment([chat])?.name).toBe('a-chat')
    expect(embeddingDeployment([])).toBeUndefined()
  })

  test('durations are shown in words', () => {
    expect([duration(900), duration(12_400), duration(60_000), duration(200_000)]).toEqual([
      '0.9 s',
      '12 s',
      '1 min',
      '3 min 20 s',
    ])
  })
})

describe('the retry policy', () => {
  const schedule = { baseMs: 100, capMs: 1_000, budgetMs: 60_000 }
  const { signal } = new AbortController()

  test('waits double from the base up to the cap, with a jitter of a quarter either way', () => {
    const even = () => 0.5
    expect([1, 2, 3, 4, 5, 50].map((attempt) => backoff(schedule, attempt, even))).toEqual([100, 200, 400, 800, 1_000, 1_000])
    expect(backoff(schedule, 1, () => 0)).toBe(75)
    expect(backoff(schedule, 1, () => 1)).toBe(125)
  })

  test('Retry-After counts, but no longer than the cap', async () => {
    const waits: number[] = []
    let left = 2
    const work = () => (left-- > 0 ? Promise.reject(new Error('busy')) : Promise.resolve('done'))
    const short = { ...schedule, capMs: 20 }
    await expect(
      retrying(work, {
        signal,
        verdict: () => ({ schedule: short, afterMs: left === 1 ? 5 : 3_600_000 }),
        onWait: (_, ms) => waits.push(ms),
      }),
    ).resolves.toBe('done')
    // Never less than Retry-After, and a little more, so that callers with the same value do not retry at the same time.
    expect(waits[0]).toBeGreaterThanOrEqual(5)
    expect(waits[0]).toBeLessThanOrEqual(6)
    expect(waits[1]).toBeGreaterThanOrEqual(20)
    expect(waits[1]).toBeLessThanOrEqual(25)
  })

  test('gives up when the budget is spent, with the error itself', async () => {
    let tries = 0
    const work = () => {
      tries++
      return Promise.reject(new Error('still busy'))
    }
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    try {
      const spent = { baseMs: 10, capMs: 10, budgetMs: 35 }
      const ended = retrying(work, { signal, verdict: () => ({ schedule: spent }), onWait: () => undefined }).catch(String)
      await vi.advanceTimersByTimeAsync(spent.budgetMs)
      expect(await ended).toBe('Error: still busy')
    } finally {
      vi.useRealTimers()
    }
    // Waits of 8 to 12 ms each.
    expect(tries).toBeGreaterThanOrEqual(3)
    expect(tries).toBeLessThanOrEqual(5)
  })

  test('an abort ends a wait immediately, with the reason of the abort', async () => {
    const controller = new AbortController()
    const wait = pause(60_000, controller.signal)
    controller.abort(new Error('enough'))
    await expect(wait).rejects.toThrow('enough')
    await expect(pause(1, controller.signal)).rejects.toThrow('enough')
  })

  test('mapLimited keeps the order and never runs more than the limit at once', async () => {
    let now = 0
    let most = 0
    const result = await mapLimited([30, 5, 20, 1, 10], 2, async (ms, index) => {
      most = Math.max(most, ++now)
      await new Promise((resolve) => setTimeout(resolve, ms))
      now--
      return index * 10
    })
    expect(result).toEqual([0, 10, 20, 30, 40])
    expect(most).toBe(2)
  })
})

describe('preconditions', () => {
  const codesFor = (...changes: Parameters<typeof observed>) => {
    const state = observed(...changes)
    return preconditions(parsed(), state, plan(parsed(), state)).map(({ code }) => code)
  }

  test('a fresh server has no problem', () => {
    expect(codesFor()).toEqual([])
  })

  test('a PostgreSQL version without azure_ai and a read-only database are reported', () => {
    expect(codesFor({ databases: [observedDatabase('app', { serverVersion: 11 })] })).toEqual(['postgres-too-old'])
    expect(codesFor({ databases: [observedDatabase('app', { isReadOnly: true })] })).toEqual(['read-only-database'])
  })

  test('an elastic cluster is a problem only while it has no identity', () => {
    expect(codesFor({ server: observedServer({ isElasticCluster: true }) })).toEqual(['elastic-cluster'])
    expect(codesFor({ server: observedServer({ isElasticCluster: true, principalId, identityType: 'SystemAssigned' }) })).toEqual(
      [],
    )
  })

  test('every problem has a fix', () => {
    const state = observed({
      server: observedServer({ state: 'Stopped', isElasticCluster: true, entraAuthentication: false }),
      databases: [observedDatabase('app', { mayCreateExtension: false })],
    })
    const problems = preconditions(parsed(), state, plan(parsed(), state))
    expect(problems.map(({ code }) => code)).toEqual([
      'server-not-ready',
      'elastic-cluster',
      'entra-authentication-off',
      'may-not-create-extension',
    ])
    for (const problem of problems) expect(problem.fix).not.toBe('')
  })
})
