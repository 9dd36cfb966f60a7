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
)

// A Tx reads and writes within a transaction. It is, like the transaction, not
// safe for concurrent use.
//
// A write takes its category's lock and keeps it to the end of the transaction:
// nobody else writes to the category until then. A call that fails on the server
// has ended the transaction; roll it back. A write is not tried again.
type Tx struct {
	procedures
}

// txState is what the transaction's end needs to know of its calls.
type txState struct {
	written []uuid.UUID  // of the messages written, in order
	streams []StreamName // written to
	failed  error        // of the first statement that failed
}

// WithTx returns a Tx on the caller's transaction, which the caller commits or
// rolls back. The transaction is best begun as read committed, the server's
// default: in a stricter one a write that loses a race fails with a
// [*WrongVersionError] even if it expected nothing, and the transaction has to be
// begun again. The transaction's connection is one of the store's pool, or one
// configured alike.
func (s *Store) WithTx(tx pgx.Tx) *Tx {
	state := new(txState)
	return &Tx{procedures{
		runner: &txRunner{tx: tx, mode: s.config.execMode, state: state},
		config: s.config,
		tx:     state,
	}}
}

// LockCategories takes the locks that writes to the categories take, and keeps
// them to the end of the transaction. Transactions that write to several
// categories deadlock if they come to them in different orders; taken by one call
// at the beginning, the locks are always taken in the same order.
func (t *Tx) LockCategories(ctx context.Context, categories ...Category) error {
	var f faults
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

// Atomically runs f within a transaction: all that f writes happens, or nothing
// does. It locks the categories before it calls f, by [Tx.LockCategories]; they
// should be those that f writes to. The transaction is read committed, and is
// committed if f returns nil.
//
// If the server ends the transaction because of a deadlock, a serialization
// failure, a lock timeout or a prepared statement that it has forgotten, all of it is
// done again, f included, as often as [WithRetry] says; f may therefore run more than
// once. An error of f's own ends the transaction and is returned as it is. If the
// connection is lost while the transaction commits, the error is an
// [*UnknownOutcomeError] with the IDs of all messages that f wrote.
func (s *Store) Atomically(ctx context.Context, categories []Category, f func(*Tx) error) error {
	for attempt := 1; ; attempt++ {
		again, err := s.atomically(ctx, categories, f)
		if err == nil || !again || attempt == s.config.retry.Attempts {
			return err
		}
		s.config.logger.LogAttrs(ctx, slog.LevelWarn, "transaction is tried again",
			slog.Int("attempt", attempt), slog.Any("error", err))
		if s.config.retry.wait(ctx, attempt) != nil {
			return contextError(ctx, err)
		}
	}
}

// rollbackTimeout bounds a rollback, which must not depend on a context that may
// have ended.
const rollbackTimeout = 5 * time.Second

func (s *Store) atomically(ctx context.Context, categories []Category, f func(*Tx) error) (again bool, err error) {
	conn, err := acquire(ctx, s.pool)
	if err != nil {
		return classify(err).retryWrite(), explain("begin a transaction", err)
	}
	defer conn.Release()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		// Nothing was asked of the server yet that could have happened.
		return classify(err).retryWrite(), explain("begin a transaction", contextError(ctx, err))
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		defer cancel()
		// After a commit it does nothing; when it fails the connection is closed,
		// which rolls back as well.
		_ = tx.Rollback(ctx)
	}()

	t := s.WithTx(tx)
	if err := t.LockCategories(ctx, categories...); err != nil {
		return classify(err).retryTransaction(), err
	}
	if err := f(t); err != nil {
		// An error with such a code may be f's own, from another database.
		ended := tx.Conn().PgConn().TxStatus() == 'E'
		return ended && classify(err).retryTransaction(), err
	}

	wasClosed := tx.Conn().IsClosed()
	err = contextError(ctx, tx.Commit(ctx))
	switch {
	case err == nil:
		for _, stream := range t.tx.streams {
			s.wrote(stream)
		}
		return false, nil
	case errors.Is(err, pgx.ErrTxCommitRollback) && t.tx.failed != nil:
		// f has kept to itself that a call had failed.
		err = fmt.Errorf("mdb: the transaction was rolled back, because a call in it had failed: %w", scrub(t.tx.failed))
		return classify(t.tx.failed).retryTransaction(), err
	case classify(err).lost() && !wasClosed && len(t.tx.written) > 0:
		return false, &UnknownOutcomeError{IDs: t.tx.written, err: err}
	}
	return classify(err).retryTransaction(), explain("commit", err)
}
