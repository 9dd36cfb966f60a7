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
// over when they were parked: after a loss, other messages get their positions. A proxy has no snapshot of a shard. There it reads in a session that has
// the message, because a server loses messages only when its sessions end.
func (r *running) readingBefore(a ledger.Anchor) readStream {
	return func(ctx context.Context, stream string, from int64, most int) (ms []mdb.Message, unreadable *mdb.UnreadableError, err error) {
		asks, err := askerOf(ctx, r.store)
		if err != nil {
			return nil, nil, err
		}
		snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
		err = pgx.BeginTxFunc(ctx, r.store.Pool(), snapshot, func(tx pgx.Tx) error {
			asks.db = tx
			name := mdb.StreamName(stream)
			ms, err = asks.before(ctx, string(name.Category()), a, func() ([]mdb.Message, error) {
				return r.store.WithTx(tx).GetStreamMessages(ctx, name, mdb.FromPosition(from), mdb.WithBatchSize(most))
			})
			return err
		})
		if errors.As(err, &unreadable) && unreadable.Position >= from && unreadable.GlobalPosition > 0 {
			return append(ms, placeholder(unreadable)), unreadable, nil
		}
		return ms, nil, err
	}
}

// before returns what read returns of a server that has the message of the anchor.
func (a asker) before(ctx context.Context, category string, anchor ledger.Anchor, read func() ([]mdb.Message, error)) ([]mdb.Message, error) {
	servers := make(map[string]server)
	if a.sharded {
		s, err := a.server(ctx, category)
		if err != nil {
			return nil, err
		}
		servers[category] = s
	}
	if anchor.ID != uuid.Nil {
		there, err := a.isThere(ctx, category, anchor)
		if err == nil && !there {
			err = errNotThere
		}
		if err != nil {
			return nil, err
		}
	}
	ms, err := read()
	if err == nil || errors.As(err, new(*mdb.UnreadableError)) {
		if changed := a.unchanged(ctx, servers); changed != nil {
			return nil, changed
		}
	}
	return ms, err
}
