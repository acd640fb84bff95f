using 'main.bicep'

// Change every name: those of servers and accounts are unique in all of Azure.
param servers = [
  { name: 'pg-shop', databases: ['app', 'sales'] }
  { name: 'pg-support', databases: ['tickets'] }
]
param openaiName = 'contoso-shop-openai'
param languageName = 'contoso-shop-language'

// setup.sh creates the app and sets these variables.
param administrators = [
  { objectId: readEnvironmentVariable('WRITER_OBJECT_ID'), name: readEnvironmentVariable('WRITER_NAME'), type: 'ServicePrincipal' }
  { objectId: readEnvironmentVariable('PERSON_OBJECT_ID'), name: readEnvironmentVariable('PERSON_NAME'), type: 'User' }
]
