package mdb

import (
	"cmp"
	"context"

	"github.com/messagedb-go/messagedb/internal/doorbell"
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
	return s.subscribe(ctx, c, source{
		kind: "stream", category: stream.Category(), stream: stream,
		page: func(ctx context.Context, c readConfig) ([]Message, int64, error) {
			return s.readStreamAndHead(ctx, stream, c)
		},
		head:     func(ctx context.Context) (int64, error) { return s.StreamVersion(ctx, stream) },
		position: func(m *Message) int64 { return m.Position },
	})
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
	return s.subscribe(ctx, c, source{
		kind: "category", category: category,
		page: func(ctx context.Context, c readConfig) ([]Message, int64, error) {
			return s.readCategoryAndHead(ctx, category, c)
		},
		head:     func(ctx context.Context) (int64, error) { return s.categoryHead(ctx, category) },
		position: func(m *Message) int64 { return m.GlobalPosition },
	})
}

// A source is what a subscription reads.
type source struct {
	kind     string // "stream" or "category"
	category Category
	stream   StreamName // or empty

	// page reads a page. The head is the position of the last message that was there
	// before the read, whether or not a filter lets it through, or the one before all
	// messages if nobody asked.
	page     func(context.Context, readConfig) (page []Message, head int64, err error)
	head     func(context.Context) (int64, error)
	position func(*Message) int64
}

func (s *Store) subscribe(ctx context.Context, c subscribeConfig, src source) error {
	if err := c.check(s.config); err != nil {
		return err
	}
	interest := doorbell.Interest{Category: string(src.category), Stream: string(src.stream)}
	if c.read.size != nil {
		interest.Member, interest.Size = *c.read.member, *c.read.size
	}
	sleeper := s.bell.Subscribe(interest) //nolint:contextcheck // the bell serves other subscriptions too, and outlives this one
	defer sleeper.Close()
	sub := subscription{
		subscribeConfig: c,
		source:          src,
		suspect:         s.suspect,
		sleeper:         sleeper,
		logger:          s.config.logger.With(src.kind, cmp.Or(string(src.stream), string(src.category))),
	}
	return sub.run(ctx)
}
