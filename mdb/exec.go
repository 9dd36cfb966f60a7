package mdb

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A runner runs statements in one round trip, once they are prepared.
type runner interface {
	// run gives the rows of the statement to read.
	run(ctx context.Context, st *statement, read func(pgx.Rows) error, args ...any) error

	// runBatch runs the steps one behind the other in one transaction. If that
	// fails, undo, unless it is nil, makes good what the failed transaction left of
	// an earlier state.
	runBatch(ctx context.Context, undo *statement, steps ...step) error
}

// A step of a batch is a statement, and what reads its rows.
type step struct {
	st   *statement
	read func(pgx.Rows) error
	args []any
}

// A session is what a *pgx.Conn and a pgx.Tx have in common.
type session interface {
	Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// text returns what the session is to be given for the statement. In pgx's default
// mode it is prepared under our own name: pgx would drop a statement of its own
// cache upon any error, and losing a race is an ordinary error here. The other
// modes exist for servers and proxies that do not keep prepared statements, and
// are left to pgx.
func text(ctx context.Context, s session, mode pgx.QueryExecMode, st *statement) (string, error) {
	if mode != pgx.QueryExecModeCacheStatement {
		return st.sql, nil
	}
	_, err := s.Prepare(ctx, st.name, st.sql)
	return st.name, err
}

func query(ctx context.Context, s session, mode pgx.QueryExecMode, st *statement, read func(pgx.Rows) error, args []any) error {
	sql, err := text(ctx, s, mode, st)
	if err != nil {
		return err
	}
	rows, err := s.Query(ctx, sql, args...)
	return readAll(rows, err, read)
}

func queryBatch(ctx context.Context, s session, mode pgx.QueryExecMode, steps []step) (err error) {
	batch := new(pgx.Batch)
	for _, step := range steps {
		sql, err := text(ctx, s, mode, step.st)
		if err != nil {
			return err
		}
		batch.Queue(sql, step.args...)
	}
	results := s.SendBatch(ctx, batch)
	defer func() {
		// The transaction's end may fail where every step has succeeded.
		if closeErr := results.Close(); err == nil {
			err = closeErr
		}
	}()
	for _, step := range steps {
		rows, err := results.Query()
		if err := readAll(rows, err, step.read); err != nil {
			return err
		}
	}
	return nil
}

// poolRunner runs statements on a connection of the pool, as a transaction of
// their own.
type poolRunner struct {
	pool   *pgxpool.Pool
	mode   pgx.QueryExecMode
	tracer pgx.QueryTracer // the pool's, if it has one
}

func (r *poolRunner) query(ctx context.Context, conn *pgx.Conn, st *statement, read func(pgx.Rows) error, args []any) error {
	if r.mode == pgx.QueryExecModeCacheStatement {
		if ok, err := r.queryRaw(ctx, conn, st, read, args); ok {
			return err
		}
	}
	return query(ctx, conn, r.mode, st, read, args)
}

func (r *poolRunner) run(ctx context.Context, st *statement, read func(pgx.Rows) error, args ...any) error {
	conn, err := acquire(ctx, r.pool)
	if err != nil {
		return err
	}
	defer conn.Release()
	err = r.query(ctx, conn.Conn(), st, read, args)
	if err != nil && classify(err) == classStale {
		// The server has refused the statement, and nothing else has happened.
		if err := forget(ctx, conn.Conn(), st); err != nil {
			return contextError(ctx, err)
		}
		err = r.query(ctx, conn.Conn(), st, read, args)
	}
	return contextError(ctx, err)
}

func (r *poolRunner) runBatch(ctx context.Context, undo *statement, steps ...step) error {
	conn, err := acquire(ctx, r.pool)
	if err != nil {
		return err
	}
	defer conn.Release()
	err = queryBatch(ctx, conn.Conn(), r.mode, steps)
	if err != nil && classify(err) == classStale {
		if err := forget(ctx, conn.Conn(), statements(steps)...); err != nil {
			return contextError(ctx, err)
		}
		err = queryBatch(ctx, conn.Conn(), r.mode, steps)
	}
	if err != nil && undo != nil && !conn.Conn().IsClosed() {
		if undoErr := query(ctx, conn.Conn(), r.mode, undo, drain, nil); undoErr != nil {
			// Released closed, the connection is not used again.
			_ = conn.Conn().Close(ctx)
		}
	}
	return contextError(ctx, err)
}

// txRunner runs statements within a transaction.
type txRunner struct {
	tx    pgx.Tx
	mode  pgx.QueryExecMode
	state *txState
}

func (r *txRunner) run(ctx context.Context, st *statement, read func(pgx.Rows) error, args ...any) error {
	return r.end(ctx, query(ctx, r.tx, r.mode, st, read, args), st)
}

func (r *txRunner) runBatch(ctx context.Context, undo *statement, steps ...step) error {
	// Once the transaction has failed nothing can be made good in it: then only
	// what the session began with holds.
	if undo == conditionOff && r.tx.Conn().Config().RuntimeParams[conditionSetting] != "off" {
		return &SetupError{
			Problem: "a condition in a transaction may leave the setting " + conditionSetting + " on behind it",
			Remedy:  "let Configure prepare the pool's configuration, which sets it off at start-up",
		}
	}
	return r.end(ctx, queryBatch(ctx, r.tx, r.mode, steps), statements(steps)...)
}

func (r *txRunner) end(ctx context.Context, err error, sts ...*statement) error {
	if err == nil {
		return nil
	}
	if r.state.failed == nil {
		r.state.failed = err
	}
	if classify(err) == classStale {
		// The transaction is lost, but the connection's next one need not be. If
		// this fails so does the connection, and with it the statements.
		_ = forget(ctx, r.tx.Conn(), sts...)
	}
	return contextError(ctx, err)
}

// forget makes the connection prepare the statements anew when they are next used.
func forget(ctx context.Context, conn *pgx.Conn, sts ...*statement) error {
	for _, st := range sts {
		if err := conn.Deallocate(ctx, st.name); err != nil {
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

func acquire(ctx context.Context, pool *pgxpool.Pool) (*pgxpool.Conn, error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, &acquireError{contextError(ctx, err)}
	}
	return conn, nil
}
