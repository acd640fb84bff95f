/** Which resource an endpoint of azure_ai leads to, and which service that gives. Pure. */
import { canonicalId, samePart } from '../lib/resource-id.ts'
import { type Resource, type Service, services } from './services.ts'

/** A resource that an endpoint may lead to, as the list of resources shows it. */
export interface FleetResource extends Resource {
  /** `Microsoft.X/things/parts`. */
  readonly type: string
}

/** The resources that are visible to a run, for look-ups by host and by id. */
export interface ResourceIndex {
  /** The resource whose own host an endpoint names; undefined for a gateway, a shared host, or a resource that is not visible. */
  behind(endpoint: string, setting: string): FleetResource | undefined
  withId(id: string): FleetResource | undefined
  /** Whether an endpoint is one account's own, which is not visible. */
  isOfAnother(endpoint: string, setting: string): boolean
}

export function indexOf(resources: readonly FleetResource[]): ResourceIndex {
  const byId = new Map(resources.map((resource) => [canonicalId(resource.id), resource]))
  const byHost = new Map<string, FleetResource[]>()
  const add = (host: string, resource: FleetResource): void => {
    byHost.set(host, [...(byHost.get(host) ?? []), resource])
  }
  for (const resource of resources) {
    const hosts = resource.endpoints.flatMap((endpoint) => hostIn(endpoint) ?? [])
    for (const host of new Set(hosts)) if (!isShared(host)) add(host, resource)
    // A custom subdomain is unique in all of Azure, and an account answers at several hosts that begin with it.
    const subdomain = resource.customSubdomain?.toLowerCase()
    if (subdomain !== undefined) add(`${subdomain}.`, resource)
  }
  const index: ResourceIndex = {
    withId: (id) => byId.get(canonicalId(id)),
    isOfAnother: (endpoint, setting) => ownHost.test(hostIn(endpoint) ?? '') && index.behind(endpoint, setting) === undefined,
    behind(endpoint, setting) {
      const host = hostIn(endpoint) ?? ''
      const subdomain = ownHost.exec(host)?.[1]
      const candidates = [...(byHost.get(host) ?? []), ...(subdomain === undefined ? [] : (byHost.get(`${subdomain}.`) ?? []))]
      return candidates.find((resource) => serviceFor(resource, setting) !== undefined)
    },
  }
  return index
}

/** Hosts of an account with a custom subdomain, in Azure's own clouds. Elsewhere only those count that the account shows. */
const ownHost = /^([^.]+)\.(?:openai|cognitiveservices|services\.ai)\.azure\.(?:com|us|cn)$/

/** Whether many resources answer at a host: that of a region, or one for all customers. */
const isShared = (host: string): boolean => /(^|\.)api\.(?:cognitive|translator)\./.test(host)

function hostIn(endpoint: string): string | undefined {
  return URL.canParse(endpoint) ? new URL(endpoint).hostname : undefined
}

/** The setting that contains the endpoint of a service. */
const endpointSetting = (service: Service): string | undefined =>
  service.settings.find(({ setting }) => setting.endsWith('endpoint'))?.setting

/** The service that an endpoint with this resource behind it gives; where several fit, the first of the table. */
export function serviceFor(resource: FleetResource, setting: string): Service | undefined {
  return services.find(
    (service) =>
      endpointSetting(service) === setting &&
      service.resourceTypes.some((type) => samePart(type, resource.type)) &&
      (service.kinds === undefined || service.kinds.some((kind) => kind.toLowerCase() === resource.kind.toLowerCase())),
  )
}

/** The setting by which a service names its resource itself; undefined when it has none. */
export const idSetting = (service: Service): string | undefined =>
  service.settings.find(({ setting }) => setting.endsWith('resource_id'))?.setting
