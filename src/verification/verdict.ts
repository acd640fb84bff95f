/** What the answers of a family's test queries mean: passed, or a failure and whether waiting can help. */

import { titleOf } from '../core/inputs.ts'
import type { ServiceName } from '../core/services.ts'
import { explain, outlook } from '../errors/explain.ts'
import { Failure } from '../errors/failure.ts'
import type { Circumstances } from '../errors/message.ts'
import type { Call, CallOutcomes } from '../postgres/trial.ts'
import type { ProveOptions, Task } from './jobs.ts'

/** Whether all queries of a family are answered, or the first failure and whether waiting can help. */
export function judge(
  options: ProveOptions,
  task: Task,
  outcomes: CallOutcomes,
): 'passed' | { readonly failure: Failure; readonly final: boolean } {
  let worst: { failure: Failure; final: boolean } | undefined
  task.lastOutcomes = outcomes
  for (const call of task.calls) {
    const outcome = outcomes.get(call.name)
    if (outcome?.inReadWrite === true) notReadOnly(options, task, call)
    if (outcome?.ok === true) continue
    const message = { origin: 'ai', code: outcome?.code ?? '', text: outcome?.text ?? 'the query was not asked' } as const
    const prospect = outlook(message)
    if (prospect === 'proves-access') continue
    const failure = refusal(options, task, call, message, outcome?.cause)
    const final = prospect === 'final' && !isNewDeployment(options, failure, call)
    if (worst === undefined || (final && !worst.final)) worst = { failure, final }
  }
  return worst ?? 'passed'
}

/** A deployment that Resource Manager lists and the service does not know is minutes old: it is waited for. */
function isNewDeployment({ resources }: ProveOptions, failure: Failure, call: Call): boolean {
  const listed = resources.get(call.name as ServiceName)?.deployments ?? []
  return failure.code === 'deployment-not-found' && listed.some(({ name }) => name === deploymentOf(call))
}

const deploymentOf = ({ sql }: Call): string | undefined => /deployment_name => '([^']*)'/.exec(sql)?.[1]

function refusal(
  options: ProveOptions,
  task: Task,
  call: Call,
  message: { origin: 'ai'; code: string; text: string },
  cause: unknown,
): Failure {
  const name = call.name as ServiceName
  const title = titleOf(name)
  const given = options.inputs.given.find((each) => each.service === name)
  const at: Circumstances = {
    doing: `asking ${title} in "${task.database.name}"`,
    database: task.database.name,
    mayRestart: options.inputs.allowRestart,
    byKey: options.inputs.authType === 'subscription-key',
    resource: options.resources.get(name)?.id ?? given?.resource.id,
    server: options.inputs.server.name,
    resourceGroup: options.inputs.server.resourceGroup,
    deployment: deploymentOf(call),
  }
  // One service is given for another: the translation needs an endpoint of its own.
  if (name === 'translator' && oneEndpoint(options, message.text)) {
    return new Failure(
      {
        reason: 'verification',
        code: 'one-endpoint',
        title: 'Language and Translator cannot share one endpoint here',
        detail: `"${task.database.name}": azure_cognitive.endpoint is that of ${options.resources.get('cognitive')?.name ?? 'the Language account'}, and the translation fails for it: ${message.text}`,
        fix: 'Use one multi-service account (kind CognitiveServices or AIServices) as `cognitive` and `translator`, or set them up in two databases.',
      },
      cause,
    )
  }
  const failure = explain(message, at, cause)
  return new Failure({ ...factsOf(failure), detail: `${title} in "${task.database.name}": ${failure.detail}` }, cause)
}

/** The facts of a failure, for one that says more. */
export const factsOf = (failure: Failure) => ({
  reason: failure.reason,
  code: failure.code,
  title: failure.title,
  detail: failure.detail,
  fix: failure.fix,
})

/** A translation that fails for its endpoint although two accounts are given. */
function oneEndpoint(options: ProveOptions, text: string): boolean {
  const language = options.resources.get('cognitive')
  const translator = options.resources.get('translator')
  if (language === undefined || translator === undefined || language.id.toLowerCase() === translator.id.toLowerCase())
    return false
  return (
    /\b404\b|resource not found|does not map to a resource|not supported.{0,100}kind|api.{0,60}not.{0,40}(available|supported)|endpoint/i.test(
      text,
    ) && !/PermissionDenied|data action/i.test(text)
  )
}

function notReadOnly(options: ProveOptions, task: Task, call: Call): void {
  options.journal.finding({
    severity: 'notice',
    code: 'not-asked-read-only',
    title: 'A test function does not run in a read-only transaction',
    detail: `${titleOf(call.name as ServiceName)} in "${task.database.name}": it was asked again in a transaction that was rolled back.`,
    fix: '',
  })
}
