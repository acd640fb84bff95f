/** The licences of everything that may be in the bundle: the production dependencies and theirs, as they are installed. */
import { existsSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'

interface Manifest {
  name: string
  version: string
  license?: string
  author?: string | { name?: string }
  dependencies?: Record<string, string>
  optionalDependencies?: Record<string, string>
}

/** One package, as dist/licenses.txt lists it. */
export interface Licensed {
  readonly name: string
  readonly version: string
  /** SPDX. */
  readonly license: string
  readonly text: string
}

/**
 * Every package that the root package's dependencies bring, each version once, sorted by name.
 * @param also packages of the root beside its dependencies
 * @throws when one has no licence
 */
export async function licencesOf(root: string, also: readonly string[] = []): Promise<Licensed[]> {
  const found = new Map<string, Licensed>()
  const visit = async (folder: string): Promise<void> => {
    const { dependencies, optionalDependencies } = await manifest(folder)
    // The optional ones of the root are for its tasks: each a Node for one platform.
    const names =
      folder === root ? [...Object.keys(dependencies ?? {}), ...also] : Object.keys({ ...dependencies, ...optionalDependencies })
    for (const name of names) {
      const path = installed(folder, name)
      if (path === undefined && optionalDependencies?.[name] !== undefined) continue
      if (path === undefined) throw new Error(`${name}, which ${folder} needs, is not installed`)
      const { name: own, version, license = '', author = '' } = await manifest(path)
      const key = `${own} ${version}`
      if (found.has(key)) continue
      const text = await textOf(path)
      if (license === '') throw new Error(`${key} says nothing of its licence`)
      const by = typeof author === 'string' ? author : (author.name ?? '')
      found.set(key, { name: own, version, license, text: text === '' ? `By ${by}` : text })
      await visit(path)
    }
  }
  await visit(root)
  return [...found.values()].sort((a, b) => (`${a.name} ${a.version}` < `${b.name} ${b.version}` ? -1 : 1))
}

/** The contents of dist/licenses.txt. */
export function licencesFile(packages: readonly Licensed[]): string {
  return packages
    .map(({ name, version, license, text }) => `${rule}\n${name} ${version} (${license})\n${rule}\n\n${text}\n`)
    .join('\n')
}

const rule = '='.repeat(80)

async function manifest(folder: string): Promise<Manifest> {
  return JSON.parse(await readFile(join(folder, 'package.json'), 'utf8')) as Manifest
}

/** Where Node finds a package from a folder. */
function installed(from: string, name: string): string | undefined {
  for (let folder = from; ; folder = dirname(folder)) {
    const path = join(folder, 'node_modules', name)
    if (existsSync(join(path, 'package.json'))) return path
    if (dirname(folder) === folder) return undefined
  }
}

/** The licence file, or else the licence section of the README; '' when there is neither. */
async function textOf(folder: string): Promise<string> {
  const files = (await readdir(folder)).sort()
  const own = files.filter((file) => /^(licen[cs]e|copying|notice|thirdpartynotice)/i.test(file))
  const texts = await Promise.all(own.map((file) => readFile(join(folder, file), 'utf8')))
  if (texts.length > 0) return texts.map(even).join('\n\n')
  const readme = files.find((file) => /^readme/i.test(file))
  const content = readme === undefined ? '' : await readFile(join(folder, readme), 'utf8')
  return even(/^#+ *licen[cs]e.*\n([\s\S]*)/im.exec(content)?.[1] ?? '')
}

const even = (text: string): string => text.replaceAll('\r\n', '\n').trim()
