/** `inventory`: changes nothing and runs no test query; reports where keys are stored, and what is left to do. */
import { inventoryFindings } from '../core/inventory-findings.ts'
import { resultOf } from '../core/inventory-result.ts'
import { inspectFleet, listFleet } from '../stages/inspect-fleet.ts'
import type { Run } from '../stages/run.ts'
import { signInForRun } from '../stages/sign-in.ts'

export async function inventory(run: Run): Promise<void> {
  const { inputs, journal, log } = run
  const session = await log.group('Sign in', () => signInForRun(inputs, run))
  const listed = await log.group('Find servers', () => listFleet(run, session))
  const found = await log.group('Inspect servers', () => inspectFleet(run, session, listed))

  const result = resultOf(found, inputs.databases !== '*')
  journal.inventoried(result)
  const { counts, matrix } = result
  log.info(`Databases: ${counts.databases}, servers: ${counts.servers}, keys stored: ${counts.storedKeys ?? 'unknown'}`)
  log.info(`Entries of the matrix: ${matrix.include.length}${matrix.left > 0 ? `, left out: ${matrix.left}` : ''}`)
  if (listed.servers.length === 0) journal.finding(emptyScope)
  for (const finding of inventoryFindings(found, matrix)) journal.finding(finding)
}

const emptyScope = {
  severity: 'warning',
  code: 'scope-empty',
  title: 'The scope has no flexible server',
  detail: 'Every part of `scope` could be read, and none contains a flexible server that the identity of this job may read.',
  fix: 'Give the identity Reader on the scope itself: a server that it may not read is not listed.',
} as const
