package mdb

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
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
		case !passes(err, s.begun):
			return err
		}
		s.logger.LogAttrs(ctx, slog.LevelWarn, "subscription's read is tried again", slog.Int("attempt", attempt), slog.Any("error", err))
		if s.onRetry != nil {
			if err := s.call(nil, func() error { s.onRetry(Retry{Attempt: attempt, Err: err}); return nil }); err != nil {
				return err
			}
		}
		if subscriptionRetry.wait(ctx, attempt) != nil {
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

// suspect replaces the pool's connections: those that are idle may lead nowhere too,
// and would be met one by one. Where none is idle the pool may just be busy.
func (s *Store) suspect() {
	if s.pool.Stat().IdleConns() > 0 {
		s.pool.Reset()
	}
}

// subscriptionRetry has no last attempt.
var subscriptionRetry = RetryPolicy{MinDelay: 20 * time.Millisecond, MaxDelay: 5 * time.Second}

// passes tells whether a failed read may succeed later. What a subscription meets
// at its very beginning, such as a missing schema or a wrong password, is a mistake
// in its set-up; later the same is an upgrade, a failover or a rotation.
func passes(err error, begun bool) bool {
	switch classify(err) {
	case classTransient, classNotSent, classUnknown, classStale, classAborted:
		return true
	case classSetup:
		return begun
	}
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		// A hook of the pool may have refused, but a closed pool stays closed. It has
		// no error of its own that pgx exports.
		var acquire *acquireError
		return errors.As(err, &acquire) && !strings.Contains(acquire.Error(), "closed pool")
	}
	if pgErr.Code == "XX000" { // as when what a statement refers to is just being replaced
		return begun
	}
	switch pgErr.Code[:min(2, len(pgErr.Code))] {
	case "53", "57", "58", "25": // resources, intervention, the system, a standby
		return true
	}
	return false
}
