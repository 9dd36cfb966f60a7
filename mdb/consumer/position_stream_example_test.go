package consumer_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// A consumer continues where a consumer of Eventide was, which had the identifier mailer. Later it is moved to the schema of
// consumers, so that several processes can share its work.
func ExampleInPositionStream() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	var last mdb.Written
	for _, to := range []mdb.StreamName{"letter-ann", "letter-bob", "letter-cid"} {
		if last, err = store.WriteMessage(ctx, to, mdb.NewMessage("Written", nil)); err != nil {
			log.Panic(err)
		}
		if to == "letter-ann" { // Eventide has handled this one
			recorded := mdb.NewMessage("Recorded", map[string]int64{"position": last.GlobalPosition})
			if _, err := store.WriteMessage(ctx, "letter:position-mailer", recorded); err != nil {
				log.Panic(err)
			}
		}
	}

	letters, err := consumer.New(store, "letters", "letter", consumer.Each(func(_ context.Context, m mdb.Message) error {
		fmt.Println("a letter to", m.Stream.ID())
		return nil
	}), consumer.InPositionStream("mailer"))
	if err != nil {
		log.Panic(err)
	}
	if err := letters.CatchUp(ctx); err != nil { // a service calls Run
		log.Panic(err)
	}

	position, err := consumer.Admin(store.Pool()).ImportPosition(ctx, "letters", "letter:position-mailer")
	fmt.Println("it continues after the last letter:", position == last.GlobalPosition, err)
}
