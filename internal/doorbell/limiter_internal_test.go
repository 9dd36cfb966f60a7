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

// A simulation is a bell with one category, without a server. Each of the server's
// answers takes a while.
type simulation struct {
	*Bell
	shared atomic.Bool // the key
}

func simulate(ctx context.Context, perSecond int, latency time.Duration) *simulation {
	s := &simulation{Bell: newBell(perSecond)}
	s.config.Fallback = time.Hour
	s.listener.shared = make(map[string]bool)
	go func() {
		for ctx.Err() == nil {
			_ = backoff.Sleep(ctx, latency)
			unlock, arm, _ := s.plan(time.Now())
			if len(unlock) > 0 {
				_ = backoff.Sleep(ctx, latency)
				s.shared.Store(false)
				clear(s.listener.shared)
			} else if len(arm) > 0 {
				s.shared.Store(true)
				s.listener.shared["a"] = true
				_ = backoff.Sleep(ctx, latency)
				s.armed(arm, []bool{true})
			}
		}
	}()
	return s
}

// follow begins subscriptions. Their reads are told how much there is.
func (s *simulation) follow(ctx context.Context, subscriptions int, there *atomic.Int64) {
	for range subscriptions {
		sleeper := s.on("a-1")
		go func() {
			for seen := int64(0); ctx.Err() == nil; {
				sleeper.BeforeRead()
				found := there.Load() - seen
				seen += found
				_ = sleeper.Sleep(ctx, time.Second, int(found), nil, nil)
			}
		}()
	}
	s.setListening(true)
}

// TestLimiterKept writes at all paces. The rings are never more than the budget,
// but for those on their way when it ends; and as long as it has room they are many.
func TestLimiterKept(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	const perSecond, seconds = 100, 15
	for _, test := range []struct {
		what          string
		subscriptions int
		writes        string // to what stream
	}{
		{"one subscription", 1, "a-1"},
		{"many subscriptions", 20, "a-1"},
		{"one subscription to a silent stream", 1, "a-2"},
		{"many subscriptions to a silent stream", 20, "a-2"},
	} {
		for _, pace := range []int{1, 20, 90, 110, 1000} {
			for _, latency := range []time.Duration{time.Millisecond, 20 * time.Millisecond} {
				t.Run(fmt.Sprintf("%s, %d writes a second, latency %v", test.what, pace, latency), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						ctx, cancel := context.WithCancel(t.Context())
						defer cancel()
						s := simulate(ctx, perSecond, latency)
						var there atomic.Int64
						written, rings := 0, 0
						s.follow(ctx, test.subscriptions, &there)
						for range seconds * pace {
							_ = backoff.Sleep(ctx, time.Second/time.Duration(pace))
							synctest.Wait()
							written++
							if test.writes == "a-1" {
								there.Add(1)
							}
							if s.shared.Load() {
								rings++
								s.onNotification(test.writes)
							}
						}
						t.Logf("%d rings for %d writes", rings, written)
						if most := perSecond*seconds + 3*perSecond; rings > most {
							t.Errorf("%d rings in %d seconds, want %d at most", rings, seconds, most)
						}
						if pace < perSecond/4 && rings < written*9/10 {
							t.Errorf("%d rings for %d writes, which there is room for", rings, written)
						}
					})
				})
			}
		}
	}
}

// TestLimiterAfterABurst has the bell ring again when it is calm, however many
// subscriptions find each message.
func TestLimiterAfterABurst(t *testing.T) {
	t.Parallel()
	for _, subscriptions := range []int{1, 50} {
		t.Run(fmt.Sprintf("%d subscriptions", subscriptions), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s := simulate(ctx, 100, time.Millisecond)
				var there atomic.Int64
				s.follow(ctx, subscriptions, &there)
				write := func(pace, seconds int) (rings int) {
					for range seconds * pace {
						_ = backoff.Sleep(ctx, time.Second/time.Duration(pace))
						synctest.Wait()
						there.Add(1)
						if s.shared.Load() {
							rings++
							s.onNotification("a-1")
						}
					}
					return rings
				}
				write(1000, 5)
				write(3, 10) // to calm down
				if rings := write(3, 60); rings != 180 {
					t.Errorf("%d rings for 180 writes in a minute", rings)
				}
			})
		})
	}
}
