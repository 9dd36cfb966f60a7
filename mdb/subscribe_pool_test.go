package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// TestSubscriptionsShareOneConnection checks that eight subscriptions on a pool of one
// connection can pass tokens round in a circle by writing in their handlers.
func TestSubscriptionsShareOneConnection(t *testing.T) {
	t.Parallel()
	const subscriptions, rounds = 8, 10
	s := newStore(t, newPool(t, testdb.Shared(t), oneConnection))
	ring := mdbtest.Category("ring")
	station := func(i int) mdb.Category { return mdb.Category(fmt.Sprintf("%s%d", ring, i%subscriptions)) }
	ctx, end := context.WithCancelCause(t.Context())
	defer end(errStopped)
	var arrived sync.WaitGroup // tokens
	arrived.Add(subscriptions)
	handler := func(i int) mdb.Handler {
		return func(ctx context.Context, m mdb.Message) error {
			var left int
			if err := m.Decode(&left); err != nil {
				return err
			}
			if left == 0 {
				arrived.Done()
				return nil
			}
			_, err := s.WriteMessage(ctx, station(i+1).Stream("1"), mdb.NewMessage("Moved", left-1))
			return err
		}
	}
	dropped := make(chan error, subscriptions)
	for i := range subscriptions {
		write(t, s, station(i).Stream("1"), mdb.NewMessage("Moved", subscriptions*rounds))
		go func() {
			switch i % 5 {
			case 0:
				dropped <- s.SubscribeToStream(ctx, station(i).Stream("1"), handler(i))
			case 1:
				dropped <- s.SubscribeToCategory(ctx, station(i), handler(i), mdb.WithBatchSize(1))
			case 2:
				dropped <- s.SubscribeToCategory(ctx, station(i), handler(i), mdb.AsConsumerGroup(0, 1))
			case 3:
				dropped <- s.SubscribeToCategory(ctx, station(i), handler(i), mdb.WithWorkers(3))
			default:
				dropped <- s.SubscribeToCategory(ctx, station(i), handler(i))
			}
		}()
	}
	all := make(chan struct{})
	go func() { arrived.Wait(); close(all) }()
	select {
	case <-all:
	case err := <-dropped:
		t.Fatalf("subscription ended with %v", err)
	case <-time.After(testTimeout):
		t.Fatal("the tokens do not arrive in time")
	}
	end(errStopped)
	for range subscriptions {
		if err := <-dropped; !errors.Is(err, errStopped) {
			t.Errorf("got error %v, want the cause", err)
		}
	}
}

// TestSubscriptionHoldsNoConnection checks that a subscription holds no connection of the
// pool during any callback, except for a read ahead while that runs, or while it sleeps.
func TestSubscriptionHoldsNoConnection(t *testing.T) {
	t.Parallel()
	for _, opts := range [][]mdb.CategorySubscribeOption{
		nil,
		{mdb.AsConsumerGroup(0, 1)},
		{mdb.WithCondition("true")},
		{mdb.FromEnd()},
	} {
		url := testdb.Shared(t)
		writer := newStore(t, newPool(t, url))
		pool := newPool(t, url)
		s := newStore(t, pool, mdb.WithConditions())
		stream := mdbtest.Category("free").Stream("1")
		var called sync.Map
		look := func(callback string) {
			called.Store(callback, true)
			// The pool counts lost connections for a little longer. One that the
			// subscription holds is counted for as long as the callback runs.
			for end := time.Now().Add(testTimeout); pool.Stat().AcquiredConns() != 0; runtime.Gosched() {
				if time.Now().After(end) {
					t.Errorf("%s: got %d connections in use, want none", callback, pool.Stat().AcquiredConns())
					return
				}
			}
		}
		asleep := make(chan struct{}, 100)
		var handled atomic.Bool
		sabotage := sync.OnceFunc(func() {
			conns := pool.AcquireAllIdle(t.Context())
			for _, conn := range conns {
				_ = conn.Conn().PgConn().Conn().Close() // unnoticed by the pool
				conn.Release()
			}
			write(t, s, stream, mdb.NewMessage("Happened", nil)) // replaces one of them
			for _, conn := range pool.AcquireAllIdle(t.Context()) {
				_ = conn.Conn().PgConn().Conn().Close()
				conn.Release()
			}
		})
		r := receive(t, func(ctx context.Context, h mdb.Handler, live mdb.SubscribeOption) error {
			handler := func(ctx context.Context, m mdb.Message) error {
				look("handler")
				handled.Store(true)
				return h(ctx, m)
			}
			return s.SubscribeToCategory(ctx, stream.Category(), handler, append(opts, mdb.WithBatchSize(1),
				mdb.OnLive(func(live bool) { look(fmt.Sprintf("OnLive(%t)", live)) }),
				onPosition(func(context.Context, int64) error { look("OnProgress"); return nil }),
				mdb.OnRetry(func(mdb.Retry) { look("OnRetry") }),
				mdb.WithPolling(func(poll.Seen) time.Duration {
					look("strategy")
					if handled.Load() {
						sabotage() // the next read
					}
					asleep <- struct{}{}
					return time.Hour
				}))...)
		})
		<-asleep // FromEnd has begun
		write(t, writer, stream, mdb.NewMessage("Happened", nil))
		write(t, s, stream, mdb.NewMessage("Happened", nil)) // wakes the subscription
		r.next(t, 3)
		<-asleep
		look("asleep")
		r.stop(t)
		for _, callback := range []string{"handler", "OnLive(true)", "OnLive(false)", "OnProgress", "OnRetry", "strategy"} {
			if _, ok := called.Load(callback); !ok {
				t.Errorf("%s was not called", callback)
			}
		}
	}
}

// TestSubscriptionsEndIdle checks that a hundred sleeping subscriptions can end without
// closing connections of the pool.
func TestSubscriptionsEndIdle(t *testing.T) {
	t.Parallel()
	const subscriptions = 100
	pool := newPool(t, testdb.Shared(t))
	asleep := make(chan struct{}, subscriptions)
	s := newStore(t, pool, mdb.WithPolling(func(poll.Seen) time.Duration { asleep <- struct{}{}; return time.Hour }))
	category := mdbtest.Category("idle")
	running := make([]*recipient, subscriptions)
	for i := range running {
		switch i % 3 {
		case 0:
			running[i] = receiveCategory(t, s, category)
		case 1:
			running[i] = receiveCategory(t, s, category, mdb.AsConsumerGroup(0, 2))
		case 2:
			running[i] = receiveStream(t, s, category.Stream("1"))
		}
	}
	for range running {
		<-asleep
	}
	before := pool.Stat()
	for _, r := range running {
		r.end(errStopped) // all at the same time
	}
	for _, r := range running {
		r.stop(t)
	}
	// A connection that was closed would be missing now.
	for range before.TotalConns() {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Release)
	}
	if after := pool.Stat(); after.NewConnsCount() != before.NewConnsCount() || after.TotalConns() != before.TotalConns() {
		t.Errorf("got %d connections of %d opened, want as before %d of %d", after.TotalConns(), after.NewConnsCount(), before.TotalConns(), before.NewConnsCount())
	}
}

// TestSubscriptionsStartAndStop checks that nothing is left of a thousand subscriptions
// that start and stop at random moments.
//
// It is not parallel, because it counts the goroutines of the process.
func TestSubscriptionsStartAndStop(t *testing.T) {
	pgtest.NeedTime(t)
	const subscriptions, concurrently = 1000, 10
	url := testdb.Shared(t)
	admin := newPool(t, url)
	category := mdbtest.Category("stop")
	writer := newStore(t, admin)
	for i := range 20 {
		if _, err := writer.WriteMessages(t.Context(), category.Stream(fmt.Sprint(i)), proposals(10)); err != nil {
			t.Fatal(err)
		}
	}
	name := string(category)[:32]
	goroutines := runtime.NumGoroutine()

	pool := newPool(t, url, parameter("application_name", name), func(cfg *pgxpool.Config) { cfg.MaxConns = concurrently })
	s := newStore(t, pool, mdb.WithConditions())
	var handled, slept atomic.Int64
	var wg sync.WaitGroup
	for range concurrently {
		wg.Go(func() {
			for i := range subscriptions / concurrently {
				cause := fmt.Errorf("stop %d", i)
				ctx, end := context.WithCancelCause(t.Context())
				soon := func() { time.AfterFunc(rand.N(3*time.Millisecond), func() { end(cause) }) }
				// Most subscriptions that end soon never get a connection, because those
				// that end within a read close theirs. So the others wait for a random
				// moment.
				var message atomic.Int64
				live := mdb.OnLive(func(bool) {})
				switch i / 5 % 3 {
				case 0:
					soon()
				case 1:
					live = mdb.OnLive(func(bool) { soon() })
				case 2:
					message.Store(rand.Int64N(7) + 1)
					live = mdb.OnLive(func(live bool) {
						if live {
							soon()
						}
					})
				}
				handler := func(context.Context, mdb.Message) error {
					handled.Add(1)
					if message.Add(-1) == 0 {
						end(cause)
					}
					return nil
				}
				polling := mdb.WithPolling(func(poll.Seen) time.Duration { slept.Add(1); return time.Millisecond })
				var err error
				switch batch := mdb.WithBatchSize(1 + rand.IntN(50)); i % 5 {
				case 0:
					err = s.SubscribeToCategory(ctx, category, handler, batch, live, polling)
				case 1:
					err = s.SubscribeToCategory(ctx, category, handler, batch, live, polling, mdb.AsConsumerGroup(i%3, 3))
				case 2:
					err = s.SubscribeToCategory(ctx, category, handler, batch, live, polling, mdb.WithCondition("position > 3"))
				case 3:
					err = s.SubscribeToStream(ctx, category.Stream("1"), handler, batch, live, polling)
				case 4:
					err = s.SubscribeToCategory(ctx, category, handler, batch, live, polling, mdb.WithWorkers(1+rand.IntN(9)))
				}
				if err != cause { //nolint:errorlint // the cause itself
					t.Errorf("got error %v (%T), want the cause", err, err)
				}
			}
		})
	}
	wg.Wait()
	if handled.Load() < subscriptions || slept.Load() == 0 {
		t.Errorf("got %d messages handled and %d sleeps, which is too few to prove anything", handled.Load(), slept.Load())
	}
	pool.Close()

	until(t, admin, `SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = $1`, name)
	for end := time.Now().Add(testTimeout); runtime.NumGoroutine() > goroutines; runtime.Gosched() {
		if time.Now().After(end) {
			var stacks strings.Builder
			_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
			t.Fatalf("got %d goroutines, want as before %d:\n%s", runtime.NumGoroutine(), goroutines, stacks.String())
		}
	}
}

// TestSuspect checks that the pool replaces its connections after a read without an
// answer, but not if all are in use, because that may be the reason.
func TestSuspect(t *testing.T) {
	t.Parallel()
	pool := newPool(t, testdb.Shared(t), func(cfg *pgxpool.Config) { cfg.MaxConns = 2 })
	s := newStore(t, pool)
	conns := make([]*pgxpool.Conn, 2)
	pids := make([]uint32, 2)
	lend := func() {
		for i := range conns {
			var err error
			if conns[i], err = pool.Acquire(t.Context()); err != nil {
				t.Fatal(err)
			}
			pids[i] = conns[i].Conn().PgConn().PID()
		}
		slices.Sort(pids)
	}
	giveBack := func() {
		for _, conn := range conns {
			conn.Release()
		}
	}
	lend()
	before := slices.Clone(pids)
	mdb.Suspect(s)
	giveBack()
	lend()
	if !slices.Equal(pids, before) {
		t.Errorf("sessions of a busy pool: got %[2]v, want %[1]v", before, pids)
	}
	conns[0].Release()
	mdb.Suspect(s)
	conns[1].Release()
	lend()
	if slices.Contains(before, pids[0]) || slices.Contains(before, pids[1]) {
		t.Errorf("sessions: got %[2]v, want none of %[1]v", before, pids)
	}
	giveBack()
}
