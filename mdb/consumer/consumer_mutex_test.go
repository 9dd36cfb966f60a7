package consumer_test

import (
	"context"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// TestHeldMutex checks that a process which cannot join, because somebody holds the lock of the consumer, does not wait
// for ever, nor does the server: it retries, and joins when the lock is released. A process that is running
// goes on meanwhile.
func TestHeldMutex(t *testing.T) {
	t.Parallel()
	s := withConsumers.Store(t)
	var a, b record
	first := start(t, plantOn(t, s).Store, a.handler(), consumer.WithLease(time.Hour))
	eventually(t, "the first has everything", func() bool { return first.Stats().Partitions == consumer.DefaultPartitions })

	tx, err := s.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), "SELECT FROM message_store_consumers.consumers FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	waiting := func(want bool) func() bool {
		return func() (is bool) {
			t.Helper()
			if err := s.Pool().QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity
				WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%message_store_consumers.join(%')`).Scan(&is); err != nil {
				t.Fatal(err)
			}
			return is == want
		}
	}
	second := start(t, plantOn(t, s).Store, b.handler(), consumer.WithLease(3*time.Second))
	for range 2 {
		eventually(t, "a join waits", waiting(true))
		eventually(t, "no join waits", waiting(false))
	}
	want := signUp(t, s, 100)
	eventually(t, "the first goes on", func() bool { return len(a.sorted()) == len(want) })
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "each has its share", func() bool {
		return first.Stats().Partitions == consumer.DefaultPartitions/2 && second.Stats().Partitions == consumer.DefaultPartitions/2
	})
}
