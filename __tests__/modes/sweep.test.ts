/** A few random cases of the fault sweep and the kill sweep; `npm run sweep` runs all of them. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/index.ts'
import { seeded, serverOf } from '../support/support.ts'
import {
  type Case,
  casesOf,
  type Kind,
  mostlyWaits,
  type Outcome,
  type Recording,
  record,
  runAll,
  runCase,
  shuffled,
} from '../support/sweep/sweep.ts'
import { differences, halfSwitched, rulesLeft, startWorld } from '../support/sweep/world.ts'

const seed = Number(process.env['SWEEP_SEED'] ?? Math.floor(Math.random() * 2 ** 31))
/** Of each kind. */
const sample: Record<Kind, number> = { http: 2, sql: 3, kill: 2 }

let emulator: Emulator
let recording: Recording
let cases: Case[]

beforeAll(async () => {
  emulator = await startWorld()
  recording = await record(emulator, 'small')
  cases = casesOf(recording.points).filter((each) => !mostlyWaits(each))
})
afterAll(() => emulator?.stop())

test('a full apply has requests and statements to interrupt, in the main step and in the post step', () => {
  const count = (by: 'http' | 'sql', step: 'main' | 'post') =>
    recording.points.filter((point) => point.by === by && point.step === step).length
  expect(count('http', 'main')).toBeGreaterThan(30)
  expect(count('sql', 'main')).toBeGreaterThan(50)
  expect(count('http', 'post')).toBeGreaterThan(4)
  // A name that changes from run to run would never occur again.
  for (const { name } of recording.points) expect(name).not.toMatch(/[0-9a-f]{12}/)
  expect(new Set(cases.map(({ id }) => id)).size).toBe(cases.length)
})

test(`after any error or kill the run ends, and the next one completes it (SWEEP_SEED=${seed})`, async () => {
  process.stdout.write(`SWEEP_SEED=${seed}\n`)
  const random = seeded(seed)
  const chosen = Object.entries(sample).flatMap(([kind, count]) =>
    shuffled(
      cases.filter((each) => each.kind === kind),
      random,
    ).slice(0, count),
  )
  const outcomes: Outcome[] = []
  await runAll(chosen, { recording, workers: 2, lent: emulator, onOutcome: (outcome) => outcomes.push(outcome) })
  for (const { of, ended, broken, logs } of outcomes)
    expect(broken, `${of.id}: ${ended}, SWEEP_SEED=${seed}\n${logs}`).toEqual([])
  expect(outcomes).toHaveLength(chosen.length)
  // The next run sends the same requests as the recorded one, except for a poll more or less.
  expect(outcomes.filter(({ ended }) => ended === 'unmet').length, `SWEEP_SEED=${seed}`).toBeLessThanOrEqual(2)
}, 300_000)

describe('the sweep itself notices', () => {
  test('what is changed, doubled, lost, left behind or not fixed', async () => {
    const each = cases.find(({ kind, point }) => kind === 'kill' && point.name.startsWith('PATCH'))
    if (each === undefined) throw new Error('no PATCH was recorded')
    const outcome = await runCase(emulator, each, {
      recording,
      tamper: async ({ world, postgres }) => {
        const server = serverOf(emulator)
        delete server.firewallRules['office']
        server.firewallRules['gha-aipg-4102444801-0123456789ab'] = { startIpAddress: '127.0.0.1', endIpAddress: '127.0.0.1' }
        for (const identity of Object.keys(server.identity?.userAssignedIdentities ?? {}))
          delete server.identity?.userAssignedIdentities?.[identity]
        const list = server.configurations['azure.extensions']
        if (list !== undefined) list.value = 'azure_ai,vector'
        const own = world.roleAssignments.find(({ principalId }) => principalId === server.identity?.principalId)
        if (own !== undefined) world.roleAssignments.push({ ...own, name: 'again' })
        await postgres.query('archive', `UPDATE azure_ai.settings SET value = 'x' WHERE key = 'azure_openai.endpoint'`)
        await postgres.query('app', `UPDATE azure_ai.settings SET value = 'x' WHERE key = 'shop.note'`)
        await postgres.query('crm', `DELETE FROM azure_ai.settings WHERE key = 'azure_openai.endpoint'`)
      },
    })
    expect(outcome.ended).toBe('casualty')
    const broken = outcome.broken.join('\n')
    for (const words of [
      'firewall rule: office: absent',
      'firewall rule: gha-aipg-4102444801-0123456789ab',
      'identity: user-assigned: "{}"',
      'the allow-list has lost pg_trgm',
      'doubled: role: ',
      'archive: azure_openai.endpoint: "x"',
      'app: shop.note: "x"',
      'crm: azure_openai.endpoint: absent',
    ])
      expect(broken).toContain(words)
  })

  test('a rule that is left, and a family that is half switched', () => {
    const beginning = {
      'firewall rule: gha-aipg-1-a': '',
      'app: azure_ml.auth_type': 'subscription-key',
      'app: azure_ml.endpoint_key': 'k',
    }
    const end = {
      'app: azure_ml.auth_type': 'managed-identity',
      'app: azure_ml.endpoint_key': '',
      'app: azure_ml.scoring_endpoint': 'https://x',
    }
    expect(rulesLeft(beginning, { ...beginning, 'firewall rule: gha-aipg-2-b': '' })).toEqual(['firewall rule: gha-aipg-2-b'])
    expect(halfSwitched(beginning, end, beginning)).toEqual([])
    expect(halfSwitched(beginning, end, end)).toEqual([])
    expect(halfSwitched(beginning, end, { ...end, 'app: azure_ml.endpoint_key': 'k' })).toEqual([])
    expect(halfSwitched(beginning, end, { ...beginning, 'app: azure_ml.auth_type': 'managed-identity' })).toHaveLength(1)
    expect(halfSwitched(beginning, end, { ...beginning, 'app: azure_ml.endpoint_key': '' })).toHaveLength(1)
    expect(differences(beginning, { ...beginning, 'app: azure_ml.endpoint_key': 'other' })).toEqual([
      'app: azure_ml.endpoint_key: a key instead of a key',
    ])
  })
})
