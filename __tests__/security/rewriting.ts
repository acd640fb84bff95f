/** Good answers of Resource Manager that are changed on the way. */
import type { World } from '../../emulator/world.ts'

export type Body = Record<string, unknown>

/** Changes the good answers of Resource Manager to requests of a method whose URL matches; nothing else. */
export function rewrite(world: World, method: string, url: RegExp, change: (body: Body) => unknown): void {
  world.fault = (request) =>
    request.plane === 'resource-manager' && request.method === method && url.test(request.url)
      ? { kind: 'rewrite', change: (body) => change(body as Body) }
      : undefined
}

export const properties = (body: Body): Body => body['properties'] as Body
export const withProperties = (body: Body, more: Body): Body => ({ ...body, properties: { ...properties(body), ...more } })
/** Requests for a server itself. */
export const aboutServer = /\/flexibleServers\/[^/?]+\?/i
