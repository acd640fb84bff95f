/**
 * The fault sweep and the kill sweep as a command: `npm run sweep`. Exits with 1 when a claim fails anywhere.
 *
 *   --only http|sql|kill   one kind alone
 *   --sample N             N cases of all, chosen by --seed
 *   --seed S               a number; made up and printed when absent
 *   --stays N|all          how many of the cases whose fault stays for the whole run: they take minutes (one in ten when absent)
 *   --case ID              this case, with its logs; may be repeated
 *   --workers N            runs at once that need the processor (twice the processors when absent)
 *   --minutes N            begins no case after so many minutes; Ctrl-C does the same at once. The figures are those of the cases that ran
 *   --list                 the cases, without running them
 *
 * `npm run sweep -- laws` tries the laws instead, on 200 random worlds; --sample and --seed as above.
 * `npm run sweep -- scale`: 200 databases, and 20 runs at once.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { seeded } from '../__tests__/support/support.ts'
import {
  type Case,
  casesOf,
  type Kind,
  mostlyWaits,
  type Outcome,
  type Recording,
  record,
  runAll,
  shuffled,
} from '../__tests__/support/sweep/sweep.ts'
import { startWorld } from '../__tests__/support/sweep/world.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    only: { type: 'string' },
    sample: { type: 'string' },
    seed: { type: 'string' },
    stays: { type: 'string' },
    case: { type: 'string', multiple: true },
    workers: { type: 'string' },
    minutes: { type: 'string' },
    list: { type: 'boolean', default: false },
  },
})
if (positionals[0] === 'scale') {
  const vitest = join(import.meta.dirname, '..', 'node_modules', 'vitest', 'vitest.mjs')
  const args = [vitest, 'run', '--configLoader', 'native', '__tests__/modes/scale.test.ts']
  const { status } = spawnSync(process.execPath, args, { stdio: 'inherit', env: { ...process.env, SCALE: '200' } })
  process.exit(status ?? 1)
}
const seed = Number(values.seed ?? Math.floor(Math.random() * 2 ** 31))
if (positionals[0] === 'laws') process.exit(laws())

const workers = Number(values.workers ?? 2 * availableParallelism())
/** Cases at once that mostly wait. */
const patient = 16

const print = (line: string): void => void process.stdout.write(`${line}\n`)

/** Runs the tests of the laws in their long form; their exit code. */
function laws(): number {
  const vitest = join(import.meta.dirname, '..', 'node_modules', 'vitest', 'vitest.mjs')
  const env = { ...process.env, LAW_RUNS: values.sample ?? '200', LAW_SEED: String(seed) }
  const args = [vitest, 'run', '--configLoader', 'native', '--reporter=verbose', 'laws']
  return spawnSync(process.execPath, args, { env, stdio: 'inherit' }).status ?? 1
}

async function recorded(): Promise<Recording> {
  const emulator = await startWorld()
  try {
    return await record(emulator, 'full')
  } finally {
    await emulator.stop()
  }
}

function chosen(all: readonly Case[]): Case[] {
  if (values.case !== undefined) {
    return values.case.map((wanted) => {
      const found = all.find(({ id }) => id === wanted)
      if (found === undefined) throw new Error(`There is no case ${wanted}; --list shows them all.`)
      return found
    })
  }
  const random = seeded(seed)
  const kinds = all.filter(({ kind }) => values.only === undefined || kind === (values.only as Kind))
  const once = kinds.filter(({ stays }) => !stays)
  const staying = shuffled(
    kinds.filter(({ stays }) => stays),
    random,
  )
  const keep = values.stays === 'all' ? staying.length : Number(values.stays ?? Math.ceil(staying.length / 10))
  const cases = [...once, ...staying.slice(0, keep)]
  return values.sample === undefined ? cases : shuffled(cases, random).slice(0, Number(values.sample))
}

/** One line for each fault: tried, survived, how the first run ended. */
function table(outcomes: readonly Outcome[]): string {
  const rows = new Map<string, Outcome[]>()
  for (const outcome of outcomes) {
    const { kind, fault, stays } = outcome.of
    const name = `${kind} ${fault}${stays ? ' (stays)' : ''}`
    rows.set(name, [...(rows.get(name) ?? []), outcome])
  }
  const count = (list: readonly Outcome[], counts: (outcome: Outcome) => boolean): string => String(list.filter(counts).length)
  const lines = [...rows, ['all', outcomes] as const].map(([name, list]) => [
    name,
    count(list, ({ ended }) => ended !== 'unmet'),
    count(list, ({ ended }) => ended === 'survived'),
    count(list, ({ ended, first }) => ended === 'survived' && ['changed', 'in-sync'].includes(first)),
    count(list, ({ ended, first }) => ended === 'survived' && first.startsWith('failed')),
    count(list, ({ ended, first }) => ended === 'survived' && first === 'killed'),
    count(list, ({ ended }) => ended === 'unmet'),
    `${(Math.max(0, ...list.map(({ tookMs }) => tookMs)) / 1_000).toFixed(0)} s`,
  ])
  const head = [
    'fault',
    'tried',
    'survived',
    'first run ended well',
    'failed, with a reason',
    'killed',
    'never met',
    'longest run',
  ]
  return [head, head.map(() => '---'), ...lines].map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}

async function main(): Promise<void> {
  const recording = await recorded()
  const { points } = recording
  const requests = points.filter(({ by }) => by === 'http').length
  print(
    `A full apply and its post step: ${requests} requests, ${points.length - requests} statements, ${(recording.tookMs / 1_000).toFixed(1)} s.`,
  )
  const all = casesOf(points)
  const cases = chosen(all)
  print(`${cases.length} of ${all.length} cases, seed ${seed}.`)
  if (values.list) {
    for (const { id } of cases) print(id)
    return
  }
  const folder = mkdtempSync(join(tmpdir(), 'azure-sweep-'))
  const outcomes: Outcome[] = []
  const start = performance.now()
  const onOutcome = (outcome: Outcome): void => {
    outcomes.push(outcome)
    const { of, ended, first, second, broken, tookMs } = outcome
    const minutes = ((performance.now() - start) / 60_000).toFixed(1)
    print(
      `[${outcomes.length}/${cases.length}, ${minutes} min] ${ended}  ${of.id}  ${first}, then ${second} (${(tookMs / 1_000).toFixed(1)} s)`,
    )
    for (const line of broken) print(`    ${line}`)
    if (ended === 'casualty') {
      const file = join(folder, `${outcomes.length}.log`)
      writeFileSync(file, `${of.id}\n${broken.join('\n')}\n${outcome.logs}`)
      print(`    logs: ${file}\n    again: npm run sweep -- --case '${of.id}'`)
    }
    if (values.case !== undefined) print(outcome.logs)
  }
  const enough = new AbortController()
  process.once('SIGINT', () => enough.abort())
  if (values.minutes !== undefined) setTimeout(() => enough.abort(), Number(values.minutes) * 60_000).unref()
  const options = { recording, onOutcome, signal: enough.signal }
  const waiting = cases.filter(mostlyWaits)
  const working = cases.filter((each) => !mostlyWaits(each))
  await Promise.all([
    runAll(shuffled(working, seeded(seed + 1)), { ...options, workers }),
    runAll(shuffled(waiting, seeded(seed + 2)), { ...options, workers: patient }),
  ])
  print(`\n${table(outcomes)}\n`)
  const casualties = outcomes.filter(({ ended }) => ended === 'casualty')
  for (const { of, broken } of casualties) print(`casualty: npm run sweep -- --case '${of.id}'\n    ${broken.join('\n    ')}`)
  const unmet = outcomes.filter(({ ended }) => ended === 'unmet').length
  print(
    `Seed ${seed}: ${outcomes.length - unmet} of ${cases.length} cases tried, ${outcomes.length - unmet - casualties.length} survived, ${unmet} never met, in ${((performance.now() - start) / 60_000).toFixed(1)} min.`,
  )
  // A sweep that hardly meets what it recorded shows nothing.
  if (casualties.length > 0 || unmet > outcomes.length / 10) process.exitCode = 1
}

await main()
// Node may wait without an end for sockets of the emulator that are closed already.
process.exit()
