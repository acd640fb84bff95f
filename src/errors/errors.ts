/**
 * Failures that are expected, and the one table that turns what Azure, Entra, PostgreSQL and the AI services say into a
 * reason, a cause and a fix. What the table does not know stays verbatim: nothing is guessed aloud.
 */
import { bounded, describe, longestName } from '../lib/bounded.ts'
import { notUnicast } from '../lib/ipv4.ts'

export { describe } from '../lib/bounded.ts'

import { services } from '../core/services.ts'

/** The values of the output `failure-reason`. */
export type FailureReason =
  | 'none'
  | 'input'
  | 'credentials'
  | 'permission'
  | 'network'
  | 'azure'
  | 'database'
  | 'restart-required'
  | 'verification'
  | 'drift'
  | 'cancelled'
  | 'internal'

/** One thing that is wrong, as it stands in the report's findings, an annotation and the summary. */
export interface Finding {
  severity: 'error' | 'warning' | 'notice'
  /** Stable, kebab-case. */
  code: string
  title: string
  detail: string
  /** The next command or click, complete enough to paste; empty when there is nothing to do. */
  fix: string
}

/** What is known of a failure beside its message. */
export interface FailureFacts {
  reason: Exclude<FailureReason, 'none'>
  code: string
  title: string
  detail: string
  fix: string
}

/** An expected failure: it has a reason, a cause a reader understands and a fix. */
export class Failure extends Error {
  readonly reason: Exclude<FailureReason, 'none'>
  readonly code: string
  readonly title: string
  readonly detail: string
  readonly fix: string

  constructor(facts: FailureFacts, cause?: unknown) {
    super(`${facts.title}: ${facts.detail}`, cause === undefined ? undefined : { cause })
    this.name = 'Failure'
    this.reason = facts.reason
    this.code = facts.code
    this.title = facts.title
    this.detail = facts.detail
    this.fix = facts.fix
  }

  finding(): Finding {
    return { severity: 'error', code: this.code, title: this.title, detail: this.detail, fix: this.fix }
  }
}

/** Several failures found together; the first gives the reason. */
export class Failures extends Error {
  readonly failures: readonly Failure[]

  constructor(failures: readonly Failure[]) {
    super(failures.map((failure) => failure.message).join('\n'))
    this.name = 'Failures'
    this.failures = failures
  }
}

/** Who said it. */
export type Origin = 'azure' | 'entra' | 'postgres' | 'ai'

/** What the sender of a request knows of it, for the texts of causes and fixes. */
export interface Circumstances {
  /** What was being done, as the end of a sentence: `reading the server`. */
  doing: string
  server?: string | undefined
  resourceGroup?: string | undefined
  database?: string | undefined
  user?: string | undefined
  host?: string | undefined
  port?: number | undefined
  resource?: string | undefined
  deployment?: string | undefined
  clientId?: string | undefined
  /** What the workflow's OIDC token claims. */
  assertion?: { readonly issuer: string; readonly subject: string; readonly audience: string } | undefined
  /** Whether the query is to be answered by key, not by identity. */
  byKey?: boolean | undefined
  /** Whether the job has a proxy, which PostgreSQL does not go through. */
  behindProxy?: boolean | undefined
}

/**
 * How a test query's failure bears on waiting: it may still be propagation, the caller is let in but throttled, the server
 * has no token yet, waiting cannot help, nobody knows; or the refusal itself proves that access is granted.
 */
export type Outlook = 'propagating' | 'throttled' | 'no-token' | 'final' | 'unknown' | 'proves-access'

/** A message of the outside, reduced to what the table looks at. */
export interface Message {
  origin: Origin
  /** Azure error code, AADSTS number, SQLSTATE or errno; empty when there is none. */
  code: string
  status?: number | undefined
  text: string
  /** Correlation or request id. */
  requestId?: string | undefined
}

export interface Known {
  origin: Origin
  /** Exact code, or */
  codes?: readonly string[]
  /** a pattern that the text holds. Both: both must hold. */
  text?: RegExp
  /** The answer's status. That of an AI service is looked for in the text, and a text that names none fits. */
  status?: readonly number[]
  reason: FailureFacts['reason']
  code: string
  title: string
  outlook?: Outlook
  cause: (message: Message, at: Circumstances) => string
  fix: (message: Message, at: Circumstances) => string
}

const accessAdministrator = 'Role Based Access Control Administrator'

/** The least built-in role that holds an action: who lacks the action is told the role. */
const leastRole: readonly [RegExp, string][] = [
  [/^microsoft\.authorization\/roleassignments\/write$/i, accessAdministrator],
  [/^microsoft\.authorization\/.*read$/i, 'Reader'],
  [/^microsoft\.dbforpostgresql\/.*\/read$/i, 'Reader'],
  [/^microsoft\.dbforpostgresql\//i, 'Contributor'],
  [/^microsoft\.cognitiveservices\/.*\/listkeys\/action$/i, 'Cognitive Services User'],
  [/^microsoft\.cognitiveservices\/.*\/read$/i, 'Reader'],
  [/^microsoft\.machinelearningservices\/.*\/listkeys\/action$/i, 'AzureML Data Scientist'],
  [/^microsoft\.machinelearningservices\/.*\/read$/i, 'Reader'],
  [/^microsoft\.managedidentity\/userassignedidentities\/assign\/action$/i, 'Managed Identity Operator'],
]

/** The action and scope that an AuthorizationFailed message names. */
function denied(text: string): { action: string; scope: string; principal: string } {
  // A linked resource's refusal first says what the caller may do.
  const linked = /not have permission to perform action\(s\) '([^']+)' on the linked scope\(s\) '([^'"`$\\\n]+)'/i.exec(text)
  return {
    action: linked?.[1] ?? /perform action '([^']+)'/i.exec(text)?.[1] ?? 'the action that Azure names',
    scope: linked?.[2] ?? /over scope '([^'"`$\\\n]+)'/i.exec(text)?.[1] ?? 'the scope that Azure names',
    principal: /object id '([\w-]+)'/i.exec(text)?.[1] ?? 'OBJECT-ID-OF-THE-CALLER',
  }
}

/**
 * The condition that lets a principal assign the roles of azure_ai to other service principals, and nothing else.
 * Without it the role would let its holder make everybody owner, itself included.
 */
function assignmentCondition(principal: string): string {
  const attribute = (name: string): string => `@Request[Microsoft.Authorization/roleAssignments:${name}]`
  const roles = [...new Set(services.map(({ role }) => role.id))].sort().join(', ')
  const unless = (action: string): string => `!(ActionMatches{'Microsoft.Authorization/roleAssignments/${action}'})`
  return [
    `((${unless('write')}) OR (${attribute('RoleDefinitionId')} ForAnyOfAnyValues:GuidEquals {${roles}} AND`,
    `(${attribute('PrincipalType')} ForAnyOfAnyValues:StringEqualsIgnoreCase {'ServicePrincipal'} AND`,
    `${attribute('PrincipalId')} ForAnyOfAllValues:GuidNotEquals {${principal}}))) AND`,
    `((${unless('delete')}) OR (${attribute('RoleDefinitionId').replace('Request', 'Resource')} ForAnyOfAnyValues:GuidEquals {${roles}}))`,
  ].join(' ')
}

/** One argument of a POSIX shell, whatever the text contains. */
function quotedForShell(text: string): string {
  return `'${text.replaceAll("'", `'"'"'`)}'`
}

/** `--name N --resource-group G` of a resource id, as az wants it. */
function named(resource: string | undefined): string {
  const group = /\/resourceGroups\/([^/]+)/i.exec(resource ?? '')?.[1] ?? 'GROUP'
  const name = /\/accounts\/([^/]+)/i.exec(resource ?? '')?.[1] ?? 'NAME'
  return `--name ${name} --resource-group ${group}`
}

/** The table. Each code has a section in docs/troubleshooting.md, which a test holds against it. */
export const known: readonly Known[] = [
  // --- Resource Manager ------------------------------------------------------------------------------------------
  {
    origin: 'azure',
    codes: ['AuthorizationFailed', 'LinkedAuthorizationFailed', 'RoleAssignmentsWriteDenied'],
    reason: 'permission',
    code: 'authorization-failed',
    title: 'A permission is missing in Azure',
    cause: ({ text }) => {
      const { action, scope } = denied(text)
      const condition = /ABAC condition/i.test(text) ? ', or a condition on its own role assignment forbids it' : ''
      return `The identity this job signs in with may not perform ${action} over ${scope}${condition}.`
    },
    fix: ({ text }) => {
      const { action, scope, principal } = denied(text)
      const role = leastRole.find(([pattern]) => pattern.test(action))?.[1] ?? 'Contributor'
      const condition =
        role === accessAdministrator
          ? ` --condition-version 2.0 --condition ${quotedForShell(assignmentCondition(principal))}`
          : ''
      return `az role assignment create --assignee-object-id ${principal} --assignee-principal-type ServicePrincipal --role "${role}" --scope "${scope}"${condition}`
    },
  },
  {
    origin: 'azure',
    codes: [
      'InvalidAuthenticationToken',
      'InvalidAuthenticationTokenAudience',
      'InvalidAuthenticationTokenTenant',
      'ExpiredAuthenticationToken',
      'AuthenticationFailed',
    ],
    reason: 'credentials',
    code: 'token-refused',
    title: 'Resource Manager refused the token',
    cause: ({ text }) => text,
    fix: () =>
      'Check that `environment` names the cloud of the subscription and `tenant-id` the tenant that the subscription trusts.',
  },
  {
    origin: 'azure',
    codes: ['SubscriptionNotFound', 'InvalidSubscriptionId'],
    reason: 'input',
    code: 'subscription-not-found',
    title: 'The subscription is not known',
    cause: ({ text }) => text,
    fix: () =>
      'az account show --query id --output tsv   # and compare it with the subscription in the resource ids; `tenant-id` must be its tenant',
  },
  {
    origin: 'azure',
    codes: ['ResourceNotFound', 'ResourceGroupNotFound', 'NotFound', 'ParentResourceNotFound'],
    reason: 'input',
    code: 'resource-not-found',
    title: 'A resource does not exist',
    cause: ({ text }, at) => `${at.resource ?? 'The resource'} was not found: ${text}`,
    fix: (_, at) =>
      `az resource show --ids "${at.resource ?? 'RESOURCE-ID'}"   # copy the id from the portal: Settings > Properties > Id`,
  },
  {
    origin: 'azure',
    codes: ['ServerIsBusy', 'AnotherOperationInProgress', 'Conflict', 'OperationNotAllowed'],
    reason: 'azure',
    code: 'server-busy',
    title: 'The server is busy with another operation',
    cause: ({ text }) => text,
    fix: () =>
      'Wait for the operation to end (portal: the server > Activity log), then run this job again; it goes on where it stopped.',
  },
  {
    origin: 'azure',
    codes: ['PrincipalNotFound'],
    reason: 'azure',
    code: 'principal-not-found',
    title: 'The directory does not know the new identity yet',
    cause: ({ text }) => text,
    fix: () => 'Run this job again in a few minutes; a new identity is sometimes slow to reach every copy of the directory.',
  },
  {
    origin: 'azure',
    codes: ['RoleAssignmentLimitExceeded'],
    reason: 'azure',
    code: 'role-assignment-limit',
    title: 'The subscription has no room for another role assignment',
    cause: ({ text }) => text,
    fix: () =>
      'az role assignment list --all --query "[?principalName==\'\']" --output table   # assignments of deleted principals can be removed',
  },
  {
    origin: 'azure',
    codes: ['RequestDisallowedByPolicy', 'ScopeLocked', 'DenyAssignmentAuthorizationFailed', 'ReadOnlyDisabledSubscription'],
    reason: 'azure',
    code: 'refused-by-governance',
    title: 'A policy or a lock forbids the change',
    cause: ({ text }) => text,
    fix: () =>
      'az lock list --output table ; az policy assignment list --output table   # ask the owner of the lock or policy for an exemption',
  },
  // --- Entra -----------------------------------------------------------------------------------------------------
  {
    origin: 'entra',
    codes: ['AADSTS700211', 'AADSTS700212', 'AADSTS700213', 'AADSTS7002138', 'AADSTS70021'],
    reason: 'credentials',
    code: 'federation-mismatch',
    title: 'No federated credential of the app matches this workflow',
    cause: ({ text, code }, at) => {
      const [issuer, subject, audience] = [at.assertion?.issuer, at.assertion?.subject, at.assertion?.audience]
      const part =
        {
          AADSTS700211: 'the issuer',
          AADSTS700212: 'the audience',
          AADSTS700213: 'the subject',
          AADSTS7002138: 'the case of the letters',
        }[code] ?? 'something'
      return `The workflow presented issuer "${issuer}", subject "${subject}" and audience "${audience}"; ${part} is not what the app's federated credentials expect. ${text}`
    },
    fix: (_, at) => {
      const parameters = JSON.stringify({
        name: `github-${(at.assertion?.subject ?? 'workflow').replaceAll(/[^A-Za-z0-9-]+/g, '-').slice(0, 100)}`,
        issuer: at.assertion?.issuer ?? 'https://token.actions.githubusercontent.com',
        subject: at.assertion?.subject ?? 'SUBJECT',
        audiences: [at.assertion?.audience ?? 'api://AzureADTokenExchange'],
      })
      return `az ad app federated-credential create --id ${at.clientId ?? 'CLIENT-ID'} --parameters '${parameters.replaceAll("'", "'\\''")}'`
    },
  },
  {
    origin: 'entra',
    codes: ['AADSTS700016'],
    reason: 'credentials',
    code: 'app-unknown',
    title: 'The tenant does not know the app',
    cause: ({ text }) => text,
    fix: (_, at) =>
      `Check \`client-id\` (Application (client) ID, not the object id) and \`tenant-id\`: az ad app show --id ${at.clientId ?? 'CLIENT-ID'} --query appId`,
  },
  {
    origin: 'entra',
    codes: ['AADSTS90002', 'AADSTS900021', 'AADSTS900023'],
    reason: 'credentials',
    code: 'tenant-unknown',
    title: 'The tenant does not exist in this cloud',
    cause: ({ text }) => text,
    fix: () => 'az account show --query tenantId --output tsv   # and check that `environment` names the right cloud',
  },
  {
    origin: 'entra',
    codes: ['AADSTS700024'],
    reason: 'credentials',
    code: 'assertion-expired',
    title: "The workflow's OIDC token had expired",
    cause: ({ text }) => text,
    fix: () => 'Run the job again; on a self-hosted runner check its clock (timedatectl).',
  },
  {
    origin: 'entra',
    codes: ['AADSTS7000215', 'AADSTS7000222'],
    reason: 'credentials',
    code: 'client-secret-refused',
    title: 'The client secret is wrong or expired',
    cause: ({ text }) => text,
    fix: (_, at) =>
      `Sign in without a secret: give \`tenant-id\` and \`client-id\` and a federated credential; or make a new secret: az ad app credential reset --id ${at.clientId ?? 'CLIENT-ID'}`,
  },
  // --- PostgreSQL ------------------------------------------------------------------------------------------------
  {
    origin: 'postgres',
    text: /no pg_hba\.conf entry/i,
    reason: 'network',
    code: 'firewall',
    title: "The server's firewall does not let this runner in",
    cause: ({ text }, at) => `${at.host}:${at.port} answered: ${text}`,
    fix: ({ text }, at) => {
      const seen = /no pg_hba\.conf entry for host "([\d.]{7,15})"/i.exec(text)?.[1] ?? ''
      // A rule for an address such as 0.0.0.0 would open the server to others.
      const address = notUnicast(seen) === undefined ? seen : 'RUNNER-IP'
      return `az postgres flexible-server firewall-rule create --resource-group ${at.resourceGroup ?? 'GROUP'} --server-name ${at.server ?? 'SERVER'} --name runner --start-ip-address ${address} --end-ip-address ${address}   # az 2.86 or newer; or give \`temporary-firewall-rule: true\``
    },
  },
  {
    origin: 'postgres',
    text: /token.{0,200}expired|expired.{0,200}token/i,
    reason: 'credentials',
    code: 'database-token-expired',
    title: 'The token for the database had expired',
    cause: ({ text }, at) => `User "${at.user}" at ${at.host}: ${text}`,
    fix: () => 'Run this job again; on a self-hosted runner check its clock (timedatectl).',
  },
  {
    origin: 'postgres',
    codes: ['28000', '28P01'],
    text: /role ".{0,200}" does not exist|not found in the tenant|principal.{0,200}not (found|registered)/i,
    reason: 'credentials',
    code: 'role-not-found',
    title: 'The database knows no such role',
    cause: ({ text }, at) => `User "${at.user}" at ${at.host}: ${text}`,
    fix: (_, at) =>
      `az postgres flexible-server microsoft-entra-admin list --resource-group ${at.resourceGroup ?? 'GROUP'} --server-name ${at.server ?? 'SERVER'} --output table   # \`database-user\` is a name of this list, case included; or SELECT * FROM pgaadauth_create_principal('NAME', false, false);`,
  },
  {
    origin: 'postgres',
    codes: ['28P01', '28000'],
    reason: 'credentials',
    code: 'login-refused',
    title: 'The database refused the login',
    cause: ({ text }, at) => `User "${at.user}" at ${at.host}: ${text}`,
    fix: (_, at) =>
      `The user is the name of the Entra administrator exactly as registered on the server, case included (a group's name when a group is registered): az postgres flexible-server microsoft-entra-admin list --resource-group ${at.resourceGroup ?? 'GROUP'} --server-name ${at.server ?? 'SERVER'} --output table   # then give it as \`database-user\``,
  },
  {
    origin: 'postgres',
    codes: ['3D000'],
    reason: 'input',
    code: 'database-not-found',
    title: 'A database does not exist',
    cause: ({ text }) => text,
    fix: (_, at) =>
      `az postgres flexible-server db list --resource-group ${at.resourceGroup ?? 'GROUP'} --server-name ${at.server ?? 'SERVER'} --output table   # then correct \`databases\``,
  },
  {
    origin: 'postgres',
    codes: ['53300'],
    reason: 'database',
    code: 'too-many-connections',
    title: 'The server has no connection left',
    cause: ({ text }) => text,
    fix: () =>
      'SELECT usename, state, count(*) FROM pg_stat_activity GROUP BY 1, 2 ORDER BY 3 DESC;   -- close idle ones or raise max_connections',
  },
  {
    origin: 'postgres',
    codes: ['57P03'],
    reason: 'database',
    code: 'starting-up',
    title: 'The server is starting up or shutting down',
    cause: ({ text }) => text,
    fix: () => 'Run this job again in a minute.',
  },
  {
    origin: 'postgres',
    text: /unsupported startup parameter/i,
    reason: 'network',
    code: 'pooler-refuses-parameter',
    title: 'The connection pooler refuses a startup parameter',
    cause: ({ text }) => text,
    fix: () => 'Connect to port 5432 of the server rather than to the pooler: database-port: 5432',
  },
  {
    origin: 'postgres',
    text: /is not allow-listed/i,
    reason: 'database',
    code: 'not-allow-listed',
    title: 'azure_ai is not on the allow-list',
    cause: ({ text }, at) => `Database "${at.database}": ${text}`,
    fix: (_, at) =>
      `az postgres flexible-server parameter show --resource-group ${at.resourceGroup ?? 'GROUP'} --server-name ${at.server ?? 'SERVER'} --name azure.extensions   # add azure_ai to the value: run with part: azure, or az postgres flexible-server parameter set`,
  },
  {
    origin: 'postgres',
    codes: ['42501'],
    reason: 'permission',
    code: 'database-permission',
    title: 'A permission is missing in the database',
    cause: ({ text }, at) => `User "${at.user}" in "${at.database}", ${at.doing}: ${text}`,
    fix: (_, at) =>
      `GRANT azure_pg_admin TO "${(at.user ?? 'USER').replaceAll('"', '""')}";   -- or, when the extension is there already, azure_ai_settings_manager is enough`,
  },
  {
    origin: 'postgres',
    text: /is not a valid configuration key/i,
    reason: 'database',
    code: 'extension-too-old',
    title: 'The installed azure_ai is too old for a managed identity',
    cause: ({ text }, at) => `Database "${at.database}": ${text}`,
    fix: () => 'ALTER EXTENSION azure_ai UPDATE;   -- or give `update-extension: true`',
  },
  {
    origin: 'postgres',
    codes: ['42P06', '42723', '42710', '42P07'],
    reason: 'database',
    code: 'foreign-functions',
    title: 'Something in the database has a name that azure_ai needs',
    cause: ({ text }, at) => `Database "${at.database}", ${at.doing}: ${text}`,
    fix: () =>
      'ALTER SCHEMA azure_ai RENAME TO azure_ai_before;   -- the schema that the message names, after a look at what it holds: \\dn+ azure_*; then run again',
  },
  {
    origin: 'postgres',
    codes: ['55P03', '40P01', '40001'],
    reason: 'database',
    code: 'lock',
    title: 'Another session holds a lock on the settings',
    cause: ({ text }, at) => `Database "${at.database}": ${text}`,
    fix: () =>
      "SELECT pid, usename, state, query FROM pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory');",
  },
  {
    origin: 'postgres',
    codes: ['ENOTFOUND', 'EAI_AGAIN'],
    reason: 'network',
    code: 'dns',
    title: "The database server's name cannot be resolved",
    cause: ({ text }, at) =>
      `${at.host}: ${text}${at.behindProxy === true ? '. PostgreSQL does not go through the proxy of this job: it needs a direct way' : ''}`,
    fix: (_, at) =>
      `nslookup ${at.host}   # a server with private access resolves only inside its virtual network: use a runner there, or give \`database-host\``,
  },
  {
    origin: 'postgres',
    codes: ['ECONNREFUSED'],
    reason: 'network',
    code: 'connection-refused',
    title: 'Nothing listens at the database address',
    cause: ({ text }, at) =>
      `${at.host}:${at.port}: ${text}${at.behindProxy === true ? '. PostgreSQL does not go through the proxy of this job: it needs a direct way' : ''}`,
    fix: () => 'Check that the server is started, and `database-host` and `database-port` when they are given.',
  },
  {
    origin: 'postgres',
    codes: ['ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH'],
    reason: 'network',
    code: 'connection-timeout',
    title: 'The database server does not answer',
    cause: ({ text }, at) =>
      `${at.host}:${at.port}: ${text}${at.behindProxy === true ? '. PostgreSQL does not go through the proxy of this job: it needs a direct way' : ''}`,
    fix: (_, at) =>
      `az postgres flexible-server show --resource-group ${at.resourceGroup ?? 'GROUP'} --name ${at.server ?? 'SERVER'} --query network   # public access: add a firewall rule for this runner; private access: use a runner inside the virtual network`,
  },
  {
    origin: 'postgres',
    codes: ['LOGIN_TIMEOUT'],
    reason: 'database',
    code: 'login-timeout',
    title: 'The server answers, and does not finish the login',
    cause: (_, at) => `Database "${at.database}" at ${at.host}:${at.port}: no login within the time limit of a connection.`,
    fix: () =>
      "SELECT a.pid, a.usename, a.state, a.query FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND l.granted;   -- in another database: sessions that rename, copy or drop one",
  },
  {
    origin: 'postgres',
    codes: [
      'SELF_SIGNED_CERT_IN_CHAIN',
      'DEPTH_ZERO_SELF_SIGNED_CERT',
      'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
      'UNABLE_TO_GET_ISSUER_CERT',
      'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
      'CERT_HAS_EXPIRED',
      'ERR_TLS_CERT_ALTNAME_INVALID',
    ],
    reason: 'network',
    code: 'tls-not-trusted',
    title: "The database server's certificate is not trusted",
    cause: ({ text, code }, at) => `${at.host}:${at.port}: ${text} (${code})`,
    fix: ({ code }, at) =>
      code === 'ERR_TLS_CERT_ALTNAME_INVALID'
        ? `The certificate has to be valid for the server's own name or for ${at.host}: give another \`database-host\`, or the tunnel's listener such a certificate. Verification cannot be turned off.`
        : 'A proxy or tunnel that re-signs TLS: set NODE_EXTRA_CA_CERTS on the job to the PEM file of its root. Verification cannot be turned off.',
  },
  {
    origin: 'postgres',
    codes: ['ECONNRESET', '57P01', '57P02', '08006', '08003', '08001', 'EPIPE', 'CONNECTION_LOST'],
    reason: 'network',
    code: 'connection-lost',
    title: 'The connection to the database was lost',
    cause: ({ text }, at) => `${at.host}:${at.port}, ${at.doing}: ${text}`,
    fix: () => 'Run this job again; it goes on where it stopped.',
  },
  {
    origin: 'postgres',
    codes: ['MESSAGE_TOO_LARGE'],
    reason: 'database',
    code: 'message-too-large',
    title: 'The database server sends too much',
    cause: ({ text }, at) => `${at.host}:${at.port}, ${at.doing}: ${text}; the connection was cut`,
    fix: () =>
      'Check that `database-host` and `database-port` lead to the server itself. Otherwise a function in the database or a service answers with it; the report shows the test queries.',
  },
  {
    origin: 'postgres',
    codes: ['57014', 'QUERY_TIMEOUT'],
    reason: 'database',
    code: 'statement-timeout',
    title: 'A statement took too long',
    cause: ({ text }, at) => `Database "${at.database}", ${at.doing}: ${text}`,
    fix: () => 'Run this job again; when it comes back, look at pg_stat_activity while it runs.',
  },
  // --- what azure_ai passes on of the AI services ----------------------------------------------------------------
  {
    origin: 'ai',
    text: /lacks the required data action|PermissionDenied|Principal does not have access to API|You don't have permission to do the requested action/i,
    reason: 'verification',
    code: 'role-not-effective',
    title: 'The service does not accept the identity (yet)',
    outlook: 'propagating',
    cause: ({ text }) => `The identity got a token, and the service refused it: ${text}`,
    fix: (_, at) =>
      `Role assignments can take 10 minutes and more: raise \`verify-timeout-minutes\` and run again. To look: az role assignment list --scope "${at.resource ?? 'RESOURCE-ID'}" --include-inherited --output table`,
  },
  {
    origin: 'ai',
    text: /Access token is missing, invalid, audience is incorrect/i,
    reason: 'verification',
    code: 'token-not-accepted',
    title: "The service does not accept the identity's token",
    outlook: 'propagating',
    cause: ({ text }) => text,
    fix: () => 'Run again in a few minutes; if it stays, the resource belongs to another tenant or cloud than the server.',
  },
  {
    origin: 'ai',
    text: /custom subdomain/i,
    reason: 'verification',
    code: 'custom-subdomain',
    title: 'The account has no custom subdomain',
    outlook: 'final',
    cause: ({ text }) => text,
    fix: (_, at) => `az cognitiveservices account update ${named(at.resource)} --custom-domain NAME`,
  },
  {
    origin: 'ai',
    text: /Subdomain does not map to a resource/i,
    reason: 'verification',
    code: 'subdomain-unknown',
    title: 'The endpoint leads to no resource',
    outlook: 'propagating',
    cause: ({ text }) => text,
    fix: () =>
      'A custom subdomain made minutes ago needs a moment: run again. Else compare the endpoint with the resource: Keys and Endpoint in the portal.',
  },
  {
    origin: 'ai',
    text: /AuthenticationTypeDisabled|Key based authentication is disabled/i,
    reason: 'verification',
    code: 'key-login-disabled',
    title: 'The query was answered with a key although key login is off',
    outlook: 'final',
    cause: ({ text }, at) =>
      `${at.byKey === true ? 'The account refuses keys' : 'The extension sent a key, not a token'}: ${text}`,
    fix: (_, at) =>
      at.byKey === true
        ? `az resource update --ids "${at.resource ?? 'RESOURCE-ID'}" --set properties.disableLocalAuth=false   # or stay with the managed identity`
        : "Blank the stored key and run again: SELECT azure_ai.set_setting('KEY-SETTING', '');",
  },
  {
    origin: 'ai',
    text: /Virtual Network\/Firewall rules/i,
    reason: 'verification',
    code: 'ai-firewall',
    title: "The AI resource's firewall keeps the server out",
    outlook: 'final',
    cause: ({ text }) => text,
    fix: (_, at) =>
      `Allow the server's outbound address or its subnet at the AI resource ("trusted Azure services" does not include PostgreSQL): az cognitiveservices account network-rule add ${named(at.resource)} --subnet SUBNET-ID`,
  },
  {
    origin: 'ai',
    text: /Public access is disabled/i,
    reason: 'verification',
    code: 'ai-private',
    title: 'The AI resource is reachable by private endpoint only',
    outlook: 'final',
    cause: ({ text }) => text,
    fix: () =>
      "Give the AI resource a private endpoint in the server's virtual network, with its private DNS zone linked to it; or allow public access from the server.",
  },
  {
    origin: 'ai',
    text: /DeploymentNotFound|API deployment for this resource does not exist/i,
    reason: 'verification',
    code: 'deployment-not-found',
    title: 'The deployment does not exist',
    outlook: 'final',
    cause: ({ text }, at) => `Deployment "${at.deployment ?? ''}": ${text}`,
    fix: (_, at) =>
      `az cognitiveservices account deployment list ${named(at.resource)} --query "[].name"   # then give one as \`embedding-deployment\``,
  },
  {
    origin: 'ai',
    text: /OperationNotSupported/i,
    // The service writes the text, and the extension the status in front of it.
    status: [400],
    reason: 'verification',
    code: 'operation-not-supported',
    title: 'The model does not embed: access is granted',
    outlook: 'proves-access',
    cause: ({ text }) => text,
    fix: () => 'Nothing to do; name an embedding deployment as `embedding-deployment` to see a real embedding.',
  },
  {
    origin: 'ai',
    text: /invalid subscription key/i,
    reason: 'verification',
    code: 'key-refused',
    title: 'The service refused a key',
    outlook: 'final',
    cause: ({ text }, at) =>
      `${at.byKey === true ? 'The key or the endpoint is wrong' : 'The extension sent a key, not a token'}: ${text}`,
    fix: (_, at) =>
      at.byKey === true
        ? 'Give the right key, or leave the key input out: it is then read from the resource.'
        : 'Blank the stored key and run again (`clear-keys: true` once the identity is proven): the extension prefers it to the identity.',
  },
  {
    origin: 'ai',
    text: /(?:status|code|http)\D{0,12}429\b|too many requests|rate limit/i,
    status: [429],
    reason: 'verification',
    code: 'throttled',
    title: 'The service is throttling: access is granted, capacity is not',
    outlook: 'throttled',
    cause: ({ text }) => text,
    fix: () => 'Run again later, or raise the capacity of the deployment.',
  },
  {
    origin: 'ai',
    text: /(?:fail|unable|could not|cannot).{0,60}(?:get|acquir|obtain|fetch|request).{0,40}token|identity not found|managed identity.{0,20}not (?:found|available|enabled)|IMDS|169\.254\.169\.254/i,
    reason: 'verification',
    code: 'no-token',
    title: "The server's identity gives no token yet",
    outlook: 'no-token',
    cause: ({ text }) => text,
    fix: (_, at) =>
      `A newly enabled identity needs a restart of the server, then two or three minutes: az postgres flexible-server restart --resource-group ${at.resourceGroup ?? 'GROUP'} --name ${at.server ?? 'SERVER'}   # or give \`allow-restart: true\``,
  },
  {
    origin: 'ai',
    text: /(?:status|code|http)\D{0,12}(?:40[013489]|422)\b|\b40[134] (?:unauthorized|forbidden|not found)/i,
    reason: 'verification',
    code: 'service-refused',
    title: 'The AI service refused the request',
    outlook: 'unknown',
    cause: ({ text }) => text,
    fix: () =>
      'The message above is what the service said, word for word. Right after a change it may still be settling: run again in some minutes.',
  },
]

/** A message with its texts cut, whoever made it. */
function boundedMessage({ code, text, requestId, ...rest }: Message): Message {
  return {
    ...rest,
    code: bounded(code, longestName),
    text: bounded(text),
    requestId: requestId === undefined ? undefined : bounded(requestId, longestName),
  }
}

/** The circumstances with their texts cut: what a token claims is written by others as well. */
function boundedCircumstances({ assertion, ...rest }: Circumstances): Circumstances {
  const cut = <T extends object>(values: T): T =>
    Object.fromEntries(
      Object.entries(values).map(([name, value]) => [name, typeof value === 'string' ? bounded(value) : value]),
    ) as T
  return { ...cut(rest), assertion: assertion && cut(assertion) }
}

/** What the table knows of a bounded message; undefined when it does not know it. */
function lookUp(message: Message): Known | undefined {
  return known.find(
    (row) =>
      row.origin === message.origin &&
      (row.codes === undefined || row.codes.includes(message.code)) &&
      (row.text === undefined || row.text.test(message.text)) &&
      (row.status === undefined || statusFits(row.status, message)),
  )
}

/** The first status in the text of azure_ai is its own: what the service says follows behind it. */
function statusFits(statuses: readonly number[], { origin, status, text }: Message): boolean {
  if (origin !== 'ai') return status !== undefined && statuses.includes(status)
  const named = /\b[1-5]\d\d\b/.exec(text)?.[0]
  return named === undefined || statuses.includes(Number(named))
}

const fallbackReason = { azure: 'azure', entra: 'credentials', postgres: 'database', ai: 'verification' } as const

/**
 * Turns a message of the outside into a failure a reader can act on. A message the table does not know is passed on
 * word for word, up to a bounded length, with its code and request id.
 */
export function explain(received: Message, circumstances: Circumstances, cause?: unknown): Failure {
  const message = boundedMessage(received)
  const at = boundedCircumstances(circumstances)
  const row = lookUp(message)
  const id = message.requestId === undefined ? '' : ` (request id ${message.requestId})`
  if (row !== undefined) {
    return new Failure(
      { reason: row.reason, code: row.code, title: row.title, detail: row.cause(message, at) + id, fix: row.fix(message, at) },
      cause,
    )
  }
  const code = [message.status, message.code].filter((part) => part !== undefined && part !== '').join(' ')
  return new Failure(
    {
      reason: fallbackReason[message.origin],
      code: `${message.origin}-error`,
      title: `Unexpected answer while ${at.doing}`,
      detail: `${code === '' ? '' : `${code}: `}${message.text}${id}`,
      fix: 'The message above is what the service said, word for word. Run again; if it stays, search for it or ask the support of the service with the request id.',
    },
    cause,
  )
}

/** Whether waiting can help after this answer of a test query. */
export function outlook(message: Message): Outlook {
  return lookUp(boundedMessage(message))?.outlook ?? 'unknown'
}

/** Any thrown value as failures: expected ones as they are, others as `internal`. */
export function failuresOf(error: unknown): readonly Failure[] {
  if (error instanceof Failures) return error.failures
  if (error instanceof Failure) return [error]
  return [
    new Failure(
      {
        reason: 'internal',
        code: 'internal',
        title: 'The action failed in a way it did not expect',
        detail: describe(error),
        fix: 'Run the job again with debug logging (Re-run jobs > Enable debug logging) and open an issue with the log and the report.',
      },
      error,
    ),
  ]
}
