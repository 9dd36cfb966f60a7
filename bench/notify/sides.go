package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/bench/internal/pgserver"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/poll"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

const categories = 16

func category(i int) mdb.Category { return mdb.Category(fmt.Sprintf("bench%d", i%categories)) }

// A side is one way to wake subscriptions, with a database of its own.
type side struct {
	name    string
	prepare func(ctx context.Context, pool *pgxpool.Pool) error
	options []mdb.StoreOption
	// plain makes subscriptions wait for the notifications of plainTrigger.
	plain bool
	url   string
}

// plainTrigger notifies on each insert, as triggers for this purpose usually do.
const plainTrigger = `
CREATE FUNCTION message_store.plain_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('plain', split_part(NEW.stream_name, '-', 1));
  RETURN NULL;
END $$;
CREATE TRIGGER plain_notify AFTER INSERT ON message_store.messages
FOR EACH ROW EXECUTE FUNCTION message_store.plain_notify()`

var polling = mdb.WithPolling(poll.Constant(100 * time.Millisecond))

// The names of the sides.
const (
	noTrigger   = "no trigger, polling every 100 ms"
	everyInsert = "trigger that notifies on each insert"
	ourTrigger  = "schema.InstallNotify and WithNotify"
)

func sides() []*side {
	return []*side{
		{name: noTrigger, options: []mdb.StoreOption{polling}},
		{name: everyInsert, plain: true, prepare: func(ctx context.Context, pool *pgxpool.Pool) error {
			_, err := pool.Exec(ctx, plainTrigger)
			return err
		}},
		{name: ourTrigger, options: []mdb.StoreOption{mdb.WithNotify()}, prepare: func(ctx context.Context, pool *pgxpool.Pool) error {
			return schema.InstallNotify(ctx, pool)
		}},
	}
}

// open creates a database with Message DB and the trigger of each side.
func open(ctx context.Context, server *pgtest.Server, sides []*side) error {
	for i, s := range sides {
		admin, err := pgx.Connect(ctx, server.TCP("postgres"))
		if err != nil {
			return err
		}
		name := fmt.Sprintf("side%d", i)
		_, err = admin.Exec(ctx, "CREATE DATABASE "+name)
		if closeErr := admin.Close(ctx); err != nil || closeErr != nil {
			return errors.Join(err, closeErr)
		}
		s.url = server.TCP(name)
		pool, err := pgxpool.New(ctx, s.url)
		if err != nil {
			return err
		}
		err = schema.Install(ctx, pool)
		if err == nil && s.prepare != nil {
			err = s.prepare(ctx, pool)
		}
		pool.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// store opens a store with a pool of its own.
func (s *side) store(ctx context.Context, connections int) (*mdb.Store, error) {
	return mdb.Connect(ctx, pgserver.PoolURL(s.url, connections), mdb.StoreOptions(s.options), mdb.WithLogger(slog.Default()))
}

// write writes to all categories with n writers until ctx ends, and returns the number of
// messages.
func write(ctx context.Context, store *mdb.Store, n int) (int64, error) {
	var written atomic.Int64
	failures := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				stream := category(rand.IntN(categories)).Stream(fmt.Sprint(rand.IntN(100)))
				if _, err := store.WriteMessage(context.WithoutCancel(ctx), stream, mdb.NewMessage("Happened", []byte(`{"n": 1}`))); err != nil {
					failures[i] = err
					return
				}
				written.Add(1)
			}
		})
	}
	wg.Wait()
	return written.Load(), errors.Join(failures...)
}

// A handler is called for each message with the time since its transaction began.
type handler func(latency time.Duration)

// subscribe subscribes to n categories from their ends, until stop is called.
func (s *side) subscribe(ctx context.Context, store *mdb.Store, n int, name func(int) mdb.Category, h handler) (stop func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	errs := make([]error, n)
	var wg, live sync.WaitGroup
	var wakes []chan struct{}
	if s.plain {
		wakes = make([]chan struct{}, n)
		for i := range wakes {
			wakes[i] = make(chan struct{}, 1)
		}
		listening := make(chan error)
		wg.Go(func() { listenPlain(ctx, s.url, n, name, wakes, listening) })
		if err := <-listening; err != nil {
			cancel()
			return nil, err
		}
	}
	for i := range n {
		live.Add(1)
		once := sync.OnceFunc(live.Done)
		wg.Go(func() {
			defer once()
			handle := func(_ context.Context, m mdb.Message) error {
				h(time.Since(m.Time))
				return nil
			}
			if s.plain {
				errs[i] = readOnNotify(ctx, store, name(i), wakes[i], once, handle)
				return
			}
			errs[i] = store.SubscribeToCategory(ctx, name(i), handle, mdb.FromEnd(), mdb.OnLive(func(bool) { once() }))
		})
	}
	live.Wait()
	return func() error {
		cancel()
		wg.Wait()
		for _, err := range errs {
			if err != nil && !errors.Is(err, context.Canceled) {
				return err
			}
		}
		return nil
	}, nil
}

// listenPlain wakes the reader of the category that a notification names.
func listenPlain(ctx context.Context, address string, n int, name func(int) mdb.Category, wakes []chan struct{}, listening chan<- error) {
	conn, err := pgx.Connect(ctx, address)
	if err == nil {
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		_, err = conn.Exec(ctx, "LISTEN plain")
	}
	listening <- err
	index := make(map[string]int)
	for i := range n {
		index[string(name(i))] = i
	}
	for err == nil {
		notification, waitErr := conn.WaitForNotification(ctx)
		if err = waitErr; err != nil {
			return
		}
		if i, ok := index[notification.Payload]; ok {
			select {
			case wakes[i] <- struct{}{}:
			default:
			}
		}
	}
}

// readOnNotify is a simple subscription on top of plainTrigger.
func readOnNotify(ctx context.Context, store *mdb.Store, c mdb.Category, wake <-chan struct{}, live func(), h mdb.Handler) error {
	var position int64
	for m, err := range store.CategoryMessages(ctx, c) {
		if err != nil {
			return err
		}
		position = m.GlobalPosition
	}
	live()
	for {
		page, err := store.GetCategoryMessages(ctx, c, mdb.AfterGlobalPosition(position))
		if err != nil {
			return err
		}
		for _, m := range page {
			if err := h(ctx, m); err != nil {
				return err
			}
			position = m.GlobalPosition
		}
		if len(page) == mdb.DefaultBatchSize {
			continue
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
