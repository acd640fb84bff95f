/** Texts of Azure, PostgreSQL, the AI services and GitHub stay text in the log, the summary, issues and comments. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { keyValues } from '../../emulator/runner.ts'
import type { QueryResult } from '../../src/core/journal.ts'
import type { Report } from '../../src/core/report.ts'
import { allQueries, services } from '../../src/core/services.ts'
import { explain, known } from '../../src/errors/explain.ts'
import type { Finding } from '../../src/errors/failure.ts'
import { annotate, createLog, fail, plain, setOutput, warn } from '../../src/github/runner.ts'
import { onOneLine, visible } from '../../src/lib/unicode.ts'
import {
  changedComment,
  driftGone,
  driftIssue,
  driftOf,
  driftState,
  goneComment,
  planComment,
  returnedComment,
} from '../../src/report/drift-issue.ts'
import { alikeFindings } from '../../src/report/grouping.ts'
import { code, text } from '../../src/report/markdown.ts'
import { summary } from '../../src/report/summary.ts'
import { bare, commandOf, commandsIn, expectOwnPicture, hostileText, read, runs, shows, texts } from '../support/hostile.ts'

type ReportStep = Report['steps'][number]

const status = fc.constantFrom<ReportStep['status']>('in-sync', 'missing', 'different', 'created', 'updated', 'failed', 'skipped')
const value = fc.oneof(
  { weight: 4, arbitrary: hostileText },
  { weight: 1, arbitrary: fc.constantFrom('set', 'not set', 'unknown', '') },
)

const step: fc.Arbitrary<ReportStep> = fc
  .record({
    kind: fc.constantFrom<ReportStep['kind']>(
      ...(['identity', 'restart', 'firewall', 'allow-list', 'role', 'replica', 'extension', 'setting'] as const),
    ),
    target: hostileText,
    service: fc.constantFrom(...services.map(({ name }) => name)),
    setting: fc.constantFrom('azure_openai.endpoint', 'azure_openai.subscription_key', 'azure_cognitive.translator_resource_id'),
    current: value,
    desired: value,
    status,
    detail: fc.oneof(fc.constant(''), hostileText),
  })
  .map(({ service, setting, ...rest }) => {
    const ids = { role: `role/${service}`, setting: `${rest.target}/${setting}`, extension: `${rest.target}/extension` }
    return { ...rest, id: ids[rest.kind as keyof typeof ids] ?? rest.kind }
  })

const query: fc.Arbitrary<QueryResult> = fc.record({
  database: hostileText,
  service: fc.constantFrom(...services.map(({ name }) => name)),
  name: fc.constantFrom(...allQueries.map(({ name }) => name)),
  sql: hostileText,
  status: fc.constantFrom('passed', 'failed', 'skipped'),
  proof: fc.constantFrom('keyless', 'key-present', 'key', 'none'),
  attempts: fc.constantFrom(1, 3),
  durationMs: fc.constantFrom(0, 20),
  answer: hostileText,
  error: hostileText,
})

const finding: fc.Arbitrary<Finding> = fc.record({
  severity: fc.constantFrom('error', 'warning', 'notice'),
  code: hostileText as fc.Arbitrary<Finding['code']>,
  title: hostileText,
  detail: hostileText,
  fix: fc.oneof(
    hostileText,
    hostileText.map((found) => `az group show --name ${found}`),
    hostileText.map((found) => `Do it: SELECT ${found}`),
  ),
})

const report: fc.Arbitrary<Report> = fc.record({
  schemaVersion: fc.constant(1 as const),
  mode: fc.constantFrom<Report['mode']>('apply', 'check', 'verify', ''),
  part: fc.constant('all' as const),
  result: fc.constantFrom<Report['result']>('in-sync', 'changed', 'drift', 'failed'),
  failureReason: fc.constant('azure' as const),
  changed: fc.boolean(),
  drift: fc.boolean(),
  verified: fc.boolean(),
  storedKeys: fc.constant({ before: 2, after: 1 }),
  setUp: fc.boolean(),
  toDo: fc.nat(9),
  planId: hostileText,
  startedAt: fc.constant('2026-11-24T00:00:00.000Z'),
  durationMs: fc.constant(1_234),
  server: fc.record({ id: hostileText, name: hostileText, host: hostileText, principalId: hostileText }),
  steps: fc.uniqueArray(step, { maxLength: 8, selector: ({ id }) => id }),
  queries: fc.array(query, { maxLength: 5 }),
  findings: fc.array(finding, { maxLength: 4 }),
})

const headings = /^(Steps|Test queries|Findings|Next)$/

test('the summary: no value becomes markup, a link, a mention or a row; each can be read', () => {
  fc.assert(
    fc.property(report, (anyReport) => {
      const shown = summary(anyReport)
      expectOwnPicture(shown)
      const page = read(shown)
      expect(page.headings.length).toBeGreaterThan(0)
      for (const heading of page.headings.slice(1)) expect(heading).toMatch(headings)
      for (const each of anyReport.queries) {
        // A later result of the same query replaces an earlier one.
        const counts = anyReport.queries.find((one) => one.database === each.database && one.name === each.name) === each
        if (counts) expect(shows(page, each.status === 'passed' ? each.answer : each.error)).toBe(true)
        expect(shows(page, each.database)).toBe(true)
      }
      for (const each of anyReport.findings) {
        for (const anyText of [each.code, each.title, each.detail]) expect(shows(page, anyText), anyText).toBe(true)
        expect(shows(page, each.fix), each.fix).toBe(true)
      }
      for (const each of anyReport.steps) if (each.detail !== '') expect(shows(page, each.detail), each.detail).toBe(true)
      expect(Buffer.byteLength(shown)).toBeLessThan(1024 * 1024)
    }),
    runs(80),
  )
})

test('an issue and a comment: texts of others are code, where no mention works; the title contains only a name', () => {
  fc.assert(
    fc.property(
      report,
      report,
      fc.boolean(),
      hostileText,
      fc.array(hostileText),
      (anyReport, before, namesOnly, address, databases) => {
        const runUrl = 'https://github.example/contoso/shop/actions/runs/1'
        const coverage = { server: anyReport.server.id, part: 'all', services: ['openai', 'translator'], databases } as const
        for (const writing of [
          { namesOnly, runUrl },
          { namesOnly, runUrl: address },
        ]) {
          const earlier = driftIssue(before, coverage, driftOf(before, []), { namesOnly, runUrl }).state
          const drift = driftOf(anyReport, earlier.steps)
          const issue = driftIssue(anyReport, coverage, drift, writing)
          expect(issue.title).toMatch(
            /^[\w.-]{0,63} (?:has drifted|is not set up yet): (\d+ )?databases?[\p{L}\p{N}_., -]* \(openai, translator\)$/u,
          )
          expect(issue.title.length).toBeLessThanOrEqual(256)
          expect(driftState(issue.body, anyReport.server.id)).toEqual(issue.state)
          const all = [
            issue.body,
            driftGone(anyReport, earlier.mark, coverage, writing),
            planComment(anyReport, coverage, writing),
            returnedComment(drift, writing),
            goneComment(anyReport, writing),
          ]
          for (const body of [...all, changedComment(drift, earlier, writing)]) {
            const links = writing.runUrl === runUrl || !URL.canParse(address) ? [runUrl] : [linkOf(address)]
            // The content of our own hidden comment is not markup of others.
            const page = read(body.replaceAll(/^<!-- azure-ai-postgres-identity (drift|plan) [0-9a-z.= -]+ -->$/gm, ''), links)
            expect(page.elements).not.toContain('h2')
            expect(body.length).toBeLessThanOrEqual(65_536)
          }
          if (!namesOnly) {
            const page = read(planComment(anyReport, coverage, { namesOnly, runUrl }).replaceAll(/<!--.*-->/g, ''), [runUrl])
            for (const each of anyReport.steps) if (each.detail !== '') expect(shows(page, each.detail)).toBe(true)
            for (const each of anyReport.findings) expect(shows(page, each.title)).toBe(true)
          }
        }
      },
    ),
    runs(25),
  )
})

/** The address of a run as a link has it: GitHub's own is always one. */
function linkOf(address: string): string {
  const sign = (found: string): string => `%${found.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`
  return new URL(address).href.replaceAll(/[()<>[\]\\`*_~|]/g, sign)
}

test('a fix to paste gets no second line from a name, and no part of an error text that a shell would run', () => {
  fc.assert(
    fc.property(hostileText, (anyText) => {
      expect(onOneLine(anyText)).not.toMatch(/[\n\r]/)
      const at = { doing: 'reading the server', server: 'pg-one', resourceGroup: 'rg', host: 'h', port: 5432 }
      const message = `does not have authorization to perform action 'x/read' over scope '${anyText}' object id '${anyText}' no pg_hba.conf entry for host "${anyText}"`
      for (const row of known) {
        const { fix } = explain({ origin: row.origin, code: row.codes?.[0] ?? '', text: message }, at)
        if (/az role assignment create|firewall-rule create/.test(fix))
          expect(fix).not.toMatch(/[$`\n](?!allow|temp)(?!`)\(|\$\(|OWNED ;/)
      }
    }),
    runs(100),
  )
})

describe('the log', () => {
  let printed: string

  beforeEach(() => {
    printed = ''
    vi.spyOn(process.stdout, 'write').mockImplementation((chunk) => {
      printed += String(chunk)
      return true
    })
  })
  afterEach(() => void vi.restoreAllMocks())

  test('the test reads commands as the runner does', () => {
    expect(commandOf('::error title=a%3Ab,file=x::one%0Atwo')).toEqual({
      name: 'error',
      properties: { title: 'a:b', file: 'x' },
      data: 'one\ntwo',
    })
    expect(commandOf(' \u0085\u3000::ADD-mask::x')).toMatchObject({ name: 'ADD-mask', data: 'x' })
    expect(commandOf('so ##[group]x')).toMatchObject({ name: 'group', data: 'x' })
    for (const line of ['', 'x ::error::y', '::nothing::x', '::error', '##[nothing]x', ':\u200b:error::x', 'a::text'])
      expect([line, commandOf(line)]).toEqual([line, undefined])
    // Unchanged, a quarter of the texts are commands, so the checks below are meaningful.
    expect(texts.flatMap((each) => commandsIn(each)).length).toBeGreaterThan(8)
  })

  test('no line of it is a command, and every character is visible', () => {
    fc.assert(
      fc.property(hostileText, (anyText) => {
        for (const line of plain(anyText).split('\n')) {
          expect(commandOf(line), JSON.stringify(line)).toBeUndefined()
          expect(visible(line.replaceAll('\u200b', ''))).toBe(line.replaceAll('\u200b', ''))
        }
        if (anyText.length < 10_000)
          expect(bare(plain(anyText).replaceAll('\u200b', ''))).toBe(bare(visible(anyText.replaceAll('\r', '\n'))))
        printed = ''
        createLog().info(anyText)
        expect(commandsIn(printed)).toEqual([])
      }),
      { ...runs(300), examples: texts.map((each): [string] => [each]) },
    )
  })

  test('annotations, debug lines, masks and titles are one command each, whatever they contain', () => {
    const log = createLog()
    fc.assert(
      fc.property(fc.array(finding, { maxLength: 3 }), hostileText, (found, anyText) => {
        printed = ''
        annotate(alikeFindings(found, []))
        const loud = found.filter(({ severity }) => severity !== 'notice')
        expect(
          commandsIn(printed)
            .map(({ name }) => name)
            .sort(),
        ).toEqual(loud.map(({ severity }) => severity).sort())
        for (const { properties } of commandsIn(printed))
          expect(Object.keys(properties)).toEqual(properties['title'] ? ['title'] : [])

        printed = ''
        warn(anyText, anyText)
        fail(anyText)
        log.debug(anyText)
        expect(commandsIn(printed).map(({ name }) => name)).toEqual(['warning', 'error', 'debug'])
        const [first] = commandsIn(printed)
        if (anyText.length < 1_000) expect(first?.data).toBe(visible(anyText))
      }),
      runs(100),
    )
    process.exitCode = 0
  })

  test('a title of a group is one line', async () => {
    for (const anyText of texts) {
      printed = ''
      await createLog().group(anyText, async () => undefined)
      expect(commandsIn(printed).map(({ name }) => name)).toEqual(['group', 'endgroup'])
    }
  })

  // This is the last test, because a mask stays for the rest of the process.
  test('a mask contains a line of the secret, and nothing else', () => {
    const log = createLog()
    for (const anyText of texts) {
      const secret = `${anyText}x`
      printed = ''
      log.secret(secret)
      const commands = commandsIn(printed)
      expect(commands.length).toBeGreaterThan(0)
      for (const { name, data } of commands) {
        expect(name).toBe('add-mask')
        expect(secret).toContain(data)
      }
    }
  })
})

test('an output is the value of its own name only', () => {
  const folder = mkdtempSync(join(tmpdir(), 'outputs-'))
  const before = process.env['GITHUB_OUTPUT']
  const file = join(folder, 'output')
  process.env['GITHUB_OUTPUT'] = file
  try {
    fc.assert(
      fc.property(hostileText, (anyText) => {
        writeFileSync(file, '')
        setOutput('principal-id', anyText)
        setOutput('result', 'failed')
        expect(keyValues(readFileSync(file, 'utf8'))).toEqual({ 'principal-id': anyText.toWellFormed(), result: 'failed' })
      }),
      runs(60),
    )
  } finally {
    if (before === undefined) delete process.env['GITHUB_OUTPUT']
    else process.env['GITHUB_OUTPUT'] = before
    rmSync(folder, { recursive: true })
  }
})

test('single values: code stays one element on one line, and text starts no markup', () => {
  fc.assert(
    fc.property(hostileText, (anyText) => {
      if (anyText !== '')
        expect(read(`x ${code(anyText)} y`).elements.filter((each) => !['p', 'wbr'].includes(each))).toEqual(['code'])
      const page = read(`x ${text(anyText)} y`)
      expect(page.elements.filter((each) => !['p', 'br', 'wbr', 'span'].includes(each))).toEqual([])
      expect(shows(page, anyText)).toBe(true)
    }),
    { ...runs(150), examples: texts.map((each): [string] => [each]) },
  )
})
