/**
 * Whether the extension sees settings that its session has not committed yet. Where it does, a trial shows what the new settings
 * are worth before anybody has them; where it does not, only what is committed can be asked.
 */
import { randomUUID } from 'node:crypto'
import { outlook } from '../errors/explain.ts'
import { Failure, type Finding } from '../errors/failure.ts'
import { type CallOutcome, type CallOutcomes, type Setting, trial } from '../postgres/trial.ts'
import { differing, type ProveOptions, type Task, type Visibility } from './jobs.ts'
import { askFreshly, freshly, patiently } from './session.ts'

/** Leads nowhere, by RFC 2606. No service can guess the name, so a text that names it comes from who was sent there. */
const nowhere = `https://trial-${randomUUID()}.invalid`

/** How often the control has to fail, and the committed configuration to answer, in turn: a service that fails now and then does not look like this. */
const controls = 3

/** Finds it out, with the database's own faults tried again; undefined when these stay. */
export async function visibilityOf(options: ProveOptions, task: Task): Promise<Visibility | undefined> {
  const { connector, log, signal } = options
  const { name } = task.database
  try {
    return await patiently(options, name, () => lookOnce(options, task))
  } catch (error) {
    if (signal.aborted) throw signal.reason
    // The time for the lock of this action is over: the attempt would end without a word about it.
    if (error instanceof Failure && error.code === 'lock') throw error
    // The attempt that follows meets the same failure and tells it; until then nothing is known.
    log.debug(`database "${name}": ${connector.failure(error, name, 'looking').message}`)
    return undefined
  }
}

/**
 * Whether a trial means anything here: with the endpoint set to nowhere inside a transaction the query must fail, and in
 * another way than it does without; else what answers is what is committed.
 */
async function lookOnce(options: ProveOptions, task: Task): Promise<Visibility> {
  const [call] = task.calls
  // Nothing would be tried, neither a setting nor the absence of a key.
  if (call === undefined || options.inputs.mode === 'verify' || (!differing(task) && (!task.keyStored || !task.database.maySet)))
    return 'visible'
  const { name } = task.database
  const control = async (): Promise<CallOutcome | undefined> =>
    first(
      (
        await freshly(options, name, (connection) =>
          trial(connection, {
            database: task.database,
            settings: inOrder(task.settings, [task.family.endpoint, nowhere]),
            hide: undefined,
            calls: [call],
            commit: () => false,
            log: options.log,
          }),
        )
      ).outcomes,
    )
  let answered: CallOutcome | undefined
  let before: CallOutcome | undefined
  for (let round = 1; round <= controls; round++) {
    answered = await control()
    if (isAnswer(answered)) {
      options.journal.finding(notSeen(task))
      return 'hidden'
    }
    if (namesNowhere(answered)) return 'visible'
    // What it said is told when it stays unclear.
    if (answered !== undefined) task.lastOutcomes = new Map([[call.name, answered]])
    before = first(await askFreshly(options, task, [call]))
    if (!isAnswer(before)) {
      if (round > 1) return 'unclear'
      break
    }
  }
  // No words are needed: what is committed answered each time, and nothing did with the endpoint that leads nowhere.
  if (isAnswer(before)) return 'visible'
  // Nothing works yet. A service that is throttling or refusing answers for the committed endpoint just as well: that shows nothing.
  if (outlookOf(answered) !== 'no-token' && (outlookOf(answered) !== 'unknown' || isServiceText(answered))) return 'unclear'
  return outlookOf(answered) === 'no-token' && outlookOf(before) !== 'no-token'
    ? 'visible'
    : differ(before, answered) && !isServiceText(answered)
      ? 'visible'
      : 'unclear'
}

function notSeen({ family }: Task): Finding {
  return {
    severity: 'notice',
    code: 'uncommitted-settings-not-seen',
    title: 'The extension does not see uncommitted settings',
    detail: `${family.name}: a query succeeded although the endpoint led nowhere in its transaction. What is set can be verified only once it is committed: it is checked at once then, and put back when it fails.`,
    fix: '',
  }
}

export function unclearTrial({ family, database, lastOutcomes }: Task): Failure {
  const said = first(lastOutcomes)
  return new Failure({
    reason: 'verification',
    code: 'trial-unclear',
    title: 'It cannot be told whether the extension sees uncommitted settings',
    detail: `${family.name} in "${database.name}": a query whose endpoint leads nowhere was answered in a way that shows neither${said?.ok === false ? `: ${said.text}` : '.'}`,
    fix: 'Run again: a service that is throttling or failing just now looks like this.',
  })
}

const first = (outcomes: CallOutcomes): CallOutcome | undefined => [...outcomes.values()][0]

function outlookOf(outcome: CallOutcome | undefined): ReturnType<typeof outlook> {
  return outcome === undefined || outcome.ok ? 'unknown' : outlook({ origin: 'ai', code: outcome.code, text: outcome.text })
}

/** A service answered: with a result, or with a refusal that shows access. */
const isAnswer = (outcome: CallOutcome | undefined): boolean => outcome?.ok === true || outlookOf(outcome) === 'proves-access'

const namesNowhere = (outcome: CallOutcome | undefined): boolean =>
  outcome?.ok === false && outcome.text.includes(new URL(nowhere).host)

const differ = (a: CallOutcome | undefined, b: CallOutcome | undefined): boolean =>
  a?.ok === false && b?.ok === false && a.text !== b.text

/** Looks like what a service says: it carries an HTTP status. */
const isServiceText = (outcome: CallOutcome | undefined): boolean => outcome?.ok === false && /\b[45]\d\d\b/.test(outcome.text)

/** The settings with one of them replaced or added, in the fixed order of their names. */
function inOrder(settings: readonly Setting[], other: Setting): Setting[] {
  return [...settings.filter(([key]) => key !== other[0]), other].sort(([a], [b]) => (a < b ? -1 : 1))
}
