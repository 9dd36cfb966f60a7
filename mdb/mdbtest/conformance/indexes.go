package conformance

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// plans finds out which index serves a function by the server's statistics of the
// transaction, which any role may read, whatever the function's language. They are
// compared with a limit, since planning itself reads a few entries of indexes.
func (s *suite) plans(t *testing.T) {
	t.Helper()
	const messages = 50
	category := mdbtest.Category("plan")
	stream := category.Stream("1")
	do(t, s.store.Pool(), `SELECT message_store.write_message(gen_random_uuid()::varchar, $1::varchar, 'Tested', '{}',
		'{"correlationStreamName": "origin-1"}') FROM generate_series(1, $2::int)`, string(stream), messages)

	const (
		entries = `SELECT pg_stat_get_xact_tuples_returned(to_regclass('message_store.' || $1::text)::oid)`
		scans   = `SELECT pg_stat_get_xact_numscans('message_store.messages'::regclass::oid)`
	)
	for _, test := range []struct {
		name, call, index string
		least             int64 // entries to be read
	}{
		{"query plan of get_stream_messages", `get_stream_messages($1::varchar || '-1')`, "messages_stream", messages},
		{"query plan of get_stream_messages at the end", `get_stream_messages($1::varchar || '-1', 49)`, "messages_stream", 1},
		{"query plan of get_category_messages", `get_category_messages($1::varchar)`, "messages_category", messages},
		{"query plan of get_category_messages with a correlation", `get_category_messages($1::varchar, correlation => 'origin')`, "messages_category", messages},
		{"query plan of get_category_messages for a group", `get_category_messages($1::varchar, consumer_group_member => 0, consumer_group_size => 1)`, "messages_category", messages},
		{"query plan of get_last_stream_message", `get_last_stream_message($1::varchar || '-1')`, "messages_stream", 1},
		{"query plan of get_last_stream_message of a type", `get_last_stream_message($1::varchar || '-1', 'Tested')`, "messages_stream", 1},
		{"query plan of stream_version", `stream_version($1::varchar || '-1')`, "messages_stream", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			tx := s.begin(t, pgx.TxOptions{})
			// A small table is read as a whole, which is not the point.
			set(t, tx, "enable_seqscan", "off")
			set(t, tx, "enable_bitmapscan", "off")
			do(t, tx, `DISCARD PLANS`)

			indexes := map[string]int64{"messages_stream": 0, "messages_category": 0, "messages_pkey": 0, "messages_id": 0}
			for index := range indexes {
				indexes[index] = -value[int64](t, tx, entries, index)
			}
			whole := -value[int64](t, tx, scans)
			do(t, tx, `SELECT * FROM message_store.`+test.call, string(category))
			for index := range indexes {
				indexes[index] += value[int64](t, tx, entries, index)
			}
			if whole += value[int64](t, tx, scans); whole != 0 {
				t.Errorf("the table was read as a whole %d times", whole)
			}
			if got := indexes[test.index]; got < test.least || got > 2*messages {
				t.Errorf("%d entries of %s were read, want %d at least and not all there are; of all indexes: %v", got, test.index, test.least, indexes)
			}
			delete(indexes, test.index)
			for index, got := range indexes {
				if got > messages/2 {
					t.Errorf("%d entries of %s were read", got, index)
				}
			}
		})
	}
}
