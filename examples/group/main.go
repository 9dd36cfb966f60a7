// A consumer group: two members share a category. All messages of a stream, and of
// streams with the same cardinal id, go to the same member.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/messagedb-go/messagedb/mdb"
)

func run(ctx context.Context, url string) error {
	store, err := mdb.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer store.Close()

	const orders mdb.Category = "delivery"
	for _, id := range []string{
		mdb.CompoundID("berlin", "1"), mdb.CompoundID("oslo", "2"), mdb.CompoundID("berlin", "3"), mdb.CompoundID("rome", "4"),
	} {
		if _, err := store.WriteMessage(ctx, orders.Stream(id), mdb.NewMessage("Shipped", nil)); err != nil {
			return err
		}
	}
	const size = 2
	for member := range size {
		for message, err := range store.CategoryMessages(ctx, orders, mdb.AsConsumerGroup(member, size)) {
			if err != nil {
				return err
			}
			fmt.Printf("member %d: %s\n", member, message.Stream)
		}
	}
	return nil
}

func main() {
	if err := run(context.Background(), os.Getenv("DATABASE_URL")); err != nil {
		log.Fatal(err)
	}
}
