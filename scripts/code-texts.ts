/** What the pages say of each code. docs/findings.md and docs/troubleshooting.md are written from it, and src/ does not carry it. */
import type { ErrorCode, FindingCode, KnownCode } from '../src/errors/codes.ts'
import type { FailureReason } from '../src/errors/failure.ts'

/** Warnings and notices. */
export const findings: Readonly<
  Record<FindingCode, { severity: 'warning' | 'notice' | 'warning or notice' | 'error or warning'; means: string; todo: string }>
> = {
  'azure-ai-not-allowed': {
    severity: 'notice',
    means:
      'In `inventory`: a server uses azure_ai, and its allow-list no longer contains it. The extension works as it is, and cannot be created or updated.',
    todo: 'Run the entries of the output `matrix`.',
  },
  'drift-issue-disabled': {
    severity: 'warning',
    means: '`drift-issue` is set in a repository without issues.',
    todo: 'Turn issues on, or leave `drift-issue` out.',
  },
  'drift-issue-failed': {
    severity: 'warning',
    means: "GitHub's API failed while the drift issue was written. The check itself is not affected.",
    todo: 'Run again.',
  },
  'drift-issue-locked': {
    severity: 'warning',
    means: 'The drift issue is locked and GitHub refuses comments on it. Its title, text and state are up to date.',
    todo: 'Unlock it, or delete it: the next run opens another.',
  },
  'drift-issue-permission': {
    severity: 'warning',
    means: 'The token may not write issues.',
    todo: '`permissions: issues: write`',
  },
  'endpoint-of-another-kind': {
    severity: 'notice',
    means: 'A stored endpoint is that of a Foundry project, a gateway, a region or the like.',
    todo: '`mode: apply` stores that of the account.',
  },
  'extension-gone': {
    severity: 'notice',
    means: 'A database has no azure_ai although this action assigned roles: probably it was dropped for an upgrade.',
    todo: '`mode: apply`',
  },
  'extension-update-available': {
    severity: 'notice',
    means: 'The server offers a newer azure_ai than the database has.',
    todo: '`ALTER EXTENSION azure_ai UPDATE;` or `update-extension: true`',
  },
  'firewall-rule-left': {
    severity: 'warning or notice',
    means:
      'A temporary firewall rule of an earlier run cannot be deleted, for a lock or a deny assignment. It was overwritten with 192.0.2.1, which leads nowhere, or could not be; a notice when it leads nowhere already.',
    todo: 'Remove the lock, then delete the rule with the command of the finding.',
  },
  'former-principal': {
    severity: 'warning',
    means:
      'A role assignment that this action made for this server belongs to an identity that the server no longer has: it was restored or created again, or its identity was turned off in between.',
    todo: 'Remove the assignment, unless the server it was restored from still runs with it.',
  },
  'function-replaced': {
    severity: 'notice',
    means: 'A service has retired the function of its test query; another one was queried.',
    todo: 'Look at what your own queries call.',
  },
  'github-token-refused': {
    severity: 'warning',
    means: 'GitHub does not accept `github-token`.',
    todo: "Leave it out: the default is the job's own token.",
  },
  'identity-missing': {
    severity: 'notice',
    means: 'In `inventory`: a server uses azure_ai and has no managed identity.',
    todo: 'Run the entries of the output `matrix`.',
  },
  'key-as-parameter': {
    severity: 'warning',
    means: 'A key could not be sent by `COPY`, so it was sent as a parameter of a statement, which a statement log keeps.',
    todo: 'Let the connecting role make temporary tables; rotate the key when statements are logged.',
  },
  'key-is-a-word': {
    severity: 'error or warning',
    means:
      'A stored key is the text `managed_identity`, in any spelling: an error where the extension sends it as a key, a warning where it does not.',
    todo: 'Clear it: `clear-keys: true`',
  },
  'key-login-possible': {
    severity: 'notice',
    means: 'A resource still takes keys although every database of this run is verified to need none.',
    todo: 'When nothing else uses its keys, set `disableLocalAuth` on it.',
  },
  'key-login-still-needed': {
    severity: 'notice',
    means:
      'Key access of a resource cannot be turned off yet: the detail names a database that is not verified to work without a key, and why.',
    todo: 'Run this action with that database among `databases`, or see the reason.',
  },
  'key-not-comparable': {
    severity: 'warning',
    means:
      'With `subscription-key`: the connecting role may not read the stored key, so it cannot be compared with that of the resource.',
    todo: 'Grant `azure_ai_settings_manager` to the role of the check, or rely on its test query.',
  },
  'key-still-stored': {
    severity: 'warning',
    means: 'A database uses the identity and a key is still stored. Whoever may read the settings, or a backup, can use it.',
    todo: 'Clear it: `clear-keys: true`',
  },
  'key-wins': {
    severity: 'warning',
    means: 'The identity works, but the extension sends the stored key for as long as there is one.',
    todo: 'Clear it: `clear-keys: true`',
  },
  'keys-to-rotate': {
    severity: 'notice',
    means: 'Stored keys were cleared; backups of the server still contain them.',
    todo: 'Rotate the keys, or turn key access off.',
  },
  'matrix-cut': {
    severity: 'notice',
    means: 'In `inventory`: the output `matrix` has 256 entries or close to a megabyte, and more is left to do.',
    todo: 'Run its entries, then the inventory again.',
  },
  'not-asked-read-only': {
    severity: 'notice',
    means:
      'A test function refuses to run in a read-only transaction (SQLSTATE 25006); it was called again in a transaction that was rolled back.',
    todo: 'Nothing.',
  },
  'not-in-matrix': {
    severity: 'warning',
    means:
      'In `inventory`: the name of a database contains a comma or a line break, or begins or ends with a blank, so no entry can name it.',
    todo: 'Rename the database, or set azure_ai in it by hand.',
  },
  'not-inspected': {
    severity: 'warning',
    means:
      'In `inventory`: servers or databases could not be inspected, for the reason in the title. Whether keys are stored there is not known, so the result is `drift`.',
    todo: 'See the fix of the finding; servers without public access need an inventory on a runner in their network.',
  },
  'other-keys-stored': {
    severity: 'notice',
    means: 'Keys of services that this run does not name are stored. They are not counted in `stored-keys`.',
    todo: 'Name the service that uses them.',
  },
  'pull-request-absent': {
    severity: 'notice',
    means: '`pull-request-comment` is set in a run that no pull request started.',
    todo: 'Nothing; the plan is in the summary.',
  },
  'pull-request-comment-failed': {
    severity: 'warning',
    means: "GitHub's API failed while the comment was written.",
    todo: 'Run again.',
  },
  'pull-request-comment-locked': {
    severity: 'warning',
    means: 'The pull request is locked, so GitHub refuses the comment.',
    todo: 'Unlock it; the plan is in the summary.',
  },
  'pull-request-comment-permission': {
    severity: 'warning',
    means: 'The token may not comment; a pull request from a fork never gets one that may.',
    todo: '`permissions: pull-requests: write`',
  },
  'replica-first': {
    severity: 'notice',
    means: 'In `inventory`: a read replica lacks its identity or a role, so its primary is left out of the matrix.',
    todo: 'Run the entries of the output `matrix`, then the inventory again.',
  },
  'replica-not-ready': {
    severity: 'warning',
    means:
      'In `apply`: a read replica has no identity, or lacks a role. Settings reach it from its primary, an identity does not. In `check` this is drift, the step `replica/NAME`.',
    todo: 'Run the action with the replica as `server`.',
  },
  'report-cut': {
    severity: 'notice',
    means:
      'Only in the report: it would have more than 5 MB, so its longest texts are cut, and items at the end of its lists may be left out.',
    todo: 'Run the action for fewer databases at a time.',
  },
  'report-not-written': {
    severity: 'warning',
    means: 'The folder for the report cannot be written to, so `report-path` is empty. The result of the run stays as it is.',
    todo: 'Set `RUNNER_TEMP` to a folder that this job can write to.',
  },
  'resource-not-visible': {
    severity: 'warning',
    means:
      'In `inventory`: an endpoint leads to no resource that the identity of the job sees: a gateway, the host of a region, or a resource that it may not read.',
    todo: 'Assign it Reader there, or set the endpoint of the resource itself.',
  },
  'restart-unknown': {
    severity: 'notice',
    means:
      'With `part: azure`, or a replica as `server`: the server does not show which identity it runs with, so it is not known whether it was restarted since.',
    todo: 'Restart it when test queries fail for want of a token.',
  },
  'role-beyond-need': {
    severity: 'warning',
    means: 'The identity has another role on a named resource than the one azure_ai needs there.',
    todo: 'Remove the assignment, unless something else on this server needs it.',
  },
  'role-by-group': {
    severity: 'warning',
    means: 'The identity has its role as a member of a group only; changes of membership can take hours to reach its tokens.',
    todo: 'Nothing, or assign the role to the identity itself.',
  },
  'role-missing': {
    severity: 'notice',
    means: 'In `inventory`: the managed identity of a server lacks the role for a resource that its databases use.',
    todo: 'Run the entries of the output `matrix`.',
  },
  'roles-not-read': {
    severity: 'notice',
    means: 'In `inventory`: the role assignments on a resource could not be read, so it is not known whether a role is missing.',
    todo: 'Assign Reader on the resource to the identity of the job.',
  },
  'scope-empty': {
    severity: 'warning',
    means:
      'In `inventory`: every part of `scope` could be read, and none contains a flexible server that the identity of the job may read.',
    todo: 'Assign it Reader on the scope itself, or correct `scope`.',
  },
  'second-key-stored': {
    severity: 'notice',
    means:
      'With `subscription-key`: the second key of the resource is stored. It works; a rotation of the second key would break it.',
    todo: 'Nothing, or store the first.',
  },
  'service-not-in-version': {
    severity: 'warning',
    means:
      'The installed azure_ai has no function or settings for a named service, such as `azure_ai.rank`. Its settings and test query are skipped.',
    todo: '`update-extension: true`, or leave the service out for this database.',
  },
  'shared-runner-address': {
    severity: 'warning',
    means:
      'The firewall was opened to an address that is private or of a carrier-grade NAT: other machines may have it, and Azure sees it only inside that network.',
    todo: 'Set `runner-ip`, or use a runner in a network that reaches the server.',
  },
  'statements-logged': {
    severity: 'notice',
    means:
      'The server writes statements into its log, or Query Store keeps parameters: a key that was set by hand would be there. This action sends none.',
    todo: 'Log less, and rotate keys that were set by hand.',
  },
  'still-on-keys': {
    severity: 'warning or notice',
    means:
      'A database still uses a key: a warning in `verify`, where nothing else reports it; a notice beside the drift in `check`.',
    todo: 'Run `mode: apply`.',
  },
  'taken-away': {
    severity: 'warning',
    means: 'Databases use the identity, and it or the allow-list entry is gone: probably infrastructure code.',
    todo: 'Add it to that code, then `mode: apply`.',
  },
  'tls-variable-ignored': {
    severity: 'warning',
    means:
      '`NODE_TLS_REJECT_UNAUTHORIZED` is 0 in the environment, so Node would accept every certificate. The action removed the variable before it connected to anything.',
    todo: 'Remove it from the job; for a proxy that re-signs TLS set `NODE_EXTRA_CA_CERTS`.',
  },
  'uncommitted-settings-not-seen': {
    severity: 'notice',
    means:
      'The extension reads committed settings only, so they cannot be tried in a transaction first. They are committed, checked at once, and restored when they fail.',
    todo: 'Nothing.',
  },
  unproven: {
    severity: 'warning',
    means: 'Settings were written although a test query of their family could not run.',
    todo: 'See the reason in the detail; for Machine Learning set `machine-learning-input`.',
  },
  'unused-input': {
    severity: 'notice',
    means: 'An input is set whose counterpart is missing, so it has no effect.',
    todo: 'Remove it, or set the other one.',
  },
}

/** Errors that the action raises itself. */
export const errors: Readonly<Record<ErrorCode, { reason: Exclude<FailureReason, 'none'>; means: string; todo: string }>> = {
  'account-kind': {
    reason: 'input',
    means: 'The kind of the account does not serve this service.',
    todo: 'Name an account of a kind that does.',
  },
  'ai-error': {
    reason: 'verification',
    means: 'A response of the extension or the service that this action does not know. It is passed on word for word.',
    todo: 'Run again; if it stays, contact the support of the service.',
  },
  'answer-malformed': {
    reason: 'azure',
    means:
      'An answer of Azure has a value that cannot be right: an object id that is none, a subdomain with a slash, a name with a NUL. Nothing was done with it.',
    todo: 'Look for something between the runner and Azure that writes answers.',
  },
  'answer-too-large': {
    reason: 'azure',
    means:
      'An answer of Azure or Entra has more than 16 MB, or an allow-list of many thousand characters. It was not read to its end.',
    todo: 'Look for something between the runner and Azure that writes answers.',
  },
  'az-session-too-old': {
    reason: 'credentials',
    means: 'az is signed in by OIDC, and its session is too old for a token of another scope.',
    todo: 'Set `tenant-id` and `client-id`, or run azure/login right before.',
  },
  'azure-error': {
    reason: 'azure',
    means: 'A response of Resource Manager that this action does not know. It is passed on word for word.',
    todo: 'Run again; if it stays, contact Azure support with the request id.',
  },
  'azure-not-json': {
    reason: 'network',
    means: 'Something else (a proxy, the sign-in page of a network) answered instead of Azure.',
    todo: 'Let the runner reach the host that is named.',
  },
  'azure-not-trusted': {
    reason: 'network',
    means: 'Something between runner and Azure re-signs TLS.',
    todo: 'Set `NODE_EXTRA_CA_CERTS` to its root.',
  },
  'azure-unreachable': {
    reason: 'network',
    means: 'Resource Manager cannot be reached.',
    todo: 'Check DNS and proxy of the runner.',
  },
  cancelled: { reason: 'cancelled', means: 'The runner ended the run.', todo: 'Run again; it goes on where it stopped.' },
  'cloud-metadata': {
    reason: 'azure',
    means:
      "The Resource Manager in `environment` does not describe its cloud, or names another Resource Manager, or a sign-in host or audience that belongs to one of Azure's own clouds.",
    todo: 'Check the URL; for Azure itself use `AzureCloud`, `AzureUSGovernment` or `AzureChinaCloud`.',
  },
  'elastic-cluster': {
    reason: 'azure',
    means: 'An elastic cluster takes no system-assigned identity.',
    todo: 'Use another server, or stay with keys.',
  },
  'endpoint-auth-mode': {
    reason: 'azure',
    means: 'The online endpoint takes another kind of credential than `auth-type` needs.',
    todo: 'Make a second endpoint and name it.',
  },
  'endpoint-not-set': {
    reason: 'verification',
    means: 'In `verify`: a family of the inputs has no endpoint in a database, so no query can pass.',
    todo: 'Run with `mode: apply`.',
  },
  'entra-authentication-off': {
    reason: 'azure',
    means: 'The server takes no Entra logins, and `database-password` is not set.',
    todo: 'Turn them on.',
  },
  'entra-error': {
    reason: 'credentials',
    means: 'A response of Entra that this action does not know. It is passed on word for word.',
    todo: 'Look the AADSTS number up.',
  },
  'entra-unreachable': {
    reason: 'network',
    means: 'Entra cannot be reached.',
    todo: 'Check DNS, proxy and TLS roots of the runner.',
  },
  'extension-missing': {
    reason: 'database',
    means: 'In `verify`: the database has no azure_ai, so there is nothing to query.',
    todo: 'Run `mode: apply`.',
  },
  'firewall-locked': {
    reason: 'azure',
    means:
      'A lock on the server, its resource group or its subscription forbids deleting the temporary firewall rule, so none was created.',
    todo: 'Remove the lock, or use a runner in a network that reaches the server.',
  },
  'foreign-host': {
    reason: 'azure',
    means:
      'An answer of Azure or Entra named a host outside its cloud, for the next request, the sign-in, the database or an endpoint; no login, token or key was sent there.',
    todo: 'Report it.',
  },
  input: {
    reason: 'input',
    means: 'Inputs are wrong or contradict each other; all of them are named, and nothing was sent.',
    todo: 'Correct the `with:` block.',
  },
  internal: {
    reason: 'internal',
    means: 'The action failed in a way it did not expect.',
    todo: 'Run with debug logging and open an issue.',
  },
  'ipv6-runner': {
    reason: 'network',
    means: 'The server sees an IPv6 address, and its firewall rules are IPv4.',
    todo: 'Use a runner with IPv4.',
  },
  'key-not-blanked': { reason: 'database', means: 'A stored key could not be cleared.', todo: 'See the detail.' },
  'key-not-blanked-unproven': {
    reason: 'verification',
    means:
      'A stored key was not cleared with `clear-keys`, because a test query of its family cannot run, or what it is used for was not named.',
    todo: 'Let it run, name what it is used for, or `allow-unproven: true`',
  },
  'key-not-put-back': {
    reason: 'database',
    means: 'After a failed switch the previous key could not be restored.',
    todo: 'Set it again by hand.',
  },
  'list-cut': {
    reason: 'azure',
    means: 'Resource Graph left out rows of a list and gave nothing that leads to them.',
    todo: 'Run again; if it stays, name smaller scopes.',
  },
  'list-unending': {
    reason: 'azure',
    means: 'A list of Azure leads back to a page that was read, or is longer than any real one.',
    todo: 'Run again; else compare with the same list in az.',
  },
  'login-of-another-cloud': {
    reason: 'credentials',
    means:
      '`environment` is a URL, and `AZURE_AUTHORITY_HOST` does not name the sign-in host of that cloud, so a client secret, a certificate or a federated token file of the job was not used.',
    todo: 'Set `AZURE_AUTHORITY_HOST` if the login belongs to that cloud; otherwise correct `environment`.',
  },
  'may-not-create-extension': {
    reason: 'permission',
    means: 'The connecting role is no member of `azure_pg_admin`, and azure_ai is missing.',
    todo: 'Grant it, or have an administrator create the extension.',
  },
  'may-not-read': {
    reason: 'permission',
    means: 'In `check`: the connecting role may not read the settings.',
    todo: 'Grant `azure_ai_settings_manager`.',
  },
  'may-not-set': {
    reason: 'permission',
    means: 'In `apply`: the connecting role may not write the settings.',
    todo: 'Grant `azure_ai_settings_manager`.',
  },
  'may-not-update-extension': {
    reason: 'permission',
    means: 'The connecting role may not update the extension.',
    todo: 'Grant `azure_pg_admin`.',
  },
  'name-not-readable': {
    reason: 'database',
    means: "With `databases: '*'`: the name of a database is not UTF-8, so it cannot be connected to.",
    todo: 'Rename it.',
  },
  'no-database': {
    reason: 'database',
    means: "`databases: '*'` found no database that has azure_ai.",
    todo: 'Name the databases, and run `mode: apply`.',
  },
  'no-login': {
    reason: 'credentials',
    means: 'There is neither `tenant-id` and `client-id` nor a login on the runner.',
    todo: 'Set both, or run `azure/login` first.',
  },
  'no-oidc-token': {
    reason: 'credentials',
    means: 'The job may not have an OIDC token.',
    todo: '`permissions: id-token: write`',
  },
  'no-post-step': {
    reason: 'input',
    means: '`temporary-firewall-rule` outside GitHub Actions: nothing would close the firewall again.',
    todo: 'Leave it out.',
  },
  'no-public-access': {
    reason: 'azure',
    means: '`temporary-firewall-rule` for a server without public access.',
    todo: 'Use a runner inside the virtual network.',
  },
  'no-public-schema': {
    reason: 'database',
    means: "The server's azure_ai leaves its schema open, and the database has no `public`.",
    todo: 'Create `public`, or the extension in a schema of your choice.',
  },
  'no-scoring-uri': { reason: 'azure', means: 'The online endpoint is not ready yet.', todo: 'Run again when it is.' },
  'not-an-administrator': {
    reason: 'credentials',
    means: "The caller is not among the server's Entra administrators, so the role to connect as is not known.",
    todo: 'Add it, or set `database-user`.',
  },
  'not-one-endpoint': {
    reason: 'input',
    means: '`machine-learning` names a workspace that has not exactly one online endpoint.',
    todo: 'Name the endpoint itself.',
  },
  'not-switched-unproven': {
    reason: 'verification',
    means: 'A family that works today was not switched, because a test query of it cannot run.',
    todo: 'Let it run, or `allow-unproven: true`',
  },
  'not-tried': {
    reason: 'verification',
    means: 'The time was up before the query was sent.',
    todo: 'Raise `verify-timeout-minutes`.',
  },
  'not-verified': {
    reason: 'verification',
    means: 'In `verify`: a query passed with a stored key in reach, or did not run.',
    todo: 'Clear stored keys; set the input that a skipped query needs.',
  },
  'one-endpoint': {
    reason: 'verification',
    means: 'Language and Translator cannot share one endpoint here.',
    todo: 'One multi-service account, or two databases.',
  },
  'operation-late': {
    reason: 'azure',
    means: 'An operation of Azure did not end in time.',
    todo: 'Run again when the server is Ready.',
  },
  'other-resource': {
    reason: 'azure',
    means: 'Azure answered about another resource than the one that was named; nothing was written for it.',
    todo: 'Compare the id with the input.',
  },
  'plan-changed': {
    reason: 'drift',
    means: '`plan-id` is that of another plan: something else is to be done now, or for other databases. Nothing was written.',
    todo: 'Check again and look at its plan.',
  },
  'postgres-error': {
    reason: 'database',
    means: 'An error of PostgreSQL that this action does not know. It is passed on word for word.',
    todo: 'Look the SQLSTATE up.',
  },
  'postgres-too-old': { reason: 'database', means: 'There is no azure_ai for this version.', todo: 'Upgrade the server.' },
  'principal-not-shown': {
    reason: 'azure',
    means: 'The identity was turned on, and the server does not show its principal id for minutes.',
    todo: 'Run again in a few minutes; it goes on where it stopped.',
  },
  'proxy-refused': { reason: 'network', means: "The job's proxy refused to connect to Azure.", todo: 'Have it allow the host.' },
  'read-only-database': {
    reason: 'database',
    means: 'A read replica answers at this address.',
    todo: 'Let `database-host` lead to the primary.',
  },
  redirected: {
    reason: 'network',
    means: 'A request to Azure or Entra was answered with a redirect; it was not followed, and no token was sent there.',
    todo: 'Let the runner reach Azure directly.',
  },
  'replica-would-break': {
    reason: 'azure',
    means: 'A family that works today would be switched while a read replica is not ready for it.',
    todo: 'Run the action with the replica as `server` first.',
  },
  'resource-not-ready': {
    reason: 'azure',
    means: 'A resource is being made or changed.',
    todo: 'Run again when it is Succeeded.',
  },
  'restart-required': {
    reason: 'restart-required',
    means:
      'The identity works only after a restart of the server, and this run may not restart it: `allow-restart` is false, the mode or part does not restart, or the plan of `plan-id` has no restart. The detail names what shows it. Where it explains test queries that failed, these are not reported again.',
    todo: 'Restart the server, or `allow-restart: true`',
  },
  'role-assigns-roles': {
    reason: 'input',
    means:
      "A custom role of the inputs permits writing role assignments or role definitions, so the server's identity could grant itself any right on the resource.",
    todo: 'Remove `Microsoft.Authorization` from its actions, or leave the input out.',
  },
  'run-timeout': {
    reason: 'azure',
    means:
      'The whole run took longer than its inputs allow (see [Retries and time limits](retries.md)) and was ended as by a cancel.',
    todo: 'Look at what it was waiting for; run again.',
  },
  'runner-address': {
    reason: 'network',
    means:
      "The server's refusal names an address that no runner can have (0.0.0.0 would open the server to all of Azure), a range or a name. No rule was created.",
    todo: 'Check that `database-host` leads to the server itself; set `runner-ip` where it does not answer.',
  },
  'runner-ip-needed': {
    reason: 'input',
    means: "The server does not answer, so its refusal cannot name the runner's address.",
    todo: 'Set `runner-ip`.',
  },
  'server-not-back': {
    reason: 'azure',
    means: 'The server was restarted and was not Ready, or took no connections, in time.',
    todo: 'Look at its state; run again when it is Ready.',
  },
  'server-not-ready': { reason: 'azure', means: 'The server is stopped, starting or changing.', todo: 'Start it, or wait.' },
  'setting-too-long': {
    reason: 'database',
    means: 'A setting of azure_ai is longer than any value it can have; nothing was written in that database.',
    todo: 'Look at the setting; blank it with the fix.',
  },
  'settings-not-put-back': {
    reason: 'database',
    means: 'New settings were committed and not verified, and the previous ones could not be restored.',
    todo: 'Paste the fix: it sets them.',
  },
  'too-many-databases': {
    reason: 'database',
    means: "`databases: '*'` on a server with more than 5,000 databases.",
    todo: 'Name the databases.',
  },
  'trial-unclear': {
    reason: 'verification',
    means: 'It is not known whether the extension sees uncommitted settings, so nothing that works was switched.',
    todo: 'Run again.',
  },
  unfinished: {
    reason: 'internal',
    means: 'The run was ended from outside before it could report.',
    todo: 'Run again; it goes on where it stopped.',
  },
}

/** Why a message of Azure, Entra, PostgreSQL or an AI service comes about. */
export const causes: Readonly<Record<KnownCode, string>> = {
  'ai-firewall': 'The AI resource allows only listed networks, and the server is in none of them.',
  'ai-private':
    "The AI resource has no public access, and the server resolves its public address: the private endpoint or its DNS zone is not linked to the server's network.",
  'app-unknown':
    '`client-id` is not the Application (client) ID of an app in this tenant: often it is its object id, or the tenant is another one.',
  'assertion-expired':
    "The workflow's token lives five minutes, and the clocks of runner and Entra disagree by more, or the connection hung for so long.",
  'authorization-failed':
    'The identity that the job signs in with lacks an action on a scope; the run names both, and the least built-in role that has it.',
  'client-secret-refused':
    'The value is the id of the secret rather than the secret, the secret was replaced, or its time is over.',
  'connection-limit': 'The database or the role allows only so many connections at once, and they are taken.',
  'connection-lost': 'The server was restarted or failed over, or something on the way closes connections.',
  'connection-refused':
    'The server is stopped, or `database-host` and `database-port` lead elsewhere (a tunnel that is not up, 6432 without PgBouncer).',
  'connection-timeout':
    'Something on the way drops the packets: private access, a network security group, or a firewall that does not answer.',
  'custom-subdomain':
    'Regional endpoints take no Entra tokens: an account needs a custom subdomain, which cannot be changed later.',
  'database-closed': 'The database was closed with `ALLOW_CONNECTIONS false`, as templates are.',
  'database-not-found': '`databases` names one that this server does not have.',
  'database-permission': 'The role may connect, and lacks the right for this statement.',
  'database-token-expired':
    'The token had expired when the server saw it, although each is used within its hour: usually a wrong clock.',
  'deployment-not-found': 'The deployment is mistyped, of another account, or was made less than five minutes ago.',
  dns: 'The name resolves only inside the virtual network of the server, or is mistyped.',
  'extension-has-dependants':
    'A generated column, a view, a function or another object uses a function of azure_ai, so PostgreSQL keeps it from being changed.',
  'extension-too-old': 'The installed version knows keys only.',
  'federation-mismatch':
    "Issuer, subject and audience of the workflow's token have to be those of one federated credential of the app, letter for letter.",
  firewall: 'The server has public access, and no firewall rule covers the address that it sees.',
  'foreign-functions':
    "The extension makes schemas of its own (`azure_ai`, `azure_openai`, `azure_cognitive`, `azure_ml`), and one of that name was there before it. Or one of these schemas contains functions that are not the extension's, triggers or tables that are not an administrator's, or roles other than administrators may create in it: a call of azure_ai could reach them.",
  'function-retired': 'Azure retires functions of its AI services; azure_ai passes its refusal on.',
  'key-login-disabled':
    '`disableLocalAuth` is set on the account, and the extension sent a key: because `auth-type` is `subscription-key`, or because a stored key wins over the identity.',
  'key-refused': 'The stored key is old or of another account, or the endpoint is that of another one.',
  lock: 'Another session writes the same settings, or a run that was killed still has its lock for some seconds; the detail names the session where it can.',
  'login-refused':
    "For Entra logins the user has to be the name registered on the server, case included; a member of a registered group uses the group's name.",
  'login-timeout':
    'Another session has locked the database itself (it is being renamed, copied or dropped), or the catalog that a login reads; or the server is overloaded.',
  'message-too-large': 'The server, or whatever listens at its address, began a message of more than 16 MB.',
  'no-token':
    'The server has no token for its identity: it was turned on after the last restart, or two or three minutes have not passed since.',
  'not-allow-listed':
    '`azure.extensions` does not contain azure_ai, or has done so only for some seconds and the server does not know yet.',
  'operation-not-supported':
    'The account has no deployment that embeds, so another one was called: its refusal shows that the identity has access.',
  'parameter-not-supported':
    'azure_ai sends parameters that some models refuse, for example a temperature to gpt-5: a service that reads them has accepted the identity.',
  'pooler-refuses-parameter': 'A connection pooler in transaction mode takes only startup parameters it knows.',
  'principal-mismatch':
    'The principal was deleted and created again, or the administrator was added with the wrong type, so the token belongs to another principal than the role.',
  'principal-not-found': 'A new identity takes a while to reach every copy of the directory.',
  'refused-by-governance':
    'Azure Policy denies the change, a lock is on the resource or its group, or the subscription is disabled.',
  'resource-not-found': 'A resource id is mistyped, or the resource was deleted or moved.',
  'role-assignment-limit':
    'A subscription has room for a limited number of role assignments (4000), those of deleted principals included.',
  'role-not-effective':
    'The identity got its token, and the AI service does not know of its role: it is missing, is another one, or was assigned minutes ago.',
  'role-not-found':
    'The server has no such role, or the Entra principal behind it was deleted and created again with another object id.',
  'server-busy': 'A flexible server takes one operation at a time.',
  'service-refused': 'The service answered with an error status and words that this action does not know.',
  'starting-up': 'The server is being restarted, by a person, another run or a failover.',
  'statement-timeout': 'A statement took longer than its limit: the server is overloaded, or waits for something itself.',
  'subdomain-unknown': 'The stored endpoint is mistyped or of a deleted account, or the subdomain was made minutes ago.',
  'subscription-not-found':
    'The subscription in a resource id does not exist, or belongs to another tenant than the one that was signed in to.',
  'tenant-unknown': '`tenant-id` is mistyped, or is a tenant of another cloud than that of `environment`.',
  throttled: 'The service accepts the identity; the capacity of the deployment is used up for the moment.',
  'tls-not-trusted':
    "The certificate has no root that Node (its own and `NODE_EXTRA_CA_CERTS`) or the system trusts, its time is over, or it is for another name than the server's own and `database-host`.",
  'token-not-accepted': 'The AI resource is in another tenant or cloud than the server, or its token service lags.',
  'token-refused':
    'The token is of another cloud or tenant than the subscription, or its time was over and a new one was refused as well.',
  'too-many-connections': '`max_connections` of the server, or the limit of the role or the database, is used up.',
}
