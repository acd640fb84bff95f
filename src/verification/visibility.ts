/**
 * Whether the extension sees settings that its session has not committed yet. Where it does, a trial shows what new settings
 * are worth before users get them; where it does not, only what is committed can be queried.
 */
import { randomUUID } from 'node:crypto'
import { outlook, statusIn } from '../errors/explain.ts'
import { Failure } from '../errors/failure.ts'
import type { Log } from '../lib/log.ts'
import { type Call, type CallOutcome, type CallOutcomes, type Setting, trial } from '../postgres/trial.ts'
import type { Job } from './jobs.ts'
import type { DatabaseSession } from './session.ts'
import type { Visibility } from './strategy.ts'

/** Leads nowhere, by RFC 2606. No service can guess the name, so a text that contains it comes from a request that was sent there. */
const nowhere = `https://trial-${randomUUID()}.invalid`

/** How often the control has to fail, and the committed configuration to answer, in turn: a service that fails now and then does not look like this. */
const controls = { whenWriting: 3, otherwise: 1 } as const

export interface Looked {
  readonly visibility: Visibility
  /** The response to the control, where it stays unclear. */
  readonly outcomes: CallOutcomes
}

/** Whether the service refuses the caller, by status, each time that what is committed is queried: none of it works then. */
export async function isRefused(session: DatabaseSession, { calls }: Job): Promise<boolean> {
  const [call] = calls
  if (call === undefined) return false
  for (let round = 1; round <= controls.whenWriting; round++) {
    const outcome = first(await session.query([call]))
    if (outcome?.ok !== false || ![401, 403].includes(statusIn(outcome.text) ?? 0)) return false
  }
  return true
}

interface LookOptions {
  readonly log: Log
  /** A wrong guess of an apply could disturb what works; a check rolls everything back. */
  readonly writes: boolean
}

/** Finds it out, with the database's own errors retried; undefined when these persist. */
export async function lookForVisibility(session: DatabaseSession, job: Job, options: LookOptions): Promise<Looked | undefined> {
  try {
    return await session.patiently(() => lookOnce(session, job, options))
  } catch (error) {
    if (session.signal.aborted) throw session.signal.reason
    // The time for the lock of this action is over: the attempt would end without a word about it.
    if (error instanceof Failure && error.code === 'lock') throw error
    const failure = session.failure(error, 'looking')
    // A row that another session locks for longer than the patience is no doubt about the extension.
    if (failure.code === 'lock') throw failure
    // The attempt that follows meets the same failure and reports it; until then nothing is known.
    options.log.debug(`database "${job.database.name}": ${failure.message}`)
    return undefined
  }
}

/**
 * Whether a trial means anything here: with the endpoint set to nowhere inside a transaction the query must fail, and in
 * another way than it does without; else what answers is what is committed.
 */
async function lookOnce(session: DatabaseSession, job: Job, { log, writes }: LookOptions): Promise<Looked> {
  const [call] = job.calls
  // Nothing would be tried.
  if (call === undefined) return { visibility: 'visible', outcomes: new Map() }
  let answered: CallOutcome | undefined
  let before: CallOutcome | undefined
  const looked = (visibility: Visibility): Looked => ({
    visibility,
    outcomes: answered === undefined ? new Map() : new Map([[call.name, answered]]),
  })
  const rounds = writes ? controls.whenWriting : controls.otherwise
  for (let round = 1; round <= rounds; round++) {
    answered = await queryNowhere(session, job, call, log)
    if (isAnswer(answered)) return looked('hidden')
    if (namesNowhere(answered)) return looked('visible')
    before = first(await session.query([call]))
    if (!isAnswer(before)) {
      if (round > 1) return looked('unclear')
      break
    }
  }
  // No words are needed: what is committed answered each time, and nothing did with the endpoint that leads nowhere.
  if (isAnswer(before)) return looked('visible')
  return looked(writes ? guess(answered, before) : 'unclear')
}

/** Nothing works yet: what differs between the control and the committed settings decides, and a wrong guess costs nothing that works. */
function guess(answered: CallOutcome | undefined, before: CallOutcome | undefined): Visibility {
  const control = outlookOf(answered)
  // A service that is throttling or refusing answers for the committed endpoint just as well: that shows nothing.
  if (control !== 'no-token' && (control !== 'unknown' || isServiceText(answered))) return 'unclear'
  if (control === 'no-token' && outlookOf(before) !== 'no-token') return 'visible'
  return differ(before, answered) && !isServiceText(answered) ? 'visible' : 'unclear'
}

async function queryNowhere(session: DatabaseSession, job: Job, call: Call, log: Log): Promise<CallOutcome | undefined> {
  const { outcomes } = await session.fresh((connection) =>
    trial(connection, {
      database: job.database,
      settings: withSetting(job.settings, [call.endpoint, nowhere]),
      hide: [],
      calls: [call],
      commit: () => false,
      log,
    }),
  )
  return first(outcomes)
}

export function unclearTrial({ family, database }: Job, outcomes: CallOutcomes): Failure {
  const control = first(outcomes)
  return new Failure({
    reason: 'verification',
    code: 'trial-unclear',
    title: 'Unknown whether the extension sees uncommitted settings',
    detail: `${family.name} in "${database.name}": a query whose endpoint leads nowhere got a response that shows neither${control?.ok === false ? `: ${control.text}` : '.'}`,
    fix: 'Run again: a service that is throttling or failing just now looks like this.',
  })
}

const first = (outcomes: CallOutcomes): CallOutcome | undefined => [...outcomes.values()][0]

function outlookOf(outcome: CallOutcome | undefined): ReturnType<typeof outlook> {
  return outcome === undefined || outcome.ok ? 'unknown' : outlook({ origin: 'ai', code: outcome.code, text: outcome.text })
}

/** A service answered: with a result, or with a refusal that shows access. */
const isAnswer = (outcome: CallOutcome | undefined): boolean =>
  outcome?.ok === true || ['proves-access', 'retired'].includes(outlookOf(outcome))

const namesNowhere = (outcome: CallOutcome | undefined): boolean =>
  outcome?.ok === false && outcome.text.includes(new URL(nowhere).host)

const differ = (a: CallOutcome | undefined, b: CallOutcome | undefined): boolean =>
  a?.ok === false && b?.ok === false && a.text !== b.text

/** Looks like the response of a service: it contains an HTTP status. */
const isServiceText = (outcome: CallOutcome | undefined): boolean => outcome?.ok === false && /\b[45]\d\d\b/.test(outcome.text)

/** The settings with one of them replaced or added, in the fixed order of their names. */
function withSetting(settings: readonly Setting[], other: Setting): Setting[] {
  return [...settings.filter(([key]) => key !== other[0]), other].sort(([a], [b]) => (a < b ? -1 : 1))
}
