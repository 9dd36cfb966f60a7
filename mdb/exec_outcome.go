package mdb

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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
	// The connection may be an old one, which is dead. And if the server has answered, others
	// need not wait for the end of a statement that waits for a lock.
	if err := conn.Ping(limited); err != nil {
		conn.Release()
		return nil, &brokenError{err: err}
	}
	r.gate.answered()
	return conn, nil
}

// outcome returns err, the outcome of a call on the connection, after it has recorded what
// that says about the server.
func (r *poolRunner) outcome(ctx context.Context, conn *pgx.Conn, err error) error {
	if err == nil {
		r.gate.answered()
		return nil
	}
	err = contextError(ctx, err)
	if isReadOnly(err) {
		err = r.readOnly.rejected(ctx, conn, err)
	}
	r.gate.note(ctx, err)
	return err
}

// isReadOnly reports whether the server has rejected a write because it is read-only.
func isReadOnly(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "25006" && classify(err) == classReadOnly
}

// A readOnly is what a store knows about a server that rejects writes because it is a standby
// or read-only. After a failover the pool may still have connections to the old primary, for
// as long as they live, while new ones lead to the new primary.
type readOnly struct {
	pool   *pgxpool.Pool
	logger *slog.Logger

	met atomic.Bool // since the last write that has succeeded

	mu    sync.Mutex
	since time.Time // when the pool's connections were last replaced
}

// wrote records that a write has succeeded.
func (o *readOnly) wrote() {
	if o.met.Load() {
		o.met.Store(false)
	}
}

// replace replaces the pool's connections. The lock is held.
func (o *readOnly) replace(err error) {
	o.met.Store(true)
	o.since = time.Now()
	o.logger.Warn("the server is a standby or read-only: replacing the pool's connections", "error", scrub(err))
	o.pool.Reset()
}

// rejectedInTx does what rejected does for a connection in a transaction of the caller, which
// cannot be asked. Servers since version 14 report what they are. The pool does not reuse the
// connection. Nothing tells whether the caller's transactions succeed later.
func (o *readOnly) rejectedInTx(conn *pgx.Conn, err error) {
	status := conn.PgConn().ParameterStatus
	if status("in_hot_standby") != "on" && status("default_transaction_read_only") != "on" {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.since) > replaceAgain {
		o.replace(err)
	}
}

// replaceAgain is how long the pool's connections are kept at least.
const replaceAgain = time.Second

// rejected closes a connection on which a write has failed with err, unless the server is not
// read-only after all, and replaces the pool's connections. It does that once until a write
// succeeds: each of many writes that fail closes its own connection.
func (o *readOnly) rejected(ctx context.Context, conn *pgx.Conn, err error) error {
	asked := time.Now()
	why, askErr := askReadOnly(ctx, conn)
	if askErr == nil && !why.standby && !why.byDefault {
		return &writableError{err}
	}
	// The pool does not reuse a connection that is closed.
	_ = conn.Close(ctx)
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.met.Load() {
		o.replace(err)
		return err
	}
	if askErr == nil && !why.standby && why.age < asked.Sub(o.since) {
		return &SetupError{
			Problem: "transactions are read-only, because of the setting default_transaction_read_only",
			Remedy:  "set default_transaction_read_only to off where it is on: for the role, the database or the server, or in the connection string",
			err:     scrub(err),
		}
	}
	return err
}

// A readOnlyReason says why a server rejects writes.
type readOnlyReason struct {
	standby, byDefault bool
	age                time.Duration // of the connection, by the server's clock
}

const readOnlyQuery = `
SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('default_transaction_read_only') = 'on',
	coalesce((SELECT extract(epoch FROM pg_catalog.clock_timestamp() - backend_start) * 1e6
		FROM pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid()), 1e15)::bigint`

func askReadOnly(ctx context.Context, conn *pgx.Conn) (why readOnlyReason, err error) {
	ctx, cancel := context.WithTimeout(ctx, rollbackTimeout)
	defer cancel()
	var micros int64
	rows, err := conn.Query(ctx, readOnlyQuery, lookMode(conn.Config().DefaultQueryExecMode)...)
	err = readAll(rows, err, one(&why.standby, &why.byDefault, &micros))
	why.age = time.Duration(micros) * time.Microsecond
	return why, err
}

// A writableError is the error of a write that a server has rejected as read-only although it
// is not: it has just been promoted, or the transaction itself is read-only.
type writableError struct{ err error }

func (e *writableError) Error() string { return e.err.Error() }
func (e *writableError) Unwrap() error { return e.err }
