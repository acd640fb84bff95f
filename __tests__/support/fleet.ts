/** A fleet with databases that were set up long ago, and inventories of it. */
import { fleetGroup, fleetWorld } from '../../emulator/fleet-world.ts'
import { type Emulator, startEmulator } from '../../emulator/index.ts'
import type { Postgres } from '../../emulator/postgres.ts'
import type { JobResult } from '../../emulator/runner.ts'
import { managementGroupId } from '../../emulator/scopes.ts'
import type { World } from '../../emulator/world.ts'
import { apply } from './support.ts'

/** The whole fleet. */
export const wholeScope = managementGroupId(fleetGroup)

export async function startFleetEmulator(shape: (world: World) => void = fleetWorld): Promise<Emulator> {
  return startEmulator({ fleet: true, delays: { operation: 0, inference: 0 }, shape })
}

/** Inputs that an inventory takes. */
function inputsOf({ inputs, fleet }: Emulator): Record<string, string> {
  const taken = ['environment', 'tenant-id', 'client-id', 'audience']
  const own = Object.fromEntries(Object.entries(inputs).filter(([name]) => taken.includes(name)))
  const none = Object.fromEntries(Object.keys(inputs).map((name) => [name, '']))
  return { ...none, ...own, 'database-port': String(fleet?.port) }
}

/** An inventory of the scope; of the whole fleet unless the inputs name something else. */
export function takeInventory(
  emulator: Emulator,
  inputs: Record<string, string> = {},
  env: Record<string, string> = {},
): Promise<JobResult> {
  const scope: Record<string, string> = inputs['server'] === undefined ? { scope: wholeScope } : {}
  const all = { ...inputsOf(emulator), mode: 'inventory', ...scope, 'allow-restart': 'false', ...inputs }
  return apply(emulator, all, undefined, { ...emulator.fleet?.env, ...env })
}

/** One job of the matrix: its entry as inputs, as a workflow passes them. */
export function applyEntry(
  emulator: Emulator,
  entry: Record<string, string>,
  inputs: Record<string, string> = {},
): Promise<JobResult> {
  const { name: _, ...given } = entry
  const known = Object.fromEntries(Object.entries(given).filter(([input, value]) => value !== '' || input in emulator.inputs))
  return apply(emulator, { ...inputsOf(emulator), ...known, 'clear-keys': 'true', ...inputs }, undefined, emulator.fleet?.env)
}

/** azure_ai in a database, with these settings. */
export async function setUp(postgres: Postgres | undefined, database: string, settings: Record<string, string>): Promise<void> {
  if (postgres === undefined) throw new Error('the server has no PostgreSQL')
  await postgres.query(database, 'CREATE EXTENSION IF NOT EXISTS azure_ai')
  await postgres.query(
    database,
    'SELECT azure_ai.set_setting(key, value) FROM unnest($1::text[], $2::text[]) AS given (key, value)',
    [Object.keys(settings), Object.values(settings)],
  )
}

/** azure_openai with a key, as tutorials leave it. */
export const withOpenAiKey = (subdomain: string, key: string): Record<string, string> => ({
  'azure_openai.auth_type': 'subscription-key',
  'azure_openai.endpoint': `https://${subdomain}.openai.azure.com/`,
  'azure_openai.subscription_key': key,
})
