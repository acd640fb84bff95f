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
) RETURNS real[] LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.embeddings($1, ARRAY[$2], NULL, 1, $3, $4, $5, $6) $$;

CREATE FUNCTION azure_openai.create_embeddings(
  deployment_name text, input text[], batch_size integer DEFAULT 100,
  timeout_ms integer DEFAULT 3600000, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS TABLE (embedding real[]) LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.embeddings($1, $2, NULL, $3, $4, $5, $6, $7) $$;

CREATE FUNCTION azure_cognitive.analyze_sentiment(
  text text, language text DEFAULT NULL, disable_service_logs boolean DEFAULT false,
  timeout_ms integer DEFAULT NULL, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS azure_cognitive.sentiment_analysis_result LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.sentiments(ARRAY[$1], ARRAY[$2], $3, NULL, 1, $4, $5, $6, $7) $$;

CREATE FUNCTION azure_cognitive.analyze_sentiment(
  text text[], language text DEFAULT NULL, batch_size integer DEFAULT 10, disable_service_logs boolean DEFAULT false,
  timeout_ms integer DEFAULT NULL, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS SETOF azure_cognitive.sentiment_analysis_result LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.sentiments($1, ARRAY[$2], $4, NULL, $3, $5, $6, $7, $8) $$;

CREATE FUNCTION azure_cognitive.analyze_sentiment(
  text text[], language text[], batch_size integer DEFAULT 10, disable_service_logs boolean DEFAULT false,
  timeout_ms integer DEFAULT NULL, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS SETOF azure_cognitive.sentiment_analysis_result LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.sentiments($1, $2, $4, NULL, $3, $5, $6, $7, $8) $$;

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
  $$ SELECT azure_ai_emulator.translations(ARRAY[$1], ARRAY[$2], azure_ai_emulator.translation_options($3, $4, $5, $6, $7), $8, $9, $10, $11) $$;

CREATE FUNCTION azure_cognitive.translate(
  text text, target_language text[], source_language text DEFAULT NULL, text_type text DEFAULT 'plain',
  profanity_action text DEFAULT 'NoAction', profanity_marker text DEFAULT 'Asterisk', suggested_source_language text DEFAULT NULL,
  timeout_ms integer DEFAULT NULL, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS azure_cognitive.translated_text_result LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.translations(ARRAY[$1], $2, azure_ai_emulator.translation_options($3, $4, $5, $6, $7), $8, $9, $10, $11) $$;

CREATE FUNCTION azure_cognitive.translate(
  text text[], target_language text, source_language text DEFAULT NULL, text_type text DEFAULT 'plain',
  profanity_action text DEFAULT 'NoAction', profanity_marker text DEFAULT 'Asterisk', suggested_source_language text DEFAULT NULL,
  timeout_ms integer DEFAULT NULL, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS SETOF azure_cognitive.translated_text_result LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.translations($1, ARRAY[$2], azure_ai_emulator.translation_options($3, $4, $5, $6, $7), $8, $9, $10, $11) $$;

CREATE FUNCTION azure_cognitive.translate(
  text text[], target_language text[], source_language text DEFAULT NULL, text_type text DEFAULT 'plain',
  profanity_action text DEFAULT 'NoAction', profanity_marker text DEFAULT 'Asterisk', suggested_source_language text DEFAULT NULL,
  timeout_ms integer DEFAULT NULL, throw_on_error boolean DEFAULT true, max_attempts integer DEFAULT 1, retry_delay_ms integer DEFAULT 1000
) RETURNS SETOF azure_cognitive.translated_text_result LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.translations($1, $2, azure_ai_emulator.translation_options($3, $4, $5, $6, $7), $8, $9, $10, $11) $$;
