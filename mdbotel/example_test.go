package mdbotel_test

import (
	"context"
	"log"
	"os"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdbotel"
)

// A service sets OpenTelemetry's global providers when it starts, and passes the hooks to its store. What is a state, such as the lag of
// consumers, is observed. One process observes the lag.
func Example() {
	ctx := context.Background()
	telemetry, err := mdbotel.New()
	if err != nil {
		log.Fatal(err)
	}
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"), mdb.WithNotify(), mdb.WithHooks(telemetry.Hooks()...))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	billing, err := consumer.New(store, "billing", "order", consumer.Each(func(ctx context.Context, m mdb.Message) error {
		_, err := store.WriteMessage(ctx, mdb.Category("invoice").Stream(m.Stream.ID()), mdb.NewMessage("Sent", nil)) // in the trace of m
		return err
	}))
	if err != nil {
		log.Panic(err)
	}
	if _, err := telemetry.ObserveStore(store); err != nil {
		log.Panic(err)
	}
	if _, err := telemetry.ObserveConsumers(billing); err != nil {
		log.Panic(err)
	}
	if _, err := telemetry.ObserveLag(consumer.Admin(store.Pool()), time.Minute); err != nil {
		log.Panic(err)
	}
	log.Panic(billing.Run(ctx))
}
