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

// A subscription is a loop. What it reads and waits by are functions, so that a
// test can drive it without a server and a clock.
type subscription struct {
	subscribeConfig
	source

	suspect func() // is called when connections may lead nowhere
	sleeper sleeper
	logger  *slog.Logger

	begun    bool // a page has been read
	full     int  // full pages in a row
	live     *bool
	liveAt   int64 // when this has been handled, the subscription has caught up
	seen     poll.Seen
	patience time.Duration // how long the next read may take, if that is more than readPatience
	handled  int64         // everything up to here has been, or a filter has left it out
	reported int64         // the last position that OnProgress was given

	partition *partition // nil: the loop handles messages itself
}

// notCaughtUp is a liveAt that is never reached.
const notCaughtUp = math.MaxInt64

// A sleeper waits until there may be something to read, as a [doorbell.Sleeper] does.
type sleeper interface {
	BeforeRead()
	Sleep(ctx context.Context, d time.Duration, found int, moved <-chan struct{}, progress func() error) error
	Close()
}

func (s *subscription) run(ctx context.Context) error {
	s.handled = s.read.position - 1
	if s.read.fromEnd {
		err := s.untilItWorks(ctx, func(ctx context.Context) error {
			head, err := s.head(ctx)
			s.read.position, s.handled = head+1, head
			return err
		})
		if err != nil {
			return err
		}
	}
	s.reported, s.liveAt = s.handled, notCaughtUp
	var err error
	if s.workers > 1 {
		err = s.spread(ctx)
	} else {
		err = s.loop(ctx, ctx)
	}
	return firstOf(err, s.report(ctx))
}

// loop reads and handles. work is ctx, or ends before, when a worker fails.
func (s *subscription) loop(ctx, work context.Context) error {
	progress := func() error { return s.progress(ctx) }
	for {
		if err := s.partition.room(work, progress); err != nil {
			return err
		}
		var page []Message
		var head int64
		err := s.untilItWorks(work, func(ctx context.Context) (err error) {
			s.sleeper.BeforeRead()
			page, head, err = s.page(ctx, s.read)
			return err
		})
		if err != nil {
			return err
		}
		s.begun = true
		full := int64(len(page)) == s.read.batchSize
		if s.full++; !full {
			s.full = 0
		}
		// One full page may be just what there was.
		if s.full > 1 {
			s.liveAt = notCaughtUp
			if err := s.setLive(false); err != nil {
				return err
			}
		}
		if n := len(page); n > 0 {
			s.read.position = s.position(&page[n-1]) + 1
		}
		if !full {
			// Up to the head, a short page has all that the filter lets through.
			s.read.position = max(s.read.position, head+1)
			s.liveAt = min(s.liveAt, s.read.position-1)
		}
		if err := s.deliver(work, page); err != nil {
			return err
		}
		if err := progress(); err != nil {
			return err
		}
		if full {
			s.seen = poll.Seen{} // the next poll comes without a delay, and behind messages
			continue
		}
		delay, err := s.delay(len(page))
		if err != nil {
			return err
		}
		if err := s.sleeper.Sleep(work, delay, len(page), s.partition.moves(), progress); err != nil {
			return err
		}
	}
}

// deliver hands the page's messages to the handler, or to the workers. What was read
// ends where the next read begins, which may be behind the page's last message.
func (s *subscription) deliver(ctx context.Context, page []Message) error {
	end := s.read.position - 1
	if s.partition != nil {
		s.partition.add(page, end)
		return nil
	}
	for i := range page {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := s.call(&page[i], func() error { return s.handler(ctx, page[i]) }); err != nil {
			return err
		}
		s.handled = s.position(&page[i])
	}
	s.handled = end
	return nil
}

// progress tells of what has been handled since it was called before.
func (s *subscription) progress(ctx context.Context) error {
	if s.partition != nil {
		s.handled = s.partition.settle()
	}
	if err := s.report(ctx); err != nil || s.handled < s.liveAt {
		return err
	}
	return s.setLive(true)
}

// report gives OnProgress the last position that is done with, if it has moved.
func (s *subscription) report(ctx context.Context) error {
	if s.onProgress == nil || s.handled <= s.reported {
		return nil
	}
	s.reported = s.handled
	if ctx.Err() != nil {
		ctx = context.WithoutCancel(ctx) // what was handled is still worth keeping
	}
	err := s.call(nil, func() error { return s.onProgress(ctx, s.handled) })
	if err != nil {
		s.reported = math.MaxInt64 // it is not told what workers finish meanwhile
	}
	return err
}

func (s *subscription) setLive(live bool) error {
	if s.onLive == nil || s.live != nil && *s.live == live {
		return nil
	}
	s.live = &live
	return s.call(nil, func() error { s.onLive(live); return nil })
}

// delay asks the strategy.
func (s *subscription) delay(found int) (delay time.Duration, err error) {
	s.seen.Retrieved, s.seen.BatchSize = found, int(s.read.batchSize)
	if s.seen.Empty++; found > 0 {
		s.seen.Empty = 0
	}
	err = s.call(nil, func() error { delay = s.polling(s.seen); return nil })
	s.seen.Previous = delay
	return delay, err
}

// call calls a callback, and returns its error or panic as a HandlerError. m is the
// message that it was about, if it was about one; then it may be called by a worker.
func (s *subscription) call(m *Message, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
		if err == nil {
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

// firstOf returns the first error, with the second one where there is one.
func firstOf(first, second error) error {
	if second == nil {
		return first
	}
	return errors.Join(first, second)
}
