CREATE EXTENSION plproxy;
CREATE SERVER mdb FOREIGN DATA WRAPPER plproxy OPTIONS (%s);
CREATE USER MAPPING FOR PUBLIC SERVER mdb;

CREATE FUNCTION message_store.shard_of(stream_name varchar)
RETURNS integer LANGUAGE sql IMMUTABLE
RETURN (message_store.hash_64(message_store.category(stream_name)) & %d)::integer;

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
