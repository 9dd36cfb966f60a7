package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestAtomicallyRetries checks which errors of the server make Atomically run the function
// again, when they are raised once or each time.
func TestAtomicallyRetries(t *testing.T) {
	t.Parallel()
	var log journal
	s := mdbtest.Store(t, attempts(4), log.option())
	exec(t, s.Pool(), faulty)
	for _, tt := range []struct {
		fault
		times, runs int
	}{
		{fault{"40001", "serialization", ""}, 1, 2},
		{fault{"40P01", "deadlock", ""}, 2, 3},
		{fault{"55P03", "lock timeout", ""}, 3, 4},
		{fault{"40001", "serialization", ""}, 1000, 4},
		{fault{"40P01", "deadlock", ""}, 1000, 4},
		{fault{"55P03", "lock timeout", ""}, 1000, 4},
		{fault{"22000", "data", ""}, 1, 1},
		{fault{"P0001", "raised", ""}, 1, 1},
		{fault{"23505", "duplicate", "messages_id"}, 1, 1},
		{fault{"42501", "permission", ""}, 1, 1},
	} {
		for _, hide := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s times %d, hidden %t", tt.code, tt.times, hide), func(t *testing.T) {
				stream := mdbtest.Category("retries").Stream("1")
				tt.set(t, s.Pool(), tt.times)
				runs, before := 0, log.retries()
				err := s.Atomically(t.Context(), []mdb.Category{stream.Category()}, func(tx *mdb.Tx) error {
					runs++
					_, err := tx.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
					if hide {
						return nil
					}
					return err
				})
				want := 1
				if tt.runs <= tt.times {
					want = 0
					wantCode(t, err, tt.code)
				} else if err != nil {
					t.Errorf("got error %v after %d runs", err, runs)
				}
				if n := len(positions(t, s.Pool(), stream)); n != want || runs != tt.runs {
					t.Errorf("got %d messages after %d runs, want %d after %d", n, runs, want, tt.runs)
				}
				if n := log.retries() - before; n != tt.runs-1 {
					t.Errorf("got %d retries in the log, want %d", n, tt.runs-1)
				}
				if isUnknown(err) {
					t.Errorf("got error %v, want no unknown outcome after a rollback", err)
				}
				checkReleased(t, s.Pool())
			})
		}
	}
}

// TestAtomicallyDeadlock checks that after a deadlock of two transactions, which write to
// two categories in different orders without naming them, the one that the server aborts
// is run again.
func TestAtomicallyDeadlock(t *testing.T) {
	t.Parallel()
	var log journal
	s := newStore(t, newPool(t, testdb.Shared(t), parameter("deadlock_timeout", "10ms")), log.option())
	categories := []mdb.Category{mdbtest.Category("a"), mdbtest.Category("b")}
	met := []chan struct{}{make(chan struct{}), make(chan struct{})}
	done := make(chan error, 2)
	for i := range 2 {
		go func() {
			runs := 0
			done <- s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
				if _, err := tx.WriteMessage(t.Context(), categories[i].Stream("1"), mdb.NewMessage("Happened", nil)); err != nil {
					return err
				}
				if runs++; runs == 1 {
					close(met[i])
					<-met[1-i]
				}
				_, err := tx.WriteMessage(t.Context(), categories[1-i].Stream("1"), mdb.NewMessage("Happened", nil))
				return err
			})
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if log.retries() == 0 {
		t.Error("there was no deadlock, so this test proves nothing")
	}
	for _, category := range categories {
		if got := positions(t, s.Pool(), category.Stream("1")); !slices.Equal(got, []int64{0, 1}) {
			t.Errorf("got positions %v, want 0 and 1", got)
		}
	}
	checkReleased(t, s.Pool())
}

// TestAtomicallyLockTimeout checks that Atomically retries when it cannot get its locks in
// time.
func TestAtomicallyLockTimeout(t *testing.T) {
	t.Parallel()
	category := mdbtest.Category("timeout")
	log := journal{onRecord: holdLock(t, mdbtest.SharedStore(t), category)}
	s := newStore(t, newPool(t, testdb.Shared(t), parameter("lock_timeout", "300ms")), log.option())
	runs := 0
	err := s.Atomically(t.Context(), []mdb.Category{category}, func(*mdb.Tx) error {
		runs++
		return nil
	})
	if err != nil || runs != 1 || log.retries() != 1 {
		t.Errorf("got error %v after %d runs and %d retries, want 1 and 1", err, runs, log.retries())
	}
}

// TestAtomicallyOnClosedPool checks that a closed pool is not retried.
func TestAtomicallyOnClosedPool(t *testing.T) {
	t.Parallel()
	var log journal
	pool := newPool(t, testdb.Shared(t))
	s := newStore(t, pool, log.option())
	pool.Close()
	err := s.Atomically(t.Context(), nil, func(*mdb.Tx) error {
		t.Error("the function is called without a transaction")
		return nil
	})
	if err == nil || isUnknown(err) || log.retries() != 0 {
		t.Errorf("got error %v after %d retries, want one and none", err, log.retries())
	}
}

// TestAtomicallyCommitLost checks what Atomically reports when the connection breaks
// before, during and after the commit.
func TestAtomicallyCommitLost(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		place     int
		committed bool
	}{"unsent": {unsent, false}, "lost": {lost, false}, "no answer": {0, true}, "half an answer": {8, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var w wire
			s := newStore(t, newPool(t, testdb.Shared(t), w.attach, oneConnection), attempts(2))
			a, b := mdbtest.Category("a").Stream("1"), mdbtest.Category("b").Stream("1")
			w.cut(cut{"commit\x00", tt.place})
			one, two := mdb.NewMessage("One", nil), proposals(2)
			runs := 0
			err := s.Atomically(t.Context(), []mdb.Category{a.Category(), b.Category()}, func(tx *mdb.Tx) error {
				runs++
				write(t, tx, a, one)
				_, err := tx.WriteMessages(t.Context(), b, two)
				return err
			})
			wantRuns := 1
			if tt.place == unsent { // so it is not committed, and is retried
				if wantRuns = 2; err != nil {
					t.Error(err)
				}
			} else if unknown := wantError[*mdb.UnknownOutcomeError](t, err); !slices.Equal(unknown.IDs, []uuid.UUID{one.ID, two[0].ID, two[1].ID}) {
				t.Errorf("got IDs %v, want those of all messages", unknown.IDs)
			}
			if runs != wantRuns {
				t.Errorf("got %d runs, want %d", runs, wantRuns)
			}
			checkReleased(t, s.Pool())
			want := 0
			if tt.committed || tt.place == unsent {
				want = 3
			}
			if n := len(positions(t, s.Pool(), a)) + len(positions(t, s.Pool(), b)); n != want {
				t.Errorf("got %d messages, want %d", n, want)
			}

			// Without messages it may be retried.
			w.cut(cut{"commit\x00", tt.place})
			if err := s.Atomically(t.Context(), nil, func(*mdb.Tx) error { return nil }); err != nil {
				t.Errorf("got error %v of a transaction that wrote nothing", err)
			}

			// A statement of the caller's own may have written.
			w.cut(cut{"commit\x00", tt.place})
			err = s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
				_, err := tx.Tx().Exec(t.Context(), "SELECT 1")
				return err
			})
			if isUnknown(err) != (tt.place != unsent) || mdb.IsTransient(err) && tt.place != unsent {
				t.Errorf("got error %v, want an unknown outcome unless the commit was not sent", err)
			}
		})
	}
}

// TestAtomicallyLostBeforeCommit checks that a transaction whose connection breaks before the
// commit is retried, whether the function returns the error or ignores it, and that another
// error of the function ends it.
func TestAtomicallyLostBeforeCommit(t *testing.T) {
	t.Parallel()
	errOther := error(&pgconn.PgError{Severity: "ERROR", Code: "40001", Message: "of another database"})
	for name, tt := range map[string]struct {
		lock bool                  // whether the lock is what breaks
		own  bool                  // whether a statement of the caller's does
		then func(err error) error // what the function returns
		runs int
		err  error
	}{
		"lock":     {lock: true, runs: 1},
		"returned": {then: func(err error) error { return err }, runs: 2},
		"wrapped":  {then: func(err error) error { return fmt.Errorf("no deposit: %w", err) }, runs: 2},
		"ignored":  {then: func(error) error { return nil }, runs: 2},
		"replaced": {then: func(error) error { return errOther }, runs: 1, err: errOther},
		"own":      {own: true, then: func(err error) error { return err }, runs: 2},
	} {
		for place, where := range map[int]string{unsent: "unsent", lost: "lost", 0: "no answer"} {
			t.Run(name+", "+where, func(t *testing.T) {
				t.Parallel()
				var w wire
				s := newStore(t, newPool(t, testdb.Shared(t), w.attach, oneConnection), attempts(2))
				stream := mdbtest.Category("broken").Stream("1")
				seed(t, s, stream, 1)
				var categories []mdb.Category
				if tt.lock {
					categories = append(categories, stream.Category())
				}
				w.cut(cut{string(stream.Category()), place})
				runs := 0
				err := s.Atomically(t.Context(), categories, func(tx *mdb.Tx) (err error) {
					if runs++; tt.own {
						_, err = tx.Tx().Exec(t.Context(), `SELECT $1::text`, string(stream))
					}
					if err == nil {
						_, err = tx.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
					}
					if err != nil {
						return tt.then(err)
					}
					return nil
				})
				if err != tt.err { //nolint:errorlint // it is returned as it is
					t.Errorf("got error %v, want %v", err, tt.err)
				}
				if runs != tt.runs || w.uncut() != 0 {
					t.Errorf("got %d runs, want %d", runs, tt.runs)
				}
				want := 2
				if tt.err != nil {
					want = 1
				}
				if got := positions(t, s.Pool(), stream); len(got) != want {
					t.Errorf("got %d messages, want %d", len(got), want)
				}
				checkReleased(t, s.Pool())
			})
		}
	}
}

// late makes transactions fail or wait when they commit.
const late = `
CREATE FUNCTION public.late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.type = 'Waits' THEN
		PERFORM message_store.acquire_lock(NEW.data->>'category');
	ELSE
		RAISE EXCEPTION 'late' USING ERRCODE = NEW.type;
	END IF;
	RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON message_store.messages DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW WHEN (NEW.type <> 'Happened') EXECUTE FUNCTION public.late();`

// TestAtomicallyCommitEnds checks that the outcome is unknown when an administrator or the
// context ends a commit that waits.
func TestAtomicallyCommitEnds(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	exec(t, newPool(t, url), late)
	for _, name := range []string{"terminated", "cancelled"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// A new server, because each test needs all but one of a pool's connections.
			s := newStore(t, newPool(t, url))
			stream, held := mdbtest.Category("waits").Stream("1"), mdbtest.Category("held")
			release := holdLock(t, s, held)
			defer release()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			m := mdb.NewMessage("Waits", map[string]any{"category": held})
			runs := 0
			done := make(chan error, 1)
			go func() {
				done <- s.Atomically(ctx, nil, func(tx *mdb.Tx) error {
					runs++
					_, err := tx.WriteMessage(ctx, stream, m)
					return err
				})
			}()
			untilBlocked(t, s.Pool(), held, 1)
			if name == "cancelled" {
				cancel()
			} else {
				exec(t, s.Pool(), `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND `+keyLocks, mdb.Hash64(string(held)))
			}
			err := <-done
			if unknown := wantError[*mdb.UnknownOutcomeError](t, err); !slices.Equal(unknown.IDs, []uuid.UUID{m.ID}) || runs != 1 {
				t.Errorf("got IDs %v after %d runs, want %s after 1", unknown.IDs, runs, m.ID)
			}
			if name == "cancelled" && !errors.Is(err, context.Canceled) {
				t.Errorf("got error %v, want a cancelled context", err)
			}
			if name == "terminated" {
				wantCode(t, err, "57P01")
			}
		})
	}
}

// TestAtomicallyCommitFails checks that the outcome is known when the server rejects the
// commit, because it is rolled back.
func TestAtomicallyCommitFails(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t, attempts(3))
	exec(t, s.Pool(), late)
	for code, want := range map[string]int{"40001": 3, "40P01": 3, "22000": 1, "23514": 1} {
		stream := mdbtest.Category("fails").Stream("1")
		runs := 0
		err := s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
			runs++
			_, err := tx.WriteMessage(t.Context(), stream, mdb.NewMessage(code, nil))
			return err
		})
		wantCode(t, err, code)
		if isUnknown(err) || runs != want {
			t.Errorf("got error %v after %d runs, want no unknown outcome after %d", err, runs, want)
		}
		if got := positions(t, s.Pool(), stream); len(got) != 0 {
			t.Errorf("got %d messages, want none", len(got))
		}
	}
	checkReleased(t, s.Pool())
}

// TestAtomicallyBeginsAgain checks that Atomically begins again if the pool's connection
// is dead, as after a restart of the server. Nothing was sent, so it is safe.
func TestAtomicallyBeginsAgain(t *testing.T) {
	t.Parallel()
	other := mdbtest.SharedStore(t)
	s := newStore(t, newPool(t, testdb.Shared(t), oneConnection), attempts(3))
	stream := mdbtest.Category("dead").Stream("1")
	pid := value[int](t, s.Pool(), `SELECT pg_backend_pid()`)
	exec(t, other.Pool(), `SELECT pg_terminate_backend($1)`, pid)
	until(t, other.Pool(), `SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)`, pid)
	runs := 0
	err := s.Atomically(t.Context(), []mdb.Category{stream.Category()}, func(tx *mdb.Tx) error {
		runs++
		_, err := tx.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
		return err
	})
	if err != nil || runs != 1 {
		t.Errorf("got error %v after %d runs, want 1", err, runs)
	}
}
