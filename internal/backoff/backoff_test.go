package backoff_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/messagedb-go/messagedb/internal/backoff"
)

// TestWait checks the bounds of the delay after each attempt.
func TestWait(t *testing.T) {
	t.Parallel()
	p := backoff.Policy{Min: 10 * time.Millisecond, Max: time.Second}
	for attempt, want := range map[int]time.Duration{
		1:    10 * time.Millisecond,
		2:    20 * time.Millisecond,
		3:    40 * time.Millisecond,
		7:    640 * time.Millisecond,
		8:    time.Second,
		31:   time.Second,
		1000: time.Second,
	} {
		synctest.Test(t, func(t *testing.T) {
			shortest, longest := time.Hour, time.Duration(0)
			for range 100 {
				begun := time.Now()
				if err := p.Wait(t.Context(), attempt); err != nil {
					t.Fatal(err)
				}
				waited := time.Since(begun)
				shortest, longest = min(shortest, waited), max(longest, waited)
			}
			if shortest < want/2 || longest > want || shortest == longest {
				t.Errorf("delays after attempt %d: got %v to %v, want %v to %v", attempt, shortest, longest, want/2, want)
			}
		})
	}
}

// TestDelayOfLongMinimum checks that a delay never overflows.
func TestDelayOfLongMinimum(t *testing.T) {
	t.Parallel()
	p := backoff.Policy{Min: 10 * time.Second, Max: time.Hour}
	for attempt := 10; attempt < 200; attempt++ {
		if d := p.Delay(attempt); d < p.Max/2 || d > p.Max {
			t.Errorf("delay after attempt %d: got %v, want %v to %v", attempt, d, p.Max/2, p.Max)
		}
	}
}

// TestWaitWithoutDelay checks that a policy of zero waits for nothing.
func TestWaitWithoutDelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		if err := (backoff.Policy{}).Wait(t.Context(), 3); err != nil || time.Since(begun) != 0 {
			t.Errorf("got %v after %v, want no error and no delay", err, time.Since(begun))
		}
	})
}

// TestContextEnds checks that both functions return the context's error when it ends.
func TestContextEnds(t *testing.T) {
	t.Parallel()
	for name, wait := range map[string]func(context.Context) error{
		"Sleep": func(ctx context.Context) error { return backoff.Sleep(ctx, time.Hour) },
		"Wait": func(ctx context.Context) error {
			return backoff.Policy{Min: time.Hour, Max: time.Hour}.Wait(ctx, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				begun := time.Now()
				if err := wait(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Second {
					t.Errorf("got %v after %v, want %v after %v", err, time.Since(begun), context.DeadlineExceeded, time.Second)
				}
			})
		})
	}
}
