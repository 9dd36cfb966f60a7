package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// A function of OnPark writes an alert in the transaction that parks a stream. When the cause is
// fixed, Replay lets the consumer handle the message that was parked and those that wait for it, in
// order.
func ExampleConsumer_Replay() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	type packed struct{ Item string }
	for _, item := range []string{"tea", "unicorn", "salt"} {
		if _, err := store.WriteMessage(ctx, "parcel-7", mdb.NewMessage("Packed", packed{item})); err != nil {
			log.Panic(err)
		}
	}

	catalog := map[string]bool{"tea": true, "salt": true}
	label := func(_ context.Context, m mdb.Message) error {
		var p packed
		if err := m.Decode(&p); err != nil {
			return consumer.Permanent(err)
		}
		if !catalog[p.Item] {
			return consumer.Permanent(errors.New("no such item"))
		}
		fmt.Println("a label for", p.Item)
		return nil
	}
	alert := func(ctx context.Context, tx pgx.Tx, p consumer.Parked) error {
		fmt.Printf("%s is parked at position %d\n", p.Stream, p.Position)
		_, err := store.WithTx(tx).WriteMessage(ctx, "alert-labels", mdb.NewMessage("Parked", p))
		return err
	}

	labels, err := consumer.New(store, "labels", "parcel", consumer.Each(label), consumer.OnPark(alert))
	if err != nil {
		log.Panic(err)
	}
	if err := labels.CatchUp(ctx); err != nil { // a service calls Run
		log.Panic(err)
	}

	catalog["unicorn"] = true
	if err := labels.Replay(ctx, "parcel-7"); err != nil {
		log.Panic(err)
	}
	if err := labels.CatchUp(ctx); err != nil {
		log.Panic(err)
	}
}
