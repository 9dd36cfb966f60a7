// The example subscription handles the messages of a category as they are written. It
// stores its checkpoint, to resume there after a restart. The NOTIFY trigger notifies it of
// new messages; without the trigger it would poll.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

const table = `
CREATE SCHEMA IF NOT EXISTS mailer;
CREATE TABLE IF NOT EXISTS mailer.progress (checkpoint text NOT NULL);
INSERT INTO mailer.progress SELECT '' WHERE NOT EXISTS (SELECT FROM mailer.progress)`

var errStopped = errors.New("stopped")

// serve handles messages until ctx ends or an error occurs, which it returns.
func serve(ctx context.Context, store *mdb.Store, live func(bool), handle mdb.Handler) error {
	var checkpoint mdb.CategoryCheckpoint
	if err := store.Pool().QueryRow(ctx, "SELECT checkpoint FROM mailer.progress").Scan(&checkpoint); err != nil {
		return err
	}
	return store.SubscribeToCategory(ctx, "signup", handle,
		mdb.AfterCheckpoint(checkpoint),
		mdb.OnLive(live),
		mdb.OnProgress(func(ctx context.Context, c mdb.CategoryCheckpoint) error {
			_, err := store.Pool().Exec(ctx, "UPDATE mailer.progress SET checkpoint = $1", c)
			return err
		}))
}

func run(ctx context.Context, url string) error {
	store, err := mdb.Connect(ctx, url, mdb.WithNotify())
	if err != nil {
		return err
	}
	defer store.Close()
	if err := schema.InstallNotify(ctx, store.Pool()); err != nil {
		return err
	}
	if _, err := store.Pool().Exec(ctx, table); err != nil {
		return err
	}
	signUp := func(name string) error {
		_, err := store.WriteMessage(ctx, mdb.Category("signup").Stream(name), mdb.NewMessage("SignedUp", nil))
		return err
	}

	// The second iteration stands for the service after a restart.
	for _, names := range [][]string{{"ann", "bob"}, {"eve"}} {
		if err := signUp(names[0]); err != nil {
			return err
		}
		ctx, stop := context.WithCancelCause(ctx)
		n := 0
		err := serve(ctx, store, func(live bool) {
			fmt.Println("live:", live)
			if live && len(names) > 1 {
				if err := signUp(names[1]); err != nil {
					stop(err)
				}
			}
		}, func(_ context.Context, m mdb.Message) error {
			fmt.Println("welcome,", m.Stream.ID())
			if n++; n == len(names) {
				stop(errStopped)
			}
			return nil
		})
		if !errors.Is(err, errStopped) {
			return err
		}
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
