package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

var errShutdown = errors.New("shutdown")

// A subscription calls the handler for each message of a category until its context ends.
// This one stops when it has handled all existing messages.
func ExampleStore_SubscribeToCategory() {
	ctx, stop := context.WithCancelCause(context.Background())
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	for _, stream := range []mdb.StreamName{"room-1", "room-2"} {
		if _, err := store.WriteMessage(ctx, stream, mdb.NewMessage("Booked", map[string]int{"nights": 3})); err != nil {
			log.Panic(err)
		}
	}
	handle := func(_ context.Context, m mdb.Message) error {
		var booked struct{ Nights int }
		if err := m.Decode(&booked); err != nil {
			return err
		}
		fmt.Printf("%s is booked for %d nights\n", m.Stream, booked.Nights)
		return nil
	}
	err = store.SubscribeToCategory(ctx, "room", handle, mdb.OnLive(func(bool) { stop(errShutdown) }))
	fmt.Println("ended:", err)
}

// A handler can end the subscription with an error.
func ExampleStore_SubscribeToStream() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	job := mdb.Category("job").Stream("7")
	if _, err := store.WriteMessages(ctx, job, []mdb.ProposedMessage{
		mdb.NewMessage("Started", nil), mdb.NewMessage("Finished", nil),
	}); err != nil {
		log.Panic(err)
	}
	errFinished := errors.New("the job is finished")
	err = store.SubscribeToStream(ctx, job, func(_ context.Context, m mdb.Message) error {
		fmt.Println(m.Type)
		if m.Type == "Finished" {
			return errFinished
		}
		return nil
	})
	fmt.Println(errors.Is(err, errFinished))
}

// A projection in memory counts visits. OnLive says when it has counted all existing
// messages, so that it can be queried.
func ExampleOnLive() {
	ctx, stop := context.WithCancelCause(context.Background())
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	for range 3 {
		if _, err := store.WriteMessage(ctx, "page-home", mdb.NewMessage("Visited", nil)); err != nil {
			log.Panic(err)
		}
	}
	visits := make(map[mdb.StreamName]int)
	err = store.SubscribeToCategory(ctx, "page", func(_ context.Context, m mdb.Message) error {
		visits[m.Stream]++
		return nil
	}, mdb.OnLive(func(live bool) {
		fmt.Println("live:", live, visits)
		stop(errShutdown)
	}))
	fmt.Println("ended:", err)
}

// A subscription resumes after the stored checkpoint. Here a variable takes the place of a
// row in a table, with a column of type text.
func ExampleOnProgress() {
	background := context.Background()
	store, err := mdb.Connect(background, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	stored := "" // the beginning
	for _, order := range []string{"order-1", "order-2"} {
		if _, err := store.WriteMessage(background, mdb.StreamName(order), mdb.NewMessage("Placed", nil)); err != nil {
			log.Panic(err)
		}
		var checkpoint mdb.CategoryCheckpoint
		if err := checkpoint.UnmarshalText([]byte(stored)); err != nil {
			log.Panic(err)
		}
		ctx, stop := context.WithCancelCause(background)
		err := store.SubscribeToCategory(ctx, "order", func(_ context.Context, m mdb.Message) error {
			fmt.Println("ship", m.Stream)
			return nil
		}, mdb.AfterCheckpoint(checkpoint), mdb.OnProgress(func(_ context.Context, c mdb.CategoryCheckpoint) error {
			stored = c.String()
			stop(errShutdown)
			return nil
		}))
		fmt.Println("ended:", err)
	}
}

// An audit receives the messages of some types from all categories, in one order. This one stops when it has handled all
// existing messages.
func ExampleStore_SubscribeToAll() {
	ctx, stop := context.WithCancelCause(context.Background())
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	for _, stream := range []mdb.StreamName{"locker-1", "vault-1", "locker-2"} {
		if _, err := store.WriteMessage(ctx, stream, mdb.NewMessage("Unlocked", nil)); err != nil {
			log.Panic(err)
		}
	}
	err = store.SubscribeToAll(ctx, func(_ context.Context, m mdb.Message) error {
		fmt.Println(m.Type, m.Stream)
		return nil
	}, mdb.OfTypes("Unlocked"), mdb.OnLive(func(bool) { stop(errShutdown) }))
	fmt.Println("ended:", err)
}

// A process that concerns two categories handles their messages in one order, and resumes after the
// stored checkpoint. Here a variable takes the place of a row in a table.
func ExampleOnAllProgress() {
	background := context.Background()
	store, err := mdb.Connect(background, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	var stored mdb.AllCheckpoint // the beginning
	run := func() {
		ctx, stop := context.WithCancelCause(background)
		err := store.SubscribeToCategories(ctx, []mdb.Category{"ride", "fare"}, func(_ context.Context, m mdb.Message) error {
			fmt.Println(m.Type, m.Stream)
			return nil
		}, mdb.AfterAllCheckpoint(stored), mdb.OnAllProgress(func(_ context.Context, c mdb.AllCheckpoint) error {
			stored = c
			stop(errShutdown)
			return nil
		}))
		fmt.Println("ended:", err)
	}
	write := func(stream mdb.StreamName, typ string) {
		if _, err := store.WriteMessage(background, stream, mdb.NewMessage(typ, nil)); err != nil {
			log.Panic(err)
		}
	}
	write("ride-1", "Ordered")
	write("fare-1", "Paid")
	run()
	write("ride-2", "Ordered")
	run()
}

// OnFork receives the messages that were handled and are no longer in the store. Here the owner
// of the table deletes one, which looks like a loss in a failover.
func ExampleOnFork() {
	ctx, stop := context.WithCancelCause(context.Background())
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	sold := make(map[uuid.UUID]mdb.StreamName)
	for _, ticket := range []mdb.StreamName{"ticket-1", "ticket-2"} {
		if _, err := store.WriteMessage(ctx, ticket, mdb.NewMessage("Sold", nil)); err != nil {
			log.Panic(err)
		}
	}
	err = store.SubscribeToCategory(ctx, "ticket", func(_ context.Context, m mdb.Message) error {
		sold[m.ID] = m.Stream
		return nil
	}, mdb.OnLive(func(bool) {
		if _, err := store.Pool().Exec(ctx, "DELETE FROM message_store.messages WHERE stream_name = 'ticket-2'"); err != nil {
			stop(err)
		}
	}), mdb.OnFork(func(_ context.Context, fork mdb.Fork) error {
		for _, missing := range fork.Missing {
			fmt.Println("undo the sale of", sold[missing.ID])
			delete(sold, missing.ID)
		}
		stop(errShutdown)
		return nil
	}))
	fmt.Println("ended:", err)
}

// A handler stores the checkpoint in the transaction of its effects, so each message takes
// effect once. After a fork, the effects of the missing messages are undone in the same way.
func ExampleCategoryCheckpoint_After() {
	ctx, stop := context.WithCancelCause(context.Background())
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	pool := store.Pool()
	if _, err := pool.Exec(ctx, `
		CREATE TABLE invoice (position bigint PRIMARY KEY, customer text NOT NULL);
		CREATE TABLE progress (checkpoint text NOT NULL);
		INSERT INTO progress VALUES ('')`); err != nil {
		log.Panic(err)
	}
	if _, err := store.WriteMessage(ctx, "basket-7", mdb.NewMessage("Ordered", nil)); err != nil {
		log.Panic(err)
	}
	var checkpoint mdb.CategoryCheckpoint
	if err := pool.QueryRow(ctx, "SELECT checkpoint FROM progress").Scan(&checkpoint); err != nil {
		log.Panic(err)
	}
	err = store.SubscribeToCategory(ctx, "basket", func(ctx context.Context, m mdb.Message) error {
		next := checkpoint.After(m)
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "INSERT INTO invoice VALUES ($1, $2)", m.GlobalPosition, m.Stream); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "UPDATE progress SET checkpoint = $1", next)
			return err
		})
		if err != nil {
			return err
		}
		checkpoint = next
		fmt.Println("invoice for", m.Stream)
		stop(errShutdown)
		return nil
	}, mdb.AfterCheckpoint(checkpoint), mdb.OnFork(func(ctx context.Context, fork mdb.Fork) error {
		_, err := pool.Exec(ctx, "DELETE FROM invoice WHERE position > $1", fork.After)
		return err
	}))
	fmt.Println("ended:", err)
}

// Each member of a group is a subscription. Here all of them run in one process, and when
// one ends the others end too.
func ExampleAsConsumerGroup() {
	ctx, stop := context.WithCancelCause(context.Background())
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if _, err := store.WriteMessage(ctx, "parcel-7", mdb.NewMessage("Lost", nil)); err != nil {
		log.Panic(err)
	}
	handle := func(_ context.Context, m mdb.Message) error {
		return fmt.Errorf("a %s %s", m.Type, m.Stream.Category())
	}
	defer stop(nil)
	const size = 3
	var members sync.WaitGroup
	for member := range size {
		members.Go(func() {
			stop(store.SubscribeToCategory(ctx, "parcel", handle, mdb.AsConsumerGroup(member, size)))
		})
	}
	members.Wait()
	fmt.Println(errors.Unwrap(context.Cause(ctx)))
}

// Eight workers handle purchases concurrently, and those of each customer in order. All of
// them call the handler.
func ExampleWithWorkers() {
	ctx, stop := context.WithCancelCause(context.Background())
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	for _, id := range []string{mdb.CompoundID("ann", "1"), mdb.CompoundID("bob", "1"), mdb.CompoundID("ann", "2")} {
		if _, err := store.WriteMessage(ctx, mdb.Category("purchase").Stream(id), mdb.NewMessage("Placed", nil)); err != nil {
			log.Panic(err)
		}
	}
	var mu sync.Mutex
	purchases := make(map[string][]string)
	err = store.SubscribeToCategory(ctx, "purchase", func(_ context.Context, m mdb.Message) error {
		mu.Lock()
		defer mu.Unlock()
		purchases[m.Stream.CardinalID()] = append(purchases[m.Stream.CardinalID()], m.Stream.ID())
		return nil
	}, mdb.WithWorkers(8), mdb.OnLive(func(bool) { stop(errShutdown) }))
	fmt.Println(purchases, err)
}

// With notifications, a subscription receives a message about a millisecond after its
// commit. The trigger is installed once, by the owner of the store.
func ExampleWithNotify() {
	ctx, stop := context.WithCancelCause(context.Background())
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"), mdb.WithNotify())
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if err := schema.InstallNotify(ctx, store.Pool()); err != nil {
		log.Panic(err)
	}
	handle := func(_ context.Context, m mdb.Message) error {
		fmt.Println("received", m.Type)
		stop(errShutdown)
		return nil
	}
	err = store.SubscribeToStream(ctx, "door-1", handle, mdb.OnLive(func(bool) {
		if _, err := store.WriteMessage(ctx, "door-1", mdb.NewMessage("Opened", nil)); err != nil {
			log.Panic(err)
		}
	}))
	fmt.Println("ended:", err)
}

// Export NotifyStats as metrics. If a category is polled for a long time, notifications do
// not arrive.
func ExampleStore_NotifyStats() {
	ctx, stop := context.WithCancelCause(context.Background())
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"), mdb.WithNotify())
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if err := schema.InstallNotify(ctx, store.Pool()); err != nil {
		log.Panic(err)
	}
	ignore := func(context.Context, mdb.Message) error { return nil }
	err = store.SubscribeToCategory(ctx, "sensor", ignore, mdb.OnLive(func(bool) {
		stats := store.NotifyStats()
		fmt.Printf("categories: %d, reads: %d\n", stats.Waiting+stats.Cooling+stats.Polling, stats.Reads)
		stop(errShutdown)
	}))
	if !errors.Is(err, errShutdown) {
		log.Panic(err)
	}
}

// A subscription goes past a message that cannot be read, and records which one it was.
// Here another program has written one whose text would be longer than 1 GiB.
func ExampleOnUnreadable() {
	ctx, stop := context.WithCancelCause(context.Background())
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Pool().Exec(ctx, `SELECT message_store.write_message(
		gen_random_uuid()::varchar, 'import-1', 'Imported', ('[' || repeat('1e131071,', 9999) || '1e131071]')::jsonb)`); err != nil {
		log.Panic(err)
	}
	if _, err := store.WriteMessage(ctx, "import-1", mdb.NewMessage("Imported", nil)); err != nil {
		log.Panic(err)
	}
	handle := func(_ context.Context, m mdb.Message) error {
		fmt.Println(m.Stream, m.Position, m.Type)
		stop(errShutdown)
		return nil
	}
	err = store.SubscribeToCategory(ctx, "import", handle,
		mdb.OnUnreadable(func(_ context.Context, err *mdb.UnreadableError) error {
			fmt.Println("unreadable:", err.Stream, err.Position, err.Type)
			return nil
		}))
	fmt.Println("ended:", err)
}
