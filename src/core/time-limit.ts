/** How long a whole run may take: a sum that follows from the inputs. Its end is that of a cancel: what is not verified is put back. */
import { Failure } from '../errors/failure.ts'
import { duration } from '../lib/timeout.ts'
import type { Inputs } from './inputs.ts'

export interface Allowance {
  /** What it is for, as it stands in the documentation. */
  readonly what: string
  /** How much of it, as it stands there. */
  readonly amount: string
  /** In milliseconds; 0 when it is not part of such a run. */
  readonly ms: (inputs: Inputs) => number
}

const minutes = (count: number): number => count * 60_000
/** How many databases `*` is taken for: how many there are is known only later. */
const databasesOfStar = 60
const writesAzure = ({ mode, part }: Inputs): boolean => mode === 'apply' && part !== 'database'
const runsSql = ({ mode, part }: Inputs): boolean => mode === 'verify' || mode === 'inventory' || part !== 'azure'

export const allowances: readonly Allowance[] = [
  {
    what: '`inventory` with `scope`: its servers',
    amount: '60 min',
    ms: ({ mode, scopeParts }) => (mode === 'inventory' && scopeParts.length > 0 ? minutes(60) : 0),
  },
  {
    what: 'signing in, looking at everything, waiting for another operation to end',
    amount: '10 min',
    ms: () => minutes(10),
  },
  {
    what: '`temporary-firewall-rule`: making the rule and waiting until it is obeyed',
    amount: '8 min',
    ms: ({ temporaryFirewallRule }) => (temporaryFirewallRule ? minutes(8) : 0),
  },
  {
    what: '`apply`, unless `part: database`: identity, roles, allow-list',
    amount: '15 min',
    ms: (inputs) => (writesAzure(inputs) ? minutes(15) : 0),
  },
  {
    what: '`apply` with `allow-restart`, unless `part: database`: the restart, and the wait for the test queries again',
    amount: '15 min + `verify-timeout-minutes`',
    ms: (inputs) =>
      writesAzure(inputs) && inputs.allowRestart ? minutes(15) + (runsSql(inputs) ? inputs.verifyTimeoutMs : 0) : 0,
  },
  {
    what: '`apply` and `verify`, unless `part: azure`: waiting for roles and identity to take effect',
    amount: '`verify-timeout-minutes`',
    ms: (inputs) => ((inputs.mode === 'apply' || inputs.mode === 'verify') && runsSql(inputs) ? inputs.verifyTimeoutMs : 0),
  },
  {
    what: 'unless `part: azure`: each database (`*` counts as 60)',
    amount: '10 s',
    ms: (inputs) => (runsSql(inputs) ? 10_000 * (inputs.databases === '*' ? databasesOfStar : inputs.databases.length) : 0),
  },
]

/** Longest time of a run, in milliseconds, from its start to the beginning of its report. */
export function runBudgetMs(inputs: Inputs): number {
  return allowances.reduce((sum, { ms }) => sum + ms(inputs), 0)
}

/** How long a run that is out of time has for putting things back before it is reported as it stands, in milliseconds. */
export const lastWordMs = 30_000

export function outOfTime(budgetMs: number): Failure {
  return new Failure({
    reason: 'azure',
    code: 'run-timeout',
    title: 'The run took too long and was ended',
    detail: `It was not done ${duration(budgetMs)} after its start, the longest time that its inputs allow. What was committed and not verified was put back, as after a cancel, or is told here.`,
    fix: 'Look at the last lines of the log for what it was waiting for, and run the job again: it goes on where it stopped. Where roles take long, raise `verify-timeout-minutes`, which lengthens the run as well.',
  })
}

/** How long one address of a host with several may take before the next is tried, in milliseconds. */
export const addressTimeoutMs = 3_000
