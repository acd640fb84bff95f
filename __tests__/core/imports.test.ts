/** The rules of src/: which folder may import which, no circles, and which code only the two entries may contain. */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, posix } from 'node:path'
import { describe, expect, test } from 'vitest'

const root = join(import.meta.dirname, '..', '..', 'src')
const files = new Map(
  readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts'))
    .map((file) => file.replaceAll('\\', '/'))
    .sort()
    .map((file) => [file, readFileSync(join(root, file), 'utf8')] as const),
)

type Graph = ReadonlyMap<string, readonly string[]>

/** Imports of each file, types and dynamic ones included: paths below src/, or names of packages. */
function graphOf(sources: ReadonlyMap<string, string>): Graph {
  const specifier = /(?:\bfrom|\bimport\(|^import)\s*'([^']+)'/gm
  return new Map(
    [...sources].map(([file, text]) => [
      file,
      [...text.matchAll(specifier)].map(([, name = '']) => (name.startsWith('.') ? posix.join(dirname(file), name) : name)),
    ]),
  )
}

/** What each folder may import beside itself; the entries import everything. */
const allowed: Readonly<Record<string, readonly string[]>> = {
  lib: [],
  errors: ['lib'],
  core: ['errors', 'lib'],
  azure: ['core', 'errors', 'lib'],
  postgres: ['core', 'errors', 'lib'],
  github: ['core', 'errors', 'lib'],
  report: ['github', 'core', 'errors', 'lib'],
  verification: ['postgres', 'core', 'errors', 'lib'],
  stages: ['verification', 'azure', 'postgres', 'github', 'core', 'errors', 'lib'],
  modes: ['stages', 'verification', 'report', 'azure', 'postgres', 'github', 'core', 'errors', 'lib'],
}
const folderOf = (file: string): string => (file.includes('/') ? (file.split('/')[0] ?? '') : 'entries')
const isSdk = (name: string): boolean => /^(@azure\/|@octokit\/|@actions\/|pg\b|pg-)/.test(name)
/** The toolkit's core writes outputs and state, which the entries do. */
const sdkFolders = ['azure', 'postgres', 'github', 'entries']

function brokenRules(graph: Graph): string[] {
  const broken: string[] = []
  for (const [file, imports] of graph) {
    const from = folderOf(file)
    for (const name of imports) {
      if (!graph.has(name)) {
        if (isSdk(name) && !sdkFolders.includes(from)) broken.push(`${file} imports ${name}`)
        continue
      }
      const to = folderOf(name)
      if (from !== 'entries' && to !== from && !(allowed[from] ?? []).includes(to)) broken.push(`${file} imports ${name}`)
    }
  }
  return broken.sort()
}

/** The files of each circle, sorted. */
function circles(graph: Graph): string[][] {
  const reach = (from: string): Set<string> => {
    const seen = new Set<string>()
    const open = [from]
    for (let file = open.pop(); file !== undefined; file = open.pop())
      for (const next of graph.get(file) ?? [])
        if (graph.has(next) && !seen.has(next)) {
          seen.add(next)
          open.push(next)
        }
    return seen
  }
  const reached = new Map([...graph.keys()].map((file) => [file, reach(file)]))
  const groups = new Map<string, string[]>()
  for (const [file, seen] of reached) {
    if (!seen.has(file)) continue
    const group = [...seen].filter((other) => reached.get(other)?.has(file) === true).sort()
    groups.set(group.join(), group)
  }
  return [...groups.values()]
}

const graph = graphOf(files)

test('every folder imports only the layers below it, and no adapter imports another', () => {
  expect(brokenRules(graph)).toEqual([])
})

test('no file imports itself through others, including types and dynamic imports', () => {
  expect(circles(graph)).toEqual([])
})

test('only the two entries read the environment', () => {
  const readers = [...files].filter(([, text]) => text.includes('process.env')).map(([file]) => file)
  expect(readers).toEqual(['post.ts'])
})

describe('the checker itself', () => {
  const made = (sources: Record<string, string>): Graph => graphOf(new Map(Object.entries(sources)))

  test('it reports an upward import, one of a type, a dynamic one, one of another adapter and one of an SDK', () => {
    const found = brokenRules(
      made({
        'lib/a.ts': "import type { B } from '../errors/b.ts'",
        'errors/b.ts': "export * from '../core/c.ts'",
        'core/c.ts': "await import('../azure/d.ts')",
        'azure/d.ts': "import { e } from '../postgres/e.ts'",
        'postgres/e.ts': "import pg from 'pg'",
        'stages/f.ts': "import { DefaultAzureCredential } from '@azure/identity'",
        'main.ts': "import { d } from './azure/d.ts'",
      }),
    )
    expect(found).toEqual([
      'azure/d.ts imports postgres/e.ts',
      'core/c.ts imports azure/d.ts',
      'errors/b.ts imports core/c.ts',
      'lib/a.ts imports errors/b.ts',
      'stages/f.ts imports @azure/identity',
    ])
  })

  test('it reports a circle of three files, and none where there is none', () => {
    const three = { 'core/a.ts': "from './b.ts'", 'core/b.ts': "from './c.ts'", 'core/c.ts': "import('./a.ts')" }
    expect(circles(made(three))).toEqual([['core/a.ts', 'core/b.ts', 'core/c.ts']])
    expect(circles(made({ ...three, 'core/c.ts': '' }))).toEqual([])
  })
})
