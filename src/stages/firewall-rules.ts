/** The temporary firewall rules of this action: their names, and how they are closed. Rules of others are never touched. */
import { randomBytes } from 'node:crypto'
import type { FirewallRule } from '../azure/firewall.ts'
import type { ResourceManager } from '../azure/resource-manager.ts'
import { type Failure, failuresOf } from '../errors/failure.ts'
import type { ResourceId } from '../lib/resource-id.ts'

/** The time in a name, in seconds since 1970, is when another run may remove the rule. */
const temporaryRule = /^gha-aipg-(\d{10,12})-[0-9a-f]{12}$/

/** An address of TEST-NET-1, which leads nowhere: a rule that cannot be deleted is overwritten with it. */
export const nowhere = '192.0.2.1'

/** The name of a new rule that other runs leave alone until `expiry`, in seconds since 1970. */
export function newRuleName(expiry: number): string {
  return `gha-aipg-${expiry}-${randomBytes(6).toString('hex')}`
}

export function isTemporaryRule(name: string): boolean {
  return temporaryRule.test(name)
}

/** Whether the rule is a temporary one whose time is over. */
export function isExpired(name: string, nowMs: number): boolean {
  const expiry = temporaryRule.exec(name)?.[1]
  return expiry !== undefined && Number(expiry) * 1_000 <= nowMs
}

/** Whether the rule no longer opens the server to anyone. */
export function leadsNowhere({ start, end }: FirewallRule): boolean {
  return start === nowhere && end === nowhere
}

/** The command that deletes a rule by hand. */
export function deleteCommand({ resourceGroup, name }: ResourceId, rule: string): string {
  return `az postgres flexible-server firewall-rule delete --resource-group ${resourceGroup} --server-name ${name} --name ${rule} --yes   # az 2.86 or newer`
}

/** Whether Azure refuses the change whoever tries it again: a right is missing, or a lock, policy or deny assignment forbids it. */
export function isRefused(error: unknown): boolean {
  return failuresOf(error).some(({ reason, code }) => reason === 'permission' || code === 'refused-by-governance')
}

/**
 * Overwrites a rule that cannot be deleted with an address that leads nowhere.
 * @returns `absent` when there is no rule of this name, so that none is created
 * @throws {Failure} when Azure refuses that as well
 */
export async function overwriteRule(
  rule: string,
  azure: Pick<ResourceManager, 'firewallRules' | 'createFirewallRule'>,
  signal: AbortSignal,
): Promise<'overwritten' | 'absent'> {
  if (!isTemporaryRule(rule)) throw new Error(`${JSON.stringify(rule)} is not a temporary firewall rule of this action`)
  let rules: readonly FirewallRule[] | undefined
  try {
    rules = await azure.firewallRules()
  } catch {
    if (signal.aborted) throw signal.reason
    // Whoever may not list rules may still write one.
    rules = undefined
  }
  const present = rules?.find(({ name }) => name.toLowerCase() === rule)
  if (rules !== undefined && present === undefined) return 'absent'
  if (present === undefined || !leadsNowhere(present)) await azure.createFirewallRule(rule, nowhere)
  return 'overwritten'
}

/** The messages of an error, on one line. */
export function messagesOf(error: unknown): string {
  return failuresOf(error)
    .map((failure: Failure) => failure.message)
    .join('; ')
}
