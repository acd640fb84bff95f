/** The entry, main and post: the only file that reads the environment. Outputs fail closed from the first moment. */
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import * as core from '@actions/core'
import { lastWordMs, outOfTime, runBudgetMs } from './budget.ts'
import { describe, Failure, Failures, type Finding, failuresOf } from './errors.ts'
import type { Place } from './github/conversation.ts'
import {
  annotate,
  appendSummary,
  createLog,
  fail,
  idToken,
  setOutput,
  warn,
  withoutSecrets,
  writeReport,
} from './github/runner.ts'
import { type InputName, type Inputs, inputNames, parseInputs, secretInputs } from './inputs.ts'
import { createJournal } from './journal.ts'
import { fails, type Report, report } from './report.ts'
import type { Outside } from './session.ts'

const { env } = process
const log = createLog()
const startedAt = new Date()
const start = performance.now()
const journal = createJournal(() => setOutput('changed', 'true'))
const controller = new AbortController()
const reportFolder = join(env.RUNNER_TEMP || process.cwd(), 'azure-ai-postgres-identity')
const reportName = `report-${randomUUID()}.json`
/** Names under which the main step leaves things for the post step. */
const states = { isPost: 'isPost', firewallRule: 'firewall-rule', firewallRuleMade: 'firewall-rule-made' } as const

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
  setOutput('report-path', await writeReport(current([unfinished]), reportFolder, reportName))
}

function current(thrown: readonly Failure[]): Report {
  return withoutSecrets(report({ inputs, journal, thrown, startedAt, durationMs: performance.now() - start, host, principalId }))
}

/** Reports once, whatever led here. */
function finish(thrown: readonly Failure[]): Promise<void> {
  finishing ??= (async () => {
    for (const failure of [...thrown, ...journal.failures]) debugCauses(failure)
    for (const finding of await converse(current(thrown))) journal.finding(finding)
    const final = current(thrown)
    setOutput('changed', String(final.changed))
    setOutput('drift', String(final.drift))
    setOutput('principal-id', final.server.principalId)
    setOutput('plan-id', final.planId)
    const [{ alikeFindings }, { databasesOf, summary }] = await Promise.all([import('./alike.ts'), import('./summary.ts')])
    annotate(alikeFindings(final.findings, databasesOf(final)))
    await writeReport(final, reportFolder, reportName)
    await appendSummary(summary(final), env.GITHUB_STEP_SUMMARY)
    // What gates read comes last: by now everything else is written.
    setOutput('failure-reason', final.failureReason)
    setOutput('verified', String(final.verified))
    setOutput('result', final.result)
    const reason = final.failureReason === 'none' ? '' : `, reason: ${final.failureReason}`
    log.info(`Result: ${final.result}, verified: ${final.verified}${reason}`)
    process.exitCode = fails(final, inputs?.failOnDrift ?? true) ? 1 : 0
  })()
  return finishing
}

/** The drift issue and the pull request comment, where they were asked for; what could not be done there is a finding. */
async function converse(so: Report): Promise<readonly Finding[]> {
  if (inputs === undefined || controller.signal.aborted || !(inputs.driftIssue || inputs.pullRequestComment)) return []
  const { keepDriftIssue, keepPullRequestComment } = await import('./github/conversation.ts')
  const options = { log, signal: AbortSignal.any([controller.signal, AbortSignal.timeout(120_000)]) }
  const place = placeOf()
  const said = await Promise.all([
    inputs.driftIssue ? keepDriftIssue(so, place, options) : undefined,
    inputs.pullRequestComment ? keepPullRequestComment(so, place, options) : undefined,
  ])
  return said.filter((finding) => finding !== undefined)
}

interface Event {
  number?: number
  pull_request?: {
    number?: number
    head?: { repo?: { fork?: boolean; full_name?: string } | null }
    base?: { repo?: { full_name?: string } }
  }
}

/** The event that started the workflow, from the runner's file. */
function event(): Event {
  try {
    return JSON.parse(readFileSync(env.GITHUB_EVENT_PATH ?? '', 'utf8')) as Event
  } catch {
    // Without the file it is not known to be a pull request.
    return {}
  }
}

function fromFork(): boolean {
  const { pull_request: pull } = event()
  if (pull === undefined) return false
  // The head's repository is null when the fork was deleted.
  return pull.head?.repo === null || (pull.head?.repo?.full_name ?? '') !== (pull.base?.repo?.full_name ?? '')
}

function placeOf(): Place {
  const [owner = '', repository = ''] = (env.GITHUB_REPOSITORY ?? '').split('/')
  const serverUrl = env.GITHUB_SERVER_URL || 'https://github.com'
  return {
    apiUrl: env.GITHUB_API_URL || 'https://api.github.com',
    serverUrl,
    owner,
    repository,
    runUrl: `${serverUrl}/${owner}/${repository}/actions/runs/${env.GITHUB_RUN_ID ?? ''}`,
    token: githubToken,
    pullRequest: event().pull_request?.number,
    fromFork: fromFork(),
  }
}

/** The chain of causes, for those who turn on debug logging. */
function debugCauses(failure: Failure): void {
  for (
    let cause: unknown = failure.cause;
    cause !== undefined && cause !== null;
    cause = cause instanceof Error ? cause.cause : undefined
  ) {
    log.debug(`${failure.code}, caused by: ${cause instanceof Error ? (cause.stack ?? cause.message) : describe(cause)}`)
  }
}

/** Secrets are masked before anything else sees them. */
function readInputs(): Record<InputName, string> {
  const raw = Object.fromEntries(inputNames.map((name) => [name, ''])) as Record<InputName, string>
  for (const name of secretInputs) {
    raw[name] = core.getInput(name)
    log.secret(raw[name])
  }
  for (const secret of [env.AZURE_CLIENT_SECRET, env.AZURE_CLIENT_CERTIFICATE_PASSWORD]) log.secret(secret ?? '')
  for (const name of inputNames) raw[name] = core.getInput(name)
  return raw
}

function oidcToken(audience: string, signal: AbortSignal): Promise<string> {
  const { ACTIONS_ID_TOKEN_REQUEST_URL: url = '', ACTIONS_ID_TOKEN_REQUEST_TOKEN: token = '' } = env
  return idToken(audience, { url, token }, log, signal)
}

function outside(signal: AbortSignal): Outside {
  return {
    log,
    signal,
    idToken: (audience) => {
      const early = audience === earlyToken?.audience ? earlyToken.token : undefined
      earlyToken = undefined
      return early ?? oidcToken(audience, signal)
    },
    ambient: {
      tenantId: env.AZURE_TENANT_ID || undefined,
      clientId: env.AZURE_CLIENT_ID || undefined,
      clientSecret: env.AZURE_CLIENT_SECRET || undefined,
      clientCertificatePath: env.AZURE_CLIENT_CERTIFICATE_PATH || undefined,
      clientCertificatePassword: env.AZURE_CLIENT_CERTIFICATE_PASSWORD || undefined,
      federatedTokenFile: env.AZURE_FEDERATED_TOKEN_FILE || undefined,
      authorityHost: env.AZURE_AUTHORITY_HOST || undefined,
      managedIdentity: Boolean(env.IDENTITY_ENDPOINT || env.MSI_ENDPOINT),
    },
    workflow: {
      event: env.GITHUB_EVENT_NAME ?? '',
      actor: env.GITHUB_ACTOR ?? '',
      fromFork: fromFork(),
      behindProxy: Boolean(env.HTTPS_PROXY || env.https_proxy),
    },
    remember: (rule, state) =>
      state === 'asked' ? core.saveState(states.firewallRule, rule) : core.saveState(states.firewallRuleMade, 'true'),
    known: (facts) => {
      host = facts.host ?? host
      if (facts.principalId === undefined) return
      principalId = facts.principalId
      setOutput('principal-id', principalId)
    },
  }
}

async function main(): Promise<void> {
  const raw = readInputs()
  await failClosed()
  inputs = parseInputs(raw)
  githubToken = raw['github-token']
  // On Windows the runner sends Ctrl-C, then Ctrl-Break, which Node calls SIGBREAK.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGBREAK'] as const) process.on(signal, () => controller.abort(cancelled(signal)))
  const budgetMs = runBudgetMs(inputs)
  const budget = setTimeout(() => stop(outOfTime(budgetMs), lastWordMs), budgetMs)
  try {
    // On its way while the rest is loaded; a failure is told where it is awaited.
    const { audienceOf } = await import('./session.ts')
    const audience = audienceOf(inputs)
    if (audience !== undefined) earlyToken = { audience, token: oidcToken(audience, controller.signal) }
    earlyToken?.token.catch(() => undefined)
    // Loading leaves the event loop no turn: the connection is opened before it begins.
    await new Promise((opened) => setImmediate(opened))
    const { run } = await import('./run.ts')
    await run(inputs, journal, outside(controller.signal))
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

/** Takes back what the main step left open. Never fails the job: what could not be done is a warning with the command for it. */
async function post(): Promise<void> {
  const rule = core.getState(states.firewallRule)
  if (rule === '') return
  const raw = readInputs()
  try {
    const { takeBack } = await import('./post.ts')
    const wasMade = core.getState(states.firewallRuleMade) === 'true'
    const note = await takeBack(parseInputs(raw), rule, wasMade, outside(AbortSignal.timeout(8 * 60_000)))
    await appendSummary(note, env.GITHUB_STEP_SUMMARY).catch((error: unknown) =>
      log.info(`The summary could not be written: ${describe(error)}`),
    )
  } catch (error) {
    const { name, resourceGroup } = parseServer(raw.server)
    warn(
      `The temporary firewall rule ${rule} could not be removed: ${failuresOf(error)
        .map((failure) => failure.message)
        .join('; ')}\n` +
        `Fix: az postgres flexible-server firewall-rule delete --resource-group ${resourceGroup} --server-name ${name} --name ${rule} --yes   # az 2.86 or newer`,
      'A firewall rule was left behind',
    )
  }
}

function parseServer(id: string): { name: string; resourceGroup: string } {
  const [, , , , resourceGroup = 'GROUP', , , , name = 'SERVER'] = id.split('/')
  return { name, resourceGroup }
}

// The post step is the same bundle.
if (core.getState(states.isPost) === '') {
  core.saveState(states.isPost, 'true')
  for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
    process.on(event, (error: unknown) => {
      // What is under way is ended as a cancel ends it, so that nothing unproven stays.
      controller.abort(new Failures(failuresOf(error)))
      void endedWithin(5_000).then(() => leave(error))
    })
  }
  process.exitCode = 1
  const running = main()
  settled = running.catch(() => undefined)
  try {
    await running
    await finish([])
  } catch (error) {
    await ended(error)
  }
} else {
  for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
    process.on(event, (error: unknown) => warn(describe(error), 'The post step met something unexpected'))
  }
  await post()
  process.exitCode = 0
}
// Open sockets of keep-alive connections have nothing left to say; what was printed has to be out first.
await new Promise((printed) => process.stdout.write('', printed))
process.exit(process.exitCode)
