package mdb

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"runtime/debug"
	"time"

	"github.com/messagedb-go/messagedb/mdb/poll"
)

// A subscription is a loop. It reads and waits through functions, so that a test can
// drive it without a server or a clock. Its fields belong to the goroutine that runs the
// loop; workers read only those that are set before they start.
type subscription struct {
	subscribeConfig
	source

	suspect func() // called when connections may be dead
	sleeper sleeper
	logger  *slog.Logger

	begun       bool  // a page has been read
	full        int   // full pages in a row
	live        *bool // the last value passed to OnLive; nil: none
	liveAt      int64 // the subscription has caught up when this position is handled
	seen        poll.Seen
	readTimeout time.Duration // of the next read, if it is longer than minReadTimeout
	handled     int64         // everything up to this position is handled or left out by a filter
	reported    int64         // the last position passed to OnProgress

	workerSet *workerSet // nil: the loop handles messages itself
}

// notCaughtUp is a value of liveAt that no position reaches.
const notCaughtUp = math.MaxInt64

// A sleeper waits until there may be something to read, as a [doorbell.Sleeper] does.
type sleeper interface {
	BeforeRead()
	Sleep(ctx context.Context, d time.Duration, found int, moved <-chan struct{}, progress func() error) error
	Close()
}

func (s *subscription) run(ctx context.Context) error {
	s.handled = s.read.position - 1
	s.reported = s.handled
	if s.read.fromEnd {
		err := s.retryTransient(ctx, func(ctx context.Context) error {
			head, err := s.head(ctx)
			s.read.position, s.handled = head+1, head
			return err
		})
		if err != nil {
			return err
		}
		s.reported = s.handled - 1 // OnProgress receives where the subscription starts
		if err := s.report(ctx); err != nil {
			return firstOf(err, s.report(ctx))
		}
	}
	s.liveAt = notCaughtUp
	var err error
	if s.workers > 1 {
		err = s.runWorkers(ctx)
	} else {
		err = s.loop(ctx, ctx)
	}
	return firstOf(err, s.report(ctx))
}

// loop reads pages and delivers their messages. work is ctx, or a context derived from it
// that also ends when a worker fails.
func (s *subscription) loop(ctx, work context.Context) error {
	progress := func() error { return s.progress(ctx) }
	for {
		if err := s.workerSet.waitForCapacity(work, progress); err != nil {
			return err
		}
		page, head, unreadable, err := s.readPage(work)
		if err != nil {
			return err
		}
		s.begun = true
		full := int64(len(page)) == s.read.batchSize
		if s.full++; !full {
			s.full = 0
		}
		full = full || unreadable != nil // there may be more
		// One full page may happen to contain everything there was.
		if s.full > 1 {
			s.liveAt = notCaughtUp
			if err := s.setLive(ctx, false); err != nil {
				return err
			}
		}
		if n := len(page); n > 0 {
			s.read.position = s.position(&page[n-1]) + 1
		}
		if !full {
			// A short page contains everything up to the head that the filter selects.
			s.read.position = max(s.read.position, head+1)
			s.liveAt = min(s.liveAt, s.read.position-1)
		}
		if err := s.deliver(work, page); err != nil {
			return err
		}
		if err := progress(); err != nil {
			return err
		}
		if unreadable != nil {
			if err := s.pass(work, unreadable, progress); err != nil {
				return err
			}
		}
		if full {
			s.seen = poll.Seen{} // the next poll follows messages, without a delay
			continue
		}
		delay, err := s.delay(ctx, len(page))
		if err != nil {
			return err
		}
		if err := s.sleeper.Sleep(work, delay, len(page), s.workerSet.moves(), progress); err != nil {
			return err
		}
	}
}

// deliver passes the page's messages to the handler or to the workers. The next read may
// start beyond the page's last message, if a filter left messages out.
func (s *subscription) deliver(ctx context.Context, page []Message) error {
	end := s.read.position - 1
	if s.workerSet != nil {
		s.workerSet.add(page, end)
		return nil
	}
	for i := range page {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := s.invoke(ctx, &page[i], func() error { return s.handler(ctx, page[i]) }); err != nil {
			return err
		}
		s.handled = s.position(&page[i])
	}
	s.handled = end
	return nil
}

// progress reports what has been handled since its last call.
func (s *subscription) progress(ctx context.Context) error {
	if s.workerSet != nil {
		s.handled = s.workerSet.release()
	}
	if err := s.report(ctx); err != nil || s.handled < s.liveAt {
		return err
	}
	return s.setLive(ctx, true)
}

// report calls OnProgress with the last handled position, if it has advanced.
func (s *subscription) report(ctx context.Context) error {
	if s.onProgress == nil || s.handled <= s.reported {
		return nil
	}
	before := s.reported
	s.reported = s.handled
	callback := ctx
	if ctx.Err() != nil {
		callback = context.WithoutCancel(ctx) // handled messages are still worth recording
	}
	err := s.invoke(callback, nil, func() error { return s.onProgress(callback, s.handled) })
	switch {
	case err == nil:
	case callback.Err() != nil && err == context.Cause(callback): //nolint:errorlint // what invoke returns
		s.reported = before // the context ended meanwhile, so it is called once more
	default:
		s.reported = math.MaxInt64 // OnProgress is not called again for what workers still finish
	}
	return err
}

func (s *subscription) setLive(ctx context.Context, live bool) error {
	if s.onLive == nil || s.live != nil && *s.live == live {
		return nil
	}
	s.live = &live
	return s.invoke(ctx, nil, func() error { s.onLive(live); return nil })
}

// delay returns the strategy's delay.
func (s *subscription) delay(ctx context.Context, found int) (delay time.Duration, err error) {
	s.seen.Retrieved, s.seen.BatchSize = found, int(s.read.batchSize)
	if s.seen.Empty++; found > 0 {
		s.seen.Empty = 0
	}
	err = s.invoke(ctx, nil, func() error { delay = s.polling(s.seen); return nil })
	s.seen.Previous = delay
	return delay, err
}

// invoke calls a callback, and returns its error or panic as a HandlerError, or the context's
// cause if that is why it failed. m is the message if the callback receives one, and nil for
// other callbacks. Workers call it for handlers.
func (s *subscription) invoke(ctx context.Context, m *Message, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
		if err == nil {
			return
		}
		if cause := context.Cause(ctx); cause != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, cause)) {
			err = cause
			return
		}
		if m == nil {
			err = &HandlerError{Position: s.handled, err: err}
		} else {
			err = &HandlerError{m.Stream, m.Position, m.GlobalPosition, err}
		}
	}()
	return f()
}

// firstOf returns the first error, joined with the second if there is one.
func firstOf(first, second error) error {
	if second == nil {
		return first
	}
	return errors.Join(first, second)
}
