package mdb_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestServerLimits checks that limits which only the server knows are reported without a
// retry, and without any change.
func TestServerLimits(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, code string
		prepare    func(*pgxpool.Config)
		id         string
		data       json.RawMessage
	}{
		{"number", "22003", oneConnection, "1", json.RawMessage(`[1e131072]`)},
		{"depth", "54001", parameter("max_stack_depth", "100kB"), "1", json.RawMessage(strings.Repeat("[", 9000) + strings.Repeat("]", 9000))},
		{"read only", "25006", parameter("default_transaction_read_only", "on"), "1", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var log journal
			s := newStore(t, newPool(t, testdb.Shared(t), tt.prepare), log.option(), attempts(1))
			category := mdbtest.Category("limits")
			m := mdb.NewMessage("Happened", tt.data)
			_, err := s.WriteMessage(t.Context(), category.Stream(tt.id), m)
			wantCode(t, err, tt.code)
			if setup := errors.As(err, new(*mdb.SetupError)); setup != (tt.code == "25006") {
				t.Errorf("got error %v, of the set-up: %t", err, setup)
			}
			for _, target := range []any{new(*mdb.UnknownOutcomeError), new(*mdb.WrongVersionError)} {
				if errors.As(err, target) {
					t.Errorf("got error %v, which is a %T", err, target)
				}
			}
			if n := log.retries(); n != 0 {
				t.Errorf("got %d retries, want none", n)
			}
			// Reads still work.
			if ms, err := s.GetCategoryMessages(t.Context(), category); len(ms) != 0 || err != nil {
				t.Errorf("got %d messages, error %v, want none", len(ms), err)
			}
		})
	}
}

// TestLongNames checks that names as long as allowed fit the indexes of the table, although
// they cannot be compressed, and that longer ones are rejected before anything is sent.
func TestLongNames(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	unused, tx := unusedStore(t)
	const most = 2673
	random := func(n int) string {
		text := make([]byte, n)
		for i := range text {
			text[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_:"[rand.N(64)]
		}
		return string(text)
	}
	correlated := func(name string) json.RawMessage {
		return json.RawMessage(`{"a": "` + random(most) + `", "correlationStreamName": "` + name + `"}`)
	}
	for _, stream := range []mdb.StreamName{
		mdb.StreamName(random(most)),                     // a category
		mdb.Category(random(5)).Stream(random(most - 6)), // an ID
		mdb.Category(random(most - 2)).Stream("1"),       // both
		mdb.Category(random(1000)).Stream(random(most - 1001)),
	} {
		m := mdb.NewMessage(random(most), nil)
		write(t, s, stream, m)
		// With the rest of the bytes for the category of the correlation.
		m = mdb.NewMessage("Happened", nil)
		m.Metadata = correlated(random(most-len(stream.Category())) + "-" + random(5000))
		write(t, s, stream, m)

		longer := mdb.NewMessage("Happened", nil)
		longer.Metadata = correlated(random(most-len(stream.Category())+1) + "-1")
		for _, c := range []calls{unused, tx} {
			_, err := c.WriteMessage(t.Context(), stream, longer)
			checkFaults(t, err, mdb.Fault{"metadata", "categories of the stream and of the correlationStreamName that have 2674 bytes together", "at most 2673"})
			_, err = c.WriteMessage(t.Context(), stream+"x", mdb.NewMessage(random(most+1), nil))
			checkFaults(t, err, mdb.Fault{"stream", fmt.Sprintf("%d bytes", len(stream)+1), "at most 2673"}, mdb.Fault{"type", "2674 bytes", "at most 2673"})
		}
	}
	// What is no name does no harm.
	for _, metadata := range []string{`[]`, `7`, `{"correlationStreamName": null}`, `{"correlationStreamName": {"a-b": "` + random(most) + `"}}`, `{"CORRELATIONSTREAMNAME": "` + random(most) + `"}`} {
		m := mdb.NewMessage("Happened", nil)
		m.Metadata = json.RawMessage(metadata + strings.Repeat(" ", most))
		write(t, s, mdbtest.Category("names").Stream("1"), m)
	}
}

// TestLargeCall checks that a batch which is too large for the protocol is rejected before
// it is sent.
func TestLargeCall(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t) // to check the JSON
	if pgtest.Race {
		t.Skip("one goroutine checks a gigabyte; make test-all runs it without the race detector, which takes a tenth of the time")
	}
	unused, _ := unusedStore(t)
	ms := make([]mdb.ProposedMessage, 64)
	data := json.RawMessage(`"` + strings.Repeat("x", mdb.DefaultMaxMessageSize-2) + `"`)
	for i := range ms {
		ms[i] = mdb.NewMessage("Happened", data)
	}
	_, err := unused.WriteMessages(t.Context(), "account-1", ms)
	checkFaults(t, err, mdb.Fault{"size of all messages", "1073745664 bytes", "at most 1073676288, because one call is one message of PostgreSQL's protocol"})
}

// TestStatementTimeout checks that a write which waits for its lock is not unknown after a
// statement timeout.
func TestStatementTimeout(t *testing.T) {
	t.Parallel()
	holder := mdbtest.SharedStore(t)
	s := newStore(t, newPool(t, testdb.Shared(t), parameter("statement_timeout", "30ms")), attempts(1))
	stream := mdbtest.Category("timeout").Stream("1")
	release := holdLock(t, holder, stream.Category())
	_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
	wantCode(t, err, "57014")
	if lost := (*mdb.UnknownOutcomeError)(nil); errors.As(err, &lost) {
		t.Errorf("got error %v, want no unknown outcome", err)
	}
	release()
	if w := write(t, holder, stream, mdb.NewMessage("Happened", nil)); w.Position != 0 {
		t.Errorf("got %+v, want position 0", w)
	}
}

// TestAbortedTransaction checks that calls in an aborted transaction fail with an error
// that says so.
func TestAbortedTransaction(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("aborted").Stream("1")
	tx := begin(t, s.Pool())
	mtx := s.WithTx(tx)
	_, err := mtx.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), mdb.ExpectVersion(3))
	wantError[*mdb.WrongVersionError](t, err)
	for what, call := range everyTxCall(mtx, stream) {
		err := call(t.Context())
		wantCode(t, err, "25P02")
		if want := "an earlier error aborted the transaction, roll it back"; !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %q, want it to contain %q", what, err, want)
		}
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for what, call := range everyTxCall(mtx, stream) {
		if err := call(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("%s after the end: got error %v, want pgx.ErrTxClosed", what, err)
		}
	}
}

func everyTxCall(tx *mdb.Tx, stream mdb.StreamName) map[string]func(context.Context) error {
	all := everyReadAndWrite(tx, stream)
	all["LockCategories"] = func(ctx context.Context) error { return tx.LockCategories(ctx, stream.Category()) }
	return all
}

func everyReadAndWrite(c calls, stream mdb.StreamName) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"WriteMessage": func(ctx context.Context) error {
			_, err := c.WriteMessage(ctx, stream, mdb.NewMessage("Happened", nil))
			return err
		},
		"WriteMessages": func(ctx context.Context) error {
			_, err := c.WriteMessages(ctx, stream, proposals(2))
			return err
		},
		"GetStreamMessages": func(ctx context.Context) error {
			_, err := c.GetStreamMessages(ctx, stream)
			return err
		},
		"GetCategoryMessages": func(ctx context.Context) error {
			_, err := c.GetCategoryMessages(ctx, stream.Category())
			return err
		},
		"GetLastStreamMessage": func(ctx context.Context) error {
			_, err := c.GetLastStreamMessage(ctx, stream)
			return err
		},
		"StreamVersion": func(ctx context.Context) error {
			_, err := c.StreamVersion(ctx, stream)
			return err
		},
		"MessageStoreVersion": func(ctx context.Context) error {
			_, err := c.MessageStoreVersion(ctx)
			return err
		},
		"StreamMessages": func(ctx context.Context) error {
			_, err := collect(c.StreamMessages(ctx, stream))
			return err
		},
		"CategoryMessages": func(ctx context.Context) error {
			_, err := collect(c.CategoryMessages(ctx, stream.Category()))
			return err
		},
	}
}

// TestSetupErrors checks that each call reports what to do if Message DB is not installed,
// not allowed, or not found in the search path by its own functions.
func TestSetupErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name            string
		pool            func(t *testing.T) *pgxpool.Pool
		code            string
		problem, remedy string
		only            string
	}{
		{
			"not installed",
			func(t *testing.T) *pgxpool.Pool { return newPool(t, pgtest.Database(t, "empty", nil)) },
			"3F000", "Message DB is not installed", "schema.Install", "",
		},
		{
			"not allowed",
			func(t *testing.T) *pgxpool.Pool {
				url := testdb.New(t)
				exec(t, newPool(t, url), `REVOKE ALL ON SCHEMA message_store FROM message_store`)
				return newPool(t, url, asRole("message_store"))
			},
			"42501", "permission denied", "GRANT message_store", "",
		},
		{
			"no function",
			func(t *testing.T) *pgxpool.Pool {
				url := testdb.New(t)
				exec(t, newPool(t, url), `DROP FUNCTION message_store.get_category_messages`)
				return newPool(t, url)
			},
			"42883", "its version lacks what was called", "schema.Install", "GetCategoryMessages",
		},
		{
			"no path to a table",
			func(t *testing.T) *pgxpool.Pool {
				url := testdb.New(t)
				exec(t, newPool(t, url), `CREATE OR REPLACE FUNCTION message_store.stream_version(stream_name varchar) RETURNS bigint LANGUAGE plpgsql AS
					$$BEGIN RETURN (SELECT max(m.position) FROM messages AS m WHERE m.stream_name = stream_version.stream_name); END$$`)
				return barePool(t, url)
			},
			"", "depend on the search path", "StoreFirst", "",
		},
		{
			"no path to a function",
			func(t *testing.T) *pgxpool.Pool {
				url := testdb.New(t)
				exec(t, newPool(t, url), `CREATE OR REPLACE FUNCTION message_store.stream_version(stream_name varchar) RETURNS bigint LANGUAGE plpgsql AS
					$$BEGIN RETURN hash_64(stream_version.stream_name); END$$`)
				return barePool(t, url)
			},
			"", "depend on the search path", "StoreFirst", "",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var log journal
			s := newStore(t, tt.pool(t), log.option())
			for what, call := range everyReadAndWrite(s, mdbtest.Category("setup").Stream("1")) {
				if tt.only != "" && what != tt.only {
					continue
				}
				err := call(t.Context())
				setup := wantError[*mdb.SetupError](t, err)
				if !strings.Contains(setup.Problem, tt.problem) || !strings.Contains(setup.Remedy, tt.remedy) {
					t.Errorf("%s: got problem %q and remedy %q, want them to mention %q and %q", what, setup.Problem, setup.Remedy, tt.problem, tt.remedy)
				}
				if text := err.Error(); !strings.Contains(text, setup.Problem) || !strings.Contains(text, setup.Remedy) {
					t.Errorf("%s: got text %q, want it to contain problem and remedy", what, text)
				}
				if tt.code != "" {
					wantCode(t, err, tt.code)
				}
			}
			if n := log.retries(); n != 0 {
				t.Errorf("got %d retries, want none", n)
			}
		})
	}
}

// TestConditionErrors checks that an error in a condition is reported as the server's
// error.
func TestConditionErrors(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t, mdb.WithConditions())
	stream := mdbtest.Category("condition").Stream("1")
	seed(t, s, stream, 1)
	for condition, code := range map[mdb.SQL]string{
		"position >":       "42601",
		"true) OR (":       "42601",
		"nowhere = 1":      "42703",
		"position / 0 = 1": "22012",
	} {
		for what, read := range map[string]func() ([]mdb.Message, error){
			"stream": func() ([]mdb.Message, error) {
				return s.GetStreamMessages(t.Context(), stream, mdb.WithCondition(condition))
			},
			"category": func() ([]mdb.Message, error) {
				return s.GetCategoryMessages(t.Context(), stream.Category(), mdb.WithCondition(condition))
			},
			"iterator": func() ([]mdb.Message, error) {
				return collect(s.StreamMessages(t.Context(), stream, mdb.WithCondition(condition)))
			},
			"in a Tx": func() ([]mdb.Message, error) {
				tx := begin(t, s.Pool())
				defer func() { _ = tx.Rollback(t.Context()) }()
				return s.WithTx(tx).GetStreamMessages(t.Context(), stream, mdb.WithCondition(condition))
			},
		} {
			ms, err := read()
			pgErr := wantError[*pgconn.PgError](t, err)
			if ms != nil || pgErr.Code != code {
				t.Errorf("%s where %s: got %d messages, error %v, want SQLSTATE %s", what, condition, len(ms), err, code)
			}
			if !strings.Contains(fmt.Sprint(err), "get messages of") {
				t.Errorf("got error %q, want it to name the stream or category", err)
			}
		}
	}
}
