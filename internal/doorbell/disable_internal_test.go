package doorbell

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// A clocked subscription takes the steps that the test calls for.
type clocked struct {
	*Sleeper
	t *testing.T
}

// fallBack sleeps until the fallback, then reads the given number of messages. It calls
// ring, if it is not nil, while it reads.
func (c clocked) fallBack(found int, ring func()) {
	c.t.Helper()
	if _ = c.Sleep(c.t.Context(), time.Hour, 0, nil, nil); !c.fellBack {
		c.t.Fatal("woken by something other than the fallback")
	}
	c.read(found, ring)
}

// read reads, and then computes the delay, which is where missing rings are noticed.
func (c clocked) read(found int, ring func()) {
	c.BeforeRead()
	if ring != nil {
		ring()
	}
	c.bell.delay(c.Sleeper, time.Hour, found)
}

// TestBroken checks that a category is disabled if its messages arrive without a ring,
// and not if a ring is merely late.
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
				b.shards[0].onNotification("a-1")
				one.read(0, nil)
			}
		}, false},
		{"reads of two subscriptions that overtook the same ring", func(b *Bell, one, two clocked) {
			one.fallBack(1, nil)
			two.fellBack = true
			two.read(1, nil)
			b.shards[0].onNotification("a-1")
		}, false},
		{"reads that overtook rings without a name", func(b *Bell, one, _ clocked) {
			for range 10 {
				one.fallBack(1, nil)
				b.shards[0].onNotification("")
				one.read(0, nil)
			}
		}, false},
		{"a read that overtook its ring, on each side of another key", func(b *Bell, one, two clocked) {
			one.fallBack(1, nil)
			b.mu.Lock()
			b.categories["a"].rate.add(time.Now(), 1)
			b.shards[0].cool(time.Now())
			b.mu.Unlock()
			settle(b, one.Sleeper, two.Sleeper)
			<-time.After(latestRing + 1)
			one.fallBack(1, nil)
		}, false},
		{"a ring during the read, and then a read that overtook its ring", func(b *Bell, one, _ clocked) {
			for range 10 {
				one.fallBack(1, func() { b.shards[0].onNotification("a-1") })
				one.read(0, nil)
				one.fallBack(1, nil)
				b.shards[0].onNotification("a-1")
				one.read(0, nil)
			}
		}, false},
		{"a ring at the same time as the fallback, and then a read that overtook its ring", func(b *Bell, one, _ clocked) {
			for range 10 {
				_ = one.Sleep(one.t.Context(), time.Hour, 0, nil, nil)
				b.shards[0].onNotification("a-1")
				one.read(1, nil)
				one.read(0, nil)
				one.fallBack(1, nil)
				b.shards[0].onNotification("a-1")
				one.read(0, nil)
			}
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBell(100)
				one, two := b.on("a-1"), b.on("a-1")
				settle(b, one)
				two.BeforeRead()
				test.do(b, clocked{one, t}, clocked{two, t})
				if broken := one.category.state == stateOff; broken != test.broken || broken != slices.Equal(b.shards[0].unrung, []string{"a"}) {
					t.Errorf("disabled: got %v, and %q to tell the listener; want %v", broken, b.shards[0].unrung, test.broken)
				}
				if !test.broken {
					return
				}
				if !rung(one) || !rung(two) || !b.shards[0].woken {
					t.Errorf("woken subscriptions: %v and %v, listener: %v; want all of them", rung(one), rung(two), b.shards[0].woken)
				}
				one.BeforeRead()
				if d, fallback := b.delay(one, time.Second, 0); d != time.Second || fallback {
					t.Errorf("delay: got %v, %v; want the strategy's, %v", d, fallback, time.Second)
				}
				<-time.After(b.config.Recheck + 1)
				b.delay(one, time.Second, 0)
				if one.category.state != stateCooling || !one.category.wanted {
					t.Errorf("after Recheck: got category %+v, want it to be armed again", one.category)
				}
			})
		})
	}
}
