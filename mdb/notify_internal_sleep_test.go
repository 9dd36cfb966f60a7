package mdb

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestNotifyBellRouting(t *testing.T) {
	t.Parallel()
	member := func(member, size int64) readConfig { return readConfig{member: &member, size: &size} }
	b := newBell(1000)
	sleepers := map[string]*bellSleeper{
		"stream":   b.subscribe("a-1", readConfig{}),
		"part":     b.subscribe("a-1+x", readConfig{}),
		"category": b.subscribe("a", readConfig{}),
		"member 0": b.subscribe("a", member(0, 2)),
		"member 1": b.subscribe("a", member(1, 2)),
		"other":    b.subscribe("b", readConfig{}),
	}
	owner := fmt.Sprint("member ", max(Hash64("1"), -Hash64("1"))%2)
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
		b.heard(payload)
		var got []string
		for name, s := range sleepers {
			if rung(s) {
				got = append(got, name)
			}
			s.wake()
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%q wakes %q, want %q", payload, got, want)
		}
	}
}

func TestNotifyHear(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBell(100)
		s, muted := b.subscribe("a", readConfig{}), b.subscribe("m", readConfig{})
		muted.room.offUntil = time.Now().Add(time.Minute)
		expect := func(what string, state, other bellState) {
			t.Helper()
			if s.room.state != state || muted.room.state != other || s.room.wanted || !rung(s) || !rung(muted) {
				t.Errorf("%s: %+v, %+v; woken: %v, %v", what, s.room, muted.room, rung(s), rung(muted))
			}
			s.wake()
			muted.wake()
		}
		b.hear(true)
		expect("the bell hears", stateCooling, stateOff)
		s.room.state = stateArmed
		b.hear(false)
		expect("the connection is lost", stateOff, stateOff)
		if d, fallback := b.delay(s, time.Hour, 0); d != time.Hour || fallback || s.room.wanted {
			t.Errorf("without a connection it sleeps for %v, and is to be armed: %v", d, s.room.wanted)
		}
		<-time.After(2 * time.Minute)
		b.hear(true)
		expect("the bell hears again", stateCooling, stateCooling)
	})
}

// TestNotifySleep keeps a ring that comes while the subscription is not asleep.
func TestNotifySleep(t *testing.T) {
	t.Parallel()
	const long = time.Hour
	for _, test := range []struct {
		name   string
		ring   func(b *bell, when string)
		wakes  bool // early
		armed  bool
		sleeps time.Duration // at most, if it is not woken
	}{
		{"a ring before the read", func(b *bell, when string) {
			if when == "before" {
				b.heard("a-1")
			}
		}, false, true, 4 * time.Second},
		{"a ring during the read", func(b *bell, when string) {
			if when == "read" {
				b.heard("a-1")
			}
		}, true, true, 0},
		{"a ring during the sleep", func(b *bell, when string) {
			if when == "asleep" {
				b.heard("a-1")
			}
		}, true, true, 0},
		{"the connection is lost during the read", func(b *bell, when string) {
			if when == "read" {
				b.hear(false)
			}
		}, true, true, 0},
		{"the connection is lost during the sleep", func(b *bell, when string) {
			if when == "asleep" {
				b.hear(false)
			}
		}, true, true, 0},
		{"cooled during the read", func(b *bell, when string) {
			if when == "read" {
				b.cool(time.Now())
			}
		}, true, true, 0},
		{"cooled during the sleep", func(b *bell, when string) {
			if when == "asleep" {
				b.cool(time.Now())
			}
		}, true, true, 0},
		{"armed during the read", func(b *bell, when string) {
			if when == "read" {
				b.rooms["a"].wanted = true
				b.armed([]string{"a"}, []bool{true})
			}
		}, true, false, 0},
		{"written by the store itself, when armed", func(b *bell, when string) {
			if when == "read" {
				b.wrote("a-1")
			}
		}, false, true, 4 * time.Second},
		{"written by the store itself, when off", func(b *bell, when string) {
			if when == "before" {
				b.hear(false)
			}
			if when == "read" {
				b.wrote("a-1")
			}
		}, true, true, 0},
		{"written by the store itself, when cooling", func(b *bell, when string) {
			if when == "read" {
				b.wrote("a-1")
			}
		}, false, false, minCoolInterval},
		{"nothing, when off", func(b *bell, when string) {
			if when == "before" {
				b.hear(false)
			}
		}, false, true, long},
		{"nothing, when cooling", func(*bell, string) {}, false, false, minCoolInterval},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBell(100)
				s := b.subscribe("a-1", readConfig{})
				b.hear(true)
				if test.armed {
					settle(b, s)
				}
				test.ring(b, "before")
				s.wake()
				test.ring(b, "read")
				begun := time.Now()
				done := make(chan struct{})
				go func() {
					defer close(done)
					_ = s.sleep(t.Context(), long, 0, nil, nil)
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
			s := b.subscribe("a-1", readConfig{})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begun := time.Now()
			s.wake()
			_ = s.sleep(ctx, long, 0, nil, nil)
			if slept := time.Since(begun); slept != time.Second {
				t.Errorf("slept for %v", slept)
			}
		})
	})
}
