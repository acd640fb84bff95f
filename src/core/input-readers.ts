/** How the text of an input becomes a value. What is wrong with it becomes a problem, and all problems are reported together. */
import { Failure } from '../errors/failure.ts'
import { withoutEndSlashes } from '../lib/bounded.ts'
import { parseResourceId, type ResourceId, samePart } from '../lib/resource-id.ts'
import { type InputName, inputNames } from './input-names.ts'

/** Longest value of an input, in characters. */
const longest = 65_536

export const guid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i
export const domain = /^(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$/i
export const hostName = /^(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\.?$/i
export const ipAddress = /^(?=.{1,45}$)(\d{1,3}(\.\d{1,3}){3}|[0-9a-f:]*:[0-9a-f:.]+)$/i
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const controlCharacter = /[\u0000-\u001f\u007f]/

export type Raw = Readonly<Record<InputName, string>>
export type Problem = (input: InputName, expected: string) => void

/**
 * Refuses what is too long, and what contains a control character that no value of the input can have.
 * @throws {Failure} for oversized values: nothing else looks at them
 */
export function checkTexts(raw: Raw, problems: readonly string[], problem: Problem): void {
  for (const name of inputNames) {
    if (raw[name].length > longest)
      problem(name, `is ${raw[name].length} characters long; nothing of more than ${longest.toLocaleString('en')} is accepted`)
  }
  if (problems.length > 0) throw inputFailure(problems)

  const multiline: readonly InputName[] = ['scope', 'databases', 'machine-learning-input']
  for (const name of inputNames) {
    const value = multiline.includes(name) ? raw[name].replaceAll(/[\r\n\t]/g, '') : raw[name]
    if (controlCharacter.test(value))
      problem(name, 'contains a line break or another control character, which no value of it can have')
  }
}

/** The values of an input that takes several, by line or comma, each once and in its order. */
export function listOf(text: string): readonly string[] {
  const values = text.split(/[\n,]/).map((value) => value.trim())
  return [...new Set(values.filter((value) => value !== ''))]
}

/** How the text of an input becomes a value; what is wrong with it becomes a problem. */
export function readers(raw: Raw, problem: Problem) {
  const oneOf = <T extends string>(input: InputName, values: readonly T[]): T => {
    const found = values.find((value) => value === lowerCase(raw[input]))
    if (found === undefined)
      problem(input, `${quoted(raw[input])} is not known; expected ${values.map((value) => `\`${value}\``).join(' or ')}`)
    return found ?? (values[0] as T)
  }
  const flag = (input: InputName): boolean => oneOf(input, ['true', 'false']) === 'true'
  const optional = (input: InputName): string | undefined => (raw[input] === '' ? undefined : raw[input])
  const matching = (input: InputName, pattern: RegExp, expected: string): string | undefined => {
    const value = optional(input)
    if (value !== undefined && !pattern.test(value)) problem(input, `${quoted(value)} is not ${expected}`)
    return value
  }
  const resourceOf = (input: InputName, types: readonly string[]): ResourceId | undefined => {
    const value = raw[input]
    const parsed = parseResourceId(value)
    const example = `/subscriptions/SUBSCRIPTION/resourceGroups/GROUP/providers/${types[0] ?? ''}/NAME`
    if (parsed === undefined) {
      problem(input, `${quoted(value)} is not a resource id; expected \`${example}\``)
    } else if (!types.some((type) => samePart(type, parsed.type))) {
      const horizon = /^microsoft\.horizondb\//i.test(parsed.type)
        ? ', and HorizonDB is another product, which this action does not serve'
        : ''
      problem(input, `is the id of a \`${parsed.type}\`${horizon}; expected ${types.map((type) => `\`${type}\``).join(' or ')}`)
      return undefined
    }
    return parsed
  }
  return { oneOf, flag, optional, matching, resourceOf }
}

/** In lower case as far as it is ASCII: toLowerCase() makes a `k` of the sign for kelvin. */
export function lowerCase(text: string): string {
  return text.replaceAll(/[A-Z]/g, (letter) => letter.toLowerCase())
}

export function isHttpsUrl(text: string): boolean {
  if (!/^https:\/\//i.test(text) || !URL.canParse(text)) return false
  const url = new URL(text)
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1')
  return (
    (hostName.test(host) || ipAddress.test(host)) &&
    url.username === '' &&
    url.password === '' &&
    url.search === '' &&
    url.hash === ''
  )
}

/** Without trailing slash; names of other alphabets as DNS has them. */
export function normalUrl(text: string): string {
  const { origin, pathname } = new URL(text)
  return withoutEndSlashes(`${origin}${pathname}`)
}

/** A value in a message: at most 80 characters of it, control characters spelled out. */
export function quoted(value: string): string {
  const shown = JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value)
  return shown.replaceAll('`', "'")
}

export function inputFailure(problems: readonly string[]): Failure {
  return new Failure({
    reason: 'input',
    code: 'input',
    title: problems.length === 1 ? 'An input is wrong' : `${problems.length} inputs are wrong`,
    detail: problems.join('\n'),
    fix: 'Correct the `with:` block of the step; the table of inputs is in the README. Nothing was sent to Azure or to the database.',
  })
}
