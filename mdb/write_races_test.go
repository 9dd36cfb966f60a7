package mdb_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// holdLock takes a category's lock, and holds it until release is called.
func holdLock(t testing.TB, s *mdb.Store, categories ...mdb.Category) (release func()) {
	t.Helper()
	tx := begin(t, s.Pool())
	if err := s.WithTx(tx).LockCategories(t.Context(), categories...); err != nil {
		t.Fatal(err)
	}
	return func() { _ = tx.Rollback(t.Context()) }
}

// keyLocks is a condition on pg_locks for the locks on a category, whose hash is $1.
const keyLocks = `locktype = 'advisory' AND objsubid = 1 AND (classid::bigint << 32 | objid::bigint) = $1
	AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`

// untilBlocked waits until n sessions wait for a category's lock.
func untilBlocked(t testing.TB, db database, category mdb.Category, n int) {
	t.Helper()
	until(t, db, `SELECT count(*) >= $2 FROM pg_locks WHERE NOT granted AND `+keyLocks, mdb.Hash64(string(category)), n)
}

// TestWrongVersionNames checks the error for streams whose names contain the text of the
// server's error.
func TestWrongVersionNames(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	for _, id := range []string{
		"Wrong expected version: 9 (Stream: x, Stream Version: 3)",
		"Stream Version: 3)",
		"x, Stream Version: 3)\n",
		"%s%d%%",
		"🙂)",
	} {
		stream := mdbtest.Category("Wrong expected version: 8 (Stream: ").Stream(id)
		seed(t, s, stream, 3)
		_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Wrong expected version: 7", nil), mdb.ExpectVersion(5))
		if wrong := wantError[*mdb.WrongVersionError](t, err); wrong.Stream != stream || wrong.Expected != 5 || wrong.Actual != 2 {
			t.Errorf("got error %+v, want expected 5 and actual 2", wrong)
		}
		// Another error about such a stream is not a WrongVersionError.
		m := mdb.NewMessage("Happened", nil)
		write(t, s, stream, m)
		_, err = s.WriteMessage(t.Context(), stream, m)
		if wrong := (*mdb.WrongVersionError)(nil); errors.As(err, &wrong) {
			t.Errorf("got error %v, want a DuplicateIDError", err)
		}
	}
}

// TestLostRaceOfSnapshots checks a race lost in a stricter transaction, which does not see
// later writes and fails by the unique index. The server does not know the version then.
func TestLostRaceOfSnapshots(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	for name, opts := range map[string][]mdb.WriteOption{"expecting nothing": nil, "expecting": {mdb.ExpectVersion(0)}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stream := mdbtest.Category("snapshot").Stream("1")
			write(t, s, stream, mdb.NewMessage("Happened", nil))
			tx := begin(t, s.Pool(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
			mtx := s.WithTx(tx)
			if _, err := mtx.StreamVersion(t.Context(), stream); err != nil { // takes the snapshot
				t.Fatal(err)
			}
			write(t, s, stream, mdb.NewMessage("Happened", nil))
			_, err := mtx.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), opts...)
			wrong := wantError[*mdb.WrongVersionError](t, err)
			want := int64(-2)
			if opts != nil {
				want = 0
			}
			if wrong.Actual != -2 || wrong.Expected != want || wrong.Stream != stream {
				t.Errorf("got error %+v, want expected %d and actual -2", wrong, want)
			}
			if pgErr := wantCode(t, err, "23505"); pgErr.ConstraintName != "messages_stream" {
				t.Errorf("got constraint %s, want messages_stream", pgErr.ConstraintName)
			}
			if text := err.Error(); text != "mdb: stream "+string(stream)+" was written to by another transaction" {
				t.Errorf("got text %q", text)
			}
		})
	}
}

// TestStoreOfSnapshots checks that writes without an expected version succeed where the
// database makes all transactions stricter, because the store can begin them again.
func TestStoreOfSnapshots(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"repeatable read", "serializable"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, newPool(t, testdb.Shared(t), parameter("default_transaction_isolation", level)))
			stream := mdbtest.Category("snapshot").Stream("1")
			release := holdLock(t, s, stream.Category())
			failed := make(chan error, 2)
			for range 2 {
				go func() {
					_, err := newStore(t, s.Pool()).WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
					failed <- err
				}()
			}
			// Both have taken their snapshots, and wait for the lock.
			untilBlocked(t, s.Pool(), stream.Category(), 2)
			release()
			for range 2 {
				if err := <-failed; err != nil {
					t.Errorf("write without an expected version: got error %v, want none", err)
				}
			}
			if got, want := positions(t, s.Pool(), stream), []int64{0, 1}; !slices.Equal(got, want) {
				t.Errorf("got positions %v, want %v", got, want)
			}
		})
	}
}

// TestDuplicateID checks an ID that exists in another stream, for a single message and for
// one of a batch.
func TestDuplicateID(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	category := mdbtest.Category("duplicate")
	first := mdb.NewMessage("Happened", nil)
	write(t, s, category.Stream("1"), first)
	onBoth(t, s, func(t *testing.T, c calls, _ database) {
		ms := append(proposals(2), first)
		_, err := c.WriteMessages(t.Context(), category.Stream("2"), ms)
		duplicate := wantError[*mdb.DuplicateIDError](t, err)
		// Which one exists is not known without another query.
		if len(duplicate.IDs) != 3 || duplicate.IDs[0] != ms[0].ID || duplicate.IDs[2] != first.ID {
			t.Errorf("got IDs %v, want all of the call's", duplicate.IDs)
		}
		if pgErr := wantCode(t, err, "23505"); pgErr.ConstraintName != "messages_id" {
			t.Errorf("got constraint %s, want messages_id", pgErr.ConstraintName)
		}
		if want := "mdb: a message with one of 3 IDs already exists, the first of them " + ms[0].ID.String(); err.Error() != want {
			t.Errorf("got text %q, want %q", err, want)
		}
		_, err = s.WriteMessage(t.Context(), category.Stream("2"), first)
		if want := "mdb: a message with ID " + first.ID.String() + " already exists"; err == nil || err.Error() != want {
			t.Errorf("got text %q, want %q", err, want)
		}
	})
	if got := positions(t, s.Pool(), category.Stream("2")); len(got) != 0 {
		t.Errorf("got positions %v, want none", got)
	}
}

// TestSequenceSetBack checks that a write succeeds if the next global positions are taken,
// as after restoring a backup: each attempt draws the next one.
func TestSequenceSetBack(t *testing.T) {
	t.Parallel()
	var log journal
	s := mdbtest.Store(t, attempts(8), log.option())
	stream := mdbtest.Category("sequence").Stream("1")
	seed(t, s, stream, 5)
	exec(t, s.Pool(), `SELECT setval('message_store.messages_global_position_seq', 1)`) // the next are 2 to 5
	w := write(t, s, stream, mdb.NewMessage("Happened", nil))
	if w.Position != 5 || w.GlobalPosition != 6 || w.Duplicate {
		t.Errorf("got %+v, want position 5 and global position 6", w)
	}
	if n := log.retries(); n != 4 {
		t.Errorf("got %d retries, want 4", n)
	}
	exec(t, s.Pool(), `SELECT setval('message_store.messages_global_position_seq', 1)`)
	tx := begin(t, s.Pool())
	_, err := s.WithTx(tx).WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
	if pgErr := wantCode(t, err, "23505"); pgErr.ConstraintName != "messages_pkey" {
		t.Errorf("got constraint %s, want messages_pkey", pgErr.ConstraintName)
	}
}

// TestDeadlock checks that the transaction that the server aborts has no unknown outcome.
func TestDeadlock(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t), parameter("deadlock_timeout", "10ms")))
	a, b := mdbtest.Category("a"), mdbtest.Category("b")
	one, two := begin(t, s.Pool()), begin(t, s.Pool())
	write(t, s.WithTx(one), a.Stream("1"), mdb.NewMessage("Happened", nil))
	write(t, s.WithTx(two), b.Stream("1"), mdb.NewMessage("Happened", nil))
	failed := make(chan error, 1)
	go func() {
		_, err := s.WithTx(one).WriteMessage(t.Context(), b.Stream("1"), mdb.NewMessage("Happened", nil))
		if err != nil {
			_ = one.Rollback(t.Context())
		}
		failed <- err
	}()
	_, err := s.WithTx(two).WriteMessage(t.Context(), a.Stream("1"), mdb.NewMessage("Happened", nil))
	if err != nil {
		_ = two.Rollback(t.Context())
	}
	err = errors.Join(err, <-failed)
	wantCode(t, err, "40P01")
	if lost := (*mdb.UnknownOutcomeError)(nil); errors.As(err, &lost) {
		t.Errorf("got error %v, want no unknown outcome", err)
	}
}

// TestLockTimeout checks that a store waits for a lock again after a timeout, and a
// transaction does not.
func TestLockTimeout(t *testing.T) {
	t.Parallel()
	holder := mdbtest.SharedStore(t)
	pool := newPool(t, testdb.Shared(t), parameter("lock_timeout", "300ms"))
	stream := mdbtest.Category("timeout").Stream("1")
	release := holdLock(t, holder, stream.Category())

	tx := begin(t, pool)
	_, err := newStore(t, pool).WithTx(tx).WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
	wantCode(t, err, "55P03")

	log := journal{onRecord: release}
	w := write(t, newStore(t, pool, attempts(2), log.option()), stream, mdb.NewMessage("Happened", nil))
	if w.Position != 0 || w.Duplicate || log.retries() != 1 {
		t.Errorf("got %+v after %d retries, want position 0 after 1", w, log.retries())
	}
}
