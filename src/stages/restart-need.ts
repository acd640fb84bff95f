/** Whether the identity needs a restart of the server: what the test queries show, and what each mode makes of it. */

import type { ResourceManager } from '../azure/resource-manager.ts'
import type { Inputs } from '../core/inputs.ts'
import type { Observed, ObservedDatabase, Running } from '../core/observed.ts'
import { noRestart, restartWanted } from '../core/plan.ts'
import { hasStep, planId, planScope } from '../core/plan-id.ts'
import { type RestartEvidence, restartEvidence } from '../core/restart-evidence.ts'
import { type Step, withWaits } from '../core/steps.ts'
import { Failure } from '../errors/failure.ts'
import type { Next, Waiting } from '../verification/rounds.ts'
import { carryOut, type WriteRun } from './carry-out.ts'
import { restartWrite } from './restart.ts'
import type { Run } from './run.ts'

/** How long to wait for a token before a restart is the likelier cure, in milliseconds. */
const noTokenPatienceMs = 3 * 60_000

/** What a mode does while no test query has passed with the identity, and when they are over. */
export interface RestartWatch {
  readonly onWaiting: ((waiting: Waiting) => Promise<Next>) | undefined
  readonly conclude: () => Promise<void>
}

type Found = Running & Pick<Observed, 'roleAssignments'>

interface Watched {
  readonly found: () => Promise<Found | undefined>
  readonly roleAssignedNow?: boolean
  /** What the mode makes of evidence; undefined: it waits on. */
  readonly decide: (evidence: RestartEvidence, waitedMs: number) => Promise<Next>
  /** Called at the end when a query passed with the identity: no restart is needed, whatever else is shown. */
  readonly passed?: () => void
}

const passedByIdentity = ({ journal }: Run): boolean =>
  journal.queries.some(({ status, proof }) => status === 'passed' && proof === 'keyless')

/** One decision a run: after it nothing is evidence. */
function watch(run: Run, { found, roleAssignedNow = false, decide, passed }: Watched): RestartWatch {
  const { journal } = run
  let isOver = false
  const onWaiting = async ({ noToken, refusedPrincipals, waitedMs }: Waiting): Promise<Next> => {
    const observed = isOver ? undefined : await found()
    const evidence = observed && restartEvidence(observed, { noToken, refusedPrincipals, roleAssignedNow })
    if (evidence === undefined) return undefined
    const next = await decide(evidence, waitedMs)
    isOver = next !== undefined
    return next
  }
  const conclude = async (): Promise<void> => {
    if (passedByIdentity(run)) return passed?.()
    // Where no query ran, what the server shows is the only evidence.
    const noneRan = journal.failures.length === 0 && journal.queries.every(({ status }) => status === 'skipped')
    const next = await onWaiting({ noToken: noneRan, refusedPrincipals: [], waitedMs: 0 })
    if (next instanceof Failure) journal.fail(next)
  }
  return { onWaiting, conclude }
}

const noWatch: RestartWatch = { onWaiting: undefined, conclude: async () => undefined }

/** Apply restarts where it may, and ends with `restart-required` where it may not. */
export function watchInApply(run: WriteRun, databases: readonly ObservedDatabase[]): RestartWatch {
  const { inputs, journal, observed, scope, log } = run
  const step = journal.step('restart')
  // What failed before the restart has to be fixed first, and is reported.
  const isHeldBack = step?.status === 'skipped' && scope.writesAzure
  if (step === undefined || step.status === 'created' || isHeldBack) return noWatch
  const limitMs = Math.min(noTokenPatienceMs, inputs.verifyTimeoutMs)
  if (observed.server.principalId === undefined) return step.status === 'missing' ? watchNewIdentity(run, limitMs) : noWatch
  const decide: Watched['decide'] = async ({ text, certain }, waitedMs) => {
    if (!certain && waitedMs < limitMs) return undefined
    const why = [
      ...(scope.writesAzure ? [] : ['part: database does not restart']),
      ...(inputs.allowRestart ? [] : ['`allow-restart` is false']),
      ...(inputs.planId === undefined || hasStep(inputs.planId, step) ? [] : ['the plan of `plan-id` has no restart']),
    ]
    const wanted = { ...step, ...(scope.writesAzure ? restartWanted(inputs) : restartLeft(inputs)), current: text }
    journal.update(wanted)
    if (why[0] !== undefined) return restartRequired(inputs, `The identity does not work yet, and ${text}; ${why[0]}.`)
    log.info(`The identity does not work yet, and ${text}`)
    await carryOut(run, wanted, restartWrite(run))
    return 'restarted'
  }
  const found: Found = { ...observed, databases }
  const roleAssignedNow = journal.steps.some(({ kind, status }) => kind === 'role' && status === 'created')
  const passed = (): void => {
    if (journal.step('restart')?.status === 'missing') journal.mark('restart', 'skipped', passedWithout)
  }
  return watch(run, { found: async () => found, roleAssignedNow, decide, passed })
}

const passedWithout = 'not needed: a test query passed without it'

/** This run turned the identity on, and may not restart: after some minutes it stops waiting for a token. */
function watchNewIdentity(run: WriteRun, limitMs: number): RestartWatch {
  const { inputs, journal } = run
  // Where it is allowed, something before the restart failed, which is reported.
  const required = inputs.allowRestart
    ? undefined
    : restartRequired(inputs, 'This run turned the identity on, and `allow-restart` is false.')
  return {
    onWaiting: async ({ noToken, waitedMs }) => (noToken && waitedMs >= limitMs ? required : undefined),
    conclude: async () => {
      const refusals = journal.failures.filter(({ reason }) => reason === 'verification')
      const tokenWasHad =
        refusals.length > 0 && refusals.every(({ code }) => !['no-token', 'ai-error', 'not-tried'].includes(code))
      if (passedByIdentity(run)) journal.mark('restart', 'skipped', passedWithout)
      else if (required !== undefined && !tokenWasHad) journal.fail(required)
    },
  }
}

/** In a check the evidence adds the restart to the plan, which is what an approval is for, and a query that passed takes it out. */
export function watchInCheck(run: Run, observed: Observed, steps: readonly Step[]): RestartWatch {
  const { inputs, journal, log } = run
  const step = steps.find(({ kind }) => kind === 'restart')
  if (step === undefined || observed.server.principalId === undefined) return noWatch
  const { change: _, ...withoutChange } = step
  const replan = (restart: Pick<Step, 'current' | 'desired' | 'status' | 'detail' | 'change'>): void => {
    const again = steps.map((each) => (each === step ? { ...withoutChange, ...restart } : each))
    journal.plan(withWaits(again), planId(again, planScope(inputs, observed)))
  }
  const decide: Watched['decide'] = async ({ text, certain }) => {
    if (!certain) return undefined
    if (step.status === 'skipped') {
      journal.update({ ...step, ...restartLeft(inputs), current: text })
      return restartRequired(inputs, `The identity does not work yet, and ${text}; part: database does not restart.`)
    }
    if (step.status === 'in-sync') replan({ ...restartWanted(inputs), current: text })
    log.info(`The restart is part of the plan: ${text}`)
    return 'planned'
  }
  const passed = (): void => {
    if (step.status === 'missing') replan({ ...noRestart, current: passedWithout })
  }
  return watch(run, { found: async () => observed, decide, passed })
}

/** A restart that is needed and belongs to the other part: the step stays skipped. */
const restartLeft = (inputs: Inputs): Pick<Step, 'desired'> => ({ desired: restartWanted(inputs).desired })

/**
 * A verify names the restart where Resource Manager may be asked for the identity; without an answer it waits as usual.
 * @param azure undefined for a run that calls Resource Manager for nothing else
 */
export function watchInVerify(
  run: Run,
  azure: Pick<ResourceManager, 'server'> | undefined,
  databases: readonly ObservedDatabase[],
): RestartWatch {
  const { inputs, log, scope, signal } = run
  if (azure === undefined || !scope.byIdentity) return noWatch
  let reading: Promise<Found | undefined> | undefined
  const read = async (): Promise<Found | undefined> => {
    try {
      return { server: await azure.server(), databases, roleAssignments: new Map(), runningIdentity: undefined }
    } catch (error) {
      if (signal.aborted) throw signal.reason
      log.debug(`the identity of the server: ${error instanceof Error ? error.message : String(error)}`)
      return undefined
    }
  }
  const decide: Watched['decide'] = async ({ text, certain }) =>
    certain ? restartRequired(inputs, `The identity does not work, and ${text}; a verify does not restart.`) : undefined
  const found = (): Promise<Found | undefined> => {
    reading ??= read()
    return reading
  }
  return watch(run, { found, decide })
}

function restartRequired(inputs: Inputs, detail: string): Failure {
  const { mode, part, allowRestart } = inputs
  const { resourceGroup, name } = inputs.server
  // With these the action restarts it itself.
  const lacking = [
    ...(mode === 'apply' ? [] : ['`mode: apply`']),
    ...(part === 'database' ? ['`part: all`'] : []),
    ...(allowRestart ? [] : ['`allow-restart: true`']),
  ]
  const or = lacking.length === 0 ? '' : `; or set ${lacking.join(' and ')}`
  return new Failure({
    reason: 'restart-required',
    code: 'restart-required',
    title: 'The server has to be restarted before its identity works',
    detail,
    fix: `az postgres flexible-server restart --resource-group ${resourceGroup} --name ${name}   # then run this job again${or}`,
  })
}
