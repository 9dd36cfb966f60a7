CREATE VIEW message_store.stream_summary AS
SELECT
  stream_name,
  count(*) AS message_count,
  round(count(*) * 100 / sum(count(*)) OVER (), 2) AS percent
FROM message_store.messages
GROUP BY stream_name
ORDER BY stream_name;

CREATE VIEW message_store.type_summary AS
SELECT
  type,
  count(*) AS message_count,
  round(count(*) * 100 / sum(count(*)) OVER (), 2) AS percent
FROM message_store.messages
GROUP BY type
ORDER BY type;

CREATE VIEW message_store.stream_type_summary AS
SELECT
  stream_name,
  type,
  count(*) AS message_count,
  round(count(*) * 100 / sum(count(*)) OVER (), 2) AS percent
FROM message_store.messages
GROUP BY stream_name, type
ORDER BY stream_name, type;

CREATE VIEW message_store.type_stream_summary AS
SELECT
  type,
  stream_name,
  count(*) AS message_count,
  round(count(*) * 100 / sum(count(*)) OVER (), 2) AS percent
FROM message_store.messages
GROUP BY type, stream_name
ORDER BY type, stream_name;

CREATE VIEW message_store.category_type_summary AS
SELECT
  message_store.category(stream_name) AS category,
  type,
  count(*) AS message_count,
  round(count(*) * 100 / sum(count(*)) OVER (), 2) AS percent
FROM message_store.messages
GROUP BY message_store.category(stream_name), type
ORDER BY message_store.category(stream_name), type;

CREATE VIEW message_store.type_category_summary AS
SELECT
  type,
  message_store.category(stream_name) AS category,
  count(*) AS message_count,
  round(count(*) * 100 / sum(count(*)) OVER (), 2) AS percent
FROM message_store.messages
GROUP BY type, message_store.category(stream_name)
ORDER BY type, message_store.category(stream_name);
