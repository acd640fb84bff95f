/**
 * One database on its whole way: keys, check, apply, check, clear, check, verify, rollback. At each stop headline, outputs,
 * findings and exit code say exactly what is the case, for each way in which azure_ai may behave.
 */
import { describe, expect, test } from 'vitest'
import type { JobResult } from '../../emulator/runner.ts'
import type { Switches } from '../../emulator/world.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { apply, begin, codesOf, workWithKeys } from '../support/support.ts'

const emulator = await ownEmulator({ databases: ['app'] })
const services = { translator: '', 'machine-learning': '', 'machine-learning-input': '', databases: 'app' }

interface Stop {
  readonly result: string
  readonly verified: string
  readonly keys: string
  readonly code: number
  readonly headline: RegExp
  /** Findings that stand there, and that do not. */
  readonly finds?: readonly string[]
  readonly lacks?: readonly string[]
}

async function stop(inputs: Record<string, string>, expected: Stop): Promise<JobResult> {
  const result = await apply(emulator, { ...services, 'allow-restart': 'true', ...inputs })
  const { result: ended, verified, 'stored-keys': keys } = result.outputs
  expect({ ended, verified, keys, code: result.code }, result.log).toEqual({
    ended: expected.result,
    verified: expected.verified,
    keys: expected.keys,
    code: expected.code,
  })
  expect(result.summary.split('\n')[0]).toMatch(expected.headline)
  for (const code of expected.finds ?? []) expect(codesOf(result), result.log).toContain(code)
  for (const code of expected.lacks ?? []) expect(codesOf(result), result.log).not.toContain(code)
  // The report, the summary and the outputs agree.
  expect(result.report.storedKeys.after).toBe(Number(keys))
  expect(result.report.verified).toBe(verified === 'true')
  expect(result.summary.includes('needs no secrets now')).toBe(ended === 'changed' && verified === 'true' && keys === '0')
  if (result.code !== 0) expect(result.raw).toMatch(/^::error /m)
  return result
}

const positions: readonly [string, Partial<Switches>, { readonly keyInReach: boolean; readonly clears: boolean }][] = [
  ['settings are seen before COMMIT', {}, { keyInReach: false, clears: true }],
  ['a stored key wins over auth_type', { keyWins: true }, { keyInReach: true, clears: true }],
  ['only committed rows are seen', { committedRowsOnly: true }, { keyInReach: true, clears: true }],
  ['a session keeps the settings that it saw first', { sessionCache: true }, { keyInReach: false, clears: true }],
  ['a key cannot be cleared', { clearingRefused: true }, { keyInReach: false, clears: false }],
]

describe.each(positions)('%s', (_, switches, { keyInReach, clears }) => {
  const verified = keyInReach ? 'false' : 'true'
  const left = clears ? '0' : '2'

  test('keys, check, apply, check, clear, check, verify, rollback', async () => {
    await begin(emulator, { switches })
    await workWithKeys(emulator, 'app')
    await emulator.postgres.query('app', "DELETE FROM azure_ai.settings WHERE key LIKE 'azure_ml.%'")

    const started = { result: 'drift', verified: 'false', keys: '2', code: 1 }
    await stop({ mode: 'check' }, { ...started, headline: /is not set up yet: \d+ steps to do.*2 keys still stored/ })

    const applied = { result: 'changed', verified, keys: '2', code: 0 }
    await stop({}, { ...applied, headline: /is set up: \d+ steps done.*2 keys still stored/, finds: ['key-still-stored'] })

    const possible = keyInReach ? { lacks: ['key-login-possible'] } : { finds: ['key-login-possible', 'key-still-stored'] }
    const looked = { result: 'in-sync', verified, keys: '2', code: 0, headline: /is in sync: nothing to do.*2 keys still stored/ }
    await stop({ mode: 'check' }, { ...looked, ...possible })

    if (clears) {
      const cleared = { result: 'changed', verified: 'true', keys: '0', code: 0 }
      const finds = ['keys-to-rotate', 'key-login-possible']
      const headline = /needs no secrets now: \d+ steps done, all 2 test queries verified, 2 keys removed/
      await stop({ 'clear-keys': 'true' }, { ...cleared, headline, finds, lacks: ['key-still-stored'] })
    } else {
      const refused = { result: 'failed', verified: 'false', keys: '2', code: 1 }
      await stop({ 'clear-keys': 'true' }, { ...refused, headline: /could not be cleared/, finds: ['key-not-blanked'] })
    }

    const after = { result: 'in-sync', verified: clears ? 'true' : verified, keys: left, code: 0 }
    const stored = clears ? /no key is stored/ : /2 keys still stored/
    await stop({ mode: 'check' }, { ...after, headline: stored, ...(clears ? { finds: ['key-login-possible'] } : {}) })
    await stop({ mode: 'verify' }, { ...after, headline: stored })

    const back = { result: 'changed', verified: 'true', keys: '2', code: 0, headline: /is set up/ }
    await stop(
      { 'auth-type': 'subscription-key' },
      { ...back, lacks: ['key-login-possible', 'still-on-keys', 'key-still-stored'] },
    )
  })
})
