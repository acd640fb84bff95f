/** When two values of a setting mean the same. Pure. */
import { withoutEndSlashes } from '../lib/bounded.ts'
import { canonicalId } from '../lib/resource-id.ts'

export const rankingEndpoint = 'azure_ml.serverless_ranking_endpoint'
/** Paths at which an endpoint ranks: the same for azure_ai. */
const rankingPath = /\/v([12])\/rerank$/
/** The endpoint with the other path. */
export const otherRankingPath = (value: string): string =>
  value.replace(rankingPath, (_, version: string) => `/v${version === '1' ? 2 : 1}/rerank`)

/**
 * Whether two values of a setting mean the same to the service: endpoints without trailing slash and case of the host,
 * resource ids without case, a region only in its canonical form.
 */
export function sameValue(setting: string, a: string, b: string): boolean {
  return canonical(setting, a) === canonical(setting, b)
}

function canonical(setting: string, value: string): string {
  // A service takes none of these, and azure_ai passes on what is stored: it is no other spelling of a value that works.
  if (/[\s\p{Cc}]/u.test(value)) return value
  if (setting.endsWith('endpoint') && URL.canParse(value)) {
    const url = new URL(value)
    if (url.username !== '' || url.password !== '' || value.includes('#')) return value
    const path = withoutEndSlashes(url.pathname)
    return `${url.origin}${setting === rankingEndpoint ? path.replace(rankingPath, '/rerank') : path}${url.search}`
  }
  if (setting.endsWith('resource_id')) return canonicalId(value)
  return value
}
