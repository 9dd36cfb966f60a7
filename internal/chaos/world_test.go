package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// patience bounds what only a broken test would wait for.
const patience = 2 * time.Minute

// A consumer is one life of a subscription, which begins behind a position. It
// blocks until ctx ends or something fails.
type consumer func(ctx context.Context, s *mdb.Store, sub *subscriber, from int64, h mdb.Handler, progress func(context.Context, int64) error) error

// A world is what works while something is broken.
type world struct {
	direct  string // the server's URL
	through string // that which clients are given

	messages   int // to acknowledge, at least; 0: as long as the fault lasts
	writers    int
	categories int
	streams    int // of each category
	batch      int // of subscriptions

	options   []mdb.StoreOption
	prepare   func(*pgxpool.Config)
	unpooled  bool // the pool is prepared by no Configure, as behind a pooler
	conns     int32
	write     writer   // nil: that of mdb
	consume   consumer // nil: that of mdb
	subscribe func(w *world, category mdb.Category) []*subscriber
	chain     bool
	fail      func(*subscriber) error // of a handler, before it has handled a message
	failKeep  func() error            // of what keeps a subscription's progress
	deadline  time.Duration           // of each call of a writer; 0: none
	patience  time.Duration
	grace     time.Duration // to end what is no longer needed

	rng   *rand.Rand // of the goroutine that runs the world
	seed  uint64
	names []mdb.Category
	log   lockedBuffer
	abort context.CancelCauseFunc
	*history
}

// newWorld returns a small one on a database of its own.
func newWorld(direct, through string, seed uint64) *world {
	return &world{
		direct: direct, through: through, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)),
		messages: 1000, writers: 4, categories: 2, streams: 5, batch: 20, conns: 6, chain: true, patience: scaled(patience, 5*time.Minute),
		grace:   20 * time.Second, // pgx gives a connection 15 to end
		history: newHistory(),
	}
}

type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

func openPool(t testing.TB, url string, conns int32, prepare ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.MaxConns = conns
	cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	for _, p := range prepare {
		if p != nil {
			p(cfg)
		}
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

func (w *world) open(t testing.TB) (*mdb.Store, *pgxpool.Pool) {
	t.Helper()
	configure := mdb.Configure
	if w.unpooled {
		configure = nil
	}
	pool := openPool(t, w.through, w.conns, configure, w.prepare)
	options := append([]mdb.StoreOption{
		mdb.WithLogger(slog.New(slog.NewTextHandler(&w.log, nil))),
		mdb.WithPolling(poll.Backoff(time.Millisecond, 20*time.Millisecond, 2)),
		mdb.WithRetry(mdb.RetryPolicy{Attempts: 4, MaxDelay: 100 * time.Millisecond}),
	}, w.options...)
	s, err := mdb.New(pool, options...)
	if err != nil {
		t.Fatal(err)
	}
	return s, pool
}

// run lets the world work while fault, which may be nil, breaks things until its
// context ends. When all is written and received, it compares.
func (w *world) run(t *testing.T, fault func(ctx context.Context) error) map[string][]string {
	t.Helper()
	base := census(t, w.direct)
	ctx, cancel := context.WithTimeoutCause(t.Context(), w.patience, errOutOfPatience)
	defer cancel()
	ctx, w.abort = context.WithCancelCause(ctx)
	defer w.abort(nil)
	for range w.categories {
		w.names = append(w.names, mdbtest.Category("fault"))
	}
	target := mdbtest.Category("chained")
	for i, name := range w.names {
		subscribers := w.subscribe
		if subscribers == nil {
			subscribers = (*world).allKinds
		}
		w.subscribers = append(w.subscribers, subscribers(w, name)...)
		if i == 0 && w.chain {
			w.subscribers = append(w.subscribers, &subscriber{Name: "chained", Category: target, Batch: w.batch})
		}
	}

	write, writePool := w.open(t)
	read, readPool := w.open(t)
	consuming, stop := context.WithCancelCause(ctx)
	var consumers, writers, breaker sync.WaitGroup
	for _, s := range w.subscribers {
		consumers.Go(func() { w.live(consuming, read, s, w.handler(s, nil)) })
	}
	if w.chain {
		s := &subscriber{Name: "chain", Category: w.names[0], Batch: w.batch}
		w.subscribers = append(w.subscribers, s)
		consumers.Go(func() {
			w.live(consuming, read, s, w.handler(s, func(ctx context.Context, m mdb.Message) error {
				return w.forward(ctx, read, target, m)
			}))
		})
	}
	breaking, mend := context.WithCancel(ctx)
	var faultErr error
	var left atomic.Int64
	left.Store(int64(w.messages))
	if w.messages == 0 {
		left.Store(math.MaxInt64)
	}
	if fault != nil {
		breaker.Go(func() {
			faultErr = fault(breaking)
			if w.messages == 0 {
				left.Store(0)
			}
		})
	}
	for i := range w.writers {
		rng := rand.New(rand.NewPCG(w.seed, 100+uint64(i)))
		writers.Go(func() { w.writes(ctx, write, i, rng, &left) })
	}
	writers.Wait()
	mend()
	breaker.Wait()
	if faultErr != nil {
		t.Error(faultErr)
	}
	w.resolve(ctx, write)

	pool := openPool(t, w.direct, 2)
	defer pool.Close()
	if err := w.caughtUp(ctx, pool, append(slices.Clone(w.names), target)); err != nil {
		w.stuck = err
		if cause := context.Cause(ctx); cause != nil {
			w.stuck = cause
		}
	}
	stop(errors.New("the world ends"))
	consumers.Wait()
	writePool.Close()
	readPool.Close()
	store, err := readStore(context.WithoutCancel(ctx), pool, w.all(target))
	if err != nil {
		t.Fatal(err)
	}
	pool.Close()
	w.leaks = base.leaks(t, w.direct, w.grace)
	w.stored = len(store)
	return validate(w.history, store)
}

func (w *world) all(target mdb.Category) []string {
	names := []string{string(target)}
	for _, n := range w.names {
		names = append(names, string(n))
	}
	return names
}

// allKinds are subscriptions of all kinds to a category.
func (w *world) allKinds(category mdb.Category) []*subscriber {
	subs := []*subscriber{
		{Name: "category", Category: category, Batch: w.batch},
		{Name: "stream", Category: category, Stream: category.Stream("0"), Batch: w.batch},
		{Name: "correlation", Category: category, Correlation: "origin0", Batch: w.batch},
	}
	for member := range 3 {
		subs = append(subs, &subscriber{
			Name: fmt.Sprint("member ", member), Category: category,
			Member: member, Of: 3, Batch: w.batch, group: string(category),
		})
	}
	return subs
}

// consumeByMDB is the consumer that package mdb is.
func consumeByMDB(ctx context.Context, s *mdb.Store, sub *subscriber, from int64, h mdb.Handler, progress func(context.Context, int64) error) error {
	if sub.Stream != "" {
		return s.SubscribeToStream(ctx, sub.Stream, h, mdb.AfterPosition(from), mdb.WithBatchSize(sub.Batch), mdb.OnProgress(progress))
	}
	opts := []mdb.CategorySubscribeOption{mdb.AfterGlobalPosition(from), mdb.WithBatchSize(sub.Batch), mdb.OnProgress(progress)}
	if sub.Of > 0 {
		opts = append(opts, mdb.AsConsumerGroup(sub.Member, sub.Of))
	}
	if sub.Correlation != "" {
		opts = append(opts, mdb.WithCorrelation(sub.Correlation))
	}
	return s.SubscribeToCategory(ctx, sub.Category, h, opts...)
}

// A life's handler is made for it.
type lifeHandler func(*incarnation) mdb.Handler

func (w *world) handler(s *subscriber, then mdb.Handler) lifeHandler {
	return func(life *incarnation) mdb.Handler {
		return func(ctx context.Context, m mdb.Message) error {
			if w.fail != nil {
				if err := w.fail(s); err != nil {
					return err
				}
			}
			if then != nil {
				if err := then(ctx, m); err != nil {
					return err
				}
			}
			w.deliver(s, life, delivery{m.ID, m.Stream, m.Position, m.GlobalPosition})
			return nil
		}
	}
}

// live keeps a subscription going, one life after the other. Each begins where the
// one before had said that everything was handled.
func (w *world) live(ctx context.Context, s *mdb.Store, sub *subscriber, h lifeHandler) {
	consume := w.consume
	if consume == nil {
		consume = consumeByMDB
	}
	position := sub.beginning()
	for ctx.Err() == nil {
		life := w.begin(sub, position)
		err := consume(ctx, s, sub, position, h(life), func(_ context.Context, p int64) error {
			if w.failKeep != nil {
				if err := w.failKeep(); err != nil {
					return err
				}
			}
			position = p
			return nil
		})
		w.met(err)
		if handlerErr := (*mdb.HandlerError)(nil); ctx.Err() == nil && !errors.As(err, &handlerErr) {
			w.abort(fmt.Errorf("%w: %s: %w", errDropped, sub.Name, err))
			return
		}
	}
}

var errOutOfPatience = errors.New("out of patience")

var errDropped = errors.New("dropped for a reason that passes")

// forward is the chain's handler: it writes to the next category, under an ID that
// it always derives from the message's.
func (w *world) forward(ctx context.Context, s *mdb.Store, target mdb.Category, m mdb.Message) error {
	id := uuid.NewSHA1(m.ID, []byte(target))
	o := w.send(&op{name: "chain of " + m.ID.String(), stream: target.Stream(m.Stream.ID()), ids: []uuid.UUID{id}})
	for {
		limited, cancel := w.limit(ctx)
		written, err := s.WriteMessages(limited, o.stream, o.messages(), mdb.Idempotent())
		cancel()
		w.met(err)
		switch {
		case err == nil:
			w.end(o, acked, written)
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// caughtUp waits until each subscription has received the last message that it
// wants, and the chain has forwarded everything.
func (w *world) caughtUp(ctx context.Context, pool *pgxpool.Pool, names []mdb.Category) error {
	for _, name := range names {
		store, err := readStore(ctx, pool, []string{string(name)})
		if err != nil {
			return err
		}
		for _, s := range w.subscribers {
			if s.Category != name {
				continue
			}
			end := s.beginning()
			for i := range store {
				if s.wants(&store[i]) {
					end = s.position(store[i].position, store[i].global)
				}
			}
			if err := w.await(ctx, func() bool { return s.last >= end }); err != nil {
				return fmt.Errorf("%s is at %d of %d: %w", s.Name, s.last, end, err)
			}
		}
	}
	return nil
}
