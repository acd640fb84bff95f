import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { expect, test } from 'vitest'
import { parse } from 'yaml'
import { inputGroups, withTables, workflows } from '../../scripts/docs.ts'
import { assignmentDescription } from '../../src/core/observed.ts'
import { allQueries, services } from '../../src/core/services.ts'

const root = join(import.meta.dirname, '..', '..')
const read = (path: string): string => readFileSync(join(root, path), 'utf8')
const readme = read('README.md')
const action = parse(read('action.yml')) as { inputs: Record<string, { required?: boolean }> }

test('the tables of inputs and outputs are those of action.yml (npm run docs)', () => {
  expect(withTables(readme, read('action.yml'))).toBe(readme)
})

test('a missing marker is reported', () => {
  expect(() => withTables('', read('action.yml'))).toThrow('lacks <!-- inputs -->')
})

test('README.md has at most 2,500 words, code included, and its first workflow is a check', () => {
  expect(readme.split(/\s+/).filter((word) => word !== '').length).toBeLessThanOrEqual(2_500)
  const [, block = ''] = /```yaml\n(# \S+\nname:[\s\S]*?)```/.exec(readme) ?? []
  expect(parse(block).jobs.identity.steps[0].with.mode).toBe('check')
  expect(readme.indexOf('mode: apply')).toBeGreaterThan(readme.indexOf('mode: check'))
  expect(readme.indexOf('`OWNER`')).toBeLessThan(readme.indexOf('OWNER/azure-ai-postgres-identity@v1'))
})

test('each input is in one group of the README', () => {
  expect(Object.values(inputGroups).flat().sort()).toEqual(Object.keys(action.inputs).sort())
  for (const name of Object.keys(action.inputs)) expect(read('docs/inputs.md')).toContain(`\n### \`${name}\`\n`)
})

test('the first workflow has every required input, only inputs that exist, and just the permissions it needs', () => {
  const [, block = ''] = /```yaml\n(# \S+\nname:[\s\S]*?)```/.exec(readme) ?? []
  const workflow = parse(block)
  const { identity } = workflow.jobs
  expect(workflow.permissions).toEqual({})
  expect(identity.permissions).toEqual({ 'id-token': 'write' })
  const [step] = identity.steps
  expect(step.uses).toBe('OWNER/azure-ai-postgres-identity@v1')
  const names = Object.keys(step.with)
  expect(names.filter((name) => action.inputs[name] === undefined)).toEqual([])
  const required = Object.keys(action.inputs).filter((name) => action.inputs[name]?.required === true)
  expect(required.filter((name) => !names.includes(name))).toEqual([])
})

test('the workflows of examples/ are those of docs/recipes.md (npm run docs)', () => {
  const folder = join('examples', '.github', 'workflows')
  const files = readdirSync(join(root, folder))
  expect(files.length).toBeGreaterThan(3)
  for (const file of files)
    expect(read(join(folder, file))).toBe(workflows(read('docs/recipes.md')).get(`.github/workflows/${file}`))
})

test('the four questions are headings, and their answers agree with the sources', () => {
  const answer = (question: string): string => {
    const [, text] = new RegExp(`^## ${question}\\?\\n([\\s\\S]*?)^## `, 'm').exec(readme) ?? []
    if (text === undefined) throw new Error(`README.md has no heading ${question}?`)
    return text
  }
  const [changes, rights, sends] = [
    answer('What does it change'),
    answer('What rights does it need'),
    answer('What does it send where'),
  ]
  for (const { name, role } of services) expect(changes).toContain(`| \`${name}\` | ${role.name} |`)
  for (const setting of services.flatMap(({ settings }) => settings.map((each) => each.setting.split('.')[1] ?? '')))
    expect(changes).toMatch(new RegExp(`\\b${setting.replace('scoring_', '')}\\b`))
  for (const mode of ['apply', 'check', 'verify', 'part: azure', 'part: database']) expect(rights).toContain(`\`${mode}\``)
  // Only the texts of the test queries reach the AI services.
  const inputs = {
    ...{ embeddingDeployment: 'd', chatDeployment: 'c' },
    ...{ machineLearningInput: undefined, machineLearningDeployment: undefined },
  }
  const texts = allQueries.flatMap((query) => {
    const found = query.arguments(inputs, []) ?? []
    const names = ['input', 'text', 'prompt', 'query']
    return 'skip' in found ? [] : found.filter(({ name }) => names.includes(name)).map(({ value }) => value)
  })
  expect(texts.length).toBe(5)
  for (const text of texts) expect(sends).toContain(`"${text}"`)
  // The command deletes only assignments with the action's own description.
  expect(assignmentDescription('id')).toContain(
    /contains\(description \|\| '', '([^']+)'\)/.exec(read('docs/recipes.md'))?.[1] ?? 'no filter',
  )
})

/** Every page of the repository that people read. */
const pages = [
  ...['', 'docs', 'examples'].flatMap((folder) =>
    readdirSync(join(root, folder)).flatMap((file) => (file.endsWith('.md') ? [join(folder, file)] : [])),
  ),
]

/** Anchors as GitHub makes them from headings. */
function anchorsOf(path: string): Set<string> {
  const found = new Set<string>()
  const text = read(path).replaceAll(/^```[\s\S]*?^```$/gm, '')
  for (const [, heading = ''] of text.matchAll(/^#{1,6} (.*)$/gm)) {
    const words = heading.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase()
    const base = words.replaceAll(/[^\p{L}\p{N}\p{M}_\- ]/gu, '').replaceAll(' ', '-')
    let anchor = base
    for (let again = 1; found.has(anchor); again += 1) anchor = `${base}-${again}`
    found.add(anchor)
  }
  return found
}

test.each(pages)('every link and picture of %s exists', (path) => {
  const text = read(path).replaceAll(/^```[\s\S]*?^```$/gm, '')
  const links = [
    ...[...text.matchAll(/\]\((?!https?:)([^)\s]+)\)/g)].map((match) => match[1] ?? ''),
    ...[...text.matchAll(/\b(?:src|srcset)="(?!https?:)([^"]+)"/g)].map((match) => match[1] ?? ''),
  ]
  const broken = links.filter((link) => {
    const [file = '', anchor] = link.split('#')
    const target = file === '' ? path : join(dirname(path), file)
    if (!existsSync(join(root, target))) return true
    return anchor !== undefined && !anchorsOf(target).has(anchor)
  })
  expect(broken).toEqual([])
})

test('every page of docs/ is in its index', () => {
  const index = read('docs/README.md')
  expect(pages.filter((path) => path.startsWith('docs') && path !== join('docs', 'README.md')).length).toBeGreaterThan(5)
  for (const path of pages.filter((each) => each.startsWith('docs') && each !== join('docs', 'README.md')))
    expect(index).toContain(`](${basename(path)})`)
})

test('the commands that the pages name exist', () => {
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
  for (const path of pages) {
    const text = read(path)
    for (const [, name = ''] of text.matchAll(/\bnpm run ([\w-]+)/g))
      expect([path, Object.keys(scripts)]).toEqual([path, expect.arrayContaining([name])])
  }
})

test('the pictures are small', () => {
  for (const file of readdirSync(join(root, 'docs', 'images')))
    expect([file, statSync(join(root, 'docs', 'images', file)).size < 200 * 1_024]).toEqual([file, true])
})

test('every folder and file that docs/architecture.md names exists', () => {
  const named = [...read('docs/architecture.md').matchAll(/`((?:src|emulator|scripts|dist|__tests__)\/[\w./-]*)`/g)].map(
    (match) => match[1] ?? '',
  )
  expect(named.length).toBeGreaterThan(20)
  expect(named.filter((path) => !existsSync(join(root, path)))).toEqual([])
})

test('docs/proof.md names tests that exist', () => {
  const proof = read('docs/proof.md')
  const named = [...proof.matchAll(/`([\w-]+\.test\.ts)`/g)].map((match) => match[1] ?? '')
  expect(named.length).toBeGreaterThan(8)
  const present = readdirSync(join(root, '__tests__'), { recursive: true, encoding: 'utf8' }).map((path) => basename(path))
  expect(named.filter((file) => !present.includes(file))).toEqual([])
})

test('SECURITY.md names every test of __tests__/security, and only tests that exist', () => {
  const page = read('SECURITY.md')
  const [, table = ''] = /^\*\*Not trusted\*\*([\s\S]*?)^## /m.exec(page) ?? []
  const cells = [...table.matchAll(/^\|.*\| (.*) \|$/gm)].map(([, cell = '']) => cell)
  const named = new Set(cells.flatMap((cell) => [...cell.matchAll(/(?<!\[)`([\w-]+)`/g)].map(([, name = '']) => name)))
  const present = readdirSync(join(root, '__tests__', 'security')).filter((file) => file.endsWith('.test.ts'))
  expect([...named].sort()).toEqual(present.map((file) => file.replace('.test.ts', '')).sort())
})

test('README.md and SECURITY.md say which inputs must be trusted, and what the events of strangers mean', () => {
  const [, trusted = ''] = /^## Which inputs must be trusted\?\n([\s\S]*?)^## /m.exec(readme) ?? []
  for (const input of ['environment', 'database-host', 'server', 'openai', 'runner-ip', '*-role', '*-key'])
    expect(trusted).toContain(`\`${input}\``)
  for (const [, name = ''] of trusted.matchAll(/`([\w-]+)`(?=[^|\n]*\| )/g))
    expect([name, Object.keys(action.inputs)]).toEqual([name, expect.arrayContaining([name])])
  for (const event of ['pull_request_target', 'issue_comment', 'workflow_run']) {
    expect(trusted).toContain(event)
    expect(read('SECURITY.md')).toContain(event)
  }
})

test('docs/emulator.md lists every switch and every delay', () => {
  const world = read('emulator/world.ts')
  const members = (name: string): string[] => {
    const [, body = ''] = new RegExp(`export interface ${name} \\{([\\s\\S]*?)\\n\\}`).exec(world) ?? []
    return [...body.matchAll(/^ {2}(\w+)\??:/gm)].map((match) => match[1] ?? '')
  }
  const page = read('docs/emulator.md')
  const all = [...members('Switches'), ...members('Delays')]
  expect(all.length).toBeGreaterThan(15)
  expect(all.filter((name) => !page.includes(`\`${name}\``))).toEqual([])
})
