package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
)

// An audit is a hook that adds who acts to each message, and records what has become of each write.
type audit struct{}

type actorKey struct{}

func actor(ctx context.Context) string {
	name, _ := ctx.Value(actorKey{}).(string)
	return name
}

func (audit) OnMetadata(ctx context.Context, _ mdb.StreamName, _ mdb.ProposedMessage) map[string]any {
	return map[string]any{"actor": actor(ctx)}
}

func (audit) OnWrite(ctx context.Context, w mdb.WriteOutcome) {
	fmt.Printf("%s writes %d message to %s, error: %v\n", actor(ctx), w.Messages, w.Stream, w.Err)
}

// A hook implements the interfaces of what it wants to see, here HookMetadata and HookWrite, in one type.
func ExampleWithHooks() {
	store, err := mdb.Connect(context.Background(), os.Getenv("DATABASE_URL"), mdb.WithHooks(audit{}))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	ctx := context.WithValue(context.Background(), actorKey{}, "ann") // as the middleware of a server does
	for range 2 {
		_, _ = store.WriteMessage(ctx, "contract-7", mdb.NewMessage("Signed", nil), mdb.ExpectNoStream())
	}
	signed, err := store.GetLastStreamMessage(ctx, "contract-7")
	fmt.Printf("%s %s %v\n", signed.Type, signed.Metadata, err)
}

// slow is a hook that reports handlers which take long.
type slow struct{ limit time.Duration }

func (slow) OnHandleStart(ctx context.Context, _ mdb.Handling) context.Context { return ctx }

func (s slow) OnHandleEnd(_ context.Context, h mdb.Handling, took time.Duration, err error) {
	if took > s.limit {
		log.Printf("%s took %s for %s, error: %v", h.Consumer, took, h.Message.Stream, err)
	}
}

// The hooks of a store see the handlers of its subscriptions and consumers, too.
func ExampleHookHandle() {
	store, err := mdb.Connect(context.Background(), os.Getenv("DATABASE_URL"), mdb.WithHooks(slow{time.Minute}))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	done := errors.New("done")
	if _, err := store.WriteMessage(context.Background(), "letter-1", mdb.NewMessage("Sent", nil)); err != nil {
		log.Panic(err)
	}
	err = store.SubscribeToCategory(context.Background(), "letter", func(context.Context, mdb.Message) error { return done })
	fmt.Println("ended by the handler:", errors.Is(err, done))
}
