package consumer_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// TestNewArguments checks that New rejects what is wrong, with every fault in one error, and
// without I/O.
func TestNewArguments(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/nothing") // nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	store, err := mdb.New(pool)
	if err != nil {
		t.Fatal(err)
	}
	each := consumer.Each(func(context.Context, mdb.Message) error { return nil })
	batch := consumer.Batch(func(context.Context, []mdb.Message) error { return nil })
	eachTx := consumer.EachTx(func(context.Context, pgx.Tx, mdb.Message) error { return nil })
	queued := consumer.EachQueued(func(*pgx.Batch, mdb.Message) error { return nil })
	options := func(opts ...consumer.Option) []consumer.Option { return opts }
	for _, tt := range []struct {
		name     string
		consumer string
		category mdb.Category
		handler  consumer.Handler
		opts     []consumer.Option
		want     string // empty: no error
	}{
		{"nothing is wrong", "mailer", "signup", each, nil, ""},
		{
			"all options of Each", strings.Repeat("n", 200), "signup", each, options(consumer.WithWorkers(4), consumer.WithLease(time.Second),
				consumer.WithDrainTimeout(0), consumer.WithInstance("pod-0"), consumer.WithPartitions(1024), consumer.WithCategories("invite"), consumer.FromEnd(),
				consumer.WithPolling(poll.Constant(time.Second)), consumer.WithMaxBytes(1), consumer.OnFailure(consumer.Failure.Default), consumer.MaxParked(0), consumer.WithErrorText()), "",
		},
		{"options of Batch", "mailer", "signup", batch, options(consumer.WithBatchSize(1), consumer.StopOnError()), ""},
		{"options of EachTx", "mailer", "signup", eachTx, options(consumer.PerTx(1, 0), consumer.WithIsolation(pgx.Serializable), consumer.WithIdleTimeout(0), consumer.FromPosition(0)), ""},
		{"options of EachQueued", "mailer", "signup", queued, options(consumer.PerTx(1, 0), consumer.WithIsolation(pgx.RepeatableRead)), ""},
		{"in order", "mailer", "signup", each, options(consumer.InOrder(), consumer.WithPartitions(1)), ""},
		{"no name", "", "signup", each, nil, `name: got "", want the name of the consumer`},
		{"a long name", strings.Repeat("n", 201), "signup", each, nil, "name: got 201 bytes, want at most 200 bytes"},
		{"a name with a zero byte", "a\x00b", "signup", each, nil, "U+0000"},
		{"a name that is not UTF-8", "\xff", "signup", each, nil, "valid UTF-8"},
		{"a stream", "mailer", "signup-1", each, nil, `category: got "signup-1", want a category, which contains no dash`},
		{"a category twice", "mailer", "signup", each, options(consumer.WithCategories("signup")), "twice"},
		{"no handler", "mailer", "signup", consumer.Handler{}, nil, "handler: got a zero Handler"},
		{"no function", "mailer", "signup", consumer.Each(nil), nil, "handler: got Each(nil), want a function"},
		{"no option", "mailer", "signup", each, options(consumer.Option{}), "a zero Option"},
		{"no workers", "mailer", "signup", each, options(consumer.WithWorkers(0)), "workers: got 0, want at least 1"},
		{"a short lease", "mailer", "signup", each, options(consumer.WithLease(time.Millisecond)), "lease: got 1ms, want 1s to 1h0m0s"},
		{"a negative drain", "mailer", "signup", each, options(consumer.WithDrainTimeout(-1)), "drain timeout: got -1ns"},
		{"no instance", "mailer", "signup", each, options(consumer.WithInstance("")), `instance: got ""`},
		{"too many partitions", "mailer", "signup", each, options(consumer.WithPartitions(1025)), "partitions: got 1025, want 1 to 1024"},
		{"two starts", "mailer", "signup", each, options(consumer.FromEnd(), consumer.FromPosition(1)), "FromPosition and another start"},
		{"a negative start", "mailer", "signup", each, options(consumer.FromPosition(-1)), "position: got -1"},
		{"no strategy", "mailer", "signup", each, options(consumer.WithPolling(nil)), "polling: got nil"},
		{"no function of OnLive", "mailer", "signup", each, options(consumer.OnLive(nil)), "OnLive: got nil, want a function"},
		{"no function of OnPartitions", "mailer", "signup", each, options(consumer.OnPartitions(nil)), "OnPartitions: got nil, want a function"},
		{"no function of OnRetry", "mailer", "signup", each, options(consumer.OnRetry(nil)), "OnRetry: got nil, want a function"},
		{"no policy", "mailer", "signup", each, options(consumer.OnFailure(nil)), "OnFailure: got nil"},
		{"two policies", "mailer", "signup", each, options(consumer.OnFailure(consumer.Failure.Default), consumer.StopOnError()), "StopOnError and OnFailure"},
		{"order in partitions", "mailer", "signup", each, options(consumer.InOrder(), consumer.WithPartitions(2)), "partitions: got 2, want 1 with InOrder"},
		{"order in workers", "mailer", "signup", each, options(consumer.WithWorkers(2), consumer.InOrder()), "workers: got 2, want 1 with InOrder"},
		{"a batch size of Each", "mailer", "signup", each, options(consumer.WithBatchSize(1)), "got WithBatchSize with Each, want it with Batch or BatchTx"},
		{"transactions of Batch", "mailer", "signup", batch, options(consumer.PerTx(1, 0)), "got PerTx with Batch, want it with EachTx or EachQueued"},
		{"isolation of Each", "mailer", "signup", each, options(consumer.WithIsolation(pgx.Serializable)), "got WithIsolation with Each"},
		{"isolation that exists not", "mailer", "signup", eachTx, options(consumer.WithIsolation("none")), `isolation level: got "none"`},
		{"idleness of EachQueued", "mailer", "signup", queued, options(consumer.WithIdleTimeout(time.Second)), "got WithIdleTimeout with EachQueued"},
		{"several faults", "", "", each, options(consumer.WithWorkers(0)), "name: got \"\", want the name of the consumer; category: got \"\", want a category, which contains no dash; workers: got 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := consumer.New(store, tt.consumer, tt.category, tt.handler, tt.opts...)
			var fault *mdb.ArgumentError
			switch {
			case tt.want == "" && (err != nil || c == nil):
				t.Errorf("got %v, want no error", err)
			case tt.want != "" && (!errors.As(err, &fault) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
	if _, err := consumer.New(nil, "mailer", "signup", each); err == nil {
		t.Error("got no error without a store")
	}
}
