package main_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// asMailer is the environment variable with which this program is a service instead: the consumer mailer of the category
// signup. It prints what it handles, and fails for messages of the type Invalid unless there is a file named healed.
const asMailer = "MDB_TEST_MAILER"

// writeMailer writes a script that starts the service.
func writeMailer(file string) error {
	own, err := os.Executable()
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte("#!/bin/sh\n"+asMailer+"=1 exec '"+own+"' \"$@\"\n"), 0o700)
}

func runMailer(args []string) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := mailer(ctx, args); err != nil && ctx.Err() == nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func mailer(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("mailer", flag.ExitOnError)
	partitions := fs.Int("partitions", 0, "WithPartitions")
	instance := fs.String("instance", "", "WithInstance")
	catchUp := fs.Bool("catch-up", false, "end when everything is handled or parked")
	if err := fs.Parse(args); err != nil {
		return err
	}
	opts := []consumer.Option{consumer.WithLease(time.Minute)} // so that a slow machine ends no lease
	if *partitions > 0 {
		opts = append(opts, consumer.WithPartitions(*partitions))
	}
	if *instance != "" {
		opts = append(opts, consumer.WithInstance(*instance))
	}
	s, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"), mdb.WithNotify())
	if err != nil {
		return err
	}
	defer s.Close()
	c, err := consumer.New(s, "mailer", "signup", consumer.Each(func(_ context.Context, m mdb.Message) error {
		if _, err := os.Stat("healed"); err != nil && m.Type == "Invalid" {
			return consumer.Permanent(fmt.Errorf("%s is invalid", m.Stream))
		}
		_, err := fmt.Printf("%s/%d\n", m.Stream, m.Position)
		return err
	}), opts...)
	if err != nil {
		return err
	}
	if *catchUp {
		return c.CatchUp(ctx)
	}
	return c.Run(ctx)
}
