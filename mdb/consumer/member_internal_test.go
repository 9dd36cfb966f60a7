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

// TestMemberAlone checks that one process handles everything once, stores it, and leaves.
func TestMemberAlone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 8)
		c := hire(t, h, letters(t, 100, 8), nil)
		pass(3 * time.Second)
		if got := c.take(); !slices.Equal(got, upTo(100)) {
			t.Errorf("got %v", got)
		}
		if got := h.positions(); got[0] != 100 {
			t.Errorf("got the checkpoints %v, want the end", got)
		}
		c.cancel(errClosing)
		if err := c.wait(); !errors.Is(err, errClosing) {
			t.Errorf("got %v, want the cause", err)
		}
		if h.size() != 0 || !slices.Equal(h.owned(), []int{8}) {
			t.Errorf("got %d members, and partitions of %v, want none", h.size(), h.owned())
		}
	})
}

// TestMemberIdle checks that a process without anything to do sends a tick in a fifth of the
// lease, and nothing else.
func TestMemberIdle(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 8)
		hire(t, h, letters(t, 10, 8), nil)
		pass(10 * time.Second)
		h.set(func() { clear(h.calls) })
		pass(time.Minute)
		n := h.count("beat")
		h.set(func() {
			if n != 30 || len(h.calls) != 0 {
				t.Errorf("got %d ticks and %v, want 30 ticks", n, h.calls)
			}
		})
	})
}

// TestMemberShares checks that processes share the partitions equally, that one which is added
// and one which leaves move as few as possible, and that each message is handled once, with
// and without notifications.
func TestMemberShares(t *testing.T) {
	for _, listens := range []bool{true, false} {
		t.Run(map[bool]string{true: "with notifications", false: "without"}[listens], func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				const partitions = 16
				h := newHall(t, partitions)
				first := letters(t, 160, partitions)
				a := hire(t, h, first, nil)
				pass(3 * time.Second)
				b := hire(t, h, first, nil)
				settle := 10 * time.Second
				if listens {
					a.listen()
					b.listen()
				}
				pass(settle)
				if got := h.owned(); !slices.Equal(got, []int{8, 8}) {
					t.Fatalf("got %v partitions for two processes, want 8 each", got)
				}
				if got := a.take(); !slices.Equal(got, upTo(160)) || len(b.take()) != 0 {
					t.Errorf("got %v handled before, want each once, by the first process", got)
				}
				write(160, partitions, a, b)
				pass(3 * time.Second)
				x, y := a.take(), b.take()
				if len(x) != 80 || len(y) != 80 {
					t.Errorf("got %d and %d, want 80 each", len(x), len(y))
				}
				releases := h.count("release")
				b.cancel(errClosing)
				b.wait()
				pass(settle)
				write(16, partitions, a)
				pass(3 * time.Second)
				if got := a.take(); len(got) != 16 || !slices.Equal(h.owned(), []int{16}) {
					t.Errorf("got %d of 16 after the other process has left", len(got))
				}
				if releases == 0 || h.count("release") != 0 || a.counts.losses.Load() != 0 {
					t.Errorf("got %d releases, and losses %d", releases, a.counts.losses.Load())
				}
			})
		})
	}
}

// TestMemberSurrenders checks that a process which is to give partitions away finishes the
// messages that its handlers have, begins no others, and gives them away only then.
func TestMemberSurrenders(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		release := make(chan struct{})
		a := hire(t, h, letters(t, 20, 2), func(context.Context, mdb.Message) error {
			<-release
			return nil
		})
		pass(time.Second)
		b := hire(t, h, letters(t, 20, 2), nil)
		pass(time.Minute)
		if got := h.owned(); !slices.Equal(got, []int{2}) || len(b.take()) != 0 {
			t.Errorf("got %v partitions each, while the handlers have messages of both", got)
		}
		if got := a.take(); len(got) != 2 {
			t.Errorf("got %v in handlers, want one of each partition", got)
		}
		close(release)
		pass(10 * time.Second)
		if got := h.owned(); !slices.Equal(got, []int{1, 1}) {
			t.Errorf("got %v", got)
		}
		x, y := a.take(), b.take()
		if len(x) != 9 || len(y) != 9 {
			t.Errorf("got %v and %v, want the 9 others of each partition, once", x, y)
		}
	})
}

// TestMemberReleasesLocked checks that a process which could not release a partition, because a statement had locked its checkpoint,
// has it again only by a new epoch: the statement may have parked something.
func TestMemberReleasesLocked(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		hire(t, h, letters(t, 20, 2), nil)
		pass(10 * time.Second)
		lock := func(locked bool) {
			h.set(func() {
				for p := range h.rows {
					h.locked[p] = locked
				}
			})
		}
		lock(true)
		var epochs []int64 // the highest one, at each release
		h.set(func() {
			h.before = func(statement string) error {
				if statement == "release" {
					h.set(func() {
						highest := int64(0)
						for _, row := range h.rows {
							highest = max(highest, row.epoch)
						}
						epochs = append(epochs, highest)
					})
				}
				return nil
			}
		})
		hire(t, h, letters(t, 20, 2), nil)
		pass(5 * time.Second)
		if got := h.owned(); !slices.Equal(got, []int{2}) {
			t.Errorf("got %v partitions each while the checkpoints are locked", got)
		}
		lock(false)
		pass(20 * time.Second)
		if got := h.owned(); !slices.Equal(got, []int{1, 1}) {
			t.Errorf("got %v partitions each", got)
		}
		if n := len(epochs); n < 2 || epochs[n-1] == epochs[0] {
			t.Errorf("got releases by the epochs %d, want the last one by a new epoch", epochs)
		}
	})
}

// TestMemberDeadline checks that handlers' contexts end four fifths of a lease after the last
// tick with an answer was sent, however late the answer was, and that none begins later. When
// the server answers again, the process goes on as the same member, with what is stored.
func TestMemberDeadline(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 4)
		var begun []time.Time
		ended := make(map[error]time.Time)
		var fast atomic.Bool
		c := hire(t, h, nil, func(ctx context.Context, m mdb.Message) error {
			h.set(func() { begun = append(begun, time.Now()) })
			if m.GlobalPosition > 1 {
				return nil
			}
			if fast.Load() {
				return nil
			}
			<-ctx.Done()
			h.set(func() { ended[context.Cause(ctx)] = time.Now() })
			return ctx.Err()
		})
		pass(5 * time.Second)
		// A tick whose answer takes 2 seconds, the last one for a while.
		var sent time.Time
		h.set(func() {
			h.after = func(string) error {
				h.mu.Lock()
				last := sent.IsZero()
				if last {
					sent = time.Now()
				}
				h.mu.Unlock()
				if last {
					time.Sleep(2 * time.Second)
					h.set(func() { h.silent = true })
				}
				return nil
			}
		})
		for zero := true; zero; h.set(func() { zero = sent.IsZero() }) {
			pass(100 * time.Millisecond)
		}
		write(4, 4, c)
		pass(time.Minute)
		deadline := sent.Add(8 * time.Second)
		h.set(func() {
			if at := ended[ErrLeaseLost]; !at.Equal(deadline) {
				t.Errorf("the handler's context ended %v after the deadline, with %v", at.Sub(deadline), ended)
			}
		})
		write(4, 4, c)
		pass(time.Minute)
		h.set(func() {
			for _, at := range begun {
				if at.After(deadline) {
					t.Errorf("a handler began %v after the deadline", at.Sub(deadline))
				}
			}
		})
		fast.Store(true)
		c.take()
		joins := h.count("join")
		h.set(func() { h.silent, h.after = false, nil })
		pass(10 * time.Second)
		if got := c.take(); !slices.Equal(got, upTo(8)) {
			t.Errorf("got %v after the outage, want all that were not stored", got)
		}
		if joins != 1 || h.count("join") != 0 || c.counts.losses.Load() != 1 {
			t.Errorf("the process joined again, or lost %d leases", c.counts.losses.Load())
		}
	})
}

// TestMemberSuspended checks that no handler begins in a process whose machine was suspended
// for longer than its lease, although its monotonic clock stood still.
func TestMemberSuspended(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 1)
		var suspended time.Duration
		c := hire(t, h, nil, nil, func(mc *memberConfig, _ *engineConfig) {
			now := mc.now
			mc.now = func() instant {
				i := now()
				h.mu.Lock()
				defer h.mu.Unlock()
				i.wall = i.wall.Add(suspended)
				return i
			}
		})
		pass(5*time.Second + 10*time.Millisecond)
		h.set(func() { suspended, h.silent = 9*time.Second, true })
		write(1, 1, c)
		synctest.Wait()
		if got := c.take(); len(got) != 0 {
			t.Errorf("got %v handled after the machine was suspended", got)
		}
		h.set(func() { h.silent = false })
		pass(10 * time.Second)
		if got := c.take(); !slices.Equal(got, upTo(1)) {
			t.Errorf("got %v, want the message after a tick", got)
		}
	})
}

// TestMemberEvicted checks that a process which was evicted ends its handlers, and joins again
// with another ID, and that another process takes over meanwhile.
func TestMemberEvicted(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 4)
		ms := letters(t, 4, 4)
		var freed, cut atomic.Bool
		a := hire(t, h, ms, func(ctx context.Context, _ mdb.Message) error {
			if freed.Load() {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}, cutting(&cut))
		pass(5 * time.Second)
		old := a.self.Load().ID
		cut.Store(true)
		b := hire(t, h, ms, nil)
		pass(20 * time.Second)
		if got := b.take(); !slices.Equal(got, upTo(4)) {
			t.Errorf("got %v by the process that takes over, want all", got)
		}
		for _, cause := range a.endings() {
			if !errors.Is(cause, ErrLeaseLost) {
				t.Errorf("got the cause %v", cause)
			}
		}
		if len(a.endings()) != 4 {
			t.Errorf("got %d handlers ended", len(a.endings()))
		}
		freed.Store(true)
		cut.Store(false)
		a.take()
		pass(20 * time.Second)
		if id := a.self.Load().ID; id == old {
			t.Error("the process joined again as the member that was evicted")
		}
		if got := h.owned(); !slices.Equal(got, []int{2, 2}) || len(a.take()) != 0 {
			t.Errorf("got %v partitions each", got)
		}
	})
}

// TestMemberReplaced checks that the older one of two processes with the same instance ends,
// and that the newer one continues with its partitions immediately.
func TestMemberReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 4)
		instance := func(mc *memberConfig, _ *engineConfig) { mc.join.Instance = "pod-0" }
		ms := letters(t, 4, 4)
		a := hire(t, h, ms, func(ctx context.Context, _ mdb.Message) error {
			<-ctx.Done()
			return ctx.Err()
		}, instance)
		pass(5 * time.Second)
		b := hire(t, h, ms, nil, instance)
		synctest.Wait()
		if got := b.take(); !slices.Equal(got, upTo(4)) {
			t.Errorf("got %v, want all immediately", got)
		}
		if err := a.wait(); !errors.Is(err, ErrReplaced) {
			t.Errorf("got %v", err)
		}
		for _, cause := range a.endings() {
			if !errors.Is(cause, ErrReplaced) {
				t.Errorf("got the cause %v", cause)
			}
		}
		pass(time.Minute)
		if b.counts.joins.Load() != 1 || h.size() != 1 {
			t.Errorf("got %d joins of the newer one, and %d members", b.counts.joins.Load(), h.size())
		}
	})
}
