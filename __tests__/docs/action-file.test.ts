import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { actionFile } from '../../emulator/runner.ts'
import { inputDefaults, inputNames, secretInputs } from '../../src/core/input-names.ts'
import { parseInputs } from '../../src/core/inputs.ts'
import { rawInputs } from '../support/support.ts'

const root = join(import.meta.dirname, '..', '..')
const file = await actionFile()

test('action.yml has the inputs that the code reads, no more and no fewer', () => {
  expect(Object.keys(file.inputs)).toEqual([...inputNames])
})

test('action.yml has the outputs of the interface, each with its values', () => {
  expect(Object.keys(file.outputs)).toEqual([
    'result',
    'changed',
    'drift',
    'verified',
    'stored-keys',
    'matrix',
    'failure-reason',
    'principal-id',
    'plan-id',
    'report-path',
  ])
  for (const output of Object.values(file.outputs)) expect(output.description.length).toBeGreaterThan(10)
  for (const reason of [
    'none',
    'input',
    'credentials',
    'permission',
    'network',
    'azure',
    'database',
    'restart-required',
    'verification',
    'drift',
    'cancelled',
    'internal',
  ])
    expect(file.outputs['failure-reason']?.description).toContain(`\`${reason}\``)
})

test('the defaults in action.yml are those of the interface', () => {
  const defaults = Object.fromEntries(
    Object.entries(file.inputs).flatMap(([name, input]) => (input.default === undefined ? [] : [[name, String(input.default)]])),
  )
  expect(defaults).toEqual({
    mode: 'apply',
    part: 'all',
    'auth-type': 'managed-identity',
    'clear-keys': 'false',
    'allow-restart': 'false',
    'allow-unproven': 'false',
    'update-extension': 'false',
    'test-queries': 'true',
    'verify-timeout-minutes': '10',
    environment: 'AzureCloud',
    'database-port': '5432',
    'temporary-firewall-rule': 'false',
    'fail-on-drift': 'true',
    'drift-issue': 'false',
    'pull-request-comment': 'false',
    'github-token': '${' + '{ github.token }}',
  })
  const required = Object.entries(file.inputs).flatMap(([name, input]) => (input.required === true ? [name] : []))
  // An inventory needs neither a server nor databases.
  expect(required).toEqual([])
})

test('the defaults in the code are those of action.yml, for a run whose variables are absent', () => {
  const defaults = Object.entries(file.inputs).flatMap(([name, { default: value = '' }]) =>
    value === '' || value.includes('${{') ? [] : [[name, value]],
  )
  expect(inputDefaults).toEqual(Object.fromEntries(defaults))
})

test('every input has a description, every flag a default', () => {
  for (const [name, input] of Object.entries(file.inputs)) {
    expect(input.description.length, name).toBeGreaterThan(10)
    expect(input.description, name).not.toMatch(/[.]$/)
  }
})

test('the code has no default of its own: an empty flag, mode, cloud, port or time is refused', () => {
  for (const name of Object.keys(file.inputs) as (typeof inputNames)[number][]) {
    if (file.inputs[name]?.default === undefined || name === 'github-token') continue
    expect(() => parseInputs(rawInputs({ [name]: '' })), name).toThrow(`\`${name}\``)
  }
})

test('the defaults are accepted with a server, a database and a service', () => {
  expect(parseInputs(rawInputs())).toMatchObject({ mode: 'apply', part: 'all', testQueries: true, verifyTimeoutMs: 600_000 })
})

test('every key, password and token is masked', () => {
  const secret = inputNames.filter((name) => /key$|password|token/.test(name))
  expect([...secretInputs].sort()).toEqual([...secret].sort())
})

test('main and post are two entries that exist, for Node 24', () => {
  expect(file.runs).toMatchObject({ using: 'node24', main: 'dist/index.js', post: 'dist/post.js' })
  for (const entry of [file.runs.main, file.runs.post]) expect(existsSync(join(root, entry))).toBe(true)
})

test('it meets the rules of the Marketplace: name, one short description, icon and colour', () => {
  const { name, description, branding } = parse(readFileSync(join(root, 'action.yml'), 'utf8')) as {
    name: string
    description: string
    branding: { icon: string; color: string }
  }
  expect(name).toMatch(/^[A-Z][\w ]{10,60}$/)
  expect(description.length).toBeLessThanOrEqual(125)
  expect(description).not.toMatch(/\n|\.$/)
  expect(['white', 'black', 'yellow', 'blue', 'green', 'orange', 'red', 'purple', 'gray-dark']).toContain(branding.color)
  // Names of Feather, without those that GitHub leaves out.
  const leftOut = ['coffee', 'columns', 'divide', 'divide-circle', 'divide-square', 'frown', 'hexagon', 'key', 'meh']
  expect([...leftOut, 'mouse-pointer', 'smile', 'tool', 'x-octagon']).not.toContain(branding.icon)
  expect(['database', 'shield', 'lock', 'check-circle', 'user-check']).toContain(branding.icon)
})

interface Type {
  type: string
  'allowed-values'?: string[]
  separator?: string
  'list-item'?: { type: string }
}

describe('action-types.yml', () => {
  const types = parse(readFileSync(join(root, 'action-types.yml'), 'utf8')) as Record<'inputs' | 'outputs', Record<string, Type>>

  test('has every input and output of action.yml, in its order', () => {
    expect(Object.keys(types.inputs)).toEqual(Object.keys(file.inputs))
    expect(Object.keys(types.outputs)).toEqual(Object.keys(file.outputs))
  })

  test('describes for each input what the code accepts', () => {
    const keyed = { 'auth-type': 'subscription-key', translator: '', 'machine-learning': '' }
    // Other inputs that a value requires.
    const beside: Record<string, Partial<Record<(typeof inputNames)[number], string>>> = {
      'auth-type subscription-key': keyed,
      'fail-on-drift false': { mode: 'check' },
      'part azure': {},
    }
    const taken = (name: string, value: string): boolean => {
      try {
        parseInputs(rawInputs({ ...beside[`${name} ${value}`], [name]: value }))
        return true
      } catch (error) {
        // It may contradict another input; only a refusal of its own value counts.
        return !String(error).includes(`\`${name}\`: "`)
      }
    }
    for (const [name, type] of Object.entries(types.inputs)) {
      const { default: fallback } = file.inputs[name] ?? {}
      const good = {
        boolean: ['true', 'false'],
        enum: type['allowed-values'] ?? [],
        float: ['0', '0.5', '10'],
        integer: ['5432', '6432'],
        list: ['app,shop'],
        string: [],
      }[type.type]
      expect(good, `${name}: ${type.type}`).toBeDefined()
      for (const value of good ?? []) expect([name, value, taken(name, value)]).toEqual([name, value, true])
      if (type.type !== 'string' && type.type !== 'list') expect([name, taken(name, 'sometimes')]).toEqual([name, false])
      if (type.type === 'integer') expect(taken(name, '1.5')).toBe(false)
      if (type.type === 'enum') expect(type['allowed-values']).toContain(fallback)
      if (type.type === 'boolean') expect(['true', 'false']).toContain(fallback)
      // An input that accepts only a few values is not a string.
      else if (type.type === 'string') expect(['true', 'false']).not.toContain(fallback)
    }
  })

  test('agrees with the description of each output', () => {
    for (const [name, { type, 'allowed-values': values = [] }] of Object.entries(types.outputs)) {
      const quoted = [...(file.outputs[name]?.description ?? '').matchAll(/`([\w-]+)`/g)].map(([, value]) => value)
      if (type === 'enum') expect([name, quoted]).toEqual([name, values])
      if (type === 'boolean') expect([name, quoted[0]]).toEqual([name, 'true'])
    }
  })
})
