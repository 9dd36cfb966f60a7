package chaos

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/backoff"
)

// testTimeout bounds waits that end sooner unless the test fails.
const testTimeout = 2 * time.Minute

// sleepAbout sleeps for a random time of up to twice the mean.
func sleepAbout(ctx context.Context, rng *rand.Rand, mean time.Duration) error {
	return backoff.Sleep(ctx, time.Duration(rng.Int64N(int64(2*mean))))
}

// tick waits for the interval of loops that poll for something that sends no signal.
func tick() {
	_ = backoff.Sleep(context.Background(), 20*time.Millisecond)
}

func connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.WithoutCancel(t.Context()), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func execute(t testing.TB, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(context.WithoutCancel(t.Context()), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}
