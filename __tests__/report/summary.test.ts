import { describe, expect, test } from 'vitest'
import { keyValues } from '../../emulator/runner.ts'
import { coverageOf } from '../../src/core/coverage.ts'
import type { Inputs } from '../../src/core/inputs.ts'
import { createJournal, type Journal, type QueryResult } from '../../src/core/journal.ts'
import { plan } from '../../src/core/plan.ts'
import { asJson, fails, type Report, report } from '../../src/core/report.ts'
import { serviceNamed } from '../../src/core/services.ts'
import { withWaits } from '../../src/core/steps.ts'
import { Failure, type FailureFacts } from '../../src/errors/failure.ts'
import { plain } from '../../src/github/runner.ts'
import { changedComment, driftIssue, driftOf, driftState, planComment } from '../../src/report/drift-issue.ts'
import { code, text } from '../../src/report/markdown.ts'
import { summary } from '../../src/report/summary.ts'
import { observed, observedDatabase, parsed, tablesOf } from '../support/support.ts'

const hostile = 'a|b<script>alert(1)</script>`{{x}}`\r\n::error::x @team #1 [l](javascript:x) <!-- \u202e'

function journalOf(inputs: Inputs, names: readonly string[]): Journal {
  const journal = createJournal(() => undefined)
  const databases = names.map((name) => observedDatabase(name))
  journal.expect(names)
  journal.observe(databases)
  journal.plan(plan(inputs, observed({ databases })), 'fingerprint')
  return journal
}

function reportOf(inputs: Inputs | undefined, journal: Journal, thrown: Failure[] = []): Report {
  return report({ inputs, journal, thrown, startedAt: new Date(0), durationMs: 1_234, host: 'h', principalId: 'p' })
}

function query(database: string, changes: Partial<QueryResult> = {}): QueryResult {
  return {
    database,
    service: 'openai',
    name: serviceNamed(changes.service ?? 'openai').queries[0]?.name ?? 'embedding',
    sql: `SELECT '${database}'`,
    status: 'passed',
    proof: 'keyless',
    attempts: 1,
    durationMs: 20,
    answer: '1536 dimensions',
    error: '',
    ...changes,
  }
}

const failing = (reason: FailureFacts['reason'], code: string = reason): Failure =>
  new Failure({
    reason,
    code: code as FailureFacts['code'],
    title: `title of ${code}`,
    detail: `detail of ${code}`,
    fix: 'do something',
  })

/** All four services of `app` answered without a key, every step done. */
function good(inputs = parsed()): Journal {
  const journal = journalOf(inputs, ['app'])
  journal.writing()
  for (const step of [...journal.steps]) journal.mark(step.id, 'created')
  for (const { service } of inputs.services) journal.query(query('app', { service }))
  return journal
}

describe('the result', () => {
  test('a run that did and verified everything ends changed and verified', () => {
    expect(reportOf(parsed(), good())).toMatchObject({
      result: 'changed',
      failureReason: 'none',
      changed: true,
      drift: false,
      verified: true,
    })
  })

  test('verified requires every query of every service to pass in every database, with no stored key that may have answered', () => {
    const skipped = good()
    skipped.query(query('app', { service: 'machine-learning', status: 'skipped', proof: 'none' }))
    expect(reportOf(parsed(), skipped)).toMatchObject({ result: 'changed', verified: false })

    const withKey = good()
    withKey.query(query('app', { proof: 'key-present' }))
    expect(reportOf(parsed(), withKey).verified).toBe(false)

    const other = good()
    other.expect(['app', 'other'])
    expect(reportOf(parsed({ databases: 'app,other' }), other).verified).toBe(false)
    expect(reportOf(parsed(), journalOf(parsed(), ['app'])).verified).toBe(false)
  })

  test('cancelled outranks a restart, a restart outranks errors, errors outrank failed queries', () => {
    const order = ['cancelled', 'restart-required', 'azure', 'verification'] as const
    for (let from = 0; from < order.length; from++) {
      const journal = good()
      for (const reason of order.slice(from).toReversed()) journal.fail(failing(reason))
      expect(reportOf(parsed(), journal).failureReason).toBe(order[from])
    }
  })

  test('a failure fails the step; drift does so unless fail-on-drift is false', () => {
    const journal = good()
    const { steps } = journal
    journal.mark(steps[0]?.id ?? '', 'different')
    const drifted = reportOf(parsed(), journal)
    expect(drifted).toMatchObject({ result: 'drift', failureReason: 'drift', drift: true })
    expect([fails(drifted, true), fails(drifted, false)]).toEqual([true, false])
    const failed = reportOf(parsed(), journal, [failing('azure')])
    expect([fails(failed, true), fails(failed, false)]).toEqual([true, true])
  })

  test('a run that ended before it read its inputs is reported as failed', () => {
    const journal = createJournal(() => undefined)
    expect(reportOf(undefined, journal, [failing('input')])).toMatchObject({
      result: 'failed',
      drift: true,
      verified: false,
      mode: '',
      server: { id: '', name: '' },
    })
  })

  test('findings are reported once, errors first, and steps carry no change', () => {
    const journal = good()
    journal.finding({ severity: 'notice', code: 'unproven', title: 't', detail: 'd', fix: '' })
    journal.finding({ severity: 'warning', code: 'key-wins', title: 't', detail: 'd', fix: '' })
    journal.fail(failing('azure'))
    const made = reportOf(parsed(), journal, [failing('azure')])
    expect(made.findings.map(({ severity }) => severity)).toEqual(['error', 'warning', 'notice'])
    for (const step of (asJson(made) as Report).steps)
      expect(Object.keys(step).sort()).toEqual(['current', 'desired', 'detail', 'id', 'kind', 'status', 'target'])
  })

  test('changed is announced once, before the first write', () => {
    const calls: string[] = []
    const journal = createJournal(() => calls.push('changed'))
    expect(journal.changed).toBe(false)
    journal.writing()
    journal.writing()
    expect([journal.changed, calls]).toEqual([true, ['changed']])
  })
})

describe('the summary', () => {
  test('its first line states the result', () => {
    expect(summary(reportOf(parsed(), good())).split('\n')[0]).toBe(
      '## ✅ <code>pg&#45;one</code> needs no secrets now: 16 steps done, all 4 test queries verified, no key is stored',
    )
    const failed = summary(reportOf(parsed(), good(), [failing('permission', 'authorization-failed')]))
    expect(failed.split('\n')[0]).toBe(
      '## ❌ <code>pg&#45;one</code>: title of authorization&#45;failed (<code>permission</code>)',
    )
  })

  test('states whether the server was set up before, and what is left to do', () => {
    const fresh = observed({ server: { ...observed().server, principalId: undefined }, databases: [observedDatabase('app')] })
    const journal = createJournal(() => undefined)
    journal.plan(withWaits(plan(parsed({ mode: 'check' }), fresh)), 'p')
    const first = summary(reportOf(parsed({ mode: 'check' }), journal))
    expect(first.split('\n')[0]).toMatch(/^## ⚠️ <code>pg&#45;one<\/code> is not set up yet: \d+ steps to do, /)
    expect(first).toContain('### Next\n')

    const drifted = good()
    drifted.mark('app/azure_openai.auth_type', 'in-sync')
    drifted.mark('app/azure_openai.endpoint', 'different')
    expect(summary(reportOf(parsed({ mode: 'check' }), drifted)).split('\n')[0]).toMatch(
      /^## ⚠️ <code>pg&#45;one<\/code> has drifted: 1 of \d+ steps, /,
    )
  })

  test('shows the keys before and after, and what is left to clear', () => {
    const inputs = parsed({ 'clear-keys': 'true' })
    const withKeys = [observedDatabase('app', { keysSet: new Set(['azure_openai.subscription_key', 'azure_ml.endpoint_key']) })]
    const journal = createJournal(() => undefined)
    journal.expect(['app'])
    journal.observe(withKeys)
    journal.plan(plan(inputs, observed({ databases: withKeys })), 'p')
    const before = summary(reportOf(inputs, journal))
    expect(before).toContain('🔑 **Keys stored: 2**')
    for (const step of [...journal.steps]) journal.mark(step.id, step.change?.kind === 'key' ? 'updated' : 'in-sync')
    const cleared = reportOf(inputs, journal)
    expect(cleared.storedKeys).toEqual({ before: 2, after: 0 })
    expect(summary(cleared)).toContain('🔑 **Keys stored: 2 before, 0 now**')
    expect(summary(cleared).split('\n')[0]).toContain('2 keys removed')
    journal.mark('app/azure_ml.endpoint_key', 'failed')
    expect(reportOf(inputs, journal).storedKeys.after).toBe(1)
  })

  test('does not claim that no key could answer when one could', () => {
    const journal = good()
    journal.query(query('app', { proof: 'key-present' }))
    const shown = summary(reportOf(parsed(), journal))
    expect(shown).not.toContain('No key was in reach')
    expect(shown).not.toContain('needs no secrets now')
  })

  test('no value can break its tables, start markup or start a workflow command', () => {
    const name = hostile.replaceAll(/[\r\n]/g, ' ').slice(0, 60)
    const inputs = parsed({ databases: name.replaceAll(',', '') })
    const [database = ''] = inputs.databases
    const journal = journalOf(inputs, [database])
    for (const service of ['openai', 'cognitive', 'translator', 'machine-learning'] as const) {
      journal.query(query(database, { service, answer: hostile, sql: hostile }))
    }
    journal.query(query(database, { status: 'failed', error: hostile, proof: 'none' }))
    journal.finding({
      severity: 'warning',
      code: hostile as FailureFacts['code'],
      title: hostile,
      detail: hostile,
      fix: `\`\`\`\n${hostile}\n\`\`\`\``,
    })
    const shown = summary(reportOf(inputs, journal, [new Failure({ ...failing('azure'), title: hostile, detail: hostile })]))
    for (const table of tablesOf(shown)) {
      const columns = table[0]?.length
      for (const row of table) expect([row.length, row.join('|')]).toEqual([columns, row.join('|')])
    }
    const outsideFences = shown.replaceAll(/^(`{3,})\w*\n[\s\S]*?\n\1$/gm, '')
    expect(outsideFences).not.toMatch(/<script/i)
    expect(outsideFences).not.toContain('<!--')
    expect(outsideFences).not.toContain('](')
    expect(outsideFences).not.toMatch(/(^|\s)@team/m)
    expect(shown).not.toContain('\u202e')
    expect(shown).not.toContain('\r')
    expect(shown.match(/<details>/g)?.length ?? 0).toBe(shown.match(/<\/details>/g)?.length ?? 0)
  })

  test('a fix that contains a code fence gets a longer fence around it', () => {
    const journal = good()
    journal.finding({ severity: 'notice', code: 'unproven', title: 't', detail: 'd', fix: 'a\n````\nb' })
    expect(summary(reportOf(parsed(), journal))).toContain('\n`````\na\n````\nb\n`````\n')
  })

  test('the picture contains only letters, digits and a few signs', () => {
    const shown = summary(reportOf(parsed(), good()))
    const [, picture = ''] = /```mermaid\n([\s\S]*?)```/.exec(shown) ?? []
    expect(picture).toContain('flowchart LR')
    expect(picture.match(/:::verified/g)).toHaveLength(4)
    expect(picture).not.toMatch(/[`#;]{2}/)
  })

  test('stays below 1 MiB with hundreds of databases: tables stay whole, and it names what is left out', () => {
    const names = Array.from({ length: 300 }, (_, index) => `database number ${index} ${'|<&'.repeat(10)}`)
    const inputs = parsed({ databases: names.join('\n') })
    const journal = journalOf(inputs, names)
    for (const database of names) {
      for (const { service } of inputs.services) {
        journal.query(
          query(database, {
            service,
            status: 'failed',
            proof: 'none',
            error: `${database.slice(0, 20)} ${`<&>|`.repeat(2_000)}`,
            sql: `${database}${'|'.repeat(3_000)}`,
          }),
        )
      }
      journal.fail(new Failure({ ...failing('database'), detail: database }))
    }
    const shown = summary(reportOf(inputs, journal))
    expect(Buffer.byteLength(shown)).toBeLessThan(1024 * 1024)
    expect(shown).toContain('is left out here')
    expect(shown.split('\n')[0]).toContain('❌')
    for (const table of tablesOf(shown)) expect(new Set(table.map((row) => row.length)).size).toBe(1)
  })

  /** 200 databases with long names of characters that become longer when escaped; all four services answered in each. */
  function manyDatabases() {
    const names = Array.from({ length: 200 }, (_, index) => `${String(index).padStart(3, '0')}${'|<@#`&*"'.repeat(7)}`)
    const inputs = parsed({ databases: names.join('\n') })
    const journal = journalOf(inputs, names)
    journal.writing()
    for (const step of [...journal.steps]) journal.mark(step.id, 'created')
    for (const [index, database] of names.entries())
      for (const { service } of inputs.services)
        journal.query(query(database, { service, sql: 'SELECT 1', durationMs: 20 + index }))
    return { names, inputs, journal }
  }

  test('200 equal databases take a few rows, and one that differs comes first', () => {
    const { names, inputs, journal } = manyDatabases()
    const good = summary(reportOf(inputs, journal))
    expect(good).toContain('**all 200 databases**')
    expect(good).toContain('20 to 219 ms')
    expect(good).toContain('in all 200 databases')
    expect(Buffer.byteLength(good)).toBeLessThan(10_000)

    const [, , other = ''] = names
    journal.query(query(other, { status: 'failed', proof: 'none', error: 'refused', sql: 'SELECT 1' }))
    for (const database of names.slice(3, 53))
      journal.fail(
        new Failure({ ...failing('database', 'lock'), detail: `Database "${database}": taken`, fix: `see "${database}"` }),
      )
    const bad = summary(reportOf(inputs, journal))
    const answers = tablesOf(bad).find((rows) => rows[0]?.[0] === ' Database ')
    expect(answers?.length).toBe(4)
    expect(answers?.[2]?.[0]).toContain(code(other))
    expect(answers?.[3]?.[0]).toContain('**199 databases**')
    expect(bad.match(/\(<code>lock<\/code>\)/g)).toHaveLength(1)
    expect(bad).toContain('The same in 49 other databases')
    expect(bad.match(/<details>/g)?.length).toBe(bad.match(/<\/details>/g)?.length)
    expect(Buffer.byteLength(bad)).toBeLessThan(60_000)
  })

  test('200 databases of which each differs stay below the limits of summary, issue and comment', () => {
    const { names, inputs, journal } = manyDatabases()
    for (const [index, step] of [...journal.steps.entries()]) journal.mark(step.id, 'different', `${index} ${'<&>|'.repeat(500)}`)
    for (const [index, database] of names.entries())
      journal.fail(new Failure({ ...failing('database', `code-${index}`), detail: `"${database}" ${'<&>|'.repeat(500)}` }))
    const made = reportOf(inputs, journal)
    expect(Buffer.byteLength(summary(made))).toBeLessThan(1024 * 1024)
    for (const namesOnly of [true, false]) {
      const writing = { namesOnly, runUrl: 'https://github.com/contoso/shop/actions/runs/1' }
      const coverage = coverageOf(inputs)
      const { body, state } = driftIssue(made, coverage, driftOf(made, []), writing)
      expect(body.length).toBeLessThan(65_536)
      expect(driftState(body, made.server.id)).toEqual(state)
      expect(planComment(made, coverage, writing).length).toBeLessThan(65_536)
      expect(changedComment(driftOf(made, []), { steps: [] }, writing).length).toBeLessThan(65_536)
    }
  })

  test('an issue shows what is the same in many databases in one row', () => {
    const { inputs, journal } = manyDatabases()
    for (const step of journal.steps.filter(({ kind }) => kind === 'setting')) journal.mark(step.id, 'different')
    const made = reportOf(inputs, journal)
    const { body } = driftIssue(made, coverageOf(inputs), driftOf(made, []), { namesOnly: false, runUrl: '' })
    expect(body).toContain('in 200 databases: ')
    expect(body).not.toContain('left out here')
  })

  test('sizes are counted in bytes: characters of several bytes do not exceed the limit', () => {
    const names = Array.from({ length: 400 }, (_, index) => `${'漢'.repeat(18)}${index}`)
    const inputs = parsed({ databases: names.join('\n') })
    const journal = createJournal(() => undefined)
    for (const database of names)
      journal.query(query(database, { status: 'failed', proof: 'none', error: '漢'.repeat(1_000), sql: '' }))
    expect(Buffer.byteLength(summary(reportOf(inputs, journal)))).toBeLessThan(1024 * 1024)
  })

  test('code and text show every character, and none as markup', () => {
    expect(code('')).toBe('')
    expect(code('a|b\n<c>')).toBe('<code>a&#124;b &#60;c&#62;</code>')
    expect(text('one\r\ntwo')).toBe('one<br/>two')
    expect(code('\u0000\ud800')).toBe('<code>&#92;u0000\ufffd</code>')
    expect(code('x'.repeat(2_000)).length).toBeLessThan(1_100)
  })
})

describe('the log', () => {
  test.each([
    '::error::boom',
    '  ::set-output name=a::b',
    'x\n::add-mask::y',
    'a\r::stop-commands::x',
    '##[error]boom',
    'x ##[group]y',
  ])('a value cannot be a workflow command: %j', (value) => {
    for (const line of plain(value).split('\n')) {
      expect(line).not.toMatch(/^\s*::/)
      expect(line).not.toContain('##[')
    }
  })

  test('other text stays as it is', () => {
    const line = 'SELECT a::text, b -- see https://x ::not at the start'
    expect(plain(line)).toBe(line)
  })
})

test('files of keys and values are read as the runner does: blocks, several lines, the last one wins', () => {
  expect(keyValues('a=1\nb<<END\none\ntwo=2\nEND\na=x=y\n')).toEqual({ a: 'x=y', b: 'one\ntwo=2' })
})
