import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

// Set by .ci/run, which counts the results.
const report = process.env['TEST_REPORT']

/** Roughly by length; the others come after, in their usual order. */
const longest = [
  'firewall',
  'undocumented',
  'permissions',
  'switch-over',
  'check',
  'interruptions',
  'apply',
  'restart',
  'credentials',
  'rollback-to-keys',
  'verify',
  'preconditions',
  'retries',
  'sweep',
  'plan-id',
  'connections',
  'live',
  'laws',
]

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification): number => {
      const index = longest.findIndex((name) => moduleId.endsWith(`/${name}.test.ts`))
      return index === -1 ? longest.length : index
    }
    return (await super.sort(files)).sort((a, b) => rank(a) - rank(b))
  }
}

export default defineConfig({
  test: {
    include: ['__tests__/**/*.test.ts'],
    globalSetup: '__tests__/global-setup.ts',
    pool: 'forks',
    // Half of the time is spent waiting, for roles and servers that take effect: twice as many files at once as there are processors.
    maxWorkers: Math.min(2 * availableParallelism(), 8),
    // The long ones first, so that none of them is alone at the end.
    sequence: { sequencer: LongestFirst },
    // No test takes a minute on an idle machine; on a busy one it may.
    testTimeout: 240_000,
    hookTimeout: 240_000,
    retry: 0,
    reporters: report ? ['default', ['json', { outputFile: report }]] : ['default'],
  },
})
