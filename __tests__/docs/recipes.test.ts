import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { data, Evaluator, Lexer, Parser } from '@actions/expressions'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { actionFile } from '../../emulator/runner.ts'
import type { InputName } from '../../src/core/input-names.ts'
import { parseInputs } from '../../src/core/inputs.ts'
import { planId } from '../../src/core/plan-id.ts'
import { services } from '../../src/core/services.ts'
import { ids, rawInputs } from '../support/support.ts'
import { parsedByGitHub } from '../support/workflow-file.ts'

const root = join(import.meta.dirname, '..', '..')
const ours = 'OWNER/azure-ai-postgres-identity@v1'

interface Step {
  id?: string
  if?: string
  uses?: string
  run?: string
  with?: Record<string, unknown>
  env?: Record<string, unknown>
}

interface Job {
  needs?: string | string[]
  if?: string
  outputs?: Record<string, string>
  permissions?: Record<string, string>
  concurrency?: { group: string }
  environment?: string
  /** A text is an expression that evaluates to the matrix. */
  strategy?: { matrix: { include: Record<string, string>[] } | string; 'max-parallel'?: number }
  'timeout-minutes'?: number
  steps: Step[]
}

interface Workflow {
  on: Record<string, unknown>
  permissions?: Record<string, string>
  jobs: Record<string, Job>
}

/** Whole workflows among the YAML of a page, by the heading they stand under. */
function workflowsIn(file: string): { title: string; text: string; workflow: Workflow }[] {
  const found: { title: string; text: string; workflow: Workflow }[] = []
  const page = readFileSync(join(root, file), 'utf8')
  for (const match of page.matchAll(/^```ya?ml\n([\s\S]*?)^```$/gm)) {
    const text = match[1] ?? ''
    if (!/^jobs:/m.test(text)) continue
    const title = [...page.slice(0, match.index).matchAll(/^#+ (.*)$/gm)].at(-1)?.[1] ?? file
    found.push({ title: `${file}: ${title}`, text, workflow: parse(text) as Workflow })
  }
  return found
}

const recipes = workflowsIn('docs/recipes.md')
const all = [...workflowsIn('README.md'), ...recipes]
const action = await actionFile()

const recipe = (title: string): Workflow => {
  const found = recipes.find((each) => each.title.endsWith(title))
  if (found === undefined) throw new Error(`no recipe ${title}`)
  return found.workflow
}
const stepsOf = (workflow: Workflow): { job: Job; jobName: string; step: Step }[] =>
  Object.entries(workflow.jobs).flatMap(([jobName, job]) => job.steps.map((step) => ({ job, jobName, step })))
const oursIn = (workflow: Workflow) => stepsOf(workflow).filter(({ step }) => step.uses === ours)
const needsOf = (job: Job): string[] => [job.needs ?? []].flat()

/** Evaluates a condition as GitHub does, without the functions that return the state of the job. */
function evaluates(condition: string, contexts: Record<string, unknown>): boolean {
  const { tokens } = new Lexer(condition).lex()
  const value = (from: unknown): data.ExpressionData =>
    typeof from === 'object' && from !== null
      ? new data.Dictionary(...Object.entries(from).map(([key, each]) => ({ key, value: value(each) })))
      : new data.StringData(String(from))
  const expression = new Parser(tokens, Object.keys(contexts), []).parse()
  return new Evaluator(expression, value(contexts) as data.Dictionary).evaluate().coerceString() === 'true'
}

/** An entry of the matrix that an inventory gives. */
const entry: Record<string, string> = {
  ...{
    name: 'pg-one',
    server: ids.server,
    databases: 'app\nsales',
    ...Object.fromEntries(services.map(({ name }) => [name, ''])),
  },
  openai: ids.openai,
}

const rowsOf = ({ strategy }: Job): Record<string, string>[] =>
  typeof strategy?.matrix === 'string' ? [entry] : (strategy?.matrix.include ?? [])

/** What the expressions of the recipes stand for. */
function filled(text: string, job: Job): string {
  const row = rowsOf(job)[0] ?? {}
  return text
    .replaceAll(/\bSUBSCRIPTION\b/g, '3c0b9a52-6d1f-4f7e-a1f4-8e5d70b6c219')
    .replaceAll(/\$\{\{ *([^}]+?) *\}\}/g, (_, expression: string) => {
      const name = expression.split('.').at(-1) ?? ''
      if (expression.startsWith('matrix.')) return row[name] ?? `no ${expression}`
      if (expression.startsWith('fromJSON(needs.')) return entry[name] ?? `no ${expression}`
      if (name === 'AZURE_MANAGEMENT_GROUP') return 'contoso'
      if (name === 'plan-id') return planId([])
      if (name === 'PG_SERVER_ID') return ids.server
      if (name === 'OPENAI_ID') return ids.openai
      if (name === 'LANGUAGE_ID') return ids.cognitive
      if (name === 'PG_RESOURCE_GROUP') return 'rg'
      if (/_(TENANT|CLIENT|SUBSCRIPTION)_ID$/.test(name)) return '3c0b9a52-6d1f-4f7e-a1f4-8e5d70b6c219'
      return `nothing known for ${expression}`
    })
}

test('there is a recipe for each of the usual tasks', () => {
  expect(recipes.map(({ title }) => title.replace('docs/recipes.md: ', ''))).toEqual([
    'From keys to none',
    'Gate a deployment',
    'Watch for drift every night',
    'Show the plan on pull requests',
    'Apply on main, approved, exactly what was shown',
    'Two jobs with two identities',
    'Several servers',
    'A whole fleet',
    'Two subscriptions, two sign-ins',
    'One inventory for each private runner',
    'Back to keys',
    'A temporary firewall rule',
    'Verify without Resource Manager',
  ])
})

describe.each(all)('$title', ({ text, workflow }) => {
  test("is a workflow by GitHub's own parser", async () => {
    expect(await parsedByGitHub(text)).toEqual({ errors: [], jobs: Object.keys(workflow.jobs).sort() })
  })

  test('uses this action with inputs that it accepts', () => {
    const used = oursIn(workflow)
    expect(used.length).toBeGreaterThan(0)
    for (const { job, step } of used) {
      const pairs = Object.entries(step.with ?? {}).map(([name, value]) => [name, filled(String(value), job)] as const)
      expect(pairs.filter(([name]) => action.inputs[name] === undefined)).toEqual([])
      for (const [name, input] of Object.entries(action.inputs)) {
        if (input.required === true) expect(pairs.map(([each]) => each)).toContain(name)
      }
      const token = { 'github-token': 'a-token' }
      const none = { server: '', databases: '', openai: '', cognitive: '', translator: '', 'machine-learning': '' }
      const raw = rawInputs({ ...none, ...token, ...(Object.fromEntries(pairs) as Partial<Record<InputName, string>>) })
      expect(() => parseInputs(raw)).not.toThrow()
    }
  })

  test('reads outputs that exist', () => {
    for (const match of text.matchAll(/\bsteps\.([\w-]+)\.outputs\.([\w-]+)/g)) {
      const [, id, output = ''] = match
      expect(oursIn(workflow).map(({ step }) => step.id)).toContain(id)
      expect(Object.keys(action.outputs)).toContain(output)
    }
    for (const [name, job] of Object.entries(workflow.jobs)) {
      for (const [, from = '', output = ''] of JSON.stringify(job).matchAll(/\bneeds\.([\w-]+)\.outputs\.([\w-]+)/g)) {
        expect([name, needsOf(job)]).toEqual([name, expect.arrayContaining([from])])
        expect(Object.keys(workflow.jobs[from]?.outputs ?? {})).toContain(output)
      }
      for (const [, from = ''] of JSON.stringify(job).matchAll(/\bneeds\.([\w-]+)\.result/g)) expect(needsOf(job)).toContain(from)
    }
  })

  test('gives each job the permissions it needs, and the workflow none', () => {
    expect(workflow.permissions).toEqual({})
    for (const [name, job] of Object.entries(workflow.jobs)) {
      const steps = job.steps.filter((step) => step.uses === ours)
      const inputs = steps.map((step) => step.with ?? {})
      const needed: Record<string, string> = {
        ...(inputs.some((step) => step['tenant-id'] !== undefined) ? { 'id-token': 'write' } : {}),
        ...(inputs.some((step) => step['drift-issue'] === true) ? { issues: 'write' } : {}),
        ...(inputs.some((step) => step['pull-request-comment'] === true) ? { 'pull-requests': 'write' } : {}),
      }
      const { contents, ...others } = job.permissions ?? { none: 'set' }
      expect([name, others]).toEqual([name, needed])
      expect([name, ['read', undefined]]).toEqual([name, expect.arrayContaining([contents])])
      expect(job['timeout-minutes'], name).toBeGreaterThan(0)
    }
  })

  test('pins what is not this action by a commit, and puts no expression into a script', () => {
    for (const { step } of stepsOf(workflow)) {
      if (step.uses !== undefined && step.uses !== ours) expect(step.uses).toMatch(/@[0-9a-f]{40}$/)
      expect(step.run ?? '').not.toContain('${{')
    }
  })
})

test('the gate allows a deployment only after a check that succeeded and verified everything', () => {
  const { deploy, gate } = recipe('Gate a deployment').jobs
  const condition = deploy?.if ?? ''
  const state = (result: string, verified: string) => ({ needs: { identity: { result, outputs: { verified } } } })
  expect(evaluates(condition, state('success', 'true'))).toBe(true)
  // A skipped job has no outputs; a check that was killed has left `false`.
  for (const result of ['skipped', 'failure', 'cancelled']) {
    for (const verified of ['', 'true', 'false']) expect(evaluates(condition, state(result, verified))).toBe(false)
  }
  for (const verified of ['', 'false']) expect(evaluates(condition, state('success', verified))).toBe(false)
  expect(evaluates(condition, { needs: { identity: { result: 'skipped', outputs: {} } } })).toBe(false)
  // This job fails where the deployment was skipped.
  expect(gate?.if).toBe('always()')
  expect(needsOf(gate as Job)).toEqual(['identity', 'deploy'])
})

test('the drift workflow runs at an odd minute and keeps an issue', () => {
  const workflow = recipe('Watch for drift every night')
  const [schedule] = workflow.on['schedule'] as { cron: string }[]
  expect(Number(schedule?.cron.split(' ')[0]) % 5).not.toBe(0)
  expect(oursIn(workflow)[0]?.step.with).toMatchObject({ mode: 'check', 'drift-issue': true })
})

test('the plan on a pull request changes nothing, and skips forks', () => {
  const workflow = recipe('Show the plan on pull requests')
  expect(oursIn(workflow)[0]?.step.with).toMatchObject({ mode: 'check', 'pull-request-comment': true, 'fail-on-drift': false })
  const [job] = Object.values(workflow.jobs)
  const from = (name: string) => ({
    github: { repository: 'contoso/shop', event: { pull_request: { head: { repo: { full_name: name } } } } },
  })
  expect(evaluates(job?.if ?? '', from('contoso/shop'))).toBe(true)
  expect(evaluates(job?.if ?? '', from('stranger/shop'))).toBe(false)
})

test('the apply on main takes the plan-id of the check and waits for an environment', () => {
  const { apply } = recipe('Apply on main, approved, exactly what was shown').jobs
  expect(apply?.environment).toBe('production')
  expect(apply?.steps[0]?.with).toMatchObject({
    mode: 'apply',
    'plan-id': expect.stringContaining('{ needs.plan.outputs.plan-id }'),
  })
  const state = (result: string) => ({ needs: { plan: { outputs: { result } } } })
  expect(['drift', 'in-sync', 'failed', ''].map((result) => evaluates(apply?.if ?? '', state(result)))).toEqual([
    true,
    false,
    false,
    false,
  ])
})

test('two identities: each job its part, its own app and its own environment', () => {
  const { azure, database } = recipe('Two jobs with two identities').jobs
  expect([azure, database].map((job) => job?.steps[0]?.with?.['part'])).toEqual(['azure', 'database'])
  expect(needsOf(database as Job)).toEqual(['azure'])
  expect(azure?.steps[0]?.with?.['client-id']).not.toBe(database?.steps[0]?.with?.['client-id'])
})

test('several servers: each has one job and one concurrency group, and a failure stops no other', () => {
  const { apply } = recipe('Several servers').jobs
  expect(apply?.concurrency?.group).toContain('{ matrix.name }')
  expect(apply?.strategy).toMatchObject({ 'fail-fast': false })
  const names = rowsOf(apply as Job).map(({ name }) => name)
  expect(new Set(names).size).toBe(names.length)
})

test('a fleet: a matrix of the inventory only where it has an entry, every service of it, and the same inventory as the gate', () => {
  const { inventory, canary, rest, gate } = recipe('A whole fleet').jobs
  expect(inventory?.steps[0]?.with).toMatchObject({ mode: 'inventory', 'fail-on-drift': false })
  expect(canary?.if).toBe('fromJSON(needs.inventory.outputs.matrix).include[0]')
  expect(rest?.if).toBe('fromJSON(needs.inventory.outputs.matrix).include[1]')
  expect(rest?.strategy?.['max-parallel']).toBe(4)
  // The default is to fail on drift.
  expect(gate?.steps[0]?.with).toMatchObject({ mode: 'inventory', scope: inventory?.steps[0]?.with?.['scope'] })
  expect(gate?.steps[0]?.with).not.toHaveProperty('fail-on-drift')
  expect(gate?.if).toBe('always()')
})

test('a job that takes its entries from an inventory uses every service, and signs in as another app than the reader', () => {
  const movers = recipes.flatMap(({ workflow }) =>
    oursIn(workflow).filter(({ step }) => /matrix\.server|include\[0\]\.server/.test(String(step.with?.['server']))),
  )
  expect(movers.length).toBe(4)
  for (const { step } of movers) {
    for (const { name } of services) expect(String(step.with?.[name])).toContain(`.${name} }}`)
    expect(String(step.with?.['client-id'])).not.toContain('READER')
    expect(step.with).toMatchObject({ 'clear-keys': true })
  }
})

test('two sign-ins: each subscription has its own inventory, matrix and apps', () => {
  const jobs = recipe('Two subscriptions, two sign-ins').jobs
  const clients = Object.values(jobs).map((job) => job.steps[0]?.with?.['client-id'])
  expect(new Set(clients).size).toBe(4)
  expect(needsOf(jobs['move-shop'] as Job)).toEqual(['look-shop'])
  expect(needsOf(jobs['move-retail'] as Job)).toEqual(['look-retail'])
})

test('the rollback is an apply with keys, behind the same approval and never beside an apply', () => {
  const back = recipe('Back to keys')
  const [used] = oursIn(back)
  expect(used?.step.with).toMatchObject({ 'auth-type': 'subscription-key' })
  expect(used?.step.with).not.toHaveProperty('mode')
  const forth = recipe('Apply on main, approved, exactly what was shown')
  expect(used?.job.environment).toBe(forth.jobs['apply']?.environment)
  expect((back as unknown as Job).concurrency).toEqual((forth as unknown as Job).concurrency)
})

test('from keys to none: the same plan is checked, approved and applied, and the last job requires that no key is stored', () => {
  const { look, move, confirm } = recipe('From keys to none').jobs
  const of = (job: Job | undefined) => job?.steps[0]?.with ?? {}
  for (const job of [look, move, confirm]) expect(of(job)['clear-keys']).toBe(true)
  expect([of(look)['mode'], of(move)['mode'], of(confirm)['mode']]).toEqual(['check', 'apply', 'check'])
  expect(of(move)).toMatchObject({ 'allow-restart': true, 'plan-id': expect.stringContaining('needs.look.outputs.plan-id') })
  expect(move?.environment).toBe('production')
  expect(confirm?.steps[1]?.run).toContain('"true 0"')
})

test('the verify names what it would otherwise read from Resource Manager', () => {
  const [used] = oursIn(recipe('Verify without Resource Manager'))
  expect(Object.keys(used?.step.with ?? {})).toEqual(expect.arrayContaining(['database-user', 'embedding-deployment']))
})
