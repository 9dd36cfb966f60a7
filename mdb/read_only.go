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

// isReadOnly reports whether the server has rejected a write because it is read-only.
func isReadOnly(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == "25006" || isInRecovery(pgErr)) && classify(err) == classReadOnly
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

// begin reports whether to replace the pool's connections, because one that was opened at that
// time leads to a server that is read-only. One that was opened before they were last replaced
// says nothing about those that have been opened since. Unless always is set, it also returns
// false if no write has succeeded since. It returns when they were replaced before.
func (o *readOnly) begin(opened time.Time, always bool) (replace bool, since time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	since = o.since
	if replace = opened.After(since) && (always || !o.met.Load()); replace {
		o.met.Store(true)
		o.since = time.Now()
	}
	return replace, since
}

func (o *readOnly) replace(err error) {
	o.logger.Warn("the server is a standby or read-only: replacing the pool's connections", "error", scrub(err))
	o.pool.Reset()
}

// rejectedInTx does what rejected does for a connection in a transaction of the caller, which
// cannot be asked. Servers since version 14 report what they are. The pool does not reuse the
// connection. The store does not see whether the caller's transactions succeed later.
func (o *readOnly) rejectedInTx(conn *pgx.Conn, err error) {
	if saysReadOnly(conn) {
		o.replaceSoon(err)
	}
}

// rejectedInPool reports whether a connection of the pool leads to a server that is a standby or
// read-only, or none can be opened. It is for a write that has failed on an unknown connection. It sends nothing.
func (o *readOnly) rejectedInPool(ctx context.Context, err error) (found bool) {
	conns := o.pool.AcquireAllIdle(ctx)
	if len(conns) == 0 {
		conn, acquireErr := o.pool.Acquire(ctx)
		if acquireErr != nil {
			return true
		}
		conns = append(conns, conn)
	}
	for _, conn := range conns {
		found = found || saysReadOnly(conn.Conn())
		conn.Release()
	}
	if found {
		o.replaceSoon(err)
	}
	return found
}

// saysReadOnly reports whether the server has said that it is a standby or read-only, as servers
// since version 14 do.
func saysReadOnly(conn *pgx.Conn) bool {
	status := conn.PgConn().ParameterStatus
	return status("in_hot_standby") == "on" || status("default_transaction_read_only") == "on"
}

// replaceSoon replaces the pool's connections, unless that was done just now.
func (o *readOnly) replaceSoon(err error) {
	if replace, _ := o.begin(time.Now().Add(-replaceAgain), true); replace {
		o.replace(err)
	}
}

// replaceAgain is how long the pool's connections are kept at least, if the store does not see
// when the connection was opened and whether writes succeed.
const replaceAgain = time.Second

// rejected closes a connection on which a write has failed with err, unless the server is not
// read-only after all, and replaces the pool's connections. It does that once until a write
// succeeds: each of many writes that fail closes its own connection.
func (o *readOnly) rejected(ctx context.Context, conn *pgx.Conn, err error) error {
	if isOfShard(err) {
		// With another session, PL/Proxy opens another connection to the shard.
		_ = conn.Close(ctx)
		return err
	}
	opened := time.Now()
	why, askErr := askReadOnly(ctx, conn)
	if askErr == nil && !why.standby && !why.byDefault {
		return &writableError{err}
	}
	// The pool does not reuse a connection that is closed.
	_ = conn.Close(ctx)
	opened = opened.Add(-why.age)
	replace, since := o.begin(opened, false)
	if replace {
		o.replace(err)
		return err
	}
	if askErr == nil && !why.standby && opened.After(since) {
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
