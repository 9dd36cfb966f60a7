package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// A recipient is a running subscription whose messages a test takes one by one.
type recipient struct {
	messages chan mdb.Message
	live     chan struct{} // closed when the subscription has caught up
	end      context.CancelCauseFunc
	dropped  chan error
}

var errStopped = errors.New("the test has stopped the subscription")

// receive runs a subscription until the end of the test, or until stop.
func receive(t testing.TB, subscribe func(ctx context.Context, h mdb.Handler, live mdb.SubscribeOption) error) *recipient {
	t.Helper()
	r := &recipient{messages: make(chan mdb.Message), live: make(chan struct{}), dropped: make(chan error, 1)}
	ctx, end := context.WithCancelCause(context.Background())
	r.end = end
	handler := func(ctx context.Context, m mdb.Message) error {
		select {
		case r.messages <- m:
		case <-ctx.Done():
		}
		return nil
	}
	caughtUp := sync.OnceFunc(func() { close(r.live) })
	live := mdb.OnLive(func(live bool) {
		if live {
			caughtUp()
		}
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.dropped <- subscribe(ctx, handler, live)
	}()
	t.Cleanup(func() { end(errStopped); <-ended })
	return r
}

func receiveStream(t testing.TB, s *mdb.Store, stream mdb.StreamName, opts ...mdb.StreamSubscribeOption) *recipient {
	t.Helper()
	return receive(t, func(ctx context.Context, h mdb.Handler, live mdb.SubscribeOption) error {
		return s.SubscribeToStream(ctx, stream, h, append(opts, live)...)
	})
}

func receiveCategory(t testing.TB, s *mdb.Store, category mdb.Category, opts ...mdb.CategorySubscribeOption) *recipient {
	t.Helper()
	return receive(t, func(ctx context.Context, h mdb.Handler, live mdb.SubscribeOption) error {
		return s.SubscribeToCategory(ctx, category, h, append(opts, live)...)
	})
}

// next returns the next n messages.
func (r *recipient) next(t testing.TB, n int) []mdb.Message {
	t.Helper()
	messages := make([]mdb.Message, n)
	for i := range messages {
		select {
		case messages[i] = <-r.messages:
		case err := <-r.dropped:
			t.Fatalf("the subscription ended before message %d of %d: %v", i+1, n, err)
		case <-time.After(testTimeout):
			t.Fatalf("got message %d of %d did not arrive", i+1, n)
		}
	}
	return messages
}

func (r *recipient) untilLive(t testing.TB) {
	t.Helper()
	select {
	case <-r.live:
	case err := <-r.dropped:
		t.Fatalf("the subscription ended before it was live: %v", err)
	case <-time.After(testTimeout):
		t.Fatal("the subscription is not live in time")
	}
}

// stop ends the subscription, and checks that it returns the context's cause.
func (r *recipient) stop(t testing.TB) {
	t.Helper()
	r.end(errStopped)
	select {
	case err := <-r.dropped:
		if err != errStopped { //nolint:errorlint // the cause itself
			t.Errorf("got error %v (%T), want the cause", err, err)
		}
	case <-time.After(testTimeout):
		t.Fatal("the subscription did not end")
	}
}

func places(messages []mdb.Message) []string {
	p := make([]string, len(messages))
	for i := range messages {
		m := &messages[i]
		p[i] = fmt.Sprintf("%s/%d at %d", m.Stream.ID(), m.Position, m.GlobalPosition)
	}
	return p
}

// bothWays returns a store that reads by procedures and one that reads by direct SQL.
func bothWays(t testing.TB, opts ...mdb.StoreOption) map[string]*mdb.Store {
	t.Helper()
	pool := newPool(t, testdb.Shared(t))
	return map[string]*mdb.Store{
		"procedures": newStore(t, pool, opts...),
		"direct":     newStore(t, pool, append(opts, mdb.WithDirectSQL())...),
	}
}

// install installs Message DB in a database.
func install(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	err := pool.AcquireFunc(t.Context(), func(conn *pgxpool.Conn) error {
		if testdb.Official() {
			return testdb.InstallOfficial(t.Context(), conn.Conn())
		}
		return testdb.InstallOurs(t.Context(), conn.Conn())
	})
	if err != nil {
		t.Fatal(err)
	}
}

// onPosition is OnProgress and OnStreamProgress with the position alone.
func onPosition(f func(ctx context.Context, position int64) error) mdb.SubscribeOption {
	return oneOf{
		mdb.OnProgress(func(ctx context.Context, c mdb.CategoryCheckpoint) error { return f(ctx, c.Position()) }),
		mdb.OnStreamProgress(func(ctx context.Context, c mdb.StreamCheckpoint) error { return f(ctx, c.Position()) }),
		mdb.OnAllProgress(func(ctx context.Context, c mdb.AllCheckpoint) error { return f(ctx, c.Position()) }),
	}
}

// oneOf is an option for each kind of subscription.
type oneOf struct {
	mdb.CategorySubscribeOption
	mdb.StreamSubscribeOption
	mdb.AllSubscribeOption
}
