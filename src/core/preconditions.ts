/** What must hold before the first write, checked on what was observed; pure. All problems are reported together, each with its fix. */

import { Failure, type FailureFacts } from '../errors/failure.ts'
import { bounded } from '../lib/bounded.ts'
import { groupIn } from '../lib/resource-id.ts'
import { onOneLine } from '../lib/unicode.ts'
import { type Inputs, titleOf } from './inputs.ts'
import { allowsAzureAi, isRead, type Observed, type ReadDatabase } from './observed.ts'
import { newerVersion, settingLacked } from './offered.ts'
import { desiredSettings, namedFamilies, updates } from './plan.ts'
import { scopeOf } from './scope.ts'
import { type Family, type Resource, type Service, serviceNamed } from './services.ts'
import type { Step } from './steps.ts'

export function preconditions(inputs: Inputs, observed: Observed, steps: readonly Step[]): readonly Failure[] {
  return [
    ...serverProblems(inputs, observed, steps),
    ...inputs.services.flatMap(({ service }) => {
      const resource = observed.resources.get(service)
      return resource === undefined ? [] : resourceProblems(inputs, service, resource)
    }),
    ...replicaProblems(inputs, observed),
    ...(observed.server.isReplica
      ? []
      : observed.databases.filter(isRead).flatMap((database) => databaseProblems(inputs, observed, database, steps))),
  ]
}

function serverProblems(inputs: Inputs, observed: Observed, steps: readonly Step[]): Failure[] {
  const { server } = observed
  const problems: Failure[] = []
  const where = `--resource-group ${inputs.server.resourceGroup} --name ${inputs.server.name}`
  if (server.state !== 'Ready') {
    const start =
      server.state === 'Stopped'
        ? `az postgres flexible-server start ${where}`
        : `az postgres flexible-server show ${where} --query state   # run again when it is Ready`
    problems.push(
      new Failure({
        reason: 'azure',
        code: 'server-not-ready',
        title: 'The server is not Ready',
        detail: `${server.name} is ${server.state}.`,
        fix: start,
      }),
    )
  }
  if (server.isElasticCluster && steps.some((step) => step.change?.kind === 'identity')) {
    problems.push(
      new Failure({
        reason: 'azure',
        code: 'elastic-cluster',
        title: 'An elastic cluster takes no system-assigned identity',
        detail: `${server.name} is an elastic cluster; Azure refuses to change the identity of one.`,
        fix: 'Use a flexible server that is no elastic cluster, or stay with subscription keys on this one.',
      }),
    )
  }
  if (inputs.part !== 'azure' && !server.entraAuthentication && inputs.database.password === undefined) {
    problems.push(
      new Failure({
        reason: 'azure',
        code: 'entra-authentication-off',
        title: 'The server takes no Entra logins',
        detail: `Entra authentication is off on ${server.name}, and \`database-password\` is not set.`,
        fix: `az postgres flexible-server update ${where} --microsoft-entra-auth Enabled   # then add the identity of this job as administrator: az postgres flexible-server microsoft-entra-admin create`,
      }),
    )
  }
  return problems
}

function resourceProblems(inputs: Inputs, name: Inputs['services'][number]['service'], resource: Resource): Failure[] {
  const service = serviceNamed(name)
  const title = titleOf(name)
  const problems: Failure[] = []
  const byIdentity = inputs.authType === 'managed-identity'
  const where = `--name ${resource.name} --resource-group ${groupIn(resource.id)}`
  const azure = (code: Failure['code'], problem: string, detail: string, fix: string): void => {
    problems.push(new Failure({ reason: 'azure', code, title: problem, detail, fix }))
  }
  if (service.kinds !== undefined && !service.kinds.some((kind) => kind.toLowerCase() === resource.kind.toLowerCase())) {
    problems.push(
      new Failure({
        reason: 'input',
        code: 'account-kind',
        title: `The account does not serve ${title}`,
        detail: `\`${name}\` names ${resource.name}, an account of kind ${resource.kind}; expected ${service.kinds.join(' or ')}.`,
        fix: `az cognitiveservices account list --query "[?contains('${service.kinds.join(' ')}', kind)].id" --output tsv   # and set one as \`${name}\``,
      }),
    )
  } else if (byIdentity && service.kinds !== undefined && resource.customSubdomain === undefined) {
    azure(
      'custom-subdomain',
      'An account has no custom subdomain',
      `${resource.name} (\`${name}\`) has only a regional endpoint, and these take no Entra tokens.`,
      `az cognitiveservices account update ${where} --custom-domain ${resource.name.toLowerCase()}   # the name must be free in all of Azure and cannot be changed later`,
    )
  }
  if (!byIdentity && service.kinds !== undefined && resource.localAuthDisabled) {
    azure(
      'key-login-disabled',
      'The account refuses keys',
      `${resource.name} (\`${name}\`) has disableLocalAuth set.`,
      `az resource update --ids "${resource.id}" --set properties.disableLocalAuth=false   # or stay with the managed identity`,
    )
  }
  if (service.authModes !== undefined) problems.push(...endpointProblems(inputs, service, resource))
  if (!/^succeeded$/i.test(resource.provisioningState)) {
    azure(
      'resource-not-ready',
      'A resource is not ready',
      `${resource.name} (\`${name}\`) is ${resource.provisioningState}.`,
      `az resource show --ids "${resource.id}" --query properties.provisioningState   # run again when it is Succeeded`,
    )
  }
  return problems
}

/** An online or a serverless endpoint that does not take the login, or has no address yet. */
function endpointProblems({ authType }: Inputs, { name, authModes }: Service, resource: Resource): Failure[] {
  const kind = name === 'ranking' ? 'serverless endpoint' : 'online endpoint'
  const wanted = authModes?.[authType] ?? []
  const takes = authType === 'managed-identity' ? 'Entra tokens' : 'key'
  if (!wanted.includes(resource.authMode ?? '')) {
    const mode = authType === 'managed-identity' ? 'aad_token' : 'key'
    const another =
      name === 'ranking'
        ? `az ml serverless-endpoint create --file ENDPOINT.yml --workspace-name WORKSPACE --resource-group GROUP   # with auth_mode: ${mode}`
        : `az ml online-endpoint create --name NEW-NAME --auth-mode ${mode} --workspace-name WORKSPACE --resource-group GROUP`
    const failure = new Failure({
      reason: 'azure',
      code: 'endpoint-auth-mode',
      title: `The ${kind} takes no ${takes}`,
      detail: `${resource.name} (\`${name}\`) has authMode ${resource.authMode ?? 'unknown'}; expected ${wanted.join(' or ')}.`,
      fix: `Leave this endpoint to those who use it now: make a second one with the same model and set it as \`${name}\`: ${another}`,
    })
    return [failure]
  }
  if (resource.endpoints.length > 0) return []
  return [
    new Failure({
      reason: 'azure',
      code: 'no-scoring-uri',
      title: `The ${kind} has no address`,
      detail: `${resource.name} (\`${name}\`) is ${resource.provisioningState}.`,
      fix: 'Run again when the endpoint is Succeeded.',
    }),
  ]
}

/** Whether the database has, for this family, a configuration that may be answering users today. */
export function isConfigured(database: ReadDatabase, family: Family): boolean {
  const byIdentity = database.settings.get(family.authType) === 'managed-identity'
  return family.members.some(
    ({ endpoint, key }) =>
      database.settings.has(endpoint) && (byIdentity || database.keysSet.has(key) || database.unknownSettings.has(key)),
  )
}

/** Settings reach the replicas, identities do not: switching a family that works would break it there. */
function replicaProblems(inputs: Inputs, observed: Observed): Failure[] {
  const { writesSql, byIdentity } = scopeOf(inputs)
  if (!writesSql || !byIdentity || observed.server.isReplica) return []
  const wanted = desiredSettings(inputs, observed.resources)
  const switched = observed.databases
    .filter(isRead)
    .some((database) =>
      namedFamilies(inputs).some(
        ({ family }) =>
          isConfigured(database, family) &&
          wanted.some((each) => each.setting === family.authType && database.settings.get(each.setting) !== each.value),
      ),
    )
  if (!switched) return []
  return observed.replicas.flatMap(({ server, missingRoles, restarted }) => {
    if (server.principalId !== undefined && missingRoles.length === 0 && restarted !== false) return []
    const onlyRestart = server.principalId !== undefined && missingRoles.length === 0
    const withIdentity = onlyRestart
      ? 'was not restarted since its identity was turned on'
      : `lacks the role for ${missingRoles.map(titleOf).join(', ')}`
    const lacks = server.principalId === undefined ? 'has no identity' : withIdentity
    return [
      new Failure({
        reason: 'azure',
        code: 'replica-would-break',
        title: 'A read replica would break',
        detail: `${server.name} ${lacks}. Settings replicate to it, identities do not: a family that works today with its key would fail there.`,
        fix: onlyRestart
          ? `az postgres flexible-server restart --resource-group ${groupIn(server.id)} --name ${server.name}   # then run this action again`
          : `Run this action with the replica first, then with the primary again: server: ${server.id}`,
      }),
    ]
  })
}

type Report = (problem: FailureFacts) => void

function databaseProblems(inputs: Inputs, observed: Observed, database: ReadDatabase, steps: readonly Step[]): Failure[] {
  const problems: Failure[] = []
  const report: Report = (problem) => void problems.push(new Failure(problem))
  const { name } = database
  if (scopeOf(inputs).writesSql && database.isReadOnly) {
    report({
      reason: 'database',
      code: 'read-only-database',
      title: 'The database is read-only',
      detail: `"${name}" is in recovery: a read replica answers at this address.`,
      fix: 'Let `database-host` lead to the primary, or leave it out.',
    })
    return problems
  }
  if (database.serverVersion > 0 && database.serverVersion < 12) {
    report({
      reason: 'database',
      code: 'postgres-too-old',
      title: 'There is no azure_ai for this version of PostgreSQL',
      detail: `The server runs PostgreSQL ${database.serverVersion}; azure_ai needs 12 or newer.`,
      fix: `az postgres flexible-server upgrade --resource-group ${inputs.server.resourceGroup} --name ${inputs.server.name} --version 17`,
    })
    return problems
  }
  if (database.extension.installed === undefined) problems.push(...obstacles(database))
  rightsProblems(inputs, database, { steps, report })
  versionProblems(inputs, observed, { database, report })
  return problems
}

/** What the connecting role may not do although this run needs it. */
function rightsProblems(
  inputs: Inputs,
  database: ReadDatabase,
  { steps, report }: { readonly steps: readonly Step[]; readonly report: Report },
): void {
  const { name, extension, mayRead, maySet, mayCreateExtension } = database
  const { writesSql } = scopeOf(inputs)
  const user = `"${database.user.replaceAll('"', '""')}"`
  if (writesSql && extension.installed === undefined && !mayCreateExtension) {
    report({
      reason: 'permission',
      code: 'may-not-create-extension',
      title: 'The connecting role may not create the extension',
      detail: `User ${user} is not a member of azure_pg_admin, and azure_ai is not installed in "${name}".`,
      fix: `GRANT azure_pg_admin TO ${user};   -- as an administrator; or have one run: CREATE EXTENSION azure_ai;`,
    })
  }
  // Who may only read succeeds while there is nothing to set.
  const hasChange = steps.some((step) => step.kind === 'setting' && step.database === name && step.change !== undefined)
  const sets = writesSql && (!mayRead || hasChange)
  if (extension.installed !== undefined && !(mayRead && (!sets || maySet))) {
    report({
      reason: 'permission',
      code: sets ? 'may-not-set' : 'may-not-read',
      title: `The connecting role may not ${sets ? 'read or write' : 'read'} the settings`,
      detail: `User ${user} is not a member of azure_ai_settings_manager in "${name}".`,
      fix: `GRANT azure_ai_settings_manager TO ${user};`,
    })
  }
  if (writesSql && updates(inputs, database) && !mayCreateExtension) {
    report({
      reason: 'permission',
      code: 'may-not-update-extension',
      title: 'The connecting role may not update the extension',
      detail: `User ${user} is not a member of azure_pg_admin in "${name}".`,
      fix: `GRANT azure_pg_admin TO ${user};`,
    })
  }
}

/** What the installed version, or the allow-list, does not offer. */
function versionProblems(
  inputs: Inputs,
  { resources, allowList }: Observed,
  { database, report }: { readonly database: ReadDatabase; readonly report: Report },
): void {
  const { name, unknownSettings, extension } = database
  const { installed } = extension
  const named = inputs.services.map(({ service }) => service)
  const unknown = desiredSettings(inputs, resources).filter(
    ({ setting }) => unknownSettings.has(setting) && settingLacked(database, setting, named) === undefined,
  )
  if (unknown.length > 0 && !updates(inputs, database)) {
    const newer = newerVersion(extension)
    const settings = unknown.map((each) => each.setting)
    const wanting = named.filter((service) => serviceNamed(service).settings.some(({ setting }) => settings.includes(setting)))
    const left =
      wanting.length === 0 ? `"${name}" out` : `${wanting.map((service) => `\`${service}\``).join(' and ')} out for "${name}"`
    report({
      reason: 'database',
      code: 'extension-too-old',
      title:
        newer === undefined
          ? 'The installed azure_ai does not know a setting'
          : 'The installed azure_ai is too old for a managed identity',
      detail: `azure_ai ${installed ?? ''} in "${name}" does not know ${settings.join(', ')}.`,
      fix:
        newer === undefined
          ? `Leave ${left}: the server offers no newer azure_ai.`
          : `ALTER EXTENSION azure_ai UPDATE;   -- in "${name}", to ${newer}${inputs.updateExtension ? '' : '; or set `update-extension: true`'}`,
    })
  }
  const isListed = allowList !== undefined && allowsAzureAi(allowList)
  if (installed === undefined && inputs.part === 'database' && !isListed) {
    report({
      reason: 'database',
      code: 'not-allow-listed',
      title: 'azure_ai is not on the allow-list',
      detail: `azure_ai is not installed in "${name}", and azure.extensions does not contain it.`,
      fix: 'Run this action with `part: azure` first.',
    })
  }
}

/** What would keep CREATE EXTENSION from working, or be taken over by it from another role. */
function obstacles({ name, creation }: ReadDatabase): Failure[] {
  const problems: Failure[] = []
  if (creation.foreign.length > 0) problems.push(foreignObjects(name, creation.foreign))
  if (creation.needsSchema && !creation.hasPublic) {
    problems.push(
      new Failure({
        reason: 'database',
        code: 'no-public-schema',
        title: 'There is no schema `public` to create azure_ai in',
        detail: `The azure_ai of this server leaves its schema open, and "${name}" has no \`public\`; no other schema is known to be safe.`,
        fix: `CREATE SCHEMA public AUTHORIZATION azure_pg_admin;   -- in "${onOneLine(name)}"; or create the extension in a schema of your choice: CREATE EXTENSION azure_ai SCHEMA schema_name;`,
      }),
    )
  }
  return problems
}

/** Longest name of an object that is shown, in characters. */
const longestObject = 200

/**
 * A call by name could reach what another role put beside azure_ai's functions.
 *
 * @param foreign kind and quoted name of each object: `FUNCTION azure_ai.f(text)`, `TRIGGER t ON azure_ai.settings`
 */
export function foreignObjects(database: string, foreign: readonly string[]): Failure {
  const names = foreign.map((each) => bounded(onOneLine(each), longestObject))
  return new Failure({
    reason: 'database',
    code: 'foreign-functions',
    title: "A schema of azure_ai contains what is not azure_ai's",
    detail: `Database "${database}": ${names.join(', ')}. A call of azure_ai could reach it, so this action neither installs nor calls azure_ai there. Only members of azure_pg_admin may own or create anything in these schemas.`,
    fix: removalOf(foreign[0] ?? '', onOneLine(database)),
  })
}

/** The command that removes an object, or takes it from its owner. Whoever made the object chose its name, and that of the database. */
function removalOf(object: string, database: string): string {
  // A name that is cut ends inside its quotes, and what follows would be a command. One that is spelled out is another name.
  if (object.length > longestObject || onOneLine(object) !== object) return '\\df+ azure_*.*'
  const [kind = '', name = ''] = object.split(/ (.*)/)
  const where = `   -- in "${database}"`
  switch (kind) {
    case 'SCHEMA':
      return `ALTER ${object} OWNER TO azure_pg_admin; REVOKE CREATE ON ${object} FROM PUBLIC;${where}, and from every role that \\dn+ shows with C`
    case 'TABLE':
      return `ALTER ${object} OWNER TO azure_pg_admin;${where}`
    case 'TRIGGER':
      return `DROP ${object};${where}; and revoke TRIGGER from every role that \\dp azure_ai.settings shows with t`
    default:
      return `DROP ${object};${where}, after a look at it: \\df+ ${name.replace(/\(.*$/, '')}`
  }
}
