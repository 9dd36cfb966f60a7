package doorbell

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/messagedb-go/messagedb/internal/trigger"
)

// TestForgiven checks that a category which was disabled while the trigger was missing is armed
// as soon as the trigger is back.
func TestForgiven(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, db *database) {
		b := db.bell(nil)
		b.config.Fallback = 5 * time.Second
		a := subscribe(t, b, "a")
		pass(time.Second)
		db.set(func() { db.missing = true })
		for range 2 {
			a.reads <- 1
			pass(b.config.Fallback + latestRing)
		}
		wantStats(t, "disabled", b, Stats{Off: 1})
		db.set(func() { db.missing = false })
		db.notify(trigger.Changed)
		pass(2 * time.Second)
		wantStats(t, "the trigger is back", b, Stats{Listening: true, Armed: 1})
		a.stop()
	})
}

// TestCooledAndWanted checks that a category that is wanted again soon after it was cooled
// gives its key up before it shares it again.
func TestCooledAndWanted(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, db *database) {
		db.latency = time.Millisecond // the listener is busy while the category changes
		b := db.bell(nil)
		a, other := subscribe(t, b, "a"), subscribe(t, b, "b")
		pass(time.Second)
		wantStats(t, "at first", b, Stats{Listening: true, Armed: 2})
		b.mu.Lock()
		c := b.categories["a"]
		c.state, c.wanted, c.nextTry = stateCooling, true, time.Now()
		b.shards[0].wake()
		b.mu.Unlock()
		pass(time.Second)
		wantStats(t, "wanted again", b, Stats{Listening: true, Armed: 2})
		if n := db.counts().connects; n != 1 { // the model's connection ends if a key is shared twice
			t.Errorf("got %d connections, want 1", n)
		}
		a.stop()
		other.stop()
	})
}

// TestPayloadsWithoutStream checks that payloads that name no stream, such as probes of other
// stores, count as no notification.
func TestPayloadsWithoutStream(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, db *database) {
		b := db.bell(nil)
		a := subscribe(t, b, "a")
		pass(time.Second)
		before := b.Stats().Notifications
		db.notify(probePrefix + "of another store")
		db.notify(trigger.NoStream)
		pass(time.Second)
		if n := b.Stats().Notifications - before; n != 0 {
			t.Errorf("got %d notifications, want none", n)
		}
		a.stop()
	})
}

// TestShortSessions checks that sessions which end soon after they were proved count as
// failures to connect: the delays grow, and there is one warning.
func TestShortSessions(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, db *database) {
		var log strings.Builder
		b := db.bell(&log)
		connect := b.shards[0].connect
		b.shards[0].connect = func(ctx context.Context) (server, error) {
			s, err := connect(ctx)
			time.AfterFunc(lastingSession/2, func() { close(s.(*fakeConn).killed) })
			return s, err
		}
		a := subscribe(t, b, "a")
		pass(10 * time.Minute)
		if n := db.counts().connects; n < 40 || n > 120 {
			t.Errorf("got %d connections, want about one in ten seconds", n)
		}
		if n := strings.Count(log.String(), saysOff); n != 1 {
			t.Errorf("got %d warnings, want 1", n)
		}
		a.stop()
		pass(time.Second)
	})
}

// TestCeilingEnds checks that once a bell has as many keys again as the table allows, the
// ceiling no longer limits it.
func TestCeilingEnds(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var r room
	r.update(lockTable{capacity: 80}, 0, now, time.Minute)
	r.full(20, now, time.Minute)
	for range 4 {
		now = now.Add(2 * time.Minute)
		r.update(lockTable{capacity: 80}, 0, now, time.Minute)
	}
	r.update(lockTable{capacity: 8000}, 0, now, time.Minute)
	if got := r.bound(); got != 2000 {
		t.Errorf("got a bound of %d in a larger table, want 2000", got)
	}
}

// TestWarnsAgain checks that a bell warns again of too many categories when the size of the
// lock table has changed, and not otherwise.
func TestWarnsAgain(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, db *database) {
		db.capacity = 400
		var log strings.Builder
		b := db.bell(&log)
		loops := subscribeAll(t, b, "a", 250)
		warnings := func(what string, want int) {
			t.Helper()
			pass(5 * b.config.Recheck)
			if n := strings.Count(log.String(), saysTooMany); n != want {
				t.Errorf("%s: got %d warnings, want %d", what, n, want)
			}
		}
		warnings("too small", 1)
		db.set(func() { db.capacity = 480 })
		warnings("still too small", 2)
		stopAll(loops)
	})
}

// TestSettledAfterRead checks that a category is not settled between the wake-up after it was
// armed and the read.
func TestSettledAfterRead(t *testing.T) {
	t.Parallel()
	b := newBell(100)
	s := b.on("a")
	b.shards[0].setListening(true)
	s.BeforeRead()
	s.category.wanted = true
	b.shards[0].armed([]string{"a"}, []bool{true})
	<-s.rung
	if b.Settled() {
		t.Error("settled before the read")
	}
	s.BeforeRead()
	if !b.Settled() {
		t.Error("not settled after the read")
	}
}

// TestOwnRings checks that a store whose own categories use up the limit does not arm silent
// ones, also if the notifications have no name.
func TestOwnRings(t *testing.T) {
	t.Parallel()
	for payload, want := range map[string]bool{"busy-1": false, "": false, "foreign-1": true} {
		synctest.Test(t, func(t *testing.T) {
			b := newBell(100)
			busy, silent := b.on("busy"), b.on("silent")
			settle(b, busy)
			for range 200 {
				b.shards[0].onNotification(payload)
			}
			pass(time.Second / 2) // takes the notifications' rate of silent below one
			silent.category.rate = rate{}
			silent.BeforeRead()
			if b.delay(silent, time.Second, 0); silent.category.wanted != want {
				t.Errorf("payload %q: a silent category is to be armed: got %v, want %v", payload, silent.category.wanted, want)
			}
		})
	}
}

// TestNamelessRingsAreShared checks that a notification without a name counts once for all
// categories together.
func TestNamelessRingsAreShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBell(100)
		one, two := b.on("a"), b.on("b")
		settle(b, one, two)
		for range 8 {
			b.shards[0].onNotification("")
		}
		now := time.Now()
		if got := one.category.rate.at(now) + two.category.rate.at(now); got != 8 {
			t.Errorf("got a rate of %v, want 8", got)
		}
	})
}

// TestRetriesBeginAgain checks that a category that is wanted again is soon retried after a
// writer had its key, however often that happened before.
func TestRetriesBeginAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBell(100)
		s := b.on("a")
		b.shards[0].setListening(true)
		c := s.category
		refuse := func(times int) time.Duration {
			s.BeforeRead()
			b.delay(s, time.Second, 0)
			if !c.wanted {
				t.Fatal("not wanted")
			}
			for range times {
				b.shards[0].armed([]string{"a"}, []bool{false})
			}
			return time.Until(c.nextTry)
		}
		if got := refuse(8); got <= minArmRetry {
			t.Errorf("got a retry after %v, want growing delays", got)
		}
		b.shards[0].armed([]string{"a"}, []bool{true})
		b.shards[0].setListening(true) // cooling again
		if got := refuse(1); got != minArmRetry {
			t.Errorf("wanted again: got a retry after %v, want %v", got, minArmRetry)
		}
	})
}

// TestRingEndsFallback checks that a sleep that a ring ended is not taken for one that ended
// without, because an earlier one did.
func TestRingEndsFallback(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBell(100)
		s := b.on("a")
		settle(b, s)
		c := clocked{s, t}
		c.fallBack(0, nil)
		time.AfterFunc(time.Second, func() { b.shards[0].onNotification("a-1") })
		_ = s.Sleep(t.Context(), time.Hour, 0, nil, nil)
		c.read(1, nil) // the message of the ring
		c.read(0, nil)
		c.fallBack(1, nil) // one that overtakes its ring
		if s.category.state != stateArmed {
			t.Errorf("got category %+v, want it to be armed", s.category)
		}
	})
}
