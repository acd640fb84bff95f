import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { assignmentName } from '../../src/azure/roles.ts'
import { services } from '../../src/core/services.ts'

const root = join(import.meta.dirname, '..', '..')
const read = (path: string): string => readFileSync(join(root, path), 'utf8')
const page = read('docs/infrastructure-as-code.md')
const blocks = (language: string): string[] =>
  [...page.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\``, 'gm'))].map(([, text = '']) => text)

const examples = readdirSync(join(root, 'examples', 'infra')).map((file) => read(join('examples', 'infra', file)))
const hcl = blocks('hcl').join('\n')
const bicep = blocks('bicep').join('\n')
const sources = { 'the Terraform blocks': hcl, 'the Bicep blocks': bicep, 'examples/infra': examples.join('\n') }

/** GUIDs that are roles: the namespace of Bicep's guid() is none. */
const namespace = '11fb06fb-712d-4ddd-98c7-e71bbd588830'
const guids = (text: string): Set<string> =>
  new Set(
    [...text.matchAll(/\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b/g)].map(([id]) => id).filter((id) => id !== namespace),
  )

describe.each(Object.entries(sources))('%s', (name, text) => {
  test('name roles that the action assigns, by their ids', () => {
    const known = new Map(services.map(({ role }) => [role.id, role.name]))
    const found = [...guids(text)]
    expect(found.filter((id) => !known.has(id))).toEqual([])
    // The example has no Machine Learning.
    const wanted = [...known.keys()].filter((id) => name !== 'examples/infra' || known.get(id) !== 'AzureML Data Scientist')
    expect(found.sort()).toEqual(wanted.sort())
    // A comment beside the id names the role.
    for (const [, id = '', comment = ''] of text.matchAll(/['"]([0-9a-f-]{36})['"][^\n]*?(?:\/\/|#) ([^,\n]*)/g))
      expect(comment.trim()).toBe(known.get(id))
  })

  test('set azure.extensions to a list in lower case that contains azure_ai', () => {
    const values = [...text.matchAll(/value\s*[:=]\s*['"]([^'"]*)['"]/g)].map(([, value = '']) => value)
    expect(values.some((value) => value.split(',').includes('azure_ai'))).toBe(true)
    for (const value of values) expect(value).toMatch(/^[a-z_]+(,[a-z_]+)*$/)
  })
})

test('Terraform and Bicep name a role assignment as the action does', () => {
  // Both functions are UUIDv5 in this namespace of the arguments joined by `-`: `a-b-c`, as the action's own test has it.
  expect(assignmentName('A', 'b', 'c')).toBe('a98fa280-e03f-5afa-8d8e-92d0a9c201e8')
  expect(hcl).toContain(`uuidv5("${namespace}", lower(join("-", [each.scope, local.azure_ai_principal, each.role])))`)
  const names = [bicep, examples.join('\n')].flatMap((text) =>
    [...text.matchAll(/name: guid\((.*)\)/g)].map(([, call = '']) => call),
  )
  // The others are the role of the job's app and its assignment, which the action does not write.
  const ofServers = names.filter((call) => !/deployerObjectId|^resourceGroup/.test(call))
  expect([names.length, ofServers.length]).toEqual([6, 4])
  for (const call of ofServers)
    expect(call).toMatch(/^toLower\((account|endpoint)\.id\), toLower\(principalId\), toLower\(roleId\)$/)
})

test('the API versions are those that the action uses', () => {
  const used: Record<string, string> = {
    'Microsoft.DBforPostgreSQL': '2025-08-01',
    'Microsoft.CognitiveServices': /cognitiveServicesVersion = '(.*)'/.exec(read('src/azure/ai-resources.ts'))?.[1] ?? '',
    'Microsoft.MachineLearningServices': /machineLearningVersion = '(.*)'/.exec(read('src/azure/ai-resources.ts'))?.[1] ?? '',
    'Microsoft.Authorization': '2022-04-01',
  }
  const serverless = /serverlessVersion = '(.*)'/.exec(read('src/azure/ai-resources.ts'))?.[1]
  const found = [bicep, examples.join('\n')].flatMap((text) => [...text.matchAll(/'([\w.]+)\/([\w/]+)@([\w-]+)'/g)])
  expect(found.length).toBeGreaterThan(10)
  for (const [, provider = '', type = '', version] of found)
    expect([provider, type, version]).toEqual([
      provider,
      type,
      type.endsWith('/serverlessEndpoints') ? serverless : used[provider],
    ])
})

test('setup.sh sets every variable that the workflows of the example read', () => {
  const setup = read('examples/setup.sh')
  const folder = join('examples', '.github', 'workflows')
  const workflows = readdirSync(join(root, folder)).map((file) => read(join(folder, file)))
  const wanted = new Set(workflows.flatMap((text) => [...text.matchAll(/\bvars\.(\w+)/g)].map(([, name = '']) => name)))
  const set = [...setup.matchAll(/^variable (\w+) /gm)].map(([, name = '']) => name)
  expect(set.sort()).toEqual([...wanted].sort())
})
