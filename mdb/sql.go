package mdb

import (
	"fmt"
	"hash/fnv"
)

// A statement is SQL with the name under which it is prepared.
type statement struct{ name, sql string }

// newStatement makes a hash of the SQL part of the name, because a connection may be shared
// with another version of this package.
func newStatement(name, sql string) *statement {
	h := fnv.New32a()
	h.Write([]byte(sql))
	return &statement{name: fmt.Sprintf("mdb_%s_%08x", name, h.Sum32()), sql: sql}
}

// The columns are named, because their order is not part of Message DB's contract. The
// arguments of statements are cast, because in some exec modes the client sends no types.
const messageColumns = `SELECT id, stream_name, type, position, global_position, data, metadata, time FROM `

// writtenGlobalPosition is NULL if the sequence does not exist or the role may not read
// it, for example if the functions are a proxy's.
const writtenGlobalPosition = `CASE WHEN has_sequence_privilege(to_regclass('message_store.messages_global_position_seq'), 'USAGE, SELECT')
	THEN currval(to_regclass('message_store.messages_global_position_seq')) END`

// writtenTime is the value that the column time gets by default, in microseconds, which
// no setting of the session changes the format of.
const writtenTime = `(extract(epoch FROM now()) * 1000000)::bigint`

// rowTime is the same of a row of the table. It is NULL if the time has no such number.
const rowTime = `CASE WHEN isfinite(%[1]s) THEN (extract(epoch FROM %[1]s) * 1000000)::bigint END`

// missingStream is true if the stream does not exist. It locks the category first, so
// that this cannot change before the write. Both functions are volatile, so each sees
// what was committed before it is called.
const missingStream = `message_store.acquire_lock(%[1]s) IS NOT NULL AND message_store.stream_version(%[1]s) IS NULL`

// The statements that write by procedures, without the expected version. Those for
// [ExpectStream] pass a version that no stream has if the stream is missing.
const (
	writeOne = `SELECT position, ` + writtenGlobalPosition + `, ` + writtenTime + writeCall

	writeCall = `
FROM message_store.write_message($1::varchar, $2::varchar, $3::varchar, $4::jsonb, $5::jsonb, %s) AS position`

	writeUnseen = `SELECT position, NULL::bigint, NULL::bigint` + writeCall

	// The subquery cannot be flattened, because it calls a volatile function. So each row
	// is written, in the order of the arrays, before its global position is read. One
	// statement is one transaction.
	writeSeveral = `SELECT position, ` + writtenGlobalPosition + `, ` + writtenTime + `
FROM (
	SELECT message_store.write_message(m.id, $1::varchar, m.type, m.data::jsonb, m.metadata::jsonb, %s) AS position
	FROM unnest($2::varchar[], $3::varchar[], $4::text[], $5::text[]) WITH ORDINALITY AS m(id, type, data, metadata, index)
) AS written`
)

var (
	getStreamMessages = newStatement("get_stream_messages", messageColumns+
		`message_store.get_stream_messages($1::varchar, $2::bigint, $3::bigint, $4::varchar)`)

	getCategoryMessages = newStatement("get_category_messages", messageColumns+
		`message_store.get_category_messages($1::varchar, $2::bigint, $3::bigint, $4::varchar, $5::bigint, $6::bigint, $7::varchar)`)

	// Versions before 1.3.0 have only the form without a type.
	getLastStreamMessage = newStatement("get_last_stream_message", messageColumns+
		`message_store.get_last_stream_message($1::varchar)`)

	getLastStreamMessageOfType = newStatement("get_last_stream_message_of_type", messageColumns+
		`message_store.get_last_stream_message($1::varchar, $2::varchar)`)

	streamVersion = newStatement("stream_version",
		`SELECT message_store.stream_version($1::varchar)`)

	messageStoreVersion = newStatement("message_store_version",
		`SELECT message_store.message_store_version()`)

	writeMessage   = newStatement("write_message", fmt.Sprintf(writeOne, `$6::bigint`))
	writeMessages  = newStatement("write_messages", fmt.Sprintf(writeSeveral, `$6::bigint + (m.index - 1)`))
	appendMessage  = newStatement("append_message", fmt.Sprintf(writeOne, `CASE WHEN `+fmt.Sprintf(missingStream, `$2::varchar`)+` THEN $6::bigint END`))
	appendMessages = newStatement("append_messages", fmt.Sprintf(writeSeveral, `CASE WHEN m.index = 1 AND `+fmt.Sprintf(missingStream, `$1::varchar`)+` THEN $6::bigint END`))

	// A proxy without the functions of shards knows neither the sequence of the shard, nor its time, and cannot lock.
	writeProxied  = newStatement("write_proxied", fmt.Sprintf(writeUnseen, `$6::bigint`))
	appendProxied = newStatement("append_proxied", fmt.Sprintf(writeUnseen, `CASE WHEN message_store.stream_version($2::varchar) IS NULL THEN $6::bigint END`))

	acquireLock = newStatement("acquire_lock",
		`SELECT message_store.acquire_lock($1::varchar)`)

	acquireLocks = newStatement("acquire_locks",
		`SELECT count(message_store.acquire_lock(category)) FROM unnest($1::varchar[]) AS category`)

	// Each message is one row. What was written may be missing on a standby, to which a proxy
	// may have sent this, and which cannot execute the function.
	//
	// A message can be visible although no synchronous standby has it. If there is one, the
	// statement writes to the WAL, after the message. So its commit waits for the standbys as
	// the message's should have. The privileges to write are not needed for that. Nothing reads
	// the last column.
	findMessages = newStatement("find_messages",
		`WITH found AS MATERIALIZED (
	SELECT sought.index, pg_is_in_recovery() AS standby, m.stream_name, m.position, m.global_position, `+fmt.Sprintf(rowTime, "m.time")+` AS micros,
		m.type = sought.type AS same_type, m.data IS NOT DISTINCT FROM sought.data::jsonb AS same_data
	FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS sought(id, type, data, index)
	LEFT JOIN message_store.messages AS m ON m.id = sought.id::uuid
)
SELECT index, standby, stream_name, position, global_position, micros, same_type, same_data,
	(SELECT pg_catalog.pg_logical_emit_message(true, 'mdb', ''::text) FROM found WHERE stream_name IS NOT NULL AND NOT standby LIMIT 1)::text
FROM found
ORDER BY index`)

	// A savepoint of the same name in the caller's transaction is hidden until the release,
	// and unchanged after it.
	savepoint        = newStatement("savepoint", `SAVEPOINT mdb_in_savepoint`)
	releaseSavepoint = newStatement("release_savepoint", `RELEASE SAVEPOINT mdb_in_savepoint`)

	conditionIsOff = newStatement("condition_is_off",
		`SELECT coalesce(current_setting('message_store.sql_condition', true), '') = 'off'`)

	conditionOn = newStatement("condition_on",
		`SELECT set_config('message_store.sql_condition', 'on', true)`)

	// It is set for the session, because a value that was set for a transaction reads as
	// empty after the transaction, and Message DB treats empty as on.
	conditionOff = newStatement("condition_off",
		`SELECT set_config('message_store.sql_condition', 'off', false)`)
)
