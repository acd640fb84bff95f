/** IPv4 addresses as a firewall rule may contain them: exactly one address that a single machine can have. */

/** Ranges that no runner's address lies in, with the reason; first and last address. */
const refusedRanges = [
  ['0.0.0.0', '0.255.255.255', 'an address of "this network"; in a firewall rule 0.0.0.0 means all of Azure'],
  ['169.254.0.0', '169.254.255.255', 'a link-local address'],
  ['224.0.0.0', '239.255.255.255', 'a multicast address'],
  ['240.0.0.0', '255.255.255.255', 'a reserved or broadcast address'],
] as const

/** Ranges that routers share: behind them the server sees another address, unless it is in the same network. */
const privateRanges = [
  ['10.0.0.0', '10.255.255.255', 'a private address'],
  ['100.64.0.0', '100.127.255.255', 'an address of a carrier-grade NAT'],
  ['172.16.0.0', '172.31.255.255', 'a private address'],
  ['192.168.0.0', '192.168.255.255', 'a private address'],
] as const

/** Four decimal numbers without leading zeros, which some programs read as octal, and nothing else. */
function isIpv4(text: string): boolean {
  const parts = text.length > 15 ? [] : text.split('.')
  return parts.length === 4 && parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) <= 255)
}

/** The address as a number; NaN for what is no IPv4 address. */
export function numberOf(address: string): number {
  return isIpv4(address) ? address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0) : Number.NaN
}

function describedBy(ranges: typeof refusedRanges | typeof privateRanges, address: string): string | undefined {
  const number = numberOf(address)
  return ranges.find(([first, last]) => numberOf(first) <= number && number <= numberOf(last))?.[2]
}

/**
 * Why a text cannot be the address of a runner, as in `is ..`; undefined when it is one unicast IPv4 address. Names, ranges,
 * prefixes, IPv6, leading zeros and blanks are refused. Loopback addresses are allowed: servers on the same machine have them.
 */
export function notUnicast(text: string): string | undefined {
  return isIpv4(text) ? describedBy(refusedRanges, text) : 'not one IPv4 address, written as four numbers'
}

/** What kind of shared address it is, as in `is ..`; undefined for a public one. */
export function sharedAddress(address: string): string | undefined {
  return describedBy(privateRanges, address)
}
