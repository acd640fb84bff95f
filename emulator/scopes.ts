/** Subscriptions, resource groups and management groups: the scopes for which resources are listed. */
import { failure } from './http.ts'
import { type Route, resourceGroupPath, sameId } from './provider.ts'
import type { ManagementGroup, World } from './world.ts'

export interface Subscription {
  id: string
  name: string
}

export function subscriptionsOf(world: World): Subscription[] {
  return [{ id: world.subscriptionId, name: 'Contoso' }, ...(world.subscriptions ?? [])]
}

export const managementGroupId = (name: string): string => `/providers/Microsoft.Management/managementGroups/${name}`

/** GUIDs of the subscriptions in a management group, however deep. */
export function subscriptionsIn(world: World, { name, subscriptions }: ManagementGroup): string[] {
  const children = (world.managementGroups ?? []).filter(({ parent }) => parent !== undefined && sameId(parent, name))
  return [...subscriptions, ...children.flatMap((child) => subscriptionsIn(world, child))]
}

export function managementGroupNamed(world: World, name: string): ManagementGroup | undefined {
  return world.managementGroups?.find((group) => sameId(group.name, name))
}

export const scopeRoutes: Route[] = [
  {
    method: 'GET',
    path: /^\/subscriptions\/([^/]+)$/i,
    apiVersions: ['2022-12-01'],
    type: 'subscriptions',
    action: 'Microsoft.Resources/subscriptions/read',
    handle({ world, parameters: [id = ''] }) {
      const found = subscriptionsOf(world).find((each) => sameId(each.id, id))
      if (found === undefined) throw failure(404, 'SubscriptionNotFound', `The subscription '${id}' could not be found.`)
      return {
        status: 200,
        body: {
          id: `/subscriptions/${found.id}`,
          subscriptionId: found.id,
          displayName: found.name,
          state: 'Enabled',
          tenantId: world.tenantId,
          authorizationSource: 'RoleBased',
        },
      }
    },
  },
  {
    method: 'GET',
    path: new RegExp(`^${resourceGroupPath}$`, 'i'),
    apiVersions: ['2021-04-01'],
    type: 'resourceGroups',
    action: 'Microsoft.Resources/subscriptions/resourceGroups/read',
    // That the group exists was seen before.
    handle: ({ parameters: [subscription = '', name = ''] }) => ({
      status: 200,
      body: {
        id: `/subscriptions/${subscription}/resourceGroups/${name}`,
        name,
        type: 'Microsoft.Resources/resourceGroups',
        location: 'swedencentral',
        properties: { provisioningState: 'Succeeded' },
      },
    }),
  },
  {
    method: 'GET',
    path: /^\/providers\/Microsoft\.Management\/managementGroups\/([^/]+)$/i,
    apiVersions: ['2020-05-01'],
    type: 'managementGroups',
    action: 'Microsoft.Management/managementGroups/read',
    handle({ world, parameters: [name = ''] }) {
      const found = managementGroupNamed(world, name)
      if (found === undefined) throw failure(404, 'NotFound', `Management group '${name}' was not found.`)
      return {
        status: 200,
        body: {
          id: managementGroupId(found.name),
          type: 'Microsoft.Management/managementGroups',
          name: found.name,
          properties: { tenantId: world.tenantId, displayName: found.displayName },
        },
      }
    },
  },
]
