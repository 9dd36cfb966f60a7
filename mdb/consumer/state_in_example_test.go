package consumer_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// A read model is in another database than the messages. The consumer's progress is there, too, so each message changes the
// read model exactly once.
func ExampleStateIn() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	reports, err := pgxpool.New(ctx, os.Getenv("REPORTS_DATABASE_URL")) // with the schema of consumers
	if err != nil {
		log.Panic(err)
	}
	defer reports.Close()
	if _, err := reports.Exec(ctx, "CREATE TABLE public.visits (city text PRIMARY KEY, n bigint NOT NULL)"); err != nil {
		log.Panic(err)
	}
	for _, city := range []mdb.StreamName{"visit-rome", "visit-oslo", "visit-rome"} {
		if _, err := store.WriteMessage(ctx, city, mdb.NewMessage("Visited", nil)); err != nil {
			log.Panic(err)
		}
	}

	visits, err := consumer.New(store, "visits", "visit", consumer.EachTx(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
		_, err := tx.Exec(ctx, "INSERT INTO public.visits AS v VALUES ($1, 1) ON CONFLICT (city) DO UPDATE SET n = v.n + 1", m.Stream.ID())
		return err
	}), consumer.StateIn(reports))
	if err != nil {
		log.Panic(err)
	}
	if err := visits.CatchUp(ctx); err != nil { // a service calls Run
		log.Panic(err)
	}
	var n int
	err = reports.QueryRow(ctx, "SELECT n FROM public.visits WHERE city = 'rome'").Scan(&n)
	fmt.Println("visits to rome:", n, err)
}
