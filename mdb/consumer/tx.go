package consumer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// rollbackTimeout limits a rollback, which cannot use the context of the call, because that
// may have ended.
const rollbackTimeout = 5 * time.Second

func beginSQL(isolation pgx.TxIsoLevel) string { return "begin isolation level " + string(isolation) }

// An openTx is a transaction in which handlers are called.
type openTx struct {
	conn *pgxpool.Conn
	tx   pgx.Tx
	idle time.Duration // after which the server ends it
	over atomic.Bool   // the transaction is committed, or about to be
}

// beginTx begins a transaction in one round trip. The server ends it after it was idle for a
// time, so that a process that was stopped holds no locks; 0 is for ever.
func beginTx(ctx context.Context, pool *pgxpool.Pool, isolation pgx.TxIsoLevel, idle time.Duration) (*openTx, error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	var tx pgx.Tx
	defer func() {
		if tx == nil { // also if a tracer of pgx panics, which counts as a failure of the handler
			conn.Release()
		}
	}()
	tx, err = conn.BeginTx(ctx, pgx.TxOptions{
		BeginQuery: beginSQL(isolation) + "; set local idle_in_transaction_session_timeout = " + strconv.FormatInt(idle.Milliseconds(), 10),
	})
	if err != nil {
		return nil, err
	}
	return &openTx{conn: conn, tx: tx, idle: idle}, nil
}

// given returns the transaction for handlers, which cannot end it. The store's WithTx knows it.
func (t *openTx) given(s *mdb.Store) pgx.Tx {
	return s.WithTx(closingTx{t.tx, &t.over}).Tx()
}

var (
	errEnded   = errors.New("the handler has ended its transaction")
	errIgnored = errors.New("a statement of the handler failed, and the handler returned nil")
	errOpen    = errors.New("the handler has left rows or results of its transaction open")
	errLost    = errors.New("the handler's connection was lost")
)

// check returns the error of a handler that returned err.
func (t *openTx) check(err error) error {
	conn := t.conn.Conn()
	switch {
	case conn.IsClosed() && err == nil:
		return &lostError{errLost}
	case conn.IsClosed():
		return &lostError{err}
	case conn.PgConn().IsBusy():
		return errors.Join(errOpen, err)
	case conn.PgConn().TxStatus() == 'I':
		return Permanent(errors.Join(errEnded, err)) // nobody knows what a retry would do
	case conn.PgConn().TxStatus() == 'E' && err == nil:
		return errIgnored
	}
	return err
}

// commit moves the checkpoint past the call's deliveries and commits, in one round trip. The
// last handler was called at begun.
func (t *openTx) commit(ctx context.Context, c call, begun time.Time) error {
	t.over.Store(true)
	took := time.Since(begun)
	conn := t.conn.Conn()
	var b pgx.Batch
	moves := c.queue(&b)
	b.Queue("commit")
	err := endBatch(conn, conn.SendBatch(ctx, &b), moves)
	// The server's reason may not arrive, because it closes the connection. It counts from the last statement, which may be one of
	// the handler before.
	if conn.IsClosed() && (isIdle(err) || t.idle > 0 && took >= t.idle-t.idle/10) {
		return &idleError{took, t.idle, err.Error()}
	}
	return err
}

// move returns the move that the deliveries of the call make.
func (c *call) move() ledger.Move {
	move := c.from
	if c.isReplay() {
		return move
	}
	last := &c.deliveries[len(c.deliveries)-1].message
	move.To, move.Anchor = last.GlobalPosition, ledger.Anchor{ID: last.ID, Time: last.Time}
	return move
}

func (c *call) isReplay() bool { return c.deliveries[0].replayed != nil }

// queue queues the statements after which the deliveries are done with, and returns their number.
func (c *call) queue(b *pgx.Batch) int {
	ledger.QueueMove(b, c.member, c.move())
	if !c.isReplay() {
		return 1
	}
	t := replayTurn{}
	for i := range c.deliveries {
		t.take(&c.deliveries[i], true)
	}
	for _, s := range t.steps {
		ledger.QueueReplayed(b, c.member, c.from.Partition, c.from.Epoch, s.stream, s.from, s.next)
	}
	return 1 + len(t.steps)
}

// endBatch reads the results of the statements of queue, and of COMMIT.
func endBatch(conn *pgx.Conn, results pgx.BatchResults, moves int) error {
	var moveErr error
	for range moves {
		if _, moveErr = results.Exec(); moveErr != nil {
			break
		}
	}
	var tag pgconn.CommandTag
	err := moveErr
	if err == nil {
		tag, err = results.Exec()
	}
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	if moveErr != nil && isRejected(conn, moveErr) && !ledger.IsFenced(moveErr) && !isConflict(moveErr) {
		return Transient(fmt.Errorf("move the checkpoint: %w", moveErr))
	}
	return commitError(conn, tag, err)
}

// commitError returns the error of a transaction that has ended with COMMIT, if it may be not
// committed.
func commitError(conn *pgx.Conn, tag pgconn.CommandTag, err error) error {
	switch {
	case err != nil && conn.IsClosed():
		return Transient(fmt.Errorf("commit: %w", err))
	case err != nil:
		return err
	case tag.String() != "COMMIT":
		return fmt.Errorf("commit: the server answers %q", tag.String())
	case conn.PgConn().TxStatus() != 'I':
		return errors.New("commit: the connection is still in a transaction")
	}
	return nil
}

// close rolls back, unless the transaction is committed, and gives the connection back.
func (t *openTx) close(ctx context.Context) {
	t.over.Store(true)
	defer t.conn.Release() // also if a tracer of pgx panics
	rollback(ctx, t.conn.Conn())
}

// rollback ends the transaction of the connection, if it is in one. If that fails, the pool
// closes the connection, which rolls back as well.
func rollback(ctx context.Context, conn *pgx.Conn) {
	if conn.IsClosed() || conn.PgConn().IsBusy() || conn.PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	_, _ = conn.Exec(ctx, "rollback")
}

// isRejected reports whether the server has answered with err, and the connection is still
// there.
func isRejected(conn *pgx.Conn, err error) bool {
	return errors.As(err, new(*pgconn.PgError)) && !conn.IsClosed()
}

// isIdle reports whether the server has ended the session because its transaction was idle, or
// took, for too long.
func isIdle(err error) bool {
	code := codeOf(err)
	return code == "25P03" || code == "25P04"
}
