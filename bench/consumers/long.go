package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/bench/internal/figures"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// A transaction that is open for long keeps the old versions of all rows. A load is how many transactions a second a consumer
// commits meanwhile, and for how long.
type load struct{ rate, minutes int }

// loads are what is measured. What a consumer handles depends on how many versions there are, and these are made as fast as the server
// commits, about a million for all loads: those of an hour at 1,000 transactions a second would take minutes.
var loads = []load{{0, 60}, {10, 60}, {100, 60}, {1000, 10}}

func (l load) transactions() int { return l.rate * l.minutes * 60 }

// An aged is what was measured after a load.
type aged struct {
	load
	ended    bool      // the transaction, and a VACUUM has run
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

// long measures the ways with a worker beside a transaction that began before each load of a consumer, and after the end of the
// last one's transaction and a VACUUM.
func (e *environment) long(ctx context.Context, ways []way) (table []aged, err error) {
	for i, l := range loads {
		rows, err := e.beside(ctx, l, ways, i == len(loads)-1)
		if err != nil {
			return nil, err
		}
		table = append(table, rows...)
	}
	return table, nil
}

// beside measures beside such a transaction, and also after it if after is true.
func (e *environment) beside(ctx context.Context, l load, ways []way, after bool) (rows []aged, err error) {
	name := fmt.Sprint("load", l.rate)
	if err := e.create(ctx, name); err != nil {
		return nil, err
	}
	tx, err := e.store.Pool().BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return nil, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // it may have ended
	if _, err := tx.Exec(ctx, "SELECT FROM public.balances LIMIT 1"); err != nil {
		return nil, err
	}
	versions, err := e.age(ctx, name, l.transactions())
	if err != nil {
		return nil, err
	}
	measured := func(a aged) error {
		a.load = l
		err := e.measureAged(ctx, name, ways, &a)
		rows = append(rows, a)
		return err
	}
	if err := measured(aged{versions: versions}); err != nil {
		return nil, err
	}
	if err := tx.Rollback(ctx); err != nil {
		return nil, err
	}
	// Also for the next load, which must not read these versions.
	if _, err := e.watch.Exec(ctx, "VACUUM message_store_consumers.checkpoints"); err != nil || !after {
		return rows, err
	}
	err = measured(aged{versions: 1, ended: true})
	return rows, err
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
// versions by their addresses: by the index, this would take longer than the load itself.
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
func (e *environment) measureAged(ctx context.Context, name string, ways []way, a *aged) error {
	for _, w := range longWays(ways) {
		if _, err := consumer.Admin(e.store.Pool()).Seek(ctx, name, consumer.ToBeginning()); err != nil {
			return err
		}
		rate, err := e.measureAs(ctx, name, w, 1)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		a.rates = append(a.rates, rate)
	}
	return e.watch.QueryRow(ctx, `SELECT pg_total_relation_size('message_store_consumers.checkpoints')`).Scan(&a.bytes)
}

// longBlock returns the table of runs with so many messages.
func longBlock(ways []way, table []aged, messages int) string {
	var w strings.Builder
	w.WriteString("| Transactions a second | For | Versions of each checkpoint | Their table |")
	for _, way := range longWays(ways) {
		fmt.Fprintf(&w, " %s |", way.name)
	}
	w.WriteString("\n|---|---|---:|---:|" + strings.Repeat("---:|", len(longWays(ways))) + "\n")
	for _, a := range table {
		length := fmt.Sprintf("%d minutes", a.minutes)
		if a.ended {
			length += ", after its end and a `VACUUM`"
		}
		fmt.Fprintf(&w, "| %d | %s | %s | %.1f MB |", a.rate, length, figures.Rounded(float64(a.versions)), float64(a.bytes)/1e6)
		for _, rate := range a.rates {
			fmt.Fprintf(&w, " %s |", figures.Rounded(rate))
		}
		w.WriteString("\n")
	}
	fmt.Fprintf(&w, "\nMessages a second, of one run of %d messages each.\n", messages)
	return w.String()
}
