/** Which server, in which cloud, and as whom: all that the post step needs as well. */

import type { ResourceId } from '../lib/resource-id.ts'
import { isAudienceOfKnownCloud, knownCloud } from './clouds.ts'
import { type InputName, inputNames } from './input-names.ts'
import {
  checkTexts,
  domain,
  guid,
  inputFailure,
  isHttpsUrl,
  lowerCase,
  normalUrl,
  type Problem,
  quoted,
  type Raw,
  readers,
} from './input-readers.ts'
import { isScoped, noServer } from './inventory-inputs.ts'

export interface Target {
  readonly server: ResourceId
  /** Lower-case name of a known cloud, or the https URL of a Resource Manager. */
  readonly environment: string
  /** Sign in with the workflow's OIDC token; undefined: the ambient login. */
  readonly oidc: { readonly tenantId: string; readonly clientId: string; readonly audience: string } | undefined
}

/** The known clouds, in lower case. */
const cloudNames = ['azurecloud', 'azureusgovernment', 'azurechinacloud'] as const

/** The inputs that a {@link Target} is read from. */
export const targetInputs = ['server', 'environment', 'tenant-id', 'client-id', 'audience'] as const

/**
 * Parses the inputs that name the server, its cloud and the login, by the same rules as {@link parseInputs}.
 * @throws {Failure} with reason `input`, naming every problem at once.
 */
export function parseTarget(given: Readonly<Record<(typeof targetInputs)[number], string>>): Target {
  const blank = Object.fromEntries(inputNames.map((name) => [name, ''])) as Record<InputName, string>
  const raw: Raw = { ...blank, ...given }
  const problems: string[] = []
  const problem: Problem = (input, expected) => void problems.push(`\`${input}\`: ${expected}`)
  checkTexts(raw, problems, problem)
  const { server, ...target } = targetOf(raw, problem)
  if (problems.length > 0 || server === undefined) throw inputFailure(problems)
  return { ...target, server }
}

/** The server is undefined when it is missing or wrong; where `scope` stands for it, it has no id. */
export function targetOf(raw: Raw, problem: Problem): Omit<Target, 'server'> & { readonly server: ResourceId | undefined } {
  const { matching, resourceOf } = readers(raw, problem)
  const isNeeded = !isScoped(raw)
  if (raw.server === '' && isNeeded) problem('server', 'is required: the resource id of the flexible server')
  const absent = isNeeded ? undefined : noServer
  const server = raw.server === '' ? absent : resourceOf('server', ['Microsoft.DBforPostgreSQL/flexibleServers'])

  const environment = isHttpsUrl(raw.environment) ? normalUrl(raw.environment) : lowerCase(raw.environment)
  if (!cloudNames.some((name) => name === environment) && !isHttpsUrl(raw.environment)) {
    problem(
      'environment',
      `${quoted(raw.environment)} is not known; expected \`AzureCloud\`, \`AzureUSGovernment\`, \`AzureChinaCloud\` or the https URL of a Resource Manager`,
    )
  }

  const tenantId = raw['tenant-id']
  if (tenantId !== '' && !guid.test(tenantId) && !domain.test(tenantId))
    problem('tenant-id', `${quoted(tenantId)} is not a tenant id (GUID) or a domain`)
  const clientId = matching('client-id', guid, 'an application (client) id (GUID)')
  if ((tenantId === '') !== (clientId === undefined)) {
    problem(
      tenantId === '' ? 'tenant-id' : 'client-id',
      '`tenant-id` and `client-id` belong together: give both, or neither for the ambient login',
    )
  }
  return {
    server,
    environment,
    oidc:
      tenantId === '' || clientId === undefined
        ? undefined
        : { tenantId, clientId, audience: audienceOf(raw.audience, environment, problem) },
  }
}

/**
 * Audience of the OIDC token. A cloud that describes itself needs one of its own: with a token for a known cloud, whoever runs
 * the host could sign in to Azure as this workflow.
 */
function audienceOf(audience: string, environment: string, problem: Problem): string {
  const cloud = knownCloud(environment)
  if (cloud?.oidcAudience !== undefined) return audience === '' ? cloud.oidcAudience : audience
  // What is neither a known cloud nor a URL is a problem of its own.
  if (!isHttpsUrl(environment)) return audience
  if (audience === '') {
    problem(
      'audience',
      "is required when `environment` is a URL: the audience that the app's federated credential in that cloud expects",
    )
  } else if (isAudienceOfKnownCloud(audience)) {
    problem(
      'audience',
      `${quoted(audience)} belongs to one of Azure's own clouds, and \`environment\` is another host; expected the audience of that cloud`,
    )
  }
  return audience
}
