package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
)

func Example() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	account := mdb.Category("account").Stream("123")
	deposited := mdb.NewMessage("Deposited", map[string]int{"amount": 10})
	written, err := store.WriteMessage(ctx, account, deposited, mdb.ExpectNoStream())
	if err != nil {
		log.Panic(err)
	}
	fmt.Printf("written to position %d of %s\n", written.Position, account)

	messages, err := store.GetStreamMessages(ctx, account)
	if err != nil {
		log.Panic(err)
	}
	for _, message := range messages {
		fmt.Printf("%d: %s %s\n", message.Position, message.Type, message.Data)
	}
}

// Several goroutines that write to one category share its commits.
func ExampleWithGroupCommit() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"), mdb.WithGroupCommit())
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	var writers sync.WaitGroup
	for account := range 64 {
		writers.Go(func() {
			stream := mdb.Category("account").Stream(strconv.Itoa(account))
			opened := mdb.NewMessage("Opened", map[string]int{"account": account})
			if _, err := store.WriteMessage(ctx, stream, opened, mdb.ExpectNoStream()); err != nil {
				log.Print(err) // of this write alone
			}
		})
	}
	writers.Wait()
}

// Connect opens a pool. Check reports what is not set up correctly.
func ExampleConnect() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"),
		mdb.WithLogger(slog.Default()),
		mdb.WithRetry(mdb.RetryPolicy{For: 30 * time.Second}))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if err := store.Check(ctx); err != nil {
		log.Panic(err)
	}
	version, err := store.MessageStoreVersion(ctx)
	fmt.Println(version, err)
}

// If the program has a pool of its own, Configure prepares its configuration.
func ExampleNew() {
	ctx := context.Background()
	cfg, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	mdb.Configure(cfg)
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	store, err := mdb.New(pool, mdb.WithDirectSQL())
	if err != nil {
		log.Panic(err)
	}
	fmt.Println("problems:", store.Check(ctx))
}

// With the functions of Message DB's own script, the schema message_store must be first in
// the search path of the pool.
func ExampleConfigure_storeFirst() {
	ctx := context.Background()
	cfg, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	mdb.Configure(cfg, mdb.StoreFirst())
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	store, err := mdb.New(pool)
	if err != nil {
		log.Panic(err)
	}
	fmt.Println("problems:", store.Check(ctx))
}

// PgBouncer tracks few start-up parameters. The connection that listens for notifications
// bypasses it.
func ExampleBehindPooler() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"), mdb.BehindPooler(),
		mdb.WithNotify(mdb.ListenOn(os.Getenv("SERVER_URL"))))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	version, err := store.MessageStoreVersion(ctx)
	fmt.Println(version, err)
}

// Two writers decide on the same state. One succeeds; the other gets an error, because its
// state is outdated.
func ExampleStore_WriteMessage_conflict() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	for range 2 {
		_, err := store.WriteMessage(ctx, "seat-1a", mdb.NewMessage("Reserved", nil), mdb.ExpectNoStream())
		if lost := new(mdb.WrongVersionError); errors.As(err, &lost) {
			fmt.Println("too late:", lost)
			continue
		}
		fmt.Println("reserved:", err == nil)
	}
}

// A read is retried while its errors are transient.
func ExampleIsTransient() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	for attempt := 1; ; attempt++ {
		version, err := store.StreamVersion(ctx, "lift-1")
		if mdb.IsTransient(err) && attempt < 10 {
			time.Sleep(time.Second)
			continue
		}
		fmt.Println(version, err)
		return
	}
}

// A web service answers 503 if the server cannot be reached. The time for retries is shorter than
// the deadline of a request, so that ErrUnavailable comes first.
func ExampleErrUnavailable() {
	cfg, err := pgxpool.ParseConfig("postgres://127.0.0.1:1/messages") // no server listens there
	if err != nil {
		log.Fatal(err)
	}
	mdb.Configure(cfg)
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	store, err := mdb.New(pool, mdb.WithRetry(mdb.RetryPolicy{For: 100 * time.Millisecond}))
	if err != nil {
		log.Panic(err)
	}
	order := func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
		defer cancel()
		_, err := store.WriteMessage(ctx, "order-1", mdb.NewMessage("Placed", nil))
		switch {
		case errors.Is(err, mdb.ErrUnavailable): // nothing was written
			w.WriteHeader(http.StatusServiceUnavailable)
		case err != nil:
			w.WriteHeader(http.StatusInternalServerError)
		}
	}
	answer := httptest.NewRecorder()
	order(answer, httptest.NewRequest(http.MethodPost, "/orders", nil))
	fmt.Println(answer.Code)
}

// Independent writes share a round trip. If one fails, only later writes to the same stream
// are skipped.
func ExampleStore_WriteEach() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	measured := func(celsius float64) mdb.ProposedMessage {
		return mdb.NewMessage("Measured", map[string]float64{"celsius": celsius})
	}
	results := store.WriteEach(ctx, []mdb.Write{
		{Stream: "sensor-1", Message: measured(20.5)},
		{Stream: "sensor-2", Message: measured(19), Options: []mdb.WriteOption{mdb.ExpectVersion(7)}},
		{Stream: "sensor-2", Message: measured(19.5)},
		{Stream: "sensor-3", Message: measured(21)},
	})
	for i, result := range results {
		var skipped *mdb.SkippedError
		switch {
		case errors.As(result.Err, &skipped):
			fmt.Printf("%d: skipped, because write %d failed\n", i, skipped.Failed)
		case result.Err != nil:
			fmt.Printf("%d: %v\n", i, result.Err)
		default:
			fmt.Printf("%d: at position %d\n", i, result.Written.Position)
		}
	}
}

// A message that is written again, with the same ID, is not written twice. Repeat a write
// in this way if its outcome is unknown.
func ExampleIdempotent() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	paid := mdb.NewMessage("Paid", map[string]int{"amount": 10})
	for range 2 {
		written, err := store.WriteMessage(ctx, "invoice-7", paid, mdb.Idempotent())
		if err != nil {
			log.Panic(err)
		}
		fmt.Printf("position %d, already written: %t\n", written.Position, written.Duplicate)
	}
}

// A transfer writes to two categories or to none.
func ExampleStore_Atomically() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	err = store.Atomically(ctx, []mdb.Category{"checking", "savings"}, func(tx *mdb.Tx) error {
		if _, err := tx.WriteMessage(ctx, "checking-1", mdb.NewMessage("Withdrawn", nil)); err != nil {
			return err
		}
		_, err := tx.WriteMessage(ctx, "savings-1", mdb.NewMessage("Deposited", nil))
		return err
	})
	version, _ := store.StreamVersion(ctx, "savings-1")
	fmt.Println(err, version)
}

// A row of the program's own table and a message are written in one transaction.
func ExampleStore_WithTx() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Pool().Exec(ctx, "CREATE TABLE public.customers (id text PRIMARY KEY, name text)"); err != nil {
		log.Panic(err)
	}
	register := func(id, name string) error {
		return pgx.BeginFunc(ctx, store.Pool(), func(tx pgx.Tx) error {
			registered := mdb.NewMessage("Registered", map[string]string{"name": name})
			if _, err := store.WithTx(tx).WriteMessage(ctx, mdb.Category("customer").Stream(id), registered); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "INSERT INTO public.customers (id, name) VALUES ($1, $2)", id, name)
			return err
		})
	}
	fmt.Println("registered:", register("1", "Ann") == nil)
	fmt.Println("registered again:", register("1", "Ann") == nil)
	version, err := store.StreamVersion(ctx, "customer-1")
	fmt.Println("version:", version, err)
}

// Backwards returns the latest message first, here the last two of a stream.
func ExampleBackwards() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	for _, typ := range []string{"Boarded", "Took off", "Landed"} {
		if _, err := store.WriteMessage(ctx, "flight-1", mdb.NewMessage(typ, nil)); err != nil {
			log.Panic(err)
		}
	}
	messages, err := store.GetStreamMessages(ctx, "flight-1", mdb.Backwards(), mdb.WithBatchSize(2))
	if err != nil {
		log.Panic(err)
	}
	for _, message := range messages {
		fmt.Print(message.Type, " ")
	}
	fmt.Println()
}

// Since reads what was written in the last hour.
func ExampleSince() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if _, err := store.WriteMessage(ctx, "scooter-1", mdb.NewMessage("Parked", nil)); err != nil {
		log.Panic(err)
	}
	for message, err := range store.CategoryMessages(ctx, "scooter", mdb.Since(time.Now().Add(-time.Hour))) {
		if err != nil {
			log.Panic(err)
		}
		fmt.Println(message.Type)
	}
}

// GetMessage reads a message by its ID, such as one that a log contains.
func ExampleStore_GetMessage() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	written, err := store.WriteMessage(ctx, "crate-1", mdb.NewMessage("Shipped", nil))
	if err != nil {
		log.Panic(err)
	}
	message, err := store.GetMessage(ctx, written.ID)
	if err != nil {
		log.Panic(err)
	}
	_, err = store.GetMessage(ctx, uuid.New())
	fmt.Println(message.Type, message.Stream, errors.Is(err, mdb.ErrNoMessage))
}

// CategoryMessages reads page after page. It uses no connection while the body of the loop
// runs.
func ExampleStore_CategoryMessages() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	for i := range 5 {
		if _, err := store.WriteMessage(ctx, mdb.Category("visit").Stream(fmt.Sprint(i%2)), mdb.NewMessage("Visited", nil)); err != nil {
			log.Panic(err)
		}
	}
	count := make(map[mdb.StreamName]int)
	for message, err := range store.CategoryMessages(ctx, "visit", mdb.WithBatchSize(2)) {
		if err != nil {
			log.Panic(err)
		}
		count[message.Stream]++
	}
	fmt.Println(count)
}

// AllMessages reads all categories in one order. A position is missing here, as after a rollback:
// nobody can still write a message to it, so the read goes on.
func ExampleStore_AllMessages() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	start, err := store.Head(ctx)
	if err != nil {
		log.Panic(err)
	}
	for _, stream := range []mdb.StreamName{"train-1", "platform-1", "train-2"} {
		if _, err := store.WriteMessage(ctx, stream, mdb.NewMessage("Arrived", nil)); err != nil {
			log.Panic(err)
		}
		if _, err := store.Pool().Exec(ctx, "SELECT nextval('message_store.messages_global_position_seq')"); err != nil {
			log.Panic(err)
		}
	}
	for message, err := range store.AllMessages(ctx, mdb.AfterGlobalPosition(start), mdb.InCategories("train", "platform")) {
		if err != nil {
			log.Panic(err)
		}
		fmt.Println(message.Stream)
	}
}

// GetAllMessages reads a page of the messages of some types, whatever their categories are.
func ExampleStore_GetAllMessages() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	for _, stream := range []mdb.StreamName{"loan-1", "deposit-1"} {
		for _, typ := range []string{"Signed", "Terminated"} {
			if _, err := store.WriteMessage(ctx, stream, mdb.NewMessage(typ, nil)); err != nil {
				log.Panic(err)
			}
		}
	}
	messages, err := store.GetAllMessages(ctx, mdb.OfTypes("Terminated"), mdb.WithBatchSize(20))
	if err != nil {
		log.Panic(err)
	}
	for _, message := range messages {
		fmt.Println(message.Stream, message.Type)
	}
}

// GetLastCategoryMessage reads the last message of a type, in whichever stream of the category it is.
func ExampleStore_GetLastCategoryMessage() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	for _, stream := range []mdb.StreamName{"ferry-1", "ferry-2"} {
		for _, typ := range []string{"Departed", "Docked"} {
			if _, err := store.WriteMessage(ctx, stream, mdb.NewMessage(typ, nil)); err != nil {
				log.Panic(err)
			}
		}
	}
	last, err := store.GetLastCategoryMessage(ctx, "ferry", mdb.OfType("Departed"))
	if err != nil {
		log.Panic(err)
	}
	fmt.Println(last.Stream, last.Type)
}

// The time of a message is that of the beginning of its transaction. A margin of two hours finds the messages
// of transactions that took so long.
func ExampleTimeMargin() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if _, err := store.WriteMessage(ctx, "tram-1", mdb.NewMessage("Braked", nil)); err != nil {
		log.Panic(err)
	}
	hour := time.Now().Add(-time.Hour)
	for message, err := range store.CategoryMessages(ctx, "tram", mdb.Since(hour), mdb.TimeMargin(2*time.Hour)) {
		if err != nil {
			log.Panic(err)
		}
		fmt.Println(message.Type)
	}
}
