// Quick start: install Message DB, write two events to a stream, read them back.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"os"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// Deposited is an event. It is stored as JSON.
type Deposited struct{ Amount int }

func main() {
	ctx, url := context.Background(), os.Getenv("DATABASE_URL")
	if url == "" {
		log.Fatal("DATABASE_URL is not set: set it to a database you may change, such as postgres://localhost/postgres")
	}
	store, err := mdb.Connect(ctx, url)
	if err != nil {
		log.Fatal(err)
	}
	if err := schema.Install(ctx, store.Pool()); err != nil {
		log.Fatal(err)
	}

	account := mdb.Category("account").Stream(rand.Text()) // a new account in each run
	for _, amount := range []int{10, 32} {
		if _, err := store.WriteMessage(ctx, account, mdb.NewMessage("Deposited", Deposited{amount})); err != nil {
			log.Fatal(err)
		}
	}
	for message, err := range store.StreamMessages(ctx, account) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d: %s %s\n", message.Position, message.Type, message.Data)
	}
	store.Close()
}
