/** The whole table of strategies: every situation has one. */
import { expect, test } from 'vitest'
import { type Situation, type Strategy, strategyFor, type Visibility } from '../../src/verification/strategy.ts'

const flags = [true, false]
const visibilities: readonly Visibility[] = ['visible', 'hidden', 'unclear']
const situations: Situation[] = flags.flatMap((writes) =>
  flags.flatMap((byIdentity) =>
    flags.flatMap((hasQueries) =>
      visibilities.flatMap((visibility) =>
        flags.flatMap((worksToday) =>
          flags.flatMap((committedLately) =>
            flags.map((mayHideKey) => ({ writes, byIdentity, hasQueries, visibility, worksToday, committedLately, mayHideKey })),
          ),
        ),
      ),
    ),
  ),
)

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
    { writes: true, hasQueries: true, visibility: 'unclear', worksToday: true },
    ['wait'],
  ],
  [
    'and not by a second COMMIT within a minute',
    { writes: true, hasQueries: true, visibility: 'hidden', worksToday: true, committedLately: true },
    ['wait'],
  ],
  [
    'a change that only COMMIT makes visible is committed',
    { writes: true, hasQueries: true, visibility: 'hidden', committedLately: false },
    ['commit-then-check'],
  ],
])('%s', (_, where, strategies) => {
  expect(found(where)).toEqual(strategies)
})
