-- wrapper, in each database that has azure_ai
CREATE SCHEMA IF NOT EXISTS azure_ai_identity;
CREATE OR REPLACE FUNCTION azure_ai_identity.settings()
RETURNS TABLE (key text, value text, is_set boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found text;
BEGIN
  FOREACH key IN ARRAY ARRAY[
    'azure_openai.auth_type', 'azure_openai.endpoint', 'azure_openai.subscription_key',
    'azure_cognitive.auth_type', 'azure_cognitive.endpoint', 'azure_cognitive.subscription_key',
    'azure_cognitive.region', 'azure_cognitive.translator_resource_id',
    'azure_ml.auth_type', 'azure_ml.scoring_endpoint', 'azure_ml.endpoint_key',
    'azure_ml.serverless_ranking_endpoint'
  ] LOOP
    BEGIN
      found := azure_ai.get_setting(key);
    EXCEPTION WHEN OTHERS THEN
      -- This version has no such setting: it is left out.
      IF SQLERRM NOT LIKE '%is not a valid configuration key%' THEN
        RAISE;
      END IF;
      CONTINUE;
    END;
    is_set := coalesce(found, '') <> '';
    value := CASE WHEN key LIKE '%\_key' THEN NULL ELSE found END;
    RETURN NEXT;
  END LOOP;
END $$;
REVOKE ALL ON FUNCTION azure_ai_identity.settings() FROM PUBLIC;

-- checker, in each database that has azure_ai
GRANT USAGE ON SCHEMA azure_ai_identity TO "gha-check";
GRANT EXECUTE ON FUNCTION azure_ai_identity.settings() TO "gha-check";
