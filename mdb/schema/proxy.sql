-- The shards. Every role of this database that may use Message DB connects to them as message_store.
CREATE EXTENSION plproxy;

CREATE SERVER message_store_shards FOREIGN DATA WRAPPER plproxy OPTIONS (
{servers}
);

CREATE USER MAPPING FOR PUBLIC SERVER message_store_shards OPTIONS (user 'message_store', password :'password');

GRANT USAGE ON FOREIGN SERVER message_store_shards TO message_store;

-- The shards of categories. A category without a row is on the shard that its hash chooses.
CREATE SCHEMA message_store_proxy;

CREATE TABLE message_store_proxy.placement (
  category text PRIMARY KEY,
  shard integer NOT NULL CHECK (shard BETWEEN 0 AND {last})
);

CREATE FUNCTION message_store_proxy.shards()
RETURNS integer LANGUAGE sql IMMUTABLE
RETURN {count};

-- Of the name of a stream or of a category. NULL is on the shard 0, which rejects it.
CREATE FUNCTION message_store_proxy.shard_of(stream_name varchar)
RETURNS integer LANGUAGE plpgsql STABLE
SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
  sought varchar := message_store.category(stream_name);
BEGIN
  RETURN coalesce(
    (SELECT p.shard FROM message_store_proxy.placement AS p WHERE p.category = sought),
    (message_store.hash_64(sought) & {last})::integer,
    0);
END
$$;

-- Of a stream that is written to. What a shard does is not part of the transaction on the proxy, so a read-only one would not
-- prevent it.
CREATE FUNCTION message_store_proxy.shard_to_write(stream_name varchar)
RETURNS integer LANGUAGE plpgsql STABLE
SET search_path TO pg_catalog, pg_temp AS $$
BEGIN
  IF current_setting('transaction_read_only')::boolean THEN
    RAISE EXCEPTION 'cannot write in a read-only transaction' USING ERRCODE = 'read_only_sql_transaction';
  END IF;
  RETURN message_store_proxy.shard_of(stream_name);
END
$$;

-- The functions of Message DB. Each is executed by the function of the same name on one shard.
-- A lock on a shard would be released immediately.
CREATE FUNCTION message_store.acquire_lock(stream_name varchar)
RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RAISE EXCEPTION 'acquire_lock is not possible through PL/Proxy' USING ERRCODE = 'feature_not_supported';
END
$$;

CREATE FUNCTION message_store.stream_version(stream_name varchar)
RETURNS bigint LANGUAGE plproxy AS $$
  CLUSTER 'message_store_shards';
  RUN ON message_store_proxy.shard_of(stream_name);
$$;

CREATE FUNCTION message_store.write_message(
  id varchar,
  stream_name varchar,
  type varchar,
  data jsonb,
  metadata jsonb DEFAULT NULL,
  expected_version bigint DEFAULT NULL
)
RETURNS bigint LANGUAGE plproxy AS $$
  CLUSTER 'message_store_shards';
  RUN ON message_store_proxy.shard_to_write(stream_name);
$$;

CREATE FUNCTION message_store.get_stream_messages(
  stream_name varchar,
  "position" bigint DEFAULT 0,
  batch_size bigint DEFAULT 1000,
  condition varchar DEFAULT NULL
)
RETURNS SETOF message_store.message LANGUAGE plproxy AS $$
  CLUSTER 'message_store_shards';
  RUN ON message_store_proxy.shard_of(stream_name);
$$;

CREATE FUNCTION message_store.get_last_stream_message(stream_name varchar, type varchar DEFAULT NULL)
RETURNS SETOF message_store.message LANGUAGE plproxy AS $$
  CLUSTER 'message_store_shards';
  RUN ON message_store_proxy.shard_of(stream_name);
$$;

CREATE FUNCTION message_store.get_category_messages(
  category varchar,
  "position" bigint DEFAULT 1,
  batch_size bigint DEFAULT 1000,
  correlation varchar DEFAULT NULL,
  consumer_group_member bigint DEFAULT NULL,
  consumer_group_size bigint DEFAULT NULL,
  condition varchar DEFAULT NULL
)
RETURNS SETOF message_store.message LANGUAGE plproxy AS $$
  CLUSTER 'message_store_shards';
  RUN ON message_store_proxy.shard_of(category);
$$;

-- The functions that package mdb calls, of the shards' schema message_store_shard.
CREATE SCHEMA message_store_shard;

CREATE FUNCTION message_store_shard.write_message(
  id varchar,
  stream_name varchar,
  type varchar,
  data jsonb,
  metadata jsonb,
  expected_version bigint
)
RETURNS TABLE ("position" bigint, global_position bigint, micros bigint) LANGUAGE plproxy AS $$
  CLUSTER 'message_store_shards';
  RUN ON message_store_proxy.shard_to_write(stream_name);
$$;

CREATE FUNCTION message_store_shard.write_messages(
  stream_name varchar,
  ids varchar[],
  types varchar[],
  data text[],
  metadata text[],
  expected_version bigint
)
RETURNS TABLE ("position" bigint, global_position bigint, micros bigint) LANGUAGE plproxy AS $$
  CLUSTER 'message_store_shards';
  RUN ON message_store_proxy.shard_to_write(stream_name);
$$;

CREATE FUNCTION message_store_shard.find_messages(stream_name varchar, ids text[], types text[], data text[])
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
) LANGUAGE plproxy AS $$
  CLUSTER 'message_store_shards';
  RUN ON message_store_proxy.shard_of(stream_name);
$$;

CREATE FUNCTION message_store_shard.category_head(category varchar, up_to bigint DEFAULT NULL)
RETURNS TABLE (global_position bigint, id uuid, "time" timestamp) LANGUAGE plproxy AS $$
  CLUSTER 'message_store_shards';
  RUN ON message_store_proxy.shard_of(category);
$$;

CREATE FUNCTION message_store_shard.last_used(category varchar)
RETURNS bigint LANGUAGE plproxy AS $$
  CLUSTER 'message_store_shards';
  RUN ON message_store_proxy.shard_of(category);
$$;

CREATE FUNCTION message_store_shard.find_places(category varchar, ids text[], up_to bigint[])
RETURNS TABLE (index bigint, global_position bigint, id uuid, "time" timestamp) LANGUAGE plproxy AS $$
  CLUSTER 'message_store_shards';
  RUN ON message_store_proxy.shard_of(category);
$$;

CREATE FUNCTION message_store_shard.places_at(category varchar, positions bigint[])
RETURNS TABLE (global_position bigint, id uuid, "time" timestamp) LANGUAGE plproxy AS $$
  CLUSTER 'message_store_shards';
  RUN ON message_store_proxy.shard_of(category);
$$;

CREATE FUNCTION message_store_shard.next_positions(category varchar, streams text[], up_to bigint)
RETURNS TABLE (index bigint, next bigint) LANGUAGE plproxy AS $$
  CLUSTER 'message_store_shards';
  RUN ON message_store_proxy.shard_of(category);
$$;

CREATE FUNCTION message_store_shard.session(category varchar)
RETURNS TABLE (session text, standby boolean) LANGUAGE plproxy AS $$
  CLUSTER 'message_store_shards';
  RUN ON message_store_proxy.shard_of(category);
$$;

CREATE FUNCTION message_store_shard.search_path(shard integer)
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
) LANGUAGE plproxy AS $$
  CLUSTER 'message_store_shards';
  RUN ON shard;
$$;

CREATE FUNCTION message_store_shard.check(shard integer, read_only boolean)
RETURNS TABLE (problem text, remedy text) LANGUAGE plproxy AS $$
  CLUSTER 'message_store_shards';
  RUN ON shard;
$$;

-- Sends a notification to the shard with the number, in the session in which the proxy also
-- writes there. A store with WithNotify proves by it that the connection on which it listens is
-- to that shard. Who has moved a category notifies the shard that it was on of '-placement',
-- after the commit that changes message_store_proxy.placement.
CREATE FUNCTION message_store_proxy.notify(shard integer, payload text)
RETURNS text LANGUAGE plproxy AS $$
  CLUSTER 'message_store_shards';
  RUN ON shard;
  SELECT pg_catalog.pg_notify('message_store', payload)::text;
$$;

GRANT USAGE ON SCHEMA message_store, message_store_shard, message_store_proxy TO message_store;
GRANT SELECT ON message_store_proxy.placement TO message_store;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA message_store, message_store_shard, message_store_proxy TO message_store;
