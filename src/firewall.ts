/** The temporary firewall rule: one rule for exactly this runner, made only when the server refuses it, removed by the post step. */
import type { FirewallRule, ResourceManager } from './azure/resource-manager.ts'
import { describe, Failure } from './errors.ts'
import { isExpired, isTemporaryRule, newRuleName } from './firewall-rules.ts'
import type { Inputs } from './inputs.ts'
import type { Log } from './log.ts'
import type { ObservedServer } from './observed.ts'
import type { Step } from './plan.ts'
import { addressSeen } from './postgres/azure-ai.ts'
import { type Connector, messageOf } from './postgres/connection.ts'
import { retrying } from './retry.ts'
import { duration } from './waiting.ts'

/** How long a rule may live beyond the wait for the test queries before another run may sweep it, in seconds. */
const graceSeconds = 90 * 60
/** Azure says a change takes up to five minutes. */
const opening = { baseMs: 1_000, capMs: 5_000, budgetMs: 5 * 60_000 }

export interface DoorOptions {
  readonly inputs: Inputs
  readonly server: ObservedServer
  readonly azure: ResourceManager
  readonly connector: Connector
  readonly log: Log
  readonly signal: AbortSignal
  /** Keeps the name for the post step; called before the rule is made, and again when it is. */
  readonly remember: (rule: string, state: 'asked' | 'made') => void
}

/**
 * Opens the server to this runner when it keeps it out, or lets it in only by the temporary rule of another run, and waits
 * until it is let in.
 * @returns the step for the report
 * @throws {Failure} when the server is not public, the address is unknown or the rule cannot be made
 */
export async function openDoor(options: DoorOptions): Promise<Step> {
  const { inputs, server, azure, log, signal } = options
  const isPublic = server.publicAccess && !server.inVirtualNetwork
  const step = { id: 'firewall', kind: 'firewall', target: server.name } as const
  const { first, rules } = await lookFromOutside(options, isPublic)
  let address: string
  if (first.refusal === undefined) {
    if (first.seen === undefined || !leansOnOthers(first.seen, rules)) {
      await sweep(options, rules)
      return { ...step, current: 'open', desired: 'open to this runner', status: 'in-sync', detail: 'no rule was needed' }
    }
    address = first.seen
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
    address = addressOf(inputs, first.refusal)
  }
  const expiry = Math.ceil((Date.now() + inputs.verifyTimeoutMs) / 1_000) + graceSeconds
  const rule = newRuleName(expiry)
  options.remember(rule, 'asked')
  log.info(`Opening ${server.name} to ${address} with the temporary firewall rule ${rule}; the post step removes it`)
  await azure.createFirewallRule(rule, address)
  options.remember(rule, 'made')
  const opened = new Date().toISOString()
  // Only now: one of them may be what let this runner in.
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

/**
 * Whether the server lets this runner in, and the rules of its firewall. Rules come and go meanwhile: what was there before
 * or after counts, and where none explains why the runner is let in it knocks again.
 */
async function lookFromOutside(
  options: DoorOptions,
  isPublic: boolean,
): Promise<{ readonly first: Answer; readonly rules: readonly FirewallRule[] }> {
  const { azure } = options
  const list = (): Promise<readonly FirewallRule[]> => (isPublic ? azure.firewallRules() : Promise.resolve([]))
  let [first, before] = await Promise.all([knock(options), list()])
  for (let round = 1; ; round++) {
    if (first.refusal !== undefined || first.seen === undefined || !isPublic) return { first, rules: before }
    const after = await list()
    const rules = [...before, ...after]
    if (covering(first.seen, rules).length > 0 || round === 3) return { first, rules }
    before = after
    first = await knock(options)
  }
}

interface Answer {
  /** The firewall's; undefined when it lets us in, whatever the server then says. */
  readonly refusal: Failure | undefined
  /** The address that the server sees. */
  readonly seen: string | undefined
}

async function knock({ inputs, connector, signal }: DoorOptions): Promise<Answer> {
  const database = inputs.databases === '*' ? 'postgres' : (inputs.databases[0] ?? 'postgres')
  try {
    const connection = await connector.connect(database, signal)
    try {
      return { refusal: undefined, seen: await addressSeen(connection) }
    } finally {
      await connection.close()
    }
  } catch (error) {
    if (signal.aborted) throw signal.reason
    // What something else than the firewall says is told where the databases are looked at.
    return { refusal: isRefusal(error) ? error : undefined, seen: undefined }
  }
}

/** Whether this runner is let in by nothing but temporary rules of other runs, which close when those are done. */
function leansOnOthers(address: string, rules: readonly FirewallRule[]): boolean {
  const reasons = covering(address, rules)
  return reasons.length > 0 && reasons.every((rule) => isTemporaryRule(rule.name))
}

function covering(address: string, rules: readonly FirewallRule[]): readonly FirewallRule[] {
  const number = numberOf(address)
  return rules.filter((rule) => numberOf(rule.start) <= number && number <= numberOf(rule.end))
}

const numberOf = (address: string): number => address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0)

const isRefusal = (error: unknown): error is Failure =>
  error instanceof Failure && (error.code === 'firewall' || error.code === 'connection-timeout')

/** The address that the server itself saw; one that does not answer leaves it to `runner-ip`. No third party is asked. */
function addressOf(inputs: Inputs, refusal: Failure): string {
  const seen = /no pg_hba\.conf entry for host "([^"]+)"/i.exec(messageOf(refusal.cause).text)?.[1]
  const address = seen ?? inputs.runnerIp
  if (address === undefined) {
    throw new Failure({
      reason: 'input',
      code: 'runner-ip-needed',
      title: "The runner's address is not known",
      detail: `${inputs.server.name} does not answer at all, so it does not name the address it sees, and nobody else is asked.`,
      fix: "Give `runner-ip`, the runner's public IPv4 address.",
    })
  }
  if (address.includes(':')) {
    throw new Failure({
      reason: 'network',
      code: 'ipv6-runner',
      title: 'The server sees an IPv6 address',
      detail: `${address}: firewall rules of a flexible server are IPv4 only.`,
      fix: 'Let the runner reach the server over IPv4.',
    })
  }
  return address
}

/** Rules of this action whose time is over belong to runs that could not remove them. Others are never touched. */
async function sweep({ azure, log, signal }: DoorOptions, rules: readonly FirewallRule[]): Promise<void> {
  for (const name of new Set(rules.map((rule) => rule.name))) {
    if (!isExpired(name, Date.now())) continue
    signal.throwIfAborted()
    log.info(`Removing the expired temporary firewall rule ${name}`)
    try {
      await azure.deleteFirewallRule(name)
    } catch (error) {
      // Somebody else's leftover is no reason to stop; the next run tries again.
      if (signal.aborted) throw signal.reason
      log.info(`… it could not be removed: ${describe(error)}`)
    }
  }
}
