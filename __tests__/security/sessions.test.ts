/** A session may contain what another client left in it, and a BEGIN may fail: neither leads to an unprotected statement. */
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import { describe, expect, test } from 'vitest'
import { passwordLogin } from '../../emulator/postgres.ts'
import { isRead } from '../../src/core/observed.ts'
import { observeDatabase, whyNoKeyIsKept } from '../../src/postgres/azure-ai.ts'
import type { Connection, Connector } from '../../src/postgres/connection.ts'
import { type Session, transactionsOn } from '../../src/postgres/transaction.ts'
import { forget, restore, trial } from '../../src/postgres/trial.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { begin, logLength, settingsOf, workWithKeys } from '../support/support.ts'
import { sprung } from './planted.ts'

const emulator = await ownEmulator({ databases: ['app'] })
const root = join(import.meta.dirname, '..', '..')
const log = {
  debug: () => undefined,
  info: () => undefined,
  secret: () => undefined,
  group: (_: string, body: () => unknown) => body(),
} as never

describe('the sources', () => {
  const sources = new Map(globSync('src/**/*.ts', { cwd: root }).map((file) => [file, readFileSync(join(root, file), 'utf8')]))
  const using = (pattern: RegExp): string[] =>
    [...sources]
      .filter(([, text]) => pattern.test(text))
      .map(([file]) => file)
      .sort()

  test('send statements only through the module that builds transactions', () => {
    expect(using(/\bclient\.query\(/)).toEqual(['src/postgres/connection.ts'])
    expect(using(/['"]\.\/(?:postgres\/)?driver\.ts['"]/)).toEqual(['src/postgres/connection.ts'])
    expect(using(/\btransactionsOn\(/)).toEqual(['src/postgres/connection.ts', 'src/postgres/transaction.ts'])
    expect(using(/\bBEGIN ISOLATION\b/)).toEqual(['src/postgres/transaction.ts'])
    expect(using(/\bsearch_path = /)).toEqual(['src/postgres/transaction.ts'])
  })

  test('name every temporary table with its schema', () => {
    for (const [file, text] of sources) {
      for (const [table] of text.matchAll(/.{0,8}aipg_(?:previous|secret)/g))
        expect([file, table]).toEqual([file, expect.stringContaining('pg_temp.')])
    }
  })
})

describe('a transaction', () => {
  function recorded(fails: (text: string) => boolean): { texts: string[]; session: Session } {
    const texts: string[] = []
    const session: Session = {
      run: async (text) => {
        texts.push(text)
        if (fails(text)) throw new Error('canceling statement due to statement timeout')
        return text.split(';\n').map(() => [])
      },
      copyIn: async () => undefined,
    }
    return { texts, session }
  }

  test('that is only read sends its statements in the message that begins it', async () => {
    const { texts, session } = recorded(() => false)
    await transactionsOn(session).read(['SELECT 1', 'SELECT 2'], { serverVersion: 18 })
    expect(texts).toHaveLength(2)
    const statements = texts[0]?.split(';\n') ?? []
    expect(statements[0]).toBe('BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY')
    expect(statements[1]).toBe('SET LOCAL search_path = pg_catalog, pg_temp')
    expect(statements.slice(-2)).toEqual(['SELECT 1', 'SELECT 2'])
    expect(texts[1]).toBe('ROLLBACK')
  })

  test('that did not begin runs nothing, and one that ended accepts no further statement', async () => {
    const { texts, session } = recorded((text) => text.startsWith('BEGIN'))
    const body = async (transaction: { query(text: string): Promise<unknown> }) => transaction.query('SELECT 1')
    await expect(transactionsOn(session).write({ serverVersion: 18 }, body)).rejects.toThrow('statement timeout')
    expect(texts.filter((text) => !text.startsWith('BEGIN'))).toEqual(['ROLLBACK'])

    const open = recorded(() => false)
    let kept: { query(text: string): Promise<unknown> } | undefined
    await transactionsOn(open.session).write({ serverVersion: 18 }, async (transaction) => {
      kept = transaction
      await transaction.commit()
      await expect(transaction.query('SELECT 1')).rejects.toThrow('after the end of its transaction')
    })
    await expect(kept?.query('SELECT 2')).rejects.toThrow('after the end of its transaction')
    expect(open.texts.at(-1)).toBe('COMMIT')
  })

  test('quotes the schemas of the extension between pg_catalog and pg_temp', async () => {
    const { texts, session } = recorded(() => false)
    await transactionsOn(session).read([], { serverVersion: 0, schemas: ['azure_ai', 'a"b, public'] })
    expect(texts[0]).toContain('SET LOCAL search_path = pg_catalog, "azure_ai", "a""b, public", pg_temp')
  })
})

/** What another client of a pooler may have left in a session: temporary objects of familiar names, and settings. */
const leftovers = [
  "CREATE FUNCTION pg_temp.trap() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE LOG 'planted: temporary'; RETURN true; END $$",
  ...[
    'pg_roles',
    'pg_proc',
    'pg_namespace',
    'pg_depend',
    'pg_extension',
    'pg_settings',
    'pg_locks',
    'pg_stat_activity',
    'pg_database',
  ].map((name) => `CREATE TEMPORARY VIEW ${name} AS SELECT * FROM pg_catalog.${name} WHERE pg_temp.trap()`),
  ...['text', 'oid', 'oidvector', 'name', 'bool', 'regclass'].map(
    (name) => `CREATE DOMAIN pg_temp.${name} AS pg_catalog.${name} CHECK (pg_temp.trap())`,
  ),
  'CREATE TEMPORARY TABLE aipg_previous_00000000 (key pg_catalog.text, value pg_catalog.text)',
  "SET search_path = pg_temp, pg_catalog; SET standard_conforming_strings = off; SET quote_all_identifiers = on; SET datestyle = 'German'",
]

test('a pooled session that another client prepared behaves like a new one, and runs no trap', async () => {
  await begin(emulator)
  const before = await workWithKeys(emulator, 'app')
  const observe = async (prepare: readonly string[], id: string) => {
    const client = new pg.Client({
      host: emulator.postgres.host,
      port: emulator.postgres.port,
      ...passwordLogin,
      database: 'app',
      ssl: { ca: readFileSync(emulator.caFile, 'utf8') },
    })
    await client.connect()
    try {
      for (const statement of prepare) await client.query(statement)
    } catch (error) {
      await client.end()
      throw error
    }
    const session: Session = {
      run: async (text, values) =>
        [await client.query(text, values as unknown[])].flat().map(({ rows }) => rows as Record<string, unknown>[]),
      copyIn: async () => undefined,
    }
    const connection: Connection = {
      id,
      database: 'app',
      user: passwordLogin.user,
      lockPatience: { limitMs: 1_000, since: undefined },
      close: () => client.end(),
      ...transactionsOn(session),
    }
    const connector = {
      learn: () => undefined,
      failure: (error: unknown) => {
        throw error
      },
    } as unknown as Connector
    const seen = await observeDatabase(connection, connector, new Map([['azure_openai.subscription_key', ['some-key']]]))
    if (!isRead(seen)) throw seen.failure
    expect(await whyNoKeyIsKept(connection)).toBeUndefined()
    const setting = ['azure_openai.endpoint', `https://${id}.openai.azure.com`] as const
    const done = await trial(connection, {
      database: seen,
      settings: [setting],
      keep: true,
      hide: [],
      calls: [],
      commit: () => true,
      log,
    })
    expect(done.committed).toBe(true)
    expect(await restore(connection, seen, log)).toBe(true)
    await forget(connection, seen)
    await client.end()
    return seen
  }
  const fresh = await observe([], '00000001')
  const earlier = logLength(emulator)
  await expect(observe([...leftovers, 'SELECT FROM pg_roles LIMIT 1', 'SELECT 1/0'], '00000003')).rejects.toThrow(
    'division by zero',
  )
  expect(sprung(emulator, earlier)).toEqual(['app: temporary'])
  const from = logLength(emulator)
  const prepared = await observe(leftovers, '00000002')
  expect(prepared).toEqual(fresh)
  expect(fresh.settings.get('azure_openai.endpoint')).toBe(before['azure_openai.endpoint'])
  expect(sprung(emulator, from)).toEqual([])
  expect(await settingsOf(emulator, 'app')).toEqual(before)
})
