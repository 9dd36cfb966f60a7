package consumer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/beside"
	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// A Consumer is a named subscription to one or more categories. Its progress is stored in the
// database under its name, and all processes that run it share its messages. Create one with
// [New].
type Consumer struct {
	store  *mdb.Store
	config *config

	mu     sync.Mutex
	engine *engine // of the current run; nil: it is not running
	member *member
	past   Stats // of earlier runs
}

// New returns a Consumer of a category. It does no I/O. Its error is an [*mdb.ArgumentError]
// that lists everything that is wrong.
//
// The name, of at most 200 bytes, identifies the consumer: all processes that run one of this
// name in the same database share its progress and its messages. Use another name for another
// purpose, or to handle all messages from the beginning.
func New(store *mdb.Store, name string, category mdb.Category, h Handler, opts ...Option) (*Consumer, error) {
	c := newConfig(store, name, category, h, opts)
	if err := c.err(); err != nil {
		return nil, err
	}
	return &Consumer{store: store, config: c}, nil
}

// Run handles messages until ctx ends or an error occurs that a retry cannot change. Any number
// of processes may run a consumer of the same name: they share its partitions, and take over
// those of a process that stops or crashes. The error, which is never nil, says why Run has
// ended:
//
//   - context.Cause(ctx), if ctx ended;
//   - a [*mdb.HandlerError], if an error of the handler stops the consumer, see [Stop],
//     [StopOnError] and [Failure.Stop];
//   - a [*mdb.SetupError], if the schema of consumers is missing or too old, or the consumer
//     has another number of partitions;
//   - [ErrReplaced], see [WithInstance] and [InPositionStream], or [ErrDeleted];
//   - an [*mdb.AheadError], if the consumer is to begin after a position that the store has not
//     used, see [FromPosition];
//   - another error of the server or of a read, if a retry cannot help.
//
// Run waits while the server cannot be reached, also when it starts. If its lease ends meanwhile,
// the contexts of handlers end with [ErrLeaseLost], and Run continues when it has joined the consumer
// again.
//
// When ctx ends, the handler is not called any more. Calls that are running finish: their contexts
// do not end with ctx, but only after [WithDrainTimeout]. Then Run stores the progress and gives
// its partitions back, so that other processes continue immediately and repeat nothing. It returns
// after all calls have returned.
//
// A Consumer runs once at a time: Run returns an [*mdb.ArgumentError] if it is running.
func (c *Consumer) Run(ctx context.Context) error { return c.run(ctx, false) }

// CatchUp is like Run, but returns nil when all messages that were in the store at the call are
// handled, skipped or parked, by this process or by others, and no replay of a parked stream is
// due: those that [Consumer.Replay] has asked for have been made. It is for programs that run once
// in a while, such as a nightly job. For tests see package
// [github.com/messagedb-go/messagedb/mdb/consumer/consumertest].
func (c *Consumer) CatchUp(ctx context.Context) error { return c.run(ctx, true) }

// Stats returns the counters of this process. It does no I/O, and is safe for concurrent use.
func (c *Consumer) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats()
}

func (c *Consumer) stats() Stats {
	s := c.past
	if c.engine == nil {
		return s
	}
	e, m := c.engine.stats(), &c.member.counts
	s.Partitions, s.Paused = int(m.partitions.Load()), m.paused.Load()
	s.Handled += e.handled
	s.Failed += e.failed
	s.Retried += e.retried
	s.Parked += e.parked
	s.Skipped += e.skipped
	s.Replayed += e.replayed
	s.Waiting, s.Bytes, s.Running = e.messages, e.bytes, e.running
	s.Oldest, s.Full = e.oldest, e.crowded
	s.Joins += m.joins.Load()
	s.Ticks += m.ticks.Load()
	s.Losses += m.losses.Load()
	s.Claims += m.claims.Load()
	s.Releases += m.releases.Load()
	s.Rewound += m.rewound.Load()
	s.Forks += m.forks.Load()
	if least := time.Duration(m.least.Load()); least > 0 && (s.LeaseMargin == 0 || least < s.LeaseMargin) {
		s.LeaseMargin = least
	}
	return s
}

func (c *Consumer) run(ctx context.Context, toEnd bool) error {
	return c.runAdjusted(ctx, toEnd, func(*engineConfig) {})
}

// runAdjusted lets adjust change the engine's configuration.
func (c *Consumer) runAdjusted(ctx context.Context, toEnd bool, adjust func(*engineConfig)) error {
	link := besideOf(c.config.home)
	line, hangUp := lineOf(c.config.home) //nolint:contextcheck // closing has a timeout of its own
	defer hangUp()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &running{Consumer: c, link: link, line: line}
	m, err := r.begin(toEnd, adjust, cancel)
	if err != nil {
		return err
	}
	defer r.close()
	defer m.observer.close()
	stop := link.Watch(func(consumer string) {
		if consumer == "" || consumer == *m.name.Load() {
			m.ring()
		}
	})
	defer stop()
	var preparing sync.WaitGroup
	preparing.Go(func() { r.prepare(ctx) })
	defer preparing.Wait()
	defer cancel(nil)
	return m.run(ctx)
}

// A running is one run of a consumer: it connects the engine, the readers and the member.
type running struct {
	*Consumer

	link   beside.Store
	line   *line
	stream *positionStream // where the position is; nil: in the schema of consumers

	onFailed func(mdb.FailedHandling) // hooks; nil: none

	cancel  context.CancelCauseFunc
	trails  map[string]*trail   // by category; nil: the messages are in the database of the state
	checked map[partition]int64 // the epochs by which checkpoints were compared with the store
	again   *time.Timer         // when those are looked at again that nobody could check
}

func (r *running) begin(toEnd bool, adjust func(*engineConfig), cancel context.CancelCauseFunc) (*member, error) {
	c := r.config
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.engine != nil {
		return nil, &mdb.ArgumentError{Faults: []mdb.Fault{{
			Argument: "consumer", Given: "one that is running", Allowed: "one Run or CatchUp at a time",
		}}}
	}
	forms := c.forms
	forms.store, forms.consumer, forms.hooks = c.home, c.name, handlingOf(r.store)
	r.onFailed = failedOf(r.store)
	forms.member = func() ledger.Member { return *r.member.self.Load() }
	forms.callbackFailed = func(msg mdb.Message, err error) {
		r.link.Logger.Warn("a callback of a statement that EachQueued has sent failed, after the commit",
			r.member.attrs("stream", msg.Stream, "position", msg.Position, "global_position", msg.GlobalPosition, "error", typeOf(err))...)
	}
	handled := c.handler.form(forms)
	handle := handled.call
	handled.call = func(ctx context.Context, call call) (int, error) {
		if err := cannotRead(call.deliveries); err != nil {
			return 0, err
		}
		done, err := handle(ctx, call)
		return done, r.readOnly(ctx, err)
	}
	workers := c.workers
	if handled.moves { // reads need a connection, too
		workers = min(workers, max(1, int(c.home.Pool().Config().MaxConns)-1))
	}
	policy := c.policy
	if c.stops {
		policy = stopOnError
	}
	alone := 0
	if c.parkAlone {
		alone = mostAlone
	}
	config := engineConfig{
		form: handled, workers: workers, maxBytes: c.maxBytes, inOrder: c.inOrder,
		maxParked: c.maxParked, policy: policy, park: r.park, parkAlone: alone, replays: r, errorText: r.errorText,
		mayBegin: func() error { return r.member.mayBegin() },
		changed:  func() { r.member.changed() },
		decided:  r.decided,
	}
	join := ledger.JoinParams{
		Name: c.name, Instance: c.instance, Info: info(c.maxParked), Lease: c.lease,
		Categories: c.categories, Partitions: c.partitions, Start: c.start,
	}
	if c.positionID != nil {
		r.stream = r.positionStream()
		config.maxParked = 0
	}
	if r.cancel = cancel; c.elsewhere {
		r.trails, r.checked = make(map[string]*trail, len(c.categories)), make(map[partition]int64)
		for _, category := range c.categories {
			r.trails[category] = new(trail)
		}
	}
	adjust(&config)
	r.engine = newEngine(config)
	r.member = newMember(memberConfig{
		join:  join,
		fixed: c.inOrder, drain: c.drain, toEnd: toEnd, now: newClock(), logger: r.link.Logger,
		random: rand.N[time.Duration],
		do:     r.do, reconnect: r.reconnect,
		fatal: r.fatal, anchored: c.elsewhere,
		engine: r.engine, readers: r.readers,
		observer: newObserver(c.observed.observe(r.store, c.name), len(c.categories), func(err error) error { return r.link.Explain("take part in the consumer "+c.name, err) }, cancel),
	})
	return r.member, nil
}

// do is that of the line. The statements are those of the position stream, if there is one.
func (r *running) do(ctx context.Context, f func(session int64, p protocol) error) (session int64, err error) {
	session, err = r.line.do(ctx, func(session int64, conn onConn) error {
		if r.stream != nil {
			return f(session, r.stream.on(conn))
		}
		return f(session, placed{conn, r})
	})
	return session, r.onProxy(ctx, err)
}

// end ends the run with an error.
func (r *running) end(err error) { r.cancel(err) }

// fatal returns the error with which Run ends if the first join fails with err, or nil if it is to be retried.
func (r *running) fatal(err error) error {
	var setup *mdb.SetupError
	if errors.As(err, &setup) {
		return setup
	}
	if r.stream != nil {
		return r.stream.fatal(r.link.Explain, err)
	}
	if errors.As(err, new(*mdb.AheadError)) {
		return err
	}
	return fatal(r.config.name, r.link.Explain, err)
}

func (r *running) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats()
	s.Partitions, s.Paused, s.Waiting, s.Bytes, s.Running = 0, false, 0, 0, 0
	s.Oldest, s.Full = time.Time{}, 0
	r.past, r.engine = s, nil
}

// prepare reads an empty page while the member joins, so that the pool has a connection which has prepared the statements of a page.
// Otherwise the first page would wait for that, while no process handles the messages of the partitions that were released for this one.
func (r *running) prepare(ctx context.Context) {
	opened, err := r.openCategory(r.config.categories[0])(source.Hooks{})
	if err == nil {
		opened.First(ctx, math.MaxInt64-1, 0, 1) // no message has the position after it
	}
}

// readers returns a reader for each category.
func (r *running) readers(partitions int) map[string]reading {
	readers := make(map[string]reading, len(r.config.categories))
	for _, category := range r.config.categories {
		readers[category] = newReader(readerConfig{
			category: category, partitions: partitions, batch: pageSize, polling: r.config.polling,
			open: r.openCategory(category),
			sink: r, trail: r.trails[category], filters: r.config.filters, rewound: r.rewound, live: r.member.observer.read,
		})
	}
	return readers
}

// openCategory returns readerConfig.open.
func (r *running) openCategory(category string) func(source.Hooks) (*source.Opened[mdb.Message], error) {
	open := openCategory(r.store, mdb.Category(category))
	return func(hooks source.Hooks) (*source.Opened[mdb.Message], error) {
		hooks.Retried = func(_ context.Context, attempt int, err error) error {
			r.member.observer.retried(category, attempt, err)
			return nil
		}
		return open(hooks)
	}
}

// stopOnError is the policy of StopOnError.
func stopOnError(f Failure) Action {
	switch what, _ := said(f.Err); what {
	case toSkip:
		return f.Default()
	case toRetry, toWait:
		if a := f.Default(); a.what != toPark {
			return a
		}
	case byDefault, toPark, toStop:
	}
	return f.Stop()
}

// decided logs what happens to a message whose handling has failed.
func (r *running) decided(f Failure, a Action) {
	r.failed(f, a)
	message := ""
	switch {
	case f.Replayed && a.what != toSkip && a.what != toStop:
		message = "a consumer could not handle a message of a parked stream, which remains parked"
	case a.what == toPark:
		message = "a consumer parks a stream, because a message could not be handled"
		if r.stream != nil {
			message = "a consumer retries a message that it would park, but with a position stream nothing is parked"
		}
	case a.what == toSkip:
		message = "a consumer skips a message that could not be handled"
	default:
		return
	}
	r.link.Logger.Warn(message, r.member.attrs("stream", f.Message.Stream, "position", f.Message.Position,
		"global_position", f.Message.GlobalPosition, "attempt", f.Attempt, "error", typeOf(f.Err))...)
}

// typeOf returns the type of the innermost error, because texts may contain parts of a message.
func typeOf(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			break
		}
		err = inner
	}
	text := fmt.Sprintf("%T", err)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		text += " with SQLSTATE " + pgErr.Code
	}
	return text
}
