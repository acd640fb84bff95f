/** What counts as evidence for a restart, in its order. */
import { expect, test } from 'vitest'
import { type QueriesSoFar, restartEvidence } from '../../src/core/restart-evidence.ts'
import { observed, observedDatabase } from '../support/support.ts'

const own = '11111111-2222-4333-8444-555555555555'
const former = '99999999-2222-4333-8444-555555555555'
const started = new Date('2026-01-01T00:00:00Z')
const minutes = (count: number): Date => new Date(started.getTime() + count * 60_000)

function evidence(running: string | undefined, firstRole: Date | undefined, so: Partial<QueriesSoFar> = {}) {
  const role = {
    id: 'r',
    scope: '/s',
    principalId: own,
    reaches: undefined,
    roleId: 'x',
    description: undefined,
    createdOn: firstRole,
  }
  const state = observed({
    server: { ...observed().server, principalId: own },
    roleAssignments: new Map([['openai', firstRole === undefined ? [] : [role]]]),
  })
  const databases = [observedDatabase('app', { runningIdentity: running, startedAt: started })]
  const found = restartEvidence({ ...state, databases }, { noToken: false, refusedPrincipals: [], roleAssignedNow: false, ...so })
  return found && (found.certain ? 'certain' : 'uncertain')
}

test('another running identity is certain, whatever the queries report', () => {
  expect(evidence(former, minutes(-60))).toBe('certain')
})

test("a refusal that names another principal is certain; one that names the server's own is no evidence", () => {
  expect(evidence(undefined, minutes(-60), { refusedPrincipals: [former] })).toBe('certain')
  expect(evidence(undefined, minutes(-60), { refusedPrincipals: [own.toUpperCase()] })).toBeUndefined()
})

test('an empty running identity is evidence only when no token is available', () => {
  expect(evidence('', minutes(-60), { noToken: true })).toBe('certain')
  expect(evidence('', minutes(-60))).toBeUndefined()
})

test('a server that started more than five minutes before the first role is certain; with less the run waits', () => {
  expect(evidence(undefined, minutes(6), { noToken: true })).toBe('certain')
  expect(evidence(undefined, minutes(4), { noToken: true })).toBe('uncertain')
  expect(evidence(undefined, minutes(-1), { noToken: true })).toBeUndefined()
  expect(evidence(undefined, undefined, { noToken: true })).toBeUndefined()
  expect(evidence(undefined, undefined, { noToken: true, roleAssignedNow: true })).toBe('uncertain')
})

test("the server's own running identity without a token is no reason to restart", () => {
  expect(evidence(own, minutes(60), { noToken: true })).toBeUndefined()
})
