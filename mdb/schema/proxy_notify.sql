-- Sends a notification to the shard with the number, in the session in which the proxy also
-- writes there. A store with WithNotify proves by it that the connection on which it listens is
-- to that shard. Who has moved a category notifies the shard that it was on of '-placement',
-- after the commit that changes message_store_proxy.placement.
CREATE OR REPLACE FUNCTION message_store_proxy.notify(shard integer, payload text)
RETURNS text LANGUAGE plproxy AS $$
  CLUSTER 'message_store_shards';
  RUN ON shard;
  SELECT pg_catalog.pg_notify('message_store', payload)::text;
$$;
