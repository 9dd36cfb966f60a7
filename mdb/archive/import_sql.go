package archive

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
)

// versionsOf returns the versions of the messages' streams.
func versionsOf(ctx context.Context, tx pgx.Tx, messages []message) (map[mdb.StreamName]int64, error) {
	versions := make(map[mdb.StreamName]int64)
	var names []string
	for i := range messages {
		stream := messages[i].stream
		if _, ok := versions[stream]; !ok {
			versions[stream] = mdb.NoStream
			names = append(names, string(stream))
		}
	}
	// The statement is younger than the locks, so the versions stay until the transaction ends.
	rows, err := tx.Query(ctx, `SELECT s.name, (SELECT max(position) FROM message_store.messages WHERE stream_name = s.name)
FROM unnest($1::text[]) AS s(name)`, names)
	if err != nil {
		return nil, err
	}
	var name string
	var version *int64
	_, err = pgx.ForEachRow(rows, []any{&name, &version}, func() error {
		if version != nil {
			versions[mdb.StreamName(name)] = *version
		}
		return nil
	})
	return versions, err
}

// columns are the arguments of a statement that writes messages.
func columns(messages []message) []any {
	streams, types := make([]string, len(messages)), make([]string, len(messages))
	for i := range messages {
		streams[i], types[i] = string(messages[i].stream), messages[i].typ
	}
	data, metadata := payloads(messages)
	return []any{ids(messages), streams, types, data, metadata}
}

// call writes messages by write_message, in their order.
func call(ctx context.Context, tx pgx.Tx, messages []message) error {
	rows, err := tx.Query(ctx, `SELECT message_store.write_message(m.id::varchar, m.stream_name::varchar, m.type::varchar,
	nullif(m.data, '')::jsonb, nullif(m.metadata, '')::jsonb)
FROM (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
	WITH ORDINALITY AS m(id, stream_name, type, data, metadata, n) ORDER BY n OFFSET 0) AS m`, columns(messages)...)
	if err != nil {
		return err
	}
	positions, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return err
	}
	for i, position := range positions {
		if m := &messages[i]; position != m.position {
			return fmt.Errorf("archive: message %d: the server has written it to position %d of %s instead of %d", m.number, position, m.stream, m.position)
		}
	}
	return nil
}

// insert writes messages with their positions and, if they are kept, their times. ORDER BY makes the rows get their global
// positions in order.
func insert(ctx context.Context, tx pgx.Tx, messages []message) error {
	positions, times := make([]int64, len(messages)), make([]string, len(messages))
	for i := range messages {
		positions[i], times[i] = messages[i].position, messages[i].time
	}
	_, err := tx.Exec(ctx, `INSERT INTO message_store.messages (id, stream_name, type, data, metadata, position, time)
SELECT m.id::uuid, m.stream_name, m.type, nullif(m.data, '')::jsonb, nullif(m.metadata, '')::jsonb, m.position,
	coalesce(nullif(m.time, '')::timestamp, pg_catalog.now() AT TIME ZONE 'utc')
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[])
	WITH ORDINALITY AS m(id, stream_name, type, data, metadata, position, time, n)
ORDER BY m.n`, append(columns(messages), positions, times)...)
	return err
}
