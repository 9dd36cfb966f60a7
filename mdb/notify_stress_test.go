package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestNotifyStress checks that no wake-up is lost with all kinds of writes, while
// subscriptions start and stop, categories cool and are armed again, and connections are
// terminated. Fallback and polling never help, and after each write the test waits until
// all have received it: a single lost wake-up makes it fail.
func TestNotifyStress(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	const stressors = 4
	for _, test := range []struct {
		name             string
		maxNotifications int
		shared           bool // one store for all
		kills            bool
		sessions         int
	}{
		{"armed", 1_000_000, false, false, 4},
		{"one store", 1_000_000, true, false, 4},
		{"cooling now and then", 100, true, false, 3},
		{"cooling often", 1, false, false, 2},
		{"killed", 1_000_000, false, true, 2},
		{"terminated while cooling", 10, false, true, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			url := testdb.Notifying(t)
			pool := newPool(t, url, connections(2*stressors))
			writers := []*mdb.Store{newStore(t, pool), newStore(t, pool, mdb.WithDirectSQL())}
			var wg sync.WaitGroup
			var store *mdb.Store
			for i := range stressors {
				name := fmt.Sprintf("stress %d", i)
				if !test.shared || i == 0 {
					slow := func(cfg *pgxpool.Config) { cfg.ConnConfig.Tracer = dawdler{pool} }
					store = newStore(t, newPool(t, url, parameter("application_name", name), slow), waitingOnly(mdb.MaxNotifications(test.maxNotifications))...)
				}
				s := &stressor{store: store, writers: writers}
				if test.kills {
					s.victim = name + " message_store notify"
				}
				wg.Go(func() {
					for range test.sessions {
						if err := s.session(t.Context()); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// A stressor has two categories that only it writes to.
type stressor struct {
	store   *mdb.Store // has the subscriptions
	writers []*mdb.Store
	victim  string // the application_name of the listening connection, if it is to be terminated

	categories [2]mdb.Category
	written    []mdb.StreamName // of each message, in order
	tracks     []*track
}

// A dawdler is a tracer that delays the answers to reads, so that they are older when they
// arrive.
type dawdler struct{ pool *pgxpool.Pool }

func (d dawdler) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (d dawdler) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	_ = dawdle(ctx, d.pool) // fails if the subscription has ended
}

// A track is a subscription, with the messages it has received.
type track struct {
	what   string
	wants  func(mdb.StreamName) bool
	cancel context.CancelFunc
	done   chan error

	mu      sync.Mutex
	got     []mdb.StreamName
	changed chan struct{}
}

// session starts and stops a few subscriptions while it writes messages.
func (s *stressor) session(ctx context.Context) (err error) {
	s.categories = [2]mdb.Category{mdbtest.Category("stress"), mdbtest.Category("stress")}
	s.written = nil
	defer func() {
		for len(s.tracks) > 0 {
			err = errors.Join(err, s.leave(0))
		}
	}()
	for range 8 {
		var writeErr, changeErr error
		concurrently(
			func() { writeErr = errors.Join(dawdle(ctx, s.writers[0].Pool()), s.write(ctx)) },
			func() { changeErr = errors.Join(dawdle(ctx, s.writers[0].Pool()), s.change(ctx)) },
		)
		if err := errors.Join(writeErr, changeErr); err != nil {
			return err
		}
		for _, x := range s.tracks {
			if err := x.wait(ctx, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// dawdle takes a random number of round trips, to vary what happens at the same time.
func dawdle(ctx context.Context, pool *pgxpool.Pool) error {
	for range rand.N(4) {
		if _, err := pool.Exec(ctx, "SELECT"); err != nil {
			return err
		}
	}
	return nil
}

func (s *stressor) writer() *mdb.Store { return s.writers[rand.N(len(s.writers))] }

func (s *stressor) stream() mdb.StreamName {
	return s.categories[rand.N(len(s.categories))].Stream(fmt.Sprint(rand.N(3)))
}

// write writes something, and rolls some of it back.
func (s *stressor) write(ctx context.Context) error {
	switch rand.N(6) {
	case 0, 1:
		stream := s.stream()
		_, err := s.writer().WriteMessage(ctx, stream, mdb.NewMessage("Happened", nil))
		s.written = append(s.written, stream)
		return err
	case 2:
		stream, n := s.stream(), 1+rand.N(20)
		_, err := s.writer().WriteMessages(ctx, stream, proposals(n))
		s.written = append(s.written, slices.Repeat([]mdb.StreamName{stream}, n)...)
		return err
	}
	rollBack := rand.N(4) == 0
	var written []mdb.StreamName
	err := pgx.BeginFunc(ctx, s.writers[0].Pool(), func(tx pgx.Tx) error {
		for range 1 + rand.N(3) {
			in, stream, undone := s.writer().WithTx(tx), s.stream(), rand.N(3) == 0
			err := pgx.BeginFunc(ctx, tx, func(savepoint pgx.Tx) error {
				if rand.N(2) == 0 {
					in = s.writer().WithTx(savepoint)
				}
				if _, err := in.WriteMessage(ctx, stream, mdb.NewMessage("Happened", nil)); err != nil {
					return err
				}
				if undone {
					return errUndone
				}
				written = append(written, stream)
				return nil
			})
			if err != nil && !errors.Is(err, errUndone) {
				return err
			}
			if err := dawdle(ctx, s.writers[0].Pool()); err != nil {
				return err
			}
		}
		if rollBack {
			return errUndone
		}
		return nil
	})
	if errors.Is(err, errUndone) {
		return nil
	}
	s.written = append(s.written, written...)
	return err
}

var errUndone = errors.New("undone by the test")

// change starts or stops a subscription, or terminates the listening connection.
func (s *stressor) change(ctx context.Context) error {
	if s.victim != "" && rand.N(3) == 0 {
		_, err := s.writers[0].Pool().Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1", s.victim)
		return err
	}
	if n := len(s.tracks); n > 0 && rand.N(2) == 0 {
		for range 1 + rand.N(n) { // perhaps the last one, which ends the key or the connection
			if err := s.leave(rand.N(len(s.tracks))); err != nil {
				return err
			}
		}
		return nil
	}
	for range 1 + rand.N(4) { // each may be armed by the read of another
		s.join(ctx)
	}
	return nil
}

func (s *stressor) leave(i int) error {
	x := s.tracks[i]
	s.tracks = slices.Delete(s.tracks, i, i+1)
	x.cancel()
	if err := <-x.done; !errors.Is(err, context.Canceled) {
		return fmt.Errorf("subscription to %s: %w", x.what, err)
	}
	return nil
}

func (s *stressor) join(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	x := &track{cancel: cancel, done: make(chan error, 1), changed: make(chan struct{}, 1)}
	handler := func(_ context.Context, m mdb.Message) error {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.got = append(x.got, mdb.StreamName(string([]byte(m.Stream))))
		select {
		case x.changed <- struct{}{}:
		default:
		}
		return nil
	}
	category := s.categories[rand.N(len(s.categories))]
	switch rand.N(3) {
	case 0:
		stream := category.Stream(fmt.Sprint(rand.N(3)))
		x.what, x.wants = "stream "+string(stream), func(name mdb.StreamName) bool { return name == stream }
		go func() { x.done <- s.store.SubscribeToStream(ctx, stream, handler) }()
	case 1:
		x.what, x.wants = "category "+string(category), func(name mdb.StreamName) bool { return name.Category() == category }
		go func() { x.done <- s.store.SubscribeToCategory(ctx, category, handler) }()
	default:
		member := rand.N(2)
		x.what = fmt.Sprintf("category %s, member %d", category, member)
		x.wants = func(name mdb.StreamName) bool {
			return name.Category() == category && mdb.Hash64(name.CardinalID())&1 == int64(member)
		}
		go func() { x.done <- s.store.SubscribeToCategory(ctx, category, handler, mdb.AsConsumerGroup(member, 2)) }()
	}
	s.tracks = append(s.tracks, x)
}

// wait waits until the subscription has received what was written, and checks that it is
// no more.
func (x *track) wait(ctx context.Context, s *stressor) error {
	var want []mdb.StreamName
	for _, stream := range s.written {
		if x.wants(stream) {
			want = append(want, stream)
		}
	}
	timer := time.NewTimer(testTimeout)
	defer timer.Stop()
	for {
		x.mu.Lock()
		got := slices.Clone(x.got)
		x.mu.Unlock()
		if len(got) >= len(want) {
			if !slices.Equal(got, want) {
				return fmt.Errorf("subscription to %s: got %q, want %q", x.what, got, want)
			}
			return nil
		}
		select {
		case <-x.changed:
		case err := <-x.done:
			return fmt.Errorf("subscription to %s: %w", x.what, err)
		case <-timer.C:
			return fmt.Errorf("subscription to %s: got %d of %d messages: %s", x.what, len(got), len(want), s.diagnose(ctx))
		}
	}
}

// diagnose distinguishes a store that receives nothing from a notification that was not
// sent. Its own notification arrives after all that are on their way, because they arrive
// in the order of commits.
func (s *stressor) diagnose(ctx context.Context) string {
	before := s.store.NotifyStats()
	if _, err := s.writers[0].Pool().Exec(ctx, "NOTIFY message_store, '-sentinel'"); err != nil {
		return err.Error()
	}
	for end := time.Now().Add(testTimeout); time.Now().Before(end); {
		if stats := s.store.NotifyStats(); stats.Notifications > before.Notifications {
			return fmt.Sprintf("a wake-up was lost; %+v", stats)
		}
		if err := dawdle(ctx, s.writers[0].Pool()); err != nil {
			return err.Error()
		}
	}
	return fmt.Sprintf("the store receives no notifications; %+v", before)
}
