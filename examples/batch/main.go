// The example batch writes the messages of an order atomically, in one round trip. When
// it writes them again, the store recognises them by their IDs.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"os"

	"github.com/messagedb-go/messagedb/mdb"
)

// LineAdded is the event that a line was added to an order.
type LineAdded struct {
	Product string `json:"product"`
	Count   int    `json:"count"`
}

func run(ctx context.Context, url string) error {
	store, err := mdb.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer store.Close()

	order := mdb.Category("order").Stream(rand.Text()) // a new order in each run
	messages := []mdb.ProposedMessage{
		mdb.NewMessage("OrderPlaced", nil),
		mdb.NewMessage("LineAdded", LineAdded{"tea", 2}),
		mdb.NewMessage("LineAdded", LineAdded{"cake", 1}),
	}
	// The second write stands for a retry by a caller that did not get the result of the
	// first.
	for range 2 {
		written, err := store.WriteMessages(ctx, order, messages, mdb.ExpectNoStream(), mdb.Idempotent())
		if err != nil {
			return err
		}
		for i, w := range written {
			fmt.Printf("%s at position %d, duplicate: %t\n", messages[i].Type, w.Position, w.Duplicate)
		}
	}
	return nil
}

func main() {
	url := os.Getenv("DATABASE_URL")
	if url == "" {
		log.Fatal("set DATABASE_URL to the URL of a database with Message DB")
	}
	if err := run(context.Background(), url); err != nil {
		log.Fatal(err)
	}
}
