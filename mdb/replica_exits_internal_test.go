package mdb

import (
	"context"
	"io"
	"log/slog"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestReplicaExits checks that reads use the primary, and that the replica is asked again, if a function such as a tracer of pgx in a test ends
// the goroutine that asks it.
func TestReplicaExits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		refuse := func(context.Context, int64) error { return io.ErrUnexpectedEOF }
		near, far := &network{dial: refuse}, &network{dial: refuse}
		var calls atomic.Int64
		far.panics.instead = func() { calls.Add(1); runtime.Goexit() }
		far.panics.set.Store(true)
		primary, replica := near.store(t, RetryPolicy{}), far.store(t, RetryPolicy{})
		defer primary.Close()
		defer replica.Close()
		s, err := New(primary.pool, WithReplica(replica.pool), WithLogger(slog.New(slog.DiscardHandler)))
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
			if n := calls.Load(); n != i+1 {
				t.Errorf("the replica was asked %d times, want %d", n, i+1)
			}
		}
	})
}
