package poll_test

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/mdb/poll"
)

const ms = time.Millisecond

// TestStrategies checks each strategy's delay after given polls, also at the limits
// of its range.
func TestStrategies(t *testing.T) {
	t.Parallel()
	backoff := poll.Backoff(10*ms, time.Second, 2)
	dynamic := poll.Dynamic(0.1, 10*ms, 20*ms, 100*ms)
	tenYears := int(10 * 365 * 24 * time.Hour / (10 * ms)) // of polls every 10 ms
	for name, test := range map[string]struct {
		strategy poll.Strategy
		seen     poll.Seen
		want     time.Duration
	}{
		"constant":                        {poll.Constant(time.Second), poll.Seen{Empty: 7}, time.Second},
		"backoff after a message":         {backoff, poll.Seen{Retrieved: 1, BatchSize: 10, Previous: time.Second}, 10 * ms},
		"backoff, first empty poll":       {backoff, poll.Seen{Empty: 1}, 10 * ms},
		"backoff, second":                 {backoff, poll.Seen{Empty: 2}, 20 * ms},
		"backoff, fifth":                  {backoff, poll.Seen{Empty: 5}, 160 * ms},
		"backoff, eighth":                 {backoff, poll.Seen{Empty: 8}, time.Second},
		"backoff, 38th":                   {backoff, poll.Seen{Empty: 38}, time.Second}, // where gomdb's became negative
		"backoff after ten years":         {backoff, poll.Seen{Empty: tenYears}, time.Second},
		"backoff after MaxInt polls":      {backoff, poll.Seen{Empty: math.MaxInt}, time.Second},
		"backoff by a fractional factor":  {poll.Backoff(time.Second, time.Minute, 1.5), poll.Seen{Empty: 2}, 1500 * ms}, // gomdb: 1 s
		"backoff by a factor of 1":        {poll.Backoff(time.Second, time.Minute, 1), poll.Seen{Empty: 99}, time.Second},
		"backoff up to the longest delay": {poll.Backoff(1, math.MaxInt64, 10), poll.Seen{Empty: 99}, math.MaxInt64},
		"dynamic at first":                {dynamic, poll.Seen{BatchSize: 100, Empty: 1}, 30 * ms},
		"dynamic, too few":                {dynamic, poll.Seen{Retrieved: 9, BatchSize: 100, Previous: 50 * ms}, 60 * ms},
		"dynamic, just right":             {dynamic, poll.Seen{Retrieved: 10, BatchSize: 100, Previous: 50 * ms}, 50 * ms},
		"dynamic, too many":               {dynamic, poll.Seen{Retrieved: 11, BatchSize: 100, Previous: 50 * ms}, 40 * ms},
		"dynamic, not below min":          {dynamic, poll.Seen{Retrieved: 99, BatchSize: 100, Previous: 20 * ms}, 20 * ms},
		"dynamic, not above max":          {dynamic, poll.Seen{BatchSize: 100, Previous: 95 * ms}, 100 * ms},
		"dynamic after a delay above max": {dynamic, poll.Seen{Retrieved: 10, BatchSize: 100, Previous: time.Hour}, 100 * ms},
		"dynamic with the longest delays": {poll.Dynamic(1, math.MaxInt64, 1, math.MaxInt64), poll.Seen{BatchSize: 1, Previous: math.MaxInt64}, math.MaxInt64},
	} {
		if got := test.strategy(test.seen); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// TestDynamicConverges checks that under a simulated steady flow the delay stays near
// the one at which a poll finds the target, instead of drifting to min or max.
func TestDynamicConverges(t *testing.T) {
	t.Parallel()
	const batch, target = 1000, 0.01
	for _, perSecond := range []float64{1, 2, 12, 20, 50, 100, 400} {
		t.Run(fmt.Sprintf("%g messages a second", perSecond), func(t *testing.T) {
			t.Parallel()
			target := target
			if perSecond < 10 {
				target = 0.0005 // half a message
			}
			strategy := poll.Dynamic(target, 5*ms, 5*ms, 2*time.Second)
			var delay, total time.Duration
			var now, seen float64 // seconds, messages
			polls := 0
			for empty := 0; polls < 20_000; polls++ {
				now += delay.Seconds()
				found := math.Floor(now*perSecond) - seen
				seen += found
				empty++
				if found > 0 {
					empty = 0
				}
				delay = strategy(poll.Seen{Retrieved: int(found), BatchSize: batch, Empty: empty, Previous: delay})
				if polls >= 10_000 {
					total += delay
				}
			}
			mean := (total / 10_000).Seconds()
			ideal := target * batch / perSecond
			if mean < ideal/2 || mean > ideal*2 {
				t.Errorf("the mean delay is %v s, want about %v s", mean, ideal)
			}
		})
	}
}

// TestConcurrentUse checks that concurrent subscriptions can share a strategy, because
// it keeps no state of any of them.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	strategy := poll.Backoff(10*ms, time.Second, 2)
	var wg sync.WaitGroup
	for empty := range 10 {
		wg.Go(func() {
			want := strategy(poll.Seen{Empty: empty})
			for range 1000 {
				if got := strategy(poll.Seen{Empty: empty}); got != want {
					t.Errorf("%v after %d empty polls, but %v the first time", got, empty, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestJitter checks that the delays spread over the whole range, and no further.
func TestJitter(t *testing.T) {
	t.Parallel()
	strategy := poll.Jitter(poll.Constant(time.Second), 0.2)
	shortest, longest := time.Hour, time.Duration(0)
	for range 10_000 {
		d := strategy(poll.Seen{})
		shortest, longest = min(shortest, d), max(longest, d)
	}
	if shortest < 800*ms || shortest > 810*ms || longest > time.Second || longest < 990*ms {
		t.Errorf("delays from %v to %v, want 800 ms to 1 s, all of it used", shortest, longest)
	}
}

// TestInvalidArgumentsPanic checks that each constructor rejects arguments outside its
// documented range.
func TestInvalidArgumentsPanic(t *testing.T) {
	t.Parallel()
	for name, construct := range map[string]func(){
		"no interval":         func() { poll.Constant(0) },
		"negative interval":   func() { poll.Constant(-1) },
		"no minimum":          func() { poll.Backoff(0, 1, 2) },
		"maximum too small":   func() { poll.Backoff(2, 1, 2) },
		"factor below 1":      func() { poll.Backoff(1, 2, 0.9) },
		"factor not a number": func() { poll.Backoff(1, 2, math.NaN()) },
		"infinite factor":     func() { poll.Backoff(1, 2, math.Inf(1)) },
		"no target":           func() { poll.Dynamic(0, 1, 1, 2) },
		"target above 1":      func() { poll.Dynamic(1.1, 1, 1, 2) },
		"target not a number": func() { poll.Dynamic(math.NaN(), 1, 1, 2) },
		"no step":             func() { poll.Dynamic(0.5, 0, 1, 2) },
		"dynamic range":       func() { poll.Dynamic(0.5, 1, 2, 1) },
		"no strategy":         func() { poll.Jitter(nil, 0.5) },
		"negative fraction":   func() { poll.Jitter(poll.Constant(1), -0.1) },
		"fraction above 1":    func() { poll.Jitter(poll.Constant(1), 1.1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			construct()
		}()
	}
}

// FuzzStrategies checks that every strategy stays within its bounds, whatever it is
// called with.
func FuzzStrategies(f *testing.F) {
	f.Add(0, 0, 0, int64(0), int64(10*ms), int64(time.Second), 2.0, int64(ms))
	f.Add(5, 1000, 38, int64(time.Second), int64(1), int64(math.MaxInt64), 1.5, int64(math.MaxInt64))
	f.Add(-1, -1, math.MaxInt, int64(math.MinInt64), int64(math.MaxInt64), int64(math.MaxInt64), 1e308, int64(1))
	f.Fuzz(func(t *testing.T, retrieved, batch, empty int, previous, lo, hi int64, factor float64, step int64) {
		least, longest := time.Duration(max(lo, 1)), time.Duration(max(hi, lo, 1))
		if !(factor >= 1) || math.IsInf(factor, 0) {
			factor = 2
		}
		seen := poll.Seen{Retrieved: retrieved, BatchSize: batch, Empty: empty, Previous: time.Duration(previous)}
		backoff := poll.Backoff(least, longest, factor)
		dynamic := poll.Dynamic(1/factor, time.Duration(max(step, 1)), least, longest)
		for name, delay := range map[string]time.Duration{
			"Constant": poll.Constant(longest)(seen),
			"Backoff":  backoff(seen),
			"Dynamic":  dynamic(seen),
		} {
			if delay < least || delay > longest {
				t.Errorf("%s: %v for %+v, want %v to %v", name, delay, seen, least, longest)
			}
		}
		for name, delay := range map[string]time.Duration{
			"Backoff with jitter": poll.Jitter(backoff, 1/factor)(seen),
			"Dynamic with jitter": poll.Jitter(dynamic, 1)(seen),
		} {
			if delay < 0 || delay > longest {
				t.Errorf("%s: %v for %+v, want 0 to %v", name, delay, seen, longest)
			}
		}
	})
}
