package mdb_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

func (w *watch) OnReadStart(ctx context.Context, call mdb.ReadCall) context.Context {
	w.add("OnReadStart", "read %+v after %q", call, names(ctx))
	return w.begin(ctx)
}

func (w *watch) OnReadEnd(ctx context.Context, call mdb.ReadCall, took time.Duration, read mdb.ReadOutcome) {
	w.add("OnReadEnd", "read ends %s %d messages %d bytes %s in %q, %t", call.Method, read.Messages, read.Bytes, outcome(read.Err), names(ctx), took > 0)
}

// TestHooksOfReads checks what hooks receive of each read, and that the pool's tracer sees their contexts.
func TestHooksOfReads(t *testing.T) {
	t.Parallel()
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		w, tracer := newWatch("a"), new(contextTracer)
		// In a database that others write to, a read of all categories waits for their transactions, or ends at one.
		s := newStore(t, newPool(t, testdb.New(t), tracer.attach), append(opts, mdb.WithHooks(w))...)
		category := mdbtest.Category("hooks")
		stream := category.Stream("1")
		var last mdb.Written
		for range 3 {
			last = write(t, s, stream, sized())
		}
		size := len(stream) + len("Happened") + 4
		began := func(method string, stream mdb.StreamName, inTx bool) string {
			return fmt.Sprintf(`a read {Method:%s Stream:%s Category:%s InTx:%t} after ""`, method, stream, category, inTx)
		}
		ended := func(method string, n int, outcome string) string {
			return fmt.Sprintf(`a read ends %s %d messages %d bytes %s in "a", true`, method, n, n*size, outcome)
		}
		absent := category.Stream("absent")
		for name, tt := range map[string]struct {
			call func(ctx context.Context) error
			want []string
		}{
			"a stream": {
				func(ctx context.Context) error { _, err := s.GetStreamMessages(ctx, stream); return err },
				[]string{began("GetStreamMessages", stream, false), ended("GetStreamMessages", 3, "ok")},
			},
			"an absent stream": {
				func(ctx context.Context) error {
					_, err := s.GetStreamMessages(ctx, absent, mdb.RequireStream())
					return err
				},
				[]string{began("GetStreamMessages", absent, false), ended("GetStreamMessages", 0, "*fmt.wrapError")},
			},
			"a category": {
				func(ctx context.Context) error {
					_, err := s.GetCategoryMessages(ctx, category, mdb.WithBatchSize(2))
					return err
				},
				[]string{began("GetCategoryMessages", "", false), ended("GetCategoryMessages", 2, "ok")},
			},
			"a sequence": {func(ctx context.Context) (err error) {
				for _, err = range s.CategoryMessages(ctx, category, mdb.WithBatchSize(2)) {
					continue
				}
				return err
			}, []string{
				began("GetCategoryMessages", "", false), ended("GetCategoryMessages", 2, "ok"),
				began("GetCategoryMessages", "", false), ended("GetCategoryMessages", 1, "ok"),
			}},
			"the last message": {
				func(ctx context.Context) error { _, err := s.GetLastStreamMessage(ctx, stream); return err },
				[]string{began("GetLastStreamMessage", stream, false), ended("GetLastStreamMessage", 1, "ok")},
			},
			"no last message": {
				func(ctx context.Context) error {
					_, err := s.GetLastStreamMessage(ctx, stream, mdb.OfType("No"))
					return err
				},
				[]string{began("GetLastStreamMessage", stream, false), ended("GetLastStreamMessage", 0, "*fmt.wrapError")},
			},
			"a message by its ID": {
				func(ctx context.Context) error { _, err := s.GetMessage(ctx, last.ID); return err },
				[]string{`a read {Method:GetMessage Stream: Category: InTx:false} after ""`, ended("GetMessage", 1, "ok")},
			},
			"all categories": {func(ctx context.Context) error {
				_, err := s.GetAllMessages(ctx, mdb.InCategories(category))
				return err
			}, []string{`a read {Method:GetAllMessages Stream: Category: InTx:false} after ""`, ended("GetAllMessages", 3, "ok")}},
			"all categories backwards": {func(ctx context.Context) error {
				_, err := s.GetAllMessages(ctx, mdb.InCategories(category), mdb.Backwards())
				return err
			}, []string{`a read {Method:GetAllMessages Stream: Category: InTx:false} after ""`, ended("GetAllMessages", 3, "ok")}},
			"a version": {
				func(ctx context.Context) error { _, err := s.StreamVersion(ctx, stream); return err },
				[]string{began("StreamVersion", stream, false), ended("StreamVersion", 0, "ok")},
			},
			"a head": {
				func(ctx context.Context) error { _, err := s.CategoryHead(ctx, category); return err },
				[]string{began("CategoryHead", "", false), ended("CategoryHead", 0, "ok")},
			},
			"an invalid call": {func(ctx context.Context) error { _, err := s.StreamVersion(ctx, ""); return err }, nil},
		} {
			tracer.take()
			w.take()
			err := tt.call(t.Context())
			if strings.Contains(strings.Join(tt.want, ""), "wrapError") != (err != nil && tt.want != nil) {
				t.Errorf("%s, %s: %v", way, name, err)
			}
			wantLines(t, w.take(), tt.want...)
			if seen := strings.Join(tracer.take(), " "); tt.want != nil && seen != "a" {
				t.Errorf("%s, %s: the tracer has seen contexts of %q, want those of the hook", way, name, seen)
			}
		}
		tx := begin(t, s.Pool())
		if _, err := s.WithTx(tx).GetStreamMessages(t.Context(), stream); err != nil {
			t.Error(err)
		}
		wantLines(t, w.take(), began("GetStreamMessages", stream, true), ended("GetStreamMessages", 3, "ok"))
	}
}

// TestHooksOfReadErrors checks that a read which fails on the server ends with its error.
func TestHooksOfReadErrors(t *testing.T) {
	t.Parallel()
	w := newWatch("a")
	pool := newPool(t, testdb.Shared(t))
	s := newStore(t, pool, mdb.WithHooks(w))
	pool.Close()
	category := mdbtest.Category("hooks")
	_, _ = s.GetStreamMessages(t.Context(), category.Stream("1"))
	_, _ = s.GetLastStreamMessage(t.Context(), category.Stream("1"))
	_, _ = s.StreamVersion(t.Context(), category.Stream("1"))
	_, _ = s.CategoryHead(t.Context(), category)
	_ = s.SubscribeToCategory(t.Context(), category, func(context.Context, mdb.Message) error { return nil })
	const ends = ` 0 messages 0 bytes *fmt.wrapError in "a", true`
	wantLines(t, w.take("after"), `a read ends GetStreamMessages`+ends, `a read ends GetLastStreamMessage`+ends, `a read ends StreamVersion`+ends,
		`a read ends CategoryHead`+ends, `a read ends SubscribeToCategory`+ends)
}

func (q *quiet) OnReadStart(ctx context.Context, _ mdb.ReadCall) context.Context {
	q.calls++
	return ctx
}

func (q *quiet) OnReadEnd(context.Context, mdb.ReadCall, time.Duration, mdb.ReadOutcome) { q.calls++ }

// TestAllocsOfHookedReads checks that a read with hooks costs no more allocations than one without.
func TestAllocsOfHookedReads(t *testing.T) {
	measured(t, func(t *testing.T, s *mdb.Store, ctx context.Context, watch float64) {
		hook := new(quiet)
		hooked := newStore(t, s.Pool(), mdb.WithHooks(hook))
		stream := mdbtest.Category("allocs").Stream("1")
		write(t, s, stream, mdb.ProposedMessage{Type: "Happened", Data: json.RawMessage(`1`)})
		for what, read := range map[string]func() error{
			"GetStreamMessages":   func() error { _, err := hooked.GetStreamMessages(ctx, stream); return err },
			"GetCategoryMessages": func() error { _, err := hooked.GetCategoryMessages(ctx, stream.Category()); return err },
			"StreamVersion":       func() error { _, err := hooked.StreamVersion(ctx, stream); return err },
		} {
			before := hook.calls
			if got, want := allocs(readAllocs+watch, func() {
				if err := read(); err != nil {
					t.Fatal(err)
				}
			}), readAllocs+watch; got != want {
				t.Errorf("%s: got %v allocations, want %v", what, got, want)
			}
			if hook.calls == before {
				t.Error("the hook was not called")
			}
		}
	})
}

func (w *watch) OnHandleStart(ctx context.Context, h mdb.Handling) context.Context {
	w.add("OnHandleStart", "handle %s%s %d attempt %d after %q", h.Category, h.Stream, h.Message.Position, h.Attempt, names(ctx))
	return w.begin(ctx)
}

func (w *watch) OnHandleEnd(ctx context.Context, h mdb.Handling, took time.Duration, err error) {
	w.add("OnHandleEnd", "handled %d %s in %q, %t", h.Message.Position, outcome(err), names(ctx), took > 0)
}

func (w *watch) OnLive(of mdb.Subscriber, live bool) {
	w.add("OnLive", "live %s%s %t", of.Category, of.Stream, live)
}

func (w *watch) OnRetry(of mdb.Subscriber, r mdb.Retry) {
	w.add("OnRetry", "retry %s%s %d %t", of.Category, of.Stream, r.Attempt, r.Err != nil)
}

// TestHooksOfSubscriptions checks what hooks receive of the handlers and of the state of subscriptions,
// and that handlers have the contexts of hooks.
func TestHooksOfSubscriptions(t *testing.T) {
	t.Parallel()
	w := newWatch("a")
	s, plain := mdbtest.SharedStore(t, mdb.WithHooks(w)), mdbtest.SharedStore(t)
	category := mdbtest.Category("hooks")
	stream := category.Stream("1")
	for range 2 {
		write(t, s, stream, sized())
	}
	wrong := errors.New("wrong")
	for name, tt := range map[string]struct {
		fails func() error
		want  string
	}{
		"an error": {func() error { return wrong }, "*errors.errorString"},
		"a panic":  {func() error { panic("wrong") }, "PanicError"},
	} {
		for kind, subscribe := range map[mdb.StreamName]func(ctx context.Context, h mdb.Handler, live func(bool)) error{
			stream: func(ctx context.Context, h mdb.Handler, live func(bool)) error {
				return s.SubscribeToStream(ctx, stream, h, mdb.OnLive(live))
			},
			mdb.StreamName(category): func(ctx context.Context, h mdb.Handler, live func(bool)) error {
				return s.SubscribeToCategory(ctx, category, h, mdb.OnLive(live))
			},
			mdb.StreamName(category) + " ": func(ctx context.Context, h mdb.Handler, live func(bool)) error {
				return s.SubscribeToCategory(ctx, category, h, mdb.OnLive(live), mdb.WithWorkers(2))
			},
		} {
			kind = mdb.StreamName(strings.TrimSpace(string(kind)))
			w.take()
			ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
			err := subscribe(ctx, func(ctx context.Context, m mdb.Message) error {
				if names(ctx) != "a" {
					t.Errorf("%s: the handler has a context of %q", name, names(ctx))
				}
				if m.Position == 2 {
					return tt.fails()
				}
				return nil
			}, func(live bool) {
				w.add("", "own %t", live)
				if live {
					write(t, plain, stream, sized())
				}
			})
			cancel()
			wantError[*mdb.HandlerError](t, err)
			wantLines(t, w.take("read"),
				fmt.Sprintf(`a handle %s 0 attempt 1 after ""`, kind), `a handled 0 ok in "a", true`,
				fmt.Sprintf(`a handle %s 1 attempt 1 after ""`, kind), `a handled 1 ok in "a", true`,
				`a own true`, fmt.Sprintf(`a live %s true`, kind),
				fmt.Sprintf(`a handle %s 2 attempt 1 after ""`, kind), `a handled 2 `+tt.want+` in "a", true`)
			exec(t, s.Pool(), `DELETE FROM message_store.messages WHERE stream_name = $1 AND position = 2`, string(stream))
		}
	}
}

// TestHooksOfRetries checks that hooks receive the failures of reads that are retried.
func TestHooksOfRetries(t *testing.T) {
	t.Parallel()
	w := newWatch("a")
	var up atomic.Bool
	s := newStore(t, newPool(t, testdb.Shared(t), func(cfg *pgxpool.Config) {
		cfg.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
			if up.Load() {
				return nil
			}
			return errors.New("down")
		}
	}), mdb.WithHooks(w))
	stream := mdbtest.Category("hooks").Stream("1")
	write(t, mdbtest.SharedStore(t), stream, sized())
	done := errors.New("done")
	err := s.SubscribeToStream(t.Context(), stream, func(context.Context, mdb.Message) error { return done },
		mdb.OnRetry(func(r mdb.Retry) {
			w.add("", "own %d", r.Attempt)
			up.Store(r.Attempt == 2)
		}))
	if !errors.Is(err, done) {
		t.Fatal(err)
	}
	of := fmt.Sprintf("a retry %s ", stream)
	wantLines(t, w.take("read", "handle"), "a own 1", of+"1 true", "a own 2", of+"2 true")
}

// TestHooksOfHandlersThatPanic checks that a subscription ends with an error if a hook of its handler or of its
// state panics.
func TestHooksOfHandlersThatPanic(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"OnHandleStart", "OnHandleEnd", "OnLive"} {
		w := newWatch("a")
		w.fails = method
		s := mdbtest.SharedStore(t, mdb.WithHooks(w))
		stream := mdbtest.Category("hooks").Stream("1")
		write(t, s, stream, sized())
		err := s.SubscribeToStream(t.Context(), stream, func(context.Context, mdb.Message) error { return nil })
		if p := (*mdb.PanicError)(nil); !errors.As(err, &p) || p.Value != method {
			t.Errorf("%s: got error %v, want its panic", method, err)
		}
	}
}

// TestHooksOfSubscriptionReads checks that each read of a subscription's page is passed with the messages that it
// has read, and also if there are none.
func TestHooksOfSubscriptionReads(t *testing.T) {
	t.Parallel()
	w := newWatch("a")
	s, plain := mdbtest.SharedStore(t, mdb.WithHooks(w)), mdbtest.SharedStore(t)
	stream := mdbtest.Category("hooks").Stream("1")
	for range 3 {
		write(t, plain, stream, sized())
	}
	done := errors.New("done")
	err := s.SubscribeToStream(t.Context(), stream, func(_ context.Context, m mdb.Message) error {
		if m.Position == 3 {
			return done
		}
		return nil
	}, mdb.WithPolling(poll.Constant(time.Millisecond)), mdb.OnLive(func(bool) { write(t, plain, stream, sized()) }))
	if !errors.Is(err, done) {
		t.Fatal(err)
	}
	size := len(stream) + len("Happened") + 4
	lines := slices.DeleteFunc(w.take(), func(line string) bool {
		return !strings.Contains(line, "read ends") || strings.Contains(line, " 0 messages")
	})
	wantLines(t, lines, fmt.Sprintf(`a read ends SubscribeToStream 3 messages %d bytes ok in "a", true`, 3*size),
		fmt.Sprintf(`a read ends SubscribeToStream 1 messages %d bytes ok in "a", true`, size))
}
