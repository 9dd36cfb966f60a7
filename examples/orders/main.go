// The example orders is a whole service, whose parts are in the package shop. Run any number of instances. They share
// the work, and if one is killed, the others take over its part.
package main

import (
	"cmp"
	"context"
	"errors"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/messagedb-go/messagedb/examples/orders/shop"
	"github.com/messagedb-go/messagedb/mdb"
)

func run(ctx context.Context, url, address string) error {
	store, err := mdb.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer store.Close()
	if err := shop.Prepare(ctx, store); err != nil {
		return err
	}
	checkout, err1 := shop.Checkout(store)
	cashier, err2 := shop.Cashier(store)
	list, err3 := shop.List(store)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	return shop.Run(ctx, address, shop.Handler(store), checkout, cashier, list)
}

func main() {
	url := os.Getenv("DATABASE_URL")
	if url == "" {
		log.Fatal("set DATABASE_URL to the URL of a database")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx, url, cmp.Or(os.Getenv("ADDRESS"), "localhost:8080"))
	stopped := ctx.Err() != nil
	stop()
	if !stopped {
		log.Fatal(err)
	}
}
