CREATE FUNCTION message_store.get_stream_messages(
  stream_name varchar,
  "position" bigint DEFAULT 0,
  batch_size bigint DEFAULT 1000,
  condition varchar DEFAULT NULL
)
RETURNS SETOF message_store.message LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  from_position bigint := coalesce(get_stream_messages.position, 0);
  row_limit bigint := nullif(coalesce(get_stream_messages.batch_size, 1000), -1);
BEGIN
  IF message_store.is_category(get_stream_messages.stream_name) THEN
    RAISE EXCEPTION 'Must be a stream name: %', get_stream_messages.stream_name;
  END IF;

  IF pg_catalog.current_setting('message_store.debug_get', true) = 'on'
    OR pg_catalog.current_setting('message_store.debug', true) = 'on' THEN
    RAISE NOTICE 'get_stream_messages(stream_name: %, position: %, batch_size: %, condition: %)',
      get_stream_messages.stream_name, from_position, row_limit, get_stream_messages.condition;
  END IF;

  IF get_stream_messages.condition IS NULL THEN
    RETURN QUERY
    SELECT
      m.id::varchar, m.stream_name::varchar, m.type::varchar, m.position,
      m.global_position, m.data::varchar, m.metadata::varchar, m.time
    FROM message_store.messages AS m
    WHERE m.stream_name = get_stream_messages.stream_name AND m.position >= from_position
    ORDER BY m.position
    LIMIT row_limit;
    RETURN;
  END IF;

  -- Empty is what the setting reads as once a transaction that had set it is over.
  IF coalesce(nullif(pg_catalog.current_setting('message_store.sql_condition', true), ''), 'off') = 'off' THEN
    RAISE EXCEPTION 'Retrieval with SQL condition is not activated';
  END IF;

  RETURN QUERY EXECUTE pg_catalog.concat($sql$
    SELECT
      id::varchar, stream_name::varchar, type::varchar, position,
      global_position, data::varchar, metadata::varchar, time
    FROM message_store.messages
    WHERE stream_name = $1 AND position >= $2 AND ($sql$, get_stream_messages.condition, $sql$)
    ORDER BY position
    LIMIT $3$sql$)
  USING get_stream_messages.stream_name, from_position, row_limit;
END
$$;

CREATE FUNCTION message_store.get_last_stream_message(
  stream_name varchar,
  type varchar DEFAULT NULL
)
RETURNS SETOF message_store.message LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
  IF pg_catalog.current_setting('message_store.debug_get', true) = 'on'
    OR pg_catalog.current_setting('message_store.debug', true) = 'on' THEN
    RAISE NOTICE 'get_last_stream_message(stream_name: %, type: %)',
      get_last_stream_message.stream_name, get_last_stream_message.type;
  END IF;

  IF get_last_stream_message.type IS NULL THEN
    RETURN QUERY
    SELECT
      m.id::varchar, m.stream_name::varchar, m.type::varchar, m.position,
      m.global_position, m.data::varchar, m.metadata::varchar, m.time
    FROM message_store.messages AS m
    WHERE m.stream_name = get_last_stream_message.stream_name
    ORDER BY m.position DESC
    LIMIT 1;
  ELSE
    RETURN QUERY
    SELECT
      m.id::varchar, m.stream_name::varchar, m.type::varchar, m.position,
      m.global_position, m.data::varchar, m.metadata::varchar, m.time
    FROM message_store.messages AS m
    WHERE m.stream_name = get_last_stream_message.stream_name
      AND m.type = get_last_stream_message.type
    ORDER BY m.position DESC
    LIMIT 1;
  END IF;
END
$$;

-- The condition on the category is a range whose ends are equal, and ORDER BY contains
-- the category, so that the planner has to use the index messages_category. With a plain
-- equality it may scan the whole table by its primary key instead, and does so near the
-- end of the table or with stale statistics. As the same plan is right for every category,
-- plan_cache_mode avoids planning each call.
CREATE FUNCTION message_store.get_category_messages(
  category varchar,
  "position" bigint DEFAULT 1,
  batch_size bigint DEFAULT 1000,
  correlation varchar DEFAULT NULL,
  consumer_group_member bigint DEFAULT NULL,
  consumer_group_size bigint DEFAULT NULL,
  condition varchar DEFAULT NULL
)
RETURNS SETOF message_store.message LANGUAGE plpgsql VOLATILE
SET plan_cache_mode TO force_generic_plan AS $$
#variable_conflict use_column
DECLARE
  from_position bigint := coalesce(get_category_messages.position, 1);
  row_limit bigint := nullif(coalesce(get_category_messages.batch_size, 1000), -1);
  group_size smallint;
BEGIN
  IF NOT message_store.is_category(get_category_messages.category) THEN
    RAISE EXCEPTION 'Must be a category: %', get_category_messages.category;
  END IF;

  IF NOT message_store.is_category(get_category_messages.correlation) THEN
    RAISE EXCEPTION 'Correlation must be a category (Correlation: %)', get_category_messages.correlation;
  END IF;

  IF (consumer_group_member IS NULL) <> (consumer_group_size IS NULL) THEN
    RAISE EXCEPTION 'Consumer group member and size must be specified (Consumer Group Member: %, Consumer Group Size: %)',
      consumer_group_member, consumer_group_size;
  ELSIF consumer_group_size < 1 THEN
    RAISE EXCEPTION 'Consumer group size must not be less than 1 (Consumer Group Member: %, Consumer Group Size: %)',
      consumer_group_member, consumer_group_size;
  ELSIF consumer_group_member < 0 THEN
    RAISE EXCEPTION 'Consumer group member must not be less than 0 (Consumer Group Member: %, Consumer Group Size: %)',
      consumer_group_member, consumer_group_size;
  ELSIF consumer_group_member >= consumer_group_size THEN
    RAISE EXCEPTION 'Consumer group member must be less than the group size (Consumer Group Member: %, Consumer Group Size: %)',
      consumer_group_member, consumer_group_size;
  END IF;

  group_size := consumer_group_size;

  IF pg_catalog.current_setting('message_store.debug_get', true) = 'on'
    OR pg_catalog.current_setting('message_store.debug', true) = 'on' THEN
    RAISE NOTICE 'get_category_messages(category: %, position: %, batch_size: %, correlation: %, consumer_group_member: %, consumer_group_size: %, condition: %)',
      get_category_messages.category, from_position, row_limit, get_category_messages.correlation,
      consumer_group_member, consumer_group_size, get_category_messages.condition;
  END IF;

  IF get_category_messages.condition IS NOT NULL THEN
    IF coalesce(nullif(pg_catalog.current_setting('message_store.sql_condition', true), ''), 'off') = 'off' THEN
      RAISE EXCEPTION 'Retrieval with SQL condition is not activated';
    END IF;

    RETURN QUERY EXECUTE pg_catalog.concat($sql$
      SELECT
        id::varchar, stream_name::varchar, type::varchar, position,
        global_position, data::varchar, metadata::varchar, time
      FROM message_store.messages
      WHERE (message_store.category(stream_name), global_position) >= ($1, $2)
        AND message_store.category(stream_name) <= $1
        AND ($4 IS NULL OR message_store.category(metadata->>'correlationStreamName') = $4)
        AND ($6 IS NULL OR pg_catalog.mod(pg_catalog.abs(message_store.hash_64(message_store.cardinal_id(stream_name))), $6::bigint) = $5)
        AND ($sql$, get_category_messages.condition, $sql$)
      ORDER BY message_store.category(stream_name), global_position
      LIMIT $3$sql$)
    USING get_category_messages.category, from_position, row_limit,
      get_category_messages.correlation, consumer_group_member, group_size;
  ELSIF get_category_messages.correlation IS NULL AND group_size IS NULL THEN
    RETURN QUERY
    SELECT
      m.id::varchar, m.stream_name::varchar, m.type::varchar, m.position,
      m.global_position, m.data::varchar, m.metadata::varchar, m.time
    FROM message_store.messages AS m
    WHERE (message_store.category(m.stream_name), m.global_position) >= (get_category_messages.category, from_position)
      AND message_store.category(m.stream_name) <= get_category_messages.category
    ORDER BY message_store.category(m.stream_name), m.global_position
    LIMIT row_limit;
  ELSIF get_category_messages.correlation IS NULL THEN
    RETURN QUERY
    SELECT
      m.id::varchar, m.stream_name::varchar, m.type::varchar, m.position,
      m.global_position, m.data::varchar, m.metadata::varchar, m.time
    FROM message_store.messages AS m
    WHERE (message_store.category(m.stream_name), m.global_position) >= (get_category_messages.category, from_position)
      AND message_store.category(m.stream_name) <= get_category_messages.category
      AND pg_catalog.mod(pg_catalog.abs(message_store.hash_64(message_store.cardinal_id(m.stream_name))), group_size::bigint)
        = get_category_messages.consumer_group_member
    ORDER BY message_store.category(m.stream_name), m.global_position
    LIMIT row_limit;
  ELSIF group_size IS NULL THEN
    RETURN QUERY
    SELECT
      m.id::varchar, m.stream_name::varchar, m.type::varchar, m.position,
      m.global_position, m.data::varchar, m.metadata::varchar, m.time
    FROM message_store.messages AS m
    WHERE (message_store.category(m.stream_name), m.global_position) >= (get_category_messages.category, from_position)
      AND message_store.category(m.stream_name) <= get_category_messages.category
      AND message_store.category(m.metadata->>'correlationStreamName') = get_category_messages.correlation
    ORDER BY message_store.category(m.stream_name), m.global_position
    LIMIT row_limit;
  ELSE
    RETURN QUERY
    SELECT
      m.id::varchar, m.stream_name::varchar, m.type::varchar, m.position,
      m.global_position, m.data::varchar, m.metadata::varchar, m.time
    FROM message_store.messages AS m
    WHERE (message_store.category(m.stream_name), m.global_position) >= (get_category_messages.category, from_position)
      AND message_store.category(m.stream_name) <= get_category_messages.category
      AND message_store.category(m.metadata->>'correlationStreamName') = get_category_messages.correlation
      AND pg_catalog.mod(pg_catalog.abs(message_store.hash_64(message_store.cardinal_id(m.stream_name))), group_size::bigint)
        = get_category_messages.consumer_group_member
    ORDER BY message_store.category(m.stream_name), m.global_position
    LIMIT row_limit;
  END IF;
END
$$;
