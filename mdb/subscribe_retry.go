package mdb

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/messagedb-go/messagedb/internal/backoff"
)

// retryTransient retries f after transient errors.
func (s *messageSource) retryTransient(ctx context.Context, f func(context.Context) error) error {
	woken := false
	for attempt := 1; ; attempt++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := s.withReadTimeout(ctx, f)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !classify(err).retryRead(s.begun):
			return err
		}
		s.logger.LogAttrs(ctx, slog.LevelWarn, "retrying a subscription's read", slog.Int("attempt", attempt), slog.Any("error", err))
		if s.retried != nil {
			if err := s.retried(ctx, Retry{Attempt: attempt, Err: err}); err != nil {
				return err
			}
		}
		// As in a write's retries, each delay that a success of another call has cut short is
		// followed by a whole one.
		var waitErr error
		if delay := subscriptionRetry.Delay(attempt); s.gate != nil && !woken && isOutage(ctx, err) {
			woken, waitErr = s.gate.sleep(ctx, delay)
		} else {
			woken, waitErr = false, backoff.Sleep(ctx, delay)
		}
		if waitErr != nil {
			return context.Cause(ctx)
		}
	}
}

// minReadTimeout is the shortest time after which a read times out.
const minReadTimeout = 10 * time.Second

// withReadTimeout cancels f if it takes too long. If the other end disappears without
// closing the connection, nothing else detects that for hours. The read may just have been
// slow, so the next one may take longer.
func (s *messageSource) withReadTimeout(ctx context.Context, f func(context.Context) error) error {
	timeout := max(s.readTimeout, minReadTimeout)
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	begun := time.Now()
	err := f(limited)
	switch {
	case err == nil:
		s.readTimeout = 2 * time.Since(begun)
	case limited.Err() != nil && ctx.Err() == nil:
		if !errors.As(err, new(*acquireError)) {
			s.readTimeout = 2 * timeout
		}
		s.suspect()
	}
	return err
}

// suspect replaces the pool's connections: the idle ones may be dead too, and each would
// have to time out. If none is idle, the pool may just be busy. The pool may be shared with the
// rest of the program, so a warning says why its connections were closed.
func (s *Store) suspect() {
	if idle := s.pool.Stat().IdleConns(); idle > 0 {
		s.config.logger.Warn("a subscription's read timed out: replacing the pool's connections", "idle", idle)
		s.pool.Reset()
	}
}

// subscriptionRetry is a policy without a last attempt.
var subscriptionRetry = backoff.Policy{Min: 20 * time.Millisecond, Max: time.Second}
