/** The entry of the main step: reads the environment of the job and hands it to the action. */
import { join } from 'node:path'
import * as core from '@actions/core'
import { runAction } from './action.ts'
import { ambientSecrets, inActions, placeOf, removeUnsafeVariables, signInContext, unverifiedTls } from './environment.ts'
import { createLog } from './github/runner.ts'

export function main(): Promise<void> {
  const { env } = process
  const log = createLog({ masks: inActions(env) })
  return runAction({
    log,
    findings: removeUnsafeVariables(env) ? [unverifiedTls] : [],
    signIn: (signal) => signInContext(env, log, signal),
    getInput: (name) => core.getInput(name),
    saveState: core.saveState,
    ambientSecrets: ambientSecrets(env),
    reportFolder: join(env['RUNNER_TEMP'] || process.cwd(), 'azure-ai-postgres-identity'),
    summaryFile: env['GITHUB_STEP_SUMMARY'],
    place: (token) => placeOf(env, token),
  })
}
