/** The entry of the main step: reads the environment of the job and hands it to the action. */
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as core from '@actions/core'
import { runAction } from './action.ts'
import {
  ambientSecrets,
  inActions,
  inputOf,
  placeOf,
  removeUnsafeVariables,
  signInContext,
  unverifiedTls,
} from './environment.ts'
import { createLog, printedOutputs, setOutput } from './github/runner.ts'

export function main(): Promise<void> {
  const { env } = process
  const isJob = inActions(env)
  const log = createLog({ masks: isJob })
  return runAction({
    log,
    findings: removeUnsafeVariables(env) ? [unverifiedTls] : [],
    signIn: (signal) => signInContext(env, log, signal),
    getInput: (name) => inputOf(env, name),
    setOutput: isJob ? setOutput : printedOutputs(log),
    saveState: isJob ? core.saveState : () => undefined,
    hasPostStep: isJob,
    ambientSecrets: ambientSecrets(env),
    runId: env['GITHUB_RUN_ID'] ?? '',
    reportFolder: join(env['RUNNER_TEMP'] || tmpdir(), 'azure-ai-postgres-identity'),
    summaryFile: env['GITHUB_STEP_SUMMARY'],
    place: (token) => placeOf(env, token),
  })
}
