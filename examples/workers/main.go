// The example workers handles one subscription with several workers. The letters to one
// town, which have the same cardinal ID, are delivered in order. Letters to different
// towns are delivered concurrently.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"
	"sync"

	"github.com/messagedb-go/messagedb/mdb"
)

var errStopped = errors.New("stopped")

// deliver delivers letters up to the position last, and returns them by town.
func deliver(ctx context.Context, store *mdb.Store, last int64) (map[string][]string, error) {
	var mu sync.Mutex // guards delivered, because the workers call the handler concurrently
	delivered := make(map[string][]string)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	err := store.SubscribeToCategory(ctx, "letter", func(_ context.Context, m mdb.Message) error {
		mu.Lock()
		defer mu.Unlock()
		town := m.Stream.CardinalID()
		delivered[town] = append(delivered[town], m.Stream.ID())
		return nil
	},
		mdb.WithWorkers(4),
		mdb.OnProgress(func(_ context.Context, c mdb.CategoryCheckpoint) error {
			// All messages up to this checkpoint are delivered, so a service would store it.
			if c.Position() >= last {
				stop(errStopped)
			}
			return nil
		}))
	if !errors.Is(err, errStopped) {
		return nil, err
	}
	return delivered, nil
}

func run(ctx context.Context, url string) error {
	store, err := mdb.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer store.Close()

	var last int64
	for i := range 9 {
		town := []string{"berlin", "oslo", "rome"}[i%3]
		stream := mdb.Category("letter").Stream(mdb.CompoundID(town, fmt.Sprint(i)))
		written, err := store.WriteMessage(ctx, stream, mdb.NewMessage("Posted", nil))
		if err != nil {
			return err
		}
		last = written.GlobalPosition
	}
	delivered, err := deliver(ctx, store, last)
	if err != nil {
		return err
	}
	for _, town := range []string{"berlin", "oslo", "rome"} {
		fmt.Printf("%s: %v, in order: %t\n", town, delivered[town], slices.IsSorted(delivered[town]))
	}
	return nil
}

func main() {
	url := os.Getenv("DATABASE_URL")
	if url == "" {
		log.Fatal("set DATABASE_URL to the URL of a database with Message DB")
	}
	if err := run(context.Background(), url); err != nil {
		log.Fatal(err)
	}
}
