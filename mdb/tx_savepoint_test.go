package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// inEveryMode runs a test in each exec mode, with the procedures and with direct SQL. The
// store has one connection, and the wire counts its round trips.
func inEveryMode(t *testing.T, test func(t *testing.T, s *mdb.Store, w *wire)) {
	t.Helper()
	for _, mode := range execModes {
		for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
			t.Run(mode.String()+" "+way, func(t *testing.T) {
				t.Parallel()
				var w wire
				test(t, newStore(t, newPool(t, testdb.Shared(t), execMode(mode), oneConnection, w.attach), opts...), &w)
			})
		}
	}
}

// TestInSavepoint checks that a write in a savepoint that fails leaves the transaction
// usable, that Idempotent finds what is there, that a savepoint of the caller's with the same
// name still is the caller's, and how many round trips each write takes.
func TestInSavepoint(t *testing.T) {
	t.Parallel()
	inEveryMode(t, func(t *testing.T, s *mdb.Store, w *wire) {
		category := mdbtest.Category("savepoint")
		stream, other := category.Stream("1"), category.Stream("2")
		before := seed(t, s, stream, 1)[0]
		prior := mdb.ProposedMessage{ID: uuid.New(), Type: "Happened", Data: map[string]int{"n": 7}}
		write(t, s, other, prior)

		tx := begin(t, s.Pool())
		in := s.WithTx(tx)
		batch := proposals(2)
		// The first round prepares the statements.
		for round := range 2 {
			trips := func(what string, want int64, call func() error) {
				t.Helper()
				before := w.trips.Load()
				err := call()
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				switch s.Pool().Config().ConnConfig.DefaultQueryExecMode {
				case pgx.QueryExecModeDescribeExec, pgx.QueryExecModeCacheDescribe:
					return // pgx describes before each call, or before the next one after an error
				}
				if got := w.trips.Load() - before; round > 0 && got != want {
					t.Errorf("%s: got %d round trips, want %d", what, got, want)
				}
			}
			exec(t, tx, "SAVEPOINT mdb_in_savepoint")
			trips("a write", 1, func() error {
				_, err := in.WriteMessage(t.Context(), stream, mdb.NewMessage("Undone", nil), mdb.InSavepoint())
				return err
			})
			trips("a batch", 1, func() error {
				_, err := in.WriteMessages(t.Context(), stream, proposals(2), mdb.InSavepoint())
				return err
			})
			trips("a conflict", 2, func() error {
				_, err := in.WriteMessage(t.Context(), stream, mdb.NewMessage("Lost", nil), mdb.ExpectNoStream(), mdb.InSavepoint())
				if conflict := wantError[*mdb.WrongVersionError](t, err); conflict.Actual != int64(round+3) {
					t.Errorf("got actual version %d, want %d", conflict.Actual, round+3)
				}
				return nil
			})
			trips("a conflict of a batch", 2, func() error {
				_, err := in.WriteMessages(t.Context(), stream, proposals(2), mdb.ExpectNoStream(), mdb.InSavepoint())
				wantError[*mdb.WrongVersionError](t, err)
				return nil
			})
			trips("a duplicate", 2, func() error {
				_, err := in.WriteMessage(t.Context(), stream, mdb.ProposedMessage{ID: before.ID, Type: "Lost"}, mdb.InSavepoint())
				wantError[*mdb.DuplicateIDError](t, err)
				return nil
			})
			trips("a duplicate in a batch", 2, func() error {
				ms := append(proposals(1), mdb.ProposedMessage{ID: before.ID, Type: "Lost"})
				_, err := in.WriteMessages(t.Context(), stream, ms, mdb.InSavepoint())
				wantError[*mdb.DuplicateIDError](t, err)
				return nil
			})
			trips("a repetition", 3, func() error {
				got, err := in.WriteMessage(t.Context(), other, prior, mdb.InSavepoint(), mdb.Idempotent())
				if !got.Duplicate || got.Position != 0 {
					t.Errorf("got %+v, want a duplicate at position 0", got)
				}
				return err
			})
			trips("a repetition with the version of the first write", 3, func() error {
				got, err := in.WriteMessage(t.Context(), other, prior, mdb.ExpectNoStream(), mdb.InSavepoint(), mdb.Idempotent())
				if !got.Duplicate || got.Position != 0 {
					t.Errorf("got %+v, want a duplicate at position 0", got)
				}
				return err
			})
			trips("the ID of another message", 3, func() error {
				_, err := in.WriteMessage(t.Context(), other, mdb.ProposedMessage{ID: prior.ID, Type: "Other"}, mdb.InSavepoint(), mdb.Idempotent())
				if duplicate := wantError[*mdb.DuplicateIDError](t, err); !slices.Equal(duplicate.IDs, []uuid.UUID{prior.ID}) {
					t.Errorf("got IDs %v, want %v", duplicate.IDs, prior.ID)
				}
				return nil
			})
			trips("a version without the messages", 3, func() error {
				_, err := in.WriteMessage(t.Context(), other, mdb.NewMessage("New", nil), mdb.ExpectNoStream(), mdb.InSavepoint(), mdb.Idempotent())
				wantError[*mdb.WrongVersionError](t, err)
				return nil
			})

			// It undoes the writes: the savepoint of this name is the caller's again.
			exec(t, tx, "ROLLBACK TO SAVEPOINT mdb_in_savepoint")
			if version, err := in.StreamVersion(t.Context(), stream); err != nil || version != int64(round) {
				t.Fatalf("got version %d, error %v, want %d", version, err, round)
			}
			exec(t, tx, "RELEASE SAVEPOINT mdb_in_savepoint")

			trips("the next write", 1, func() error {
				_, err := in.WriteMessage(t.Context(), stream, mdb.NewMessage("Kept", nil), mdb.ExpectVersion(int64(round)), mdb.InSavepoint())
				return err
			})
			// What the transaction itself has written can be repeated too.
			for i := range 2 {
				got, err := in.WriteMessages(t.Context(), category.Stream("3"), batch, mdb.InSavepoint(), mdb.Idempotent())
				if err != nil || got[1].Duplicate != (round+i > 0) || got[1].Position != 1 {
					t.Errorf("got %+v, error %v", got, err)
				}
			}
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		for stream, want := range map[mdb.StreamName][]int64{stream: {0, 1, 2}, other: {0}, category.Stream("3"): {0, 1}} {
			if got := positions(t, s.Pool(), stream); !slices.Equal(got, want) {
				t.Errorf("%s: got positions %v, want %v", stream, got, want)
			}
		}
	})
}

// TestInSavepointLeavesNone checks that no savepoint remains, neither after a write nor
// after one that fails.
func TestInSavepointLeavesNone(t *testing.T) {
	t.Parallel()
	inEveryMode(t, func(t *testing.T, s *mdb.Store, _ *wire) {
		stream := mdbtest.Category("none").Stream("1")
		for _, opts := range [][]mdb.WriteOption{{mdb.InSavepoint()}, {mdb.InSavepoint(), mdb.ExpectVersion(9)}} {
			tx := begin(t, s.Pool())
			_, err := s.WithTx(tx).WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), opts...)
			if (err != nil) != (len(opts) > 1) {
				t.Errorf("got error %v", err)
			}
			_, err = tx.Exec(t.Context(), "RELEASE SAVEPOINT mdb_in_savepoint")
			wantCode(t, err, "3B001")
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestInSavepointLock checks that a write in a savepoint that fails releases the category's
// lock, so that another session can write before the transaction's next write, and keeps it
// if the transaction had it before. A write that succeeds keeps the lock.
func TestInSavepointLock(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			s := newStore(t, newPool(t, testdb.Shared(t), execMode(mode)))
			other := newStore(t, newPool(t, testdb.Shared(t), parameter("lock_timeout", "1ms")), attempts(1))
			category := mdbtest.Category("lock")
			stream := category.Stream("1")
			seed(t, s, stream, 1)
			const isLocked = `SELECT EXISTS (SELECT FROM pg_locks WHERE granted AND ` + keyLocks + `)`
			locked := func(want bool) {
				t.Helper()
				if got := value[bool](t, s.Pool(), isLocked, mdb.Hash64(string(category))); got != want {
					t.Errorf("whether the category is locked: got %t, want %t", got, want)
				}
			}
			conflict := func(in *mdb.Tx) {
				t.Helper()
				_, err := in.WriteMessage(t.Context(), stream, mdb.NewMessage("Lost", nil), mdb.ExpectVersion(99), mdb.InSavepoint())
				wantError[*mdb.WrongVersionError](t, err)
			}

			tx := begin(t, s.Pool())
			in := s.WithTx(tx)
			conflict(in)
			locked(false)
			write(t, other, stream, mdb.NewMessage("Between", nil))
			_, err := in.WriteMessage(t.Context(), stream, mdb.NewMessage("Late", nil), mdb.ExpectVersion(0), mdb.InSavepoint())
			if lost := wantError[*mdb.WrongVersionError](t, err); lost.Actual != 1 {
				t.Errorf("got actual version %d, want that of the other session's message, 1", lost.Actual)
			}

			write(t, in, stream, mdb.NewMessage("Third", nil), mdb.ExpectVersion(1), mdb.InSavepoint())
			locked(true)
			conflict(in)
			locked(true)
			_, err = other.WriteMessage(t.Context(), stream, mdb.NewMessage("Waits", nil))
			wantCode(t, err, "55P03")
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}

			tx = begin(t, s.Pool())
			in = s.WithTx(tx)
			if err := in.LockCategories(t.Context(), category); err != nil {
				t.Fatal(err)
			}
			conflict(in)
			locked(true)
			_, err = other.WriteMessage(t.Context(), stream, mdb.NewMessage("Waits", nil))
			wantCode(t, err, "55P03")
			write(t, in, stream, mdb.NewMessage("Fourth", nil), mdb.ExpectVersion(2))
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := positions(t, s.Pool(), stream); !slices.Equal(got, []int64{0, 1, 2, 3}) {
				t.Errorf("got positions %v, want 0 to 3", got)
			}
		})
	}
}

// TestInSavepointContextEnds checks that a context that ends during a write ends the
// transaction with the connection, and leaves it usable where the connection stays open.
func TestInSavepointContextEnds(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		for _, usable := range []bool{false, true} {
			name := mode.String() + " closes the connection"
			if usable {
				name = mode.String() + " sends a cancel request"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newStore(t, newPool(t, testdb.Shared(t), execMode(mode), func(cfg *pgxpool.Config) {
					if usable {
						cfg.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
							return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: testTimeout}
						}
					}
				}))
				other := mdbtest.SharedStore(t)
				stream := mdbtest.Category("ends").Stream("1")
				kept := mdbtest.Category("kept").Stream("1")
				release := holdLock(t, other, stream.Category())
				tx := begin(t, s.Pool())
				in := s.WithTx(tx)
				write(t, in, kept, mdb.NewMessage("Kept", nil))
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() {
					_, err := in.WriteMessage(ctx, stream, mdb.NewMessage("Happened", nil), mdb.InSavepoint())
					done <- err
				}()
				untilBlocked(t, other.Pool(), stream.Category(), 1)
				cancel()
				if err := <-done; !errors.Is(err, context.Canceled) || isUnknown(err) {
					t.Errorf("got error %v, want a cancelled context and no unknown outcome", err)
				}
				release()
				want := 0
				if usable {
					want = 1
					write(t, in, stream, mdb.NewMessage("Happened", nil), mdb.ExpectNoStream())
				}
				if err := tx.Commit(t.Context()); (err == nil) != usable {
					t.Errorf("the commit: got error %v", err)
				}
				if got := len(positions(t, other.Pool(), kept)); got != want {
					t.Errorf("got %d messages, want %d", got, want)
				}
			})
		}
	}
}

// TestInSavepointOfAbortedTx checks that a write in a savepoint reports a transaction that
// was aborted before, and does not make it usable, whatever savepoints it has.
func TestInSavepointOfAbortedTx(t *testing.T) {
	t.Parallel()
	inEveryMode(t, func(t *testing.T, s *mdb.Store, _ *wire) {
		stream := mdbtest.Category("aborted").Stream("1")
		for range 2 {
			tx := begin(t, s.Pool())
			exec(t, tx, "SAVEPOINT mdb_in_savepoint")
			if _, err := tx.Exec(t.Context(), "SELECT 1/0"); err == nil {
				t.Fatal("the statement succeeds")
			}
			_, err := s.WithTx(tx).WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), mdb.InSavepoint())
			wantCode(t, err, "25P02")
			if status := tx.Conn().PgConn().TxStatus(); status != 'E' {
				t.Errorf("got transaction status %c, want E", status)
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestInSavepointOutdatedStatement checks that a write in a savepoint whose prepared
// statement is outdated prepares it again, and that the transaction stays usable.
func TestInSavepointOutdatedStatement(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			url := testdb.New(t)
			s := newStore(t, newPool(t, url, execMode(mode), oneConnection))
			stream := mdbtest.Category("outdated").Stream("1")
			tx := begin(t, s.Pool())
			write(t, s.WithTx(tx), stream, mdb.NewMessage("Happened", nil), mdb.InSavepoint())
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			exec(t, newPool(t, url), upgrade)
			tx = begin(t, s.Pool())
			in := s.WithTx(tx)
			_, err := in.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), mdb.InSavepoint())
			// pgx prepares its own statements again only after the transaction.
			if err != nil && mode != pgx.QueryExecModeCacheDescribe {
				t.Errorf("got error %v, want none", err)
			}
			write(t, in, stream, mdb.NewMessage("Next", nil))
			if err := tx.Commit(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestInSavepointUnderAtomically checks that a failed write in a savepoint is not part of
// what Atomically says about the transaction: neither of an unknown outcome, nor of the
// reason of a rollback. A message that was found is.
func TestInSavepointUnderAtomically(t *testing.T) {
	t.Parallel()
	var w wire
	s := newStore(t, newPool(t, testdb.Shared(t), w.attach, oneConnection), attempts(3))
	stream := mdbtest.Category("atomic").Stream("1")
	stored := seed(t, s, stream, 1)[0]
	kept, prior := mdb.NewMessage("Kept", nil), mdb.ProposedMessage{ID: stored.ID, Type: "Happened", Data: map[string]int{"n": 0}}
	work := func(tx *mdb.Tx) {
		_, err := tx.WriteMessage(t.Context(), stream, mdb.NewMessage("Lost", nil), mdb.ExpectNoStream(), mdb.InSavepoint())
		wantError[*mdb.WrongVersionError](t, err)
		write(t, tx, stream, kept, mdb.InSavepoint())
		_, err = tx.WriteMessages(t.Context(), stream, []mdb.ProposedMessage{mdb.NewMessage("Lost", nil), prior}, mdb.InSavepoint())
		wantError[*mdb.DuplicateIDError](t, err)
		if got := write(t, tx, stream, prior, mdb.InSavepoint(), mdb.Idempotent()); !got.Duplicate {
			t.Errorf("got %+v, want a duplicate", got)
		}
	}
	w.cut(cut{"commit\x00", lost})
	err := s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
		work(tx)
		return nil
	})
	if unknown := wantError[*mdb.UnknownOutcomeError](t, err); !slices.Equal(unknown.IDs, []uuid.UUID{kept.ID, prior.ID}) {
		t.Errorf("got IDs %v, want only %v and %v", unknown.IDs, kept.ID, prior.ID)
	}

	runs := 0
	err = s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
		runs++
		work(tx)
		_, _ = tx.StreamVersion(t.Context(), stream)
		_, _ = tx.Tx().Exec(t.Context(), "SELECT 1/0") // ignored
		return nil
	})
	for _, target := range []any{new(*mdb.WrongVersionError), new(*mdb.DuplicateIDError), new(*mdb.UnknownOutcomeError), new(*pgconn.PgError)} {
		if err == nil || errors.As(err, target) || runs != 1 {
			t.Errorf("got error %v after %d runs, want a rollback, not for a write that a savepoint has undone", err, runs)
		}
	}

	if err := s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error { work(tx); return nil }); err != nil {
		t.Fatal(err)
	}
	if got := positions(t, s.Pool(), stream); !slices.Equal(got, []int64{0, 1}) {
		t.Errorf("got positions %v, want 0 and 1", got)
	}
}

// TestInSavepointTransientError checks that Atomically retries if it gets the transient error
// of a write that a savepoint has undone, and does not if f goes on.
func TestInSavepointTransientError(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t, attempts(4))
	exec(t, s.Pool(), faulty)
	for _, ignore := range []bool{false, true} {
		stream := mdbtest.Category("transient").Stream("1")
		fault{"40P01", "deadlock", ""}.set(t, s.Pool(), 2)
		runs := 0
		err := s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
			runs++
			_, err := tx.WriteMessage(t.Context(), stream, mdb.NewMessage("First", nil), mdb.InSavepoint())
			if ignore {
				wantCode(t, err, "40P01")
				_, err = tx.WriteMessage(t.Context(), stream, mdb.NewMessage("First", nil), mdb.InSavepoint())
				wantCode(t, err, "40P01")
				_, err = tx.WriteMessage(t.Context(), stream, mdb.NewMessage("First", nil), mdb.InSavepoint())
			}
			return err
		})
		want := 3
		if ignore {
			want = 1
		}
		if err != nil || runs != want {
			t.Errorf("ignored %t: got error %v after %d runs, want none after %d", ignore, err, runs, want)
		}
		if got := positions(t, s.Pool(), stream); !slices.Equal(got, []int64{0}) {
			t.Errorf("got positions %v, want 0", got)
		}
	}
}

// TestInSavepointTransientErrorUndone checks that Atomically also retries if it gets the
// transient error of a write in a savepoint within one that the function has rolled back, and
// that it neither retries for another error nor after the function has gone on.
func TestInSavepointTransientErrorUndone(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t, attempts(4))
	exec(t, s.Pool(), `
		CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION USING ERRCODE = NEW.type; END';
		CREATE TRIGGER fail BEFORE INSERT ON message_store.messages FOR EACH ROW WHEN (NEW.type = '40P01') EXECUTE FUNCTION public.fail()`)
	errOther := error(&pgconn.PgError{Severity: "ERROR", Code: "40001", Message: "of another database"})
	for name, tt := range map[string]struct {
		then func(error) error // what the function returns
		runs int
		want []string // the types of the messages
	}{
		"returned": {func(err error) error { return err }, 3, []string{"First", "Second", "Last"}},
		"wrapped":  {func(err error) error { return fmt.Errorf("no deposit: %w", err) }, 3, []string{"First", "Second", "Last"}},
		"replaced": {func(error) error { return errOther }, 1, nil},
		"ignored":  {func(error) error { return nil }, 1, []string{"First", "Last"}},
	} {
		stream := mdbtest.Category("transient").Stream("1")
		runs := 0
		err := s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
			runs++
			write(t, tx, stream, mdb.NewMessage("First", nil))
			outer, err := tx.Tx().Begin(t.Context())
			if err != nil {
				return err
			}
			in := s.WithTx(outer)
			write(t, in, stream, mdb.NewMessage("Second", nil))
			if runs <= 2 {
				_, err = in.WriteMessage(t.Context(), stream, mdb.NewMessage("40P01", nil), mdb.InSavepoint())
				wantCode(t, err, "40P01")
				if undoErr := outer.Rollback(t.Context()); undoErr != nil {
					t.Error(undoErr)
				}
				if err = tt.then(err); err != nil {
					return err
				}
			} else if err := outer.Commit(t.Context()); err != nil {
				return err
			}
			write(t, tx, stream, mdb.NewMessage("Last", nil))
			return nil
		})
		if name == "replaced" {
			if err != errOther { //nolint:errorlint // it is returned as it is
				t.Errorf("%s: got error %v, want %v", name, err, errOther)
			}
		} else if err != nil {
			t.Errorf("%s: got error %v, want none", name, err)
		}
		if runs != tt.runs {
			t.Errorf("%s: got %d runs, want %d", name, runs, tt.runs)
		}
		ms, err := s.GetStreamMessages(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range ms {
			got = append(got, m.Type)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got messages %v, want %v", name, got, tt.want)
		}
	}
}

// TestInSavepointLookFails checks that the transaction stays usable if the search for the
// messages of a repetition fails: the role may call write_message and not read the table.
func TestInSavepointLookFails(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	owner := newPool(t, url)
	exec(t, owner, `ALTER FUNCTION message_store.write_message SECURITY DEFINER`)
	s := newStore(t, newPool(t, url, asRole(newRole(t, owner)), oneConnection))
	stream := mdbtest.Category("look").Stream("1")
	m := mdb.NewMessage("Happened", nil)
	write(t, s, stream, m)
	tx := begin(t, s.Pool())
	in := s.WithTx(tx)
	_, err := in.WriteMessage(t.Context(), stream, m, mdb.InSavepoint(), mdb.Idempotent())
	wantError[*mdb.SetupError](t, err)
	write(t, in, stream, mdb.NewMessage("Next", nil), mdb.ExpectVersion(0))
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := positions(t, owner, stream); !slices.Equal(got, []int64{0, 1}) {
		t.Errorf("got positions %v, want 0 and 1", got)
	}
}

// TestDuplicateIsNotFound checks a repetition whose ID the server reports as a duplicate, while
// no message with it is found, as after a trigger's own error. In a transaction nothing was
// written, so the error is the server's, and the transaction stays usable. A Store cannot know
// whether an earlier call is still about to commit, so after the policy's attempts the outcome
// is unknown.
func TestDuplicateIsNotFound(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t, attempts(3))
	exec(t, s.Pool(), faulty)
	duplicate := fault{"23505", "duplicate", "messages_id"}
	stream := mdbtest.Category("unseen").Stream("1")
	seed(t, s, stream, 1)
	for name, batch := range map[string][]mdb.ProposedMessage{"single": proposals(1), "batch": proposals(2)} {
		tx := begin(t, s.Pool())
		in := s.WithTx(tx)
		duplicate.set(t, s.Pool(), 1)
		_, err := in.WriteMessages(t.Context(), stream, batch, mdb.InSavepoint(), mdb.Idempotent())
		found := wantError[*mdb.DuplicateIDError](t, err)
		var ids []uuid.UUID
		for _, m := range batch {
			ids = append(ids, m.ID)
		}
		if !slices.Equal(found.IDs, ids) || found.Differs != "" {
			t.Errorf("%s: got %+v, want all IDs of the call", name, found)
		}
		if pgErr := wantCode(t, err, "23505"); pgErr.Message != "duplicate" {
			t.Errorf("%s: got the server's error %+v", name, pgErr)
		}
		write(t, in, stream, mdb.NewMessage("Next", nil))
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}

		duplicate.set(t, s.Pool(), 1000)
		_, err = s.WriteMessages(t.Context(), stream, batch, mdb.Idempotent())
		if unknown := wantError[*mdb.UnknownOutcomeError](t, err); !slices.Equal(unknown.IDs, ids) || is[*mdb.DuplicateIDError](err) {
			t.Errorf("%s: got error %v, want only an unknown outcome", name, err)
		}
		if n := faultCalls(t, s.Pool()); n != 3 {
			t.Errorf("%s: got %d attempts, want 3", name, n)
		}

		// One that becomes visible meanwhile is found.
		duplicate.set(t, s.Pool(), 2)
		if _, err := s.WriteMessages(t.Context(), stream, batch, mdb.Idempotent()); err != nil {
			t.Errorf("%s: got error %v, want none", name, err)
		}
	}
}
