package consumer

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

var errNotThere = errors.New("the store does not have the last message that a consumer has handled")

// readingBefore reads messages from a snapshot of the store that has the message of the anchor. So the messages up to it are those that were passed
// over when they were parked: after a loss, other messages get their positions.
func (r *running) readingBefore(a ledger.Anchor) readStream {
	return func(ctx context.Context, stream string, from int64, most int) (ms []mdb.Message, unreadable *mdb.UnreadableError, err error) {
		snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
		err = pgx.BeginTxFunc(ctx, r.store.Pool(), snapshot, func(tx pgx.Tx) error {
			there := a.ID == uuid.Nil
			if !there {
				const sql = `SELECT EXISTS (SELECT FROM message_store.messages AS m WHERE m.id = $1::text::uuid AND m.time = pg_catalog.timezone('UTC', $2::timestamptz))`
				if err := tx.QueryRow(ctx, sql, a.ID.String(), a.Time).Scan(&there); err != nil {
					return err
				}
			}
			if !there {
				return errNotThere
			}
			ms, err = r.store.WithTx(tx).GetStreamMessages(ctx, mdb.StreamName(stream), mdb.FromPosition(from), mdb.WithBatchSize(most))
			return err
		})
		if errors.As(err, &unreadable) && unreadable.Position >= from && unreadable.GlobalPosition > 0 {
			return append(ms, placeholder(unreadable)), unreadable, nil
		}
		return ms, nil, err
	}
}
