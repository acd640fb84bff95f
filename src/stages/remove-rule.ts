/** Removes the temporary firewall rule of the main step, however that step ended. */
import type { ResourceManager } from '../azure/resource-manager.ts'
import { Failures, failuresOf } from '../errors/failure.ts'
import { pause, retrying, type Schedule } from '../lib/retry.ts'
import { duration } from '../lib/timeout.ts'
import { isRefused, messagesOf, overwriteRule } from './firewall-rules.ts'
import type { PostState } from './post-state.ts'
import { enterAzure, type SignInContext } from './sign-in.ts'

/** When a rule is looked for again whose creation was cut off, in milliseconds after the look before. */
const looksMs = [2_000, 4_000, 8_000]

/** No step comes after this one: whatever failed, except for a refusal of Azure, is tried again from the login on. */
export const postRetry: Schedule = { baseMs: 2_000, capMs: 8_000, budgetMs: 10_000 }

/** The result. `why` is the error that kept it from being deleted. */
type Removal = { readonly how: 'deleted' } | { readonly how: 'overwritten'; readonly why: unknown }

/**
 * Deletes the rule; one that cannot be deleted is overwritten with an address that leads nowhere.
 * @throws {Failure | Failures} when neither is possible
 */
export async function removeRule({ target, rule, created }: PostState, context: SignInContext): Promise<Removal> {
  const { log, signal } = context
  const waits = created ? [] : looksMs
  let azure: ResourceManager | undefined
  try {
    await retrying(
      async () => {
        azure = (await enterAzure(target, context)).azure
        await deleteRule(rule, azure, waits, signal)
      },
      {
        signal,
        verdict: (error) => (isRefused(error) || isUntrusted(error) ? false : { schedule: postRetry }),
        onWait: (error, waitMs) => {
          const [failure] = failuresOf(error)
          log.info(`… the rule could not be removed: ${failure?.message}; again from the login on in ${duration(waitMs)}`)
        },
      },
    )
    return { how: 'deleted' }
  } catch (why) {
    if (signal.aborted || azure === undefined) throw why
    log.info(`The firewall rule ${rule} cannot be deleted, so it is overwritten: ${messagesOf(why)}`)
    try {
      return (await overwriteWhenThere(rule, azure, waits, signal)) ? { how: 'overwritten', why } : { how: 'deleted' }
    } catch (second) {
      throw new Failures([...failuresOf(why), ...failuresOf(second)])
    }
  }
}

/** A certificate that is not trusted stays so. */
function isUntrusted(error: unknown): boolean {
  return failuresOf(error).some(({ code }) => code === 'azure-not-trusted')
}

/** @param waits before each further look for a rule that is not there (yet), in milliseconds: its creation may be under way */
async function deleteRule(rule: string, azure: ResourceManager, waits: readonly number[], signal: AbortSignal): Promise<void> {
  for (const wait of waits) {
    if (await azure.deleteFirewallRule(rule)) return
    await pause(wait, signal)
  }
  await azure.deleteFirewallRule(rule)
}

/** False when there is no rule. */
async function overwriteWhenThere(
  rule: string,
  azure: ResourceManager,
  waits: readonly number[],
  signal: AbortSignal,
): Promise<boolean> {
  for (const wait of waits) {
    if ((await overwriteRule(rule, azure, signal)) === 'overwritten') return true
    await pause(wait, signal)
  }
  return (await overwriteRule(rule, azure, signal)) === 'overwritten'
}
