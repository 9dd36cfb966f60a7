package doorbell

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A clocked subscription is stepped by the test.
type clocked struct {
	*Sleeper
	t *testing.T
}

// fallBack sleeps until the fallback, and reads so many messages. Where the ring for
// them comes, if one does, the test says.
func (c clocked) fallBack(found int, ring func()) {
	c.t.Helper()
	if _ = c.Sleep(c.t.Context(), time.Hour, 0, nil, nil); !c.fellBack {
		c.t.Fatal("it was woken by something else than the fallback")
	}
	c.read(found, ring)
}

// read reads, and is asked for how long to sleep.
func (c clocked) read(found int, ring func()) {
	c.BeforeRead()
	if ring != nil {
		ring()
	}
	c.bell.delay(c.Sleeper, time.Hour, found)
}

// TestNotifyBroken tells a bell that does not ring from a ring that is late.
func TestBroken(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		do     func(b *Bell, one, two clocked)
		broken bool
	}{
		{"no ring for two messages", func(_ *Bell, one, _ clocked) {
			one.fallBack(1, nil)
			one.read(0, nil)
			one.fallBack(1, nil)
		}, true},
		{"no ring for the messages of two subscriptions, one after the other", func(_ *Bell, one, two clocked) {
			one.fallBack(1, nil)
			one.read(0, nil)
			<-time.After(3 * time.Second)
			two.fallBack(1, nil)
		}, true},
		{"nothing to ring for", func(_ *Bell, one, two clocked) {
			for range 10 {
				one.fallBack(0, nil)
				two.fallBack(0, nil)
			}
		}, false},
		{"a read that overtook its ring", func(b *Bell, one, _ clocked) {
			for range 10 {
				one.fallBack(1, nil)
				b.onNotification("a-1")
				one.read(0, nil)
			}
		}, false},
		{"two subscriptions at once that overtook the ring", func(b *Bell, one, two clocked) {
			one.fallBack(1, nil)
			two.fellBack = true
			two.read(1, nil)
			b.onNotification("a-1")
		}, false},
		{"a ring during the read, and then a read that overtook its ring", func(b *Bell, one, _ clocked) {
			for range 10 {
				one.fallBack(1, func() { b.onNotification("a-1") })
				one.read(0, nil)
				one.fallBack(1, nil)
				b.onNotification("a-1")
				one.read(0, nil)
			}
		}, false},
		{"a ring at the same time as the fallback, and then a read that overtook its ring", func(b *Bell, one, _ clocked) {
			for range 10 {
				_ = one.Sleep(one.t.Context(), time.Hour, 0, nil, nil)
				b.onNotification("a-1")
				one.read(1, nil)
				one.read(0, nil)
				one.fallBack(1, nil)
				b.onNotification("a-1")
				one.read(0, nil)
			}
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				b := newBell(100)
				b.config.Logger = slog.New(slog.NewTextHandler(&log, nil))
				one, two := b.on("a-1"), b.on("a-1")
				settle(b, one)
				two.BeforeRead()
				test.do(b, clocked{one, t}, clocked{two, t})
				said := strings.Count(log.String(), "messages arrive without a notification")
				if broken := one.category.state == stateOff; broken != test.broken || broken != (said == 1) {
					t.Errorf("broken: %v, want %v; log: %s", broken, test.broken, log.String())
				}
				if !test.broken {
					return
				}
				if !rung(one) || !rung(two) || !b.woken {
					t.Error("somebody sleeps on, or the key is not given up")
				}
				one.BeforeRead()
				if d, fallback := b.delay(one, time.Second, 0); d != time.Second || fallback {
					t.Errorf("sleeps for %v, want to poll", d)
				}
				<-time.After(b.config.Recheck + 1)
				b.delay(one, time.Second, 0)
				if one.category.state != stateCooling || !one.category.wanted {
					t.Errorf("after a while the room is %+v, want it to be armed again", one.category)
				}
			})
		})
	}
}
