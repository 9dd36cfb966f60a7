package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// A durableWork is a category that writers write to, and durable consumers of it, each of them
// in several processes, while faults are injected.
type durableWork struct {
	url        string // of a database with the schema of consumers
	forms      []string
	processes  int // of each consumer
	writers    int
	messages   int           // to be written, at least
	pause      time.Duration // of each writer after each write
	partitions int
	inside     bool // the processes are goroutines of this one
	bug        string
	hopeless   bool // not everything will be handled
	notify     bool
	streams    int   // that are written to
	poisoned   int   // streams whose messages fail until they are healed; others fail now and then. 0: nothing fails
	busy       int   // how many messages a process handles before it is killed, at most
	conns      int32 // of each process
	pooled     bool  // the proxies are PgBouncers
	slow       bool  // some calls of handlers take longer
	resized    bool  // the number of partitions changes, so programs do not say it
	lease      time.Duration
	proxies    func(process int) string // the URL for the processes with this number; nil: url
	timeout    time.Duration
	injectTo   time.Time // faults are injected at least up to then; zero: their number decides alone

	rng       *rand.Rand // used only by the goroutine that runs the work
	category  mdb.Category
	pool      *pgxpool.Pool
	histories []*durableHistory
	running   map[*durableHistory][]*durableProcess
	started   int
	written   atomic.Int64
	faults    int
	kills     int
	stuck     error // why something was not handled
}

func newDurableWork(url string, seed uint64) *durableWork {
	w := &durableWork{
		url: url, forms: forms, processes: 2, writers: 2, messages: 500, pause: 5 * time.Millisecond, partitions: 8, streams: 20, conns: 4, lease: time.Second, busy: scaled(20, 200),
		timeout: scaled(2*testTimeout, 10*time.Minute), // a busy machine takes its time
		rng:     rand.New(rand.NewPCG(seed, 8)), running: make(map[*durableHistory][]*durableProcess),
	}
	if *sizeFlag == "soak" {
		w.pause = 20 * time.Millisecond // all forms must keep up for a long time
	}
	return w
}

// goesOn reports whether faults are still to be injected, of which there must be at least that many.
func (w *durableWork) goesOn(least int) bool {
	return w.faults < least || time.Now().Before(w.injectTo)
}

// task returns the task of a further process of a consumer. Those with the number 0 have an
// instance, so that their successors continue immediately.
func (w *durableWork) task(h *durableHistory, number int) durableTask {
	w.started++
	o := durableTask{
		Direct: w.url, Through: w.url, Form: h.form, Consumer: h.consumer, Category: w.category, Process: w.started,
		Lease: w.lease, Partitions: w.partitions, Workers: 3, Unique: w.started%2 == 0, Notify: w.notify, Bug: w.bug,
		Pooled: w.pooled, Conns: w.conns, Troubled: w.poisoned > 0, Slow: w.slow,
	}
	if w.resized {
		o.Partitions = 0
	}
	if w.proxies != nil {
		o.Through = w.proxies(number)
	}
	if number == 0 {
		o.Instance = h.consumer + "-0"
	}
	return o
}

// launch starts a process of a consumer, in place of the one with this number.
func (w *durableWork) launch(h *durableHistory, number int) error {
	o := w.task(h, number)
	if w.inside {
		w.running[h][number] = o.start()
		return nil
	}
	p, err := o.spawn()
	w.running[h][number] = p
	return err
}

// sample takes a snapshot of each consumer.
func (w *durableWork) sample(ctx context.Context) error {
	for _, h := range w.histories {
		if err := h.sample(ctx, w.pool, w.category); err != nil {
			return err
		}
	}
	return nil
}

// untilHandled waits until a process has handled some messages. A process that has ended
// will not.
func (w *durableWork) untilHandled(ctx context.Context, p *durableProcess, messages int) error {
	for {
		var n int
		err := w.pool.QueryRow(ctx, `SELECT count(*) FROM (SELECT FROM public.effects WHERE process = $1 LIMIT $2) AS e`, p.task.Process, messages).Scan(&n)
		switch {
		case err == nil && n >= messages:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%w: process %d of %s has handled %d messages", context.Cause(ctx), p.task.Process, p.task.Consumer, n)
		}
		select {
		case err := <-p.ended:
			p.ended <- err
			return fmt.Errorf("process %d of %s has ended: %w", p.task.Process, p.task.Consumer, err)
		default:
			tick()
		}
	}
}

// untilMore waits until each of the processes has handled another message.
func (w *durableWork) untilMore(ctx context.Context, ps ...*durableProcess) error {
	for _, p := range ps {
		n := 0
		for {
			err := w.pool.QueryRow(ctx, `SELECT count(*) FROM public.effects WHERE process = $1`, p.task.Process).Scan(&n)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return err
			}
			tick()
		}
		if err := w.untilHandled(ctx, p, n+1); err != nil {
			return err
		}
	}
	return nil
}

// end stops a process, and waits for it.
func (p *durableProcess) end(ctx context.Context) error {
	p.stop()
	select {
	case err := <-p.ended:
		return err
	case <-ctx.Done():
		if p.kill != nil {
			_ = p.kill()
		}
		return fmt.Errorf("process %d of %s does not end: %w", p.task.Process, p.task.Consumer, context.Cause(ctx))
	}
}

// writes writes to streams, of which some have the same cardinal ID, until ctx ends and enough
// is written.
func (w *durableWork) writes(ctx, injecting context.Context, s *mdb.Store, rng *rand.Rand) error {
	for injecting.Err() == nil || int(w.written.Load()) < w.messages {
		stream := w.category.Stream(fmt.Sprint(rng.IntN(w.streams)))
		if w.poisoned > 0 && rng.IntN(50) == 0 {
			stream = w.category.Stream(fmt.Sprint(poison, rng.IntN(w.poisoned)))
		}
		if rng.IntN(4) == 0 {
			stream += "+other"
		}
		ms := make([]mdb.ProposedMessage, 1+rng.IntN(5))
		for i := range ms {
			ms[i] = mdb.ProposedMessage{ID: uuid.New(), Type: "Happened"}
		}
		_, err := s.WriteMessages(ctx, stream, ms, mdb.Idempotent())
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
			w.written.Add(int64(len(ms)))
		}
		_ = backoff.Sleep(ctx, w.pause)
	}
	return nil
}

// run runs the work while inject, which may be nil, injects faults, until everything is handled
// and all checkpoints say so. It returns the violations.
func (w *durableWork) run(t *testing.T, inject func(ctx context.Context) error) (violations map[string][]string, store []stored) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), max(time.Until(w.injectTo), 0)+w.timeout, errTimedOut)
	defer cancel()
	w.pool = openPool(t, w.url, 6, configure)
	defer w.pool.Close()
	for _, sql := range []string{effectTables, operatorTables} {
		if _, err := w.pool.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	writing, err := mdb.New(w.pool, persistent)
	if err != nil {
		t.Fatal(err)
	}
	w.category = mdbtest.Category("durable")
	var processes sync.WaitGroup
	defer processes.Wait()
	for _, form := range w.forms {
		h := &durableHistory{consumer: strings.ToLower(form) + uuid.NewString(), form: form, partitions: w.partitions}
		w.histories = append(w.histories, h)
		if w.resized {
			if _, err := w.pool.Exec(ctx, `INSERT INTO message_store_consumers.consumers (name, categories, partitions) VALUES ($1, '{}', $2)`, h.consumer, w.partitions); err != nil {
				t.Fatal(err)
			}
		}
		w.running[h] = make([]*durableProcess, w.processes)
		for number := range w.processes {
			if err := w.launch(h, number); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer func() {
		for _, running := range w.running {
			for _, p := range running {
				if p.kill != nil {
					_ = p.kill()
				}
				p.stop()
			}
		}
	}()
	injecting, stopInjecting := context.WithCancel(ctx)
	defer stopInjecting()
	var writers sync.WaitGroup
	writeErrs := make([]error, w.writers)
	for i := range writeErrs {
		rng := rand.New(rand.NewPCG(w.rng.Uint64(), uint64(i)))
		writers.Go(func() { writeErrs[i] = w.writes(ctx, injecting, writing, rng) })
	}
	if inject != nil {
		if err := inject(ctx); err != nil {
			w.stuck = fmt.Errorf("inject: %w", err)
		}
	}
	stopInjecting()
	writers.Wait()
	if err := errors.Join(writeErrs...); err != nil {
		t.Fatal(err)
	}
	if !w.hopeless {
		w.stuck = errors.Join(w.stuck, w.caughtUp(ctx), w.replayed(ctx), w.balanced(ctx))
	}
	read := context.WithoutCancel(ctx)
	for _, h := range w.histories {
		for _, p := range w.running[h] {
			w.stuck = errors.Join(w.stuck, p.end(ctx))
		}
		if err := errors.Join(h.sample(read, w.pool, w.category), h.end(read, w.pool)); err != nil {
			t.Fatal(err)
		}
	}
	if store, err = readStore(read, w.pool, []string{string(w.category)}); err != nil {
		t.Fatal(err)
	}
	return validateDurable(w.histories, store), store
}

// caughtUp waits until each checkpoint has passed the last message.
func (w *durableWork) caughtUp(ctx context.Context) error {
	const passed = `
SELECT count(*) FROM (
	SELECT FROM message_store_consumers.checkpoints AS c JOIN message_store_consumers.consumers AS k ON k.id = c.consumer
	WHERE c.category = $1 GROUP BY k.id HAVING count(*) = k.partitions
	AND min(c.position) >= (SELECT max(global_position) FROM message_store.messages WHERE split_part(stream_name, '-', 1) = $1)
) AS p`
	for {
		n, want := 0, len(w.histories)
		err := w.pool.QueryRow(ctx, passed, w.category).Scan(&n)
		switch {
		case err == nil && n == want:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%w: %d of %d consumers have handled everything", context.Cause(ctx), n, want)
		}
		for _, running := range w.running {
			for _, p := range running {
				select {
				case err := <-p.ended:
					p.ended <- err
					return fmt.Errorf("process %d of %s has ended: %w", p.task.Process, p.task.Consumer, err)
				default:
				}
			}
		}
		_ = w.sample(ctx) // the server may be restarting
		tick()
	}
}

// evaluate fails the test for each violation, and adds the results to the row.
func (w *durableWork) evaluate(t *testing.T, row string, violations map[string][]string, store []stored) {
	t.Helper()
	x := tally{faults: w.faults, messages: len(store) * len(w.histories), kills: w.kills, violations: make(map[string]int)}
	for name, found := range violations {
		x.violations[name] = len(found)
		t.Errorf("%s: %d violations (seed %d):\n%s", name, len(found), *seedFlag, strings.Join(found[:min(len(found), 5)], "\n"))
	}
	if w.stuck != nil {
		t.Errorf("not everything was handled: %v (seed %d)", w.stuck, *seedFlag)
	}
	for _, h := range w.histories {
		x.takeovers += h.takeovers()
		x.resizes += len(h.resizes)
		if n := h.repeated(); !exactlyOnce(h.form) {
			x.repeated += n
			t.Logf("%s: %d of %d messages were handled again, %d snapshots", h.consumer, n, len(store), len(h.samples))
		}
	}
	t.Log(x.line())
	results.add(row, x)
}
