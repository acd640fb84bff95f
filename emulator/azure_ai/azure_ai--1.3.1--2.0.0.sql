-- The version of PostgreSQL 18, with signatures of its own: whoever calls by position or assumes an argument is found out here.
CREATE OR REPLACE FUNCTION azure_ai_emulator.setting_keys() RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
  SELECT ARRAY['azure_openai.auth_type', 'azure_openai.endpoint', 'azure_openai.subscription_key',
    'azure_cognitive.auth_type', 'azure_cognitive.endpoint', 'azure_cognitive.subscription_key', 'azure_cognitive.region',
    'azure_cognitive.translator_resource_id', 'azure_ml.auth_type', 'azure_ml.scoring_endpoint', 'azure_ml.endpoint_key',
    'azure_ml.serverless_ranking_endpoint', 'azure_ml.serverless_ranking_endpoint_key']
$$;

DROP FUNCTION azure_openai.create_embeddings(text, text, integer, boolean, integer, integer);
DROP FUNCTION azure_openai.create_embeddings(text, text[], integer, integer, boolean, integer, integer);
DROP FUNCTION azure_cognitive.analyze_sentiment(text, text, boolean, integer, boolean, integer, integer);
DROP FUNCTION azure_cognitive.detect_language(text, boolean, integer, boolean, integer, integer);
DROP FUNCTION azure_ml.invoke(jsonb, integer, boolean, text);

CREATE FUNCTION azure_openai.create_embeddings(
  deployment_name text, input text, dimensions integer DEFAULT NULL,
  timeout_ms integer DEFAULT 3600000, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS real[] LANGUAGE sql IMMUTABLE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('function'); SELECT azure_ai_emulator.embeddings($1, ARRAY[$2], $3, 1, $4, $5, $6, $7) $$;

CREATE FUNCTION azure_openai.create_embeddings(
  deployment_name text, input text[], dimensions integer DEFAULT NULL, batch_size integer DEFAULT 100,
  timeout_ms integer DEFAULT 3600000, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS TABLE (embedding real[]) LANGUAGE sql IMMUTABLE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('function'); SELECT azure_ai_emulator.embeddings($1, $2, $3, $4, $5, $6, $7, $8) $$;

CREATE FUNCTION azure_cognitive.analyze_sentiment(
  text text, language text DEFAULT NULL, model_version text DEFAULT 'latest', disable_service_logs boolean DEFAULT false,
  timeout_ms integer DEFAULT NULL, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS azure_cognitive.sentiment_analysis_result LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('type'); SELECT azure_ai_emulator.sentiments(ARRAY[$1], ARRAY[$2], $4, $3, 1, $5, $6, $7, $8) $$;

CREATE FUNCTION azure_ml.invoke(
  input_data jsonb, deployment_name text DEFAULT NULL,
  timeout_ms integer DEFAULT NULL, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS jsonb LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('function'); SELECT azure_ai_emulator.score($1, $2, $3, $4, $5, $6) $$;

CREATE FUNCTION azure_cognitive.detect_language(
  text text, model_version text DEFAULT 'latest', disable_service_logs boolean DEFAULT false,
  timeout_ms integer DEFAULT NULL, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS azure_cognitive.language_detection_result LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('type'); SELECT azure_ai_emulator.language($1, $3, $2, $4, $5, $6, $7) $$;

SELECT azure_ai_emulator.apply_defaults();
