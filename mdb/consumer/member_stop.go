package consumer

import (
	"context"
	"time"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/internal/ledger"
)

// leaveTries is the number of attempts to leave.
const leaveTries = 3

var leaveRetry = backoff.Policy{Min: 50 * time.Millisecond, Max: 500 * time.Millisecond}

// stop begins the end: no message is passed to handlers any more, those that have one finish.
// run returns result, and handlers that take too long have the cause.
func (m *member) stop(result, cause error) {
	if m.stopping {
		return
	}
	m.stopping, m.result, m.cause = true, result, cause
	m.stopAt = time.Now().Add(m.drain)
	for n := range numbersOf(m.held) {
		m.leaving[n] = true
	}
	m.releaseAt = time.Now().Add(m.interval()) // usually everything is released earlier, when the member leaves
	m.stopFeeding(func(partition) bool { return true })
	m.collect()
}

// isDrained reports whether no handler has messages any more.
func (m *member) isDrained() bool {
	for p := range m.held {
		if _, ok := m.drained[p]; !ok {
			return false
		}
	}
	return true
}

// finished reports whether the member may leave: when all handlers have returned, or some time
// after their contexts have ended.
func (m *member) finished(engineEnded bool) bool {
	m.collect()
	if engineEnded {
		return true
	}
	now := time.Now()
	if !m.leaveAt.IsZero() {
		return !now.Before(m.leaveAt)
	}
	if m.isDrained() || !now.Before(m.stopAt) {
		m.endEngine(m.cause)
		m.leaveAt = now.Add(handlersEnd)
	}
	return false
}

// leave stores how far everything is handled, and deletes the member, so that others take over
// immediately. What fails is left to the lease.
func (m *member) leave(ctx context.Context) {
	if m.evicted || m.left {
		return
	}
	for _, mv := range m.engine.drained() {
		m.drained[mv.Partition] = mv
	}
	for _, mv := range m.engine.progress() {
		m.drained[mv.Partition] = mv
	}
	known := func() (moves []ledger.Move) {
		for p, mv := range m.drained {
			if _, ok := m.held[p]; ok && m.doubt == nil {
				moves = append(moves, mv)
			}
		}
		return moves
	}
	self := *m.self.Load()
	for attempt := 1; ; attempt++ {
		m.checkLease() // after its end there is no hurry
		var err error
		if m.doubt != nil {
			err = m.lookAgain(ctx, self)
		}
		sure := m.doubt == nil
		if err == nil || attempt == leaveTries {
			err = m.send(ctx, func(ctx context.Context, p protocol) error {
				if m.doubt != nil && sure && attempt < leaveTries { // another connection
					return m.doubt
				}
				return p.leave(ctx, self, known())
			})
		}
		if err == nil {
			break
		}
		if attempt == leaveTries {
			m.logger.Warn("a consumer could not leave: others take over when its lease has ended", m.attrs("error", err)...)
			break
		}
		if !isAnswer(err) {
			m.suspect(errReread)
		}
		_ = leaveRetry.Wait(context.WithoutCancel(ctx), attempt)
	}
	m.lease.end()
}

// lookAgain ends a doubt before the member leaves, so that it can store what it has handled. A tick says before which history
// this is. There is nothing to store if the member was deleted.
func (m *member) lookAgain(ctx context.Context, self ledger.Member) error {
	alive := false
	err := m.send(ctx, func(ctx context.Context, p protocol) error {
		t, err := p.beat(ctx, self, "", nil)
		if alive = err == nil && t.Alive; alive {
			m.see(t.Timeline)
		}
		return err
	})
	if err != nil || !alive {
		return err
	}
	m.look(ctx)
	return m.doubt
}

// waitForHandlers waits until all handlers have returned.
func (m *member) waitForHandlers(ended <-chan error) {
	timer := time.NewTimer(handlersEnd)
	defer timer.Stop()
	for {
		select {
		case <-ended: //nolint:errcheck // the error is known
			return
		case <-timer.C:
			m.logger.Warn("handlers of a consumer do not return although their contexts have ended", m.attrs()...)
		}
	}
}
