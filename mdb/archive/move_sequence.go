package archive

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ddl"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// advance lets the sequence of a shard continue after a position, if it has not drawn that yet. It waits as [schema.InstallShard] does.
func advance(ctx context.Context, shard schema.DB, past int64) error {
	const sequence = "message_store.messages_global_position_seq"
	err := ddl.WithShortWaits(ctx, ddl.ReadCommitted(shard), map[string]string{"search_path": "pg_catalog, pg_temp"}, func(tx pgx.Tx) error {
		var before bool
		if err := tx.QueryRow(ctx, `SELECT last_value <= $1 FROM `+sequence, past).Scan(&before); err != nil || !before {
			return err
		}
		// This waits for all who have drawn a position. Nobody draws until the transaction ends, so setval cannot set the sequence back.
		if _, err := tx.Exec(ctx, fmt.Sprintf("ALTER SEQUENCE "+sequence+" INCREMENT BY %d", schema.ShardStride)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `SELECT setval(q.seqrelid, q.seqstart + ($1::bigint - q.seqstart) / q.seqincrement * q.seqincrement + q.seqincrement, false)
FROM `+sequence+` AS s, pg_sequence AS q
WHERE q.seqrelid = '`+sequence+`'::regclass AND s.last_value <= $1`, past)
		return err
	})
	if err != nil {
		return fmt.Errorf("advance the sequence of global positions: %w", err)
	}
	return nil
}

// draw draws positions until they are past one. Unlike setval, it cannot set the sequence back.
func draw(ctx context.Context, tx pgx.Tx, past int64) error {
	const next = `SELECT coalesce(max(pg_catalog.nextval('message_store.messages_global_position_seq')), 0)
FROM pg_catalog.generate_series(1, (SELECT ($1::bigint - s.last_value) / q.seqincrement + 1
	FROM message_store.messages_global_position_seq AS s, pg_catalog.pg_sequence AS q
	WHERE q.seqrelid = 'message_store.messages_global_position_seq'::pg_catalog.regclass AND $1::bigint >= s.last_value))`
	for {
		var drawn int64
		if err := tx.QueryRow(ctx, next, past).Scan(&drawn); err != nil || drawn == 0 || drawn > past {
			return err
		}
	}
}
