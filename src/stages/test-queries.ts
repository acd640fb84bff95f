/** Runs the test queries of a mode and logs the plan and their results. */
import type { Observed, ObservedDatabase } from '../core/observed.ts'
import { databaseNames } from '../core/plan.ts'
import { queriesOf, type Resource, type ServiceName, serviceNamed } from '../core/services.ts'
import { differs } from '../core/steps.ts'
import { onOneLine } from '../lib/unicode.ts'
import { skipQuery } from '../verification/record.ts'
import type { VerifyOptions } from '../verification/rounds.ts'
import type { DatabaseAccess } from './observe-databases.ts'
import type { Run } from './run.ts'

/** What the test queries run in and against. */
interface Queried extends DatabaseAccess {
  readonly databases: readonly ObservedDatabase[]
  readonly resources: ReadonlyMap<ServiceName, Resource>
  /** When the clock started, by `performance.now()`; now when absent. */
  readonly since?: number
  readonly onWaiting?: VerifyOptions['onWaiting']
}

/** @param how once, or with the patience of apply and verify */
export async function runTestQueries(
  { inputs, journal, log, signal }: Run,
  queried: Queried,
  how: (options: VerifyOptions) => Promise<void>,
): Promise<void> {
  await how({ since: performance.now(), onWaiting: undefined, ...queried, inputs, journal, log, signal })
  for (const query of journal.queries) {
    const result = query.status === 'passed' ? `${query.answer} (${query.durationMs} ms, ${query.proof})` : query.error
    log.result(onOneLine(`${query.status.padEnd(7)} ${query.service} (${query.name}) in "${query.database}": ${result}`))
  }
}

/** Without SQL there are no queries; the report says why. */
export function explainMissingQueries({ inputs, journal, scope }: Run, observed: Observed): void {
  const { server } = observed
  const ofServer = server.isReplica ? 'a read replica has the settings of its primary' : `the server is ${server.state}`
  const reason = scope.runsSql ? ofServer : 'part: azure runs no SQL'
  for (const database of databaseNames(inputs, observed))
    for (const { service } of inputs.services)
      for (const { name } of queriesOf(serviceNamed(service), inputs)) skipQuery(journal, database, { service, name }, reason)
}

export function logPlan({ journal, log }: Run): Promise<void> {
  return log.group('Plan', async () => {
    for (const step of journal.steps) {
      const change = differs(step) ? `${step.current} -> ${step.desired}` : step.current
      // A name or a value with a line break would add a line that looks like another step.
      log.info(onOneLine(`${step.status.padEnd(9)} ${step.id}: ${change}${step.detail === '' ? '' : ` (${step.detail})`}`))
    }
  })
}
