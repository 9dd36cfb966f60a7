package mdb

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/messagedb-go/messagedb/internal/backoff"
)

// untilItWorks tries again what fails in a way that passes.
func (s *subscription) untilItWorks(ctx context.Context, f func(context.Context) error) error {
	for attempt := 1; ; attempt++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := s.inTime(ctx, f)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !classify(err).retryRead(s.begun):
			return err
		}
		s.logger.LogAttrs(ctx, slog.LevelWarn, "subscription's read is tried again", slog.Int("attempt", attempt), slog.Any("error", err))
		if s.onRetry != nil {
			if err := s.call(nil, func() error { s.onRetry(Retry{Attempt: attempt, Err: err}); return nil }); err != nil {
				return err
			}
		}
		if subscriptionRetry.Wait(ctx, attempt) != nil {
			return context.Cause(ctx)
		}
	}
}

// readPatience is how long any read may take.
const readPatience = 10 * time.Second

// inTime breaks f off when it takes too long. Where the other end has gone without
// a word, neither reading nor the network says so, at least not for hours. But the
// read may just have had much to do, so the next one may take longer.
func (s *subscription) inTime(ctx context.Context, f func(context.Context) error) error {
	patience := max(s.patience, readPatience)
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	begun := time.Now()
	err := f(limited)
	switch {
	case err == nil:
		s.patience = 2 * time.Since(begun)
	case limited.Err() != nil && ctx.Err() == nil:
		if !errors.As(err, new(*acquireError)) {
			s.patience = 2 * patience
		}
		s.suspect()
	}
	return err
}

// suspect replaces the pool's connections: the idle ones may be dead too, and would be
// found one by one. Where none is idle the pool may just be busy. The pool may be shared
// with the rest of the program, which should be able to find out why its connections
// were closed.
func (s *Store) suspect() {
	if idle := s.pool.Stat().IdleConns(); idle > 0 {
		s.config.logger.Warn("a subscription's read was not answered: replacing the pool's connections", "idle", idle)
		s.pool.Reset()
	}
}

// subscriptionRetry has no last attempt.
var subscriptionRetry = backoff.Policy{Min: 20 * time.Millisecond, Max: 5 * time.Second}
