package mdb_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/messagedb-go/messagedb/mdb"
)

// PL/Proxy sends each category to one of two shards. The store listens on both, and each
// subscription waits for the notifications of its shard.
func ExampleListenOn() {
	ctx, stop := context.WithCancelCause(context.Background())
	store, err := mdb.Connect(ctx, os.Getenv("PROXY_URL"),
		mdb.WithNotify(mdb.ListenOn(os.Getenv("SHARD0_URL"), os.Getenv("SHARD1_URL"))))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	handle := func(_ context.Context, m mdb.Message) error {
		fmt.Println("received", m.Type)
		stop(errShutdown)
		return nil
	}
	err = store.SubscribeToStream(ctx, "gate-1", handle, mdb.OnLive(func(bool) {
		if _, err := store.WriteMessage(ctx, "gate-1", mdb.NewMessage("Opened", nil)); err != nil {
			log.Panic(err)
		}
	}))
	fmt.Printf("ended: %v; shards: %d\n", err, len(store.NotifyShardStats()))
}
