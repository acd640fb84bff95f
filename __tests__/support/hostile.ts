/** Hostile texts, and readers of what the action says that are as easily led as the runner and GitHub are. */
import { randomInt } from 'node:crypto'
import fc from 'fast-check'
import { marked } from 'marked'
import { expect, vi } from 'vitest'
import { visible } from '../../src/lib/unicode.ts'
import { tablesOf } from './support.ts'

const { HOSTILE_SEED, HOSTILE_RUNS } = process.env

/** 32 bits; another one for each run unless `HOSTILE_SEED` says which. */
export const seed = HOSTILE_SEED === undefined ? randomInt(2 ** 31) : Number(HOSTILE_SEED)
process.stdout.write(`Hostile texts: seed ${seed}; HOSTILE_SEED=${seed} tries the same again\n`)

// As long as it takes, when it is asked for.
if (HOSTILE_RUNS !== undefined) vi.setConfig({ testTimeout: 3_600_000 })

/** How often each claim is tried, where `usual` is what it is tried without `HOSTILE_RUNS`. */
export const runs = (usual: number) => ({ seed, numRuns: HOSTILE_RUNS === undefined ? usual : Number(HOSTILE_RUNS) })

/** One of each kind; OWNED is what must never become anything but text. */
export const texts: readonly string[] = [
  '::error title=OWNED::OWNED',
  '::set-output name=result::OWNED',
  ' \t::add-mask::OWNED',
  '\u0085::error::OWNED',
  '\u2028::stop-commands::OWNED',
  '\u3000\ufeff::warning::OWNED',
  '\u200b::group::OWNED',
  'x\n::save-state name=firewall-rule::OWNED\r::set-env name=OWNED::1\r\n::debug::OWNED',
  'before ##[error]OWNED',
  '##[set-env name=PATH]OWNED',
  '%0A::error::OWNED%0D%0A::warning::OWNED%25',
  'ghadelimiter_\nresult=OWNED\nverified<<EOF\ntrue\nEOF',
  "'; DROP TABLE azure_ai.settings; --",
  'a"b\'c$$d\\e; SELECT 1 /* OWNED */ --',
  '$(touch OWNED) `touch OWNED` ; touch OWNED && touch OWNED | touch OWNED > OWNED',
  '<script>OWNED</script><img src=x onerror=OWNED><a href="https://owned.example">OWNED</a>',
  '</code></td></tr></table><h1>OWNED</h1>',
  '</details><details open><summary>OWNED</summary>',
  '<!-- OWNED',
  '--> OWNED',
  '| OWNED | OWNED |\n|---|---|\n| OWNED | OWNED |',
  'a\\|b|c',
  '[OWNED](javascript:OWNED) ![OWNED](https://owned.example/x.png) [OWNED][1]\n\n[1]: https://owned.example',
  '<https://owned.example> https://owned.example www.owned.example owned@owned.example mailto:a@b.example',
  '@octocat @contoso/team #1 GH-1 contoso/shop#1 :boom: :shipit:',
  '```\n# OWNED\n```\n````mermaid\nflowchart LR\n  a --> OWNED\n````',
  '`OWNED` ``OWNED`` ~~~\nOWNED\n~~~',
  '# OWNED\n\nOWNED\n=====\n\n- OWNED\n- [ ] OWNED\n\n1. OWNED\n2) OWNED\n\n> OWNED\n\n***\n\n    OWNED\n\n\tOWNED',
  '1. OWNED',
  '12) OWNED',
  '    OWNED',
  '**OWNED** __OWNED__ *OWNED* ~~OWNED~~ ==OWNED== $x^2$ $$OWNED$$ [^1]\n\n[^1]: OWNED',
  '"] --> OWNED; click db "https://owned.example" %%{init: {}}%% \nsubgraph OWNED',
  '&lt;script&gt;&#60;script&#62;&amp;&nbsp;&Tab;&NewLine;# OWNED',
  '\u202eDENWO\u202c \u2066OWNED\u2069 \u061c \u200e',
  'O\u200bW\u200cN\u200dE\u2060D\ufeff \u00ad \u{e0041}\u{e0042} \u115f\u3164\u2800 \ufe0f\u034f',
  'оwnеd ＯＷＮＥＤ ｄｂ∕x‐y’z chec\u212a',
  '\u0000\u0001\u0007\b\u001b[31mOWNED\u001b[0m\u001b]8;;https://owned.example\u0007OWNED\u001b]8;;\u0007\u007f\u009b31m',
  'OWNED\ud800OWNED\udc00',
  'x'.repeat(5_000),
  `${'OWNED'.repeat(300)}|`,
  '`'.repeat(300),
  '{"__proto__": {"OWNED": true}}',
  '/subscriptions/OWNED\n\n1. OWNED\n\nOWNED\n===\n',
  '/subscriptions/x/resourceGroups/../../OWNED|<b>"',
  '../../../etc/passwd\u0000OWNED',
  'constructor',
]

const pieces = [
  ...[
    '::',
    ':',
    '##[',
    ']',
    '%0A',
    '\n',
    '\r',
    '\r\n',
    '\u0085',
    '\u2028',
    '\t',
    ' ',
    '    ',
    '|',
    '`',
    '```',
    '~~~',
    '<',
    '>',
    '&',
  ],
  ...[
    '<b>',
    '</code>',
    '</details>',
    '<br/>',
    '<!--',
    '-->',
    '[',
    '](',
    ')',
    '![',
    '@octocat',
    '#1',
    'GH-1',
    ':boom:',
    '$',
    '$$',
  ],
  ...[
    'https://',
    'www.',
    'a@b.example',
    '/subscriptions/',
    'error',
    'add-mask',
    'OWNED',
    '1.',
    '2)',
    '- ',
    '# ',
    '===',
    '---',
    '***',
  ],
  ...['\\', '\u202e', '\u200b', '\u0000', '\u001b[31m', '\ud800', '😀', 'ж', '漢', "'", '"', ';', '--', '{', '}'],
]

/** A text as somebody may write it who wants more than to be read. */
export const hostileText: fc.Arbitrary<string> = fc.oneof(
  { weight: 2, arbitrary: fc.constantFrom(...texts) },
  { weight: 3, arbitrary: fc.array(fc.constantFrom(...pieces), { maxLength: 40 }).map((found) => found.join('')) },
  { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 200 }) },
  {
    weight: 1,
    arbitrary: fc
      .tuple(fc.constantFrom(...texts), fc.constantFrom('\n', '\r', '\u0085', ' ', ''), fc.constantFrom(...texts))
      .map((found) => found.join('')),
  },
)

/** Hostile, and possible in an environment variable, which is how inputs come. */
export const hostileInput = hostileText.map((text) => text.toWellFormed().replaceAll('\0', ''))

// ---- the runner

export interface Command {
  readonly name: string
  readonly properties: Readonly<Record<string, string>>
  readonly data: string
}

const registered = new Set([
  ...['stop-commands', 'internal-set-repo-path', 'set-env', 'set-output', 'save-state', 'add-path', 'add-mask', 'add-matcher'],
  ...['remove-matcher', 'debug', 'warning', 'error', 'notice', 'group', 'endgroup', 'echo'],
])
/** .NET's TrimStart; U+0085 is a blank there and none in JavaScript, U+FEFF the other way round. */
const blanks = /^[\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/
/** What .NET's comparison of texts with a culture does not see: the runner compares with the culture. */
const ignored = /[\p{Cc}\p{Cf}]/gu

/** What the runner takes a line of the log for; ActionCommand.TryParseV2 and TryParse of actions/runner, written down again. */
export function commandOf(line: string): Command | undefined {
  return parsedAs(line, exactly) ?? parsedAs(line, leniently)
}

type Find = (text: string, what: string, from: number) => number
const exactly: Find = (text, what, from) => text.indexOf(what, from)
const leniently: Find = (text, what, from) => {
  for (let index = from; index < text.length; index++)
    if (text.slice(index).replaceAll(ignored, '').startsWith(what) && !ignoredAt(text, index)) return index
  return -1
}
const ignoredAt = (text: string, index: number): boolean => text.charAt(index).replaceAll(ignored, '') === ''

function parsedAs(line: string, find: Find): Command | undefined {
  // Looking leniently is slow, and needless where there is nothing to find.
  if (!line.replaceAll(ignored, '').includes('::') && !line.replaceAll(ignored, '').includes('##[')) return undefined
  const message = line.replace(blanks, '')
  if (find(message, '::', 0) === 0 || message.replaceAll(ignored, '').startsWith('::')) {
    const end = find(message, '::', 2)
    const found = end < 0 ? undefined : command(message.slice(2, end), message.slice(end + 2), ',')
    if (found !== undefined) return found
  }
  const start = find(line, '##[', 0)
  const end = start < 0 ? -1 : line.indexOf(']', start)
  return end < 0 ? undefined : command(line.slice(start + 3, end), line.slice(end + 1), ';')
}

function command(info: string, data: string, separator: string): Command | undefined {
  const [name = '', ...rest] = info.split(' ')
  if (!registered.has(name.toLowerCase())) return undefined
  const pairs = rest
    .join(' ')
    .split(separator)
    .map((pair) => pair.split('='))
    .map(([key = '', ...value]) => [key.trim(), unescaped(value.join('='))])
  return { name, properties: Object.fromEntries(pairs.filter(([key]) => key !== '')), data: unescaped(data) }
}

const unescaped = (text: string): string =>
  text.replaceAll('%0D', '\r').replaceAll('%0A', '\n').replaceAll('%3A', ':').replaceAll('%2C', ',').replaceAll('%25', '%')

/** The commands in what a process printed, as the runner reads it: line by line, each end of line being one. */
export function commandsIn(raw: string): Command[] {
  return raw.split(/\r\n|\r|\n/).flatMap((line) => commandOf(line) ?? [])
}

// ---- GitHub's Markdown

/** Inline and block tags that the summary and the conversation may have; everything else is somebody's text. */
const allowed =
  /^(\/?(h2|h3|p|table|thead|tbody|tr|th|td|code|pre|sub|strong|details|summary|blockquote|ul|li|span)|br\/?|wbr|t[hd] align="left"|code title="[^"<>&]*(&#\d+;[^"<>&]*)*"|pre lang="sql"|code class="language-mermaid")$/

export interface Page {
  /** Every element's tag, in order, closing ones left out. */
  readonly elements: readonly string[]
  /** All that is read, code included, without blanks and backticks. */
  readonly text: string
  readonly headings: readonly string[]
  readonly links: readonly string[]
}

const named: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', nbsp: '\u00a0' }
const decoded = (html: string): string =>
  html.replaceAll(/&(?:#(\d+)|(\w+));/g, (whole, number?: string, name?: string) =>
    number === undefined ? (named[name ?? ''] ?? whole) : String.fromCodePoint(Number(number)),
  )

/** What GitHub's filters look for in the rendered text; links are not theirs to make. */
const lively: readonly [what: string, RegExp][] = [
  ['a mention', /(?<![\w`])@[a-z\d]/i],
  ['a reference', /(?<!\w)#\d|\bGH-\d/i],
  ['an emoji', /:[\w+-]+:/],
  ['an address, in code too', /[\w.+-]@[\w-]+\.\w|www\.\w/i],
  ['an address', /https?:\/\/\w/i],
  ['a formula', /\$\S/],
]

/** Renders Markdown as GitHub does, and fails where anything but the action's own markup comes of it. */
export function read(markdown: string, ownLinks: readonly string[] = []): Page {
  for (const table of tablesOf(markdown.replaceAll(/^(`{3,})\w*\n[\s\S]*?\n\1$/gm, ''))) {
    const columns = table[0]?.length
    for (const row of table) expect([row.length, row.join('|')]).toEqual([columns, row.join('|')])
  }
  const html = marked.parse(markdown, { gfm: true, async: false })
  const elements: string[] = []
  const open: string[] = []
  const links: string[] = []
  const headings: string[] = []
  let text = ''
  let inFence = false
  for (const [index, piece] of html.split(/<([^<>]*)>/).entries()) {
    if (index % 2 === 1) {
      const link = /^a href="([^"]*)"$/.exec(piece)?.[1]
      if (link !== undefined && ownLinks.includes(decoded(link))) links.push(decoded(link))
      else expect(piece === '/a' || allowed.test(piece), `<${piece}> came of ${markdown.slice(0, 2_000)}`).toBe(true)
      const tag = /^\/?(\w+)/.exec(piece)?.[1] ?? ''
      if (tag === 'pre') inFence = piece === 'pre'
      if (piece.startsWith('/')) open.splice(open.lastIndexOf(tag), 1)
      else {
        elements.push(tag)
        if (!/^(br|wbr)/.test(piece)) open.push(tag)
        if (/^h\d$/.test(tag)) headings.push('')
      }
      continue
    }
    expect(piece).not.toMatch(/[<>]/)
    const shown = decoded(piece)
    text += shown
    if (open.some((tag) => /^h\d$/.test(tag))) headings.push(`${headings.pop() ?? ''}${shown}`)
    if (inFence || open.includes('a')) continue
    // A fence is code for Markdown; the tag is code for GitHub's filters alone, which come after it.
    const looked = open.includes('code') ? lively.filter(([what]) => what === 'an address, in code too') : lively
    for (const [what, pattern] of looked) expect(pattern.test(shown), `${what} in ${JSON.stringify(shown)}`).toBe(false)
  }
  expect(open, 'every element is closed').toEqual([])
  return { elements, text: bare(text), headings, links }
}

/** Without what Markdown may turn to something else of the same look: blanks, and the backticks around code. */
export const bare = (text: string): string => text.replaceAll(/[\s`]/g, '')

/** Whether a text is on the page for everybody to see, in full or up to where it is cut. */
export function shows(page: Page, value: string, upTo = 150): boolean {
  return page.text.includes(bare(visible(value.slice(0, upTo).toWellFormed())).slice(0, upTo))
}

const names = String.raw`[\p{L}\p{N} ._:·-]*`
const picture = new RegExp(
  [
    String.raw`^%%\{init: \{"flowchart": \{"nodeSpacing": 16, "rankSpacing": 40\}\}\}%%$`,
    '^flowchart LR$',
    String.raw`^  db\[\("${names}<br/>azure_ai"\)\] (-->|-\.->) id\{\{"managed identity"\}\}(:::bad)?$`,
    String.raw`^  id (--|-\.) "${names}" (-->|\.->) r\d+(\["${names}(<br/>${names})+"\]:::(bad|verified|plain))?$`,
    String.raw`^  classDef (verified|bad|plain) fill:#\w+,stroke:#\w+,color:#fff$`,
  ].join('|'),
  'u',
)

/** Fails where a line of the picture is not one that the action draws. */
export function expectOwnPicture(markdown: string): void {
  for (const [, drawn = ''] of markdown.matchAll(/^```mermaid\n([\s\S]*?)\n```$/gm))
    for (const line of drawn.split('\n')) expect(line).toMatch(picture)
}
