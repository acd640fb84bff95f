/** The clouds of Azure: where their Resource Manager, Entra and PostgreSQL are, and what belongs to them. Pure. */
import { withoutTrailing } from '../lib/bounded.ts'

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
  /** Audience of GitHub's OIDC token; undefined for a cloud that describes itself: only the input names it. */
  readonly oidcAudience: string | undefined
  /** Whether Entra's own instance discovery knows the authority. */
  readonly wellKnown: boolean
}

const knownClouds: Readonly<Record<string, Cloud>> = {
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

/** Everything below these domains belongs to the known clouds: their sign-in hosts and the audiences of their tokens. */
const knownDomains = [
  'azure.com',
  'windows.net',
  'microsoft.com',
  'microsoftonline.com',
  'azure.net',
  'microsoftonline.us',
  'microsoftonline.cn',
  'usgovcloudapi.net',
  'azure.us',
  'chinacloudapi.cn',
  'azure.cn',
]

/** A cloud of the table, by its lower-case name or the normalized URL of its Resource Manager. */
export function knownCloud(name: string): Cloud | undefined {
  return Object.hasOwn(knownClouds, name)
    ? knownClouds[name]
    : Object.values(knownClouds).find((cloud) => cloud.resourceManager === name)
}

/** Whether the host of a URL is one of the known clouds' domains or lies below one. */
export function isOfKnownCloud({ hostname }: URL): boolean {
  // DNS takes a name with a trailing dot for the same name.
  const host = withoutTrailing(hostname.toLowerCase(), '.')
  return knownDomains.some((domain) => host === domain || host.endsWith(`.${domain}`))
}

/**
 * Whether an OIDC token with this audience could be used at a known cloud. The spelling does not matter (case, slashes,
 * percent-encoding, further text): it is not certain how Entra compares, and a private cloud has no reason for a similar name.
 */
export function isAudienceOfKnownCloud(audience: string): boolean {
  const decoded = audience.replaceAll(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
  const plain = decoded.normalize('NFKC').toLowerCase()
  return plain.includes('azureadtokenexchange') || (URL.canParse(plain) && isOfKnownCloud(new URL(plain)))
}

/** Whether two URLs have the same scheme, host and port; false when one is no URL. */
export function isSameOrigin(one: unknown, other: string): boolean {
  return typeof one === 'string' && URL.canParse(one) && URL.canParse(other) && new URL(one).origin === new URL(other).origin
}
