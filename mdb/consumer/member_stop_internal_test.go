package consumer

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/mdb"
)

// TestMemberDrains checks that a process which ends waits for its handlers, begins none,
// keeps its partitions meanwhile, stores what they have done, and repeats nothing.
func TestMemberDrains(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		ms := letters(t, 20, 2)
		release := make(chan struct{})
		a := hire(t, h, ms, func(ctx context.Context, _ mdb.Message) error {
			<-release
			return ctx.Err()
		})
		pass(time.Second)
		b := hire(t, h, ms, nil)
		pass(5 * time.Second)
		a.cancel(errClosing)
		pass(20 * time.Second) // longer than a lease
		if h.size() != 2 || len(a.endings()) != 0 {
			t.Errorf("got %d members, and handlers ended with %v, while handlers may finish", h.size(), a.endings())
		}
		close(release)
		pass(5 * time.Second)
		if err := a.wait(); !errors.Is(err, errClosing) {
			t.Errorf("got %v", err)
		}
		got := append(a.take(), b.take()...)
		slices.Sort(got)
		if !slices.Equal(got, upTo(20)) || h.size() != 1 {
			t.Errorf("got %v handled, want each once", got)
		}
	})
}

// TestMemberReleasesWhileStopping checks that a process which ends releases the partitions of which no handler runs, with what
// is done, while a handler keeps another one, and also if the checkpoint is locked at first. Another process that lacks partitions
// takes them over. What ends soon takes no statement more than leaving.
func TestMemberReleasesWhileStopping(t *testing.T) {
	for name, locked := range map[string]bool{"free": false, "locked at first": true} {
		inSubBubble(t, name, func(t *testing.T) {
			const partitions = 4
			h := newHall(t, partitions)
			ms := letters(t, 40, partitions)
			release := make(chan struct{})
			a := hire(t, h, ms, func(ctx context.Context, m mdb.Message) error {
				if m.GlobalPosition == 41 {
					<-release
				}
				return ctx.Err()
			})
			pass(5*time.Second + 10*time.Millisecond)
			write(4, partitions, a)
			pass(10 * time.Millisecond)
			slow := partition{Category: "category", Number: partitionOf(a.shelf.messages[40].Stream, partitions)}
			if locked {
				h.set(func() {
					for _, row := range h.rows {
						row.epoch += 1000
					}
				})
			}
			a.cancel(errClosing)
			pass(2 * time.Second)
			if locked {
				h.set(func() {
					for _, row := range h.rows {
						row.epoch -= 1000
					}
				})
				pass(2 * time.Second)
			}
			h.set(func() {
				for p, row := range h.rows {
					if p == slow && (row.member != a.self.Load().ID || row.position != 40) {
						t.Errorf("got the partition of the handler at %d, of %v", row.position, row.member)
					}
					if p != slow && (row.member != uuid.Nil || row.position < 41) {
						t.Errorf("got partition %d at %d, of %v, want it free", p.Number, row.position, row.member)
					}
				}
			})
			b := hire(t, h, ms, func(_ context.Context, m mdb.Message) error {
				if m.GlobalPosition > 44 {
					time.Sleep(time.Duration(m.GlobalPosition) * 10 * time.Millisecond)
				}
				return nil
			})
			pass(10 * time.Second)
			if got := h.owned(); !slices.Equal(got, []int{1, 1, 2}) {
				t.Errorf("got %v partitions, want 2 of the other process", got)
			}
			h.count("release")
			close(release)
			if err := a.wait(); !errors.Is(err, errClosing) || !slices.Equal(a.take(), upTo(44)) {
				t.Errorf("got %v", err)
			}
			if h.count("release") != 0 {
				t.Error("got a release before it leaves")
			}
			pass(5 * time.Second)
			if got := h.owned(); !slices.Equal(got, []int{4}) {
				t.Errorf("got %v partitions", got)
			}
			write(8, partitions, b)
			pass(10 * time.Millisecond)
			h.set(func() { clear(h.calls) })
			b.cancel(errClosing)
			b.wait()
			if got := h.positions(); got[0] != 48 {
				t.Errorf("got the checkpoints %v", got)
			}
			if h.count("release") != 0 || h.count("leave") != 1 {
				t.Error("got more statements than are needed")
			}
		})
	}
}

// TestMemberDrainTimeout checks that the contexts of handlers that take too long end, that the
// process leaves five seconds later even if they have not returned, and that Run returns after
// them.
func TestMemberDrainTimeout(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		release := make(chan struct{})
		c := hire(t, h, letters(t, 20, 2), func(ctx context.Context, m mdb.Message) error {
			if m.GlobalPosition == 1 {
				<-release // it ignores its context
				return ctx.Err()
			}
			<-ctx.Done()
			return nil // it has finished
		})
		pass(5 * time.Second)
		c.cancel(errClosing)
		pass(25*time.Second - time.Millisecond)
		if len(c.endings()) != 0 {
			t.Errorf("the contexts have ended with %v", c.endings())
		}
		pass(2 * time.Millisecond)
		if !slices.Equal(c.endings(), []error{errClosing}) {
			t.Errorf("got the causes %v", c.endings())
		}
		pass(5*time.Second - 10*time.Millisecond)
		if h.size() != 1 {
			t.Error("the process has left too early")
		}
		pass(20 * time.Millisecond)
		if h.size() != 0 {
			t.Error("the process has not left")
		}
		if positions := h.positions(); !slices.Equal(positions, []int64{0, 2}) {
			t.Errorf("got the checkpoints %v, want only what was finished", positions)
		}
		pass(time.Hour)
		select {
		case err := <-c.ended:
			t.Fatalf("Run has returned %v before its handlers", err)
		default:
		}
		close(release)
		if err := c.wait(); !errors.Is(err, errClosing) {
			t.Errorf("got %v", err)
		}
	})
}

// TestMemberLeaves checks that a process tries three times to leave, and that it returns if it
// cannot.
func TestMemberLeaves(t *testing.T) {
	for _, failures := range []int{2, 100} {
		inSubBubble(t, map[int]string{2: "at the third attempt", 100: "in vain"}[failures], func(t *testing.T) {
			h := newHall(t, 2)
			c := hire(t, h, letters(t, 20, 2), nil)
			pass(5 * time.Second)
			attempts := 0
			h.set(func() {
				h.before = func(statement string) error {
					h.mu.Lock()
					defer h.mu.Unlock()
					if statement != "leave" {
						return nil
					}
					if attempts++; attempts <= failures {
						return &pgconn.PgError{Severity: "ERROR", Code: "40P01"}
					}
					return nil
				}
			})
			c.cancel(errClosing)
			if err := c.wait(); !errors.Is(err, errClosing) || attempts != 3 {
				t.Errorf("got %v after %d attempts, want the cause after 3", err, attempts)
			}
			if got := h.size(); got != map[int]int{2: 0, 100: 1}[failures] {
				t.Errorf("got %d members", got)
			}
		})
	}
}

// TestMemberStopsInOutage checks that a process whose server is gone ends without a wait for
// handlers that are not running, although the outcome of its last tick is unknown.
func TestMemberStopsInOutage(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		c := hire(t, h, letters(t, 20, 2), nil)
		pass(5 * time.Second)
		h.set(func() {
			h.after = func(string) error {
				h.set(func() { h.down = errNoAnswer })
				return errNoAnswer
			}
		})
		write(2, 2, c)
		pass(3 * time.Second)
		c.cancel(errClosing)
		pass(4 * time.Second)
		select {
		case err := <-c.ended:
			c.ended <- err
		default:
			t.Error("it waits")
		}
	})
}

func inSubBubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { inBubble(t, f) })
}

// TestMemberStops checks that an error that stops the consumer ends the run after the other
// handlers, and that what they have done is stored.
func TestMemberStops(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		errBad := errors.New("bad")
		c := hire(t, h, letters(t, 20, 2), func(ctx context.Context, m mdb.Message) error {
			if m.GlobalPosition == 1 {
				time.Sleep(time.Second)
				return Stop(errBad)
			}
			if m.GlobalPosition == 2 {
				<-ctx.Done()
			}
			return nil
		})
		err := c.wait()
		var handlerErr *mdb.HandlerError
		if !errors.As(err, &handlerErr) || handlerErr.GlobalPosition != 1 || !errors.Is(err, errBad) {
			t.Errorf("got %v", err)
		}
		if n := h.size(); n != 0 {
			t.Errorf("got %d members", n)
		}
		if positions := h.positions(); !slices.Equal(positions, []int64{0, 2}) {
			t.Errorf("got the checkpoints %v, want only what was finished", positions)
		}
	})
}

// TestMemberExits checks that nothing is left if a handler calls runtime.Goexit.
func TestMemberExits(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		exits := 0
		c := hire(t, h, letters(t, 20, 2), func(_ context.Context, m mdb.Message) error {
			if m.GlobalPosition == 1 {
				exits++
				runtime.Goexit()
			}
			return nil
		})
		pass(time.Minute)
		c.cancel(errClosing)
		if err := c.wait(); !errors.Is(err, errClosing) || exits == 0 || len(h.parked) != 1 {
			t.Errorf("got %v, %d calls, %d parked, want the message parked", err, exits, len(h.parked))
		}
	})
}

// TestMemberJoinRetries checks that a process waits for a server that cannot be reached, that
// it gives up if its context ends, and that it ends if its schema is missing.
func TestMemberJoinRetries(t *testing.T) {
	inSubBubble(t, "until it can", func(t *testing.T) {
		h := newHall(t, 2)
		h.down = mdb.ErrUnavailable
		c := hire(t, h, letters(t, 20, 2), nil)
		pass(time.Minute)
		h.set(func() { h.down = nil })
		pass(10 * time.Second)
		if got := c.take(); !slices.Equal(got, upTo(20)) {
			t.Errorf("got %v", got)
		}
	})
	inSubBubble(t, "until the context ends", func(t *testing.T) {
		h := newHall(t, 2)
		h.down = mdb.ErrUnavailable
		c := hire(t, h, nil, nil)
		pass(time.Minute)
		c.cancel(errClosing)
		synctest.Wait()
		if err := c.wait(); !errors.Is(err, errClosing) {
			t.Errorf("got %v", err)
		}
	})
	inSubBubble(t, "not without the schema", func(t *testing.T) {
		h := newHall(t, 2)
		h.before = func(string) error { return &pgconn.PgError{Severity: "ERROR", Code: "3F000"} }
		c := hire(t, h, nil, nil)
		var setup *mdb.SetupError
		if err := c.wait(); !errors.As(err, &setup) {
			t.Errorf("got %v", err)
		}
	})
}

// TestMemberSuspects checks that the partitions of a process that has crashed are taken over
// after its lease has ended, and not before.
func TestMemberSuspects(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 4)
		ms := letters(t, 4, 4)
		var frozen atomic.Bool
		hire(t, h, ms, nil)
		b := hire(t, h, ms, nil, cutting(&frozen))
		pass(10 * time.Second)
		frozen.Store(true)
		var seen time.Time
		h.set(func() {
			for id, m := range h.members {
				if id == b.self.Load().ID {
					seen = m.seen
				}
			}
		})
		for len(h.owned()) == 2 {
			pass(10 * time.Millisecond)
		}
		if after := time.Since(seen); after < 10*time.Second || after > 12500*time.Millisecond {
			t.Errorf("the partitions were taken over %v after the last tick", after)
		}
		frozen.Store(false)
	})
}

// TestMemberCatchesUp checks that a run that ends when everything is handled does so, and not
// before.
func TestMemberCatchesUp(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 4)
		h.last = 40
		release := make(chan struct{})
		c := hire(t, h, letters(t, 40, 4), func(ctx context.Context, m mdb.Message) error {
			if m.GlobalPosition == 40 {
				select {
				case <-release:
				case <-ctx.Done():
				}
			}
			return ctx.Err()
		}, func(mc *memberConfig, _ *engineConfig) { mc.toEnd = true })
		pass(time.Minute)
		select {
		case err := <-c.ended:
			t.Fatalf("it has ended with %v while a message is in its handler", err)
		default:
		}
		close(release)
		pass(time.Second)
		if err := c.wait(); err != nil {
			t.Errorf("got %v", err)
		}
		if got := c.take(); !slices.Equal(got, upTo(40)) || h.size() != 0 {
			t.Errorf("got %v", got)
		}
	})
}
