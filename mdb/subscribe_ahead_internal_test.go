package mdb

import (
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/source"
)

// readsEarly makes a page that is read ahead be read before the handler gets the one before it.
func readsEarly(r *rehearsal) {
	r.ahead.launch = func(read func()) func() {
		read()
		return func() {}
	}
}

// readsWithin returns a function for the handler that reads ahead if a page is to be read. A page
// that no call has read is read when the subscription waits for it.
func readsWithin(r *rehearsal) func() {
	due := func() {}
	r.ahead.launch = func(read func()) func() {
		due = sync.OnceFunc(read)
		return due
	}
	return func() { due() }
}

// TestReadAheadOrder checks when pages are read ahead: after a full page, and after no other.
func TestReadAheadOrder(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		batch, written int
		arrivals       []int
		want           string
	}{
		"nothing": {
			batch: 2, arrivals: []int{0},
			want: "read 1, live true, ask 0/2 1 0s, sleep 10ms, read 1, ask 0/2 2 10ms, sleep 20ms",
		},
		"a short page": {
			batch: 3, written: 2, arrivals: []int{1},
			want: "read 1, handle 1, handle 2, progress 2, live true, ask 2/3 0 0s, sleep 10ms, " +
				"read 3, handle 3, progress 3, ask 1/3 0 10ms, sleep 10ms",
		},
		"a full page": {
			batch: 2, written: 2, arrivals: []int{0},
			want: "read 1, read 3, handle 1, handle 2, progress 2, read 3, live true, ask 0/2 1 0s, sleep 10ms, read 3, ask 0/2 2 10ms, sleep 20ms",
		},
		"full pages and a short one": {
			batch: 2, written: 5,
			want: "read 1, read 3, handle 1, handle 2, progress 2, live false, read 5, handle 3, handle 4, progress 4, " +
				"handle 5, progress 5, read 6, live true, ask 0/2 1 0s, sleep 10ms",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rehearse(t, tt.written, WithBatchSize(tt.batch))
				readsEarly(r)
				r.arrivals = tt.arrivals
				if err := r.run(); err != errEnd { //nolint:errorlint // the cause itself
					t.Errorf("got error %v, want %v", err, errEnd)
				}
				r.want(tt.want)
			})
		})
	}
}

// TestReadAheadStale checks that messages which are written while the handler has a page are read
// before the subscription has caught up, although the page that was read ahead does not have them.
func TestReadAheadStale(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := rehearse(t, 2, WithBatchSize(2))
		readsEarly(r)
		handler := r.handler
		r.handler = func(ctx context.Context, m Message) error {
			if m.GlobalPosition == 2 {
				r.written = append(r.written, true, true, true)
			}
			return handler(ctx, m)
		}
		if err := r.run(); !errors.Is(err, errEnd) {
			t.Errorf("got error %v, want %v", err, errEnd)
		}
		r.want("read 1, read 3, handle 1, handle 2, progress 2, read 3, live false, read 5, handle 3, handle 4, progress 4, " +
			"handle 5, progress 5, read 6, live true, ask 0/2 1 0s, sleep 10ms")
	})
}

// TestReadAheadFails checks that a page that could not be read ahead is read when it is due, and
// that nothing else comes of the failure.
func TestReadAheadFails(t *testing.T) {
	t.Parallel()
	refused := &pgconn.PgError{Code: "42601"}
	for name, tt := range map[string]struct {
		fail  func() error
		again bool // when the page is due
		want  string
	}{
		"a lost connection":            {func() error { return io.ErrUnexpectedEOF }, false, "read 3, handle 3, progress 3, live true, ask 1/2 0 0s, sleep 10ms"},
		"a lost connection, and again": {func() error { return io.ErrUnexpectedEOF }, true, "read 3, retry 1, read 3, handle 3, progress 3, live true, ask 1/2 0 0s, sleep 10ms"},
		"a mistake":                    {func() error { return refused }, false, "read 3, handle 3, progress 3, live true, ask 1/2 0 0s, sleep 10ms"},
		"a mistake, and again":         {func() error { return refused }, true, "read 3"},
		"no connection":                {func() error { return &acquireError{context.DeadlineExceeded} }, false, "read 3, handle 3, progress 3, live true, ask 1/2 0 0s, sleep 10ms"},
		"a panic":                      {func() error { panic(refused) }, false, "read 3, handle 3, progress 3, live true, ask 1/2 0 0s, sleep 10ms"},
		"an exit":                      {func() error { runtime.Goexit(); return nil }, false, "read 3, handle 3, progress 3, live true, ask 1/2 0 0s, sleep 10ms"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rehearse(t, 3, WithBatchSize(2))
				r.ahead.launch = func(read func()) func() {
					var done sync.WaitGroup
					done.Go(read) // it may end its goroutine
					done.Wait()
					return done.Wait
				}
				reads := 0
				r.subscription.page = pages(func(ctx context.Context, c readConfig) ([]Message, int64, error) {
					page, head, err := r.page(ctx, c)
					if reads++; reads == 2 || reads == 3 && tt.again {
						return nil, 0, tt.fail()
					}
					return page, head, err
				})
				err := r.run()
				if again := tt.again && errors.Is(err, refused); !again && !errors.Is(err, errEnd) {
					t.Errorf("got error %v", err)
				}
				r.want("read 1, read 3, handle 1, handle 2, progress 2, " + tt.want)
			})
		})
	}
}

// TestReadAheadDropped checks that a read ahead has ended when the subscription ends, and when
// OnProgress is called for the last time.
func TestReadAheadDropped(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(*rehearsal) error{
		"error": func(*rehearsal) error { return errHandler },
		"panic": func(*rehearsal) error { panic(errHandler) },
		"end":   func(r *rehearsal) error { r.end(errHandler); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rehearse(t, 4, WithBatchSize(2))
				r.ahead.launch = inGoroutine
				reading := make(chan struct{})
				r.subscription.page = pages(func(ctx context.Context, c readConfig) ([]Message, int64, error) {
					if c.position == 1 {
						return r.read(c), 0, nil
					}
					close(reading)
					<-ctx.Done()
					synctest.Wait() // the subscription would end if it did not wait
					r.note("read ahead")
					return nil, 0, ctx.Err()
				})
				r.handler = func(_ context.Context, m Message) error {
					<-reading
					if m.GlobalPosition == 2 {
						return fail(r)
					}
					return nil
				}
				if err := r.run(); err != errHandler && !errors.As(err, new(*HandlerError)) { //nolint:errorlint // the cause itself
					t.Errorf("got error %v, want %v", err, errHandler)
				}
				if name == "end" { // which the handler does not report
					r.want("progress 2, read ahead")
				} else {
					r.want("read ahead, progress 1")
				}
			})
		})
	}
}

// TestReadAheadExits checks that a read ahead has ended when a handler ends its goroutine.
func TestReadAheadExits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := rehearse(t, 4, WithBatchSize(2))
		r.ahead.launch = inGoroutine
		reading := make(chan struct{})
		r.subscription.page = pages(func(ctx context.Context, c readConfig) ([]Message, int64, error) {
			if c.position > 1 {
				close(reading)
				<-ctx.Done()
				r.note("read ahead")
			}
			return r.read(c), 0, nil
		})
		r.handler = func(context.Context, Message) error { <-reading; runtime.Goexit(); return nil }
		var exited sync.WaitGroup
		exited.Go(func() { _ = r.run() })
		exited.Wait()
		r.want("read ahead")
	})
}

// TestReadAheadFork checks that nothing comes of a loss that a read ahead notices until the page before
// it is handled. Then the loss is looked for again.
func TestReadAheadFork(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		there []bool
		gone  int // the number of reads that notice it
		want  string
	}{
		"the last message is lost": {
			[]bool{false, true},
			2,
			"read 1, read 3, handle 1, handle 2, progress 2, read 3, forked 1, fork after 1 without 1, progress 1, read 2, read 4, " +
				"handle 2, handle 3, progress 3, read 4, live true, ask 0/2 1 0s, sleep 10ms",
		},
		"all messages are lost": {[]bool{false, false}, 2, "read 1, read 3, handle 1, handle 2, progress 2, read 3, forked 2"},
		"another server has them": {
			[]bool{false, true},
			1,
			"read 1, read 3, handle 1, handle 2, progress 2, read 3, handle 3, progress 3, live true, ask 1/2 0 0s, sleep 10ms",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rehearse(t, 3, WithBatchSize(2))
				readsEarly(r)
				r.onFork = func(_ context.Context, f Fork) error {
					r.note("fork after %d without %d", f.After, len(f.Missing))
					return nil
				}
				reads := 0
				page := r.subscription.page
				r.subscription.page = func(ctx context.Context, q question) (answer, error) {
					a, err := page(ctx, q)
					if reads++; reads > 1 && reads <= 1+tt.gone {
						return answer{}, errGone
					}
					return a, err
				}
				r.compare = func(context.Context, []source.Anchor) ([]bool, error) { return slices.Clone(tt.there), nil }
				err := r.run()
				var fork *ForkError
				if lost := !slices.Contains(tt.there, true); lost != errors.As(err, &fork) || lost && len(fork.Missing) != 2 || !lost && !errors.Is(err, errEnd) {
					t.Errorf("got error %v", err)
				}
				r.want(tt.want)
			})
		})
	}
}

// callbacks returns the diary without reads and sleeps.
func callbacks(diary []string) string {
	return strings.Join(slices.DeleteFunc(slices.Clone(diary), func(entry string) bool {
		kind, _, _ := strings.Cut(entry, " ")
		return slices.Contains([]string{"read", "ask", "sleep"}, kind)
	}), ", ")
}

// TestReadAheadUnreadable checks that nothing is read ahead of a message that cannot be read, and that
// such a message which a read ahead finds is reported after the page before it.
func TestReadAheadUnreadable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := rehearse(t, 6, WithBatchSize(2))
		readsEarly(r)
		r.onUnreadable = func(_ context.Context, e *UnreadableError) error {
			r.note("unreadable %d", e.GlobalPosition)
			return nil
		}
		r.subscription.page = pages(func(ctx context.Context, c readConfig) ([]Message, int64, error) {
			page, head, err := r.page(ctx, c)
			if c.position == 3 { // the last of its page
				return page[:1], head, &UnreadableError{Stream: "category-1", GlobalPosition: 4, err: errHandler}
			}
			return page, head, err
		})
		if err := r.run(); !errors.Is(err, errEnd) {
			t.Errorf("got error %v, want %v", err, errEnd)
		}
		r.want("read 1, read 3, handle 1, handle 2, progress 2, handle 3, progress 3, unreadable 4, progress 4, " +
			"read 5, live false, read 7, handle 5, handle 6, progress 6, read 7, live true, ask 0/2 1 0s, sleep 10ms")
	})
}
