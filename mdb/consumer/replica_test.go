package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// A ward is what the handlers of several processes have handled, by stream.
type ward struct {
	mu      sync.Mutex
	ill     map[mdb.StreamName]bool // whose messages fail
	handled map[mdb.StreamName][]int64
}

func (w *ward) handle(_ context.Context, m mdb.Message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ill[m.Stream] {
		return consumer.Permanent(errors.New("ill"))
	}
	w.handled[m.Stream] = append(w.handled[m.Stream], m.Position)
	return nil
}

func (w *ward) cure(stream mdb.StreamName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.ill, stream)
}

// complete reports whether all streams have n messages.
func (w *ward) complete(streams, n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, positions := range w.handled {
		if positions[len(positions)-1] != int64(n-1) {
			return false
		}
	}
	return len(w.handled) == streams
}

// TestReplica checks that a consumer whose store has a replica handles all messages, in the order of each stream, while the replica
// lags, is killed, and is there, and that a parked stream is replayed with what only the primary has.
func TestReplica(t *testing.T) {
	t.Parallel()
	const streams = 8
	p := newPast(t)
	if err := schema.InstallNotify(t.Context(), p.old); err != nil {
		t.Fatal(err)
	}
	p.CatchUp(t)
	writer := replicaStore(t, directPool(t, p.Primary.URL("postgres")))
	replica := directPool(t, p.Standby.URL("postgres"))
	w := &ward{ill: map[mdb.StreamName]bool{"signup-0": true}, handled: make(map[mdb.StreamName][]int64)}
	var stores []*mdb.Store
	for range 2 {
		s := replicaStore(t, directPool(t, p.Primary.URL("postgres")), mdb.WithReplica(replica), mdb.WithNotify())
		stores = append(stores, s)
		start(t, s, consumer.Each(w.handle), consumer.WithPartitions(4))
	}
	n := 0
	more := func() {
		t.Helper()
		for range 5 {
			for i := range streams {
				if _, err := writer.WriteMessage(t.Context(), mdb.StreamName(fmt.Sprint("signup-", i)), mdb.NewMessage("SignedUp", n)); err != nil {
					t.Fatal(err)
				}
			}
			n++
		}
	}
	arrived := func(streams int) {
		t.Helper()
		eventually(t, "all are handled", func() bool { return w.complete(streams, n) })
	}
	more()
	arrived(streams - 1)
	sqlExec(t, replica, "SELECT pg_wal_replay_pause()")
	more()
	arrived(streams - 1) // from the primary, so of the parked stream, the replica has only a part
	w.cure("signup-0")
	c, err := consumer.New(stores[0], "mailer", "signup", consumer.Each(w.handle))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Replay(t.Context()); err != nil {
		t.Fatal(err)
	}
	arrived(streams)
	sqlExec(t, replica, "SELECT pg_wal_replay_resume()")
	for range 2 {
		if err := p.Standby.Kill(); err != nil {
			t.Fatal(err)
		}
		more()
		arrived(streams)
		if err := p.Standby.Boot(); err != nil {
			t.Fatal(err)
		}
		more()
		arrived(streams)
	}
	reads := int64(0)
	for _, s := range stores {
		stats := s.Stats()
		reads += stats.ReplicaReads
		if stats.Forks > 0 {
			t.Errorf("got stats %+v", stats)
		}
	}
	if reads == 0 {
		t.Error("nothing was read from the replica")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for stream, positions := range w.handled {
		// Messages may be handled again when partitions move.
		if !repeatsInOrder(positions, n) {
			t.Errorf("%s: handled %v", stream, positions)
		}
	}
}

func replicaStore(t *testing.T, pool *pgxpool.Pool, opts ...mdb.StoreOption) *mdb.Store {
	t.Helper()
	s, err := mdb.New(pool, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// repeatsInOrder reports whether each first handling follows that of the message before.
func repeatsInOrder(positions []int64, n int) bool {
	next := int64(0)
	for _, p := range positions {
		if p > next {
			return false
		}
		next = max(next, p+1)
	}
	return next == int64(n)
}
