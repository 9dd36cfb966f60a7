package consumer

import (
	"context"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/scan"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

const sqlReachedElsewhere = `WITH ends AS (
	SELECT w.category, w.position FROM ROWS FROM (pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::bigint[])) AS w(category, position)
)
` + sqlEndsReached

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
	asks, err := askerOf(ctx, store)
	if err != nil {
		return s, err
	}
	if used {
		var last int64
		if err := asks.row(ctx, askUsed, category).Scan(&last); err != nil {
			return s, err
		}
		if upto > last {
			return s, &mdb.AheadError{Category: mdb.Category(category), Position: upto, Last: last}
		}
	}
	a, err := asks.upto(ctx, category, upto)
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
