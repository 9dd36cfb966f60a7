// Package inspection has the statements of Store.Check of package mdb. Through a proxy they run in a
// function that package schema installs on each shard.
package inspection

import _ "embed" // the statement

// Check returns a problem and a remedy in each row, as its comment says.
//
//go:embed check.sql
var Check string

const (
	// Sequence compares the sequence with the table, so it needs privileges on both.
	// The server reads the sequence after it has taken the snapshot for the table, so the
	// next position is greater than those in the table unless the sequence is wrong.
	Sequence = `
WITH state AS (
	SELECT s.last_value, q.seqstart % q.seqincrement AS number, s.last_value::numeric + CASE WHEN s.is_called THEN q.seqincrement ELSE 0 END AS next, q.seqincrement, q.seqmax::numeric, q.seqmin::numeric,
		(SELECT pg_catalog.max(global_position) FROM message_store.messages) AS highest
	FROM message_store.messages_global_position_seq AS s, pg_catalog.pg_sequence AS q
	WHERE q.seqrelid = 'message_store.messages_global_position_seq'::pg_catalog.regclass
)
SELECT 'the next global position is ' || next || ', but the store contains ' || highest || ', so writes fail, or subscriptions miss what is written',
	CASE seqincrement WHEN 1024 THEN 'mdb install -shard ' || number ELSE $$` + SequenceRemedy + `$$ END
FROM state WHERE seqincrement > 0 AND next <= highest
UNION ALL SELECT 'the next global position is ' || next || ', which is not one of shard ' || number || ', so two shards may use the same positions',
	'stop all writers, and run mdb install -shard ' || number
FROM state WHERE seqincrement = 1024 AND next % seqincrement <> number
UNION ALL SELECT 'the next global position is ' || next || ', but reads begin at 1, so messages are not read',
	'ALTER SEQUENCE message_store.messages_global_position_seq MINVALUE 1 START 1 RESTART'
FROM state WHERE seqincrement > 0 AND next < 1 AND (highest < next) IS NOT FALSE
UNION ALL SELECT 'the next global position is ' || next || ', and writes fail after the maximum of the sequence, ' || seqmax,
	'ALTER SEQUENCE message_store.messages_global_position_seq AS bigint NO MAXVALUE'
FROM state WHERE seqincrement > 0 AND next > seqmax - (seqmax - seqmin) / 10`

	// Collation finds a collation of the operating system or of ICU that has changed.
	// PostgreSQL records the version of a database's collation since version 15.
	Collation = `
SELECT 'the collation of the database has changed from version ' || datcollversion || ' to ' || coalesce(actual, 'none')
		|| ' since the indexes were built, so messages may not be found and positions may be used twice',
	'REINDEX DATABASE ' || pg_catalog.quote_ident(datname) || '; ALTER DATABASE ' || pg_catalog.quote_ident(datname) || ' REFRESH COLLATION VERSION'
FROM pg_catalog.pg_database, LATERAL pg_catalog.pg_database_collation_actual_version(oid) AS actual
WHERE datname = pg_catalog.current_database() AND datcollversion IS NOT NULL AND datcollversion IS DISTINCT FROM actual`
)

// SequenceRemedy corrects a sequence that is lower than the positions in the table, as after an
// import or after logical replication.
const SequenceRemedy = "SELECT setval('message_store.messages_global_position_seq', max(global_position)) FROM message_store.messages"
