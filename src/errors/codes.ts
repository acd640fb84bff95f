/**
 * The codes of findings and failures. They are public: filters and alerts use them, so none is renamed.
 * The texts of the pages are in scripts/code-texts.ts, which does not compile without a row for each code.
 */

/** Warnings and notices. */
// biome-ignore format: one topic a line
export type FindingCode =
  | 'extension-gone' | 'extension-update-available' | 'function-replaced' | 'service-not-in-version' | 'taken-away'
  | 'endpoint-of-another-kind' | 'statements-logged' | 'uncommitted-settings-not-seen' | 'not-asked-read-only' | 'unproven'
  | 'key-as-parameter' | 'key-is-a-word' | 'key-login-possible' | 'key-login-still-needed' | 'key-not-comparable'
  | 'key-still-stored' | 'key-wins' | 'keys-to-rotate' | 'other-keys-stored' | 'second-key-stored' | 'still-on-keys'
  | 'former-principal' | 'role-beyond-need' | 'role-by-group' | 'replica-not-ready' | 'restart-unknown'
  | 'firewall-rule-left' | 'shared-runner-address' | 'tls-variable-ignored' | 'unused-input'
  | 'azure-ai-not-allowed' | 'identity-missing' | 'matrix-cut' | 'not-in-matrix' | 'not-inspected' | 'replica-first'
  | 'resource-not-visible' | 'role-missing' | 'roles-not-read' | 'scope-empty'
  | 'report-cut' | 'report-not-written' | 'github-token-refused'
  | 'drift-issue-disabled' | 'drift-issue-failed' | 'drift-issue-locked' | 'drift-issue-permission'
  | 'pull-request-absent' | 'pull-request-comment-failed' | 'pull-request-comment-locked' | 'pull-request-comment-permission'

/** Messages of the outside that the table of errors knows: each is the code of one row. */
// biome-ignore format: one origin or topic a line
export type KnownCode =
  | 'authorization-failed' | 'token-refused' | 'subscription-not-found' | 'resource-not-found' | 'server-busy'
  | 'principal-not-found' | 'role-assignment-limit' | 'refused-by-governance'
  | 'federation-mismatch' | 'app-unknown' | 'tenant-unknown' | 'assertion-expired' | 'client-secret-refused'
  | 'firewall' | 'dns' | 'connection-refused' | 'connection-timeout' | 'connection-lost' | 'tls-not-trusted'
  | 'pooler-refuses-parameter' | 'message-too-large' | 'database-token-expired' | 'principal-mismatch' | 'role-not-found'
  | 'login-refused' | 'login-timeout' | 'database-not-found' | 'database-closed' | 'database-permission' | 'connection-limit'
  | 'too-many-connections' | 'starting-up' | 'statement-timeout' | 'lock'
  | 'not-allow-listed' | 'extension-has-dependants' | 'extension-too-old' | 'foreign-functions'
  | 'role-not-effective' | 'token-not-accepted' | 'custom-subdomain' | 'subdomain-unknown' | 'key-login-disabled'
  | 'ai-firewall' | 'ai-private' | 'deployment-not-found' | 'operation-not-supported' | 'parameter-not-supported'
  | 'function-retired' | 'key-refused' | 'throttled' | 'no-token' | 'service-refused'

/** Errors that the action finds itself, and the responses that the table does not know. */
// biome-ignore format: one topic a line
export type ErrorCode =
  | 'azure-error' | 'entra-error' | 'postgres-error' | 'ai-error'
  | 'input' | 'account-kind' | 'no-post-step' | 'not-one-endpoint' | 'role-assigns-roles' | 'runner-ip-needed'
  | 'az-session-too-old' | 'login-of-another-cloud' | 'no-login' | 'no-oidc-token' | 'not-an-administrator'
  | 'may-not-create-extension' | 'may-not-read' | 'may-not-set' | 'may-not-update-extension'
  | 'azure-not-json' | 'azure-not-trusted' | 'azure-unreachable' | 'entra-unreachable' | 'proxy-refused' | 'redirected'
  | 'ipv6-runner' | 'runner-address' | 'firewall-locked' | 'no-public-access'
  | 'answer-malformed' | 'answer-too-large' | 'cloud-metadata' | 'foreign-host' | 'other-resource' | 'list-cut' | 'list-unending'
  | 'elastic-cluster' | 'endpoint-auth-mode' | 'entra-authentication-off'
  | 'no-scoring-uri' | 'operation-late' | 'resource-not-ready' | 'server-not-ready' | 'server-not-back' | 'replica-would-break'
  | 'extension-missing' | 'name-not-readable' | 'no-database'
  | 'no-public-schema' | 'postgres-too-old' | 'read-only-database' | 'setting-too-long'
  | 'too-many-databases' | 'key-not-blanked' | 'key-not-put-back' | 'settings-not-put-back'
  | 'endpoint-not-set' | 'key-not-blanked-unproven' | 'not-switched-unproven' | 'not-tried' | 'not-verified' | 'one-endpoint'
  | 'trial-unclear' | 'plan-changed' | 'principal-not-shown' | 'restart-required'
  | 'run-timeout' | 'cancelled' | 'unfinished' | 'internal'
