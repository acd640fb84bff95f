/**
 * The state of the emulated Azure: plain data, changed by the HTTP handlers and, in tests, by hand.
 * Ids are Resource Manager ids; every look-up by id ignores case.
 */

/** A user, group or service principal that can sign in or get a role. */
export interface Principal {
  objectId: string
  displayName: string
  kind: 'ServicePrincipal' | 'User' | 'Group' | 'ManagedIdentity'
  /** Application id, for service principals that sign in. */
  clientId?: string
  clientSecret?: string
  /** The secret is correct but expired. */
  clientSecretExpired?: boolean
  /** Registered certificates, PEM: an assertion signed by the key of one of them signs it in. */
  certificates?: string[]
  /** Trusted outside tokens: issuer, subject and audience must all match exactly, case included. */
  federatedCredentials?: { issuer: string; subject: string; audience: string }[]
  /** Object ids of the groups it is a member of. */
  memberOf?: string[]
  /** When the directory learned of it (ms since epoch): younger than `delays.principalReplication` means PrincipalNotFound. */
  createdAt?: number
}

export interface Server {
  id: string
  name: string
  location: string
  /** Major version as Resource Manager shows it, for instance `17`. */
  version: string
  state:
    | 'Ready'
    | 'Dropping'
    | 'Disabled'
    | 'Starting'
    | 'Stopping'
    | 'Stopped'
    | 'Updating'
    | 'Restarting'
    | 'Inaccessible'
    | 'Provisioning'
  fullyQualifiedDomainName: string
  identity?: {
    type: 'None' | 'SystemAssigned' | 'UserAssigned' | 'SystemAssigned,UserAssigned'
    principalId?: string
    userAssignedIdentities?: Record<string, { principalId: string; clientId: string }>
  }
  network: { publicNetworkAccess: 'Enabled' | 'Disabled'; delegatedSubnetResourceId?: string }
  authConfig: { activeDirectoryAuth: 'Enabled' | 'Disabled'; passwordAuth: 'Enabled' | 'Disabled' }
  replicationRole: 'Primary' | 'AsyncReplica' | 'None'
  /** Of a replica: the id of its primary. */
  sourceServerResourceId?: string
  highAvailability?: { mode: string; state: string }
  clusterSize?: number
  administrators: { objectId: string; principalName: string; principalType: 'User' | 'Group' | 'ServicePrincipal' | 'Unknown' }[]
  /** Server parameters; `azure.extensions` among them. */
  configurations: Record<string, { value: string; source: string }>
  firewallRules: Record<string, { startIpAddress: string; endIpAddress: string }>
  /** When the server process was last started (ms since epoch). */
  startedAt: number
  /** The identity that the running process knows: set by a restart, absent before it. */
  loadedPrincipalId?: string
  /** How often it was restarted. */
  restarts: number
  /**
   * The PostgreSQL behind it: its own, or that of the first server. Absent: the first server has its own, any other server none, and
   * nothing answers at its name. Servers other than the first are reachable only in a fleet.
   */
  postgres?: 'own' | 'shared'
  /** Of a server with a PostgreSQL of its own: its databases. */
  databases?: string[]
  /** How many reads of the server from now on do not show the `principalId` of its identity yet. */
  readsWithoutPrincipal?: number
}

/** A valid write that Resource Manager refuses. */
export interface Refusal {
  write: 'server' | 'configuration' | 'firewallRule' | 'firewallRuleDelete' | 'restart' | 'roleAssignment'
  /** For instance `ServerBusy`. The emulator derives status and text from the codes that it knows. */
  code: string
  status?: number
  message?: string
  /** The answer to the request (when absent), or an operation that is accepted and ends `Failed`. Roles are not written by operations. */
  as?: 'answer' | 'operation'
  /** How many writes of this kind it refuses; one when absent. */
  times?: number
}

/** A Cognitive Services account of any kind. */
export interface Account {
  id: string
  name: string
  kind: 'OpenAI' | 'AIServices' | 'CognitiveServices' | 'TextAnalytics' | 'TextTranslation' | (string & {})
  location: string
  /** Absent: no custom subdomain, so no Entra tokens. */
  customSubDomainName?: string
  /** What Resource Manager shows as the endpoint, where it is not the usual one of the kind. */
  endpoint?: string
  /** The account's own identity, as Cognitive Services writes it: with a space after the comma. */
  identityType?: 'None' | 'SystemAssigned' | 'UserAssigned' | 'SystemAssigned, UserAssigned'
  disableLocalAuth: boolean
  publicNetworkAccess: 'Enabled' | 'Disabled'
  networkAcls?: { defaultAction: 'Allow' | 'Deny' }
  provisioningState: string
  keys: { key1: string; key2: string }
  deployments: Deployment[]
}

export interface Deployment {
  name: string
  model: { name: string; version: string; format: string }
  capabilities?: Record<string, string>
  /** ms since epoch, long ago when absent: the service itself knows it `delays.deploymentPropagation` later. */
  createdAt?: number
}

export interface OnlineEndpoint {
  id: string
  name: string
  location: string
  authMode: 'AMLToken' | 'Key' | 'AADToken'
  scoringUri: string
  provisioningState: string
  traffic: Record<string, number>
  keys: { primaryKey: string; secondaryKey: string }
}

/** A model with an address of its own and without compute to manage: here a reranker. */
export interface ServerlessEndpoint {
  id: string
  name: string
  location: string
  authMode: 'Key' | 'AAD' | 'KeyAndAAD'
  /** `https://NAME.REGION.models.ai.azure.com`, without a path. */
  uri: string
  provisioningState: string
  modelId: string
  keys: { primaryKey: string; secondaryKey: string }
  /** Paths at which it ranks; both when absent. Any other answers 404. */
  paths?: string[]
}

export interface Workspace {
  id: string
  name: string
  location: string
  onlineEndpoints: OnlineEndpoint[]
  /** None when absent. */
  serverlessEndpoints?: ServerlessEndpoint[]
}

export interface RoleDefinition {
  /** GUID, without scope. */
  name: string
  roleName: string
  actions: string[]
  notActions: string[]
  dataActions: string[]
  notDataActions: string[]
}

export interface RoleAssignment {
  /** Full id, `SCOPE/providers/Microsoft.Authorization/roleAssignments/NAME`. */
  id: string
  /** GUID. */
  name: string
  scope: string
  principalId: string
  principalType: 'User' | 'Group' | 'ServicePrincipal'
  /** Full id of the role definition. */
  roleDefinitionId: string
  description?: string
  /**
   * ABAC condition as Azure writes it, in the part of its language that conditions.ts knows. Another expression is an error
   * as soon as it would have to be evaluated.
   */
  condition?: string
  /** ms since epoch; lists show it `delays.roleReplication` later, services apply it `delays.rolePropagation` later. */
  createdAt: number
  createdBy: string
}

/** A management lock. It applies at its scope and below, to every caller: `CanNotDelete` to deletions, `ReadOnly` to every change. */
export interface Lock {
  name: string
  /** Of a subscription, a resource group or a resource. */
  scope: string
  level: 'CanNotDelete' | 'ReadOnly'
}

/** Forbids actions at its scope and below, whatever roles the caller has. */
export interface DenyAssignment {
  /** GUID. */
  id: string
  name: string
  scope: string
  /** With `*` as in role definitions. */
  actions: string[]
}

/** Milliseconds. */
export interface Delays {
  /** Added to every HTTP answer. */
  latency: number
  /** How long a 202 operation (identity, allow-list, firewall rule) takes. */
  operation: number
  /** How long after a restart the identity can get tokens. */
  identityPropagation: number
  /** How long a new principal is unknown to role assignments. */
  principalReplication: number
  /** How long a new role assignment is missing from lists. */
  roleReplication: number
  /** How long the AI services ignore a new role assignment. `Infinity`: for ever. */
  rolePropagation: number
  /** How long CREATE EXTENSION is still refused after the allow-list operation succeeded. */
  allowListPropagation: number
  /** How long the service answers 404 for a deployment that Resource Manager lists already. */
  deploymentPropagation: number
  /** How long after a firewall change the server applies it. */
  firewallPropagation: number
  /** How long an HTTPS connection may be open before its first request; then it is answered with 408 and closed. `Infinity`: for ever. */
  unusedConnection: number
  /** How long a test function takes at the service. */
  inference: number
}

/** Behaviour of Azure that is not documented, one switch each: the action has to work with every position. */
export interface Switches {
  /** What get_setting answers for a key that is not set; `raises`: an error. */
  unset: 'null' | 'empty' | 'raises'
  /** The error for a setting that does not exist: `KEY is not a valid configuration key`, or `Invalid setting name` (22023). */
  unknownSetting: 'not-valid-key' | 'invalid-name'
  /** Settings that the installed version does not have, whichever version it is. */
  lackedSettings: string[]
  /** Functions, with their schemas, that CREATE or ALTER EXTENSION does not create while they are listed. */
  lackedFunctions: string[]
  /** set_setting takes any value for auth_type; one that is not `managed-identity` means the key. */
  anyAuthType: boolean
  /** Without a stored key the identity is used, whatever auth_type says. */
  keylessByIdentity: boolean
  /** The default of `throw_on_error` in functions that CREATE or ALTER EXTENSION creates while the switch is set. */
  throwOnErrorDefault: boolean
  /**
   * How azure_ai words the failure of a request: in a sentence of the emulator's own; as `SCHEMA.FUNCTION: STATUS: MESSAGE`, which a
   * user reported, with the service's error code before the message or without; or in unfamiliar words with misleading numbers.
   */
  wording: 'own' | 'wrapped' | 'wrapped-with-codes' | 'unfamiliar-numbers'
  /**
   * The result of a request to a host under `.invalid`: the name is not resolved; a proxy answers 502; a wildcard in the DNS leads to
   * the services, which answer 404; nothing comes until the timeout; or an error in unfamiliar words with a number.
   */
  deadHost: 'dns' | 'proxy' | 'wildcard' | 'silence' | 'unfamiliar'
  /** The Language service refuses sentiment analysis as retired (410); detecting the language works. */
  sentimentRetired: boolean
  /** set_setting(key, '') and set_setting(key, NULL) raise an error for the secret keys. */
  clearingRefused: boolean
  /** A stored key is used whatever auth_type says. */
  keyWins: boolean
  /** The test functions see only committed settings. */
  committedRowsOnly: boolean
  /** The test functions keep, for the length of a session, the settings they saw first. */
  sessionCache: boolean
  /** The identity works only after a restart of the server. */
  restartNeeded: boolean
  /** Until a restart the server uses the identity that it was started with, also when it has another or none now. */
  formerIdentityWorks: boolean
  /**
   * What SQL shows as `azure.service_principal_id`: the identity that the running server was started with, the one it has now, nothing, or
   * an error, as the parameter is unknown. PostgreSQL restarts when this becomes `unknown`.
   */
  sqlIdentity: 'running' | 'current' | 'empty' | 'unknown'
  /** What Resource Manager shows as that parameter: the identity that the running server was started with, nothing, or 404. */
  armIdentity: 'running' | 'empty' | 'unknown'
  /** How many reads of the server do not show its `principalId` after an operation has created an identity. */
  latePrincipalReads: number
  /** How a server that is Stopped or Starting answers reads of its configurations: as usual, with 400 `ServerStoppedError`, or with 500. */
  stoppedReads: 'answered' | 'refused' | 'failed'
  /** `translate` works only when azure_cognitive.endpoint is the Translator's own. */
  translateOwnEndpoint: boolean
  /** The installed extension is too old for the auth_type and translator_resource_id keys (1.0.0), until ALTER EXTENSION .. UPDATE. */
  oldExtension: boolean
  /** The test functions refuse to run in a read-only transaction (SQLSTATE 25006). */
  refuseReadOnly: boolean
  /** The firewall drops silently instead of letting the server refuse. */
  silentFirewall: boolean
  /** Error texts of the extension and the services in words that the action does not know. */
  unfamiliarTexts: boolean
  /** The functions of the extension look names up by the search path of their caller. */
  namesByPath: boolean
  /** The extension's control file names no schema, so CREATE EXTENSION has to. */
  schemaOpen: boolean
}

/** What a fault does to one request: send this answer instead, or break the connection before or after acting. */
export type Fault =
  /** A body of bytes is sent as it is, for instance packed. */
  | { kind: 'answer'; status: number; headers?: Record<string, string>; body?: string | Buffer }
  /** The request is handled, and a function of the parsed body changes its good answer. */
  | { kind: 'rewrite'; change: (body: unknown) => unknown }
  | { kind: 'reset-before' }
  | { kind: 'reset-after' }
  | { kind: 'truncate' }
  | { kind: 'hang' }
  /** A good answer begins and never ends, a byte at a time. */
  | { kind: 'trickle' }
  | Watched

/** Nothing fails: called when the server has acted (the answer waits for it), and when the answer was sent. */
export interface Watched {
  kind: 'watched'
  acted?: () => void | Promise<void>
  answered?: () => void | Promise<void>
}

/** One statement of a connection that came over the network. */
export interface Statement {
  /** Counted from 1 over the life of the emulator, from the moment `sqlFault` was set. */
  number: number
  database: string
  user: string
  /** As sent, without its parameters; `(connect)` for a connection, `(rows of COPY)` for the data that a COPY takes. */
  text: string
}

/**
 * What happens to one statement: the connection is lost before the server sees it or after it was executed, an administrator
 * ends the backend instead (57P01), or the server gets another statement that fails with this SQLSTATE, which
 * leaves the transaction as the real error does.
 */
export type SqlFault =
  | { kind: 'lost-before' }
  | { kind: 'lost-after' }
  | { kind: 'shutdown' }
  | { kind: 'error'; code: string; message: string }
  | Watched

/** One HTTP exchange as the emulator saw it. It contains no secrets and no tokens. */
export interface Exchange {
  /** Counted from 1 over the life of the emulator. */
  number: number
  plane: 'entra' | 'github' | 'resource-manager' | 'ai' | 'identity'
  method: string
  /** Path and query. */
  url: string
  host: string
  /** Of the client: requests with the same one came over one connection. */
  port: number
  requestBody: unknown
  status: number
  responseHeaders: Record<string, string>
  responseBody: unknown
  /** Object id of the caller, when its token was good. */
  caller?: string
}

/** A group of subscriptions, and of other groups. */
export interface ManagementGroup {
  name: string
  displayName: string
  /** Name of its parent group. */
  parent?: string
  /** GUIDs of the subscriptions directly in it. */
  subscriptions: string[]
}

/** How Resource Graph answers. */
export interface ResourceGraph {
  /** Most rows of a page, whatever `$top` says; 1000 when absent. */
  pageSize?: number
  /** The page after the first leads back to itself. */
  repeats?: boolean
  /** Online and serverless endpoints show no address. */
  hidesEndpoints?: boolean
  /** How many queries a caller has left, and when it has all of them again (ms); 15 in 5 seconds as long as this is absent. */
  quota?: { remaining: number; resetsAfter: number }
}

export interface World {
  tenantId: string
  subscriptionId: string
  /** Subscriptions beside the first one. */
  subscriptions?: { id: string; name: string }[]
  managementGroups?: ManagementGroup[]
  resourceGraph?: ResourceGraph
  resourceGroup: string
  principals: Principal[]
  servers: Server[]
  accounts: Account[]
  workspaces: Workspace[]
  roleDefinitions: RoleDefinition[]
  roleAssignments: RoleAssignment[]
  locks: Lock[]
  denyAssignments: DenyAssignment[]
  delays: Delays
  switches: Switches
  /** Valid writes that Resource Manager refuses; each entry refuses the next write of its kind. */
  refusals?: Refusal[]
  /** Called for each request before it is handled; `number` counts over all planes. */
  fault?: (request: { number: number; plane: Exchange['plane']; method: string; url: string }) => Fault | undefined
  /** Called for each statement before the server sees it, on network connections that are opened while this is set. */
  sqlFault?: (statement: Statement) => SqlFault | undefined
  /** All requests, in order. */
  exchanges: Exchange[]
  /** How long Entra's tokens live (ms); an hour when absent. */
  tokenLifetime?: number
  /** GitHub: the claims of the OIDC token that the next request gets, and the repository behind the REST API. */
  github: GitHubWorld
}

export interface GitHubComment {
  id: number
  body: string
  author: GitHubAuthor
  /** ISO 8601 without fractions, as GitHub writes it. */
  createdAt: string
  updatedAt: string
}

/** An issue, or a pull request as the issues API shows it. */
export interface GitHubIssue {
  number: number
  title: string
  body: string
  state: 'open' | 'closed'
  stateReason: 'completed' | 'not_planned' | 'duplicate' | 'reopened' | null
  labels: string[]
  author: GitHubAuthor
  isPullRequest: boolean
  /** GitHub refuses new comments; title, body and state can still be changed. */
  locked?: boolean
  createdAt: string
  updatedAt: string
  comments: GitHubComment[]
}

export interface GitHubAuthor {
  login: string
  /** Number of the account; absent: one that follows from the login. */
  id?: number
  type: 'Bot' | 'User'
  association: 'OWNER' | 'MEMBER' | 'COLLABORATOR' | 'CONTRIBUTOR' | 'NONE'
}

export interface GitHubWorld {
  issuer: string
  subject: string
  /** How long the OIDC token lives (ms); five minutes when absent. */
  tokenLifetime?: number
  /** `OWNER/NAME` */
  repository: string
  /** The token that the REST API accepts; made up at the start when absent. */
  token?: string
  /** What the token may do; absent: write. */
  permissions?: { issues?: 'none' | 'read' | 'write'; pullRequests?: 'none' | 'read' | 'write' }
  /** The user or app behind the token; absent: the bot of GitHub Actions. */
  actor?: GitHubAuthor
  /**
   * What the token reveals of its author: a personal one through `/user`, one of an app's installation (`/user` refuses it)
   * through GraphQL's `viewer`, an unknown one through neither. Absent: personal for a user, installation for a bot.
   */
  tokenKind?: 'personal' | 'installation' | 'unknown'
  /** Absent: private. */
  visibility?: 'public' | 'private' | 'internal'
  /** Absent: true. */
  issuesEnabled?: boolean
  archived?: boolean
  /** Labels of new issues are dropped silently, as GitHub does for callers who may not push. */
  dropsLabels?: boolean
  /** Issues and pull requests in the order of their numbers. */
  issues?: GitHubIssue[]
}
