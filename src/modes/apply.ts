/** `apply`: brings the server to what the inputs say, and verifies it. */
import { findings } from '../core/findings.ts'
import type { Observed } from '../core/observed.ts'
import { plan } from '../core/plan.ts'
import { planId, planScope, sinceThen } from '../core/plan-id.ts'
import { preconditions } from '../core/preconditions.ts'
import type { Step } from '../core/steps.ts'
import { Failure, Failures } from '../errors/failure.ts'
import { observe } from '../stages/observe.ts'
import { applyRestart, isLeftToQueries } from '../stages/restart.ts'
import { watchInApply } from '../stages/restart-need.ts'
import type { Run } from '../stages/run.ts'
import { signInForRun } from '../stages/sign-in.ts'
import { explainMissingQueries, logPlan, runTestQueries } from '../stages/test-queries.ts'
import { writeAzure, writeExtensions } from '../stages/write.ts'
import { verifyFamilies } from '../verification/rounds.ts'

export async function apply(run: Run): Promise<void> {
  const { inputs, journal, log, scope } = run
  const session = await log.group('Sign in', () => signInForRun(inputs, run))
  const { observed, access } = await log.group('Observe', () => observe(run, session))

  const steps = plan(inputs, observed)
  const planned = planScope(inputs, observed)
  journal.plan(steps, planId(steps, planned))
  await logPlan(run)
  const writing = { ...run, observed, azure: session.azure, access }
  if (inputs.planId !== undefined) {
    // Where the test queries decide about the restart, it is compared with the plan when they show that it is needed.
    const due = steps.filter(({ kind }) => kind !== 'restart' || !isLeftToQueries(writing))
    refuseAnotherPlan(inputs.planId, due, planned)
  }
  refuseWhenBlocked(run, observed)

  let { databases } = observed
  let since = performance.now()
  await log.group('Apply', async () => {
    if (scope.writesAzure) await writeAzure(writing)
    if (access !== undefined) databases = await writeExtensions(writing, access)
    if (scope.writesAzure) await applyRestart(writing)
    if (journal.changed) since = performance.now()
    else log.info('Nothing to do before the settings')
  })

  const { onWaiting, conclude } = watchInApply(writing, databases)
  if (access === undefined) explainMissingQueries(run, observed)
  else {
    const queried = { ...access, onWaiting, databases, resources: observed.resources, since }
    await log.group('Settings and test queries', () => runTestQueries(run, queried, verifyFamilies))
  }
  await conclude()
  for (const finding of findings(inputs, { ...observed, databases }, journal)) journal.finding(finding)
}

/** The plan was checked, perhaps approved, and is another one now. */
function refuseAnotherPlan(earlier: string, steps: readonly Step[], scope: readonly string[]): void {
  const changes = sinceThen(earlier, steps, scope)
  if (changes === undefined) return
  throw new Failure({
    reason: 'drift',
    code: 'plan-changed',
    title: 'The plan is not the one that was checked',
    detail: `Since the check: ${changes.join('; ')}. Nothing was written.`,
    fix: `Run \`mode: check\` again and look at its plan; the plan-id is now ${planId(steps, scope)}`,
  })
}

/** Ends the run before its first write when something is in its way; all of it is reported together. */
function refuseWhenBlocked({ inputs, journal }: Run, observed: Observed): void {
  const problems = preconditions(inputs, observed, journal.steps)
  const unreachable = observed.databases.flatMap((each) => each.failure ?? [])
  if (problems.length > 0) throw new Failures([...problems, ...unreachable])
  if (unreachable.length > 0 && unreachable.length === observed.databases.length) throw new Failures(unreachable)
  for (const failure of unreachable) journal.fail(failure)
}
