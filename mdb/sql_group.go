package mdb

import "fmt"

// The statements that do the writes of a group, each of which has one message or several, all
// to one category. Each must be sent after acquireLock, in the same transaction, so that its
// snapshot is younger than the lock.
//
// The arguments $1 to $4 have an element for each write: its stream, what it expects, the
// number of its messages, and the number of the write before it to the same stream. That is
// 0 if there is none, or -1 if there is none and no write to the stream expects a version.
// $5 to $10 have an element for each message: the number of its write, its place in the write,
// and its columns. Writes are numbered from 1.
//
// What a write finds depends on the writes before it to the same stream, so the statements
// decide about them one after another, by recursion. A write with the wrong version fails
// before one with an ID that is taken, as in write_message. IDs that two writes of a group
// share are not detected.
//
// The rows are those of writes that fail, with the version that they have found, and of
// messages that are written, in order.
//
// The arguments are in subqueries, so that the plan does not depend on the size of the group.
// The JSON is converted for all writes, also for those that fail.
const groupWrite = /* #nosec G101 */ `WITH RECURSIVE message AS MATERIALIZED (
	SELECT m.index, m.write, m.place, m.id, m.type, m.data::jsonb AS data, m.metadata::jsonb AS metadata
	FROM unnest((SELECT $5::bigint[]), (SELECT $6::bigint[]), (SELECT $7::text[]), (SELECT $8::text[]), (SELECT $9::text[]), (SELECT $10::text[]))
		WITH ORDINALITY AS m(write, place, id, type, data, metadata, index)
), taken AS MATERIALIZED (
	SELECT m.write, (SELECT s.id FROM message_store.messages AS s WHERE s.id = m.id::uuid) AS id FROM message AS m
), write AS MATERIALIZED (
	SELECT w.index, w.stream, w.expected, w.size, w.previous,
		w.index = ANY (ARRAY(SELECT taken.write FROM taken WHERE taken.id IS NOT NULL)) AS taken, %[1]s AS version
	FROM unnest((SELECT $1::text[]), (SELECT $2::bigint[]), (SELECT $3::bigint[]), (SELECT $4::bigint[]))
		WITH ORDINALITY AS w(stream, expected, size, previous, index)
), decided(index, version, fits, writes, after) AS (
	SELECT w.index, w.version, %[2]s, %[2]s AND NOT w.taken, CASE WHEN %[2]s AND NOT w.taken THEN w.version + w.size ELSE w.version END
	FROM write AS w WHERE w.previous <= 0
	UNION ALL
	SELECT w.index, d.after, %[3]s, %[3]s AND NOT w.taken, CASE WHEN %[3]s AND NOT w.taken THEN d.after + w.size ELSE d.after END
	FROM decided AS d JOIN write AS w ON w.previous = d.index
), chosen AS (
	SELECT m.index, m.id, w.stream, m.type, m.data, m.metadata, d.version + m.place AS position
	FROM message AS m JOIN decided AS d ON d.index = m.write JOIN write AS w ON w.index = m.write
	WHERE d.writes
)`

// groupRows are the rows of the result.
const groupRows = `
SELECT d.index, d.version, CASE WHEN d.fits THEN 1 ELSE 0 END::bigint AS fits, NULL::bigint AS position, NULL::bigint AS global_position, NULL::bigint AS micros
FROM decided AS d WHERE NOT d.writes
UNION ALL
SELECT NULL, NULL, NULL, `

// groupFits is whether a stream is as a write expects it.
const groupFits = `coalesce(CASE WHEN w.expected = -2 THEN %[1]s >= 0 ELSE w.expected = %[1]s END, true)`

var (
	groupWriteDirect = newStatement("group_write_direct", fmt.Sprintf(groupWrite,
		`CASE WHEN w.previous <= 0 THEN coalesce((SELECT max(s.position) FROM message_store.messages AS s WHERE s.stream_name = w.stream), -1) END`,
		fmt.Sprintf(groupFits, "w.version"), fmt.Sprintf(groupFits, "d.after"))+`, written AS (
	INSERT INTO message_store.messages (id, stream_name, position, type, data, metadata)
	SELECT c.id::uuid, c.stream, c.position, c.type, c.data, c.metadata FROM chosen AS c
	ORDER BY c.index
	RETURNING position, global_position, `+fmt.Sprintf(rowTime, "time")+` AS micros
)`+groupRows+`position, global_position, micros FROM written`)

	// write_message is called with the version that the statement has found, so that it fails if
	// anything is not as it was decided. The subqueries cannot be flattened, because they
	// sort, or call a volatile function. So the messages are written in order, each before its
	// global position is read.
	groupWriteCalls = newStatement("group_write_calls", fmt.Sprintf(groupWrite,
		`CASE WHEN w.previous = 0 THEN coalesce(message_store.stream_version(w.stream::varchar), -1) END`,
		fmt.Sprintf(groupFits, "w.version"), fmt.Sprintf(groupFits, "d.after"))+groupRows+`position, `+writtenGlobalPosition+`, `+writtenTime+`
FROM (
	SELECT message_store.write_message(c.id::varchar, c.stream::varchar, c.type::varchar, c.data, c.metadata, c.position - 1) AS position
	FROM (SELECT * FROM chosen ORDER BY index) AS c
) AS written`)
)
