// Quick start: install Message DB, write two messages, read them back.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// Deposited says that money came in.
type Deposited struct {
	Amount int `json:"amount"`
}

func run(ctx context.Context, url string) error {
	store, err := mdb.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer store.Close()
	if err := schema.Install(ctx, store.Pool()); err != nil {
		return err
	}

	account := mdb.Category("account").Stream("123")
	for _, amount := range []int{10, 32} {
		if _, err := store.WriteMessage(ctx, account, mdb.NewMessage("Deposited", Deposited{amount})); err != nil {
			return err
		}
	}

	balance := 0
	for message, err := range store.StreamMessages(ctx, account) {
		if err != nil {
			return err
		}
		var deposited Deposited
		if err := message.Decode(&deposited); err != nil {
			return err
		}
		balance += deposited.Amount
	}
	fmt.Printf("%s holds %d\n", account, balance)
	return nil
}

func main() {
	if err := run(context.Background(), os.Getenv("DATABASE_URL")); err != nil {
		log.Fatal(err)
	}
}
