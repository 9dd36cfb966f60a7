package shop

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// An order is placed by a customer, and paid when its payment is received. Both have the
// same ID, in the streams order-ID and payment-ID.
type (
	placed struct {
		Customer string `json:"customer"`
		Cents    int64  `json:"cents"`
	}
	requested struct {
		Cents int64 `json:"cents"`
	}
	received struct {
		Receipt string `json:"receipt"`
	}
)

const (
	orders   mdb.Category = "order"
	payments mdb.Category = "payment"
)

var errNoAmount = errors.New("an order has an amount of at least one cent")

// place writes the first message of an order. A repeated request with the same ID changes
// nothing.
func place(ctx context.Context, store *mdb.Store, id string, order placed) error {
	if order.Cents < 1 {
		return errNoAmount
	}
	_, err := store.WriteMessage(ctx, orders.Stream(id), mdb.NewMessage("Placed", order), mdb.ExpectNoStream())
	if errors.As(err, new(*mdb.WrongVersionError)) {
		return nil
	}
	return err
}

// checkout is the process from the order to its payment and back. Each message that it
// handles and each that it writes are one transaction.
func checkout(store *mdb.Store) consumer.Handler {
	return consumer.EachTx(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
		id := m.Stream.ID()
		switch m.Type {
		case "Placed":
			var order placed
			if err := m.Decode(&order); err != nil {
				return consumer.Permanent(err)
			}
			_, err := store.WithTx(tx).WriteMessage(ctx, payments.Stream(id), mdb.NewMessage("Requested", requested{order.Cents}))
			return err
		case "Received":
			state, err := load(ctx, store.WithTx(tx), id)
			if err != nil || state != "placed" {
				return err // a customer who pays twice has one paid order
			}
			_, err = store.WithTx(tx).WriteMessage(ctx, orders.Stream(id), mdb.NewMessage("Paid", nil))
			return err
		}
		return nil
	})
}

// load returns the state of an order from its messages.
func load(ctx context.Context, tx *mdb.Tx, id string) (state string, err error) {
	messages, err := tx.GetStreamMessages(ctx, orders.Stream(id))
	for _, m := range messages {
		switch m.Type {
		case "Placed":
			state = "placed"
		case "Paid":
			state = "paid"
		}
	}
	return state, err
}

// cashier charges what is requested. Another system takes part in that, so a crash may repeat
// it: that system receives the same key each time, and the message has the same ID.
func cashier(store *mdb.Store, payment provider) consumer.Handler {
	return consumer.Each(func(ctx context.Context, m mdb.Message) error {
		if m.Type != "Requested" {
			return nil
		}
		var request requested
		if err := m.Decode(&request); err != nil {
			return consumer.Permanent(err)
		}
		receipt, err := payment.charge(ctx, m.Stream.ID(), request.Cents)
		if err != nil {
			return err
		}
		done := mdb.NewMessage("Received", received{receipt})
		done.ID = consumer.FromContext(ctx).ID(0)
		_, err = store.WriteMessage(ctx, m.Stream, done, mdb.Idempotent())
		return err
	})
}

// list keeps the table of orders, which the customers look at.
func list() consumer.Handler {
	return consumer.EachQueued(func(b *pgx.Batch, m mdb.Message) error {
		switch m.Type {
		case "Placed":
			var order placed
			if err := m.Decode(&order); err != nil {
				return consumer.Permanent(err)
			}
			b.Queue("INSERT INTO shop.orders (id, customer, cents, state) VALUES ($1, $2, $3, 'placed')", m.Stream.ID(), order.Customer, order.Cents)
		case "Paid":
			b.Queue("UPDATE shop.orders SET state = 'paid' WHERE id = $1", m.Stream.ID())
		}
		return nil
	})
}
