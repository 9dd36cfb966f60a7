package main

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// A way is one to handle all messages of a category.
type way struct {
	name    string
	run     func(ctx context.Context, r run) error
	nothing bool // the handler does nothing; otherwise it updates a row
	single  bool // it cannot have several workers
	many    bool // it is also measured with manyWorkers
	size    size
}

// A run is what a way has to do.
type run struct {
	name     string // new each time
	workers  int
	category mdb.Category
	messages int
}

// The names of the ways that bounds compare.
const (
	nothingEach         = "`Each`, a handler that does nothing"
	nothingSubscription = "a subscription whose `OnProgress` stores the position, a handler that does nothing"
	eachTx              = "`EachTx`"
	eachTxSingle        = "`EachTx` with `PerTx(1, 0)`"
	eachQueued          = "`EachQueued`"
	riverTx             = "River, a job for each message, completed by `JobCompleteTx` in the transaction of the update"
)

const (
	sqlEffect   = "UPDATE public.balances SET balance = balance + 1 WHERE account = $1"
	sqlEffects  = "UPDATE public.balances AS b SET balance = balance + w.n FROM (SELECT a, count(*) AS n FROM unnest($1::text[]) AS a GROUP BY a) AS w WHERE b.account = w.a"
	sqlPosition = "UPDATE public.positions SET position = $2 WHERE name = $1"
)

// most is how many messages a batch has.
const most = 1000

func (e *environment) ways() []way {
	consume := func(h consumer.Handler, opts ...consumer.Option) func(context.Context, run) error {
		return func(ctx context.Context, r run) error {
			c, err := consumer.New(e.store, r.name, r.category, h, append(opts, consumer.WithWorkers(r.workers))...)
			if err != nil {
				return err
			}
			return c.Run(ctx)
		}
	}
	nothing := func(context.Context, mdb.Message) error {
		e.begin()
		e.handled.Add(1)
		return nil
	}
	effect := func(ctx context.Context, m mdb.Message) error {
		e.begin()
		_, err := e.store.Pool().Exec(ctx, sqlEffect, m.Stream.ID())
		return err
	}
	inTx := consumer.EachTx(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
		e.begin()
		_, err := tx.Exec(ctx, sqlEffect, m.Stream.ID())
		return err
	})
	return append([]way{
		{name: nothingEach, nothing: true, size: all, run: consume(consumer.Each(nothing))},
		{name: nothingSubscription, nothing: true, size: all, run: e.subscribe(nothing)},
		{name: "`Each`", size: little, many: true, run: consume(consumer.Each(effect))},
		{name: "a subscription whose `OnProgress` stores the position", size: little, run: e.subscribe(effect)},
		{name: "`Batch`", size: fifth, run: consume(consumer.Batch(func(ctx context.Context, ms []mdb.Message) error {
			e.begin()
			_, err := e.store.Pool().Exec(ctx, sqlEffects, ids(ms))
			return err
		}), consumer.WithBatchSize(most))},
		{name: eachTx, size: fifth, many: true, run: consume(inTx)},
		{name: eachTxSingle, size: little, many: true, run: consume(inTx, consumer.PerTx(1, 0))},
		{name: "a subscription with a transaction and the position for each message", size: little, single: true, run: e.subscribeTx},
		{name: "`BatchTx`", size: fifth, run: consume(consumer.BatchTx(func(ctx context.Context, tx pgx.Tx, ms []mdb.Message) error {
			e.begin()
			_, err := tx.Exec(ctx, sqlEffects, ids(ms))
			return err
		}), consumer.WithBatchSize(most))},
		{name: eachQueued, size: fifth, many: true, run: consume(consumer.EachQueued(func(b *pgx.Batch, m mdb.Message) error {
			e.begin()
			b.Queue(sqlEffect, m.Stream.ID())
			return nil
		}))},
		{name: "pages read by hand, their statements in a `pgx.Batch`, without a position", size: fifth, single: true, run: e.readByHand},
	}, e.riverWays()...)
}

func ids(ms []mdb.Message) []string {
	ids := make([]string, len(ms))
	for i, m := range ms {
		ids[i] = m.Stream.ID()
	}
	return ids
}

// subscribe stores the position after each page.
func (e *environment) subscribe(h mdb.Handler) func(context.Context, run) error {
	return func(ctx context.Context, r run) error {
		return e.store.SubscribeToCategory(ctx, r.category, h, mdb.WithWorkers(r.workers), mdb.OnProgress(func(ctx context.Context, c mdb.CategoryCheckpoint) error {
			_, err := e.store.Pool().Exec(ctx, sqlPosition, r.name, c.Position())
			return err
		}))
	}
}

// subscribeTx stores the position in the transaction of the effect. It is wrong with several
// workers.
func (e *environment) subscribeTx(ctx context.Context, r run) error {
	return e.store.SubscribeToCategory(ctx, r.category, func(ctx context.Context, m mdb.Message) error {
		e.begin()
		return pgx.BeginFunc(ctx, e.store.Pool(), func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, sqlEffect, m.Stream.ID()); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, sqlPosition, r.name, m.GlobalPosition)
			return err
		})
	})
}

// readByHand is not a consumer: it stores no position, and nobody waits for new messages.
func (e *environment) readByHand(ctx context.Context, r run) error {
	e.begin()
	for from, left := int64(0), r.messages; left > 0; {
		ms, err := e.store.GetCategoryMessages(ctx, r.category, mdb.AfterGlobalPosition(from), mdb.WithBatchSize(most))
		if err != nil {
			return err
		}
		var b pgx.Batch
		for _, m := range ms {
			b.Queue(sqlEffect, m.Stream.ID())
			from = m.GlobalPosition
		}
		if err := e.store.Pool().SendBatch(ctx, &b).Close(); err != nil {
			return err
		}
		left -= len(ms)
	}
	<-ctx.Done()
	return context.Cause(ctx)
}
