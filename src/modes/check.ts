/** `check`: changes nothing. All differences are collected, none hides the others; the test queries run once. */
import { findings } from '../core/findings.ts'
import { plan } from '../core/plan.ts'
import { planId, planScope } from '../core/plan-id.ts'
import { preconditions } from '../core/preconditions.ts'
import { withWaits } from '../core/steps.ts'
import { observe } from '../stages/observe.ts'
import { watchInCheck } from '../stages/restart-need.ts'
import type { Run } from '../stages/run.ts'
import { signInForRun } from '../stages/sign-in.ts'
import { explainMissingQueries, logPlan, runTestQueries } from '../stages/test-queries.ts'
import { queryOnce } from '../verification/rounds.ts'

export async function check(run: Run): Promise<void> {
  const { inputs, journal, log } = run
  const session = await log.group('Sign in', () => signInForRun(inputs, run))
  const { observed, access } = await log.group('Observe', () => observe(run, session))

  const steps = plan(inputs, observed)
  journal.plan(withWaits(steps), planId(steps, planScope(inputs, observed)))
  await logPlan(run)
  for (const failure of observed.failures) journal.fail(failure)
  for (const problem of preconditions(inputs, observed, steps)) journal.fail(problem)
  for (const { failure } of observed.databases) if (failure !== undefined) journal.fail(failure)

  const { onWaiting, conclude } = watchInCheck(run, observed, steps)
  if (access === undefined) explainMissingQueries(run, observed)
  else {
    const queried = { ...access, ...observed, keys: new Map(), onWaiting }
    await log.group('Test queries', () => runTestQueries(run, queried, queryOnce))
  }
  await conclude()
  for (const finding of findings(inputs, observed, journal)) journal.finding(finding)
}
