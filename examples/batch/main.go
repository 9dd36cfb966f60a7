// A batch: the lines of an order are written together or not at all, in one round
// trip, and writing the same batch again is recognised.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/messagedb-go/messagedb/mdb"
)

// LineAdded is one line of an order.
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

	order := mdb.Category("order").Stream("42")
	messages := []mdb.ProposedMessage{
		mdb.NewMessage("OrderPlaced", nil),
		mdb.NewMessage("LineAdded", LineAdded{"tea", 2}),
		mdb.NewMessage("LineAdded", LineAdded{"cake", 1}),
	}
	// The second time stands for a caller that never learned of the first.
	for range 2 {
		written, err := store.WriteMessages(ctx, order, messages, mdb.ExpectNoStream(), mdb.Idempotent())
		if err != nil {
			return err
		}
		for i, w := range written {
			fmt.Printf("%s at position %d, found there: %t\n", messages[i].Type, w.Position, w.Duplicate)
		}
	}
	return nil
}

func main() {
	if err := run(context.Background(), os.Getenv("DATABASE_URL")); err != nil {
		log.Fatal(err)
	}
}
