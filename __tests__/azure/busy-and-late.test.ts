/** A server that is busy in any spelling, an identity that reads show late, and a server that refuses reads while it does not run. */
import { beforeEach, describe, expect, test } from 'vitest'
import type { Refusal } from '../../emulator/world.ts'
import { noPauses } from '../support/clock.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { apply, begin, checkWithRule, codesOf, onlyService, serverOf, statusesOf } from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app'] })
const { world } = emulator
/** Waits of the retries pass ten times as fast. */
const quick = noPauses()

beforeEach(() => begin(emulator))

const spellings = [
  'ServerIsBusy',
  'ServerBusy',
  'AnotherOperationInProgress',
  'ServerIsNotReady',
  'AadAuthOperationCannotBePerformedWhenServerIsNotAccessible',
]

describe('the run waits for a busy server', () => {
  test.each(spellings.flatMap((code) => [[code, 'answer'] as const, [code, 'operation'] as const]))(
    'at every write of apply: %s as %s',
    async (code, as) => {
      const writes: Refusal['write'][] = ['server', 'configuration', 'restart']
      world.refusals = writes.map((write) => ({ write, code, ...(as === 'operation' ? { as } : {}) }))
      const result = await apply(emulator, onlyService(emulator, 'openai', 'app'), undefined, quick)
      expect(result.code, result.raw).toBe(0)
      expect(world.refusals).toEqual([])
      expect(result.outputs).toMatchObject({ result: 'changed', verified: 'true' })
      expect(serverOf(emulator).restarts).toBe(1)
    },
  )

  test.each(spellings)('at the firewall rule, when it opens and when it closes: %s', async (code) => {
    await begin(emulator, {
      shape: (fresh) => {
        for (const server of fresh.servers) server.firewallRules = {}
      },
    })
    world.refusals = [
      { write: 'firewallRule', code, as: 'operation' },
      { write: 'firewallRule', code },
      { write: 'firewallRuleDelete', code, as: 'operation' },
      { write: 'firewallRuleDelete', code },
    ]
    const result = await apply(emulator, checkWithRule(emulator), undefined, quick)
    expect(codesOf(result), result.raw).not.toContain('server-busy')
    expect(statusesOf(result)['firewall']).toBe('created')
    const post = await result.post({ exported: quick })
    expect(world.refusals, post.raw).toEqual([])
    expect(serverOf(emulator).firewallRules).toEqual({})
  })

  test('an operation that failed with the text {0} is tried again', async () => {
    world.refusals = [{ write: 'configuration', code: 'OperationFailed', as: 'operation' }]
    const result = await apply(emulator, onlyService(emulator, 'openai', 'app'), undefined, quick)
    expect(result.code, result.raw).toBe(0)
    expect(statusesOf(result)['allow-list']).toBe('updated')
  })

  test('a policy that forbids the write is final', async () => {
    world.refusals = [{ write: 'server', code: 'RequestDisallowedByPolicy' }]
    const result = await apply(emulator, onlyService(emulator, 'openai', 'app'), undefined, quick)
    expect(result.code).toBe(1)
    expect(codesOf(result)).toContain('refused-by-governance')
    expect(statusesOf(result)['identity']).toBe('failed')
    expect(result.outputs['changed']).toBe('false')
  })
})

test('a principal id that is missing from the first reads is read again', async () => {
  world.switches.latePrincipalReads = 4
  const result = await apply(emulator, onlyService(emulator, 'openai', 'app'), undefined, quick)
  expect(result.code, result.raw).toBe(0)
  expect(result.outputs['principal-id']).toBe(serverOf(emulator).identity?.principalId)
  expect(statusesOf(result)['identity']).toBe('created')
})

describe('a stopped server that refuses to show its configurations', () => {
  test.each(['check', 'apply'])('%s names the state and the command that starts it', async (mode) => {
    serverOf(emulator).state = 'Stopped'
    world.switches.stoppedReads = 'refused'
    const result = await apply(emulator, { ...onlyService(emulator, 'openai', 'app'), mode }, undefined, quick)
    expect(result.code).toBe(1)
    expect(result.outputs['failure-reason']).toBe('azure')
    expect(codesOf(result)).not.toContain('azure-error')
    expect(result.report.findings.map(({ fix }: { fix: string }) => fix).join()).toContain('az postgres flexible-server start')
  })
})
