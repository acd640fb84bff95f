/** The post step: removes the temporary firewall rule of the main step, whatever became of that. */
import { closeDoor } from './firewall.ts'
import type { Inputs } from './inputs.ts'
import { enter, type Outside } from './session.ts'
import { code } from './summary.ts'

/** When a rule is looked for again whose creation was cut off, in milliseconds after the look before. */
const looksMs = [2_000, 4_000, 8_000]

/**
 * @param wasMade whether the main step saw the rule made
 * @returns a line for the summary: when the rule was removed
 */
export async function takeBack(inputs: Inputs, rule: string, wasMade: boolean, outside: Outside): Promise<string> {
  const { azure } = await enter(inputs, outside)
  await closeDoor(rule, azure, wasMade ? [] : looksMs, outside.signal)
  outside.log.info(`Removed the temporary firewall rule ${rule}`)
  return `🔒 ${code(inputs.server.name)} is closed to this runner again: rule ${code(rule)} removed at ${new Date().toISOString()}.\n`
}
