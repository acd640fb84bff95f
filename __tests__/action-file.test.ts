import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { actionFile } from '../emulator/runner.ts'
import { inputNames, parseInputs, secretInputs } from '../src/inputs.ts'
import { rawInputs } from './support.ts'

const root = join(import.meta.dirname, '..')
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

test('the defaults are those of the interface and stand in action.yml', () => {
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
  expect(required).toEqual(['server', 'databases'])
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

test('whatever is a key, password or token is masked', () => {
  const secret = inputNames.filter((name) => /key$|password|token/.test(name))
  expect([...secretInputs].sort()).toEqual([...secret].sort())
})

test('main and post are one bundle that is there, under Node 24', () => {
  expect(file.runs).toMatchObject({ using: 'node24', main: 'dist/index.js', post: 'dist/index.js' })
  expect(existsSync(join(root, file.runs.main))).toBe(true)
})
