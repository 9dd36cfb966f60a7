package searchpath

// Inspection returns one row: whether functions of Message DB can be seen, whether write_message is
// PL/Proxy's, whether the functions of a shard are, too, whether any depends on the search path, whether that begins with
// message_store, whether it finds another table messages first, and which functions fit some
// calls better; then the path, and the role whose settings apply. It reads only catalogues. It is
// sent without being prepared, because it is used once.
const Inspection = `
WITH
	store AS (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'message_store' AND pg_catalog.has_schema_privilege(oid, 'USAGE')),
	path AS (SELECT nspname, n FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS s(nspname, n) WHERE nspname <> 'pg_catalog')
SELECT
	EXISTS (SELECT FROM pg_catalog.pg_proc AS p JOIN store ON p.pronamespace = store.oid WHERE p.proname = 'write_message'),
	EXISTS (SELECT FROM pg_catalog.pg_proc AS p JOIN store ON p.pronamespace = store.oid JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
		WHERE p.proname = 'write_message' AND l.lanname = 'plproxy'),
	EXISTS (SELECT FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
		WHERE n.nspname = 'message_store_shard' AND p.proname = 'write_messages' AND l.lanname = 'plproxy'
			AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE')),
	EXISTS (` + Dependent + `),
	coalesce((SELECT nspname = 'message_store' FROM path ORDER BY n LIMIT 1), false),
	EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN store ON c.relnamespace = store.oid
		WHERE c.relname = 'messages' AND NOT pg_catalog.pg_table_is_visible(c.oid)),
	-- Of Message DB's functions with one argument, which is a varchar, a text fits these better.
	coalesce((SELECT pg_catalog.string_agg(DISTINCT nspname || '.' || p.proname, ', ')
		FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS ns ON ns.oid = p.pronamespace JOIN path USING (nspname)
		WHERE nspname <> 'message_store' AND p.proargtypes = ARRAY['pg_catalog.text'::pg_catalog.regtype::oid]::oidvector
			AND p.proname IN ('acquire_lock', 'cardinal_id', 'category', 'hash_64', 'id', 'is_category', 'stream_version')), ''),
	pg_catalog.current_setting('search_path'),
	pg_catalog.quote_ident(session_user)`
