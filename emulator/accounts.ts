/** Microsoft.CognitiveServices/accounts, api-version 2025-09-01. */
import { randomUUID } from 'node:crypto'
import { failure } from './http.ts'
import { type Call, type Route, resourceGroupPath, resourceNotFound, sameId } from './provider.ts'
import type { Account, Deployment, World } from './world.ts'

const apiVersions = ['2025-09-01']
const accountType = 'Microsoft.CognitiveServices/accounts'
const accountPath = `${resourceGroupPath}/providers/Microsoft\\.CognitiveServices/accounts/([^/]+)`

export const accountRoutes: Route[] = [
  route('GET', '', 'accounts', 'read', (call) => ({ status: 200, body: shownAccount(call.world, accountOf(call)) })),
  route('GET', '/deployments', 'accounts/deployments', 'deployments/read', (call) => {
    const account = accountOf(call)
    return { status: 200, body: { value: account.deployments.map((deployment) => shownDeployment(account, deployment)) } }
  }),
  route('GET', '/deployments/([^/]+)', 'accounts/deployments', 'deployments/read', (call) => {
    const account = accountOf(call)
    const name = call.parameters[3] ?? ''
    const found = account.deployments.find((deployment) => sameId(deployment.name, name))
    if (!found) throw failure(404, 'ResourceNotFound', `The deployment '${name}' of account '${account.name}' was not found.`)
    return { status: 200, body: shownDeployment(account, found) }
  }),
  route('POST', '/listKeys', 'accounts', 'listKeys/action', (call) => {
    const account = accountOf(call)
    if (account.disableLocalAuth) throw failure(400, 'BadRequest', 'Failed to list key. disableLocalAuth is set to be true')
    return { status: 200, body: { ...account.keys } }
  }),
]

/** The endpoints of the account, by its kind: the main one and the map of all, with a trailing slash. */
export function endpointsOf(account: Account): { endpoint: string; endpoints: Record<string, string> } {
  const name = account.customSubDomainName
  const own =
    name === undefined
      ? `https://${account.location}.api.cognitive.microsoft.com/`
      : `https://${name}.cognitiveservices.azure.com/`
  const openai = name === undefined ? own : `https://${name}.openai.azure.com/`
  const openaiEndpoints = {
    'OpenAI Language Model Instance API': openai,
    'OpenAI Dall-E API': openai,
    'OpenAI Whisper API': openai,
  }
  const translation = { TextTranslation: 'https://api.cognitive.microsofttranslator.com/', DocumentTranslation: own }
  const byKind: Record<string, { endpoint: string; endpoints: Record<string, string> } | undefined> = {
    OpenAI: { endpoint: openai, endpoints: openaiEndpoints },
    AIServices: {
      endpoint: own,
      endpoints: {
        ...openaiEndpoints,
        ...(name === undefined ? {} : { 'AI Foundry API': `https://${name}.services.ai.azure.com/` }),
        Language: own,
        ...translation,
      },
    },
    CognitiveServices: { endpoint: own, endpoints: { Language: own, ...translation } },
    TextTranslation: { endpoint: translation.TextTranslation, endpoints: translation },
  }
  const found = byKind[account.kind] ?? { endpoint: own, endpoints: { Language: own } }
  return account.endpoint === undefined ? found : { ...found, endpoint: account.endpoint }
}

function route(method: string, rest: string, type: string, action: string, handle: Route['handle']): Route {
  return {
    method,
    path: new RegExp(`^${accountPath}${rest}$`, 'i'),
    apiVersions,
    type,
    action: `${accountType}/${action}`,
    scope: ([subscription = '', group = '', name = '', deployment]) => {
      const id = `/subscriptions/${subscription}/resourceGroups/${group}/providers/${accountType}/${name}`
      return deployment === undefined ? id : `${id}/deployments/${deployment}`
    },
    handle,
  }
}

function accountOf({ world, parameters: [subscription = '', group = '', name = ''] }: Call): Account {
  const id = `/subscriptions/${subscription}/resourceGroups/${group}/providers/${accountType}/${name}`
  const found = world.accounts.find((account) => sameId(account.id, id))
  if (!found) throw resourceNotFound(accountType, name, group)
  return found
}

const systemData = {
  createdBy: 'admin@contoso.example',
  createdByType: 'User',
  createdAt: '2025-11-03T08:20:11.2030000Z',
  lastModifiedBy: 'admin@contoso.example',
  lastModifiedByType: 'User',
  lastModifiedAt: '2026-02-17T13:05:48.9100000Z',
}

function systemDataAt(time: number): typeof systemData {
  const at = new Date(time).toISOString()
  return { ...systemData, createdAt: at, lastModifiedAt: at }
}

/** Principal ids of accounts' own identities, which nothing here uses; created once for each account. */
const principalIds = new WeakMap<Account, string>()

export function shownAccount(world: World, account: Account): Record<string, unknown> {
  const { endpoint, endpoints } = endpointsOf(account)
  const principalId = principalIds.get(account) ?? randomUUID()
  principalIds.set(account, principalId)
  const { identityType } = account
  return {
    id: account.id,
    name: account.name,
    type: accountType,
    kind: account.kind,
    location: account.location,
    etag: '"0d004f2c-0000-4d00-0000-67a1b2c30000"',
    tags: {},
    sku: { name: account.kind === 'TextTranslation' ? 'S1' : account.kind === 'TextAnalytics' ? 'S' : 'S0' },
    ...(identityType === undefined
      ? {}
      : {
          identity: {
            type: identityType,
            ...(identityType.startsWith('SystemAssigned') ? { principalId, tenantId: world.tenantId } : {}),
            ...(identityType.includes('UserAssigned')
              ? {
                  userAssignedIdentities: {
                    [`/subscriptions/${world.subscriptionId}/resourceGroups/${world.resourceGroup}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-contoso-ai`]:
                      { principalId, clientId: principalId },
                  },
                }
              : {}),
          },
        }),
    systemData,
    properties: {
      endpoint,
      endpoints,
      provisioningState: account.provisioningState,
      internalId: 'f1d2c3b4a5968778695a4b3c2d1e0f00',
      ...(account.customSubDomainName === undefined ? {} : { customSubDomainName: account.customSubDomainName }),
      networkAcls: { defaultAction: account.networkAcls?.defaultAction ?? 'Allow', virtualNetworkRules: [], ipRules: [] },
      privateEndpointConnections: [],
      publicNetworkAccess: account.publicNetworkAccess,
      disableLocalAuth: account.disableLocalAuth,
      isMigrated: false,
      dateCreated: '2025-11-03T08:20:11.2030000Z',
    },
  }
}

function shownDeployment(account: Account, deployment: Deployment): Record<string, unknown> {
  return {
    id: `${account.id}/deployments/${deployment.name}`,
    name: deployment.name,
    type: `${accountType}/deployments`,
    etag: '"5c1f8f8e-0f5b-4c0e-9a5c-2a9f8f3b7d10"',
    sku: { name: 'Standard', capacity: 10 },
    systemData: deployment.createdAt === undefined ? systemData : systemDataAt(deployment.createdAt),
    properties: {
      model: { ...deployment.model },
      versionUpgradeOption: 'OnceNewDefaultVersionAvailable',
      currentCapacity: 10,
      ...(deployment.capabilities === undefined ? {} : { capabilities: deployment.capabilities }),
      raiPolicyName: 'Microsoft.DefaultV2',
      provisioningState: 'Succeeded',
      rateLimits: [
        { key: 'request', renewalPeriod: 10, count: 10 },
        { key: 'token', renewalPeriod: 60, count: 10000 },
      ],
    },
  }
}
