package mdb_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/messagedb-go/messagedb/mdb"
)

func followUsers(ctx context.Context, store *mdb.Store) {
	handler := func(_ context.Context, m mdb.Message) error {
		log.Printf("received %s", m.Type)
		return nil
	}
	err := store.SubscribeToCategory(ctx, "user", handler,
		mdb.OnLive(func(live bool) { log.Printf("live: %t", live) }))
	if ctx.Err() == nil { // the end of the context is an error too
		log.Fatalf("the subscription ended: %s", err)
	}
}

// gomdb's three handlers are the handler, OnLive, and the code after the call, which
// returns when the subscription ends.
func ExampleStore_SubscribeToCategory_gomdb() {
	store, err := mdb.Connect(context.Background(), os.Getenv("DATABASE_URL"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		followUsers(ctx, store)
	}()
	cancel()
	<-done
	fmt.Println("ended")
}
