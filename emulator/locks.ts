/** Microsoft.Authorization/locks, api-version 2016-09-01, and what locks and deny assignments forbid. */
import { isAtOrBelow } from './authorization.ts'
import { failure } from './http.ts'
import type { Route } from './provider.ts'
import type { Lock, World } from './world.ts'

export const lockRoutes: Route[] = [
  {
    method: 'GET',
    path: /^(.*)\/providers\/Microsoft\.Authorization\/locks$/i,
    apiVersions: ['2016-09-01', '2020-05-01'],
    type: 'locks',
    action: 'Microsoft.Authorization/locks/read',
    scope: ([scope = '']) => scope || '/',
    handle({ world, parameters: [path = ''] }) {
      const scope = path || '/'
      // As Azure does: what is inherited from above, and the locks of what lies below.
      const found = world.locks.filter((lock) => isAtOrBelow(scope, lock.scope) || isAtOrBelow(lock.scope, scope))
      return { status: 200, body: { value: found.map(shown) } }
    },
  },
]

/** Throws the 409 of a lock that forbids the request. A lock applies at its scope and below, whoever the caller is. */
export function checkLocks(world: World, method: string, path: string): void {
  if (method === 'GET' || method === 'HEAD') return
  const locks = world.locks.filter(
    ({ scope, level }) => (level === 'ReadOnly' || method === 'DELETE') && isAtOrBelow(path, scope),
  )
  if (locks.length === 0) return
  const scopes = locks.map(({ scope }) => `'${scope}'`).join(',')
  throw failure(
    409,
    'ScopeLocked',
    `The scope '${path}' cannot perform ${method === 'DELETE' ? 'delete' : 'write'} operation because following scope(s) are locked: ${scopes}. Please remove the lock and try again.`,
  )
}

function shown({ name, scope, level }: Lock): Record<string, unknown> {
  return {
    properties: { level, notes: '' },
    id: `${scope}/providers/Microsoft.Authorization/locks/${name}`,
    type: 'Microsoft.Authorization/locks',
    name,
  }
}
