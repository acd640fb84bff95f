/**
 * Pieces of GitHub's Markdown: escaped texts, code, tables, folds and fences, each under its limit. Values are written by others,
 * so none of them can become markup, a link or a mention. Pure.
 */
import type { Finding } from '../errors/failure.ts'
import { nameIn } from '../lib/resource-id.ts'
import { onOneLine, visible } from '../lib/unicode.ts'

/** Most that one table or list may take of a summary, in bytes. */
export const partLimit = 170_000
/** Longest value shown in a cell, in characters. */
const longest = 1_000
/** Longest text in a fence, in characters. */
export const longestFence = 4_000
/** Names shown at once; the others unfold. */
const namesAtOnce = 6
/** Most that a list of names may take, in bytes. */
const namesLimit = 6_000

export const findingIcons: Record<Finding['severity'], string> = { error: '🛑', warning: '⚠️', notice: 'ℹ️' }

export const count = (number: number, noun: string): string => `${number} ${noun}${number === 1 ? '' : 's'}`

export const small = (markup: string): string => `<sub>${markup}</sub>`

/** Names of databases: the first few, the others folded below them, and in the report what is too much even for that. */
export function names(before: string, databases: readonly string[]): string {
  const shown = databases.map(code)
  // One more takes no more room than the words for it.
  if (shown.length <= namesAtOnce + 1) return small(before + shown.join(', '))
  const rest = shown.slice(namesAtOnce)
  const { kept, left } = within(rest, namesLimit)
  const more = left === 0 ? '' : ` and ${left} more in the report`
  const first = small(before + shown.slice(0, namesAtOnce).join(', '))
  return `${first}<details><summary>${small(`and ${rest.length} more`)}</summary>${small(kept.join(', ') + more)}</details>`
}

/** A resource by its name; the whole id shows under the pointer, and in the list of ids at the end. */
export function named(id: string): string {
  return `<code title="${entities(onOneLine(cut(id)))}">${coded(onOneLine(cut(nameIn(id))))}</code>`
}

/** A table under the limit of a part, whole rows only; folded under its title. */
export function table(head: string, rows: readonly string[], title: string, fold: boolean): string {
  const { kept, left } = within(rows, partLimit)
  const more = left === 0 ? '' : `\n\n> The rest (${count(left, 'row')}) is left out here; it is in the report.`
  const body = `${[head, ...kept].join('\n')}${more}`
  return fold ? folded(title, body) : `${body}\n`
}

/** As many of the texts, from the first, as stay below the limit in bytes. */
export function within(texts: readonly string[], bytes: number): { kept: readonly string[]; left: number } {
  let sum = 0
  let end = 0
  for (const each of texts) {
    sum += Buffer.byteLength(each) + 1
    if (sum > bytes) break
    end++
  }
  return { kept: texts.slice(0, end), left: texts.length - end }
}

export function folded(title: string, body: string): string {
  return `<details><summary>${title}</summary>\n\n${body}\n\n</details>\n`
}

/** A fence longer than any run of backticks inside; a value cannot end it. */
export function fence(body: string): string {
  const runs = body.match(/`+/g) ?? []
  const ticks = '`'.repeat(Math.max(3, ...runs.map((run) => run.length + 1)))
  return `${ticks}\n${visible(body.slice(0, longestFence)).slice(0, longestFence)}\n${ticks}`
}

/** A value as code. */
export function code(value: string): string {
  return value === '' ? '' : `<code>${coded(cut(value).replaceAll(/\s+/g, ' '))}</code>`
}

/** A value as text, its line breaks kept. */
export function text(value: string): string {
  return words(cut(value))
}

/** A value as code that may wrap behind its separators; copied, it is what it was. */
export function wrapped(value: string): string {
  return value === '' ? '' : `<code>${soft(value, coded)}</code>`
}

/** A value on one line that may wrap behind its separators. */
export function soft(value: string, as: (piece: string) => string): string {
  return cut(value)
    .replaceAll(/\s+/g, ' ')
    .split(/(?<=[./,:;=&?_-])(?=[^\s./,:;=&?_-])/)
    .map(as)
    .join('<wbr>')
}

/** Our own sentences, with values of others inside: what stands between backticks becomes code, the rest text. */
export function prose(value: string): string {
  // At the beginning of a line, blanks could make code and a number a list.
  return cut(value)
    .trimStart()
    .split(/`([^`\n]+)`/)
    .map((piece, index) => (index % 2 === 1 ? `<code>${coded(piece)}</code>` : words(piece)))
    .join('')
    .replace(/^(\d{1,9})([.)])/, (_, number: string, sign: string) => `${number}&#${sign.charCodeAt(0)};`)
}

function cut(value: string): string {
  return visible(value.length > longest ? `${value.slice(0, longest)}…` : value)
}

/** What could begin markup, a mention, a reference or a link becomes an entity. */
function entities(value: string): string {
  return value.replaceAll(/[!"#$%&*+\-/:<>?@[\\\]^_`{|}~]/g, (sign) => `&#${sign.charCodeAt(0)};`)
}

/** A value between tags of our own. Markdown knows nothing of `<code>`, and makes links of addresses inside it. */
export function coded(value: string): string {
  return entities(value)
    .replaceAll(/&#64;(?=\S)/g, '$&<wbr>')
    .replaceAll(/(www)\./gi, '$1<wbr>&#46;')
}

/**
 * A value as text outside code. GitHub looks for mentions, references, emoji and formulas in the rendered text, where an
 * entity is a sign again: a tag that shows nothing comes between.
 */
export function words(value: string): string {
  return coded(value)
    .replaceAll(/&#(35|58);(?=\S)/g, '$&<wbr>')
    .replaceAll(/(\bgh&#45;)(?=\d)/gi, '$1<wbr>')
    .replaceAll('&#36;', '<span>&#36;</span>')
    .replaceAll(/\r?\n/g, '<br/>')
}
