package mdb

import (
	"context"
	"errors"
	"reflect"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A Transaction is a value that [Store.WithTx] can use: a pgx.Tx, or a connection that is in
// a transaction, such as a *pgx.Conn or a *pgxpool.Conn, or a type of yours that wraps one of
// them. Unless it is a *pgx.Conn, it should have a method Conn() *pgx.Conn, as the others
// have. Without that method, statements are sent as SQL rather than prepared by mdb, and
// reads with a condition are rejected.
type Transaction interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// A txSession is a [Transaction] as a session.
type txSession struct {
	Transaction
	preparer           // nil if the connection is not known
	conn     *pgx.Conn // likewise
}

func (s txSession) Conn() *pgx.Conn { return s.conn }

// A txRunner runs statements within a transaction.
type txRunner struct {
	tx     txSession
	plain  bool // whether the connection is all there is, and may not be in a transaction
	mode   pgx.QueryExecMode
	state  *txState
	first  *firstUse
	looked bool           // whether first has found no problem in this transaction
	proxy  proxyKind      // of the database that it is in
	faults argumentFaults // of WithTx, for each call

	readOnly *readOnly
	watcher  *watcher // nil if the transaction is the caller's
	call     *call    // of its connection
}

func newTxRunner(tx Transaction, mode pgx.QueryExecMode, state *txState, first *firstUse) *txRunner {
	r := &txRunner{tx: txSession{Transaction: tx}, mode: mode, state: state, first: first}
	reject := func(given string) *txRunner {
		r.faults.add("transaction", given, "a pgx.Tx, or a connection that is in a transaction")
		return r
	}
	if isNil(tx) {
		return reject("nil")
	}
	switch tx := tx.(type) {
	case *pgxpool.Pool:
		return reject("a pool")
	case *pgx.Conn:
		r.tx.conn = tx
	case interface{ Conn() *pgx.Conn }:
		if r.tx.conn = tx.Conn(); r.tx.conn == nil {
			return reject("one whose method Conn returns nil")
		}
	default:
		// Any mode in which prepare returns SQL. It is pgx that decides how to send it.
		r.mode = pgx.QueryExecModeExec
		return r
	}
	if p, ok := tx.(pgx.Tx); ok {
		r.tx.preparer = p
		return r
	}
	// It may be a connection of another pool or of database/sql.
	r.plain, r.mode = true, r.tx.conn.Config().DefaultQueryExecMode
	if r.tx.preparer, _ = tx.(preparer); r.tx.preparer == nil {
		r.tx.preparer = r.tx.conn
	}
	return r
}

// isNil reports whether v is nil or a nil pointer.
func isNil(v any) bool {
	value := reflect.ValueOf(v)
	return v == nil || value.Kind() == reflect.Pointer && value.IsNil()
}

// check reports a transaction in which nothing can be done, or must not be. It sends nothing
// after the first use of the store. On a proxy it replaces the statements.
func (r *txRunner) check(ctx context.Context, steps []step) (err error) {
	if err := r.checkUse(ctx); err != nil || r.proxy == noProxy {
		return err
	}
	if r.first.direct {
		return errProxiedDirect
	}
	for i := range steps {
		if steps[i].st, err = r.proxy.inTx(steps[i].st); err != nil {
			return err
		}
	}
	return nil
}

func (r *txRunner) checkUse(ctx context.Context) error {
	if len(r.faults) == 0 && r.plain && !r.tx.conn.IsClosed() && r.tx.conn.PgConn().TxStatus() == 'I' {
		return &ArgumentError{Faults: []Fault{{"transaction", "a connection that is not in a transaction", "one that is, because WithTx does not begin one"}}}
	}
	if err := r.faults.err(); err != nil || r.looked {
		return err
	}
	over, proxy := r.first.overOn(r.tx.conn)
	if r.proxy = proxy; over {
		return nil
	}
	var mode []any
	if r.tx.conn != nil { // otherwise it may not know what a mode is
		mode = lookMode(r.mode)
	}
	proxy, err := r.first.checkTx(ctx, r.tx, mode)
	r.looked, r.proxy = err == nil, proxy
	if errors.As(err, new(*SetupError)) {
		return err // which leaves the transaction as it is
	}
	return r.end(ctx, err)
}

func (r *txRunner) run(ctx context.Context, st *statement, read func(pgx.Rows) error, args ...any) error {
	one := [1]step{{st: st}}
	if err := r.check(ctx, one[:]); err != nil {
		return err
	}
	st = one[0].st
	return r.end(ctx, query(ctx, r.tx, r.mode, st, read, args), st)
}

func (r *txRunner) runBatch(ctx context.Context, undo *statement, steps ...step) error {
	if err := r.check(ctx, steps); err != nil {
		return err
	}
	if undo == conditionOff {
		if err := r.checkCondition(ctx); err != nil {
			return err
		}
	}
	return r.end(ctx, queryBatch(ctx, r.tx, r.mode, steps), statements(steps)...)
}

// checkCondition checks the value that conditionSetting has after a rollback. A failed
// transaction cannot execute conditionOff, and its rollback restores the value from before
// the transaction, so that value must be off. Behind a pooler the role has it.
func (r *txRunner) checkCondition(ctx context.Context) error {
	const problem = "a read with a condition in a transaction may leave the setting " + conditionSetting + " on after the transaction"
	switch {
	case r.tx.conn == nil:
		return &SetupError{
			Problem: problem + ", and the connection's settings are not known",
			Remedy:  "give WithTx a pgx.Tx, or another type that has a method Conn() *pgx.Conn",
		}
	case r.tx.conn.Config().RuntimeParams[conditionSetting] == "off":
		return nil
	}
	var off bool
	if err := query(ctx, r.tx, r.mode, conditionIsOff, one(&off), nil); err != nil || off {
		return r.end(ctx, err, conditionIsOff)
	}
	return &SetupError{
		Problem: problem,
		Remedy:  "prepare the pool's configuration with Configure, which turns it off at start-up, or, behind a pooler, ALTER ROLE … SET " + conditionSetting + " = off",
	}
}

// end notes the first error, which the transaction's end may need to explain.
func (r *txRunner) end(ctx context.Context, err error, sts ...*statement) error {
	if err == nil {
		return nil
	}
	err = r.watcher.explain(r.call, err)
	if r.state.failed == nil {
		r.state.failed = err
	}
	if r.readOnly != nil && r.tx.conn != nil && isReadOnly(err) {
		r.readOnly.rejectedInTx(r.tx.conn, err)
	}
	if classify(err) == classStale {
		// This transaction has failed, but the next one on the connection can succeed. If
		// this fails, the connection has failed, and its statements are gone anyway.
		_ = r.forget(ctx, sts...)
	}
	return contextError(ctx, err)
}

// forget makes the connection prepare the statements again. Without a connection there is
// none that is prepared.
func (r *txRunner) forget(ctx context.Context, sts ...*statement) error {
	if r.tx.conn == nil {
		return nil
	}
	return forget(ctx, r.tx.conn, sts...)
}
