package conformance

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

func (s *suite) locks(t *testing.T) {
	t.Helper()

	const (
		acquire = `SELECT message_store.acquire_lock($1::varchar)`
		held    = `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND mode = 'ExclusiveLock'
			AND pid = pg_backend_pid() AND objsubid = 1 AND (classid::bigint << 32) | objid::bigint = $1::bigint`
		free = `SELECT pg_try_advisory_xact_lock($1::bigint)`
	)

	s.check(t, "returns the hash of the category", func(t *testing.T) {
		category := mdbtest.Category("lock")
		for _, stream := range []mdb.StreamName{category.Stream("1"), category.Stream("2+3"), mdb.StreamName(category)} {
			if got, want := value[int64](t, s.store.Pool(), acquire, string(stream)), mdb.Hash64(string(category)); got != want {
				t.Errorf("acquire_lock(%q) is %d, want %d", stream, got, want)
			}
		}
	})

	s.check(t, "locks the category until the end of the transaction", func(t *testing.T) {
		category := mdbtest.Category("lock")
		key := mdb.Hash64(string(category))
		other := s.connect(t, nil)
		tx := s.begin(t, pgx.TxOptions{})

		do(t, tx, acquire, string(category.Stream("1")))
		if got := value[int](t, tx, held, key); got != 1 {
			t.Errorf("the transaction holds %d locks of the category, want 1", got)
		}
		if value[bool](t, other, free, key) {
			t.Error("another session gets the lock")
		}
		if !value[bool](t, other, free, mdb.Hash64(string(mdbtest.Category("lock")))) {
			t.Error("another session does not get another category's lock")
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !value[bool](t, other, free, key) {
			t.Error("after the commit another session does not get the lock")
		}
	})

	s.check(t, "releases the lock on a rollback to a savepoint", func(t *testing.T) {
		category := mdbtest.Category("lock")
		key := mdb.Hash64(string(category))
		tx := s.begin(t, pgx.TxOptions{})
		savepoint, err := tx.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		do(t, savepoint, acquire, string(category))
		if got := value[int](t, tx, held, key); got != 1 {
			t.Errorf("the transaction holds %d locks of the category, want 1", got)
		}
		if err := savepoint.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := value[int](t, tx, held, key); got != 0 {
			t.Errorf("after the rollback the transaction holds %d locks of the category, want none", got)
		}
	})

	s.check(t, "write_message takes the lock of the category", func(t *testing.T) {
		category := mdbtest.Category("lock")
		other := s.connect(t, nil)
		tx := s.begin(t, pgx.TxOptions{})
		write(t, tx, proposal{stream: category.Stream("1")})
		if value[bool](t, other, free, mdb.Hash64(string(category))) {
			t.Error("another session gets the lock")
		}
	})

	s.check(t, "LockCategories takes the locks of several categories", func(t *testing.T) {
		a, b := mdbtest.Category("lock"), mdbtest.Category("lock")
		tx := s.begin(t, pgx.TxOptions{})
		if err := s.store.WithTx(tx).LockCategories(t.Context(), a, b, a); err != nil {
			t.Fatal(err)
		}
		for _, category := range []mdb.Category{a, b} {
			if got := value[int](t, tx, held, mdb.Hash64(string(category))); got != 1 {
				t.Errorf("the transaction holds %d locks of the category, want 1", got)
			}
		}
	})
}
