/**
 * `npm run docs`: writes the tables of inputs and outputs in README.md from action.yml, docs/troubleshooting.md and
 * docs/findings.md from src/errors/known/ and scripts/code-texts.ts, docs/retries.md from the tables of retries, the
 * workflows of examples/ from docs/recipes.md, and its SQL from docs/permissions.md.
 */
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { parse } from 'yaml'
import { withCodes } from './findings.ts'
import { between } from './markdown.ts'
import { withRetries } from './retries.ts'
import { troubleshooting } from './troubleshooting.ts'

interface ActionFile {
  readonly inputs: Readonly<Record<string, { description: string; default?: string; required?: boolean }>>
  readonly outputs: Readonly<Record<string, { description: string }>>
}

/** How the README groups the inputs: each stands in one group. */
export const inputGroups: Readonly<Record<string, readonly string[]>> = {
  Resources: ['server', 'scope', 'databases', 'openai', 'cognitive', 'translator', 'machine-learning', 'ranking'],
  'Sign-in': [
    ...['tenant-id', 'client-id', 'audience', 'environment', 'database-user', 'database-password', 'database-host'],
    ...['database-port', 'temporary-firewall-rule', 'runner-ip'],
  ],
  Behaviour: [
    ...['mode', 'part', 'auth-type', 'clear-keys', 'allow-restart', 'allow-unproven', 'update-extension', 'plan-id'],
    ...['openai-role', 'cognitive-role', 'translator-role', 'machine-learning-role', 'ranking-role'],
    ...['openai-key', 'cognitive-key', 'machine-learning-key', 'ranking-key'],
  ],
  Verification: [
    ...['test-queries', 'verify-timeout-minutes', 'embedding-deployment', 'chat-deployment'],
    ...['machine-learning-input', 'machine-learning-deployment'],
  ],
  GitHub: ['fail-on-drift', 'drift-issue', 'pull-request-comment', 'github-token'],
}

const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('\n', ' ')
const code = (text: string): string => `\`${cell(text)}\``

/** The tables by the names of their markers. */
function tables(actionFile: string): Readonly<Record<string, string>> {
  const { inputs, outputs } = parse(actionFile) as ActionFile
  const inputRow = (name: string): string => {
    const { description = '', default: value = '', required } = inputs[name] ?? {}
    const given = required === true ? 'required' : value === '' ? '' : code(String(value))
    return `|${code(name)}|${given}|${cell(description)}|`
  }
  const inputTables = Object.entries(inputGroups).map(([title, names]) =>
    [`**${title}**`, '', '|input|default|meaning|', '|---|---|---|', ...names.map(inputRow)].join('\n'),
  )
  const outputRows = Object.entries(outputs).map(([name, { description }]) => `|${code(name)}|${cell(description)}|`)
  return {
    inputs: inputTables.join('\n\n'),
    outputs: ['|output|values|', '|---|---|', ...outputRows].join('\n'),
  }
}

/** The README with its tables of inputs and outputs written again. */
export function withTables(readme: string, actionFile: string): string {
  return Object.entries(tables(actionFile)).reduce((text, [name, table]) => between(text, name, table), readme)
}

/** The workflows of a page by their paths, which their first lines name. */
export function workflows(readme: string): ReadonlyMap<string, string> {
  return new Map([...readme.matchAll(/^```yaml\n(# (\S+)\n[\s\S]*?)^```$/gm)].map(([, text = '', path = '']) => [path, text]))
}

/** The SQL files of examples/, from the blocks of docs/permissions.md: their names, and their texts. */
export function sqlFiles(permissions: string): ReadonlyMap<string, string> {
  const blocks = [...permissions.matchAll(/^```sql\n([\s\S]*?)^```$/gm)].map(([, text = '']) => text)
  const beginningWith = (...titles: string[]): string =>
    titles
      .map((title) => {
        const found = blocks.filter((text) => text.startsWith(`-- ${title}`))
        if (found.length === 0) throw new Error(`docs/permissions.md has no SQL that begins with: -- ${title}`)
        return found.join('\n')
      })
      .join('\n')
  return new Map([
    ['reader-in-postgres.sql', beginningWith('checker, in the database postgres')],
    ['reader-in-each-database.sql', beginningWith('wrapper', 'checker, in each database')],
  ])
}

/** Writes a page again where it differs, and logs whether it did. */
async function keep(page: string, source: string, update: (text: string) => string): Promise<void> {
  const file = join(dirname(import.meta.dirname), page)
  const before = await readFile(file, 'utf8')
  const after = update(before)
  if (after !== before) await writeFile(file, after)
  console.log(after === before ? `${page} agrees with ${source}.` : `${page} was brought up to date with ${source}.`)
}

if (import.meta.main) {
  const root = dirname(import.meta.dirname)
  const actionFile = await readFile(join(root, 'action.yml'), 'utf8')
  await keep('README.md', 'action.yml', (text) => withTables(text, actionFile))
  const recipes = await readFile(join(root, 'docs', 'recipes.md'), 'utf8')
  await keep('docs/troubleshooting.md', 'src/errors/known/ and scripts/code-texts.ts', troubleshooting)
  await keep('docs/findings.md', 'scripts/code-texts.ts and src/errors/known/', withCodes)
  const examples = join(root, 'examples')
  for (const file of await readdir(join(examples, '.github', 'workflows'))) {
    const text = workflows(recipes).get(`.github/workflows/${file}`)
    if (text === undefined) throw new Error(`docs/recipes.md has no workflow .github/workflows/${file}`)
    await writeFile(join(examples, '.github', 'workflows', file), text)
  }
  console.log('The workflows of examples/ are those of docs/recipes.md.')
  const permissions = await readFile(join(root, 'docs', 'permissions.md'), 'utf8')
  for (const [file, text] of sqlFiles(permissions)) await writeFile(join(examples, 'sql', file), text)
  console.log('The SQL of examples/ is that of docs/permissions.md.')
  await keep('docs/retries.md', 'the tables of retries', withRetries)
}
