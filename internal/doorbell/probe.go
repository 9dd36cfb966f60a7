package doorbell

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/messagedb-go/messagedb/internal/trigger"
)

const probePrefix = trigger.NoStream + "probe-"

// sendProbe sends a notification through the pool, where writes come from. If it arrives,
// the connection is to the same database, without a pooler in between, and the server is a
// primary.
func (b *Bell) sendProbe(ctx context.Context) {
	l := &b.listener
	l.probe = probePrefix + crand.Text()
	l.probeSent = make(chan sentProbe, 1)
	l.probeEnds = time.Now().Add(statementTimeout)
	l.nextProbe = time.Now().Add(probeInterval + rand.N(probeInterval/4))
	payload, sent, notify := l.probe, l.probeSent, b.config.Notify
	// The bell's goroutine does not wait for a free connection of the pool.
	go func() {
		defer func() { // of a hook of the pool
			if v := recover(); v != nil {
				sent <- sentProbe{err: &panicError{v, debug.Stack()}}
			}
		}()
		ctx, cancel := context.WithTimeout(ctx, statementTimeout)
		defer cancel()
		at, err := notify(ctx, payload)
		sent <- sentProbe{at, err}
	}()
}

// checkProbe returns an error if a probe was sent and has not arrived in time. If the pool
// had no connection for the probe, that proves nothing: a connection that was proved before
// remains so.
func (l *listener) checkProbe(now time.Time, proved bool) error {
	if l.probe == "" || now.Before(l.probeEnds) {
		return nil
	}
	sent := sentProbe{err: ErrBusy}
	select {
	case sent = <-l.probeSent:
	default:
	}
	busy := errors.Is(sent.err, ErrBusy)
	switch {
	case busy && proved:
		l.probe, l.probeEnds = "", time.Time{}
		return nil
	case busy:
		return ErrBusy
	case sent.err != nil:
		return fmt.Errorf("notify through the pool: %w", sent.err)
	}
	if ends := sent.at.Add(statementTimeout); now.Before(ends) {
		l.probeEnds = ends
		l.probeSent <- sent
		return nil
	}
	return errNotHeard
}
