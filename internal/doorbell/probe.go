package doorbell

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// sendProbe notifies through the pool, where writes come from: what arrives proves
// that the connection is to the same database, that there is no pooler between, and
// that the server is a primary.
func (b *Bell) sendProbe(ctx context.Context) {
	l := &b.listener
	l.probe = probePrefix + crand.Text()
	l.probeSent = make(chan sentProbe, 1)
	l.probeEnds = time.Now().Add(statementTimeout)
	l.nextProbe = time.Now().Add(probeInterval + rand.N(probeInterval/4))
	payload, sent, notify := l.probe, l.probeSent, b.config.Notify
	// The goroutine does not wait for the pool to have a connection to spare.
	go func() {
		ctx, cancel := context.WithTimeout(ctx, statementTimeout)
		defer cancel()
		at, err := notify(ctx, payload)
		sent <- sentProbe{at, err}
	}()
}

// checkProbe fails when a probe was sent and has not arrived. What the pool had no
// connection for proves nothing: it leaves proved what was proved before.
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
