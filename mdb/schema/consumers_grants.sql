GRANT USAGE ON SCHEMA message_store_consumers TO message_store;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA message_store_consumers TO message_store;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA message_store_consumers TO message_store;
