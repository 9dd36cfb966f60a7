// Package shop is the service of the example orders: customers place orders over HTTP, a process requests and records their
// payments, and a table lists them.
package shop

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// Prepare installs Message DB and the tables of the shop, unless they are there.
func Prepare(ctx context.Context, store *mdb.Store) error {
	return errors.Join(schema.Install(ctx, store.Pool()), schema.InstallConsumers(ctx, store.Pool()), createTables(ctx, store.Pool()))
}

// Checkout returns the process from an order to its payment and back.
func Checkout(store *mdb.Store) (*consumer.Consumer, error) {
	return consumer.New(store, "checkout", orders, checkout(store), consumer.WithCategories(payments), lease)
}

// Cashier returns the consumer that charges what is requested.
func Cashier(store *mdb.Store) (*consumer.Consumer, error) {
	return consumer.New(store, "cashier", payments, cashier(store, provider{store.Pool()}), lease)
}

// List returns the consumer that keeps the table of orders.
func List(store *mdb.Store) (*consumer.Consumer, error) {
	return consumer.New(store, "order-list", orders, list(), lease)
}

// lease says how soon other instances take over from one that is killed.
var lease = consumer.WithLease(3 * time.Second)

// Run runs consumers, and serves customers, until ctx ends.
func Run(ctx context.Context, address string, handler http.Handler, consumers ...*consumer.Consumer) error {
	server, err := serve(address, handler)
	if err != nil {
		return err
	}
	err = consumer.Run(ctx, consumers...)
	return errors.Join(err, server.Shutdown(context.WithoutCancel(ctx)))
}
