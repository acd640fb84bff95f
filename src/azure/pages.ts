/** Lists of Azure, page by page, with bounds: a list that leads back to itself, or never ends, ends here. */
import { Failure } from '../errors/failure.ts'

/** Most items of a list: a subscription has room for 8,000 role assignments, and no other list here comes near. */
const mostItems = 20_000
const mostPages = 200

export interface Page<T> {
  readonly items: readonly T[]
  /** The address of the next page; undefined for the last one. */
  readonly next: string | undefined
}

/**
 * The items of a list.
 *
 * @param doing what the list is for, as the beginning of a sentence: `listing firewall rules`
 * @throws {Failure} `list-unending` when a page leads back to one that was read, or the list is longer than any real one
 */
export async function* itemsOf<T>(pages: AsyncIterable<Page<T>>, doing: string, limit: number = mostItems): AsyncGenerator<T> {
  const seen = new Set<string>()
  let items = 0
  let count = 0
  for await (const page of pages) {
    count++
    items += page.items.length
    if (items > limit) throw unending(doing, `it has more than ${limit.toLocaleString('en')} items`)
    yield* page.items
    if (page.next === undefined) continue
    if (seen.has(page.next)) throw unending(doing, `page ${count} leads back to a page that was read already`)
    if (count === mostPages) throw unending(doing, `it has more than ${mostPages} pages`)
    seen.add(page.next)
  }
}

function unending(doing: string, why: string): Failure {
  return new Failure({
    reason: 'azure',
    code: 'list-unending',
    title: 'A list of Azure does not end',
    detail: `While ${doing}: ${why}.`,
    fix: 'Run the job again. If it stays, look at the same list with az: something between the runner and Azure may rewrite answers.',
  })
}
