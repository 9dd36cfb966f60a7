package mdb

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// errDown is a failure of a connection.
var errDown = &acquireError{io.ErrUnexpectedEOF}

// entrants are calls that enter a gate, and keep their places until the test lets them leave.
type entrants struct {
	gate             *gate
	entered, waiting atomic.Int64
}

// enter returns once the call has entered the gate or waits at it.
func (e *entrants) enter(ctx context.Context, deadline time.Time) (leave context.CancelFunc, result chan error) {
	inside, leave := context.WithCancel(context.Background())
	result = make(chan error, 1)
	e.waiting.Add(1)
	go func() {
		p := place{gate: e.gate}
		defer p.leave()
		_, err := p.enter(ctx, deadline)
		e.waiting.Add(-1)
		if err == nil {
			e.entered.Add(1)
			<-inside.Done()
		}
		result <- err
	}()
	synctest.Wait()
	return leave, result
}

func (e *entrants) want(t *testing.T, entered, waiting int64) {
	t.Helper()
	synctest.Wait()
	if e.entered.Load() != entered || e.waiting.Load() != waiting {
		t.Errorf("%d have entered and %d wait, want %d and %d", e.entered.Load(), e.waiting.Load(), entered, waiting)
	}
}

func in(d time.Duration) time.Time { return time.Now().Add(d) }

// TestGate checks that no call waits at an open gate, that at most two enter a closed one,
// that each that leaves lets one other enter, and that a success lets all enter.
func TestGate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := entrants{gate: new(gate)}
		var leave []context.CancelFunc
		enter := func(n int) {
			for range n {
				l, _ := e.enter(t.Context(), in(time.Hour))
				leave = append(leave, l)
			}
		}
		enter(5)
		e.want(t, 5, 0)
		e.gate.note(t.Context(), errDown)
		enter(10)
		e.want(t, 7, 8)
		e.gate.note(t.Context(), errDown) // again
		e.want(t, 7, 8)
		leave[5]() // a probe
		e.want(t, 8, 7)
		leave[0]() // a call from before the failure, without a place
		e.want(t, 8, 7)
		e.gate.note(t.Context(), nil)
		e.want(t, 15, 0)
		// Places from before the success do not count any more.
		e.gate.note(t.Context(), errDown)
		enter(4)
		e.want(t, 17, 2)
		leave[6]()
		e.want(t, 17, 2)
		e.gate.note(t.Context(), &pgconn.PgError{Severity: "ERROR", Code: "23505"}) // an answer
		e.want(t, 19, 0)
		for _, l := range leave {
			l()
		}
	})
}

// TestGateEnds checks that a call that waits ends by its context or deadline, and that a
// probe that does lets another one enter.
func TestGateEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := entrants{gate: new(gate)}
		e.gate.note(t.Context(), errDown)
		first, _ := e.enter(t.Context(), in(time.Hour))
		second, _ := e.enter(t.Context(), in(time.Hour))
		ctx, cancel := context.WithCancel(t.Context())
		_, canceled := e.enter(ctx, in(time.Hour))
		_, late := e.enter(t.Context(), in(time.Minute))
		third, _ := e.enter(t.Context(), in(time.Hour))
		e.want(t, 2, 3)
		cancel()
		if err := <-canceled; !errors.Is(err, context.Canceled) {
			t.Errorf("got error %v, want that of the context", err)
		}
		begun := time.Now()
		if err := <-late; !errors.Is(err, errOutOfTime) || time.Since(begun) != time.Minute {
			t.Errorf("got error %v after %v, want that of the deadline", err, time.Since(begun))
		}
		e.want(t, 2, 1)
		first()
		second()
		e.want(t, 3, 0)
		third()
	})
}

// TestGateLosesNoWakeUp checks that what happens between the look at the gate and the wait is
// not missed: a success, and the end of a probe.
func TestGateLosesNoWakeUp(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(g *gate, probe *place){
		"success":    func(g *gate, _ *place) { g.answered() },
		"probe ends": func(_ *gate, probe *place) { probe.leave() },
		"success and failure": func(g *gate, _ *place) {
			g.answered()
			g.note(context.Background(), errDown)
		},
	} {
		g := new(gate)
		g.note(t.Context(), errDown)
		probes := [maxProbes]place{{gate: g}, {gate: g}}
		for i := range probes {
			if probes[i].take() != nil {
				t.Fatal("a probe waits")
			}
		}
		p := place{gate: g}
		changes := p.take() // the look
		change(g, &probes[0])
		select {
		case <-changes: // the wait
		default:
			t.Errorf("%s: missed", name)
		}
		if p.take() != nil {
			t.Errorf("%s: the call still waits", name)
		}
	}
}

// TestGateSleep checks that a success ends the delay of a call, also one between the failure
// and the delay, and that the end of a probe does not.
func TestGateSleep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := new(gate)
		g.note(t.Context(), errDown)
		for name, tt := range map[string]struct {
			event func()
			open  bool
			want  time.Duration
		}{
			"nothing":   {func() {}, false, time.Minute},
			"probe end": {func() { p := place{gate: g}; p.take(); p.leave() }, false, time.Minute},
			"success":   {g.answered, true, time.Second},
		} {
			g.note(t.Context(), errDown)
			begun := time.Now()
			time.AfterFunc(time.Second, tt.event)
			if open, err := g.sleep(t.Context(), time.Minute); open != tt.open || err != nil || time.Since(begun) != tt.want {
				t.Errorf("%s: got %t, %v after %v, want %t after %v", name, open, err, time.Since(begun), tt.open, tt.want)
			}
		}
		g.note(t.Context(), errDown)
		g.answered()
		begun := time.Now()
		if open, err := g.sleep(t.Context(), time.Minute); !open || err != nil || time.Since(begun) != 0 {
			t.Errorf("after a success: got %t, %v after %v, want no delay", open, err, time.Since(begun))
		}
		g.note(t.Context(), errDown)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.sleep(ctx, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got error %v, want that of the context", err)
		}
	})
}

// TestGateOutcomes checks which outcomes close the gate, which open it, and which leave it.
func TestGateOutcomes(t *testing.T) {
	t.Parallel()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		ctx         context.Context
		err         error
		close, open bool
	}{
		{t.Context(), nil, false, true},
		{t.Context(), errDown, true, false},
		{t.Context(), &brokenError{sent: true, err: io.EOF}, true, false},
		{t.Context(), io.ErrUnexpectedEOF, true, false},
		{t.Context(), &pgconn.PgError{Severity: "FATAL", Code: "57P01"}, true, false},
		{t.Context(), &pgconn.PgError{Severity: "ERROR", Code: "25006"}, false, true},
		{t.Context(), &pgconn.PgError{Severity: "ERROR", Code: "40001"}, false, true},
		// Of a shard, which PL/Proxy reports while it works, and so do other shards.
		{t.Context(), &pgconn.PgError{Severity: "ERROR", Code: "XX000", Message: "PL/Proxy function message_store.write_message(6): [shard] PQconnectPoll: refused"}, false, true},
		{t.Context(), &proxyError{&pgconn.PgError{Severity: "ERROR", Code: "XX000", Message: "PL/Proxy function message_store.write_message(6): [shard] PQconsumeInput: closed"}}, false, true},
		{t.Context(), &pgconn.PgError{Severity: "ERROR", Code: "57P01", Message: "message_store.write_message(6): [shard] REMOTE FATAL: shutdown"}, false, true},
		{t.Context(), &acquireError{context.DeadlineExceeded}, false, false}, // a busy pool
		{t.Context(), &acquireError{errOutOfTime}, false, false},
		{t.Context(), context.DeadlineExceeded, false, false},
		{ended, io.ErrUnexpectedEOF, false, false},
		{t.Context(), errors.New("of the caller's function"), false, false},
		{t.Context(), &unreadableError{errors.New("cannot decode")}, false, false},
	} {
		for _, closed := range []bool{false, true} {
			g := new(gate)
			if closed {
				g.note(t.Context(), errDown)
			}
			g.note(tt.ctx, tt.err)
			if got, want := g.closed.Load(), closed && !tt.open || tt.close; got != want {
				t.Errorf("%v: the gate, closed: %t, became closed: %t, want %t", tt.err, closed, got, want)
			}
		}
	}
}

// TestOpenGateAllocates checks that an open gate costs a call no allocation.
func TestOpenGateAllocates(t *testing.T) {
	g := new(gate)
	var r retries
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		if err := r.begin(ctx, RetryPolicy{}, g); err != nil {
			t.Error(err)
		}
		g.note(ctx, nil)
		r.leave()
	}); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}
