import { defineConfig } from 'vitest/config'

// Set by .ci/run, which counts the results.
const report = process.env['TEST_REPORT']

export default defineConfig({
  test: {
    include: ['__tests__/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 120_000,
    hookTimeout: 120_000,
    retry: 0,
    reporters: report ? ['default', ['json', { outputFile: report }]] : ['default'],
  },
})
