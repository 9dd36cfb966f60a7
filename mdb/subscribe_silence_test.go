package mdb

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestSubscriptionSilence has reads that get no answer, as from a machine that is
// gone. Each is given up, the first one soonest, and none of the pool's other
// connections is trusted.
func TestSubscriptionSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := rehearse(t, 1)
		read, silent := r.subscription.page, 3
		r.subscription.page = func(ctx context.Context, c readConfig) ([]Message, int64, error) {
			if silent == 0 {
				return read(ctx, c)
			}
			silent--
			begun := time.Now()
			<-ctx.Done()
			r.note("silence for %v", time.Since(begun))
			return nil, 0, ctx.Err()
		}
		if err := r.run(); !errors.Is(err, errEnd) {
			t.Errorf("error %v", err)
		}
		r.want("silence for 1m0s, suspect, retry 1, silence for 2m0s, suspect, retry 2, silence for 4m0s, suspect, retry 3, " +
			"read 1, handle 1, progress 1, live true, ask 1/1000 0 0s, sleep 10ms")
	})
}
