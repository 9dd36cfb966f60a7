package mdb

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// Tx returns the transaction as a pgx.Tx, for statements of your own, for example on your
// own tables in a transaction of [Store.Atomically]. It is nil if [Store.WithTx] was given a
// type that is not a pgx.Tx.
//
// Its Commit and Rollback return an error and do nothing, because the transaction belongs to
// Atomically, or to the caller of WithTx. Its Begin creates a savepoint, whose Commit and
// Rollback work as usual; give it to WithTx to write or read there. Its Conn returns the
// connection: do not begin or end a transaction on it, and do not use it after the
// transaction. Do not change the search path if Message DB's functions depend on it.
func (t *Tx) Tx() pgx.Tx {
	if t.pgx == nil {
		return nil
	}
	t.tx.given = true
	return &innerTx{Tx: t.pgx, state: t.tx}
}

// An innerTx is a transaction that its holder must not end, or a savepoint in it.
type innerTx struct {
	pgx.Tx
	state *txState
	// before is the state when the savepoint was created; nil if this is the transaction.
	before *txState
}

var errNotOwner = errors.New("mdb: this transaction is committed or rolled back by Atomically, by a consumer, or by the caller of WithTx")

func (t *innerTx) Begin(ctx context.Context) (pgx.Tx, error) {
	inner, err := t.Tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	before := *t.state
	return &innerTx{Tx: inner, state: t.state, before: &before}, nil
}

func (t *innerTx) Commit(ctx context.Context) error {
	if t.before == nil {
		return errNotOwner
	}
	return t.Tx.Commit(ctx)
}

func (t *innerTx) Rollback(ctx context.Context) error {
	if t.before == nil {
		return errNotOwner
	}
	err := t.Tx.Rollback(ctx)
	if err == nil {
		// What was written since is undone, and so is a failure.
		undone := t.state.undone
		if failed := t.state.failed; failed != nil && classify(failed).retryTransaction() != noRetry {
			undone = failed
		}
		*t.state = *t.before
		t.state.undone = undone
	}
	return err
}
