/**
 * The last step of the live workflow: compares the results of the steps before it with the expected ones. Reads STEPS, the workflow's
 * `toJSON(steps)`, writes a table to the job summary and exits with 1 when a result differs. Needs Node alone.
 */
import { appendFileSync, existsSync, readFileSync } from 'node:fs'

interface Step {
  outcome?: string
  outputs?: Record<string, string>
}

interface Query {
  database: string
  service: string
  status: string
  proof: string
  attempts: number
  durationMs: number
  error: string
}

interface Report {
  durationMs: number
  queries: Query[]
  findings: { severity: string; code: string }[]
}

/** The allowed values of each step's outputs, by the step's id. */
const expected: Record<string, Record<string, string[]>> = {
  before: { result: ['drift', 'in-sync'], changed: ['false'] },
  apply: { result: ['changed', 'in-sync'], verified: ['true'] },
  again: { result: ['in-sync'], changed: ['false'], verified: ['true'] },
  check: { result: ['in-sync'], drift: ['false'], verified: ['true'] },
  verify: { result: ['in-sync'], changed: ['false'], verified: ['true'] },
  back: { result: ['changed'], verified: ['true'] },
  forth: { result: ['changed'], verified: ['true'] },
  after: { result: ['in-sync'], drift: ['false'], verified: ['true'] },
}

const steps = JSON.parse(process.env['STEPS'] ?? '{}') as Record<string, Step>
const problems: string[] = []
const rows = ['| step | result | verified | time | test queries | findings |', '|---|---|---|---|---|---|']

for (const [id, wanted] of Object.entries(expected)) {
  const step = steps[id]
  const outputs = step?.outputs ?? {}
  if (step === undefined || step.outcome !== 'success') problems.push(`${id}: ${step?.outcome ?? 'did not run'}`)
  for (const [name, values] of Object.entries(wanted)) {
    const value = outputs[name] ?? 'not set'
    if (!values.includes(value)) problems.push(`${id}: ${name} is ${value}, expected ${values.join(' or ')}`)
  }
  const path = outputs['report-path'] ?? ''
  const report = existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as Report) : undefined
  const queries = (report?.queries ?? []).map(
    (query) =>
      `${query.database}/${query.service}: ${query.status}${query.status === 'passed' ? ` (${query.proof})` : ''}, ` +
      `${query.attempts} attempts, ${seconds(query.durationMs)}`,
  )
  const cells = [
    id,
    outputs['result'] ?? step?.outcome ?? 'did not run',
    outputs['verified'] ?? '',
    report === undefined ? '' : seconds(report.durationMs),
    queries.join('<br/>'),
    (report?.findings ?? []).map(({ severity, code }) => `${severity}: ${code}`).join('<br/>'),
  ]
  rows.push(`| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`)
}

const verdict =
  problems.length === 0
    ? 'Apply, check, verify and the rollback to keys ended as expected, against a real server.'
    : ['Not as expected:', '', ...problems.map((problem) => `- ${problem}`)].join('\n')
const text = `## Live\n\n${verdict}\n\n${rows.join('\n')}\n`
process.stdout.write(text)
const summary = process.env['GITHUB_STEP_SUMMARY'] ?? ''
if (summary !== '') appendFileSync(summary, text)
process.exitCode = problems.length === 0 ? 0 : 1

function seconds(milliseconds: number): string {
  return `${(milliseconds / 1_000).toFixed(1)} s`
}
