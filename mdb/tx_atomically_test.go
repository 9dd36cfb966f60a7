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

// checkReleased checks that a pool gets all its connections back. It waits for broken
// ones, which the pool counts until they are closed.
func checkReleased(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	for end := time.Now().Add(testTimeout); pool.Stat().AcquiredConns() > 0; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("got %d connections that were not released", pool.Stat().AcquiredConns())
		}
	}
}

// TestAtomically checks that Atomically commits if the function returns nil, and otherwise
// rolls back and returns its error.
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
			t.Errorf("got error %v, want %v", err, end)
		}
		want := 0
		if end == nil {
			want = 3
		}
		if n := len(positions(t, s.Pool(), a.Stream("1"))) + len(positions(t, s.Pool(), b.Stream("1"))); n != want || runs != 1 {
			t.Errorf("got %d messages after %d runs, want %d after 1", n, runs, want)
		}
		checkReleased(t, s.Pool())
	}
}

// TestAtomicallyLocksFirst checks that all locks are held when the function begins, and
// that they are taken in the order of their hashes.
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
		if mdb.Hash64(string(a)) > mdb.Hash64(string(b)) { // the largest first, which is the wrong order
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
			t.Errorf("whether lock %d of 3 from the top is held: got %t, want %t", i, got, want)
		}
	}
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestAtomicallyIsReadCommitted checks that the function sees what others commit while it
// runs, even if the database's default isolation is stricter.
func TestAtomicallyIsReadCommitted(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t), parameter("default_transaction_isolation", "serializable")))
	other := mdbtest.SharedStore(t)
	stream := mdbtest.Category("committed").Stream("1")
	err := s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
		for want := range int64(2) {
			if got, err := tx.StreamVersion(t.Context(), stream); err != nil || got != want-1 {
				t.Errorf("got version %d, error %v, want %d", got, err, want-1)
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

// TestAtomicallyKeepsErrors checks that an error of the function's own ends the
// transaction without a retry, even if it looks like an error of the server.
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
			t.Errorf("got error %v after %d runs, want %v after 1", err, runs, failure)
		}
		if got := positions(t, s.Pool(), stream); len(got) != 0 {
			t.Errorf("got %d messages, want none", len(got))
		}
	}
	checkReleased(t, s.Pool())
}

// TestAtomicallyKeepsConflicts checks that a wrong version is not retried.
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
		t.Errorf("got %d runs, want 1", runs)
	}
}

// TestAtomicallySwallowedError checks that Atomically returns the first failure of a call,
// and nothing is written, if the function returns nil in spite of it.
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
		"and another call after it": func(tx *mdb.Tx, stream mdb.StreamName) (error, string) {
			_, err := tx.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), mdb.ExpectVersion(9))
			if _, err := tx.StreamVersion(t.Context(), stream); err == nil {
				t.Error("a call in an aborted transaction succeeds")
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
				t.Fatalf("got error %v, want no unknown outcome after a rollback", err)
			}
			wantCode(t, err, want)
			if want == "P0001" {
				if conflict := wantError[*mdb.WrongVersionError](t, err); conflict.Stream != stream || conflict.Expected != 9 || conflict.Actual != 0 {
					t.Errorf("got %+v, want what the call returned", conflict)
				}
			}
			if runs != 1 {
				t.Errorf("got %d runs, want 1", runs)
			}
			if got := positions(t, s.Pool(), stream); len(got) != 0 {
				t.Errorf("got %d messages, want none", len(got))
			}
		})
	}
}

// TestAtomicallyPanic checks that a panic of the function rolls the transaction back, and
// goes on.
func TestAtomicallyPanic(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t), oneConnection))
	stream := mdbtest.Category("panic").Stream("1")
	func() {
		defer func() {
			if r := recover(); r != "as it was" {
				t.Errorf("got panic %v", r)
			}
		}()
		_ = s.Atomically(t.Context(), []mdb.Category{stream.Category()}, func(tx *mdb.Tx) error {
			write(t, tx, stream, mdb.NewMessage("Happened", nil))
			panic("as it was")
		})
		t.Error("got no panic")
	}()
	checkReleased(t, s.Pool())
	if got := positions(t, s.Pool(), stream); len(got) != 0 {
		t.Errorf("got %d messages, want none", len(got))
	}
	write(t, s, stream, mdb.NewMessage("Happened", nil)) // the lock is free
}

// TestAtomicallyWithoutFunction checks that Atomically rejects nil before it sends anything.
func TestAtomicallyWithoutFunction(t *testing.T) {
	t.Parallel()
	var w wire
	s := newStore(t, newPool(t, testdb.Shared(t), w.attach, oneConnection))
	if err := s.Atomically(t.Context(), []mdb.Category{"account"}, nil); !errors.As(err, new(*mdb.ArgumentError)) {
		t.Errorf("got error %v, want an *mdb.ArgumentError", err)
	}
	if n := w.trips.Load(); n != 0 {
		t.Errorf("got %d round trips, want none", n)
	}
}
