-- The functions of a shard, which a proxy calls. A proxy commits each call, so each of them does in
-- one transaction what a client would otherwise do in several calls. Callers have the privileges of their own
-- role. Those that call functions of Message DB find the table by a path of their own.
CREATE SCHEMA IF NOT EXISTS message_store_shard;

-- Writes a message. The version -2 stands for any version of a stream that exists, which -2 never is.
-- The time is in microseconds, as the table's default sets it.
CREATE OR REPLACE FUNCTION message_store_shard.write_message(
  id varchar,
  stream_name varchar,
  type varchar,
  data jsonb,
  metadata jsonb,
  expected_version bigint
)
RETURNS TABLE ("position" bigint, global_position bigint, micros bigint) LANGUAGE plpgsql VOLATILE
SET search_path TO message_store, pg_temp AS $$
BEGIN
  IF expected_version = -2 THEN
    -- Locked first, so that the stream cannot appear before the write.
    PERFORM message_store.acquire_lock(stream_name);
    IF message_store.stream_version(stream_name) IS NOT NULL THEN
      expected_version := NULL;
    END IF;
  END IF;

  RETURN QUERY
  SELECT written, pg_catalog.currval('message_store.messages_global_position_seq'), (extract(epoch FROM pg_catalog.now()) * 1000000)::bigint
  FROM message_store.write_message(id, stream_name, type, data, metadata, expected_version) AS written;
END
$$;

-- Writes messages to the end of a stream: all of them or none, and without others in between.
CREATE OR REPLACE FUNCTION message_store_shard.write_messages(
  stream_name varchar,
  ids varchar[],
  types varchar[],
  data text[],
  metadata text[],
  expected_version bigint
)
RETURNS TABLE ("position" bigint, global_position bigint, micros bigint) LANGUAGE plpgsql VOLATILE
SET search_path TO message_store, pg_temp AS $$
BEGIN
  FOR i IN 1 .. pg_catalog.cardinality(ids) LOOP
    RETURN QUERY
    SELECT w.position, w.global_position, w.micros
    FROM message_store_shard.write_message(ids[i], stream_name, types[i], data[i]::jsonb, metadata[i]::jsonb, expected_version) AS w;
    -- The lock is held, so nothing else is written to the stream.
    expected_version := nullif(expected_version, -2) + 1;
  END LOOP;
END
$$;

-- Looks for the messages of a write to the stream: each is one row, whose columns from stream_name on are
-- NULL if it is not there. If one is, the transaction writes to the WAL, so that its commit waits for
-- synchronous standbys as the write's should have.
CREATE OR REPLACE FUNCTION message_store_shard.find_messages(stream_name varchar, ids text[], types text[], data text[])
RETURNS TABLE (
  index bigint,
  standby boolean,
  stream varchar,
  "position" bigint,
  global_position bigint,
  micros bigint,
  same_type boolean,
  same_data boolean,
  emitted text
) LANGUAGE sql VOLATILE
SET search_path TO pg_catalog, pg_temp AS $$
  WITH found AS MATERIALIZED (
    SELECT sought.index, pg_is_in_recovery() AS standby, m.stream_name::varchar, m.position, m.global_position,
      CASE WHEN isfinite(m.time) THEN (extract(epoch FROM m.time) * 1000000)::bigint END,
      m.type = sought.type, m.data IS NOT DISTINCT FROM sought.data::jsonb
    FROM unnest($2, $3, $4) WITH ORDINALITY AS sought(id, type, data, index)
    LEFT JOIN message_store.messages AS m ON m.id = sought.id::uuid
  )
  SELECT found.*, (SELECT pg_logical_emit_message(true, 'mdb', ''::text) FROM found WHERE found.stream_name IS NOT NULL AND NOT found.standby LIMIT 1)::text
  FROM found
  ORDER BY found.index
$$;

-- Returns the place of the last message of a category up to a global position, or of the last one of all.
CREATE OR REPLACE FUNCTION message_store_shard.category_head(category varchar, up_to bigint DEFAULT NULL)
RETURNS TABLE (global_position bigint, id uuid, "time" timestamp) LANGUAGE plpgsql STABLE
SET search_path TO message_store, pg_temp
SET plan_cache_mode TO force_generic_plan AS $$
BEGIN
  RETURN QUERY
  SELECT m.global_position, m.id, m.time
  FROM message_store.messages AS m
  WHERE message_store.category(m.stream_name) >= category_head.category
    AND (message_store.category(m.stream_name), m.global_position) <= (category_head.category, coalesce(up_to, 9223372036854775807))
  ORDER BY message_store.category(m.stream_name) DESC, m.global_position DESC
  LIMIT 1;
END
$$;

-- The next functions are for consumers whose state is elsewhere, and a proxy calls them on the shard of the category.

-- Returns the last global position that the shard has used.
CREATE OR REPLACE FUNCTION message_store_shard.last_used(category varchar)
RETURNS bigint LANGUAGE sql STABLE
SET search_path TO pg_catalog, pg_temp AS $$
  SELECT greatest(
    (SELECT coalesce(max(m.global_position), 0) FROM message_store.messages AS m),
    coalesce(pg_sequence_last_value('message_store.messages_global_position_seq'::regclass), 0))
$$;

-- Looks for messages by their IDs, each up to a global position.
CREATE OR REPLACE FUNCTION message_store_shard.find_places(category varchar, ids text[], up_to bigint[])
RETURNS TABLE (index bigint, global_position bigint, id uuid, "time" timestamp) LANGUAGE sql STABLE
SET search_path TO pg_catalog, pg_temp AS $$
  SELECT sought.index, m.global_position, m.id, m.time
  FROM ROWS FROM (unnest($2::uuid[]), unnest($3)) WITH ORDINALITY AS sought(id, up_to, index)
  JOIN message_store.messages AS m ON m.id = sought.id AND m.global_position <= sought.up_to
$$;

-- Returns the messages that have the global positions.
CREATE OR REPLACE FUNCTION message_store_shard.places_at(category varchar, positions bigint[])
RETURNS TABLE (global_position bigint, id uuid, "time" timestamp) LANGUAGE sql STABLE
SET search_path TO pg_catalog, pg_temp AS $$
  SELECT m.global_position, m.id, m.time
  FROM message_store.messages AS m
  WHERE m.global_position = ANY ($2)
$$;

-- Returns the positions after the last messages of streams up to a global position.
CREATE OR REPLACE FUNCTION message_store_shard.next_positions(category varchar, streams text[], up_to bigint)
RETURNS TABLE (index bigint, next bigint) LANGUAGE sql STABLE
SET search_path TO pg_catalog, pg_temp AS $$
  SELECT w.index, coalesce((
    SELECT max(m.position) FROM message_store.messages AS m
    WHERE m.stream_name = w.stream AND m.global_position <= $3
  ), -1) + 1
  FROM unnest($2) WITH ORDINALITY AS w(stream, index)
$$;

-- Identifies the session. What is asked in one session has the answers of one server.
CREATE OR REPLACE FUNCTION message_store_shard.session(category varchar)
RETURNS TABLE (session text, standby boolean) LANGUAGE sql STABLE
SET search_path TO pg_catalog, pg_temp AS $$
  SELECT concat_ws(' ', pg_backend_pid(), extract(epoch FROM pg_postmaster_start_time())), pg_is_in_recovery()
$$;

-- Looks at the search path of the session, on which Message DB's own functions depend.
CREATE OR REPLACE FUNCTION message_store_shard.search_path(shard integer)
RETURNS TABLE (
  installed boolean,
  proxied boolean,
  whole boolean,
  dependent boolean,
  first boolean,
  hidden boolean,
  others text,
  path text,
  role text
) LANGUAGE sql VOLATILE AS $inspection${path}$inspection$;

-- Returns what is wrong with the shard, and the remedy, as a program finds it that is connected to the shard.
CREATE OR REPLACE FUNCTION message_store_shard.check(shard integer, read_only boolean)
RETURNS TABLE (problem text, remedy text) LANGUAGE plpgsql VOLATILE AS $function$
DECLARE
  complete boolean := false;
  number bigint;
BEGIN
  FOR problem, remedy IN EXECUTE $inspection${check}$inspection$ USING read_only, false, true LOOP
    IF problem IS NULL THEN
      complete := true;
    ELSE
      RETURN NEXT;
    END IF;
  END LOOP;

  IF complete THEN
    RETURN QUERY EXECUTE $inspection${sequence}$inspection$;

    -- Two shards with one number would use the same positions.
    SELECT CASE WHEN q.seqincrement = 1024 THEN q.seqstart % 1024 END INTO number
    FROM pg_catalog.pg_sequence AS q
    WHERE q.seqrelid = 'message_store.messages_global_position_seq'::pg_catalog.regclass;
    IF number IS NULL THEN
      problem := 'its global positions are not those of a shard, so other shards may use them, too';
      remedy := 'connect to it and run mdb install -shard ' || shard;
      RETURN NEXT;
    ELSIF number <> shard THEN
      problem := 'it is shard ' || number;
      remedy := 'give mdb proxy-sql the shards in the order of their numbers';
      RETURN NEXT;
    END IF;
  END IF;

  IF pg_catalog.current_setting('server_version_num')::integer >= 150000 THEN
    RETURN QUERY EXECUTE $inspection${collation}$inspection$;
  END IF;
END
$function$;

GRANT USAGE ON SCHEMA message_store_shard TO message_store;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA message_store_shard TO message_store;
