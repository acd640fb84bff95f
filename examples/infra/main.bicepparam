using 'main.bicep'

// Change every name: those of servers and accounts are unique in all of Azure.
param servers = [
  { name: 'pg-shop', databases: ['app', 'sales'] }
  { name: 'pg-support', databases: ['tickets'] }
]
param openaiName = 'contoso-shop-openai'
param languageName = 'contoso-shop-language'

// setup.sh makes the apps and gives them here.
param administrators = [
  { objectId: readEnvironmentVariable('WRITER_OBJECT_ID'), name: readEnvironmentVariable('WRITER_NAME') }
  { objectId: readEnvironmentVariable('READER_OBJECT_ID'), name: readEnvironmentVariable('READER_NAME') }
]
