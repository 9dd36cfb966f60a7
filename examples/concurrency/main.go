// Optimistic concurrency: two tills sell the last tickets of a show. Each decides
// on what it has read, expects that nothing was written since, and reads again and
// decides again if something was.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"sync"

	"github.com/messagedb-go/messagedb/mdb"
)

const seats = 5

// sell sells a ticket, or returns false if there is none left.
func sell(ctx context.Context, store *mdb.Store, show mdb.StreamName) (bool, error) {
	for {
		sold, version := 0, mdb.NoStream
		for message, err := range store.StreamMessages(ctx, show) {
			if err != nil {
				return false, err
			}
			sold, version = sold+1, message.Position
		}
		if sold == seats {
			return false, nil
		}
		_, err := store.WriteMessage(ctx, show, mdb.NewMessage("TicketSold", nil), mdb.ExpectVersion(version))
		var overtaken *mdb.WrongVersionError
		if errors.As(err, &overtaken) {
			continue
		}
		return err == nil, err
	}
}

func run(ctx context.Context, url string) error {
	store, err := mdb.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer store.Close()

	show := mdb.Category("show").Stream("hamlet")
	var tills sync.WaitGroup
	sold := make([]int, 2)
	failed := make([]error, 2)
	for till := range sold {
		tills.Go(func() {
			for {
				ok, err := sell(ctx, store, show)
				if err != nil || !ok {
					failed[till] = err
					return
				}
				sold[till]++
			}
		})
	}
	tills.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	fmt.Printf("%d tickets sold for %d seats\n", sold[0]+sold[1], seats)
	return nil
}

func main() {
	if err := run(context.Background(), os.Getenv("DATABASE_URL")); err != nil {
		log.Fatal(err)
	}
}
