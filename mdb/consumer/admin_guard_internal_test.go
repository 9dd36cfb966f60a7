package consumer

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

// TestWatch checks that members count as dead after they were watched for the longest lease without a break, and only for a while, and that
// a watch ends if one comes back, or none is left.
func TestWatch(t *testing.T) {
	t.Parallel()
	failed := errors.New("failed")
	silent := []ledger.Process{{Lease: 4 * time.Second}, {Lease: 10 * time.Second}}
	for name, test := range map[string]struct {
		look  func(ctx context.Context, at time.Duration) ([]ledger.Process, error)
		least time.Duration // that it takes
		most  time.Duration
		fresh bool
		err   error
	}{
		"dead": {
			look:  func(context.Context, time.Duration) ([]ledger.Process, error) { return silent, nil },
			least: 10 * time.Second, most: 12 * time.Second, fresh: true,
		},
		"an outage meanwhile": {
			look: func(_ context.Context, at time.Duration) ([]ledger.Process, error) {
				if at > 5*time.Second && at < 8*time.Second {
					time.Sleep(3 * time.Second)
				}
				return silent, nil
			},
			least: 18 * time.Second, most: 22 * time.Second, fresh: true,
		},
		"one comes back": {
			look: func(_ context.Context, at time.Duration) ([]ledger.Process, error) {
				if at > 5*time.Second {
					return []ledger.Process{silent[0], {Lease: 10 * time.Second, Alive: true}}, nil
				}
				return silent, nil
			},
			least: 5 * time.Second, most: 7 * time.Second,
		},
		"none is left": {
			look:  func(context.Context, time.Duration) ([]ledger.Process, error) { return nil, nil },
			fresh: true,
		},
		"an error": {look: func(context.Context, time.Duration) ([]ledger.Process, error) { return nil, failed }, err: failed},
		"the end": {
			look: func(context.Context, time.Duration) ([]ledger.Process, error) {
				return []ledger.Process{{Lease: time.Hour}}, nil
			},
			least: time.Minute, most: time.Minute, err: errStillSilent,
		},
		"the end during a look": {
			look: func(ctx context.Context, _ time.Duration) ([]ledger.Process, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			},
			least: time.Minute, most: time.Minute, err: errStillSilent,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				begun := time.Now()
				w := &watch{look: func(ctx context.Context) ([]ledger.Process, error) { return test.look(ctx, time.Since(begun)) }}
				if w.isFresh() {
					t.Error("members count as dead before a look")
				}
				err := w.run(ctx)
				if took := time.Since(begun); took < test.least || took > test.most || !errors.Is(err, test.err) || w.isFresh() != test.fresh {
					t.Errorf("got %v after %v, and that they are known to be dead: %t", err, took, w.isFresh())
				}
				if time.Sleep(2100 * time.Millisecond); w.isFresh() && name != "none is left" {
					t.Error("they still count as dead after half of a lease without a look")
				}
			})
		})
	}
}
