package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/messagedb-go/messagedb/mdb"
)

// A row of the program's own table and a message, in a transaction that is retried after a
// deadlock.
func ExampleTx_Tx() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Pool().Exec(ctx, "CREATE TABLE public.stock (item text PRIMARY KEY, count int CHECK (count >= 0))"); err != nil {
		log.Panic(err)
	}
	if _, err := store.Pool().Exec(ctx, "INSERT INTO public.stock VALUES ('tea', 1)"); err != nil {
		log.Panic(err)
	}
	sell := func(item string) error {
		return store.Atomically(ctx, []mdb.Category{"sale"}, func(tx *mdb.Tx) error {
			if _, err := tx.Tx().Exec(ctx, "UPDATE public.stock SET count = count - 1 WHERE item = $1", item); err != nil {
				return err
			}
			_, err := tx.WriteMessage(ctx, "sale-1", mdb.NewMessage("Sold", map[string]string{"item": item}))
			return err
		})
	}
	fmt.Println("sold:", sell("tea") == nil)
	fmt.Println("sold:", sell("tea") == nil)
	version, err := store.StreamVersion(ctx, "sale-1")
	fmt.Println("version:", version, err)
}

// A process manager reacts to each order with a message of its own, and stores its position
// in the same transaction. It may receive an order again, so it derives the ID of its message
// from that of the order. The savepoint keeps the transaction usable if the message is
// already there.
func ExampleInSavepoint() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Pool().Exec(ctx, "CREATE TABLE public.billing (position bigint); INSERT INTO public.billing VALUES (0)"); err != nil {
		log.Panic(err)
	}
	bill := func(order mdb.Message) error {
		request := mdb.NewMessage("PaymentRequested", nil)
		request.ID = mdb.DerivedID(order.ID, "PaymentRequested")
		return pgx.BeginFunc(ctx, store.Pool(), func(tx pgx.Tx) error {
			written, err := store.WithTx(tx).WriteMessage(ctx, mdb.Category("payment").Stream(order.Stream.ID()), request,
				mdb.ExpectNoStream(), mdb.Idempotent(), mdb.InSavepoint())
			if conflict := new(mdb.WrongVersionError); errors.As(err, &conflict) {
				fmt.Println("another program requests the payment of", order.Stream)
			} else if err != nil {
				return err
			} else {
				fmt.Println(order.Stream, "already requested:", written.Duplicate)
			}
			_, err = tx.Exec(ctx, "UPDATE public.billing SET position = $1", order.GlobalPosition)
			return err
		})
	}

	for _, stream := range []mdb.StreamName{"cart-1", "cart-2"} {
		if _, err := store.WriteMessage(ctx, stream, mdb.NewMessage("Ordered", nil)); err != nil {
			log.Panic(err)
		}
	}
	if _, err := store.WriteMessage(ctx, "payment-2", mdb.NewMessage("Prepaid", nil)); err != nil {
		log.Panic(err)
	}
	for range 2 {
		for order, err := range store.CategoryMessages(ctx, "cart") {
			if err != nil {
				log.Panic(err)
			}
			if err := bill(order); err != nil {
				log.Panic(err)
			}
		}
	}
}

// A transaction of database/sql contains a statement on a table and a message. Both use the
// store's pool.
func ExampleStore_WithTx_databaseSQL() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	db := stdlib.OpenDBFromPool(store.Pool())
	defer db.Close()
	if _, err := db.ExecContext(ctx, "CREATE TABLE public.guests (name text)"); err != nil {
		log.Panic(err)
	}

	conn, err := db.Conn(ctx)
	if err != nil {
		log.Panic(err)
	}
	defer conn.Close()
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		log.Panic(err)
	}
	defer func() { _ = tx.Rollback() }() // does nothing after the commit
	if _, err := tx.ExecContext(ctx, "INSERT INTO public.guests VALUES ('Ann')"); err != nil {
		log.Panic(err)
	}
	err = conn.Raw(func(driverConn any) error {
		mtx := store.WithTx(driverConn.(*stdlib.Conn).Conn())
		_, err := mtx.WriteMessage(ctx, "party-1", mdb.NewMessage("Invited", map[string]string{"name": "Ann"}))
		return err
	})
	if err != nil {
		log.Panic(err)
	}
	fmt.Println("committed:", tx.Commit() == nil)
	version, err := store.StreamVersion(ctx, "party-1")
	fmt.Println("version:", version, err)
}
