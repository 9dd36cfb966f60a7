package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

var errEnough = errors.New("enough")

// A plant is a Store of a process of its own, whose connections can be cut.
type plant struct {
	*mdb.Store

	mu    sync.Mutex
	conns []net.Conn
	off   bool
}

// plantOn returns another process's Store of the same database.
func plantOn(t testing.TB, s *mdb.Store, prepare ...func(*pgxpool.Config)) *plant {
	t.Helper()
	p := &plant{}
	cfg := s.Pool().Config()
	dial := cfg.ConnConfig.DialFunc
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.off {
			return nil, errors.New("the network is down")
		}
		conn, err := dial(ctx, network, address)
		if err == nil {
			p.conns = append(p.conns, conn)
		}
		return conn, err
	}
	for _, f := range prepare {
		f(cfg)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if p.Store, err = mdb.New(pool); err != nil {
		t.Fatal(err)
	}
	return p
}

// cut closes all connections, and lets nobody open another one.
func (p *plant) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = true
	for _, conn := range p.conns {
		conn.Close()
	}
}

// A shift is a consumer that is running.
type shift struct {
	*consumer.Consumer

	cancel context.CancelCauseFunc
	ended  chan error
}

// start runs a consumer until end is called, or the test ends.
func start(t testing.TB, s *mdb.Store, h consumer.Handler, opts ...consumer.Option) *shift {
	t.Helper()
	return startNamed(t, s, "mailer", "signup", h, opts...)
}

func startNamed(t testing.TB, s *mdb.Store, name string, category mdb.Category, h consumer.Handler, opts ...consumer.Option) *shift {
	t.Helper()
	c, err := consumer.New(s, name, category, h, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return startConsumer(t, c)
}

func startConsumer(t testing.TB, c *consumer.Consumer) *shift {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(t.Context()))
	r := &shift{Consumer: c, cancel: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel(errEnough)
		r.wait()
	})
	return r
}

func (r *shift) wait() error {
	err := <-r.ended
	r.ended <- err
	return err
}

// end ends the run, and checks its error.
func (r *shift) end(t testing.TB) {
	t.Helper()
	r.cancel(errEnough)
	if err := r.wait(); !errors.Is(err, errEnough) {
		t.Errorf("Run returned %v, want the context's cause", err)
	}
}

// signUp writes messages to as many streams, and returns their global positions.
func signUp(t testing.TB, s *mdb.Store, n int) (positions []int64) {
	t.Helper()
	for i := range n {
		w, err := s.WriteMessage(t.Context(), mdb.StreamName(fmt.Sprintf("signup-%d", i)), mdb.NewMessage("SignedUp", nil))
		if err != nil {
			t.Fatal(err)
		}
		positions = append(positions, w.GlobalPosition)
	}
	return positions
}

// A record has the global positions of messages that were handled.
type record struct {
	mu        sync.Mutex
	positions []int64
}

func (l *record) add(m mdb.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.positions = append(l.positions, m.GlobalPosition)
}

func (l *record) sorted() []int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(slices.Values(l.positions))
}

func (l *record) handler() consumer.Handler {
	return consumer.Each(func(_ context.Context, m mdb.Message) error {
		l.add(m)
		return nil
	})
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for begun := time.Now(); !f(); <-time.After(5 * time.Millisecond) {
		if time.Since(begun) > time.Minute {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// TestHandover checks that two processes share a consumer's messages, and that one which ends
// gives its partitions to the other, without a message that is lost or repeated.
func TestHandover(t *testing.T) {
	t.Parallel()
	store := withConsumers.Store(t)
	var a, b record
	first := start(t, plantOn(t, store).Store, a.handler(), consumer.WithLease(time.Hour))
	eventually(t, "a process has all partitions", func() bool { return first.Stats().Partitions == consumer.DefaultPartitions })
	second := start(t, plantOn(t, store).Store, b.handler(), consumer.WithLease(time.Hour))
	eventually(t, "each has its share", func() bool {
		return first.Stats().Partitions == 32 && second.Stats().Partitions == 32
	})
	want := signUp(t, store, 200)
	eventually(t, "half is handled", func() bool { return len(a.sorted())+len(b.sorted()) >= 100 })
	first.end(t)
	want = append(want, signUp(t, store, 100)...)
	eventually(t, "all is handled", func() bool { return len(a.sorted())+len(b.sorted()) >= 300 })
	second.end(t)
	if got := slices.Sorted(slices.Values(append(a.sorted(), b.sorted()...))); !slices.Equal(got, want) {
		t.Errorf("got %d messages handled, want each of %d once", len(got), len(want))
	}
	if len(a.sorted()) == 0 || len(b.sorted()) < 100 {
		t.Errorf("got %d and %d", len(a.sorted()), len(b.sorted()))
	}
}

// TestTakeover checks that another process continues when one has lost its network: the
// effects of all messages are there once, and the process that is cut off begins no handler,
// and has ended the context of the one that is running, before the other one handles the same
// partition.
func TestTakeover(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a lease")
	}
	t.Parallel()
	store := withConsumers.Store(t)
	if _, err := store.Pool().Exec(t.Context(), "CREATE TABLE public.sent (position bigint PRIMARY KEY)"); err != nil {
		t.Fatal(err)
	}
	want := signUp(t, store, 100)
	var lost, overlap atomic.Bool
	var handled atomic.Int64
	cutOff := plantOn(t, store)
	insert := func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
		_, err := tx.Exec(ctx, "INSERT INTO public.sent VALUES ($1)", m.GlobalPosition)
		return err
	}
	a := start(t, cutOff.Store, consumer.EachTx(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
		if lost.Load() {
			overlap.Store(true)
		}
		if handled.Add(1) == 50 {
			cutOff.cut()
			<-ctx.Done()
			lost.Store(true)
			if !errors.Is(context.Cause(ctx), consumer.ErrLeaseLost) {
				t.Errorf("got the cause %v", context.Cause(ctx))
			}
			return ctx.Err()
		}
		return insert(ctx, tx, m)
	}), consumer.WithLease(5*time.Second), consumer.PerTx(1, 0), consumer.WithPartitions(1))
	eventually(t, "the process is cut off", func() bool { return handled.Load() == 50 })
	b := start(t, plantOn(t, store).Store, consumer.EachTx(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
		if !lost.Load() {
			overlap.Store(true)
		}
		return insert(ctx, tx, m)
	}), consumer.WithLease(5*time.Second))
	eventually(t, "everything is handled", func() bool {
		return sqlValue[int](t, store.Pool(), "SELECT count(*) FROM public.sent") == len(want)
	})
	if overlap.Load() {
		t.Error("both processes have handled messages of the partition at the same time")
	}
	b.end(t)
	a.end(t)
	rows, _ := store.Pool().Query(t.Context(), "SELECT position FROM public.sent ORDER BY position")
	if got, err := pgx.CollectRows(rows, pgx.RowTo[int64]); err != nil || !slices.Equal(got, want) {
		t.Errorf("got effects of %d messages, %v, want those of all", len(got), err)
	}
}

// TestInstance checks that a process which is started again with its instance has its
// partitions immediately, although it has crashed and its lease has not ended, and that an
// older process with the same instance ends with ErrReplaced.
func TestInstance(t *testing.T) {
	t.Parallel()
	store := withConsumers.Store(t)
	opts := []consumer.Option{consumer.WithLease(time.Hour), consumer.WithInstance("mailer-0")}
	var a, b, c record
	crashed := plantOn(t, store)
	start(t, crashed.Store, a.handler(), opts...)
	signUp(t, store, 10)
	eventually(t, "the first has handled all", func() bool { return len(a.sorted()) == 10 })
	crashed.cut()
	second := start(t, plantOn(t, store).Store, b.handler(), opts...)
	want := signUp(t, store, 10)
	eventually(t, "the second has handled the rest", func() bool {
		return len(b.sorted()) >= 10 && slices.Contains(b.sorted(), want[9])
	})
	third := start(t, plantOn(t, store).Store, c.handler(), opts...)
	signUp(t, store, 1)
	eventually(t, "the third has handled the last", func() bool { return len(c.sorted()) > 0 })
	if err := second.wait(); !errors.Is(err, consumer.ErrReplaced) {
		t.Errorf("the second ended with %v", err)
	}
	third.end(t)
}

// TestBusyPool checks that the lease is renewed while handlers hold all connections of the
// pool, also if there is only one.
func TestBusyPool(t *testing.T) {
	t.Parallel()
	for _, size := range []int32{1, 3} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			store := withConsumers.Store(t)
			signUp(t, store, 10)
			pool := plantOn(t, store, func(cfg *pgxpool.Config) { cfg.MaxConns = size }).Pool()
			busy, err := mdb.New(pool, mdb.WithNotify())
			if err != nil {
				t.Fatal(err)
			}
			var handled atomic.Int64
			r := start(t, busy, consumer.Each(func(ctx context.Context, _ mdb.Message) error {
				if handled.Add(1) > 1 {
					return nil
				}
				for range size {
					conn, err := pool.Acquire(ctx)
					if err != nil {
						return err
					}
					defer conn.Release()
				}
				for range 3 { // the first heartbeat may have been sent before
					if err := awaitHeartbeat(ctx, store); err != nil {
						return err
					}
				}
				return nil
			}), consumer.WithLease(time.Hour))
			eventually(t, "all is handled", func() bool { return r.Stats().Handled == 10 })
			r.end(t)
			if s := r.Stats(); s.Losses != 0 || s.Handled != 10 || s.Joins != 1 {
				t.Errorf("got %+v", s)
			}
		})
	}
}

// awaitHeartbeat notifies the processes of the consumer until the server has received a
// heartbeat.
func awaitHeartbeat(ctx context.Context, store *mdb.Store) error {
	var before time.Time
	const seen = "SELECT seen FROM message_store_consumers.members"
	if err := store.Pool().QueryRow(ctx, seen).Scan(&before); err != nil {
		return err
	}
	for at := before; at.Equal(before); {
		if _, err := store.Pool().Exec(ctx, "NOTIFY message_store_consumers, 'mailer'"); err != nil {
			return err
		}
		if err := store.Pool().QueryRow(ctx, seen).Scan(&at); err != nil {
			return err
		}
	}
	return nil
}

// TestSetup checks that Run names what to install if the schema is missing or too old, and
// what to do about another number of partitions.
func TestSetup(t *testing.T) {
	t.Parallel()
	run := func(store *mdb.Store, opts ...consumer.Option) string {
		t.Helper()
		c, err := consumer.New(store, "mailer", "signup", new(record).handler(), opts...)
		if err != nil {
			t.Fatal(err)
		}
		var setup *mdb.SetupError
		if err := c.CatchUp(t.Context()); !errors.As(err, &setup) {
			t.Fatalf("got %v, want a SetupError", err)
		}
		return setup.Error()
	}
	for _, want := range []string{"schema.InstallConsumers", "mdb install -consumers", "missing"} {
		if text := run(mdbtest.SharedStore(t)); !strings.Contains(text, want) {
			t.Errorf("got %q, want it to contain %q", text, want)
		}
	}
	store := withConsumers.Store(t)
	c, err := consumer.New(store, "mailer", "signup", new(record).handler(), consumer.WithPartitions(7))
	if err != nil || c.CatchUp(t.Context()) != nil {
		t.Fatal(err)
	}
	if text := run(store, consumer.WithPartitions(8)); !strings.Contains(text, "WithPartitions") || !strings.Contains(text, "7") {
		t.Errorf("got %q, want the number that is stored", text)
	}
	if _, err := store.Pool().Exec(t.Context(), "CREATE OR REPLACE FUNCTION message_store_consumers.version() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 0'"); err != nil {
		t.Fatal(err)
	}
	if text := run(store); !strings.Contains(text, "version 0") || !strings.Contains(text, "schema.InstallConsumers") {
		t.Errorf("got %q, want the version", text)
	}
}

// TestParks checks that a message that cannot be handled is parked, with the type of its error
// only, and that the messages of other streams are handled.
func TestParks(t *testing.T) {
	t.Parallel()
	store := withConsumers.Store(t)
	signUp(t, store, 10)
	c, err := consumer.New(store, "mailer", "signup", consumer.Each(func(_ context.Context, m mdb.Message) error {
		if m.Stream == "signup-3" {
			return consumer.Permanent(errors.New("secret"))
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows, _ := store.Pool().Query(t.Context(), "SELECT stream || ': ' || error FROM message_store_consumers.parked")
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || !slices.Equal(got, []string{"signup-3: *errors.errorString"}) {
		t.Errorf("got %q, %v", got, err)
	}
	if s := c.Stats(); s.Handled != 9 || s.Parked != 1 {
		t.Errorf("got %+v", s)
	}
}

// TestFromEnd checks that a consumer from the end or a position receives what follows only,
// and that the option matters for the first run only.
func TestFromEnd(t *testing.T) {
	t.Parallel()
	for name, from := range map[string]func(positions []int64) consumer.Option{
		"the end":    func([]int64) consumer.Option { return consumer.FromEnd() },
		"a position": func(p []int64) consumer.Option { return consumer.FromPosition(p[9]) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := withConsumers.Store(t)
			before := signUp(t, store, 10)
			var l record
			run := func(opts ...consumer.Option) {
				c, err := consumer.New(store, "mailer", "signup", l.handler(), opts...)
				if err == nil {
					err = c.CatchUp(t.Context())
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			run(from(before))
			want := signUp(t, store, 10)
			run(from(before))
			want = append(want, signUp(t, store, 1)...)
			run()
			if got := l.sorted(); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}
