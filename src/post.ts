/**
 * The post step: removes the temporary firewall rule that the main step left open. It never fails the job: an error becomes a
 * warning with a command.
 */
import { setDefaultAutoSelectFamilyAttemptTimeout } from 'node:net'
import * as core from '@actions/core'
import { addressTimeoutMs } from './core/time-limit.ts'
import { ambientSecrets, inActions, removeUnsafeVariables, signInContext, unverifiedTls } from './environment.ts'
import { appendSummary, createLog, endProcess, warn } from './github/runner.ts'
import { describe } from './lib/bounded.ts'
import { deleteCommand, messagesOf, nowhere } from './stages/firewall-rules.ts'
import { type PostState, parseState, postState } from './stages/post-state.ts'

/** Longest time that the post step may take in all, in milliseconds. */
const limitMs = 8 * 60_000
const leftBehind = 'A firewall rule was left behind'

export async function post(): Promise<void> {
  // A runner that is gone reads no more: each warning about that would fail in turn, and the rule has to be removed all the same.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined)
  for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
    process.on(event, (error: unknown) => warn(describe(error), 'An unexpected error in the post step'))
  }
  setDefaultAutoSelectFamilyAttemptTimeout(addressTimeoutMs)
  try {
    if (removeUnsafeVariables(process.env)) warn(`${unverifiedTls.detail}\nFix: ${unverifiedTls.fix}`, unverifiedTls.title)
    const state = parseState(core.getState(postState), process.env['GITHUB_RUN_ID'] ?? '')
    if (state !== undefined) await close(state)
  } catch (error) {
    warn(
      `The post step did nothing: ${describe(error)}.\nFix: delete rules of the server's firewall that begin with gha-aipg- and belong to no run.`,
      leftBehind,
    )
  }
  process.exitCode = 0
  await endProcess()
}

async function close(state: PostState): Promise<void> {
  const { env } = process
  const { target, rule } = state
  const log = createLog({ masks: inActions(env) })
  if (target.oidc === undefined) for (const secret of ambientSecrets(env)) log.secret(secret)
  try {
    const [{ removeRule }, { code }] = await Promise.all([import('./stages/remove-rule.ts'), import('./report/markdown.ts')])
    const removal = await removeRule(state, signInContext(env, log, AbortSignal.timeout(limitMs)))
    const now = new Date().toISOString()
    if (removal.how === 'overwritten') {
      warn(
        `The temporary firewall rule ${rule} could not be removed: ${messagesOf(removal.why)}\n` +
          `It was overwritten with ${nowhere}, an address that leads nowhere: ${target.server.name} is closed to this runner again.\n` +
          `Fix: ${deleteCommand(target.server, rule)}; first remove the lock or deny assignment that forbids it`,
        leftBehind,
      )
    } else log.info(`Removed the temporary firewall rule ${rule}`)
    const how = removal.how === 'overwritten' ? `overwritten with ${code(nowhere)}` : 'removed'
    await appendSummary(
      `🔒 ${code(target.server.name)} is closed to this runner again: rule ${code(rule)} ${how} at ${now}.\n`,
      env['GITHUB_STEP_SUMMARY'],
    ).catch((error: unknown) => log.info(`The summary could not be written: ${describe(error)}`))
  } catch (error) {
    warn(
      `The temporary firewall rule ${rule} could not be removed: ${messagesOf(error)}\nFix: ${deleteCommand(target.server, rule)}`,
      leftBehind,
    )
  }
}
