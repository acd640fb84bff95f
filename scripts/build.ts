/**
 * Builds the action: `node scripts/build.ts` writes dist/ afresh.
 * The result depends on the sources and package-lock.json alone, not on the folder, the user or the machine.
 */

import { execFile } from 'node:child_process'
import { realpathSync } from 'node:fs'
import { mkdir, mkdtemp, realpath, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { minify } from 'terser'
import { type Licensed, licencesFile, licencesOf } from './licences.ts'

/** A bundle's files: contents by name. */
export type Bundle = Map<string, Buffer>

/** The code of both steps is in one file and its chunks. Each step has an entry of its own, which no variable can exchange. */
const shared = 'shared.js'
const entries = { 'index.js': 'main', 'post.js': 'post' } as const

interface NccResult {
  code: string
  assets: Record<string, { source: string | Buffer }>
}
type Ncc = (entry: string, options: Record<string, unknown>) => Promise<NccResult>

const require = createRequire(import.meta.url)

/**
 * What the bundle contains in the place of modules that are never run, or hardly ever: by name, as the source of a module.
 * A path of `tsconfig.json` leads to each of them, which the bundler follows in the packages as well.
 */
const substitutes = {
  // Opens a browser for an interactive login, which no runner has.
  open: `export default () => Promise.reject(new Error('There is no browser on a runner'))
`,
  // A third of the start-up time: @actions/http-client imports it for a proxy class that only Octokit requests. It is loaded when
  // there is a proxy; without one Node's own fetch, which is the same code, is used.
  undici: `import { createRequire } from 'node:module'
const load = (name) => createRequire(import.meta.url)(name)
export class ProxyAgent {
  constructor(...args) {
    return new (load('./undici.cjs').ProxyAgent)(...args)
  }
}
export const fetch = (url, options) =>
  options?.dispatcher === undefined ? globalThis.fetch(url, options) : load('./undici.cjs').fetch(url, options)
`,
  // jsonwebtoken compares the version of Node with those before 17.
  semver: `export const satisfies = () => true
`,
  // pg extends the first when it is loaded, and calls the second for a password when there is none.
  'pg-pool': `module.exports = class {}
`,
  pgpass: `module.exports = () => undefined
`,
}

/**
 * Compiles and bundles the sources of a project folder, in memory.
 * Throws with the compiler's or the bundler's messages.
 */
export async function bundle(root: string): Promise<Bundle> {
  // Webpack derives module ids from paths relative to the working folder: it has to lie at the same place relative to node_modules always.
  const modules = await realpath(join(root, 'node_modules'))
  const parent = join(dirname(modules), 'build')
  await mkdir(parent, { recursive: true })
  const folder = await mkdtemp(join(parent, 'dist-'))
  const before = process.cwd()
  try {
    await compile(root, folder)
    process.chdir(folder)
    await writeFile(join(folder, 'undici.cjs'), `module.exports = require('undici')\n`)
    const second = await ncc(join(folder, 'undici.cjs'), 'undici.cjs')
    const paths: Record<string, string[]> = {}
    for (const [name, source] of Object.entries(substitutes)) {
      const file = `${name}.substitute.${source.startsWith('module.exports') ? 'cjs' : 'js'}`
      await writeFile(join(folder, file), source)
      paths[name] = [`./${file}`]
    }
    await writeFile(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions: { baseUrl: '.', paths } }))
    const both = Object.values(entries).map((step) => `export { ${step} } from './${step}.js'\n`)
    await writeFile(join(folder, shared), both.join(''))
    const action = await ncc(join(folder, shared), shared)

    const files: Bundle = new Map([...second, ...action])
    for (const [name, step] of Object.entries(entries))
      files.set(name, Buffer.from(`import { ${step} } from './${shared}'\nawait ${step}()\n`))
    // ncc's own list lacks the packages whose modules it joins, and the texts of others. Its loader is in the bundle as well.
    const packages = await licencesOf(dirname(modules), ['@vercel/ncc'])
    for (const each of [action, second]) expectAll(packages, each.get('licenses.txt')?.toString() ?? '')
    files.set('licenses.txt', Buffer.from(licencesFile(packages)))
    for (const [name, content] of files) if (/\.c?js$/.test(name)) files.set(name, await shrink(name, content))
    return new Map([...files].sort(([a], [b]) => (a < b ? -1 : 1)))
  } finally {
    process.chdir(before)
    await rm(folder, { recursive: true, force: true })
  }
}

/** Throws when the bundle contains a package whose licence is not among those. `listed` is what ncc wrote: a name, a licence, a text. */
function expectAll(packages: readonly Licensed[], listed: string): void {
  const known = new Set(packages.map(({ name }) => name))
  const names =
    listed.match(/^(@[a-z][\w.-]*\/)?[a-z][\w.-]*$(?=\n(MIT|ISC|Apache-2\.0|BSD|0BSD|MPL|CC|Unlicense|\(|UNKNOWN))/gm) ?? []
  const missing = names.filter((name) => !known.has(name) && name !== 'azure-ai-postgres-identity')
  if (names.length === 0 || missing.length > 0)
    throw new Error(`The bundle contains packages without a licence text: ${missing.join(', ')}`)
}

/** Replaces the contents of a folder by the bundle. */
export async function writeBundle(files: Bundle, folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true })
  await mkdir(folder, { recursive: true })
  for (const [name, content] of files) await writeFile(join(folder, name), content)
}

async function compile(root: string, folder: string): Promise<void> {
  const tsc = join(dirname(require.resolve('typescript/package.json')), 'bin', 'tsc')
  const args = [tsc, '--project', join(root, 'tsconfig.build.json'), '--outDir', folder]
  await promisify(execFile)(process.execPath, args).catch((error: { stdout?: string; message: string }) => {
    throw new Error(`The TypeScript compiler refuses the sources:\n${error.stdout || error.message}`)
  })
}

async function ncc(entry: string, filename: string, options: Record<string, unknown> = {}): Promise<Bundle> {
  // ncc itself uses a deprecated call of Node's; a reader of the build's output cannot change that.
  process.noDeprecation = true
  const build = require('@vercel/ncc') as Ncc
  const { code, assets } = await build(entry, {
    ...options,
    filename,
    cache: false,
    quiet: true,
    license: 'licenses.txt',
    target: 'es2023',
    // Packages without `exports`: their ES modules, or the CommonJS ones would bring a second copy of the packages below them.
    mainFields: ['module', 'main'],
  })
  const files: Bundle = new Map(Object.entries(assets).map(([name, { source }]) => [name, Buffer.from(source)]))
  return files.set(filename, Buffer.from(code))
}

/** ncc's own minifier leaves the chunks of lazy imports as they are. */
async function shrink(name: string, content: Buffer): Promise<Buffer> {
  const { code } = await minify(content.toString(), {
    module: !name.endsWith('.cjs'),
    ecma: 2020,
    // Names of classes and functions are what stack traces and some comparisons at run time go by.
    mangle: { keep_classnames: true, keep_fnames: true },
    compress: { keep_classnames: true, keep_fnames: true },
    format: { comments: false },
  })
  if (!code) throw new Error(`Minifying ${name} gave nothing`)
  return Buffer.from(`${code}\n`)
}

// Not import.meta.main: that came with Node 24.2.
if (realpathSync(process.argv[1] ?? '') === import.meta.filename) {
  const root = dirname(import.meta.dirname)
  const files = await bundle(root)
  await writeBundle(files, join(root, 'dist'))
  for (const [name, content] of files) console.log(`${String(content.length).padStart(9)}  dist/${name}`)
}
