package mdb_test

import (
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestUnreadableSteps checks how many statements it takes to read a page with a message that
// cannot be read.
func TestUnreadableSteps(t *testing.T) {
	t.Parallel()
	const messages = 512
	url := testdb.New(t)
	pool := newPool(t, url)
	for i := range messages {
		data := `'{"n": 1}'`
		if i == 200 {
			data = `'{"poison": "54000"}'`
		}
		insert(t, pool, "account-1", i, "Happened", data, "NULL")
	}
	unreadable(t, pool)
	for way, most := range map[string]int64{"procedures": 14, "direct": 7} {
		var opts []mdb.StoreOption
		if way == "direct" { // of which the messages before the one arrive
			opts = append(opts, mdb.WithDirectSQL())
		}
		t.Run(way, func(t *testing.T) {
			var w wire
			s := newStore(t, newPool(t, url, w.attach, oneConnection), opts...)
			if _, err := s.GetStreamMessages(t.Context(), "account-1", mdb.WithBatchSize(1)); err != nil {
				t.Fatal(err)
			}
			before := w.trips.Load()
			ms, err := s.GetStreamMessages(t.Context(), "account-1", mdb.WithBatchSize(messages))
			checkUnreadable(t, err, mdb.UnreadableError{Stream: "account-1", Type: "Happened", Position: 200, GlobalPosition: 201})
			if len(ms) != 200 {
				t.Errorf("got %d messages, want 200", len(ms))
			}
			if n := w.trips.Load() - before; n > most {
				t.Errorf("got %d round trips, want %d", n, most)
			}
		})
	}
}

// TestPageTooLargeSteps checks that after a page that was too large the parts grow again.
func TestPageTooLargeSteps(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	pool := newPool(t, url)
	const messages, large = 400, 40
	for i := range messages {
		data := `'{"n": 1}'`
		if i < large {
			data = `to_jsonb(repeat('x', 100000))`
		}
		insert(t, pool, "account-1", i, "Happened", data, "NULL")
	}
	var w wire
	s := newStore(t, newPool(t, url, w.attach, oneConnection, parameter("temp_file_limit", "1MB"), parameter("work_mem", "64kB"),
		parameter("enable_seqscan", "off"), parameter("enable_bitmapscan", "off"), parameter("enable_sort", "off")))
	if _, err := s.GetStreamMessages(t.Context(), "account-1", mdb.WithBatchSize(1)); err != nil {
		t.Fatal(err)
	}
	before := w.trips.Load()
	ms, err := s.GetStreamMessages(t.Context(), "account-1", mdb.WithBatchSize(messages))
	if err != nil || len(ms) != messages {
		t.Errorf("got %d messages, error %v, want %d", len(ms), err, messages)
	}
	if n := w.trips.Load() - before; n > 30 {
		t.Errorf("got %d round trips, want no more than 30", n)
	}
}

// TestRequireStreamOnce checks that a stream must exist when a sequence begins, and may be
// deleted afterwards.
func TestRequireStreamOnce(t *testing.T) {
	t.Parallel()
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			s := mdbtest.SharedStore(t, opts...)
			stream := mdbtest.Category("deleted").Stream("1")
			seed(t, s, stream, 3)
			n := 0
			for _, err := range s.StreamMessages(t.Context(), stream, mdb.RequireStream(), mdb.WithBatchSize(1)) {
				if err != nil {
					t.Fatalf("after %d messages: got error %v, want none", n, err)
				}
				n++
				exec(t, s.Pool(), `DELETE FROM message_store.messages WHERE stream_name = $1`, string(stream))
			}
			if n != 1 {
				t.Errorf("got %d messages, want 1", n)
			}
		})
	}
}
