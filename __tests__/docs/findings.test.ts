import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { actionFile } from '../../emulator/runner.ts'
import { causes, errors, findings } from '../../scripts/code-texts.ts'
import { withCodes } from '../../scripts/findings.ts'
import { known } from '../../src/errors/explain.ts'

const root = join(import.meta.dirname, '..', '..')
const sources = globSync('src/**/*.ts', { cwd: root })
  .filter((file) => !file.endsWith('codes.ts'))
  .map((file) => readFileSync(join(root, file), 'utf8'))
const page = readFileSync(join(root, 'docs', 'findings.md'), 'utf8')

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
  // A finding may be a failure as well.
  for (const source of sources)
    for (const [, code = ''] of source.matchAll(/\breason: [^\n]+,\n\s*code: ([^\n]+),\n/g))
      for (const each of literals(code)) found.get(each)?.add('error')
  return found
}

describe('docs/findings.md and the sources agree', () => {
  test('the page is that of the registry (npm run docs writes it)', () => {
    expect(withCodes(page)).toBe(page)
    expect(withCodes(page.replace('| `key-wins` | warning |', '| `key-wins` | notice |'))).toBe(page)
  })

  test('on the warnings and notices, and on their severities', () => {
    const raised = raisedFindings()
    expect(Object.keys(findings).sort()).toEqual([...raised.keys()].sort())
    for (const [code, { severity }] of Object.entries(findings))
      expect([code, severity.split(' or ').sort()]).toEqual([code, [...(raised.get(code) ?? [])].sort()])
  })

  test('on the errors: the sources raise each of them', () => {
    const written = new Set([...sources.flatMap(literals), 'azure-error', 'entra-error', 'postgres-error', 'ai-error'])
    expect(Object.keys(errors).filter((code) => !written.has(code))).toEqual([])
    expect(Object.keys(causes)).toEqual(known.map(({ code }) => code).sort())
  })

  test('each code is listed once, with its meaning and what to do', () => {
    const codes = [...page.matchAll(/^\| `([^`]+)` \|/gm)].map(([, code]) => code)
    expect(new Set(codes).size).toBe(codes.length)
    expect(codes.sort()).toEqual([...new Set([...Object.keys({ ...findings, ...errors, ...causes })])].sort())
    const texts = [...Object.values(findings), ...Object.values(errors)].flatMap(({ means, todo }) => [means, todo])
    for (const text of [...texts, ...Object.values(causes)]) expect(text).toMatch(/^\S.{5,}/)
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
