/** Whatever Azure, PostgreSQL, the AI services and GitHub say: in the log, the summary, issues and comments it is text. */
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
    fc.property(report, (given) => {
      const shown = summary(given)
      expectOwnPicture(shown)
      const page = read(shown)
      expect(page.headings.length).toBeGreaterThan(0)
      for (const heading of page.headings.slice(1)) expect(heading).toMatch(headings)
      for (const each of given.queries) {
        // A later answer to the same question takes the place of an earlier one.
        const counts = given.queries.find((one) => one.database === each.database && one.name === each.name) === each
        if (counts) expect(shows(page, each.status === 'passed' ? each.answer : each.error)).toBe(true)
        expect(shows(page, each.database)).toBe(true)
      }
      for (const each of given.findings) {
        for (const said of [each.code, each.title, each.detail]) expect(shows(page, said), said).toBe(true)
        expect(shows(page, each.fix), each.fix).toBe(true)
      }
      for (const each of given.steps) if (each.detail !== '') expect(shows(page, each.detail), each.detail).toBe(true)
      expect(Buffer.byteLength(shown)).toBeLessThan(1024 * 1024)
    }),
    runs(80),
  )
})

test('an issue and a comment: what others say stands in code, where nobody is mentioned; the title holds a name only', () => {
  fc.assert(
    fc.property(
      report,
      report,
      fc.boolean(),
      hostileText,
      fc.array(hostileText),
      (given, before, namesOnly, address, databases) => {
        const runUrl = 'https://github.example/contoso/shop/actions/runs/1'
        const coverage = { server: given.server.id, part: 'all', services: ['openai', 'translator'], databases } as const
        for (const writing of [
          { namesOnly, runUrl },
          { namesOnly, runUrl: address },
        ]) {
          const earlier = driftIssue(before, coverage, driftOf(before, []), { namesOnly, runUrl }).state
          const drift = driftOf(given, earlier.steps)
          const issue = driftIssue(given, coverage, drift, writing)
          expect(issue.title).toMatch(
            /^[\w.-]{0,63} (?:has drifted|is not set up yet): (\d+ )?databases?[\p{L}\p{N}_., -]* \(openai, translator\)$/u,
          )
          expect(issue.title.length).toBeLessThanOrEqual(256)
          expect(driftState(issue.body, given.server.id)).toEqual(issue.state)
          const all = [
            issue.body,
            driftGone(given, earlier.mark, coverage, writing),
            planComment(given, coverage, writing),
            returnedComment(drift, writing),
            goneComment(given, writing),
          ]
          for (const body of [...all, changedComment(drift, earlier, writing)]) {
            const links = writing.runUrl === runUrl || !URL.canParse(address) ? [runUrl] : [linkOf(address)]
            // What our own comment of one line hides is no markup of others.
            const page = read(body.replaceAll(/^<!-- azure-ai-postgres-identity (drift|plan) [0-9a-z.= -]+ -->$/gm, ''), links)
            expect(page.elements).not.toContain('h2')
            expect(body.length).toBeLessThanOrEqual(65_536)
          }
          if (!namesOnly) {
            const page = read(planComment(given, coverage, { namesOnly, runUrl }).replaceAll(/<!--.*-->/g, ''), [runUrl])
            for (const each of given.steps) if (each.detail !== '') expect(shows(page, each.detail)).toBe(true)
            for (const each of given.findings) expect(shows(page, each.title)).toBe(true)
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

test('a fix that is meant to be pasted has no second line by a name, and no part of an error text that a shell would run', () => {
  fc.assert(
    fc.property(hostileText, (said) => {
      expect(onOneLine(said)).not.toMatch(/[\n\r]/)
      const at = { doing: 'reading the server', server: 'pg-one', resourceGroup: 'rg', host: 'h', port: 5432 }
      const message = `does not have authorization to perform action 'x/read' over scope '${said}' object id '${said}' no pg_hba.conf entry for host "${said}"`
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

  test('the reader of commands reads what the runner reads', () => {
    expect(commandOf('::error title=a%3Ab,file=x::one%0Atwo')).toEqual({
      name: 'error',
      properties: { title: 'a:b', file: 'x' },
      data: 'one\ntwo',
    })
    expect(commandOf(' \u0085\u3000::ADD-mask::x')).toMatchObject({ name: 'ADD-mask', data: 'x' })
    expect(commandOf('so ##[group]x')).toMatchObject({ name: 'group', data: 'x' })
    for (const line of ['', 'x ::error::y', '::nothing::x', '::error', '##[nothing]x', ':\u200b:error::x', 'a::text'])
      expect([line, commandOf(line)]).toEqual([line, undefined])
    // Left as they are, a quarter of the texts are commands: what is held against them below means something.
    expect(texts.flatMap((each) => commandsIn(each)).length).toBeGreaterThan(8)
  })

  test('no line of it is a command, and nothing in it is unseen', () => {
    fc.assert(
      fc.property(hostileText, (said) => {
        for (const line of plain(said).split('\n')) {
          expect(commandOf(line), JSON.stringify(line)).toBeUndefined()
          expect(visible(line.replaceAll('\u200b', ''))).toBe(line.replaceAll('\u200b', ''))
        }
        if (said.length < 10_000)
          expect(bare(plain(said).replaceAll('\u200b', ''))).toBe(bare(visible(said.replaceAll('\r', '\n'))))
        printed = ''
        createLog().info(said)
        expect(commandsIn(printed)).toEqual([])
      }),
      { ...runs(300), examples: texts.map((each): [string] => [each]) },
    )
  })

  test('annotations, debug lines, masks and titles are one command each, whatever they hold', () => {
    const log = createLog()
    fc.assert(
      fc.property(fc.array(finding, { maxLength: 3 }), hostileText, (found, said) => {
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
        warn(said, said)
        fail(said)
        log.debug(said)
        expect(commandsIn(printed).map(({ name }) => name)).toEqual(['warning', 'error', 'debug'])
        const [first] = commandsIn(printed)
        if (said.length < 1_000) expect(first?.data).toBe(visible(said))
      }),
      runs(100),
    )
    process.exitCode = 0
  })

  test('a title of a group is one line', async () => {
    for (const said of texts) {
      printed = ''
      await createLog().group(said, async () => undefined)
      expect(commandsIn(printed).map(({ name }) => name)).toEqual(['group', 'endgroup'])
    }
  })

  // The last one: what is masked stays so for the rest of the process.
  test('a mask holds a line of the secret, and nothing but that', () => {
    const log = createLog()
    for (const said of texts) {
      const secret = `${said}x`
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
      fc.property(hostileText, (said) => {
        writeFileSync(file, '')
        setOutput('principal-id', said)
        setOutput('result', 'failed')
        expect(keyValues(readFileSync(file, 'utf8'))).toEqual({ 'principal-id': said.toWellFormed(), result: 'failed' })
      }),
      runs(60),
    )
  } finally {
    if (before === undefined) delete process.env['GITHUB_OUTPUT']
    else process.env['GITHUB_OUTPUT'] = before
    rmSync(folder, { recursive: true })
  }
})

test('single values: code stays one element on one line, text begins nothing', () => {
  fc.assert(
    fc.property(hostileText, (said) => {
      if (said !== '') expect(read(`x ${code(said)} y`).elements.filter((each) => !['p', 'wbr'].includes(each))).toEqual(['code'])
      const page = read(`x ${text(said)} y`)
      expect(page.elements.filter((each) => !['p', 'br', 'wbr', 'span'].includes(each))).toEqual([])
      expect(shows(page, said)).toBe(true)
    }),
    { ...runs(150), examples: texts.map((each): [string] => [each]) },
  )
})
