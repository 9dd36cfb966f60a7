package mdb

import (
	"context"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/messagedb-go/messagedb/mdb/poll"
)

// TestWorkersFailsMeanwhile checks that a failure of a handler ends immediately what the
// caller's goroutine waits for.
func TestWorkersFailsMeanwhile(t *testing.T) {
	t.Parallel()
	for name, arrange := range map[string]func(r *rehearsal, reads int){
		"asleep": func(*rehearsal, int) {},
		"while it retries": func(r *rehearsal, reads int) {
			if reads > 1 {
				r.failures = []error{io.ErrUnexpectedEOF}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rehearse(t, 2, WithBatchSize(2), WithWorkers(2), WithPolling(poll.Constant(time.Hour)))
				r.subscription.sleeper = r.sleeper
				const moment = 50 * time.Minute
				r.take(map[int64]int{1: int(moment / time.Millisecond)}, func(context.Context, Message) error { return errHandler })
				reads := 0
				r.subscription.page = pages(func(ctx context.Context, c readConfig) ([]Message, int64, error) {
					reads++
					arrange(r, reads)
					return r.page(ctx, c)
				})
				begun := time.Now()
				if err := r.run(); !errors.Is(err, errHandler) {
					t.Errorf("got error %v, want %v", err, errHandler)
				}
				if ran := time.Since(begun); ran != moment {
					t.Errorf("got a run of %v, want %v", ran, moment)
				}
			})
		})
	}
}

// TestWorkersFailsWhileKept checks that OnProgress is not cancelled if a handler fails
// while it stores a position.
func TestWorkersFailsWhileKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := rehearse(t, 4, WithBatchSize(2), WithWorkers(4))
		separate(r)
		r.arrivals = []int{0}
		r.take(map[int64]int{1: 1, 2: 1, 3: 5, 4: 9}, func(ctx context.Context, m Message) error {
			if m.GlobalPosition == 3 {
				return errHandler
			}
			return ctx.Err()
		})
		var kept int64
		r.onProgress = positions(func(ctx context.Context, position int64) error {
			select {
			case <-time.After(20 * time.Millisecond):
				kept = position
			case <-ctx.Done():
			}
			return ctx.Err()
		})
		err := r.run()
		var h *HandlerError
		if !errors.As(err, &h) || h.GlobalPosition != 3 || kept != 2 {
			t.Errorf("got error %v, kept %d", err, kept)
		}
	})
}

// TestWorkersFreesPages checks that a page's messages are freed when all have been
// handled, while the worker that handled them goes on.
func TestWorkersFreesPages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := rehearse(t, 3, WithBatchSize(1), WithWorkers(2))
		r.subscription.sleeper = r.sleeper
		var read []weak.Pointer[Message]
		r.subscription.page = pages(func(_ context.Context, c readConfig) ([]Message, int64, error) {
			page := r.read(c)
			if len(page) > 0 {
				read = append(read, weak.Make(&page[0]))
			}
			return page, 0, nil
		})
		goOn := make(chan struct{})
		r.handler = func(_ context.Context, m Message) error {
			if m.GlobalPosition != 2 {
				<-goOn
			}
			return nil
		}
		done := make(chan error)
		go func() { done <- r.run() }()
		synctest.Wait() // for the first message, after which the others wait
		goOn <- struct{}{}
		synctest.Wait() // for the last
		runtime.GC()
		for i, page := range read {
			if freed := page.Value() == nil; freed != (i < 2) {
				t.Errorf("whether page %d of %d is freed: got %t", i+1, len(read), freed)
			}
		}
		close(goOn)
		r.end(errEnd)
		if err := <-done; !errors.Is(err, errEnd) {
			t.Errorf("got error %v, want %v", err, errEnd)
		}
	})
}
