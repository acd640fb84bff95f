/** Management locks: what they forbid applies to everybody, at their scope and below. */
import { liesIn, type ResourceId, scopeOfLock } from '../lib/resource-id.ts'
import { itemsOf, type Page } from './pages.ts'
import type { Http } from './pipeline.ts'

/** A lock that forbids deleting (`CanNotDelete`) or every change (`ReadOnly`). */
export interface Lock {
  readonly id: string
  /** Resource Manager id of what is locked. */
  readonly scope: string
  readonly level: string
}

interface LockBody {
  id?: unknown
  properties?: { level?: unknown } | null
}

const apiVersion = '2016-09-01'
/** Longest time that the look-up may take in all, in milliseconds. */
const limitMs = 5_000
/** Most locks that are read: a scope has room for twenty. */
const mostLocks = 500

/**
 * The locks on a resource and on what it lies in.
 * @param endpoint of Resource Manager, without trailing slash
 * @throws {Failure} when they cannot be listed, or the list does not end
 */
export async function listLocks(
  http: Http,
  endpoint: string,
  { id: resource }: ResourceId,
  doing: string,
  signal: AbortSignal,
): Promise<readonly Lock[]> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(limitMs)])
  const found: Lock[] = []
  for await (const lock of itemsOf(pages(), doing, mostLocks)) {
    const id = typeof lock?.id === 'string' ? lock.id : ''
    const scope = scopeOfLock(id)
    const level = lock?.properties?.level
    // The list contains the locks of what lies below as well: they do not apply here.
    if (scope !== undefined && typeof level === 'string' && liesIn(resource, scope)) found.push({ id, scope, level })
  }
  return found

  async function* pages(): AsyncGenerator<Page<LockBody | null>> {
    let url: string | undefined = `${endpoint}${resource}/providers/Microsoft.Authorization/locks?api-version=${apiVersion}`
    while (url !== undefined) {
      const body = (await http.get(url, doing, limit, resource)) as { value?: unknown; nextLink?: unknown } | null
      url = typeof body?.nextLink === 'string' && body.nextLink !== '' ? body.nextLink : undefined
      yield { items: Array.isArray(body?.value) ? body.value : [], next: url }
    }
  }
}
