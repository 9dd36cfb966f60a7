-- Rejects messages of categories that are moved between shards. The row of a category is written under the lock that its
-- writers take, and each of the statements of this function reads what is committed, so a writer that gets the lock
-- later is rejected.
--
-- A transaction of a stricter isolation level may have a snapshot from before the row. So it shares a row that every
-- change of a gate updates, which fails with a serialization failure if the snapshot is older.
CREATE SCHEMA IF NOT EXISTS message_store_shard;

CREATE TABLE IF NOT EXISTS message_store_shard.closed (
  category text PRIMARY KEY,
  shard integer NOT NULL,
  arrives boolean NOT NULL,
  writer xid8,
  returns boolean NOT NULL DEFAULT false -- it had left before it arrives
);

COMMENT ON TABLE message_store_shard.closed IS 'categories that this shard must not write: they have left to another shard, or arrive from it. The transaction writer may';

CREATE TABLE IF NOT EXISTS message_store_shard.changed (
  changes bigint NOT NULL
);

INSERT INTO message_store_shard.changed
SELECT 0 WHERE NOT EXISTS (SELECT FROM message_store_shard.changed);

CREATE OR REPLACE FUNCTION message_store_shard.gate()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
  written text := split_part(NEW.stream_name, '-', 1);
  found_shard integer;
  found_arrives boolean;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    PERFORM FROM message_store_shard.changed FOR SHARE;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'the snapshot is older than the gate' USING ERRCODE = 'serialization_failure';
    END IF;
  END IF;

  SELECT c.shard, c.arrives INTO found_shard, found_arrives
  FROM message_store_shard.closed AS c
  WHERE c.category = written AND c.writer IS DISTINCT FROM pg_current_xact_id();

  IF FOUND THEN
    RAISE EXCEPTION 'the category is moved % shard %', CASE WHEN found_arrives THEN 'from' ELSE 'to' END, found_shard
      USING ERRCODE = 'MD001';
  END IF;
  RETURN NEW;
END
$$;

REVOKE ALL ON message_store_shard.closed, message_store_shard.changed FROM PUBLIC, message_store;
REVOKE ALL ON FUNCTION message_store_shard.gate() FROM PUBLIC;

CREATE OR REPLACE TRIGGER message_store_gate
BEFORE INSERT ON message_store.messages
FOR EACH ROW
EXECUTE FUNCTION message_store_shard.gate();
