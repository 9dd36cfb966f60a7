package mdb

import (
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
//   - a [*ForkError], if the store has lost all messages that the subscription knows;
//   - an [*ArgumentError], immediately, if the call is invalid;
//   - an error that says that the pool is closed;
//   - another error of the server, or of decoding its rows, if a retry cannot help.
//
// Transient errors, such as a lost connection, are retried for as long as they last;
// [OnRetry] reports them. If a read has been without a byte from the server for ten seconds,
// the store asks on another connection whether the server still executes it. If not, the
// connection is given up, the pool's connections are replaced, and the read is retried; it
// continues after the messages that had arrived. A read that gets no connection of the
// pool for ten seconds is retried, too.
//
// Within one call each message is delivered exactly once, and none is skipped. Store the
// checkpoint that [OnStreamProgress] receives to resume with a later call, which delivers
// again what was handled after the stored checkpoint.
//
// With each read, in the same round trip, the subscription checks that the last message that
// it has read is still in the store. If not, the store has lost it, as after a failover or a
// restore, or it was deleted. The subscription then goes back to the newest message that it
// knows and that is there, and delivers what comes after it, see [OnFork]. For this it keeps
// the positions, IDs and times of the last 4,096 to 6,144 messages, at most 300 kB.
//
// Callbacks are called one at a time, from the caller's goroutine, and hold no connection
// of the pool; nor does a subscription that waits. With [WithWorkers], other goroutines
// call the handler, while the subscription reads ahead. The context is checked between
// messages and while waiting.
func (s *Store) SubscribeToStream(ctx context.Context, stream StreamName, h Handler, opts ...StreamSubscribeOption) error {
	c := newSubscribeConfig(s.config, h)
	c.name = string(stream)
	c.faults.streamWithID(stream)
	for _, opt := range opts {
		opt.streamSubscribe(&c)
	}
	return s.subscribe(ctx, c, s.streamSource(stream, c.read))
}

// SubscribeToCategory is like SubscribeToStream for all streams of a category. Messages
// are delivered in the order of their global positions, and positions are global
// positions. [OnProgress] receives the checkpoint to store. If a call starts from a position
// instead, which is greater than that of any message in the store, it fails with an
// [*AheadError].
func (s *Store) SubscribeToCategory(ctx context.Context, category Category, h Handler, opts ...CategorySubscribeOption) error {
	c := newSubscribeConfig(s.config, h)
	c.name = string(category)
	c.read.position = 1
	c.faults.category("category", category)
	for _, opt := range opts {
		opt.categorySubscribe(&c)
	}
	return s.subscribe(ctx, c, s.categorySource(category, c.read))
}

func (s *Store) subscribe(ctx context.Context, c subscribeConfig, src *messageSource) error {
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
		messageSource:   src,
		sleeper:         sleeper,
	}
	return sub.run(ctx)
}
