/** The whole table of strategies: every situation has one. */
import { expect, test } from 'vitest'
import { type Situation, type Strategy, strategyFor, type Visibility } from '../../src/verification/strategy.ts'

const flags = [true, false] as const
const visibilities: readonly Visibility[] = ['visible', 'hidden', 'unclear']
const values: { readonly [K in keyof Situation]: readonly Situation[K][] } = {
  writes: flags,
  byIdentity: flags,
  hasQueries: flags,
  visibility: visibilities,
  worksToday: flags,
  isKeyDead: flags,
  committedLately: flags,
  mayHideKey: flags,
}
const situations = Object.entries(values).reduce<object[]>(
  (all, [name, each]) => all.flatMap((one) => each.map((value) => ({ ...one, [name]: value }))),
  [{}],
) as Situation[]

const found = (where: Partial<Situation>): Strategy[] =>
  [
    ...new Set(
      situations
        .filter((each) => Object.entries(where).every(([name, value]) => each[name as keyof Situation] === value))
        .map(strategyFor),
    ),
  ].sort()

test.each<[string, Partial<Situation>, Strategy[]]>([
  ['a check and a verify never commit', { writes: false }, ['ask-only', 'trial']],
  ['they hide a key only where the extension sees it', { writes: false, visibility: 'hidden' }, ['ask-only']],
  ['and not while that is unclear', { writes: false, visibility: 'unclear' }, ['ask-only']],
  ['they read where the role may not set settings', { writes: false, mayHideKey: false }, ['ask-only']],
  ['a required key is not hidden', { writes: false, byIdentity: false }, ['ask-only']],
  ['without a query it is committed', { writes: true, hasQueries: false }, ['commit-then-check']],
  [
    'the identity is tried before it is committed',
    { writes: true, hasQueries: true, visibility: 'visible', byIdentity: true },
    ['trial'],
  ],
  ['so is a key', { writes: true, hasQueries: true, visibility: 'visible', byIdentity: false }, ['store-key']],
  [
    'a working family is not changed while visibility is unclear',
    { writes: true, hasQueries: true, visibility: 'unclear', worksToday: true, isKeyDead: false },
    ['wait'],
  ],
  [
    'and not by a second COMMIT within a minute',
    { writes: true, hasQueries: true, visibility: 'hidden', worksToday: true, isKeyDead: false, committedLately: true },
    ['wait'],
  ],
  [
    'a change that only COMMIT makes visible is committed',
    { writes: true, hasQueries: true, visibility: 'hidden', isKeyDead: false, committedLately: false },
    ['commit-then-check'],
  ],
  [
    'a dead key is cleared along with the switch where no trial would show anything',
    { writes: true, hasQueries: true, isKeyDead: true, visibility: 'unclear' },
    ['commit-then-check'],
  ],
])('%s', (_, where, strategies) => {
  expect(found(where)).toEqual(strategies)
})
