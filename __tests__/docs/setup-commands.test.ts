/** The commands that set up an app, in README, documents and examples: they give the rights of docs/permissions.md, and no other. */
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import { afterAll, beforeEach, describe, expect, test } from 'vitest'
import { mayAct } from '../../emulator/authorization.ts'
import { builtInRoles, deployerName, readerName } from '../../emulator/default-world.ts'
import { passwordLogin } from '../../emulator/postgres.ts'
import type { Principal } from '../../emulator/world.ts'
import { sqlFiles } from '../../scripts/docs.ts'
import { services } from '../../src/core/services.ts'
import { type Answer, optionsOf, rolesOf, runCommands, type ToolCall } from '../support/commands.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { apply, assignRole, begin, giveIdentity, onlyService, principalNamed, removeJobs, serverOf } from '../support/support.ts'

const root = join(import.meta.dirname, '..', '..')
const read = (path: string): string => readFileSync(join(root, path), 'utf8')
const blocksOf = (path: string, language: string): string[] =>
  [...read(path).matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\``, 'gm'))].map(([, text = '']) => text)
const blockWith = (path: string, language: string, words: string): string => {
  const found = blocksOf(path, language).find((text) => text.includes(words))
  if (found === undefined) throw new Error(`${path} has no ${language} block with ${words}`)
  return found
}

const documented = new Map(
  blocksOf('docs/permissions.md', 'json')
    .map((text) => JSON.parse(text) as { Name: string; Actions: string[] })
    .map(({ Name, Actions }) => [Name.replace('azure_ai identity: ', ''), Actions]),
)
/** The actions of these roles of docs/permissions.md together, sorted. */
const actionsOf = (...names: string[]): string[] => [...new Set(names.flatMap((name) => documented.get(name) ?? [name]))].sort()
const withoutBlanks = (text: string): string => text.replaceAll(/\s/g, '')
/** The condition of docs/permissions.md for an app. */
const conditionFor = (objectId: string): string =>
  withoutBlanks((blocksOf('docs/permissions.md', 'text')[0] ?? '').replace('OBJECT-ID', objectId))

const assigning = 'Microsoft.Authorization/roleAssignments/write'
const emulator = await ownEmulator({ databases: ['app'] })
const { world } = emulator
const server = emulator.inputs['server'] ?? ''
const openai = emulator.inputs['openai'] ?? ''
const language = emulator.inputs['cognitive'] ?? ''
const group = `/subscriptions/${world.subscriptionId}/resourceGroups/${world.resourceGroup}`
const reader = (): Principal => principalNamed(world, readerName)
const writer = (): Principal => principalNamed(world, deployerName)

beforeEach(async () => {
  await begin(emulator)
  // Another principal assigns the roles in this file; the apps begin without any right.
  world.roleAssignments.length = 0
  serverOf(emulator).administrators = []
  delete serverOf(emulator).identity
})
afterAll(removeJobs)

/** Applies the result of the commands: roles with their conditions, and administrators of the server. */
async function carryOut(calls: ToolCall[]): Promise<void> {
  const ids = new Map<string, string>()
  for (const { Name, Actions, DataActions = [] } of rolesOf(calls)) {
    const id = randomUUID()
    ids.set(Name, id)
    world.roleDefinitions.push({
      name: id,
      roleName: Name,
      actions: Actions,
      notActions: [],
      dataActions: DataActions,
      notDataActions: [],
    })
  }
  for (const options of optionsOf(calls, 'role', 'assignment', 'create')) {
    const role = ids.get(options['role'] ?? '')
    if (role === undefined) throw new Error(`The commands assign ${options['role']}, which they do not create`)
    const condition = options['condition']
    assignRole(world, options['assignee-object-id'] ?? '', options['scope'] ?? '', role, {
      createdAt: 0,
      ...(condition === undefined ? {} : { condition }),
    })
  }
  for (const options of optionsOf(calls, 'postgres', 'flexible-server', 'microsoft-entra-admin', 'create'))
    serverOf(emulator).administrators.push({
      objectId: options['object-id'] ?? '',
      principalName: options['display-name'] ?? '',
      principalType: 'ServicePrincipal',
    })
  await emulator.refresh()
}

const scopesOf = (calls: ToolCall[]): (string | undefined)[] =>
  optionsOf(calls, 'role', 'assignment', 'create').map(({ scope }) => scope)

test('README: the app may apply, on the named resources alone, and assign nothing to itself', async () => {
  const app = reader()
  const onlyReads = '00000000-0000-4000-8000-00000000000a'
  const script = blockWith('README.md', 'sh', 'az ad app create').replace(/^OPENAI_ID=\S+/m, `OPENAI_ID=${openai}`)
  const { calls } = runCommands(`set -eu\n${script}`, root, [
    { words: ['az ad app create', '-reader'], prints: onlyReads },
    { words: ['az ad app create'], prints: app.clientId ?? '' },
    { words: ['az ad sp show', app.clientId ?? ''], prints: app.objectId },
    { words: ['az postgres flexible-server show'], prints: server },
    { words: ['az account show'], prints: world.tenantId },
  ])
  // The second app may read the same resources, and nothing else.
  const ofReader = calls.filter(({ args }) => args.includes(onlyReads) && args.includes('assignment'))
  expect(optionsOf(ofReader, 'role', 'assignment', 'create').map(({ role, scope }) => [role, scope])).toEqual([
    ['Reader', server],
    ['Reader', openai],
  ])
  const own = calls.filter((call) => !ofReader.includes(call))
  expect(rolesOf(calls).map(({ Actions, ...others }) => ({ ...others, Actions: [...Actions].sort() }))).toEqual([
    {
      Name: 'azure_ai identity: apply',
      Description: expect.any(String),
      Actions: actionsOf('apply'),
      AssignableScopes: [`/subscriptions/${world.subscriptionId}`],
    },
  ])
  expect(scopesOf(own)).toEqual([server, openai])
  for (const options of optionsOf(own, 'role', 'assignment', 'create'))
    expect([options['condition-version'], withoutBlanks(options['condition'] ?? '')]).toEqual(['2.0', conditionFor(app.objectId)])

  await carryOut(own)
  const result = await apply(emulator, { ...onlyService(emulator, 'openai', 'app'), 'client-id': app.clientId ?? '' })
  expect(result.outputs, result.log).toMatchObject({ result: 'changed', verified: 'true' })
  const request = {
    roleDefinitionName: builtInRoles.cognitiveServicesUser,
    principalType: 'ServicePrincipal',
    principalId: app.objectId,
  }
  expect(mayAct(world, app.objectId, assigning, openai, request)).toBe('condition-not-fulfilled')
  for (const action of actionsOf('apply')) {
    expect([action, mayAct(world, app.objectId, action, group)]).toEqual([action, 'denied'])
    expect([action, mayAct(world, app.objectId, action, language)]).toEqual([action, 'denied'])
  }
})

test('docs/live.md: the rights for apply, for the firewall rule and for keys, on the resources of the live run', () => {
  const app = reader()
  const { calls } = runCommands(`set -eu\n${blockWith('docs/live.md', 'sh', 'az ad app create')}`, root, [
    { words: ['az ad app create'], prints: app.clientId ?? '' },
    { words: ['az ad sp create'], prints: app.objectId },
    { words: ['az postgres flexible-server show'], prints: server },
    { words: ['az cognitiveservices account show', 'openai-live'], prints: openai },
    { words: ['az cognitiveservices account show', 'language-live'], prints: language },
  ])
  expect(rolesOf(calls).map(({ Actions }) => [...Actions].sort())).toEqual([
    actionsOf('apply', 'temporary firewall rule', 'keys'),
  ])
  expect(rolesOf(calls).map(({ AssignableScopes }) => AssignableScopes)).toEqual([[group]])
  expect(scopesOf(calls)).toEqual([server, openai, language])
  for (const options of optionsOf(calls, 'role', 'assignment', 'create'))
    expect(withoutBlanks(options['condition'] ?? '')).toBe(conditionFor(app.objectId))
})

describe('examples/', () => {
  const person = { objectId: randomUUID(), name: 'someone@contoso.example' }
  const outputs = { serverIds: { value: [server] }, openaiId: { value: openai }, languageId: { value: language } }

  /** The responses of the tools: nothing exists yet, except the repository variables in `kept`. */
  const answers = (kept: Record<string, string> = {}): Answer[] => [
    ...Object.entries(kept).map(([name, prints]) => ({ words: ['gh variable get', name], prints })),
    { words: ['gh variable get'], code: 1 },
    { words: ['gh repo view'], prints: 'contoso/shop' },
    ...[writer(), reader()].flatMap(({ clientId = '', objectId }, index) => [
      { words: ['az ad app create', index === 0 ? 'azure-ai-writer' : 'azure-ai-reader'], prints: clientId },
      { words: ['az ad sp show', clientId, '--query id'], prints: objectId },
      { words: ['az ad sp show', objectId, '--query appId'], prints: clientId },
    ]),
    { words: ['signed-in-user', '--query id'], prints: person.objectId },
    { words: ['signed-in-user'], prints: person.name },
    { words: ['az group show'], prints: group },
    { words: ['az deployment group create'], prints: JSON.stringify(outputs) },
    { words: ['az account get-access-token'], prints: 'a-token-of-the-person' },
    { words: ['flexible-server list'], prints: 'pg-contoso' },
    { words: ['flexible-server show'], prints: 'pg-contoso.postgres.database.azure.com' },
    { words: ['flexible-server db list'], prints: 'app' },
  ]
  const setUp = (kept?: Record<string, string>): ToolCall[] =>
    runCommands('./setup.sh 2>&1', join(root, 'examples'), answers(kept)).calls

  test('setup.sh: both apps only read, the writer restarts as well, and neither changes a server or assigns a role', async () => {
    const calls = setUp()
    expect(rolesOf(calls).map(({ Name, Actions, AssignableScopes }) => [Name, [...Actions].sort(), AssignableScopes])).toEqual([
      ['azure_ai identity: check in azure-ai-example', actionsOf('check'), [group]],
      ['azure_ai identity: restart in azure-ai-example', actionsOf('restart'), [group]],
    ])
    await carryOut(calls)
    for (const { objectId } of [reader(), writer()]) {
      for (const action of actionsOf('apply', 'restart', 'keys', 'temporary firewall rule')) {
        const allowed =
          actionsOf('check').includes(action) || (objectId === writer().objectId && actionsOf('restart').includes(action))
        expect([action, mayAct(world, objectId, action, server)]).toEqual([action, allowed ? 'allowed' : 'denied'])
        expect([action, mayAct(world, objectId, action, group)]).toEqual([action, 'denied'])
      }
    }
    // Bicep creates the administrators; the reader, which runs in pull requests, is not one of them.
    const parameters = read('examples/infra/main.bicepparam')
    const named = [...parameters.matchAll(/readEnvironmentVariable\('(\w+)'\)/g)].map(([, name = '']) => name)
    const deployment = calls.find(({ args }) => args.join(' ').startsWith('deployment group create'))
    expect(named.map((name) => deployment?.env[name])).toEqual([
      writer().objectId,
      'azure-ai-writer',
      person.objectId,
      person.name,
    ])
  })

  test('setup.sh finds its apps by the variables of the repository, never by a name that others can use', () => {
    const calls = setUp({ AZURE_CLIENT_ID: writer().clientId ?? '', AZURE_READER_CLIENT_ID: reader().clientId ?? '' })
    const lines = calls.map(({ args }) => args.join(' '))
    expect(lines.filter((line) => line.startsWith('ad app create'))).toEqual([])
    for (const script of ['examples/setup.sh', 'examples/reader.sh']) expect(read(script)).not.toContain('displayName eq')
  })

  test('with these rights the writer applies, and after reader.sh the reader checks', async () => {
    await carryOut(setUp())
    const principalId = giveIdentity(emulator)
    // The server still runs with an earlier identity, so a restart is left to do.
    serverOf(emulator).loadedPrincipalId = randomUUID()
    Object.assign(serverOf(emulator).configurations['azure.extensions'] ?? {}, { value: 'vector,azure_ai' })
    for (const { name, role } of services.filter((service) => ['openai', 'cognitive'].includes(service.name)))
      assignRole(world, principalId, emulator.inputs[name] ?? '', role.id)
    serverOf(emulator).administrators.push({
      objectId: writer().objectId,
      principalName: 'azure-ai-writer',
      principalType: 'ServicePrincipal',
    })
    serverOf(emulator).identity = { type: 'SystemAssigned', principalId }
    await emulator.refresh()
    const named = { translator: '', 'machine-learning': '', 'machine-learning-input': '' }
    const applied = await apply(emulator, { ...named, 'client-id': writer().clientId ?? '' })
    expect(applied.outputs, applied.log).toMatchObject({ result: 'changed', verified: 'true' })

    const kept = { AZURE_READER_CLIENT_ID: reader().clientId ?? '' }
    const { calls } = runCommands('./reader.sh', join(root, 'examples'), answers(kept))
    const sessions = calls.filter(({ tool }) => tool === 'psql')
    const databases = sessions.map(({ args }) => args[args.indexOf('--dbname') + 1] ?? '')
    expect(databases).toEqual(['postgres', 'app'])
    for (const { args, env } of sessions) {
      expect(args).toEqual(expect.arrayContaining(['--no-psqlrc', '--single-transaction', 'ON_ERROR_STOP=1']))
      expect(args.join(' ')).not.toContain('a-token-of-the-person')
      expect(env).toMatchObject({ PGPASSWORD: 'a-token-of-the-person', PGSSLMODE: 'verify-full', PGUSER: person.name })
    }
    for (const { args, input } of sessions) await asAdministrator(args[args.indexOf('--dbname') + 1] ?? '', input)
    try {
      const check = { ...named, mode: 'check', 'client-id': reader().clientId ?? '', 'database-user': 'gha-check' }
      const checked = await apply(emulator, check)
      expect(checked.outputs, checked.log).toMatchObject({ result: 'in-sync', verified: 'true' })
    } finally {
      await emulator.postgres.query('app', 'DROP SCHEMA azure_ai_identity CASCADE')
      await emulator.postgres.query('postgres', 'DROP ROLE "gha-check"')
    }
  })

  test('the recipes that sign in as the reader connect as the role that reader.sh creates', () => {
    for (const [, step = ''] of read('docs/recipes.md').matchAll(/^( {8}with:\n(?: {10}.*\n)+)/gm)) {
      if (!step.includes('AZURE_READER_CLIENT_ID')) continue
      expect(step).toMatch(/^ {10}mode: (check|verify|inventory)$/m)
      expect(step).toContain('database-user: gha-check')
    }
  })

  test('the SQL of examples/ is that of docs/permissions.md (npm run docs)', () => {
    for (const [file, text] of sqlFiles(read('docs/permissions.md')))
      expect([file, read(join('examples', 'sql', file))]).toEqual([file, text])
  })
})

/** As an administrator of the server, who is no superuser. */
async function asAdministrator(database: string, text: string): Promise<void> {
  const { host, port } = emulator.postgres
  const client = new pg.Client({ host, port, ...passwordLogin, database, ssl: { ca: readFileSync(emulator.caFile, 'utf8') } })
  await client.connect()
  try {
    await client.query(text)
  } finally {
    await client.end()
  }
}

describe('docs/infrastructure-as-code.md', () => {
  const quoted = (text: string): string[] =>
    [...text.matchAll(/^\s+["'](Microsoft\.[\w/]+)["'],?$/gm)].map(([, action = '']) => action).sort()

  test.each([
    ['Terraform, A', 'hcl', '# A: the action does everything', ['apply']],
    ['Terraform, B', 'hcl', '# B: the code does the part in Azure', ['check', 'restart']],
    ['Bicep, B', 'bicep', '// B: the code does the part in Azure', ['check', 'restart']],
  ])('%s: the actions of docs/permissions.md', (_, syntax, title, roles) => {
    expect(quoted(blockWith('docs/infrastructure-as-code.md', syntax, title))).toEqual(actionsOf(...roles))
  })

  test('Terraform, A: the condition of docs/permissions.md', () => {
    const [, condition = ''] =
      /<<-EOT\n([\s\S]*?)^\s+EOT$/m.exec(blockWith('docs/infrastructure-as-code.md', 'hcl', '# A: the action does everything')) ??
      []
    expect(withoutBlanks(condition)).toBe(conditionFor(`\${var.deployer_object_id}`))
  })
})

test('no command assigns a role that is broader than what works', () => {
  const broad = /--role "?(Contributor|Owner|User Access Administrator|Role Based Access Control Administrator)/
  const files = ['README.md', 'docs/permissions.md', 'docs/live.md', 'docs/infrastructure-as-code.md', 'examples/setup.sh']
  for (const file of files) expect([file, broad.test(read(file))]).toEqual([file, false])
})
