/** The firewall is opened to one unicast IPv4 address or to none, whatever the server reports or an input contains. */
import { afterAll, beforeEach, describe, expect, test } from 'vitest'
import { type JobResult, runJob } from '../../emulator/runner.ts'
import { notUnicast, sharedAddress } from '../../src/lib/ipv4.ts'
import { ownEmulator } from '../support/own-emulator.ts'
import { begin, checkWithRule, codesOf, serverOf } from '../support/support.ts'
import { startRefusingServer } from './refusing-server.ts'

const emulator = await ownEmulator({ databases: ['app'] })
const refusing = await startRefusingServer(emulator.certificate(['localhost', '127.0.0.1']))
afterAll(() => refusing.stop())
beforeEach(() => begin(emulator, { shape: () => Object.assign(serverOf(emulator), { firewallRules: {} }) }))

async function run(inputs: Record<string, string>): Promise<JobResult> {
  const result = await runJob({
    inputs: {
      ...checkWithRule(emulator),
      ...inputs,
    },
    env: emulator.env,
  })
  await result.post()
  await result.remove()
  return result
}

/** A run whose server refuses it with the words of PostgreSQL and this address. */
function refusedAs(address: string, inputs: Record<string, string> = {}): Promise<JobResult> {
  refusing.message = `no pg_hba.conf entry for host "${address}", user "deployer", database "app", SSL encryption`
  return run({ 'database-host': '127.0.0.1', 'database-port': String(refusing.port), ...inputs })
}

const hostile = [
  '0.0.0.0',
  '0.1.2.3',
  '255.255.255.255',
  '240.0.0.1',
  '224.0.0.1',
  '169.254.169.254',
  '0.0.0.0/0',
  '203.0.113.7/24',
  '203.0.113.1-203.0.113.9',
  '203.0.113.7,0.0.0.0',
  'evil.example',
  '010.0.0.1',
  '0x0.0.0.0',
  '1.2.3',
  '4294967295',
  ' 203.0.113.7',
]

describe('the address in a refusal', () => {
  test.each(hostile)('%s opens nothing', async (address) => {
    const result = await refusedAs(address)
    expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'network' })
    const [finding] = result.report.findings
    expect(finding).toMatchObject({ code: 'runner-address', detail: expect.stringContaining(JSON.stringify(address)) })
    expect(emulator.writes()).toEqual([])
    expect(serverOf(emulator).firewallRules).toEqual({})
  })

  test.each([
    ['0.0.0.0', 'RUNNER-IP'],
    ['255.255.255.255', 'RUNNER-IP'],
    ['evil.example', 'RUNNER-IP'],
    ['203.0.113.7', '203.0.113.7'],
  ])('%s: the command in the fix names %s', async (address, named) => {
    const result = await refusedAs(address, { 'temporary-firewall-rule': 'false' })
    expect(result.report.findings[0].fix).toContain(`--start-ip-address ${named} --end-ip-address ${named} `)
  })

  test('is used although runner-ip differs', async () => {
    const result = await refusedAs('0.0.0.0', { 'runner-ip': '127.0.0.1' })
    expect(codesOf(result)).toContain('runner-address')
    expect(emulator.writes()).toEqual([])
  })
})

describe('runner-ip', () => {
  test.each([...hostile.map((address) => address.trim()).filter((address) => address !== '203.0.113.7'), '::1', '2001:db8::7'])(
    '%s is an input error, before any request',
    async (address) => {
      const result = await run({ 'runner-ip': address })
      expect(result.outputs, result.log).toMatchObject({ result: 'failed', 'failure-reason': 'input' })
      expect(result.report.findings[0].detail).toMatch(/^`runner-ip`: .*expected one unicast IPv4 address$/)
      expect(emulator.world.exchanges).toEqual([])
    },
  )
})

test('a private address is allowed, with a warning', async () => {
  // This server never allows the runner, so the run ends where the rule would be created.
  refusing.message = 'no pg_hba.conf entry for host "10.1.2.3", user "u", database "app", SSL encryption'
  const seen: string[] = []
  emulator.world.fault = ({ method, url }) => {
    if (method === 'PUT' && url.includes('/firewallRules/')) {
      seen.push(url)
      return { kind: 'answer', status: 403, body: JSON.stringify({ error: { code: 'AuthorizationFailed', message: 'no' } }) }
    }
    return undefined
  }
  const result = await run({ 'database-host': '127.0.0.1', 'database-port': String(refusing.port) })
  expect(seen).toHaveLength(1)
  expect(result.report.findings).toContainEqual(
    expect.objectContaining({ severity: 'warning', code: 'shared-runner-address', detail: expect.stringContaining('10.1.2.3') }),
  )
})

describe('the ranges', () => {
  test.each(['0.255.255.255', '169.254.0.0', '169.254.255.255', '224.0.0.0', '239.255.255.255', '240.0.0.0', '255.255.255.254'])(
    '%s is no address of a runner',
    (address) => expect(notUnicast(address)).toMatch(/^an address|^a /),
  )

  test.each(['1.0.0.0', '127.0.0.1', '169.253.255.255', '169.255.0.0', '223.255.255.255', '203.0.113.7'])(
    '%s may be one',
    (address) => expect([notUnicast(address), sharedAddress(address)]).toEqual([undefined, undefined]),
  )

  test.each(['10.0.0.0', '10.255.255.255', '100.64.0.0', '100.127.255.255', '172.16.0.0', '172.31.255.255', '192.168.0.1'])(
    '%s may be one, and is shared',
    (address) => {
      expect(notUnicast(address)).toBeUndefined()
      expect(sharedAddress(address)).toMatch(/private|carrier/)
    },
  )

  test.each(['9.255.255.255', '11.0.0.0', '100.63.255.255', '100.128.0.0', '172.15.255.255', '172.32.0.0', '192.167.255.255'])(
    '%s is public',
    (address) => expect(sharedAddress(address)).toBeUndefined(),
  )
})
