package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// A read model is rebuilt: in one transaction, its table is emptied and the consumer moves to the beginning. Processes that
// run the consumer continue from there.
func ExampleAdmin() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Pool().Exec(ctx, "CREATE TABLE public.stock (item text PRIMARY KEY, amount bigint NOT NULL)"); err != nil {
		log.Panic(err)
	}
	type counted struct{ Amount int64 }
	for _, item := range []mdb.StreamName{"goods-tea", "goods-salt", "goods-tea"} {
		if _, err := store.WriteMessage(ctx, item, mdb.NewMessage("Counted", counted{2})); err != nil {
			log.Panic(err)
		}
	}
	add := func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
		var c counted
		if err := m.Decode(&c); err != nil {
			return consumer.Permanent(err)
		}
		_, err := tx.Exec(ctx, `INSERT INTO public.stock AS s VALUES ($1, $2)
			ON CONFLICT (item) DO UPDATE SET amount = s.amount + excluded.amount`, m.Stream.ID(), c.Amount)
		return err
	}
	stock, err := consumer.New(store, "stock", "goods", consumer.EachTx(add))
	if err != nil {
		log.Panic(err)
	}
	if err := stock.CatchUp(ctx); err != nil { // a service calls Run
		log.Panic(err)
	}

	admin := consumer.Admin(store.Pool())
	changed, err := admin.Seek(ctx, "stock", consumer.ToBeginning(), consumer.Within(func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "TRUNCATE public.stock")
		return err
	}))
	if err != nil {
		log.Panic(err)
	}
	for _, c := range changed {
		fmt.Printf("%s continues after position %d\n", c.Category, c.Position)
	}
	status, err := admin.Show(ctx, "stock")
	if err != nil {
		log.Panic(err)
	}
	fmt.Println("messages to handle:", status.Pending)

	if err := stock.CatchUp(ctx); err != nil {
		log.Panic(err)
	}
	var tea int64
	err = store.Pool().QueryRow(ctx, "SELECT amount FROM public.stock WHERE item = 'tea'").Scan(&tea)
	fmt.Println("tea:", tea, err)
}

// A request writes a message, and then waits until the read model has it.
func ExampleOperator_WaitForStream() {
	ctx, stop := context.WithCancelCause(context.Background())
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Pool().Exec(ctx, "CREATE TABLE public.titles (book text PRIMARY KEY, title text)"); err != nil {
		log.Panic(err)
	}
	type named struct{ Title string }
	set := func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
		var n named
		if err := m.Decode(&n); err != nil {
			return consumer.Permanent(err)
		}
		_, err := tx.Exec(ctx, "INSERT INTO public.titles VALUES ($1, $2) ON CONFLICT (book) DO UPDATE SET title = excluded.title", m.Stream.ID(), n.Title)
		return err
	}
	titles, err := consumer.New(store, "titles", "book", consumer.EachTx(set))
	if err != nil {
		log.Panic(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- titles.Run(ctx) }()
	first, err := store.WriteMessage(ctx, "book-1", mdb.NewMessage("Named", named{"Draft"}))
	if err != nil {
		log.Panic(err)
	}
	admin := consumer.Admin(store.Pool())
	// The consumer exists when a process has first run it.
	for errors.As(admin.WaitForStream(ctx, "titles", "book-1", first.GlobalPosition), new(*consumer.NotFoundError)) {
		time.Sleep(10 * time.Millisecond)
	}

	written, err := store.WriteMessage(ctx, "book-1", mdb.NewMessage("Named", named{"Title"}))
	if err != nil {
		log.Panic(err)
	}
	request, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := admin.WaitForStream(request, "titles", "book-1", written.GlobalPosition); err != nil {
		log.Panic(err)
	}
	var title string
	err = store.Pool().QueryRow(ctx, "SELECT title FROM public.titles WHERE book = '1'").Scan(&title)
	fmt.Println(title, err)
	stop(errors.New("shutdown"))
	fmt.Println(<-ended)
}
