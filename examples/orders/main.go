// The example orders is a whole service: customers place orders over HTTP, a process requests
// and records their payments, and a table lists them. Run any number of instances. They share
// the work, and if one is killed, the others take over its part.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

func run(ctx context.Context, url, address string) error {
	store, err := mdb.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer store.Close()
	if err := errors.Join(schema.Install(ctx, store.Pool()), schema.InstallConsumers(ctx, store.Pool()), createTables(ctx, store.Pool())); err != nil {
		return err
	}

	// The lease says how soon other instances take over from one that is killed.
	lease := consumer.WithLease(3 * time.Second)
	checkout, err1 := consumer.New(store, "checkout", orders, checkout(store), consumer.WithCategories(payments), lease)
	cashier, err2 := consumer.New(store, "cashier", payments, cashier(store, provider{store.Pool()}), lease)
	list, err3 := consumer.New(store, "order-list", orders, list(), lease)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}

	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handlers(store), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(listener) }()
	fmt.Println("listening on", listener.Addr())
	err = consumer.Run(ctx, checkout, cashier, list)
	return errors.Join(err, server.Shutdown(context.WithoutCancel(ctx)))
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
