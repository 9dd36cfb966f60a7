package mdb

import (
	"cmp"
	"context"

	"github.com/messagedb-go/messagedb/internal/doorbell"
)

// A Handler handles a message. An error ends the subscription. The context is that of
// the subscription.
type Handler func(ctx context.Context, m Message) error

// A Retry describes a failed read that a subscription will retry.
type Retry struct {
	// Attempt counts the failures in a row, from 1.
	Attempt int
	// Err is the failure.
	Err error
}

// SubscribeToStream calls the handler for each message of a stream, in order: first for
// the existing messages, from the beginning unless an option says otherwise, and then
// for new ones as they are written. It blocks until the subscription ends, and the error
// says why. It is never nil:
//
//   - context.Cause(ctx), if ctx ended, also if a callback then returned the context's error;
//   - a [*HandlerError], if a callback failed or panicked;
//   - an [*UnreadableError], if a message cannot be read, see [OnUnreadable];
//   - an error that wraps [ErrNoStream], with [RequireStream];
//   - an [*ArgumentError], immediately, if the call is invalid;
//   - an error that says that the pool is closed;
//   - another error of the server, or of decoding its rows, if a retry cannot help.
//
// Transient errors, such as a lost connection, are retried for as long as they last;
// [OnRetry] reports them. A read that is not answered within ten seconds (or twice the
// duration of the previous read, if that is longer) is assumed to be on a dead
// connection: it is cancelled, the pool's connections are replaced, and the next read may
// take twice as long.
//
// Within one call each message is delivered exactly once, and none is skipped. Store the
// position that [OnProgress] receives to resume with a later call, which delivers again
// what was handled after the stored position.
//
// Callbacks are called one at a time, from the caller's goroutine, and hold no connection
// of the pool; nor does a subscription that waits. With [WithWorkers], other goroutines
// call the handler, while the subscription reads ahead. The context is checked between
// messages and while waiting.
func (s *Store) SubscribeToStream(ctx context.Context, stream StreamName, h Handler, opts ...StreamSubscribeOption) error {
	c := newSubscribeConfig(s.config, h)
	c.faults.streamWithID(stream)
	for _, opt := range opts {
		opt.streamSubscribe(&c)
	}
	return s.subscribe(ctx, c, source{
		kind: "stream", category: stream.Category(), stream: stream,
		page: s.pageReader(pageRead{readConfig: c.read, name: string(stream), isStream: true}),
		head: func(ctx context.Context) (int64, error) {
			version, err := s.StreamVersion(ctx, stream)
			if err == nil && version == NoStream && c.read.required {
				err = noStream(string(stream))
			}
			return version, err
		},
		position: func(m *Message) int64 { return m.Position },
	})
}

// SubscribeToCategory is like SubscribeToStream for all streams of a category. Messages
// are delivered in the order of their global positions, and positions are global
// positions.
func (s *Store) SubscribeToCategory(ctx context.Context, category Category, h Handler, opts ...CategorySubscribeOption) error {
	c := newSubscribeConfig(s.config, h)
	c.read.position = 1
	c.faults.category("category", category)
	for _, opt := range opts {
		opt.categorySubscribe(&c)
	}
	return s.subscribe(ctx, c, source{
		kind: "category", category: category,
		page:     s.pageReader(pageRead{readConfig: c.read, name: string(category)}),
		head:     func(ctx context.Context) (int64, error) { return s.CategoryHead(ctx, category) },
		position: func(m *Message) int64 { return m.GlobalPosition },
	})
}

// A source is what a subscription reads.
type source struct {
	kind     string // "stream" or "category"
	category Category
	stream   StreamName // or empty

	// page reads a page. The head is the position of the last message before the read,
	// whether or not a filter selects it. It is the position before the first message
	// if no head was read. The error may be errMoreSteps, or an [*UnreadableError] for the
	// message after the page.
	page     func(context.Context, readConfig) (page []Message, head int64, err error)
	head     func(context.Context) (int64, error) // the position of the last message
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
