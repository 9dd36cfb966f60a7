CREATE TABLE message_store.messages (
  global_position bigserial NOT NULL,
  position bigint NOT NULL,
  time timestamp without time zone DEFAULT (pg_catalog.now() AT TIME ZONE 'utc') NOT NULL,
  stream_name text NOT NULL,
  type text NOT NULL,
  data jsonb,
  metadata jsonb,
  id uuid DEFAULT pg_catalog.gen_random_uuid() NOT NULL,
  CONSTRAINT messages_pkey PRIMARY KEY (global_position)
);
