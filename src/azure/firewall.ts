/** Firewall rules of the server, and the locks that would keep one from being deleted. */
import { type CallOptions, type Calls, minutes, pagesOfClient } from './calls.ts'
import { type Lock, listLocks } from './locks.ts'
import { itemsOf } from './pages.ts'

/** IPv4 addresses, both ends included. */
export interface FirewallRule {
  readonly name: string
  readonly start: string
  readonly end: string
}

export interface Firewall {
  /** Locks on the server, and on what it lies in. */
  locks(): Promise<readonly Lock[]>
  firewallRules(): Promise<readonly FirewallRule[]>
  createFirewallRule(rule: string, address: string): Promise<void>
  /** True when there was one to delete. */
  deleteFirewallRule(rule: string): Promise<boolean>
}

export function createFirewall(calls: Calls, { server, signal }: CallOptions): Firewall {
  const { call, endpoint, http, servers, operation, writing, repeating } = calls
  const { resourceGroup, name } = server
  return {
    locks: () => {
      const doing = 'listing the locks of the server'
      return call(doing, () => listLocks(http, endpoint, server, doing, signal))
    },

    firewallRules: () =>
      call('listing firewall rules', async () => {
        const found: FirewallRule[] = []
        const list = (await servers()).firewallRules.listByServer(resourceGroup, name)
        for await (const each of itemsOf(await pagesOfClient(list), 'listing firewall rules'))
          found.push({ name: each.name ?? '', start: each.startIpAddress ?? '', end: each.endIpAddress ?? '' })
        return found
      }),

    createFirewallRule: (rule, address) =>
      operation('the temporary firewall rule to be made', minutes(6), async (abortSignal) => {
        const parameters = { startIpAddress: address, endIpAddress: address }
        const client = await servers()
        const options = writing(abortSignal)
        await repeating(() => client.firewallRules.beginCreateOrUpdateAndWait(resourceGroup, name, rule, parameters, options))
      }),

    deleteFirewallRule: (rule) =>
      operation('the temporary firewall rule to be removed', minutes(6), async (abortSignal) => {
        let status = 0
        const onResponse = (response: { status: number }): void => {
          status ||= response.status
        }
        const client = await servers()
        try {
          await repeating(() => {
            status = 0
            const options = { ...writing(abortSignal), onResponse }
            return client.firewallRules.beginDeleteAndWait(resourceGroup, name, rule, options)
          })
        } catch (error) {
          if ((error as { statusCode?: unknown }).statusCode === 404) return false
          throw error
        }
        return status !== 204
      }),
  }
}
