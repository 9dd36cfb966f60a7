package mdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/doorbell"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// A rehearsal is a subscription to a category without a server and, in a bubble of
// synctest, without a clock. Its diary is the list of what it did. Nothing notifies its
// sleeper, so it sleeps for as long as the strategy says.
type rehearsal struct {
	t *testing.T
	subscription
	sleeper

	written  []bool  // whether each message passes the filter; the first has position 1
	filtered bool    // whether reads query the head
	failures []error // of the next reads; nil is a success
	arrivals []int   // messages that arrive during each sleep; in the sleep after these the context ends
	stream   func(globalPosition int64) StreamName

	mu    sync.Mutex // guards the diary against workers
	diary []string
	end   context.CancelCauseFunc
}

var errEnd = errors.New("the end of the rehearsal")

func rehearse(t *testing.T, written int, opts ...CategorySubscribeOption) *rehearsal {
	t.Helper()
	r := &rehearsal{t: t, written: slices.Repeat([]bool{true}, written), stream: func(int64) StreamName { return "category-1" }}
	store := &storeConfig{logger: slog.New(slog.DiscardHandler), polling: poll.Backoff(10*time.Millisecond, time.Second, 2)}
	c := newSubscribeConfig(store, func(_ context.Context, m Message) error {
		r.note("handle %d", m.GlobalPosition)
		return nil
	})
	c.name, c.read.position = "category", 1
	OnLive(func(live bool) { r.note("live %t", live) }).categorySubscribe(&c)
	OnProgress(func(_ context.Context, c CategoryCheckpoint) error {
		r.note("progress %d", c.Position())
		return nil
	}).categorySubscribe(&c)
	OnRetry(func(retry Retry) { r.note("retry %d", retry.Attempt) }).categorySubscribe(&c)
	for _, opt := range opts {
		opt.categorySubscribe(&c)
	}
	if err := c.check(store); err != nil {
		t.Fatal(err)
	}
	strategy := c.polling
	c.polling = func(seen poll.Seen) time.Duration {
		r.note("ask %d/%d %d %v", seen.Retrieved, seen.BatchSize, seen.Empty, seen.Previous)
		return strategy(seen)
	}
	bell := doorbell.New(doorbell.Config{Logger: store.logger})
	r.sleeper = bell.Subscribe(doorbell.Interest{Category: "category"})
	r.subscription = subscription{
		subscribeConfig: c,
		messageSource: &messageSource{
			kind: "category", category: "category",
			page:     pages(r.page),
			end:      func(context.Context) (checkpoint, error) { return source.At(r.head()), r.failure() },
			position: func(m *Message) int64 { return m.GlobalPosition },
			suspect:  func() { r.note("suspect") },
			forked:   func(missing int) { r.note("forked %d", missing) },
			logger:   store.logger,
		},
		sleeper: r,
	}
	r.wire()
	return r
}

// pages returns the page function of a source that reads from positions.
func pages(page func(context.Context, readConfig) ([]Message, int64, error)) func(context.Context, question) (answer, error) {
	return func(ctx context.Context, q question) (answer, error) {
		messages, head, err := page(ctx, readConfig{position: q.from.Position + 1, batchSize: q.most})
		return answer{messages: messages, head: anchor{Position: head}}, err
	}
}

// positions returns a function for OnProgress that receives the position alone.
func positions(f func(context.Context, int64) error) func(context.Context, checkpoint) error {
	return func(ctx context.Context, c checkpoint) error { return f(ctx, c.Position) }
}

// run runs the subscription to its end.
func (r *rehearsal) run() error {
	r.t.Helper()
	ctx, end := context.WithCancelCause(r.t.Context())
	r.end = end
	return r.subscription.run(ctx)
}

func (r *rehearsal) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.diary = append(r.diary, fmt.Sprintf(format, args...))
	if len(r.diary) == 100_000 {
		r.end(errors.New("the rehearsal has no end"))
	}
}

func (r *rehearsal) want(diary string) {
	r.t.Helper()
	if got := strings.Join(r.diary, ", "); got != diary {
		r.t.Errorf("got diary\n\t%s\nwant\n\t%s", got, diary)
	}
}

func (r *rehearsal) head() int64 { return int64(len(r.written)) }

func (r *rehearsal) failure() (err error) {
	if len(r.failures) > 0 {
		err, r.failures = r.failures[0], r.failures[1:]
	}
	return err
}

func (r *rehearsal) page(_ context.Context, c readConfig) (page []Message, head int64, err error) {
	r.note("read %d", c.position)
	if err := r.failure(); err != nil {
		return nil, 0, err
	}
	if r.filtered {
		head = r.head()
	}
	return r.read(c), head, nil
}

func (r *rehearsal) read(c readConfig) (page []Message) {
	for p := c.position; p <= r.head() && int64(len(page)) < c.batchSize; p++ {
		if r.written[p-1] {
			page = append(page, Message{Stream: r.stream(p), Position: p - 1, GlobalPosition: p})
		}
	}
	return page
}

func (r *rehearsal) Sleep(ctx context.Context, d time.Duration, found int, moved <-chan struct{}, progress func() error) error {
	r.note("sleep %v", d)
	if len(r.arrivals) == 0 {
		r.end(errEnd)
	} else {
		r.written = append(r.written, slices.Repeat([]bool{true}, r.arrivals[0])...)
		r.arrivals = r.arrivals[1:]
	}
	begun := time.Now()
	err := r.sleeper.Sleep(ctx, d, found, moved, progress)
	if slept := time.Since(begun); slept != d && ctx.Err() == nil && err == nil {
		r.t.Errorf("got a sleep of %v, want %v", slept, d)
	}
	return err
}

// TestSubscriptionOrder checks the order of reads, calls and sleeps.
func TestSubscriptionOrder(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		batch, written int
		opts           []CategorySubscribeOption
		arrivals       []int
		want           string
	}{
		"nothing": {
			batch: 2, arrivals: []int{0, 0},
			want: "read 1, live true, ask 0/2 1 0s, sleep 10ms, read 1, ask 0/2 2 10ms, sleep 20ms, read 1, ask 0/2 3 20ms, sleep 40ms",
		},
		"a short page": {
			batch: 3, written: 2, arrivals: []int{0},
			want: "read 1, handle 1, handle 2, progress 2, live true, ask 2/3 0 0s, sleep 10ms, read 3, ask 0/3 1 10ms, sleep 10ms",
		},
		"a full page": { // which may have been all there was
			batch: 2, written: 2,
			want: "read 1, handle 1, handle 2, progress 2, read 3, live true, ask 0/2 1 0s, sleep 10ms",
		},
		"two full pages": {
			batch: 2, written: 4,
			want: "read 1, handle 1, handle 2, progress 2, read 3, live false, handle 3, handle 4, progress 4, read 5, live true, ask 0/2 1 0s, sleep 10ms",
		},
		"many full pages": {
			batch: 1, written: 4,
			want: "read 1, handle 1, progress 1, read 2, live false, handle 2, progress 2, read 3, handle 3, progress 3, read 4, handle 4, progress 4, " +
				"read 5, live true, ask 0/1 1 0s, sleep 10ms",
		},
		"full pages and a short one": {
			batch: 2, written: 5,
			want: "read 1, handle 1, handle 2, progress 2, read 3, live false, handle 3, handle 4, progress 4, read 5, handle 5, progress 5, live true, ask 1/2 0 0s, sleep 10ms",
		},
		"single messages at batch size 1": { // each fills a page
			batch: 1, arrivals: []int{1, 1},
			want: "read 1, live true, ask 0/1 1 0s, sleep 10ms, read 1, handle 1, progress 1, read 2, ask 0/1 1 0s, sleep 10ms, " +
				"read 2, handle 2, progress 2, read 3, ask 0/1 1 0s, sleep 10ms",
		},
		"just full pages, time after time": {
			batch: 2, arrivals: []int{2, 2},
			want: "read 1, live true, ask 0/2 1 0s, sleep 10ms, read 1, handle 1, handle 2, progress 2, read 3, ask 0/2 1 0s, sleep 10ms, " +
				"read 3, handle 3, handle 4, progress 4, read 5, ask 0/2 1 0s, sleep 10ms",
		},
		"two full pages, then catching up": {
			batch: 1, arrivals: []int{2},
			want: "read 1, live true, ask 0/1 1 0s, sleep 10ms, read 1, handle 1, progress 1, read 2, live false, handle 2, progress 2, read 3, live true, ask 0/1 1 0s, sleep 10ms",
		},
		"the delays start again after a message": {
			batch: 2, arrivals: []int{0, 0, 1, 0, 0},
			want: "read 1, live true, ask 0/2 1 0s, sleep 10ms, read 1, ask 0/2 2 10ms, sleep 20ms, read 1, ask 0/2 3 20ms, sleep 40ms, " +
				"read 1, handle 1, progress 1, ask 1/2 0 40ms, sleep 10ms, read 2, ask 0/2 1 10ms, sleep 10ms, read 2, ask 0/2 2 10ms, sleep 20ms",
		},
		"the delays start again after a full page": {
			batch: 1, arrivals: []int{0, 0, 1},
			want: "read 1, live true, ask 0/1 1 0s, sleep 10ms, read 1, ask 0/1 2 10ms, sleep 20ms, read 1, ask 0/1 3 20ms, sleep 40ms, " +
				"read 1, handle 1, progress 1, read 2, ask 0/1 1 0s, sleep 10ms",
		},
		"from a position": {
			batch: 3, written: 5, opts: []CategorySubscribeOption{AfterGlobalPosition(3)},
			want: "read 4, handle 4, handle 5, progress 5, live true, ask 2/3 0 0s, sleep 10ms",
		},
		"from the end": {
			batch: 3, written: 5, opts: []CategorySubscribeOption{FromEnd()}, arrivals: []int{1},
			want: "progress 5, read 6, live true, ask 0/3 1 0s, sleep 10ms, read 6, handle 6, progress 6, ask 1/3 0 10ms, sleep 10ms",
		},
		"from the end of nothing": {
			batch: 3, opts: []CategorySubscribeOption{FromEnd()}, arrivals: []int{1},
			want: "progress 0, read 1, live true, ask 0/3 1 0s, sleep 10ms, read 1, handle 1, progress 1, ask 1/3 0 10ms, sleep 10ms",
		},
	} {
		for way, opts := range map[string][]CategorySubscribeOption{"": nil, ", one worker": {WithWorkers(3), WithWorkers(1)}, ", pages read ahead early": nil} {
			t.Run(name+way, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					r := rehearse(t, tt.written, append(append(opts, tt.opts...), WithBatchSize(tt.batch))...)
					r.arrivals = tt.arrivals
					early := strings.HasSuffix(way, "early")
					if early {
						readsEarly(r)
					}
					if err := r.run(); err != errEnd { //nolint:errorlint // the cause itself
						t.Errorf("got error %v, want %v", err, errEnd)
					}
					if !early {
						r.want(tt.want)
						return
					}
					if got, want := callbacks(r.diary), callbacks(strings.Split(tt.want, ", ")); got != want {
						t.Errorf("got callbacks\n\t%s\nwant\n\t%s", got, want)
					}
				})
			})
		}
	}
}

// TestSubscriptionPassesFilteredMessages checks that the position moves to the head after
// short pages, and only after those.
func TestSubscriptionPassesFilteredMessages(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		written string // x: the message passes the filter
		want    string
	}{
		"none written":      {"", "read 1, live true, ask 0/2 1 0s, sleep 10ms"},
		"none let through":  {"....", "read 1, progress 4, live true, ask 0/2 1 0s, sleep 10ms"},
		"some after it":     {".x..", "read 1, handle 2, progress 4, live true, ask 1/2 0 0s, sleep 10ms"},
		"some before":       {"...x", "read 1, handle 4, progress 4, live true, ask 1/2 0 0s, sleep 10ms"},
		"a full page first": {"x.x.....", "read 1, handle 1, handle 3, progress 3, read 4, progress 8, live true, ask 0/2 1 0s, sleep 10ms"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rehearse(t, 0, WithBatchSize(2))
				r.filtered = true
				for _, c := range tt.written {
					r.written = append(r.written, c == 'x')
				}
				if err := r.run(); !errors.Is(err, errEnd) {
					t.Errorf("got error %v, want %v", err, errEnd)
				}
				r.want(tt.want)
			})
		})
	}
}

// TestSubscriptionAgainstWriters checks a subscription while messages are written at any
// moment, also between the query of the head and the read. Each message that passes the
// filter is handled once and in order, and the progress never goes back or beyond the last
// message.
func TestSubscriptionAgainstWriters(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		synctest.Test(t, func(t *testing.T) {
			r := rehearse(t, 0, WithBatchSize(1+random.IntN(4)))
			arrive := func() {
				for range min(random.IntN(4), 300-len(r.written)) { // otherwise it may never catch up
					r.written = append(r.written, random.IntN(3) == 0)
				}
			}
			readAhead := func() {}
			switch seed % 3 {
			case 0:
				readsEarly(r)
			case 1:
				readAhead = readsWithin(r)
			}
			var handled []int64
			r.handler = func(_ context.Context, m Message) error {
				arrive()
				if random.IntN(3) == 0 {
					readAhead()
				}
				handled = append(handled, m.GlobalPosition)
				return nil
			}
			kept := int64(0)
			r.onProgress = positions(func(_ context.Context, position int64) error {
				if position <= kept || position > r.head() {
					t.Errorf("got progress %d after %d, of %d messages", position, kept, r.head())
				}
				kept = position
				return nil
			})
			r.subscription.page = pages(func(_ context.Context, c readConfig) ([]Message, int64, error) {
				if random.IntN(5) == 0 {
					return nil, r.head(), errors.New("connection lost")
				}
				head := r.head()
				arrive()
				page := r.read(c)
				arrive()
				return page, head, nil
			})
			r.arrivals = make([]int, 50)
			if err := r.run(); !errors.Is(err, errEnd) {
				t.Errorf("got error %v, want %v", err, errEnd)
			}
			var want []int64
			for i, through := range r.written[:kept] {
				if through {
					want = append(want, int64(i+1))
				}
			}
			if !slices.Equal(handled, want) {
				t.Fatalf("seed %d: got %v, want %v", seed, handled, want)
			}
		})
	}
}

// defaultPolling returns the strategy of a store without WithPolling.
func defaultPolling(t *testing.T) poll.Strategy {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), "host=/nowhere") // which does not connect yet
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	s, err := New(pool)
	if err != nil {
		t.Fatal(err)
	}
	return s.config.polling
}

// TestSubscriptionIdle checks the number of reads of a subscription without messages, on
// its first day and on a day ten years later.
func TestSubscriptionIdle(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	const day = 24*time.Hour - time.Millisecond // otherwise the end would race with a read
	polling := defaultPolling(t)
	for name, tt := range map[string]struct {
		before poll.Seen
		want   int
	}{
		// At 0, 10, 30, 70, 150, 310, 630 and 1270 ms, and then every second.
		"first day":          {poll.Seen{}, 8 + 86_398},
		"ten years later":    {poll.Seen{Empty: 10 * 365 * 86_400, Previous: time.Second}, 86_400},
		"ages of ages later": {poll.Seen{Empty: 1 << 62, Previous: time.Second}, 86_400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rehearse(t, 0)
				r.polling, r.seen = polling, tt.before
				r.subscription.sleeper = r.sleeper
				reads := 0
				r.subscription.page = pages(func(context.Context, readConfig) ([]Message, int64, error) {
					reads++
					return nil, 0, nil
				})
				ctx, cancel := context.WithTimeoutCause(t.Context(), day, errEnd)
				defer cancel()
				begun := time.Now()
				if err := r.subscription.run(ctx); !errors.Is(err, errEnd) {
					t.Errorf("got error %v, want %v", err, errEnd)
				}
				if ran := time.Since(begun); ran != day {
					t.Errorf("got a run of %v, want a day", ran)
				}
				if reads != tt.want {
					t.Errorf("got %d reads, want %d", reads, tt.want)
				}
			})
		})
	}
}
