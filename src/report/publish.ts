/** Writes what a run reports: outputs, the report file, annotations, the summary, the issue and the comment. */
import { randomUUID } from 'node:crypto'
import { coverageOf } from '../core/coverage.ts'
import type { Inputs } from '../core/inputs.ts'
import { matrixJson } from '../core/inventory-matrix.ts'
import { asJson, type Report } from '../core/report.ts'
import { differs } from '../core/steps.ts'
import type { Finding } from '../errors/failure.ts'
import type { Place } from '../github/rest.ts'
import { annotate, annotateError, appendSummary, type SetOutput, warn, writeReport } from '../github/runner.ts'
import { describe, firstOf } from '../lib/bounded.ts'
import type { Log } from '../lib/log.ts'

/** Longest time for the issue and the comment, in milliseconds. */
const conversationLimitMs = 120_000
/** One file for each run, so that two steps of a job do not overwrite each other's. */
const reportName = `report-${randomUUID()}.json`

/** Outputs start as failed, so a killed run never looks successful. */
export function failClosed(setOutput: SetOutput): void {
  setOutput('stored-keys', '')
  setOutput('matrix', matrixJson({ include: [] }))
  setOutput('result', 'failed')
  setOutput('verified', 'false')
  setOutput('changed', 'false')
  setOutput('drift', 'true')
  setOutput('failure-reason', 'internal')
  setOutput('principal-id', '')
  setOutput('plan-id', '')
}

/** Writes the report file. A folder that cannot be written to loses the report, not the run: a finding reports it. */
export async function keepReport(of: Report, folder: string, setOutput: SetOutput): Promise<Finding | undefined> {
  try {
    setOutput('report-path', await writeReport(asJson({ ...of, findings: await causesOf(of) }), folder, reportName))
    return undefined
  } catch (error) {
    setOutput('report-path', '')
    return {
      severity: 'warning',
      code: 'report-not-written',
      title: 'The report could not be written',
      detail: `${folder}: ${describe(error)}`,
      fix: 'Set RUNNER_TEMP to a folder that this job can write to.',
    }
  }
}

/** The findings of a report, each cause once. The first report, of a run that has just begun, has one: nothing is loaded for it. */
async function causesOf(of: Report): Promise<readonly Finding[]> {
  if (of.findings.length < 2) return of.findings
  const { databasesOf, onePerCause } = await import('./grouping.ts')
  return onePerCause(of.findings, databasesOf(of))
}

interface PublishOptions {
  readonly setOutput: SetOutput
  readonly summaryFile: string | undefined
  readonly log: Log
  /** Whether drift fails the step, which then needs an annotation with the reason. */
  readonly failsOnDrift: boolean
}

/** Outputs, annotations and summary of a run that is over. */
export async function publish(final: Report, { setOutput, summaryFile, log, failsOnDrift }: PublishOptions): Promise<void> {
  setOutput('changed', String(final.changed))
  setOutput('stored-keys', String(final.storedKeys.after ?? ''))
  if (final.inventory !== undefined) setOutput('matrix', matrixJson(final.inventory.matrix))
  setOutput('drift', String(final.drift))
  setOutput('principal-id', final.server.principalId)
  setOutput('plan-id', final.planId)
  const [{ alikeFindings, databasesOf }, { summary }] = await Promise.all([import('./grouping.ts'), import('./summary.ts')])
  if (final.result === 'drift' && failsOnDrift) await annotateDrift(final)
  annotate(alikeFindings(await causesOf(final), databasesOf(final)))
  await appendSummary(summary(final), summaryFile).catch((error: unknown) =>
    warn(
      `${describe(error)}\nFix: make the file that GITHUB_STEP_SUMMARY names writable for this job.`,
      'The job summary could not be written',
    ),
  )
  // Gates read these, so they come last: by now everything else is written.
  setOutput('failure-reason', final.failureReason)
  setOutput('verified', String(final.verified))
  setOutput('result', final.result)
  const reason = final.failureReason === 'none' ? '' : `, reason: ${final.failureReason}`
  log.result(`Result: ${final.result}, verified: ${final.verified}${reason}`)
}

async function annotateDrift({ server, steps, setUp, toDo, inventory }: Report): Promise<void> {
  if (inventory !== undefined) {
    const { text, title } = (await import('./inventory.ts')).driftAnnotation(inventory)
    return annotateError(text, title)
  }
  const differing = steps.filter(differs).map(({ id, status }) => `${id} (${status})`)
  annotateError(
    `${toDo} of ${steps.length} steps are to do: ${firstOf(differing)}.\nFix: Run this action with \`mode: apply\`.`,
    setUp ? `${server.name} has drifted from its workflow` : `${server.name} is not set up yet`,
  )
}

interface Conversation {
  readonly inputs: Inputs
  readonly place: Place
  readonly log: Log
  readonly signal: AbortSignal
}

/** The drift issue and the pull request comment, where the inputs turn them on; what failed there is a finding. */
export async function converse(so: Report, { inputs, place, log, signal }: Conversation): Promise<readonly Finding[]> {
  if (signal.aborted || !(inputs.driftIssue || inputs.pullRequestComment)) return []
  const { keepDriftIssue, keepPullRequestComment } = await import('./conversation.ts')
  const coverage = coverageOf(inputs)
  const { inventory } = so
  const issue = inventory === undefined ? so : (await import('./inventory.ts')).asDriftReport(so, inventory, coverage.server)
  const options = { log, signal: AbortSignal.any([signal, AbortSignal.timeout(conversationLimitMs)]) }
  const findings = await Promise.all([
    inputs.driftIssue ? keepDriftIssue(issue, coverage, place, options) : undefined,
    inputs.pullRequestComment && inputs.mode !== 'inventory' ? keepPullRequestComment(so, coverage, place, options) : undefined,
  ])
  return findings.filter((finding) => finding !== undefined)
}
