/** `check`: changes nothing. All differences are collected, none hides the others; the test queries run once. */
import { findings } from '../core/findings.ts'
import type { Observed } from '../core/observed.ts'
import { plan, restartWanted } from '../core/plan.ts'
import { planId, planScope } from '../core/plan-id.ts'
import { preconditions } from '../core/preconditions.ts'
import { restartEvidence } from '../core/restart-evidence.ts'
import { type Step, withWaits } from '../core/steps.ts'
import { principalIn } from '../errors/known/ai.ts'
import { observe } from '../stages/observe.ts'
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

  if (access === undefined) explainMissingQueries(run, observed)
  else await log.group('Test queries', () => runTestQueries(run, { ...access, ...observed, keys: new Map() }, queryOnce))
  planRestart(run, observed, steps)
  for (const finding of findings(inputs, observed, journal)) journal.finding(finding)
}

/** What the test queries show may add the restart to the plan: it is part of what an approval is for. */
function planRestart({ inputs, journal, log }: Run, observed: Observed, steps: readonly Step[]): void {
  const step = steps.find(({ kind }) => kind === 'restart')
  const passed = journal.queries.some(({ status, proof }) => status === 'passed' && proof === 'keyless')
  if (step?.status !== 'in-sync' || passed) return
  const evidence = restartEvidence(observed, observed.databases, {
    noToken:
      journal.failures.some(({ code }) => code === 'no-token') || journal.queries.every(({ status }) => status === 'skipped'),
    refusedPrincipals: journal.queries.flatMap(({ error }) => principalIn(error) ?? []),
    roleAssignedNow: false,
  })
  if (evidence === undefined || !evidence.certain) return
  const again = steps.map((each) => (each === step ? { ...step, ...restartWanted(inputs), current: evidence.text } : each))
  journal.plan(withWaits(again), planId(again, planScope(inputs, observed)))
  log.info(`The restart is part of the plan: ${evidence.text}`)
}
