package mdb

import (
	"context"
	"strconv"
	"time"

	"github.com/messagedb-go/messagedb/internal/backoff"
)

// A RetryPolicy says how a failed write is tried again. The zero value means the
// defaults.
type RetryPolicy struct {
	// Attempts is how often it is tried at most, the first time included. 1 turns
	// trying again off. The default is [DefaultRetryAttempts].
	Attempts int
	// MinDelay is the pause before the second attempt; each further one is twice
	// as long, up to MaxDelay, and all vary at random by up to a half. The
	// defaults are [DefaultRetryMinDelay] and [DefaultRetryMaxDelay].
	MinDelay, MaxDelay time.Duration
}

// The defaults of a [RetryPolicy].
const (
	DefaultRetryAttempts = 8
	DefaultRetryMinDelay = 10 * time.Millisecond
	DefaultRetryMaxDelay = time.Second
)

func (p RetryPolicy) check(f *faults) {
	if p.Attempts < 0 {
		f.add("retry attempts", strconv.Itoa(p.Attempts), "at least 1, or 0 for the default")
	}
	if p.MinDelay < 0 {
		f.add("retry's least delay", p.MinDelay.String(), "a positive duration, or 0 for the default")
	}
	if p.MaxDelay < 0 {
		f.add("retry's largest delay", p.MaxDelay.String(), "a positive duration, or 0 for the default")
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

// wait sleeps after the attempt, which is 1 for the first, unless ctx ends.
func (p RetryPolicy) wait(ctx context.Context, attempt int) error {
	return backoff.Policy{Min: p.MinDelay, Max: p.MaxDelay}.Wait(ctx, attempt)
}
