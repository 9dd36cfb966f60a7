-- Notifies the subscriptions that wait for the category of a new message. A waiting
-- subscription holds a shared advisory lock for the category. A writer tries to take
-- that lock exclusively, to the end of its transaction. If it cannot, somebody waits, and
-- the trigger's function is called. The key of the lock has two numbers, so it differs
-- from the keys by which Message DB locks categories, which have one.
--
-- The payload is the name of the stream, or empty if the name is too long for a payload.
-- The function does nothing if the notification queue is half full, because a full queue
-- would fail the commit.
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

-- Stores that have found no trigger look for it when they receive this.
NOTIFY message_store, '-trigger';
