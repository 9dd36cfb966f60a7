package mdb

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// inspection finds everything that Check reports in one statement. It reads only
// catalogues, which every role may read.
var inspection = newStatement("inspect", `
WITH
	schema AS (SELECT oid FROM pg_namespace WHERE nspname = 'message_store'),
	functions AS (SELECT p.oid, p.proname, p.pronargs, p.proargtypes FROM pg_proc AS p JOIN schema ON p.pronamespace = schema.oid),
	relations AS (SELECT c.oid, c.relname, c.relkind FROM pg_class AS c JOIN schema ON c.relnamespace = schema.oid)
SELECT
	(SELECT array_agg(name) FROM unnest(ARRAY[
		'write_message', 'get_stream_messages', 'get_category_messages', 'get_last_stream_message',
		'stream_version', 'acquire_lock', 'message_store_version', 'category', 'is_category', 'id', 'cardinal_id', 'hash_64',
		'messages', 'messages_global_position_seq'
	]) AS name WHERE name NOT IN (SELECT proname FROM functions UNION ALL SELECT relname FROM relations)),
	EXISTS (SELECT FROM functions WHERE proname = 'get_last_stream_message' AND pronargs = 2),
	(SELECT array_agg(what) FROM (
		SELECT 'USAGE on schema message_store' FROM schema WHERE NOT has_schema_privilege(oid, 'USAGE')
		UNION ALL SELECT 'SELECT on messages' FROM relations WHERE relname = 'messages' AND NOT has_table_privilege(oid, 'SELECT')
		UNION ALL SELECT 'INSERT on messages' FROM relations WHERE relname = 'messages' AND NOT has_table_privilege(oid, 'INSERT')
		UNION ALL SELECT 'USAGE on messages_global_position_seq' FROM relations
			WHERE relname = 'messages_global_position_seq'
				-- which fails for anything but a sequence, so it must not be asked first
				AND CASE relkind WHEN 'S' THEN NOT has_sequence_privilege(oid, 'USAGE') END
		UNION ALL SELECT 'EXECUTE on ' || string_agg(proname, ', ') FROM functions
			WHERE NOT has_function_privilege(oid, 'EXECUTE') HAVING count(*) > 0
	) AS missing(what)),
	pg_is_in_recovery(),
	(SELECT s.seqcache FROM pg_sequence AS s JOIN relations AS r ON r.oid = s.seqrelid WHERE r.relname = 'messages_global_position_seq'),
	(SELECT array_agg(name) FROM unnest(ARRAY['messages_id', 'messages_stream', 'messages_category']) AS name
		WHERE NOT EXISTS (SELECT FROM relations AS r JOIN pg_index AS i ON i.indexrelid = r.oid
			WHERE r.relname = name AND i.indisvalid AND (i.indisunique OR name = 'messages_category')))`)

// Check reports whether the database, the role and the connection are set up correctly for
// Message DB. It returns nil if they are. Otherwise the error joins a [*SetupError], with
// a remedy, for each problem:
//
//   - Message DB is not installed, or its version is too old for a feature of this
//     package;
//   - the role lacks a privilege (one for writing may be missing on purpose, if the
//     program only reads);
//   - the installed functions depend on the search path, and that does not begin with
//     message_store, or finds another table messages or functions of the same names first;
//   - the server is a standby, which rejects writes;
//   - the sequence of global positions has a cache, so that messages of a category may
//     become visible in an order other than that of their global positions;
//   - an index is missing or invalid.
//
// It uses one connection, and assumes that the others are configured alike.
func (s *Store) Check(ctx context.Context) error {
	var (
		missing, rights, indexes []string
		lastOfType, standby      bool
		cache                    *int64
	)
	// It runs even if the store must not be used because of the search path.
	runner := &poolRunner{pool: s.pool, mode: s.config.execMode}
	err := runner.run(ctx, inspection, one(&missing, &lastOfType, &rights, &standby, &cache, &indexes))
	if err != nil {
		return explain("check the database", err)
	}
	if len(missing) > 0 {
		return &SetupError{
			Problem: "Message DB is not installed in this database: it lacks " + strings.Join(missing, ", "),
			Remedy:  installRemedy,
		}
	}

	var problems []error
	found := func(problem, remedy string) {
		problems = append(problems, &SetupError{Problem: problem, Remedy: remedy})
	}
	if len(rights) > 0 {
		found("the role lacks "+strings.Join(rights, "; "), "GRANT message_store TO the role that connects")
	}
	path, err := s.lookAtPath(ctx)
	if err != nil {
		return explain("look at the search path", err)
	}
	if err := path.problem(); err != nil {
		problems = append(problems, err)
	}
	if standby {
		found("the server is a standby, which rejects writes", "connect to the primary, for example with target_session_attrs=read-write")
	}
	if cache != nil && *cache > 1 {
		found(fmt.Sprintf("the sequence of global positions has CACHE %d", *cache),
			"ALTER SEQUENCE message_store.messages_global_position_seq CACHE 1")
	}
	if len(indexes) > 0 {
		found("indexes are missing, invalid or not unique: "+strings.Join(indexes, ", "), "REINDEX them, or create them as Message DB's installation does")
	}
	if !lastOfType {
		found("Message DB is older than 1.3.0, so OfType does not work", "upgrade Message DB")
	}
	return errors.Join(problems...)
}
