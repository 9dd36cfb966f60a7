package consumer_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

func welcome(_ context.Context, m mdb.Message) error {
	_, err := fmt.Println("welcome,", m.Stream.ID())
	return err
}

// A service that welcomes whoever has signed up. Start as many processes of it as you like.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	mailer, err := consumer.New(store, "mailer", "signup", consumer.Each(welcome))
	if err != nil {
		log.Panic(err)
	}
	err = mailer.Run(ctx)
	fmt.Println(err)
}
