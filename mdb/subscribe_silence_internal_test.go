package mdb

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestSubscriptionSilence checks reads that get no answer, or a late one, as from a
// machine that has failed: each is cancelled after a while, the first one soonest, and the
// pool's other connections are suspected.
func TestSubscriptionSilence(t *testing.T) {
	t.Parallel()
	silent := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	unconnected := func(ctx context.Context) error { <-ctx.Done(); return &acquireError{ctx.Err()} }
	slow := func(d time.Duration) func(context.Context) error {
		return func(ctx context.Context) error {
			select {
			case <-time.After(d):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	for name, test := range map[string]struct {
		reads []func(context.Context) error
		want  string
	}{
		"silent": {
			[]func(context.Context) error{silent, silent, silent},
			"given up after 10s, suspect, retry 1, given up after 20s, suspect, retry 2, given up after 40s, suspect, retry 3, read after 0s",
		},
		// This shows nothing about how long a read takes.
		"without a connection": {
			[]func(context.Context) error{unconnected, unconnected, silent},
			"given up after 10s, suspect, retry 1, given up after 10s, suspect, retry 2, given up after 10s, suspect, retry 3, read after 0s",
		},
		"slow": {
			[]func(context.Context) error{slow(15 * time.Second), slow(15 * time.Second), silent, slow(time.Second), silent},
			"given up after 10s, suspect, retry 1, read after 15s, " +
				"given up after 30s, suspect, retry 1, read after 1s, given up after 10s, suspect, retry 1, read after 0s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rehearse(t, 0)
				for reads := append(test.reads, slow(0)); len(reads) > 0; {
					err := r.retryTransient(t.Context(), func(ctx context.Context) error {
						begun, f := time.Now(), reads[0]
						reads = reads[1:]
						err := f(ctx)
						what := "read"
						if err != nil {
							what = "given up"
						}
						r.note("%s after %v", what, time.Since(begun))
						return err
					})
					if err != nil {
						t.Error(err)
					}
				}
				r.want(test.want)
			})
		})
	}
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
