package mdb

import (
	"context"
	"log/slog"
	"time"

	"github.com/messagedb-go/messagedb/internal/backoff"
)

// readAcquireLimit is about how long a read waits for a connection of the pool before that counts
// as a failure. The pool may be opening one to a machine that is gone.
const readAcquireLimit = 10 * time.Second

// retryTransient retries f after transient errors.
func (s *messageSource) retryTransient(ctx context.Context, f func(context.Context) error) error {
	woken := false
	for attempt := 1; ; attempt++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := f(s.limited(ctx))
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !classify(err).retryRead(s.begun):
			return err
		}
		if classify(err) == classNoConnection {
			s.suspect()
		}
		s.logger.LogAttrs(ctx, slog.LevelWarn, "retrying a subscription's read", slog.Int("attempt", attempt), slog.Any("error", err))
		if s.retried != nil {
			if err := s.retried(ctx, Retry{Attempt: attempt, Err: err}); err != nil {
				return err
			}
		}
		woken, err = s.gate.rest(ctx, subscriptionRetry.Delay(attempt), s.gate != nil && !woken && isOutage(ctx, err))
		if err != nil {
			return context.Cause(ctx)
		}
	}
}

// attempt calls f once, or until it succeeds.
func (s *messageSource) attempt(ctx context.Context, once bool, f func(context.Context) error) error {
	switch {
	case !once:
		return s.retryTransient(ctx, f)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return f(s.limited(ctx))
}

// limited returns a context for a read.
func (s *messageSource) limited(ctx context.Context) context.Context {
	if s.limit == nil {
		s.limit = &acquireLimit{wait: readAcquireLimit}
	}
	return s.limit.in(ctx)
}

// subscriptionRetry is a policy without a last attempt.
var subscriptionRetry = backoff.Policy{Min: 20 * time.Millisecond, Max: time.Second}
