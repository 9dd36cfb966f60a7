package doorbell_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/trigger"
)

// testTimeout bounds waits that end sooner unless the test fails.
const testTimeout = time.Minute

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
