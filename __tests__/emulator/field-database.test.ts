/** Behaviour of azure_ai and PostgreSQL that occurs in the field, tested in the emulator directly. Tests of the action use these switches. */
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { passwordLogin } from '../../emulator/postgres.ts'
import type { Switches } from '../../emulator/world.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import {
  accountNamed,
  begin,
  giveIdentity,
  giveRoles,
  identitySettings,
  putSettings,
  questions,
  workWithKeys,
} from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app'] })
const { world, postgres } = emulator
const embed = `SELECT azure_openai.create_embeddings('text-embedding-3-small', 'hello', timeout_ms => 2000) AS found`
const clients: pg.Client[] = []

beforeEach(() => begin(emulator))
afterEach(async () => {
  for (const client of clients.splice(0)) await client.end().catch(() => {})
})

/** The switches as they are set from now on. */
async function turn(switches: Partial<Switches>): Promise<void> {
  Object.assign(world.switches, switches)
  await postgres.applySwitches()
}

/** As superuser, in the database app. */
async function value(sql: string, parameters: unknown[] = []): Promise<unknown> {
  const [row] = await postgres.query('app', sql, parameters)
  return Object.values(row ?? {})[0]
}

/** The error of a statement or a connection, as `SQLSTATE text`. */
async function failing(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => undefined,
    (reason: Error & { code?: string }) => reason,
  )
  if (error === undefined) throw new Error('it succeeded')
  return `${error.code} ${error.message}`
}

async function connect(database = 'app', login = passwordLogin): Promise<pg.Client> {
  const client = new pg.Client({
    host: postgres.host,
    port: postgres.port,
    database,
    ...login,
    ssl: { rejectUnauthorized: false },
  })
  client.on('error', () => {})
  clients.push(client)
  await client.connect()
  return client
}

const setEndpoint = (endpoint: string): Promise<unknown> =>
  value(`SELECT azure_ai.set_setting('azure_openai.endpoint', $1)`, [endpoint])

describe('the error of a function', () => {
  const sample =
    'Requests to the Embeddings_Create Operation under Azure OpenAI API version 2024-03-01-preview have exceeded call rate limit of your current OpenAI S0 pricing tier. Please retry after 46 seconds.'

  beforeEach(() => workWithKeys(emulator, 'app'))

  test('is the one known sample with the wording wrapped', async () => {
    await turn({ wording: 'wrapped' })
    const body = JSON.stringify({ error: { code: '429', message: sample } })
    world.fault = ({ plane }) => (plane === 'ai' ? { kind: 'answer', status: 429, body } : undefined)
    expect(await failing(value(embed))).toBe(`XX000 azure_openai.create_embeddings: 429: ${sample}`)
  })

  const chat = embed.replace('text-embedding-3-small', 'gpt-4o-mini')
  const text = 'The embeddings operation does not work with the specified model, gpt-4o-mini.'
  test.each([
    ['own', 'Azure OpenAI request failed with status 400: {"error":{"code":"OperationNotSupported","message":"The embeddings'],
    ['wrapped', `azure_openai.create_embeddings: 400: ${text}`],
    ['wrapped-with-codes', `azure_openai.create_embeddings: 400: OperationNotSupported: ${text}`],
    ['unfamiliar-numbers', 'E-4030 upstream turned it away, attempt 200 (400)'],
  ] as const)('has a code in its text or not: %s', async (wording, start) => {
    await turn({ wording })
    expect(await failing(value(chat))).toContain(`XX000 ${start}`)
  })

  test.each([
    ['wrapped', 'azure_cognitive.analyze_sentiment: could not resolve host: trial.invalid'],
    ['unfamiliar-numbers', 'E-5041 upstream gone (500)'],
  ] as const)('has no status where there was no answer: %s', async (wording, whole) => {
    await turn({ wording })
    await value(`SELECT azure_ai.set_setting('azure_cognitive.endpoint', 'https://trial.invalid')`)
    expect(await failing(value(questions.azure_cognitive))).toBe(`XX000 ${whole}`)
  })

  test('names the function that was called', async () => {
    await turn({ wording: 'wrapped' })
    await value('DELETE FROM azure_ai.settings')
    const called = {
      'azure_openai.create_embeddings: azure_openai.endpoint is not set': questions.azure_openai,
      'azure_cognitive.analyze_sentiment: azure_cognitive.endpoint is not set': questions.azure_cognitive,
      'azure_cognitive.detect_language: azure_cognitive.endpoint is not set': `SELECT azure_cognitive.detect_language('good')`,
      'azure_cognitive.translate: azure_cognitive.endpoint is not set': `SELECT azure_cognitive.translate('good'::text, 'es'::text)`,
      'azure_ml.invoke: azure_ml.scoring_endpoint is not set': questions.azure_ml,
    }
    for (const [error, sql] of Object.entries(called)) expect(await failing(value(sql))).toBe(`XX000 ${error}`)
  })
})

describe('a host that cannot be reached', () => {
  beforeEach(async () => {
    await workWithKeys(emulator, 'app')
    await setEndpoint('https://trial.invalid')
  })

  test.each([
    ['dns', 'could not resolve host: trial.invalid'],
    ['proxy', '502: <html><head><title>502 Bad Gateway</title></head><body>502 Bad Gateway</body></html>'],
    ['wildcard', '404: Subdomain does not map to a resource.'],
    ['silence', 'request timed out after 2000 ms'],
  ] as const)('is answered as the network does: %s', async (deadHost, text) => {
    await turn({ deadHost, wording: 'wrapped' })
    const since = performance.now()
    expect(await failing(value(embed))).toBe(`XX000 azure_openai.create_embeddings: ${text}`)
    expect(performance.now() - since).toBeGreaterThanOrEqual(deadHost === 'silence' ? 1_990 : 0)
  })

  test.each(['own', 'wrapped'] as const)('in unfamiliar words with a number, whatever the wording is: %s', async (wording) => {
    await turn({ deadHost: 'unfamiliar', wording })
    expect(await failing(value(embed))).toBe('XX000 E-5041 upstream gone (500)')
  })
})

describe('create_embeddings is IMMUTABLE', () => {
  beforeEach(() => workWithKeys(emulator, 'app'))
  const answered = (): number => world.exchanges.filter(({ plane, status }) => plane === 'ai' && status === 200).length

  test('in a generated column, whose INSERT fails when the configuration breaks', async () => {
    await value(`CREATE TABLE docs (body text, embedding real[]
      GENERATED ALWAYS AS (azure_openai.create_embeddings('text-embedding-3-small', body)) STORED)`)
    await value(`INSERT INTO docs VALUES ('hello')`)
    expect(await value('SELECT cardinality(embedding) FROM docs')).toBe(1536)
    await setEndpoint('https://trial.invalid')
    expect(await failing(value(`INSERT INTO docs VALUES ('again')`))).toContain('could not resolve host')
    await value('DROP TABLE docs')
  })

  test('with constants once for a prepared statement, and before set_setting in the same statement', async () => {
    const client = await connect()
    await client.query(`PREPARE embed AS ${embed}`)
    await client.query('EXECUTE embed')
    await client.query('EXECUTE embed')
    expect(answered()).toBe(1)
    const both = `SELECT azure_ai.set_setting('azure_openai.endpoint', 'https://trial.invalid'), (${embed.replace(' AS found', '')})`
    await client.query(both)
    expect(answered()).toBe(2)
    expect(await failing(client.query(embed))).toContain('could not resolve host')
  })

  test('objects that use it block an update or a drop of the extension', async () => {
    await value('DROP EXTENSION azure_ai')
    await value(`CREATE EXTENSION azure_ai VERSION '1.3.1'`)
    await value(`CREATE TABLE docs (body text, embedding real[]
      GENERATED ALWAYS AS (azure_openai.create_embeddings('text-embedding-3-small', body)) STORED)`)
    expect(await failing(value('ALTER EXTENSION azure_ai UPDATE'))).toMatch(
      /^2BP01 cannot drop function azure_openai\.create_embeddings/,
    )
    expect(await failing(value('DROP EXTENSION azure_ai'))).toBe(
      '2BP01 cannot drop extension azure_ai because other objects depend on it',
    )
    expect(await value('SELECT azure_ai.version()')).toBe('1.3.1')
    await value('DROP TABLE docs')
  })
})

describe('settings', () => {
  beforeEach(() => workWithKeys(emulator, 'app'))

  test('get_setting may raise for what is not set', async () => {
    await turn({ unset: 'raises' })
    expect(await failing(value(`SELECT azure_ai.get_setting('azure_cognitive.region')`))).toBe(
      'XX000 the setting azure_cognitive.region is not set',
    )
    expect(await value(`SELECT azure_ai.get_setting('azure_openai.auth_type')`)).toBe('subscription-key')
  })

  test('an unknown name may be an invalid one', async () => {
    const get = `SELECT azure_ai.get_setting('azure_openai.api_key')`
    expect(await failing(value(get))).toBe('XX000 azure_openai.api_key is not a valid configuration key')
    await turn({ unknownSetting: 'invalid-name' })
    expect(await failing(value(get))).toBe('22023 Invalid setting name')
    expect(await failing(value(`SELECT azure_ai.set_setting('azure_openai.api_key', 'x')`))).toBe('22023 Invalid setting name')
  })

  test('a version may lack one that others have', async () => {
    await turn({ lackedSettings: ['azure_cognitive.translator_resource_id'] })
    expect(await failing(value(`SELECT azure_ai.get_setting('azure_cognitive.translator_resource_id')`))).toBe(
      'XX000 azure_cognitive.translator_resource_id is not a valid configuration key',
    )
    expect(await value(`SELECT azure_ai.get_setting('azure_cognitive.region')`)).toBeNull()
  })

  test('auth_type may be any text, and one that is misspelled means the key', async () => {
    const set = `SELECT azure_ai.set_setting('azure_openai.auth_type', 'managed_identity')`
    expect(await failing(value(set))).toMatch(/^22023/)
    await turn({ anyAuthType: true })
    await value(set)
    expect(await value(`SELECT cardinality(found) FROM (${embed}) AS answered`)).toBe(1536)
    await value(`SELECT azure_ai.set_setting('azure_openai.subscription_key', '')`)
    expect(await failing(value(embed))).toContain('azure_openai.subscription_key is not set')
  })

  test('a key that is dead may win over auth_type: rotated, or a word that a recipe left behind', async () => {
    giveIdentity(emulator)
    giveRoles(emulator)
    await value(`SELECT azure_ai.set_setting('azure_openai.auth_type', 'managed-identity')`)
    await turn({ keyWins: true })
    accountNamed(world, 'contoso-openai').keys = { key1: 'new-1', key2: 'new-2' }
    expect(await failing(value(embed))).toContain('Access denied due to invalid subscription key')
    await value(`SELECT azure_ai.set_setting('azure_openai.subscription_key', 'managed_identity')`)
    expect(await failing(value(embed))).toContain('Access denied due to invalid subscription key')
    await value(`SELECT azure_ai.set_setting('azure_openai.subscription_key', '')`)
    expect(await value(`SELECT cardinality(found) FROM (${embed}) AS answered`)).toBe(1536)
  })

  test('without a key the identity may be used whatever auth_type says', async () => {
    giveIdentity(emulator)
    giveRoles(emulator)
    await value(`SELECT azure_ai.set_setting('azure_openai.subscription_key', '')`)
    expect(await failing(value(embed))).toContain('azure_openai.subscription_key is not set')
    await turn({ keylessByIdentity: true })
    expect(await value(`SELECT cardinality(found) FROM (${embed}) AS answered`)).toBe(1536)
  })

  test('a lock on a row by another session blocks set_setting, but not reading', async () => {
    const holder = await connect()
    await holder.query('BEGIN')
    await holder.query(`SELECT azure_ai.set_setting('azure_openai.auth_type', 'managed-identity')`)
    const waiting = await connect()
    await waiting.query(`SET lock_timeout = '200ms'`)
    expect(await failing(waiting.query(`SELECT azure_ai.set_setting('azure_openai.auth_type', 'managed-identity')`))).toMatch(
      /^55P03/,
    )
    expect(await value(`SELECT azure_ai.get_setting('azure_openai.auth_type')`)).toBe('subscription-key')
    const locks = await value(
      `SELECT count(*)::int FROM pg_locks WHERE relation = 'azure_ai.settings'::regclass AND mode = 'RowExclusiveLock'`,
    )
    expect(locks).toBe(1)
    await holder.query('ROLLBACK')
  })
})

describe('an endpoint as it is found in databases', () => {
  test.each([
    ['of the account', 'https://contoso-openai.openai.azure.com/', undefined],
    ['with the path that is added anyway', 'https://contoso-openai.openai.azure.com/openai/', '404: Resource not found'],
    ['of a Foundry project', 'https://contoso-foundry.services.ai.azure.com/api/projects/shop', '404: Resource not found'],
    ['of the models of a Foundry account', 'https://contoso-foundry.services.ai.azure.com/models', '404: Resource not found'],
    ['of a region', 'https://swedencentral.api.cognitive.microsoft.com', '400: Please provide a custom subdomain'],
    ['of a gateway', 'https://contoso.azure-api.net', '401: Access denied due to missing subscription key.'],
    ['of an account that does not exist', 'https://contoso-gone.openai.azure.com', '404: Subdomain does not map to a resource.'],
  ])('%s works with a token or does not', async (_, endpoint, error) => {
    giveIdentity(emulator)
    giveRoles(emulator)
    const openai = accountNamed(world, 'contoso-openai')
    const name = 'contoso-foundry'
    const id = openai.id.replace(openai.name, name)
    world.accounts.push({ ...openai, id, name, kind: 'AIServices', customSubDomainName: name })
    await putSettings(emulator, 'app', { 'azure_openai.auth_type': 'managed-identity', 'azure_openai.endpoint': endpoint })
    await turn({ wording: 'wrapped' })
    if (error === undefined) expect(await value(questions.azure_openai)).toBe(1536)
    else expect(await failing(value(questions.azure_openai))).toContain(`XX000 azure_openai.create_embeddings: ${error}`)
  })
})

describe('functions', () => {
  test('may answer NULL instead of an error unless throw_on_error is passed', async () => {
    await turn({ throwOnErrorDefault: false })
    await workWithKeys(emulator, 'app')
    await setEndpoint('https://trial.invalid')
    expect(await value(embed)).toBeNull()
    expect(await failing(value(embed.replace('timeout_ms', 'throw_on_error => true, timeout_ms')))).toContain('could not resolve')
    const defaults = await postgres.query(
      'app',
      `SELECT DISTINCT substring(pg_get_function_arguments(oid) FROM 'throw_on_error boolean DEFAULT (\\w+)') AS found
       FROM pg_proc WHERE 'throw_on_error' = ANY (proargnames) AND pronamespace::regnamespace::text NOT LIKE '%emulator'`,
    )
    expect(defaults).toEqual([{ found: 'false' }])
    await value('DROP EXTENSION azure_ai')
    await turn({ throwOnErrorDefault: true })
    await workWithKeys(emulator, 'app')
    await setEndpoint('https://trial.invalid')
    expect(await failing(value(embed))).toContain('could not resolve')
  })

  test.each(['1.3.1', '2.0.0'])('sentiment may be retired, where the language is still detected: version %s', async (version) => {
    await workWithKeys(emulator, 'app', version)
    await turn({ sentimentRetired: true, wording: 'wrapped-with-codes' })
    expect(await failing(value(questions.azure_cognitive))).toBe(
      'XX000 azure_cognitive.analyze_sentiment: 410: OperationRetired: The operation SentimentAnalysis has been retired and is no longer available.',
    )
    const sql = `SELECT to_jsonb(azure_cognitive.detect_language('good', disable_service_logs => true, timeout_ms => 2000))`
    expect(await value(sql)).toEqual({ name: 'English', iso6391_name: 'en', confidence_score: 0.99 })
  })

  test('two accounts behind one endpoint may not work at once', async () => {
    giveIdentity(emulator)
    giveRoles(emulator)
    await turn({ translateOwnEndpoint: true, wording: 'wrapped' })
    await putSettings(emulator, 'app', {
      ...identitySettings(world),
      'azure_cognitive.translator_resource_id': accountNamed(world, 'contoso-translator').id,
    })
    const translate = `SELECT (azure_cognitive.translate('Hello'::text, 'es'::text, timeout_ms => 2000)).translations[1].text`
    expect(await value(questions.azure_cognitive)).toBe('positive')
    expect(await failing(value(translate))).toBe('XX000 azure_cognitive.translate: 404: Resource not found')
    await value(
      `SELECT azure_ai.set_setting('azure_cognitive.endpoint', 'https://contoso-translator.cognitiveservices.azure.com')`,
    )
    expect(await value(translate)).toBe('Hola')
    expect(await failing(value(questions.azure_cognitive))).toBe(
      'XX000 azure_cognitive.analyze_sentiment: 404: Resource not found',
    )
  })
})

describe('a database or a role that PostgreSQL limits', () => {
  const reporter = { user: 'reporter', password: 'reporter' }
  beforeEach(() => value(`CREATE ROLE reporter LOGIN PASSWORD 'reporter'`))
  afterEach(async () => {
    await value('ALTER DATABASE app CONNECTION LIMIT -1')
    await value('ALTER DATABASE app RESET ALL')
    await postgres.terminateClients()
    await value('DROP ROLE reporter')
  })

  test('ends a session that is idle for too long, by a setting of the database or of the role', async () => {
    for (const owner of ['DATABASE app', 'ROLE reporter']) {
      await value(`ALTER ${owner} SET idle_session_timeout = '100ms'`)
      const client = await connect('app', reporter)
      const error = await new Promise<Error & { code?: string }>((resolve) => client.on('error', resolve))
      expect(`${error.code} ${error.message}`).toBe('57P05 terminating connection due to idle-session timeout')
      await value(`ALTER ${owner} RESET idle_session_timeout`)
    }
  })

  test('accepts a limited number of connections, and does not count superusers', async () => {
    await value('ALTER ROLE reporter CONNECTION LIMIT 1')
    await connect('app', reporter)
    expect(await failing(connect('app', reporter))).toBe('53300 too many connections for role "reporter"')
    await value('ALTER DATABASE app CONNECTION LIMIT 1')
    expect(await failing(connect())).toBe('53300 too many connections for database "app"')
    expect(await value('SELECT 1')).toBe(1)
  })

  test('accepts no connections', async () => {
    await postgres.query('postgres', 'ALTER DATABASE app ALLOW_CONNECTIONS false')
    expect(await failing(connect())).toBe('55000 database "app" is not currently accepting connections')
    await postgres.query('postgres', 'ALTER DATABASE app ALLOW_CONNECTIONS true')
  })

  test('refuses a login with the text of Entra, by world.sqlFault', async () => {
    const message = 'Service principal oid mismatch for role "reporter"'
    world.sqlFault = ({ text }) => (text === '(connect)' ? { kind: 'error', code: '28000', message } : undefined)
    const outcome = await failing(connect('app', reporter))
    delete world.sqlFault
    expect(outcome).toBe(`28000 ${message}`)
  })
})
