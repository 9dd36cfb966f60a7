// The example concurrency sells the last tickets of a show at two tills, with optimistic
// concurrency. A till reads the stream, decides, and writes with the version that it read
// as the expected version. If the other till wrote first, it reads and decides again.
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

// sell sells a ticket. It returns false if there are none left.
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
	url := os.Getenv("DATABASE_URL")
	if url == "" {
		log.Fatal("set DATABASE_URL to the URL of a database with Message DB")
	}
	if err := run(context.Background(), url); err != nil {
		log.Fatal(err)
	}
}
