package consumer

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
)

// named gives a process an instance, by which it is in the log.
func named(name string) clerkOption {
	return func(mc *memberConfig, _ *engineConfig) { mc.join.Instance = name }
}

// A handover is what has happened until the first handler of the process that gets partitions was called.
type handover struct {
	log   []string
	trips int // of its reader
}

// noteFirst returns a handler whose first call after begin notes what has happened since.
func noteFirst(h *hall, c **clerk, begun *atomic.Bool, got *handover) func(context.Context, mdb.Message) error {
	return func(context.Context, mdb.Message) error {
		if begun.CompareAndSwap(true, false) {
			h.set(func() { got.log = slices.Clone(h.log) })
			(*c).shelf.mu.Lock()
			got.trips = (*c).shelf.trips
			(*c).shelf.mu.Unlock()
		}
		return nil
	}
}

// TestMemberHandoverOnLeave checks how many round trips there are between the last handler of a process that leaves and the first one
// of the process that gets its partitions: one to leave, one to claim, and one to read.
func TestMemberHandoverOnLeave(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const partitions = 4
		h := newHall(t, partitions)
		var begun atomic.Bool
		var got handover
		var b *clerk
		first := letters(t, 40, partitions)
		a := hire(t, h, first, nil, named("a"))
		h.mu.Lock() // so that b does not join before it listens
		b = hire(t, h, first, noteFirst(h, &b, &begun, &got), named("b"))
		h.rings = append(h.rings, a.ring, b.ring)
		h.mu.Unlock()
		pass(5 * time.Second)
		if got := h.owned(); !slices.Equal(got, []int{2, 2}) {
			t.Fatalf("got %v", got)
		}
		write(4, partitions, b) // a does not see them, so that they are left for b
		pass(1100 * time.Millisecond)
		h.set(func() { h.log = nil })
		b.shelf.mu.Lock()
		b.shelf.trips = 0
		b.shelf.mu.Unlock()
		begun.Store(true)
		a.cancel(errClosing)
		synctest.Wait()
		if want := []string{"a leave", "b balance"}; !slices.Equal(got.log, want) || got.trips != 1 {
			t.Errorf("got the statements %q and %d round trips of the reader before the first handler, want %q and 1", got.log, got.trips, want)
		}
		if got := b.take(); !slices.Equal(got[len(got)-4:], []int64{41, 42, 43, 44}) {
			t.Errorf("got %v handled by the other process", got)
		}
	})
}

// TestMemberHandoverOnJoin checks the same for partitions that a process gives to one that joins: one round trip to release, one to
// claim, and one to read.
func TestMemberHandoverOnJoin(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const partitions = 4
		h := newHall(t, partitions)
		var begun atomic.Bool
		var got handover
		var b *clerk
		first := letters(t, 40, partitions)
		a := hire(t, h, first, nil, named("a"))
		a.listen()
		pass(5*time.Second + 100*time.Millisecond)
		h.mu.Lock()
		b = hire(t, h, letters(t, 44, partitions), noteFirst(h, &b, &begun, &got), named("b"))
		h.rings = append(h.rings, b.ring)
		h.log = nil
		h.mu.Unlock()
		begun.Store(true)
		synctest.Wait()
		released := slices.Index(got.log, "a release")
		if released < 1 {
			t.Fatalf("got the statements %q", got.log)
		}
		var before, after []string
		for i, statement := range got.log {
			switch statement[:1] {
			case "a":
				if i <= released {
					before = append(before, statement)
				}
			case "b":
				if i > released {
					after = append(after, statement)
				}
			}
		}
		if want := []string{"a balance", "a release"}; !slices.Equal(before, want) {
			t.Errorf("the process that gives them away has sent %q, want %q", before, want)
		}
		if !slices.Contains(got.log[:released], "b balance") {
			// The one that follows its join gets them then, and the notification asks for another one.
			after = slices.Compact(after)
		}
		if want := []string{"b balance"}; !slices.Equal(after, want) || got.trips != 1 {
			t.Errorf("the process that gets them has sent %q and %d reads, want %q and 1", after, got.trips, want)
		}
	})
}

// TestMemberTicksOnceAfterNotifications checks that several notifications cause several balances, but one tick.
func TestMemberTicksOnceAfterNotifications(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 4)
		a := hire(t, h, letters(t, 40, 4), nil)
		a.listen()
		pass(6*time.Second + 10*time.Millisecond)
		h.set(func() { clear(h.calls) })
		for range 5 {
			h.set(h.ring)
			synctest.Wait()
		}
		if n := h.count("beat"); n != 0 || h.count("balance") != 5 {
			t.Errorf("got %d ticks before the balances", n)
		}
		pass(newsDelay)
		if n := h.count("beat"); n != 1 || h.count("balance") != 0 {
			t.Errorf("got %d ticks after 5 notifications, want 1 and no balance", n)
		}
	})
}

// TestMemberBalancesInAnotherHistory checks that a member which learns by a balance that history is another one forgets what it knows
// before it applies what it has got.
func TestMemberBalancesInAnotherHistory(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 1)
		c := hire(t, h, letters(t, 40, 1), nil)
		pass(5*time.Second + 10*time.Millisecond)
		c.take()
		h.set(func() {
			h.timeline = "00000002"
			for _, row := range h.rows {
				h.epochs++
				row.position, row.epoch = 30, h.epochs
			}
		})
		c.ring()
		synctest.Wait()
		if got := c.take(); len(got) != 10 || got[0] != 31 {
			t.Errorf("got %v handled again, want 31 to 40", got)
		}
		if n := c.counts.rewound.Load(); n != 1 {
			t.Errorf("got %d checkpoints that have gone back, want 1", n)
		}
	})
}

// TestMemberLeavesAfterDoubt checks that a process stores what it has handled although its first attempt to leave has no answer,
// whether or not the server has executed it.
func TestMemberLeavesAfterDoubt(t *testing.T) {
	for name, executed := range map[string]bool{"not executed": false, "executed": true} {
		inSubBubble(t, name, func(t *testing.T) {
			h := newHall(t, 2)
			c := hire(t, h, letters(t, 20, 2), nil)
			pass(5*time.Second + 10*time.Millisecond)
			write(2, 2, c)
			synctest.Wait() // handled, and not stored
			attempts := 0
			fail := func(statement string) error {
				h.mu.Lock()
				defer h.mu.Unlock()
				if statement != "leave" {
					return nil
				}
				if attempts++; attempts > 1 {
					return nil
				}
				h.session++
				return errNoAnswer
			}
			h.set(func() {
				if executed {
					h.after = fail
				} else {
					h.before = fail
				}
				h.log = nil
			})
			c.cancel(errClosing)
			if err := c.wait(); !errors.Is(err, errClosing) {
				t.Error(err)
			}
			if got := h.positions(); !slices.Equal(got, []int64{22, 22}) || h.size() != 0 || attempts != 2 {
				t.Errorf("got the checkpoints %v, %d members and %d attempts, want the end, none and 2", got, h.size(), attempts)
			}
		})
	}
}

// TestMemberLeavesOnOtherConnections checks what a process stores that can leave only by a new connection: everything if the history is
// the same, also after two attempts to connect, and nothing if the server does not say which history it has.
func TestMemberLeavesOnOtherConnections(t *testing.T) {
	for name, test := range map[string]struct {
		connects  int // attempts that fail
		beats     bool
		positions []int64
	}{
		"at the third attempt":  {2, true, []int64{22, 22}},
		"an unknown history":    {0, false, []int64{20, 20}},
		"the same, immediately": {0, true, []int64{22, 22}},
	} {
		inSubBubble(t, name, func(t *testing.T) {
			h := newHall(t, 2)
			var failures atomic.Int64
			c := hire(t, h, letters(t, 20, 2), nil, func(mc *memberConfig, _ *engineConfig) {
				do := mc.do
				mc.do = func(ctx context.Context, f func(int64, protocol) error) (int64, error) {
					if failures.Add(-1) >= 0 {
						return 0, errNoAnswer
					}
					return do(ctx, f)
				}
			})
			pass(5*time.Second + 10*time.Millisecond)
			write(2, 2, c)
			synctest.Wait() // handled, and not stored
			h.set(func() {
				h.session++
				h.before = func(statement string) error {
					if statement == "beat" && !test.beats {
						return errNoAnswer
					}
					return nil
				}
			})
			failures.Store(int64(test.connects))
			c.cancel(errClosing)
			if err := c.wait(); !errors.Is(err, errClosing) {
				t.Error(err)
			}
			if got := h.positions(); !slices.Equal(got, test.positions) || h.size() != 0 {
				t.Errorf("got the checkpoints %v and %d members, want %v and none", got, h.size(), test.positions)
			}
		})
	}
}
