package consumer_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// A process manager requests the payment of each order, and remembers that it has. Both
// happen exactly once: the row, the message and the progress are one transaction.
func ExampleEachTx() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Pool().Exec(ctx, "CREATE TABLE public.requested (cart text PRIMARY KEY)"); err != nil {
		log.Panic(err)
	}
	if _, err := store.WriteMessage(ctx, "cart-1", mdb.NewMessage("Ordered", nil)); err != nil {
		log.Panic(err)
	}

	billing, err := consumer.New(store, "billing", "cart", consumer.EachTx(func(ctx context.Context, tx pgx.Tx, order mdb.Message) error {
		if _, err := tx.Exec(ctx, "INSERT INTO public.requested VALUES ($1)", order.Stream.ID()); err != nil {
			return err
		}
		_, err := store.WithTx(tx).WriteMessage(ctx, mdb.Category("payment").Stream(order.Stream.ID()), mdb.NewMessage("PaymentRequested", nil))
		return err
	}))
	if err != nil {
		log.Panic(err)
	}
	for range 2 { // the second time, nothing is left to do
		if err := billing.CatchUp(ctx); err != nil {
			log.Panic(err)
		}
	}
	version, err := store.StreamVersion(ctx, "payment-1")
	fmt.Println("version:", version, err)
}

// A projection of deposits to balances. Statements of many messages share a round trip with
// the progress, and each takes effect once.
func ExampleEachQueued() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Pool().Exec(ctx, "CREATE TABLE public.balances (account text PRIMARY KEY, balance bigint NOT NULL)"); err != nil {
		log.Panic(err)
	}
	for _, amount := range []int{10, 32} {
		if _, err := store.WriteMessage(ctx, "account-7", mdb.NewMessage("Deposited", map[string]int{"amount": amount})); err != nil {
			log.Panic(err)
		}
	}

	balances, err := consumer.New(store, "balances", "account", consumer.EachQueued(func(b *pgx.Batch, m mdb.Message) error {
		var deposited struct{ Amount int64 }
		if err := m.Decode(&deposited); err != nil {
			return consumer.Permanent(err)
		}
		b.Queue(`INSERT INTO public.balances AS b VALUES ($1, $2)
			ON CONFLICT (account) DO UPDATE SET balance = b.balance + $2`, m.Stream.ID(), deposited.Amount)
		return nil
	}))
	if err != nil {
		log.Panic(err)
	}
	if err := balances.CatchUp(ctx); err != nil {
		log.Panic(err)
	}
	var balance int
	err = store.Pool().QueryRow(ctx, "SELECT balance FROM public.balances WHERE account = '7'").Scan(&balance)
	fmt.Println("balance:", balance, err)
}
