-- Rings for the subscriptions that sleep on the category that is written to. They
-- share its key, so a writer that cannot take the key for itself, to the end of its
-- transaction, has somebody to ring for; while nobody sleeps the function is not even
-- entered. The key is in the space of two numbers, apart from the single numbers that
-- Message DB locks categories by.
--
-- The payload is the stream's name, or nothing if that is too long for one. A queue
-- that is half full is left alone: a full one would fail the commit.
CREATE OR REPLACE FUNCTION message_store.notify_subscriptions()
RETURNS trigger LANGUAGE plpgsql
SET search_path TO pg_catalog, pg_temp AS $$
BEGIN
  IF pg_notification_queue_usage() < 0.5 THEN
    PERFORM pg_notify('message_store', CASE WHEN octet_length(NEW.stream_name) < 8000 THEN NEW.stream_name ELSE '' END);
  END IF;
  RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER message_store_notify
AFTER INSERT ON message_store.messages
FOR EACH ROW
WHEN (NOT pg_catalog.pg_try_advisory_xact_lock(1296319044, pg_catalog.hashtext(pg_catalog.split_part(NEW.stream_name, '-', 1))))
EXECUTE FUNCTION message_store.notify_subscriptions();
