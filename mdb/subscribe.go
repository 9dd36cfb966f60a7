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

// A Handler handles a message. An error ends the subscription. The context is the
// subscription's.
type Handler func(ctx context.Context, m Message) error

// A Retry tells of a failed read that a subscription is going to try again.
type Retry struct {
	// Attempt counts the failures in a row, from 1.
	Attempt int
	// Err is the failure.
	Err error
}

// SubscribeToStream calls the handler for each message of a stream, in order: for
// those that are there, from the beginning unless an option says otherwise, and
// for those that are written later. It blocks; its return says that the
// subscription has been dropped, and why. The error is never nil:
//
//   - context.Cause(ctx), when ctx ends;
//   - a [*HandlerError], when a callback fails or panics;
//   - an [*ArgumentError], at once, for what the call itself has wrong;
//   - the server's refusal, where trying again cannot help.
//
// Failures that pass, such as a lost connection, are tried again for as long as
// they last, which [OnRetry] tells of. A read without an answer for ten seconds, or
// twice as long as the one before took if that is more, is taken for one whose
// connection leads nowhere: it is broken off, the pool's other connections are
// replaced, and the next one gets twice the time.
//
// Within one call each message is delivered once, and no message is left out. From
// where a later call goes on is for the caller to keep, see [OnProgress]; what was
// handled but not kept is delivered again.
//
// All callbacks are called from the caller's goroutine, one at a time; only
// [WithWorkers] has other goroutines call the handler, and reads meanwhile. No connection
// of the pool is in use otherwise while they run, or while the subscription waits. The
// context is looked at between messages and while waiting.
func (s *Store) SubscribeToStream(ctx context.Context, stream StreamName, h Handler, opts ...StreamSubscribeOption) error {
	c := newSubscribeConfig(s.config, h)
	c.faults.streamWithID(stream)
	for _, opt := range opts {
		opt.streamSubscribe(&c)
	}
	if err := c.check(s.config); err != nil {
		return err
	}
	sleeper := s.bell.subscribe(stream, c.read) //nolint:contextcheck // the bell serves other subscriptions too, and outlives this one
	defer sleeper.close()
	sub := subscription{
		subscribeConfig: c,
		page: func(ctx context.Context, c readConfig) ([]Message, int64, error) {
			return s.readStreamAndHead(ctx, stream, c)
		},
		head:     func(ctx context.Context) (int64, error) { return s.StreamVersion(ctx, stream) },
		position: func(m *Message) int64 { return m.Position },
		suspect:  s.suspect,
		sleeper:  sleeper,
		logger:   s.config.logger.With("stream", string(stream)),
	}
	return sub.run(ctx)
}

// SubscribeToCategory is SubscribeToStream for the messages of all streams of a
// category, in the order of their global positions, which positions are here.
func (s *Store) SubscribeToCategory(ctx context.Context, category Category, h Handler, opts ...CategorySubscribeOption) error {
	c := newSubscribeConfig(s.config, h)
	c.read.position = 1
	c.faults.category("category", category)
	for _, opt := range opts {
		opt.categorySubscribe(&c)
	}
	if err := c.check(s.config); err != nil {
		return err
	}
	sleeper := s.bell.subscribe(StreamName(category), c.read) //nolint:contextcheck // as above
	defer sleeper.close()
	sub := subscription{
		subscribeConfig: c,
		page: func(ctx context.Context, c readConfig) ([]Message, int64, error) {
			return s.readCategoryAndHead(ctx, category, c)
		},
		head:     func(ctx context.Context) (int64, error) { return s.categoryHead(ctx, category) },
		position: func(m *Message) int64 { return m.GlobalPosition },
		suspect:  s.suspect,
		sleeper:  sleeper,
		logger:   s.config.logger.With("category", string(category)),
	}
	return sub.run(ctx)
}

// A subscription is a loop. What it reads and waits by are functions, so that a
// test can drive it without a server and a clock.
type subscription struct {
	subscribeConfig

	// page reads a page. The head is the position of the last message that was there
	// before the read, whether or not a filter lets it through, or the one before all
	// messages if nobody asked.
	page     func(context.Context, readConfig) (page []Message, head int64, err error)
	head     func(context.Context) (int64, error)
	position func(*Message) int64
	suspect  func() // is called when connections may lead nowhere
	sleeper  sleeper
	logger   *slog.Logger

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

// A sleeper waits until there may be something to read.
type sleeper interface {
	// wake is called before each read. What happens from here on ends the next sleep.
	wake()
	// sleep returns when d is over, or what the sleeper waits for has happened, or
	// ctx ends. The last page had found messages. It calls progress, whose error ends
	// it, whenever something comes from moved.
	sleep(ctx context.Context, d time.Duration, found int, moved <-chan struct{}, progress func() error) error
	close()
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
			s.sleeper.wake()
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
		if err := s.sleeper.sleep(work, delay, len(page), s.partition.moves(), progress); err != nil {
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
