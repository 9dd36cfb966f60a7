package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// checkReleased expects a pool to have all its connections back. It waits for
// those that are broken, as the pool counts them until they are closed.
func checkReleased(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	for end := time.Now().Add(patience); pool.Stat().AcquiredConns() > 0; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d connections are not given back", pool.Stat().AcquiredConns())
		}
	}
}

func TestAtomically(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t), oneConnection))
	a, b := mdbtest.Category("a"), mdbtest.Category("b")
	errFailed := errors.New("failed")
	for _, end := range []error{errFailed, nil} {
		runs := 0
		err := s.Atomically(t.Context(), []mdb.Category{a, b, a}, func(tx *mdb.Tx) error {
			runs++
			write(t, tx, a.Stream("1"), mdb.NewMessage("Happened", nil), mdb.ExpectNoStream())
			if _, err := tx.WriteMessages(t.Context(), b.Stream("1"), proposals(2)); err != nil {
				t.Error(err)
			}
			return end
		})
		if err != end { //nolint:errorlint // it is returned as it is
			t.Errorf("error %v, want %v", err, end)
		}
		want := 0
		if end == nil {
			want = 3
		}
		if n := len(positions(t, s.Pool(), a.Stream("1"))) + len(positions(t, s.Pool(), b.Stream("1"))); n != want || runs != 1 {
			t.Errorf("%d messages after %d runs, want %d after 1", n, runs, want)
		}
		checkReleased(t, s.Pool())
	}
}

// TestAtomicallyLocksFirst has all locks be taken when the function begins, in the
// order of their hashes.
func TestAtomicallyLocksFirst(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	categories := []mdb.Category{mdbtest.Category("a"), mdbtest.Category("b"), mdbtest.Category("c")}
	err := s.Atomically(t.Context(), categories, func(*mdb.Tx) error {
		for _, category := range categories {
			until := value[bool](t, s.Pool(), `SELECT EXISTS (SELECT FROM pg_locks WHERE granted AND `+keyLocks+`)`, mdb.Hash64(string(category)))
			if !until {
				t.Errorf("%s is not locked", category)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}

	slices.SortFunc(categories, func(a, b mdb.Category) int {
		if mdb.Hash64(string(a)) > mdb.Hash64(string(b)) { // the largest first, which is wrong
			return -1
		}
		return 1
	})
	release := holdLock(t, s, categories[1])
	done := make(chan error, 1)
	go func() { done <- s.Atomically(t.Context(), categories, func(*mdb.Tx) error { return nil }) }()
	untilBlocked(t, s.Pool(), categories[1], 1)
	for i, want := range map[int]bool{0: false, 2: true} {
		if got := value[bool](t, s.Pool(), `SELECT EXISTS (SELECT FROM pg_locks WHERE granted AND `+keyLocks+`)`, mdb.Hash64(string(categories[i]))); got != want {
			t.Errorf("lock %d of 3 from the top is taken: %t, want %t", i, got, want)
		}
	}
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestAtomicallyIsReadCommitted has the function see what others commit meanwhile,
// even where the database makes transactions stricter.
func TestAtomicallyIsReadCommitted(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t), parameter("default_transaction_isolation", "serializable")))
	other := mdbtest.SharedStore(t)
	stream := mdbtest.Category("committed").Stream("1")
	err := s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
		for want := range int64(2) {
			if got, err := tx.StreamVersion(t.Context(), stream); err != nil || got != want-1 {
				t.Errorf("version %d, error %v, want %d", got, err, want-1)
			}
			write(t, other, stream, mdb.NewMessage("Happened", nil))
		}
		_, err := tx.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), mdb.ExpectVersion(1))
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestAtomicallyKeepsErrors has an error that is the function's own end the
// transaction for good, though it looks like one of the server's.
func TestAtomicallyKeepsErrors(t *testing.T) {
	t.Parallel()
	elsewhere := &pgconn.PgError{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "40001", Message: "of another database"}
	s := mdbtest.SharedStore(t, attempts(5))
	for _, failure := range []error{
		errors.New("failed"),
		elsewhere,
		fmt.Errorf("another database: %w", elsewhere),
		&mdb.UnknownOutcomeError{},
		context.Canceled,
		pgx.ErrTxCommitRollback,
		mdb.ErrNoMessage,
	} {
		stream := mdbtest.Category("own").Stream("1")
		runs := 0
		err := s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
			runs++
			write(t, tx, stream, mdb.NewMessage("Happened", nil))
			return failure
		})
		if err != failure || runs != 1 { //nolint:errorlint // it is returned as it is
			t.Errorf("error %v after %d runs, want %v after 1", err, runs, failure)
		}
		if got := positions(t, s.Pool(), stream); len(got) != 0 {
			t.Errorf("%d messages, want none", len(got))
		}
	}
	checkReleased(t, s.Pool())
}

// TestAtomicallyKeepsConflicts has a lost race be the caller's to decide about.
func TestAtomicallyKeepsConflicts(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t, attempts(5))
	stream := mdbtest.Category("conflict").Stream("1")
	write(t, s, stream, mdb.NewMessage("Happened", nil))
	runs := 0
	err := s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
		runs++
		_, err := tx.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), mdb.ExpectNoStream())
		return err
	})
	wantError[*mdb.WrongVersionError](t, err)
	if runs != 1 {
		t.Errorf("%d runs, want 1", runs)
	}
}

// TestAtomicallySwallowedError has the function say that all is well though a call
// had failed: nothing was written, and the first failure is what is told.
func TestAtomicallySwallowedError(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t, attempts(5), mdb.WithConditions())
	for name, fail := range map[string]func(tx *mdb.Tx, stream mdb.StreamName) (err error, code string){
		"write": func(tx *mdb.Tx, stream mdb.StreamName) (error, string) {
			_, err := tx.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), mdb.ExpectVersion(9))
			return err, "P0001"
		},
		"condition": func(tx *mdb.Tx, stream mdb.StreamName) (error, string) {
			_, err := tx.GetStreamMessages(t.Context(), stream, mdb.WithCondition("nonsense"))
			return err, "42703"
		},
		"and another call behind it": func(tx *mdb.Tx, stream mdb.StreamName) (error, string) {
			_, err := tx.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), mdb.ExpectVersion(9))
			if _, err := tx.StreamVersion(t.Context(), stream); err == nil {
				t.Error("a call succeeds in a failed transaction")
			}
			return err, "P0001"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stream := mdbtest.Category("swallowed").Stream("1")
			runs, want := 0, ""
			err := s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
				runs++
				write(t, tx, stream, mdb.NewMessage("Happened", nil))
				var err error
				if err, want = fail(tx, stream); err == nil {
					t.Error("the call succeeds")
				}
				return nil
			})
			if isUnknown(err) {
				t.Fatalf("error %v, though the server has rolled back", err)
			}
			wantCode(t, err, want)
			if runs != 1 {
				t.Errorf("%d runs, want 1", runs)
			}
			if got := positions(t, s.Pool(), stream); len(got) != 0 {
				t.Errorf("%d messages, want none", len(got))
			}
		})
	}
}

func TestAtomicallyPanic(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t), oneConnection))
	stream := mdbtest.Category("panic").Stream("1")
	func() {
		defer func() {
			if r := recover(); r != "as it was" {
				t.Errorf("recovered %v", r)
			}
		}()
		_ = s.Atomically(t.Context(), []mdb.Category{stream.Category()}, func(tx *mdb.Tx) error {
			write(t, tx, stream, mdb.NewMessage("Happened", nil))
			panic("as it was")
		})
		t.Error("no panic")
	}()
	checkReleased(t, s.Pool())
	if got := positions(t, s.Pool(), stream); len(got) != 0 {
		t.Errorf("%d messages, want none", len(got))
	}
	write(t, s, stream, mdb.NewMessage("Happened", nil)) // nobody holds the lock
}
