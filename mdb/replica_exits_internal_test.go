package mdb

import (
	"context"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// An exitTracer is a tracer of a pool that ends the goroutine of each call, and counts them.
type exitTracer struct {
	panicker

	calls atomic.Int64
}

func (e *exitTracer) TraceAcquireStart(context.Context, *pgxpool.Pool, pgxpool.TraceAcquireStartData) context.Context {
	e.calls.Add(1)
	runtime.Goexit()
	return nil
}

// TestReplicaExits checks that reads use the primary, and that the replica is asked again, if a function such as a tracer of pgx in a test ends
// the goroutine that asks it.
func TestReplicaExits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg, err := pgxpool.ParseConfig("host=127.0.0.1 user=u sslmode=disable")
		if err != nil {
			t.Fatal(err)
		}
		cfg.ConnConfig.DialFunc = func(context.Context, string, string) (net.Conn, error) { return nil, io.ErrUnexpectedEOF }
		exits := new(exitTracer)
		cfg.ConnConfig.Tracer = exits
		replica, err := pgxpool.NewWithConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer replica.Close()
		n := &network{dial: func(context.Context, int64) error { return io.ErrUnexpectedEOF }}
		primary := n.store(t, RetryPolicy{})
		defer primary.Close()
		s, err := New(primary.pool, WithReplica(replica), WithLogger(slog.New(slog.DiscardHandler)))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for i := range int64(3) {
			begun := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if s.replica.serving(ctx) {
				t.Error("the replica serves reads")
			}
			cancel()
			if waited := time.Since(begun); waited > 0 {
				t.Errorf("a read waits for %v", waited)
			}
			time.Sleep(replicaRetry.Max)
			if n := exits.calls.Load(); n != i+1 {
				t.Errorf("the replica was asked %d times, want %d", n, i+1)
			}
		}
	})
}
