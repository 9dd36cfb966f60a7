package mdb_test

import (
	"context"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// everyCall makes each call that has a statement of its own. It reads the table through
// another pool, because only a store prepares dropped statements again.
func everyCall(t *testing.T, s *mdb.Store, other database, stream mdb.StreamName) {
	t.Helper()
	ctx := t.Context()
	check := func(what string, got, want int, err error) {
		t.Helper()
		if err != nil || got != want {
			t.Errorf("%s: got %d, error %v, want %d", what, got, err, want)
		}
	}
	one, err := s.WriteMessage(ctx, stream, mdb.NewMessage("One", 1), mdb.ExpectNoStream())
	check("WriteMessage", int(one.Position), 0, err)
	two := proposals(2)
	written, err := s.WriteMessages(ctx, stream, two, mdb.ExpectVersion(0))
	check("WriteMessages", len(written), 2, err)
	again, err := s.WriteMessages(ctx, stream, two, mdb.ExpectVersion(0), mdb.Idempotent())
	check("WriteMessages again", len(again), 2, err)
	ms, err := s.GetStreamMessages(ctx, stream)
	check("GetStreamMessages", len(ms), 3, err)
	ms, err = s.GetCategoryMessages(ctx, stream.Category())
	check("GetCategoryMessages", len(ms), 3, err)
	ms, err = s.GetStreamMessages(ctx, stream, mdb.WithCondition("position > 0"))
	check("WithCondition", len(ms), 2, err)
	m, err := s.GetLastStreamMessage(ctx, stream)
	check("GetLastStreamMessage", int(m.Position), 2, err)
	m, err = s.GetLastStreamMessage(ctx, stream, mdb.OfType("One"))
	check("OfType", int(m.Position), 0, err)
	version, err := s.StreamVersion(ctx, stream)
	check("StreamVersion", int(version), 2, err)
	_, err = s.MessageStoreVersion(ctx)
	check("MessageStoreVersion", 0, 0, err)
	if got, want := positions(t, other, stream), []int64{0, 1, 2}; !slices.Equal(got, want) {
		t.Errorf("got positions %v, want %v", got, want)
	}
}

// TestForgottenStatements checks that calls succeed after the server has dropped their
// prepared statements, between calls and after each of them.
func TestForgottenStatements(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		for way, opts := range map[string][]mdb.StoreOption{
			"procedures": {mdb.WithConditions()},
			"direct":     {mdb.WithConditions(), mdb.WithDirectSQL()},
		} {
			t.Run(mode.String()+" "+way, func(t *testing.T) {
				t.Parallel()
				s := newStore(t, newPool(t, testdb.Shared(t), execMode(mode), oneConnection), opts...)
				other := newPool(t, testdb.Shared(t))
				everyCall(t, s, other, mdbtest.Category("forgotten").Stream("1"))
				for _, forget := range []string{"DEALLOCATE ALL", "DISCARD ALL"} {
					exec(t, s.Pool(), forget)
					everyCall(t, s, other, mdbtest.Category("forgotten").Stream("2"))
				}
				always := newStore(t, newPool(t, testdb.Shared(t), execMode(mode), oneConnection, func(cfg *pgxpool.Config) {
					cfg.AfterRelease = func(conn *pgx.Conn) bool {
						_, err := conn.PgConn().Exec(context.Background(), "DEALLOCATE ALL").ReadAll()
						return err == nil
					}
				}), opts...)
				for range 2 {
					everyCall(t, always, other, mdbtest.Category("forgotten").Stream("3"))
				}
			})
		}
	}
}

// TestForgottenStatementInTx checks that a dropped statement costs a transaction, which
// only its owner can begin again, but not the connection's next one.
func TestForgottenStatementInTx(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(ctx context.Context, tx *mdb.Tx, stream mdb.StreamName) error{
		"write": func(ctx context.Context, tx *mdb.Tx, stream mdb.StreamName) error {
			_, err := tx.WriteMessage(ctx, stream, mdb.NewMessage("Happened", nil))
			return err
		},
		"batch": func(ctx context.Context, tx *mdb.Tx, stream mdb.StreamName) error {
			_, err := tx.WriteMessages(ctx, stream, proposals(2))
			return err
		},
		"read": func(ctx context.Context, tx *mdb.Tx, stream mdb.StreamName) error {
			_, err := tx.GetStreamMessages(ctx, stream)
			return err
		},
		"conditional read": func(ctx context.Context, tx *mdb.Tx, stream mdb.StreamName) error {
			_, err := tx.GetStreamMessages(ctx, stream, mdb.WithCondition("true"))
			return err
		},
		"lock": func(ctx context.Context, tx *mdb.Tx, stream mdb.StreamName) error {
			return tx.LockCategories(ctx, stream.Category())
		},
	} {
		for way, opts := range map[string][]mdb.StoreOption{
			"procedures": {mdb.WithConditions()},
			"direct":     {mdb.WithConditions(), mdb.WithDirectSQL()},
		} {
			t.Run(name+" "+way, func(t *testing.T) {
				t.Parallel()
				s := newStore(t, newPool(t, testdb.Shared(t), oneConnection), opts...)
				stream := mdbtest.Category("forgotten").Stream("1")
				do := func() error {
					return pgx.BeginFunc(t.Context(), s.Pool(), func(tx pgx.Tx) error {
						return call(t.Context(), s.WithTx(tx), stream)
					})
				}
				if err := do(); err != nil {
					t.Fatal(err)
				}
				exec(t, s.Pool(), "DEALLOCATE ALL")
				wantCode(t, do(), "26000")
				for range 2 {
					if err := do(); err != nil {
						t.Errorf("the next transaction: got error %v, want none", err)
					}
				}
			})
		}
	}
}

// TestForgottenStatementAtomically checks that Atomically begins its transaction again
// after a statement was dropped.
func TestForgottenStatementAtomically(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t), oneConnection), attempts(3))
	category := mdbtest.Category("forgotten")
	for range 3 {
		err := s.Atomically(t.Context(), []mdb.Category{category}, func(tx *mdb.Tx) error {
			_, err := tx.WriteMessage(t.Context(), category.Stream("1"), mdb.NewMessage("Happened", nil))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		exec(t, s.Pool(), "DEALLOCATE ALL")
	}
	if got, want := positions(t, s.Pool(), category.Stream("1")), []int64{0, 1, 2}; !slices.Equal(got, want) {
		t.Errorf("got positions %v, want %v", got, want)
	}
}

// An upgrade replaces functions by others that return new types, as far as the server is
// concerned, so that prepared statements that call them fail.
const upgrade = `
CREATE SCHEMA old;
ALTER FUNCTION message_store.write_message(varchar, varchar, varchar, jsonb, jsonb, bigint) SET SCHEMA old;
CREATE FUNCTION message_store.write_message(id varchar, stream_name varchar, type varchar, data jsonb, metadata jsonb DEFAULT NULL, expected_version bigint DEFAULT NULL)
	RETURNS integer LANGUAGE sql AS 'SELECT old.write_message($1, $2, $3, $4, $5, $6)::integer';
ALTER FUNCTION message_store.get_stream_messages(varchar, bigint, bigint, varchar) SET SCHEMA old;
CREATE FUNCTION message_store.get_stream_messages(stream_name varchar, "position" bigint DEFAULT 0, batch_size bigint DEFAULT 1000, condition varchar DEFAULT NULL)
	RETURNS TABLE (id varchar, stream_name text, type varchar, "position" bigint, global_position bigint, data text, metadata text, "time" timestamp) LANGUAGE sql AS
	'SELECT id, stream_name, type, position, global_position, data, metadata, time FROM old.get_stream_messages($1, $2, $3, $4)';
ALTER FUNCTION message_store.stream_version(varchar) SET SCHEMA old;
CREATE FUNCTION message_store.stream_version(stream_name varchar) RETURNS integer LANGUAGE sql AS 'SELECT old.stream_version($1)::integer';`

// TestOutdatedStatements checks that calls succeed after an upgrade has invalidated their
// prepared statements.
func TestOutdatedStatements(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			url := testdb.New(t)
			s := newStore(t, newPool(t, url, execMode(mode), oneConnection), mdb.WithConditions())
			stream := mdbtest.Category("outdated").Stream("1")
			other := newPool(t, url)
			everyCall(t, s, other, stream)
			exec(t, other, upgrade)
			if mode == pgx.QueryExecModeCacheStatement {
				_, err := s.Pool().Exec(t.Context(), value[string](t, s.Pool(), `SELECT 'EXECUTE ' || name || '(''x-1'')' FROM pg_prepared_statements WHERE name LIKE 'mdb_stream_version%'`))
				wantCode(t, err, "0A000") // otherwise this test proves nothing
			}
			everyCall(t, s, other, mdbtest.Category("outdated").Stream("2"))
		})
	}
}

// TestOutdatedStatementInTx checks that an outdated statement costs a transaction, but not
// the connection's next one.
func TestOutdatedStatementInTx(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	s := newStore(t, newPool(t, url, oneConnection))
	stream := mdbtest.Category("outdated").Stream("1")
	write(t, s, stream, mdb.NewMessage("Happened", nil))
	exec(t, newPool(t, url), upgrade)
	do := func() error {
		return pgx.BeginFunc(t.Context(), s.Pool(), func(tx pgx.Tx) error {
			_, err := s.WithTx(tx).WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
			return err
		})
	}
	pgErr := wantError[*pgconn.PgError](t, do())
	if pgErr.Code != "0A000" || pgErr.Message != "cached plan must not change result type" {
		t.Errorf("got error %v", pgErr)
	}
	if err := do(); err != nil {
		t.Errorf("the next transaction: got error %v, want none", err)
	}
	if got, want := positions(t, s.Pool(), stream), []int64{0, 1}; !slices.Equal(got, want) {
		t.Errorf("got positions %v, want %v", got, want)
	}
}
