package mdb

import (
	"context"
	"errors"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

var errHandler = errors.New("no such account")

// TestSubscriptionProgress checks that when the handler fails, panics or ends the context,
// OnProgress is called once with what was handled before, and with a context that has not
// ended.
func TestSubscriptionProgress(t *testing.T) {
	t.Parallel()
	type key struct{}
	fail := func(*rehearsal) error { return errHandler }
	panics := func(*rehearsal) error { panic(errHandler) }
	end := func(r *rehearsal) error { r.end(errEnd); return nil }
	for name, tt := range map[string]struct {
		on       int64
		what     func(*rehearsal) error
		filtered bool
		want     string
	}{
		"fails on the first":           {1, fail, false, "read 1"},
		"fails on the second":          {2, fail, true, "read 1, progress 1"},
		"fails on the last of a page":  {3, fail, true, "read 1, progress 2"},
		"fails on the first of a page": {4, fail, false, "read 1, progress 3, read 4, live false"},
		"fails on the last of all":     {7, fail, true, "read 1, progress 3, read 4, live false, progress 6, read 7"},
		"panics on the second":         {2, panics, true, "read 1, progress 1"},
		"ends on the first":            {1, end, true, "read 1, progress 1"},
		"ends on the second":           {2, end, true, "read 1, progress 2"},
		"ends on the last of a page":   {3, end, false, "read 1, progress 3"},
		"ends on the last of all":      {7, end, true, "read 1, progress 3, read 4, live false, progress 6, read 7, progress 8, live true, ask 1/3 0 0s, sleep 10ms"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rehearse(t, 7, WithBatchSize(3))
				r.filtered, r.written = tt.filtered, append(r.written, false)
				var handled int64
				r.handler = func(_ context.Context, m Message) error {
					if m.GlobalPosition != handled+1 {
						t.Errorf("got message %d after %d", m.GlobalPosition, handled)
					}
					handled = m.GlobalPosition
					if m.GlobalPosition == tt.on {
						return tt.what(r)
					}
					return nil
				}
				told := r.onProgress
				r.onProgress = positions(func(ctx context.Context, position int64) error {
					if ctx.Err() != nil || ctx.Value(key{}) != "kept" {
						t.Errorf("OnProgress(%d): got a context with error %v and value %v", position, ctx.Err(), ctx.Value(key{}))
					}
					return told(ctx, source.At(position))
				})
				ctx, end := context.WithCancelCause(context.WithValue(t.Context(), key{}, "kept"))
				r.end = end
				err := r.subscription.run(ctx)
				r.want(tt.want)
				if handled != tt.on {
					t.Errorf("last handled message: got %d, want %d", handled, tt.on)
				}
				if context.Cause(ctx) != nil {
					if err != errEnd { //nolint:errorlint // the cause itself
						t.Errorf("got error %v (%T), want the cause", err, err)
					}
					return
				}
				var h *HandlerError
				if !errors.As(err, &h) || h.Stream != "category-1" || h.Position != tt.on-1 || h.GlobalPosition != tt.on {
					t.Errorf("got error %+v, want one at %d", err, tt.on)
				}
			})
		})
	}
}

// TestSubscriptionCallbackErrors checks that the error contains two failures if the
// handler or the context ends the subscription and then OnProgress fails.
func TestSubscriptionCallbackErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		keep := errors.New("no room for the position")
		r := rehearse(t, 3)
		handler, failure := r.handler, errHandler
		r.handler = func(ctx context.Context, m Message) error {
			if m.GlobalPosition == 3 {
				return failure
			}
			return handler(ctx, m)
		}
		r.onProgress = positions(func(_ context.Context, position int64) error {
			r.note("progress %d", position)
			return keep
		})
		err := r.run()
		r.want("read 1, handle 1, handle 2, progress 2")
		var h *HandlerError
		if !errors.Is(err, keep) || !errors.Is(err, errHandler) || !errors.As(err, &h) || h.Position != 2 {
			t.Errorf("got error %v", err)
		}
		if want := "mdb: the handler failed on category-1/2, global position 3: no such account"; h.Error() != want {
			t.Errorf("got text %q, want %q", h, want)
		}

		r.diary, failure, r.subscription.read.position = nil, nil, 1
		err = r.run()
		r.want("read 1, handle 1, handle 2, progress 3")
		if !errors.Is(err, keep) || !errors.As(err, &h) || h.Stream != "" || h.Position != 3 {
			t.Errorf("got error %+v, want that of OnProgress after 3", err)
		}
		if want := "mdb: a callback of the subscription failed after position 3: no room for the position"; h.Error() != want {
			t.Errorf("got text %q, want %q", h, want)
		}

		r.diary, r.subscription.read.position = nil, 1
		r.handler = func(ctx context.Context, m Message) error {
			r.end(errEnd)
			return handler(ctx, m)
		}
		err = r.run()
		r.want("read 1, handle 1, progress 1")
		if !errors.Is(err, keep) || !errors.Is(err, errEnd) {
			t.Errorf("got error %v, want the context's and that of OnProgress", err)
		}
	})
}

// TestSubscriptionPanics checks that a panic of the handler, of another callback or of the
// strategy becomes an error with a PanicError.
func TestSubscriptionPanics(t *testing.T) {
	t.Parallel()
	for callback, arrange := range map[string]func(r *rehearsal, panics func()){
		"handler": func(r *rehearsal, panics func()) {
			r.handler = func(context.Context, Message) error { panics(); return nil }
		},
		"OnLive(false)": func(r *rehearsal, panics func()) {
			r.onLive = func(live bool) {
				if !live {
					panics()
				}
			}
		},
		"OnLive(true)": func(r *rehearsal, panics func()) {
			r.onLive = func(live bool) {
				if live {
					panics()
				}
			}
		},
		"OnProgress": func(r *rehearsal, panics func()) {
			r.onProgress = positions(func(context.Context, int64) error { panics(); return nil })
		},
		"OnRetry": func(r *rehearsal, panics func()) {
			r.failures = []error{io.ErrUnexpectedEOF}
			r.onRetry = func(Retry) { panics() }
		},
		"strategy": func(r *rehearsal, panics func()) {
			r.polling = func(poll.Seen) time.Duration { panics(); return 0 }
		},
	} {
		for name, tt := range map[string]struct {
			value any
			text  string
		}{
			"a text":         {"secret", "panic with a value of type string"},
			"a message":      {Message{Data: []byte(`"secret"`)}, "panic with a value of type mdb.Message"},
			"an error":       {errors.New("secret"), "panic with a value of type *errors.errorString"},
			"nil":            {nil, "panic: " + new(runtime.PanicNilError).Error()},
			"by the runtime": {math.MinInt, "panic: runtime error: index out of range [3] with length 0"},
		} {
			t.Run(callback+" with "+name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					r := rehearse(t, 4, WithBatchSize(2))
					arrange(r, func() {
						if tt.value == math.MinInt {
							_ = r.diary[:0:0][len(r.arrivals)+3]
						}
						panic(tt.value)
					})
					err := r.run()
					var h *HandlerError
					var p *PanicError
					if !errors.As(err, &h) || !errors.As(err, &p) {
						t.Fatalf("got error %v (%T), want a *HandlerError with a *PanicError", err, err)
					}
					if text := p.Error(); text != tt.text || !strings.HasSuffix(err.Error(), ": "+text) {
						t.Errorf("got text %q in %q, want %q", text, err, tt.text)
					}
					if !strings.Contains(string(p.Stack), "TestSubscriptionPanics") {
						t.Errorf("the stack does not contain the panic:\n%s", p.Stack)
					}
					if strings.Contains(name, "text") && p.Value != tt.value {
						t.Errorf("got panic value %v", p.Value)
					}
					if (h.Stream != "") != (callback == "handler") {
						t.Errorf("got stream %q", h.Stream)
					}
				})
			})
		}
	}
}

// TestSubscriptionEnds checks that a subscription ends with the context's cause, and
// without a delay, whenever the context ends while nothing is handled.
func TestSubscriptionEnds(t *testing.T) {
	t.Parallel()
	const moment = time.Hour + 1234567*time.Microsecond
	lost := errors.New("connection lost")
	for name, arrange := range map[string]func(r *rehearsal, ended <-chan struct{}){
		"asleep": func(r *rehearsal, _ <-chan struct{}) {
			r.polling = func(poll.Seen) time.Duration { return math.MaxInt64 }
		},
		"while it retries": func(r *rehearsal, _ <-chan struct{}) {
			r.subscription.page = pages(func(context.Context, readConfig) ([]Message, int64, error) { return nil, 0, lost })
		},
		"before its start": func(r *rehearsal, _ <-chan struct{}) {
			r.subscription.read.fromEnd = true
			r.subscription.end = func(context.Context) (checkpoint, error) { return checkpoint{}, lost }
		},
		"within a read": func(r *rehearsal, _ <-chan struct{}) {
			r.subscription.page = pages(func(ctx context.Context, _ readConfig) ([]Message, int64, error) {
				<-ctx.Done()
				return nil, 0, lost // as the driver may return it
			})
		},
		"after a read": func(r *rehearsal, ended <-chan struct{}) { // which succeeded before the context ended
			r.subscription.page = pages(func(_ context.Context, c readConfig) ([]Message, int64, error) {
				<-ended
				return r.read(c), 0, nil
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rehearse(t, 3)
				r.handler = func(context.Context, Message) error { return nil }
				ctx, cancel := context.WithTimeoutCause(t.Context(), moment, errEnd)
				defer cancel()
				arrange(r, ctx.Done())
				if name == "after a read" {
					r.handler = func(context.Context, Message) error { t.Error("got a message after the end"); return nil }
				}
				r.subscription.sleeper = r.sleeper
				begun := time.Now()
				if err := r.subscription.run(ctx); err != errEnd { //nolint:errorlint // the cause itself
					t.Errorf("got error %v (%T), want the cause", err, err)
				}
				if ran := time.Since(begun); ran != moment {
					t.Errorf("got a run of %v, want %v", ran, moment)
				}
			})
		})
	}
}

// TestSubscriptionEndedBefore checks that nothing is read if the context has ended before.
func TestSubscriptionEndedBefore(t *testing.T) {
	t.Parallel()
	for _, opts := range [][]CategorySubscribeOption{nil, {FromEnd()}} {
		r := rehearse(t, 3, opts...)
		ctx, end := context.WithCancelCause(t.Context())
		end(errEnd)
		r.failures = []error{errors.New("read")}
		if err := r.subscription.run(ctx); err != errEnd || len(r.failures) == 0 { //nolint:errorlint // the cause itself
			t.Errorf("got error %v", err)
		}
		r.want("")
	}
}

// TestSubscriptionHandlerMeetsTheEnd checks that when the handler notices the end before
// the subscription does, the subscription returns the cause, and the message is not handled.
func TestSubscriptionHandlerMeetsTheEnd(t *testing.T) {
	t.Parallel()
	r := rehearse(t, 3)
	r.handler = func(ctx context.Context, m Message) error {
		if m.GlobalPosition == 2 {
			r.end(errEnd)
		}
		return ctx.Err()
	}
	if err := r.run(); err != errEnd { //nolint:errorlint // the cause itself
		t.Errorf("got error %v, want %v", err, errEnd)
	}
	r.want("read 1, progress 1")
}

// TestSubscriptionHandlerFailsAtTheEnd checks that the error of a handler that fails for
// another reason is returned although the context has ended.
func TestSubscriptionHandlerFailsAtTheEnd(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func() error{
		"error": func() error { return errHandler },
		"panic": func() error { panic(context.Canceled) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rehearse(t, 3)
			r.handler = func(context.Context, Message) error {
				r.end(errEnd)
				return fail()
			}
			var h *HandlerError
			if err := r.run(); !errors.As(err, &h) || h.GlobalPosition != 1 {
				t.Errorf("got error %v, want that of the handler", err)
			}
			r.want("read 1")
		})
	}
}

// TestSubscriptionProgressMeetsTheEnd checks that OnProgress is called once more, with a
// context that has not ended, if the context ended while it stored a position.
func TestSubscriptionProgressMeetsTheEnd(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]CategorySubscribeOption{"": nil, "from the end": {FromEnd()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rehearse(t, 3, opts...)
			calls := 0
			r.onProgress = positions(func(ctx context.Context, position int64) error {
				if calls++; calls == 1 {
					r.end(errEnd)
				}
				r.note("progress %d: %v", position, ctx.Err())
				return ctx.Err()
			})
			if err := r.run(); err != errEnd { //nolint:errorlint // the cause itself
				t.Errorf("got error %v, want %v", err, errEnd)
			}
			if got, want := r.diary[len(r.diary)-2:], []string{"progress 3: context canceled", "progress 3: <nil>"}; !slices.Equal(got, want) {
				t.Errorf("got diary %q, want %q at its end", r.diary, want)
			}
		})
	}
}

// TestSubscriptionRetries checks that while reads fail for hours, twice, the delays grow
// to one second and no further, and that attempts are counted from one again after a
// success.
func TestSubscriptionRetries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const outage, longest = 5 * time.Hour, time.Second
		lost := &pgconn.PgError{Severity: "FATAL", Code: "57P01"}
		r := rehearse(t, 0)
		r.subscription.sleeper = r.sleeper
		begun := time.Now()
		var last time.Time
		var outages []int // attempts of each
		attempts := 0
		r.subscription.page = pages(func(context.Context, readConfig) ([]Message, int64, error) {
			now := time.Now()
			if attempts > 0 {
				most := min(20*time.Millisecond<<min(attempts-1, 10), longest)
				if pause := now.Sub(last); pause < most/2 || pause > most {
					t.Errorf("got a delay of %v after attempt %d, want %v to %v", pause, attempts, most/2, most)
				}
			}
			last = now
			if ran := now.Sub(begun); ran < outage || ran > 2*outage && ran < 3*outage {
				return nil, 0, lost
			}
			if attempts > 0 {
				outages = append(outages, attempts)
			}
			attempts = 0
			return nil, 0, nil
		})
		r.onRetry = func(retry Retry) {
			if attempts++; retry.Attempt != attempts || !errors.Is(retry.Err, lost) {
				t.Errorf("got %+v, want attempt %d", retry, attempts)
			}
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), 4*outage, errEnd)
		defer cancel()
		if err := r.subscription.run(ctx); !errors.Is(err, errEnd) {
			t.Errorf("got error %v, want %v", err, errEnd)
		}
		if len(outages) != 2 || min(outages[0], outages[1]) < int(outage/longest) || max(outages[0], outages[1]) > int(2*outage/longest)+8 {
			t.Errorf("got attempts %v, want two times %d to %d", outages, outage/longest, 2*outage/longest)
		}
	})
}
