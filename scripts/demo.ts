/**
 * `npm run demo`: the built action against the emulator, twice: from nothing to a proven identity, and once more to show
 * that nothing is written then. Exits with 1 when a run is not what it should be.
 */
import { access, copyFile, mkdir, mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { styleText } from 'node:util'
import { type Emulator, startEmulator } from '../emulator/index.ts'
import { type Job, type JobResult, startJob } from '../emulator/runner.ts'
import type { Exchange } from '../emulator/world.ts'
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
  job = await startJob({ inputs, env: on.env, onLine: reader() })
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

async function main(): Promise<number> {
  await access(join(root, 'dist', 'index.js')).catch(() => {
    throw new Error('dist/index.js is missing: npm run build')
  })
  say(paint('bold', 'An Azure for one machine is starting: Entra, Resource Manager, four AI services, PostgreSQL with azure_ai.'))
  emulator = await startEmulator({ delays })
  const { world } = emulator
  const [server] = world.servers
  if (server === undefined) throw new Error('the emulator has no server')
  const { inputs } = emulator
  say(`It listens at ${emulator.url}. What the action is given:\n`)
  const shown = { ...inputs, 'allow-restart': 'true', 'verify-timeout-minutes': '2' }
  for (const [name, value] of Object.entries(shown)) say(`  ${`${name}:`.padEnd(25)} ${value.replaceAll('\n', ', ')}`)

  const problems: string[] = []
  const expected = (holds: boolean, what: string): void => {
    if (!holds) problems.push(what)
  }
  const roles = (): number => world.roleAssignments.filter((each) => each.principalId === server.identity?.principalId).length

  const runs: JobResult[] = []
  for (const [index, title] of ['First run: nothing is set up', 'Second run: the same inputs'].entries()) {
    const [reads, writes] = [emulator.reads().length, emulator.writes().length]
    say(`\n${paint('bold', `── ${title} ${'─'.repeat(Math.max(0, 90 - title.length))}`)}`)
    const result = await run(shown, emulator)
    runs.push(result)
    const written = emulator.writes().slice(writes)
    const seconds = (result.report?.durationMs ?? 0) / 1_000
    const refused = written.filter((each) => each.status >= 400).length
    const early = refused === 0 ? '' : ` (${refused} more came too early and were tried again)`
    const read = emulator.reads().length - reads
    say(`\n${read} reads and ${written.length - refused} writes in Resource Manager${early}, ${seconds.toFixed(1)} s.`)
    for (const line of counted(written)) say(line)
    const outputs = Object.entries(result.outputs).filter(([name]) => name !== 'report-path')
    say(
      `Outputs: ${outputs.map(([name, value]) => `${name}=${value.length > 48 ? `${value.slice(0, 40)}…` : value}`).join(', ')}`,
    )
    const wanted = index === 0 ? 'changed' : 'in-sync'
    expected(result.code === 0, `${title}: exit code ${result.code}`)
    expected(result.outputs.result === wanted, `${title}: result is ${result.outputs.result}, expected ${wanted}`)
    expected(result.outputs.verified === 'true', `${title}: not verified`)
    expected((await result.post()).code === 0, `${title}: the post step failed`)
    if (index === 1) expected(written.length === 0, `${title}: ${written.length} writes, expected none`)
  }
  expected(roles() === 4, `the identity has ${roles()} role assignments, expected 4`)
  expected(server.restarts === 1, `${server.restarts} restarts, expected 1`)

  const folder = await outputFolder()
  const files: [string, string][] = []
  for (const [name, result] of [
    ['', runs[0]],
    ['second-', runs[1]],
  ] as const) {
    if (result === undefined) continue
    const path = (file: string): string => join(folder, `${name}${file}`)
    await writeFile(path('summary.md'), result.summary)
    await writeFile(path('summary.html'), await summaryPage(result.summary, `Job summary: ${server.name}`))
    if (result.report !== undefined) await copyFile(result.outputs['report-path'] ?? '', path('report.json'))
    const which = name === '' ? 'first run' : 'second run'
    files.push(
      [`Job summary of the ${which}, as a web page`, path('summary.html')],
      ['  the same as Markdown', path('summary.md')],
    )
    if (result.report !== undefined) files.push(['  JSON report', path('report.json')])
    await result.remove()
  }
  say()
  for (const [what, path] of files) say(`${what.padEnd(45)} ${path}`)

  if (problems.length > 0) {
    say(`\n${paint('red', 'The demo went wrong:')}\n${problems.map((problem) => `  ${problem}`).join('\n')}`)
    return 1
  }
  say(
    `\n${paint('green', 'The database reaches all four services with the identity of its server; the second run wrote nothing.')}`,
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
