package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
)

func Example() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	account := mdb.Category("account").Stream("123")
	deposited := mdb.NewMessage("Deposited", map[string]int{"amount": 10})
	written, err := store.WriteMessage(ctx, account, deposited, mdb.ExpectNoStream())
	if err != nil {
		log.Panic(err)
	}
	fmt.Printf("written to position %d of %s\n", written.Position, account)

	messages, err := store.GetStreamMessages(ctx, account)
	if err != nil {
		log.Panic(err)
	}
	for _, message := range messages {
		fmt.Printf("%d: %s %s\n", message.Position, message.Type, message.Data)
	}
}

// A pool that the program has already is prepared by Configure before it is opened.
func ExampleNew() {
	ctx := context.Background()
	cfg, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	mdb.Configure(cfg)
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	store, err := mdb.New(pool, mdb.WithDirectSQL())
	if err != nil {
		log.Panic(err)
	}
	fmt.Println("problems:", store.Check(ctx))
}

// Of two writers that have decided on the same state one succeeds. The other learns
// that its state is outdated.
func ExampleStore_WriteMessage_conflict() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	for range 2 {
		_, err := store.WriteMessage(ctx, "seat-1a", mdb.NewMessage("Reserved", nil), mdb.ExpectNoStream())
		if lost := new(mdb.WrongVersionError); errors.As(err, &lost) {
			fmt.Println("too late:", lost)
			continue
		}
		fmt.Println("reserved:", err == nil)
	}
}

// What arrives at once, and has nothing to do with each other, is written at once. A
// failure keeps nobody else from success.
func ExampleStore_WriteEach() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	measured := func(celsius float64) mdb.ProposedMessage {
		return mdb.NewMessage("Measured", map[string]float64{"celsius": celsius})
	}
	results := store.WriteEach(ctx, []mdb.Write{
		{Stream: "sensor-1", Message: measured(20.5)},
		{Stream: "sensor-2", Message: measured(19), Options: []mdb.WriteOption{mdb.ExpectVersion(7)}},
		{Stream: "sensor-2", Message: measured(19.5)},
		{Stream: "sensor-3", Message: measured(21)},
	})
	for i, result := range results {
		var skipped *mdb.SkippedError
		switch {
		case errors.As(result.Err, &skipped):
			fmt.Printf("%d: not written behind %d\n", i, skipped.Failed)
		case result.Err != nil:
			fmt.Printf("%d: %v\n", i, result.Err)
		default:
			fmt.Printf("%d: at position %d\n", i, result.Written.Position)
		}
	}
}

// Writing the same message again, by its ID, changes nothing: it is the thing to do
// when nobody knows whether an earlier attempt has succeeded.
func ExampleIdempotent() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	paid := mdb.NewMessage("Paid", map[string]int{"amount": 10})
	for range 2 {
		written, err := store.WriteMessage(ctx, "invoice-7", paid, mdb.Idempotent())
		if err != nil {
			log.Panic(err)
		}
		fmt.Printf("position %d, found there: %t\n", written.Position, written.Duplicate)
	}
}

// A transfer writes to two categories, or to neither.
func ExampleStore_Atomically() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	err = store.Atomically(ctx, []mdb.Category{"checking", "savings"}, func(tx *mdb.Tx) error {
		if _, err := tx.WriteMessage(ctx, "checking-1", mdb.NewMessage("Withdrawn", nil)); err != nil {
			return err
		}
		_, err := tx.WriteMessage(ctx, "savings-1", mdb.NewMessage("Deposited", nil))
		return err
	})
	version, _ := store.StreamVersion(ctx, "savings-1")
	fmt.Println(err, version)
}

// The lazy reads go on page after page, and use no connection in between.
func ExampleStore_CategoryMessages() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	for i := range 5 {
		if _, err := store.WriteMessage(ctx, mdb.Category("visit").Stream(fmt.Sprint(i%2)), mdb.NewMessage("Visited", nil)); err != nil {
			log.Panic(err)
		}
	}
	count := make(map[mdb.StreamName]int)
	for message, err := range store.CategoryMessages(ctx, "visit", mdb.WithBatchSize(2)) {
		if err != nil {
			log.Panic(err)
		}
		count[message.Stream]++
	}
	fmt.Println(count)
}
