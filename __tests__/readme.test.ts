import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { expect, test } from 'vitest'
import { parse } from 'yaml'
import { withTables } from '../scripts/docs.ts'
import { services } from '../src/services.ts'

const root = dirname(import.meta.dirname)
const read = (path: string): string => readFileSync(join(root, path), 'utf8')
const readme = read('README.md')
const action = parse(read('action.yml')) as { inputs: Record<string, { required?: boolean }> }

test('the tables of inputs and outputs are those of action.yml (npm run docs)', () => {
  expect(withTables(readme, read('action.yml'))).toBe(readme)
})

test('a missing marker is told', () => {
  expect(() => withTables('', read('action.yml'))).toThrow('lacks <!-- inputs -->')
})

test('the workflow to copy has every required input, only inputs that exist, and just the permissions it needs', () => {
  const [, block = ''] = /```yaml\n(name:[\s\S]*?)```/.exec(readme) ?? []
  const workflow = parse(block)
  const { identity } = workflow.jobs
  expect(workflow.permissions).toEqual({})
  expect(identity.permissions).toEqual({ 'id-token': 'write', contents: 'read' })
  const [step] = identity.steps
  expect(step.uses).toBe('OWNER/azure-ai-postgres-identity@v1')
  const given = Object.keys(step.with)
  expect(given.filter((name) => action.inputs[name] === undefined)).toEqual([])
  const required = Object.keys(action.inputs).filter((name) => action.inputs[name]?.required === true)
  expect(required.filter((name) => !given.includes(name))).toEqual([])
})

test('the table of services names the roles that are assigned', () => {
  for (const { name, role } of services) expect(readme).toContain(`| \`${name}\` | ${role.name} |`)
})

test.each(['README.md', 'docs/README.md', 'docs/architecture.md', 'docs/emulator.md'])('links of %s lead somewhere', (path) => {
  const text = read(path)
  const links = [...text.matchAll(/\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)/g)].map((match) => match[1] ?? '')
  expect(links.filter((link) => !existsSync(join(root, dirname(path), link)))).toEqual([])
})

test('the commands that README and docs name exist', () => {
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
  for (const path of ['README.md', 'docs/emulator.md', 'docs/architecture.md']) {
    for (const [, name = ''] of read(path).matchAll(
      /npm (?:run )?(demo|test|emulator|conformance|docs|build|check-dist|lint)\b/g,
    )) {
      expect(Object.keys(scripts)).toContain(name)
    }
  }
})

test('every folder and file that docs/architecture.md names exists', () => {
  const named = [...read('docs/architecture.md').matchAll(/`((?:src|emulator|scripts|dist|__tests__)\/[\w./-]*)`/g)].map(
    (match) => match[1] ?? '',
  )
  expect(named.length).toBeGreaterThan(20)
  expect(named.filter((path) => !existsSync(join(root, path)))).toEqual([])
})

test('docs/emulator.md tells every switch and every delay', () => {
  const world = read('emulator/world.ts')
  const members = (name: string): string[] => {
    const [, body = ''] = new RegExp(`export interface ${name} \\{([\\s\\S]*?)\\n\\}`).exec(world) ?? []
    return [...body.matchAll(/^ {2}(\w+)\??:/gm)].map((match) => match[1] ?? '')
  }
  const told = read('docs/emulator.md')
  const all = [...members('Switches'), ...members('Delays')]
  expect(all.length).toBeGreaterThan(15)
  expect(all.filter((name) => !told.includes(`\`${name}\``))).toEqual([])
})
