package consumer

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
)

// An exitingLogger is a handler of slog that ends the goroutine that logs, as t.FailNow does.
type exitingLogger struct{ slog.Handler }

func (exitingLogger) Enabled(context.Context, slog.Level) bool { return true }

func (exitingLogger) Handle(context.Context, slog.Record) error {
	runtime.Goexit()
	return nil
}

// TestRunExits checks that Run ends with an error if a function such as a logger ends the goroutine of one of several consumers.
func TestRunExits(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "host=127.0.0.1 port=1 user=u sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	var consumers []*Consumer
	for _, logger := range []slog.Handler{slog.DiscardHandler, exitingLogger{slog.DiscardHandler}} {
		store, err := mdb.New(pool, mdb.WithLogger(slog.New(logger)))
		if err != nil {
			t.Fatal(err)
		}
		c, err := New(store, "exits", "category", Each(func(context.Context, mdb.Message) error { return nil }))
		if err != nil {
			t.Fatal(err)
		}
		consumers = append(consumers, c)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	if err := Run(ctx, consumers...); !errors.Is(err, errRunExits) {
		t.Errorf("got error %v, want %v", err, errRunExits)
	}
}
