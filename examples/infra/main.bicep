// The Azure side of the example: flexible servers with Entra sign-in only, an Azure OpenAI and a Language account without
// keys, and all of what azure_ai needs that Bicep can do: the servers' identities, their roles, the allow-list.
// Nothing in it is a secret. Deploy it with ../setup.sh.

type flexibleServer = {
  @description('Unique in all of Azure.')
  name: string
  databases: string[]
}

type entraAdministrator = {
  @description('Object id of the user or of the service principal, not of the app registration.')
  objectId: string
  @description('Display name of the app or principal name of the user: the role it connects as.')
  name: string
  type: 'ServicePrincipal' | 'User'
}

@description('The flexible servers, each with its databases.')
param servers flexibleServer[]

@description('Entra administrators of every server: the app that applies, and the user who sets this up. The app of checks and pull requests is none.')
param administrators entraAdministrator[]

@description('Name and custom subdomain of the Azure OpenAI account: unique in all of Azure.')
param openaiName string

@description('Name and custom subdomain of the Language account: unique in all of Azure.')
param languageName string

param location string = resourceGroup().location

@description('Allows every address within Azure, including GitHub\'s hosted runners. A connection still needs a token of a role of the server.')
param allowAzure bool = true

// Roles are named by id: their display names change.
var cognitiveServicesOpenAIUser = '5e0bd9bd-7b93-4f28-af87-19fc36ad61bd'
var cognitiveServicesUser = 'a97b65f3-24c7-4388-baec-2e87135dc908'

resource openai 'Microsoft.CognitiveServices/accounts@2025-09-01' = {
  name: openaiName
  location: location
  kind: 'OpenAI'
  sku: { name: 'S0' }
  properties: {
    // Entra tokens work with a custom subdomain only.
    customSubDomainName: openaiName
    disableLocalAuth: true
    publicNetworkAccess: 'Enabled'
  }
}

resource embeddings 'Microsoft.CognitiveServices/accounts/deployments@2025-09-01' = {
  parent: openai
  name: 'text-embedding-3-small'
  sku: { name: 'GlobalStandard', capacity: 10 }
  properties: {
    model: { format: 'OpenAI', name: 'text-embedding-3-small', version: '1' }
  }
}

resource language 'Microsoft.CognitiveServices/accounts@2025-09-01' = {
  name: languageName
  location: location
  kind: 'TextAnalytics'
  sku: { name: 'S' }
  properties: {
    customSubDomainName: languageName
    disableLocalAuth: true
    publicNetworkAccess: 'Enabled'
  }
}

module server 'server.bicep' = [
  for each in servers: {
    name: 'server-${each.name}'
    params: {
      name: each.name
      databases: each.databases
      administrators: administrators
      allowAzure: allowAzure
      location: location
    }
  }
]

module openaiRole 'role.bicep' = [
  for (each, index) in servers: {
    name: 'openai-role-${each.name}'
    params: {
      accountName: openai.name
      principalId: server[index].outputs.principalId
      roleId: cognitiveServicesOpenAIUser
    }
  }
]

module languageRole 'role.bicep' = [
  for (each, index) in servers: {
    name: 'language-role-${each.name}'
    params: {
      accountName: language.name
      principalId: server[index].outputs.principalId
      roleId: cognitiveServicesUser
    }
  }
]

output serverIds string[] = [for (each, index) in servers: server[index].outputs.id]
output openaiId string = openai.id
output languageId string = language.id
