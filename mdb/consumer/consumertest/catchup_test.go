package consumertest_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/consumer/consumertest"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

var withConsumers = mdbtest.NewTemplate(func(ctx context.Context, pool *pgxpool.Pool) error {
	if err := schema.InstallConsumers(ctx, pool); err != nil {
		return err
	}
	_, err := pool.Exec(ctx, "CREATE TABLE public.seen (stream text, position bigint)")
	return err
})

func write(t *testing.T, s *mdb.Store, stream mdb.StreamName, n int) {
	t.Helper()
	if _, err := s.WriteMessages(t.Context(), stream, happened(n)); err != nil {
		t.Fatal(err)
	}
}

func newConsumer(t *testing.T, s *mdb.Store, h consumer.Handler, opts ...consumer.Option) *consumer.Consumer {
	t.Helper()
	c, err := consumer.New(s, "test", "a", h, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestCatchUpOnStore checks the results of a consumer with transactions: retries, a parked
// message, and only what the run has done.
func TestCatchUpOnStore(t *testing.T) {
	t.Parallel()
	s := withConsumers.Store(t)
	var failed atomic.Bool
	c := newConsumer(t, s, consumer.EachTx(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
		if _, err := tx.Exec(ctx, "INSERT INTO public.seen VALUES ($1, $2)", m.Stream, m.Position); err != nil {
			return err
		}
		switch {
		case m.Stream == "a-1" && m.Position == 1:
			return consumer.Permanent(errNo)
		case m.Stream == "a-2" && !failed.Swap(true):
			return errNo
		}
		return nil
	}), consumer.WithPartitions(1))
	write(t, s, "a-1", 3)
	write(t, s, "a-2", 1)
	check(t, consumertest.CatchUp(t, c), `2 handled
failed: a-1/1 Happened, attempt 1: no
failed: a-2/0 Happened, attempt 1: no
parked: a-1/1 Happened, attempt 1: no`)
	write(t, s, "a-3", 2)
	check(t, consumertest.CatchUp(t, c), "2 handled")
	var rows int
	if err := s.Pool().QueryRow(t.Context(), "SELECT count(*) FROM public.seen").Scan(&rows); err != nil || rows != 4 {
		t.Errorf("got %d rows, %v, want 4", rows, err)
	}
}

// TestCatchUpReplays checks that replays that were asked for are made before it returns, whether
// they succeed or fail, and that others are not.
func TestCatchUpReplays(t *testing.T) {
	t.Parallel()
	s := withConsumers.Store(t)
	var fixed atomic.Bool
	c := newConsumer(t, s, consumer.EachQueued(func(b *pgx.Batch, m mdb.Message) error {
		if m.Position == 0 && !fixed.Load() {
			return consumer.Permanent(errNo)
		}
		b.Queue("INSERT INTO public.seen VALUES ($1, $2)", m.Stream, m.Position)
		return nil
	}), consumer.WithPartitions(2))
	for _, stream := range []mdb.StreamName{"a-1", "a-2", "a-3"} {
		write(t, s, stream, 3)
	}
	if r := consumertest.CatchUp(t, c); len(r.Parked) != 3 {
		t.Fatalf("got %v", r)
	}
	replay := func(streams ...mdb.StreamName) {
		t.Helper()
		if err := c.Replay(t.Context(), streams...); err != nil {
			t.Fatal(err)
		}
	}
	replay("a-1")
	if r := consumertest.CatchUp(t, c); r.Handled != 0 || len(r.Failures) != 1 {
		t.Errorf("got %v, want a replay that fails", r)
	}
	fixed.Store(true)
	check(t, consumertest.CatchUp(t, c), "0 handled")
	replay("a-1")
	check(t, consumertest.CatchUp(t, c), "3 handled")
	replay()
	check(t, consumertest.CatchUp(t, c), "6 handled")
}

// TestCatchUpStops checks that the error of a handler that stops the consumer is a result.
func TestCatchUpStops(t *testing.T) {
	t.Parallel()
	s := withConsumers.Store(t)
	c := newConsumer(t, s, consumer.Each(func(context.Context, mdb.Message) error { return errNo }), consumer.StopOnError())
	write(t, s, "a-1", 1)
	r := consumertest.CatchUp(t, c)
	if !errors.As(r.Err, new(*mdb.HandlerError)) || !errors.Is(r.Err, errNo) || len(r.Failures) != 1 {
		t.Errorf("got %v", r)
	}
}

// TestCatchUpCannot checks that a test fails with the reason if its consumer cannot catch up.
func TestCatchUpCannot(t *testing.T) {
	t.Parallel()
	bare, s := mdbtest.Store(t), withConsumers.Store(t)
	write(t, s, "a-1", 1)
	transient := consumer.Each(func(context.Context, mdb.Message) error { return consumer.Transient(errNo) })
	fails := consumer.Each(func(context.Context, mdb.Message) error { return errNo })
	for want, c := range map[string]*consumer.Consumer{
		"mdb install -consumers": newConsumer(t, bare, transient),
		"called 100 times in a row for the message at a-1/0, and the last error is: no": newConsumer(t, s, transient),
		"100 times in a row for the message at a-1/0":                                   newConsumer(t, s, fails, consumer.MaxParked(0)),
	} {
		got := fatal(t, func(t testing.TB) { consumertest.CatchUp(t, c) })
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want it to contain %q", got, want)
		}
	}
}
