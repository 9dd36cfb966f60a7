package consumer

import (
	"context"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A closingTx is a transaction, or a savepoint in it, that returns pgx.ErrTxClosed once it is
// over: the connection may be in use by others then. pgx does not notice the end, because
// COMMIT is sent in a batch.
type closingTx struct {
	open pgx.Tx
	over *atomic.Bool
}

// closedTx is a transaction whose methods return pgx.ErrTxClosed.
var closedTx = func() pgx.Tx {
	var b pgx.Batch
	b.BeginTx(pgx.TxOptions{})
	return pgx.FailedBatchResults(&b, pgx.ErrTxClosed).Tx()
}()

func (t closingTx) tx() pgx.Tx {
	if t.over.Load() {
		return closedTx
	}
	return t.open
}

func (t closingTx) Begin(ctx context.Context) (pgx.Tx, error) {
	inner, err := t.tx().Begin(ctx)
	if err != nil {
		return nil, err
	}
	return closingTx{inner, t.over}, nil
}

func (t closingTx) Commit(ctx context.Context) error   { return t.tx().Commit(ctx) }
func (t closingTx) Rollback(ctx context.Context) error { return t.tx().Rollback(ctx) }
func (t closingTx) LargeObjects() pgx.LargeObjects     { return t.tx().LargeObjects() }
func (t closingTx) Conn() *pgx.Conn                    { return t.tx().Conn() }

func (t closingTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	return t.tx().CopyFrom(ctx, table, columns, rows)
}

func (t closingTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return t.tx().SendBatch(ctx, b)
}

func (t closingTx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	return t.tx().Prepare(ctx, name, sql)
}

func (t closingTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return t.tx().Exec(ctx, sql, args...)
}

func (t closingTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return t.tx().Query(ctx, sql, args...)
}

func (t closingTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return t.tx().QueryRow(ctx, sql, args...)
}
