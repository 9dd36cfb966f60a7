// Package backoff waits between attempts.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Sleep waits for d, or until ctx ends, whose error it then returns.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A Policy says how long to wait after an attempt: Min after the first one, twice as long
// after each further one, up to Max. All vary at random by up to a half.
type Policy struct{ Min, Max time.Duration }

// Wait sleeps after the attempt, which is 1 for the first.
func (p Policy) Wait(ctx context.Context, attempt int) error {
	return Sleep(ctx, p.Delay(attempt))
}

// Delay returns how long to wait after the attempt, which is 1 for the first.
func (p Policy) Delay(attempt int) time.Duration {
	delay := p.Max
	if doublings := min(attempt-1, 62); p.Min <= p.Max>>doublings {
		delay = p.Min << doublings
	}
	return delay/2 + rand.N(delay/2+1)
}
