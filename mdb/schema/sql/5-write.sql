CREATE FUNCTION message_store.acquire_lock(stream_name varchar)
RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  category_hash bigint := message_store.hash_64(message_store.category(stream_name));
BEGIN
  -- To the end of the transaction: a category's messages become visible in the
  -- order of their global positions only because no writer of the category draws
  -- one while another's is uncommitted.
  PERFORM pg_catalog.pg_advisory_xact_lock(category_hash);

  IF pg_catalog.current_setting('message_store.debug_write', true) = 'on'
    OR pg_catalog.current_setting('message_store.debug', true) = 'on' THEN
    RAISE NOTICE 'acquire_lock(stream_name: %), category hash: %', stream_name, category_hash;
  END IF;

  RETURN category_hash;
END
$$;

CREATE FUNCTION message_store.stream_version(stream_name varchar)
RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  version bigint;
BEGIN
  SELECT pg_catalog.max(m.position) INTO version
  FROM message_store.messages AS m
  WHERE m.stream_name = stream_version.stream_name;

  RETURN version;
END
$$;

CREATE FUNCTION message_store.write_message(
  id varchar,
  stream_name varchar,
  type varchar,
  data jsonb,
  metadata jsonb DEFAULT NULL,
  expected_version bigint DEFAULT NULL
)
RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  version bigint;
BEGIN
  PERFORM message_store.acquire_lock(write_message.stream_name);

  -- A statement of its own, so that its snapshot is younger than the lock.
  SELECT coalesce(pg_catalog.max(m.position), -1) INTO version
  FROM message_store.messages AS m
  WHERE m.stream_name = write_message.stream_name;

  IF write_message.expected_version <> version THEN
    RAISE EXCEPTION 'Wrong expected version: % (Stream: %, Stream Version: %)',
      write_message.expected_version, write_message.stream_name, version;
  END IF;

  INSERT INTO message_store.messages (id, stream_name, position, type, data, metadata)
  VALUES (
    write_message.id::uuid,
    write_message.stream_name,
    version + 1,
    write_message.type,
    write_message.data,
    write_message.metadata
  );

  -- The payload is left out: notices end up in logs.
  IF pg_catalog.current_setting('message_store.debug_write', true) = 'on'
    OR pg_catalog.current_setting('message_store.debug', true) = 'on' THEN
    RAISE NOTICE 'write_message(id: %, stream_name: %, type: %, expected_version: %), position: %',
      write_message.id, write_message.stream_name, write_message.type,
      write_message.expected_version, version + 1;
  END IF;

  RETURN version + 1;
END
$$;
