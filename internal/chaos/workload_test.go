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

// A consumer runs one incarnation of a subscription, which starts after the position
// from. It blocks until ctx ends or something fails.
type consumer func(ctx context.Context, s *mdb.Store, sub *subscriber, from int64, h mdb.Handler, progress func(context.Context, int64) error) error

// A workload is a set of writers and subscriptions that work while faults are injected.
type workload struct {
	direct  string // the server's URL
	through string // the URL that clients use

	messages   int // to be acknowledged, at least; 0: write while faults are injected
	writers    int
	categories int
	streams    int // of each category
	batch      int // of subscriptions

	defaults     bool // the stores have no options but those below, and their pools none
	options      []mdb.StoreOption
	configure    func(*pgxpool.Config)
	pooler       bool // clients connect through a pooler
	conns        int32
	write        writer   // nil: that of mdb
	consume      consumer // nil: that of mdb
	subscribe    func(w *workload, category mdb.Category) []*subscriber
	apart        bool              // each writer writes to one category only
	all          bool              // there are subscriptions to all categories
	crashes      bool              // of all subscribers
	subscribed   func(*subscriber) // if set, called with each subscriber before any starts
	chain        bool
	failHandler  func(*subscriber) error // if it returns an error, a handler fails before it has handled a message
	failProgress func() error            // if it returns an error, keeping a subscription's progress fails
	pause        time.Duration           // of each writer after each write
	deadline     time.Duration           // of each call of a writer; 0: none
	timeout      time.Duration           // of the whole workload
	grace        time.Duration           // after which remaining resources are leaks

	rng   *rand.Rand // used only by the goroutine that runs the workload
	seed  uint64
	names []mdb.Category // if there are fewer than categories, new ones are added
	log   lockedBuffer
	abort context.CancelCauseFunc
	*history
}

// newWorkload returns a small workload, for a database of its own.
func newWorkload(direct, through string, seed uint64) *workload {
	return &workload{
		direct: direct, through: through, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)),
		messages: 1000, writers: 4, categories: 2, streams: 5, batch: 20, conns: 6, all: true, chain: true, timeout: scaled(testTimeout, 5*time.Minute),
		grace:   20 * time.Second, // pgx waits 15 s for a connection to close
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

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

func configure(cfg *pgxpool.Config) { mdb.Configure(cfg) }

func openPool(t testing.TB, url string, conns int32, configure ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.MaxConns = conns
	cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	for _, p := range configure {
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

func (w *workload) open(t testing.TB) (*mdb.Store, *pgxpool.Pool) {
	t.Helper()
	logger := mdb.WithLogger(slog.New(slog.NewTextHandler(&w.log, nil)))
	if w.defaults {
		// On a busy machine, a connection may take longer than its timeout.
		for end := time.Now().Add(testTimeout); ; tick() {
			s, err := mdb.Connect(t.Context(), w.through, mdb.StoreOptions(w.options), logger)
			if err == nil {
				return s, s.Pool()
			}
			if time.Now().After(end) {
				t.Fatal(err)
			}
		}
	}
	prepare := configure
	if w.pooler {
		prepare = func(cfg *pgxpool.Config) { mdb.Configure(cfg, mdb.BehindPooler()) }
	}
	pool := openPool(t, w.through, w.conns, prepare, w.configure)
	options := append([]mdb.StoreOption{
		logger,
		mdb.WithPolling(poll.Backoff(time.Millisecond, 20*time.Millisecond, 2)),
		mdb.WithRetry(mdb.RetryPolicy{Attempts: 4, MaxDelay: 100 * time.Millisecond}),
	}, w.options...)
	s, err := mdb.New(pool, options...)
	if err != nil {
		t.Fatal(err)
	}
	return s, pool
}

// run runs the workload while inject, which may be nil, injects faults until its
// context ends. When everything is written and received, it returns the violations.
func (w *workload) run(t *testing.T, inject func(ctx context.Context) error) map[string][]string {
	t.Helper()
	base := idleUsage(t, w.direct)
	ctx, cancel := context.WithTimeoutCause(t.Context(), w.timeout, errTimedOut)
	defer cancel()
	ctx, w.abort = context.WithCancelCause(ctx)
	defer w.abort(nil)
	for len(w.names) < w.categories {
		w.names = append(w.names, mdbtest.Category("chaos"))
	}
	target := mdbtest.Category("chained")
	for i, name := range w.names {
		subscribers := w.subscribe
		if subscribers == nil {
			subscribers = (*workload).allKinds
		}
		w.subscribers = append(w.subscribers, subscribers(w, name)...)
		if i == 0 && w.chain {
			w.subscribers = append(w.subscribers, &subscriber{Name: "chained", Category: target, Batch: w.batch})
		}
	}
	if w.all {
		w.subscribers = append(w.subscribers, w.allCategories()...)
	}
	for _, s := range w.subscribers {
		s.crashes = s.crashes || w.crashes
		if w.subscribed != nil {
			w.subscribed(s)
		}
	}

	write, writePool := w.open(t)
	read, readPool := w.open(t)
	consuming, stop := context.WithCancelCause(ctx)
	var consumers, writers, injector sync.WaitGroup
	for _, s := range w.subscribers {
		consumers.Go(func() { w.keepSubscribed(consuming, read, s, w.handler(s, nil)) })
	}
	if w.chain {
		s := &subscriber{Name: "chain", Category: w.names[0], Batch: w.batch}
		w.subscribers = append(w.subscribers, s)
		consumers.Go(func() {
			w.keepSubscribed(consuming, read, s, w.handler(s, func(ctx context.Context, m mdb.Message) error {
				return w.forward(ctx, read, target, m)
			}))
		})
	}
	injecting, stopInjecting := context.WithCancel(ctx)
	var injectErr error
	var left atomic.Int64
	left.Store(int64(w.messages))
	if w.messages == 0 {
		left.Store(math.MaxInt64)
	}
	if inject != nil {
		injector.Go(func() {
			injectErr = inject(injecting)
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
	stopInjecting()
	injector.Wait()
	if injectErr != nil {
		t.Error(injectErr)
	}
	w.resolve(ctx, write)

	pool := openPool(t, w.direct, 2)
	defer pool.Close()
	if err := w.caughtUp(ctx, pool, target); err != nil {
		w.stuck = err
		if cause := context.Cause(ctx); cause != nil {
			w.stuck = cause
		}
	}
	stop(errors.New("the workload has ended"))
	consumers.Wait()
	writePool.Close()
	readPool.Close()
	store, err := readStore(context.WithoutCancel(ctx), pool, w.categoriesWith(target))
	if err != nil {
		t.Fatal(err)
	}
	pool.Close()
	w.leaks = base.leaks(t, w.direct, w.grace)
	w.store = store
	return validate(w.history, store)
}

func (w *workload) categoriesWith(target mdb.Category) []string {
	names := []string{string(target)}
	for _, n := range w.names {
		names = append(names, string(n))
	}
	return names
}

// allKinds returns subscriptions of all kinds to a category.
func (w *workload) allKinds(category mdb.Category) []*subscriber {
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

// allCategories returns subscriptions to all categories.
func (w *workload) allCategories() []*subscriber {
	return []*subscriber{
		{Name: "all", All: true, Batch: w.batch},
		{Name: "all of a type", All: true, Type: messageType, Batch: w.batch},
	}
}

// options returns the options of a subscription to all categories.
func (s *subscriber) options() (opts []mdb.AllSubscribeOption) {
	if s.Type != "" {
		opts = append(opts, mdb.OfTypes(s.Type))
	}
	return opts
}

// consumeByMDB is the consumer that uses package mdb.
func consumeByMDB(ctx context.Context, s *mdb.Store, sub *subscriber, from int64, h mdb.Handler, progress func(context.Context, int64) error) error {
	if sub.Stream != "" {
		return s.SubscribeToStream(ctx, sub.Stream, h, mdb.AfterPosition(from), mdb.WithBatchSize(sub.Batch),
			mdb.OnStreamProgress(func(ctx context.Context, c mdb.StreamCheckpoint) error { return progress(ctx, c.Position()) }))
	}
	if sub.All {
		return s.SubscribeToAll(ctx, h, append(sub.options(), mdb.AfterGlobalPosition(from), mdb.WithBatchSize(sub.Batch),
			mdb.OnAllProgress(func(ctx context.Context, c mdb.AllCheckpoint) error { return progress(ctx, c.Position()) }))...)
	}
	opts := []mdb.CategorySubscribeOption{
		mdb.AfterGlobalPosition(from), mdb.WithBatchSize(sub.Batch),
		mdb.OnProgress(func(ctx context.Context, c mdb.CategoryCheckpoint) error { return progress(ctx, c.Position()) }),
	}
	if sub.Of > 0 {
		opts = append(opts, mdb.AsConsumerGroup(sub.Member, sub.Of))
	}
	if sub.Correlation != "" {
		opts = append(opts, mdb.WithCorrelation(sub.Correlation))
	}
	return s.SubscribeToCategory(ctx, sub.Category, h, opts...)
}

// An incarnationHandler returns the handler of an incarnation.
type incarnationHandler func(*incarnation) mdb.Handler

func (w *workload) handler(s *subscriber, then mdb.Handler) incarnationHandler {
	return func(inc *incarnation) mdb.Handler {
		return func(ctx context.Context, m mdb.Message) error {
			if w.failHandler != nil {
				if err := w.failHandler(s); err != nil {
					return err
				}
			}
			if then != nil {
				if err := then(ctx, m); err != nil {
					return err
				}
			}
			w.deliver(s, inc, delivery{m.ID, m.Stream, m.Position, m.GlobalPosition})
			return nil
		}
	}
}

// keepSubscribed runs a subscription, one incarnation after another. Each starts after
// the last position that the previous one reported as handled.
func (w *workload) keepSubscribed(ctx context.Context, s *mdb.Store, sub *subscriber, h incarnationHandler) {
	consume := w.consume
	if consume == nil {
		consume = consumeByMDB
	}
	position := sub.beginning()
	for ctx.Err() == nil {
		inc := w.begin(sub, position)
		err := consume(ctx, s, sub, position, h(inc), func(_ context.Context, p int64) error {
			if w.failProgress != nil {
				if err := w.failProgress(); err != nil {
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

var errTimedOut = errors.New("timed out")

var errDropped = errors.New("ended by a transient error")

// forward is the chain's handler. It writes to the next category under an ID derived
// from the message's, so that handling a message again writes nothing new.
func (w *workload) forward(ctx context.Context, s *mdb.Store, target mdb.Category, m mdb.Message) error {
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

// caughtUp waits until each subscription has received the last message that it wants,
// and the chain has forwarded everything.
func (w *workload) caughtUp(ctx context.Context, pool *pgxpool.Pool, target mdb.Category) error {
	for _, name := range append(slices.Clone(w.names), target) {
		if err := w.received(ctx, pool, []string{string(name)}, func(s *subscriber) bool { return !s.All && s.Category == name }); err != nil {
			return err
		}
	}
	return w.received(ctx, pool, w.categoriesWith(target), func(s *subscriber) bool { return s.All })
}

// received waits until the subscribers have received the last message of the categories that
// they want.
func (w *workload) received(ctx context.Context, pool *pgxpool.Pool, names []string, selects func(*subscriber) bool) error {
	store, err := readStore(ctx, pool, names)
	if err != nil {
		return err
	}
	for _, s := range w.subscribers {
		if !selects(s) {
			continue
		}
		for i := range slices.Backward(store) {
			if !s.wants(&store[i]) {
				continue
			}
			if err := w.awaitDelivery(ctx, s, &store[i]); err != nil {
				return fmt.Errorf("%s has not received position %d: %w", s.Name, s.position(store[i].position, store[i].global), err)
			}
			break
		}
	}
	return nil
}
