package doorbell_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/internal/trigger"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// testTimeout bounds waits that end sooner unless the test fails.
const testTimeout = time.Minute

// triggerDatabase returns the URL of a new database with the trigger.
func triggerDatabase(t testing.TB) string {
	t.Helper()
	url := testdb.New(t)
	conn := newSession(t, url)
	if err := schema.InstallNotify(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return url
}

// newSession opens a connection with the search path that Message DB's functions need.
func newSession(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.RuntimeParams["search_path"] = "message_store, public"
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func exec(t testing.TB, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// value returns the only column of the only row.
func value[T any](t testing.TB, conn *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	rows, _ := conn.Query(t.Context(), sql, args...)
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// notify sends the notification that the trigger sends.
func notify(t testing.TB, conn *pgx.Conn, payload string) {
	t.Helper()
	exec(t, conn, "SELECT pg_notify($1, $2)", trigger.Channel, payload)
}
