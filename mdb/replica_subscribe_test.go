package mdb_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// notifying installs the trigger.
func (m *mirrored) notifying(t testing.TB) {
	t.Helper()
	conn, err := m.primary.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if err := schema.InstallNotify(t.Context(), conn.Conn()); err != nil {
		t.Fatal(err)
	}
	m.CatchUp(t)
}

// kinds of subscriptions, by what they select of 60 messages in three streams.
func replicaKinds(category mdb.Category) map[string]func(t testing.TB, s *mdb.Store, opts ...mdb.SubscribeOption) *recipient {
	ofCategory := func(filters ...mdb.CategorySubscribeOption) func(t testing.TB, s *mdb.Store, opts ...mdb.SubscribeOption) *recipient {
		return func(t testing.TB, s *mdb.Store, opts ...mdb.SubscribeOption) *recipient {
			t.Helper()
			for _, opt := range opts {
				filters = append(filters, opt)
			}
			return receiveCategory(t, s, category, filters...)
		}
	}
	return map[string]func(t testing.TB, s *mdb.Store, opts ...mdb.SubscribeOption) *recipient{
		"category": ofCategory(),
		"group":    ofCategory(mdb.AsConsumerGroup(0, 1)),
		"stream": func(t testing.TB, s *mdb.Store, opts ...mdb.SubscribeOption) *recipient {
			t.Helper()
			var all []mdb.StreamSubscribeOption
			for _, opt := range opts {
				all = append(all, opt)
			}
			return receiveStream(t, s, category.Stream("1"), all...)
		},
	}
}

// TestReplicaNotified checks that a subscription that only notifications wake receives from the replica what
// the primary has, although the notification comes before the replica has the message, and from the primary
// if the replica does not replay.
func TestReplicaNotified(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	m := newMirrored(t)
	m.notifying(t)
	writer := newStore(t, m.primary)
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		category := mdb.Category("notified" + way)
		for kind, subscribe := range replicaKinds(category) {
			begin := func(patience time.Duration) (*mdb.Store, *recipient, func(what string, n int)) {
				t.Helper()
				m.CatchUp(t)
				s := m.open(t, append(waitingOnly(), opts...)...)
				mdb.SetReplicaPatience(s, patience)
				r := subscribe(t, s, mdb.FromEnd(), noFork(t))
				r.untilLive(t)
				settled(t, s)
				return s, r, func(what string, n int) {
					t.Helper()
					for range n {
						w := write(t, writer, category.Stream("1"), mdb.NewMessage("Happened", 1))
						if got := r.next(t, 1)[0]; got.ID != w.ID {
							t.Fatalf("%s, %s, %s: got %v, want %v", way, kind, what, got, w)
						}
					}
				}
			}
			s, r, each := begin(testTimeout)
			reads := s.Stats()
			each("replica", 10)
			// A notification always comes before a message that is held back.
			delay := func(d string) {
				exec(t, m.replica, "ALTER SYSTEM SET recovery_min_apply_delay = '"+d+"'")
				exec(t, m.replica, "SELECT pg_reload_conf()")
			}
			delay("30ms")
			each("delayed", 5)
			delay("0")
			if after := s.Stats(); after.ReplicaFallbacks != reads.ReplicaFallbacks {
				t.Errorf("%s, %s: %d pages are from the primary", way, kind, after.ReplicaFallbacks-reads.ReplicaFallbacks)
			}
			r.stop(t)

			s, r, each = begin(50 * time.Millisecond)
			reads = s.Stats()
			m.pause(t)
			each("primary", 3)
			if after := s.Stats(); after.ReplicaFallbacks == reads.ReplicaFallbacks {
				t.Errorf("%s, %s: the replica cannot have served these pages", way, kind)
			}
			m.resume(t)
			each("replica again", 10)
			r.stop(t)
		}
	}
	if left, _ := m.departures(); left != 0 {
		t.Errorf("reads have left a replica that only lags:\n%s", m.journal.String())
	}
}

// TestReplicaOwesTheRest checks that a subscription which was woken for two messages, and finds one of them on the
// replica, handles that one and does not sleep before it has the other one.
func TestReplicaOwesTheRest(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	m := newMirrored(t)
	m.notifying(t)
	s := m.open(t, waitingOnly()...)
	writer := newStore(t, m.primary)
	stream := mdb.Category("rest").Stream("1")
	one := func() mdb.Written { return write(t, writer, stream, mdb.NewMessage("Happened", 1)) }
	r := receiveCategory(t, s, stream.Category(), mdb.FromEnd(), noFork(t))
	r.untilLive(t)
	settled(t, s)
	one()
	// The handler is called, and waits until the message is taken.
	eventually(t, m.primary, "the first message is read", func() bool { return s.Stats().ReplicaReads > 0 && s.NotifyStats().Notifications > 0 })
	second := one()
	m.CatchUp(t)
	m.pause(t)
	third := one()
	eventually(t, m.primary, "all notifications have arrived", func() bool { return s.NotifyStats().Notifications == 3 })
	got := r.next(t, 3)
	if got[1].ID != second.ID || got[2].ID != third.ID {
		t.Errorf("got %v", got)
	}
	m.resume(t)
}

// TestReplicaOfOwnWrites checks that a subscription which a write of the same store wakes does not sleep before the
// replica has the message.
func TestReplicaOfOwnWrites(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	m := newMirrored(t, waitingOnly()[1])
	stream := mdb.Category("own").Stream("1")
	r := receiveCategory(t, m.store, stream.Category(), noFork(t))
	r.untilLive(t)
	for range 20 {
		w := write(t, m.store, stream, mdb.NewMessage("Happened", 1))
		if got := r.next(t, 1)[0]; got.ID != w.ID {
			t.Fatalf("got %v, want %v", got, w)
		}
	}
}

// TestReplicaCheckpointAhead checks that a subscription whose checkpoint the replica does not have yet, and one
// whose stream or position is not there, get what the primary says.
func TestReplicaCheckpointAhead(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	m := newMirrored(t, often)
	stream := mdb.Category("ahead").Stream("1")
	m.pause(t)
	var last mdb.Written
	for range 10 {
		last = write(t, m.store, stream, mdb.NewMessage("Happened", 1))
	}
	var at mdb.CategoryCheckpoint
	r := receiveCategory(t, m.store, stream.Category(), mdb.FromPrimary(), mdb.OnProgress(func(_ context.Context, c mdb.CategoryCheckpoint) error {
		at = c
		return nil
	}))
	r.next(t, 10)
	r.untilLive(t)
	r.stop(t)

	r = receiveCategory(t, m.store, stream.Category(), mdb.AfterCheckpoint(at), noFork(t))
	required := receiveStream(t, m.store, stream, mdb.RequireStream(), mdb.AfterPosition(last.Position), noFork(t))
	end := receiveStream(t, m.store, stream, mdb.FromEnd(), noFork(t))
	for _, r := range []*recipient{r, required, end} {
		r.untilLive(t)
	}
	err := m.store.SubscribeToStream(t.Context(), stream, func(context.Context, mdb.Message) error { return nil }, mdb.AfterPosition(last.Position+1))
	wantError[*mdb.AheadError](t, err)
	m.resume(t)
	w := write(t, m.store, stream, mdb.NewMessage("Happened", 1))
	for _, r := range []*recipient{r, required, end} {
		if got := r.next(t, 1)[0]; got.ID != w.ID {
			t.Errorf("got %v, want %v", got, w)
		}
	}
}

// TestReplicaUnderLoad checks that subscriptions deliver every message once and in order while writers write at full
// speed and the replica is killed, frozen, paused and started.
func TestReplicaUnderLoad(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	m := newMirrored(t)
	m.notifying(t)
	writer := newStore(t, m.primary, mdb.WithGroupCommit())
	var watched []*tally
	for name, opts := range map[string][]mdb.StoreOption{
		"polling":                {often},
		"notified":               {mdb.WithNotify()},
		"notified, direct":       {mdb.WithNotify(), mdb.WithDirectSQL()},
		"polling, direct, group": {often, mdb.WithDirectSQL(), mdb.WithGroupCommit()},
	} {
		s := openMirrored(t, m.primary, m.replica, opts...)
		watched = append(watched, count(t, name, s, noFork(t)), count(t, name+", small pages", s, noFork(t), mdb.WithBatchSize(7)))
		workers := count(t, name+", workers", s, noFork(t), mdb.WithWorkers(3))
		workers.workers = true
		watched = append(watched, workers)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var writers sync.WaitGroup
	var written atomic.Int64
	for i := range 8 {
		writers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				stream := mdb.Category("load").Stream(fmt.Sprint(i, "+", n%3))
				if _, err := writer.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", n)); err != nil {
					t.Error(err)
					return
				}
				written.Add(1)
			}
		})
	}
	more := func() { // lets the writers write
		t.Helper()
		target := written.Load() + 500
		eventually(t, m.primary, "more messages", func() bool { return written.Load() >= target })
	}
	steps := func(what string, steps ...func() error) {
		t.Helper()
		for _, step := range steps {
			if err := step(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			more()
		}
	}
	more()
	steps("kill", m.Standby.Kill, m.Standby.Boot)
	steps("freeze", m.Standby.Freeze, m.Standby.Thaw)
	m.Hold(t)
	more()
	m.Release(t)
	steps("kill again", m.Standby.Kill, m.Standby.Boot)
	m.CatchUp(t)
	more()
	stop()
	writers.Wait()
	for _, c := range watched {
		c.compare(t, m.primary)
		if stats := c.store.Stats(); stats.ReplicaReads == 0 || stats.ReplicaFailures == 0 || stats.Forks > 0 {
			t.Errorf("%s: got stats %+v", c.name, stats)
		}
	}
}

// A tally is a subscription to the category load, and what it has received.
type tally struct {
	name    string
	workers bool
	store   *mdb.Store

	mu  sync.Mutex
	got []int64
}

func count(t *testing.T, name string, s *mdb.Store, opts ...mdb.CategorySubscribeOption) *tally {
	t.Helper()
	c := &tally{name: name, store: s}
	ctx, end := context.WithCancelCause(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- s.SubscribeToCategory(ctx, "load", func(_ context.Context, m mdb.Message) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.got = append(c.got, m.GlobalPosition)
			return nil
		}, opts...)
	}()
	t.Cleanup(func() {
		end(errStopped)
		if err := <-ended; err != errStopped { //nolint:errorlint // the cause itself
			t.Errorf("%s: got error %v, want the cause", name, err)
		}
	})
	return c
}

func (c *tally) compare(t *testing.T, primary *pgxpool.Pool) {
	t.Helper()
	rows, _ := primary.Query(t.Context(), `SELECT global_position FROM message_store.messages WHERE message_store.category(stream_name) = 'load' ORDER BY 1`)
	want, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, primary, c.name+" has received all", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.got) >= len(want)
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	disorder := 0
	for i := range len(c.got) - 1 {
		if c.got[i] > c.got[i+1] {
			disorder++
		}
	}
	sorted := slices.Sorted(slices.Values(c.got))
	if !slices.Equal(sorted, want) || disorder > 0 && !c.workers {
		t.Errorf("%s: got %d messages, %d out of order, want %d", c.name, len(c.got), disorder, len(want))
	}
}
