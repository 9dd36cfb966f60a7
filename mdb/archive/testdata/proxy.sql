-- A proxy whose table of placements decides first.
CREATE EXTENSION plproxy;
DROP TABLE message_store.messages CASCADE;
CREATE SCHEMA message_store_proxy;
CREATE TABLE message_store_proxy.placement (category text PRIMARY KEY, shard integer NOT NULL);

CREATE FUNCTION message_store_proxy.shard_of(stream_name varchar)
RETURNS integer LANGUAGE sql STABLE
RETURN coalesce((SELECT p.shard FROM message_store_proxy.placement AS p WHERE p.category = split_part(stream_name, '-', 1)), 0);

DROP FUNCTION message_store.stream_version(varchar);
CREATE FUNCTION message_store.stream_version(stream_name varchar)
RETURNS bigint LANGUAGE plproxy AS $$
  CLUSTER 'mdb';
  RUN ON message_store_proxy.shard_of(stream_name);
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
  RUN ON message_store_proxy.shard_of(stream_name);
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
  RUN ON message_store_proxy.shard_of(stream_name);
$$;

DROP FUNCTION message_store.get_last_stream_message(varchar, varchar);
CREATE FUNCTION message_store.get_last_stream_message(stream_name varchar, type varchar DEFAULT NULL)
RETURNS SETOF message_store.message LANGUAGE plproxy AS $$
  CLUSTER 'mdb';
  RUN ON message_store_proxy.shard_of(stream_name);
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
  RUN ON message_store_proxy.shard_of(category);
$$;

-- A consumer whose state is elsewhere looks at the table. A category that is moved has messages on both shards.
CREATE FUNCTION message_store_proxy.all_messages()
RETURNS TABLE (id uuid, stream_name text, type text, "position" bigint, global_position bigint, data jsonb, metadata jsonb, "time" timestamp)
LANGUAGE plproxy AS $$
  CLUSTER 'mdb';
  RUN ON ALL;
  SELECT id, stream_name, type, position, global_position, data, metadata, time FROM message_store.messages;
$$;

CREATE VIEW message_store.messages AS SELECT DISTINCT ON (global_position) * FROM message_store_proxy.all_messages();
