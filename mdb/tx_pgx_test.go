package mdb_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestOwnTablesAtomically checks that rows of the program's own table and messages are
// committed together, or not, and that the program cannot end the transaction itself.
func TestOwnTablesAtomically(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t)
	exec(t, s.Pool(), `CREATE TABLE public.accounts (stream text)`)
	stream := mdbtest.Category("account").Stream("1")
	errFailed := errors.New("failed")
	for _, tt := range []struct {
		end            error
		messages, rows int
	}{{errFailed, 0, 0}, {nil, 1, 1}} {
		err := s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
			exec(t, tx.Tx(), `INSERT INTO public.accounts VALUES ($1)`, string(stream))
			for _, end := range []func(context.Context) error{tx.Tx().Commit, tx.Tx().Rollback} {
				if err := end(t.Context()); err == nil {
					t.Error("the function can end the transaction of Atomically")
				}
			}
			write(t, tx, stream, mdb.NewMessage("Happened", nil))
			return tt.end
		})
		if !errors.Is(err, tt.end) {
			t.Fatal(err)
		}
		messages, rows := len(positions(t, s.Pool(), stream)), value[int](t, s.Pool(), `SELECT count(*) FROM public.accounts`)
		if messages != tt.messages || rows != tt.rows {
			t.Errorf("got %d messages and %d rows, want %d and %d", messages, rows, tt.messages, tt.rows)
		}
	}

	// The same in the caller's transaction.
	tx := begin(t, s.Pool())
	handle := s.WithTx(tx).Tx()
	if err := handle.Commit(t.Context()); err == nil {
		t.Error("the holder of a Tx can commit the caller's transaction")
	}
	exec(t, handle, `INSERT INTO public.accounts VALUES ('2')`)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := handle.Begin(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("after the end: got error %v, want pgx.ErrTxClosed", err)
	}
	if rows := value[int](t, s.Pool(), `SELECT count(*) FROM public.accounts`); rows != 2 {
		t.Errorf("got %d rows, want 2", rows)
	}
}

// TestSavepointsOfTx checks that savepoints work within Atomically, and that what they undo
// is not part of what Atomically reports.
func TestSavepointsOfTx(t *testing.T) {
	t.Parallel()
	var w wire
	s := newStore(t, newPool(t, testdb.Shared(t), w.attach, oneConnection), attempts(1))
	stream := mdbtest.Category("savepoint").Stream("1")
	errUndo := errors.New("undo")
	var kept []uuid.UUID
	work := func(tx *mdb.Tx) error {
		kept = nil
		keep := func(in *mdb.Tx) error {
			m := mdb.NewMessage("Kept", nil)
			kept = append(kept, m.ID)
			_, err := in.WriteMessage(t.Context(), stream, m)
			return err
		}
		if err := keep(tx); err != nil {
			return err
		}
		err := pgx.BeginFunc(t.Context(), tx.Tx(), func(inner pgx.Tx) error {
			write(t, s.WithTx(inner), stream, mdb.NewMessage("Undone", nil))
			if err := pgx.BeginFunc(t.Context(), inner, func(innermost pgx.Tx) error {
				_, err := s.WithTx(innermost).WriteMessages(t.Context(), stream, proposals(2))
				return err
			}); err != nil {
				return err
			}
			_, err := s.WithTx(inner).WriteMessage(t.Context(), stream, mdb.NewMessage("Lost", nil), mdb.ExpectNoStream())
			wantError[*mdb.WrongVersionError](t, err)
			return errUndo
		})
		if err != errUndo { //nolint:errorlint // it is returned as it is
			return err
		}
		return pgx.BeginFunc(t.Context(), tx.Tx(), func(inner pgx.Tx) error { return keep(s.WithTx(inner)) })
	}
	w.cut(cut{"commit\x00", lost})
	err := s.Atomically(t.Context(), nil, work)
	if unknown := wantError[*mdb.UnknownOutcomeError](t, err); !slices.Equal(unknown.IDs, kept) {
		t.Errorf("got IDs %v, want %v", unknown.IDs, kept)
	}
	if err := s.Atomically(t.Context(), nil, work); err != nil {
		t.Fatal(err)
	}
	if got := positions(t, s.Pool(), stream); !slices.Equal(got, []int64{0, 1}) {
		t.Errorf("got positions %v, want 0 and 1", got)
	}
	err = s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
		if err := work(tx); err != nil {
			return err
		}
		_, _ = tx.Tx().Exec(t.Context(), "SELECT 1/0") // ignored
		return nil
	})
	if err == nil || errors.As(err, new(*mdb.WrongVersionError)) || isUnknown(err) {
		t.Errorf("got error %v, want a rollback, for no conflict", err)
	}
}

// TestOwnStatementFails checks what Atomically makes of the error of a statement of the
// program's own: it retries if the server has aborted the transaction and a retry may
// succeed, and it reports a rollback if the function has ignored the error.
func TestOwnStatementFails(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t, attempts(3))
	exec(t, s.Pool(), `CREATE FUNCTION public.fail(code text) RETURNS void LANGUAGE plpgsql AS
		$$BEGIN RAISE EXCEPTION 'fails' USING ERRCODE = code; END$$`)
	for _, tt := range []struct {
		code string
		runs int
	}{{"40001", 3}, {"40P01", 3}, {"55P03", 3}, {"22000", 1}, {"23505", 1}} {
		stream := mdbtest.Category("own").Stream("1")
		for _, times := range []int{1, 1000} {
			runs := 0
			err := s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
				runs++
				write(t, tx, stream, mdb.NewMessage("Happened", nil), mdb.ExpectNoStream())
				if runs <= times {
					_, err := tx.Tx().Exec(t.Context(), `SELECT public.fail($1)`, tt.code)
					return err
				}
				return nil
			})
			want, committed := min(times+1, tt.runs), times < tt.runs
			if runs != want || (err == nil) != committed {
				t.Errorf("%s, %d times: got error %v after %d runs, want %d", tt.code, times, err, runs, want)
			}
			if err != nil {
				wantCode(t, err, tt.code)
			}
			if committed {
				stream = mdbtest.Category("own").Stream("1")
			}
			if got := positions(t, s.Pool(), stream); len(got) != 0 {
				t.Errorf("got %d messages, want none", len(got))
			}
		}

		for name, then := range map[string]func(tx *mdb.Tx){
			"nothing":  func(*mdb.Tx) {},
			"another":  func(tx *mdb.Tx) { _, _ = tx.StreamVersion(t.Context(), stream) },
			"a commit": func(tx *mdb.Tx) { _ = tx.Tx().Commit(t.Context()) },
		} {
			runs := 0
			err := s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
				runs++
				write(t, tx, stream, mdb.NewMessage("Happened", nil), mdb.ExpectNoStream())
				if _, err := tx.Tx().Exec(t.Context(), `SELECT public.fail($1)`, tt.code); err == nil {
					t.Error("the statement succeeds")
				}
				then(tx)
				return nil
			})
			if err == nil || isUnknown(err) || runs != 1 {
				t.Errorf("%s, then %s: got error %v after %d runs, want that of a rollback after 1", tt.code, name, err, runs)
			}
			if got := positions(t, s.Pool(), stream); len(got) != 0 {
				t.Errorf("got %d messages, want none", len(got))
			}
		}
	}
	checkReleased(t, s.Pool())
}

// TestTransientErrorInSavepoint checks that Atomically retries if it gets the transient error
// of a write in a savepoint that the function has rolled back.
func TestTransientErrorInSavepoint(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t, attempts(4))
	exec(t, s.Pool(), faulty)
	fault{"40001", "serialization", ""}.set(t, s.Pool(), 2)
	stream := mdbtest.Category("transient").Stream("1")
	runs := 0
	err := s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
		runs++
		return pgx.BeginFunc(t.Context(), tx.Tx(), func(inner pgx.Tx) error {
			_, err := s.WithTx(inner).WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
			return err
		})
	})
	if err != nil || runs != 3 {
		t.Errorf("got error %v after %d runs, want none after 3", err, runs)
	}
	if got := positions(t, s.Pool(), stream); !slices.Equal(got, []int64{0}) {
		t.Errorf("got positions %v, want 0", got)
	}
}

// A quietConn loses what is written after the server has closed the connection, without an
// error, as TCP does at first.
type quietConn struct{ net.Conn }

func (c quietConn) Write(b []byte) (int, error) {
	if n, err := c.Conn.Write(b); !errors.Is(err, syscall.EPIPE) {
		return n, err
	}
	return len(b), nil
}

// TestAtomicallyIdleTooLong checks that the outcome of a transaction that the server has
// ended because it was idle is known.
func TestAtomicallyIdleTooLong(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t), func(cfg *pgxpool.Config) {
		cfg.ConnConfig.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
			return quietConn{conn}, nil
		}
	}))
	other := mdbtest.SharedStore(t)
	stream := mdbtest.Category("idle").Stream("1")
	runs := 0
	err := s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
		runs++
		write(t, tx, stream, mdb.NewMessage("Happened", nil))
		exec(t, tx.Tx(), `SET LOCAL idle_in_transaction_session_timeout = '1ms'`)
		until(t, other.Pool(), `SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)`, int(tx.Tx().Conn().PgConn().PID()))
		return nil
	})
	wantCode(t, err, "25P03")
	if isUnknown(err) || runs != 1 {
		t.Errorf("got error %v after %d runs, want a known outcome after 1", err, runs)
	}
	if got := positions(t, other.Pool(), stream); len(got) != 0 {
		t.Errorf("got %d messages, want none", len(got))
	}
}
