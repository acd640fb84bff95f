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
  const log = createLog({ masks: inActions(env) })
  return runAction({
    log,
    findings: removeUnsafeVariables(env) ? [unverifiedTls] : [],
    signIn: (signal) => signInContext(env, log, signal),
    getInput: (name) => inputOf(env, name),
    // Whatever sets these files is a runner: it reads outputs, and starts the post step.
    setOutput: env['GITHUB_OUTPUT'] ? setOutput : printedOutputs(log),
    saveState: env['GITHUB_STATE'] ? core.saveState : () => undefined,
    hasPostStep: Boolean(env['GITHUB_STATE']),
    ambientSecrets: ambientSecrets(env),
    runId: env['GITHUB_RUN_ID'] ?? '',
    reportFolder: join(env['RUNNER_TEMP'] || tmpdir(), 'azure-ai-postgres-identity'),
    summaryFile: env['GITHUB_STEP_SUMMARY'],
    place: (token) => placeOf(env, token),
  })
}
