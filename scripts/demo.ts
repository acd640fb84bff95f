/**
 * `npm run demo`: the built action against the emulator, from stored keys to none: a check, an apply that clears the keys, a check
 * again, while an application queries all through, and an inventory of the whole resource group. Exits with 1 when a run is not what it should be.
 */
import { access, copyFile, mkdir, mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { styleText } from 'node:util'
import { type Emulator, startEmulator } from '../emulator/index.ts'
import { type Job, type JobResult, startJob } from '../emulator/runner.ts'
import type { Account, Exchange, ServerlessEndpoint } from '../emulator/world.ts'
import { summaryPage } from './summary-page.ts'

/** What takes minutes in Azure takes seconds here. */
const delays = {
  latency: 30,
  operation: 2_500,
  identityPropagation: 3_000,
  principalReplication: 1_500,
  roleReplication: 2_000,
  rolePropagation: 8_000,
  inference: 60,
}

const root = dirname(import.meta.dirname)
const say = (text = ''): void => void process.stdout.write(`${text}\n`)
const paint = (format: Parameters<typeof styleText>[0], text: string): string =>
  // Says no to pipes and NO_COLOR by itself.
  styleText(format, text, { stream: process.stdout, validateStream: true })

let emulator: Emulator | undefined
let job: Job | undefined
let stopping: Promise<void> | undefined

/** Ends what runs and removes what was made, once. */
function stop(): Promise<void> {
  stopping ??= (async () => {
    const running = job
    if (running !== undefined) {
      running.child.kill('SIGINT')
      const patience = setTimeout(() => running.child.kill('SIGKILL'), 6_000)
      const result = await running.done.catch(() => undefined)
      clearTimeout(patience)
      await result?.remove()
    }
    await emulator?.stop()
  })()
  return stopping
}

/** Unescapes a value of a workflow command. */
const unescaped = (text: string): string =>
  text.replaceAll('%0A', '\n').replaceAll('%0D', '').replaceAll('%3A', ':').replaceAll('%2C', ',').replaceAll('%25', '%')

/** Prints lines of a log as GitHub shows them: groups as headings, annotations as sentences, other commands not at all. */
function reader(): (line: string) => void {
  const start = performance.now()
  let inGroup = false
  const print = (text: string): void => {
    const time = `${((performance.now() - start) / 1_000).toFixed(1)} s`.padStart(7)
    for (const line of text.split('\n')) say(`${paint('dim', time)}  ${inGroup ? '  ' : ''}${line}`)
  }
  return (line) => {
    const [, name, properties = '', value = ''] = /^::([\w-]+)(?: (.*?))?::(.*)$/.exec(line) ?? []
    if (name === undefined) {
      if (line !== '') print(line)
      return
    }
    const text = unescaped(value)
    if (name === 'group') {
      print(paint('bold', `▸ ${text}`))
      inGroup = true
    } else if (name === 'endgroup') inGroup = false
    else if (name === 'error' || name === 'warning' || name === 'notice') {
      const title = unescaped(/title=([^,]*)/.exec(properties)?.[1] ?? '')
      const color = { error: 'red', warning: 'yellow', notice: 'blue' } as const
      print(`${paint(color[name], `${name}: ${title}`)}\n${text}`)
    }
  }
}

async function run(inputs: Readonly<Record<string, string>>, on: Emulator): Promise<JobResult> {
  job = await startJob({ inputs, env: { ...on.env, ...on.fleet?.env }, onLine: reader() })
  const result = await job.done
  job = undefined
  return result
}

/** Requests, counted by what they were about: `PUT role assignment: 4`. */
function counted(exchanges: readonly Exchange[]): string[] {
  const kinds: readonly (readonly [RegExp, string])[] = [
    [/\/roleAssignments\b/i, 'role assignment'],
    [/\/configurations\//i, 'server parameter'],
    [/\/restart\b/i, 'restart'],
    [/\/flexibleServers\/[^/?]+(\?|$)/i, 'flexible server'],
  ]
  const sums = new Map<string, number>()
  for (const { method, url, status } of exchanges) {
    const what = kinds.find(([pattern]) => pattern.test(url))?.[1] ?? new URL(url, 'https://localhost').pathname
    const key = `${method.padEnd(5)} ${what}${status >= 400 ? ` (answered ${status})` : ''}`
    sums.set(key, (sums.get(key) ?? 0) + 1)
  }
  return [...sums.entries()].map(([key, sum]) => `${String(sum).padStart(5)} × ${key}`)
}

/** Where the files go that stay: build/demo of the checkout, or a new folder where that cannot be written. */
async function outputFolder(): Promise<string> {
  const folder = join(root, 'build', 'demo')
  try {
    await mkdir(folder, { recursive: true })
    await writeFile(join(folder, 'summary.md'), '')
    return folder
  } catch {
    return mkdtemp(join(tmpdir(), 'azure-ai-postgres-identity-demo-'))
  }
}

function rerankerOf(on: Emulator): ServerlessEndpoint {
  const [found] = on.world.workspaces.flatMap(({ serverlessEndpoints = [] }) => serverlessEndpoints)
  if (found === undefined) throw new Error('the emulator has no serverless endpoint')
  return found
}

/** Both databases work with keys that their table contains, as users have them today. */
async function storeKeys(on: Emulator): Promise<void> {
  const account = (name: string): Account => {
    const found = on.world.accounts.find((each) => each.name === name)
    if (found === undefined) throw new Error(`the emulator has no account ${name}`)
    return found
  }
  const settings = {
    'azure_openai.auth_type': 'subscription-key',
    'azure_openai.endpoint': 'https://contoso-openai.openai.azure.com/',
    'azure_openai.subscription_key': account('contoso-openai').keys.key1,
    'azure_cognitive.auth_type': 'subscription-key',
    'azure_cognitive.endpoint': 'https://contoso-language.cognitiveservices.azure.com/',
    'azure_cognitive.subscription_key': account('contoso-language').keys.key1,
    'azure_ml.auth_type': 'subscription-key',
    'azure_ml.serverless_ranking_endpoint': `${rerankerOf(on).uri}/v1/rerank`,
    'azure_ml.serverless_ranking_endpoint_key': rerankerOf(on).keys.primaryKey,
  }
  for (const database of databases) {
    await on.postgres.query(database, 'CREATE EXTENSION IF NOT EXISTS azure_ai')
    for (const [setting, value] of Object.entries(settings))
      await on.postgres.query(database, 'SELECT azure_ai.set_setting($1, $2)', [setting, value])
  }
}

const databases = ['app', 'sales 2026'] as const
const questions = [
  "SELECT pg_catalog.cardinality(azure_openai.create_embeddings('text-embedding-3-small', 'an order')) AS dimensions",
  "SELECT id FROM azure_ai.rank('late orders', ARRAY['an order that is late', 'a recipe'], ARRAY['7', '8']) ORDER BY rank",
] as const

interface Application {
  readonly queries: number
  /** Refused by the database or a service. */
  readonly failed: number
  /** Repeated because the restart cut their connection. */
  readonly repeated: number
}

/** An application that queries one database after the other until it is stopped, and reconnects as a pool does. */
function startApplication(on: Emulator): { readonly counts: Application; stop(): Promise<void> } {
  const counts = { queries: 0, failed: 0, repeated: 0 }
  let isOver = false
  const lost = /^(?:57P0[1-3]|08\d{3}|ECONN\w+|EPIPE)$/
  const queryOnce = async (database: string, sql: string): Promise<void> => {
    for (;;) {
      try {
        await on.postgres.query(database, sql)
        counts.queries++
        return
      } catch (error) {
        const { code = '', message = '' } = error as { code?: string; message?: string }
        if (isOver) return
        if (!lost.test(code) && !/terminated|not queryable|timeout/i.test(message)) {
          counts.queries++
          counts.failed++
          return
        }
        counts.repeated++
        await new Promise((resolve) => setTimeout(resolve, 100))
      }
    }
  }
  const running = (async () => {
    while (!isOver)
      for (const [database, sql] of databases.flatMap((each) => questions.map((sql) => [each, sql] as const))) {
        await queryOnce(database, sql)
        await new Promise((resolve) => setTimeout(resolve, 40))
      }
  })()
  return {
    counts,
    stop: () => {
      isOver = true
      return running
    },
  }
}

interface Act {
  readonly title: string
  readonly inputs: Readonly<Record<string, string>>
  readonly code: number
  readonly outputs: Readonly<Record<string, string>>
}

const acts: readonly Act[] = [
  {
    title: 'Check: what is there',
    inputs: { mode: 'check' },
    code: 1,
    outputs: { result: 'drift', verified: 'false', 'stored-keys': '6' },
  },
  {
    title: 'Apply, with clear-keys and the restart',
    inputs: { mode: 'apply', 'clear-keys': 'true', 'allow-restart': 'true' },
    code: 0,
    outputs: { result: 'changed', verified: 'true', 'stored-keys': '0' },
  },
  {
    title: 'Check again: nothing is left to do',
    inputs: { mode: 'check', 'clear-keys': 'true' },
    code: 0,
    outputs: { result: 'in-sync', verified: 'true', 'stored-keys': '0' },
  },
  {
    title: 'Inventory: no key is stored anywhere',
    inputs: { mode: 'inventory' },
    code: 0,
    outputs: { result: 'in-sync', 'stored-keys': '0', matrix: '{"include":[]}' },
  },
]

/** An inventory finds servers, databases and resources by itself, and reaches each server at its own name. */
function inventoryInputs({ inputs, world, fleet }: Emulator): Record<string, string> {
  const kept = ['environment', 'tenant-id', 'client-id', 'audience']
  return {
    ...Object.fromEntries(Object.entries(inputs).filter(([name]) => kept.includes(name))),
    scope: `/subscriptions/${world.subscriptionId}/resourceGroups/${world.resourceGroup}`,
    'database-port': String(fleet?.port),
  }
}

/** Runs one act, and returns its result with what is not as it should be. */
async function perform(act: Act, on: Emulator): Promise<{ readonly result: JobResult; readonly problems: readonly string[] }> {
  const [reads, writes] = [on.reads().length, on.writes().length]
  say(`\n${paint('bold', `── ${act.title} ${'─'.repeat(Math.max(0, 90 - act.title.length))}`)}`)
  const base = act.inputs.mode === 'inventory' ? inventoryInputs(on) : on.inputs
  const result = await run({ ...base, ...act.inputs, 'verify-timeout-minutes': '2' }, on)
  const written = on.writes().slice(writes)
  const refused = written.filter((each) => each.status >= 400).length
  const early = refused === 0 ? '' : ` (${refused} more came too early and were repeated)`
  const seconds = ((result.report?.durationMs ?? 0) / 1_000).toFixed(1)
  say(`\n${on.reads().length - reads} reads and ${written.length - refused} writes in Resource Manager${early}, ${seconds} s.`)
  for (const line of counted(written)) say(line)
  const outputs = Object.entries(result.outputs).filter(([name]) => name !== 'report-path')
  say(`Outputs: ${outputs.map(([name, value]) => `${name}=${value.length > 48 ? `${value.slice(0, 40)}…` : value}`).join(', ')}`)
  const problems: string[] = []
  if (result.code !== act.code) problems.push(`${act.title}: exit code ${result.code}, expected ${act.code}`)
  for (const [name, value] of Object.entries(act.outputs))
    if (result.outputs[name] !== value) problems.push(`${act.title}: ${name} is ${result.outputs[name]}, expected ${value}`)
  if (act.inputs.mode !== 'apply' && written.length > 0) problems.push(`${act.title}: ${written.length} writes, expected none`)
  if ((await result.post()).code !== 0) problems.push(`${act.title}: the post step failed`)
  return { result, problems }
}

/** Keeps summary and report of a run; returns the lines that name the files. */
async function keep(
  result: JobResult,
  { folder, name, title }: { folder: string; name: string; title: string },
): Promise<string[]> {
  const path = (file: string): string => join(folder, `${name}${file}`)
  await writeFile(path('summary.md'), result.summary)
  await writeFile(path('summary.html'), await summaryPage(result.summary, `Job summary: ${title}`))
  if (result.report !== undefined) await copyFile(result.outputs['report-path'] ?? '', path('report.json'))
  await result.remove()
  return [`${title.padEnd(45)} ${path('summary.html')}`]
}

async function main(): Promise<number> {
  await access(join(root, 'dist', 'index.js')).catch(() => {
    throw new Error('dist/index.js is missing: npm run build')
  })
  say(paint('bold', 'An Azure for one machine is starting: Entra, Resource Manager, five AI services, PostgreSQL with azure_ai.'))
  emulator = await startEmulator({ delays, databases: [...databases], fleet: true })
  const on = emulator
  const [server] = on.world.servers
  if (server === undefined) throw new Error('the emulator has no server')
  Object.assign(on.inputs, { ranking: rerankerOf(on).id })
  await storeKeys(on)
  say(`It listens at ${on.url}. Two databases work with stored keys, and an application queries them. The inputs:\n`)
  for (const [name, value] of Object.entries(on.inputs)) say(`  ${`${name}:`.padEnd(25)} ${value.replaceAll('\n', ', ')}`)

  const application = startApplication(on)
  const folder = await outputFolder()
  const problems: string[] = []
  const files: string[] = []
  const keys: string[] = []
  for (const [index, act] of acts.entries()) {
    const { result, problems: found } = await perform(act, on)
    problems.push(...found)
    keys.push(result.outputs['stored-keys'] ?? '?')
    // The pictures of the README are of the apply.
    files.push(...(await keep(result, { folder, name: ['check-', '', 'again-', 'inventory-'][index] ?? '', title: act.title })))
  }
  await application.stop()
  const { queries, failed, repeated } = application.counts
  const roles = on.world.roleAssignments.filter((each) => each.principalId === server.identity?.principalId).length
  if (roles !== 5) problems.push(`the identity has ${roles} role assignments, expected 5`)
  if (server.restarts !== 1) problems.push(`${server.restarts} restarts, expected 1`)
  if (failed > 0 || queries === 0) problems.push(`the application made ${queries} queries, and ${failed} failed`)
  say()
  for (const line of files) say(line)
  if (problems.length > 0) {
    say(`\n${paint('red', 'The demo went wrong:')}\n${problems.map((problem) => `  ${problem}`).join('\n')}`)
    return 1
  }
  say(
    `\n${paint('green', `Keys stored: ${keys[0]} before, ${keys.at(-1)} now. The application made ${queries} queries: ${failed} failed, ${repeated} waited for the restart.`)}`,
  )
  return 0
}

for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const) {
  process.on(signal, () => void stop().finally(() => process.exit(code)))
}
let code = 1
try {
  code = await main()
} catch (error) {
  // After Ctrl-C the rest fails as a matter of course.
  if (stopping === undefined) process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`)
}
if (stopping === undefined) {
  await stop()
  process.exit(code)
}
