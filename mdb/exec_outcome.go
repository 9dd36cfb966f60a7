package mdb

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A retryRunner is what a poolRunner observes in a write or transaction that has begun to
// retry because the server could not be reached.
type retryRunner struct {
	place    *place
	deadline time.Time // of a wait for a connection
}

// retrying returns s for the next attempt of a call. Once the server could not be reached, it
// observes the call's time and place.
func (s *procedures) retrying(r *retries) *procedures {
	if r.outage == nil {
		return s
	}
	runner := *s.runner.(*poolRunner)
	runner.retry = &retryRunner{r.at(s.gate), r.outage.deadline}
	retrying := *s
	retrying.runner = &runner
	return &retrying
}

// acquire returns a connection of the pool on which the store may be used.
func (r *poolRunner) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	var (
		conn *pgxpool.Conn
		err  error
	)
	if r.retry == nil {
		conn, err = r.first.acquire(ctx, r.pool, r.mode)
	} else {
		conn, err = r.acquireUntil(ctx, r.retry.deadline)
	}
	if err != nil {
		r.gate.note(ctx, err)
	}
	return conn, err
}

func (r *poolRunner) acquireUntil(ctx context.Context, deadline time.Time) (conn *pgxpool.Conn, err error) {
	limited, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	defer func() {
		if err != nil && limited.Err() != nil && ctx.Err() == nil {
			err = &acquireError{errOutOfTime}
		}
	}()
	if _, err = r.retry.place.enter(ctx, deadline); err != nil {
		return nil, &acquireError{contextError(ctx, err)}
	}
	if conn, err = r.first.acquire(limited, r.pool, r.mode); err != nil {
		return nil, err
	}
	if !r.retry.place.probes() {
		return conn, nil
	}
	acquired, usable := conn, false
	defer func() {
		if !usable { // also if a tracer of pgx panics
			acquired.Release()
		}
	}()
	// The connection may be an old one, which is dead. And if the server has answered, others
	// need not wait for the end of a statement that waits for a lock.
	if err := r.watcher.watch(ctx, conn.Conn(), func() error { return conn.Ping(limited) }); err != nil {
		return nil, &brokenError{err: err}
	}
	r.gate.answered()
	usable = true
	return conn, nil
}

// outcome returns err, the outcome of a call on the connection, after it has recorded what
// that says about the server.
func (r *poolRunner) outcome(ctx context.Context, conn *pgx.Conn, err error) error {
	if err == nil {
		r.gate.answered()
		if r.standby && leadsToPrimary(conn) { // it has been promoted, and may have a history of its own
			return errNotStandby
		}
		return nil
	}
	err = contextError(ctx, err)
	if isReadOnly(err) {
		err = r.readOnly.rejected(ctx, conn, err)
	}
	r.gate.note(ctx, err)
	return err
}
