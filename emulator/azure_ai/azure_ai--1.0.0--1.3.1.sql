-- Managed identities, attempts, and the overloads.
CREATE OR REPLACE FUNCTION azure_ai_emulator.setting_keys() RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
  SELECT ARRAY['azure_openai.auth_type', 'azure_openai.endpoint', 'azure_openai.subscription_key',
    'azure_cognitive.auth_type', 'azure_cognitive.endpoint', 'azure_cognitive.subscription_key', 'azure_cognitive.region',
    'azure_cognitive.translator_resource_id', 'azure_ml.auth_type', 'azure_ml.scoring_endpoint', 'azure_ml.endpoint_key']
$$;

DROP FUNCTION azure_openai.create_embeddings(text, text, integer, boolean);
DROP FUNCTION azure_openai.create_embeddings(text, text[], integer, integer, boolean);
DROP FUNCTION azure_cognitive.analyze_sentiment(text, text, integer, boolean, boolean);
DROP FUNCTION azure_cognitive.translate(text, text, text, integer, boolean);

CREATE FUNCTION azure_openai.create_embeddings(
  deployment_name text, input text,
  timeout_ms integer DEFAULT 3600000, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS real[] LANGUAGE sql IMMUTABLE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('function'); SELECT azure_ai_emulator.embeddings($1, ARRAY[$2], NULL, 1, $3, $4, $5, $6) $$;

CREATE FUNCTION azure_openai.create_embeddings(
  deployment_name text, input text[], batch_size integer DEFAULT 100,
  timeout_ms integer DEFAULT 3600000, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS TABLE (embedding real[]) LANGUAGE sql IMMUTABLE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('function'); SELECT azure_ai_emulator.embeddings($1, $2, NULL, $3, $4, $5, $6, $7) $$;

CREATE FUNCTION azure_cognitive.analyze_sentiment(
  text text, language text DEFAULT NULL, disable_service_logs boolean DEFAULT false,
  timeout_ms integer DEFAULT NULL, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS azure_cognitive.sentiment_analysis_result LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('type'); SELECT azure_ai_emulator.sentiments(ARRAY[$1], ARRAY[$2], $3, NULL, 1, $4, $5, $6, $7) $$;

CREATE FUNCTION azure_cognitive.analyze_sentiment(
  text text[], language text DEFAULT NULL, batch_size integer DEFAULT 10, disable_service_logs boolean DEFAULT false,
  timeout_ms integer DEFAULT NULL, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS SETOF azure_cognitive.sentiment_analysis_result LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('type'); SELECT azure_ai_emulator.sentiments($1, ARRAY[$2], $4, NULL, $3, $5, $6, $7, $8) $$;

CREATE FUNCTION azure_cognitive.analyze_sentiment(
  text text[], language text[], batch_size integer DEFAULT 10, disable_service_logs boolean DEFAULT false,
  timeout_ms integer DEFAULT NULL, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS SETOF azure_cognitive.sentiment_analysis_result LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('type'); SELECT azure_ai_emulator.sentiments($1, $2, $4, NULL, $3, $5, $6, $7, $8) $$;

CREATE FUNCTION azure_ai_emulator.translation_options(
  source_language text, text_type text, profanity_action text, profanity_marker text, suggested_source_language text
) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
  SELECT pg_catalog.jsonb_build_object('from', $1, 'textType', $2, 'profanityAction', $3, 'profanityMarker', $4, 'suggestedFrom', $5)
$$;

CREATE FUNCTION azure_cognitive.translate(
  text text, target_language text, source_language text DEFAULT NULL, text_type text DEFAULT 'plain',
  profanity_action text DEFAULT 'NoAction', profanity_marker text DEFAULT 'Asterisk', suggested_source_language text DEFAULT NULL,
  timeout_ms integer DEFAULT NULL, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS azure_cognitive.translated_text_result LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('type'); SELECT azure_ai_emulator.translations(ARRAY[$1], ARRAY[$2], azure_ai_emulator.translation_options($3, $4, $5, $6, $7), $8, $9, $10, $11) $$;

CREATE FUNCTION azure_cognitive.translate(
  text text, target_language text[], source_language text DEFAULT NULL, text_type text DEFAULT 'plain',
  profanity_action text DEFAULT 'NoAction', profanity_marker text DEFAULT 'Asterisk', suggested_source_language text DEFAULT NULL,
  timeout_ms integer DEFAULT NULL, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS azure_cognitive.translated_text_result LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('type'); SELECT azure_ai_emulator.translations(ARRAY[$1], $2, azure_ai_emulator.translation_options($3, $4, $5, $6, $7), $8, $9, $10, $11) $$;

CREATE FUNCTION azure_cognitive.translate(
  text text[], target_language text, source_language text DEFAULT NULL, text_type text DEFAULT 'plain',
  profanity_action text DEFAULT 'NoAction', profanity_marker text DEFAULT 'Asterisk', suggested_source_language text DEFAULT NULL,
  timeout_ms integer DEFAULT NULL, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS SETOF azure_cognitive.translated_text_result LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('type'); SELECT azure_ai_emulator.translations($1, ARRAY[$2], azure_ai_emulator.translation_options($3, $4, $5, $6, $7), $8, $9, $10, $11) $$;

CREATE FUNCTION azure_cognitive.translate(
  text text[], target_language text[], source_language text DEFAULT NULL, text_type text DEFAULT 'plain',
  profanity_action text DEFAULT 'NoAction', profanity_marker text DEFAULT 'Asterisk', suggested_source_language text DEFAULT NULL,
  timeout_ms integer DEFAULT NULL, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS SETOF azure_cognitive.translated_text_result LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('type'); SELECT azure_ai_emulator.translations($1, $2, azure_ai_emulator.translation_options($3, $4, $5, $6, $7), $8, $9, $10, $11) $$;

CREATE TYPE azure_cognitive.language_detection_result AS (name text, iso6391_name text, confidence_score double precision);

CREATE FUNCTION azure_ai_emulator.language(
  text text, disable_service_logs boolean, model_version text, timeout_ms integer, throw_on_error boolean, max_attempts integer, retry_delay_ms integer
) RETURNS azure_cognitive.language_detection_result
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  answer jsonb;
BEGIN
  answer := azure_ai_emulator.request('azure_cognitive.detect_language', 'Azure AI Language', ARRAY['language', ':analyze-text'],
    '[["api-version", "2023-04-01"]]', '{}', jsonb_build_object('kind', 'LanguageDetection',
      'parameters', jsonb_strip_nulls(jsonb_build_object('loggingOptOut', disable_service_logs, 'modelVersion', model_version)),
      'analysisInput', jsonb_build_object('documents', jsonb_build_array(jsonb_build_object('id', '1', 'text', $1)))),
    timeout_ms, throw_on_error, max_attempts, retry_delay_ms) #> '{results,documents,0,detectedLanguage}';
  IF answer IS NULL THEN
    RETURN NULL;
  END IF;
  RETURN (answer ->> 'name', answer ->> 'iso6391Name', (answer ->> 'confidenceScore')::double precision);
END $$;

CREATE FUNCTION azure_cognitive.detect_language(
  text text, disable_service_logs boolean DEFAULT false,
  timeout_ms integer DEFAULT NULL, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS azure_cognitive.language_detection_result LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('type'); SELECT azure_ai_emulator.language($1, $2, NULL, $3, $4, $5, $6) $$;

SELECT azure_ai_emulator.apply_defaults();
