package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"sync"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

var errShutdown = errors.New("shutdown")

// A projection in memory counts visits. It has to count all of them when it begins, so
// it says when it may be asked: when it is live.
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
	fmt.Println("dropped:", err)
}

// A subscription goes on from the position that it has kept. Here a variable stands for
// a row in a table.
func ExampleOnProgress() {
	background := context.Background()
	store, err := mdb.Connect(background, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	position := int64(0)
	for _, order := range []string{"order-1", "order-2"} {
		if _, err := store.WriteMessage(background, mdb.StreamName(order), mdb.NewMessage("Placed", nil)); err != nil {
			log.Panic(err)
		}
		ctx, stop := context.WithCancelCause(background)
		err := store.SubscribeToCategory(ctx, "order", func(_ context.Context, m mdb.Message) error {
			fmt.Println("ship", m.Stream)
			return nil
		}, mdb.AfterGlobalPosition(position), mdb.OnProgress(func(_ context.Context, handled int64) error {
			position = handled
			stop(errShutdown)
			return nil
		}))
		fmt.Println("dropped:", err)
	}
}

// The members of a group are subscriptions of their own, here in one process. When one
// is dropped the others end as well. An errgroup of golang.org/x/sync, made with a
// context, does the same: g.Go(func() error { return store.SubscribeToCategory(…) }).
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

// Orders are handled by eight workers, those of one customer in their order. The
// handler is called by all of them.
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

// The state of the bell belongs into a service's metrics. A category that is off for
// long says that rings do not arrive.
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
