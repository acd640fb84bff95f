/**
 * Measures the action against floors of the same run and prints the ratios: `npm run bench`, or some of its parts by name.
 * `--markdown` prints tables for docs/performance.md, `--runs=N` sets how often each thing is measured.
 */
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { createServer } from 'node:net'
import { availableParallelism, cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { postgresAudience } from '../emulator/entra.ts'
import { largeFleet } from '../emulator/fleet-world.ts'
import { type Emulator, type EmulatorOptions, startEmulator } from '../emulator/index.ts'
import { chainOf, type Link, type Trip } from '../emulator/latency-proxy.ts'
import { type JobResult, runJob } from '../emulator/runner.ts'

const root = join(import.meta.dirname, '..')
const dist = join(root, 'dist')
const roundTripMs = 50

/** One line of the table. Times in milliseconds, medians. */
interface Row {
  readonly what: string
  readonly measured: string
  readonly floor: string
  readonly ratio: number | undefined
  readonly aim: number | undefined
}

const rows: Row[] = []
const notes: string[] = []
const args = process.argv.slice(2)
const markdown = args.includes('--markdown')
const runs = Number(/^--runs=(\d+)$/.exec(args.find((each) => each.startsWith('--runs=')) ?? '')?.[1] ?? 0)

const parts: Record<string, () => Promise<void> | void> = { start, chain, databases, fleet, 'by-hand': byHand, bundle }

await main()
// Node may wait without an end for sockets of the emulator that are closed already.
process.exit()

async function main(): Promise<void> {
  const named = args.filter((each) => !each.startsWith('--'))
  const unknown = named.filter((each) => !Object.hasOwn(parts, each))
  if (unknown.length > 0) throw new Error(`Unknown part: ${unknown.join(', ')}. There are ${Object.keys(parts).join(', ')}.`)
  for (const [name, body] of Object.entries(parts)) {
    if (named.length > 0 && !named.includes(name)) continue
    process.stderr.write(`… ${name}\n`)
    await body()
  }
  const [cpu] = cpus()
  const machine = `${new Date().toISOString().slice(0, 10)}, ${availableParallelism()} processors (${cpu?.model.trim() ?? 'unknown'}), Node ${process.versions.node}`
  process.stdout.write(`${markdown ? '' : '\n'}${table(rows)}\n\nMedians, ${machine}.\n`)
  for (const note of notes) process.stdout.write(`\n${note}\n`)
}

// ---- start

/** From the start of the process to the first connection, and to the end where there is nothing to do. */
async function start(): Promise<void> {
  let connected: (() => void) | undefined
  const server = createServer((socket) => {
    socket.on('error', () => undefined).resume()
    connected?.()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  const folder = mkdtempSync(join(tmpdir(), 'aipg-bench-'))
  const inputVariables = Object.fromEntries(
    Object.entries(await inputsForStart()).map(([name, value]) => [`INPUT_${name.toUpperCase()}`, value]),
  )
  const env = { RUNNER_TEMP: folder, ACTIONS_ID_TOKEN_REQUEST_TOKEN: 'token' }
  const toFirstRequest = (): Promise<number> =>
    new Promise((resolve, reject) => {
      const began = performance.now()
      const child = node([join(dist, 'index.js')], {
        ...env,
        ...inputVariables,
        ACTIONS_ID_TOKEN_REQUEST_URL: `https://127.0.0.1:${port}/oidc?v=1`,
      })
      child.on('error', reject)
      connected = () => {
        const took = performance.now() - began
        connected = undefined
        child.on('exit', () => resolve(took))
        child.kill('SIGKILL')
      }
    })
  const found = await interleaved(runs || 21, {
    bare: () => toExit(['-e', '0'], {}, 0),
    request: toFirstRequest,
    error: () => toExit([join(dist, 'index.js')], env, 1),
    post: () => toExit([join(dist, 'post.js')], env, 0),
  })
  server.close()
  rmSync(folder, { recursive: true })
  const bare = median(found.bare)
  const row = (what: string, times: readonly number[]): void => {
    rows.push({ what, measured: ms(median(times)), floor: `${ms(bare)}: \`node -e 0\``, ratio: median(times) / bare, aim: 2.5 })
  }
  row('start to the first network request', found.request)
  row('an input error, to the exit', found.error)
  row('a post step with nothing to do, to the exit', found.post)
}

/** Inputs that are good enough to sign in with. */
async function inputsForStart(): Promise<Record<string, string>> {
  const { parse } = await import('yaml')
  const action = parse(readFileSync(join(root, 'action.yml'), 'utf8')) as { inputs: Record<string, { default?: string }> }
  const defaults = Object.entries(action.inputs).map(([name, input]): [string, string] => [name, String(input.default ?? '')])
  return {
    ...Object.fromEntries(defaults.filter(([, value]) => !value.startsWith('${{'))),
    server:
      '/subscriptions/3c0b9a52-6d1f-4f7e-a1f4-8e5d70b6c219/resourceGroups/rg/providers/Microsoft.DBforPostgreSQL/flexibleServers/pg-one',
    openai:
      '/subscriptions/3c0b9a52-6d1f-4f7e-a1f4-8e5d70b6c219/resourceGroups/rg/providers/Microsoft.CognitiveServices/accounts/ai-one',
    databases: 'app',
    'tenant-id': '3c0b9a52-6d1f-4f7e-a1f4-8e5d70b6c219',
    'client-id': '3c0b9a52-6d1f-4f7e-a1f4-8e5d70b6c219',
  }
}

function node(command: readonly string[], env: Record<string, string>) {
  return spawn(process.execPath, command, { env: { PATH: process.env['PATH'] ?? '', ...env }, stdio: 'ignore' })
}

function toExit(command: readonly string[], env: Record<string, string>, expected: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const began = performance.now()
    const child = node(command, env)
    child.on('error', reject)
    child.on('exit', (code) => {
      const took = performance.now() - began
      if (code === expected) resolve(took)
      else reject(new Error(`node ${command.join(' ')} ended with ${code}`))
    })
  })
}

// ---- the chain of round trips

/** A check that finds no drift, with a round-trip time of 50 ms, compared with its longest chain of dependent round trips. */
async function chain(): Promise<void> {
  await withEmulator({ databases: ['app'], far: true }, async (emulator) => {
    await setUp(emulator)
    setRoundTrip(emulator, roundTripMs)
    const seen: { took: number; links: Link[] }[] = []
    for (let run = 0; run < (runs || 9); run++) {
      const { result, trips, label } = await traced(emulator, { mode: 'check' })
      expectResult(result, 'in-sync')
      const links = chainOf(trips, roundTripMs, result.startedAt, (trip) => label(trip) !== '').map((link) => ({
        ...link,
        line: label(link),
      }))
      seen.push({ took: result.endedAt - result.startedAt, links })
    }
    const took = median(seen.map((each) => each.took))
    const length = median(seen.map(({ links }) => links.length))
    const shown = seen.toSorted((a, b) => a.took - b.took)[seen.length >> 1]?.links ?? []
    const far = median(seen.map(({ links }) => sum(links.map((each) => each.far))))
    const own = median(seen.map((each) => each.took - sum(each.links.map((link) => link.far)) - each.links.length * roundTripMs))
    rows.push({
      what: `\`check\` that finds nothing: four services, one database, ${roundTripMs} ms a round trip`,
      measured: ms(took),
      floor: `${ms(length * roundTripMs)}: ${length} round trips`,
      ratio: took / (length * roundTripMs),
      aim: 1.3,
    })
    rows.push({
      what: 'the same, without the time that the emulator itself took to answer on that chain',
      measured: ms(took - far),
      floor: `${ms(length * roundTripMs)}: ${length} round trips`,
      ratio: (took - far) / (length * roundTripMs),
      aim: 1.3,
    })
    let at = 0
    const lines = shown.map((link, index) => {
      at += link.before + link.far + roundTripMs
      return `| ${index + 1} | ${link.proxy} | ${ms(link.before)} | ${ms(link.far)} | ${ms(at)} |`
    })
    notes.push(
      `The chain of the median run. Own time in all: ${ms(own)}.\n\n| | round trip | own time before it | answered in | at |\n|---|---|---|---|---|\n${lines.join('\n')}`,
    )
  })
}

/** Runs the action once and returns the round trips of the run, with a label for each; '' for one that nothing waits for. */
async function traced(
  emulator: Emulator,
  inputs: Record<string, string>,
): Promise<{ result: JobResult; trips: Trip[]; label: (trip: Trip) => string }> {
  const proxies = proxiesOf(emulator)
  for (const proxy of [proxies.http, proxies.postgres]) proxy.clear()
  emulator.world.exchanges.length = 0
  const result = await run(emulator, inputs)
  const trips = [...proxies.http.trips(), ...proxies.postgres.trips()]
  const exchanges = Map.groupBy(emulator.world.exchanges, ({ port }) => port)
  // The client's last message of the handshake is answered with tickets, and its closing message with another: nothing waits for these.
  const isIdle = (trip: Trip): boolean =>
    trip.proxy === 'PostgreSQL'
      ? (trip.index === 3 && trip.sent < 100) || (trip.index > 3 && trip.sent < 60)
      : trip.index === 2 && trip.sent < 100
  /** How many round trips of its connection that the run waited for lie between the last of the handshake and this one. */
  const before = (trip: Trip, handshake: number): number =>
    trips.filter(
      (each) =>
        each.proxy === trip.proxy &&
        each.connection === trip.connection &&
        each.index > handshake &&
        each.index < trip.index &&
        !isIdle(each),
    ).length
  const label = (trip: Trip): string => {
    const where = `${trip.proxy} ${trip.connection}`
    if (trip.index === 0) return `${where}: TCP`
    if (trip.proxy === 'PostgreSQL') {
      if (trip.index === 1) return `${where}: SSLRequest`
      if (trip.index === 2) return `${where}: TLS`
      if (isIdle(trip)) return ''
      const nth = before(trip, 2)
      return `${where}: ${['startup', 'password'][nth] ?? `SQL ${nth - 1}`}`
    }
    if (trip.index === 1) return `${where}: TLS`
    if (isIdle(trip)) return ''
    const exchange = exchanges.get(trip.port)?.[before(trip, 1)]
    return `${where}: ${exchange === undefined ? 'a request' : `${exchange.method} ${shortened(exchange.url)}`}`
  }
  return { result, trips, label }
}

/** A path without the parts that say nothing. */
function shortened(url: string): string {
  return (url.split('?')[0] ?? '')
    .replace(/^\/+/, '/')
    .replace(/\/subscriptions\/[^/]+\/resourceGroups\/[^/]+\/providers/i, '…')
    .replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}/gi, '…')
}

// ---- many databases

/** Time and peak memory of apply and check by the number of databases, against one. */
async function databases(): Promise<void> {
  const counts = [1, 10, 100, 200]
  const names = Array.from({ length: 200 }, (_, index) => `db${String(index + 1).padStart(3, '0')}`)
  await withEmulator({ databases: names }, async (emulator) => {
    await run(emulator, { databases: 'db001' })
    const firsts = new Map<string, { took: number; memory: number }>()
    for (const count of counts) {
      for (const mode of ['apply', 'check']) {
        // Those that are there already have nothing left to do: each apply meets fresh ones.
        if (mode === 'apply')
          for (const name of names) await emulator.postgres.query(name, 'DROP EXTENSION IF EXISTS azure_ai CASCADE')
        const result = await run(emulator, { mode, databases: names.slice(0, count).join('\n') })
        expectResult(result, mode === 'apply' ? 'changed' : 'in-sync')
        const took = result.endedAt - result.startedAt
        const memory = peakMemory(result)
        const first = firsts.get(mode) ?? { took, memory }
        firsts.set(mode, first)
        rows.push({
          what: `\`${mode}\`, ${count} ${count === 1 ? 'database' : 'databases'}`,
          measured: `${(took / 1_000).toFixed(1)} s, ${memory.toFixed(0)} MB`,
          floor: count === 1 ? '' : `${(first.took / 1_000).toFixed(1)} s, ${first.memory.toFixed(0)} MB: one database`,
          ratio: count === 1 ? undefined : took / first.took,
          aim: undefined,
        })
      }
    }
  })
}

// ---- fleet

/** Time and peak memory of an inventory by the number of servers, three databases each, against one. One PostgreSQL is behind them all. */
async function fleet(): Promise<void> {
  let first: { took: number; memory: number } | undefined
  for (const count of [1, 10, 100, 500]) {
    const names = ['app', 'sales', 'support']
    await withEmulator({ databases: names, fleet: true, shape: largeFleet(count) }, async (emulator) => {
      const key = emulator.world.accounts[0]?.keys.key1
      const settings = [
        'auth_type',
        'subscription-key',
        'endpoint',
        'https://contoso-openai.openai.azure.com',
        'subscription_key',
        key,
      ]
      for (const name of names) {
        await emulator.postgres.query(name, 'CREATE EXTENSION IF NOT EXISTS azure_ai')
        for (let at = 0; at < settings.length; at += 2)
          await emulator.postgres.query(name, 'SELECT azure_ai.set_setting($1, $2)', [
            `azure_openai.${settings[at]}`,
            settings[at + 1],
          ])
      }
      const kept = ['environment', 'tenant-id', 'client-id', 'audience']
      const blank = Object.keys(emulator.inputs).flatMap((name) => (kept.includes(name) ? [] : [[name, ''] as const]))
      const result = await run(emulator, {
        ...Object.fromEntries(blank),
        ...{
          mode: 'inventory',
          'allow-restart': 'false',
          scope: `/subscriptions/${emulator.world.subscriptionId}`,
          'database-port': String(emulator.fleet?.port),
        },
      })
      expectResult(result, 'drift')
      if (result.outputs['stored-keys'] !== String(3 * count)) throw new Error(`stored-keys is ${result.outputs['stored-keys']}`)
      const took = result.endedAt - result.startedAt
      const memory = peakMemory(result)
      first ??= { took, memory }
      const [seconds, size] = [(took / 1_000).toFixed(1), Buffer.byteLength(result.outputs['matrix'] ?? '')]
      rows.push({
        what: `\`inventory\`, ${count} ${count === 1 ? 'server' : 'servers'} with three databases each`,
        measured: `${seconds} s, ${memory.toFixed(0)} MB; matrix ${(size / 1_000).toFixed(0)} kB, report ${(JSON.stringify(result.report).length / 1_000).toFixed(0)} kB`,
        floor: count === 1 ? '' : `${(first.took / 1_000).toFixed(1)} s, ${first.memory.toFixed(0)} MB: one server`,
        ratio: count === 1 ? undefined : took / first.took,
        aim: undefined,
      })
    })
  }
}

// ---- by hand

/** The same work with curl and psql, as documentation describes it, on the same emulator and through the same proxies. */
async function byHand(): Promise<void> {
  const script = join(root, 'scripts', 'by-hand.sh')
  const missing = ['bash', 'curl', 'psql'].filter((tool) => spawnSync(tool, ['--version'], { stdio: 'ignore' }).status !== 0)
  if (missing.length > 0) {
    notes.push(`By hand: skipped: no ${missing.join(', ')}.`)
    return
  }
  if (spawnSync('az', ['version'], { stdio: 'ignore' }).status !== 0)
    notes.push('By hand with az: skipped: no az. The table has the figures of curl, which starts faster than az.')
  const delays = { operation: 2_000, identityPropagation: 3_000, principalReplication: 2_000, rolePropagation: 5_000 }
  const measure = async (body: (emulator: Emulator) => Promise<number[]>): Promise<number[]> => {
    let took: number[] = []
    await withEmulator({ databases: ['app'], far: true, delays }, async (emulator) => {
      setRoundTrip(emulator, roundTripMs)
      took = await body(emulator)
    })
    return took
  }
  const times: Record<'action' | 'actionAgain' | 'script' | 'scriptAgain', number[]> = {
    action: [],
    actionAgain: [],
    script: [],
    scriptAgain: [],
  }
  for (let count = 0; count < (runs || 3); count++) {
    const [first = 0, second = 0] = await measure(async (emulator) => {
      const one = await run(emulator, {})
      expectResult(one, 'changed')
      const two = await run(emulator, {})
      expectResult(two, 'in-sync')
      return [one.endedAt - one.startedAt, two.endedAt - two.startedAt]
    })
    const [byScript = 0, again = 0] = await measure(async (emulator) => [
      await shell(script, emulator),
      await shell(script, emulator),
    ])
    times.action.push(first)
    times.actionAgain.push(second)
    times.script.push(byScript)
    times.scriptAgain.push(again)
  }
  const sleeps = [...readFileSync(script, 'utf8').matchAll(/^\s*pause (\d+)/gm)].reduce(
    (all, [, seconds]) => all + Number(seconds),
    0,
  )
  const seconds = (took: number): string => `${(took / 1_000).toFixed(1)} s`
  const row = (what: string, own: readonly number[], script: readonly number[], slept: number): void => {
    const floor = median(script) + slept * 1_000
    rows.push({
      what,
      measured: seconds(median(own)),
      floor: `${seconds(floor)}: the script${slept > 0 ? `, ${slept} s of it fixed sleeps` : ' without its fixed sleeps'}`,
      ratio: median(own) / floor,
      aim: undefined,
    })
  }
  row('from nothing, against a script', times.action, times.script, sleeps)
  row('from nothing, against a script that never sleeps and tries its test query until it passes', times.action, times.script, 0)
  row('again, with nothing to do, against the script', times.actionAgain, times.scriptAgain, sleeps)
  row('again, with nothing to do, against the script without its sleeps', times.actionAgain, times.scriptAgain, 0)
}

/** Runs the script; its pauses are left out, what it does is done. */
function shell(script: string, emulator: Emulator): Promise<number> {
  const env: Record<string, string> = { PATH: process.env['PATH'] ?? '', HOME: emulator.folder, ...emulator.env, NO_PAUSE: '1' }
  env['CURL_CA_BUNDLE'] = emulator.caFile
  env['PGSSLROOTCERT'] = emulator.caFile
  env['POSTGRES_AUDIENCE'] = postgresAudience
  for (const [name, value] of Object.entries(emulator.inputs)) env[name.toUpperCase().replaceAll('-', '_')] = value
  return new Promise((resolve, reject) => {
    const began = performance.now()
    const child = spawn('bash', [script], { env, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      output += text
    })
    child.on('error', reject)
    child.on('close', (code) => {
      if (code === 0) resolve(performance.now() - began)
      else reject(new Error(`The script ended with ${code}:\n${output}`))
    })
  })
}

// ---- the bundle

/** What is downloaded with the action, and what of it each way of running loads. */
function bundle(): void {
  const files = readdirSync(dist).map((name) => ({
    name,
    size: statSync(join(dist, name)).size,
    gzip: gzipSync(readFileSync(join(dist, name))).length,
  }))
  const kb = (bytes: number): string => `${Math.round(bytes / 1_000)} kB`
  const code = files.filter(({ name }) => /\.c?js$/.test(name))
  rows.push({
    what: 'size of the code in dist/',
    measured: `${kb(sum(code.map(({ size }) => size)))} (${kb(sum(code.map(({ gzip }) => gzip)))} gzip)`,
    floor: '',
    ratio: undefined,
    aim: undefined,
  })
  const listed = code.toSorted((a, b) => b.size - a.size).map(({ name, size, gzip }) => `| ${name} | ${kb(size)} | ${kb(gzip)} |`)
  notes.push(`| file | size | gzip |\n|---|---|---|\n${listed.join('\n')}`)
}

// ---- shared

async function withEmulator(options: EmulatorOptions, body: (emulator: Emulator) => Promise<void>): Promise<void> {
  const emulator = await startEmulator({ ...options, delays: { operation: 0, ...options.delays } })
  try {
    await body(emulator)
  } finally {
    await emulator.stop()
  }
}

/** Everything as the inputs require, so that a check finds no drift. */
async function setUp(emulator: Emulator): Promise<void> {
  expectResult(await run(emulator, {}), 'changed')
}

function proxiesOf(emulator: Emulator) {
  if (emulator.latencyProxies === undefined) throw new Error('start the emulator with `far`')
  return emulator.latencyProxies
}

function setRoundTrip(emulator: Emulator, ms: number): void {
  const proxies = proxiesOf(emulator)
  proxies.http.roundTripMs = ms
  proxies.postgres.roundTripMs = ms
}

async function run(emulator: Emulator, inputs: Record<string, string>): Promise<JobResult> {
  // The process prints at its end how much memory it had at most, in kilobytes.
  const printPeakMemory = `process.on('exit', () => require('node:fs').writeSync(2, 'peak memory ' + process.resourceUsage().maxRSS + '\\n'))`
  const env = {
    ...emulator.env,
    ...emulator.fleet?.env,
    ...(inputs['databases'] === undefined
      ? {}
      : {
          NODE_OPTIONS: `${emulator.fleet?.env['NODE_OPTIONS'] ?? ''} --import=data:text/javascript,${encodeURIComponent(`import{createRequire}from'node:module';const require=createRequire('/');${printPeakMemory}`)}`,
        }),
  }
  const result = await runJob({ inputs: { ...emulator.inputs, 'allow-restart': 'true', ...inputs }, env })
  await result.remove()
  return result
}

/** In megabytes. */
function peakMemory({ raw }: JobResult): number {
  return Number(/peak memory (\d+)/.exec(raw)?.[1] ?? Number.NaN) / 1_024
}

function expectResult({ outputs, log }: JobResult, expected: string): void {
  if (outputs['result'] !== expected) throw new Error(`The run ended ${outputs['result']}, not ${expected}:\n${log}`)
}

/** One of each in turn, so that what disturbs the machine disturbs all alike. */
async function interleaved<K extends string>(
  count: number,
  ways: Record<K, () => Promise<number>>,
): Promise<Record<K, number[]>> {
  const found = {} as Record<K, number[]>
  for (const name of Object.keys(ways) as K[]) found[name] = []
  for (let round = 0; round < count; round++) for (const name of Object.keys(ways) as K[]) found[name].push(await ways[name]())
  return found
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? (sorted[middle] ?? Number.NaN) : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2
}

function sum(values: readonly number[]): number {
  return values.reduce((all, each) => all + each, 0)
}

function ms(value: number): string {
  return `${Math.round(value)} ms`
}

function table(list: readonly Row[]): string {
  const cells = list.map(({ what, measured, floor, ratio, aim }) => [
    what,
    measured,
    floor,
    ratio === undefined ? '' : ratio.toFixed(2),
    aim === undefined ? '' : `${aim}${ratio !== undefined && ratio > aim ? ' (missed)' : ''}`,
  ])
  const all = [['what', 'measured', 'floor', 'ratio', 'aim'], ...cells]
  if (markdown) return all.map((row, index) => `| ${row.join(' | ')} |${index === 0 ? '\n|---|---|---|---|---|' : ''}`).join('\n')
  const widths = [0, 1, 2, 3, 4].map((column) => Math.max(...all.map((row) => row[column]?.length ?? 0)))
  return all
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}
