package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// A transaction that is open for an hour keeps the old versions of all rows. These are the transactions a second that a consumer
// commits during the hour.
var hourly = []int{0, 10, 100, 1000}

// An aged is what was measured after such an hour.
type aged struct {
	what     string
	rates    []float64 // messages a second, by way
	versions int       // of each row of the checkpoints
	bytes    int64     // of their table and its indexes
}

// longWays are the ways that are measured beside a long transaction.
func longWays(ways []way) []way {
	var chosen []way
	for _, name := range []string{eachTxSingle, eachTx, eachQueued} {
		for _, w := range ways {
			if w.name == name {
				w.size = few
				chosen = append(chosen, w)
			}
		}
	}
	return chosen
}

// long measures the ways with a worker beside a transaction that began before an hour of a consumer, and after the end of the
// transaction and a VACUUM.
func (e *environment) long(ctx context.Context, ways []way) (table []aged, err error) {
	for _, rate := range hourly {
		during, after, err := e.hour(ctx, rate, ways)
		if err != nil {
			return nil, err
		}
		if table = append(table, during); rate == hourly[len(hourly)-1] {
			table = append(table, after)
		}
	}
	return table, nil
}

// hour measures beside such a transaction, and after it.
func (e *environment) hour(ctx context.Context, rate int, ways []way) (during, after aged, err error) {
	name := fmt.Sprint("hour", rate)
	if err := e.create(ctx, name); err != nil {
		return during, after, err
	}
	tx, err := e.store.Pool().BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return during, after, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // it may have ended
	if _, err := tx.Exec(ctx, "SELECT FROM public.balances LIMIT 1"); err != nil {
		return during, after, err
	}
	versions, err := e.age(ctx, name, rate*3600)
	if err != nil {
		return during, after, err
	}
	if during, err = e.measureAged(ctx, name, ways); err != nil {
		return during, after, err
	}
	if err := tx.Rollback(ctx); err != nil {
		return during, after, err
	}
	if _, err := e.watch.Exec(ctx, "VACUUM message_store_consumers.checkpoints"); err != nil {
		return during, after, err
	}
	after, err = e.measureAged(ctx, name, ways)
	during.what, during.versions = fmt.Sprint(rate), versions
	after.what, after.versions = fmt.Sprintf("%d, after its end and a `VACUUM`", rate), 1
	return during, after, err
}

// create lets a consumer come into being.
func (e *environment) create(ctx context.Context, name string) error {
	c, err := consumer.New(e.store, name, few.category, consumer.Each(func(context.Context, mdb.Message) error { return nil }))
	if err != nil {
		return err
	}
	return c.CatchUp(ctx)
}

// age updates the checkpoints of a consumer in turn, in so many transactions, and returns how often each. It finds their last
// versions by their addresses: by the index, this would take longer than the hour.
func (e *environment) age(ctx context.Context, name string, transactions int) (versions int, err error) {
	var partitions int
	if err := e.watch.QueryRow(ctx, `SELECT partitions FROM message_store_consumers.consumers WHERE name = $1`, name).Scan(&partitions); err != nil {
		return 0, err
	}
	if _, err := e.watch.Exec(ctx, "SET synchronous_commit = off"); err != nil {
		return 0, err
	}
	_, err = e.watch.Exec(ctx, fmt.Sprintf(`DO $do$
		DECLARE
			places tid[];
			place tid;
		BEGIN
			SELECT array_agg(c.ctid) INTO places FROM message_store_consumers.checkpoints AS c
			JOIN message_store_consumers.consumers AS o ON o.id = c.consumer WHERE o.name = '%s';
			FOR i IN 1..%d LOOP
				UPDATE message_store_consumers.checkpoints AS c SET moved = clock_timestamp()
				WHERE c.ctid = places[1 + i %% cardinality(places)] RETURNING c.ctid INTO STRICT place;
				places[1 + i %% cardinality(places)] := place;
				COMMIT;
			END LOOP;
		END$do$`, name, transactions))
	return 1 + transactions/partitions, err
}

// measureAged measures the ways with the consumer, which begins at the beginning again each time.
func (e *environment) measureAged(ctx context.Context, name string, ways []way) (a aged, err error) {
	for _, w := range longWays(ways) {
		if _, err := consumer.Admin(e.store.Pool()).Seek(ctx, name, consumer.ToBeginning()); err != nil {
			return a, err
		}
		rate, err := e.measureAs(ctx, name, w, 1)
		if err != nil {
			return a, fmt.Errorf("%s: %w", w.name, err)
		}
		a.rates = append(a.rates, rate)
	}
	err = e.watch.QueryRow(ctx, `SELECT pg_total_relation_size('message_store_consumers.checkpoints')`).Scan(&a.bytes)
	return a, err
}

// longBlock returns the table.
func longBlock(ways []way, table []aged) string {
	var w strings.Builder
	w.WriteString("| Transactions a second in the hour | Versions of each checkpoint | Their table |")
	for _, way := range longWays(ways) {
		fmt.Fprintf(&w, " %s |", way.name)
	}
	w.WriteString("\n|---|---:|---:|" + strings.Repeat("---:|", len(longWays(ways))) + "\n")
	for _, a := range table {
		fmt.Fprintf(&w, "| %s | %s | %.1f MB |", a.what, rounded(float64(a.versions)), float64(a.bytes)/1e6)
		for _, rate := range a.rates {
			fmt.Fprintf(&w, " %s |", rounded(rate))
		}
		w.WriteString("\n")
	}
	return w.String()
}
