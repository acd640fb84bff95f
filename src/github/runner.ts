/** The runner: its log, its masks, its outputs, its summary and its annotations. */
import { mkdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import * as core from '@actions/core'
import { HttpClient } from '@actions/http-client'
import { BearerCredentialHandler } from '@actions/http-client/lib/auth'
import type { AlikeFindings } from '../core/report.ts'
import { bounded, describe, firstOf } from '../lib/bounded.ts'
import { answerLimit, isRedirect, requestTimeoutMs, retryAfterMs, type Sign, verdictOn } from '../lib/http-retries.ts'
import type { Log } from '../lib/log.ts'
import { retrying, type Verdict } from '../lib/retry.ts'
import { hidden, hideSecret, linesOf } from '../lib/secrets.ts'
import { duration, orAborted } from '../lib/timeout.ts'
import { visible } from '../lib/unicode.ts'

type OutputName =
  | 'result'
  | 'changed'
  | 'drift'
  | 'verified'
  | 'stored-keys'
  | 'matrix'
  | 'failure-reason'
  | 'principal-id'
  | 'plan-id'
  | 'report-path'

/** GitHub shows ten annotations of a kind for each step. */
const annotationsOfAKind = 10

/** Longest line of the log, and longest text of an annotation (GitHub keeps no more of one), in characters. */
const longest = { line: 16_384, annotation: 4_096, message: 65_536 }
/**
 * Most characters of a run's log, for progress, debug lines and results each. Behind it only results are printed, and those
 * short: annotations and the last line come in any case.
 */
const logLimit = 4_000_000
const shortResult = 300

/**
 * Lines that cannot be taken for workflow commands: the runner looks for `::` behind the blanks that a line begins with
 * and for `##[` anywhere in it. What cannot be seen is spelled out, colours and blanks of other alphabets among it.
 */
export function plain(text: string): string {
  return bounded(text, longest.message)
    .split(/\r\n|\r|\n/)
    .map((line) =>
      bounded(visible(bounded(line, longest.line)), longest.line)
        .replace(/^(\s*):(?=:)/, '$1:\u200b')
        .replaceAll('##[', '##\u200b['),
    )
    .join('\n')
}

/** @param masks whether the commands that mask a value are printed: outside GitHub Actions they would show the value */
export function createLog({ masks = true }: { readonly masks?: boolean } = {}): Log {
  const left = { debug: logLimit, info: logLimit, result: logLimit }
  /** Prints while there is room for it; the first line without room says so. */
  const print = (kind: 'debug' | 'info', text: string): void => {
    // Beyond the limit no line is even prepared.
    if (left[kind] < 0) return
    const line = plain(hidden(text))
    const say = kind === 'debug' ? core.debug : core.info
    left[kind] -= line.length + 1
    if (left[kind] >= 0) say(line)
    else say(`Further lines are left out: ${logLimit.toLocaleString('en')} characters are printed. Results follow, cut short.`)
  }
  return {
    debug: (text) => print('debug', text),
    info: (text) => print('info', text),
    result(text) {
      const line = plain(hidden(text))
      left.result -= line.length + 1
      core.info(Math.min(left.info, left.result) >= 0 ? line : plain(bounded(line, shortResult)))
    },
    secret: (value) => {
      if (value.trim() === '') return
      hideSecret(value)
      if (!masks) return
      // The runner masks line by line: each line of a value of several is a secret of its own.
      for (const each of new Set([value, ...linesOf(value)])) core.setSecret(each)
    },
    group: (title, body) => core.group(plain(hidden(title)), body),
  }
}

export type SetOutput = (name: OutputName, value: string) => void

export const setOutput: SetOutput = (name, value) => core.setOutput(name, value)

/** Outside GitHub Actions the outputs are lines of the log, printed when the last of them, `result`, has its final value. */
export function printedOutputs(log: Log): SetOutput {
  const outputs = new Map<OutputName, string>()
  return (name, value) => {
    outputs.set(name, value)
    if (name === 'result' && outputs.has('report-path')) for (const [each, text] of outputs) log.result(`${each}=${text}`)
  }
}

/** Appends to the job summary, where the runner has a file for it. */
export async function appendSummary(markdown: string, file: string | undefined): Promise<void> {
  if (file === undefined || file === '') return
  await core.summary.addRaw(markdown, true).write()
}

export const warn = (text: string, title: string): void => annotation(core.warning, text, title)

/** An error that is no finding, such as drift that fails the step. */
export const annotateError = (text: string, title: string): void => annotation(core.error, text, title)

/** Ends the step as failed, with an annotation; for errors that come too late for the report. */
export function fail(text: string): void {
  process.exitCode = 1
  annotation(core.error, text, '')
}

/** Ends the process: connections that are kept open must not delay the job. What was printed is written first. */
export async function endProcess(): Promise<never> {
  await new Promise((printed) => process.stdout.write('', printed))
  process.exit(process.exitCode)
}

/** The whole text is data of one command, so nothing in it can begin another. */
function annotation(say: typeof core.error, text: string, title: string): void {
  const shown = (value: string): string => bounded(visible(bounded(hidden(value), longest.message)), longest.annotation)
  say(shown(text), title === '' ? {} : { title: shown(title) })
}

/** Shows errors and warnings as annotations; notices, and what there is no room for, stand in the summary. */
export function annotate(findings: readonly AlikeFindings[]): void {
  for (const [severity, say] of [
    ['error', core.error],
    ['warning', core.warning],
  ] as const) {
    const own = findings.filter(({ finding }) => finding.severity === severity)
    for (const { finding, others } of own.slice(0, annotationsOfAKind)) {
      const same = others.length === 0 ? '' : `\nThe same in ${firstOf(others.map((name) => `"${name}"`))}`
      const fix = finding.fix === '' ? '' : `\nFix: ${finding.fix}`
      annotation(say, `${finding.detail}${same}${fix}`, finding.title)
    }
  }
}

/**
 * Writes the report into the runner's temporary folder and returns its path. Only this user may read it, because it names
 * databases and hosts. It is replaced as a whole, so that a reader never finds half of one.
 */
export async function writeReport(report: unknown, folder: string, name: string): Promise<string> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const path = join(folder, name)
  await writeFile(`${path}.new`, `${JSON.stringify(report, null, 2)}\n`, { mode: 0o600 })
  await rename(`${path}.new`, path)
  return path
}

/** Longest time that the OIDC token may take in all, in milliseconds. */
export const oidcLimitMs = 300_000

/**
 * The workflow's OIDC token for an audience; the runner masks it before it is returned. Requested with the action's own retry
 * policy and time limit: the toolkit waits three minutes for a service that hangs, and forever for one that trickles.
 */
export async function idToken(audience: string, endpoint: OidcEndpoint, log: Log, signal: AbortSignal): Promise<string> {
  for (const [name, value] of Object.entries(endpoint))
    if (value === '') throw new Error(`Unable to get ACTIONS_ID_TOKEN_REQUEST_${name.toUpperCase()} env variable`)
  const client = new HttpClient('actions/oidc-client', [new BearerCredentialHandler(endpoint.token)], {
    allowRetries: false,
    // A redirect would carry the request token along.
    allowRedirects: false,
    socketTimeout: requestTimeoutMs,
  })
  const from = 'GitHub'
  const limit = AbortSignal.any([signal, AbortSignal.timeout(oidcLimitMs)])
  const request = async (): Promise<string> => {
    const answer = await client.get(`${endpoint.url}&audience=${encodeURIComponent(audience)}`)
    const { statusCode: status = 0, headers } = answer.message
    const body = await readBounded(answer.message)
    const token = tokenOf(body)
    if (status === 200 && token !== undefined) return token
    const afterMs = retryAfterMs((name) => String(headers[name] ?? ''))
    const signs: Sign[] = [...(afterMs === undefined ? [] : ['Retry-After' as const])]
    if (token === undefined) signs.push('not JSON')
    const redirects = isRedirect(status) ? ', a redirect, which is not followed' : ''
    const text = `GitHub's OIDC service answered ${status}${redirects}${body === '' ? '' : `: ${bounded(body, 500)}`}`
    throw new Refused(text, verdictOn({ stage: 'answer', from, status, signs, afterMs }, true))
  }
  const once = (): Promise<string> => {
    limit.throwIfAborted()
    return orAborted(request(), AbortSignal.any([limit, AbortSignal.timeout(requestTimeoutMs)]))
  }
  const found = await retrying(once, {
    signal: limit,
    verdict: (error) =>
      error instanceof Refused
        ? error.verdict
        : verdictOn({ stage: 'connection', from, code: String((error as { code?: unknown }).code ?? '') }, true),
    onWait: (error, waitMs) => log.info(`OIDC token: ${describe(error)}; again in ${duration(waitMs)}`),
  })
  log.secret(found)
  return found
}

/** The body of an answer as text; one that is too large is ended. */
async function readBounded(message: AsyncIterable<Buffer>): Promise<string> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of message) {
    bytes += chunk.length
    if (bytes > answerLimit)
      throw new Refused(`GitHub's OIDC service answered with more than ${answerLimit / 1024 / 1024} MB`, false)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString()
}

/** Where a job requests its token; empty strings when it may not. */
interface OidcEndpoint {
  readonly url: string
  readonly token: string
}

/** An answer without a token, and whether another try follows. */
class Refused extends Error {
  readonly verdict: Verdict

  constructor(message: string, verdict: Verdict) {
    super(message)
    this.verdict = verdict
  }
}

function tokenOf(body: string): string | undefined {
  try {
    const { value } = JSON.parse(body) as { value?: unknown }
    return typeof value === 'string' && value !== '' ? value : undefined
  } catch {
    return undefined
  }
}
