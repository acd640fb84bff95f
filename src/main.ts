/** The main step. Outputs fail closed from the first moment. */
import { randomUUID } from 'node:crypto'
import { setDefaultAutoSelectFamilyAttemptTimeout } from 'node:net'
import { join } from 'node:path'
import * as core from '@actions/core'
import { coverageOf } from './core/coverage.ts'
import { type InputName, type Inputs, inputNames, parseInputs, secretInputs } from './core/inputs.ts'
import { createJournal } from './core/journal.ts'
import { fails, fitted, type Report, report } from './core/report.ts'
import { addressTimeoutMs, lastWordMs, outOfTime, runBudgetMs } from './core/time-limit.ts'
import {
  ambientSecrets,
  fromFork,
  inActions,
  pullRequestNumber,
  removeUnsafeVariables,
  signInContext,
  unverifiedTls,
} from './environment.ts'
import { Failure, Failures, type Finding, failuresOf } from './errors/failure.ts'
import type { Place } from './github/rest.ts'
import { annotate, appendSummary, createLog, endProcess, fail, setOutput, warn, writeReport } from './github/runner.ts'
import { bounded, describe } from './lib/bounded.ts'
import { withoutCredentials, withoutSecrets } from './lib/secrets.ts'
import { postState, stateText } from './stages/post-state.ts'
import type { Outside } from './stages/sign-in.ts'

const { env } = process
const log = createLog({ masks: inActions(env) })
const startedAt = new Date()
const start = performance.now()
const journal = createJournal(() => setOutput('changed', 'true'))
const controller = new AbortController()
const reportFolder = join(env.RUNNER_TEMP || process.cwd(), 'azure-ai-postgres-identity')
const reportName = `report-${randomUUID()}.json`

let inputs: Inputs | undefined
let githubToken = ''
let earlyToken: { audience: string; token: Promise<string> } | undefined
let host = ''
let principalId = ''
let finishing: Promise<void> | undefined
/** The run, ended well or not. */
let settled: Promise<void> = Promise.resolve()

/** Before anything else: a run that is killed from here on reads as failed. */
async function failClosed(): Promise<void> {
  setOutput('result', 'failed')
  setOutput('verified', 'false')
  setOutput('changed', 'false')
  setOutput('drift', 'true')
  setOutput('failure-reason', 'internal')
  setOutput('principal-id', '')
  setOutput('plan-id', '')
  const unfinished = new Failure({
    reason: 'internal',
    code: 'unfinished',
    title: 'The run did not finish',
    detail: 'The action was ended from outside before it could report.',
    fix: 'Run the job again; it goes on where it stopped.',
  })
  await keepReport(current([unfinished]))
}

/** Writes the report. A folder that cannot be written to costs the report, not the run. */
async function keepReport(of: Report): Promise<void> {
  try {
    setOutput('report-path', await writeReport(of, reportFolder, reportName))
  } catch (error) {
    setOutput('report-path', '')
    journal.finding({
      severity: 'warning',
      code: 'report-not-written',
      title: 'The report could not be written',
      detail: `${reportFolder}: ${describe(error)}`,
      fix: 'Set RUNNER_TEMP to a folder that this job can write to.',
    })
  }
}

function current(thrown: readonly Failure[]): Report {
  return withoutSecrets(report({ inputs, journal, thrown, startedAt, durationMs: performance.now() - start, host, principalId }))
}

/** Reports once, whatever led here. */
function finish(thrown: readonly Failure[]): Promise<void> {
  finishing ??= (async () => {
    for (const failure of [...thrown, ...journal.failures]) debugCauses(failure)
    for (const finding of await converse(current(thrown))) journal.finding(finding)
    await keepReport(fitted(current(thrown)))
    const final = current(thrown)
    setOutput('changed', String(final.changed))
    setOutput('drift', String(final.drift))
    setOutput('principal-id', final.server.principalId)
    setOutput('plan-id', final.planId)
    const [{ alikeFindings }, { databasesOf, summary }] = await Promise.all([
      import('./report/grouping.ts'),
      import('./report/summary.ts'),
    ])
    annotate(alikeFindings(final.findings, databasesOf(final)))
    await appendSummary(summary(final), env.GITHUB_STEP_SUMMARY).catch((error: unknown) =>
      warn(
        `${describe(error)}\nFix: make the file that GITHUB_STEP_SUMMARY names writable for this job.`,
        'The job summary could not be written',
      ),
    )
    // What gates read comes last: by now everything else is written.
    setOutput('failure-reason', final.failureReason)
    setOutput('verified', String(final.verified))
    setOutput('result', final.result)
    const reason = final.failureReason === 'none' ? '' : `, reason: ${final.failureReason}`
    log.result(`Result: ${final.result}, verified: ${final.verified}${reason}`)
    process.exitCode = fails(final, inputs?.failOnDrift ?? true) ? 1 : 0
  })()
  return finishing
}

/** The drift issue and the pull request comment, where they were asked for; what could not be done there is a finding. */
async function converse(so: Report): Promise<readonly Finding[]> {
  if (inputs === undefined || controller.signal.aborted || !(inputs.driftIssue || inputs.pullRequestComment)) return []
  const { keepDriftIssue, keepPullRequestComment } = await import('./report/conversation.ts')
  const coverage = coverageOf(inputs)
  const options = { log, signal: AbortSignal.any([controller.signal, AbortSignal.timeout(120_000)]) }
  const place = placeOf()
  const said = await Promise.all([
    inputs.driftIssue ? keepDriftIssue(so, coverage, place, options) : undefined,
    inputs.pullRequestComment ? keepPullRequestComment(so, coverage, place, options) : undefined,
  ])
  return said.filter((finding) => finding !== undefined)
}

function placeOf(): Place {
  const [owner = '', repository = ''] = (env.GITHUB_REPOSITORY ?? '').split('/')
  const serverUrl = env.GITHUB_SERVER_URL || 'https://github.com'
  return {
    apiUrl: env.GITHUB_API_URL || 'https://api.github.com',
    graphqlUrl: env.GITHUB_GRAPHQL_URL || 'https://api.github.com/graphql',
    serverUrl,
    owner,
    repository,
    runUrl: `${serverUrl}/${owner}/${repository}/actions/runs/${env.GITHUB_RUN_ID ?? ''}`,
    token: githubToken,
    pullRequest: pullRequestNumber(env),
    fromFork: fromFork(env),
  }
}

/** The chain of causes, for those who turn on debug logging. */
function debugCauses(failure: Failure): void {
  for (
    let cause: unknown = failure.cause;
    cause !== undefined && cause !== null;
    cause = cause instanceof Error ? cause.cause : undefined
  ) {
    const text = cause instanceof Error ? bounded(cause.stack ?? cause.message) : describe(cause)
    log.debug(`${failure.code}, caused by: ${withoutCredentials(text)}`)
  }
}

/** Secrets are masked before anything else sees them. */
function readInputs(): Record<InputName, string> {
  const raw = Object.fromEntries(inputNames.map((name) => [name, ''])) as Record<InputName, string>
  for (const name of secretInputs) {
    raw[name] = core.getInput(name)
    log.secret(raw[name])
  }
  for (const name of inputNames) raw[name] = core.getInput(name)
  // Where they are not used, another step may have set them to a word, to have it hidden in the report and in job outputs.
  if (raw['tenant-id'] === '' || raw['client-id'] === '') for (const secret of ambientSecrets(env)) log.secret(secret)
  return raw
}

function outside(given: Inputs): Outside {
  const context = signInContext(env, log, controller.signal)
  return {
    ...context,
    idToken: (audience) => {
      const early = audience === earlyToken?.audience ? earlyToken.token : undefined
      earlyToken = undefined
      return early ?? context.idToken(audience)
    },
    remember: (rule, state) => core.saveState(postState, stateText({ target: given, rule, created: state === 'made' })),
    known: (facts) => {
      host = facts.host ?? host
      if (facts.principalId === undefined) return
      principalId = facts.principalId
      setOutput('principal-id', principalId)
    },
  }
}

async function act(): Promise<void> {
  // Node gives each address of a host 250 ms, which is too little for a far one that has IPv6 and IPv4.
  setDefaultAutoSelectFamilyAttemptTimeout(addressTimeoutMs)
  // First of all: from here on the runner itself sets this state for the post step, whatever another step wrote into GITHUB_ENV.
  core.saveState(postState, '')
  if (removeUnsafeVariables(env)) journal.finding(unverifiedTls)
  const raw = readInputs()
  await failClosed()
  inputs = parseInputs(raw)
  const around = outside(inputs)
  githubToken = raw['github-token']
  // On Windows the runner sends Ctrl-C, then Ctrl-Break, which Node calls SIGBREAK.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGBREAK'] as const) process.on(signal, () => controller.abort(cancelled(signal)))
  const budgetMs = runBudgetMs(inputs)
  const budget = setTimeout(() => stop(outOfTime(budgetMs), lastWordMs), budgetMs)
  try {
    // On its way while the rest is loaded; a failure is told where it is awaited.
    const { audienceOf } = await import('./stages/sign-in.ts')
    const audience = audienceOf(inputs)
    if (audience !== undefined) earlyToken = { audience, token: around.idToken(audience) }
    earlyToken?.token.catch(() => undefined)
    // Loading leaves the event loop no turn: the connection is opened before it begins.
    await new Promise((opened) => setImmediate(opened))
    const { run } = await import('./modes/run.ts')
    await run(inputs, journal, around)
  } finally {
    clearTimeout(budget)
  }
}

/** Ends the run as a cancel does, so that nothing unproven stays. One that does not end by that is reported as it stands. */
function stop(why: Failure, patienceMs: number): void {
  controller.abort(why)
  void endedWithin(patienceMs).then((itself) => (itself ? undefined : leave(why)))
}

/** Whether the run ends by itself, well or not, before the time is up. */
function endedWithin(ms: number): Promise<boolean> {
  return Promise.race([settled.then(() => true), new Promise<false>((resolve) => setTimeout(resolve, ms, false))])
}

function leave(error: unknown): Promise<void> {
  return ended(error).finally(() => process.exit(1))
}

function cancelled(signal: string): Failure {
  return new Failure({
    reason: 'cancelled',
    code: 'cancelled',
    title: 'The run was cancelled',
    detail: `The runner sent ${signal}.`,
    fix: 'Run the job again; it goes on where it stopped.',
  })
}

/** Whatever was thrown, an Error or not, by anybody: the step never stays green. */
async function ended(error: unknown): Promise<void> {
  process.exitCode = 1
  if (finishing !== undefined) {
    // It was reported already, or is being reported: what is thrown now still makes the run a failed one.
    await finishing.catch(() => undefined)
    setOutput('result', 'failed')
    setOutput('verified', 'false')
    setOutput('failure-reason', 'internal')
    fail(`After the report: ${describe(error)}`)
    return
  }
  try {
    await finish(failuresOf(controller.signal.aborted ? controller.signal.reason : error))
  } catch (second) {
    fail(`Reporting failed: ${describe(second)}; before it: ${describe(error)}`)
  }
}

/** Runs the main step and ends the process. */
export async function main(): Promise<void> {
  for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
    process.on(event, (error: unknown) => {
      // What is under way is ended as a cancel ends it, so that nothing unproven stays.
      controller.abort(new Failures(failuresOf(error)))
      void endedWithin(5_000).then(() => leave(error))
    })
  }
  process.exitCode = 1
  const running = act()
  settled = running.catch(() => undefined)
  try {
    await running
    await finish([])
  } catch (error) {
    await ended(error)
  }
  await endProcess()
}
