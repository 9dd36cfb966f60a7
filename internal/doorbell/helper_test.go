package doorbell_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/internal/trigger"
)

// testTimeout bounds waits that end sooner unless the test fails.
const testTimeout = time.Minute

// notify sends the notification that the trigger sends.
func notify(t testing.TB, conn *pgx.Conn, payload string) {
	t.Helper()
	testdb.Exec(t, conn, "SELECT pg_notify($1, $2)", trigger.Channel, payload)
}
