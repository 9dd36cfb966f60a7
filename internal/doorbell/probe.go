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
// primary. A proxy sends it to the shard with the number, so the database is that shard.
func (s *shard) sendProbe(ctx context.Context) {
	b, l := s.bell, &s.listener
	l.probe = probePrefix + crand.Text()
	l.probeSent = make(chan sentProbe, 1)
	l.probeEnds = time.Now().Add(statementTimeout)
	l.nextProbe = time.Now().Add(probeInterval + rand.N(probeInterval/4))
	payload, sent, notify := l.probe, l.probeSent, b.config.Notify
	b.mu.Lock()
	s.probing = payload
	b.mu.Unlock()
	// The shard's goroutine does not wait for a free connection of the pool.
	go func() {
		probe := sentProbe{err: errExits}
		defer func() {
			if v := recover(); v != nil { // of a hook of the pool
				probe.err = &panicError{v, debug.Stack()}
			}
			sent <- probe
		}()
		ctx, cancel := context.WithTimeout(ctx, statementTimeout)
		defer cancel()
		probe.at, probe.err = notify(ctx, s.number, payload)
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

// hear notes that a probe has arrived that is not for this connection.
func (s *shard) hear(payload string) {
	b := s.bell
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, other := range b.shards {
		if other != s && other.probing == payload {
			other.strayed = s
		}
	}
}

// whyNotHeard returns the error of a probe, with what is known about one that has not arrived.
func (s *shard) whyNotHeard(err error) error {
	b := s.bell
	if !errors.Is(err, errNotHeard) {
		return err
	}
	b.learn()
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.sharded:
		return err
	case s.strayed != nil:
		return &misplacedError{fmt.Sprintf("the address of ListenOn for shard %d is not that shard's: a NOTIFY that the proxy sends to shard %d arrives at the address for shard %d; "+
			"list the addresses in the order of the shards' numbers", s.number, s.number, s.strayed.number)}
	}
	return &misplacedError{fmt.Sprintf("a NOTIFY that the proxy sends to shard %d does not arrive at the address of ListenOn for shard %d; "+
		"set ListenOn to the addresses of the shards, in the order of their numbers, bypassing any pooler", s.number, s.number)}
}

// A misplacedError is the errNotHeard of a connection to a shard.
type misplacedError struct{ text string }

func (e *misplacedError) Error() string { return e.text }
func (e *misplacedError) Unwrap() error { return errNotHeard }
