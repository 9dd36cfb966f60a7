package mdb

import (
	"context"
	"errors"
	"math"
	"runtime/debug"
	"time"

	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// A subscription is a loop. It reads and waits through functions, so that a test can
// drive it without a server or a clock. Its fields belong to the goroutine that runs the
// loop; workers read only those that are set before they start. While a page is read ahead, the
// source belongs to the goroutine that reads.
type subscription struct {
	subscribeConfig
	*messageSource

	sleeper sleeper

	next     checkpoint // the next page begins after it
	full     int        // full pages in a row
	live     *bool      // the last value passed to OnLive; nil: none
	liveAt   int64      // the subscription has caught up when this position is handled
	seen     poll.Seen
	handled  checkpoint // everything up to it is handled or left out by a filter
	reported int64      // the last position passed to OnProgress

	workerSet *workerSet // nil: the loop handles messages itself
	ahead     ahead
}

// notCaughtUp is a value of liveAt that no position reaches.
const notCaughtUp = math.MaxInt64

// A sleeper waits until there may be something to read, as a [doorbell.Sleeper] does.
type sleeper = source.Sleeper

func (s *subscription) run(ctx context.Context) error {
	s.wire()
	if err := s.begin(ctx); err != nil {
		return err
	}
	s.handled, s.reported = s.next, s.next.Position
	if s.read.fromEnd {
		s.reported-- // OnProgress receives where the subscription starts
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

// wire connects the source with the callbacks.
func (s *subscription) wire() {
	s.beforeRead = func() bool { return s.sleeper.BeforeRead() }
	s.retried = func(ctx context.Context, r Retry) error {
		if s.onRetry == nil {
			return nil
		}
		return s.invoke(ctx, nil, func() error { s.onRetry(r); return nil })
	}
}

// begin finds where to start.
func (s *subscription) begin(ctx context.Context) error {
	find := func(context.Context) (checkpoint, error) { return s.next, nil }
	position := s.read.position - 1
	if s.from != nil {
		position = s.from.Position
	}
	switch {
	case s.from != nil && len(s.from.Anchors()) > 0:
		s.next = *s.from
		return nil
	case s.read.fromEnd:
		find = s.end
	case position > s.beginning() && s.after != nil:
		find = func(ctx context.Context) (checkpoint, error) { return s.after(ctx, position) }
	default:
		s.next = source.At(position)
		return nil
	}
	return s.retryTransient(ctx, func(ctx context.Context) (err error) {
		s.next, err = find(ctx)
		return err
	})
}

// loop reads pages and delivers their messages. work is ctx, or a context derived from it
// that also ends when a worker fails.
func (s *subscription) loop(ctx, work context.Context) error {
	progress := func() error { return s.progress(ctx) }
	reading, stop := context.WithCancel(work)
	defer s.dropAhead()
	defer stop()
	for {
		if err := s.workerSet.waitForCapacity(work, progress); err != nil {
			return err
		}
		// What woke the loop may be the end of work, of which reading learns a moment later. A read that
		// began meanwhile would cost its connection.
		if work.Err() != nil {
			return context.Cause(work)
		}
		page, early, err := s.nextPage(reading)
		if err != nil {
			return err
		}
		if page.Forked {
			if err := s.goBack(work, &page, progress); err != nil {
				return err
			}
			continue
		}
		full := page.Full || page.Unreadable != nil || early // there may be more
		if page.Full {
			s.full++
		} else if !early {
			s.full = 0
		}
		// One full page may happen to contain everything there was.
		if s.full > 1 {
			s.liveAt = notCaughtUp
			if err := s.setLive(ctx, false); err != nil {
				return err
			}
		}
		s.next = page.End
		if !full {
			s.liveAt = min(s.liveAt, s.next.Position)
		}
		if page.Full && page.Unreadable == nil {
			s.readAhead(reading)
		}
		if err := s.deliver(work, page.Messages); err != nil {
			return err
		}
		if err := progress(); err != nil {
			return err
		}
		if page.Unreadable != nil {
			if err := s.pass(work, &page, progress); err != nil {
				return err
			}
		}
		if full {
			s.seen = poll.Seen{} // the next poll follows messages, without a delay
			continue
		}
		n := len(page.Messages)
		delay, err := s.delay(ctx, n)
		if err != nil {
			return err
		}
		if err := s.sleeper.Sleep(work, delay, n, s.workerSet.moves(), progress); err != nil {
			return err
		}
	}
}

// deliver passes the page's messages to the handler or to the workers. The next read may
// start beyond the page's last message, if a filter left messages out.
func (s *subscription) deliver(ctx context.Context, page []Message) error {
	if s.workerSet != nil {
		s.workerSet.add(page, s.next)
		return nil
	}
	for i := range page {
		err := context.Cause(ctx)
		if err == nil {
			err = s.invoke(ctx, &page[i], func() error { return s.handler(ctx, page[i]) })
		}
		if err != nil {
			s.handled = s.through(s.handled, page[:i])
			return err
		}
	}
	s.handled = s.next
	return nil
}

// through returns the checkpoint after further messages.
func (s *messageSource) through(c checkpoint, messages []Message) checkpoint {
	c = c.Advance(len(messages), func(i int) anchor { return s.anchor(&messages[i]) })
	if s.kind == kindAll {
		c = c.WithLatest(len(messages), func(i int) source.Latest { return latestOf(&messages[i]) })
	}
	return c
}

// progress reports what has been handled since its last call.
func (s *subscription) progress(ctx context.Context) error {
	if s.workerSet != nil {
		s.handled = s.workerSet.release()
	}
	if err := s.report(ctx); err != nil || s.handled.Position < s.liveAt {
		return err
	}
	return s.setLive(ctx, true)
}

// report calls OnProgress with the last handled position, if it has advanced.
func (s *subscription) report(ctx context.Context) error {
	if s.onProgress == nil || s.handled.Position <= s.reported {
		return nil
	}
	before := s.reported
	s.reported = s.handled.Position
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
			err = &HandlerError{Position: s.handled.Position, err: err}
		} else {
			err = newHandlerError(*m, err)
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
