package mdb

import (
	"fmt"
	"strings"
)

// Direct SQL reads the table messages, and writes batches to it. The server plans each of
// these statements once, while the procedures plan theirs at each call.
//
// The arguments are in subqueries, so that the planner does not see their values. With
// their values, an empty read looks so cheap that the server plans again at each call,
// which costs more than the read.
//
// So one plan must be good for all arguments. For a category the condition is a range with
// equal ends, and the order includes the category, so that only the index
// messages_category fits. With a plain equality, the planner may scan the whole store by
// its primary key.
const (
	directColumns = messageColumns + `message_store.messages `

	anchoredColumns = `SELECT id, stream_name, type, position, global_position,
	CASE WHEN %[1]s > (SELECT $2::bigint) THEN data END AS data, CASE WHEN %[1]s > (SELECT $2::bigint) THEN metadata END AS metadata, time
FROM message_store.messages `

	identifyingColumns = `SELECT id::text, stream_name, type, position, global_position FROM message_store.messages `

	directCategory = directColumns + directCategoryRange

	directCategoryRange = `
WHERE (message_store.category(stream_name), global_position) >= ((SELECT $1::varchar), (SELECT $2::bigint))
	AND message_store.category(stream_name) <= (SELECT $1::varchar)`

	directCategoryOrder = `
ORDER BY message_store.category(stream_name), global_position LIMIT (SELECT $3::bigint)`

	directCorrelation = `
	AND message_store.category(metadata->>'correlationStreamName') = (SELECT $4::varchar)`

	// sharedColumns are without the data of messages that are not wanted, which would have to be read from where large values are
	// stored, converted to text and sent. The partition is that of package consumer: streams without an ID have one, too.
	sharedColumns = `SELECT id, stream_name, type, position, global_position,
	CASE WHEN global_position > (SELECT $4::bigint) AND mod(abs(('x' || left(md5(CASE WHEN strpos(stream_name, '-') > 0
		THEN split_part(substr(stream_name, strpos(stream_name, '-') + 1), '+', 1) ELSE '' END), 16))::bit(64)::bigint), (SELECT $5::bigint))
		= ANY ((SELECT $6::text::bigint[])::bigint[]) THEN data END AS data,
	CASE WHEN global_position > (SELECT $4::bigint) THEN metadata END AS metadata, time
FROM message_store.messages `

	// hash_64 of the cardinal ID, as an expression: the server may not be able to inline
	// the installed functions, and would call them for each row.
	directGroup = `
	AND strpos(stream_name, '-') > 0
	AND mod(abs(('x' || left(md5(split_part(substr(stream_name, strpos(stream_name, '-') + 1), '+', 1)), 16))::bit(64)::bigint), (SELECT %[2]s::bigint))
		= (SELECT %[1]s::bigint)`
)

var (
	directStreamMessages = newStatement("direct_stream_messages", directColumns+`
WHERE stream_name = (SELECT $1::text) AND position >= (SELECT $2::bigint)
ORDER BY position LIMIT (SELECT $3::bigint)`)

	directCategoryMessages = newStatement("direct_category_messages",
		directCategory+directCategoryOrder)

	// These begin with the last known message, without its data and metadata, which may be
	// large and are stored elsewhere then.
	directStreamAnchored = newStatement("direct_stream_anchored", fmt.Sprintf(anchoredColumns, "position")+`
WHERE stream_name = (SELECT $1::text) AND position >= (SELECT $2::bigint)
ORDER BY position LIMIT (SELECT $3::bigint)`)
	directCategoryAnchored = newStatement("direct_category_anchored", fmt.Sprintf(anchoredColumns, "global_position")+
		directCategoryRange+directCategoryOrder)

	// It may begin with the last known message, as the one before.
	directCategoryShared = newStatement("direct_category_shared", sharedColumns+directCategoryRange+directCategoryOrder)

	directCorrelated = newStatement("direct_correlated",
		directCategory+directCorrelation+directCategoryOrder)
	directGroupMember = newStatement("direct_group_member",
		directCategory+fmt.Sprintf(directGroup, "$4", "$5")+directCategoryOrder)
	directCorrelatedGroupMember = newStatement("direct_correlated_group_member",
		directCategory+directCorrelation+fmt.Sprintf(directGroup, "$5", "$6")+directCategoryOrder)

	directLastMessage = newStatement("direct_last_message", directColumns+`
WHERE stream_name = (SELECT $1::text)
ORDER BY position DESC LIMIT 1`)
	directLastMessageOfType = newStatement("direct_last_message_of_type", directColumns+`
WHERE stream_name = (SELECT $1::text) AND type = (SELECT $2::text)
ORDER BY position DESC LIMIT 1`)

	directCategoryHead = newStatement("direct_category_head", `SELECT coalesce((
	SELECT global_position FROM message_store.messages
	WHERE message_store.category(stream_name) >= (SELECT $1::varchar) AND message_store.category(stream_name) <= (SELECT $1::varchar)
	ORDER BY message_store.category(stream_name) DESC, global_position DESC LIMIT 1), 0)`)

	directStreamVersion = newStatement("direct_stream_version",
		`SELECT max(position) FROM message_store.messages WHERE stream_name = (SELECT $1::text)`)

	directMessage = newStatement("direct_message", directColumns+`
WHERE global_position = $1::bigint`)

	// Those that identify messages which cannot be read do not touch data and metadata.
	identifyInStream = newStatement("identify_in_stream", identifyingColumns+`
WHERE stream_name = (SELECT $1::text) AND position >= (SELECT $2::bigint)
ORDER BY position LIMIT 1`)
	identifyInCategory = newStatement("identify_in_category", identifyingColumns+directCategoryRange+`
	AND ((SELECT $3::varchar) IS NULL OR message_store.category(metadata->>'correlationStreamName') = (SELECT $3::varchar))
	AND ((SELECT $4::bigint) IS NULL`+strings.Replace(fmt.Sprintf(directGroup, "$4", "$5"), "AND", "OR", 1)+`)
ORDER BY message_store.category(stream_name), global_position LIMIT 1`)
	identifyMessage = newStatement("identify_message", identifyingColumns+`
WHERE global_position = $1::bigint`)
	identifyLast = newStatement("identify_last", identifyingColumns+`
WHERE stream_name = (SELECT $1::text) AND ((SELECT $2::text) IS NULL OR type = (SELECT $2::text))
ORDER BY position DESC LIMIT 1`)

	// directWrite must be sent after acquireLock, in the same transaction. As it is a
	// separate statement, its snapshot is newer than the lock, so the version that it sees
	// is current. If that is not the expected version, or no version, which -2 stands for, it
	// calls write_message, which raises its own error. ORDER BY makes the rows get their global positions in order.
	directWrite = newStatement("direct_write",
		`INSERT INTO message_store.messages (id, stream_name, position, type, data, metadata)
SELECT m.id::uuid, $1::text, stream.version + m.index, m.type, m.data::jsonb, m.metadata::jsonb
FROM (
	SELECT CASE WHEN version = coalesce($6::bigint, version) OR $6::bigint = -2 AND version >= 0 THEN version
		ELSE message_store.write_message(($2::text[])[1], $1::text, ($3::text[])[1], NULL, NULL, $6::bigint) END AS version
	FROM (SELECT coalesce(max(position), -1) AS version FROM message_store.messages WHERE stream_name = (SELECT $1::text)) AS head
) AS stream, unnest($2::text[], $3::text[], $4::text[], $5::text[]) WITH ORDINALITY AS m(id, type, data, metadata, index)
ORDER BY m.index
RETURNING position, global_position, `+fmt.Sprintf(rowTime, "time"))
)
