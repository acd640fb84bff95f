/** What PostgreSQL says, or the connection to it. */
import { notUnicast } from '../../lib/ipv4.ts'
import type { Known } from '../message.ts'

export const postgres: readonly Known[] = [
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
    text: /oid mismatch|AAD_AUTH_TOKENTYPE|could not validate AAD user/i,
    reason: 'credentials',
    code: 'principal-mismatch',
    title: 'The role was made for another principal, or for another type of principal',
    cause: ({ text }, at) => `User "${at.user}" at ${at.host}: ${text}`,
    fix: (_, at) =>
      `Remove the administrator and add it again with its object id of today and its type (User, Group or ServicePrincipal): az postgres flexible-server microsoft-entra-admin delete --resource-group ${at.resourceGroup ?? 'GROUP'} --server-name ${at.server ?? 'SERVER'} --object-id OLD-OBJECT-ID; az postgres flexible-server microsoft-entra-admin create --resource-group ${at.resourceGroup ?? 'GROUP'} --server-name ${at.server ?? 'SERVER'} --object-id OBJECT-ID --display-name NAME --type ServicePrincipal`,
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
    text: /too many connections for (?:database|role)/i,
    reason: 'database',
    code: 'connection-limit',
    title: 'The CONNECTION LIMIT of a database or a role is reached',
    cause: ({ text }) => text,
    fix: (_, at) =>
      `SELECT datname, datconnlimit FROM pg_database WHERE datconnlimit >= 0; SELECT rolname, rolconnlimit FROM pg_roles WHERE rolconnlimit >= 0;   -- then raise it: ALTER DATABASE "${(at.database ?? 'DATABASE').replaceAll('"', '""')}" CONNECTION LIMIT -1;`,
  },
  {
    origin: 'postgres',
    codes: ['2BP01'],
    reason: 'database',
    code: 'extension-has-dependants',
    title: 'Other objects depend on azure_ai',
    cause: ({ text }, at) => `Database "${at.database}", ${at.doing}: ${text}`,
    fix: () =>
      "SELECT pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_depend AS d JOIN pg_depend AS e ON e.classid = d.refclassid AND e.objid = d.refobjid WHERE d.deptype = 'n' AND e.deptype = 'e' AND e.refclassid = 'pg_extension'::regclass AND e.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'azure_ai');   -- change or remove these first; CASCADE would drop them",
  },
  {
    origin: 'postgres',
    codes: ['55000'],
    text: /not currently accepting connections/i,
    reason: 'database',
    code: 'database-closed',
    title: 'The database takes no connections',
    cause: ({ text }) => text,
    fix: (_, at) =>
      `ALTER DATABASE "${(at.database ?? 'DATABASE').replaceAll('"', '""')}" ALLOW_CONNECTIONS true;   -- in another database; or leave it out of \`databases\``,
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
      "SELECT a.pid, a.usename, a.application_name, clock_timestamp() - a.xact_start AS age, a.query FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) WHERE l.granted AND (l.locktype = 'advisory' OR l.relation = to_regclass('azure_ai.settings'));   -- wait for it, or end it: SELECT pg_terminate_backend(PID);",
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
    codes: ['ECONNRESET', '57P01', '57P02', '57P05', '08006', '08003', '08001', 'EPIPE', 'CONNECTION_LOST'],
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
]
