-- azure_ai as it was before it knew managed identities: keys only.
CREATE SCHEMA azure_ai;
CREATE SCHEMA azure_openai;
CREATE SCHEMA azure_cognitive;
CREATE SCHEMA azure_ml;
GRANT USAGE ON SCHEMA azure_ai, azure_openai, azure_cognitive, azure_ml TO PUBLIC;
-- Everything that the real extension does in compiled code.
CREATE SCHEMA azure_ai_emulator;

CREATE TABLE azure_ai.settings (key text PRIMARY KEY, value text);
-- Qualified: created in `public`, the script would prefer a function of this name there that takes text.
SELECT pg_catalog.pg_extension_config_dump('azure_ai.settings', '');

-- Any member of azure_pg_admin may update or drop the extension, not only the one who created it.
UPDATE pg_extension SET extowner = 'azure_pg_admin'::regrole WHERE extname = 'azure_ai';
DELETE FROM pg_shdepend
WHERE classid = 'pg_extension'::regclass AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND objid = (SELECT oid FROM pg_extension WHERE extname = 'azure_ai');
INSERT INTO pg_shdepend (dbid, classid, objid, objsubid, refclassid, refobjid, deptype)
SELECT d.oid, 'pg_extension'::regclass, e.oid, 0, 'pg_authid'::regclass, 'azure_pg_admin'::regrole, 'o'
FROM pg_database d, pg_extension e WHERE d.datname = current_database() AND e.extname = 'azure_ai';

CREATE FUNCTION azure_ai_emulator.switches() RETURNS jsonb LANGUAGE sql VOLATILE AS
  $$ SELECT pg_catalog.pg_read_file('azure_ai/switches.json')::pg_catalog.jsonb $$;

-- Names that nothing but the caller's search path resolves, for the switch namesByPath. Each kind fails with a SQLSTATE of its own.
CREATE FUNCTION azure_ai_emulator.look_up(kind text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF NOT coalesce((azure_ai_emulator.switches() OPERATOR(pg_catalog.->>) 'namesByPath')::pg_catalog.bool, false) THEN
    RETURN;
  END IF;
  IF kind OPERATOR(pg_catalog.=) 'table' THEN
    PERFORM FROM settings LIMIT 1;
  ELSIF kind OPERATOR(pg_catalog.=) 'function' THEN
    PERFORM setting_keys();
  ELSE
    PERFORM NULL::sentiment_analysis_result;
  END IF;
END $$;

CREATE FUNCTION azure_ai_emulator.setting_keys() RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
  SELECT ARRAY['azure_openai.endpoint', 'azure_openai.subscription_key', 'azure_cognitive.endpoint', 'azure_cognitive.subscription_key',
    'azure_cognitive.region', 'azure_ml.scoring_endpoint', 'azure_ml.endpoint_key']
$$;

CREATE FUNCTION azure_ai_emulator.check_key(key text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF $1 IS NULL OR $1 <> ALL (azure_ai_emulator.setting_keys()) OR azure_ai_emulator.switches() -> 'lackedSettings' ? $1 THEN
    IF (azure_ai_emulator.switches() ->> 'unfamiliarTexts')::boolean THEN
      RAISE EXCEPTION 'E7709 no such register: %', $1 USING ERRCODE = 'internal_error';
    END IF;
    IF azure_ai_emulator.switches() ->> 'unknownSetting' = 'invalid-name' THEN
      RAISE EXCEPTION 'Invalid setting name' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RAISE EXCEPTION '% is not a valid configuration key', $1 USING ERRCODE = 'internal_error';
  END IF;
END $$;

CREATE FUNCTION azure_ai.version() RETURNS text LANGUAGE sql STABLE AS
  $$ SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'azure_ai' $$;

CREATE FUNCTION azure_ai_emulator.write_setting(key text, value text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM azure_ai_emulator.check_key($1);
  IF $1 LIKE '%\_key' AND coalesce($2, '') = '' AND (azure_ai_emulator.switches() ->> 'clearingRefused')::boolean THEN
    RAISE EXCEPTION 'the value of % must not be empty', $1 USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF $1 LIKE '%.auth\_type' AND coalesce($2, '') NOT IN ('', 'managed-identity', 'subscription-key')
    AND NOT coalesce((azure_ai_emulator.switches() ->> 'anyAuthType')::boolean, false) THEN
    RAISE EXCEPTION 'invalid value for %: %', $1, $2 USING ERRCODE = 'invalid_parameter_value';
  END IF;
  INSERT INTO azure_ai.settings VALUES ($1, $2) ON CONFLICT ON CONSTRAINT settings_pkey DO UPDATE SET value = excluded.value;
END $$;

CREATE FUNCTION azure_ai_emulator.read_setting(key text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found_value text;
BEGIN
  PERFORM azure_ai_emulator.check_key($1);
  SELECT nullif(s.value, '') INTO found_value FROM azure_ai.settings s WHERE s.key = $1;
  IF found_value IS NULL AND azure_ai_emulator.switches() ->> 'unset' = 'empty' THEN
    RETURN '';
  END IF;
  IF found_value IS NULL AND azure_ai_emulator.switches() ->> 'unset' = 'raises' THEN
    RAISE EXCEPTION 'the setting % is not set', $1 USING ERRCODE = 'internal_error';
  END IF;
  RETURN found_value;
END $$;

CREATE FUNCTION azure_ai.set_setting(key text, value text) RETURNS void LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('table'); SELECT azure_ai_emulator.write_setting($1, $2) $$;

CREATE FUNCTION azure_ai.get_setting(key text) RETURNS text LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('table'); SELECT azure_ai_emulator.read_setting($1) $$;

REVOKE ALL ON FUNCTION azure_ai.set_setting(text, text), azure_ai.get_setting(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION azure_ai.set_setting(text, text), azure_ai.get_setting(text) TO azure_ai_settings_manager;

-- A query on a connection of its own, for the switch committedRowsOnly.
CREATE FUNCTION azure_ai_emulator.elsewhere(connection text, query text) RETURNS SETOF record
  AS '$libdir/dblink', 'dblink_record' LANGUAGE c STRICT VOLATILE;

-- The settings that a test function goes by: those of this transaction, unless a switch says otherwise.
CREATE FUNCTION azure_ai_emulator.effective_settings() RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET azure_ai_emulator.parcel = '' AS $$
DECLARE
  switches jsonb := azure_ai_emulator.switches();
  cache text;
  cached text;
  settings jsonb;
BEGIN
  IF (switches ->> 'sessionCache')::boolean THEN
    -- A file, since neither tables nor parameters outlive a ROLLBACK as memory does.
    SELECT format('azure_ai/sessions/%s-%s', pid, (extract(epoch FROM backend_start) * 1000)::bigint) INTO cache
    FROM pg_stat_get_activity(pg_backend_pid());
    cached := pg_read_file(cache, true);
    IF cached IS NOT NULL THEN
      RETURN convert_from(decode(trim(E'\n' FROM cached), 'hex'), 'UTF8')::jsonb;
    END IF;
  END IF;
  IF (switches ->> 'committedRowsOnly')::boolean THEN
    SELECT jsonb_object_agg(t.key, t.value) INTO settings
    FROM azure_ai_emulator.elsewhere(
      format('host=''%s'' port=%s user=%s dbname=''%s''', current_setting('unix_socket_directories'), current_setting('port'), current_user,
        replace(replace(current_database(), '\', '\\'), '''', '\''')),
      'SELECT key, value FROM azure_ai.settings') AS t (key text, value text);
  ELSE
    SELECT jsonb_object_agg(s.key, s.value) INTO settings FROM azure_ai.settings s;
  END IF;
  settings := coalesce(settings, '{}');
  IF cache IS NOT NULL THEN
    PERFORM set_config('azure_ai_emulator.parcel', encode(convert_to(settings::text, 'UTF8'), 'hex'), true);
    EXECUTE format('COPY (SELECT current_setting(''azure_ai_emulator.parcel'')) TO %L', current_setting('data_directory') || '/' || cache);
  END IF;
  RETURN settings;
END $$;

-- The error of a function, in the words that the switches choose. What is documented of it is one sample of a throttled request.
-- `failed`: the status and body of an answer, or a failure and its message; a failure `unset` names the setting that is missing.
CREATE FUNCTION azure_ai_emulator.wording(called text, service text, failed jsonb) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  switches jsonb := azure_ai_emulator.switches();
  kind text := coalesce(failed ->> 'failure', 'status');
  status text := failed ->> 'status';
  words text := CASE kind WHEN 'status' THEN failed ->> 'body' ELSE failed ->> 'message' END;
  code text;
  body jsonb;
BEGIN
  IF kind = 'verbatim' THEN
    RETURN words;
  END IF;
  IF (switches ->> 'unfamiliarTexts')::boolean THEN
    RETURN CASE kind
      WHEN 'unset' THEN CASE WHEN words LIKE '%endpoint' THEN 'E7701 nowhere to go' ELSE 'E7703 nothing to show at the door' END
      WHEN 'resolve' THEN 'E7702 the name leads nowhere'
      WHEN 'token' THEN 'E7741 upstream handshake rejected'
      WHEN 'timeout' THEN 'E7755 the other side keeps silent'
      WHEN 'status' THEN format('E7760 turned away (%s): %s', status, words)
      ELSE 'E7799 unforeseen' END;
  END IF;
  IF switches ->> 'wording' = 'unfamiliar-numbers' THEN
    RETURN CASE kind
      WHEN 'unset' THEN 'E-4011 register 400 is blank'
      WHEN 'token' THEN 'E-4290 handshake broke off (400)'
      WHEN 'timeout' THEN 'E-2004 upstream silent (408)'
      WHEN 'status' THEN format('E-4030 upstream turned it away, attempt 200 (%s)', status)
      ELSE 'E-5041 upstream gone (500)' END;
  END IF;
  words := CASE kind
    WHEN 'unset' THEN format('%s is not set', words)
    WHEN 'resolve' THEN format('could not resolve host: %s', words)
    WHEN 'token' THEN format('failed to get an access token for the managed identity: %s', words)
    WHEN 'timeout' THEN format('request timed out after %s', words)
    WHEN 'response' THEN format('gave an answer that is not JSON: %s', words)
    WHEN 'status' THEN words
    ELSE format('could not connect to %s: %s', service, words) END;
  IF switches ->> 'wording' LIKE 'wrapped%' THEN
    IF kind <> 'status' THEN
      RETURN format('%s: %s', called, words);
    END IF;
    IF words IS JSON OBJECT THEN
      body := words::jsonb;
      code := coalesce(body #>> '{error,code}', body ->> 'code');
      words := coalesce(body #>> '{error,message}', body ->> 'message', words);
    END IF;
    IF switches ->> 'wording' = 'wrapped-with-codes' AND code <> status THEN
      words := format('%s: %s', code, words);
    END IF;
    RETURN format('%s: %s: %s', called, status, words);
  END IF;
  RETURN CASE
    WHEN kind = 'status' THEN format('%s request failed with status %s: %s', service, status, words)
    WHEN kind IN ('timeout', 'response') THEN format('%s %s', service, words)
    ELSE format('azure_ai: %s', words) END;
END $$;

-- One request to a service. Returns the body of the answer; NULL after a failure that is not to be thrown.
-- The request travels in a parameter local to the function, so that keys are in no statement text.
CREATE FUNCTION azure_ai_emulator.request(
  called text, service text, path text[], query jsonb, headers jsonb, body jsonb,
  timeout_ms integer, throw_on_error boolean, max_attempts integer, retry_delay_ms integer
) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET azure_ai_emulator.parcel = '' AS $$
DECLARE
  switches jsonb := azure_ai_emulator.switches();
  settings jsonb;
  family text := split_part(called, '.', 1);
  endpoint_setting text;
  key_setting text;
  endpoint text;
  key text;
  by_identity boolean;
  id uuid := gen_random_uuid();
  mailbox text := current_setting('data_directory') || '/azure_ai/requests/';
  patience interval;
  since timestamptz;
  answer jsonb;
BEGIN
  IF (switches ->> 'refuseReadOnly')::boolean AND current_setting('transaction_read_only')::boolean THEN
    RAISE EXCEPTION 'cannot execute a request to % in a read-only transaction', service USING ERRCODE = 'read_only_sql_transaction';
  END IF;
  -- The functions of azure_ai use the settings of the service that they call.
  IF family = 'azure_ai' THEN
    family := CASE service WHEN 'Azure OpenAI' THEN 'azure_openai' ELSE 'azure_ml' END;
  END IF;
  endpoint_setting := CASE WHEN called = 'azure_ai.rank' AND family = 'azure_ml' THEN 'azure_ml.serverless_ranking_endpoint'
    WHEN family = 'azure_ml' THEN 'azure_ml.scoring_endpoint' ELSE family || '.endpoint' END;
  key_setting := CASE WHEN called = 'azure_ai.rank' AND family = 'azure_ml' THEN 'azure_ml.serverless_ranking_endpoint_key'
    WHEN family = 'azure_ml' THEN 'azure_ml.endpoint_key' ELSE family || '.subscription_key' END;
  settings := azure_ai_emulator.effective_settings();
  endpoint := nullif(settings ->> endpoint_setting, '');
  key := nullif(settings ->> key_setting, '');
  by_identity := coalesce(settings ->> (family || '.auth_type'), '') = 'managed-identity';
  IF key IS NULL THEN
    by_identity := by_identity OR coalesce((switches ->> 'keylessByIdentity')::boolean, false);
  ELSIF (switches ->> 'keyWins')::boolean THEN
    by_identity := false;
  END IF;

  IF endpoint IS NULL THEN
    answer := jsonb_build_object('failure', 'unset', 'message', endpoint_setting);
  ELSIF key IS NULL AND NOT by_identity THEN
    answer := jsonb_build_object('failure', 'unset', 'message', key_setting);
  ELSE
    IF by_identity THEN
      IF service = 'Azure AI Translator' THEN
        headers := headers || jsonb_strip_nulls(jsonb_build_object('Ocp-Apim-ResourceId', nullif(settings ->> 'azure_cognitive.translator_resource_id', '')));
      END IF;
    ELSE
      headers := headers || CASE family
        WHEN 'azure_openai' THEN jsonb_build_object('api-key', key)
        WHEN 'azure_cognitive' THEN jsonb_build_object('Ocp-Apim-Subscription-Key', key)
        ELSE jsonb_build_object('Authorization', 'Bearer ' || key) END;
    END IF;
    IF service = 'Azure AI Translator' THEN
      headers := headers || jsonb_strip_nulls(jsonb_build_object('Ocp-Apim-Subscription-Region', nullif(settings ->> 'azure_cognitive.region', '')));
    END IF;
    timeout_ms := coalesce(timeout_ms, 3600000);
    max_attempts := greatest(coalesce(max_attempts, 1), 1);
    retry_delay_ms := greatest(coalesce(retry_delay_ms, 1000), 0);
    PERFORM set_config('azure_ai_emulator.parcel', encode(convert_to(jsonb_build_object(
      'endpoint', endpoint, 'path', path, 'query', query, 'headers', headers, 'body', body,
      'tokenResource', CASE WHEN by_identity THEN CASE family WHEN 'azure_ml' THEN 'https://ml.azure.com' ELSE 'https://cognitiveservices.azure.com' END END,
      'timeoutMs', timeout_ms, 'maxAttempts', max_attempts, 'retryDelayMs', retry_delay_ms)::text, 'UTF8'), 'hex'), true);
    EXECUTE format('COPY (SELECT current_setting(''azure_ai_emulator.parcel'')) TO %L', mailbox || id || '-' || pg_backend_pid());

    -- The request is made beside this backend, so that waiting for it can be cancelled, times out and notices a lost client.
    patience := make_interval(secs => (timeout_ms::double precision * max_attempts + retry_delay_ms::double precision * (max_attempts - 1)) / 1000 + 20);
    since := clock_timestamp();
    BEGIN
      LOOP
        answer := pg_read_file('azure_ai/answers/' || id, true)::jsonb;
        EXIT WHEN answer IS NOT NULL;
        IF clock_timestamp() > since + patience THEN
          answer := '{"failure": "connect", "message": "nobody made the request"}';
          EXIT;
        END IF;
        PERFORM pg_sleep(CASE WHEN clock_timestamp() < since + interval '100 ms' THEN 0.002 ELSE 0.01 END);
      END LOOP;
    EXCEPTION WHEN query_canceled THEN
      EXECUTE format('COPY (SELECT 1) TO %L', mailbox || id || '-cancel');
      RAISE;
    END;

    IF answer ->> 'failure' IS NULL AND (answer ->> 'status')::integer < 300 THEN
      RETURN (answer ->> 'body')::jsonb;
    END IF;
  END IF;
  IF coalesce(throw_on_error, true) THEN
    RAISE EXCEPTION '%', azure_ai_emulator.wording(called, service, answer) USING ERRCODE = 'internal_error';
  END IF;
  RETURN NULL;
END $$;

CREATE FUNCTION azure_ai_emulator.embeddings(
  deployment_name text, input text[], dimensions integer, batch_size integer,
  timeout_ms integer, throw_on_error boolean, max_attempts integer, retry_delay_ms integer
) RETURNS SETOF real[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  answer jsonb;
  batch text[];
  first integer := 1;
BEGIN
  WHILE first <= coalesce(cardinality(input), 0) LOOP
    batch := input[first : first + greatest(batch_size, 1) - 1];
    first := first + cardinality(batch);
    answer := azure_ai_emulator.request('azure_openai.create_embeddings', 'Azure OpenAI', ARRAY['openai', 'deployments', deployment_name, 'embeddings'],
      '[["api-version", "2024-02-01"]]', '{}', jsonb_strip_nulls(jsonb_build_object('input', to_jsonb(batch), 'dimensions', dimensions)),
      timeout_ms, throw_on_error, max_attempts, retry_delay_ms);
    RETURN QUERY
      SELECT ARRAY(SELECT v::real FROM jsonb_array_elements_text(d -> 'embedding') WITH ORDINALITY AS e (v, place) ORDER BY place)
      FROM jsonb_array_elements(answer -> 'data') AS d ORDER BY (d ->> 'index')::integer;
  END LOOP;
END $$;

CREATE TYPE azure_cognitive.sentiment_analysis_result AS (
  sentiment text, positive_score double precision, neutral_score double precision, negative_score double precision);

CREATE FUNCTION azure_ai_emulator.sentiments(
  text text[], language text[], disable_service_logs boolean, model_version text, batch_size integer,
  timeout_ms integer, throw_on_error boolean, max_attempts integer, retry_delay_ms integer
) RETURNS SETOF azure_cognitive.sentiment_analysis_result
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  answer jsonb;
  documents jsonb;
  first integer := 1;
  last integer;
BEGIN
  WHILE first <= coalesce(cardinality($1), 0) LOOP
    last := least(first + greatest(batch_size, 1) - 1, cardinality($1));
    SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object('id', n::text, 'text', $1[n],
      'language', CASE cardinality($2) WHEN 1 THEN $2[1] ELSE $2[n] END)) ORDER BY n) INTO documents FROM generate_series(first, last) AS n;
    first := last + 1;
    answer := azure_ai_emulator.request('azure_cognitive.analyze_sentiment', 'Azure AI Language', ARRAY['language', ':analyze-text'],
      '[["api-version", "2023-04-01"]]', '{}', jsonb_build_object('kind', 'SentimentAnalysis',
        'parameters', jsonb_strip_nulls(jsonb_build_object('loggingOptOut', disable_service_logs, 'modelVersion', model_version)),
        'analysisInput', jsonb_build_object('documents', documents)),
      timeout_ms, throw_on_error, max_attempts, retry_delay_ms);
    RETURN QUERY
      SELECT d ->> 'sentiment', (d #>> '{confidenceScores,positive}')::double precision,
        (d #>> '{confidenceScores,neutral}')::double precision, (d #>> '{confidenceScores,negative}')::double precision
      FROM jsonb_array_elements(answer #> '{results,documents}') AS d ORDER BY (d ->> 'id')::integer;
  END LOOP;
END $$;

CREATE TYPE azure_cognitive.translation AS (text text, target_language text);
CREATE TYPE azure_cognitive.translated_text_result AS (
  source_text text, translations azure_cognitive.translation[], detected_language text);

CREATE FUNCTION azure_ai_emulator.translations(
  text text[], target_language text[], query jsonb, timeout_ms integer, throw_on_error boolean, max_attempts integer, retry_delay_ms integer
) RETURNS SETOF azure_cognitive.translated_text_result
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  answer jsonb;
BEGIN
  -- Both are kept together by the service: one result for each text, in order.
  answer := azure_ai_emulator.request('azure_cognitive.translate', 'Azure AI Translator', ARRAY['translator', 'text', 'v3.0', 'translate'],
    '[["api-version", "3.0"]]'::jsonb || coalesce((SELECT jsonb_agg(jsonb_build_array('to', l)) FROM unnest($2) AS l), '[]')
      || coalesce((SELECT jsonb_agg(jsonb_build_array(k, v)) FROM jsonb_each_text(jsonb_strip_nulls($3)) AS q (k, v)), '[]'),
    '{}', (SELECT jsonb_agg(jsonb_build_object('Text', t)) FROM unnest($1) AS t), timeout_ms, throw_on_error, max_attempts, retry_delay_ms);
  RETURN QUERY
    SELECT ($1)[place], ARRAY(SELECT (t ->> 'text', t ->> 'to')::azure_cognitive.translation FROM jsonb_array_elements(r -> 'translations') AS t),
      r #>> '{detectedLanguage,language}'
    FROM jsonb_array_elements(answer) WITH ORDINALITY AS a (r, place) ORDER BY place;
END $$;

CREATE FUNCTION azure_ai_emulator.score(
  input_data jsonb, deployment_name text, timeout_ms integer, throw_on_error boolean, max_attempts integer, retry_delay_ms integer
) RETURNS jsonb
LANGUAGE sql VOLATILE AS $$
  SELECT azure_ai_emulator.request('azure_ml.invoke', 'Azure Machine Learning', '{}', '[]',
    pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('azureml-model-deployment', $2)), $1, $3, $4, $5, $6)
$$;

-- IMMUTABLE as in the real extension, so that generated columns can be made of it; with constants it is called while the query is planned.
CREATE FUNCTION azure_openai.create_embeddings(
  deployment_name text, input text, timeout_ms integer DEFAULT 3600000, throw_on_error boolean DEFAULT true
) RETURNS real[] LANGUAGE sql IMMUTABLE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('function'); SELECT azure_ai_emulator.embeddings($1, ARRAY[$2], NULL, 1, $3, $4, 1, 0) $$;

CREATE FUNCTION azure_openai.create_embeddings(
  deployment_name text, input text[], batch_size integer DEFAULT 100, timeout_ms integer DEFAULT 3600000, throw_on_error boolean DEFAULT true
) RETURNS TABLE (embedding real[]) LANGUAGE sql IMMUTABLE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('function'); SELECT azure_ai_emulator.embeddings($1, $2, NULL, $3, $4, $5, 1, 0) $$;

CREATE FUNCTION azure_cognitive.analyze_sentiment(
  text text, language text, timeout_ms integer DEFAULT 3600000, throw_on_error boolean DEFAULT true, disable_service_logs boolean DEFAULT false
) RETURNS azure_cognitive.sentiment_analysis_result LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('type'); SELECT azure_ai_emulator.sentiments(ARRAY[$1], ARRAY[$2], $5, NULL, 1, $3, $4, 1, 0) $$;

CREATE FUNCTION azure_cognitive.translate(
  text text, target_language text, source_language text DEFAULT NULL, timeout_ms integer DEFAULT NULL, throw_on_error boolean DEFAULT true
) RETURNS azure_cognitive.translated_text_result LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('type'); SELECT azure_ai_emulator.translations(ARRAY[$1], ARRAY[$2], pg_catalog.jsonb_build_object('from', $3), $4, $5, 1, 0) $$;

CREATE FUNCTION azure_ml.invoke(
  input_data jsonb, timeout_ms integer DEFAULT NULL, throw_on_error boolean DEFAULT true, deployment_name text DEFAULT NULL
) RETURNS jsonb LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT azure_ai_emulator.look_up('function'); SELECT azure_ai_emulator.score($1, $4, $2, $3, 1, 0) $$;

-- Gives the functions the defaults that the switches choose; called at the end of each script.
CREATE FUNCTION azure_ai_emulator.apply_defaults() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  definition text;
  lacked regprocedure;
BEGIN
  FOR lacked IN
    SELECT p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname IN ('azure_ai', 'azure_openai', 'azure_cognitive', 'azure_ml')
      AND azure_ai_emulator.switches() -> 'lackedFunctions' ? (n.nspname || '.' || p.proname)
  LOOP
    EXECUTE format('ALTER EXTENSION azure_ai DROP FUNCTION %s', lacked);
    EXECUTE format('DROP FUNCTION %s', lacked);
  END LOOP;
  IF azure_ai_emulator.switches() ->> 'throwOnErrorDefault' IS DISTINCT FROM 'false' THEN
    RETURN;
  END IF;
  FOR definition IN
    SELECT pg_get_functiondef(p.oid) FROM pg_proc p
    WHERE p.pronamespace IN ('azure_openai'::regnamespace, 'azure_cognitive'::regnamespace, 'azure_ml'::regnamespace)
  LOOP
    EXECUTE replace(definition, 'throw_on_error boolean DEFAULT true', 'throw_on_error boolean DEFAULT false');
  END LOOP;
END $$;
SELECT azure_ai_emulator.apply_defaults();
