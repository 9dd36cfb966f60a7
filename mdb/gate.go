package mdb

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/backoff"
)

// maxProbes is how many calls use the pool while the server cannot be reached: one would be
// enough, unless its connection hangs.
const maxProbes = 2

// A gate is closed while the last outcome of a store was a connection failure. Then at most
// maxProbes writes and transactions use the pool, and the others wait until a call of the
// store succeeds. So a server that is down is not flooded with connections, each of which may
// have to time out, and nothing waits longer than necessary once the server is back.
//
// Reads do not wait: a single one is not retried, and a subscription sleeps between its
// attempts. Their outcomes count.
//
// It has no goroutine. While it is open it costs an atomic load for each call.
type gate struct {
	closed atomic.Bool // is changed with the lock only

	mu      sync.Mutex
	failure error         // the last one
	opened  uint64        // how often the gate has opened, which makes all places free
	taken   int           // places taken since
	changed chan struct{} // closed when the gate opens or a place becomes free; nil: nobody waits
}

// note records the outcome of a call that used the pool with ctx.
func (g *gate) note(ctx context.Context, err error) {
	switch {
	case g == nil:
	case err == nil:
		g.answered()
	case isOutage(ctx, err):
		g.mu.Lock()
		defer g.mu.Unlock()
		g.failure = err
		g.closed.Store(true)
	case isAnswer(err):
		g.answered()
	}
}

// answered opens the gate, because the server has answered.
func (g *gate) answered() {
	if g == nil || !g.closed.Load() {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed.Store(false)
	g.failure, g.taken = nil, 0
	g.opened++
	g.change()
}

// change wakes all that wait. The lock is held.
func (g *gate) change() {
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}

// changes returns a channel that is closed by the next change. The lock is held, so that no
// change is lost between a look and a wait.
func (g *gate) changes() <-chan struct{} {
	if g.changed == nil {
		g.changed = make(chan struct{})
	}
	return g.changed
}

// lastFailure returns the failure that has closed the gate, or nil if it is open.
func (g *gate) lastFailure() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failure
}

// sleep waits for d, or until the gate opens. It reports whether the gate is open.
func (g *gate) sleep(ctx context.Context, d time.Duration) (open bool, err error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		g.mu.Lock()
		closed, changes := g.closed.Load(), g.changes()
		g.mu.Unlock()
		if !closed {
			return true, nil
		}
		select {
		case <-changes:
		case <-timer.C:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// rest waits for d before the next attempt of a call, or, if wakes is set, until the gate opens.
// It reports whether that has cut the wait short. The caller then waits for all of the next
// delay: if others succeed while this call alone fails, they must not keep it from waiting.
func (g *gate) rest(ctx context.Context, d time.Duration, wakes bool) (woken bool, err error) {
	if wakes {
		return g.sleep(ctx, d)
	}
	return false, backoff.Sleep(ctx, d)
}

// A place is the right of one call to use the pool while the gate is closed. The call keeps it
// between its attempts, and must leave it at its end.
type place struct {
	gate   *gate
	taken  bool
	opened uint64 // the gate's when the place was taken
}

// enter waits until the call may use the pool: the gate is open, or the call has a place. It
// returns errOutOfTime at the deadline. It reports whether it had to wait.
func (p *place) enter(ctx context.Context, deadline time.Time) (waited bool, err error) {
	changes := p.take()
	if changes == nil {
		return false, nil
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for ; changes != nil; changes = p.take() {
		select {
		case <-changes:
		case <-timer.C:
			return true, errOutOfTime
		case <-ctx.Done():
			return true, ctx.Err()
		}
	}
	return true, nil
}

// take returns nil if the call may use the pool, and otherwise what to wait for.
func (p *place) take() (changes <-chan struct{}) {
	g := p.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.closed.Load() || p.taken && p.opened == g.opened:
		return nil
	case g.taken == maxProbes:
		return g.changes()
	}
	g.taken++
	p.taken, p.opened = true, g.opened
	return nil
}

// probes reports whether the call is one of those that use the pool while the gate is closed.
func (p *place) probes() bool {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	return p.taken && p.opened == p.gate.opened && p.gate.closed.Load()
}

// leave makes the place free for another call.
func (p *place) leave() {
	if !p.taken {
		return
	}
	g := p.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.opened == g.opened {
		g.taken--
		g.change()
	}
	p.taken = false
}

// isOutage reports whether err, of a call with ctx, shows that the server cannot be reached.
// The end of a context does not: the call may have waited for a lock, or for a connection that
// others use.
func isOutage(ctx context.Context, err error) bool {
	if ctx.Err() != nil || errors.Is(err, errOutOfTime) || !isConnectError(err) && isContextError(err) {
		return false
	}
	if isOfShard(err) {
		return false // the proxy has answered, and so do other shards
	}
	class := classify(err)
	return (class == classNotSent || class == classUnknown) && isOfConnection(err)
}

// isAnswer reports whether err is the server's answer to a statement.
func isAnswer(err error) bool {
	var pgErr *pgconn.PgError
	return errors.Is(err, errCancelledWait) || errors.As(err, &pgErr) && !isConnectError(err) && !isFatal(pgErr)
}
