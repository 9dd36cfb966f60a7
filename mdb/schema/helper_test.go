package schema_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb/schema"
)

// A querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // the test's context has ended
	return conn
}

// pin makes Message DB's own functions independent of the search path.
func pin(t testing.TB, conn *pgx.Conn) {
	t.Helper()
	if _, err := schema.PinSearchPath(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
}

// run runs one or more SQL statements.
func run(t testing.TB, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// waitForLock returns when the backend waits for a lock.
func waitForLock(t testing.TB, conn *pgx.Conn, backend uint32) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for waiting := false; !waiting; {
		if err := conn.QueryRow(ctx, `SELECT cardinality(pg_blocking_pids($1)) > 0`, backend).Scan(&waiting); err != nil {
			t.Fatalf("backend %d does not wait: %v", backend, err)
		}
	}
}
