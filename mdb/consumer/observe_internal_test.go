package consumer

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// A diary records the calls of OnLive, OnPartitions and OnRetry.
type diary struct {
	mu    sync.Mutex
	calls []string
	block chan struct{} // nil: calls return immediately
}

func (d *diary) note(format string, args ...any) {
	d.mu.Lock()
	d.calls = append(d.calls, fmt.Sprintf(format, args...))
	d.mu.Unlock()
	if d.block != nil {
		<-d.block
	}
}

// take returns the calls, and forgets them.
func (d *diary) take() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := d.calls
	d.calls = nil
	return calls
}

func (d *diary) check(t *testing.T, want ...string) {
	t.Helper()
	if got := d.take(); !slices.Equal(got, want) {
		t.Errorf("got the calls %q, want %q", got, want)
	}
}

func (d *diary) observed() observed {
	return observed{
		live:       func(live bool) { d.note("live %v", live) },
		partitions: func(held []int) { d.note("partitions %v", held) },
		retry:      func(r mdb.Retry) { d.note("retry %d: %v", r.Attempt, r.Err) },
	}
}

// observing lets a clerk's observer write a diary.
func observing(t *testing.T, d *diary) clerkOption {
	t.Helper()
	return func(mc *memberConfig, _ *engineConfig) {
		o := newObserver(d.observed(), 1, func(err error) error { return fmt.Errorf("explained: %w", err) }, func(err error) { t.Error(err) })
		mc.observer = o
		t.Cleanup(o.close)
	}
}

// TestOnLive checks that a process is live when everything of its partitions is handled and
// stored, not when it is read, and is no longer live when there is more to handle.
func TestOnLive(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var d diary
		h := newHall(t, 4)
		gate := make(chan struct{})
		c := hire(t, h, letters(t, 5, 4), func(_ context.Context, m mdb.Message) error {
			if m.GlobalPosition == 5 || m.GlobalPosition > 100 {
				<-gate
			}
			return nil
		}, observing(t, &d))
		pass(5 * time.Second)
		d.check(t, "partitions [0 1 2 3]")
		gate <- struct{}{}
		pass(2 * time.Second)
		d.check(t, "live true")
		if got := h.positions(); got[0] != 5 {
			t.Errorf("it is live at %v, and not everything is stored", got)
		}
		write(60, 4, c) // more than two pages
		pass(2 * time.Second)
		d.check(t, "live false", "live true")
		write(35, 4, c) // to 100
		pass(2 * time.Second)
		d.take()
		write(30, 4, c)
		pass(5 * time.Second)
		d.check(t, "live false")
		close(gate)
		pass(2 * time.Second)
		d.check(t, "live true")
		write(1, 4, c)
		pass(2 * time.Second)
		d.check(t)
	})
}

// TestOnLiveOfCategories checks that all categories must be read.
func TestOnLiveOfCategories(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var d diary
		o := newObserver(d.observed(), 2, nil, func(err error) { t.Error(err) })
		a, b := partition{Category: "a"}, partition{Category: "b"}
		held := map[partition]ledger.Row{a: {}, b: {}}
		stored := map[partition]int64{a: 7, b: 3}
		step := func() {
			o.stepped(held, true, func() map[partition]int64 { return stored })
			synctest.Wait()
		}
		o.read("a", true, 7)
		step()
		d.check(t, "partitions [0]")
		o.read("b", true, 4)
		step()
		d.check(t)
		stored[b] = 4
		step()
		d.check(t, "live true")
		o.read("b", false, 0)
		step()
		d.check(t, "live false")
		o.read("b", true, 4)
		step()
		d.check(t, "live true")
		o.close()
		d.check(t, "partitions []")
	})
}

// TestOnPartitions checks that a process learns which partitions it has: after a join, when it
// shares with another one, when its lease is lost, and at the end.
func TestOnPartitions(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var d diary
		h := newHall(t, 4)
		o := newObserver(observed{partitions: d.observed().partitions}, 1, nil, func(err error) { t.Error(err) })
		a := hire(t, h, nil, nil, func(mc *memberConfig, _ *engineConfig) { mc.observer = o })
		pass(3 * time.Second)
		d.check(t, "partitions [0 1 2 3]")
		b := hire(t, h, nil, nil)
		pass(10 * time.Second)
		d.check(t, "partitions [0 1]")
		b.cancel(errClosing)
		if err := b.wait(); !errors.Is(err, errClosing) {
			t.Fatal(err)
		}
		pass(10 * time.Second)
		d.check(t, "partitions [0 1 2 3]")
		h.set(func() { h.down = errNoAnswer })
		pass(20 * time.Second)
		d.check(t, "partitions []")
		h.set(func() { h.down = nil })
		pass(20 * time.Second)
		d.check(t, "partitions [0 1 2 3]")
		a.cancel(errClosing)
		if err := a.wait(); !errors.Is(err, errClosing) {
			t.Fatal(err)
		}
		o.close()
		d.check(t, "partitions []")
	})
}

// TestOnRetry checks that failures of the join, of ticks and of sharing are reported with the
// number of failures in a row.
func TestOnRetry(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var d diary
		h := newHall(t, 4)
		only := func(mc *memberConfig, _ *engineConfig) {
			o := newObserver(observed{retry: d.observed().retry}, 1, func(err error) error { return fmt.Errorf("explained: %w", err) }, func(err error) { t.Error(err) })
			mc.observer = o
			t.Cleanup(o.close)
		}
		h.down = context.DeadlineExceeded
		hire(t, h, nil, nil, only)
		pass(time.Second)
		got := d.take()
		if len(got) < 2 || got[0] != "retry 1: explained: context deadline exceeded" || got[1] != "retry 2: explained: context deadline exceeded" {
			t.Errorf("got %q while it could not join", got)
		}
		h.set(func() { h.down = nil })
		pass(10 * time.Second)
		d.take()
		pass(10 * time.Second)
		d.check(t)
		failed := make(map[string]bool)
		h.set(func() {
			h.before = func(statement string) error {
				if failed[statement] {
					return nil
				}
				failed[statement] = true
				return errNoAnswer
			}
		})
		h.set(h.ring)
		pass(10 * time.Second)
		if !failed["beat"] || !failed["balance"] {
			t.Fatalf("the statements %v failed, want a beat and a balance", failed)
		}
		d.check(t, "retry 1: explained: the connection was lost", "retry 1: explained: the connection was lost")
	})
}

// TestObserverIsSlow checks that a function which does not return delays neither messages nor
// heartbeats, and that the next call has the last state.
func TestObserverIsSlow(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		d := diary{block: make(chan struct{})}
		h := newHall(t, 4)
		c := hire(t, h, letters(t, 10, 4), nil, observing(t, &d))
		pass(time.Minute)
		d.check(t, "partitions [0 1 2 3]")
		if got := c.take(); !slices.Equal(got, upTo(10)) || c.counts.losses.Load() != 0 {
			t.Errorf("got %v, and %d lost leases", got, c.counts.losses.Load())
		}
		h.set(func() { h.down = errNoAnswer })
		pass(5 * time.Second)
		h.set(func() { h.down = nil })
		pass(5 * time.Second)
		d.check(t)
		last := c.counts.ticks.Load()
		close(d.block)
		pass(time.Second)
		got := d.take()
		if len(got) != 2 || got[0] == "retry 1: explained: the connection was lost" || got[1] != "live true" {
			t.Errorf("got %q after %d ticks, want the last retry and the state", got, last)
		}
	})
}

// TestObserverFails checks that after a panic, and after a function that ends its goroutine,
// nothing is called any more, and that this is reported.
func TestObserverFails(t *testing.T) {
	for name, f := range map[string]func(){"panic": func() { panic("secret") }, "Goexit": runtime.Goexit} {
		for _, option := range []string{"OnLive", "OnPartitions", "OnRetry"} {
			t.Run(name+" in "+option, func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					var d diary
					calls := d.observed()
					switch option {
					case "OnLive":
						calls.live = func(bool) { f() }
					case "OnPartitions":
						calls.partitions = func([]int) { f() }
					case "OnRetry":
						calls.retry = func(mdb.Retry) { f() }
					}
					var failed error
					o := newObserver(calls, 1, nil, func(err error) { failed = err })
					switch option {
					case "OnLive":
						o.read("category", false, 0)
					case "OnPartitions":
						o.stepped(map[partition]ledger.Row{{}: {}}, true, nil)
					case "OnRetry":
						o.retried("category", 1, errNoAnswer)
					}
					synctest.Wait()
					var panicked *mdb.PanicError
					switch {
					case name == "panic" && (!errors.As(failed, &panicked) || panicked.Value != "secret"):
						t.Errorf("got %v, want the panic", failed)
					case name == "panic" && failed.Error() != "consumer: the function of "+option+" failed: panic with a value of type string":
						t.Errorf("got the text %q", failed)
					case name == "Goexit" && !errors.Is(failed, errHandlerEnds):
						t.Errorf("got %v", failed)
					}
					o.read("category", false, 0)
					o.retried("other", 1, errNoAnswer)
					o.close()
					d.check(t)
				})
			})
		}
	}
}

// TestObserverReplaces checks that states which nobody has seen are replaced, and not repeated.
func TestObserverReplaces(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		d := diary{block: make(chan struct{})}
		o := newObserver(d.observed(), 1, nil, func(err error) { t.Error(err) })
		have := func(n int) {
			held := make(map[partition]ledger.Row)
			for i := range n {
				held[partition{Category: "category", Number: i}] = ledger.Row{}
			}
			o.stepped(held, true, func() map[partition]int64 { return nil })
			synctest.Wait()
		}
		o.read("category", true, 0)
		have(1)
		d.check(t, "partitions [0]")
		d.block <- struct{}{}
		synctest.Wait()
		d.check(t, "live true")
		o.read("category", false, 0)
		o.read("category", true, 0)
		have(2)
		have(3)
		close(d.block)
		synctest.Wait()
		d.check(t, "partitions [0 1 2]")
		o.close()
		d.check(t, "partitions []")
	})
}

// TestObserverCloses checks that what happens last is passed on.
func TestObserverCloses(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		for range 50 {
			d := diary{block: make(chan struct{})}
			o := newObserver(d.observed(), 1, nil, func(err error) { t.Error(err) })
			o.retried("category", 1, errNoAnswer)
			synctest.Wait()
			o.read("category", false, 0)
			closed := make(chan struct{})
			go func() { o.close(); close(closed) }()
			synctest.Wait()
			close(d.block)
			<-closed
			d.check(t, "retry 1: the connection was lost", "live false")
		}
	})
}
