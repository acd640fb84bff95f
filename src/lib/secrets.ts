/** The secrets of this run, and texts without them. The runner masks its log alone: a report or a summary must not contain one either. */
import { isCut, withoutCutSecret } from './bounded.ts'

/** A shorter secret is hidden only where it is a word of its own: elsewhere it may be part of an ordinary word. */
const shortestAnywhere = 8
/** A shorter line of a secret of several lines is no secret by itself: often it is a bracket. */
const shortestLine = 4

/** Shortest run of letters and digits before a cut that may be the beginning of a key. */
const shortestRun = 6

/** What is hidden so far: each form of a secret with what to look for, the longest first, because one may contain another. */
let hiddenForms: (readonly [form: string, pattern: string | RegExp])[] = []

/** From now on the secret is hidden, also as JSON and URLs spell it. */
export function hideSecret(secret: string): void {
  const known = new Map(hiddenForms)
  for (const form of formsOf(secret)) if (!known.has(form)) known.set(form, patternOf(form))
  hiddenForms = [...known].sort(([one], [other]) => other.length - one.length)
}

/** The lines of a secret that are not blank: the runner looks for secrets line by line. */
export function linesOf(secret: string): string[] {
  return secret.split(/[\r\n]+/).filter((line) => line.trim() !== '')
}

/** The text with every secret as `***`: a service, the database or a driver may have written one into it. */
export function hidden(text: string): string {
  return hiddenForms.reduce((found, [form, pattern]) => withoutCutSecret(found.replaceAll(pattern, '***'), form), text)
}

/** Members of a report whose values are words of this action: gates compare them, and a secret may be spelled like one. */
const ownWords = new Set(['mode', 'part', 'result', 'failureReason', 'kind', 'status', 'severity', 'code', 'service', 'proof'])

/** The value with every secret in its texts as `***`. */
export function withoutSecrets<T>(value: T): T {
  if (hiddenForms.length === 0) return value
  const shown = (name: string, each: unknown): unknown => (typeof each === 'string' && !ownWords.has(name) ? hidden(each) : each)
  return JSON.parse(JSON.stringify(value, shown)) as T
}

function formsOf(secret: string): Set<string> {
  const lines = linesOf(secret).filter((line) => line.length >= shortestLine)
  const plain = [secret, ...lines]
  const escaped = plain.flatMap((form) => [JSON.stringify(form).slice(1, -1), encodeURIComponent(form.toWellFormed())])
  return new Set([...plain, ...escaped])
}

/** For an expression with the flag `u`. RegExp.escape needs Node 24. */
const escaped = (text: string): string => text.replaceAll(/[\\^$.*+?()[\]{}|/]/g, '\\$&')

function patternOf(form: string): string | RegExp {
  if (form.length >= shortestAnywhere) return form
  const before = /^[\p{L}\p{N}_]/u.test(form) ? '(?<![\\p{L}\\p{N}_])' : ''
  const after = /[\p{L}\p{N}_]$/u.test(form) ? '(?![\\p{L}\\p{N}_])' : ''
  return new RegExp(`${before}${escaped(form)}${after}`, 'gu')
}

/**
 * The text without the secrets of the run, and without what may be a token or a key. A service receives both, so it can send
 * them back in an answer or an error, and a stored key is never known here: JSON web tokens and long runs of letters and
 * digits are hidden, whatever they are.
 */
export function withoutCredentials(text: string): string {
  return withoutCutRun(hidden(text))
    .replaceAll(/\beyJ[\w.+/=-]{17,}/g, '***')
    .replaceAll(/\w{32,}/g, (run) => (looksLikeKey(run) ? '***' : run))
}

const looksLikeKey = (run: string): boolean => /\d/.test(run) && /[a-z]/i.test(run)

/** What stands right before a cut may be most of a key. */
function withoutCutRun(text: string): string {
  if (!isCut(text)) return text
  const end = text.lastIndexOf('… (')
  let start = end
  while (start > 0 && /\w/.test(text[start - 1] ?? '')) start--
  const run = text.slice(start, end)
  return run.length < shortestRun || !looksLikeKey(run) ? text : `${text.slice(0, start)}***${text.slice(end)}`
}
