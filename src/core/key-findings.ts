/** What is left to do about keys outside of the databases: rotate what backups contain, and turn key access off. Pure. */
import type { Finding } from '../errors/failure.ts'
import { canonicalId, groupIn, nameIn, parseResourceId } from '../lib/resource-id.ts'
import type { Inputs } from './inputs.ts'
import type { Journal } from './journal.ts'
import { isRead, type Observed } from './observed.ts'
import { namedFamilies } from './plan.ts'
import { memberOf, type Resource, type ServiceName, serviceNamed } from './services.ts'
import { isStoredNow } from './stored-keys.ts'

/** After keys were cleared: backups still contain them. */
export function rotationFindings(inputs: Inputs, observed: Observed, journal: Journal): Finding[] {
  const cleared = observed.databases.filter(isRead).flatMap((database) =>
    namedFamilies(inputs)
      .flatMap(({ services }) => services)
      .filter((service) => {
        const { key } = memberOf(service)
        return database.keysSet.has(key) && !isStoredNow(database, key, journal.step)
      }),
  )
  if (cleared.length === 0 || inputs.authType !== 'managed-identity') return []
  const services = new Set(cleared.map(({ name }) => name))
  const resources = [...services].flatMap((service) => observed.resources.get(service) ?? [])
  const commands = resources.map((resource) => regenerateKey(resource))
  return [
    {
      severity: 'notice',
      code: 'keys-to-rotate',
      title: 'Backups still contain the keys that were cleared',
      detail: `Backups of ${observed.server.name}, and servers restored from them, contain them until the retention ends. Rotate the keys, unless key access is turned off: whatever else uses them stops working then.`,
      fix: [...new Set(commands)].join('\n'),
    },
  ]
}

function regenerateKey({ id, name, settingsId, kind, authMode }: Resource): string {
  const group = groupIn(id)
  if (kind === 'ServerlessEndpoint')
    return `az rest --method post --url "${id}/regenerateKeys?api-version=2024-10-01" --body '{"keyType": "Primary"}'   # then Secondary`
  if (authMode === undefined)
    return `az cognitiveservices account keys regenerate --resource-group ${group} --name ${name} --key-name key1   # then key2`
  const workspace = parseResourceId(settingsId)?.names[0] ?? 'WORKSPACE'
  return `az ml online-endpoint regenerate-keys --resource-group ${group} --workspace-name ${workspace} --name ${nameIn(settingsId)} --key-type primary   # then secondary`
}

const keyAccessOff = ({ id, kind }: Resource): string =>
  kind === 'ServerlessEndpoint'
    ? `az resource update --ids "${id}" --api-version 2024-10-01 --set properties.authMode=AAD`
    : `az resource update --ids "${id}" --set properties.disableLocalAuth=true`

/** Whether key access of a resource can be turned off, as far as the databases of this run go, or why not yet. */
export function keyLoginFindings(inputs: Inputs, observed: Observed, journal: Journal): Finding[] {
  if (inputs.authType !== 'managed-identity' || inputs.part === 'azure') return []
  // Of the endpoints only one that takes both logins has a key access to turn off.
  const accounts = inputs.services.filter(
    ({ service }) => serviceNamed(service).kinds !== undefined || observed.resources.get(service)?.authMode === 'KeyAndAAD',
  )
  const idOf = (service: ServiceName): string => canonicalId(observed.resources.get(service)?.id ?? '')
  return accounts.flatMap(({ service }, index): Finding[] => {
    const resource = observed.resources.get(service)
    const id = idOf(service)
    // One account may serve several services: it is reported once, and all of them count.
    if (resource === undefined || resource.localAuthDisabled || accounts.findIndex((each) => idOf(each.service) === id) < index)
      return []
    const queries = journal.queries.filter((query) => idOf(query.service) === id)
    const unproven = queries.filter((query) => query.status !== 'passed' || query.proof !== 'keyless')
    if (queries.length > 0 && unproven.length === 0) {
      return [
        {
          severity: 'notice',
          code: 'key-login-possible',
          title: 'The resource still takes keys',
          detail: `${resource.name}: every database of this run works without one. Turn key access off when nothing else uses its keys; requests by key are those without an objectId in its diagnostic logs.`,
          fix: `az monitor activity-log list --resource-id "${resource.id}" --offset 90d --query "[?contains(operationName.value, 'listKeys')].{when: eventTimestamp, who: caller}"   # who has read its keys\n${keyAccessOff(resource)}`,
        },
      ]
    }
    const [first] = unproven
    if (first === undefined) return []
    const reasons = {
      passed: 'a key is stored that may have answered',
      failed: 'its test query failed',
      skipped: first.error,
    }
    return [
      {
        severity: 'notice',
        code: 'key-login-still-needed',
        title: 'Key access of a resource cannot be turned off yet',
        detail: `${resource.name}: "${first.database}" is not verified to work without a key (${reasons[first.status]}).`,
        fix: '',
      },
    ]
  })
}
