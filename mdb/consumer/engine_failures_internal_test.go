package consumer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestRetryInPlace checks that a message which fails blocks its key only, that it is retried
// until it succeeds, that those after it with its key are handled then, in order, and that the
// checkpoint does not pass it before.
func TestRetryInPlace(t *testing.T) {
	for name, failure := range map[string]func() error{
		"an error":       func() error { return errBroken },
		"a panic":        func() error { panic("broken") },
		"runtime.Goexit": func() error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var seen []Failure
				r := newRig(t, engineConfig{policy: func(f Failure) Action { seen = append(seen, f); return f.Default() }})
				defer r.stops()
				r.begin(1)
				r.on(2, func(_ context.Context, d *delivery) error {
					if d.attempt <= 3 {
						return failure()
					}
					return nil
				})
				r.give(0, 0, "b", "a", "a", "b")
				r.wants("1", "2", "4")
				r.at("0: 0-1")
				pass(time.Minute)
				r.wants("2", "2", "2", "3")
				r.at("0: 1-4")
				for i, f := range seen {
					var p *mdb.PanicError
					if f.Attempt != i+1 || f.Message.GlobalPosition != 2 || f.Err == nil || (name == "a panic") != errors.As(f.Err, &p) {
						t.Errorf("got failure %+v", f)
					}
				}
				if len(seen) != 3 {
					t.Errorf("got %d failures", len(seen))
				}
			})
		})
	}
}

// TestPark checks that a message is parked after six attempts, that the checkpoint waits
// until this has succeeded, that then the messages of its key are done with and not handled,
// and that each other stream with the key gets one row of its own.
func TestPark(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{})
		defer r.stops()
		r.begin(1)
		r.fails(1, 99, errBroken)
		parked := error(&pgconn.PgError{Severity: "ERROR", Code: "57014"})
		r.do(func() { r.parks = func(*delivery, Failure) error { return parked } })
		r.give(0, 0, "a", "a", "a+1", "b", "a+1")
		r.wants("1", "4")
		pass(time.Hour)
		if r.count("1") != 5 || !slices.Equal(r.diary[:5], []string{"1", "1", "1", "1", "1"}) || r.count("park 1 after 6") != len(r.diary)-5 || len(r.diary) < 60 {
			t.Errorf("got %q", r.diary)
		}
		r.at() // nothing
		r.do(func() { r.diary, parked = nil, nil })
		pass(time.Minute)
		r.wants("park 1 after 6", "park 3 after 0")
		r.at("0: 0-5")
		r.give(0, 5, "a", "a+1", "a+2", "a+2", "b")
		r.wants("park 8 after 0", "10")
		r.at("0: 5-10")
		if s := r.stats(); s.parked != 1 || s.parkedKeys != 1 {
			t.Errorf("got %+v", s)
		}
	})
}

// TestParkedBefore checks that rows of the claim block their keys, also for messages before
// them, which were handled before they were parked, and that a row with an end blocks its
// messages only.
func TestParkedBefore(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{})
		defer r.stops()
		one := int64(1)
		r.begin(2,
			ledger.Parked{Partition: orders(0), Key: "a", Stream: "order-a", Position: 1},
			ledger.Parked{Partition: orders(0), Key: "b", Stream: "order-b", Position: 1, Upto: &one},
			ledger.Parked{Partition: orders(1), Key: "c", Stream: "order-c"})
		r.give(0, 0, "a", "a", "b", "b", "b", "c", "b+1")
		r.wants("3", "6", "5", "7")
		r.at("0: 0-7")
	})
}

// TestVerdicts checks what happens to messages whose errors say it.
func TestVerdicts(t *testing.T) {
	for _, test := range []struct {
		err  error
		want []string
		at   []string
	}{
		{Permanent(errBroken), []string{"1", "park 1 after 1"}, []string{"0: 0-2"}},
		{fmt.Errorf("wrapped: %w", Permanent(errBroken)), []string{"1", "park 1 after 1"}, []string{"0: 0-2"}},
		{Skip(errBroken), []string{"1", "2"}, []string{"0: 0-2"}},
		{Transient(errBroken), slices.Repeat([]string{"1"}, 13), nil},
		{RetryAfter(Transient(errBroken), 50*time.Second), slices.Repeat([]string{"1"}, 11), nil},
		{RetryAfter(errBroken, 2*time.Minute), []string{"1", "1", "1", "1", "1"}, nil},
		{RetryAfter(errBroken, time.Minute), []string{"1", "1", "1", "1", "1", "1", "park 1 after 6"}, []string{"0: 0-2"}},
		{RetryAfter(Skip(errBroken), time.Minute), []string{"1", "2"}, []string{"0: 0-2"}},
	} {
		t.Run(fmt.Sprintf("%v %T", test.want, test.err), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				r := newRig(t, engineConfig{})
				defer r.stops()
				r.begin(1)
				r.fails(1, 1000, test.err)
				r.give(0, 0, "a", "a")
				pass(9*time.Minute + time.Second)
				if what, _ := said(test.err); what == toWait && r.count("1") >= len(test.want) {
					test.want = r.diary // the waits are random; there is no limit
				}
				r.wants(test.want...)
				r.at(test.at...)
			})
		})
	}
	if Permanent(nil) != nil || Transient(nil) != nil || Skip(nil) != nil || Stop(nil) != nil || RetryAfter(nil, 1) != nil {
		t.Error("no error becomes one")
	}
	if err := RetryAfter(Permanent(io.EOF), 1); !errors.Is(err, io.EOF) || err.Error() != "EOF" {
		t.Errorf("got %v", err)
	}
}

// TestStop checks that a failure which stops the consumer ends the contexts of the other
// handlers, that no further one is called, that what they still do counts, and what run
// returns.
func TestStop(t *testing.T) {
	for name, c := range map[string]engineConfig{
		"by the handler":         {},
		"by the policy":          {policy: Failure.Stop},
		"by the policy's panic":  {policy: func(Failure) Action { panic(errBroken) }},
		"by the policy's Goexit": {policy: func(Failure) Action { runtime.Goexit(); return Action{} }},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				c.workers = 3
				r := newRig(t, c)
				r.begin(1)
				r.on(1, func(ctx context.Context, _ *delivery) error {
					<-ctx.Done()
					var handler *mdb.HandlerError
					r.note("ends: %v", errors.As(context.Cause(ctx), &handler))
					return nil
				})
				ended := r.blocks(2)
				err := errBroken
				if name == "by the handler" {
					err = Stop(errBroken)
				}
				r.on(3, func(context.Context, *delivery) error {
					synctest.Wait() // until the others have begun
					return err
				})
				r.give(0, 0, "a", "b", "c", "a", "d")
				got := <-r.ended
				var handler *mdb.HandlerError
				if !errors.As(got, &handler) || handler.Stream != "order-c" || handler.GlobalPosition != 3 {
					t.Errorf("got %v", got)
				}
				if is := errors.Is(got, errBroken); is == (name == "by the policy's panic" || name == "by the policy's Goexit") {
					t.Errorf("got %v", got)
				}
				close(ended)
				r.at("0: 0-1")
				slices.Sort(r.diary)
				if n := len(r.diary); n != 5 || !strings.HasPrefix(r.diary[2], "2 ends") || r.diary[4] != "ends: true" {
					t.Errorf("got %q", r.diary)
				}
			})
		})
	}
}

// TestUncounted checks how many failures of each kind are repeated before one counts.
func TestUncounted(t *testing.T) {
	code := func(code string) error { return &pgconn.PgError{Severity: "ERROR", Code: code} }
	for _, test := range []struct {
		name  string
		err   error
		first int // the call whose failure counts; 0: none
	}{
		{"an error", errBroken, 1},
		{"a serialization failure", code("40001"), 10},
		{"a deadlock", fmt.Errorf("update: %w", code("40P01")), 10},
		{"a lost connection", io.ErrUnexpectedEOF, 3},
		{"a server that shuts down", code("57P01"), 3},
		{"a write of unknown outcome", &mdb.UnknownOutcomeError{}, 3},
		{"a read-only server", code("25006"), 3},
		{"an idle transaction that was ended", code("25P03"), 1},
		{"a statement that took too long", code("57014"), 1},
		{"an unavailable server", fmt.Errorf("write: %w", mdb.ErrUnavailable), 0},
		{"a transient error", Transient(errBroken), 0},
		{"a permanent deadlock", Permanent(code("40P01")), 1},
		{"a panic with a lost connection", &mdb.PanicError{Value: io.EOF}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				calls, counted := 0, 0
				r := newRig(t, engineConfig{policy: func(f Failure) Action {
					if counted++; counted == 1 && (calls != test.first || f.Attempt != 1) {
						t.Errorf("call %d is attempt %d, want call %d", calls, f.Attempt, test.first)
					}
					return f.Retry(0)
				}})
				defer r.stops()
				r.begin(1)
				r.on(1, func(context.Context, *delivery) error { calls++; return test.err })
				r.give(0, 0, "a")
				pass(time.Hour)
				if calls < 20 || counted > 0 != (test.first > 0) || test.first > 0 && counted != calls-test.first+1 {
					t.Errorf("%d of %d calls counted", counted, calls)
				}
			})
		})
	}
}

// TestUncountedInARow checks that failures of other kinds, and progress, end a row.
func TestUncountedInARow(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		counted := 0
		r := newRig(t, engineConfig{policy: func(f Failure) Action { counted++; return f.Retry(0) }})
		defer r.stops()
		r.begin(1)
		errs := []error{io.EOF, io.EOF, errBroken, io.EOF, io.EOF, nil}
		r.on(1, func(_ context.Context, d *delivery) error { return errs[d.attempt-1] })
		r.fails(2, 2, io.EOF)
		r.give(0, 0, "a", "a")
		pass(time.Hour)
		if counted != 1 {
			t.Errorf("%d counted", counted)
		}
		r.at("0: 0-2")
	})
}

// TestMaxParked checks that beyond the budget messages are retried in place, and other
// keys are handled, whether the engine or the function that parks knows the number.
func TestMaxParked(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{maxParked: 1})
		defer r.stops()
		r.begin(1)
		full := error(nil)
		r.do(func() { r.parks = func(*delivery, Failure) error { return full } })
		r.fails(1, 1, Permanent(errBroken))
		r.fails(2, 99, Permanent(errBroken))
		r.give(0, 0, "a", "b", "c", "a")
		r.wants("1", "2", "3", "park 1 after 1")
		if !r.stats().full {
			t.Error("it is not full")
		}
		pass(time.Hour)
		if n := r.count("2"); n < 60 || n > 125 || n != len(r.diary) {
			t.Errorf("got %q", r.diary)
		}
		r.at("0: 0-1")
		r.claim(ledger.Row{Partition: orders(0), Epoch: 2, Position: 1}, nil) // somebody has replayed it
		r.heal()
		r.do(func() { r.diary, full = nil, errParkedFull })
		r.fails(5, 2, Permanent(errBroken))
		r.feed(orders(0), 2, []mdb.Message{{Stream: "order-b", GlobalPosition: 5}, {Stream: "order-d", GlobalPosition: 6}}, source.At(6))
		r.wants("5", "6", "park 5 after 1")
		r.do(func() { full = nil })
		pass(time.Second)
		r.wants("5", "park 5 after 2")
		r.isAt(r.progress(), "0: 1-6")
	})
}

// TestParkUnanswered checks that a partition stops when an attempt to park a message may still be done, because it got no answer: no handler is
// called until the row was read again, which says whether the message is parked. If the attempt has surely failed, it is repeated.
func TestParkUnanswered(t *testing.T) {
	for name, test := range map[string]struct {
		first error
		stops bool
	}{
		"a lost connection":      {io.ErrUnexpectedEOF, true},
		"the end of the session": {&pgconn.PgError{Severity: "FATAL", Code: "57P01"}, true},
		"an answer":              {&pgconn.PgError{Severity: "ERROR", Code: "57014"}, false},
		"no connection":          {&pgconn.ConnectError{}, false},
	} {
		for _, parked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, parked: %t", name, parked), func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					r := newRig(t, engineConfig{})
					defer r.stops()
					r.begin(1)
					first := test.first
					r.do(func() {
						r.parks = func(*delivery, Failure) (err error) {
							err, first = first, nil
							return err
						}
					})
					r.fails(1, 1, Permanent(errBroken))
					r.give(0, 0, "a", "a", "b")
					pass(time.Hour)
					got, _ := r.fenced()
					if !test.stops {
						r.wantsTogether("1", "park 1 after 1", "park 1 after 1", "3")
						r.at("0: 0-3")
						if got != nil {
							t.Errorf("got %v stopped", got)
						}
						return
					}
					if !slices.Equal(got, []partition{orders(0)}) || r.count("1") != 1 || r.count("park 1 after 1") != 1 {
						t.Fatalf("got %v stopped, and %q", got, r.diary)
					}
					r.at()
					r.do(func() { r.diary = nil })
					var rows []ledger.Parked
					if parked {
						rows = []ledger.Parked{{Partition: orders(0), Key: "a", Stream: "order-a"}}
					}
					r.claim(ledger.Row{Partition: orders(0), Epoch: 2}, rows)
					ms := []mdb.Message{{Stream: "order-a", GlobalPosition: 1}, {Stream: "order-a", Position: 1, GlobalPosition: 2}}
					r.feed(orders(0), 2, ms, source.At(2))
					if parked {
						r.wants()
					} else {
						r.wants("1", "2")
					}
					r.isAt(r.progress(), "0: 0-2")
				})
			})
		}
	}
}

// TestFenced checks that a partition stops when the fence refuses to park, that it is
// reported, and that it begins again when it is claimed again with the same epoch.
func TestFenced(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{})
		defer r.stops()
		r.begin(2)
		r.do(func() { r.parks = func(*delivery, Failure) error { return errFence } })
		r.fails(1, 1, Permanent(errBroken))
		r.give(0, 0, "a", "a")
		r.wants("1", "park 1 after 1")
		r.give(0, 2, "b")
		r.giveTo(1, 3, 4, "c")
		pass(time.Hour)
		r.wants("4")
		got, stale := r.fenced()
		if again, _ := r.fenced(); !slices.Equal(got, []partition{orders(0)}) || again != nil || stale != nil || r.changes == 0 {
			t.Errorf("got %v", got)
		}
		r.at("1: 0-4")
		r.claim(ledger.Row{Partition: orders(0), Epoch: 1}, []ledger.Parked{{Partition: orders(0), Key: "a", Stream: "order-a"}})
		r.claim(ledger.Row{Partition: orders(1), Epoch: 1}, nil) // nothing happens
		r.position = map[mdb.StreamName]int64{}
		r.give(0, 0, "a", "a", "b")
		r.wants("3")
		r.at("0: 0-3")
	})
}

// TestNoRetryAfterTheEnd checks that a failure after its context has ended is none.
func TestNoRetryAfterTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{policy: func(f Failure) Action { t.Errorf("got %v", f); return f.Park() }})
		defer r.stops()
		r.begin(1)
		r.on(1, func(ctx context.Context, _ *delivery) error {
			<-ctx.Done()
			return Permanent(context.Cause(ctx))
		})
		r.give(0, 0, "a")
		synctest.Wait()
		r.forget(errDropped)
		r.wants("1")
	})
}

// TestDecisionAfterTheEnd checks that a decision for a partition that was dropped meanwhile has
// no consequences.
func TestDecisionAfterTheEnd(t *testing.T) {
	for name, decide := range map[string]func(f Failure) Action{
		"stop":  Failure.Stop,
		"park":  Failure.Park,
		"skip":  Failure.Skip,
		"retry": func(f Failure) Action { return f.Retry(time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				block := make(chan error)
				r := newRig(t, engineConfig{policy: func(f Failure) Action { <-block; return decide(f) }})
				defer r.stops()
				r.begin(2)
				r.fails(1, 1, errBroken)
				r.give(0, 0, "a", "a")
				r.wants("1")
				r.drop([]partition{orders(0)}, errDropped)
				close(block)
				pass(time.Minute)
				r.give(1, 2, "b")
				r.wants("3")
				r.at("1: 0-3")
				if s := r.stats(); s.messages+s.waiting+s.running != 0 || s.parked+s.skipped+s.retried != 0 {
					t.Errorf("got %+v", s)
				}
			})
		})
	}
}

// TestMaxParkedTogether checks that messages which are being parked count.
func TestMaxParkedTogether(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		block := make(chan error)
		c := engineConfig{workers: 3, maxParked: 1, park: func(context.Context, *delivery, Failure, *ledger.Move) error { return <-block }}
		r := newRig(t, c)
		defer r.stops()
		r.begin(1)
		r.fails(1, 1, Permanent(errBroken))
		r.fails(2, 1, Permanent(errBroken))
		r.give(0, 0, "a", "b")
		synctest.Wait()
		if s := r.stats(); s.running != 1 || s.waiting != 1 {
			t.Errorf("got %+v", s)
		}
		close(block)
		pass(time.Minute)
		r.at("0: 0-2")
		if s := r.stats(); s.parked != 1 || s.handled != 1 || r.parking != 0 {
			t.Errorf("got %+v", s)
		}
	})
}

// TestRetryOfForgotten checks that a retry whose time comes while its partition is being
// forgotten does nothing.
func TestRetryOfForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{})
		defer r.stops()
		r.begin(1)
		r.fails(1, 1, RetryAfter(errBroken, time.Second))
		r.give(0, 0, "a")
		r.wants("1")
		r.engine.mu.Lock()
		<-time.After(time.Second) // the retry waits for the lock now
		r.forgetPart(r.parts[orders(0)], errDropped)
		r.engine.mu.Unlock()
		pass(time.Minute)
		r.wants()
		if s := r.stats(); s.waiting != 0 || r.runnable != (gauge{}) {
			t.Errorf("got %+v", s)
		}
	})
}
