/** What is worth knowing although it is no drift; pure. Each code has its text for docs/findings.md in scripts/code-texts.ts. */

import type { Finding } from '../errors/failure.ts'
import { setSettingIn } from '../errors/sql.ts'
import { firstOf } from '../lib/bounded.ts'
import { groupIn, nameIn, sameId } from '../lib/resource-id.ts'
import { onOneLine } from '../lib/unicode.ts'
import { endpointKind } from './endpoints.ts'
import { type Inputs, titleOf } from './inputs.ts'
import type { Journal } from './journal.ts'
import { keyLoginFindings, rotationFindings } from './key-findings.ts'
import {
  allowsAzureAi,
  assignmentDescription,
  assignmentGiving,
  formerAssignment,
  isRead,
  type Observed,
  type ObservedDatabase,
  type ReadDatabase,
} from './observed.ts'
import { lackedFindings, newerVersion } from './offered.ts'
import { namedFamilies } from './plan.ts'
import { type Family, keysOf, memberOf } from './services.ts'
import { isWritten } from './steps.ts'
import { isStoredNow, unnamedKeys } from './stored-keys.ts'

export function findings(inputs: Inputs, observed: Observed, journal: Journal): readonly Finding[] {
  return [
    ...roleFindings(inputs, observed),
    ...unknownRestart(inputs, observed),
    ...observed.replicas.flatMap((replica) => (inputs.mode === 'check' ? [] : replicaFinding(inputs, replica))),
    ...databaseFindings(inputs, observed.databases, journal),
    ...keyLoginFindings(inputs, observed, journal),
    ...rotationFindings(inputs, observed, journal),
    ...takenAwayFindings(inputs, observed),
  ]
}

/** What the databases alone show, for runs that do not call Resource Manager. */
export function databaseFindings(inputs: Inputs, databases: readonly ObservedDatabase[], journal: Journal): readonly Finding[] {
  const seen = databases.filter(isRead)
  return [
    ...seen.flatMap((database) => findingsOf(inputs, database, journal)),
    ...unnamedKeyFindings(inputs, seen),
    ...seen.flatMap((database) => endpointFindings(inputs, database)),
    ...loggingFindings(inputs, seen),
    ...seen.flatMap((database) => lackedFindings(inputs, database)),
  ]
}

/** Roles of the identity beyond the one that is needed, and what a former identity of the server left behind. */
function roleFindings(inputs: Inputs, observed: Observed): Finding[] {
  const { server } = observed
  return inputs.services.flatMap(({ service, resource, roleId }) => {
    const scope = observed.resources.get(service)?.id ?? resource.id
    const assignments = observed.roleAssignments.get(service) ?? []
    const at = assignments.filter((each) => sameId(each.scope, scope))
    // One account may serve several services, each with a role of its own.
    const needed = inputs.services
      .filter((each) => sameId(observed.resources.get(each.service)?.id ?? each.resource.id, scope))
      .map((each) => each.roleId.toLowerCase())
    const beyond = at.filter(
      (each) => each.principalId.toLowerCase() === server.principalId?.toLowerCase() && !needed.includes(each.roleId),
    )
    const byGroup =
      server.principalId === undefined
        ? undefined
        : assignmentGiving(
            assignments.filter((each) => each.reaches !== undefined),
            server.principalId,
            roleId,
            scope,
          )
    const former = at.filter((each) => formerAssignment([each], server, undefined, scope) !== undefined)
    const name = nameIn(scope)
    return [
      ...(byGroup === undefined
        ? []
        : [
            {
              severity: 'warning',
              code: 'role-by-group',
              title: 'A role is held through a group',
              detail: `The identity has its role on ${name} as a member of group ${byGroup.principalId}. Changes of membership can take hours to reach its tokens.`,
              fix: '',
            } satisfies Finding,
          ]),
      ...beyond.map(
        (each): Finding => ({
          severity: 'warning',
          code: 'role-beyond-need',
          title: 'The identity has a role that azure_ai does not need',
          detail: `Role ${each.roleId} on ${name}.`,
          fix: `az role assignment delete --ids "${each.id}"   # unless something else on this server needs it`,
        }),
      ),
      ...former.map(
        (each): Finding => ({
          severity: 'warning',
          code: 'former-principal',
          title: 'A former identity of this server still has a role',
          detail: `Principal ${each.principalId} has role ${each.roleId} on ${name}: the server was restored or created again, or its identity was turned off in between.`,
          fix: `az role assignment delete --ids "${each.id}"   # unless the server it was restored from still runs with it`,
        }),
      ),
    ]
  })
}

/** Without SQL nothing fails for want of a token. Some servers never report an identity, so an empty one is no difference. */
function unknownRestart(inputs: Inputs, { runningIdentity }: Observed): Finding[] {
  if (runningIdentity !== '') return []
  const { resourceGroup, name } = inputs.server
  return [
    {
      severity: 'notice',
      code: 'restart-unknown',
      title: 'Unknown whether the server was restarted after its identity was enabled',
      detail: `${name} names no identity that it runs with. If azure_ai cannot get a token there, a restart is missing.`,
      fix: `az postgres flexible-server restart --resource-group ${resourceGroup} --name ${name}   # only when the test queries fail for want of a token`,
    },
  ]
}

/** Apply does not write replicas; it reports them. */
function replicaFinding(inputs: Inputs, { server, missingRoles, restarted }: Observed['replicas'][number]): Finding[] {
  if (inputs.part === 'database' || (server.principalId !== undefined && missingRoles.length === 0 && restarted !== false))
    return []
  const waits = server.principalId !== undefined && missingRoles.length === 0
  const withIdentity = waits
    ? 'not been restarted since its identity was turned on'
    : `no role for ${missingRoles.map(titleOf).join(', ')}`
  const lacks = server.principalId === undefined ? 'no identity' : withIdentity
  return [
    {
      severity: 'warning',
      code: 'replica-not-ready',
      title: 'A read replica cannot use the identity yet',
      detail: `${server.name} has ${lacks}; the settings reach it from its primary, an identity does not.`,
      fix: waits
        ? `az postgres flexible-server restart --resource-group ${groupIn(server.id)} --name ${server.name}`
        : `Run this action with the replica as server: ${server.id}`,
    },
  ]
}

/** The keys of the named families, and whether a named service uses each. */
const keysOfNamedFamilies = (inputs: Inputs) =>
  namedFamilies(inputs).flatMap(({ family, services }) =>
    keysOf(family).map((key) => ({ family, key, isNamed: services.some((service) => memberOf(service).key === key) })),
  )

function findingsOf(inputs: Inputs, database: ReadDatabase, journal: Journal): Finding[] {
  const { name, extension, keysSet } = database
  const found: Finding[] = []
  const step = journal.step(`${name}/extension`)
  if (newerVersion(extension) !== undefined && step?.change === undefined) {
    found.push({
      severity: 'notice',
      code: 'extension-update-available',
      title: 'A newer azure_ai is available',
      detail: `"${name}" has ${extension.installed}, the server offers ${extension.available}.`,
      fix: `ALTER EXTENSION azure_ai UPDATE;   -- in "${onOneLine(name)}"${inputs.updateExtension ? '' : '; or set `update-extension: true`'}`,
    })
  }
  for (const { family, key, isNamed } of keysOfNamedFamilies(inputs)) {
    if (
      inputs.authType === 'subscription-key' &&
      inputs.mode !== 'verify' &&
      isNamed &&
      keysSet.has(key) &&
      !database.keyStates.has(key)
    ) {
      found.push({
        severity: 'warning',
        code: 'key-not-comparable',
        title: 'A stored key could not be compared',
        detail: `${key} in "${name}": the connecting role may not read it, so a rotated key would not be noticed.`,
        fix: 'GRANT azure_ai_settings_manager TO the role of this check, or rely on its test query.',
      })
    }
    if (database.keyStates.get(key) === 'second') {
      found.push({
        severity: 'notice',
        code: 'second-key-stored',
        title: 'The second key of a resource is stored',
        detail: `${key} in "${name}": it works, and a rotation of the second key would break it.`,
        fix: '',
      })
    }
    found.push(...storedKeyFindings(inputs, database, { family, key }, journal))
  }
  return found
}

/** What there is to know of a stored key where the identity is to be used. */
function storedKeyFindings(
  inputs: Inputs,
  database: ReadDatabase,
  { family, key }: { readonly family: Family; readonly key: string },
  journal: Journal,
): Finding[] {
  const { name, settings, literalKeys } = database
  const answer = journal.keyAnswer(name, family.name)
  // What was refused is reported with the query that sent it.
  if (inputs.authType !== 'managed-identity' || !isStoredNow(database, key, journal.step) || answer === 'refused') return []
  const fix = `${inputs.clearKeys ? '' : 'Set `clear-keys: true`. To clear it by hand: '}${setSettingIn(name, key, '')}`
  if (literalKeys.has(key)) {
    return [
      {
        severity: 'warning',
        code: 'key-is-a-word',
        title: 'A stored key is not a key',
        detail: `${key} in "${name}" is the word for the managed identity, which no service accepts as a key. While it is stored, azure_ai may send it.`,
        fix,
      },
    ]
  }
  const current = journal.step(`${name}/${family.authType}`)
  const isSwitched = current !== undefined && isWritten(current)
  const found: Finding[] = []
  if (answer === 'accepted')
    found.push({
      severity: 'warning',
      code: 'key-wins',
      title: 'The stored key is used although the identity is configured',
      detail: `${key} in "${name}": the identity works once the key is gone, but while it is stored the extension sends it.`,
      fix,
    })
  if (!isSwitched && settings.get(family.authType) !== 'managed-identity')
    found.push({
      severity: inputs.mode === 'verify' ? 'warning' : 'notice',
      code: 'still-on-keys',
      title: 'A database still uses a key',
      detail: `${family.name} in "${name}" has auth_type ${settings.get(family.authType) ?? 'not set'} and a stored key.`,
      // An apply that left it has failed, and its failure has the fix.
      fix: inputs.mode === 'apply' ? '' : 'Run this action with `mode: apply`.',
    })
  // An apply with `clear-keys` that left it has failed, and reports why.
  else if (inputs.mode !== 'apply' || !inputs.clearKeys)
    found.push({
      severity: 'warning',
      code: 'key-still-stored',
      title: 'A key is still stored although the identity is configured',
      detail: `${key} in "${name}": whoever may read the settings, or a backup of this server, can use it.`,
      fix,
    })
  return found
}

/** Endpoints of another kind than azure_ai is known to work with by token. */
function endpointFindings(inputs: Inputs, { name, settings }: ReadDatabase): Finding[] {
  if (inputs.authType !== 'managed-identity') return []
  const accounts = namedFamilies(inputs).filter(({ family }) => family.name !== 'azure_ml')
  return accounts.flatMap(({ family }): Finding[] => {
    const setting = family.members[0]?.endpoint ?? ''
    const endpoint = settings.get(setting)
    const kind = endpoint === undefined ? undefined : endpointKind(endpoint)
    if (endpoint === undefined || kind === undefined) return []
    return [
      {
        severity: 'notice',
        code: 'endpoint-of-another-kind',
        title: 'A stored endpoint is not that of an account',
        detail: `${setting} in "${name}" is ${kind}: ${endpoint}. Only https://NAME.openai.azure.com and https://NAME.cognitiveservices.azure.com are known to work with a token.`,
        fix: 'Run this action with `mode: apply`: it stores the endpoint of the account, after its test query has passed.',
      },
    ]
  })
}

/** What a database shows to have worked, and the server no longer has: inferred from what is left. */
function takenAwayFindings(inputs: Inputs, observed: Observed): Finding[] {
  const { server, allowList, databases } = observed
  if (inputs.authType !== 'managed-identity') return []
  const seen = databases.filter(isRead).sort((a, b) => (a.name < b.name ? -1 : 1))
  const usesIdentity = seen.filter(({ settings }) =>
    namedFamilies(inputs).some(({ family }) => settings.get(family.authType) === 'managed-identity'),
  )
  const lost = [
    ...(server.principalId === undefined ? ['its identity is off'] : []),
    ...(allowList !== undefined && !allowsAzureAi(allowList) ? ['azure.extensions does not list azure_ai'] : []),
  ]
  const found: Finding[] = []
  if (usesIdentity.length > 0 && lost.length > 0)
    found.push({
      severity: 'warning',
      code: 'taken-away',
      title: 'Something took away what the databases use',
      detail: `"${usesIdentity[0]?.name}" uses the identity, and ${lost.join(' and ')} on ${server.name}: probably infrastructure code that does not know of it.`,
      fix: 'Add it to that code, or have the code ignore it, before running this action with `mode: apply`: otherwise its next run takes it away again.',
    })
  const ownRoles = [...observed.roleAssignments.values()]
    .flat()
    .filter(({ description }) => description === assignmentDescription(server.id))
  const gone = seen.filter(({ extension }) => extension.installed === undefined)
  if (ownRoles.length > 0 && gone.length > 0)
    found.push({
      severity: 'notice',
      code: 'extension-gone',
      title: 'A database has no azure_ai although the server has its roles',
      detail: `${firstOf(gone.map(({ name }) => `"${name}"`))}: this action assigned roles before, so probably azure_ai was dropped since, as an upgrade to PostgreSQL 17 requires. Its settings went with it.`,
      fix: 'Run this action with `mode: apply`: it creates the extension and its settings again.',
    })
  return found
}

/** Keys that this run neither uses nor clears. */
function unnamedKeyFindings(inputs: Inputs, databases: readonly ReadDatabase[]): Finding[] {
  const keys = unnamedKeys(inputs, databases)
  if (keys.length === 0 || inputs.authType !== 'managed-identity') return []
  return [
    {
      severity: 'notice',
      code: 'other-keys-stored',
      title: 'Keys of services that are not named are stored',
      detail: `${firstOf(keys)}. They are not counted in \`stored-keys\`.`,
      fix: 'Name the service that uses them, so that this action moves it to the identity and clears its key.',
    },
  ]
}

/** Statement logs keep literals and parameters: a key that is set by hand would be in them. */
function loggingFindings(inputs: Inputs, [database]: readonly ReadDatabase[]): Finding[] {
  if (database === undefined) return []
  const { logging } = database
  const on = [
    ...(logging.get('log_statement') === 'all' ? ['log_statement = all'] : []),
    ...(Number(logging.get('log_min_duration_statement') ?? -1) === 0 ? ['log_min_duration_statement = 0'] : []),
    ...(/\b(all|read|function)\b/i.test(logging.get('pgaudit.log') ?? '') ? [`pgaudit.log = ${logging.get('pgaudit.log')}`] : []),
    ...(/^capture_first_sample$/i.test(logging.get('pg_qs.parameters_capture_mode') ?? '')
      ? [`pg_qs.parameters_capture_mode = ${logging.get('pg_qs.parameters_capture_mode')}`]
      : []),
  ]
  if (on.length === 0) return []
  return [
    {
      severity: 'notice',
      code: 'statements-logged',
      title: 'The server logs statements',
      detail: `${on.join(', ')}: a key set by hand with azure_ai.set_setting would stand in the log. This action sends none.`,
      fix: `az postgres flexible-server parameter set --resource-group ${inputs.server.resourceGroup} --server-name ${inputs.server.name} --name log_statement --value ddl   # and rotate keys that were set by hand`,
    },
  ]
}
