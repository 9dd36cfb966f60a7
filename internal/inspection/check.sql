-- Returns a row for each problem: what is wrong, and the remedy. A last row without a
-- problem says that the role can compare the sequence with the table. The query reads only
-- catalogues, which every role may read, and runs on PostgreSQL 14 and later.
--
-- $1 is true if the program only reads, $2 if the client receives values as text.
--
-- Functions are qualified, because a function of a schema in the search path could fit the
-- arguments better. MATERIALIZED makes the server look up names before it asks for the
-- privileges or the versions of what it has found, which is slow for all that there is.
WITH
	schema AS (SELECT oid, nspowner, nspacl FROM pg_catalog.pg_namespace WHERE nspname = 'message_store'),
	functions AS MATERIALIZED (
		SELECT p.oid, p.proname, p.proargtypes, p.pronargs, p.proowner, p.prosecdef
		FROM pg_catalog.pg_proc AS p JOIN schema ON p.pronamespace = schema.oid
		WHERE p.proname = ANY (ARRAY[
			'write_message', 'get_stream_messages', 'get_category_messages', 'get_last_stream_message',
			'stream_version', 'acquire_lock', 'message_store_version', 'category', 'is_category', 'id', 'cardinal_id', 'hash_64',
			'notify_subscriptions'])
	),
	relations AS MATERIALIZED (
		SELECT c.oid, c.relname, c.relkind, c.relpersistence, c.relowner
		FROM pg_catalog.pg_class AS c JOIN schema ON c.relnamespace = schema.oid
		WHERE c.relname = ANY (ARRAY[
			'messages', 'messages_global_position_seq', 'messages_pkey', 'messages_id', 'messages_stream', 'messages_category',
			'category_type_summary', 'stream_summary', 'stream_type_summary', 'type_category_summary', 'type_stream_summary', 'type_summary'])
	),
	messages AS (SELECT * FROM relations WHERE relname = 'messages'),
	sequence AS (SELECT s.*, r.relpersistence FROM relations AS r JOIN pg_catalog.pg_sequence AS s ON s.seqrelid = r.oid WHERE r.relname = 'messages_global_position_seq'),
	store AS (SELECT (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = 'message_store') AS role),

	missing AS (
		SELECT pg_catalog.string_agg(name, ', ') AS names
		FROM unnest(ARRAY[
			'write_message', 'get_stream_messages', 'get_category_messages', 'get_last_stream_message',
			'stream_version', 'acquire_lock', 'message_store_version', 'category', 'is_category', 'id', 'cardinal_id', 'hash_64',
			'messages', 'messages_global_position_seq']) AS name
		WHERE name NOT IN (SELECT proname FROM functions UNION ALL SELECT relname FROM relations)
	),

	-- has: the role has the privilege. shared: so has message_store, NULL if it does not exist.
	privileges(name, write, has, shared) AS (
		SELECT 'USAGE on schema message_store', false, pg_catalog.has_schema_privilege(oid, 'USAGE'), pg_catalog.has_schema_privilege(role, oid, 'USAGE') FROM schema, store
		UNION ALL SELECT 'SELECT on messages', false, pg_catalog.has_table_privilege(oid, 'SELECT'), pg_catalog.has_table_privilege(role, oid, 'SELECT') FROM messages, store
		UNION ALL SELECT 'INSERT on messages', true, pg_catalog.has_table_privilege(oid, 'INSERT'), pg_catalog.has_table_privilege(role, oid, 'INSERT') FROM messages, store
		UNION ALL SELECT 'USAGE on messages_global_position_seq', true, pg_catalog.has_sequence_privilege(seqrelid, 'USAGE'), pg_catalog.has_sequence_privilege(role, seqrelid, 'USAGE') FROM sequence, store
		UNION ALL SELECT 'EXECUTE on ' || proname, proname = 'write_message' OR proname = 'acquire_lock', pg_catalog.has_function_privilege(oid, 'EXECUTE'), pg_catalog.has_function_privilege(role, oid, 'EXECUTE')
			FROM functions, store WHERE proname <> 'notify_subscriptions'
	),
	lacking AS (
		SELECT pg_catalog.string_agg(name, ', ') AS names, pg_catalog.bool_and(shared) AS shared, pg_catalog.bool_or(name LIKE 'SELECT %' OR name LIKE 'USAGE %') AS blind
		FROM privileges WHERE NOT has AND NOT (write AND $1::bool)
	),

	columns(name, types, write, without) AS (VALUES
		('global_position', ARRAY['bigint'], false, false),
		('position', ARRAY['bigint'], true, false),
		('time', ARRAY['timestamp'], false, false),
		('stream_name', ARRAY['text', 'varchar'], true, false),
		('type', ARRAY['text', 'varchar'], true, false),
		('data', ARRAY['jsonb'], true, true),
		('metadata', ARRAY['jsonb'], true, true),
		('id', ARRAY['uuid'], true, false)
	),
	attributes AS (
		SELECT a.* FROM pg_catalog.pg_attribute AS a JOIN messages ON a.attrelid = messages.oid WHERE a.attnum > 0 AND NOT a.attisdropped
	),

	indexes(name, columns, sole, statement) AS (VALUES
		('messages_pkey', ARRAY['global_position'], true, 'ALTER TABLE message_store.messages ADD CONSTRAINT messages_pkey PRIMARY KEY (global_position)'),
		('messages_id', ARRAY['id'], true, 'CREATE UNIQUE INDEX messages_id ON message_store.messages (id)'),
		('messages_stream', ARRAY['stream_name', 'position'], true, 'CREATE UNIQUE INDEX messages_stream ON message_store.messages (stream_name, position)'),
		('messages_category', ARRAY[NULL, 'global_position', NULL], false,
			'CREATE INDEX messages_category ON message_store.messages (message_store.category(stream_name), global_position, message_store.category(metadata->>''correlationStreamName''))')
	),
	indexed AS (
		SELECT x.*, i.indexrelid IS NOT NULL AS found, i.indisvalid AND i.indisready AS valid,
			(i.indisunique OR NOT x.sole) AND i.indimmediate AND i.indpred IS NULL
				AND x.columns IS NOT DISTINCT FROM (
					SELECT pg_catalog.array_agg(a.attname::text ORDER BY k.n)
					FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n) LEFT JOIN attributes AS a ON a.attnum = k.attnum
					WHERE k.n <= i.indnkeyatts)
				AND (x.sole OR pg_catalog.pg_get_expr(i.indexprs, i.indrelid) LIKE '%category%stream_name%category%correlationStreamName%') AS fits
		FROM indexes AS x
		JOIN messages AS m ON m.relkind = 'r'
		LEFT JOIN (relations AS r JOIN pg_catalog.pg_index AS i ON i.indexrelid = r.oid) ON r.relname = x.name AND i.indrelid = m.oid
	),

	-- What rejects writes that Message DB's own indexes let pass. A unique index whose columns
	-- include those of one of these does not.
	rejecting(kind, name, remedy) AS (
		SELECT 'constraint', c.conname, ' DROP CONSTRAINT '
		FROM pg_catalog.pg_constraint AS c JOIN messages AS m ON c.conrelid = m.oid AND m.relkind = 'r'
		WHERE c.contype IN ('c', 'f', 'x') AND pg_catalog.to_jsonb(c)->>'conenforced' IS DISTINCT FROM 'false'
		UNION ALL SELECT 'unique index', r.relname, CASE WHEN c.oid IS NOT NULL THEN ' DROP CONSTRAINT ' END
		FROM pg_catalog.pg_index AS i JOIN messages AS m ON i.indrelid = m.oid AND m.relkind = 'r'
		JOIN pg_catalog.pg_class AS r ON r.oid = i.indexrelid
		LEFT JOIN pg_catalog.pg_constraint AS c ON c.conindid = r.oid AND c.conrelid = m.oid AND c.contype IN ('p', 'u', 'x')
		WHERE i.indisunique AND c.contype IS DISTINCT FROM 'x' AND r.relname NOT IN (SELECT name FROM indexes)
			AND NOT EXISTS (SELECT FROM indexes AS x WHERE x.sole AND x.columns <@ (
				SELECT pg_catalog.array_agg(a.attname::text) FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
				JOIN attributes AS a ON a.attnum = k.attnum WHERE k.n <= i.indnkeyatts))
	),

	collations AS MATERIALIZED (
		SELECT * FROM pg_catalog.pg_collation
		WHERE oid IN (SELECT attcollation FROM pg_catalog.pg_attribute WHERE attrelid IN (SELECT oid FROM relations))
	),

	-- A policy for everybody that lets every row pass has no effect.
	row_security AS (
		SELECT FROM messages AS m
		WHERE pg_catalog.row_security_active(m.oid) AND (
			EXISTS (SELECT FROM pg_catalog.pg_policy AS p WHERE p.polrelid = m.oid AND NOT p.polpermissive)
			OR NOT EXISTS (SELECT FROM pg_catalog.pg_policy AS p WHERE p.polrelid = m.oid AND p.polcmd IN ('*', 'r') AND p.polroles = '{0}' AND pg_catalog.pg_get_expr(p.polqual, m.oid) = 'true')
			OR NOT $1::bool AND NOT EXISTS (SELECT FROM pg_catalog.pg_policy AS p WHERE p.polrelid = m.oid AND p.polcmd IN ('*', 'a') AND p.polroles = '{0}'
				AND pg_catalog.pg_get_expr(coalesce(p.polwithcheck, p.polqual), m.oid) = 'true'))
	),

	-- Owners who could replace what others call. Trusted are superusers, the owner of the
	-- table, its members, and the roles of which it is a member.
	owned(owner, what, statement) AS (
		SELECT nspowner, 'the schema message_store', 'ALTER SCHEMA message_store' FROM schema
		UNION ALL SELECT proowner, 'the function ' || proname, 'ALTER FUNCTION message_store.' || proname || '(' || pg_catalog.oidvectortypes(proargtypes) || ')' FROM functions
		UNION ALL SELECT relowner, 'the view ' || relname, 'ALTER VIEW message_store.' || relname FROM relations WHERE relkind = 'v'
	),
	strangers AS (
		SELECT pg_catalog.pg_get_userbyid(o.owner) AS owner, pg_catalog.string_agg(o.what, ', ') AS what,
			pg_catalog.string_agg(o.statement || ' OWNER TO ' || pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(m.relowner)), '; ') AS remedy
		FROM owned AS o, messages AS m JOIN pg_catalog.pg_roles AS r ON r.oid = m.relowner
		WHERE NOT pg_catalog.pg_has_role(o.owner, m.relowner, 'MEMBER') AND (r.rolsuper OR NOT pg_catalog.pg_has_role(m.relowner, o.owner, 'MEMBER'))
		GROUP BY o.owner
	),

	notify AS (
		SELECT t.tgenabled FROM pg_catalog.pg_trigger AS t JOIN messages AS m ON t.tgrelid = m.oid WHERE t.tgname = 'message_store_notify'
	),

	problems(problem, remedy) AS (
		SELECT 'the role ' || pg_catalog.quote_ident(current_user) || ' lacks ' || names,
			CASE
				WHEN role IS NULL OR shared IS NOT TRUE THEN
					CASE WHEN role IS NULL THEN 'the role message_store does not exist: ' ELSE 'the role message_store lacks them too: ' END
					|| 'run mdb install or schema.Install as the owner of the table messages'
					|| CASE WHEN role IS NULL OR NOT pg_catalog.pg_has_role(role, 'MEMBER') THEN ', and then GRANT message_store TO ' || pg_catalog.quote_ident(current_user) ELSE '' END
				WHEN NOT pg_catalog.pg_has_role(role, 'MEMBER') THEN 'GRANT message_store TO ' || pg_catalog.quote_ident(current_user)
				WHEN pg_catalog.current_setting('server_version_num')::int < 160000 THEN
					'ALTER ROLE ' || pg_catalog.quote_ident(current_user) || ' INHERIT, because it is a member of message_store that does not inherit its privileges'
				ELSE 'GRANT message_store TO ' || pg_catalog.quote_ident(current_user) || ' WITH INHERIT TRUE, because it is a member of message_store that does not inherit its privileges'
			END
		FROM lacking, store WHERE names IS NOT NULL

		UNION ALL SELECT 'the server is a standby, which rejects writes', 'connect to the primary, for example with target_session_attrs=read-write'
		WHERE pg_catalog.pg_is_in_recovery() AND NOT $1::bool
		UNION ALL SELECT 'transactions are read-only, because of the setting default_transaction_read_only',
			'set default_transaction_read_only to off where it is on: for the role, the database or the server, or in the connection string'
		WHERE pg_catalog.current_setting('default_transaction_read_only') = 'on' AND NOT $1::bool

		UNION ALL SELECT 'acknowledged messages may be lost in a crash of the server, because of the settings ' || names,
			'set them to on, or set message_store.allow_loss to on where messages may be lost, as on a server for tests'
		FROM (
			SELECT pg_catalog.string_agg(name || ' = off', ', ') AS names FROM unnest(ARRAY['fsync', 'full_page_writes', 'synchronous_commit']) AS name
			WHERE pg_catalog.current_setting(name) = 'off'
		) AS settings
		WHERE names IS NOT NULL AND pg_catalog.current_setting('message_store.allow_loss', true) IS DISTINCT FROM 'on'
		UNION ALL SELECT 'a write is reported as done if its wait for a synchronous standby is cancelled, because ' || reason, remedy
		FROM (VALUES
			(NOT $3::bool, 'the notices of the server do not reach the store', 'prepare the pool''s configuration with Configure, and set its OnNotice before that'),
			(pg_catalog.current_setting('client_min_messages') = 'error', 'the setting client_min_messages is error', 'set client_min_messages to warning')
		) AS unnoticed(holds, reason, remedy)
		WHERE holds AND NOT $1::bool AND pg_catalog.current_setting('synchronous_standby_names') <> '' AND pg_catalog.current_setting('synchronous_commit') NOT IN ('off', 'local')
		UNION ALL SELECT 'a crash of the server empties the table messages, because it is unlogged', 'ALTER TABLE message_store.messages SET LOGGED'
		FROM messages WHERE relpersistence = 'u'
		UNION ALL SELECT 'a crash of the server resets the sequence of global positions, because it is unlogged', 'ALTER SEQUENCE message_store.messages_global_position_seq SET LOGGED'
		FROM sequence WHERE relpersistence = 'u'
		UNION ALL SELECT 'the database must be vacuumed, or the server will soon reject all writes to prevent the wraparound of transaction IDs', 'VACUUM'
		FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database() AND pg_catalog.age(datfrozenxid) > 2100000000
		UNION ALL SELECT 'the database must be vacuumed, or the server will soon reject statements that lock rows, to prevent the wraparound of multixact IDs', 'VACUUM'
		FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database() AND pg_catalog.mxid_age(datminmxid) > 2100000000

		UNION ALL SELECT 'the encoding of the database is ' || encoding || ', so messages with characters that it lacks are rejected'
				|| CASE encoding WHEN 'SQL_ASCII' THEN ', and other programs may write what is not UTF-8' ELSE '' END,
			'create the database with ENCODING UTF8 and TEMPLATE template0, and move the messages to it'
		FROM pg_catalog.current_setting('server_encoding') AS encoding WHERE encoding <> 'UTF8'
		UNION ALL SELECT 'the client encoding is ' || encoding || ', so text is stored and read wrongly', 'set client_encoding to UTF8, as Configure does'
		FROM pg_catalog.current_setting('client_encoding') AS encoding WHERE encoding <> 'UTF8'
		UNION ALL SELECT 'the date style is ' || style || ', so times cannot be read in the exec mode of the pool', 'set DateStyle to ISO, as Configure does'
		FROM pg_catalog.current_setting('DateStyle') AS style WHERE $2::bool AND style NOT LIKE 'ISO%'
		UNION ALL SELECT 'the setting array_nulls is off, so batches that contain a message without data or metadata are rejected in the exec mode of the pool',
			'set array_nulls to on, as Configure does, or ALTER ROLE ' || pg_catalog.quote_ident(session_user) || ' SET array_nulls = on'
		WHERE $2::bool AND NOT $1::bool AND pg_catalog.current_setting('array_nulls') = 'off'
		UNION ALL SELECT 'the setting message_store.sql_condition is on for all reads', 'set it to off, as Configure does, or ALTER ROLE ... SET message_store.sql_condition = off'
		WHERE pg_catalog.current_setting('message_store.sql_condition', true) NOT IN ('', 'off')

		UNION ALL SELECT 'messages is not an ordinary table but a '
				|| CASE relkind WHEN 'p' THEN 'partitioned table' WHEN 'f' THEN 'foreign table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'relation of another kind' END
				|| ', which cannot have the indexes that keep IDs and positions unique',
			'move the messages to a table that mdb install or schema.Install creates'
		FROM messages WHERE relkind <> 'r'
		UNION ALL SELECT 'row-level security hides messages from the role ' || pg_catalog.quote_ident(current_user) || ', or rejects its writes',
			'ALTER TABLE message_store.messages DISABLE ROW LEVEL SECURITY, or create policies for all rows: FOR ALL TO PUBLIC USING (true)'
		FROM row_security
		UNION ALL SELECT 'the rule ' || pg_catalog.quote_ident(r.rulename) || ' does something else instead of writing messages', 'DROP RULE ' || pg_catalog.quote_ident(r.rulename) || ' ON message_store.messages'
		FROM pg_catalog.pg_rewrite AS r JOIN messages AS m ON r.ev_class = m.oid
		WHERE r.ev_type = '3' AND r.is_instead AND r.ev_enabled <> 'D' AND m.relkind = 'r'

		UNION ALL SELECT 'the trigger ' || pg_catalog.quote_ident(t.tgname) || ' can discard messages whose write succeeds, because its function returns NULL',
			'let the function return NEW, or ALTER TABLE message_store.messages DISABLE TRIGGER ' || pg_catalog.quote_ident(t.tgname)
		FROM pg_catalog.pg_trigger AS t JOIN messages AS m ON t.tgrelid = m.oid JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
		-- 7 is FOR EACH ROW BEFORE INSERT.
		WHERE t.tgtype & 7 = 7 AND p.prosrc ~* 'return\s+null\s*;' AND p.prosrc !~* 'tg_op' -- that may be for other statements
			AND t.tgenabled IN ('A', CASE pg_catalog.current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END)
		UNION ALL SELECT 'the table ' || child || ' inherits from messages, so its rows are read as messages, although their IDs and positions may exist in messages',
			'ALTER TABLE ' || child || ' NO INHERIT message_store.messages'
		FROM messages AS m JOIN pg_catalog.pg_inherits AS i ON i.inhparent = m.oid AND m.relkind = 'r'
		JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace,
			LATERAL (SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)) AS name(child)
		UNION ALL SELECT 'some writes are rejected by the ' || kind || ' ' || pg_catalog.quote_ident(name) || ', which Message DB does not have',
			coalesce('ALTER TABLE message_store.messages' || remedy || pg_catalog.quote_ident(name), 'DROP INDEX message_store.' || pg_catalog.quote_ident(name))
		FROM rejecting WHERE NOT $1::bool
		UNION ALL SELECT 'the subscription ' || pg_catalog.quote_ident(s.subname) || ' of logical replication writes to the table messages, and stops at a message whose position was already used by a write to this server',
			'write to the server that it subscribes to, or, if this server replaces that one, ALTER SUBSCRIPTION ' || pg_catalog.quote_ident(s.subname) || ' DISABLE'
		FROM pg_catalog.pg_subscription_rel AS r JOIN messages AS m ON r.srrelid = m.oid JOIN pg_catalog.pg_subscription AS s ON s.oid = r.srsubid
		WHERE s.subenabled AND NOT $1::bool
		-- A function that locks without calling acquire_lock is correct, too.
		UNION ALL SELECT 'the function ' || f.proname || ' does not lock the category, so positions may be used twice, and subscriptions miss messages',
			'replace the function by that of Message DB, which mdb install -print prints'
		FROM functions AS f JOIN pg_catalog.pg_proc AS p USING (oid) JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
		WHERE l.lanname IN ('sql', 'plpgsql') AND p.prokind = 'f' AND pg_catalog.pg_get_functiondef(f.oid) !~* 'pg_advisory_(xact_)?lock\s*\(|lock\s+table|for\s+update'
			AND (f.proname = 'acquire_lock' AND f.pronargs = 1
				OR f.proname = 'write_message' AND f.pronargs = 6 AND pg_catalog.pg_get_functiondef(f.oid) !~* 'acquire_lock' AND pg_catalog.pg_get_functiondef(f.oid) ~* 'insert\s+into')

		UNION ALL SELECT 'the table messages lacks the column ' || c.name, 'ALTER TABLE message_store.messages ADD COLUMN ' || c.name || ' ' || c.types[1]
		FROM columns AS c WHERE c.name NOT IN (SELECT attname FROM attributes)
		UNION ALL SELECT 'the column ' || c.name || ' has the type ' || pg_catalog.format_type(a.atttypid, a.atttypmod) || ', not ' || c.types[1],
			'ALTER TABLE message_store.messages ALTER COLUMN ' || c.name || ' TYPE ' || c.types[1]
		FROM columns AS c JOIN attributes AS a ON a.attname = c.name
		WHERE a.atttypid <> ALL (c.types::pg_catalog.regtype[]) OR a.atttypmod <> -1 AND c.name <> 'time'
		-- A trigger may fill the column before it is checked.
		UNION ALL SELECT 'writes ' || CASE WHEN c.without THEN 'without ' || c.name || ' ' ELSE '' END || 'are rejected, because the column ' || pg_catalog.quote_ident(a.attname) || ' is NOT NULL and has no default',
			'ALTER TABLE message_store.messages ALTER COLUMN ' || pg_catalog.quote_ident(a.attname)
				|| CASE a.attname WHEN 'global_position' THEN ' SET DEFAULT nextval(''message_store.messages_global_position_seq'')'
					WHEN 'time' THEN ' SET DEFAULT (now() AT TIME ZONE ''utc'')' ELSE ' DROP NOT NULL' END
		FROM attributes AS a LEFT JOIN columns AS c ON c.name = a.attname
		WHERE a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND (c.write IS NOT TRUE OR c.without)
			AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = a.attrelid AND t.tgtype & 7 = 7 AND t.tgenabled IN ('O', 'A'))
		UNION ALL SELECT 'global positions are not taken from the sequence messages_global_position_seq',
			'ALTER TABLE message_store.messages ALTER COLUMN global_position SET DEFAULT nextval(''message_store.messages_global_position_seq'')'
		FROM attributes AS a JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		WHERE a.attname = 'global_position' AND pg_catalog.pg_get_expr(d.adbin, d.adrelid) NOT LIKE 'nextval(%messages_global_position_seq%'

		UNION ALL SELECT 'the sequence of global positions has CACHE ' || seqcache || ', so messages become visible in another order than that of their global positions',
			'ALTER SEQUENCE message_store.messages_global_position_seq CACHE 1'
		FROM sequence WHERE seqcache > 1
		UNION ALL SELECT 'the sequence of global positions has INCREMENT ' || seqincrement || ', so subscriptions miss messages', 'ALTER SEQUENCE message_store.messages_global_position_seq INCREMENT 1'
		FROM sequence WHERE seqincrement < 0
		UNION ALL SELECT 'the sequence of global positions starts again after its maximum, because it has CYCLE', 'ALTER SEQUENCE message_store.messages_global_position_seq NO CYCLE'
		FROM sequence WHERE seqcycle

		UNION ALL SELECT 'the index ' || name || ' is missing', statement FROM indexed WHERE NOT found
		UNION ALL SELECT 'the index ' || name || ' is not unique, or not on the columns of Message DB',
			CASE name WHEN 'messages_pkey' THEN 'ALTER TABLE message_store.messages DROP CONSTRAINT messages_pkey' ELSE 'DROP INDEX message_store.' || name END || '; ' || statement
		FROM indexed WHERE found AND NOT fits
		UNION ALL SELECT 'the index ' || name || ' is invalid, because its creation failed', 'REINDEX INDEX message_store.' || name
		FROM indexed WHERE found AND fits AND NOT valid
		UNION ALL SELECT DISTINCT 'the collation ' || pg_catalog.quote_ident(c.collname) || ' of the table messages is not deterministic, so different names of streams may be equal',
			'ALTER TABLE message_store.messages ALTER COLUMN stream_name TYPE text, ALTER COLUMN type TYPE text'
		FROM attributes AS a JOIN pg_catalog.pg_collation AS c ON c.oid = a.attcollation WHERE NOT c.collisdeterministic
		UNION ALL SELECT 'the collation ' || pg_catalog.quote_ident(c.collname) || ' has changed from version ' || c.collversion || ' to ' || coalesce(actual, 'none')
				|| ' since the indexes were built, so messages may not be found and positions may be used twice',
			'REINDEX TABLE message_store.messages; ALTER COLLATION ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.collname) || ' REFRESH VERSION'
		FROM collations AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.collnamespace, LATERAL pg_catalog.pg_collation_actual_version(c.oid) AS actual
		WHERE c.collversion IS DISTINCT FROM actual AND c.collversion IS NOT NULL

		UNION ALL SELECT 'the role ' || pg_catalog.quote_ident(owner) || ' can replace what others call, because it owns ' || what, remedy FROM strangers
		UNION ALL SELECT CASE acl.grantee WHEN 0 THEN 'every role' ELSE 'every member of message_store' END || ' can create functions that others then call, because of CREATE on the schema message_store',
			'REVOKE CREATE ON SCHEMA message_store FROM ' || CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE 'message_store' END
		FROM schema, store, messages AS m, LATERAL pg_catalog.aclexplode(schema.nspacl) AS acl
		WHERE acl.privilege_type = 'CREATE' AND (acl.grantee = 0 OR acl.grantee = role AND role NOT IN (schema.nspowner, m.relowner))
		UNION ALL SELECT 'conditions run with the privileges of the owner of the function ' || proname || ', because it is SECURITY DEFINER',
			'ALTER FUNCTION message_store.' || proname || '(' || pg_catalog.oidvectortypes(proargtypes) || ') SECURITY INVOKER'
		FROM functions WHERE prosecdef AND proname IN ('get_stream_messages', 'get_category_messages')

		UNION ALL SELECT 'the NOTIFY trigger is disabled, so subscriptions poll', 'ALTER TABLE message_store.messages ENABLE TRIGGER message_store_notify'
		FROM notify WHERE tgenabled NOT IN ('O', 'A')
		UNION ALL SELECT 'the NOTIFY trigger does not fire for the writes of this connection, because session_replication_role is replica', 'set session_replication_role to origin'
		FROM notify WHERE tgenabled = 'O' AND pg_catalog.current_setting('session_replication_role') = 'replica'

		UNION ALL SELECT 'Message DB is older than 1.3.0, so OfType does not work', 'upgrade Message DB'
		WHERE NOT EXISTS (SELECT FROM functions WHERE proname = 'get_last_stream_message' AND pronargs = 2)
	)
SELECT 'Message DB is not installed in this database: it lacks ' || names, 'install it with the command mdb install, or with schema.Install of package mdb/schema'
FROM missing WHERE names IS NOT NULL
UNION ALL SELECT problem, remedy FROM problems, missing WHERE names IS NULL
UNION ALL SELECT NULL, '' FROM messages, sequence, missing, lacking
WHERE missing.names IS NULL AND lacking.blind IS NOT TRUE AND messages.relkind = 'r'
	AND pg_catalog.has_sequence_privilege(seqrelid, 'SELECT')
	-- Without the index, the highest position is slow to find.
	AND EXISTS (SELECT FROM indexed WHERE name = 'messages_pkey' AND fits AND valid)
