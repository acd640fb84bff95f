/** Errors with one cause are one finding; what is about different things stays apart. */
import { expect, test } from 'vitest'
import type { Finding } from '../../src/errors/failure.ts'
import { onePerCause } from '../../src/report/grouping.ts'

const refused = (service: string, database: string): Finding => ({
  severity: 'error',
  code: 'role-not-effective',
  title: 'The service does not accept the identity (yet)',
  detail: `${service} in "${database}": refused`,
  fix: `Run again. To look: az role assignment list --scope /${service}`,
})
const missing = (database: string): Finding => ({
  severity: 'error',
  code: 'database-not-found',
  title: 'The database does not exist',
  detail: `"${database}" does not exist`,
  fix: 'Look at `databases`.',
})

test('the refusals of several services are one finding, with the words of the fix once', () => {
  const found = onePerCause([refused('A', 'app'), refused('B', 'app'), refused('A', 'crm')], ['app', 'crm'])
  expect(found).toEqual([
    {
      ...refused('A', 'app'),
      detail: 'A in "app": refused\nThe same in "crm".\nB in "app": refused',
      fix: 'Run again. To look: az role assignment list --scope /A\naz role assignment list --scope /B',
    },
  ])
})

test('the same error of many databases is one finding that names the first of them', () => {
  const names = Array.from({ length: 30 }, (_, index) => `db${index}`)
  const [found, ...others] = onePerCause(names.map(missing), names)
  expect(others).toEqual([])
  expect(found?.detail).toMatch(/^"db0" does not exist\nThe same in "db1", .*"db10" and 19 more\.$/)
  expect(found?.fix).toBe('Look at `databases`.')
})

test('the same error of two databases has the command for each', () => {
  const closed = (name: string): Finding => ({ ...missing(name), fix: `ALTER DATABASE "${name}" ALLOW_CONNECTIONS true;` })
  const [found] = onePerCause([closed('app'), closed('crm')], ['app', 'crm'])
  expect(found?.fix).toBe('ALTER DATABASE "app" ALLOW_CONNECTIONS true;\nALTER DATABASE "crm" ALLOW_CONNECTIONS true;')
})

test('a finding is cut after twenty places', () => {
  const many = Array.from({ length: 25 }, (_, index) => refused(`S${index}`, 'app'))
  const [found] = onePerCause(many, ['app'])
  expect(found?.detail.split('\n')).toHaveLength(21)
  expect(found?.detail).toMatch(/\nand 5 more$/)
})

test('errors of one code that are about different things stay apart, and so do warnings', () => {
  const role = (name: string): Finding => ({ severity: 'error', code: 'role-assigns-roles', title: 't', detail: name, fix: '' })
  const beyond = (name: string): Finding => ({ ...role(name), severity: 'warning', code: 'role-beyond-need' })
  const all = [role('a'), role('b'), beyond('a'), beyond('b')]
  expect(onePerCause(all, [])).toEqual(all)
})
