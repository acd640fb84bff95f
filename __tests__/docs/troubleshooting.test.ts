import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { causes } from '../../scripts/code-texts.ts'
import { troubleshooting } from '../../scripts/troubleshooting.ts'
import { explain, known } from '../../src/errors/explain.ts'

const docs = join(import.meta.dirname, '..', '..', 'docs')
const page = readFileSync(join(docs, 'troubleshooting.md'), 'utf8')

describe('docs/troubleshooting.md and the table of errors agree', () => {
  test('on codes, titles, reasons, what is seen and the fixes (npm run docs writes it)', () => {
    expect(page).toBe(troubleshooting(page))
  })

  test('each code is listed once, with a cause', () => {
    const codes = known.map(({ code }) => code)
    expect(new Set(codes).size).toBe(codes.length)
    const headings = [...page.matchAll(/^### `([^`]+)`$/gm)].map(([, code]) => code)
    expect(headings.sort()).toEqual(codes.sort())
    for (const code of codes) expect([code, causes[code]]).toEqual([code, expect.stringMatching(/^\S.{20,}/)])
  })

  test('the codes and texts that the page lists for a row lead to that row', () => {
    for (const { origin, codes = [], text, code } of known) {
      // Rows that need a text as well have a test of their own for the table.
      if (text !== undefined) continue
      for (const each of codes) {
        const failure = explain({ origin, code: each, text: 'any text' }, { doing: 'testing' })
        expect([each, failure.code]).toEqual([each, code])
        expect(failure.fix).not.toBe('')
      }
    }
  })
})

test.each(['troubleshooting.md', 'permissions.md', 'README.md'])('the links of docs/%s lead somewhere', (name) => {
  const text = readFileSync(join(docs, name), 'utf8')
  const targets = [...text.matchAll(/\]\(([^)#:]+)(?:#[^)]*)?\)/g)].map(([, target = '']) => target)
  for (const target of targets) expect([target, existsSync(join(docs, target))]).toEqual([target, true])
})
