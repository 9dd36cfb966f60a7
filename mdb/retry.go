package mdb

import (
	"context"
	"strconv"
	"time"

	"github.com/messagedb-go/messagedb/internal/backoff"
)

// A RetryPolicy configures how failed writes and transactions are retried. The zero value
// means the defaults.
type RetryPolicy struct {
	// Attempts is the maximum number of attempts, including the first. 1 turns retries
	// off. The default is [DefaultRetryAttempts].
	Attempts int
	// MinDelay is the delay before the second attempt. Each further delay is twice as
	// long, up to MaxDelay, and all vary at random by up to a half. The defaults are
	// [DefaultRetryMinDelay] and [DefaultRetryMaxDelay].
	MinDelay, MaxDelay time.Duration
}

// The defaults of a [RetryPolicy].
const (
	// DefaultRetryAttempts is the default of Attempts.
	DefaultRetryAttempts = 8
	// DefaultRetryMinDelay is the default of MinDelay.
	DefaultRetryMinDelay = 10 * time.Millisecond
	// DefaultRetryMaxDelay is the default of MaxDelay, unless MinDelay is longer.
	DefaultRetryMaxDelay = time.Second
)

func (p RetryPolicy) check(f *argumentFaults) {
	if p.Attempts < 0 {
		f.add("retry attempts", strconv.Itoa(p.Attempts), "at least 1, or 0 for the default")
	}
	if p.MinDelay < 0 {
		f.add("minimum retry delay", p.MinDelay.String(), "a positive duration, or 0 for the default")
	}
	if p.MaxDelay < 0 {
		f.add("maximum retry delay", p.MaxDelay.String(), "a positive duration, or 0 for the default")
	}
}

func (p RetryPolicy) withDefaults() RetryPolicy {
	if p.Attempts == 0 {
		p.Attempts = DefaultRetryAttempts
	}
	if p.MinDelay == 0 {
		p.MinDelay = DefaultRetryMinDelay
	}
	if p.MaxDelay == 0 {
		p.MaxDelay = max(DefaultRetryMaxDelay, p.MinDelay)
	}
	return p
}

// wait sleeps after the attempt, counted from 1. It returns an error if ctx ends.
func (p RetryPolicy) wait(ctx context.Context, attempt int) error {
	return backoff.Policy{Min: p.MinDelay, Max: p.MaxDelay}.Wait(ctx, attempt)
}
