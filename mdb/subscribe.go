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
// for new ones as they are written. It blocks until the subscription ends, and the error,
// which is never nil, says why:
//
//   - context.Cause(ctx), if ctx ended, also if a callback then returned the context's error;
//   - a [*HandlerError], if a callback failed or panicked;
//   - an [*UnreadableError], if a message cannot be read, see [OnUnreadable];
//   - an error that wraps [ErrNoStream], with [RequireStream];
//   - an [*AheadError], if it starts after a position, and not after a checkpoint, and the stream
//     ends before that position;
//   - a [*ForkError], if none of the messages that the subscription knows is in the store;
//   - an [*ArgumentError], immediately, if the call is invalid;
//   - an error that says that the pool is closed;
//   - another error of the server, or of decoding its rows, if a retry cannot help.
//
// Within one call each message is delivered exactly once, and none is skipped. Store the
// checkpoint that [OnStreamProgress] receives, to resume with [AfterStreamCheckpoint] in a later
// call, which delivers again what was handled after the stored checkpoint.
//
// Callbacks are called one at a time, from the caller's goroutine, and hold no connection
// of the pool; nor does a subscription that waits. While the handler has a full page, the
// subscription reads the next one ahead, on a connection that it holds until the page has arrived.
// If that fails, nothing is reported, and the page is read again when the handler is done with the
// one before. If the subscription ends meanwhile, the connection of the read is closed. A page that
// was read ahead does not show that the subscription has caught up: if it is short, another read
// follows its messages. With [WithWorkers], other goroutines call the handler, while the
// subscription reads ahead. The context is checked between messages and while waiting.
//
// Transient errors of reads, such as a lost connection, are retried for as long as they last;
// [OnRetry] receives them. A read that gets no connection of the pool for ten seconds is retried,
// and so is one that has been without a byte from the server for ten seconds, unless the server
// still executes it, see WriteMessage. It continues after the messages that had arrived. Errors
// of callbacks are not retried: to continue after one for which [IsTransient] is true, call
// SubscribeToStream again.
//
// Each read checks, in the same round trip, that the last message that the subscription has read
// is still in the store. If it is not, it was lost in a failover or a restore, or was deleted. The
// subscription then goes back to the newest message that it knows and that is there, calls the
// function of [OnFork], and delivers what comes after that message. For this it keeps the
// positions, IDs and times of the last 4,096 to 6,144 messages, about 300 kB at most.
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
// positions. Store the checkpoint that [OnProgress] receives, and resume with [AfterCheckpoint].
//
// If the call starts after a global position, and not after a checkpoint, it fails with an
// [*AheadError] if the store has not used that position yet.
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
	interest := doorbell.Interest{Category: string(src.category), Stream: string(src.stream), All: src.kind == kindAll, Wants: src.wants}
	if c.read.size != nil {
		interest.Member, interest.Size = *c.read.member, *c.read.size
	}
	sleeper := s.bell.Subscribe(interest) //nolint:contextcheck // the bell serves other subscriptions too, and outlives this one
	defer sleeper.Close()
	hooks := &s.config.hooks
	of := Subscriber{Stream: src.stream}
	if src.stream == "" {
		of.Category = src.category
	}
	c.handler = hooks.handler(of, c.handler)
	hooks.observe(of, &c.onLive, &c.onRetry, new(func([]int)))
	sub := subscription{
		subscribeConfig: c,
		messageSource:   src,
		sleeper:         sleeper,
	}
	if c.workers <= 1 { // the loop does not wait for workers
		sub.ahead.launch = inGoroutine
	}
	return sub.run(ctx)
}
