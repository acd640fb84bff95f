/** The post step: removes the temporary firewall rule of the main step, whatever became of that. */
import { failuresOf } from './errors.ts'
import { closeDoor } from './firewall.ts'
import type { Inputs } from './inputs.ts'
import { retrying, type Schedule } from './retry.ts'
import { enter, type Outside } from './session.ts'
import { code } from './summary.ts'
import { duration } from './waiting.ts'

/** When a rule is looked for again whose creation was cut off, in milliseconds after the look before. */
const looksMs = [2_000, 4_000, 8_000]

/** Nothing comes after this step: whatever failed, but for a right that is missing, is tried anew from the login on. */
export const anew: Schedule = { baseMs: 2_000, capMs: 8_000, budgetMs: 10_000 }

/**
 * @param wasMade whether the main step saw the rule made
 * @returns a line for the summary: when the rule was removed
 */
export async function takeBack(inputs: Inputs, rule: string, wasMade: boolean, outside: Outside): Promise<string> {
  const { log, signal } = outside
  const close = async (): Promise<void> => {
    const { azure } = await enter(inputs, outside)
    await closeDoor(rule, azure, wasMade ? [] : looksMs, signal)
  }
  await retrying(close, {
    signal,
    verdict: (error) => (failuresOf(error).some(({ reason }) => reason === 'permission') ? false : { schedule: anew }),
    onWait: (error, waitMs) => {
      const [failure] = failuresOf(error)
      log.info(`… the rule could not be removed: ${failure?.message}; again from the login on in ${duration(waitMs)}`)
    },
  })
  log.info(`Removed the temporary firewall rule ${rule}`)
  return `🔒 ${code(inputs.server.name)} is closed to this runner again: rule ${code(rule)} removed at ${new Date().toISOString()}.\n`
}
