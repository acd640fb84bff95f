import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/index.ts'
import type { InputName } from '../../src/core/input-names.ts'
import { parseInputs, unusedInputs } from '../../src/core/inputs.ts'
import { Failure } from '../../src/errors/failure.ts'
import { parseResourceId } from '../../src/lib/resource-id.ts'
import { apply, emulate, ids, parsed, rawInputs, removeJobs, settingsOf } from '../support/support.ts'

/** The problems reported for these inputs, one line each; empty when they are accepted. */
function problems(inputs: Partial<Record<InputName, string>>): string[] {
  try {
    parseInputs(rawInputs(inputs))
    return []
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    expect(error.reason).toBe('input')
    return error.detail.split('\n')
  }
}

describe('resource ids', () => {
  test('an id of HorizonDB is refused as one of another product', () => {
    const server = '/subscriptions/3c0b9a52-6d1f-4f7e-a1f4-8e5d70b6c219/resourceGroups/g/providers/Microsoft.HorizonDB/clusters/c'
    expect(problems({ server }).join()).toContain('HorizonDB is another product')
  })

  test('an id is parsed regardless of case and trailing slash', () => {
    expect(parseResourceId(`${ids.server.toUpperCase()}/`)).toMatchObject({
      resourceGroup: 'RG',
      type: 'MICROSOFT.DBFORPOSTGRESQL/FLEXIBLESERVERS',
      name: 'PG-ONE',
    })
    expect(parseResourceId(ids['machine-learning'])).toMatchObject({
      type: 'Microsoft.MachineLearningServices/workspaces/onlineEndpoints',
      names: ['ml-one', 'score-one'],
      name: 'score-one',
    })
    expect(parsed({ server: `${ids.server.toLowerCase()}//` }).server.name).toBe('pg-one')
  })

  test('a text that is not a resource id is refused', () => {
    for (const text of [
      '',
      '/',
      'pg-one',
      ids.server.slice(1),
      ids.server.replace('3c0b9a52-6d1f-4f7e-a1f4-8e5d70b6c219', 'my-subscription'),
      `${ids.server}/databases`,
      ids.server.replace('/pg-one', ''),
      `${ids.server}/../other/x`,
      ids.server.replace('pg-one', 'pg one'),
      `https://management.azure.com${ids.server}`,
      `${ids.server}?x=1`,
    ]) {
      expect([text, parseResourceId(text)]).toEqual([text, undefined])
    }
  })
})

describe('the message for a bad input names the input and what is expected', () => {
  const cases: [string, Partial<Record<InputName, string>>, RegExp][] = [
    [
      'an unknown mode',
      { mode: 'destroy' },
      /^`mode`: "destroy" is not known; expected `apply` or `check` or `verify` or `inventory`/,
    ],
    ['an unknown part', { part: 'sql' }, /^`part`: .*`azure`/],
    ['an unknown auth-type', { 'auth-type': 'keys' }, /^`auth-type`: .*`managed-identity`/],
    ['no server', { server: '' }, /^`server`: is required/],
    [
      'a server that is no resource id',
      { server: 'pg-one' },
      /^`server`: "pg-one" is not a resource id; expected `\/subscriptions\/.*flexibleServers\/NAME`/,
    ],
    [
      'an account as server',
      { server: ids.openai },
      /^`server`: is the id of a `Microsoft.CognitiveServices\/accounts`; expected `Microsoft.DBforPostgreSQL\/flexibleServers`/,
    ],
    ['a server as account', { openai: ids.server }, /^`openai`: is the id of a `Microsoft.DBforPostgreSQL\/flexibleServers`/],
    [
      'a model as online endpoint',
      { 'machine-learning': `${ids['machine-learning']}/deployments/blue` },
      /^`machine-learning`: is the id of/,
    ],
    ['no service', { openai: '', cognitive: '', translator: '', 'machine-learning': '' }, /no service is named/],
    ['a role by name', { 'openai-role': 'Cognitive Services OpenAI User' }, /^`openai-role`: .*GUID/],
    ['no database', { databases: ' ,\n ' }, /^`databases`: is required/],
    ['every database', { databases: '*' }, /^`databases`: `\*` is allowed in `check`, `verify` and `inventory` only/],
    ['every database and one more', { databases: 'app,*' }, /^`databases`: `\*` stands alone/],
    ['a database name that PostgreSQL would cut', { databases: 'ä'.repeat(32) }, /^`databases`: .*63 bytes/],
    ["a database of Azure's own", { databases: 'azure_maintenance' }, /^`databases`: .*belongs to Azure/],
    ['no number of minutes', { 'verify-timeout-minutes': 'ten' }, /^`verify-timeout-minutes`: "ten" is not a number of minutes/],
    ['a negative number of minutes', { 'verify-timeout-minutes': '-1' }, /^`verify-timeout-minutes`/],
    ['more than six hours', { 'verify-timeout-minutes': '361' }, /^`verify-timeout-minutes`/],
    [
      'a flag that is neither true nor false',
      { 'allow-restart': 'yes' },
      /^`allow-restart`: "yes" is not known; expected `true` or `false`/,
    ],
    ['what is not JSON', { 'machine-learning-input': '{"a":' }, /^`machine-learning-input`: is not JSON/],
    ['an unknown cloud', { environment: 'AzureGermanCloud' }, /^`environment`: .*`AzureCloud`/],
    ['a Resource Manager without TLS', { environment: 'http://localhost:1' }, /^`environment`/],
    ['a Resource Manager with a password in its URL', { environment: 'https://u:p@localhost' }, /^`environment`/],
    ['tenant-id alone', { 'tenant-id': 'contoso.onmicrosoft.com' }, /^`client-id`: .*belong together/],
    ['client-id alone', { 'client-id': '7e4b2d18-3f60-4c9a-8d25-b1a6f0c3e974' }, /^`tenant-id`: .*belong together/],
    ['a client id that is a name', { 'tenant-id': 'contoso.com', 'client-id': 'deployer' }, /^`client-id`: .*GUID/],
    ['a port out of range', { 'database-port': '65536' }, /^`database-port`: .*1 to 65535/],
    ['a host that is a URL', { 'database-host': 'postgres://localhost' }, /^`database-host`: .*host name/],
    ['a line break where none is allowed', { 'database-user': 'one\ntwo' }, /^`database-user`: contains a line break/],
    [
      'more text than anything needs',
      { 'machine-learning-input': JSON.stringify('x'.repeat(70_000)) },
      /^`machine-learning-input`: .*65,536/,
    ],
  ]
  test.each(cases)('%s', (_, inputs, expected) => {
    const found = problems(inputs)
    expect(found).toEqual([expect.stringMatching(expected)])
    // A message must not end its code span or its line.
    expect(found.join('\n').match(/`/g)?.length).toSatisfy((count: number) => count % 2 === 0)
  })

  test.each([
    ['Owner', '8e3af657-a8ff-443c-a75c-2fe8c4bcb635'],
    ['User Access Administrator', '18d7d88d-d35e-4fb5-a5c3-7773c20a72d9'],
    ['Role Based Access Control Administrator', 'f58310d9-a9f6-439a-9e8d-f62e7b41a168'],
  ])('the role %s, which can assign roles, for every service and in any case', (role, id) => {
    for (const service of ['openai', 'cognitive', 'translator', 'machine-learning'] as const) {
      for (const spelling of [id, id.toUpperCase()]) {
        expect(problems({ [`${service}-role`]: spelling })).toEqual([
          expect.stringMatching(
            new RegExp(`^\`${service}-role\`: is the id of ${role}, a role that can assign roles: .* without this input`),
          ),
        ])
        // A role without its service has no effect, but is refused: the service may be added later.
        expect(problems({ [service]: '', [`${service}-role`]: spelling })).toHaveLength(1)
      }
    }
  })

  const app = { 'tenant-id': 'contoso.com', 'client-id': '7e4b2d18-3f60-4c9a-8d25-b1a6f0c3e974' }
  const arm = 'https://arm.contoso.example'

  test('a URL as environment without an audience of its own, when the job signs in with its OIDC token', () => {
    expect(problems({ ...app, environment: arm })).toEqual([
      expect.stringMatching(/^`audience`: is required when `environment` is a URL/),
    ])
    expect(problems({ environment: arm })).toEqual([])
    expect(problems({ ...app, environment: arm, audience: 'api://contoso' })).toEqual([])
  })

  test.each([
    'api://AzureADTokenExchange',
    'api://AzureADTokenExchangeUSGov',
    'api://AzureADTokenExchangeChina',
    'API://azureadtokenexchange//',
    'api://AzureAD%54okenExchange',
    'api://\uff21zureADTokenExchange',
    'api://contoso,api://AzureADTokenExchange',
    'https://management.azure.com',
    'https://LOGIN.microsoftonline.us./tenant',
    'https://ossrdbms-aad.database.chinacloudapi.cn',
  ])("an audience of Azure's own clouds for a URL: %s", (audience) => {
    expect(problems({ ...app, environment: arm, audience })).toEqual([
      expect.stringMatching(/^`audience`: .* belongs to one of Azure's own clouds/),
    ])
    // Without the app it is not used.
    expect(problems({ environment: arm, audience })).toEqual([])
  })

  test('all problems are reported together', () => {
    const found = problems({
      mode: 'x',
      server: ids.openai,
      databases: '',
      'database-port': '0',
      'allow-restart': 'no',
      environment: 'moon',
    })
    expect(found.map((line) => /^`([^`]+)`/.exec(line)?.[1]).sort()).toEqual(
      ['allow-restart', 'database-port', 'databases', 'environment', 'mode', 'server'].sort(),
    )
  })

  test('a long value is shown in part', () => {
    const [line = ''] = problems({ server: 'x'.repeat(5_000) })
    expect(line.length).toBeLessThan(400)
  })
})

describe('what is accepted', () => {
  test('databases separated by lines or commas, each once, in their order; any name that PostgreSQL accepts', () => {
    expect(parsed({ databases: 'b, a\n\n b,sales 2026\n%s::set-output name=a::b\nträume' }).databases).toEqual([
      'b',
      'a',
      'sales 2026',
      '%s::set-output name=a::b',
      'träume',
    ])
    expect(parsed({ databases: '', part: 'azure' }).databases).toEqual([])
  })

  test('words and clouds in any case, decimals of minutes, a cloud by URL', () => {
    const inputs = parsed({
      mode: 'APPLY',
      part: 'All',
      environment: 'AZURECLOUD',
      'verify-timeout-minutes': '0.5',
      'allow-restart': 'True',
    })
    expect(inputs).toMatchObject({
      mode: 'apply',
      part: 'all',
      environment: 'azurecloud',
      verifyTimeoutMs: 30_000,
      allowRestart: true,
    })
    expect(parsed({ environment: 'https://Arm.Local:8443/' }).environment).toBe('https://arm.local:8443')
    expect(parsed({ 'verify-timeout-minutes': '0' }).verifyTimeoutMs).toBe(0)
  })

  test.each([
    ['AzureCloud', ''],
    ['https://Management.Azure.com/', ''],
    ['https://management.azure.com:443', ''],
    ['azureusgovernment', 'USGov'],
    ['https://management.usgovcloudapi.net', 'USGov'],
    ['AzureChinaCloud', 'China'],
    ['HTTPS://MANAGEMENT.CHINACLOUDAPI.CN//', 'China'],
  ])('the audience of %s, by its name or the URL of its Resource Manager', (environment, ending) => {
    const app = { 'tenant-id': 'contoso.com', 'client-id': '7e4b2d18-3f60-4c9a-8d25-b1a6f0c3e974' }
    expect(parsed({ ...app, environment }).oidc?.audience).toBe(`api://AzureADTokenExchange${ending}`)
    expect(parsed({ ...app, environment, audience: 'api://contoso' }).oidc?.audience).toBe('api://contoso')
  })

  test.each(['https://management.azure.com.', 'https://management.azure.com:444', 'https://management.azure.com/x'])(
    '%s is not taken for a known cloud',
    (environment) => {
      const app = { 'tenant-id': 'contoso.com', 'client-id': '7e4b2d18-3f60-4c9a-8d25-b1a6f0c3e974' }
      expect(problems({ ...app, environment })).toEqual([expect.stringMatching(/^`audience`: is required/)])
    },
  )

  test('a custom role replaces the built-in one, in lower case', () => {
    const own = 'ABCDEF01-2222-4333-8444-555555555555'
    const { services } = parsed({ 'openai-role': own })
    expect(services.find(({ service }) => service === 'openai')?.roleId).toBe(own.toLowerCase())
    expect(services.find(({ service }) => service === 'cognitive')?.roleId).toBe('a97b65f3-24c7-4388-baec-2e87135dc908')
  })

  test('inputs that have no effect with the others are reported, not refused', () => {
    const inputs = parsed({ openai: '', 'machine-learning': '', 'embedding-deployment': 'e', 'machine-learning-input': '{}' })
    expect(unusedInputs(inputs)).toEqual(expect.arrayContaining(['embedding-deployment', 'machine-learning-input']))
  })
})

describe('a run with bad inputs', () => {
  let emulator: Emulator
  beforeAll(async () => {
    emulator = await emulate({ databases: ['app'] })
  })
  afterAll(async () => {
    await removeJobs()
    await emulator?.stop()
  })

  test('sends no request, names every input, and writes outputs, report and summary', async () => {
    const before = emulator.world.exchanges.length
    const result = await apply(emulator, {
      server: emulator.world.accounts[0]?.id ?? '',
      databases: '',
      'database-port': 'five',
      'verify-timeout-minutes': 'long',
    })
    expect(emulator.world.exchanges.slice(before)).toEqual([])
    expect(result.code).toBe(1)
    expect(result.outputs).toMatchObject({
      result: 'failed',
      changed: 'false',
      verified: 'false',
      drift: 'true',
      'failure-reason': 'input',
      'principal-id': '',
    })
    expect(result.report).toMatchObject({ schemaVersion: 1, result: 'failed', failureReason: 'input', steps: [], queries: [] })
    const [finding] = result.report.findings
    for (const name of ['server', 'databases', 'database-port', 'verify-timeout-minutes']) {
      expect(finding.detail).toContain(`\`${name}\``)
    }
    expect(result.log).toMatch(/^::error title=4 inputs are wrong::/m)
    expect(result.summary).toContain('4 inputs are wrong')
    expect(await settingsOf(emulator, 'app')).toEqual({})
  })

  test('a key among the inputs is masked before anything else is logged, also when the inputs are refused', async () => {
    const key = 'k3y-of-an-account-0123456789'
    const result = await apply(emulator, { 'openai-key': key, 'database-password': 'line one\nline two', databases: '*,app' })
    expect(result.masked).toEqual(expect.arrayContaining([key, 'line one', 'line two']))
    expect(result.raw.indexOf(`::add-mask::${key}`)).toBeLessThan(result.raw.indexOf('::error'))
    expect(result.outputs['failure-reason']).toBe('input')
    const everything = result.log + result.summary + JSON.stringify(result.report) + JSON.stringify(result.outputs)
    expect(everything).not.toContain(key)
    expect(everything).not.toContain('line two')
  })
})
