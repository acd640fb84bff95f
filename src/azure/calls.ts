/** What every call of Resource Manager shares: the pipeline, the clients, long-running operations, and errors as failures. */

import type { Cloud } from '../core/clouds.ts'
import { Failure, type FailureFacts } from '../errors/failure.ts'
import type { Circumstances } from '../errors/message.ts'
import type { Log } from '../lib/log.ts'
import type { ResourceId } from '../lib/resource-id.ts'
import { retrying, spread } from '../lib/retry.ts'
import { duration, waiting } from '../lib/timeout.ts'
import type { ReadyAgent } from './agent.ts'
import { azureFailure } from './answers.ts'
import type { Page } from './pages.ts'
import { createHttp, createPipeline, type Http, readAgainWhenBusy, verdictOnOperation } from './pipeline.ts'
import type { Tokens } from './tokens.ts'

/** How often a long-running operation is polled when the service does not say, in milliseconds. */
const pollMs = 1_500
export const minutes = (count: number): number => count * 60_000

export interface CallOptions {
  readonly cloud: Cloud
  readonly tokens: Tokens
  readonly server: ResourceId
  readonly log: Log
  readonly signal: AbortSignal
  readonly agent: ReadyAgent | undefined
  /** Host of the job's proxy; undefined without one. */
  readonly proxy: string | undefined
}

interface ListBody<T> {
  value?: T[]
  nextLink?: string
}

export type Calls = ReturnType<typeof createCalls>

export function createCalls(options: CallOptions) {
  const { cloud, tokens, server, log, signal, agent, proxy } = options
  const { resourceGroup, name } = server
  const endpoint = cloud.resourceManager
  const pipeline = createPipeline({
    tokens,
    scope: cloud.resourceManagerScope,
    host: new URL(endpoint).host,
    signal,
    log,
    agent,
    proxy,
  })
  const http: Http = createHttp(pipeline)

  // The pipeline carries the token; the clients want a credential all the same.
  const credential = { getToken: async () => null }
  const servers = lazily(async () => {
    const { PostgreSQLManagementFlexibleServerClient } = await import('./clients.ts')
    return new PostgreSQLManagementFlexibleServerClient(credential, server.subscription, { endpoint, pipeline })
  })
  const authorization = lazily(async () => {
    const { AuthorizationManagementClient } = await import('./clients.ts')
    return new AuthorizationManagementClient(credential, server.subscription, { endpoint, pipeline })
  })

  const call = async <T>(doing: string, body: () => Promise<T>, resource?: string): Promise<T> => {
    try {
      return await body()
    } catch (error) {
      if (signal.aborted) throw signal.reason
      throw azureFailure(error, { doing, server: name, resourceGroup, resource: resource ?? server.id })
    }
  }
  const read = (id: string, version: string, doing: string): Promise<unknown> =>
    call(doing, () => http.get(`${endpoint}${id}?api-version=${version}`, doing, signal, id), id)
  const operation = <T>(what: string, limitMs: number, body: (signal: AbortSignal) => Promise<T>): Promise<T> =>
    call(what, () =>
      waiting(
        {
          what,
          limitMs,
          log,
          signal,
          late: (cause) => new Failure(lateOperation(what, limitMs, { doing: what, server: name, resourceGroup }), cause),
        },
        body,
      ),
    )

  /** The pages of a list that no generated client reads. */
  async function* pagesOf<T>(first: string, doing: string, resource: string): AsyncGenerator<Page<T>> {
    for (let url: string | undefined = first; url !== undefined; ) {
      const here: string = url
      const { value, nextLink } = ((await call(doing, () => http.get(here, doing, signal, resource), resource)) ??
        {}) as ListBody<T>
      url = typeof nextLink === 'string' && nextLink !== '' ? nextLink : undefined
      yield { items: Array.isArray(value) ? value : [], next: url }
    }
  }
  /** Options of a write that takes some time. */
  const writing = (abortSignal: AbortSignal) => ({
    requestOptions: { customHeaders: { [readAgainWhenBusy]: 'true' } },
    abortSignal,
    updateIntervalInMs: spread(pollMs),
  })
  /** A read and the write that follows from it, both again when another operation came in between or Azure failed inside. */
  const repeating = <T>(body: () => Promise<T>, verdict = verdictOnOperation): Promise<T> =>
    retrying(body, {
      signal,
      verdict,
      onWait: (_, waitMs, leftMs) =>
        log.info(
          `… the server is busy with another operation; again in ${duration(waitMs)}, for at most ${duration(leftMs)} more`,
        ),
    })
  return { endpoint, pipeline, http, servers, authorization, call, read, operation, pagesOf, writing, repeating }
}

export function lazily<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined
  return () => {
    made ??= make()
    return made
  }
}

/** The pages of a list of a generated client, with what leads to the next one. */
export async function pagesOfClient<T>(list: { byPage(): AsyncIterable<T[]> }): Promise<AsyncIterable<Page<T>>> {
  const { nextPageOf } = await import('./clients.ts')
  return (async function* () {
    for await (const items of list.byPage()) yield { items, next: nextPageOf(items) }
  })()
}
function lateOperation(what: string, limitMs: number, at: Circumstances): FailureFacts {
  return {
    reason: 'azure',
    code: 'operation-late',
    title: 'An operation of Azure did not end in time',
    detail: `Waited ${limitMs / 60_000} minutes for ${what}.`,
    fix: `az postgres flexible-server show --resource-group ${at.resourceGroup ?? 'GROUP'} --name ${at.server ?? 'SERVER'} --query state   # when it is Ready, run this job again; it goes on where it stopped`,
  }
}
