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

-- The semantic functions. Their signatures are those of the documentation, which marks them as a preview.
CREATE FUNCTION azure_ai_emulator.chat(called text, prompt text, schema jsonb, model text, system_prompt text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  messages jsonb := jsonb_build_array(jsonb_build_object('role', 'user', 'content', prompt));
  format jsonb := jsonb_build_object('type', 'json_schema', 'json_schema', jsonb_build_object('name', 'answer', 'schema', schema));
BEGIN
  IF system_prompt IS NOT NULL THEN
    messages := jsonb_build_array(jsonb_build_object('role', 'system', 'content', system_prompt)) || messages;
  END IF;
  RETURN azure_ai_emulator.request(called, 'Azure OpenAI', ARRAY['openai', 'deployments', model, 'chat', 'completions'],
    '[["api-version", "2024-10-21"]]', '{}',
    jsonb_strip_nulls(jsonb_build_object('messages', messages, 'temperature', 0.2, 'response_format', CASE WHEN schema IS NOT NULL THEN format END)),
    NULL, true, 1, 0) #>> '{choices,0,message,content}';
END $$;

-- With a schema the answer is JSON, without one it is text.
CREATE FUNCTION azure_ai.generate(
  prompt text, json_schema jsonb DEFAULT NULL, model text DEFAULT 'gpt-4.1', system_prompt text DEFAULT NULL
) RETURNS text LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('function'); SELECT azure_ai_emulator.chat('azure_ai.generate', $1, $2, $3, $4) $$;

CREATE FUNCTION azure_ai.is_true(statement text, model text DEFAULT 'gpt-4.1') RETURNS boolean LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('function');
  SELECT (azure_ai_emulator.chat('azure_ai.is_true', $1, '{"type": "object", "properties": {"result": {"type": "boolean"}}}', $2, NULL)::pg_catalog.jsonb
    OPERATOR(pg_catalog.->>) 'result')::pg_catalog.bool $$;

CREATE FUNCTION azure_ai.extract(document text, data text[], model text DEFAULT 'gpt-4.1') RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS $$
DECLARE
  schema jsonb;
BEGIN
  PERFORM azure_ai_emulator.look_up('function');
  schema := pg_catalog.jsonb_build_object('type', 'object', 'properties', (SELECT pg_catalog.jsonb_object_agg(
    pg_catalog.split_part(part, ':', 1), '{"type": "string"}'::pg_catalog.jsonb) FROM pg_catalog.unnest($2) AS part));
  RETURN azure_ai_emulator.chat('azure_ai.extract', $1, schema, $3, NULL)::pg_catalog.jsonb;
END $$;

-- With a model that is no reranker a chat model ranks: every document then has the same score here.
CREATE FUNCTION azure_ai_emulator.ranking(query text, document_contents text[], document_ids text[], model text)
RETURNS TABLE (id text, rank bigint, score double precision)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  answer jsonb;
BEGIN
  IF $4 NOT ILIKE '%rerank%' THEN
    PERFORM azure_ai_emulator.chat('azure_ai.rank', $1, '{"type": "object"}', $4, NULL);
    RETURN QUERY SELECT coalesce($3[n], n::text), n::bigint, 1::double precision FROM generate_subscripts($2, 1) AS n;
    RETURN;
  END IF;
  answer := azure_ai_emulator.request('azure_ai.rank', 'Azure Machine Learning', '{}', '[]', '{}',
    jsonb_build_object('query', $1, 'documents', to_jsonb($2), 'model', $4), NULL, true, 1, 0);
  RETURN QUERY SELECT coalesce($3[(r ->> 'index')::integer + 1], ((r ->> 'index')::integer + 1)::text), place,
    (r ->> 'relevance_score')::double precision
    FROM jsonb_array_elements(answer -> 'results') WITH ORDINALITY AS a (r, place) ORDER BY place;
END $$;

CREATE FUNCTION azure_ai.rank(
  query text, document_contents text[], document_ids text[] DEFAULT NULL, model text DEFAULT 'cohere-rerank-v3.5'
) RETURNS TABLE (id text, rank bigint, score double precision) LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('function'); SELECT * FROM azure_ai_emulator.ranking($1, $2, $3, $4) $$;

CREATE FUNCTION azure_ai.rank(
  query text, document_contents text[], document_ids integer[], model text DEFAULT 'cohere-rerank-v3.5'
) RETURNS TABLE (id integer, rank bigint, score double precision) LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('function');
  SELECT r.id::pg_catalog.int4, r.rank, r.score FROM azure_ai_emulator.ranking($1, $2, $3::text[], $4) AS r $$;

SELECT azure_ai_emulator.apply_defaults();
