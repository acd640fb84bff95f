/** The flexible server in Resource Manager: its identity, allow-list, administrators, replicas and restart. */

import type { FleetServer } from '../core/inventory.ts'
import type { Administrator, ObservedServer } from '../core/observed.ts'
import { Failure } from '../errors/failure.ts'
import { malformed } from '../errors/malformed.ts'
import { bounded, isCut } from '../lib/bounded.ts'
import { parseResourceId, sameId, samePart } from '../lib/resource-id.ts'
import { busy, replication, retrying, type Verdict } from '../lib/retry.ts'
import { duration } from '../lib/timeout.ts'
import { azureFailure } from './answers.ts'
import { type CallOptions, type Calls, minutes, pagesOfClient } from './calls.ts'
import { expectSame, otherResource } from './expect-same.ts'
import { itemsOf } from './pages.ts'
import { verdictOnOperation } from './pipeline.ts'

/** Most read replicas of a server that are looked at; Azure allows five, and ten in a cascade. */
const mostReplicas = 50

export interface Servers {
  server(): Promise<ObservedServer>
  /** The same with the primary that it follows. */
  fleetServer(): Promise<FleetServer>
  replicas(): Promise<readonly ObservedServer[]>
  administrators(): Promise<readonly Administrator[]>
  /** Entries of the server parameter `azure.extensions`. */
  allowList(): Promise<readonly string[]>
  /** The identity that the running server says it knows (`azure.service_principal_id`); '' when it knows none, undefined when it does not say. */
  runningIdentity(server: ObservedServer): Promise<string | undefined>
  /** Enables the system-assigned identity and keeps the user-assigned ones of that moment; returns its object id. */
  enableIdentity(): Promise<string>
  /** Adds an extension to the allow-list as it is at that moment; returns its entries. */
  allowExtension(extension: string): Promise<readonly string[]>
  restart(): Promise<void>
}

export function createServers(calls: Calls, { server, log, signal }: CallOptions): Servers {
  return { ...serverReads(calls, { server, signal }), ...serverWrites(calls, { server, log, signal }) }
}

type Reads = Pick<Servers, 'server' | 'fleetServer' | 'replicas' | 'administrators' | 'allowList' | 'runningIdentity'>

/** Reads that a write begins with, too. */
function currentState({ servers }: Calls, { server }: Pick<CallOptions, 'server'>) {
  const { resourceGroup, name } = server
  const readServer = async (abortSignal: AbortSignal): Promise<ObservedServer> => {
    const found = observedServer(await (await servers()).servers.get(resourceGroup, name, { abortSignal }))
    expectSame(server, found.id)
    return { ...found, id: server.id }
  }
  const readAllowList = async (abortSignal: AbortSignal): Promise<string[]> => {
    const parameter = 'azure.extensions'
    const { id, value } = await (await servers()).configurations.get(resourceGroup, name, parameter, { abortSignal })
    // The value of another parameter would be written into this one.
    expectSame({ id: `${server.id}/configurations/${parameter}` }, id)
    return allowListOf(value)
  }

  return { readServer, readAllowList }
}

function serverReads(calls: Calls, { server, signal }: Pick<CallOptions, 'server' | 'signal'>): Reads {
  const { call, servers } = calls
  const { resourceGroup, name } = server
  const { readServer, readAllowList } = currentState(calls, { server })
  return {
    server: () => call('reading the server', () => readServer(signal)),

    fleetServer: () =>
      call('reading the server', async () => {
        const model = await (await servers()).servers.get(resourceGroup, name, { abortSignal: signal })
        expectSame(server, model.id)
        const found = observedServer(model)
        return { ...found, id: server.id, primary: found.isReplica ? model.sourceServerResourceId : undefined }
      }),

    replicas: () =>
      call('listing read replicas', async () => {
        const found: ObservedServer[] = []
        const list = (await servers()).replicas.listByServer(resourceGroup, name)
        for await (const each of itemsOf(await pagesOfClient(list), 'listing read replicas', mostReplicas)) {
          const replica = observedServer(each)
          if (sameId(server.id, replica.id)) continue
          const type = parseResourceId(replica.id)?.type ?? ''
          if (!samePart(type, server.type)) throw otherResource(`a read replica of ${server.id}`, replica.id)
          found.push(replica)
        }
        return found
      }),

    administrators: () =>
      call("listing the server's Entra administrators", async () => {
        const found: Administrator[] = []
        const list = (await servers()).administratorsMicrosoftEntra.listByServer(resourceGroup, name)
        for await (const each of itemsOf(await pagesOfClient(list), 'listing administrators')) {
          found.push({
            objectId: each.objectId ?? '',
            principalName: each.principalName ?? '',
            principalType: each.principalType ?? 'Unknown',
          })
        }
        return found
      }),

    allowList: () => call('reading azure.extensions', () => readAllowList(signal)),

    runningIdentity: async ({ id }) => {
      const of = parseResourceId(id)
      // The client speaks for one subscription: a replica in another one is not looked at.
      if (of === undefined || !samePart(of.subscription, server.subscription)) return undefined
      try {
        const { configurations } = await servers()
        const parameter = await configurations.get(of.resourceGroup, of.name, 'azure.service_principal_id')
        return parameter.value ?? ''
      } catch (error) {
        if (signal.aborted) throw signal.reason
        // Not every server has the parameter.
        const status = (error as { statusCode?: unknown }).statusCode
        if (status === 404 || status === 400) return undefined
        throw azureFailure(error, { doing: 'reading azure.service_principal_id', resource: id })
      }
    },
  }
}

function serverWrites(
  calls: Calls,
  { server, log, signal }: Pick<CallOptions, 'server' | 'log' | 'signal'>,
): Pick<Servers, 'enableIdentity' | 'allowExtension' | 'restart'> {
  const { servers, operation, writing, repeating } = calls
  const { resourceGroup, name } = server
  const { readServer, readAllowList } = currentState(calls, { server })
  /** The operation has made the identity, and reads may show it a little later: read again for a bounded while. */
  const shownPrincipalId = (again: () => Promise<ObservedServer>): Promise<string> =>
    retrying(
      async () => {
        const { principalId } = await again()
        if (principalId === undefined) throw principalNotShown(name)
        return principalId
      },
      {
        signal,
        verdict: (error) =>
          error instanceof Failure && error.code === 'principal-not-shown' ? { schedule: replication } : false,
        onWait: (_, waitMs) => log.info(`… ${name} does not show its new identity yet; reading it again in ${duration(waitMs)}`),
      },
    )
  return {
    enableIdentity: () =>
      operation("the server's identity to be turned on", minutes(15), (abortSignal) =>
        repeating(async () => {
          const client = await servers()
          // Another process may have set an identity since: what is there now is kept.
          const before = await readServer(abortSignal)
          if (before.principalId !== undefined) return before.principalId
          const userAssigned = before.userAssignedIdentities
          const identity =
            userAssigned.length === 0
              ? { type: 'SystemAssigned' as const }
              : {
                  type: 'SystemAssigned,UserAssigned' as const,
                  userAssignedIdentities: Object.fromEntries(userAssigned.map((id) => [id, {}])),
                }
          await client.servers.beginUpdateAndWait(resourceGroup, name, { identity }, writing(abortSignal))
          // The answer of the operation may be the operation itself, so the server is read.
          return shownPrincipalId(() => readServer(abortSignal))
        }),
      ),

    allowExtension: (extension) =>
      operation('the allow-list to be written', minutes(10), (abortSignal) =>
        repeating(async () => {
          const { configurations } = await servers()
          // Writing replaces the list: it is read right before, also when another operation came in between.
          const before = await readAllowList(abortSignal)
          if (before.some((entry) => entry.toLowerCase() === extension.toLowerCase())) return before
          const entries = [...before, extension]
          const value = { value: entries.join(','), source: 'user-override' }
          const options = writing(abortSignal)
          await configurations.beginPutAndWait(resourceGroup, name, 'azure.extensions', value, options)
          return entries
        }),
      ),

    restart: () =>
      operation('the server to restart', minutes(20), async (abortSignal) => {
        const client = await servers()
        const options = writing(abortSignal)
        // A server that was busy did not restart. After any other error it may have, and a second restart would be one too many.
        await repeating(() => client.servers.beginRestartAndWait(resourceGroup, name, options), busyOperation)
      }),
  }
}

/** The entries of `azure.extensions`. They are written back with one more, so a value that was cut is no list. */
function allowListOf(value: string | undefined): string[] {
  if (value !== undefined && isCut(value))
    throw new Failure({
      reason: 'azure',
      code: 'answer-too-large',
      title: 'The allow-list is too long',
      detail: `azure.extensions begins with ${bounded(value, 200)}; a list of that length is not read, and so not written.`,
      fix: 'Look at the server parameter azure.extensions in the portal, and take out what is no extension.',
    })
  return (value ?? '')
    .split(',')
    .map((entry) => entry.trim())
    .filter((entry) => entry !== '')
}

interface ServerModel {
  id?: string | undefined
  name?: string | undefined
  version?: string | undefined
  state?: string | undefined
  fullyQualifiedDomainName?: string | undefined
  identity?:
    | {
        type?: string | undefined
        principalId?: string | undefined
        userAssignedIdentities?: Record<string, unknown> | null | undefined
      }
    | undefined
  network?: { publicNetworkAccess?: string | undefined; delegatedSubnetResourceId?: string | undefined } | undefined
  authConfig?: { activeDirectoryAuth?: string | undefined; passwordAuth?: string | undefined } | undefined
  replicationRole?: string | undefined
  cluster?: { clusterSize?: number | undefined } | undefined
  highAvailability?: { mode?: string | undefined; state?: string | undefined } | undefined
}

/** An object id of Entra: it becomes part of a filter, and names who gets a role. */
const isGuid = (value: unknown): boolean =>
  typeof value === 'string' && /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(value)

const identityTypes = {
  'true-true': 'SystemAssigned,UserAssigned',
  'true-false': 'SystemAssigned',
  'false-true': 'UserAssigned',
  'false-false': 'None',
} as const

export function observedServer(model: ServerModel): ObservedServer {
  const types = (model.identity?.type ?? 'None').split(',').map((type) => type.trim().toLowerCase())
  const system = types.includes('systemassigned')
  const user = types.includes('userassigned')
  const mode = model.highAvailability?.mode
  const principalId = system ? model.identity?.principalId || undefined : undefined
  if (principalId !== undefined && !isGuid(principalId)) throw malformed('The object id of the identity', principalId)
  return {
    id: model.id ?? '',
    name: model.name ?? '',
    host: model.fullyQualifiedDomainName ?? '',
    version: model.version ?? '',
    state: model.state ?? 'unknown',
    identityType: identityTypes[`${system}-${user}`],
    principalId,
    userAssignedIdentities: Object.keys(model.identity?.userAssignedIdentities ?? {}),
    publicAccess: model.network?.publicNetworkAccess !== 'Disabled',
    inVirtualNetwork: model.network?.delegatedSubnetResourceId !== undefined,
    entraAuthentication: model.authConfig?.activeDirectoryAuth === 'Enabled',
    passwordAuthentication: model.authConfig?.passwordAuth !== 'Disabled',
    isReplica: /replica$/i.test(model.replicationRole ?? ''),
    isElasticCluster: (model.cluster?.clusterSize ?? 0) > 0,
    highAvailability:
      mode === undefined || mode === 'Disabled' ? undefined : `${mode} (${model.highAvailability?.state ?? 'state unknown'})`,
  }
}

/** Whether a write met another operation of the server, and so did nothing. */
function busyOperation(error: unknown): Verdict {
  const verdict = verdictOnOperation(error)
  return verdict !== false && verdict.schedule === busy ? verdict : false
}

function principalNotShown(server: string): Failure {
  return new Failure({
    reason: 'azure',
    code: 'principal-not-shown',
    title: 'Azure does not show the new identity',
    detail: `Turning on the identity of ${server} succeeded, and the server still shows no principal id.`,
    fix: 'Run this job again in a few minutes; it goes on where it stopped.',
  })
}
