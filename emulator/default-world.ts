/** The Azure that the emulator starts with: a shop's database with its AI resources, and nothing yet set up between them. */
import { randomBytes, randomUUID } from 'node:crypto'
import { oidcAudience } from './entra.ts'
import type { Account, Delays, RoleAssignment, RoleDefinition, Switches, World } from './world.ts'

/** GUIDs of Azure's built-in roles. */
export const builtInRoles = {
  owner: '8e3af657-a8ff-443c-a75c-2fe8c4bcb635',
  contributor: 'b24988ac-6180-42a0-ab88-20f7382dd24c',
  reader: 'acdd72a7-3385-48ef-bd42-f606fba81ae7',
  userAccessAdministrator: '18d7d88d-d35e-4fb5-a5c3-7773c20a72d9',
  rbacAdministrator: 'f58310d9-a9f6-439a-9e8d-f62e7b41a168',
  cognitiveServicesUser: 'a97b65f3-24c7-4388-baec-2e87135dc908',
  cognitiveServicesOpenAIUser: '5e0bd9bd-7b93-4f28-af87-19fc36ad61bd',
  dataScientist: 'f6c7c914-8db3-469d-8ca1-694a8f32e121',
} as const

/** Object ids that tests and demos name. */
export const deployerName = 'contoso deployer'
export const readerName = 'contoso reader'

export function defaultWorld(): World {
  const tenantId = '5f1e6c3a-9b57-4a0e-8f0d-2c7c4b1a9d63'
  const subscriptionId = '3c0b9a52-6d1f-4f7e-a1f4-8e5d70b6c219'
  const resourceGroup = 'rg-contoso-ai'
  const group = `/subscriptions/${subscriptionId}/resourceGroups/${resourceGroup}`
  const location = 'swedencentral'
  const repository = 'contoso/shop'
  const issuer = 'https://token.actions.githubusercontent.com'
  const subject = `repo:${repository}:ref:refs/heads/main`
  const deployer = 'd3b1f6a0-4c55-4b8e-9a34-0f7e2b61c8d1'
  const reader = '0a7c2f9e-58d3-4e16-b6b0-93d1e4a7f5c2'
  const hex = (bytes: number): string => randomBytes(bytes).toString('hex')

  const account = (name: string, kind: Account['kind'], changes: Partial<Account> = {}): Account => ({
    id: `${group}/providers/Microsoft.CognitiveServices/accounts/${name}`,
    name,
    kind,
    location,
    customSubDomainName: name,
    disableLocalAuth: false,
    publicNetworkAccess: 'Enabled',
    provisioningState: 'Succeeded',
    keys: { key1: hex(42), key2: hex(42) },
    deployments: [],
    ...changes,
  })

  const assignment = (principalId: string, role: string): RoleAssignment => {
    const name = randomUUID()
    return {
      id: `${group}/providers/Microsoft.Authorization/roleAssignments/${name}`,
      name,
      scope: group,
      principalId,
      principalType: 'ServicePrincipal',
      roleDefinitionId: `/subscriptions/${subscriptionId}/providers/Microsoft.Authorization/roleDefinitions/${role}`,
      createdAt: Date.parse('2025-11-03T08:00:00Z'),
      createdBy: deployer,
    }
  }

  const workspaceId = `${group}/providers/Microsoft.MachineLearningServices/workspaces/contoso-ml`

  return {
    tenantId,
    subscriptionId,
    resourceGroup,
    principals: [
      {
        objectId: deployer,
        displayName: deployerName,
        kind: 'ServicePrincipal',
        clientId: '7e4b2d18-3f60-4c9a-8d25-b1a6f0c3e974',
        clientSecret: `Emu8Q~${hex(17)}`,
        federatedCredentials: [{ issuer, subject, audience: oidcAudience }],
      },
      {
        objectId: reader,
        displayName: readerName,
        kind: 'ServicePrincipal',
        clientId: 'c92d7b40-1e8f-4a53-b7c6-5d0f3e9a2b86',
        clientSecret: `Emu8Q~${hex(17)}`,
        federatedCredentials: [{ issuer, subject, audience: oidcAudience }],
      },
    ],
    servers: [
      {
        id: `${group}/providers/Microsoft.DBforPostgreSQL/flexibleServers/pg-contoso`,
        name: 'pg-contoso',
        location,
        version: '18',
        state: 'Ready',
        fullyQualifiedDomainName: 'pg-contoso.postgres.database.azure.com',
        identity: {
          type: 'UserAssigned',
          userAssignedIdentities: {
            [`${group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-contoso-backup`]: {
              principalId: '6b2f4d90-7a1c-4e38-9c05-d8e3f1b7a264',
              clientId: 'e1a90c57-2b4d-4f86-8037-c5d92e6f4b18',
            },
          },
        },
        network: { publicNetworkAccess: 'Enabled' },
        authConfig: { activeDirectoryAuth: 'Enabled', passwordAuth: 'Enabled' },
        replicationRole: 'Primary',
        administrators: [{ objectId: deployer, principalName: deployerName, principalType: 'ServicePrincipal' }],
        configurations: {
          'azure.extensions': { value: 'pg_trgm,vector', source: 'user-override' },
          log_statement: { value: 'none', source: 'system-default' },
          'pgbouncer.enabled': { value: 'false', source: 'system-default' },
        },
        firewallRules: { 'allow-runner': { startIpAddress: '127.0.0.1', endIpAddress: '127.0.0.1' } },
        startedAt: Date.now(),
        restarts: 0,
      },
    ],
    accounts: [
      account('contoso-openai', 'OpenAI', {
        deployments: [
          {
            name: 'gpt-4o-mini',
            model: { name: 'gpt-4o-mini', version: '2024-07-18', format: 'OpenAI' },
            capabilities: { chatCompletion: 'true', jsonObjectResponse: 'true', maxContextToken: '128000' },
          },
          {
            name: 'text-embedding-3-small',
            model: { name: 'text-embedding-3-small', version: '1', format: 'OpenAI' },
            capabilities: { embeddings: 'true', embeddingsMaxInputs: '2048' },
          },
        ],
      }),
      account('contoso-language', 'TextAnalytics', { identityType: 'SystemAssigned, UserAssigned' }),
      account('contoso-translator', 'TextTranslation', { location: 'westeurope' }),
    ],
    workspaces: [
      {
        id: workspaceId,
        name: 'contoso-ml',
        location,
        onlineEndpoints: [
          {
            id: `${workspaceId}/onlineEndpoints/churn-scoring`,
            name: 'churn-scoring',
            location,
            authMode: 'AADToken',
            scoringUri: `https://churn-scoring.${location}.inference.ml.azure.com/score`,
            provisioningState: 'Succeeded',
            traffic: { blue: 100 },
            keys: { primaryKey: hex(16), secondaryKey: hex(16) },
          },
        ],
        serverlessEndpoints: [
          {
            id: `${workspaceId}/serverlessEndpoints/contoso-rerank`,
            name: 'contoso-rerank',
            location,
            authMode: 'KeyAndAAD',
            uri: `https://contoso-rerank.${location}.models.ai.azure.com`,
            provisioningState: 'Succeeded',
            modelId: 'azureml://registries/azureml-cohere/models/Cohere-rerank-v3.5',
            keys: { primaryKey: hex(16), secondaryKey: hex(16) },
          },
        ],
      },
    ],
    roleDefinitions: roleDefinitions(),
    roleAssignments: [assignment(deployer, builtInRoles.owner), assignment(reader, builtInRoles.reader)],
    locks: [],
    denyAssignments: [],
    delays: defaultDelays(),
    switches: defaultSwitches(),
    exchanges: [],
    github: { issuer, subject, repository },
  }
}

function defaultDelays(): Delays {
  return {
    latency: 0,
    operation: 20,
    identityPropagation: 0,
    principalReplication: 0,
    roleReplication: 0,
    rolePropagation: 0,
    allowListPropagation: 0,
    deploymentPropagation: 0,
    firewallPropagation: 0,
    unusedConnection: Number.POSITIVE_INFINITY,
    inference: 5,
  }
}

function defaultSwitches(): Switches {
  return {
    unset: 'null',
    unknownSetting: 'not-valid-key',
    lackedSettings: [],
    lackedFunctions: [],
    anyAuthType: false,
    keylessByIdentity: false,
    throwOnErrorDefault: true,
    wording: 'own',
    deadHost: 'dns',
    sentimentRetired: false,
    clearingRefused: false,
    keyWins: false,
    committedRowsOnly: false,
    sessionCache: false,
    restartNeeded: true,
    formerIdentityWorks: false,
    sqlIdentity: 'running',
    armIdentity: 'running',
    latePrincipalReads: 0,
    stoppedReads: 'answered',
    translateOwnEndpoint: false,
    oldExtension: false,
    refuseReadOnly: false,
    silentFirewall: false,
    unfamiliarTexts: false,
    namesByPath: false,
    schemaOpen: false,
  }
}

/** Built-in roles as Azure publishes them, without what concerns resources that the emulator does not have. */
function roleDefinitions(): RoleDefinition[] {
  const role = (name: string, roleName: string, changes: Partial<RoleDefinition>): RoleDefinition => ({
    name,
    roleName,
    actions: [],
    notActions: [],
    dataActions: [],
    notDataActions: [],
    ...changes,
  })
  const openai = 'Microsoft.CognitiveServices/accounts/OpenAI'
  const workspaces = 'Microsoft.MachineLearningServices/workspaces'
  const alerts = ['Microsoft.Resources/subscriptions/resourceGroups/read', 'Microsoft.Support/*']
  return [
    role(builtInRoles.owner, 'Owner', { actions: ['*'] }),
    role(builtInRoles.contributor, 'Contributor', {
      actions: ['*'],
      notActions: [
        'Microsoft.Authorization/*/Delete',
        'Microsoft.Authorization/*/Write',
        'Microsoft.Authorization/elevateAccess/Action',
      ],
    }),
    role(builtInRoles.reader, 'Reader', { actions: ['*/read'] }),
    role(builtInRoles.userAccessAdministrator, 'User Access Administrator', {
      actions: ['*/read', 'Microsoft.Authorization/*', 'Microsoft.Support/*'],
    }),
    role(builtInRoles.rbacAdministrator, 'Role Based Access Control Administrator', {
      actions: [
        'Microsoft.Authorization/roleAssignments/write',
        'Microsoft.Authorization/roleAssignments/delete',
        '*/read',
        'Microsoft.Support/*',
      ],
    }),
    role(builtInRoles.cognitiveServicesUser, 'Cognitive Services User', {
      actions: [
        'Microsoft.CognitiveServices/*/read',
        'Microsoft.CognitiveServices/accounts/listkeys/action',
        'Microsoft.Insights/alertRules/read',
        'Microsoft.Resources/deployments/read',
        ...alerts,
      ],
      dataActions: ['Microsoft.CognitiveServices/*'],
    }),
    role(builtInRoles.cognitiveServicesOpenAIUser, 'Cognitive Services OpenAI User', {
      actions: [
        'Microsoft.CognitiveServices/*/read',
        'Microsoft.Authorization/roleAssignments/read',
        'Microsoft.Authorization/roleDefinitions/read',
      ],
      dataActions: [
        `${openai}/*/read`,
        `${openai}/engines/completions/action`,
        `${openai}/engines/search/action`,
        `${openai}/engines/generate/action`,
        `${openai}/deployments/search/action`,
        `${openai}/deployments/completions/action`,
        `${openai}/deployments/chat/completions/action`,
        `${openai}/deployments/extensions/chat/completions/action`,
        `${openai}/deployments/embeddings/action`,
        `${openai}/images/generations/action`,
        `${openai}/assistants/write`,
        `${openai}/assistants/delete`,
      ],
    }),
    role(builtInRoles.dataScientist, 'AzureML Data Scientist', {
      actions: [`${workspaces}/*/read`, `${workspaces}/*/action`, `${workspaces}/*/delete`, `${workspaces}/*/write`],
      notActions: [
        `${workspaces}/delete`,
        `${workspaces}/write`,
        `${workspaces}/computes/*/write`,
        `${workspaces}/computes/*/delete`,
        `${workspaces}/computes/listKeys/action`,
        `${workspaces}/listKeys/action`,
        `${workspaces}/hubs/write`,
        `${workspaces}/hubs/delete`,
        `${workspaces}/featurestores/write`,
        `${workspaces}/featurestores/delete`,
      ],
    }),
  ]
}
