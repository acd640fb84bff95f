/** What the responses to a family's test queries mean. Pure. */
import { advisedInputs, type Inputs } from '../core/inputs.ts'
import type { Proof } from '../core/journal.ts'
import type { ReadDatabase } from '../core/observed.ts'
import { memberOf, type Resource, type ServiceName, serviceNamed } from '../core/services.ts'
import { explain, knownOf, outlook } from '../errors/explain.ts'
import { Failure, type FailureFacts } from '../errors/failure.ts'
import { clearStoredKey } from '../errors/known/ai.ts'
import type { Circumstances } from '../errors/message.ts'
import { sameId } from '../lib/resource-id.ts'
import type { Call, CallOutcomes } from '../postgres/trial.ts'
import type { Job } from './jobs.ts'

export interface JudgeOptions {
  readonly inputs: Inputs
  readonly resources: ReadonlyMap<ServiceName, Resource>
}

/** All queries passed, or the failure that matters most and whether waiting cannot help. */
export type Verdict = 'passed' | { readonly failure: Failure; readonly final: boolean }

export function judge(options: JudgeOptions, job: Pick<Job, 'database' | 'calls'>, outcomes: CallOutcomes): Verdict {
  let worst: { failure: Failure; final: boolean } | undefined
  const { database } = job
  for (const call of job.calls) {
    const outcome = outcomes.get(call.name)
    if (outcome?.ok === true) continue
    const message = { origin: 'ai', code: outcome?.code ?? '', text: outcome?.text ?? 'the query did not run' } as const
    const prospect = outlook(message)
    if (prospect === 'proves-access') continue
    const failure = refusal(options, { call, database, message, cause: outcome?.cause })
    const final = (prospect === 'final' || prospect === 'retired') && !isNewDeployment(options, failure, call)
    if (worst === undefined || (final && !worst.final)) worst = { failure, final }
  }
  return worst ?? 'passed'
}

/** What a read-only query verifies: reading cannot hide a stored key, but a resource may refuse all keys. */
export function readOnlyProof({ inputs, resources }: JudgeOptions, { storedKeys, calls, database, family }: Job): Proof {
  if (inputs.authType === 'subscription-key') return 'key'
  const asIdentity = database.settings.get(family.authType) === 'managed-identity'
  // A verify does not compare the endpoint with the resource: what the resource refuses verifies nothing then.
  const refusesKeys = inputs.mode !== 'verify' && calls.every(({ service }) => resources.get(service)?.localAuthDisabled === true)
  return storedKeys.length === 0 || (asIdentity && refusesKeys) ? 'keyless' : 'key-present'
}

/** A deployment that Resource Manager lists and the service does not know yet is minutes old: it is waited for. */
function isNewDeployment({ resources }: JudgeOptions, failure: Failure, { service, deployment }: Call): boolean {
  const listed = resources.get(service)?.deployments ?? []
  return failure.code === 'deployment-not-found' && listed.some(({ name }) => name === deployment)
}

interface Refused {
  readonly call: Call
  readonly database: ReadDatabase
  readonly message: { readonly origin: 'ai'; readonly code: string; readonly text: string }
  readonly cause: unknown
}

function refusal(options: JudgeOptions, { call, database, message, cause }: Refused): Failure {
  const { inputs, resources } = options
  const { service, deployment, title } = call
  const named = inputs.services.find((each) => each.service === service)
  // One service answers for another: the translation needs an endpoint of its own.
  if (service === 'translator' && sharesEndpoint(options, message.text))
    return oneEndpoint(options, database.name, message.text, cause)
  const keySetting = memberOf(serviceNamed(service)).key
  const at: Circumstances = {
    doing: 'running a test query',
    database: database.name,
    isSet: advisedInputs(inputs),
    // A check queries once, so a longer wait would change nothing.
    verifyMinutes: inputs.mode === 'check' ? undefined : minutesOf(inputs),
    byKey: inputs.authType === 'subscription-key',
    keySetting,
    resource: resources.get(service)?.id ?? named?.resource.id,
    server: inputs.server.name,
    resourceGroup: inputs.server.resourceGroup,
    deployment,
  }
  const failure = explain(message, at, cause)
  if (knownOf(failure)?.blamesKey === true && at.byKey !== true && database.literalKeys.has(keySetting))
    return new Failure({ ...literalKey(database.name, keySetting, message.text), fix: clearStoredKey(at) }, cause)
  return new Failure({ ...failure, detail: `${title} in "${database.name}": ${failure.detail}` }, cause)
}

function literalKey(database: string, key: string, text: string): Omit<FailureFacts, 'fix'> {
  return {
    reason: 'verification',
    code: 'key-is-a-word',
    title: 'A stored key is not a key',
    detail: `${key} in "${database}" is the word for the managed identity, and the extension sends it as a key: ${text}`,
  }
}

const minutesOf = ({ verifyTimeoutMs }: Inputs): number => Math.round(verifyTimeoutMs / 600) / 100

/** A translation that fails for its endpoint although two accounts are named. */
function sharesEndpoint({ resources }: JudgeOptions, text: string): boolean {
  const language = resources.get('cognitive')
  const translator = resources.get('translator')
  if (language === undefined || translator === undefined || sameId(language.id, translator.id)) return false
  return (
    /\b404\b|resource not found|does not map to a resource|not supported.{0,100}kind|api.{0,60}not.{0,40}(available|supported)|endpoint/i.test(
      text,
    ) && !/PermissionDenied|data action/i.test(text)
  )
}

function oneEndpoint({ resources }: JudgeOptions, database: string, text: string, cause: unknown): Failure {
  const owner = resources.get('cognitive')?.name ?? 'the Language account'
  return new Failure(
    {
      reason: 'verification',
      code: 'one-endpoint',
      title: 'Language and Translator cannot share one endpoint here',
      detail: `"${database}": azure_cognitive.endpoint is that of ${owner}, and the translation fails for it: ${text}`,
      fix: 'Use one multi-service account (kind CognitiveServices or AIServices) as `cognitive` and `translator`, or set them up in two databases.',
    },
    cause,
  )
}
