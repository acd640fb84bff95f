// One role for one server's identity on one account. A module of its own, because the name of a role assignment has to be
// known when its deployment starts, and the principal is known only after the server's.

param accountName string
param principalId string
param roleId string

resource account 'Microsoft.CognitiveServices/accounts@2025-09-01' existing = {
  name: accountName
}

resource assignment 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: account
  // The name that the action gives: whichever of the two comes second finds the assignment of the first.
  name: guid(toLower(account.id), toLower(principalId), toLower(roleId))
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roleId)
    principalId: principalId
    principalType: 'ServicePrincipal'
    description: 'azure_ai of a PostgreSQL flexible server (set by infra/role.bicep)'
  }
}
