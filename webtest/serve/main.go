// The program serve fills an empty database with the messages of a shop, runs its consumers, and serves the pages, to
// look at them while working on them.
package main

import (
	"context"
	"log"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdbweb"
	"github.com/messagedb-go/messagedb/webtest/internal/shop"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil && ctx.Err() == nil {
		log.Print(err)
	}
}

func run(ctx context.Context) error {
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"), mdb.WithNotify())
	if err != nil {
		return err
	}
	defer store.Close()
	if err := shop.Fill(ctx, store, 400); err != nil {
		return err
	}
	consumers, err := shop.Consumers(store, "0")
	if err != nil {
		return err
	}
	go func() { log.Print(consumer.Run(ctx, consumers...)) }()
	pages, err := mdbweb.New(store, mdbweb.WithWrites()) //nolint:contextcheck // it opens no connection
	if err != nil {
		return err
	}
	defer pages.Close()
	server := &http.Server{Addr: "127.0.0.1:8090", Handler: pages, ReadHeaderTimeout: 5 * time.Second}
	log.Print("http://", server.Addr)
	context.AfterFunc(ctx, func() { _ = server.Close() })
	return server.ListenAndServe()
}
