-- What every database of a flexible server has before anyone creates an extension.
CREATE SCHEMA azure;
GRANT USAGE ON SCHEMA azure TO PUBLIC;

-- Reads the emulator's own file, because anyone could SET the parameter azure.extensions that SHOW returns.
CREATE FUNCTION azure.is_allow_listed(extension text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  state jsonb := pg_read_file('azure_ai/allow-list.json')::jsonb;
  now_ms double precision := extract(epoch FROM clock_timestamp()) * 1000;
BEGIN
  IF now_ms >= (state ->> 'from')::double precision THEN
    RETURN state -> 'list' ? lower(extension);
  END IF;
  RETURN state -> 'before' ? lower(extension);
END $$;

CREATE FUNCTION azure.check_extension_user() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT pg_has_role(current_user, 'azure_pg_admin', 'member') THEN
    RAISE EXCEPTION 'Only members of "azure_pg_admin" are allowed to use %', tg_tag USING ERRCODE = 'insufficient_privilege';
  END IF;
END $$;

-- Names of extensions are known at the end of the command only; the error undoes it.
CREATE FUNCTION azure.check_allow_list() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  extension name;
BEGIN
  IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
    RETURN;
  END IF;
  FOR extension IN
    SELECT e.extname FROM pg_event_trigger_ddl_commands() c JOIN pg_extension e ON e.oid = c.objid
    WHERE c.classid = 'pg_extension'::regclass
  LOOP
    IF NOT azure.is_allow_listed(extension) THEN
      RAISE EXCEPTION 'extension "%" is not allow-listed for users in Azure Database for PostgreSQL', extension
        USING ERRCODE = 'feature_not_supported',
              HINT = 'to learn how to allow an extension or see the list of allowed extensions, please refer to https://go.microsoft.com/fwlink/?linkid=2301063';
    END IF;
  END LOOP;
END $$;

CREATE EVENT TRIGGER azure_check_extension_user ON ddl_command_start
  WHEN tag IN ('CREATE EXTENSION', 'ALTER EXTENSION', 'DROP EXTENSION') EXECUTE FUNCTION azure.check_extension_user();
CREATE EVENT TRIGGER azure_check_allow_list ON ddl_command_end
  WHEN tag IN ('CREATE EXTENSION', 'ALTER EXTENSION') EXECUTE FUNCTION azure.check_allow_list();

-- Roles for Entra principals, as a flexible server makes them: in the database postgres only. What is a security label there is a comment here.
DO $outer$
BEGIN
  IF current_database() <> 'postgres' THEN
    RETURN;
  END IF;
  CREATE FUNCTION public.pgaadauth_create_principal_with_oid(
    "roleName" text, "objectId" text, "objectType" text, "isAdmin" boolean, "isMfa" boolean
  ) RETURNS text
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  BEGIN
    IF NOT pg_has_role(session_user, 'azure_pg_admin', 'member') AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) THEN
      RAISE EXCEPTION 'permission denied for function pgaadauth_create_principal_with_oid' USING ERRCODE = 'insufficient_privilege';
    END IF;
    EXECUTE format('CREATE ROLE %I LOGIN', $1);
    EXECUTE format('COMMENT ON ROLE %I IS %L', $1, format('aadauth,oid=%s,type=%s', $2, $3));
    IF $4 THEN
      EXECUTE format('GRANT azure_pg_admin TO %I', $1);
    END IF;
    RETURN format('Created role for %I', $1);
  END $$;
END $outer$;
