/** Microsoft.MachineLearningServices: workspaces and online endpoints (api-version 2022-10-01), serverless endpoints (2024-10-01). */
import { failure } from './http.ts'
import { type Call, type Route, resourceGroupPath, resourceNotFound, sameId } from './provider.ts'
import type { OnlineEndpoint, ServerlessEndpoint, Workspace, World } from './world.ts'

const apiVersions = ['2022-10-01']
const workspaceType = 'Microsoft.MachineLearningServices/workspaces'
const workspacePath = `${resourceGroupPath}/providers/Microsoft\\.MachineLearningServices/workspaces/([^/]+)`

export const machineLearningRoutes: Route[] = [
  route('GET', '', 'workspaces', 'read', (call) => ({ status: 200, body: shownWorkspace(call.world, workspaceOf(call)) })),
  route('GET', '/onlineEndpoints', 'workspaces/onlineEndpoints', 'onlineEndpoints/read', (call) => ({
    status: 200,
    body: { value: workspaceOf(call).onlineEndpoints.map(shownEndpoint) },
  })),
  route('GET', '/onlineEndpoints/([^/]+)', 'workspaces/onlineEndpoints', 'onlineEndpoints/read', (call) => ({
    status: 200,
    body: shownEndpoint(endpointOf(call)),
  })),
  route('POST', '/onlineEndpoints/([^/]+)/listKeys', 'workspaces/onlineEndpoints', 'onlineEndpoints/listKeys/action', (call) => {
    const endpoint = endpointOf(call)
    if (endpoint.authMode !== 'Key') {
      throw failure(400, 'BadRequest', `Keys are not available: the endpoint's auth mode is '${endpoint.authMode}'.`)
    }
    return { status: 200, body: { ...endpoint.keys } }
  }),
  serverless('GET', '', 'read', (call) => ({ status: 200, body: shownServerless(serverlessOf(call)) })),
  serverless('POST', '/listKeys', 'listKeys/action', (call) => {
    const endpoint = serverlessOf(call)
    if (endpoint.authMode === 'AAD')
      throw failure(400, 'BadRequest', `Keys are not available: the endpoint's auth mode is '${endpoint.authMode}'.`)
    return { status: 200, body: { ...endpoint.keys } }
  }),
]

/** A route of serverless endpoints, which came with a later api-version. */
function serverless(method: string, rest: string, action: string, handle: Route['handle']): Route {
  const type = 'serverlessEndpoints'
  return {
    ...route(method, `/${type}/([^/]+)${rest}`, `workspaces/${type}`, `${type}/${action}`, handle),
    apiVersions: ['2024-10-01'],
    scope: ([subscription = '', group = '', name = '', endpoint = '']) =>
      `/subscriptions/${subscription}/resourceGroups/${group}/providers/${workspaceType}/${name}/${type}/${endpoint}`,
  }
}

function serverlessOf(call: Call): ServerlessEndpoint {
  const name = call.parameters[3] ?? ''
  const workspace = workspaceOf(call)
  const found = workspace.serverlessEndpoints?.find((endpoint) => sameId(endpoint.name, name))
  if (!found)
    throw failure(404, 'ResourceNotFound', `Serverless endpoint '${name}' was not found in workspace '${workspace.name}'.`)
  return found
}

function route(method: string, rest: string, type: string, action: string, handle: Route['handle']): Route {
  return {
    method,
    path: new RegExp(`^${workspacePath}${rest}$`, 'i'),
    apiVersions,
    type,
    action: `${workspaceType}/${action}`,
    scope: ([subscription = '', group = '', name = '', endpoint]) => {
      const id = `/subscriptions/${subscription}/resourceGroups/${group}/providers/${workspaceType}/${name}`
      return endpoint === undefined ? id : `${id}/onlineEndpoints/${endpoint}`
    },
    handle,
  }
}

function workspaceOf({ world, parameters: [subscription = '', group = '', name = ''] }: Call): Workspace {
  const id = `/subscriptions/${subscription}/resourceGroups/${group}/providers/${workspaceType}/${name}`
  const found = world.workspaces.find((workspace) => sameId(workspace.id, id))
  if (!found) throw resourceNotFound(workspaceType, name, group)
  return found
}

function endpointOf(call: Call): OnlineEndpoint {
  const name = call.parameters[3] ?? ''
  const workspace = workspaceOf(call)
  const found = workspace.onlineEndpoints.find((endpoint) => sameId(endpoint.name, name))
  if (!found) throw failure(404, 'ResourceNotFound', `Online endpoint '${name}' was not found in workspace '${workspace.name}'.`)
  return found
}

const systemData = {
  createdAt: '2025-11-03T08:31:54.1200000Z',
  createdBy: 'admin@contoso.example',
  createdByType: 'User',
  lastModifiedAt: '2026-02-17T13:05:48.9100000Z',
  lastModifiedBy: 'admin@contoso.example',
  lastModifiedByType: 'User',
}

export function shownWorkspace(world: World, workspace: Workspace): Record<string, unknown> {
  const inGroup = `/subscriptions/${world.subscriptionId}/resourceGroups/${world.resourceGroup}/providers`
  return {
    id: workspace.id,
    name: workspace.name,
    type: workspaceType,
    location: workspace.location,
    tags: {},
    sku: { name: 'Basic', tier: 'Basic' },
    systemData,
    properties: {
      friendlyName: workspace.name,
      storageAccount: `${inGroup}/Microsoft.Storage/storageAccounts/stcontosoml`,
      keyVault: `${inGroup}/Microsoft.KeyVault/vaults/kv-contoso-ml`,
      applicationInsights: `${inGroup}/Microsoft.Insights/components/appi-contoso-ml`,
      hbiWorkspace: false,
      discoveryUrl: `https://${workspace.location}.api.azureml.ms/discovery`,
      mlFlowTrackingUri: `azureml://${workspace.location}.api.azureml.ms/mlflow/v1.0${workspace.id}`,
      publicNetworkAccess: 'Enabled',
      provisioningState: 'Succeeded',
      privateLinkCount: 0,
      v1LegacyMode: false,
      tenantId: world.tenantId,
    },
  }
}

export function shownEndpoint(endpoint: OnlineEndpoint): Record<string, unknown> {
  return {
    id: endpoint.id,
    name: endpoint.name,
    type: `${workspaceType}/onlineEndpoints`,
    location: endpoint.location,
    tags: {},
    kind: 'Managed',
    systemData,
    properties: {
      authMode: endpoint.authMode,
      scoringUri: endpoint.scoringUri,
      swaggerUri: endpoint.scoringUri.replace(/\/score$/, '/swagger.json'),
      provisioningState: endpoint.provisioningState,
      publicNetworkAccess: 'Enabled',
      properties: {},
      traffic: endpoint.traffic,
    },
  }
}

export function shownServerless(endpoint: ServerlessEndpoint): Record<string, unknown> {
  return {
    id: endpoint.id,
    name: endpoint.name,
    type: `${workspaceType}/serverlessEndpoints`,
    location: endpoint.location,
    tags: {},
    sku: { name: 'Consumption' },
    systemData,
    properties: {
      authMode: endpoint.authMode,
      contentSafety: { contentSafetyStatus: 'Disabled' },
      endpointState: 'Online',
      inferenceEndpoint: { uri: endpoint.uri, headers: {} },
      modelSettings: { modelId: endpoint.modelId },
      provisioningState: endpoint.provisioningState,
    },
  }
}
