/** Whether a response is about the resource that was named. */
import { Failure } from '../errors/failure.ts'
import { bounded, longestName } from '../lib/bounded.ts'
import { type ResourceId, sameId } from '../lib/resource-id.ts'

/**
 * An answer about another resource than the one that was named decides nothing: where a role goes is what the inputs say.
 * @throws {Failure} `other-resource`
 */
export function expectSame(named: Pick<ResourceId, 'id'>, id: unknown): void {
  if (id === undefined || id === null || id === '') return
  if (typeof id !== 'string' || !sameId(named.id, id)) throw otherResource(named.id, id)
}

export function otherResource(named: string, id: unknown): Failure {
  return new Failure({
    reason: 'azure',
    code: 'other-resource',
    title: 'Azure answered about another resource than the one that was named',
    detail: `Named was ${named}, and the answer is about ${bounded(String(id), longestName)}. Nothing was written for it.`,
    fix: `az resource show --ids "${named}" --query id   # compare it with the input; when they are the same, something between the runner and Azure rewrites answers`,
  })
}
