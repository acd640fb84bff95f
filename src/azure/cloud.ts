/** A cloud that describes itself: how its Resource Manager says where Entra and PostgreSQL are. */

import { type Cloud, isOfKnownCloud, isSameOrigin } from '../core/clouds.ts'
import { Failure } from '../errors/failure.ts'
import { withoutEndSlashes } from '../lib/bounded.ts'
import type { Http } from './pipeline.ts'

interface MetadataDocument {
  name?: unknown
  resourceManager?: unknown
  authentication?: { loginEndpoint?: unknown; audiences?: unknown } | null
  suffixes?: { postgresqlServerEndpoint?: unknown } | null
  [key: string]: unknown
}

/**
 * Reads how a Resource Manager describes its cloud (`/metadata/endpoints`, api-version 2022-09-01). Whoever runs that host
 * decides where the login goes and which tokens it gets, so a description that points into a known cloud, or to another
 * Resource Manager, is refused.
 * @param url https URL without trailing slash
 * @throws {Failure} `network` when it does not answer, `azure` when what it answers cannot be trusted or used
 */
export async function discoverCloud(url: string, http: Http, signal: AbortSignal): Promise<Cloud> {
  const answer = await http.get(
    `${url}/metadata/endpoints?api-version=2022-09-01`,
    "reading the Resource Manager's description of its cloud",
    signal,
  )
  const documents = (Array.isArray(answer) ? answer : [answer]).filter(
    (each): each is MetadataDocument => typeof each === 'object' && each !== null,
  )
  const document = documents.find((each) => isSameOrigin(each.resourceManager, url)) ?? documents[0] ?? {}
  const resourceManager = plainUrl(url, 'resourceManager', document.resourceManager ?? url)
  if (!isSameOrigin(resourceManager.href, url)) {
    throw unusable(url, `it describes the Resource Manager of ${resourceManager.origin}, and tokens would be sent there`)
  }
  const authority = privateUrl(url, 'authentication.loginEndpoint', document.authentication?.loginEndpoint)
  const listed = document.authentication?.audiences
  const audiences = (Array.isArray(listed) ? listed : []).map((each) => privateUrl(url, 'authentication.audiences', each))
  if (audiences[0] === undefined) throw unusable(url, 'authentication.audiences is missing')
  // Older documents spell it ossrdbmsResourceId.
  const postgres = Object.entries(document).find(([key]) => key.toLowerCase() === 'ossrdbmsresourceid')?.[1]
  const suffix = document.suffixes?.postgresqlServerEndpoint ?? '.postgres.database.azure.com'
  if (typeof suffix !== 'string' || !/^[a-z0-9.-]{1,253}$/i.test(suffix)) {
    throw unusable(url, `suffixes.postgresqlServerEndpoint is ${shown(suffix)}, which is not a DNS suffix`)
  }
  return {
    name: typeof document.name === 'string' ? document.name.slice(0, 100) : new URL(url).host,
    resourceManager: addressOf(resourceManager),
    resourceManagerScope: `${audiences[0]}/.default`,
    authority,
    postgresScope: `${privateUrl(url, 'ossrDbmsResourceId', postgres)}/.default`,
    postgresSuffix: suffix.startsWith('.') ? suffix : `.${suffix}`,
    oidcAudience: undefined,
    wellKnown: false,
  }
}

/** An https URL of the description. */
function plainUrl(url: string, field: string, value: unknown): URL {
  if (value === undefined || value === null) throw unusable(url, `${field} is missing`)
  const parsed = typeof value === 'string' && URL.canParse(value) ? new URL(value) : undefined
  if (parsed?.protocol !== 'https:' || `${parsed.username}${parsed.password}${parsed.search}${parsed.hash}` !== '') {
    throw unusable(url, `${field} contains ${shown(value)}, which is not an https URL of scheme, host and path alone`)
  }
  return parsed
}

/** An authority or an audience of the description, which decides where a login or a token goes. */
function privateUrl(url: string, field: string, value: unknown): string {
  const parsed = plainUrl(url, field, value)
  if (isOfKnownCloud(parsed)) {
    throw unusable(
      url,
      `${field} contains ${shown(value)}, which belongs to one of Azure's own clouds; their logins and tokens are not sent to other hosts`,
    )
  }
  return addressOf(parsed)
}

/** As the parser wrote it, without trailing slash: what was checked is exactly what is used. */
function addressOf({ origin, pathname }: URL): string {
  return withoutEndSlashes(`${origin}${pathname}`)
}

/** A value of the description in a message: the first 100 characters of a text, else its type. */
function shown(value: unknown): string {
  return typeof value === 'string' ? JSON.stringify(value.slice(0, 100)) : `a value of type ${typeof value}`
}

function unusable(url: string, why: string): Failure {
  return new Failure({
    reason: 'azure',
    code: 'cloud-metadata',
    title: 'The Resource Manager does not describe its cloud in a usable way',
    detail: `${url}/metadata/endpoints: ${why}`,
    fix: `curl -s "${url}/metadata/endpoints?api-version=2022-09-01"   # compare \`environment\` with the URL of your cloud's Resource Manager; for Azure itself use AzureCloud, AzureUSGovernment or AzureChinaCloud`,
  })
}
