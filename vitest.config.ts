import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

// Set by .ci/run, which counts the results.
const report = process.env['TEST_REPORT']

/** Roughly by length; the others come after, in their usual order. */
const longest = [
  'connections',
  'undocumented',
  'firewall',
  'switch-over',
  'check',
  'permissions',
  'apply',
  'interruptions',
  'restart',
  'dist',
  'unproven',
  'sweep',
  'retries',
  'way-back',
  'live',
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
    // Most of the time is spent waiting, for roles and servers that take effect: more files at once than a small machine has processors.
    maxWorkers: 5,
    // The long ones first, so that none of them is alone at the end.
    sequence: { sequencer: LongestFirst },
    testTimeout: 120_000,
    hookTimeout: 120_000,
    retry: 0,
    reporters: report ? ['default', ['json', { outputFile: report }]] : ['default'],
  },
})
