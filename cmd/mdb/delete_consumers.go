package main

import (
	"context"
	"errors"
	"math"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// keepForConsumers keeps what a consumer has not handled or has parked, and the last message that it has handled, by which
// it notices that the store has lost messages.
func (d *deleting) keepForConsumers(ctx context.Context, pool *pgxpool.Pool) error {
	state, err := schema.ConsumersStatus(ctx, pool)
	if err != nil || !state.Installed {
		return err
	}
	of := d.Category
	if of == "" {
		of = d.Stream.Category()
	}
	admin := consumer.Admin(pool)
	consumers, err := admin.ShowAll(ctx)
	if err != nil {
		return err
	}
	for i := range consumers {
		if !slices.Contains(consumers[i].Categories, of) {
			continue
		}
		needed, err := needs(ctx, admin, &consumers[i], of)
		if gone := (*consumer.NotFoundError)(nil); errors.As(err, &gone) {
			continue
		}
		if err != nil {
			return err
		}
		if d.KeepFrom == 0 || needed < d.KeepFrom {
			d.KeepFrom, d.keptFor = needed, consumers[i].Consumer
		}
	}
	return nil
}

// needs returns the first global position of a category that a consumer needs.
func needs(ctx context.Context, admin *consumer.Operator, details *consumer.Details, of mdb.Category) (int64, error) {
	parked, err := admin.Parked(ctx, details.Consumer)
	if err != nil {
		return 0, err
	}
	needed := int64(math.MaxInt64)
	for _, c := range details.Checkpoints {
		if c.Category == of {
			needed = min(needed, c.Position)
		}
	}
	for i := range parked {
		if parked[i].Category == of {
			needed = min(needed, parked[i].GlobalPosition)
		}
	}
	if needed == math.MaxInt64 {
		needed = 1 // it has no partition yet
	}
	return max(needed, 1), nil
}
