package mdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A Tx reads and writes within a transaction. Like the transaction, it is not safe for
// concurrent use.
//
// A write locks its category until the end of the transaction: other writes to the category
// wait until then. If a call fails on the server, the transaction is aborted: roll it back.
// A write with [InSavepoint] does not abort it. Writes are not retried.
type Tx struct {
	procedures
	pgx pgx.Tx // nil if it is another type
}

// A txState records the calls in a transaction, for its end.
type txState struct {
	written []uuid.UUID  // the IDs of the messages written, in order
	streams []StreamName // the streams written to
	given   bool         // whether the caller has the transaction, and may have written with it
	failed  error        // the error of the first call that failed
	undone  error        // the last transient error of a call that a savepoint has undone
}

// WithTx returns a Tx on the caller's transaction, which the caller commits or rolls back.
// Use it to write messages together with rows of your own tables. WithTx sends nothing: if
// it is given nil, a pool, or a connection that is not in a transaction, each call of the Tx
// returns an [*ArgumentError].
//
// Begin the transaction as read committed, the server's default. At a stricter isolation
// level a write that loses a race fails with a [*WrongVersionError] even if it expected no
// version, and the transaction must be restarted.
//
// With a transaction of database/sql, pass the *pgx.Conn that sql.Conn.Raw gives access to,
// as the example shows. If the connection is not from the store's pool, the first call on it
// checks its search path, as the first call of the store does.
//
// What [Store.Atomically] does for its transaction is the caller's part here:
//
//   - Limit the calls by their contexts. The store does not give up the connection if the server
//     stops answering.
//   - With synchronous standbys, the commit succeeds even if its wait for them was cancelled. The
//     server then sends a notice with SQLSTATE 01000 and the routine SyncRepWaitForLSN.
//
// Through PL/Proxy, writes of the Tx are rejected with an error that wraps [ErrProxied], because
// they would neither be rolled back nor wait for the commit.
func (s *Store) WithTx(tx Transaction) *Tx {
	state := new(txState)
	if inner, ok := tx.(*innerTx); ok && inner != nil {
		state = inner.state
	}
	runner := newTxRunner(tx, s.config.execMode, state, s.first)
	runner.readOnly = s.readOnly
	t := &Tx{procedures: procedures{
		runner: runner,
		config: s.config,
		tx:     state,

		conflicts: s.conflicts,
	}}
	if !isNil(tx) {
		t.pgx, _ = tx.(pgx.Tx)
	}
	return t
}

// LockCategories locks the categories, as writes to them do, until the end of the
// transaction. Transactions that write to several categories can deadlock if they lock them
// in different orders. One call at the beginning of each transaction prevents that, because
// it always takes the locks in the same order: that of [Hash64] of the names in UTF-8, also in
// a database with another encoding.
//
// Through PL/Proxy the call is rejected with an error that wraps [ErrProxied].
func (t *Tx) LockCategories(ctx context.Context, categories ...Category) error {
	var f argumentFaults
	for _, c := range categories {
		f.category("category", c)
	}
	if err := f.err(); err != nil || len(categories) == 0 {
		return err
	}
	names := make([]string, len(categories))
	for i, c := range categories {
		names[i] = string(c)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(Hash64(a), Hash64(b)) })
	if err := t.run(ctx, acquireLocks, drain, slices.Compact(names)); err != nil {
		return explain("lock categories", err)
	}
	return nil
}

// Atomically calls f in a new transaction, which it commits if f returns nil: either
// everything that f writes happens, or nothing. Before it calls f, it locks the categories
// with [Tx.LockCategories]; pass all categories that f writes to. The isolation level is
// read committed.
//
// In f, use the Tx only. [Tx.Tx] executes statements on your own tables in the same
// transaction. A call of the Store in f uses another connection: it does not see what f has
// written, a write to a category that f has locked waits for f, which waits for it, and if
// the pool has no other connection, any call waits. PostgreSQL does not detect these
// deadlocks. Only the end of the call's context ends them.
//
// f may be called more than once, because the transaction is retried, as [WithRetry] says:
//
//   - after a failure to connect, a connection that is lost before the commit is sent, and if the
//     server is read-only;
//   - after a deadlock, a serialization failure, a lock timeout, or the loss of a prepared
//     statement. This includes errors of statements of your own, if f returns them without
//     having rolled back to a savepoint.
//
// The errors:
//
//   - If f returns another error, the transaction is rolled back, and Atomically returns that
//     error unchanged.
//   - If f returns nil although a call or statement has failed, nothing is written, and the
//     error wraps that of the first call of the Tx that failed.
//   - If the server cannot be reached, or is read-only, for as long as WithRetry says, the error
//     wraps [ErrUnavailable] and the last failure. Nothing is written.
//   - If the connection is lost during the commit, or its wait for a synchronous standby is
//     cancelled, the error is an [*UnknownOutcomeError] with the IDs of all messages that f
//     wrote, or found to be written with [Idempotent]. There are none if f only executed
//     statements of its own.
//   - Through PL/Proxy the call is rejected with an error that wraps [ErrProxied].
func (s *Store) Atomically(ctx context.Context, categories []Category, f func(*Tx) error) error {
	call := WriteCall{Method: "Atomically"}
	ctx, begun := s.config.hooks.startCall(ctx, call)
	err := s.atomicallyRetried(ctx, categories, f)
	s.config.hooks.endCall(ctx, call, begun, err)
	return err
}

// atomicallyRetried is Atomically without hooks.
func (s *Store) atomicallyRetried(ctx context.Context, categories []Category, f func(*Tx) error) error {
	if f == nil {
		return &ArgumentError{Faults: []Fault{{"function", "nil", "a function"}}}
	}
	var r retries
	defer r.leave()
	if err := r.begin(ctx, s.config.retry, s.gate); err != nil {
		return explain("begin a transaction", r.ended(ctx, r.outage.err))
	}
	for attempt := 1; ; attempt++ {
		again, err := s.atomically(ctx, &r, categories, f)
		if err == nil || again == noRetry {
			return err
		}
		if !r.allow(ctx, s.config.retry, again, err) || ctx.Err() != nil {
			return r.endedTransaction(ctx, err)
		}
		s.config.logger.LogAttrs(ctx, slog.LevelWarn, "retrying a transaction",
			slog.Int("attempt", attempt), slog.Any("error", err))
		if r.wait(ctx, s.config.retry, s.gate) != nil {
			return r.endedTransaction(ctx, err)
		}
	}
}

// endedTransaction returns the error of a transaction that is not retried. Unless the time
// for retries has passed, that of the last attempt is complete.
func (r *retries) endedTransaction(ctx context.Context, err error) error {
	ended := r.ended(ctx, err)
	if errors.As(ended, new(*unavailableError)) {
		return explain("execute a transaction", ended)
	}
	return ended
}

// rollbackTimeout limits a rollback, which cannot use the context of the call, because that
// may have ended.
const rollbackTimeout = 5 * time.Second

func (s *Store) atomically(ctx context.Context, r *retries, categories []Category, f func(*Tx) error) (again limit, err error) {
	runner := s.retrying(r).runner.(*poolRunner)
	conn, err := runner.acquire(ctx)
	if err != nil {
		return classify(err).retryWrite(), explain("begin a transaction", err)
	}
	defer conn.Release()
	if s.proxied() {
		return noRetry, &proxiedError{"begin a transaction", whyNotInTx}
	}
	c := s.watcher.begin(conn.Conn())
	defer func() { _ = s.watcher.end(ctx, c, nil) }()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		// The server was not yet asked to write anything.
		err = runner.outcome(ctx, conn.Conn(), s.watcher.explain(c, err))
		return classify(err).retryWrite(), explain("begin a transaction", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		defer cancel()
		// After a commit it does nothing. If it fails, the connection is closed, which
		// rolls back as well.
		_ = tx.Rollback(ctx)
	}()

	// retry decides what follows from err, with which a transaction has ended that is not
	// committed.
	retry := func(err error) (limit, error) {
		if isReadOnly(err) {
			_ = tx.Rollback(ctx) // so that the server can be asked
		}
		outcome := runner.outcome(ctx, conn.Conn(), err)
		again := classify(outcome).retryTransaction()
		if again == byTime && (!isOfConnection(err) || isSlow(err)) {
			again = noRetry // the error is that of f, or f would be too slow again
		}
		if errors.As(outcome, new(*SetupError)) {
			err = outcome
		}
		return again, err
	}

	t := s.WithTx(tx)
	inTx := t.runner.(*txRunner) //nolint:forcetypeassert // that of WithTx
	inTx.watcher, inTx.call = s.watcher, c
	if err := t.LockCategories(ctx, categories...); err != nil {
		return retry(err)
	}
	s.watcher.pause(c, true)
	err = f(t)
	s.watcher.pause(c, false)
	if err != nil {
		// An error with such a code may come from another database that f uses.
		switch {
		case tx.Conn().IsClosed():
			if again, _ = retry(err); again != byTime {
				again = noRetry
			}
		case tx.Conn().PgConn().TxStatus() == 'E' || t.tx.undone != nil && errors.Is(err, t.tx.undone):
			return retry(err)
		}
		return again, err
	}

	wasClosed := tx.Conn().IsClosed()
	forgetCancelledWait(tx.Conn())
	err = contextError(ctx, checkWait(tx.Conn(), s.watcher.explain(c, tx.Commit(ctx))))
	switch {
	case err == nil:
		runner.gate.answered()
		for _, stream := range t.tx.streams {
			s.wrote(stream)
		}
		return noRetry, nil
	case errors.Is(err, pgx.ErrTxCommitRollback):
		// f ignored the error of a call, or of a statement of its own.
		if t.tx.failed != nil {
			again, t.tx.failed = retry(t.tx.failed)
		}
		return again, t.tx.explain(err)
	case classify(err).lost() && !wasClosed && (len(t.tx.written) > 0 || t.tx.given):
		runner.gate.note(ctx, err)
		return noRetry, &UnknownOutcomeError{IDs: t.tx.written, err: err}
	}
	if wasClosed && t.tx.failed != nil {
		again, _ = retry(t.tx.failed) // which f ignored
	} else {
		again, _ = retry(err)
	}
	return again, explain("commit", err)
}

// isSlow reports whether the server has ended the session because a transaction was idle, or
// took, for too long.
func isSlow(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == "25P03" || pgErr.Code == "25P04")
}

// explain returns the error of a commit that the server turned into a rollback.
func (s *txState) explain(err error) error {
	if s.failed == nil {
		return fmt.Errorf("mdb: the transaction was rolled back, because a statement in it failed: %w", err)
	}
	cause := scrub(s.failed)
	if classify(cause) == classSetup {
		if setup := explainSetup(cause); setup != nil {
			cause = setup
		}
	}
	return fmt.Errorf("mdb: the transaction was rolled back, because a call in it failed: %w", cause)
}
