/**
 * Inputs that look like something else: letters of other alphabets, invisible characters, paths and options where a name
 * belongs. Each is refused by the name of its input before anything is sent, since a reviewer reads the one and the action
 * would use the other.
 */
import { describe, expect, test } from 'vitest'
import type { InputName } from '../../src/core/input-names.ts'
import { parseInputs } from '../../src/core/inputs.ts'
import { Failure } from '../../src/errors/failure.ts'
import { parseResourceId } from '../../src/lib/resource-id.ts'
import { ids, rawInputs } from '../support/support.ts'

const { server, openai } = ids
const subscription = server.split('/')[2] ?? ''
const client = '7e4b2d18-3f60-4c9a-8d25-b1a6f0c3e974'
const owner = '8e3af657-a8ff-443c-a75c-2fe8c4bcb635'
const usual = { mode: 'check', 'tenant-id': 'contoso.com', 'client-id': client }

/** The problems that the parser reports, each beginning with the name of its input; empty when it accepts all. */
function problems(inputs: Partial<Record<InputName, string>>): string[] {
  try {
    parseInputs(rawInputs({ ...usual, ...inputs }))
    return []
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    return error.detail.split('\n')
  }
}

test('the unchanged inputs of these tests are accepted', () => {
  expect(problems({})).toEqual([])
})

const cases: Partial<Record<InputName, Record<string, string>>> = {
  server: {
    'a Cyrillic letter': server.replace('flexibleServers', 'fl\u0435xibleServers'),
    'a ligature': server.replace('flexible', '\ufb02exible'),
    'a long s': server.replace('/subscriptions', '/\u017fubscriptions'),
    'full-width slashes': server.replaceAll('/', '\uff0f'),
    'a division slash': server.replace('/pg-one', '/pg\u2215one'),
    'a name with an invisible character': server.replace('pg-one', 'pg\u200b-one'),
    'a soft hyphen': server.replace('pg-one', 'pg\u00ad-one'),
    'a direction override': server.replace('pg-one', 'pg-\u202eeno'),
    'a hyphen of another kind': server.replace('pg-one', 'pg\u2010one'),
    'full-width digits in the subscription': server.replace('3c0b', '\uff13c0b'),
    'a percent-encoded slash': server.replace('pg-one', 'pg%2fone'),
    'percent-encoded dots': server.replace('/pg-one', '/%2e%2e'),
    'dots as a name': server.replace('/pg-one', '/..'),
    'dots as a group': server.replace('/rg/', '/../'),
    'a leader of two dots': server.replace('/pg-one', '/\u2025'),
    'a path behind': `${server}/../../accounts/x`,
    'a backslash': server.replace('/pg-one', '\\pg-one'),
    'a query': `${server}?api-version=1`,
    'a fragment': `${server}#x`,
    'a user and a host in front': `//user@evil.example${server}`,
    'a command behind': `${server};id`,
    'a substitution': server.replace('pg-one', '$(id)'),
    'a group with a blank and an option': server.replace('/rg/', '/rg --yes/'),
  },
  openai: {
    'the sign for kelvin': openai.replace('Microsoft', 'Micro\u017foft'),
    'another letter': openai.replace('CognitiveServices', 'Cogn\u0456tiveServices'),
    'a dotless letter': openai.replace('Cognitive', 'Cogn\u0131tive'),
  },
  'openai-role': {
    braces: `{${owner}}`,
    'a name of a resource': `urn:uuid:${owner}`,
    'hyphens of another kind': owner.replaceAll('-', '\u2010'),
    'a full-width digit': owner.replace('8', '\uff18'),
    'a whole id': `/subscriptions/${subscription}/providers/Microsoft.Authorization/roleDefinitions/${owner}`,
    'an invisible character': `${owner}\u200b`,
    'without hyphens': owner.replaceAll('-', ''),
  },
  mode: { 'the sign for kelvin': 'chec\u212a', 'an invisible character': 'check\u200b', 'full-width': '\uff43heck' },
  part: { 'a Cyrillic letter': '\u0430ll' },
  'auth-type': { 'a hyphen of another kind': 'managed\u2011identity' },
  'allow-restart': { 'full-width': '\uff54rue', 'a Cyrillic letter': 'tru\u0435', 'a number': '1', list: 'true,false' },
  'clear-keys': { 'an invisible character': 'true\u2060', yes: 'yes' },
  'database-port': {
    'full-width digits': '\uff15\uff14\uff13\uff12',
    hexadecimal: '0x1538',
    exponent: '5e3',
    fraction: '5432.0',
    sign: '+5432',
    'two ports': '5432,1',
    'a host behind': '5432@evil.example',
  },
  'verify-timeout-minutes': {
    endless: 'Infinity',
    exponent: '1e2',
    hexadecimal: '0x10',
    digits: '\uff11\uff10',
    none: 'NaN',
    sign: '-0',
  },
  'client-id': {
    'an option': '--help',
    'an option of a shell': `${client} --debug`,
    'a substitution': `$(id)`,
    'an invisible character': `${client}\u200d`,
    'a quote': `${client}"`,
  },
  'tenant-id': {
    'a path': 'contoso.com/../common',
    'a path upwards': '../common',
    'a query': 'contoso.com?x',
    'a fragment': 'contoso.com#',
    'an encoded slash': 'contoso.com%2fx',
    'a user': 'contoso.com@evil.example',
    'a backslash': 'contoso.com\\evil.example',
    'an option': '-contoso.com',
    'a Cyrillic letter': 'cont\u043eso.com',
    'a full stop of another kind': 'contoso\u3002com',
    'every tenant': 'common',
    'any organisation': 'organizations',
  },
  'database-host': {
    'a socket': '/var/run/postgresql',
    'an abstract socket': '@postgresql',
    'two hosts': 'pg-one.example,evil.example',
    'a port behind': 'pg-one.example:5432',
    'options behind': 'pg-one.example sslmode=disable',
    'a user in front': 'user@pg-one.example',
    'a URL': 'postgres://pg-one.example',
    'an option in front': '-h',
    brackets: '[::1]',
    'a zone': 'fe80::1%eth0',
    'a percent-encoded socket': '%2fvar%2frun',
    'a full stop of another kind': 'pg-one\u3002example',
    'a letter in a circle': '\u24d7ost.example',
    'a Cyrillic letter': 'pg-\u043ene.example',
  },
  environment: {
    'an invisible character': 'AzureCloud\u200b',
    'full-width': '\uff21zureCloud',
    'the sign for kelvin': 'A\u017bureCloud',
    'a user in front of the host': 'https://management.azure.com@evil.example',
    'a user with a backslash': 'https://management.azure.com\\@evil.example',
    'a query': 'https://evil.example/?management.azure.com',
    'a fragment': 'https://evil.example#management.azure.com',
    'no TLS': 'http://management.azure.com',
    'a member of every object': 'constructor',
    'a prototype': '__proto__',
  },
  'plan-id': { 'a path': '../0123456789abcdef', 'full-width': '\uff10123456789abcdef', upper: '0123456789ABCDEF' },
}

describe.each(Object.entries(cases) as [InputName, Record<string, string>][])('%s', (input, values) => {
  test.each(Object.entries(values))('%s is refused', (_, value) => {
    const found = problems({ [input]: value, ...(input === 'plan-id' ? { mode: 'apply' } : {}) })
    expect(found).not.toEqual([])
    for (const each of found) expect(each).toMatch(new RegExp(`^\`(${input}|audience)\`: `))
  })
})

test('a URL in other letters is not a known cloud: it needs an audience of its own, and is shown in ASCII', () => {
  const environment = 'https://m\u0430nagement.azure.com'
  expect(problems({ environment })).toEqual([expect.stringMatching(/^`audience`: is required/)])
  expect(problems({ environment, audience: 'api://AzureADTokenExchange' })).toEqual([expect.stringMatching(/^`audience`: /)])
  expect(problems({ environment, audience: 'api://\uff21zureADTokenExchange' })).toEqual([expect.stringMatching(/^`audience`: /)])
  expect(problems({ environment, audience: 'api://contoso' })).toEqual([])
})

test('a resource group in other letters stays one part of a path, whatever it looks like', () => {
  for (const group of ['\u0440g', 'rg\u202e', 'r\uff0fg', 'rg\u2028', 'rg/..', 'rg%2f..', '...', '(\u2024\u2024)']) {
    const id = server.replace('/rg/', `/${group}/`)
    const parsed = parseResourceId(id)
    if (parsed !== undefined) expect([parsed.resourceGroup, encodeURI(parsed.resourceGroup)]).not.toContain('..')
    if (/[\u202e\uff0f\u2028%]|\.\./.test(group)) expect([group, parsed]).toEqual([group, undefined])
  }
})
