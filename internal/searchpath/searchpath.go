// Package searchpath says which of the installed functions of Message DB depend on the
// search path of the session that calls them. Message DB's own functions do, because they
// do not name the schema of the table and of the functions that they use. Those that
// package schema installs do not.
package searchpath

// Dependent selects the functions that depend on the search path, as oid, proname and
// proargtypes. A function does not depend on it if it sets one of its own, or if the names
// in it were resolved when it was created. Otherwise its body decides: whether it contains
// the table or a function without a schema. A name after an apostrophe, or with a space
// before the parenthesis, is not taken for a call, because functions mention names like that
// in the texts that they raise.
//
// The regular expressions contain no backslash, so that their meaning does not depend on
// standard_conforming_strings.
const Dependent = `SELECT p.oid, p.proname, p.proargtypes
FROM pg_catalog.pg_proc AS p
JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang,
LATERAL pg_catalog.regexp_replace(
	pg_catalog.regexp_replace(p.prosrc, '/[*].*?[*]/', ' ', 'g'), -- comments
	'--[^' || pg_catalog.chr(10) || ']*', ' ', 'g'
) AS body
WHERE n.nspname = 'message_store'
	AND p.proname IN (
		'write_message', 'get_stream_messages', 'get_category_messages', 'get_last_stream_message',
		'stream_version', 'acquire_lock', 'category', 'is_category', 'id', 'cardinal_id', 'hash_64'
	)
	AND l.lanname IN ('plpgsql', 'sql')
	AND p.prosqlbody IS NULL
	AND NOT EXISTS (SELECT FROM pg_catalog.unnest(p.proconfig) AS setting WHERE setting LIKE 'search_path=%')
	AND (
		body ~* '(^|[^.''"[:alnum:]_$])"?(acquire_lock|cardinal_id|category|hash_64|id|is_category|stream_version|write_message|get_stream_messages|get_category_messages|get_last_stream_message)"?[(]'
		OR body ~* '(^|[^[:alnum:]_$])(from|join|into|update|only)[[:space:]]+"?messages"?([^.[:alnum:]_$]|$)'
	)`
