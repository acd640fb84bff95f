-- wrapper, in each database that has azure_ai
BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
CREATE SCHEMA azure_ai_identity;
CREATE FUNCTION azure_ai_identity.settings()
RETURNS TABLE (key pg_catalog.text, value pg_catalog.text, is_set pg_catalog.bool)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found pg_catalog.text;
BEGIN
  FOREACH key IN ARRAY ARRAY[
    'azure_openai.auth_type', 'azure_openai.endpoint', 'azure_openai.subscription_key',
    'azure_cognitive.auth_type', 'azure_cognitive.endpoint', 'azure_cognitive.subscription_key',
    'azure_cognitive.region', 'azure_cognitive.translator_resource_id',
    'azure_ml.auth_type', 'azure_ml.scoring_endpoint', 'azure_ml.endpoint_key',
    'azure_ml.serverless_ranking_endpoint', 'azure_ml.serverless_ranking_endpoint_key'
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
    is_set := coalesce(found OPERATOR(pg_catalog.<>) '', false);
    value := CASE WHEN pg_catalog.right(key, 4) OPERATOR(pg_catalog.=) '_key' THEN NULL ELSE found END;
    RETURN NEXT;
  END LOOP;
END $$;
REVOKE ALL ON FUNCTION azure_ai_identity.settings() FROM PUBLIC;
COMMIT;

-- checker, in each database that has azure_ai
GRANT USAGE ON SCHEMA azure_ai_identity TO "gha-check";
GRANT EXECUTE ON FUNCTION azure_ai_identity.settings() TO "gha-check";
