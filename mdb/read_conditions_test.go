package mdb_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// checkOff checks that conditions are rejected: to Message DB any other value than off
// means on, even an empty one.
func checkOff(t *testing.T, db database) {
	t.Helper()
	rows, _ := db.Query(t.Context(), `SELECT current_setting('message_store.sql_condition', true)`, pgx.QueryExecModeExec)
	setting, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[*string])
	if err != nil {
		t.Fatal(err)
	}
	if setting != nil && *setting != "off" {
		t.Errorf("got the setting %q", *setting)
	}
	rows, _ = db.Query(t.Context(), `SELECT * FROM message_store.get_stream_messages('a-1', condition => 'true')`, pgx.QueryExecModeExec)
	rows.Close()
	if err := rows.Err(); err == nil || wantError[*pgconn.PgError](t, err).Message != "Retrieval with SQL condition is not activated" {
		t.Errorf("conditions are allowed (got error %v)", err)
	}
}

// TestConditionsStayOff checks that a connection rejects conditions after a read with
// one, whether the read succeeded, failed or was cancelled.
func TestConditionsStayOff(t *testing.T) {
	t.Parallel()
	for pooled, open := range map[string]func(testing.TB, string, ...func(*pgxpool.Config)) *pgxpool.Pool{"configured": newPool, "bare": pathOnlyPool} {
		for _, mode := range execModes {
			t.Run(pooled+" "+mode.String(), func(t *testing.T) {
				t.Parallel()
				var w wire
				s := newStore(t, open(t, testdb.Shared(t), execMode(mode), oneConnection, w.attach), mdb.WithConditions())
				stream := mdbtest.Category("off").Stream("1")
				seed(t, s, stream, 3)
				checkOff(t, s.Pool())
				for range 2 {
					for condition, fails := range map[mdb.SQL]bool{"position = 1": false, "nonsense": true, "position / 0 = 1": true} {
						_, err := s.GetStreamMessages(t.Context(), stream, mdb.WithCondition(condition))
						if (err != nil) != fails {
							t.Errorf("where %s: got error %v", condition, err)
						}
						checkOff(t, s.Pool())
						_, err = s.GetCategoryMessages(t.Context(), stream.Category(), mdb.WithCondition(condition))
						if (err != nil) != fails {
							t.Errorf("where %s: got error %v", condition, err)
						}
						checkOff(t, s.Pool())
					}
				}
				for m, err := range s.StreamMessages(t.Context(), stream, mdb.WithCondition("position > 0"), mdb.WithBatchSize(1)) {
					if err != nil {
						t.Fatal(err)
					}
					checkOff(t, s.Pool())
					if m.Position == 2 {
						break
					}
				}
				checkOff(t, s.Pool())
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if _, err := s.GetStreamMessages(ctx, stream, mdb.WithCondition("true")); !errors.Is(err, context.Canceled) {
					t.Errorf("got error %v, want a cancelled context", err)
				}
				checkOff(t, s.Pool())
				// Not even the failures have cost a connection.
				if n := w.dials.Load(); n != 1 {
					t.Errorf("got %d connections, want 1", n)
				}
			})
		}
	}
}

// TestConditionsStayOffWhenCancelled checks the same when the context ends during the
// read: once that closes the connection, and once a cancel request keeps it open.
func TestConditionsStayOffWhenCancelled(t *testing.T) {
	t.Parallel()
	for pooled, open := range map[string]func(testing.TB, string, ...func(*pgxpool.Config)) *pgxpool.Pool{"configured": newPool, "bare": pathOnlyPool} {
		for _, request := range []bool{false, true} {
			name := pooled + " off"
			if request {
				name += " by request"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				pool := open(t, testdb.Shared(t), oneConnection, parameter("application_name", name), func(cfg *pgxpool.Config) {
					if request {
						cfg.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
							return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: testTimeout}
						}
					}
				})
				s := newStore(t, pool, mdb.WithConditions())
				stream := mdbtest.Category("off").Stream("1")
				seed(t, s, stream, 1)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() {
					_, err := s.GetStreamMessages(ctx, stream, mdb.WithCondition("pg_sleep(600) IS NOT NULL"))
					done <- err
				}()
				other := mdbtest.SharedStore(t)
				until(t, other.Pool(), `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1 AND wait_event = 'PgSleep')`, name)
				cancel()
				if err := <-done; err == nil {
					t.Error("got no error")
				}
				checkOff(t, s.Pool())
			})
		}
	}
}

// TestConditionsStayOffInTx checks that conditions are off in the rest of a transaction
// and after it.
func TestConditionsStayOffInTx(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			s := newStore(t, newPool(t, testdb.Shared(t), execMode(mode), oneConnection), mdb.WithConditions())
			stream := mdbtest.Category("off").Stream("1")
			seed(t, s, stream, 3)
			for _, condition := range []mdb.SQL{"true", "nonsense"} {
				for _, commit := range []bool{true, false} {
					tx := begin(t, s.Pool())
					_, err := s.WithTx(tx).GetStreamMessages(t.Context(), stream, mdb.WithCondition(condition))
					if (err == nil) != (condition == "true") {
						t.Errorf("where %s: got error %v", condition, err)
					}
					if err == nil {
						// This check fails, as it must, so it has a savepoint.
						inner, err := tx.Begin(t.Context())
						if err != nil {
							t.Fatal(err)
						}
						checkOff(t, inner)
						if err := inner.Rollback(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
					if commit {
						_ = tx.Commit(t.Context())
					}
					_ = tx.Rollback(t.Context())
					checkOff(t, s.Pool())
				}
			}
		})
	}
}

// TestConditionInBareTx checks that a Tx rejects a condition where the connection has no
// setting of its own: a transaction that fails would undo the one that turns conditions
// off.
func TestConditionInBareTx(t *testing.T) {
	t.Parallel()
	s := newStore(t, pathOnlyPool(t, testdb.Shared(t), oneConnection), mdb.WithConditions())
	stream := mdbtest.Category("off").Stream("1")
	seed(t, s, stream, 1)
	tx := begin(t, s.Pool())
	_, err := s.WithTx(tx).GetStreamMessages(t.Context(), stream, mdb.WithCondition("true"))
	wantError[*mdb.SetupError](t, err)
	// The transaction is unchanged.
	write(t, s.WithTx(tx), stream, mdb.NewMessage("Happened", nil))
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkOff(t, s.Pool())
}

// pathOnlyPool returns a pool with the search path that Message DB's own functions need,
// and nothing else that Configure sets.
func pathOnlyPool(t testing.TB, url string, prepare ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	if testdb.Official() {
		prepare = append(prepare, parameter("search_path", "message_store"))
	}
	return barePool(t, url, prepare...)
}
