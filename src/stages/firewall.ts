/** The temporary firewall rule: one rule for exactly this runner, made only when the server refuses it, removed by the post step. */

import type { FirewallRule } from '../azure/firewall.ts'
import type { Lock } from '../azure/locks.ts'
import type { ResourceManager } from '../azure/resource-manager.ts'
import type { Inputs } from '../core/inputs.ts'
import type { ObservedServer } from '../core/observed.ts'
import type { Step } from '../core/steps.ts'
import { Failure, type Finding } from '../errors/failure.ts'
import { addressIn } from '../errors/known/postgres.ts'
import { notUnicast, numberOf, sharedAddress } from '../lib/ipv4.ts'
import type { Log } from '../lib/log.ts'
import { backoff, pause, retrying } from '../lib/retry.ts'
import { duration } from '../lib/timeout.ts'
import { verdictOnSql } from '../postgres/again.ts'
import { addressSeen } from '../postgres/azure-ai.ts'
import { type Connector, connected, messageOf } from '../postgres/connection.ts'
import {
  deleteCommand,
  isExpired,
  isTemporaryRule,
  leadsNowhere,
  messagesOf,
  newRuleName,
  nowhere,
  overwriteRule,
} from './firewall-rules.ts'

/** How long a rule may live beyond the wait for the test queries before another run may sweep it, in seconds. */
const graceSeconds = 90 * 60
/** Azure says a change takes up to five minutes. */
const opening = { baseMs: 1_000, capMs: 5_000, budgetMs: 5 * 60_000 }

interface FirewallOptions {
  readonly inputs: Inputs
  readonly server: ObservedServer
  readonly azure: ResourceManager
  readonly connector: Connector
  readonly log: Log
  readonly signal: AbortSignal
  /** Keeps the name for the post step; called before the rule is made, and again when it is. */
  readonly remember: (rule: string, state: 'requested' | 'made') => void
  /** Called for what is worth knowing and fails nothing. */
  readonly finding: (finding: Finding) => void
}

/**
 * Opens the server to this runner when it blocks it, or allows it only by the temporary rule of another run, and waits
 * until the server accepts its connection.
 * @returns the step for the report
 * @throws {Failure} when the server is not public, the address is unknown or cannot be a runner's, a lock would keep the rule
 *   from being deleted, or the rule cannot be made
 */
export async function openFirewall(options: FirewallOptions): Promise<Step> {
  const { inputs, server, azure, log, signal } = options
  const isPublic = server.publicAccess && !server.inVirtualNetwork
  const step = { id: 'firewall', kind: 'firewall', target: server.name } as const
  const { first, rules } = await lookFromOutside(options, isPublic)
  let seen: string | undefined
  if (first.refusal === undefined) {
    if (first.seen === undefined || !leansOnOthers(first.seen, rules)) {
      await sweep(options, rules)
      return { ...step, current: 'open', desired: 'open to this runner', status: 'in-sync', detail: 'no rule was needed' }
    }
    seen = first.seen
  } else {
    if (!isPublic) {
      throw new Failure({
        reason: 'azure',
        code: 'no-public-access',
        title: 'A server without public access is not opened',
        detail: `${server.name} ${server.inVirtualNetwork ? 'lies in a virtual network' : 'has public access Disabled'}; a firewall rule would not help, and this action changes neither.`,
        fix: 'Run this job on a self-hosted runner (or a GitHub-hosted one with private networking) in a network that reaches the server, without `temporary-firewall-rule`.',
      })
    }
    seen = addressIn(messageOf(first.refusal.cause).text)
  }
  const address = addressOf(options, seen)
  await refuseWhenLocked(options, rules)
  const expiry = Math.ceil((Date.now() + inputs.verifyTimeoutMs) / 1_000) + graceSeconds
  const rule = newRuleName(expiry)
  options.remember(rule, 'requested')
  log.info(`Opening ${server.name} to ${address} with the temporary firewall rule ${rule}; the post step removes it`)
  await azure.createFirewallRule(rule, address)
  options.remember(rule, 'made')
  const opened = new Date().toISOString()
  // Only now: one of them may be what allowed this runner.
  await sweep(options, rules)
  await retrying(
    async () => {
      const { refusal } = await knock(options)
      if (refusal !== undefined) throw refusal
    },
    {
      signal,
      verdict: () => ({ schedule: opening }),
      onWait: (_, waitMs, leftMs) =>
        log.info(
          `… waiting for the firewall rule to take effect; again in ${duration(waitMs)}, for at most ${duration(leftMs)} more`,
        ),
    },
  )
  return {
    ...step,
    current: first.refusal === undefined ? 'open by a rule of another run' : 'closed to this runner',
    desired: `open to ${address}`,
    status: 'created',
    detail: `rule ${rule}, opened ${opened}, removed by the post step`,
  }
}

/** Pace of looking again at a server that allows this runner for no reason that its rules show: a rule that is gone still acts for a while. */
const unexplained = { baseMs: 100, capMs: 800, budgetMs: Number.POSITIVE_INFINITY }
const mostLooks = 5

/**
 * Whether the server allows this runner, and the rules of its firewall. Rules come and go meanwhile: all that were there
 * count, and where none explains why the server accepts the connection, it connects again.
 */
async function lookFromOutside(
  options: FirewallOptions,
  isPublic: boolean,
): Promise<{ readonly first: Answer; readonly rules: readonly FirewallRule[] }> {
  const { azure, signal } = options
  const list = (): Promise<readonly FirewallRule[]> => (isPublic ? azure.firewallRules() : Promise.resolve([]))
  let [first, rules] = await Promise.all([knock(options), list()])
  for (let round = 1; ; round++) {
    if (first.isLost && round < mostLooks) {
      first = await knock(options)
      continue
    }
    if (first.refusal !== undefined || first.seen === undefined || !isPublic) return { first, rules }
    rules = [...rules, ...(await list())]
    if (covering(first.seen, rules).length > 0 || round === mostLooks) return { first, rules }
    await pause(backoff(unexplained, round), signal)
    first = await knock(options)
  }
}

interface Answer {
  /** The firewall's; undefined when it allows the runner, whatever the server then responds. */
  readonly refusal: Failure | undefined
  /** The address that the server sees. */
  readonly seen: string | undefined
  /** The connection broke, which shows neither: a rule of another run may have closed meanwhile. */
  readonly isLost?: boolean
}

async function knock({ inputs, connector, signal }: FirewallOptions): Promise<Answer> {
  const database = inputs.databases === '*' ? 'postgres' : (inputs.databases[0] ?? 'postgres')
  try {
    return { refusal: undefined, seen: await connected(connector, database, signal, addressSeen) }
  } catch (error) {
    if (signal.aborted) throw signal.reason
    // Any other error is reported where the databases are read.
    return {
      refusal: isFirewallRefusal(error) ? error : undefined,
      seen: undefined,
      isLost: verdictOnSql(error, 'look') !== false,
    }
  }
}

/** Whether only temporary rules of other runs allow this runner, which are deleted when those runs end. */
function leansOnOthers(address: string, rules: readonly FirewallRule[]): boolean {
  const reasons = covering(address, rules)
  if (reasons.length > 0) return reasons.every((rule) => isTemporaryRule(rule.name))
  // Nothing in the lists explains it. Where temporary rules come and go, one of them was the reason, unless Azure's own services are allowed.
  return rules.some(({ name }) => isTemporaryRule(name)) && !rules.some(({ start }) => start === '0.0.0.0')
}

function covering(address: string, rules: readonly FirewallRule[]): readonly FirewallRule[] {
  const number = numberOf(address)
  return rules.filter((rule) => numberOf(rule.start) <= number && number <= numberOf(rule.end))
}

const isFirewallRefusal = (error: unknown): error is Failure =>
  error instanceof Failure && (error.code === 'firewall' || error.code === 'connection-timeout')

/**
 * The address to open the server to: the one that the server itself sees, else `runner-ip`. No third party is involved. Whatever
 * answers at the server's address decides what it sees, so only one unicast IPv4 address is taken from it.
 */
function addressOf({ inputs, finding }: FirewallOptions, seen: string | undefined): string {
  const address = seen ?? inputs.runnerIp
  if (address === undefined) {
    throw new Failure({
      reason: 'input',
      code: 'runner-ip-needed',
      title: "The runner's address is not known",
      detail: `${inputs.server.name} does not answer at all, so it does not name the address it sees, and this action calls no third party to find out.`,
      fix: "Set `runner-ip`, the runner's public IPv4 address.",
    })
  }
  if (/^[\da-f:.]{2,45}$/i.test(address) && address.includes(':')) {
    throw new Failure({
      reason: 'network',
      code: 'ipv6-runner',
      title: 'The server sees an IPv6 address',
      detail: `${address}: firewall rules of a flexible server are IPv4 only.`,
      fix: 'Let the runner reach the server over IPv4.',
    })
  }
  const why = notUnicast(address)
  if (why !== undefined) {
    throw new Failure({
      reason: 'network',
      code: 'runner-address',
      title: 'The server names an address that no runner can have',
      detail: `${inputs.server.name} reports that it sees this runner at ${JSON.stringify(address.slice(0, 100))}, which is ${why}. No firewall rule was created.`,
      fix: 'Check that `database-host` leads to the server itself. If the server does not see this runner, connect directly, without a tunnel or pooler in between; for a server that does not answer, set `runner-ip`.',
    })
  }
  const shared = sharedAddress(address)
  if (shared !== undefined) {
    finding({
      severity: 'warning',
      code: 'shared-runner-address',
      title: 'The firewall is opened to an address that is not public',
      detail: `${address} is ${shared}: other machines may have it, and Azure sees it only inside that network.`,
      fix: "Set `runner-ip` to the runner's public IPv4 address, or run this job without `temporary-firewall-rule` in a network that reaches the server.",
    })
  }
  return address
}

/**
 * Looks for a lock that would keep the post step from deleting the rule. A look-up that fails is no information: reading locks
 * is a right of its own, and the post step can overwrite what it cannot delete.
 * @throws {Failure} when there is one
 */
async function refuseWhenLocked(options: FirewallOptions, rules: readonly FirewallRule[]): Promise<void> {
  const { azure, log, signal, server } = options
  let locks: readonly Lock[]
  try {
    locks = await azure.locks()
  } catch (error) {
    if (signal.aborted) throw signal.reason
    log.debug(`The locks of the server could not be listed: ${messagesOf(error)}`)
    return
  }
  const [lock] = locks.filter(({ level }) => /^(CanNotDelete|ReadOnly)$/i.test(level))
  if (lock === undefined) return
  // An expired rule may be what allows this runner: it must not stay open because this run ends here.
  await sweep(options, rules)
  const shownId = /^[\w/.()-]{1,1000}$/.test(lock.id) ? lock.id : 'LOCK-ID'
  throw new Failure({
    reason: 'azure',
    code: 'firewall-locked',
    title: 'A lock forbids deleting the temporary firewall rule',
    detail: `The ${lock.level} lock ${lock.id} applies to ${server.name}, so the rule would stay after the job. No rule was created.`,
    fix: `az lock delete --ids "${shownId}"   # or run this job without \`temporary-firewall-rule\`, on a self-hosted runner in a network that reaches the server`,
  })
}

/** Removes expired rules that earlier runs of this action left behind. One that cannot be deleted is a finding, and fails nothing. */
async function sweep(options: FirewallOptions, rules: readonly FirewallRule[]): Promise<void> {
  const { azure, log, signal } = options
  const expired = new Map(rules.filter(({ name }) => isExpired(name, Date.now())).map((rule) => [rule.name, rule]))
  for (const rule of expired.values()) {
    signal.throwIfAborted()
    log.info(`Removing the expired temporary firewall rule ${rule.name}`)
    try {
      await azure.deleteFirewallRule(rule.name)
    } catch (error) {
      if (signal.aborted) throw signal.reason
      options.finding(await leftBehind(rule, error, options))
    }
  }
}

/** Closes an expired rule that cannot be deleted. */
async function leftBehind(rule: FirewallRule, why: unknown, { azure, inputs, signal }: FirewallOptions): Promise<Finding> {
  const wasClosed = leadsNowhere(rule)
  let state = `It contains only ${nowhere}, an address that leads nowhere, so it opens nothing.`
  try {
    if (!wasClosed) await overwriteRule(rule.name, azure, signal)
  } catch (error) {
    if (signal.aborted) throw signal.reason
    state = `It cannot be overwritten either (${messagesOf(error)}), so it still opens the server to ${rule.start} - ${rule.end}.`
  }
  return {
    severity: wasClosed ? 'notice' : 'warning',
    code: 'firewall-rule-left',
    title: 'An expired temporary firewall rule cannot be deleted',
    detail: `${rule.name} on ${inputs.server.name}: ${messagesOf(why)} ${state}`,
    fix: `${deleteCommand(inputs.server, rule.name)}; first remove the lock or deny assignment that forbids it`,
  }
}
