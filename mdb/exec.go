package mdb

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A runner runs statements. Each call is one round trip, once its statements are
// prepared.
type runner interface {
	// run executes the statement and calls read with its rows.
	run(ctx context.Context, st *statement, read func(pgx.Rows) error, args ...any) error

	// runBatch executes the steps in order, in one transaction. If that fails and undo
	// is not nil, it executes undo, which restores what the failed transaction may have
	// left changed in the session.
	runBatch(ctx context.Context, undo *statement, steps ...step) error
}

// A step of a batch is a statement with its arguments, and the function that reads its
// rows.
type step struct {
	st   *statement
	read func(pgx.Rows) error
	args []any
}

// A preparer is a *pgx.Conn or a pgx.Tx.
type preparer interface {
	Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error)
}

// A session is a *pgx.Conn or a transaction.
type session interface {
	preparer
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// connOf returns the connection of a session, or nil if that is not known.
func connOf(s any) *pgx.Conn {
	switch s := s.(type) {
	case *pgx.Conn:
		return s
	case interface{ Conn() *pgx.Conn }:
		return s.Conn()
	}
	return nil
}

// prepare returns the SQL or the name to execute for the statement. In pgx's default mode
// it prepares the statement under our own name: pgx would remove a statement from its
// cache after any error, and losing a race is an ordinary error here. The other modes are
// for servers and proxies that do not keep prepared statements, and pgx handles them.
func prepare(ctx context.Context, s session, t *trace, mode pgx.QueryExecMode, st *statement) (string, error) {
	if mode != pgx.QueryExecModeCacheStatement {
		return st.sql, nil
	}
	_, err := t.prepare(ctx, s, st)
	return t.name(st), err
}

func query(ctx context.Context, s session, mode pgx.QueryExecMode, st *statement, read func(pgx.Rows) error, args []any) error {
	t := traced(connOf(s))
	sql, err := prepare(ctx, s, t, mode, st)
	if err != nil {
		return notSent(s, err)
	}
	rows, err := s.Query(ctx, sql, t.shown(args)...)
	return readAll(rows, notSent(s, err), read)
}

func queryBatch(ctx context.Context, s session, mode pgx.QueryExecMode, steps []step) (err error) {
	t := traced(connOf(s))
	batch := new(pgx.Batch)
	for _, step := range steps {
		sql, err := prepare(ctx, s, t, mode, step.st)
		if err != nil {
			return notSent(s, err)
		}
		batch.Queue(sql, t.shown(step.args)...)
	}
	results := s.SendBatch(ctx, batch)
	defer func() {
		// The commit may fail although every step has succeeded, and although a result could
		// not be decoded, which Close may return again.
		if closeErr := results.Close(); err == nil || closeErr != nil && errors.As(err, new(*unreadableError)) && !errors.Is(err, closeErr) {
			err = closeErr
		}
	}()
	for i, step := range steps {
		rows, err := results.Query()
		if i == 0 { // pgx reports here what it could not send
			err = notSent(s, err)
		}
		if err := readAll(rows, err, step.read); err != nil {
			return err
		}
	}
	return nil
}

// notSent returns err, the error of a call that begins a statement, as an
// [*unsendableError] if pgx has rejected the statement. These errors of pgx have no type.
// After any other that is none of the server's, pgx has closed the connection, or says that
// a retry is safe.
func notSent(s any, err error) error {
	var pgErr *pgconn.PgError
	if err == nil || errors.As(err, &pgErr) || pgconn.SafeToRetry(err) {
		return err
	}
	if conn := connOf(s); conn == nil || conn.IsClosed() {
		return err
	}
	return &unsendableError{err}
}

// A poolRunner runs statements on a connection of the pool. Each call is a transaction of
// its own.
type poolRunner struct {
	pool     *pgxpool.Pool
	mode     pgx.QueryExecMode
	first    *firstUse
	watcher  *watcher
	gate     *gate
	readOnly *readOnly
	retry    *retryRunner // nil: this is no retry
	standby  bool         // whether the server must be one
}

func (r *poolRunner) query(ctx context.Context, conn *pgx.Conn, st *statement, read func(pgx.Rows) error, args []any) error {
	if r.mode == pgx.QueryExecModeCacheStatement {
		if ok, err := r.queryRaw(ctx, conn, st, read, args); ok {
			return err
		}
	}
	return query(ctx, conn, r.mode, st, read, args)
}

func (r *poolRunner) run(ctx context.Context, st *statement, read func(pgx.Rows) error, args ...any) (err error) {
	conn, err := r.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if r.standby && leadsToPrimary(conn.Conn()) {
		return errNotStandby
	}
	forgetCancelledWait(conn.Conn())
	if st, err = r.first.proxy().statement(st); err != nil {
		return err
	}
	c := r.watcher.begin(conn.Conn())
	defer func() { err = r.outcome(ctx, conn.Conn(), checkWait(conn.Conn(), r.watcher.end(ctx, c, err))) }()
	err = r.query(ctx, conn.Conn(), st, read, args)
	if err != nil && classify(err) == classStale {
		// The server rejected the prepared statement and did nothing else.
		if err := forget(ctx, conn.Conn(), st); err != nil {
			return err
		}
		err = r.query(ctx, conn.Conn(), st, read, args)
	}
	return err
}

func (r *poolRunner) runBatch(ctx context.Context, undo *statement, steps ...step) (err error) {
	conn, err := r.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return r.runBatchOn(ctx, conn.Conn(), undo, steps...)
}

// runBatchOn is runBatch on a connection that was acquired before.
func (r *poolRunner) runBatchOn(ctx context.Context, conn *pgx.Conn, undo *statement, steps ...step) (err error) {
	if r.standby && leadsToPrimary(conn) {
		return errNotStandby
	}
	forgetCancelledWait(conn)
	if err := r.first.proxy().statements(steps); err != nil {
		return err
	}
	c := r.watcher.begin(conn)
	defer func() { err = r.outcome(ctx, conn, checkWait(conn, r.watcher.end(ctx, c, err))) }()
	err = r.queryBatch(ctx, conn, steps)
	if err != nil && classify(err) == classStale {
		if err := forget(ctx, conn, statements(steps)...); err != nil {
			return err
		}
		err = r.queryBatch(ctx, conn, steps)
	}
	if err != nil && undo != nil && !conn.IsClosed() {
		if undoErr := query(ctx, conn, r.mode, undo, drain, nil); undoErr != nil {
			// The pool does not reuse a connection that is closed.
			_ = conn.Close(ctx)
		}
	}
	return err
}

// forget makes the connection prepare the statements again when they are next used.
func forget(ctx context.Context, conn *pgx.Conn, sts ...*statement) error {
	t := traced(conn)
	for _, st := range sts {
		t.forget(st)
		if err := conn.Deallocate(ctx, t.name(st)); err != nil {
			return err
		}
	}
	return nil
}

func statements(steps []step) []*statement {
	sts := make([]*statement, len(steps))
	for i, step := range steps {
		sts[i] = step.st
	}
	return sts
}

type acquireLimitKey struct{}

// An acquireLimit limits how long acquire waits. It uses its context with a timeout again for
// a quarter of that time: making one takes a noticeable part of the time of a poll.
type acquireLimit struct {
	wait time.Duration

	mu      sync.Mutex
	limited context.Context //nolint:containedctx // it is used again
	done    <-chan struct{} // of the context that limited is derived from
	begun   time.Time
}

// in returns a context in which acquire waits at most the time, and at least three quarters
// of it.
func (l *acquireLimit) in(ctx context.Context) context.Context {
	return context.WithValue(ctx, acquireLimitKey{}, l)
}

// context returns ctx with the timeout. Nothing cancels it before, because several calls may
// use it.
func (l *acquireLimit) context(ctx context.Context) context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.limited == nil || l.done != ctx.Done() || time.Since(l.begun) > l.wait/4 {
		limited, cancel := context.WithTimeout(ctx, l.wait)
		context.AfterFunc(limited, cancel)
		l.limited, l.done, l.begun = limited, ctx.Done(), time.Now()
	}
	return limitedContext{l.limited, ctx}
}

// A limitedContext has the values of another context than the one it ends with.
type limitedContext struct {
	context.Context //nolint:containedctx // it is one

	values context.Context //nolint:containedctx // see above
}

func (c limitedContext) Value(key any) any { return c.values.Value(key) }

// acquireContext returns the context for a call of acquire.
func acquireContext(ctx context.Context) context.Context {
	if limit, ok := ctx.Value(acquireLimitKey{}).(*acquireLimit); ok {
		return limit.context(ctx)
	}
	return ctx
}

// acquire returns a connection, whether or not the store may be used.
func acquire(ctx context.Context, pool *pgxpool.Pool) (*pgxpool.Conn, error) {
	limited := acquireContext(ctx)
	conn, err := pool.Acquire(limited)
	if err != nil {
		return nil, &acquireError{contextError(limited, err)}
	}
	return conn, nil
}
