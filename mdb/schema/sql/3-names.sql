-- The parts of a stream's name. The bodies are SQL expressions. PostgreSQL resolves the
-- names in them when they are created, so the search path of a caller has no influence,
-- and it inlines them into the queries and index expressions that call them.

CREATE FUNCTION message_store.message_store_version()
RETURNS varchar LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN '1.3.0';
END
$$;

CREATE FUNCTION message_store.category(stream_name varchar)
RETURNS varchar LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN split_part(stream_name, '-', 1)::varchar;

CREATE FUNCTION message_store.is_category(stream_name varchar)
RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(strpos(stream_name, '-') = 0, true);

-- NULL if there is no dash, because the name is that of a category.
CREATE FUNCTION message_store.id(stream_name varchar)
RETURNS varchar LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN strpos(stream_name, '-') > 0
  THEN substr(stream_name, strpos(stream_name, '-') + 1)::varchar
END;

CREATE FUNCTION message_store.cardinal_id(stream_name varchar)
RETURNS varchar LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN split_part(message_store.id(stream_name), '+', 1)::varchar;

-- The first eight bytes of the MD5 as a signed, big-endian number.
CREATE FUNCTION message_store.hash_64(value varchar)
RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ('x' || left(md5(value), 16))::bit(64)::bigint;
