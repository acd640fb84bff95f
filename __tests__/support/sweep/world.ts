/** The world of the sweep: a full apply's beginning with as much around it as can be harmed, and what it came to as data. */
import { createHash } from 'node:crypto'
import { builtInRoles } from '../../../emulator/default-world.ts'
import type { Emulator } from '../../../emulator/index.ts'
import type { World } from '../../../emulator/world.ts'
import {
  accountNamed,
  assignRole,
  begin,
  emulate,
  principalNamed,
  serverOf,
  settingsOf,
  usual,
  workWithKeys,
} from '../support.ts'

/** How much one run sets up: five services, or one of them. */
export type Size = 'full' | 'small'

/** `old` works with its keys, `new` has no extension yet, `other` is nobody's business. */
const databases = { old: 'app', new: 'crm', other: 'archive' } as const
const foreignRule = { name: 'office', range: { startIpAddress: '203.0.113.0', endIpAddress: '203.0.113.255' } }
/** Of a run that is under way elsewhere: its time is not over. */
const anotherRuns = 'gha-aipg-4102444800-0123456789ab'
const somebody = '3b9f1c52-7d0e-4f6a-9a1b-5e2c8d7f4a60'
/** A setting that the action knows nothing of. */
const foreignSetting = ['shop.note', 'ours, not to be touched'] as const

/** With keys that are the same in every such world, so that what two of them came to can be compared. */
export function startWorld(): Promise<Emulator> {
  return emulate({
    databases: Object.values(databases),
    shape: ({ accounts, workspaces }) => {
      const key = (name: string, which: string): string => createHash('sha256').update(`${name} ${which}`).digest('hex')
      for (const account of accounts) account.keys = { key1: key(account.name, '1'), key2: key(account.name, '2') }
      for (const endpoint of workspaces.flatMap(({ onlineEndpoints, serverlessEndpoints = [] }) => [
        ...onlineEndpoints,
        ...serverlessEndpoints,
      ]))
        endpoint.keys = { primaryKey: key(endpoint.name, '1'), secondaryKey: key(endpoint.name, '2') }
    },
  })
}

const reranker = ({ world }: Emulator) => world.workspaces[0]?.serverlessEndpoints?.[0]

/** Inputs of the run that is swept. */
export function inputsOf(emulator: Emulator, size: Size): Record<string, string> {
  const few = { translator: '', cognitive: '', 'machine-learning': '', 'machine-learning-input': '' }
  return {
    ...emulator.inputs,
    ...usual,
    databases: `${databases.old}\n${databases.new}`,
    'clear-keys': 'true',
    'temporary-firewall-rule': 'true',
    'verify-timeout-minutes': '0.5',
    ...(size === 'full' ? { ranking: reranker(emulator)?.id ?? '' } : few),
  }
}

/**
 * Puts the world to the beginning: no system-assigned identity, no role, azure_ai not allowed, the server closed to this
 * runner; and beside that a user-assigned identity, roles of others at the same resources, the rule of an office and the
 * temporary one of another run, other extensions on the allow-list, a setting that is nobody's, a database that is not named.
 */
export async function prepare(emulator: Emulator): Promise<void> {
  delete emulator.world.sqlFault
  delete emulator.world.fault
  await emulator.postgres.terminateClients()
  await begin(emulator, { shape })
  for (const name of [databases.old, databases.other]) {
    await workWithKeys(emulator, name)
    for (const setting of Object.entries({
      'azure_ml.serverless_ranking_endpoint': `${reranker(emulator)?.uri}/v1/rerank`,
      'azure_ml.serverless_ranking_endpoint_key': reranker(emulator)?.keys.primaryKey ?? '',
    }))
      await emulator.postgres.query(name, 'SELECT azure_ai.set_setting($1, $2)', setting)
    await emulator.postgres.query(name, 'INSERT INTO azure_ai.settings VALUES ($1, $2)', [...foreignSetting])
  }
}

function shape(world: World): void {
  const [server] = world.servers
  if (server === undefined) throw new Error('the world has no server')
  server.firewallRules = {
    [foreignRule.name]: foreignRule.range,
    [anotherRuns]: { startIpAddress: '198.51.100.7', endIpAddress: '198.51.100.7' },
  }
  world.principals.push({ objectId: somebody, displayName: 'somebody else', kind: 'ServicePrincipal' })
  const openai = accountNamed(world, 'contoso-openai').id
  for (const role of [builtInRoles.cognitiveServicesOpenAIUser, builtInRoles.reader]) {
    const name = `${role.slice(0, -4)}0000`
    const createdBy = principalNamed(world, 'contoso deployer').objectId
    assignRole(world, somebody, openai, role, { name, description: 'of somebody else', createdBy })
  }
}

/** All that stays, by name; two states are the same when all values are. The server's own object id reads `SELF`, whatever it is. */
export type State = Readonly<Record<string, string>>

export async function stateOf(emulator: Emulator): Promise<State> {
  const { world, postgres } = emulator
  const server = serverOf(emulator)
  const self = server.identity?.principalId
  const text = (value: unknown): string => {
    const shown = typeof value === 'string' ? value : JSON.stringify(value)
    return self === undefined ? shown : shown.replaceAll(self, 'SELF')
  }
  const state: Record<string, string> = {
    'identity: type': text(server.identity?.type ?? 'None'),
    'identity: in force': server.loadedPrincipalId === undefined ? 'none' : text(server.loadedPrincipalId),
    'identity: user-assigned': text(server.identity?.userAssignedIdentities ?? {}),
    'identity: principals': text(world.principals.map(({ objectId, kind }) => `${kind} ${objectId}`).sort()),
    'server: state': server.state,
    'server: administrators': text(server.administrators),
    'server: network': text({ ...server.network, ...server.authConfig }),
    'others: servers': text(world.servers.slice(1)),
    'others: accounts': text(world.accounts),
    'others: workspaces': text(world.workspaces),
  }
  for (const [name, { value }] of Object.entries(server.configurations)) state[`parameter: ${name}`] = text(value)
  for (const [name, rule] of Object.entries(server.firewallRules)) state[`firewall rule: ${name}`] = text(rule)
  const counted = new Map<string, number>()
  for (const { scope, principalId, roleDefinitionId } of world.roleAssignments) {
    const name = text(`role: ${roleDefinitionId.split('/').at(-1)} of ${principalId} on ${scope}`)
    counted.set(name, (counted.get(name) ?? 0) + 1)
  }
  for (const [name, count] of counted) state[name] = `${count} times`
  for (const database of Object.values(databases)) {
    const [extension] = await postgres.query(database, `SELECT extversion FROM pg_extension WHERE extname = 'azure_ai'`)
    state[`${database}: extension`] = String(extension?.['extversion'] ?? 'none')
    for (const [key, value] of Object.entries(await settingsOf(emulator, database))) state[`${database}: ${key}`] = value
  }
  return state
}

/** What differs between two states, one line each; keys of services are not shown. */
export function differences(from: State, to: State, wanted: (name: string) => boolean = () => true): string[] {
  const shown = (name: string, value: string | undefined): string =>
    value === undefined ? 'absent' : /_key$/.test(name) && value !== '' ? 'a key' : JSON.stringify(value)
  return [...new Set([...Object.keys(from), ...Object.keys(to)])]
    .filter((name) => wanted(name) && from[name] !== to[name])
    .map((name) => `${name}: ${shown(name, to[name])} instead of ${shown(name, from[name])}`)
}

/** What must be the same at every moment, however a run ends. */
export function isForeign(beginning: State, name: string): boolean {
  if (/^(identity: user-assigned|server: administrators|server: network|others: )/.test(name)) return true
  if (name.startsWith(`${databases.other}: `) || name.endsWith(`: ${foreignSetting[0]}`)) return true
  if (name.startsWith('parameter: ')) return name !== 'parameter: azure.extensions'
  // Those of the server itself are the run's business.
  if (name.startsWith('role: ')) return !name.includes(' of SELF ')
  return name.startsWith('firewall rule: ') && name in beginning
}

/** Entries of the allow-list that are gone. */
export function lostEntries(beginning: State, now: State): string[] {
  const entries = (state: State): string[] => (state['parameter: azure.extensions'] ?? '').split(',')
  const left = new Set(entries(now))
  return entries(beginning).filter((entry) => !left.has(entry))
}

/** Temporary firewall rules that are there and were not at the beginning. */
export function rulesLeft(beginning: State, now: State): string[] {
  return Object.keys(now).filter((name) => name.startsWith('firewall rule: gha-aipg-') && !(name in beginning))
}

/** Lets the time of these temporary firewall rules, as `rulesLeft` names them, be over. */
export function expire(emulator: Emulator, left: readonly string[]): void {
  const { firewallRules } = serverOf(emulator)
  for (const rule of left.map((each) => each.replace('firewall rule: ', ''))) {
    const range = firewallRules[rule]
    // Its removal was under way, and has ended.
    if (range === undefined) continue
    delete firewallRules[rule]
    firewallRules[rule.replace(/^gha-aipg-\d+/, 'gha-aipg-1000000000')] = range
  }
}

/**
 * Families that are neither as they were nor as they shall be: a family is switched as one, or not at all. The stored key may
 * be there or be blank once the family is switched.
 */
export function halfSwitched(beginning: State, end: State, now: State): string[] {
  const found: string[] = []
  for (const database of [databases.old, databases.new]) {
    for (const family of ['azure_openai', 'azure_cognitive', 'azure_ml']) {
      const names = [...Object.keys(beginning), ...Object.keys(end), ...Object.keys(now)].filter((name) =>
        name.startsWith(`${database}: ${family}.`),
      )
      // What is not there and what is blank mean the same: not set.
      const asIn = (state: State, without: RegExp): boolean =>
        names.every((name) => without.test(name) || (now[name] ?? '') === (state[name] ?? ''))
      if (!asIn(beginning, /^$/) && !asIn(end, /_key$/)) {
        found.push(
          `${database}: ${family} is half switched: ${differences(beginning, now, (name) => names.includes(name)).join('; ')}`,
        )
      }
    }
  }
  return found
}

/** Secrets that nobody may read anywhere. */
export function secretsOf({ world }: Emulator): string[] {
  return [
    ...world.accounts.flatMap(({ keys }) => [keys.key1, keys.key2]),
    ...world.workspaces.flatMap(({ onlineEndpoints, serverlessEndpoints = [] }) =>
      [...onlineEndpoints, ...serverlessEndpoints].flatMap(({ keys }) => [keys.primaryKey, keys.secondaryKey]),
    ),
  ]
}
