// Package poll provides polling strategies for subscriptions. A [Strategy] decides
// how long a subscription waits between two polls; pass it to
// [github.com/messagedb-go/messagedb/mdb.WithPolling].
//
// After a full page a subscription reads the next one immediately, without asking
// the strategy. These are the choices:
//
//	strategy                        queries/s when idle   longest added latency
//	Backoff(10ms, 1s, 2), default   1                     1 s when idle, 10 ms while messages arrive
//	Constant(100ms)                 10                    100 ms
//	Dynamic(0.01, 10ms, 10ms, 1s)   1                     1 s; adapts until a poll finds 1 % of a page
//
// [Constant] bounds the latency, and costs the same number of queries whether or not
// there is anything to read. [Backoff] suits streams that are quiet for long and then
// busy for a while. [Dynamic] suits a steady flow, which it reads a few messages at a
// time.
//
// A store with [github.com/messagedb-go/messagedb/mdb.WithNotify] uses the strategy
// only while notifications are unavailable or limited.
package poll

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// Seen describes the recent polls of a subscription.
type Seen struct {
	// Retrieved is the number of messages that the last poll found, and BatchSize
	// the most that it could have found.
	Retrieved, BatchSize int
	// Empty is the number of consecutive polls, up to the last one, that found
	// nothing.
	Empty int
	// Previous is the delay before the last poll. It is 0 before the first.
	Previous time.Duration
}

// A Strategy returns how long to wait before the next poll. The delay is never
// negative, and never longer than the strategy's maximum. Strategies keep no state,
// so any number of subscriptions may share one, also concurrently.
type Strategy func(Seen) time.Duration

// Constant waits for the same interval before every poll. It panics unless interval
// is positive.
func Constant(interval time.Duration) Strategy {
	if interval <= 0 {
		panic(fmt.Sprintf("poll: interval %v, want more than 0", interval))
	}
	return func(Seen) time.Duration { return interval }
}

// Backoff waits for min after a poll that found messages, and again after the first
// one that found none. Each further empty poll multiplies the delay by factor, up to
// max. It panics unless min is positive, max is at least min, and factor is at least
// 1 and finite.
func Backoff(min, max time.Duration, factor float64) Strategy {
	checkRange(min, max)
	if !(factor >= 1) || math.IsInf(factor, 0) {
		panic(fmt.Sprintf("poll: factor %v, want at least 1", factor))
	}
	return func(s Seen) time.Duration {
		// A floating-point number does not overflow: it grows to infinity, which
		// is more than max too.
		delay := float64(min)
		if s.Empty > 1 {
			delay *= math.Pow(factor, float64(s.Empty-1))
		}
		if delay >= float64(max) {
			return max
		}
		return time.Duration(delay)
	}
}

// Dynamic adapts the delay until a poll fills the share target of a page: it adds
// step after a poll that found less, and subtracts step after one that found more,
// between min and max. If target is less than one message, about every other poll
// finds something. It panics unless target is in (0, 1], step and min are positive,
// and max is at least min.
func Dynamic(target float64, step, min, max time.Duration) Strategy {
	checkRange(min, max)
	if !(target > 0 && target <= 1) {
		panic(fmt.Sprintf("poll: target %v, want more than 0 and at most 1", target))
	}
	if step <= 0 {
		panic(fmt.Sprintf("poll: step %v, want more than 0", step))
	}
	return func(s Seen) time.Duration {
		previous := clamp(s.Previous, min, max)
		switch found, aim := float64(s.Retrieved), target*float64(s.BatchSize); {
		case found < aim:
			if max-previous < step {
				return max
			}
			return previous + step
		case found > aim:
			if previous-min < step {
				return min
			}
			return previous - step
		}
		return previous
	}
}

// Jitter shortens each delay of s by a random share of it, at most fraction, so that
// subscriptions that started together do not keep polling together. It panics if s
// is nil or fraction is not in [0, 1].
func Jitter(s Strategy, fraction float64) Strategy {
	if s == nil {
		panic("poll: strategy is nil")
	}
	if !(fraction >= 0 && fraction <= 1) {
		panic(fmt.Sprintf("poll: fraction %v, want 0 to 1", fraction))
	}
	return func(seen Seen) time.Duration {
		delay := s(seen)
		cut := float64(delay) * fraction * rand.Float64()
		if cut >= float64(delay) { // the conversion below might overflow
			return 0
		}
		return delay - time.Duration(cut)
	}
}

func checkRange(min, max time.Duration) {
	if min <= 0 || max < min {
		panic(fmt.Sprintf("poll: min %v and max %v, want min more than 0 and max at least min", min, max))
	}
}

func clamp(d, min, max time.Duration) time.Duration {
	switch {
	case d < min:
		return min
	case d > max:
		return max
	}
	return d
}
