package schema_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/internal/trigger"
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

// The trigger's states without a connection that waits.
var (
	notifyMissing   = schema.NotifyState{}
	notifyInstalled = schema.NotifyState{Installed: true, Enabled: true}
	notifyDisabled  = schema.NotifyState{Installed: true}
)

func wantNotify(t *testing.T, db schema.DB, want schema.NotifyState) {
	t.Helper()
	if got, err := schema.NotifyStatus(t.Context(), db); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("NotifyStatus: %+v, %v, want %+v", got, err, want)
	}
}

// notifyObjects describes the trigger and its function as the catalogue has them.
func notifyObjects(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	const sql = `SELECT
		'functions: ' || (SELECT count(*) FROM pg_proc WHERE proname = 'notify_subscriptions') || ', triggers: ' ||
		(SELECT coalesce(string_agg(concat_ws(' ', trigger_name, action_timing, action_orientation), ', '), 'none')
			FROM information_schema.triggers WHERE event_object_schema = 'message_store')`
	var objects string
	if err := pool.QueryRow(t.Context(), sql).Scan(&objects); err != nil {
		t.Fatal(err)
	}
	return objects
}

// TestNotifyStatus checks each state of the trigger, and that waiting connections are
// listed with the number of their categories: only those of this database that share a key.
func TestNotifyStatus(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	conn := connect(t, url)
	wantNotify(t, conn, notifyMissing)
	if err := schema.InstallNotify(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		alter string
		want  schema.NotifyState
	}{
		{"DISABLE", notifyDisabled},
		{"ENABLE REPLICA", notifyDisabled},
		{"ENABLE ALWAYS", schema.NotifyState{Installed: true, Enabled: true, Always: true}},
		{"ENABLE", notifyInstalled},
	} {
		run(t, conn, "ALTER TABLE message_store.messages "+test.alter+" TRIGGER "+trigger.Name)
		wantNotify(t, conn, test.want)
	}

	key := strconv.Itoa(trigger.Key)
	first, second, elsewhere := connect(t, url), connect(t, url), connect(t, testdb.Empty(t))
	run(t, first, "SET application_name = 'one message_store notify'")
	run(t, second, "SET application_name = 'two'")
	listener := func(conn *pgx.Conn, application string, categories int) schema.NotifyListener {
		var client string
		if err := conn.QueryRow(t.Context(), "SELECT coalesce(host(inet_client_addr()), '')").Scan(&client); err != nil {
			t.Fatal(err)
		}
		return schema.NotifyListener{PID: int32(conn.PgConn().PID()), Application: application, Client: client, Categories: categories}
	}
	for _, waiting := range []*pgx.Conn{first, second, elsewhere} {
		run(t, waiting, "SELECT pg_advisory_lock_shared("+key+", hashtext('account'))")
	}
	run(t, first, "SELECT pg_advisory_lock_shared("+key+", hashtext('order'))")
	run(t, second, "SELECT pg_advisory_lock_shared(1, 2), pg_advisory_lock_shared("+key+"), pg_advisory_lock("+key+", 1)")
	listeners := []schema.NotifyListener{listener(first, "one message_store notify", 2), listener(second, "two", 1)}
	slices.SortFunc(listeners, func(x, y schema.NotifyListener) int { return cmp.Compare(x.PID, y.PID) })
	wantNotify(t, conn, schema.NotifyState{Installed: true, Enabled: true, Listeners: listeners, Categories: 2})

	// Without any right, and within a caller's transaction.
	run(t, conn, "REVOKE USAGE ON SCHEMA message_store FROM message_store; SET ROLE message_store; SET search_path = pg_catalog")
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range listeners {
		listeners[i].Client = ""
	}
	wantNotify(t, tx, schema.NotifyState{Installed: true, Enabled: true, Listeners: listeners, Categories: 2})
	var application string
	if err := elsewhere.QueryRow(t.Context(), "SHOW application_name").Scan(&application); err != nil {
		t.Fatal(err)
	}
	wantNotify(t, elsewhere, schema.NotifyState{Listeners: []schema.NotifyListener{listener(elsewhere, application, 1)}, Categories: 1})
}

// TestNotifyConstants checks that the trigger's SQL uses the constants of package trigger.
func TestNotifyConstants(t *testing.T) {
	t.Parallel()
	sql, err := os.ReadFile("notify.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"TRIGGER " + trigger.Name + "\n",
		"pg_notify('" + trigger.Channel + "'",
		"NOTIFY " + trigger.Channel + ", '" + trigger.Changed + "'",
		fmt.Sprintf("pg_try_advisory_xact_lock(%d, pg_catalog.hashtext(", trigger.Key),
	} {
		if !strings.Contains(string(sql), want) {
			t.Errorf("notify.sql does not contain %q", want)
		}
	}
}

// TestInstallNotify checks the state of the trigger after installing and removing it in
// each state.
func TestInstallNotify(t *testing.T) {
	t.Parallel()
	pool := notifyPool(t, testdb.New(t), "")
	const missing, installed = "functions: 0, triggers: none", "functions: 1, triggers: message_store_notify AFTER ROW"
	for _, test := range []struct {
		name string
		do   func(context.Context, schema.DB) error
		want schema.NotifyState
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
		if got, err := schema.NotifyStatus(t.Context(), pool); err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %+v, %v, want %+v", test.name, got, err, test.want)
		}
		want := missing
		if test.want.Installed {
			want = installed
		}
		if got := notifyObjects(t, pool); got != want {
			t.Errorf("%s: %s, want %s", test.name, got, want)
		}
	}
}

// TestInstallNotifyLeavesSettings checks that lock_timeout is restored in a caller's
// transaction.
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

// TestInstallNotifyConcurrently checks that concurrent calls all succeed.
func TestInstallNotifyConcurrently(t *testing.T) {
	t.Parallel()
	const callers = 8
	pool := notifyPool(t, testdb.New(t), "")
	for _, test := range []struct {
		name string
		do   func(context.Context, schema.DB) error
		want schema.NotifyState
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

// waits reports whether a session waits for the lock that creating a trigger needs.
const waits = `SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'message_store.messages'::regclass
	AND NOT granted AND mode IN ('ShareRowExclusiveLock', 'AccessExclusiveLock'))`

// TestInstallNotifyWaits checks that installing and removing wait for a transaction that
// writes without making other writers wait for it.
func TestInstallNotifyWaits(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name          string
		before, after schema.NotifyState
		do            func(context.Context, schema.DB) error
	}{
		{"install", notifyMissing, notifyInstalled, schema.InstallNotify},
		{"uninstall", notifyInstalled, notifyMissing, schema.UninstallNotify},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pool := notifyPool(t, testdb.New(t), "")
			if test.before.Installed {
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
				// It queues after the waiting installer, which has to let it pass.
				if _, err := pool.Exec(t.Context(), write, string(mdbtest.Category("short").Stream("1"))); err != nil {
					t.Fatal(err)
				}
				select {
				case err := <-done:
					t.Fatalf("it did not wait for the transaction, and returned: %v", err)
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

// TestInstallNotifyIsCancelled checks that the error is that of the context if the context
// ends during the wait.
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
	for range 2 { // during the statement, and before it
		if err := schema.InstallNotify(ctx, pool); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want that of the context", err)
		}
	}
	wantNotify(t, pool, notifyMissing)
}

// TestInstallNotifyRights checks that only the owner of the table can install and remove
// the trigger, and that the error says so.
func TestInstallNotifyRights(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	owner, other := notifyPool(t, url, ""), notifyPool(t, url, "message_store")
	rejected := func(verb string, do func(context.Context, schema.DB) error) {
		t.Helper()
		err := do(t.Context(), other)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "42501" {
			t.Fatalf("error %v, want one of missing rights", err)
		}
		if text := err.Error(); !strings.Contains(text, verb+" the NOTIFY trigger") || !strings.Contains(text, "only the owner of the table message_store.messages") {
			t.Errorf("error %q does not say what failed, and who can do it", text)
		}
	}
	rejected("install", schema.InstallNotify)
	wantNotify(t, owner, notifyMissing)
	if err := schema.InstallNotify(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	rejected("install", schema.InstallNotify)
	rejected("remove", schema.UninstallNotify)
	wantNotify(t, owner, notifyInstalled)
}

// TestInstallNotifyWithoutMessageDB checks that installing fails without Message DB and
// that removing succeeds.
func TestInstallNotifyWithoutMessageDB(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(t.Context(), testdb.Empty(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	var pgErr *pgconn.PgError
	if err := schema.InstallNotify(t.Context(), conn); !errors.As(err, &pgErr) || pgErr.Code != "3F000" {
		t.Errorf("error %v, want one of a missing schema", err)
	}
	if err := schema.UninstallNotify(t.Context(), conn); err != nil {
		t.Errorf("UninstallNotify without Message DB: %v", err)
	}
}
