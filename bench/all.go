package main

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
)

const (
	allCase       = "Read a page of 1,000 messages of one category, or of all"
	ofCategory    = "mdb, of the category"
	ofCategorySQL = "mdb, direct SQL, of the category"
	ofAll         = "mdb, of all"
	barrierCase   = "Read a page of 10 messages of all categories"

	// The pages of barrierCase are after the other seeds.
	beforeGap = seedMessages + sharedMessages
	nextToGap = 10 // messages on either side
)

// seedGap writes messages around a position that nobody gets.
func seedGap(ctx context.Context, conn *pgx.Conn) error {
	const write = `SELECT message_store.write_message(gen_random_uuid()::varchar, 'gap-1', 'Deposited', $1::jsonb) FROM generate_series(1, $2::int)`
	for _, before := range []string{`SELECT`, `SELECT nextval('message_store.messages_global_position_seq')`} {
		if _, err := conn.Exec(ctx, before); err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, write, string(payload), nextToGap); err != nil {
			return err
		}
	}
	return nil
}

// all compares reads of all categories with those of one that return the same messages, and
// shows what a barrier costs while no other transaction is open.
func (b *builder) all() {
	all := func(s func() (*mdb.Store, error), after int64, n int, opts ...mdb.AllOption) func(context.Context) error {
		return want(n, func(ctx context.Context) (int, error) {
			store, err := s()
			if err != nil {
				return 0, err
			}
			messages, err := store.GetAllMessages(ctx, append(opts, mdb.AfterGlobalPosition(after), mdb.WithBatchSize(n))...)
			return len(messages), err
		})
	}
	category := func(c client, after int64, n int) func(context.Context) error {
		return want(n, func(ctx context.Context) (int, error) { return c.category(ctx, "shared0", after+1, n) })
	}
	same := func() (*mdb.Store, error) { return b.e.store, nil }
	// A store that has passed no barrier yet needs one for a gap.
	fresh := func() (*mdb.Store, error) { return mdb.New(b.e.store.Pool()) }
	const page, after = 1000, seedMessages + sharedMessages/2
	b.add(benchCase{name: allCase, messages: page, variants: []variant{
		{name: ofCategory, op: category(mdbClient{b.e.store}, after, page)},
		{name: ofCategorySQL, op: category(mdbClient{b.e.direct}, after, page)},
		{name: ofAll, op: all(same, after, page)},
		{name: ofAll + ", InCategories", op: all(same, after, page, mdb.InCategories("shared0"))},
		{name: ofAll + ", OfTypes", op: all(same, after, page, mdb.OfTypes("Deposited"))},
	}})
	b.add(benchCase{name: barrierCase, messages: nextToGap, variants: []variant{
		{name: "mdb, no position is missing", op: all(same, beforeGap, nextToGap)},
		{name: "mdb, no position is missing, a new store", op: all(fresh, beforeGap, nextToGap)},
		{name: "mdb, a position is missing that is final", op: all(same, beforeGap+nextToGap, nextToGap)},
		{name: "mdb, a position is missing, a new store passes a barrier", op: all(fresh, beforeGap+nextToGap, nextToGap)},
	}})
}

// allBounds are the most that the order of all categories costs where no position is missing.
var allBounds = []bound{
	{what: "a page of 1,000, of all categories ÷ of one", inCase: allCase, slow: ofAll, fast: ofCategory, most: 1.1},
	{what: "a page of 1,000, of all categories ÷ of one by direct SQL", inCase: allCase, slow: ofAll, fast: ofCategorySQL, most: 1.1},
}
