import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { actionFile } from '../../emulator/runner.ts'
import { known } from '../../src/errors/explain.ts'

const root = join(import.meta.dirname, '..', '..')
const sources = globSync('src/**/*.ts', { cwd: root }).map((file) => readFileSync(join(root, file), 'utf8'))
const lines = readFileSync(join(root, 'docs', 'findings.md'), 'utf8').split('\n')

/** Rows of the tables by the heading they stand under: cells of each. */
const documented: { heading: string; code: string; cells: string[] }[] = []
let heading = ''
for (const line of lines) {
  heading = /^#+ (.*)/.exec(line)?.[1] ?? heading
  const code = /^\| `([^`]+)` \|/.exec(line)?.[1]
  if (code !== undefined) {
    documented.push({
      heading,
      code,
      cells: line
        .replace(/^\||\|$/g, '')
        .split('|')
        .map((cell) => cell.trim()),
    })
  }
}
const told = documented.filter((row) => row.heading === 'Warnings and notices')

const kebab = /'([a-z][a-z0-9]*(?:-[a-z0-9]+)*)'/g
const literals = (text: string): string[] => [...text.matchAll(kebab)].map(([, literal = '']) => literal)

/** Codes of warnings and notices with the severities they are raised with. */
function raisedFindings(): Map<string, Set<string>> {
  const found = new Map<string, Set<string>>()
  for (const source of sources) {
    for (const [, severity = '', code = ''] of source.matchAll(/\bseverity: ([^\n]+),\n\s*code: ([^\n]+),\n/g)) {
      for (const each of literals(code)) {
        const severities = found.get(each) ?? new Set()
        for (const literal of literals(severity)) if (/^(error|warning|notice)$/.test(literal)) severities.add(literal)
        found.set(each, severities)
      }
    }
  }
  return found
}

/** Codes of failures: those of the table of errors, those written as such, those of the preconditions, and `ORIGIN-error`. */
function raisedErrors(): Set<string> {
  const found = new Set(['azure-error', 'entra-error', 'postgres-error', 'ai-error', ...known.map(({ code }) => code)])
  for (const source of sources) {
    for (const [, code = ''] of source.matchAll(/\breason: [^\n]*\n?\s*code: ([^,\n]+),/g))
      for (const each of literals(code)) found.add(each)
    for (const [, code = ''] of source.matchAll(/\breason: '[a-z-]+', code: ([^,\n]+),/g))
      for (const each of literals(code)) found.add(each)
    for (const [, code = ''] of source.matchAll(/\bazure\(\s*([^,\n]+),/g)) for (const each of literals(code)) found.add(each)
    for (const [, code = ''] of source.matchAll(/\btold\(\s*'[a-z]+',\s*([^,\n]+),/g))
      for (const each of literals(code)) found.add(each)
  }
  return found
}

describe('docs/findings.md and the sources agree', () => {
  test('on the warnings and notices, and on their severities', () => {
    const raised = raisedFindings()
    expect(told.map(({ code }) => code).sort()).toEqual([...raised.keys()].sort())
    for (const { code, cells } of told) {
      expect([code, (cells[1] ?? '').split(' or ').sort()]).toEqual([code, [...(raised.get(code) ?? [])].sort()])
    }
  })

  test('on the errors', () => {
    const errors = documented.filter((row) => row.heading !== 'Warnings and notices').map(({ code }) => code)
    expect([...new Set(errors)].sort()).toEqual([...raisedErrors()].sort())
  })

  test('each code stands there once, with what it means and what to do', () => {
    const codes = documented.map(({ code }) => code)
    expect(codes.filter((code, index) => codes.indexOf(code) !== index)).toEqual([])
    for (const { code, heading: under, cells } of documented) {
      expect([code, cells.length]).toEqual([code, under === 'Warnings and notices' ? 4 : 3])
      expect([code, cells.filter((cell) => cell === '')]).toEqual([code, []])
    }
  })
})

test('the documents name no failure-reason but those of action.yml', async () => {
  const listed = (await actionFile()).outputs['failure-reason']?.description ?? ''
  const reasons = [...listed.matchAll(/`([a-z-]+)`/g)].map(([, reason]) => reason)
  const named = globSync(['README.md', 'docs/*.md', 'examples/**/*.{md,yml}'], { cwd: root }).flatMap((file) =>
    [...readFileSync(join(root, file), 'utf8').matchAll(/failure-reason`?\s*[:=]+\s*[`'"]?([a-z-]+)/g)].map(([, reason]) => ({
      file,
      reason,
    })),
  )
  expect(named.length).toBeGreaterThan(30)
  expect(named.filter(({ reason }) => !reasons.includes(reason))).toEqual([])
})
