package doorbell

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// TestLimiterTake checks how many rings of a burst are over the limit, depending on what
// came before.
func TestLimiterTake(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := limiter{perSecond: 100}
	takeAll := func(n int) (over int) {
		for range n {
			if l.take(now) {
				over++
			}
		}
		return over
	}
	for _, test := range []struct {
		what string
		wait time.Duration
		n    int
		over int
	}{
		{"a second's worth in one burst", 0, 100, 0},
		{"one more", 0, 1, 1},
		{"a second later, which also pays for that one", time.Second, 100, 1},
		{"another second later", time.Second, 99, 0},
		{"one more than that", 0, 1, 1},
		{"after an hour, which saves no more than a second's worth", time.Hour, 101, 1},
		{"a large burst", time.Second, 10_000, 9901},
		{"after the large burst, whose effect ends in three seconds", 3 * time.Second, 99, 0},
	} {
		now = now.Add(test.wait)
		if over := takeAll(test.n); over != test.over {
			t.Errorf("%s: got %d of %d over the limit, want %d", test.what, over, test.n, test.over)
		}
	}
}

// TestLimiterReserve checks which rates a limiter grants, and what it has left then.
func TestLimiterReserve(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, test := range []struct {
		taken int
		own   float64 // rate of the store's categories
		rate  float64
		want  bool
		left  float64
	}{
		{0, 0, 0, true, 100},
		{0, 100, 50, true, 50},
		{0, 100, 75, true, 25},
		{0, 100, 76, false, 100},
		{0, 100, 1000, false, 100},
		{75, 100, 0, true, 25},
		{75, 100, 0.9, true, 25}, // less than one a second counts as none
		{75, 100, 1, false, 25},
		{76, 100, 0, false, 24},
		{150, 51, 0, false, -50},
		// If others ring, a category that does not is no reason to wait.
		{150, 50, 0, true, -50},
		{150, 50, 0.9, true, -50},
		{150, 50, 1, false, -50},
	} {
		l := limiter{perSecond: 100}
		for range test.taken {
			l.take(now)
		}
		if got := l.reserve(now, test.rate, test.own); got != test.want {
			t.Errorf("reserve(%v) after %d rings: got %v, want %v", test.rate, test.taken, got, test.want)
		}
		// What is granted is set aside, or else several categories could have it.
		if !l.last.IsZero() && l.left != test.left {
			t.Errorf("left by reserve(%v) after %d rings: got %v, want %v", test.rate, test.taken, l.left, test.left)
		}
	}
}

// A simulation is a bell with one category and a goroutine that answers as the server
// would, each time after the latency.
type simulation struct {
	*Bell
	shared atomic.Bool // whether the category's key is shared
}

func simulate(ctx context.Context, perSecond int, latency time.Duration) *simulation {
	s := &simulation{Bell: newBell(perSecond)}
	s.config.Fallback = time.Hour
	s.shards[0].listener.shared = make(map[string]bool)
	go func() {
		for ctx.Err() == nil {
			_ = backoff.Sleep(ctx, latency)
			unlock, arm, _ := s.shards[0].plan(time.Now())
			if len(unlock) > 0 {
				_ = backoff.Sleep(ctx, latency)
				s.shared.Store(false)
				clear(s.shards[0].listener.shared)
			} else if len(arm) > 0 {
				s.shared.Store(true)
				s.shards[0].listener.shared["a"] = true
				_ = backoff.Sleep(ctx, latency)
				s.shards[0].armed(arm, []bool{true})
			}
		}
	}()
	return s
}

// subscribe starts subscriptions to the stream a-1, which has the given number of messages.
func (s *simulation) subscribe(ctx context.Context, subscriptions int, messages *atomic.Int64) {
	for range subscriptions {
		sleeper := s.on("a-1")
		go func() {
			for seen := int64(0); ctx.Err() == nil; {
				sleeper.BeforeRead()
				found := messages.Load() - seen
				seen += found
				_ = sleeper.Sleep(ctx, time.Second, int(found), nil, nil)
			}
		}()
	}
	s.shards[0].setListening(true)
}

// TestLimiterKept checks that rings stay within the limit at any pace of writes, except
// for those already on their way when it is reached, and that most writes ring while the
// limit allows it.
func TestLimiterKept(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	const perSecond, seconds = 100, 15
	for _, test := range []struct {
		what          string
		subscriptions int
		writes        string // the stream that is written to
	}{
		{"one subscription", 1, "a-1"},
		{"many subscriptions", 20, "a-1"},
		{"one subscription to another stream", 1, "a-2"},
		{"many subscriptions to another stream", 20, "a-2"},
	} {
		for _, pace := range []int{1, 20, 90, 110, 1000} {
			for _, latency := range []time.Duration{time.Millisecond, 20 * time.Millisecond} {
				t.Run(fmt.Sprintf("%s, %d writes a second, latency %v", test.what, pace, latency), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						ctx, cancel := context.WithCancel(t.Context())
						defer cancel()
						s := simulate(ctx, perSecond, latency)
						var messages atomic.Int64
						written, rings := 0, 0
						s.subscribe(ctx, test.subscriptions, &messages)
						for range seconds * pace {
							_ = backoff.Sleep(ctx, time.Second/time.Duration(pace))
							synctest.Wait()
							written++
							if test.writes == "a-1" {
								messages.Add(1)
							}
							if s.shared.Load() {
								rings++
								s.shards[0].onNotification(test.writes)
							}
						}
						t.Logf("%d rings for %d writes", rings, written)
						if most := perSecond*seconds + 3*perSecond; rings > most {
							t.Errorf("got %d rings in %d seconds, want at most %d", rings, seconds, most)
						}
						if pace < perSecond/4 && rings < written*9/10 {
							t.Errorf("got %d rings for %d writes, want nine of ten to ring", rings, written)
						}
					})
				})
			}
		}
	}
}

// TestLimiterAfterABurst checks that each write rings again after a burst, however many
// subscriptions receive each message.
func TestLimiterAfterABurst(t *testing.T) {
	t.Parallel()
	for _, subscriptions := range []int{1, 50} {
		t.Run(fmt.Sprintf("%d subscriptions", subscriptions), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s := simulate(ctx, 100, time.Millisecond)
				var messages atomic.Int64
				s.subscribe(ctx, subscriptions, &messages)
				write := func(pace, seconds int) (rings int) {
					for range seconds * pace {
						_ = backoff.Sleep(ctx, time.Second/time.Duration(pace))
						synctest.Wait()
						messages.Add(1)
						if s.shared.Load() {
							rings++
							s.shards[0].onNotification("a-1")
						}
					}
					return rings
				}
				write(1000, 5)
				write(3, 10) // lets the rate decay
				if rings := write(3, 60); rings != 180 {
					t.Errorf("got %d rings for 180 writes in a minute, want 180", rings)
				}
			})
		})
	}
}
