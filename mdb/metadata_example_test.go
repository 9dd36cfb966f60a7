package mdb_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/messagedb-go/messagedb/mdb"
)

// A handler reacts to a message with another one, which records its cause. Its ID is derived, so
// that it is written once, however often the handler is called. The correlation finds all messages
// of the flow.
func ExampleMetadata_Follow() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	reserve := func(ctx context.Context, placed mdb.Message) error {
		var metadata mdb.Metadata
		if err := metadata.Follow(placed); err != nil {
			return err
		}
		_, err := store.WriteMessage(ctx, mdb.Category("stock").Stream("tea"), mdb.ProposedMessage{
			ID:       mdb.DerivedID(placed.ID, "Reserved"),
			Type:     "Reserved",
			Data:     map[string]int{"quantity": 2},
			Metadata: metadata,
		}, mdb.Idempotent())
		return err
	}

	placed := mdb.NewMessage("Placed", nil)
	placed.Metadata = mdb.Metadata{CorrelationStreamName: "errand-7", Properties: map[string]any{"tenant": "acme"}}
	if _, err := store.WriteMessage(ctx, "errand-7", placed); err != nil {
		log.Panic(err)
	}
	for range 2 {
		for message, err := range store.CategoryMessages(ctx, "errand") {
			if err != nil {
				log.Panic(err)
			}
			if err := reserve(ctx, message); err != nil {
				log.Panic(err)
			}
		}
	}

	for message, err := range store.CategoryMessages(ctx, "stock", mdb.WithCorrelation("errand")) {
		if err != nil {
			log.Panic(err)
		}
		var metadata mdb.Metadata
		if err := message.DecodeMetadata(&metadata); err != nil {
			log.Panic(err)
		}
		fmt.Printf("%s, caused by %s/%d, of %s\n", message.Type, metadata.CausationMessageStreamName,
			*metadata.CausationMessagePosition, metadata.Properties["tenant"])
	}
}
