-- The functions of Message DB in the language of PL/Proxy. The names of streams are taken apart
-- on the proxy, and everything else is done by the shard that has the category. The cluster mdb
-- is a foreign server.
CREATE EXTENSION plproxy;

DROP TABLE message_store.messages CASCADE;

CREATE FUNCTION message_store.shard_of(stream_name varchar)
RETURNS integer LANGUAGE sql IMMUTABLE
RETURN (message_store.hash_64(message_store.category(stream_name)) & 1)::integer;

DROP FUNCTION message_store.acquire_lock(varchar);
CREATE FUNCTION message_store.acquire_lock(stream_name varchar)
RETURNS bigint LANGUAGE plproxy AS $$
  CLUSTER 'mdb';
  RUN ON message_store.shard_of(stream_name);
$$;

DROP FUNCTION message_store.stream_version(varchar);
CREATE FUNCTION message_store.stream_version(stream_name varchar)
RETURNS bigint LANGUAGE plproxy AS $$
  CLUSTER 'mdb';
  RUN ON message_store.shard_of(stream_name);
$$;

DROP FUNCTION message_store.write_message(varchar, varchar, varchar, jsonb, jsonb, bigint);
CREATE FUNCTION message_store.write_message(
  id varchar,
  stream_name varchar,
  type varchar,
  data jsonb,
  metadata jsonb DEFAULT NULL,
  expected_version bigint DEFAULT NULL
)
RETURNS bigint LANGUAGE plproxy AS $$
  CLUSTER 'mdb';
  RUN ON message_store.shard_of(stream_name);
$$;

DROP FUNCTION message_store.get_stream_messages(varchar, bigint, bigint, varchar);
CREATE FUNCTION message_store.get_stream_messages(
  stream_name varchar,
  "position" bigint DEFAULT 0,
  batch_size bigint DEFAULT 1000,
  condition varchar DEFAULT NULL
)
RETURNS SETOF message_store.message LANGUAGE plproxy AS $$
  CLUSTER 'mdb';
  RUN ON message_store.shard_of(stream_name);
$$;

DROP FUNCTION message_store.get_last_stream_message(varchar, varchar);
CREATE FUNCTION message_store.get_last_stream_message(stream_name varchar, type varchar DEFAULT NULL)
RETURNS SETOF message_store.message LANGUAGE plproxy AS $$
  CLUSTER 'mdb';
  RUN ON message_store.shard_of(stream_name);
$$;

DROP FUNCTION message_store.get_category_messages(varchar, bigint, bigint, varchar, bigint, bigint, varchar);
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
  CLUSTER 'mdb';
  RUN ON message_store.shard_of(category);
$$;
