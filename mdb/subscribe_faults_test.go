package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// A gathering is a subscription that records where its messages are, with a pool of its
// own.
type gathering struct {
	name    string
	pool    *pgxpool.Pool
	dropped chan error
	// noticed counts retries and connections. If a read ahead fails, there is no retry, but another
	// connection.
	noticed atomic.Int64
	attempt int // the last one that OnRetry was called with

	mu      sync.Mutex
	places  []string
	changed chan struct{} // has a value after a change of places or a retry
}

func (g *gathering) handle(_ context.Context, m mdb.Message) error {
	g.mu.Lock()
	g.places = append(g.places, places([]mdb.Message{m})...)
	g.attempt = 0
	g.mu.Unlock()
	g.signal()
	return nil
}

func (g *gathering) signal() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

func (g *gathering) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.places)
}

func (g *gathering) until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for timeout := time.After(testTimeout); !holds(); {
		select {
		case <-g.changed:
		case err := <-g.dropped:
			t.Fatalf("%s: ended before %s: %v", g.name, what, err)
		case <-timeout:
			t.Fatalf("%s: not %s in time, with %d messages", g.name, what, g.count())
		}
	}
}

// An ordeal runs subscriptions of all kinds while messages are written and a test breaks
// something.
type ordeal struct {
	category mdb.Category
	url      string
	end      context.CancelCauseFunc
	all      []*gathering
	wants    map[*gathering]string // a condition on messages, which it names m
}

func newOrdeal(t testing.TB, url string) *ordeal {
	t.Helper()
	ctx, end := context.WithCancelCause(t.Context())
	o := &ordeal{category: mdbtest.Category("ordeal"), url: url, end: end, wants: make(map[*gathering]string)}
	t.Cleanup(func() { end(errStopped) })
	begin := func(name, wants string, opts []mdb.StoreOption, subscribe func(*mdb.Store, mdb.Handler, mdb.SubscribeOption) error) {
		g := &gathering{name: name, dropped: make(chan error, 1), changed: make(chan struct{}, 1)}
		notice := func() {
			g.noticed.Add(1)
			g.signal()
		}
		g.pool = newPool(t, url, func(cfg *pgxpool.Config) {
			cfg.AfterConnect = func(context.Context, *pgx.Conn) error { notice(); return nil }
		})
		s := newStore(t, g.pool, opts...)
		onRetry := mdb.OnRetry(func(r mdb.Retry) {
			if g.attempt++; r.Attempt != 1 && r.Attempt != g.attempt || r.Err == nil {
				t.Errorf("%s: got %+v, want attempt 1 or %d", name, r, g.attempt)
			}
			g.attempt = r.Attempt
			notice()
		})
		go func() { g.dropped <- subscribe(s, g.handle, onRetry) }()
		o.all = append(o.all, g)
		o.wants[g] = wants
	}
	stream := o.category.Stream("1")
	for way, opts := range map[string][]mdb.StoreOption{"procedures": {mdb.WithConditions()}, "direct": {mdb.WithConditions(), mdb.WithDirectSQL()}} {
		begin("stream, "+way, fmt.Sprintf("m.stream_name = '%s'", stream), opts, func(s *mdb.Store, h mdb.Handler, onRetry mdb.SubscribeOption) error {
			return s.SubscribeToStream(ctx, stream, h, onRetry, mdb.WithBatchSize(5))
		})
		begin("category, "+way, "true", opts, func(s *mdb.Store, h mdb.Handler, onRetry mdb.SubscribeOption) error {
			return s.SubscribeToCategory(ctx, o.category, h, onRetry, mdb.WithBatchSize(5))
		})
	}
	begin("condition", "m.position % 2 = 0", []mdb.StoreOption{mdb.WithConditions()}, func(s *mdb.Store, h mdb.Handler, onRetry mdb.SubscribeOption) error {
		return s.SubscribeToCategory(ctx, o.category, h, onRetry, mdb.WithCondition("position % 2 = 0"))
	})
	for member := range 3 {
		wants := fmt.Sprintf("@message_store.hash_64(message_store.cardinal_id(m.stream_name)) %% 3 = %d", member)
		begin(fmt.Sprintf("member %d", member), wants, nil, func(s *mdb.Store, h mdb.Handler, onRetry mdb.SubscribeOption) error {
			return s.SubscribeToCategory(ctx, o.category, h, onRetry, mdb.AsConsumerGroup(member, 3))
		})
	}
	return o
}

// write writes n messages to each of ten streams. Errors are retried.
func (o *ordeal) write(t testing.TB, s *mdb.Store, n int) {
	t.Helper()
	var wg sync.WaitGroup
	failures := make([]error, 10)
	for i := range failures {
		wg.Go(func() {
			for range n {
				if _, err := s.WriteMessage(t.Context(), o.category.Stream(fmt.Sprint(i)), mdb.NewMessage("Happened", nil)); err != nil {
					failures[i] = err
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(failures...); err != nil {
		t.Fatal(err)
	}
}

// persistent lets a store retry its writes until an outage is over.
var persistent = mdb.WithRetry(mdb.RetryPolicy{Attempts: 10_000, MaxDelay: 50 * time.Millisecond})

// wanted returns where the messages are that a subscription must receive.
func (o *ordeal) wanted(t testing.TB, db database, g *gathering) []string {
	t.Helper()
	rows, _ := db.Query(t.Context(), `SELECT message_store.id(m.stream_name) || '/' || m.position || ' at ' || m.global_position
FROM message_store.messages AS m WHERE message_store.category(m.stream_name) = $1 AND `+o.wants[g]+` ORDER BY m.global_position`, string(o.category))
	want, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return want
}

// catchUp waits until each subscription has received all messages. Each has a connection
// then.
func (o *ordeal) catchUp(t testing.TB, s *mdb.Store) {
	t.Helper()
	for _, g := range o.all {
		want := len(o.wanted(t, s.Pool(), g))
		g.until(t, fmt.Sprintf("%d messages", want), func() bool { return g.count() >= want })
	}
}

// check waits for the last message, ends the subscriptions, and compares what they
// received with the table.
func (o *ordeal) check(t testing.TB, s *mdb.Store) {
	t.Helper()
	for range 2 { // so that messages received twice show up before the second round ends
		o.write(t, s, 1)
		o.catchUp(t, s)
	}
	o.end(errStopped)
	for _, g := range o.all {
		if err := <-g.dropped; err != errStopped { //nolint:errorlint // the cause itself
			t.Errorf("%s: got error %v (%T), want the cause", g.name, err, err)
		}
		if want := o.wanted(t, s.Pool(), g); !slices.Equal(g.places, want) {
			t.Errorf("%s: got\n%v, want\n%v", g.name, g.places, want)
		}
	}
}

// untilNoticed waits until each subscription has noticed that its connection is lost.
func (o *ordeal) untilNoticed(t testing.TB, before map[*gathering]int64) {
	t.Helper()
	for _, g := range o.all {
		g.until(t, "aware of a lost connection", func() bool { return g.noticed.Load() > before[g] })
	}
}

func (o *ordeal) noticed() map[*gathering]int64 {
	n := make(map[*gathering]int64)
	for _, g := range o.all {
		n[g] = g.noticed.Load()
	}
	return n
}

// TestSubscriptionsOutliveTermination checks that subscriptions lose nothing while the
// server terminates all sessions of the database several times.
func TestSubscriptionsOutliveTermination(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	url := testdb.New(t)
	admin := newPool(t, url, oneConnection)
	s := newStore(t, newPool(t, url), persistent)
	o := newOrdeal(t, url)
	for range 5 {
		o.write(t, s, 2) // one of them meets the condition
		o.catchUp(t, s)
		before := o.noticed()
		var writing sync.WaitGroup
		writing.Go(func() { o.write(t, s, 10) })
		for range 1 + rand.IntN(5) { // at random moments
			exec(t, admin, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
		}
		writing.Wait()
		o.untilNoticed(t, before)
	}
	o.check(t, s)
}

// TestSubscriptionsOutliveRestarts checks that subscriptions lose nothing while the server
// restarts, cleanly and by a crash, and that they end when their context does while it is
// down.
func TestSubscriptionsOutliveRestarts(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	server := pgtest.Own(t)
	url := server.URL("postgres")
	pool := newPool(t, url)
	install(t, pool)
	s := newStore(t, pool, persistent)
	o := newOrdeal(t, url)
	for _, mode := range []string{"fast", "immediate", "immediate", "fast"} {
		o.write(t, s, 2) // one of them meets the condition
		o.catchUp(t, s)
		before := o.noticed()
		var writing sync.WaitGroup
		writing.Go(func() { o.write(t, s, 10) })
		if err := server.Restart(mode); err != nil {
			t.Fatal(err)
		}
		writing.Wait()
		o.untilNoticed(t, before) // each had a connection, which is lost
	}
	o.check(t, s)

	o = newOrdeal(t, url)
	o.write(t, s, 2)
	o.catchUp(t, s)
	before := o.noticed()
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	o.untilNoticed(t, before)
	o.end(errStopped)
	for _, g := range o.all {
		select {
		case err := <-g.dropped:
			if err != errStopped { //nolint:errorlint // the cause itself
				t.Errorf("%s: got error %v (%T), want the cause", g.name, err, err)
			}
		case <-time.After(testTimeout):
			t.Errorf("%s: did not end", g.name)
		}
	}
}
