// Package poll has strategies that say how long a subscription waits before it
// looks for new messages again.
//
// A subscription that has read a full page reads on at once, and asks no strategy.
// Which one to pick:
//
//	strategy                        queries/s when idle   longest added latency
//	Backoff(10ms, 1s, 2), default   1                     1 s after idleness, 10 ms in a flow
//	Constant(100ms)                 10                    100 ms
//	Dynamic(0.01, 10ms, 10ms, 1s)   1                     1 s; finds its way to 1 % of a page a poll
//
// A constant interval bounds the latency, at a price that is the same day and
// night. Backoff suits streams that are quiet for long and then busy for a while.
// Dynamic suits a steady flow, of which it reads a few messages at a time. With the
// NOTIFY trigger installed a strategy matters only while the trigger's wake-ups are
// held back.
package poll

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// Seen is what a strategy knows of a subscription.
type Seen struct {
	// Retrieved is how many messages the last poll has found, and BatchSize how
	// many it could have.
	Retrieved, BatchSize int
	// Empty is how many polls have found nothing since the last one that found
	// something.
	Empty int
	// Previous is the delay that came before the last poll: 0 at first.
	Previous time.Duration
}

// A Strategy returns how long to wait before the next poll: never less than 0, and
// never more than the strategy's longest delay. It is a function of what it is
// given and of nothing else (but for [Jitter]), so one value serves any number of
// subscriptions at once.
type Strategy func(Seen) time.Duration

// Constant waits for the same interval always. It panics unless the interval is
// positive.
func Constant(interval time.Duration) Strategy {
	if interval <= 0 {
		panic(fmt.Sprintf("poll: interval %v, want a positive one", interval))
	}
	return func(Seen) time.Duration { return interval }
}

// Backoff waits for min after a poll that has found something, and after each one
// that has not, factor times as long as before, up to max. It panics unless min is
// positive, max is at least min, and factor is at least 1 and finite.
func Backoff(min, max time.Duration, factor float64) Strategy {
	checkRange(min, max)
	if !(factor >= 1) || math.IsInf(factor, 0) {
		panic(fmt.Sprintf("poll: factor %v, want at least 1", factor))
	}
	return func(s Seen) time.Duration {
		// As a floating-point number it grows to infinity and not beyond, which
		// is more than max as well.
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

// Dynamic looks for the delay at which a poll finds a share of target of a page:
// it waits longer by step after a poll that has found less, and shorter by step
// after one that has found more, between min and max. If target times the page's
// size is less than one message, about every other poll finds something. It panics
// unless target is in (0, 1], step and min are positive, and max is at least min.
func Dynamic(target float64, step, min, max time.Duration) Strategy {
	checkRange(min, max)
	if !(target > 0 && target <= 1) {
		panic(fmt.Sprintf("poll: target %v, want more than 0 and at most 1", target))
	}
	if step <= 0 {
		panic(fmt.Sprintf("poll: step %v, want a positive one", step))
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

// Jitter shortens each of the strategy's delays by a random part of up to
// fraction, so that many subscriptions that have begun at once do not go on to poll
// at once. It panics if s is nil or fraction is not in [0, 1].
func Jitter(s Strategy, fraction float64) Strategy {
	if s == nil {
		panic("poll: no strategy to vary")
	}
	if !(fraction >= 0 && fraction <= 1) {
		panic(fmt.Sprintf("poll: fraction %v, want 0 to 1", fraction))
	}
	return func(seen Seen) time.Duration {
		delay := s(seen)
		cut := float64(delay) * fraction * rand.Float64()
		if cut >= float64(delay) { // which a conversion might not survive
			return 0
		}
		return delay - time.Duration(cut)
	}
}

func checkRange(min, max time.Duration) {
	if min <= 0 || max < min {
		panic(fmt.Sprintf("poll: delays from %v to %v, want a positive one and one that is not less", min, max))
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
