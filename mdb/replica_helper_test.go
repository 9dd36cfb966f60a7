package mdb_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// A mirrored is a primary and its replica, and a store on both.
type mirrored struct {
	*pgtest.Pair

	primary, replica *pgxpool.Pool
	store            *mdb.Store
	journal          journal
}

// newMirrored returns a store that reads from the replica already.
func newMirrored(t testing.TB, opts ...mdb.StoreOption) *mirrored {
	t.Helper()
	m := mirror(t, nil)
	m.store = m.open(t, opts...)
	return m
}

// mirror is newMirrored with settings of both servers, and without a store.
func mirror(t testing.TB, settings []pgtest.Option) *mirrored {
	t.Helper()
	m := &mirrored{Pair: testdb.Pair(t, settings...)}
	m.primary, m.replica = newPool(t, m.Primary.URL("postgres")), newPool(t, m.Standby.URL("postgres"))
	return m
}

func (m *mirrored) open(t testing.TB, opts ...mdb.StoreOption) *mdb.Store {
	t.Helper()
	return openMirrored(t, m.primary, m.replica, append(opts, m.journal.option())...)
}

func openMirrored(t testing.TB, primary, replica *pgxpool.Pool, opts ...mdb.StoreOption) *mdb.Store {
	t.Helper()
	s := newStore(t, primary, append(opts, mdb.WithReplica(replica))...)
	t.Cleanup(s.Close)
	eventually(t, primary, "reads use the replica", func() bool { return mdb.ReadsReplica(t.Context(), s) })
	return s
}

// pause stops the replay of what the standby receives.
func (m *mirrored) pause(t testing.TB) {
	t.Helper()
	exec(t, m.replica, "SELECT pg_wal_replay_pause()")
	until(t, m.replica, "SELECT pg_get_wal_replay_pause_state() = 'paused'")
}

func (m *mirrored) resume(t testing.TB) {
	t.Helper()
	exec(t, m.replica, "SELECT pg_wal_replay_resume()")
}

// departures counts the lines of the log that say that reads have left the replica, and that they have returned.
func (m *mirrored) departures() (left, returned int) {
	text := m.journal.String()
	return strings.Count(text, "reads use the primary"), strings.Count(text, "reads use the replica again")
}

// served returns which server has served a call: "replica", "primary" after the replica, or "" if the replica
// was not considered.
func served(s *mdb.Store, call func()) string {
	before := s.Stats()
	call()
	after := s.Stats()
	return strings.TrimSpace(strings.Repeat("replica ", int(after.ReplicaReads-before.ReplicaReads)) +
		strings.Repeat("primary ", int(after.ReplicaFallbacks-before.ReplicaFallbacks)))
}

// noFork fails the test if messages are reported as lost.
func noFork(t testing.TB) mdb.SubscribeOption {
	return mdb.OnFork(func(_ context.Context, fork mdb.Fork) error {
		t.Errorf("got fork %+v", fork)
		return nil
	})
}
