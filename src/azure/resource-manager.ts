/** Resource Manager as this action uses it: the server and its firewall, role assignments and AI resources. */

import type { ResourceId } from '../lib/resource-id.ts'
import { type AiResources, createAiResources } from './ai-resources.ts'
import { type CallOptions, createCalls } from './calls.ts'
import { createFirewall, type Firewall } from './firewall.ts'
import type { ResourceGraph } from './resource-graph.ts'
import { createRoles, type Roles } from './roles.ts'
import { createServers, type Servers } from './servers.ts'

export interface ResourceManager extends Servers, Firewall, Roles, AiResources {
  /** The same for another server. */
  of(server: ResourceId): ResourceManager
  /** Lists over whole subscriptions; loaded when it is needed. */
  resourceGraph(): Promise<ResourceGraph>
}

export function createResourceManager(options: CallOptions): ResourceManager {
  const calls = createCalls(options)
  // Loaded while the token is on its way; a failure is reported where the clients are awaited.
  import('./clients.ts').catch(() => undefined)
  return {
    ...createServers(calls, options),
    ...createFirewall(calls, options),
    ...createRoles(calls, options),
    ...createAiResources(calls, options),
    of: (server) => createResourceManager({ ...options, server }),
    resourceGraph: async () => (await import('./resource-graph.ts')).createResourceGraph(calls, options),
  }
}
