/**
 * Texts that are written to make a regular expression slow. The tests find every expression in the sources, so that none is
 * forgotten, and run it on these texts: sixteen times the text may take at most forty times as long.
 */
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, describe as suite, test, vi } from 'vitest'
import { parseAst } from 'vitest/node'
import { asJson, fitted, type Report } from '../../src/core/report.ts'
import { explain, known, outlook } from '../../src/errors/explain.ts'
import type { Finding } from '../../src/errors/failure.ts'
import { createLog, plain } from '../../src/github/runner.ts'
import { bounded, boundedJson, describe, isCut, longestText, withoutCutSecret, withoutEndSlashes } from '../../src/lib/bounded.ts'
import { onOneLine, visible } from '../../src/lib/unicode.ts'
import { driftIssue, driftMarker, driftOf, driftState, planComment, planMark, planMarker } from '../../src/report/drift-issue.ts'
import { alikeFindings, onePerCause } from '../../src/report/grouping.ts'
import { summary } from '../../src/report/summary.ts'

const root = join(import.meta.dirname, '..', '..')
const small = 64 * 1024
const large = 16 * small
const most = 40
/** Shorter durations, in milliseconds, are not meaningful. */
const floor = 16

const made: Map<string, string> = new Map()

/** Text of exactly this length, made of a part that is repeated; kept, since many expressions meet the same ones. */
function repeated(part: string, length: number): string {
  const key = `${length} ${part}`
  const known = made.get(key)
  if (known !== undefined) return known
  // Something follows that lets no pattern end at the end of the text. Joined as bytes: a text made of parts is slow at first.
  const text = Buffer.from(`${part.repeat(Math.ceil(length / part.length)).slice(0, length - 1)}\u0001`, 'utf16le').toString(
    'utf16le',
  )
  if (parts.includes(part)) made.set(key, text)
  return text
}

/** Texts that any expression may have trouble with. */
const parts = [
  ...[
    'a',
    'A1 ',
    ' ',
    '\n',
    '\t ',
    '"',
    "'",
    '`',
    '``',
    '/',
    '//a',
    '<',
    '<a>;  ',
    '(',
    '[[',
    '{"',
    ':',
    '::',
    '-',
    '.',
    '1',
    '1.',
    '42 ',
  ],
  ...[
    '\\',
    '@',
    '#',
    '\u200b',
    '\ufe0f',
    '\ud83d',
    '😀',
    '\u0000',
    'é',
    '$',
    'az ',
    '; az ',
    "''",
    "' ",
    '" "',
    'a.',
    'www.',
    '\r\n',
    '0-',
  ],
]

/** The words of an expression, in order: what it looks for, without what may stand between. */
function wordsOf(pattern: RegExp): string[] {
  return pattern.source
    .replaceAll(/\\[bBdDsSwWpP](\{[^}]*\})?|\[(?:\\.|[^\]])*\]|[*+?]|\{\d+(,\d*)?\}|\(\?[:!=<]+/g, '|')
    .replaceAll('.|', '|')
    .replaceAll(/\\(.)/g, '$1')
    .split(/[|()^$]+/)
    .filter((word) => word.length > 1)
}

/** Near misses of an expression: its words again and again, alone, in order, with what comes between, never the last. */
function hostileFor(pattern: RegExp): string[] {
  const words = wordsOf(pattern).slice(0, 12)
  const begun = words.slice(0, -1)
  return [
    ...parts,
    ...words.flatMap((word) => [word, `${word} `, `${word}"`, `${word}'`]),
    ...(begun.length === 0 ? [] : [begun.join(''), begun.join(' ')]),
  ]
}

/** How an expression is used on a text: all matches where it is global, else the first. */
const meets =
  (pattern: RegExp) =>
  (text: string): void => {
    if (pattern.global) text.replaceAll(pattern, '')
    else pattern.exec(text)
  }

/** Processor time of this thread in milliseconds: other processes on a busy machine do not count. */
function took(work: (text: string) => void, text: string): number {
  const before = process.threadCpuUsage()
  work(text)
  const { user, system } = process.threadCpuUsage(before)
  return (user + system) / 1_000
}

/** The least of up to five times: a collection of garbage may come in between. */
function least(work: (text: string) => void, text: string, enough: number): number {
  let best = Number.POSITIVE_INFINITY
  // A duration ten times too long is not a coincidence.
  for (let run = 0; run < 5 && best > enough && (run === 0 || best < 10 * enough); run++) best = Math.min(best, took(work, text))
  return best
}

/** How often `factor` times the text takes longer than it may; looks at short texts first, so that what is quadratic fails soon. */
function growth(work: (text: string) => void, part: string): string | undefined {
  for (const [length, longer] of [
    [small / 64, small / 4],
    [small / 16, small],
    [small, large],
  ] as const) {
    const before = Math.max(least(work, repeated(part, length), floor), floor)
    const after = least(work, repeated(part, longer), most * before)
    if (after > most * before)
      return `${JSON.stringify(part)}: ${length} take ${before.toFixed(1)} ms, ${longer} take ${after.toFixed(1)} ms`
  }
  return undefined
}

interface Expression {
  readonly where: string
  readonly pattern: RegExp
}

interface Node {
  readonly type?: string
  readonly regex?: { readonly pattern: string; readonly flags: string }
  readonly callee?: { readonly name?: string }
  readonly start?: number
}

/** Every node of a source, parsed as TypeScript. */
function* nodesOf(value: unknown): Generator<Node> {
  if (typeof value !== 'object' || value === null) return
  yield value
  for (const each of Object.values(value)) yield* nodesOf(each)
}

const sources = globSync('src/**/*.ts', { cwd: root })
  .sort()
  .map((file) => ({ file, text: readFileSync(join(root, file), 'utf8') }))

/** The expressions that are written between slashes, and the places that make one of a text. */
const found: Expression[] = []
const dynamic: string[] = []
for (const { file, text } of sources) {
  for (const { type, regex, callee, start = 0 } of nodesOf(parseAst(text, { lang: 'ts' }))) {
    if (type === 'Literal' && regex !== undefined) {
      const line = text.slice(0, start).split('\n').length
      found.push({ where: `${file}:${line}`, pattern: new RegExp(regex.pattern, regex.flags) })
    }
    if ((type === 'NewExpression' || type === 'CallExpression') && callee?.name === 'RegExp') dynamic.push(file)
  }
}

suite('every expression of the sources takes sixteen times the text in at most forty times the time', () => {
  test('all are tested: only those for secrets and for the marks of issues and comments are built from a text', () => {
    expect(found.length).toBeGreaterThan(90)
    expect([...dynamic].sort()).toEqual(['src/lib/secrets.ts', 'src/report/drift-issue.ts', 'src/report/drift-issue.ts'])
    const patterns = new Set(found.map(({ pattern }) => String(pattern)))
    for (const { text } of known) if (text !== undefined) expect(patterns).toContain(String(text))
  })

  test.each(found.map(({ where, pattern }) => [where, pattern] as const))('%s %s', (_, pattern) => {
    const slow = hostileFor(pattern).flatMap((part) => growth(meets(pattern), part) ?? [])
    expect(slow).toEqual([])
  })
})

const message = 'x'.repeat(100)
const words = [...new Set(found.flatMap(({ pattern }) => wordsOf(pattern)))]
/** Texts for whole functions: what any expression has trouble with, and the words of all of them. */
const forFunctions = [...parts, words.join(' '), words.join(''), 'failget', 'token ', 'principal', 'role "', 'api not ']

suite('functions that meet texts of others take sixteen times the text in at most forty times the time', () => {
  const at = { doing: 'testing' }
  const finding = (detail: string): Finding => ({
    severity: 'error',
    code: 'internal',
    title: detail,
    detail,
    fix: `Do: az ${detail}`,
  })

  /** A report in which every text is the same one. */
  function reportOf(text: string): Report {
    return {
      schemaVersion: 1,
      mode: 'check',
      part: 'all',
      result: 'drift',
      failureReason: 'drift',
      changed: false,
      drift: true,
      verified: false,
      storedKeys: { before: 1, after: 1 },
      setUp: true,
      toDo: 1,
      planId: '',
      startedAt: new Date(0).toISOString(),
      durationMs: 1,
      server: { id: '/subscriptions/x', name: text, host: text, principalId: text },
      steps: [
        { id: 'allow-list', kind: 'allow-list', target: text, current: text, desired: text, status: 'different', detail: text },
        { id: `${text}/x`, kind: 'setting', target: text, current: text, desired: text, status: 'missing', detail: text },
      ],
      queries: [
        {
          database: text,
          service: 'openai',
          name: 'embedding',
          sql: `SELECT '${text}'(a => ${text})`,
          status: 'failed',
          proof: 'none',
          attempts: 1,
          durationMs: 1,
          answer: text,
          error: text,
        },
      ],
      findings: [finding(text)],
    }
  }

  const writing = { namesOnly: false, runUrl: 'https://github.com/contoso/shop/actions/runs/1' }
  const coverage = { server: '/x', part: 'all', services: ['openai'], databases: ['app'] } as const
  const functions: Record<string, (text: string) => void> = {
    visible,
    onOneLine,
    plain,
    bounded,
    boundedJson: (text) => boundedJson(JSON.stringify({ text })),
    withoutEndSlashes,
    'withoutCutSecret, a secret that is nearly there': (text) => withoutCutSecret(text, `${text.slice(0, 60)}y`),
    'withoutCutSecret, many cuts': (text) => withoutCutSecret(text.replaceAll(/.{64}/gs, '$&… (1 more characters)'), message),
    summary: (text) => summary(reportOf(text)),
    alikeFindings: (text) => alikeFindings([finding(text), finding(`"app" ${text}`)], ['app', text]),
    onePerCause: (text) => onePerCause([finding(text), finding(`"app" ${text}`)], ['app', text]),
    driftIssue: (text) => driftIssue(reportOf(text), coverage, driftOf(reportOf(text), []), writing),
    planComment: (text) => planComment(reportOf(text), coverage, writing),
    'driftState and planMark': (text) => {
      const near = text.replaceAll(/.{2000}/gs, `${driftMarker('/x')} ${planMarker('/x')} part=a services=a databases=0.`)
      driftState(near, '/x')
      planMark(near, '/x')
    },
    'the table of errors': (text) => {
      for (const { origin, codes } of known) {
        for (const code of [...(codes ?? []).slice(0, 1), text]) {
          explain({ origin, code, text, requestId: text }, at)
          outlook({ origin, code, text })
        }
      }
    },
    describe: (text) => {
      describe(text)
      describe({ text, texts: [text, text] })
    },
  }

  test.each(Object.keys(functions))('%s', (name) => {
    const work = functions[name] as (text: string) => void
    const slow = forFunctions.flatMap((part) => growth(work, part) ?? [])
    expect(slow).toEqual([])
  })

  test('every row of the table has a bounded text for a text of any length', () => {
    for (const { origin, codes } of known) {
      for (const text of ['x'.repeat(1_000_000), "perform action 'a' over scope '".repeat(30_000)]) {
        const failure = explain({ origin, code: codes?.[0] ?? '', text, requestId: text }, { ...at, user: text, resource: text })
        expect(JSON.stringify(failure.finding()).length).toBeLessThan(8 * longestText)
      }
    }
  })
})

suite('a text that was cut', () => {
  test('names how much was cut, never ends in half a character, and is marked as cut', () => {
    expect(bounded('short')).toBe('short')
    expect(bounded('x'.repeat(longestText))).toHaveLength(longestText)
    expect(bounded('abcdef', 4)).toBe('abcd… (2 more characters)')
    expect(bounded('abc😀def', 4)).toBe('abc… (5 more characters)')
    expect(bounded('abc😀def', 4).isWellFormed()).toBe(true)
    expect(isCut(bounded('x'.repeat(longestText + 1)))).toBe(true)
    expect(isCut('… (2 more characters) and more')).toBe(false)
  })

  test('the beginning of a secret that was cut in two is hidden', () => {
    const secret = '0123456789abcdef'
    for (let kept = 6; kept < secret.length; kept++) {
      const cut = bounded(`the key ${secret} is wrong`, 8 + kept)
      expect(withoutCutSecret(cut, secret)).toMatch(/^the key \*\*\*… \(\d+ more characters\)$/)
    }
    expect(withoutCutSecret('01234… (3 more characters)', secret)).toBe('01234… (3 more characters)')
  })

  test('JSON stays JSON, with shortened texts and unchanged names and numbers', () => {
    const long = 'x'.repeat(20_000)
    const json = JSON.stringify({ value: [{ name: long, count: 4, is: true, none: null }], [long]: 'kept' })
    const cut = JSON.parse(boundedJson(json)) as { value: { name: string }[] }
    expect(cut.value[0]).toMatchObject({ count: 4, is: true, none: null })
    expect(cut.value[0]?.name).toBe(bounded(long))
    expect(Object.keys(cut)).toContain(long)
    expect(boundedJson(`<html>${long}`)).toBe(`<html>${long}`)
  })
})

test('every thrown value is described in a bounded text', () => {
  const circle: Record<string, unknown> = {}
  circle['self'] = circle
  const trap = (): never => {
    throw new Error('trap')
  }
  const thrown: unknown[] = [
    circle,
    'x'.repeat(1_000_000),
    new Error('x'.repeat(1_000_000)),
    Object.assign(new Error('x'), { message: { toString: trap } }),
    Object.defineProperty({}, 'a', { enumerable: true, get: trap }),
    { toJSON: trap },
    { toString: trap, toJSON: trap },
    new Proxy({}, { get: trap, ownKeys: trap, getPrototypeOf: trap }),
    Array.from({ length: 5_000_000 }, () => 0),
    Object.fromEntries(Array.from({ length: 200_000 }, (_, index) => [`name${index}`, 'x'.repeat(50)])),
    Object.create(null),
    Symbol('x'),
    10n ** 100_000n,
    () => 'x'.repeat(100),
    undefined,
    null,
  ]
  for (const each of thrown) {
    const start = performance.now()
    const text = describe(each)
    expect(text.length).toBeLessThan(longestText + 50)
    expect(text).not.toBe('')
    expect(performance.now() - start).toBeLessThan(5_000)
  }
})

test('the log has a limit that does not apply to results', () => {
  let printed = ''
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    printed += String(text)
    return true
  })
  try {
    const log = createLog()
    for (let line = 0; line < 2_000; line++) log.info(`${line} ${'x'.repeat(20_000)}`)
    for (let line = 0; line < 2_000; line++) log.debug('x'.repeat(50_000))
    log.result(`passed  openai: ${'y'.repeat(5_000)}`)
    log.result('Result: changed')
  } finally {
    write.mockRestore()
  }
  expect(printed.length).toBeLessThan(8_200_000)
  const lines = printed.trimEnd().split('\n')
  expect(lines.filter((line) => line.includes('Further lines are left out'))).toHaveLength(2)
  expect(lines.at(-2)).toMatch(/^passed {2}openai: y{100,300}… \(\d+ more characters\)$/)
  expect(lines.at(-1)).toBe('Result: changed')
})

suite('the report file', () => {
  const query = (index: number, length: number): Report['queries'][number] => ({
    database: `app${index}`,
    service: 'openai',
    name: 'embedding',
    sql: 's'.repeat(length),
    status: 'failed',
    proof: 'none',
    attempts: 1,
    durationMs: 1,
    answer: '',
    error: 'e'.repeat(length),
  })
  const reportOf = (queries: Report['queries']): Report => ({
    schemaVersion: 1,
    mode: 'check',
    part: 'all',
    result: 'failed',
    failureReason: 'verification',
    changed: false,
    drift: false,
    verified: false,
    storedKeys: { before: 1, after: 1 },
    setUp: true,
    toDo: 0,
    planId: '',
    startedAt: '',
    durationMs: 0,
    server: { id: '', name: '', host: '', principalId: '' },
    steps: [],
    queries,
    findings: [],
  })
  const bytes = (of: Report): number => Buffer.byteLength(JSON.stringify(asJson(of), null, 2))

  test('one that fits stays unchanged', () => {
    const of = reportOf([query(1, 100)])
    expect(fitted(of)).toBe(of)
  })

  test('one that does not has its longest texts shortened, with a finding', () => {
    const of = reportOf(Array.from({ length: 1_000 }, (_, index) => query(index, 8_000)))
    const fit = fitted(of)
    expect(bytes(fit)).toBeLessThan(5_001_000)
    expect(fit.queries).toHaveLength(1_000)
    expect(fit.queries[7]?.error).toMatch(/^e+… \(\d+ more characters\)$/)
    expect(fit.findings).toEqual([
      expect.objectContaining({ code: 'report-cut', detail: expect.stringContaining(`${bytes(of)}`) }),
    ])
  })

  test('one with too many items leaves the last ones out, and names how many', () => {
    const of = reportOf(Array.from({ length: 60_000 }, (_, index) => query(index, 20)))
    const fit = fitted(of)
    expect(bytes(fit)).toBeLessThan(5_001_000)
    expect(fit.queries.length).toBeGreaterThan(5_000)
    expect(fit.findings[0]?.detail).toContain(`${60_000 - fit.queries.length} test queries`)
  })
})
