/** The clouds: where their Resource Manager, Entra and PostgreSQL are. One table, or the cloud's own metadata. */
import { Failure } from '../errors.ts'
import type { Http } from './pipeline.ts'

export interface Cloud {
  readonly name: string
  /** Without trailing slash. */
  readonly resourceManager: string
  readonly resourceManagerScope: string
  /** Entra, without trailing slash. */
  readonly authority: string
  readonly postgresScope: string
  /** With leading dot. */
  readonly postgresSuffix: string
  /** Audience of GitHub's OIDC token. */
  readonly oidcAudience: string
  /** Whether Entra's own instance discovery knows the authority. */
  readonly wellKnown: boolean
}

const known: Readonly<Record<string, Cloud>> = {
  azurecloud: {
    name: 'AzureCloud',
    resourceManager: 'https://management.azure.com',
    resourceManagerScope: 'https://management.azure.com/.default',
    authority: 'https://login.microsoftonline.com',
    postgresScope: 'https://ossrdbms-aad.database.windows.net/.default',
    postgresSuffix: '.postgres.database.azure.com',
    oidcAudience: 'api://AzureADTokenExchange',
    wellKnown: true,
  },
  azureusgovernment: {
    name: 'AzureUSGovernment',
    resourceManager: 'https://management.usgovcloudapi.net',
    resourceManagerScope: 'https://management.usgovcloudapi.net/.default',
    authority: 'https://login.microsoftonline.us',
    postgresScope: 'https://ossrdbms-aad.database.usgovcloudapi.net/.default',
    postgresSuffix: '.postgres.database.usgovcloudapi.net',
    oidcAudience: 'api://AzureADTokenExchangeUSGov',
    wellKnown: true,
  },
  azurechinacloud: {
    name: 'AzureChinaCloud',
    resourceManager: 'https://management.chinacloudapi.cn',
    resourceManagerScope: 'https://management.chinacloudapi.cn/.default',
    authority: 'https://login.chinacloudapi.cn',
    postgresScope: 'https://ossrdbms-aad.database.chinacloudapi.cn/.default',
    postgresSuffix: '.postgres.database.chinacloudapi.cn',
    oidcAudience: 'api://AzureADTokenExchangeChina',
    wellKnown: true,
  },
}

/** A cloud of the table, by its lower-case name or the URL of its Resource Manager. */
export function knownCloud(name: string): Cloud | undefined {
  return known[name] ?? Object.values(known).find((cloud) => cloud.resourceManager === name.toLowerCase())
}

interface MetadataDocument {
  name?: string
  resourceManager?: string
  authentication?: { loginEndpoint?: string; audiences?: string[] }
  suffixes?: { postgresqlServerEndpoint?: string }
  [key: string]: unknown
}

/**
 * Asks a Resource Manager to describe its cloud (`/metadata/endpoints`, api-version 2022-09-01).
 * @param url https URL without trailing slash
 * @throws {Failure} `network` when it does not answer, `azure` when what it answers cannot be trusted or used
 */
export async function discoverCloud(url: string, http: Http, signal: AbortSignal): Promise<Cloud> {
  const answer = await http.get(
    `${url}/metadata/endpoints?api-version=2022-09-01`,
    'asking the Resource Manager about its cloud',
    signal,
  )
  const documents = (Array.isArray(answer) ? answer : [answer]).filter(
    (each): each is MetadataDocument => typeof each === 'object' && each !== null,
  )
  const own = (document: MetadataDocument): boolean =>
    document.resourceManager !== undefined && hostOf(document.resourceManager) === hostOf(url)
  const document = documents.find(own) ?? documents[0]
  // Older documents spell it ossrdbmsResourceId.
  const postgres = Object.entries(document ?? {}).find(([key]) => key.toLowerCase() === 'ossrdbmsresourceid')?.[1]
  const authority = document?.authentication?.loginEndpoint
  const audience = document?.authentication?.audiences?.[0]
  if (typeof authority !== 'string' || typeof audience !== 'string' || typeof postgres !== 'string') {
    throw unusable(url, 'the document lacks authentication.loginEndpoint, authentication.audiences or ossrDbmsResourceId')
  }
  const resourceManager = document?.resourceManager ?? url
  for (const each of [authority, resourceManager]) {
    if (!URL.canParse(each) || new URL(each).protocol !== 'https:')
      throw unusable(url, `it points to ${each}, which is not https`)
  }
  const suffix = document?.suffixes?.postgresqlServerEndpoint ?? '.postgres.database.azure.com'
  return {
    name: document?.name ?? hostOf(url),
    resourceManager: trimmed(resourceManager),
    resourceManagerScope: `${trimmed(audience)}/.default`,
    authority: trimmed(authority),
    postgresScope: `${trimmed(postgres)}/.default`,
    postgresSuffix: suffix.startsWith('.') ? suffix : `.${suffix}`,
    oidcAudience: 'api://AzureADTokenExchange',
    wellKnown: false,
  }
}

const trimmed = (url: string): string => url.replace(/\/+$/, '')
const hostOf = (url: string): string => (URL.canParse(url) ? new URL(url).host : '')

function unusable(url: string, why: string): Failure {
  return new Failure({
    reason: 'azure',
    code: 'cloud-metadata',
    title: 'The Resource Manager does not describe its cloud in a usable way',
    detail: `${url}/metadata/endpoints: ${why}`,
    fix: `curl -s "${url}/metadata/endpoints?api-version=2022-09-01"   # and compare \`environment\` with the URL of your cloud's Resource Manager`,
  })
}
