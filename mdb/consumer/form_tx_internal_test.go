package consumer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// both returns handlers of the forms that give a transaction to the handler. They call f with
// each message.
func both(f func(ctx context.Context, tx pgx.Tx, m mdb.Message) error) map[string]Handler {
	return map[string]Handler{
		"EachTx": EachTx(f),
		"BatchTx": BatchTx(func(ctx context.Context, tx pgx.Tx, ms []mdb.Message) error {
			for _, m := range ms {
				if err := f(ctx, tx, m); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}

// TestHandlersTransaction checks that a handler cannot end its transaction, that savepoints and
// messages of the store are part of it, and that it is over after the call.
func TestHandlersTransaction(t *testing.T) {
	t.Parallel()
	store := newStand(t, 0, database(t)).store
	for _, failing := range []error{nil, errors.New("failed")} {
		for name := range both(nil) {
			t.Run(fmt.Sprintf("%s %v", name, failing), func(t *testing.T) {
				s := standOn(t, store, 1)
				out := s.category + "out"
				var kept []pgx.Tx
				h := both(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
					for _, end := range []func(context.Context) error{tx.Commit, tx.Rollback} {
						if err := end(ctx); err == nil {
							t.Error("the handler can end its transaction")
						}
					}
					inner, err := tx.Begin(ctx)
					if err != nil {
						return err
					}
					if _, err := inner.Exec(ctx, `SELECT 1/0`); err == nil {
						t.Error("the statement succeeds")
					}
					if err := inner.Rollback(ctx); err != nil {
						return err
					}
					if inner, err = tx.Begin(ctx); err != nil {
						return err
					}
					if _, err := s.store.WithTx(inner).WriteMessage(ctx, out.Stream("1"), mdb.NewMessage("Followed", nil), mdb.ExpectNoStream()); err != nil {
						return err
					}
					if err := inner.Commit(ctx); err != nil {
						return err
					}
					if _, err := s.store.WithTx(tx).WriteMessage(ctx, out.Stream("1"), mdb.NewMessage("Followed", nil), mdb.ExpectVersion(0)); err != nil {
						return err
					}
					if inner, err = tx.Begin(ctx); err != nil {
						return err
					}
					kept = []pgx.Tx{tx, inner}
					if _, err = tx.Exec(ctx, insertLog, m.ID.String()); err != nil {
						return err
					}
					if n, err := tx.CopyFrom(ctx, pgx.Identifier{"public", "log"}, []string{"message"}, pgx.CopyFromRows([][]any{{[16]byte(uuid.New())}})); n != 1 || err != nil {
						t.Errorf("got %d rows, %v", n, err)
					}
					return failing
				})[name]
				done, err := s.handle(h)
				written, versionErr := s.store.StreamVersion(t.Context(), out.Stream("1"))
				if !errors.Is(err, failing) || versionErr != nil || (failing == nil) != (written == 1) || (failing == nil) != (done == 1) {
					t.Errorf("got %d, %v, and version %d, %v", done, err, written, versionErr)
				}
				s.check(done)
				for _, tx := range kept {
					checkClosed(t, s, tx)
				}
			})
		}
	}
}

// checkClosed checks that nothing can be done in a transaction whose call has ended.
func checkClosed(t *testing.T, s *stand, tx pgx.Tx) {
	t.Helper()
	ctx := t.Context()
	for name, f := range map[string]func() error{
		"Begin":     func() error { _, err := tx.Begin(ctx); return err },
		"Exec":      func() error { _, err := tx.Exec(ctx, `SELECT 1`); return err },
		"Query":     func() error { rows, err := tx.Query(ctx, `SELECT 1`); rows.Close(); return err },
		"QueryRow":  func() error { return tx.QueryRow(ctx, `SELECT 1`).Scan(nil) },
		"Prepare":   func() error { _, err := tx.Prepare(ctx, "late", `SELECT 1`); return err },
		"SendBatch": func() error { b := new(pgx.Batch); b.Queue(`SELECT 1`); return tx.SendBatch(ctx, b).Close() },
		"CopyFrom": func() error {
			_, err := tx.CopyFrom(ctx, pgx.Identifier{"public", "log"}, []string{"message"}, pgx.CopyFromRows(nil))
			return err
		},
		"LargeObjects": func() error { l := tx.LargeObjects(); _, err := l.Create(ctx, 0); return err },
	} {
		if err := f(); !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("%s after the end: got error %v, want pgx.ErrTxClosed", name, err)
		}
	}
	if _, err := s.store.WithTx(tx).StreamVersion(ctx, s.category.Stream("1")); err == nil {
		t.Error("a store can read in the transaction after its end")
	}
}

// TestHandlerEndsTransaction checks what follows if a handler ends its transaction, loses it, or
// ignores an error, in which cases nothing of later messages must be committed.
func TestHandlerEndsTransaction(t *testing.T) {
	t.Parallel()
	store := newStand(t, 0, database(t)).store
	var verdictOf *verdict
	for way, tt := range map[string]struct {
		do   func(ctx context.Context, tx pgx.Tx)
		want func(err error) bool
	}{
		"commits": {
			func(ctx context.Context, tx pgx.Tx) { _, _ = tx.Exec(ctx, `COMMIT`) },
			func(err error) bool {
				return errors.Is(err, errEnded) && errors.As(err, &verdictOf) && verdictOf.what == toPark
			},
		},
		"rolls back": {
			func(ctx context.Context, tx pgx.Tx) { _, _ = tx.Conn().Exec(ctx, `ROLLBACK`) },
			func(err error) bool {
				return errors.Is(err, errEnded) && errors.As(err, &verdictOf) && verdictOf.what == toPark
			},
		},
		"ignores an error": {
			func(ctx context.Context, tx pgx.Tx) { _, _ = tx.Exec(ctx, `SELECT 1/0`) },
			func(err error) bool { return errors.Is(err, errIgnored) },
		},
		"leaves rows open": {
			func(ctx context.Context, tx pgx.Tx) { _, _ = tx.Query(ctx, `SELECT generate_series(1, 10000)`) },
			func(err error) bool { return errors.Is(err, errOpen) },
		},
		"loses the connection": {
			func(ctx context.Context, tx pgx.Tx) {
				_, _ = tx.Exec(ctx, `SELECT pg_terminate_backend(pg_backend_pid())`)
			},
			func(err error) bool { return errors.As(err, new(*lostError)) },
		},
	} {
		for name := range both(nil) {
			t.Run(name+" "+way, func(t *testing.T) {
				s := standOn(t, store, 3)
				calls := 0
				done, err := s.handle(both(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
					if m.Position == 1 {
						if calls++; calls == 1 {
							tt.do(ctx, tx)
						}
						return nil
					}
					if m.Position == 2 && name == "EachTx" {
						t.Error("the next message was handled")
					}
					return nil
				})[name])
				var batchErr *BatchError
				if !tt.want(err) || errors.As(err, &batchErr) != (name == "EachTx") || name == "EachTx" && (done != 1 || batchErr.Index != 1) {
					t.Errorf("got %d, %v", done, err)
				}
			})
		}
	}
	checkReleased(t, store.Pool())
}

// TestBegin checks the isolation level of transactions, whatever the role's default is, and
// after which time the server ends them.
func TestBegin(t *testing.T) {
	t.Parallel()
	const settings = `INSERT INTO public.log (message, isolation)
		SELECT $1, concat_ws(', ', current_setting('transaction_isolation'), current_setting('idle_in_transaction_session_timeout'))`
	for _, tt := range []struct {
		isolation          pgx.TxIsoLevel
		idle               time.Duration
		wantTx, wantQueued string
	}{
		{"", -1, "read committed, 1min", "read committed, 7s"},
		{pgx.Serializable, 1500 * time.Millisecond, "serializable, 1500ms", "serializable, 7s"},
		{pgx.RepeatableRead, 0, "repeatable read, 0", "repeatable read, 7s"},
	} {
		store := newStand(t, 0, database(t), parameter("default_transaction_isolation", "repeatable read"),
			parameter("idle_in_transaction_session_timeout", "7s")).store
		for name, h := range txHandlers(settings, nil) {
			s := standOn(t, store, 1)
			if tt.isolation != "" {
				s.config.isolation = tt.isolation
			}
			if tt.idle >= 0 {
				s.config.idle = tt.idle
			}
			if done, err := s.handle(h); done != 1 || err != nil {
				t.Fatal(done, err)
			}
			want := tt.wantTx
			if name == "EachQueued" { // which is never idle in its transaction
				want = tt.wantQueued
			}
			if got := value[string](t, store.Pool(), `SELECT isolation FROM public.log WHERE message = $1`, s.messages[0].ID.String()); got != want {
				t.Errorf("%s: got %q, want %q", name, got, want)
			}
			if got := value[string](t, store.Pool(), `SHOW idle_in_transaction_session_timeout`); got != "7s" {
				t.Errorf("%s leaves the setting at %s", name, got)
			}
		}
	}
}

// TestIdleTooLong checks that a handler that leaves its transaction idle for too long is the
// failure, and not a lost connection without a cause.
func TestIdleTooLong(t *testing.T) {
	t.Parallel()
	url := database(t)
	store, observer := newStand(t, 0, url).store, newPool(t, url)
	for name := range both(nil) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := standOn(t, store, 2)
			s.config.idle = 3 * time.Second // more than a busy machine takes between statements
			done, err := s.handle(both(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
				if m.Position == 0 {
					_, err := tx.Exec(ctx, insertLog, m.ID.String())
					return err
				}
				for value[bool](t, observer, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)`, int(tx.Conn().PgConn().PID())) {
					continue
				}
				return nil
			})[name])
			if err == nil || isTransient(err) || errors.As(err, new(*lostError)) || !strings.Contains(err.Error(), "idle") {
				t.Fatalf("got %d, %v, want that the transaction was idle", done, err)
			}
			var batchErr *BatchError
			if name == "EachTx" && (!errors.As(err, &batchErr) || batchErr.Index != 1 || done != 1) {
				t.Errorf("got %d, %v, want that the second message fails", done, err)
			}
			s.check(done)
		})
	}
}

// TestCommitFails checks the outcome if the server rejects the commit: it does not say which
// message is the cause, unless there is only one.
func TestCommitFails(t *testing.T) {
	t.Parallel()
	store := newStand(t, 0, database(t)).store
	for name, h := range txHandlers(`INSERT INTO public.late (message) VALUES ($1), ($1)`, nil) {
		t.Run(name, func(t *testing.T) {
			s := standOn(t, store, 2)
			done, err := s.handle(h)
			var pgErr *pgconn.PgError
			if done != 0 || !errors.As(err, &pgErr) || pgErr.Code != "23505" || errors.As(err, new(*BatchError)) || isTransient(err) {
				t.Errorf("got %d, %v, want SQLSTATE 23505", done, err)
			}
			s.check(0)
		})
	}
}

// TestSerializationFails checks that a serialization failure keeps its SQLSTATE, and that a
// repetition in which the first attempt turns out to be committed is a success at every
// isolation level.
func TestSerializationFails(t *testing.T) {
	t.Parallel()
	store := newStand(t, 0, ownDatabase(t)).store // serializable transactions of other tests could conflict with these
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		t.Run(string(level), func(t *testing.T) {
			s := standOn(t, store, 1)
			s.config.isolation = level
			raced := false
			h := EachTx(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
				if _, err := tx.Exec(ctx, insertLog, m.ID.String()); err != nil || raced {
					return err
				}
				raced = true // another attempt commits after this one has its snapshot
				other := EachTx(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
					_, err := tx.Exec(ctx, insertLog, m.ID.String())
					return err
				})
				if done, err := s.handle(other); done != 1 || err != nil {
					t.Error(done, err)
				}
				return nil
			})
			if done, err := s.handle(h); done != 1 || err != nil {
				t.Errorf("got %d, %v, want a success", done, err)
			}
			s.check(1)

			s = standOn(t, store, 1)
			s.config.isolation = level
			done, err := s.handle(EachTx(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
				if _, err := tx.Exec(ctx, insertLog, m.ID.String()); err != nil {
					return err
				}
				exec(t, store.Pool(), `UPDATE message_store_consumers.checkpoints SET moved = now() WHERE consumer = $1`, s.member.Consumer)
				return nil
			}))
			if done != 0 || !isConflict(err) {
				t.Errorf("got %d, %v, want a serialization failure", done, err)
			}
			s.check(0)
		})
	}
}

// TestReadOnlyServer checks that a server that rejects writes, as in a failover, is no failure of
// a message.
func TestReadOnlyServer(t *testing.T) {
	t.Parallel()
	s := newStand(t, 2, database(t))
	readOnly := newPool(t, database(t), parameter("default_transaction_read_only", "on"))
	store, err := mdb.New(readOnly)
	if err != nil {
		t.Fatal(err)
	}
	s.config.store = store
	for name, h := range txHandlers(insertLog, nil) {
		if done, err := s.handle(h); done != 0 || !isTransient(err) || errors.As(err, new(*BatchError)) || codeOf(err) != "25006" {
			t.Errorf("%s: got %d, %v, want a transient error", name, done, err)
		}
	}
	s.check(0)
}

// TestContextEnds checks that a call whose context ends commits nothing, and that its error is
// not that of a message.
func TestContextEnds(t *testing.T) {
	t.Parallel()
	store := newStand(t, 0, database(t)).store
	errLost := errors.New("the lease is lost")
	for name := range both(nil) {
		t.Run(name, func(t *testing.T) {
			s := standOn(t, store, 3)
			ctx, cancel := context.WithCancelCause(t.Context())
			h := both(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
				if m.Position == 1 {
					cancel(errLost)
				}
				return nil
			})[name]
			if done, err := h.form(s.config).call(ctx, s.calling(s.messages)); done != 0 || err == nil || ledger.IsFenced(err) {
				t.Errorf("got %d, %v", done, err)
			}
			s.check(0)
		})
	}
}
