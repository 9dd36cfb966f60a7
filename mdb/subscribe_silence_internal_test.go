package mdb

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestSubscriptionWithoutConnection checks reads that get no connection of the pool: they are
// retried after a while, and the pool's other connections are suspected. A read that has a
// connection may take any time.
func TestSubscriptionWithoutConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := rehearse(t, 0)
		reads := 0
		err := r.retryTransient(t.Context(), func(ctx context.Context) error {
			begun := time.Now()
			if reads++; reads < 3 {
				limited := acquireContext(ctx)
				<-limited.Done()
				r.note("given up after %v", time.Since(begun))
				return &acquireError{limited.Err()}
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Hour):
			}
			r.note("read after %v", time.Since(begun))
			return ctx.Err()
		})
		if err != nil {
			t.Error(err)
		}
		r.want("given up after 10s, suspect, retry 1, given up after 10s, suspect, retry 2, read after 1h0m0s")
	})
}

// TestSubscriptionEndsInSilence checks that when the context ends while a read has no
// answer, no connection is suspected.
func TestSubscriptionEndsInSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := rehearse(t, 1)
		r.subscription.page = pages(func(ctx context.Context, _ readConfig) ([]Message, int64, error) {
			<-ctx.Done()
			return nil, 0, ctx.Err()
		})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := r.subscription.run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got error %v, want %v", err, context.DeadlineExceeded)
		}
		r.want("")
	})
}
