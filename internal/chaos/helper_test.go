package chaos

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// testTimeout bounds waits that end sooner unless the test fails.
const testTimeout = 2 * time.Minute

// sleep waits for d, or until ctx ends, and then returns the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sleepAbout is sleep for a random time of up to twice the mean.
func sleepAbout(ctx context.Context, rng *rand.Rand, mean time.Duration) error {
	return sleep(ctx, time.Duration(rng.Int64N(int64(2*mean))))
}

// tick waits for the interval of loops that poll for something that sends no signal.
func tick() {
	_ = sleep(context.Background(), 20*time.Millisecond)
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
