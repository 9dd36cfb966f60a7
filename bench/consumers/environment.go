package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/bench/internal/pgserver"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// accounts is the number of streams of each category.
const accounts = 1000

// A size is how many messages a way handles. Each has a category.
type size struct {
	category mdb.Category
	part     int // one of as many
}

// account returns the account of a message, the n-th of its category.
func account(n int) string { return strconv.Itoa(n % accounts) }

var (
	all    = size{"all", 1}
	fifth  = size{"fifth", 5}
	little = size{"little", 50}
	few    = size{"few", 500}
)

// An environment is a server with messages in two categories, and the table of their effects.
type environment struct {
	server   *pgtest.Server
	store    *mdb.Store
	watch    *pgxpool.Pool // looks how far a way is
	jobs     *pgxpool.Pool // what River uses beside its jobs' transactions
	version  string
	messages int
	runs     int
	handled  atomic.Int64              // by handlers without an effect
	first    atomic.Pointer[time.Time] // when a handler was first called
}

func newEnvironment(ctx context.Context, messages int) (*environment, error) {
	e := &environment{messages: messages}
	if err := e.open(ctx); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *environment) open(ctx context.Context) (err error) {
	e.server, err = pgtest.Start(ctx, pgtest.Setting("fsync", "on"), pgtest.Setting("full_page_writes", "on"),
		pgtest.Setting("synchronous_commit", "on"), pgtest.Setting("max_wal_size", "4GB"))
	if err != nil {
		return err
	}
	url := e.server.TCP("postgres")
	if e.store, err = mdb.Connect(ctx, pgserver.PoolURL(url, 20)); err != nil {
		return err
	}
	if e.watch, err = pgxpool.New(ctx, pgserver.PoolURL(url, 1)); err != nil {
		return err
	}
	if e.jobs, err = pgxpool.New(ctx, pgserver.PoolURL(url, 8)); err != nil {
		return err
	}
	if err := errors.Join(schema.Install(ctx, e.watch), schema.InstallConsumers(ctx, e.watch), e.installRiver(ctx)); err != nil {
		return err
	}
	for _, size := range []size{all, fifth, little, few} {
		_, err := e.watch.Exec(ctx, `INSERT INTO message_store.messages (stream_name, position, type, data)
			SELECT $1::text || '-' || i % $3::int, i / $3::int, 'Deposited', '{"amount": 1}' FROM generate_series(0, $2::int - 1) AS i`, size.category, e.messages/size.part, accounts)
		if err != nil {
			return err
		}
	}
	_, err = e.watch.Exec(ctx, `CREATE TABLE public.balances (account text PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50);
		CREATE TABLE public.positions (name text PRIMARY KEY, position bigint NOT NULL) WITH (fillfactor = 50);
		INSERT INTO public.balances SELECT i::text, 0 FROM generate_series(0, 999) AS i`)
	if err != nil {
		return err
	}
	if _, err := e.watch.Exec(ctx, "VACUUM ANALYZE"); err != nil {
		return err
	}
	return e.watch.QueryRow(ctx, "SHOW server_version").Scan(&e.version)
}

func (e *environment) close() {
	if e.jobs != nil {
		e.jobs.Close()
	}
	if e.watch != nil {
		e.watch.Close()
	}
	if e.store != nil {
		e.store.Close()
	}
	if e.server != nil {
		_ = e.server.Stop()
	}
}

var errEnough = errors.New("everything is done")

// measure runs a way with as many workers until all its messages are handled, and returns how
// many that were a second. It fails if a message had another number of effects than one.
func (e *environment) measure(ctx context.Context, w way, workers int) (rate float64, err error) {
	e.runs++
	return e.measureAs(ctx, fmt.Sprint("bench", e.runs), w, workers)
}

// measureAs is measure with a consumer of a name that may exist.
func (e *environment) measureAs(ctx context.Context, name string, w way, workers int) (rate float64, err error) {
	r := run{name: name, workers: workers, category: w.size.category, messages: e.messages / w.size.part}
	e.handled.Store(0)
	e.first.Store(nil)
	if _, err := e.watch.Exec(ctx, "UPDATE public.balances SET balance = 0"); err != nil {
		return 0, err
	}
	if _, err := e.watch.Exec(ctx, "INSERT INTO public.positions VALUES ($1, 0) ON CONFLICT (name) DO UPDATE SET position = 0", r.name); err != nil {
		return 0, err
	}
	if _, err := e.watch.Exec(ctx, "CHECKPOINT"); err != nil {
		return 0, err
	}
	done := func() (int64, error) { return e.handled.Load(), nil }
	if !w.nothing {
		done = func() (n int64, err error) {
			err = e.watch.QueryRow(ctx, "SELECT sum(balance)::bigint FROM public.balances").Scan(&n)
			return n, err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan error, 1)
	go func() { ended <- w.run(ctx, r) }()
	var n int64
	for {
		if n, err = done(); err != nil {
			return 0, err
		}
		if n >= int64(r.messages) {
			break
		}
		select {
		case err := <-ended:
			return 0, fmt.Errorf("it has ended after %d messages: %w", n, err)
		case <-time.After(2 * time.Millisecond):
		}
	}
	took := time.Since(*e.first.Load())
	cancel(errEnough)
	if err := <-ended; err != nil && !errors.Is(err, errEnough) {
		return 0, err
	}
	if n, err = e.effects(ctx, w); err != nil || n != int64(r.messages) {
		return 0, errors.Join(err, fmt.Errorf("there are %d effects of %d messages", n, r.messages))
	}
	return float64(r.messages) / took.Seconds(), nil
}

// begin is called by each handler.
func (e *environment) begin() {
	if e.first.Load() == nil {
		now := time.Now()
		e.first.CompareAndSwap(nil, &now)
	}
}

// effects returns how many there are in the end.
func (e *environment) effects(ctx context.Context, w way) (n int64, err error) {
	if w.nothing {
		return e.handled.Load(), nil
	}
	err = e.watch.QueryRow(context.WithoutCancel(ctx), "SELECT sum(balance)::bigint FROM public.balances").Scan(&n)
	return n, err
}
