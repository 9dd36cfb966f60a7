// The example group reads a category as the two members of a consumer group. A member
// reads all messages of a stream, and of all streams with the same cardinal ID.
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

	const delivery mdb.Category = "delivery"
	for _, id := range []string{
		mdb.CompoundID("berlin", "1"), mdb.CompoundID("oslo", "2"), mdb.CompoundID("berlin", "3"), mdb.CompoundID("rome", "4"),
	} {
		if _, err := store.WriteMessage(ctx, delivery.Stream(id), mdb.NewMessage("Shipped", nil)); err != nil {
			return err
		}
	}
	const size = 2
	for member := range size {
		for message, err := range store.CategoryMessages(ctx, delivery, mdb.AsConsumerGroup(member, size)) {
			if err != nil {
				return err
			}
			fmt.Printf("member %d: %s\n", member, message.Stream)
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
