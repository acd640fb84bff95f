/**
 * Texts from outside are cut to a bounded length where they enter, before any expression or formatting sees them: a service
 * or the owner of a database could otherwise keep the run busy for minutes with one long text. Pure.
 */

/** Longest text of a service or a database that is kept, in characters (UTF-16 code units). */
export const longestText = 8_192
/** Longest name, code or id that is kept, in characters. */
export const longestName = 512
/** Most values of a thrown object that are shown. */
const mostValues = 1_000

/** Names for a sentence: the first of them, and how many more there are. */
export function firstOf(names: readonly string[], { most = 10, separator = ', ' } = {}): string {
  const left = names.length - most
  return left > 0 ? `${names.slice(0, most).join(separator)} and ${left} more` : names.join(separator)
}

/** What stands at the end of a text that was cut. */
const mark = /… \(\d{1,12} more characters\)$/

/**
 * The first `limit` characters of a text and how many were cut, never half a surrogate pair.
 *
 * @param limit in UTF-16 code units; the note about what was cut comes on top
 */
export function bounded(text: string, limit: number = longestText): string {
  if (text.length <= limit) return text
  const last = text.charCodeAt(limit - 1)
  const end = last >= 0xd800 && last <= 0xdbff ? limit - 1 : limit
  return `${text.slice(0, end)}… (${text.length - end} more characters)`
}

/** Whether {@link bounded} cut this text: its value is then not known, and must be written nowhere. */
export function isCut(text: string): boolean {
  return mark.test(text.slice(-40))
}

/** Shortest beginning of a secret that counts as one where a text was cut. */
const shortestBeginning = 6

/** The text with `***` where {@link bounded} cut it inside the secret: its beginning is still there, and no longer found as a whole. */
export function withoutCutSecret(text: string, secret: string): string {
  let found = text
  for (let at = found.indexOf('… ('); at !== -1; at = found.indexOf('… (', at + 1)) {
    const before = found.slice(Math.max(0, at - secret.length), at)
    let length = Math.min(before.length, secret.length - 1)
    while (length >= shortestBeginning && !before.endsWith(secret.slice(0, length))) length--
    if (length < shortestBeginning) continue
    found = `${found.slice(0, at - length)}***${found.slice(at)}`
    at += 3 - length
  }
  return found
}

/** For JSON.parse and JSON.stringify: every text is cut, names of properties are not. */
export const cutTexts = (_: string, value: unknown): unknown => (typeof value === 'string' ? bounded(value) : value)

/** JSON of a service as JSON with every text in it cut; what is no JSON stays as it is. */
export function boundedJson(json: string): string {
  if (json.length <= longestText) return json
  try {
    return JSON.stringify(JSON.parse(json, cutTexts))
  } catch {
    return json
  }
}

/** Any thrown value, an Error or not, as one bounded text; never throws, whatever the value does when it is looked at. */
export function describe(error: unknown): string {
  try {
    if (error instanceof Error) return bounded(String(error.message))
    return bounded(typeof error === 'string' ? error : (jsonOf(error) ?? String(error)))
  } catch {
    return 'a value that cannot be shown'
  }
}

/** JSON of a value with its texts cut; undefined where there is none: a circle, too many values, a getter that throws. */
function jsonOf(value: unknown): string | undefined {
  let left = mostValues
  try {
    return JSON.stringify(value, (name, each: unknown) => {
      if (left-- === 0) throw new Error('too many values')
      return cutTexts(name, each)
    })
  } catch {
    return undefined
  }
}

/**
 * The text without a character at its end, however often it stands there. Not by an expression: that tries each of them as
 * the first of the last ones.
 */
export function withoutTrailing(text: string, character: string): string {
  let end = text.length
  while (text[end - 1] === character) end--
  return text.slice(0, end)
}

export const withoutEndSlashes = (text: string): string => withoutTrailing(text, '/')
