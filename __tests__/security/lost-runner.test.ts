/** A runner that ended, or no longer reads, does not stop the post step from ending and deleting the firewall rule. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { parseTarget } from '../../src/core/target.ts'
import { postState, stateText } from '../../src/stages/post-state.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { serverOf } from '../support/support.ts'

const emulator = await ownEmulator({ postgres: false })
const rule = 'gha-aipg-4000000000-0123456789ab'

/** Runs the post step while nothing reads what it prints; how it ended. */
async function postUnread(state: string): Promise<readonly [code: number | null, signal: string | null]> {
  const child = spawn(process.execPath, [join(import.meta.dirname, '..', '..', 'dist', 'post.js')], {
    env: { ...emulator.env, PATH: process.env['PATH'], GITHUB_ACTIONS: 'true', [`STATE_${postState}`]: state },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  child.stdout.destroy()
  child.stderr.destroy()
  const limit = setTimeout(() => child.kill('SIGKILL'), 60_000)
  const [code, signal] = (await once(child, 'exit')) as [number | null, string | null]
  clearTimeout(limit)
  return [code, signal]
}

test('the post step ends although its warning cannot be printed', async () => {
  expect(await postUnread('no state of this action')).toEqual([0, null])
})

test('the post step removes the rule although nothing reads its log', async () => {
  serverOf(emulator).firewallRules = { [rule]: { startIpAddress: '127.0.0.1', endIpAddress: '127.0.0.1' } }
  const { server = '', environment = '', audience = '' } = emulator.inputs
  const target = parseTarget({
    server,
    environment,
    audience,
    'tenant-id': emulator.inputs['tenant-id'] ?? '',
    'client-id': emulator.inputs['client-id'] ?? '',
  })
  expect(await postUnread(stateText({ target, rule, created: true, runId: '' }))).toEqual([0, null])
  expect(Object.keys(serverOf(emulator).firewallRules)).toEqual([])
})
