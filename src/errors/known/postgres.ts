/** Errors of PostgreSQL and of the connection to it. */
import { notUnicast } from '../../lib/ipv4.ts'
import { ofServer, serverItself, unlessSet } from '../az.ts'
import type { Circumstances, Known } from '../message.ts'
import { identifier } from '../sql.ts'

const asUser: Known['cause'] = ({ text }, at) => `User "${at.user}" at ${at.host}: ${text}`
const inDatabase: Known['cause'] = ({ text }, at) => `Database "${at.database}": ${text}`
const whileDoing: Known['cause'] = ({ text }, at) => `Database "${at.database}", ${at.doing}: ${text}`
const atAddress: Known['cause'] = ({ text }, at) => `${at.host}:${at.port}: ${text}${aboutProxy(at)}`

const aboutProxy = ({ behindProxy }: Circumstances): string =>
  behindProxy === true ? '. PostgreSQL does not go through the proxy of this job: it needs a direct way' : ''

export const postgres: readonly Known[] = [
  {
    text: /no pg_hba\.conf entry/i,
    reason: 'network',
    code: 'firewall',
    title: "The server's firewall blocks this runner",
    cause: ({ text }, at) => `${at.host}:${at.port} answered: ${text}`,
    fix: ({ text }, at) => {
      const seen = addressIn(text) ?? ''
      // A rule for an address such as 0.0.0.0 would open the server to others.
      const address = notUnicast(seen) === undefined ? seen : 'RUNNER-IP'
      return `az postgres flexible-server firewall-rule create ${ofServer(at)} --name runner --start-ip-address ${address} --end-ip-address ${address}   # az 2.86 or newer${unlessSet(at, 'temporary-firewall-rule', '; or set `temporary-firewall-rule: true`')}`
    },
  },
  {
    text: /token.{0,200}expired|expired.{0,200}token/i,
    reason: 'credentials',
    code: 'database-token-expired',
    title: 'The token for the database had expired',
    cause: asUser,
    fix: 'Run this job again; on a self-hosted runner check its clock (timedatectl).',
  },
  {
    codes: ['28000', '28P01'],
    text: /oid mismatch|AAD_AUTH_TOKENTYPE|could not validate AAD user/i,
    reason: 'credentials',
    code: 'principal-mismatch',
    title: 'The role was made for another principal, or for another type of principal',
    cause: asUser,
    fix: (_, at) =>
      `Remove the administrator and add it again with its object id of today and its type (User, Group or ServicePrincipal): az postgres flexible-server microsoft-entra-admin delete ${ofServer(at)} --object-id OLD-OBJECT-ID; az postgres flexible-server microsoft-entra-admin create ${ofServer(at)} --object-id OBJECT-ID --display-name NAME --type ServicePrincipal`,
  },
  {
    codes: ['28000', '28P01'],
    text: /role ".{0,200}" does not exist|not found in the tenant|principal.{0,200}not (found|registered)/i,
    reason: 'credentials',
    code: 'role-not-found',
    title: 'The database does not have this role',
    cause: asUser,
    fix: (_, at) =>
      `az postgres flexible-server microsoft-entra-admin list ${ofServer(at)} --output table   # \`database-user\` is a name of this list, case included; or SELECT * FROM pgaadauth_create_principal('NAME', false, false);`,
  },
  {
    codes: ['28P01', '28000'],
    reason: 'credentials',
    code: 'login-refused',
    title: 'The database refused the login',
    cause: asUser,
    fix: (_, at) =>
      `The user is the name of the Entra administrator exactly as registered on the server, case included (a group's name when a group is registered): az postgres flexible-server microsoft-entra-admin list ${ofServer(at)} --output table   # then set \`database-user\` to it`,
  },
  {
    codes: ['3D000'],
    reason: 'input',
    code: 'database-not-found',
    title: 'A database does not exist',
    fix: (_, at) => `az postgres flexible-server db list ${ofServer(at)} --output table   # then correct \`databases\``,
  },
  {
    codes: ['53300'],
    text: /too many connections for (?:database|role)/i,
    code: 'connection-limit',
    title: 'The CONNECTION LIMIT of a database or a role is reached',
    fix: (_, at) =>
      `SELECT datname, datconnlimit FROM pg_database WHERE datconnlimit >= 0; SELECT rolname, rolconnlimit FROM pg_roles WHERE rolconnlimit >= 0;   -- then raise it: ALTER DATABASE ${identifier(at.database ?? 'DATABASE')} CONNECTION LIMIT -1;`,
  },
  {
    codes: ['2BP01'],
    code: 'extension-has-dependants',
    title: 'Other objects depend on azure_ai',
    cause: whileDoing,
    fix: "SELECT pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_depend AS d JOIN pg_depend AS e ON e.classid = d.refclassid AND e.objid = d.refobjid WHERE d.deptype = 'n' AND e.deptype = 'e' AND e.refclassid = 'pg_extension'::regclass AND e.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'azure_ai');   -- change or remove these first; CASCADE would drop them",
  },
  {
    codes: ['55000'],
    text: /not currently accepting connections/i,
    code: 'database-closed',
    title: 'The database takes no connections',
    fix: (_, at) =>
      `ALTER DATABASE ${identifier(at.database ?? 'DATABASE')} ALLOW_CONNECTIONS true;   -- in another database; or leave it out of \`databases\``,
  },
  {
    codes: ['53300'],
    code: 'too-many-connections',
    title: 'The server has no connection left',
    fix: 'SELECT usename, state, count(*) FROM pg_stat_activity GROUP BY 1, 2 ORDER BY 3 DESC;   -- close idle ones or raise max_connections',
  },
  {
    codes: ['57P03'],
    code: 'starting-up',
    title: 'The server is starting up or shutting down',
    fix: 'Run this job again in a minute.',
  },
  {
    text: /unsupported startup parameter/i,
    reason: 'network',
    code: 'pooler-refuses-parameter',
    title: 'The connection pooler refuses a startup parameter',
    fix: 'Connect to port 5432 of the server rather than to the pooler: database-port: 5432',
  },
  {
    text: /is not allow-listed/i,
    code: 'not-allow-listed',
    title: 'azure_ai is not on the allow-list',
    cause: inDatabase,
    fix: (_, at) =>
      `az postgres flexible-server parameter show ${ofServer(at)} --name azure.extensions   # add azure_ai to the value: run with part: azure, or az postgres flexible-server parameter set`,
  },
  {
    codes: ['42501'],
    reason: 'permission',
    code: 'database-permission',
    title: 'A permission is missing in the database',
    cause: ({ text }, at) => `User "${at.user}" in "${at.database}", ${at.doing}: ${text}`,
    fix: (_, at) =>
      `GRANT azure_pg_admin TO ${identifier(at.user ?? 'USER')};   -- or, when the extension is there already, azure_ai_settings_manager is enough`,
  },
  {
    text: /is not a valid configuration key/i,
    code: 'extension-too-old',
    title: 'The installed azure_ai is too old for a managed identity',
    cause: inDatabase,
    fix: (_, at) =>
      `ALTER EXTENSION azure_ai UPDATE;${unlessSet(at, 'update-extension', '   -- or set `update-extension: true`')}`,
  },
  {
    codes: ['42P06', '42723', '42710', '42P07'],
    code: 'foreign-functions',
    title: 'Something in the database has a name that azure_ai needs',
    cause: whileDoing,
    fix: 'ALTER SCHEMA azure_ai RENAME TO azure_ai_before;   -- the schema that the message names, after a look at what it contains: \\dn+ azure_*; then run again',
  },
  {
    codes: ['55P03', '40P01', '40001'],
    code: 'lock',
    title: 'Another session has a lock on the settings',
    cause: inDatabase,
    fix: "SELECT a.pid, a.usename, a.application_name, clock_timestamp() - a.xact_start AS age, a.query FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) WHERE l.granted AND (l.locktype = 'advisory' OR l.relation = to_regclass('azure_ai.settings'));   -- wait for it, or end it: SELECT pg_terminate_backend(PID);",
  },
  {
    codes: ['ENOTFOUND', 'EAI_AGAIN'],
    reason: 'network',
    code: 'dns',
    title: "The database server's name cannot be resolved",
    cause: ({ text }, at) => `${at.host}: ${text}${aboutProxy(at)}`,
    fix: (_, at) =>
      `nslookup ${at.host}   # a server with private access resolves only inside its virtual network: use a runner there${unlessSet(at, 'database-host', ', or set `database-host`')}`,
  },
  {
    codes: ['ECONNREFUSED'],
    reason: 'network',
    code: 'connection-refused',
    title: 'Nothing listens at the database address',
    cause: atAddress,
    fix: 'Check that the server is started, and `database-host` and `database-port` where they are set.',
  },
  {
    codes: ['ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH'],
    reason: 'network',
    code: 'connection-timeout',
    title: 'The database server does not answer',
    cause: atAddress,
    fix: (_, at) =>
      `az postgres flexible-server show ${serverItself(at)} --query network   # public access: add a firewall rule for this runner; private access: use a runner inside the virtual network`,
  },
  {
    codes: ['LOGIN_TIMEOUT'],
    code: 'login-timeout',
    title: 'The server answers, and does not finish the login',
    cause: (_, at) => `Database "${at.database}" at ${at.host}:${at.port}: no login within the time limit of a connection.`,
    fix: "SELECT a.pid, a.usename, a.state, a.query FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND l.granted;   -- in another database: sessions that rename, copy or drop one",
  },
  {
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
        ? `The certificate has to be valid for the server's own name or for ${at.host}: set another \`database-host\`, or let the tunnel's listener use a certificate for one of them. Verification cannot be turned off.`
        : 'A proxy or tunnel that re-signs TLS: set NODE_EXTRA_CA_CERTS on the job to the PEM file of its root. Verification cannot be turned off.',
  },
  {
    codes: ['ECONNRESET', '57P01', '57P02', '57P05', '08006', '08003', '08001', 'EPIPE', 'CONNECTION_LOST'],
    reason: 'network',
    code: 'connection-lost',
    title: 'The connection to the database was lost',
    cause: ({ text }, at) => `${at.host}:${at.port}, ${at.doing}: ${text}`,
    fix: 'Run this job again; it goes on where it stopped.',
  },
  {
    codes: ['MESSAGE_TOO_LARGE'],
    code: 'message-too-large',
    title: 'The database server sends too much',
    cause: ({ text }, at) => `${at.host}:${at.port}, ${at.doing}: ${text}; the connection was cut`,
    fix: 'Check that `database-host` and `database-port` lead to the server itself. Otherwise a function in the database or a service answers with it; the report shows the test queries.',
  },
  {
    codes: ['57014', 'QUERY_TIMEOUT'],
    code: 'statement-timeout',
    title: 'A statement took too long',
    cause: whileDoing,
    fix: 'Run this job again; when it comes back, look at pg_stat_activity while it runs.',
  },
]

/** The address at which the server sees the runner, as the refusal of its firewall names it. */
export function addressIn(text: string): string | undefined {
  return /no pg_hba\.conf entry for host "([^"]+)"/i.exec(text)?.[1]
}
