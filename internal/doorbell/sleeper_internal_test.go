package doorbell

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/messagedb-go/messagedb/internal/names"
)

func TestBellRouting(t *testing.T) {
	t.Parallel()
	b := newBell(1000)
	sleepers := map[string]*Sleeper{
		"stream":   b.on("a-1"),
		"part":     b.on("a-1+x"),
		"category": b.on("a"),
		"member 0": b.Subscribe(Interest{Category: "a", Member: 0, Size: 2}),
		"member 1": b.Subscribe(Interest{Category: "a", Member: 1, Size: 2}),
		"other":    b.on("b"),
	}
	owner := fmt.Sprint("member ", max(names.Hash64("1"), -names.Hash64("1"))%2)
	for payload, want := range map[string][]string{
		"a-1":      {"stream", "category", owner},
		"a-1+x":    {"part", "category", owner}, // they have one cardinal id
		"a-1+y":    {"category", owner},
		"a":        {"category"},
		"a-":       {"category"},
		"b-1":      {"other"},
		"c-1":      {},
		"-":        {},
		"A-1":      {},
		"a1-1":     {},
		"":         {"stream", "part", "category", "member 0", "member 1", "other"},
		"\x00\xff": {},
	} {
		b.onNotification(payload)
		var got []string
		for name, s := range sleepers {
			if rung(s) {
				got = append(got, name)
			}
			s.BeforeRead()
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%q wakes %q, want %q", payload, got, want)
		}
	}
}

func TestHear(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBell(100)
		s, muted := b.on("a"), b.on("m")
		muted.category.offUntil = time.Now().Add(time.Minute)
		expect := func(what string, state, other state) {
			t.Helper()
			if s.category.state != state || muted.category.state != other || s.category.wanted || !rung(s) || !rung(muted) {
				t.Errorf("%s: %+v, %+v; woken: %v, %v", what, s.category, muted.category, rung(s), rung(muted))
			}
			s.BeforeRead()
			muted.BeforeRead()
		}
		b.setListening(true)
		expect("the bell hears", stateCooling, stateOff)
		s.category.state = stateArmed
		b.setListening(false)
		expect("the connection is lost", stateOff, stateOff)
		if d, fallback := b.delay(s, time.Hour, 0); d != time.Hour || fallback || s.category.wanted {
			t.Errorf("without a connection it sleeps for %v, and is to be armed: %v", d, s.category.wanted)
		}
		<-time.After(2 * time.Minute)
		b.setListening(true)
		expect("the bell hears again", stateCooling, stateCooling)
	})
}

// TestSleep checks that a ring is kept that comes while the subscription is not asleep.
func TestSleep(t *testing.T) {
	t.Parallel()
	const long = time.Hour
	for _, test := range []struct {
		name   string
		ring   func(b *Bell, when string)
		wakes  bool // early
		armed  bool
		sleeps time.Duration // at most, if it is not woken
	}{
		{"a ring before the read", func(b *Bell, when string) {
			if when == "before" {
				b.onNotification("a-1")
			}
		}, false, true, 4 * time.Second},
		{"a ring during the read", func(b *Bell, when string) {
			if when == "read" {
				b.onNotification("a-1")
			}
		}, true, true, 0},
		{"a ring during the sleep", func(b *Bell, when string) {
			if when == "asleep" {
				b.onNotification("a-1")
			}
		}, true, true, 0},
		{"the connection is lost during the read", func(b *Bell, when string) {
			if when == "read" {
				b.setListening(false)
			}
		}, true, true, 0},
		{"the connection is lost during the sleep", func(b *Bell, when string) {
			if when == "asleep" {
				b.setListening(false)
			}
		}, true, true, 0},
		{"cooled during the read", func(b *Bell, when string) {
			if when == "read" {
				b.cool(time.Now())
			}
		}, true, true, 0},
		{"cooled during the sleep", func(b *Bell, when string) {
			if when == "asleep" {
				b.cool(time.Now())
			}
		}, true, true, 0},
		{"armed during the read", func(b *Bell, when string) {
			if when == "read" {
				b.categories["a"].wanted = true
				b.armed([]string{"a"}, []bool{true})
			}
		}, true, false, 0},
		{"written by the store itself, when armed", func(b *Bell, when string) {
			if when == "read" {
				b.Wrote("a-1")
			}
		}, false, true, 4 * time.Second},
		{"written by the store itself, when off", func(b *Bell, when string) {
			if when == "before" {
				b.setListening(false)
			}
			if when == "read" {
				b.Wrote("a-1")
			}
		}, true, true, 0},
		{"written by the store itself, when cooling", func(b *Bell, when string) {
			if when == "read" {
				b.Wrote("a-1")
			}
		}, false, false, minCoolInterval},
		{"nothing, when off", func(b *Bell, when string) {
			if when == "before" {
				b.setListening(false)
			}
		}, false, true, long},
		{"nothing, when cooling", func(*Bell, string) {}, false, false, minCoolInterval},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBell(100)
				s := b.on("a-1")
				b.setListening(true)
				if test.armed {
					settle(b, s)
				}
				test.ring(b, "before")
				s.BeforeRead()
				test.ring(b, "read")
				begun := time.Now()
				done := make(chan struct{})
				go func() {
					defer close(done)
					_ = s.Sleep(t.Context(), long, 0, nil, nil)
				}()
				synctest.Wait()
				test.ring(b, "asleep")
				<-done
				slept := time.Since(begun)
				if test.wakes && slept != 0 || !test.wakes && (slept < test.sleeps*3/4 || slept > test.sleeps) {
					t.Errorf("slept for %v; want to be woken: %v, or else for %v", slept, test.wakes, test.sleeps)
				}
			})
		})
	}
	t.Run("the context ends", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBell(100)
			s := b.on("a-1")
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begun := time.Now()
			s.BeforeRead()
			_ = s.Sleep(ctx, long, 0, nil, nil)
			if slept := time.Since(begun); slept != time.Second {
				t.Errorf("slept for %v", slept)
			}
		})
	})
}
