// One flexible server. A server takes one operation at a time, so its parts are made one after the other.

param name string
param databases string[]
param administrators { objectId: string, name: string, type: string }[]
param location string
param allowAzure bool

resource server 'Microsoft.DBforPostgreSQL/flexibleServers@2025-08-01' = {
  name: name
  location: location
  sku: { name: 'Standard_B1ms', tier: 'Burstable' }
  // Stated here, so that no later deployment takes it away.
  identity: { type: 'SystemAssigned' }
  properties: {
    createMode: 'Default'
    version: '17'
    storage: { storageSizeGB: 32 }
    authConfig: { activeDirectoryAuth: 'Enabled', passwordAuth: 'Disabled', tenantId: tenant().tenantId }
    network: { publicNetworkAccess: 'Enabled' }
  }
}

@batchSize(1)
resource administrator 'Microsoft.DBforPostgreSQL/flexibleServers/administrators@2025-08-01' = [
  for each in administrators: {
    parent: server
    name: each.objectId
    properties: {
      principalName: each.name
      principalType: each.type
      tenantId: tenant().tenantId
    }
  }
]

// 0.0.0.0 to 0.0.0.0 is Azure's way to say: whatever comes from within Azure.
resource firewall 'Microsoft.DBforPostgreSQL/flexibleServers/firewallRules@2025-08-01' = if (allowAzure) {
  parent: server
  name: 'within-azure'
  dependsOn: [administrator]
  properties: {
    startIpAddress: '0.0.0.0'
    endIpAddress: '0.0.0.0'
  }
}

resource extensions 'Microsoft.DBforPostgreSQL/flexibleServers/configurations@2025-08-01' = {
  parent: server
  name: 'azure.extensions'
  dependsOn: [administrator, firewall]
  properties: {
    // The whole list: what is not named here is taken off.
    value: 'vector,azure_ai'
    source: 'user-override'
  }
}

@batchSize(1)
resource database 'Microsoft.DBforPostgreSQL/flexibleServers/databases@2025-08-01' = [
  for each in databases: {
    parent: server
    name: each
    dependsOn: [extensions]
    properties: {
      charset: 'UTF8'
      collation: 'en_US.utf8'
    }
  }
]

output id string = server.id
output principalId string = server.identity.principalId
