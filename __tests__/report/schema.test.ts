/** The published schema of the report, against the reports of built runs. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import Ajv from 'ajv'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/index.ts'
import { families, services } from '../../src/core/services.ts'
import { setUp, startFleetEmulator, takeInventory, withOpenAiKey } from '../support/fleet.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { accountNamed, apply, begin, removeJobs, workWithKeys } from '../support/support.ts'

const docs = join(import.meta.dirname, '..', '..', 'docs')

interface Schema {
  readonly type?: string | readonly string[]
  readonly description?: string
  readonly enum?: readonly string[]
  readonly required?: readonly string[]
  readonly properties?: Readonly<Record<string, Schema>>
  readonly definitions?: Readonly<Record<string, Schema>>
}
const schema = JSON.parse(readFileSync(join(docs, 'report.schema.json'), 'utf8')) as Schema

/** Consumers accept properties that later releases add. Here each property has to be documented. */
function closed(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(closed)
  if (typeof value !== 'object' || value === null) return value
  const copy = Object.fromEntries(Object.entries(value).map(([name, each]) => [name, closed(each)]))
  return typeof copy['properties'] === 'object' && 'required' in copy ? { ...copy, additionalProperties: false } : copy
}

const validate = new Ajv({ allErrors: true }).compile(closed(schema) as object)
/** What a report violates, as `PATH message`. */
function violations(report: unknown): readonly string[] {
  validate(report)
  return (validate.errors ?? []).map(({ dataPath, message, params }) => `${dataPath} ${message} ${JSON.stringify(params)}`)
}

const definition = (name: string): Schema => schema.definitions?.[name] ?? {}
const valuesOf = (of: Schema, property: string): readonly string[] => of.properties?.[property]?.enum ?? []

afterAll(removeJobs)

describe('reports of one server', async () => {
  const emulator = await ownEmulator({ databases: ['app'] })
  const inputs = { databases: 'app' }

  test('a fresh server, its check and its apply', async () => {
    await begin(emulator)
    const check = await apply(emulator, { ...inputs, mode: 'check' })
    expect(violations(check.report), check.log).toEqual([])
    expect(check.report).toMatchObject({ mode: 'check', result: 'drift', setUp: false })
    const applied = await apply(emulator, { ...inputs, mode: 'apply' })
    expect(violations(applied.report), applied.log).toEqual([])
    expect(applied.report).toMatchObject({ mode: 'apply', result: 'changed', verified: true })
    expect(applied.report.queries.length).toBeGreaterThan(0)
    const verify = await apply(emulator, { ...inputs, mode: 'verify', 'embedding-deployment': 'text-embedding-3-small' })
    expect(violations(verify.report), verify.log).toEqual([])
    expect(verify.report.mode).toBe('verify')
  })

  test('stored keys, a restart that is not allowed, and one part alone', async () => {
    await begin(emulator)
    await workWithKeys(emulator, 'app')
    const check = await apply(emulator, { ...inputs, mode: 'check' })
    expect(violations(check.report), check.log).toEqual([])
    expect(check.report.storedKeys.before).toBeGreaterThan(0)
    const azure = await apply(emulator, { ...inputs, mode: 'check', part: 'azure' })
    expect(violations(azure.report), azure.log).toEqual([])
    expect(azure.report).toMatchObject({ part: 'azure', storedKeys: { before: null, after: null } })
    expect(new Set(azure.report.queries.map(({ status }: { status: string }) => status))).toEqual(new Set(['skipped']))
    const refused = await apply(emulator, { ...inputs, mode: 'apply', 'allow-restart': 'false', 'verify-timeout-minutes': '0' })
    expect(violations(refused.report), refused.log).toEqual([])
    expect(refused.report).toMatchObject({ result: 'failed', findings: expect.arrayContaining([expect.anything()]) })
  })

  test('refused inputs, and a database that does not exist', async () => {
    await begin(emulator)
    const refused = await apply(emulator, { ...inputs, mode: 'sideways' })
    expect(violations(refused.report), refused.log).toEqual([])
    expect(refused.report).toMatchObject({ mode: '', result: 'failed', failureReason: 'input', steps: [] })
    const missing = await apply(emulator, { databases: 'nowhere', mode: 'check' })
    expect(violations(missing.report), missing.log).toEqual([])
    expect(missing.report.result).toBe('failed')
  })

  test('the schema refuses what no report may contain', async () => {
    await begin(emulator)
    const { report } = await apply(emulator, { ...inputs, mode: 'check' })
    const [step, ...steps] = report.steps
    const { verified: _, ...without } = report
    for (const [wrong, place] of [
      [without, / should have required property 'verified'/],
      [{ ...report, result: 'fine' }, /^\.result /],
      [{ ...report, schemaVersion: 2 }, /^\.schemaVersion /],
      [{ ...report, startedAt: 'yesterday' }, /^\.startedAt /],
      [{ ...report, storedKeys: { before: -1, after: null } }, /^\.storedKeys\.before /],
      [{ ...report, undocumented: true }, /undocumented/],
      [{ ...report, steps: [{ ...step, status: 'todo' }, ...steps] }, /^\.steps\[0\]\.status /],
      [
        { ...report, findings: [{ severity: 'error', code: 'No Code', title: 'x', detail: '', fix: '' }] },
        /^\.findings\[0\]\.code /,
      ],
    ] as const) {
      const [first, ...others] = violations(wrong)
      expect(first).toMatch(place)
      expect(others).toEqual([])
    }
  })
})

describe('the report of an inventory', () => {
  let emulator: Emulator
  beforeAll(async () => {
    emulator = await startFleetEmulator()
    const server = emulator.world.servers.find(({ name }) => name === 'pg-contoso')
    if (server === undefined) throw new Error('no server pg-contoso')
    const { key1 } = accountNamed(emulator.world, 'contoso-openai').keys
    await setUp(emulator.fleet?.postgres(server), 'app', withOpenAiKey('contoso-openai', key1))
  })
  afterAll(() => emulator?.stop())

  test('has rows with keys, and rows that say why there are none', async () => {
    const { report, log } = await takeInventory(emulator)
    expect(violations(report), log).toEqual([])
    expect(report.inventory).toContainEqual(expect.objectContaining({ database: 'app', family: 'azure_openai', keyStored: true }))
    expect(report.inventory).toContainEqual(expect.objectContaining({ family: '', reason: expect.stringMatching(/./) }))
  })
})

test('the values of the schema are those of the sources', () => {
  expect(valuesOf(definition('query'), 'service')).toEqual(services.map(({ name }) => name))
  expect(valuesOf(definition('inventoryRow'), 'family')).toEqual([...Object.keys(families), ''])
  const values = (file: string, type: string): readonly string[] => {
    const source = readFileSync(join(docs, '..', 'src', file), 'utf8')
    const [, union = ''] = new RegExp(`type ${type} =([\\s|\\w'-]+?)\\n\\n`).exec(`${source}\n\n`) ?? []
    return [...union.matchAll(/'([\w-]+)'/g)].map(([, value = '']) => value)
  }
  expect(valuesOf(schema, 'failureReason')).toEqual(values('errors/failure.ts', 'FailureReason'))
  expect(valuesOf(schema, 'result')).toEqual(values('core/report.ts', 'Result'))
  expect(valuesOf(definition('query'), 'proof')).toEqual(values('core/journal.ts', 'Proof'))
  const statuses = [...values('core/steps.ts', 'PlannedStatus'), ...values('core/steps.ts', 'DoneStatus')]
  expect([...valuesOf(definition('step'), 'status')].sort()).toEqual([...new Set(statuses)].sort())
})

test('docs/report.md has a row for each property, and each has a description', () => {
  const page = readFileSync(join(docs, 'report.md'), 'utf8')
  const named = [...page.matchAll(/^\| (`[^|]+) \|/gm)].flatMap(([, cell = '']) =>
    [...cell.matchAll(/`(\w+)`/g)].map(([, name]) => name),
  )
  expect([...named].sort()).toEqual(Object.keys(schema.properties ?? {}).sort())
  for (const each of [schema, ...Object.values(schema.definitions ?? {})])
    for (const [name, { description }] of Object.entries(each.properties ?? {})) expect(description, name).toMatch(/\.$/)
})
