// The example transaction writes a message and a row of the service's own table in one
// transaction: either both are stored or neither is.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
)

var errTooExpensive = errors.New("too expensive")

func buy(ctx context.Context, store *mdb.Store, product string, price int) error {
	return pgx.BeginFunc(ctx, store.Pool(), func(tx pgx.Tx) error {
		purchase := mdb.NewMessage("Purchased", map[string]any{"product": product, "price": price})
		if _, err := store.WithTx(tx).WriteMessage(ctx, "cart-1", purchase); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "INSERT INTO shop.purchases (product, price) VALUES ($1, $2)", product, price); err != nil {
			return err
		}
		if price > 100 {
			return errTooExpensive // rolls back the message, too
		}
		return nil
	})
}

func run(ctx context.Context, url string) error {
	store, err := mdb.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer store.Close()

	const table = "CREATE SCHEMA IF NOT EXISTS shop; CREATE TABLE IF NOT EXISTS shop.purchases (product text, price int)"
	if _, err := store.Pool().Exec(ctx, table); err != nil {
		return err
	}
	for product, price := range map[string]int{"book": 20, "castle": 1_000_000} {
		if err := buy(ctx, store, product, price); err != nil && !errors.Is(err, errTooExpensive) {
			return err
		}
	}
	messages, err := store.GetStreamMessages(ctx, "cart-1")
	if err != nil {
		return err
	}
	var rows int
	if err := store.Pool().QueryRow(ctx, "SELECT count(*) FROM shop.purchases").Scan(&rows); err != nil {
		return err
	}
	fmt.Printf("%d message and %d row\n", len(messages), rows)
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
