package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// A watch is a hook that records its calls as lines, and whose contexts contain it.
type watch struct {
	fails string // the method that panics

	mu    sync.Mutex
	lines []string
}

type watchKey struct{}

func (w *watch) add(method, format string, args ...any) {
	if w.fails != "" && w.fails == method {
		panic(method)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

// of returns the lines that begin with one of the words.
func (w *watch) of(words ...string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var of []string
	for _, line := range w.lines {
		if word, _, _ := strings.Cut(line, " "); slices.Contains(words, word) {
			of = append(of, line)
		}
	}
	return of
}

func (w *watch) OnHandleStart(ctx context.Context, h mdb.Handling) context.Context {
	w.add("OnHandleStart", "handle %s %d %d attempt %d batch of %d", h.Consumer, h.Partition, h.Message.Position, h.Attempt, len(h.Batch))
	return context.WithValue(ctx, watchKey{}, w)
}

func (w *watch) OnHandleEnd(ctx context.Context, h mdb.Handling, took time.Duration, err error) {
	w.add("OnHandleEnd", "handled %d %v %t %t", h.Message.Position, err, ctx.Value(watchKey{}) == w, took > 0)
}

func (w *watch) OnLive(of mdb.Subscriber, live bool) {
	w.add("OnLive", "live %s %t", of.Consumer, live)
}

func (w *watch) OnPartitions(of mdb.Subscriber, held []int) {
	w.add("OnPartitions", "partitions %s %v", of.Consumer, held)
}

func (w *watch) OnRetry(of mdb.Subscriber, r mdb.Retry) {
	w.add("OnRetry", "retry %s %d", of.Consumer, r.Attempt)
}

func (w *watch) OnFailure(f mdb.FailedHandling) {
	w.add("OnFailure", "failure %s %d %d attempt %d %t %v: %s", f.Consumer, f.Partition, f.Message.Position, f.Attempt, f.Replayed, f.Err, f.Action)
}

func (w *watch) OnReadEnd(_ context.Context, call mdb.ReadCall, _ time.Duration, read mdb.ReadOutcome) {
	if read.Messages > 0 {
		w.add("OnReadEnd", "read %s %s %d", call.Method, call.Category, read.Messages)
	}
}

func (w *watch) OnReadStart(ctx context.Context, _ mdb.ReadCall) context.Context { return ctx }

// TestHooks checks what the hooks of a store receive of a consumer: of each call of the handler, in each form, of what
// happens to failures, of its reads, and of its state.
func TestHooks(t *testing.T) {
	t.Parallel()
	wrong := errors.New("wrong")
	// handle fails for message 1, first with an error, and then for good.
	handle := func(t *testing.T, m mdb.Message, failed *bool) error {
		t.Helper()
		switch {
		case m.Position != 1:
			return nil
		case *failed:
			return consumer.Skip(wrong)
		}
		*failed = true
		return consumer.RetryAfter(wrong, time.Microsecond)
	}
	inContext := func(t *testing.T, ctx context.Context) {
		t.Helper()
		if _, ok := ctx.Value(watchKey{}).(*watch); !ok || consumer.FromContext(ctx).Consumer != "mailer" {
			t.Error("the handler has neither the context of the hook nor that of its delivery")
		}
	}
	const again, skipped = "failure mailer 0 1 attempt 1 false wrong: retry", "failure mailer 0 1 attempt 2 false wrong: skip"
	const first, ok0 = "handle mailer 0 0 attempt 1 batch of 0", "handled 0 <nil> true true"
	failing := func(attempt int) []string {
		return []string{fmt.Sprintf("handle mailer 0 1 attempt %d batch of 0", attempt), "handled 1 wrong true true"}
	}
	last := []string{"handle mailer 0 2 attempt 1 batch of 0", "handled 2 <nil> true true"}
	for name, tt := range map[string]struct {
		handler func(t *testing.T) consumer.Handler
		options []consumer.Option
		want    []string
	}{
		"Each": {
			handler: func(t *testing.T) consumer.Handler {
				var failed bool
				return consumer.Each(func(ctx context.Context, m mdb.Message) error { inContext(t, ctx); return handle(t, m, &failed) })
			},
			want: slices.Concat([]string{first, ok0}, failing(1), []string{again}, failing(2), []string{skipped}, last),
		},
		"EachTx": {
			handler: func(t *testing.T) consumer.Handler {
				var failed bool
				return consumer.EachTx(func(ctx context.Context, _ pgx.Tx, m mdb.Message) error {
					inContext(t, ctx)
					return handle(t, m, &failed)
				})
			},
			options: []consumer.Option{consumer.PerTx(1, 0)},
			want:    slices.Concat([]string{first, ok0}, failing(1), []string{again}, failing(2), []string{skipped}, last),
		},
		"EachQueued": {
			handler: func(t *testing.T) consumer.Handler {
				var failed bool
				return consumer.EachQueued(func(_ *pgx.Batch, m mdb.Message) error { return handle(t, m, &failed) })
			},
			options: []consumer.Option{consumer.PerTx(1, 0)},
			want:    slices.Concat([]string{first, ok0}, failing(1), []string{again}, failing(2), []string{skipped}, last),
		},
		"Batch": {
			handler: func(t *testing.T) consumer.Handler {
				return consumer.Batch(func(ctx context.Context, _ []mdb.Message) error { inContext(t, ctx); return nil })
			},
			want: []string{"handle mailer 0 0 attempt 1 batch of 3", "handled 0 <nil> true true"},
		},
		"BatchTx": {
			handler: func(t *testing.T) consumer.Handler {
				return consumer.BatchTx(func(ctx context.Context, _ pgx.Tx, _ []mdb.Message) error { inContext(t, ctx); return nil })
			},
			want: []string{"handle mailer 0 0 attempt 1 batch of 3", "handled 0 <nil> true true"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := new(watch)
			store := withConsumers.Store(t, mdb.WithHooks(w))
			if _, err := store.WriteMessages(t.Context(), "signup-1", []mdb.ProposedMessage{
				mdb.NewMessage("SignedUp", nil), mdb.NewMessage("SignedUp", nil), mdb.NewMessage("SignedUp", nil),
			}); err != nil {
				t.Fatal(err)
			}
			live := make(chan struct{})
			r := start(t, store, tt.handler(t), append(tt.options, consumer.WithPartitions(1), consumer.OnLive(func(bool) { close(live) }))...)
			<-live
			r.end(t)
			for _, of := range []struct {
				words []string
				want  []string
			}{
				{[]string{"handle", "handled", "failure"}, tt.want},
				{[]string{"partitions", "live"}, []string{"partitions mailer [0]", "live mailer true", "partitions mailer []"}},
				{[]string{"read"}, []string{"read SubscribeToCategory signup 3"}},
			} {
				if got := w.of(of.words...); !slices.Equal(got, of.want) {
					t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(of.want, "\n\t"))
				}
			}
		})
	}
}

// TestHooksSeeParking checks that hooks receive what is parked, and the failures of its replay.
func TestHooksSeeParking(t *testing.T) {
	t.Parallel()
	w := new(watch)
	store := withConsumers.Store(t, mdb.WithHooks(w))
	signUp(t, store, 1)
	r, err := consumer.New(store, "mailer", "signup", consumer.Each(func(context.Context, mdb.Message) error {
		return consumer.Permanent(errors.New("wrong"))
	}), consumer.WithPartitions(1))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Replay(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"failure mailer 0 0 attempt 1 false wrong: park", "failure mailer 0 0 attempt 2 true wrong: park"}
	if got := w.of("failure"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestHooksThatPanic checks that a hook that panics stops the consumer, and parks nothing.
func TestHooksThatPanic(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"OnHandleStart", "OnHandleEnd", "OnFailure", "OnPartitions", "OnLive"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			w := &watch{fails: method}
			store := withConsumers.Store(t, mdb.WithHooks(w))
			signUp(t, store, 1)
			r := start(t, store, consumer.Each(func(context.Context, mdb.Message) error {
				if method == "OnFailure" {
					return errors.New("wrong")
				}
				return nil
			}), consumer.WithPartitions(1))
			defer time.AfterFunc(time.Minute, func() { r.cancel(errEnough) }).Stop()
			err := r.wait()
			if p := (*mdb.PanicError)(nil); !errors.As(err, &p) || p.Value != method {
				t.Errorf("got error %v, want the panic", err)
			}
			if stats := r.Stats(); stats.Parked+stats.Skipped != 0 {
				t.Errorf("got %+v, want nothing parked or skipped", stats)
			}
		})
	}
}
