package mdb_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
)

// A hot standby serves reads. What must not lack a write waits for it, or uses the primary.
func ExampleConnectReplica() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"), mdb.ConnectReplica(os.Getenv("REPLICA_URL")))
	if err != nil {
		log.Panic(err)
	}
	defer store.Close()

	order := mdb.Category("order").Stream("7")
	written, err := store.WriteMessage(ctx, order, mdb.NewMessage("Placed", map[string]int{"items": 2}))
	if err != nil {
		log.Panic(err)
	}
	if err := store.AwaitWrite(ctx, order, written); err != nil {
		log.Panic(err)
	}
	replica, err := store.GetStreamMessages(ctx, order)
	if err != nil {
		log.Panic(err)
	}
	primary, err := store.GetStreamMessages(ctx, order, mdb.FromPrimary())
	if err != nil {
		log.Panic(err)
	}
	fmt.Printf("%d message on the replica, %d on the primary\n", len(replica), len(primary))
}

// The lag of a replica is a metric. Here the replica has replayed the only write.
func ExampleStore_ReplicaLag() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"), mdb.ConnectReplica(os.Getenv("REPLICA_URL")))
	if err != nil {
		log.Panic(err)
	}
	defer store.Close()

	parcel := mdb.Category("parcel").Stream("7")
	written, err := store.WriteMessage(ctx, parcel, mdb.NewMessage("Sent", nil))
	if err != nil {
		log.Panic(err)
	}
	if err := store.AwaitWrite(ctx, parcel, written); err != nil {
		log.Panic(err)
	}
	lag, err := store.ReplicaLag(ctx)
	if err != nil {
		log.Panic(err)
	}
	fmt.Printf("the replica lacks %d positions, for %v\n", lag.Positions, lag.Time)
}
