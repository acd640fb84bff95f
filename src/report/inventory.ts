/** What an inventory shows: the parts of its summary, the annotation for drift, and the report that its issue is made of. Pure. */
import type { InventoryCounts, InventoryRow } from '../core/inventory.ts'
import type { InventoryResult } from '../core/inventory-result.ts'
import type { Report } from '../core/report.ts'
import { firstOf } from '../lib/bounded.ts'
import { canonicalId } from '../lib/resource-id.ts'
import { grouped } from './grouping.ts'
import { code, count, fence, named, prose, table } from './markdown.ts'

/** Headline, servers and what comes next, in the order of reading. */
export function inventoryParts(report: Report, { counts, matrix, rows, open }: InventoryResult): readonly string[] {
  return [headline(report, counts), ...serverTables(rows, new Set(open)), nextPart(matrix.include.length + matrix.left)]
}

function headline(report: Report, counts: InventoryCounts): string {
  const where = report.server.name === '' ? count(counts.servers, 'server') : code(report.server.name)
  const error = report.findings.find(({ severity }) => severity === 'error')?.title ?? 'failed'
  const keys = counts.storedKeys === null ? 'it is not known how many keys are stored' : `${keysOf(counts.storedKeys)} stored`
  const icon = { failed: '❌', drift: counts.storedKeys === 0 ? '⚠️' : '🔑', 'in-sync': '✅', changed: '✅' }[report.result]
  const words = report.result === 'failed' ? `${prose(error)} (${code(report.failureReason)})` : keys
  return `## ${icon} ${where}: ${words}\n\n${factsOf(counts).join(', ')}.\n`
}

const keysOf = (keys: number): string => (keys === 0 ? 'no key is' : count(keys, 'key'))

function factsOf({ servers, databases, uses, onIdentity, notVisible, notInspected }: InventoryCounts): string[] {
  return [
    `${count(databases, 'database')} with azure_ai on ${count(servers, 'server')}`,
    `${onIdentity} of ${count(uses, 'endpoint')} on the managed identity without a key`,
    ...(notVisible === 0 ? [] : [`${notVisible} with a resource that is not visible`]),
    ...(notInspected === 0 ? [] : [`**${notInspected} not inspected**`]),
  ]
}

/** Servers that store keys, then what else is left to do or not known; folded below them those where all is well. */
function serverTables(rows: readonly InventoryRow[], openIds: ReadonlySet<string>): readonly string[] {
  const servers = grouped(rows, ({ server }) => canonicalId(server))
  const isOpen = ([{ server }]: readonly [InventoryRow, ...InventoryRow[]]): boolean => openIds.has(server)
  const open = servers.filter(isOpen).sort((a, b) => rank(a) - rank(b))
  const fine = servers.filter((of) => !isOpen(of))
  const tableOf = (of: typeof servers, title: string): string => table(head, of.flat().map(shown), title, title !== '')
  const their = fine.length === 1 ? 'its' : 'their'
  return [
    open.length === 0 ? '' : tableOf(open, ''),
    fine.length === 0 ? '' : tableOf(fine, `${count(fine.length, 'server')} with nothing left to do in ${their} databases`),
  ]
}

const rank = (of: readonly InventoryRow[]): number => {
  if (of.some(({ keyStored }) => keyStored === true)) return 0
  return of.some(({ family }) => family !== '') ? 1 : 2
}

const head = '| server | database | family | sign-in | key | resource |\n|:--|:--|:--|:--|:--|:--|'

function shown({ server, database, family, authType, endpoint, resource, keyStored, reason }: InventoryRow): string {
  const key = keyStored === true ? '🔑 stored' : ''
  const behind = resource === '' ? code(endpoint) : named(resource)
  const cells =
    reason === ''
      ? [code(family), code(family === '' ? '' : authType || 'not set'), key, behind]
      : [prose(reason), '', keyStored === null ? '?' : '', '']
  return `| ${named(server)} | ${code(database)} | ${cells.join(' | ')} |`
}

function nextPart(entries: number): string {
  if (entries === 0) return ''
  return `### Next\n\nRun this action for ${entries === 1 ? 'the entry' : `each of the ${entries} entries`} of the output ${code('matrix')}, in a job of its own:\n\n${fence(
    [
      'strategy:',
      '  matrix: ${' + '{ fromJSON(needs.inventory.outputs.matrix) }}',
      '  max-parallel: 4',
      '# and in the step: server, databases and the services of the matrix, with clear-keys: true',
    ].join('\n'),
  )}\n`
}

/** Title and text of the annotation for drift. */
export function driftAnnotation({ counts, items }: InventoryResult): { title: string; text: string } {
  const open = items.filter(({ current, desired }) => current !== desired).map(({ id, current }) => `${id} (${current})`)
  const keys = counts.storedKeys === null ? 'an unknown number of keys' : count(counts.storedKeys, 'key')
  return {
    title: `${keys} stored on ${count(counts.servers, 'server')}`,
    text: `Left to do: ${firstOf(open)}.\nFix: Run this action with \`mode: apply\` for each entry of the output \`matrix\`; what could not be inspected has a finding.`,
  }
}

/** The report as the drift issue reads it: what is left to do as steps, and the scope instead of a server. */
export function asDriftReport(report: Report, { items }: InventoryResult, coveredId: string): Report {
  const server = report.server.name === '' ? { ...report.server, name: 'inventory' } : report.server
  return {
    ...report,
    server: { ...server, id: coveredId },
    // The issue reports stored keys as drift, not as a server that is not set up yet: an inventory is kept to have none.
    setUp: true,
    steps: items.map(({ id, place, name, current, desired, detail }) => ({
      ...{ id, kind: 'setting', target: place, database: place, name, current, desired, detail },
      status: current === desired ? 'in-sync' : 'different',
    })),
  }
}
