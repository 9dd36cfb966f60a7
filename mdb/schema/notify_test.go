package schema_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

func notifyPool(t *testing.T, url string, role string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.MaxConns = 10
	cfg.ConnConfig.RuntimeParams["search_path"] = "message_store, public" // for Message DB's own functions
	if role != "" {
		cfg.ConnConfig.RuntimeParams["role"] = role
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// notifyObjects describes what is there of the trigger and its function.
func notifyObjects(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	const sql = `SELECT
		(SELECT count(*) FROM pg_proc WHERE proname = 'notify_subscriptions') || ' functions, triggers: ' ||
		(SELECT coalesce(string_agg(tgname || ' ' || tgenabled::text, ', '), 'none') FROM pg_trigger WHERE tgrelid = 'message_store.messages'::regclass)`
	var objects string
	if err := pool.QueryRow(t.Context(), sql).Scan(&objects); err != nil {
		t.Fatal(err)
	}
	return objects
}

const (
	notifyInstalled = "1 functions, triggers: message_store_notify O"
	notifyMissing   = "0 functions, triggers: none"
)

func wantNotify(t *testing.T, pool *pgxpool.Pool, want string) {
	t.Helper()
	if got := notifyObjects(t, pool); got != want {
		t.Errorf("there is %q, want %q", got, want)
	}
}

func TestInstallNotify(t *testing.T) {
	t.Parallel()
	pool := notifyPool(t, testdb.New(t), "")
	for _, test := range []struct {
		name string
		do   func(context.Context, schema.DB) error
		want string
	}{
		{"uninstall nothing", schema.UninstallNotify, notifyMissing},
		{"install", schema.InstallNotify, notifyInstalled},
		{"install again", schema.InstallNotify, notifyInstalled},
		{"install over one that is disabled", func(ctx context.Context, db schema.DB) error {
			if _, err := pool.Exec(ctx, "ALTER TABLE message_store.messages DISABLE TRIGGER message_store_notify"); err != nil {
				return err
			}
			return schema.InstallNotify(ctx, db)
		}, notifyInstalled},
		{"install over another", func(ctx context.Context, db schema.DB) error {
			_, err := pool.Exec(ctx, `CREATE OR REPLACE TRIGGER message_store_notify BEFORE INSERT ON message_store.messages
				FOR EACH STATEMENT EXECUTE FUNCTION message_store.notify_subscriptions()`)
			if err != nil {
				return err
			}
			return schema.InstallNotify(ctx, db)
		}, notifyInstalled},
		{"uninstall", schema.UninstallNotify, notifyMissing},
		{"uninstall again", schema.UninstallNotify, notifyMissing},
		{"install within a transaction that is rolled back", func(ctx context.Context, _ schema.DB) error {
			tx, err := pool.Begin(ctx)
			if err != nil {
				return err
			}
			return errors.Join(schema.InstallNotify(ctx, tx), tx.Rollback(ctx))
		}, notifyMissing},
	} {
		if err := test.do(t.Context(), pool); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if got := notifyObjects(t, pool); got != test.want {
			t.Errorf("%s: there is %q, want %q", test.name, got, test.want)
		}
	}
}

// TestInstallNotifyLeavesSettings looks behind it, in a caller's transaction.
func TestInstallNotifyLeavesSettings(t *testing.T) {
	t.Parallel()
	for _, timeout := range []string{"0", "20ms", "1min", "2500s"} {
		conn := connect(t, testdb.New(t))
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		run(t, conn, "SET LOCAL lock_timeout = '"+timeout+"'")
		if err := errors.Join(schema.InstallNotify(t.Context(), tx), schema.UninstallNotify(t.Context(), tx)); err != nil {
			t.Fatal(err)
		}
		var left string
		if err := tx.QueryRow(t.Context(), "SHOW lock_timeout").Scan(&left); err != nil || left != timeout {
			t.Errorf("lock_timeout is left as %q, error %v, want %q", left, err, timeout)
		}
	}
}

// TestInstallNotifyConcurrently has many programs start at once, each of which
// installs.
func TestInstallNotifyConcurrently(t *testing.T) {
	t.Parallel()
	const callers = 8
	pool := notifyPool(t, testdb.New(t), "")
	for _, test := range []struct {
		name string
		do   func(context.Context, schema.DB) error
		want string
	}{
		{"install", schema.InstallNotify, notifyInstalled},
		{"install again", schema.InstallNotify, notifyInstalled},
		{"uninstall", schema.UninstallNotify, notifyMissing},
	} {
		var wg sync.WaitGroup
		var failures [callers]error
		for i := range callers {
			wg.Go(func() { failures[i] = test.do(t.Context(), pool) })
		}
		wg.Wait()
		if err := errors.Join(failures[:]...); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		wantNotify(t, pool, test.want)
	}
}

// waits is whether somebody waits for the lock on the table that a trigger needs.
const waits = `SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'message_store.messages'::regclass
	AND NOT granted AND mode IN ('ShareRowExclusiveLock', 'AccessExclusiveLock'))`

// TestInstallNotifyWaits installs while a transaction writes. Other writers are not
// to wait for that transaction because of it.
func TestInstallNotifyWaits(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name          string
		before, after string
		do            func(context.Context, schema.DB) error
	}{
		{"install", notifyMissing, notifyInstalled, schema.InstallNotify},
		{"uninstall", notifyInstalled, notifyMissing, schema.UninstallNotify},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pool := notifyPool(t, testdb.New(t), "")
			if test.before == notifyInstalled {
				if err := schema.InstallNotify(t.Context(), pool); err != nil {
					t.Fatal(err)
				}
			}
			const write = "SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Happened', '{}')"
			long, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = long.Rollback(context.Background()) }()
			if _, err := long.Exec(t.Context(), write, string(mdbtest.Category("long").Stream("1"))); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- test.do(t.Context(), pool) }()
			for range 5 {
				for waiting := false; !waiting; {
					if err := pool.QueryRow(t.Context(), waits).Scan(&waiting); err != nil {
						t.Fatal(err)
					}
				}
				// It gets behind the one that waits, and has to get past it.
				if _, err := pool.Exec(t.Context(), write, string(mdbtest.Category("short").Stream("1"))); err != nil {
					t.Fatal(err)
				}
				select {
				case err := <-done:
					t.Fatalf("it has not waited for a transaction that writes, and returned: %v", err)
				default:
				}
			}
			wantNotify(t, pool, test.before)
			if err := long.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			wantNotify(t, pool, test.after)
		})
	}
}

// TestInstallNotifyIsCancelled ends the context while it waits.
func TestInstallNotifyIsCancelled(t *testing.T) {
	t.Parallel()
	pool := notifyPool(t, testdb.New(t), "")
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), "LOCK TABLE message_store.messages IN ROW EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for range 2 { // while it is in the server, and before
		if err := schema.InstallNotify(ctx, pool); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want that of the context", err)
		}
	}
	wantNotify(t, pool, notifyMissing)
}

// TestInstallNotifyRights has those install who may not.
func TestInstallNotifyRights(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	owner, other := notifyPool(t, url, ""), notifyPool(t, url, "message_store")
	refused := func(verb string, do func(context.Context, schema.DB) error) {
		t.Helper()
		err := do(t.Context(), other)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "42501" {
			t.Fatalf("error %v, want one of missing rights", err)
		}
		if text := err.Error(); !strings.Contains(text, verb+" the NOTIFY trigger") || !strings.Contains(text, "only the owner of the table message_store.messages") {
			t.Errorf("error %q does not say what was to be done, and who may", text)
		}
	}
	refused("install", schema.InstallNotify)
	wantNotify(t, owner, notifyMissing)
	if err := schema.InstallNotify(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	refused("install", schema.InstallNotify)
	refused("remove", schema.UninstallNotify)
	wantNotify(t, owner, notifyInstalled)
}

// TestInstallNotifyWithoutMessageDB has nothing to install on.
func TestInstallNotifyWithoutMessageDB(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(t.Context(), testdb.Empty(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	var pgErr *pgconn.PgError
	if err := schema.InstallNotify(t.Context(), conn); !errors.As(err, &pgErr) || pgErr.Code != "3F000" {
		t.Errorf("error %v, want that there is no schema", err)
	}
	if err := schema.UninstallNotify(t.Context(), conn); err != nil {
		t.Errorf("there is nothing to remove, but: %v", err)
	}
}
