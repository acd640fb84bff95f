/**
 * What a database shows of itself, of azure_ai and of the rights of the connecting role, as SQL. The owner of a database may
 * make schemas and functions of any name: only what is a member of the extension counts as azure_ai's.
 */
import { services } from '../core/services.ts'
import { quoteLiteral } from './transaction.ts'

/** Schemas that azure_ai makes, as its documentation has them. */
const schemas = ['azure_ai', 'azure_openai', 'azure_cognitive', 'azure_ml']
/** Functions that this action calls. */
const called = [
  'get_setting',
  'set_setting',
  ...services.flatMap(({ queries }) =>
    queries.flatMap(({ test, fallback }) => [test.function, ...(fallback === undefined ? [] : [fallback.function])]),
  ),
]

const list = (texts: readonly string[]): string => texts.map(quoteLiteral).join(', ')

/** Whether a role is a superuser or a member of azure_pg_admin: it may do all of this anyway. */
const isAdministrator = (role: string): string =>
  `EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = 'azure_pg_admin' AND ${role} <> 0 AND pg_has_role(${role}, r.oid, 'member'))`

/** Whether administrators alone can put anything into a schema. */
const isGuarded = (schema: string): string => `(${isAdministrator(`${schema}.nspowner`)} AND NOT EXISTS (
    SELECT FROM aclexplode(${schema}.nspacl) AS g WHERE g.privilege_type = 'CREATE' AND NOT ${isAdministrator('g.grantee')}
      -- What the extension's own script granted is part of it, unlike what was granted later.
      AND NOT EXISTS (SELECT FROM pg_init_privs AS i, aclexplode(i.initprivs) AS e
        WHERE i.classoid = 'pg_namespace'::regclass AND i.objoid = ${schema}.oid AND i.privtype = 'e'
          AND e.grantor = g.grantor AND e.grantee = g.grantee AND e.privilege_type = 'CREATE')))`

const isMember = (catalog: 'pg_proc' | 'pg_namespace', object: string): string => `EXISTS (
    SELECT FROM pg_depend AS d JOIN pg_extension AS x ON x.oid = d.refobjid
    WHERE d.classid = '${catalog}'::regclass AND d.objid = ${object} AND d.objsubid = 0
      AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND x.extname = 'azure_ai')`

/** Whether a function is azure_ai's own, and administrators alone can have replaced it. */
const isOwn = `(${isMember('pg_proc', 'p.oid')} AND ${isAdministrator('p.proowner')})`

/** Type oids are PostgreSQL's own and never change; 25 is text. */
const mayCall = (
  name: string,
  types: string,
): string => `coalesce((SELECT has_schema_privilege(n.oid, 'usage') AND has_function_privilege(p.oid, 'execute')
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = 'azure_ai' AND p.proname = '${name}' AND p.proargtypes = '${types}'::oidvector AND p.prokind = 'f' AND ${isOwn}), false)`

/** Server parameters that decide whether statements and their parameters are written somewhere. */
const loggingParameters = [
  'log_statement',
  'log_min_duration_statement',
  'log_parameter_max_length',
  'pgaudit.log',
  'pgaudit.log_parameter',
  'auto_explain.log_parameter_max_length',
  'pg_qs.parameters_capture_mode',
]

/**
 * The function of an administrator that shows a checker the settings, and of keys only whether they are set; SECURITY DEFINER,
 * so that the checker needs no right to read keys. docs/permissions.md has its SQL.
 */
export const wrapper = 'azure_ai_identity.settings()'

/** Anybody may make a function of this name: it counts when administrators alone can have made it, to run with their rights. */
const mayCallWrapper = `coalesce((SELECT has_schema_privilege(n.oid, 'usage') AND has_function_privilege(p.oid, 'execute')
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = 'azure_ai_identity' AND p.proname = 'settings' AND p.proargtypes = ''::oidvector AND p.prokind = 'f' AND p.prosecdef
      AND p.proallargtypes = '{25,25,16}'::oid[] AND p.proargmodes = '{t,t,t}'::"char"[] AND p.proargnames = '{key,value,is_set}'::text[]
      AND ${isAdministrator('p.proowner')} AND ${isGuarded('n')}), false)`

export const factsSql = `SELECT current_setting('server_version_num')::int / 10000 AS version,
  pg_is_in_recovery() AS read_only,
  (SELECT left(extversion, 100) FROM pg_extension WHERE extname = 'azure_ai') AS installed,
  (SELECT left(default_version, 100) FROM pg_available_extensions WHERE name = 'azure_ai') AS available,
  -- The version to be created names its schema, or leaves it to whoever creates it.
  EXISTS (SELECT FROM pg_available_extensions AS a JOIN pg_available_extension_versions AS v ON v.name = a.name AND v.version = a.default_version
    WHERE a.name = 'azure_ai' AND v.schema IS NULL) AS needs_schema,
  to_regnamespace('public') IS NOT NULL AS has_public,
  EXISTS (SELECT FROM pg_roles WHERE rolname = 'azure_pg_admin' AND pg_has_role(current_user, oid, 'member')) AS admin,
  EXISTS (SELECT FROM pg_roles WHERE rolname = 'azure_ai_settings_manager' AND pg_has_role(current_user, oid, 'member')) AS manager,
  ${mayCall('get_setting', '25')} AS may_read,
  ${mayCall('set_setting', '25 25')} AS may_write,
  ${mayCallWrapper} AS may_ask,
  (SELECT json_object_agg(name, left(setting, 1000)) FROM pg_settings WHERE name IN (${list(loggingParameters)})) AS logging,
  current_setting('max_connections')::int AS connections,
  -- The second is known from version 16 on.
  current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,
  -- A number: how a time is written is a setting of the database.
  (extract(epoch FROM pg_postmaster_start_time()) * 1000)::bigint AS started_at,
  -- What a database or a role sets for its sessions is not what the server says.
  CASE WHEN NOT EXISTS (SELECT FROM pg_db_role_setting AS s, unnest(s.setconfig) AS c
      WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
        AND lower(split_part(c, '=', 1)) = 'azure.service_principal_id')
    THEN left(current_setting('azure.service_principal_id', true), 200) END AS running_identity`

export const functionsSql = `SELECT n.nspname AS schema, p.proname AS name,
  coalesce(p.proargnames, '{}') AS names, coalesce(p.proargmodes::text[], '{}') AS modes, p.pronargs AS count, p.pronargdefaults AS defaults,
  ARRAY(SELECT t::int8::text FROM unnest(p.proargtypes) WITH ORDINALITY AS a(t, i) ORDER BY i) AS types
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname IN (${list(schemas)}) AND p.prokind = 'f' AND p.provariadic = 0 AND ${isOwn}`

/** Schemas to look names up in for azure_ai's functions: its own, where administrators alone can put anything. */
export const schemasSql = `SELECT n.nspname AS name FROM pg_namespace AS n
WHERE n.nspname <> 'public' AND ${isMember('pg_namespace', 'n.oid')} AND ${isGuarded('n')} ORDER BY n.nspname`

/**
 * What other roles put where azure_ai has, or will have, its functions: a call could reach it instead of them. Where azure_ai
 * is not installed, whatever is in these schemas counts: CREATE EXTENSION would take it over or trip over it. A
 * trigger on the settings, or a rule, policy or default that their owner may make, runs with the rights of azure_ai's functions,
 * and sees keys.
 */
export const foreignSql = `SELECT 'SCHEMA' AS kind, quote_ident(n.nspname) AS name FROM pg_namespace AS n
WHERE n.nspname IN (${list(schemas)}) AND NOT ${isGuarded('n')}
UNION ALL
SELECT 'FUNCTION', left(p.oid::regprocedure::text, 500) FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname IN (${list(schemas)}) AND p.proname IN (${list(called)}) AND NOT ${isOwn}
UNION ALL
SELECT 'TABLE', c.oid::regclass::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname IN (${list(schemas)}) AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT ${isAdministrator('c.relowner')}
UNION ALL
SELECT 'TRIGGER', quote_ident(t.tgname) || ' ON ' || t.tgrelid::regclass::text
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE n.nspname IN (${list(schemas)}) AND NOT t.tgisinternal AND NOT ${isAdministrator('p.proowner')}
ORDER BY 1, 2 LIMIT 5`
