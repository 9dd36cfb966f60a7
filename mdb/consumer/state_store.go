package consumer

import (
	"context"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/scan"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// What a consumer whose state is in another database asks the store.
const (
	sqlReachedElsewhere = `WITH ends AS (
	SELECT w.category, w.position FROM ROWS FROM (pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::bigint[])) AS w(category, position)
)
` + sqlEndsReached

	// sqlUpto is not an equality, with which PostgreSQL may scan the whole table by its primary key.
	sqlUpto = `SELECT m.global_position, m.id::text, m.time FROM message_store.messages AS m
WHERE message_store.category(m.stream_name) >= $1::text AND message_store.category(m.stream_name) <= $1::text AND m.global_position <= $2::bigint
ORDER BY message_store.category(m.stream_name) DESC, m.global_position DESC LIMIT 1`

	sqlUsed = `SELECT greatest((SELECT coalesce(max(m.global_position), 0) FROM message_store.messages AS m),
	coalesce(pg_sequence_last_value(to_regclass('message_store.messages_global_position_seq')), 0))`

	sqlRecovery = `SELECT pg_is_in_recovery()`

	// sqlFound looks for each message by its ID.
	sqlFound = `SELECT w.n, m.global_position, m.id::text, m.time
FROM ROWS FROM (pg_catalog.unnest($1::text[]::uuid[]), pg_catalog.unnest($2::bigint[])) WITH ORDINALITY AS w(id, upto, n)
JOIN message_store.messages AS m ON m.id = w.id AND m.global_position <= w.upto`

	sqlAt = `SELECT m.global_position, m.id::text, m.time FROM message_store.messages AS m WHERE m.global_position = ANY ($1::bigint[])`

	sqlFollows = `SELECT EXISTS (SELECT FROM message_store.messages AS m
WHERE message_store.category(m.stream_name) >= $1::text AND message_store.category(m.stream_name) <= $1::text AND m.global_position > $2::bigint)`

	sqlNext = `SELECT coalesce((SELECT max(m.position) FROM message_store.messages AS m WHERE m.stream_name = w.stream AND m.global_position <= $2::bigint), -1) + 1
FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS w(stream, n) ORDER BY w.n`
)

// An onPool asks the store.
type onPool struct{ pool *pgxpool.Pool }

func (q onPool) ends(ctx context.Context, categories []string) ([]int64, error) {
	rows, _ := q.pool.Query(ctx, sqlEnds, categories)
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// upto returns the last message of a category up to a position, or the zero value.
func (q onPool) upto(ctx context.Context, category string, position int64) (a source.Anchor, err error) {
	rows, _ := q.pool.Query(ctx, sqlUpto, category, position)
	found, err := pgx.CollectRows(rows, toAnchor)
	if err == nil && len(found) > 0 {
		a = found[0]
	}
	return a, err
}

func toAnchor(row pgx.CollectableRow) (a source.Anchor, err error) {
	err = scanAnchor(row, &a)
	return a, err
}

func scanAnchor(row pgx.CollectableRow, a *source.Anchor, before ...any) error {
	var id string
	var at pgtype.Timestamp
	if err := row.Scan(append(before, &a.Position, &id, &at)...); err != nil {
		return err
	}
	a.Time = scan.Micros(at.Time)
	var err error
	a.ID, err = uuid.Parse(id)
	return err
}

// starts returns where the new checkpoints of categories begin.
func (r *running) starts(ctx context.Context, p ledger.JoinParams) ([]ledger.Start, error) {
	starts := make([]ledger.Start, len(p.Categories))
	for i, category := range p.Categories {
		upto := int64(math.MaxInt64)
		if p.Start != nil {
			upto = *p.Start
		}
		var err error
		if starts[i], err = startOf(ctx, r.store, category, upto, p.Start != nil); err != nil {
			return nil, err
		}
	}
	return starts, nil
}

// startOf returns the place of the last message of a category up to a position, which the store must have used if used is set.
func startOf(ctx context.Context, store *mdb.Store, category string, upto int64, used bool) (s ledger.Start, err error) {
	s.Category = category
	if upto == 0 {
		return s, nil
	}
	if used {
		var last int64
		if err := store.Pool().QueryRow(ctx, sqlUsed).Scan(&last); err != nil {
			return s, err
		}
		if upto > last {
			return s, &mdb.AheadError{Category: mdb.Category(category), Position: upto, Last: last}
		}
	}
	a, err := onPool{store.Pool()}.upto(ctx, category, upto)
	s.Position, s.Anchor = a.Position, ledgerAnchor(a)
	return s, err
}

// ledgerAnchor returns the anchor of a message, or none at the beginning.
func ledgerAnchor(a source.Anchor) ledger.Anchor {
	if a.Position == 0 {
		return ledger.Anchor{}
	}
	return ledger.Anchor{ID: a.ID, Time: scan.Time(a.Time)}
}

// anchorOfRow returns the anchor of a checkpoint, whose position is that of the anchor, or 0.
func anchorOfRow(row *ledger.Row) source.Anchor {
	if row.ID == uuid.Nil {
		return source.Anchor{Position: row.Position}
	}
	return source.Anchor{Position: row.Position, ID: row.ID, Time: scan.Micros(row.Time)}
}

// storeTimeout limits the questions to the store, for which heartbeats wait. They get half of the time that is left at most.
const storeTimeout = 2 * time.Second
