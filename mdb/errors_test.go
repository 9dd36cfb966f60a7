package mdb_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// faulty makes write_message raise an error in its first calls. A sequence counts the
// calls, because a rollback does not reset it.
const faulty = `
CREATE SCHEMA original;
ALTER FUNCTION message_store.write_message(varchar, varchar, varchar, jsonb, jsonb, bigint) SET SCHEMA original;
CREATE SEQUENCE public.calls;
CREATE TABLE public.fault AS SELECT 0 AS times, '' AS code, '' AS message, '' AS constrained;
CREATE FUNCTION message_store.write_message(id varchar, stream_name varchar, type varchar, data jsonb, metadata jsonb DEFAULT NULL, expected_version bigint DEFAULT NULL)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	f public.fault;
BEGIN
	SELECT * INTO f FROM public.fault;
	IF nextval('public.calls') <= f.times THEN
		RAISE EXCEPTION USING ERRCODE = f.code, MESSAGE = f.message, CONSTRAINT = f.constrained,
			DETAIL = 'detail c4n4ry', HINT = 'hint';
	END IF;
	RETURN original.write_message($1, $2, $3, $4, $5, $6);
END
$$;`

// A fault is the error that write_message raises in a faulty database.
type fault struct {
	code, message, constraint string
}

// set makes the given number of the next calls fail.
func (f fault) set(t testing.TB, pool *pgxpool.Pool, times int) {
	t.Helper()
	exec(t, pool, `UPDATE public.fault SET times = $1, code = $2, message = $3, constrained = $4`, times, f.code, f.message, f.constraint)
	exec(t, pool, `ALTER SEQUENCE public.calls RESTART`)
}

func faultCalls(t testing.TB, pool *pgxpool.Pool) int {
	t.Helper()
	return value[int](t, pool, `SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM public.calls`)
}

// TestErrorClasses checks every kind of error that a write can meet, raised once by the
// server: a store retries where that is safe and then succeeds, and a transaction never
// does.
func TestErrorClasses(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t, attempts(3))
	exec(t, s.Pool(), faulty)
	refused := func(t *testing.T, err error) {
		for _, target := range []any{new(*mdb.WrongVersionError), new(*mdb.DuplicateIDError), new(*mdb.UnknownOutcomeError), new(*mdb.SetupError), new(*mdb.ArgumentError)} {
			if errors.As(err, target) {
				t.Errorf("got error %v is a %T", err, target)
			}
		}
	}
	wrongVersion := func(actual int64) func(*testing.T, error) {
		return func(t *testing.T, err error) {
			if wrong := wantError[*mdb.WrongVersionError](t, err); wrong.Actual != actual || wrong.Expected != 6 {
				t.Errorf("got error %+v, want expected 6 and actual %d", wrong, actual)
			}
		}
	}
	duplicate := func(t *testing.T, err error) { wantError[*mdb.DuplicateIDError](t, err) }
	setup := func(t *testing.T, err error) {
		if setup := wantError[*mdb.SetupError](t, err); setup.Problem == "" || setup.Remedy == "" {
			t.Errorf("got error %+v", setup)
		}
	}
	const wrong = "Wrong expected version: 6 (Stream: a-1, Stream Version: 4)"
	for _, tt := range []struct {
		fault
		again bool                          // whether a store retries
		check func(t *testing.T, err error) // checks the error if it is not retried
	}{
		{fault{"40001", "could not serialize access", ""}, true, refused},
		{fault{"40P01", "deadlock detected", ""}, true, refused},
		{fault{"55P03", "canceling statement due to lock timeout", ""}, true, refused},
		{fault{"23505", "duplicate key", "messages_pkey"}, true, setup},
		{fault{"0A000", "cached plan must not change result type", ""}, true, refused},
		{fault{"26000", "prepared statement does not exist", ""}, true, refused},
		// The outcome of these is unknown, also to the server.
		{fault{"40003", "statement completion unknown", ""}, true, refused},
		{fault{"08006", "connection failure", ""}, true, refused},
		{fault{"08P01", "protocol violation", ""}, true, refused},

		{fault{"P0001", wrong, ""}, false, wrongVersion(4)},
		{fault{"P0001", "Wrong expected version: 6 (Stream: a-1, Stream Version: -1)", ""}, false, wrongVersion(-1)},
		{fault{"P0001", "REMOTE ERROR: " + wrong, ""}, false, wrongVersion(4)},
		{fault{"P0001", "shard7: [db] REMOTE ERROR: " + wrong, ""}, false, wrongVersion(4)},
		{fault{"P0001", "Wrong expected version: 6 (Stream: Wrong expected version: 9 (Stream: x, Stream Version: 3), Stream Version: 4)", ""}, false, wrongVersion(4)},
		{fault{"P0001", "Wrong expected version: 6 (Stream: a\n1, Stream Version: 4)", ""}, false, wrongVersion(4)},
		{fault{"P0001", "Wrong expected version: 6 (Stream: a-1, Stream Version: 99999999999999999999)", ""}, false, wrongVersion(-2)},
		{fault{"23505", "duplicate key", "messages_stream"}, false, wrongVersion(-2)},
		{fault{"23505", "duplicate key", "messages_id"}, false, duplicate},

		{fault{"P0001", "Wrong expected version: 6", ""}, false, refused},
		{fault{"P0001", wrong + " and more", ""}, false, refused},
		{fault{"P0001", "something of a trigger's", ""}, false, refused},
		{fault{"22000", wrong, ""}, false, refused}, // the text alone does not decide
		{fault{"P0001", "Must be a stream name: a", ""}, false, refused},
		{fault{"23505", "duplicate key", "somebody_elses"}, false, refused},
		{fault{"23502", "null value", ""}, false, refused},
		{fault{"23514", "check", "messages_id"}, false, refused},
		{fault{"22P02", "invalid input syntax", ""}, false, refused},
		{fault{"22P05", "unsupported Unicode escape sequence", ""}, false, refused},
		{fault{"22021", "invalid byte sequence", ""}, false, refused},
		{fault{"22003", "value overflows numeric format", ""}, false, refused},
		{fault{"54000", "index row size", ""}, false, refused},
		{fault{"54001", "stack depth limit exceeded", ""}, false, refused},
		{fault{"XX000", "internal error", ""}, false, refused},

		{fault{"42883", "function category(text) does not exist", ""}, false, setup},
		{fault{"42P01", `relation "messages" does not exist`, ""}, false, setup},
		{fault{"3F000", `schema "message_store" does not exist`, ""}, false, setup},
		{fault{"42501", "permission denied for table messages", ""}, false, setup},
	} {
		t.Run(fmt.Sprintf("%s %.30s %s", tt.code, tt.message, tt.constraint), func(t *testing.T) {
			stream := mdbtest.Category("class").Stream("1")
			seed := proposals(7)
			fault{}.set(t, s.Pool(), 0)
			if _, err := s.WriteMessages(t.Context(), stream, seed); err != nil {
				t.Fatal(err)
			}

			tt.set(t, s.Pool(), 1)
			tx := begin(t, s.Pool())
			_, err := s.WithTx(tx).WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), mdb.ExpectVersion(6))
			tt.check(t, err)
			if pgErr := wantCode(t, err, tt.code); pgErr.Message != tt.message || pgErr.Hint != "hint" {
				t.Errorf("got the server's error %+v", pgErr)
			}
			checkNoCanary(t, err)
			if n := faultCalls(t, s.Pool()); n != 1 {
				t.Errorf("got %d calls within a transaction, want 1", n)
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}

			tt.set(t, s.Pool(), 1)
			_, err = s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), mdb.ExpectVersion(6))
			calls, want := 1, 7
			if tt.again {
				calls, want = 2, 8
				if err != nil {
					t.Errorf("got error %v, want a retry that succeeds", err)
				}
			} else {
				tt.check(t, err)
				wantCode(t, err, tt.code)
				checkNoCanary(t, err)
			}
			if n := faultCalls(t, s.Pool()); n != calls {
				t.Errorf("got %d calls, want %d", n, calls)
			}
			if got := positions(t, s.Pool(), stream); len(got) != want {
				t.Errorf("got %d messages, want %d", len(got), want)
			}
		})
	}
}

// TestErrorsThatStay checks that a write whose error persists ends with that error: after the
// policy's attempts, or if the connection failed, after the policy's time and more attempts.
func TestErrorsThatStay(t *testing.T) {
	t.Parallel()
	var log journal
	limited := mdbtest.Store(t, attempts(4), log.option())
	timed := newStore(t, limited.Pool(), forAWhile(), log.option())
	exec(t, limited.Pool(), faulty)
	for _, tt := range []struct {
		fault
		unknown bool
	}{
		{fault{"40001", "could not serialize access", ""}, false},
		{fault{"40P01", "deadlock detected", ""}, false},
		{fault{"55P03", "lock timeout", ""}, false},
		{fault{"08006", "connection failure", ""}, true},
	} {
		s := limited
		if tt.unknown {
			s = timed
		}
		tt.set(t, s.Pool(), 1_000_000)
		before := log.retries()
		m := mdb.NewMessage("Happened", []string{canary})
		stream := mdbtest.Category("stay").Stream("1")
		_, err := s.WriteMessage(t.Context(), stream, m)
		wantCode(t, err, tt.code)
		if unknown := (*mdb.UnknownOutcomeError)(nil); errors.As(err, &unknown) != tt.unknown {
			t.Errorf("%s: got error %v with an unknown outcome: %t, want %t", tt.code, err, !tt.unknown, tt.unknown)
		} else if tt.unknown && (len(unknown.IDs) != 1 || unknown.IDs[0] != m.ID) {
			t.Errorf("got IDs %v, want %s", unknown.IDs, m.ID)
		}
		n := faultCalls(t, s.Pool())
		if tt.unknown && n <= 2 || !tt.unknown && n != 4 {
			t.Errorf("%s: got %d calls, want 4, or more than 2 if the outcome is unknown", tt.code, n)
		}
		if retries := log.retries() - before; retries < n-1 || retries > n {
			t.Errorf("%s: got %d retries of %d calls in the log", tt.code, retries, n)
		}
		checkNoCanary(t, err)
	}
	checkNoCanary(t, errors.New(log.String()))
}

// TestErrorsOfOthers checks that errors which a program makes for its own tests, with few
// of their fields set, can be printed.
func TestErrorsOfOthers(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		new(mdb.ArgumentError), new(mdb.WrongVersionError), new(mdb.DuplicateIDError), new(mdb.UnknownOutcomeError), new(mdb.SetupError),
	} {
		func() {
			defer func() {
				if r := recover(); r != nil {
					t.Errorf("Error of a %T panics: %v", err, r)
				}
			}()
			if err.Error() == "" || errors.Unwrap(err) != nil {
				t.Errorf("%T: got text %q wrapping %v, want a text and nothing wrapped", err, err, errors.Unwrap(err))
			}
		}()
	}
}
