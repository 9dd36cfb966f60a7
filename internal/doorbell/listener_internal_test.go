package doorbell

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestPlan checks which keys the listener gives up and shares, and when it looks again.
func TestPlan(t *testing.T) {
	t.Parallel()
	now := time.Now()
	b := newBell(100)
	b.shards[0].listener.shared = map[string]bool{"armed": true, "cooled": true, "gone": true, "again": true, "off": true}
	for category, r := range map[string]category{
		"armed":  {state: stateArmed},
		"cooled": {state: stateCooling},
		"again":  {state: stateCooling, wanted: true}, // is given up first, then shared again
		"off":    {state: stateOff},
		"wanted": {state: stateCooling, wanted: true},
		"later":  {state: stateCooling, wanted: true, nextTry: now.Add(2 * time.Second)},
		"sooner": {state: stateCooling, wanted: true, nextTry: now.Add(time.Second)},
		"idle":   {state: stateCooling},
		"lost":   {state: stateOff, wanted: true},
	} {
		b.on(category)
		r.name, r.shard, r.placed, r.sleepers = category, b.shards[0], true, b.categories[category].sleepers
		*b.categories[category] = r
	}
	unlock, arm, next := b.shards[0].plan(now)
	slices.Sort(unlock)
	slices.Sort(arm)
	if got, want := strings.Join(unlock, " "), "again cooled gone off"; got != want {
		t.Errorf("keys to give up: got %q, want %q", got, want)
	}
	if got, want := strings.Join(arm, " "), "again wanted"; got != want {
		t.Errorf("keys to share: got %q, want %q", got, want)
	}
	if want := now.Add(time.Second); !next.Equal(want) {
		t.Errorf("time to the next plan: got %v, want %v", next.Sub(now), want.Sub(now))
	}
}

// TestArmed checks what a category does once its key is granted, and that a refused one
// is retried after growing delays.
func TestArmed(t *testing.T) {
	t.Parallel()
	t.Run("granted", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBell(100)
			b.shards[0].listening = true
			s, other := b.on("a-1"), b.on("b-1")
			for want := range int64(3) {
				s.category.state, s.category.wanted = stateCooling, true
				s.BeforeRead()
				// The last subscription to the third one has ended meanwhile.
				b.shards[0].armed([]string{"a", "b", "c"}, []bool{true, true, true})
				if s.category.state != stateArmed || s.category.wanted || s.category.epoch != want+1 || !rung(s) {
					t.Errorf("got category %+v, woken: %v; want it armed for the %d. time, and woken", s.category, rung(s), want+1)
				}
				if s.epoch == s.category.epoch {
					t.Error("a read that began before the key was shared counts as one after it")
				}
				if d, fallback := b.delay(s, time.Hour, 0); d != 0 || fallback {
					t.Errorf("delay before the first read: got %v, %v; want 0, false", d, fallback)
				}
			}
			if other.category.state != stateCooling || rung(other) {
				t.Errorf("category that is not wanted: got state %d, woken: %v", other.category.state, rung(other))
			}
		})
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBell(100)
			b.shards[0].listening = true
			s := b.on("a")
			s.BeforeRead()
			b.delay(s, 100*time.Millisecond, 0)
			if !b.shards[0].woken || !s.category.wanted {
				t.Fatal("an empty read does not ask for the key")
			}
			var retries []time.Duration
			for range 9 {
				b.shards[0].armed([]string{"a"}, []bool{false})
				_, arm, next := b.shards[0].plan(time.Now())
				if len(arm) > 0 {
					t.Fatal("retries without a delay")
				}
				retries = append(retries, time.Until(next))
				<-time.After(time.Until(next))
				if _, arm, _ := b.shards[0].plan(time.Now()); len(arm) != 1 {
					t.Fatal("does not retry after the delay")
				}
			}
			if got, want := fmt.Sprint(retries), "[1ms 2ms 4ms 8ms 16ms 32ms 64ms 100ms 100ms]"; got != want {
				t.Errorf("retries after: got %s, want %s", got, want)
			}
			b.delay(s, time.Hour, 0) // the strategy's delay has grown
			b.shards[0].armed([]string{"a"}, []bool{false})
			if _, _, next := b.shards[0].plan(time.Now()); time.Until(next) != minArmRetry<<9 {
				t.Errorf("next retry after: got %v, want %v", time.Until(next), minArmRetry<<9)
			}
			if rung(s) || s.category.state != stateCooling {
				t.Errorf("after refusals: got state %d, woken: %v; want %d, false", s.category.state, rung(s), stateCooling)
			}
		})
	})
}
