package mdb_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
)

// atOnce makes a standby cancel reads as soon as they conflict with what it replays.
var atOnce = []pgtest.Option{pgtest.Setting("max_standby_streaming_delay", "0"), pgtest.Setting("hot_standby_feedback", "off")}

// TestReplicaReplayConflict checks that a read which the standby cancels, or whose connection it ends, because of a conflict with
// what it replays gets all messages from the primary, and that subscriptions deliver every message once and in order while that
// happens to them.
func TestReplicaReplayConflict(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	m := mirror(t, atOnce)
	var st stall
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		replica := newPool(t, m.Standby.URL("postgres"), st.attach, func(cfg *pgxpool.Config) { cfg.MaxConns = 20 })
		s := openMirrored(t, m.primary, replica, opts...)
		stream := mdb.Category("replayed" + way).Stream("1")
		var last mdb.Written
		for range 20 {
			last = write(t, s, stream, mdb.NewMessage("Happened", map[string]string{"text": strings.Repeat("x", 4000)}))
		}
		if err := s.AwaitWrite(t.Context(), stream, last); err != nil {
			t.Fatal(err)
		}
		t.Run(way+", cancelled", func(t *testing.T) {
			conflicting(t, s, stream, last, func(reads int, begin func()) {
				replica.Reset() // a new session plans its statements, for which it locks all indexes
				m.cancel(t, reads, begin)
			})
			if n := s.Stats().ReplicaFailures; n != 0 {
				t.Errorf("reads have left the replica %d times, want 0", n)
			}
		})
		t.Run(way+", terminated", func(t *testing.T) {
			conflicting(t, s, stream, last, func(reads int, begin func()) { m.terminate(t, &st, reads, begin) })
			eventually(t, m.replica, "reads return", func() bool { return mdb.ReadsReplica(t.Context(), s) })
		})
	}
	t.Run("subscriptions", m.subscribeWhileConflicting)
}

// conflicting runs reads of a stream of 20 messages, one of each kind, with which the replay conflicts: conflict calls begin when reads
// would meet it, and returns when they have.
func conflicting(t *testing.T, s *mdb.Store, stream mdb.StreamName, last mdb.Written, conflict func(reads int, begin func())) {
	t.Helper()
	ctx := t.Context()
	var ready sync.WaitGroup
	begun := make(chan struct{})
	wait := func() {
		ready.Done()
		<-begun
	}
	iterate := func(messages func(func(mdb.Message, error) bool)) (all []mdb.Message, err error) {
		for m, err := range messages {
			if err != nil {
				return all, err
			}
			if all = append(all, m); len(all) == 7 { // the end of the first page
				wait()
			}
		}
		return all, nil
	}
	one := func(m mdb.Message, err error) ([]mdb.Message, error) { return []mdb.Message{m}, err }
	var all []int64
	for position := range int64(20) {
		all = append(all, position)
	}
	kinds := []struct {
		what  string
		whole bool // it waits by itself
		want  []int64
		call  func() ([]mdb.Message, error)
	}{
		{"GetStreamMessages", true, all, func() ([]mdb.Message, error) { return s.GetStreamMessages(ctx, stream) }},
		{"GetCategoryMessages", true, all, func() ([]mdb.Message, error) { return s.GetCategoryMessages(ctx, stream.Category()) }},
		{"StreamMessages", false, all, func() ([]mdb.Message, error) { return iterate(s.StreamMessages(ctx, stream, mdb.WithBatchSize(7))) }},
		{"CategoryMessages", false, all, func() ([]mdb.Message, error) {
			return iterate(s.CategoryMessages(ctx, stream.Category(), mdb.WithBatchSize(7)))
		}},
		{"GetMessage", true, all[19:], func() ([]mdb.Message, error) { return one(s.GetMessage(ctx, last.ID)) }},
		{"GetLastStreamMessage", true, all[19:], func() ([]mdb.Message, error) { return one(s.GetLastStreamMessage(ctx, stream)) }},
	}
	ready.Add(len(kinds))
	var reads sync.WaitGroup
	begin := sync.OnceFunc(func() { close(begun) })
	t.Cleanup(func() { // also of a test that has failed
		begin()
		reads.Wait()
	})
	for _, kind := range kinds {
		reads.Go(func() {
			if kind.whole {
				wait()
			}
			messages, err := kind.call()
			got := make([]int64, len(messages))
			for i := range messages {
				got[i] = messages[i].Position
			}
			if err != nil || !slices.Equal(got, kind.want) {
				t.Errorf("%s: got positions %v, error %v, want %v", kind.what, got, err, kind.want)
			}
		})
	}
	ready.Wait()
	before := s.Stats()
	conflict(len(kinds), begin)
	reads.Wait()
	after := s.Stats()
	if n := after.ReplicaFallbacks - before.ReplicaFallbacks; n != int64(len(kinds)) || after.ReplicaReads != before.ReplicaReads {
		t.Errorf("%d reads are from the primary and %d from the replica, want %d and 0", n, after.ReplicaReads-before.ReplicaReads, len(kinds))
	}
}

// cancel makes the standby cancel reads while they wait. A read locks the table, and then waits for its indexes, whose locks the
// replay of REINDEX holds. Then the replay needs the lock of the table.
func (m *mirrored) cancel(t *testing.T, reads int, start func()) {
	t.Helper()
	tx := begin(t, m.primary)
	exec(t, tx, `REINDEX TABLE message_store.messages`)
	exec(t, m.primary, `SELECT pg_logical_emit_message(true, '', '')`) // a commit, which sends the locks
	m.CatchUp(t)
	m.pause(t)
	exec(t, tx, `LOCK TABLE message_store.messages IN ACCESS EXCLUSIVE MODE`)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	start()
	until(t, m.replica, `SELECT count(*) = $1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'`, reads)
	m.resume(t)
}

// terminate makes the standby end the connections of reads, whose transactions are open although they execute nothing.
func (m *mirrored) terminate(t *testing.T, st *stall, reads int, begin func()) {
	t.Helper()
	st.on.Store(true)
	begin()
	until(t, m.replica, `SELECT count(*) = $1 FROM pg_locks JOIN pg_stat_activity USING (pid)
		WHERE relation = 'message_store.messages'::regclass AND granted AND wait_event = 'ClientRead'`, reads)
	st.on.Store(false)
	exec(t, m.primary, `VACUUM FULL message_store.messages`)
}

// A stall keeps a client from ending its requests, as a slow network would, so that the server does not end their transactions.
type stall struct{ on atomic.Bool }

func (s *stall) attach(cfg *pgxpool.Config) {
	cfg.ConnConfig.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
		return &stalledConn{conn, s}, nil
	}
}

type stalledConn struct {
	net.Conn
	stall *stall
}

func (c *stalledConn) Write(b []byte) (int, error) {
	const execute, sync = "E\x00\x00\x00\x09\x00\x00\x00\x00\x00", "S\x00\x00\x00\x04"
	if !c.stall.on.Load() || !bytes.Contains(b, []byte(execute)) || !bytes.HasSuffix(b, []byte(sync)) {
		return c.Conn.Write(b)
	}
	if _, err := c.Conn.Write(b[:len(b)-len(sync)]); err != nil {
		return 0, err
	}
	return len(b), nil
}

// subscribeWhileConflicting checks subscriptions while the replay of VACUUM FULL conflicts with their reads, again and again.
func (m *mirrored) subscribeWhileConflicting(t *testing.T) {
	var stores []*mdb.Store
	var watched []*tally
	for name, opts := range map[string][]mdb.StoreOption{"procedures": {often}, "direct": {often, mdb.WithDirectSQL()}} {
		s := openMirrored(t, newPool(t, m.Primary.URL("postgres")), newPool(t, m.Standby.URL("postgres")), opts...)
		stores = append(stores, s)
		workers := count(t, name+", workers", s, noFork(t), mdb.WithWorkers(3))
		workers.workers = true
		watched = append(watched, workers, count(t, name, s, noFork(t)), count(t, name+", small pages", s, noFork(t), mdb.WithBatchSize(7)))
	}
	writer := newStore(t, m.primary)
	n := 0
	for conflicts := range int64(5) { // with a time for each, as they come by chance
		eventually(t, m.primary, "reads of each store have met one more conflict", func() bool {
			for range 50 {
				write(t, writer, mdb.Category("load").Stream(fmt.Sprint(n%5)), mdb.NewMessage("Happened", n))
				n++
			}
			exec(t, m.primary, `VACUUM FULL message_store.messages`)
			return !slices.ContainsFunc(stores, func(s *mdb.Store) bool { return s.Stats().ReplicaFallbacks <= conflicts })
		})
	}
	for _, c := range watched {
		c.compare(t, m.primary)
		if stats := c.store.Stats(); stats.ReplicaReads == 0 || stats.Forks > 0 {
			t.Errorf("%s: got stats %+v", c.name, stats)
		}
	}
}
