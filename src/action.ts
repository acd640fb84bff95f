/** The life of one run: outputs start as failed, the mode runs, the result is reported once; cancel, time limit, unexpected errors. */
import { setDefaultAutoSelectFamilyAttemptTimeout } from 'node:net'
import { type InputName, inputNames, secretInputs } from './core/input-names.ts'
import { type Inputs, parseInputs, unusedInputs } from './core/inputs.ts'
import { createJournal } from './core/journal.ts'
import { fails, fitted, type Report, report } from './core/report.ts'
import { scopeOf } from './core/scope.ts'
import { addressTimeoutMs, lastWordMs, outOfTime, runBudgetMs } from './core/time-limit.ts'
import { Failure, Failures, type Finding, failuresOf } from './errors/failure.ts'
import type { Place } from './github/rest.ts'
import { endProcess, fail, type SetOutput } from './github/runner.ts'
import { bounded, describe } from './lib/bounded.ts'
import type { Log } from './lib/log.ts'
import { withoutCredentials, withoutSecrets } from './lib/secrets.ts'
import { converse, failClosed, keepReport, publish } from './report/publish.ts'
import { postState, stateText } from './stages/post-state.ts'
import type { Run } from './stages/run.ts'
import type { SignInContext } from './stages/sign-in.ts'

/** What the job gives to the action. Only the entries read its environment. */
export interface Job {
  readonly log: Log
  readonly signIn: (signal: AbortSignal) => SignInContext
  readonly getInput: (name: InputName) => string
  readonly setOutput: SetOutput
  /** Whether a post step will follow, which closes the firewall again. */
  readonly hasPostStep: boolean
  readonly saveState: (name: string, value: string) => void
  /** What is known of the job before any input is read, such as a variable that was removed. */
  readonly findings: readonly Finding[]
  /** Secrets of the ambient login. */
  readonly ambientSecrets: readonly string[]
  /** GITHUB_RUN_ID */
  readonly runId: string
  readonly reportFolder: string
  readonly summaryFile: string | undefined
  readonly place: (token: string) => Place
}

/** How long an unexpected error waits for the run to put back what is not verified, in milliseconds. */
const unexpectedMs = 5_000

/** Loaded when it is needed: each mode brings only what it uses. */
async function runMode(run: Run): Promise<void> {
  const { mode } = run.inputs
  if (mode === 'check') return (await import('./modes/check.ts')).check(run)
  if (mode === 'verify') return (await import('./modes/verify.ts')).verify(run)
  if (mode === 'inventory') return (await import('./modes/inventory.ts')).inventory(run)
  return (await import('./modes/apply.ts')).apply(run)
}

/** Runs the action and ends the process. */
export async function runAction(job: Job): Promise<void> {
  await new ActionRun(job).live()
  await endProcess()
}

class ActionRun {
  readonly #job: Job
  readonly #journal = createJournal(() => this.#job.setOutput('changed', 'true'))
  readonly #controller = new AbortController()
  readonly #startedAt = new Date()
  readonly #start = performance.now()
  #inputs: Inputs | undefined
  #githubToken = ''
  #host = ''
  #principalId = ''
  #reporting: Promise<void> | undefined
  /** The run, ended well or not. */
  #settled: Promise<void> = Promise.resolve()

  constructor(job: Job) {
    this.#job = job
  }

  async live(): Promise<void> {
    for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
      process.on(event, (error: unknown) => {
        // The run ends as a cancel ends it, so that nothing unverified stays.
        this.#controller.abort(new Failures(failuresOf(error)))
        void this.#endsWithin(unexpectedMs).then(() => this.#leave(error))
      })
    }
    process.exitCode = 1
    const acting = this.#act()
    this.#settled = acting.catch(() => undefined)
    try {
      await acting
      await this.#report([])
    } catch (error) {
      await this.#end(error)
    }
  }

  async #act(): Promise<void> {
    const { saveState, findings } = this.#job
    // Node allows each address of a host 250 ms, which is too little for a distant one that has IPv6 and IPv4.
    setDefaultAutoSelectFamilyAttemptTimeout(addressTimeoutMs)
    // First of all: from here on the runner itself sets this state for the post step, whatever another step wrote into GITHUB_ENV.
    saveState(postState, '')
    for (const finding of findings) this.#journal.finding(finding)
    const raw = this.#readInputs()
    failClosed(this.#job.setOutput)
    await this.#keepReport(this.#current([unfinished]))
    const inputs = parseInputs(raw)
    this.#inputs = inputs
    if (inputs.temporaryFirewallRule && !this.#job.hasPostStep) throw needsPostStep
    this.#githubToken = raw['github-token']
    for (const input of unusedInputs(inputs)) this.#journal.finding(unusedInput(input))
    if (inputs.databases !== '*') this.#journal.expect(inputs.databases)
    // On Windows the runner sends Ctrl-C, then Ctrl-Break, which Node calls SIGBREAK.
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGBREAK'] as const)
      process.on(signal, () => this.#controller.abort(cancelled(signal)))
    const budgetMs = runBudgetMs(inputs)
    const budget = setTimeout(() => this.#stop(outOfTime(budgetMs)), budgetMs)
    try {
      await runMode(await this.#run(inputs))
    } finally {
      clearTimeout(budget)
    }
  }

  /** The context of the run; the workflow's OIDC token is requested at once, so that it arrives while the mode is loaded. */
  async #run(inputs: Inputs): Promise<Run> {
    const context = this.#job.signIn(this.#controller.signal)
    const { audienceOf } = await import('./stages/sign-in.ts')
    const audience = audienceOf(inputs)
    let early = audience === undefined ? undefined : context.idToken(audience)
    early?.catch(() => undefined)
    // Loading leaves the event loop no turn: the connection is opened before it begins.
    await new Promise((opened) => setImmediate(opened))
    return {
      ...context,
      inputs,
      scope: scopeOf(inputs),
      journal: this.#journal,
      idToken: (wanted) => {
        const token = wanted === audience ? early : undefined
        early = undefined
        return token ?? context.idToken(wanted)
      },
      remember: (rule, state) =>
        this.#job.saveState(postState, stateText({ target: inputs, rule, created: state === 'made', runId: this.#job.runId })),
      reportFacts: (facts) => {
        this.#host = facts.host ?? this.#host
        if (facts.principalId === undefined) return
        this.#principalId = facts.principalId
        this.#job.setOutput('principal-id', facts.principalId)
      },
    }
  }

  /** Secrets are masked before anything else sees them. */
  #readInputs(): Record<InputName, string> {
    const { getInput, log, ambientSecrets } = this.#job
    const raw = Object.fromEntries(inputNames.map((name) => [name, ''])) as Record<InputName, string>
    for (const name of secretInputs) {
      raw[name] = getInput(name)
      log.secret(raw[name])
    }
    for (const name of inputNames) raw[name] = getInput(name)
    // Where they are not used, another step may have set them to a word, to have it hidden in the report and in job outputs.
    if (raw['tenant-id'] === '' || raw['client-id'] === '') for (const secret of ambientSecrets) log.secret(secret)
    return raw
  }

  #current(thrown: readonly Failure[]): Report {
    const facts = { inputs: this.#inputs, journal: this.#journal, thrown, startedAt: this.#startedAt }
    const durationMs = performance.now() - this.#start
    return withoutSecrets(report({ ...facts, durationMs, host: this.#host, principalId: this.#principalId }))
  }

  async #keepReport(of: Report): Promise<void> {
    const finding = await keepReport(of, this.#job.reportFolder, this.#job.setOutput)
    if (finding !== undefined) this.#journal.finding(finding)
  }

  /** Reports once, whatever led here. */
  #report(thrown: readonly Failure[]): Promise<void> {
    this.#reporting ??= (async () => {
      const { log, place, summaryFile } = this.#job
      const inputs = this.#inputs
      for (const failure of [...thrown, ...this.#journal.failures]) debugCauses(failure, log)
      if (inputs !== undefined) {
        const { signal } = this.#controller
        const findings = await converse(this.#current(thrown), { inputs, place: place(this.#githubToken), log, signal })
        for (const finding of findings) this.#journal.finding(finding)
      }
      await this.#keepReport(fitted(this.#current(thrown)))
      const final = this.#current(thrown)
      await publish(final, { setOutput: this.#job.setOutput, summaryFile, log, failsOnDrift: inputs?.failOnDrift ?? true })
      process.exitCode = fails(final, inputs?.failOnDrift ?? true) ? 1 : 0
    })()
    return this.#reporting
  }

  /** Ends the run as a cancel does, so that nothing unverified stays. One that does not end by that is reported as it stands. */
  #stop(why: Failure): void {
    this.#controller.abort(why)
    void this.#endsWithin(lastWordMs).then((itself) => (itself ? undefined : this.#leave(why)))
  }

  /** Whether the run ends by itself, well or not, before the time is up. */
  #endsWithin(ms: number): Promise<boolean> {
    return Promise.race([this.#settled.then(() => true), new Promise<false>((resolve) => setTimeout(resolve, ms, false))])
  }

  #leave(error: unknown): Promise<void> {
    return this.#end(error).finally(() => process.exit(1))
  }

  /** Whatever was thrown, an Error or not, and wherever: the step never stays green. */
  async #end(error: unknown): Promise<void> {
    process.exitCode = 1
    if (this.#reporting !== undefined) {
      // It was reported already, or is being reported: what is thrown now still makes the run a failed one.
      await this.#reporting.catch(() => undefined)
      const { setOutput } = this.#job
      setOutput('result', 'failed')
      setOutput('verified', 'false')
      setOutput('failure-reason', 'internal')
      fail(`After the report: ${describe(error)}`)
      return
    }
    const { signal } = this.#controller
    try {
      await this.#report(failuresOf(signal.aborted ? signal.reason : error))
    } catch (second) {
      fail(`Reporting failed: ${describe(second)}; before it: ${describe(error)}`)
    }
  }
}

/** The chain of causes, for those who turn on debug logging. */
function debugCauses(failure: Failure, log: Log): void {
  for (
    let cause: unknown = failure.cause;
    cause !== undefined && cause !== null;
    cause = cause instanceof Error ? cause.cause : undefined
  ) {
    const text = cause instanceof Error ? bounded(cause.stack ?? cause.message) : describe(cause)
    log.debug(`${failure.code}, caused by: ${withoutCredentials(text)}`)
  }
}

const unfinished = new Failure({
  reason: 'internal',
  code: 'unfinished',
  title: 'The run did not finish',
  detail: 'The action was ended from outside before it could report.',
  fix: 'Run the job again; it goes on where it stopped.',
})

const needsPostStep = new Failure({
  reason: 'input',
  code: 'no-post-step',
  title: 'A temporary firewall rule needs a job of GitHub Actions',
  detail: '`temporary-firewall-rule` is true, and outside GitHub Actions no post step would close the firewall again.',
  fix: 'Leave `temporary-firewall-rule` out, and run this where the server can be reached.',
})

function cancelled(signal: string): Failure {
  return new Failure({
    reason: 'cancelled',
    code: 'cancelled',
    title: 'The run was cancelled',
    detail: `The runner sent ${signal}.`,
    fix: 'Run the job again; it goes on where it stopped.',
  })
}

function unusedInput(input: InputName): Finding {
  return {
    severity: 'notice',
    code: 'unused-input',
    title: 'An input has no effect',
    detail: `\`${input}\` is set, but what it belongs to is not.`,
    fix: '',
  }
}
