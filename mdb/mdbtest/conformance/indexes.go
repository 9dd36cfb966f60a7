package conformance

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// indexes finds the index that serves a function in the server's statistics of the
// transaction: any role may read them, and they do not depend on the language of the
// function. They are compared with a limit, because planning reads entries as well.
func (s *suite) indexes(t *testing.T) {
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
		{"get_stream_messages uses messages_stream", `get_stream_messages($1::varchar || '-1')`, "messages_stream", messages},
		{"get_stream_messages uses messages_stream at the end of a stream", `get_stream_messages($1::varchar || '-1', 49)`, "messages_stream", 1},
		{"get_category_messages uses messages_category", `get_category_messages($1::varchar)`, "messages_category", messages},
		{"get_category_messages uses messages_category with a correlation", `get_category_messages($1::varchar, correlation => 'origin')`, "messages_category", messages},
		{"get_category_messages uses messages_category with a consumer group", `get_category_messages($1::varchar, consumer_group_member => 0, consumer_group_size => 1)`, "messages_category", messages},
		{"get_last_stream_message uses messages_stream", `get_last_stream_message($1::varchar || '-1')`, "messages_stream", 1},
		{"get_last_stream_message uses messages_stream with a type", `get_last_stream_message($1::varchar || '-1', 'Tested')`, "messages_stream", 1},
		{"stream_version uses messages_stream", `stream_version($1::varchar || '-1')`, "messages_stream", 1},
	} {
		s.check(t, test.name, func(t *testing.T) {
			tx := s.begin(t, pgx.TxOptions{})
			// A small table is read as a whole, which is not the point.
			set(t, tx, "enable_seqscan", "off")
			set(t, tx, "enable_bitmapscan", "off")
			do(t, tx, `DISCARD PLANS`)

			read := map[string]int64{"messages_stream": 0, "messages_category": 0, "messages_pkey": 0, "messages_id": 0}
			for index := range read {
				read[index] = -value[int64](t, tx, entries, index)
			}
			whole := -value[int64](t, tx, scans)
			do(t, tx, `SELECT * FROM message_store.`+test.call, string(category))
			for index := range read {
				read[index] += value[int64](t, tx, entries, index)
			}
			if whole += value[int64](t, tx, scans); whole != 0 {
				t.Errorf("the table was read as a whole %d times", whole)
			}
			if got := read[test.index]; got < test.least || got > 2*messages {
				t.Errorf("%d entries of %s were read, want %d at least and not all there are; of all indexes: %v", got, test.index, test.least, read)
			}
			delete(read, test.index)
			for index, got := range read {
				if got > messages/2 {
					t.Errorf("%d entries of %s were read", got, index)
				}
			}
		})
	}
}
